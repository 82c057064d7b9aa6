//! What every API needs: who asks, and the broker seen with Kafka's words.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use posthaste_broker::right::{Right, See};
use posthaste_broker::{Allowed, Broker, Client, Error, Extent, PartitionLog, Readable};
use posthaste_engine::Catalog;
use posthaste_engine::catalog::{Action, Partition, Resource, Topic};
use posthaste_model::TopicId;

use crate::api::fetch;
use crate::names::{Endpoint, TopicIds};
use crate::reply;
use crate::wire::{ErrorCode, Uuid};

/// One connection's view of the broker. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub peer: IpAddr,
    pub topic_ids: TopicIds,
    /// What this connection's fetches remember from one to the next.
    pub fetches: Arc<Mutex<fetch::Memory>>,
}

/// Operations that Kafka's access lists know, as bits of an `authorized_operations` field.
mod operation {
    pub const READ: i32 = 1 << 3;
    pub const WRITE: i32 = 1 << 4;
    pub const CREATE: i32 = 1 << 5;
    pub const DELETE: i32 = 1 << 6;
    pub const ALTER: i32 = 1 << 7;
    pub const DESCRIBE: i32 = 1 << 8;
    pub const DESCRIBE_CONFIGS: i32 = 1 << 10;
    pub const ALTER_CONFIGS: i32 = 1 << 11;
    pub const IDEMPOTENT_WRITE: i32 = 1 << 12;
}

impl Context {
    pub fn broker(&self) -> &Broker {
        self.client.broker()
    }

    /// The broker's epoch, which is every partition's leader epoch.
    pub fn epoch(&self) -> i32 {
        i32::try_from(self.broker().epoch()).unwrap_or(i32::MAX)
    }

    /// Where clients are told to connect to.
    pub fn endpoint(&self) -> Endpoint {
        let advertised = self.broker().peers_address("kafka");
        advertised
            .and_then(|address| Endpoint::parse(&address))
            .unwrap_or(Endpoint { host: "localhost".into(), port: 9092 })
    }

    pub fn catalog(&self) -> Arc<Catalog> {
        self.broker().catalog()
    }

    /// A topic that the client may do this with.
    pub fn topic<R: Right>(&self, name: &str) -> Result<Allowed<R, Arc<Topic>>, ErrorCode> {
        self.client.topic_to(name).map_err(|error| reply::topic(&error))
    }

    /// A topic by its name, or by its id where the request has one.
    pub fn topic_by<R: Right>(
        &self,
        catalog: &Catalog,
        name: &str,
        uuid: Uuid,
    ) -> Result<Allowed<R, Arc<Topic>>, ErrorCode> {
        if uuid.is_zero() {
            return self.topic(name);
        }
        let topic = self.topic_of(catalog, uuid).ok_or(ErrorCode::UnknownTopicId)?;
        self.client.allow(topic).map_err(|error| reply::topic(&error))
    }

    /// The topic with this id, whoever may use it.
    pub fn topic_of(&self, catalog: &Catalog, uuid: Uuid) -> Option<Arc<Topic>> {
        let topic = catalog.topic_by_id(self.topic_ids.topic(uuid)?)?;
        (topic.namespace == *self.client.namespace()).then(|| topic.clone())
    }

    pub fn topic_with_id(&self, catalog: &Catalog, id: TopicId) -> Option<Arc<Topic>> {
        catalog.topic_by_id(id).filter(|topic| topic.namespace == *self.client.namespace()).cloned()
    }

    pub fn log(&self, partition: Readable<Partition>) -> Result<Arc<PartitionLog>, ErrorCode> {
        self.client.log(partition).map_err(|error| reply::topic(&error))
    }

    pub fn extent<R>(&self, partition: Allowed<R, Partition>) -> Result<Extent, ErrorCode> {
        self.client.extent(partition).map_err(|error| reply::topic(&error))
    }

    /// Whether the client may know that the topic exists.
    pub fn may_describe_topic(&self, name: &str) -> Result<(), Error> {
        self.client.may_any(See::ACTIONS, Resource::Topic, name)
    }

    pub fn may_describe_group(&self, name: &str) -> Result<(), Error> {
        self.client.may_any(See::ACTIONS, Resource::Group, name)
    }

    /// What the client may do with a topic, for requests that ask for it.
    pub fn topic_operations(&self, name: &str) -> i32 {
        let may = |action| self.client.may(action, Resource::Topic, name).is_ok();
        let configure = operation::CREATE
            | operation::DELETE
            | operation::ALTER
            | operation::DESCRIBE_CONFIGS
            | operation::ALTER_CONFIGS;
        bits(may(Action::Describe), operation::DESCRIBE)
            | bits(may(Action::Read), operation::READ | operation::DESCRIBE)
            | bits(may(Action::Write), operation::WRITE | operation::DESCRIBE)
            | bits(may(Action::Configure), configure | operation::DESCRIBE)
    }

    /// What the client may do with a group, for requests that ask for it.
    pub fn group_operations(&self, name: &str) -> i32 {
        let may = |action| self.client.may(action, Resource::Group, name).is_ok();
        bits(may(Action::Describe), operation::DESCRIBE)
            | bits(may(Action::Read), operation::READ | operation::DESCRIBE)
            | bits(may(Action::Configure), operation::DELETE | operation::DESCRIBE)
    }

    /// What the client may do with the cluster, for requests that ask for it.
    pub fn cluster_operations(&self) -> i32 {
        let namespace = self.client.namespace();
        let configure = self.client.may(Action::Configure, Resource::Namespace, namespace).is_ok();
        operation::DESCRIBE
            | operation::IDEMPOTENT_WRITE
            | bits(configure, operation::CREATE | operation::DESCRIBE_CONFIGS)
    }
}

fn bits(set: bool, bits: i32) -> i32 {
    if set { bits } else { 0 }
}

/// The partition with this index.
pub fn partition<R>(topic: &Allowed<R, Arc<Topic>>, index: i32) -> Result<Allowed<R, Partition>, ErrorCode> {
    let index = usize::try_from(index).ok();
    index.and_then(|index| topic.partition(index)).ok_or(ErrorCode::UnknownTopicOrPartition)
}

/// Judges the leader epoch that a client believes in (KIP-320); -1 for none.
pub fn check_leader_epoch(current_leader_epoch: i32, epoch: i32) -> Result<(), ErrorCode> {
    match current_leader_epoch {
        -1 => Ok(()),
        known if known < epoch => Err(ErrorCode::FencedLeaderEpoch),
        known if known > epoch => Err(ErrorCode::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

/// What is told of a pause: nothing of this connection is read until then (KIP-219).
pub fn throttle_time_ms(pause: Option<Duration>) -> i32 {
    pause.map_or(0, |pause| i32::try_from(pause.as_micros().div_ceil(1_000)).unwrap_or(i32::MAX))
}

/// An offset as the wire has it.
pub fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}
