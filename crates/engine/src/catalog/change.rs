//! Changes of the catalog: decided against what is there, then applied as events.

use super::{
    Catalog, Namespace,
    entry::{Binding, ExchangeSpec, Partition, Queue, QueueConfig, Rule, Target, Topic, TopicConfig, User},
    routing::{BindingKey, Exchange, binding_key},
};
use bytes::Bytes;
use posthaste_model::{
    ConnectionId, Limits, Name, PartitionId, Pattern, QueueId, Subject, Timestamp, TopicId,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// What the catalog can be asked to change.
#[derive(Clone, Debug)]
pub enum CatalogCommand {
    CreateNamespace(Name),
    DeleteNamespace(Name),
    CreateTopic {
        namespace: Name,
        name: Name,
        partitions: u32,
        config: TopicConfig,
    },
    /// More partitions; there are never fewer.
    AddPartitions {
        namespace: Name,
        name: Name,
        total: u32,
    },
    ConfigureTopic {
        namespace: Name,
        name: Name,
        config: TopicConfig,
    },
    DeleteTopic {
        namespace: Name,
        name: Name,
    },
    CreateQueue {
        namespace: Name,
        name: Name,
        config: QueueConfig,
        durable: bool,
        exclusive: Option<ConnectionId>,
        auto_delete: bool,
    },
    ConfigureQueue {
        namespace: Name,
        name: Name,
        config: QueueConfig,
    },
    /// Only if it is still this one.
    DeleteQueue {
        queue: QueueId,
    },
    CreateExchange(ExchangeSpec),
    DeleteExchange {
        namespace: Name,
        name: Name,
        if_unused: bool,
    },
    Bind {
        namespace: Name,
        exchange: Name,
        binding: Binding,
    },
    Unbind {
        namespace: Name,
        exchange: Name,
        target: Target,
        key: Bytes,
        arguments: Bytes,
    },
    PutUser(User),
    DeleteUser(Name),
}

/// Everything that can happen to the catalog. The journal's format: variants are added at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CatalogEvent {
    NamespaceCreated(Name),
    NamespaceDeleted(Name),
    /// Also when it changed.
    TopicPut(Topic),
    TopicDeleted {
        namespace: Name,
        name: Name,
    },
    /// Also when it changed.
    QueuePut(Queue),
    QueueDeleted {
        namespace: Name,
        name: Name,
    },
    ExchangePut(ExchangeSpec),
    ExchangeDeleted {
        namespace: Name,
        name: Name,
    },
    Bound {
        namespace: Name,
        exchange: Name,
        binding: Binding,
    },
    Unbound {
        namespace: Name,
        exchange: Name,
        binding: Binding,
    },
    UserPut(User),
    UserDeleted(Name),
    /// Ids below may have been given out.
    IdsReserved(u64),
}

/// An event and whether it is to be journalled.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub event: CatalogEvent,
    pub durable: bool,
}

/// Why the catalog did not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogRefusal {
    Exists,
    ExchangeUnknown,
    InUse,
    /// The name belongs to the system, or the object cannot be changed.
    Protected,
    QueueUnknown,
    TooMany,
    TopicUnknown,
    Unchanged,
    Unknown,
    /// Fewer partitions than there are.
    Shrinks,
}

/// Ids that are journalled as taken at a time.
const IDS_RESERVED: u64 = 4_096;
/// Words of a pattern; also bounds how deep the index of patterns is.
const PATTERN_WORDS_MAX: usize = 256;

type Decided = Result<Vec<Change>, CatalogRefusal>;

impl Catalog {
    /// Decides what a command changes. Nothing is changed yet.
    pub fn decide(&self, command: CatalogCommand, now: Timestamp, limits: &Limits) -> Decided {
        match command {
            CatalogCommand::CreateNamespace(name) => match self.namespace(&name) {
                Some(_) => Err(CatalogRefusal::Exists),
                None => Ok(vec![durable(CatalogEvent::NamespaceCreated(name))]),
            },
            CatalogCommand::DeleteNamespace(name) => {
                self.within(&name)?;
                Ok(vec![durable(CatalogEvent::NamespaceDeleted(name))])
            }
            CatalogCommand::CreateTopic { .. }
            | CatalogCommand::AddPartitions { .. }
            | CatalogCommand::ConfigureTopic { .. }
            | CatalogCommand::DeleteTopic { .. } => self.decide_topic(command, now, limits),
            CatalogCommand::CreateQueue { .. }
            | CatalogCommand::ConfigureQueue { .. }
            | CatalogCommand::DeleteQueue { .. } => self.decide_queue(command, now, limits),
            CatalogCommand::CreateExchange(_)
            | CatalogCommand::DeleteExchange { .. }
            | CatalogCommand::Bind { .. }
            | CatalogCommand::Unbind { .. } => self.decide_routing(command, limits),
            CatalogCommand::PutUser(user) => Ok(vec![durable(CatalogEvent::UserPut(user))]),
            CatalogCommand::DeleteUser(name) => {
                self.user(&name).ok_or(CatalogRefusal::Unknown)?;
                Ok(vec![durable(CatalogEvent::UserDeleted(name))])
            }
        }
    }

