//! Where a published message goes.

use super::{
    BUS, Catalog, Namespace,
    entry::{Binding, ExchangeKind, ExchangeSpec, Matching, Queue, Rule, Target, Topic},
    trie::Trie,
};
use bytes::Bytes;
use imbl::OrdMap;
use posthaste_model::{Name, Subject, Value};
use smallvec::SmallVec;
use std::{collections::HashSet, sync::Arc};

/// An exchange with its bindings, indexed for its kind.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub spec: Arc<ExchangeSpec>,
    bindings: OrdMap<BindingKey, Arc<Binding>>,
    exact: OrdMap<Bytes, OrdMap<BindingKey, Arc<Binding>>>,
    patterns: Trie<BindingKey, Arc<Binding>>,
}

/// What tells two bindings of one exchange apart.
pub(crate) type BindingKey = (Target, Bytes, Bytes);

/// A queue that a message goes to.
#[derive(Clone, Debug)]
pub struct QueueRoute {
    pub queue: Arc<Queue>,
    /// Only bindings that ask for no durability led there.
    pub transient: bool,
}

/// Everything that a message goes to. Reused from message to message.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    pub queues: SmallVec<[QueueRoute; 4]>,
    pub topics: SmallVec<[Arc<Topic>; 2]>,
}

/// The headers of a message, looked at only by exchanges that route by them.
pub trait Headers {
    fn value(&self, name: &str) -> Option<Value>;
}

/// For messages without headers.
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn value(&self, _: &str) -> Option<Value> {
        None
    }
}

impl Routes {
    pub fn clear(&mut self) {
        self.queues.clear();
        self.topics.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.topics.is_empty()
    }

    fn add_queue(&mut self, queue: &Arc<Queue>, transient: bool) {
        self.queues.push(QueueRoute { queue: queue.clone(), transient });
    }

    /// A message goes to each place once, however many bindings lead there.
    pub fn deduplicate(&mut self) {
        if self.queues.len() > 1 {
            self.queues.sort_unstable_by_key(|r| (r.queue.id, r.transient));
            self.queues.dedup_by_key(|r| r.queue.id);
        }
        if self.topics.len() > 1 {
            self.topics.sort_unstable_by_key(|t| t.id);
            self.topics.dedup_by_key(|t| t.id);
        }
    }
}

impl Exchange {
    pub(crate) fn new(spec: ExchangeSpec) -> Exchange {
        Exchange {
            spec: Arc::new(spec),
            bindings: OrdMap::new(),
            exact: OrdMap::new(),
            patterns: Trie::default(),
        }
    }

    pub fn bindings(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.bindings.values()
    }

    pub fn has_bindings(&self) -> bool {
        !self.bindings.is_empty()
    }

    pub fn bindings_len(&self) -> usize {
        self.bindings.len()
    }

    /// Whether any binding could match, so that a message is worth looking at.
    pub fn matches_any(&self, subject: &Subject) -> bool {
        let mut found = false;
        self.patterns.matches(subject, |_| found = true);
        found
    }

    /// The bindings from a key on, in order.
    pub(crate) fn bindings_from(&self, first: &BindingKey) -> impl Iterator<Item = &Arc<Binding>> {
        self.bindings.range(first..).map(|(_, binding)| binding)
    }

    pub(crate) fn binding(&self, key: &BindingKey) -> Option<&Arc<Binding>> {
        self.bindings.get(key)
    }

    pub(crate) fn bind(&mut self, binding: Binding) {
        let key = binding_key(&binding);
        if let Some(old) = self.bindings.get(&key).cloned() {
            self.unbind(&old);
        }
        let binding = Arc::new(binding);
        match &binding.rule {
            Rule::Exact(text) => {
                self.exact.entry(text.clone()).or_default().insert(key.clone(), binding.clone());
            }
            Rule::Pattern(pattern) => self.patterns.insert(pattern, key.clone(), binding.clone()),
            Rule::All | Rule::Headers { .. } => {}
        }
        self.bindings.insert(key, binding);
    }

