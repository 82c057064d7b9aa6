//! What the catalog holds at each start, and what of it was lost in between.

use super::{History, damage};
use posthaste_engine::{
    Catalog,
    catalog::{Namespace, Target},
};
use std::collections::{BTreeMap, BTreeSet};

/// Names as the first start left them: nobody deletes what is there then.
#[derive(Default)]
pub(super) struct Names {
    /// Queues, topics by partition, and bindings by their queue, with what tells an object from another of
    /// its name.
    known: BTreeMap<String, Vec<u64>>,
    /// Of these, what was not there at a later start, or was another one.
    lost: BTreeSet<String>,
    /// Names that the broker gave to what had lost its own.
    made_up: BTreeSet<String>,
    /// Whose messages a stream holds.
    streams: BTreeMap<u64, String>,
}

impl Names {
    /// Also queues that have lost a binding, and of topics the partitions.
    pub fn lost(&self) -> impl Iterator<Item = &str> {
        self.lost.iter().map(String::as_str)
    }

    /// Bindings and partitions were added to what is known.
    fn extend(&mut self, there: &BTreeMap<String, Vec<u64>>) {
        let known_topics: BTreeSet<String> = self.known.keys().map(|name| whole(name).to_owned()).collect();
        for (name, ids) in there.iter().filter(|(name, _)| known_topics.contains(whole(name))) {
            let known = self.known.entry(name.clone()).or_default();
            let added = ids.iter().filter(|id| !known.contains(id)).copied().collect::<Vec<_>>();
            known.extend(added);
        }
    }

    pub fn made_up(&self) -> impl Iterator<Item = &str> {
        self.made_up.iter().map(String::as_str)
    }

    pub fn streams(&self) -> &BTreeMap<u64, String> {
        &self.streams
    }
}

impl History {
    /// A start begins to serve its clients.
    pub fn survey(&mut self, catalog: &Catalog) {
        let Some(default) = catalog.namespace("default") else { return };
        let there = entries(default);
        let made_up = |name: &&str| name.starts_with("recovered.");
        let named = default.queues.keys().chain(default.topics.keys()).map(|name| &**name).filter(made_up);
        self.names.made_up.extend(named.map(str::to_owned));
        if self.names.known.is_empty() {
            self.names.known = there;
            return;
        }
        let is_lost = |(name, known): &(&String, &Vec<u64>)| {
            // Bindings and partitions may be added.
            there.get(*name).is_none_or(|there| known.iter().any(|id| !there.contains(id)))
        };
        let lost: Vec<String> =
            self.names.known.iter().filter(is_lost).map(|(name, _)| name.clone()).collect();
        self.names.extend(&there);
        for name in lost {
            if self.names.lost.insert(name.clone()) {
                self.note(format_args!("lost its entry in the catalog: {name}"));
                if !self.rots {
                    self.wrong(format!("{name} is not there any more, or is another one"));
                }
            }
        }
    }

    /// Learns whose messages the streams hold, when a start ends.
    pub fn learn_streams(&mut self, catalog: &Catalog) {
        // What was added may not be durable; it is missed only if something else is.
        if let Some(default) = catalog.namespace("default").filter(|_| self.rots) {
            self.names.extend(&entries(default));
        }
        for (stream, name) in catalog.namespaces().flat_map(|namespace| streams(namespace)) {
            let known = self.names.streams.get(&stream).filter(|known| !is_made_up(known)).cloned();
            match known.filter(|_| is_made_up(&name)) {
                // Objects made after the first start are told from others by their streams only.
                Some(before) => {
                    if self.names.lost.insert(before.clone()) {
                        self.note(format_args!("has another name in the catalog: {before}"));
                    }
                }
                None => _ = self.names.streams.insert(stream, name),
            }
        }
    }
}

/// Whether the broker gave the name, to what had lost its own.
fn is_made_up(name: &str) -> bool {
    name.contains("recovered.")
}

/// The streams of a namespace, and whose messages they hold.
fn streams(namespace: &Namespace) -> impl Iterator<Item = (u64, String)> + '_ {
    let of_topics = namespace.topics.values().flat_map(|topic| {
        let partitions = (0..).zip(&topic.partitions);
        partitions.map(|(index, partition)| (partition.id.0, damage::partition(&topic.name, index)))
    });
    let of_queues = namespace
        .queues
        .values()
        .flat_map(|queue| queue.streams.iter().map(|stream| (*stream, damage::queue(&queue.name))));
    of_topics.chain(of_queues)
}

/// A partition's topic, or a queue.
pub(super) fn whole(name: &str) -> &str {
    name.split_once('/').filter(|_| name.starts_with("topic ")).map_or(name, |(topic, _)| topic)
}

/// Durable queues and topics, with their ids, and how many bindings lead to each queue.
fn entries(namespace: &Namespace) -> BTreeMap<String, Vec<u64>> {
    let mut there = BTreeMap::new();
    for topic in namespace.topics.values() {
        for (index, partition) in (0..).zip(&topic.partitions) {
            let name = damage::partition(&topic.name, index);
            there.insert(name, vec![topic.id.0, partition.id.0]);
        }
    }
    for queue in namespace.queues.values().filter(|queue| queue.durable && queue.exclusive.is_none()) {
        there.insert(damage::queue(&queue.name), vec![queue.id.0]);
    }
    for exchange in namespace.exchanges.values() {
        for binding in exchange.bindings().filter(|binding| binding.durable) {
            let Target::Queue(queue) = &binding.target else { continue };
            if let Some(known) = there.get_mut(&damage::queue(queue)) {
                // What a binding is, as a number beside the ids.
                let name = format!("{}\n{:?}", exchange.spec.name, binding.key);
                known.push(u64::from(crc32c::crc32c(name.as_bytes())) | 1 << 63);
            }
        }
    }
    there
}
