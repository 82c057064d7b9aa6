//! A bounded cache of two generations: what was not used for a whole generation is dropped.

use std::collections::HashMap;
use std::hash::Hash;

pub(super) struct Cache<K, V> {
    young: HashMap<K, (V, usize)>,
    old: HashMap<K, (V, usize)>,
    young_weight: usize,
    /// Weight of one generation; both together are the bound.
    generation: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    pub fn new(limit: usize) -> Cache<K, V> {
        Cache { young: HashMap::new(), old: HashMap::new(), young_weight: 0, generation: (limit / 2).max(1) }
    }

    pub fn find(&mut self, key: &K) -> Option<V> {
        if let Some((value, _)) = self.young.get(key) {
            return Some(value.clone());
        }
        let (value, weight) = self.old.remove(key)?;
        self.insert(key.clone(), value.clone(), weight);
        Some(value)
    }

    pub fn insert(&mut self, key: K, value: V, weight: usize) {
        let weight = weight.max(1);
        if self.young_weight + weight > self.generation {
            self.old = std::mem::take(&mut self.young);
            self.young_weight = 0;
        }
        self.young_weight += weight;
        if let Some((_, replaced)) = self.young.insert(key, (value, weight)) {
            self.young_weight -= replaced;
        }
    }

    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.old.retain(|key, _| keep(key));
        self.young.retain(|key, _| keep(key));
        self.young_weight = self.young.values().map(|(_, weight)| weight).sum();
    }
}