    fn decide_topic(&self, command: CatalogCommand, now: Timestamp, limits: &Limits) -> Decided {
        let mut ids = self.ids();
        let topic = match command {
            CatalogCommand::CreateTopic { namespace, name, partitions, config } => {
                let within = self.within(&namespace)?;
                if within.topics.contains_key(&name) {
                    return Err(CatalogRefusal::Exists);
                }
                let too_many = within.topics.len() >= limits.names_per_namespace_max
                    || partitions > limits.partitions_per_topic_max
                    || partitions == 0;
                if too_many || config.captures.iter().any(too_long) {
                    return Err(CatalogRefusal::TooMany);
                }
                let id = TopicId(ids.take());
                let partitions = (0..partitions).map(|_| self.new_partition(&mut ids)).collect();
                Topic { id, namespace, name, partitions, config, created: now }
            }
            CatalogCommand::AddPartitions { namespace, name, total } => {
                let mut topic = self.topic(&namespace, &name)?.clone();
                if total > limits.partitions_per_topic_max {
                    return Err(CatalogRefusal::TooMany);
                }
                let more = (total as usize).checked_sub(topic.partitions.len());
                let more = more.filter(|more| *more > 0).ok_or(CatalogRefusal::Shrinks)?;
                topic.partitions.extend((0..more).map(|_| self.new_partition(&mut ids)));
                topic
            }
            CatalogCommand::ConfigureTopic { namespace, name, config } => {
                if config.captures.iter().any(too_long) {
                    return Err(CatalogRefusal::TooMany);
                }
                Topic { config, ..self.topic(&namespace, &name)?.clone() }
            }
            CatalogCommand::DeleteTopic { namespace, name } => {
                self.topic(&namespace, &name)?;
                return Ok(vec![durable(CatalogEvent::TopicDeleted { namespace, name })]);
            }
            _ => return Err(CatalogRefusal::Unknown),
        };
        Ok(ids.reserve(durable(CatalogEvent::TopicPut(topic))))
    }

    fn decide_queue(&self, command: CatalogCommand, now: Timestamp, limits: &Limits) -> Decided {
        match command {
            CatalogCommand::CreateQueue { namespace, name, config, durable, exclusive, auto_delete } => {
                let within = self.within(&namespace)?;
                if within.queues.contains_key(&name) {
                    return Err(CatalogRefusal::Exists);
                }
                let too_many = within.queues.len() >= limits.names_per_namespace_max
                    || config.priorities > limits.priorities_per_queue_max;
                if too_many {
                    return Err(CatalogRefusal::TooMany);
                }
                let mut ids = self.ids();
                let streams: Vec<u64> = (0..=config.priorities).map(|_| ids.take()).collect();
                let id = QueueId(streams.first().copied().unwrap_or_default());
                // An exclusive queue goes with its connection, so it never survives a restart.
                let durable = durable && exclusive.is_none();
                let (shard, created) = (self.place(id.0), now);
                #[rustfmt::skip]
                let queue = Queue {
                    id, namespace, name, shard, streams, config, durable, exclusive, auto_delete, created,
                };
                Ok(ids.reserve(Change { event: CatalogEvent::QueuePut(queue), durable }))
            }
            CatalogCommand::ConfigureQueue { namespace, name, config } => {
                let within = self.within(&namespace)?;
                let queue = within.queues.get(&name).ok_or(CatalogRefusal::QueueUnknown)?;
                let queue = Queue { config, ..(**queue).clone() };
                let durable = queue.durable;
                Ok(vec![Change { event: CatalogEvent::QueuePut(queue), durable }])
            }
            CatalogCommand::DeleteQueue { queue } => {
                let queue = self.queue_by_id(queue).ok_or(CatalogRefusal::QueueUnknown)?;
                let (namespace, name) = (queue.namespace.clone(), queue.name.clone());
                let mut removal = Removal::new(self.within(&namespace)?);
                removal.target(Target::Queue(name.clone()));
                let mut changes = removal.finish();
                let event = CatalogEvent::QueueDeleted { namespace, name };
                changes.push(Change { event, durable: queue.durable });
                Ok(changes)
            }
            _ => Err(CatalogRefusal::Unknown),
        }
    }

