//! A persistent map that is small while it holds little. Most nodes of a trie have a child or two; a tree
//! made for thousands of entries takes kilobytes for each.

use std::borrow::Borrow;

/// Entries kept in one sorted vector; more go into a tree, which a change copies a path of instead of all.
const FEW: usize = 16;

#[derive(Clone)]
pub(super) enum SmallMap<K, V> {
    Few(Vec<(K, V)>),
    Many(imbl::OrdMap<K, V>),
}

impl<K, V> SmallMap<K, V> {
    pub fn new() -> SmallMap<K, V> {
        SmallMap::Few(Vec::new())
    }
}

impl<K: Ord + Clone, V: Clone> SmallMap<K, V> {
    pub fn is_empty(&self) -> bool {
        match self {
            SmallMap::Few(entries) => entries.is_empty(),
            SmallMap::Many(tree) => tree.is_empty(),
        }
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match self {
            SmallMap::Few(entries) => {
                let at = entries.binary_search_by(|(known, _)| known.borrow().cmp(key)).ok()?;
                entries.get(at).map(|(_, value)| value)
            }
            SmallMap::Many(tree) => tree.get(key),
        }
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            SmallMap::Few(entries) => {
                let at = entries.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
                entries.get_mut(at).map(|(_, value)| value)
            }
            SmallMap::Many(tree) => tree.get_mut(key),
        }
    }

    pub fn insert(&mut self, key: K, value: V) {
        let entries = match self {
            SmallMap::Few(entries) => entries,
            SmallMap::Many(tree) => {
                tree.insert(key, value);
                return;
            }
        };
        match entries.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(at) => entries[at].1 = value,
            Err(_) if entries.len() == FEW => {
                let mut tree: imbl::OrdMap<K, V> = entries.drain(..).collect();
                tree.insert(key, value);
                *self = SmallMap::Many(tree);
            }
            Err(at) => {
                // One by one: most never get a second entry.
                entries.reserve_exact(1);
                entries.insert(at, (key, value));
            }
        }
    }

    pub fn remove(&mut self, key: &K) {
        match self {
            SmallMap::Few(entries) => {
                if let Ok(at) = entries.binary_search_by(|(known, _)| known.cmp(key)) {
                    entries.remove(at);
                }
            }
            SmallMap::Many(tree) => {
                tree.remove(key);
                // Far enough from the bound that going back and forth costs nothing.
                if tree.len() <= FEW / 2 {
                    *self =
                        SmallMap::Few(tree.iter().map(|(key, value)| (key.clone(), value.clone())).collect());
                }
            }
        }
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        let (few, many) = match self {
            SmallMap::Few(entries) => (Some(entries.iter().map(|(_, value)| value)), None),
            SmallMap::Many(tree) => (None, Some(tree.values())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn it_holds_what_a_map_holds_whatever_its_size() {
        let mut small = SmallMap::new();
        let mut model = BTreeMap::new();
        let mut seed = 7_u64;
        // First it mostly grows, then it mostly shrinks.
        for step in 0..2_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (key, grows) = ((seed >> 33) % 60, (seed >> 50) % 4 < if step < 1_000 { 3 } else { 1 });
            if grows {
                small.insert(key, step);
                model.insert(key, step);
            } else {
                small.remove(&key);
                model.remove(&key);
            }
            assert_eq!(small.get(&key), model.get(&key));
            assert_eq!(small.get_mut(&key).copied(), model.get(&key).copied());
            assert_eq!(small.is_empty(), model.is_empty());
            assert!(small.values().eq(model.values()));
        }
    }
}
