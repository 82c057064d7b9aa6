//! Consumer groups.

use super::Client;
use crate::error::Error;
use bytes::Bytes;
use posthaste_engine::{
    Command, Reply,
    catalog::{Action, Resource},
    effect::Refusal,
    event::CommittedOffset,
    group::{Assignment, GroupState, Join, Joined, Member},
};
use posthaste_model::{Name, ShardId, TopicId};

/// An event in the journal has at most this much of a group's offsets.
const OFFSETS_PER_EVENT: usize = 1_000;

impl Client {
    async fn ask_group(&self, group: &Name, action: Action, command: Command) -> Result<Reply, Error> {
        self.may(action, Resource::Group, group)?;
        self.shared().ask(self.shard_of_group(group), command).await
    }

    fn shard_of_group(&self, group: &Name) -> ShardId {
        self.0.broker.catalog().shard_of(group)
    }

    /// Waits until the group's round is complete, which may take as long as its members' rebalance timeouts.
    pub async fn join_group(&self, join: Join) -> Result<Joined, Error> {
        let group = join.group.clone();
        match self.ask_group(&group, Action::Read, Command::Join(Box::new(join))).await? {
            Reply::Joined(joined) => Ok(*joined),
            _ => Err(Error::Gone),
        }
    }

    /// Waits until the group's leader has divided the work.
    pub async fn sync_group(
        &self,
        group: &Name,
        member: Member,
        assignments: Vec<(String, Bytes)>,
    ) -> Result<Assignment, Error> {
        let (namespace, name) = (self.0.namespace.clone(), group.clone());
        let command = Command::Sync { namespace, group: name, member, assignments };
        match self.ask_group(group, Action::Read, command).await? {
            Reply::Assignment(assignment) => Ok(*assignment),
            _ => Err(Error::Gone),
        }
    }

    pub async fn heartbeat(&self, group: &Name, member: Member) -> Result<(), Error> {
        let (namespace, name) = (self.0.namespace.clone(), group.clone());
        self.ask_group(group, Action::Read, Command::Heartbeat { namespace, group: name, member })
            .await
            .map(|_| ())
    }

    /// Each member by id, or by instance name alone; one result for each.
    pub async fn leave_group(
        &self,
        group: &Name,
        members: Vec<(String, Option<String>)>,
    ) -> Result<Vec<Result<(), Refusal>>, Error> {
        let (namespace, name) = (self.0.namespace.clone(), group.clone());
        match self.ask_group(group, Action::Read, Command::Leave { namespace, group: name, members }).await? {
            Reply::Left(results) => Ok(results),
            _ => Err(Error::Gone),
        }
    }

    /// Durable when it returns.
    pub async fn commit_offsets(
        &self,
        group: &Name,
        member: Option<Member>,
        offsets: Vec<CommittedOffset>,
    ) -> Result<(), Error> {
        for part in offsets.chunks(OFFSETS_PER_EVENT) {
            let command = Command::CommitOffsets {
                namespace: self.0.namespace.clone(),
                group: group.clone(),
                member: member.clone(),
                offsets: part.to_vec(),
            };
            self.ask_group(group, Action::Read, command).await?;
        }
        Ok(())
    }

    /// `None` for all that the group has.
    pub async fn fetch_offsets(
        &self,
        group: &Name,
        partitions: Option<Vec<(TopicId, u32)>>,
    ) -> Result<Vec<CommittedOffset>, Error> {
        let (namespace, name) = (self.0.namespace.clone(), group.clone());
        let command = Command::FetchOffsets { namespace, group: name, partitions };
        match self.ask_group(group, Action::Read, command).await? {
            Reply::Offsets(offsets) => Ok(offsets),
            _ => Err(Error::Gone),
        }
    }

    pub async fn describe_group(&self, group: &Name) -> Result<Option<GroupState>, Error> {
        let (namespace, name) = (self.0.namespace.clone(), group.clone());
        let command = Command::DescribeGroup { namespace, group: name };
        match self.ask_group(group, Action::Read, command).await? {
            Reply::Group(state) => Ok(state.map(|state| *state)),
            _ => Err(Error::Gone),
        }
    }

    /// The groups of the namespace that the principal may see.
    pub async fn list_groups(&self) -> Result<Vec<GroupState>, Error> {
        let mut all = Vec::new();
        for shard in 0..self.0.broker.catalog().shards() {
            let command = Command::ListGroups { namespace: self.0.namespace.clone() };
            if let Reply::Groups(groups) = self.shared().ask(ShardId(shard), command).await? {
                all.extend(
                    groups.into_iter().filter(|g| self.may(Action::Read, Resource::Group, &g.group).is_ok()),
                );
            }
        }
        all.sort_by(|a, b| a.group.cmp(&b.group));
        Ok(all)
    }

    pub async fn delete_group(&self, group: &Name) -> Result<(), Error> {
        let (namespace, name) = (self.0.namespace.clone(), group.clone());
        let command = Command::DeleteGroup { namespace, group: name };
        self.ask_group(group, Action::Configure, command).await.map(|_| ())
    }

    pub async fn forget_offsets(&self, group: &Name, partitions: Vec<(TopicId, u32)>) -> Result<(), Error> {
        let (namespace, name) = (self.0.namespace.clone(), group.clone());
        let command = Command::ForgetOffsets { namespace, group: name, partitions };
        self.ask_group(group, Action::Configure, command).await.map(|_| ())
    }
}
