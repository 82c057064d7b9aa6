//! What a change of the catalog means to everyone else: the shards that follow it, and whoever asked for it.

use crate::broker::Shared;
use posthaste_engine::{
    Catalog, Command,
    catalog::{CatalogCommand, CatalogEvent, Change, Durability, Queue},
    event::{PartitionSpec, QueueSpec},
};

/// The name that a refusal of the command is about.
pub(crate) fn subject_of(command: &CatalogCommand) -> String {
    match command {
        CatalogCommand::CreateNamespace(name) | CatalogCommand::DeleteNamespace(name) => name.to_string(),
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
        CatalogCommand::DeleteUser(name) => name.to_string(),
    }
}

/// Has the owning shards follow a change of the catalog. Their inboxes have it before anyone can know of it.
pub(crate) fn propagate(shared: &Shared, before: &Catalog, event: &CatalogEvent) {
    let close_topic = |topic: &posthaste_engine::catalog::Topic| {
        for partition in &topic.partitions {
            shared.send(partition.shard, Command::ClosePartition { partition: partition.id });
        }
    };
    let close_queue = |queue: &Queue| {
        queue.streams.iter().for_each(|stream| shared.logs.remove(*stream));
        shared.send(queue.shard, Command::CloseQueue { queue: queue.id, if_unused: false, if_empty: false });
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
                close_queue(queue);
            }
        }
        CatalogEvent::NamespaceDeleted(name) => {
            if let Some(gone) = before.namespace(name) {
                gone.topics.values().for_each(|t| close_topic(t));
                gone.queues.values().for_each(|q| close_queue(q));
            }
        }
        _ => {}
    }
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
        )
    })
}
