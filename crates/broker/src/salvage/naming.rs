//! Names for what has lost its own.

use crate::{
    damage::{Damage, DamageKind, object_of},
    open::Recovered,
};
use posthaste_engine::{
    catalog::{CatalogEvent, Partition, Queue, Topic, TopicConfig},
    event::QueueSpec,
};
use posthaste_model::{Name, PartitionId, QueueId, Timestamp, TopicId};
use std::collections::BTreeMap;

impl Recovered {
    /// What no catalog entry names any more gets one, instead of being taken for deleted.
    pub(super) fn name_orphans(&mut self) {
        let specs: Vec<_> =
            self.shards.iter().map(|s| (s.id(), s.partition_specs(), s.queue_specs())).collect();
        let mut topics: BTreeMap<u64, Vec<(u32, Partition)>> = BTreeMap::new();
        for (shard, partitions, queues) in specs {
            let known = |id: PartitionId| object_of(&self.catalog, id.0).is_some();
            for (id, spec) in partitions.into_iter().filter(|(id, _)| !known(*id)) {
                topics.entry(spec.topic.0).or_default().push((spec.index, Partition { id, shard }));
            }
            for (id, spec) in queues.into_iter().filter(|(_, spec)| spec.durable) {
                if self.catalog.queue_by_id(id).is_none() {
                    self.name_queue(id, shard, spec);
                }
            }
        }
        for (id, mut partitions) in topics {
            partitions.sort_unstable_by_key(|(index, _)| *index);
            self.name_topic(TopicId(id), partitions.into_iter().map(|(_, p)| p));
        }
    }

    fn name_topic(&mut self, id: TopicId, partitions: impl Iterator<Item = Partition>) {
        let mut topic = match self.catalog.topic_by_id(id) {
            Some(known) => (**known).clone(),
            None => Topic {
                id,
                namespace: Name::constant(crate::open::DEFAULT_NAMESPACE),
                name: recovered_name("topic", id.0),
                partitions: Vec::new(),
                config: TopicConfig::default(),
                created: Timestamp(0),
            },
        };
        topic.partitions.extend(partitions);
        let (namespace, name) = (topic.namespace.clone(), topic.name.clone());
        self.put(
            CatalogEvent::TopicPut(topic),
            format!("a topic's name was lost; it is {namespace}/{name} now"),
        );
    }

    fn name_queue(&mut self, id: QueueId, shard: posthaste_model::ShardId, spec: QueueSpec) {
        let taken =
            self.catalog.namespace(&spec.namespace).is_some_and(|n| n.queues.contains_key(&spec.name));
        let name = if taken { recovered_name("queue", id.0) } else { spec.name };
        let QueueSpec { namespace, streams, config, durable, auto_delete, .. } = spec;
        let what =
            format!("a queue's entry in the catalog was lost; it is {namespace}/{name}, without bindings");
        let created = Timestamp(0);
        let exclusive = None;
        let queue =
            Queue { id, namespace, name, shard, streams, config, durable, exclusive, auto_delete, created };
        self.put(CatalogEvent::QueuePut(queue), what);
    }

    fn put(&mut self, event: CatalogEvent, what: String) {
        self.follow_names(&event);
        self.catalog.apply(&event);
        self.followed.damage.push(Damage::new(DamageKind::Name, what));
    }
}

pub(super) fn recovered_name(kind: &str, id: u64) -> Name {
    Name::new(&format!("recovered.{kind}.{id}")).unwrap_or(Name::constant("recovered"))
}