    fn decide_routing(&self, command: CatalogCommand, limits: &Limits) -> Decided {
        match command {
            CatalogCommand::CreateExchange(spec) => {
                let within = self.within(&spec.namespace)?;
                if within.exchanges.contains_key(&spec.name) {
                    return Err(CatalogRefusal::Exists);
                }
                if within.exchanges.len() >= limits.names_per_namespace_max {
                    return Err(CatalogRefusal::TooMany);
                }
                let durable = spec.durable;
                Ok(vec![Change { event: CatalogEvent::ExchangePut(spec), durable }])
            }
            CatalogCommand::DeleteExchange { namespace, name, if_unused } => {
                let within = self.within(&namespace)?;
                let exchange = within.exchanges.get(&name).ok_or(CatalogRefusal::ExchangeUnknown)?;
                if is_predeclared(&name) {
                    return Err(CatalogRefusal::Protected);
                }
                if if_unused && exchange.has_bindings() {
                    return Err(CatalogRefusal::InUse);
                }
                let mut removal = Removal::new(within);
                removal.exchange(exchange);
                Ok(removal.finish())
            }
            CatalogCommand::Bind { namespace, exchange, binding } => {
                self.decide_bind(namespace, exchange, binding, limits)
            }
            CatalogCommand::Unbind { namespace, exchange, target, key, arguments } => {
                let within = self.within(&namespace)?;
                let source = within.exchanges.get(&exchange).ok_or(CatalogRefusal::ExchangeUnknown)?;
                let binding = source.binding(&(target, key, arguments)).ok_or(CatalogRefusal::Unchanged)?;
                let mut removal = Removal::new(within);
                removal.binding(source, binding);
                Ok(removal.finish())
            }
            _ => Err(CatalogRefusal::Unknown),
        }
    }

    fn decide_bind(&self, namespace: Name, exchange: Name, mut binding: Binding, limits: &Limits) -> Decided {
        let within = self.within(&namespace)?;
        let source = within.exchanges.get(&exchange).ok_or(CatalogRefusal::ExchangeUnknown)?;
        let target_durable = match &binding.target {
            Target::Queue(name) => within.queues.get(name).ok_or(CatalogRefusal::QueueUnknown)?.durable,
            Target::Exchange(name) => {
                within.exchanges.get(name).ok_or(CatalogRefusal::ExchangeUnknown)?.spec.durable
            }
        };
        let known = source.binding(&binding_key(&binding));
        // A binding outlives neither of its ends; bound again, it lasts as long as it did.
        let wanted = binding.durable || known.is_some_and(|known| known.durable);
        binding.durable = wanted && target_durable && source.spec.durable;
        if known.is_some_and(|known| **known == binding) {
            return Ok(Vec::new());
        }
        let long = matches!(&binding.rule, Rule::Pattern(pattern) if too_long(pattern));
        if long || (known.is_none() && within.bindings_len() >= limits.bindings_max) {
            return Err(CatalogRefusal::TooMany);
        }
        let durable = binding.durable;
        Ok(vec![Change { event: CatalogEvent::Bound { namespace, exchange, binding }, durable }])
    }

    fn within(&self, namespace: &Name) -> Result<&Namespace, CatalogRefusal> {
        self.namespace(namespace).map(|n| &**n).ok_or(CatalogRefusal::Unknown)
    }

    fn topic(&self, namespace: &Name, name: &Name) -> Result<&Topic, CatalogRefusal> {
        self.within(namespace)?.topics.get(name).map(|t| &**t).ok_or(CatalogRefusal::TopicUnknown)
    }

    fn ids(&self) -> Ids {
        Ids { next: self.next_id, reserved: self.reserved_id }
    }

    fn new_partition(&self, ids: &mut Ids) -> Partition {
        let id = ids.take();
        Partition { id: PartitionId(id), shard: self.place(id) }
    }

