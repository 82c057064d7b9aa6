//! What a change of the catalog means to everyone else: the shards that follow it, and whoever asked for it.

use crate::{Error, broker::Shared};
use posthaste_engine::{
    Catalog, Command,
    catalog::{CatalogCommand, CatalogEvent, Change, Durability, Queue, Topic},
    event::{PartitionSpec, QueueSpec},
};
use posthaste_model::ShardId;

/// Bytes of one entry of the catalog, with all its settings. A record's head has room for 1 MiB, and what a
/// shard is told of a queue or topic is a part of its entry.
const ENTRY_BYTES_MAX: usize = 768 << 10;

/// The name that a refusal of the command is about.
pub(crate) fn subject_of(command: &CatalogCommand) -> String {
    match command {
        CatalogCommand::CreateNamespace(name)
        | CatalogCommand::DeleteNamespace(name)
        | CatalogCommand::LimitNamespace { name, .. } => name.to_string(),
        CatalogCommand::CreateTopic { name, .. }
        | CatalogCommand::AddPartitions { name, .. }
        | CatalogCommand::ConfigureTopic { name, .. }
        | CatalogCommand::DeleteTopic { name, .. }
        | CatalogCommand::CreateQueue { name, .. }
        | CatalogCommand::ConfigureQueue { name, .. }
        | CatalogCommand::DeleteExchange { name, .. } => name.to_string(),
        CatalogCommand::DeleteQueue { queue } => queue.to_string(),
        CatalogCommand::CreateExchange(spec) => spec.name.to_string(),
        CatalogCommand::Bind { exchange, .. } | CatalogCommand::Unbind { exchange, .. } => {
            exchange.to_string()
        }
        CatalogCommand::PutUser(user) => user.name.to_string(),
        CatalogCommand::PutUserGroup(group) => group.name.to_string(),
        CatalogCommand::DeleteUser(name) | CatalogCommand::DeleteUserGroup(name) => name.to_string(),
        CatalogCommand::PutAccessKey { user, .. } | CatalogCommand::DeleteAccessKey { user, .. } => {
            user.to_string()
        }
    }
}

/// What the owning shards do once a change of the catalog that takes something away is durable. Done sooner,
/// a crash in between would bring the object back, empty.
pub(crate) type Closings = Vec<(ShardId, Command)>;

/// Has the owning shards follow a change of the catalog that adds something: their inboxes have it before
/// anyone can know of it. Returns what follows from one that takes something away.
pub(crate) fn propagate(shared: &Shared, before: &Catalog, event: &CatalogEvent) -> Closings {
    let mut closings = Closings::new();
    let mut close_topic = |topic: &Topic| {
        for partition in &topic.partitions {
            closings.push((partition.shard, Command::ClosePartition { partition: partition.id }));
        }
    };
    match event {
        CatalogEvent::TopicPut(topic) => {
            for (index, partition) in (0u32..).zip(&topic.partitions) {
                let sync = topic.config.durability == Durability::Fsync;
                let spec = PartitionSpec { topic: topic.id, index, sync };
                shared.logs.find_or_add(partition.id.0);
                shared.send(partition.shard, Command::OpenPartition { partition: partition.id, spec });
            }
        }
        CatalogEvent::TopicDeleted { namespace, name } => {
            if let Some(topic) = before.namespace(namespace).and_then(|n| n.topics.get(name)) {
                close_topic(topic);
            }
        }
        CatalogEvent::QueuePut(queue) => {
            shared.send(queue.shard, Command::OpenQueue { queue: queue.id, spec: queue_spec(queue) });
        }
        CatalogEvent::QueueDeleted { namespace, name } => {
            if let Some(queue) = before.namespace(namespace).and_then(|n| n.queues.get(name)) {
                closings.push(close_queue(queue));
            }
        }
        CatalogEvent::NamespaceDeleted(name) => {
            if let Some(gone) = before.namespace(name) {
                gone.topics.values().for_each(|t| close_topic(t));
                closings.extend(gone.queues.values().map(|queue| close_queue(queue)));
            }
        }
        _ => {}
    }
    closings
}

/// Has the owning shards take away what is durably deleted. Their inboxes have it before anyone can know of
/// it.
pub(crate) fn close(shared: &Shared, closings: Closings) {
    closings.into_iter().for_each(|(shard, command)| shared.send(shard, command));
}

/// The changes as the journal keeps them. One that is too large for that is refused; `name` is what it is
/// about.
pub(crate) fn encode(changes: &[Change], name: &str) -> Result<Vec<Vec<u8>>, Error> {
    let heads: Result<Vec<_>, _> =
        changes.iter().map(|change| postcard::to_allocvec(&change.event)).collect();
    let heads = heads.map_err(|error| Error::Invalid(format!("'{name}' cannot be stored: {error}")))?;
    if heads.iter().any(|head| head.len() > ENTRY_BYTES_MAX) {
        let kib = ENTRY_BYTES_MAX >> 10;
        return Err(Error::Invalid(format!(
            "the settings of '{name}' take more than {kib} KiB; give it fewer or shorter ones"
        )));
    }
    Ok(heads)
}

fn close_queue(queue: &Queue) -> (ShardId, Command) {
    (queue.shard, Command::CloseQueue { queue: queue.id })
}

pub(crate) fn queue_spec(queue: &Queue) -> QueueSpec {
    QueueSpec {
        namespace: queue.namespace.clone(),
        name: queue.name.clone(),
        streams: queue.streams.clone(),
        config: queue.config.clone(),
        durable: queue.durable,
        auto_delete: queue.auto_delete,
        over: None,
    }
}

/// Whether a command may leave something without its purpose: a tap ends with the last that wanted it.
pub(crate) fn takes_away(command: &CatalogCommand) -> bool {
    matches!(
        command,
        CatalogCommand::DeleteNamespace(_)
            | CatalogCommand::DeleteTopic { .. }
            | CatalogCommand::DeleteQueue { .. }
            | CatalogCommand::DeleteExchange { .. }
            | CatalogCommand::Unbind { .. }
    )
}

/// Whether all changes only take away, which is possible on a full disk, too.
pub(crate) fn only_deletes(changes: &[Change]) -> bool {
    changes.iter().all(|c| {
        matches!(
            c.event,
            CatalogEvent::NamespaceDeleted(_)
                | CatalogEvent::TopicDeleted { .. }
                | CatalogEvent::QueueDeleted { .. }
                | CatalogEvent::ExchangeDeleted { .. }
                | CatalogEvent::Unbound { .. }
                | CatalogEvent::UserDeleted(_)
                | CatalogEvent::UserGroupDeleted(_)
        )
    })
}
