//! A persistent index from patterns to values: cloning is cheap, a change copies one path.

use super::small_map::SmallMap;
use posthaste_model::{Pattern, Subject, Word};
use smallvec::{SmallVec, smallvec};
use std::{collections::HashSet, sync::Arc};

/// Values `V` under patterns, told apart by `K`.
#[derive(Clone)]
pub(crate) struct Trie<K, V> {
    root: Arc<Node<K, V>>,
}

#[derive(Clone)]
struct Node<K, V> {
    children: Children<K, V>,
    one: Option<Arc<Node<K, V>>>,
    many: Option<Arc<Node<K, V>>>,
    values: SmallMap<K, Entry<V>>,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    value: V,
    hides_dollar: bool,
}

type Children<K, V> = SmallMap<Arc<str>, Arc<Node<K, V>>>;

impl<K, V> std::fmt::Debug for Trie<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trie")
    }
}

impl<K, V> Default for Trie<K, V> {
    fn default() -> Trie<K, V> {
        Trie { root: Arc::new(Node::default()) }
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Node<K, V> {
        Node { children: Children::new(), one: None, many: None, values: SmallMap::new() }
    }
}

impl<K: Ord + Clone, V: Clone> Trie<K, V> {
    pub fn insert(&mut self, pattern: &Pattern, key: K, value: V) {
        let mut node = Arc::make_mut(&mut self.root);
        for word in pattern.words() {
            node = match word {
                Word::Literal(text) => {
                    if node.children.get(&**text).is_none() {
                        node.children.insert(text.clone(), Arc::default());
                    }
                    let Some(child) = node.children.get_mut(text) else { return };
                    Arc::make_mut(child)
                }
                Word::Many => Arc::make_mut(node.many.get_or_insert_with(Default::default)),
                Word::One => Arc::make_mut(node.one.get_or_insert_with(Default::default)),
            };
        }
        node.values.insert(key, Entry { value, hides_dollar: pattern.hides_dollar() });
    }

    pub fn remove(&mut self, pattern: &Pattern, key: &K) {
        remove(Arc::make_mut(&mut self.root), pattern.words(), key);
    }

    /// Calls `found` for the value of every pattern that matches, once for each. Costs at most the number of nodes
    /// for each segment, whatever the patterns are.
    pub fn matches<'a>(&'a self, subject: &Subject, mut found: impl FnMut(&'a V)) {
        let mut active: Nodes<K, V> = smallvec![Active { node: &*self.root, stays: false, hidden: false }];
        let mut next = Nodes::new();
        for (index, segment) in subject.segments().enumerate() {
            let dollar = index == 0 && segment.starts_with('$');
            follow_many(&mut active, dollar);
            for at in &active {
                if at.stays {
                    next.push(*at);
                }
                if let Some(child) = at.node.children.get(&*segment) {
                    next.push(Active { node: child, stays: false, hidden: at.hidden });
                }
                if let Some(one) = &at.node.one {
                    next.push(Active { node: one, stays: false, hidden: at.hidden || dollar });
                }
            }
            std::mem::swap(&mut active, &mut next);
            next.clear();
            if active.is_empty() {
                return;
            }
        }
        follow_many(&mut active, false);
        for at in active {
            for entry in at.node.values.values() {
                // A first segment with `$` is reached by its literal, or by wildcards that do not hide it.
                if !(at.hidden && entry.hides_dollar) {
                    found(&entry.value);
                }
            }
        }
    }
}

type Nodes<'a, K, V> = SmallVec<[Active<'a, K, V>; 8]>;

/// A node that the segments so far lead to.
struct Active<'a, K, V> {
    node: &'a Node<K, V>,
    /// It stands for any number of segments, so it is also reached by the next one.
    stays: bool,
    /// The first segment begins with `$` and was taken by a wildcard.
    hidden: bool,
}

impl<K, V> Clone for Active<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Active<'_, K, V> {}

/// Adds the nodes that are reached by no segment at all.
fn follow_many<K, V>(active: &mut Nodes<'_, K, V>, dollar: bool) {
    let mut known = None;
    let mut at = 0;
    while let Some(Active { node, hidden, .. }) = active.get(at).copied() {
        at += 1;
        let Some(many) = &node.many else { continue };
        // Only these can be reached in two ways: from before, and by having stayed.
        let staying = active.iter().filter(|a| a.stays).map(|a| address(a.node));
        let known: &mut HashSet<usize> = known.get_or_insert_with(|| staying.collect());
        if known.insert(address(many)) {
            active.push(Active { node: many, stays: true, hidden: hidden || dollar });
        }
    }
}

fn address<T>(node: &T) -> usize {
    std::ptr::from_ref(node).addr()
}

/// Removes an entry and the nodes that become empty; true when `node` is one of them.
fn remove<K: Ord + Clone, V: Clone>(node: &mut Node<K, V>, words: &[Word], key: &K) -> bool {
    match words.split_first() {
        None => {
            node.values.remove(key);
        }
        Some((Word::Literal(text), rest)) => {
            if let Some(child) = node.children.get_mut(text)
                && remove(Arc::make_mut(child), rest, key)
            {
                node.children.remove(text);
            }
        }
        Some((Word::Many, rest)) => {
            if node.many.as_mut().is_some_and(|n| remove(Arc::make_mut(n), rest, key)) {
                node.many = None;
            }
        }
        Some((Word::One, rest)) => {
            if node.one.as_mut().is_some_and(|n| remove(Arc::make_mut(n), rest, key)) {
                node.one = None;
            }
        }
    }
    node.children.is_empty() && node.one.is_none() && node.many.is_none() && node.values.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_model::Syntax;
    use std::collections::BTreeSet;

    #[test]
    fn finds_what_matching_one_by_one_finds() {
        let words = ["a", "b", "$s", "*", "#", ""];
        let mut patterns = Vec::new();
        for i in 0..words.len().pow(3) {
            let pick = |n: usize| words[(i / words.len().pow(n as u32)) % words.len()];
            for text in
                [pick(0).to_owned(), [pick(0), pick(1)].join("."), [pick(0), pick(1), pick(2)].join(".")]
            {
                patterns.push(Pattern::parse(&text, Syntax::DOTTED).unwrap());
                let slashed = text.replace('*', "+").replace('.', "/");
                patterns.extend(Pattern::parse(&slashed, Syntax::SLASHED));
            }
        }
        let mut trie = Trie::default();
        for (index, pattern) in patterns.iter().enumerate() {
            trie.insert(pattern, index, index);
        }
        let subjects = ["a", "b.a", "a.b.a", "$s", "$s.a", "a.$s", "", "a..b", "a.b.a.b"];
        let check = |trie: &Trie<usize, usize>, present: &dyn Fn(usize) -> bool| {
            for subject in subjects {
                let subject = Subject::dotted(subject).unwrap();
                let mut found = BTreeSet::new();
                trie.matches(&subject, |index| {
                    found.insert(*index);
                });
                let expect: BTreeSet<_> =
                    (0..patterns.len()).filter(|i| present(*i) && patterns[*i].matches(&subject)).collect();
                assert_eq!(found, expect, "{subject}");
            }
        };
        check(&trie, &|_| true);
        let snapshot = trie.clone();
        for (index, pattern) in patterns.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
            trie.remove(pattern, &index);
        }
        check(&trie, &|i| i % 2 == 1);
        check(&snapshot, &|_| true);
        for (index, pattern) in patterns.iter().enumerate() {
            trie.remove(pattern, &index);
        }
        assert!(trie.root.children.is_empty() && trie.root.one.is_none() && trie.root.many.is_none());
    }
}
