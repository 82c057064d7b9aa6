//! Names for what has lost its own.

use crate::{
    damage::{Damage, DamageKind, object_of},
    open::Recovered,
};
use posthaste_engine::{
    catalog::{CatalogEvent, Partition, Queue, Topic, TopicConfig},
    event::QueueSpec,
};
use posthaste_model::{Name, PartitionId, QueueId, ShardId, Timestamp, TopicId};
use std::collections::BTreeMap;

/// A number above this is not heeded: no topic is made so large.
const PARTITIONS_MAX: usize = 10_000;

impl Recovered {
    /// What no catalog entry names any more gets one, instead of being taken for deleted.
    pub(super) fn name_orphans(&mut self) {
        let specs: Vec<_> =
            self.shards.iter().map(|s| (s.id(), s.partition_specs(), s.queue_specs())).collect();
        let partition_ids = specs.iter().flat_map(|(_, partitions, _)| partitions.iter().map(|(id, _)| id.0));
        let queue_ids = specs.iter().flat_map(|(_, _, queues)| queues.iter().flat_map(|(_, q)| &q.streams));
        let last = partition_ids.chain(queue_ids.copied()).max().unwrap_or_default();
        let mut free = self.catalog.free_from().max(last + 1);
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
            self.name_topic(TopicId(id), partitions, &mut free);
        }
    }

    /// Partitions keep their numbers, under which readers remember where they are: what is lost before them
    /// is made anew, with ids from `free` on.
    fn name_topic(&mut self, id: TopicId, partitions: Vec<(u32, Partition)>, free: &mut u64) {
        let mut topic = match self.catalog.topic_by_id(id) {
            Some(known) => (**known).clone(),
            None => Topic {
                id,
                namespace: Name::constant(crate::open::DEFAULT_NAMESPACE),
                name: recovered_name("topic", id.0),
                partitions: Vec::new(),
                config: TopicConfig::default(),
                created: Timestamp(0),
                created_by: None,
            },
        };
        let mut anew = 0;
        for (index, partition) in partitions {
            while topic.partitions.len() < (index as usize).min(PARTITIONS_MAX) {
                let shard = self.catalog.place(*free);
                topic.partitions.push(Partition { id: PartitionId(*free), shard });
                (*free, anew) = (*free + 1, anew + 1);
            }
            topic.partitions.push(partition);
        }
        let (namespace, name) = (topic.namespace.clone(), topic.name.clone());
        let mut what = format!("a topic's name was lost; it is {namespace}/{name} now");
        if anew > 0 {
            what += &format!("; partitions made anew, as nothing is left of the old ones: {anew}");
        }
        self.put(CatalogEvent::TopicPut(topic), what);
    }

    fn name_queue(&mut self, id: QueueId, shard: ShardId, spec: QueueSpec) {
        let taken =
            self.catalog.namespace(&spec.namespace).is_some_and(|n| n.queues.contains_key(&spec.name));
        let name = if taken { recovered_name("queue", id.0) } else { spec.name };
        let QueueSpec { namespace, streams, config, durable, auto_delete, .. } = spec;
        let what =
            format!("a queue's entry in the catalog was lost; it is {namespace}/{name}, without bindings");
        let (created, created_by, exclusive) = (Timestamp(0), None, None);
        #[rustfmt::skip]
        let queue = Queue {
            id, namespace, name, shard, streams, config, durable, exclusive, auto_delete, created,
            created_by,
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Work;
    use posthaste_engine::{Event, event::PartitionSpec};

    #[test]
    fn a_partition_keeps_its_number_when_those_before_it_are_lost() {
        let id = TopicId(10);
        let entry = |partitions: &[u64]| {
            let partition = |id: &u64| Partition { id: PartitionId(*id), shard: ShardId(0) };
            CatalogEvent::TopicPut(Topic {
                id,
                namespace: Name::constant("default"),
                name: Name::constant("t"),
                partitions: partitions.iter().map(partition).collect(),
                config: TopicConfig::default(),
                created: Timestamp(0),
                created_by: None,
            })
        };
        // Numbers and ids of what the shards hold besides 11 and 12, and the ids of the topic's partitions.
        let cases = [
            (vec![(2, 14)], vec![11, 12, 14]),
            (vec![(3, 14)], vec![11, 12, 15, 14]),
            (vec![(5, 14), (3, 20)], vec![11, 12, 21, 20, 22, 14]),
            (vec![(1, 14)], vec![11, 12, 14]),
        ];
        for (held, expected) in cases {
            let mut recovered = Recovered::new(1, Work::Here);
            let put = entry(&[11, 12]);
            recovered.follow_names(&put);
            recovered.catalog.apply(&put);
            for (index, partition) in [(0, 11), (1, 12)].iter().chain(&held) {
                let spec = PartitionSpec { topic: id, index: *index, sync: true };
                let opened = Event::PartitionOpened { partition: PartitionId(*partition), spec };
                recovered.shards.iter_mut().for_each(|shard| shard.replay(&opened));
            }
            recovered.name_orphans();
            let topic = recovered.catalog.topic_by_id(id).unwrap();
            let ids: Vec<u64> = topic.partitions.iter().map(|partition| partition.id.0).collect();
            assert_eq!(ids, expected, "held {held:?}");
        }
    }
}