    pub(crate) fn unbind(&mut self, binding: &Binding) -> bool {
        let key = binding_key(binding);
        let Some(binding) = self.bindings.remove(&key) else { return false };
        match &binding.rule {
            Rule::Exact(text) => {
                let empty = self.exact.get_mut(text).is_some_and(|bound| {
                    bound.remove(&key);
                    bound.is_empty()
                });
                if empty {
                    self.exact.remove(text);
                }
            }
            Rule::Pattern(pattern) => self.patterns.remove(pattern, &key),
            Rule::All | Rule::Headers { .. } => {}
        }
        true
    }

    /// The bindings that match.
    fn matching<'a>(&'a self, subject: &Subject, headers: &dyn Headers, mut found: impl FnMut(&'a Binding)) {
        match self.spec.kind {
            ExchangeKind::Direct => {
                let key = subject.to_dotted();
                if let Some(bound) = self.exact.get(key.as_bytes()) {
                    bound.values().for_each(|b| found(b));
                }
            }
            ExchangeKind::Fanout => self.bindings.values().for_each(|b| found(b)),
            ExchangeKind::Headers => {
                self.bindings.values().filter(|b| headers_match(&b.rule, headers)).for_each(|b| found(b));
            }
            ExchangeKind::Topic => self.patterns.matches(subject, |b| found(b)),
        }
    }
}

pub(crate) fn binding_key(binding: &Binding) -> BindingKey {
    (binding.target.clone(), binding.key.clone(), binding.arguments.clone())
}

fn headers_match(rule: &Rule, headers: &dyn Headers) -> bool {
    let Rule::Headers { matching, wanted } = rule else { return false };
    let mut hits = wanted.iter().map(|(name, value)| match (headers.value(name), value) {
        (Some(found), Some(value)) => found == *value,
        (Some(_), None) => true,
        (None, _) => false,
    });
    match matching {
        Matching::All => hits.all(|hit| hit),
        // RabbitMQ: a binding that wants nothing finds nothing of it.
        Matching::Any => hits.any(|hit| hit),
    }
}

impl Catalog {
    /// Finds where a message goes that is published to `exchange` (`None` is the default exchange).
    /// False when there is no such exchange.
    pub fn route(
        &self,
        namespace: &Namespace,
        exchange: Option<&str>,
        subject: &Subject,
        headers: &dyn Headers,
        routes: &mut Routes,
    ) -> bool {
        routes.clear();
        let Some(exchange) = exchange else {
            if let Some(queue) = namespace.queues.get(&*subject.to_dotted()) {
                routes.add_queue(queue, false);
            }
            return true;
        };
        let Some(exchange) = namespace.exchanges.get(exchange) else { return false };
        let mut next: Vec<&Name> = Vec::new();
        visit(namespace, exchange, subject, headers, routes, &mut next);
        // Exchanges may lead to each other in circles: each is visited once.
        let mut visited: HashSet<&str> = HashSet::new();
        visited.extend((!next.is_empty()).then_some(exchange.spec.name.as_str()));
        while let Some(name) = next.pop() {
            if let Some(exchange) = namespace.exchanges.get(name)
                && visited.insert(name)
            {
                visit(namespace, exchange, subject, headers, routes, &mut next);
            }
        }
        routes.deduplicate();
        true
    }

    /// The queues that are bound to the bus for a subject, for messages that come from a topic.
    pub fn route_from_topic(&self, namespace: &Namespace, subject: &Subject, routes: &mut Routes) {
        self.route(namespace, Some(BUS), subject, &NoHeaders, routes);
        routes.topics.clear();
    }
}

/// Adds what one exchange leads to; other exchanges to `next`.
fn visit<'a>(
    namespace: &'a Namespace,
    exchange: &'a Exchange,
    subject: &Subject,
    headers: &dyn Headers,
    routes: &mut Routes,
    next: &mut Vec<&'a Name>,
) {
    let mut matched = false;
    exchange.matching(subject, headers, |binding| {
        matched = true;
        match &binding.target {
            Target::Queue(name) => {
                if let Some(queue) = namespace.queues.get(name) {
                    routes.add_queue(queue, binding.transient);
                }
            }
            Target::Exchange(name) => next.push(name),
        }
    });
    if &*exchange.spec.name == BUS {
        namespace.captures.matches(subject, |topic| {
            matched = true;
            routes.topics.push(topic.clone());
        });
    }
    if !matched {
        next.extend(&exchange.spec.alternate);
    }
}