    /// Changes the catalog. Never fails: an event about something unknown changes nothing.
    pub fn apply(&mut self, event: &CatalogEvent) {
        match event {
            CatalogEvent::NamespaceCreated(name) => {
                let fresh = || Arc::new(Namespace::new(name.clone()));
                self.namespaces.entry(name.clone()).or_insert_with(fresh);
            }
            CatalogEvent::NamespaceDeleted(name) => {
                if let Some(gone) = self.namespaces.remove(name) {
                    gone.queues.values().for_each(|q| {
                        self.queues.remove(&q.id);
                    });
                    gone.topics.values().for_each(|t| {
                        self.topics.remove(&t.id);
                    });
                }
            }
            CatalogEvent::TopicPut(topic) => self.put_topic(topic),
            CatalogEvent::TopicDeleted { namespace, name } => {
                if let Some(topic) = self.change(namespace, |n| n.remove_topic(name)).flatten() {
                    self.topics.remove(&topic.id);
                }
            }
            CatalogEvent::QueuePut(queue) => {
                let last = queue.streams.iter().copied().max().unwrap_or(queue.id.0);
                self.next_id = self.next_id.max(last + 1);
                let queue = Arc::new(queue.clone());
                self.queues.insert(queue.id, queue.clone());
                let namespace = queue.namespace.clone();
                self.change(&namespace, |n| n.queues.insert(queue.name.clone(), queue));
            }
            CatalogEvent::QueueDeleted { namespace, name } => {
                if let Some(queue) = self.change(namespace, |n| n.queues.remove(name)).flatten() {
                    self.queues.remove(&queue.id);
                }
            }
            CatalogEvent::ExchangePut(spec) => {
                let (namespace, name) = (spec.namespace.clone(), spec.name.clone());
                let exchange = Exchange::new(spec.clone());
                self.change(&namespace, |n| n.exchanges.insert(name, exchange));
            }
            CatalogEvent::ExchangeDeleted { namespace, name } => {
                self.change(namespace, |n| {
                    if let Some(gone) = n.exchanges.remove(name) {
                        n.bindings = n.bindings.saturating_sub(gone.bindings_len());
                    }
                });
            }
            CatalogEvent::Bound { namespace, exchange, binding } => {
                self.change(namespace, |n| {
                    let Some(exchange) = n.exchanges.get_mut(exchange) else { return };
                    let known = exchange.binding(&binding_key(binding)).is_some();
                    exchange.bind(binding.clone());
                    n.bindings += usize::from(!known);
                });
            }
            CatalogEvent::Unbound { namespace, exchange, binding } => {
                self.change(namespace, |n| {
                    let Some(exchange) = n.exchanges.get_mut(exchange) else { return };
                    n.bindings = n.bindings.saturating_sub(usize::from(exchange.unbind(binding)));
                });
            }
            CatalogEvent::UserPut(user) => {
                self.users.insert(user.name.clone(), Arc::new(user.clone()));
            }
            CatalogEvent::UserDeleted(name) => {
                self.users.remove(name);
            }
            CatalogEvent::IdsReserved(to) => self.reserved_id = self.reserved_id.max(*to),
        }
    }

    fn put_topic(&mut self, topic: &Topic) {
        let last = topic.partitions.iter().map(|p| p.id.0).max().unwrap_or(topic.id.0);
        self.next_id = self.next_id.max(last + 1);
        let topic = Arc::new(topic.clone());
        self.topics.insert(topic.id, topic.clone());
        let namespace = topic.namespace.clone();
        self.change(&namespace, |n| {
            n.remove_topic(&topic.name);
            for pattern in n.captures_of(&topic) {
                n.captures.insert(&pattern, topic.name.clone(), topic.clone());
            }
            n.topics.insert(topic.name.clone(), topic);
        });
    }

    fn change<R>(&mut self, namespace: &Name, change: impl FnOnce(&mut Namespace) -> R) -> Option<R> {
        self.namespaces.get_mut(namespace).map(|n| change(Arc::make_mut(n)))
    }

    /// Ends recovery: ids that may have been given out before are not given out again.
    pub fn recovered(&mut self) {
        self.next_id = self.next_id.max(self.reserved_id);
    }

    /// The events that make this catalog out of an empty one: what a checkpoint keeps.
    pub fn to_events(&self) -> Vec<CatalogEvent> {
        let mut events = vec![CatalogEvent::IdsReserved(self.reserved_id)];
        events.extend(self.users().map(|user| CatalogEvent::UserPut((**user).clone())));
        for namespace in self.namespaces() {
            events.push(CatalogEvent::NamespaceCreated(namespace.name.clone()));
            events.extend(namespace.topics.values().map(|t| CatalogEvent::TopicPut((**t).clone())));
            let queues = namespace.queues.values().filter(|q| q.durable);
            events.extend(queues.map(|q| CatalogEvent::QueuePut((**q).clone())));
            let exchanges = || namespace.exchanges.values().filter(|e| e.spec.durable);
            let declared = exchanges().filter(|e| !is_predeclared(&e.spec.name));
            events.extend(declared.map(|e| CatalogEvent::ExchangePut((*e.spec).clone())));
            for exchange in exchanges() {
                events.extend(exchange.bindings().filter(|b| b.durable).map(|b| CatalogEvent::Bound {
                    namespace: namespace.name.clone(),
                    exchange: exchange.spec.name.clone(),
                    binding: (**b).clone(),
                }));
            }
        }
        events
    }
}

