//! Shared subscriptions: one queue for each share name and filter, and who its members are.
//!
//! The queue is durable, because a member may be a session that outlives its connection, and lives as long as
//! it has members, connected or not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use posthaste_broker::{Client, Error, QueueDeclaration, Readable, right};
use posthaste_engine::catalog::{BUS, Binding, Queue, QueueConfig, Rule, Target};
use posthaste_model::Name;

use super::subscriptions::Subscription;

/// The option that marks a queue as a shared subscription's; its value is the filter as subscribed.
pub(crate) const SHARE: &str = "mqtt.share";

/// The members of all shared subscriptions, by queue. A member is known by its session's queue.
#[derive(Default)]
pub(crate) struct Shares {
    members: tokio::sync::Mutex<HashMap<Name, HashSet<Name>>>,
}

impl Shares {
    /// Adds a member that is known from before a restart.
    pub async fn remember(&self, share: &Name, member: &Name) {
        self.members.lock().await.entry(share.clone()).or_default().insert(member.clone());
    }

    /// Deletes shared queues without members: left behind by clean sessions when the broker crashed.
    pub async fn delete_orphans(&self, client: &Client, queues: &[Name]) {
        let members = self.members.lock().await;
        for queue in queues.iter().filter(|queue| !members.contains_key(*queue)) {
            if let Err(error) = client.delete_queue(queue, false, false).await {
                tracing::warn!(%queue, %error, "an abandoned shared subscription could not be deleted");
            }
        }
    }

    /// Adds a member, and the queue with its binding for the first one.
    pub async fn join(
        &self,
        client: &Client,
        share: &Name,
        subscription: &Subscription,
        member: &Name,
    ) -> Result<Readable<Arc<Queue>>, Error> {
        // One at a time: the first member's queue must not go with the last one's.
        let mut members = self.members.lock().await;
        let queue = match client.queue(share) {
            Ok(queue) => queue,
            Err(Error::NotFound(..)) => create(client, share, subscription).await?,
            Err(error) => return Err(error),
        };
        if !queue.config.options.contains_key(SHARE) {
            return Err(Error::Locked);
        }
        let queue = client.allow::<right::Read, _>(queue)?;
        members.entry(share.clone()).or_default().insert(member.clone());
        Ok(queue)
    }

    /// Removes a member, and the queue with the last one.
    pub async fn leave(&self, client: &Client, share: &Name, member: &Name) {
        let mut members = self.members.lock().await;
        let Some(left) = members.get_mut(share) else { return };
        left.remove(member);
        if !left.is_empty() {
            return;
        }
        members.remove(share);
        match client.delete_queue(share, false, false).await {
            Ok(_) | Err(Error::NotFound(..) | Error::Stopping) => {}
            Err(error) => {
                tracing::warn!(queue = %share, %error, "a shared subscription could not be deleted")
            }
        }
    }
}

async fn create(client: &Client, share: &Name, subscription: &Subscription) -> Result<Arc<Queue>, Error> {
    let filter = subscription.filter.filter();
    let pattern = subscription.pattern().ok_or_else(|| Error::Invalid("not a topic filter".to_owned()))?;
    let options = [(SHARE.to_owned(), subscription.filter.as_str().to_owned())].into();
    let config = QueueConfig { options, ..QueueConfig::default() };
    let declaration = QueueDeclaration { config, durable: true, ..QueueDeclaration::default() };
    let queue = client.create_queue(share, declaration).await?;
    let binding = Binding {
        target: Target::Queue(share.clone()),
        key: Bytes::copy_from_slice(filter.as_bytes()),
        rule: Rule::Pattern(pattern),
        arguments: Bytes::new(),
        durable: true,
        transient: false,
    };
    if let Err(error) = client.bind(&Name::constant(BUS), binding).await {
        // Without its binding it is worth nothing.
        let _ = client.delete_queue(share, false, false).await;
        return Err(error);
    }
    Ok(queue)
}