fn is_predeclared(name: &str) -> bool {
    super::PREDECLARED.iter().any(|(known, _)| *known == name)
}

/// What goes together with something that is deleted: its bindings, and the auto-delete exchanges whose last
/// binding was among them, with theirs.
struct Removal<'a> {
    within: &'a Namespace,
    changes: Vec<Change>,
    /// Bindings removed so far, by exchange.
    removed: HashMap<&'a Name, HashSet<BindingKey>>,
    deleted: HashSet<&'a Name>,
    targets: Vec<Target>,
}

impl<'a> Removal<'a> {
    fn new(within: &'a Namespace) -> Removal<'a> {
        Removal {
            within,
            changes: Vec::new(),
            removed: HashMap::new(),
            deleted: HashSet::new(),
            targets: Vec::new(),
        }
    }

    /// Everything bound to the target is unbound.
    fn target(&mut self, target: Target) {
        self.targets.push(target);
    }

    fn exchange(&mut self, exchange: &'a Exchange) {
        if !self.deleted.insert(&exchange.spec.name) {
            return;
        }
        let (namespace, name) = (self.within.name.clone(), exchange.spec.name.clone());
        self.targets.push(Target::Exchange(name.clone()));
        let event = CatalogEvent::ExchangeDeleted { namespace, name };
        self.changes.push(Change { event, durable: exchange.spec.durable });
    }

    fn binding(&mut self, source: &'a Exchange, binding: &Binding) {
        let exchange = &source.spec.name;
        // The bindings of a deleted exchange are gone with it.
        if self.deleted.contains(exchange) {
            return;
        }
        let removed = self.removed.entry(exchange).or_default();
        if !removed.insert(binding_key(binding)) {
            return;
        }
        let last = removed.len() == source.bindings_len();
        let event = CatalogEvent::Unbound {
            namespace: self.within.name.clone(),
            exchange: exchange.clone(),
            binding: binding.clone(),
        };
        self.changes.push(Change { event, durable: binding.durable });
        if last && source.spec.auto_delete && !is_predeclared(exchange) {
            self.exchange(source);
        }
    }

    fn finish(mut self) -> Vec<Change> {
        while let Some(target) = self.targets.pop() {
            for source in self.within.exchanges.values() {
                for binding in source.bindings_to(&target) {
                    self.binding(source, &binding);
                }
            }
        }
        self.changes
    }
}

fn durable(event: CatalogEvent) -> Change {
    Change { event, durable: true }
}

/// Longer patterns are refused: no subject that a queue could be bound for needs them.
fn too_long(pattern: &Pattern) -> bool {
    pattern.words().len() > PATTERN_WORDS_MAX
}

impl Exchange {
    fn bindings_to(&self, target: &Target) -> Vec<Arc<Binding>> {
        // Binding keys begin with the target, so its bindings stand together.
        let first = (target.clone(), Bytes::new(), Bytes::new());
        self.bindings_from(&first).take_while(|b| b.target == *target).cloned().collect()
    }
}

impl Namespace {
    fn remove_topic(&mut self, name: &Name) -> Option<Arc<Topic>> {
        let topic = self.topics.remove(name)?;
        for pattern in self.captures_of(&topic) {
            self.captures.remove(&pattern, name);
        }
        Some(topic)
    }

    /// The subjects whose messages on the bus are appended to a topic: its own name and its patterns.
    fn captures_of(&self, topic: &Topic) -> Vec<Pattern> {
        let own = Subject::dotted(topic.name.as_str().to_owned()).ok();
        own.iter().map(Pattern::exact).chain(topic.config.captures.iter().cloned()).collect()
    }
}

/// Ids are taken one after the other.
struct Ids {
    next: u64,
    reserved: u64,
}

impl Ids {
    fn take(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// The change that takes them; before it, if need be, that more of them are taken.
    fn reserve(self, change: Change) -> Vec<Change> {
        if self.next <= self.reserved {
            return vec![change];
        }
        vec![durable(CatalogEvent::IdsReserved(self.next + IDS_RESERVED)), change]
    }
}
