//! Changes of the catalog: what it can be asked, and what then happens to it.

use super::{
    Catalog, Namespace,
    decide::is_predeclared,
    entry::{Binding, ExchangeSpec, Queue, QueueConfig, Target, Topic, TopicConfig},
    routing::{Exchange, binding_key},
    usage::{Limited, UsageLimits},
    user::{AccessKey, User, UserGroup},
};
use bytes::Bytes;
use posthaste_model::{ConnectionId, Name, Pattern, QueueId, Subject};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What the catalog can be asked to change.
#[derive(Clone, Debug)]
pub enum CatalogCommand {
    CreateNamespace(Name),
    DeleteNamespace(Name),
    LimitNamespace {
        name: Name,
        limits: UsageLimits,
    },
    CreateTopic {
        namespace: Name,
        name: Name,
        partitions: u32,
        config: TopicConfig,
        creator: Option<Name>,
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
        creator: Option<Name>,
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
    /// One that is there keeps its access keys.
    PutUser(Box<User>),
    DeleteUser(Name),
    /// Adds an access key to a user.
    PutAccessKey {
        user: Name,
        key: AccessKey,
    },
    DeleteAccessKey {
        user: Name,
        id: String,
    },
    PutUserGroup(Box<UserGroup>),
    /// Only one without members.
    DeleteUserGroup(Name),
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
    UserGroupPut(UserGroup),
    UserGroupDeleted(Name),
    NamespaceLimited {
        name: Name,
        limits: UsageLimits,
    },
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
    AccessKeyUnknown,
    Exists,
    ExchangeUnknown,
    InUse,
    /// As many queues, topics and exchanges as there may be.
    ObjectsLimit(Limited),
    /// The name belongs to the system, or the object cannot be changed.
    Protected,
    QueueUnknown,
    TooMany,
    TopicUnknown,
    Unchanged,
    Unknown,
    /// Fewer partitions than there are.
    Shrinks,
    /// A name in a certificate, or an access key, is another user's.
    TakenCredential,
    UserGroupUnknown,
    UserUnknown,
}

impl Catalog {
    /// Changes the catalog. Never fails: an event about something unknown changes nothing.
    pub fn apply(&mut self, event: &CatalogEvent) {
        match event {
            CatalogEvent::NamespaceCreated(name) => {
                let fresh = || Arc::new(Namespace::new(name.clone()));
                self.namespaces.entry(name.clone()).or_insert_with(fresh);
            }
            CatalogEvent::NamespaceDeleted(name) => self.remove_namespace(name),
            CatalogEvent::TopicPut(topic) => self.put_topic(topic),
            CatalogEvent::TopicDeleted { namespace, name } => {
                if let Some(topic) = self.change(namespace, |n| n.remove_topic(name)).flatten() {
                    self.topics.remove(&topic.id);
                    self.count_gone(topic.created_by.as_ref());
                }
            }
            CatalogEvent::QueuePut(queue) => {
                let last = queue.streams.iter().copied().max().unwrap_or(queue.id.0);
                self.next_id = self.next_id.max(last + 1);
                let queue = Arc::new(queue.clone());
                if let Some(before) = self.queues.insert(queue.id, queue.clone()) {
                    self.count_gone(before.created_by.as_ref());
                }
                self.count_created(queue.created_by.as_ref());
                let namespace = queue.namespace.clone();
                self.change(&namespace, |n| n.queues.insert(queue.name.clone(), queue));
            }
            CatalogEvent::QueueDeleted { namespace, name } => {
                if let Some(queue) = self.change(namespace, |n| n.queues.remove(name)).flatten() {
                    self.queues.remove(&queue.id);
                    self.count_gone(queue.created_by.as_ref());
                }
            }
            CatalogEvent::ExchangePut(_)
            | CatalogEvent::ExchangeDeleted { .. }
            | CatalogEvent::Bound { .. }
            | CatalogEvent::Unbound { .. } => self.apply_routing(event),
            CatalogEvent::UserPut(user) => self.put_user(user),
            CatalogEvent::UserDeleted(name) => self.remove_user(name),
            CatalogEvent::IdsReserved(to) => self.reserved_id = self.reserved_id.max(*to),
            CatalogEvent::UserGroupPut(group) => {
                self.user_groups.insert(group.name.clone(), Arc::new(group.clone()));
            }
            CatalogEvent::UserGroupDeleted(name) => {
                self.user_groups.remove(name);
            }
            CatalogEvent::NamespaceLimited { name, limits } => {
                self.change(name, |n| n.limits = *limits);
                self.limits_changes += 1;
            }
        }
    }

    fn apply_routing(&mut self, event: &CatalogEvent) {
        match event {
            CatalogEvent::ExchangePut(spec) => {
                let (namespace, name) = (spec.namespace.clone(), spec.name.clone());
                let exchange = Exchange::new(spec.clone());
                let Some(before) = self.change(&namespace, |n| n.exchanges.insert(name, exchange)) else {
                    return;
                };
                self.count_gone(before.and_then(|before| before.spec.created_by.clone()).as_ref());
                self.count_created(spec.created_by.as_ref());
            }
            CatalogEvent::ExchangeDeleted { namespace, name } => {
                let gone = self.change(namespace, |n| {
                    let gone = n.exchanges.remove(name)?;
                    n.bindings = n.bindings.saturating_sub(gone.bindings_len());
                    Some(gone)
                });
                self.count_gone(gone.flatten().and_then(|gone| gone.spec.created_by.clone()).as_ref());
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
            _ => {}
        }
    }

    fn remove_namespace(&mut self, name: &Name) {
        let Some(gone) = self.namespaces.remove(name) else { return };
        self.limits_changes += u64::from(!gone.limits.is_none());
        for queue in gone.queues.values() {
            self.queues.remove(&queue.id);
            self.count_gone(queue.created_by.as_ref());
        }
        for topic in gone.topics.values() {
            self.topics.remove(&topic.id);
            self.count_gone(topic.created_by.as_ref());
        }
        for exchange in gone.exchanges.values() {
            self.count_gone(exchange.spec.created_by.as_ref());
        }
    }

    fn put_topic(&mut self, topic: &Topic) {
        let last = topic.partitions.iter().map(|p| p.id.0).max().unwrap_or(topic.id.0);
        self.next_id = self.next_id.max(last + 1);
        let topic = Arc::new(topic.clone());
        if let Some(before) = self.topics.insert(topic.id, topic.clone()) {
            self.count_gone(before.created_by.as_ref());
        }
        self.count_created(topic.created_by.as_ref());
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

    /// Ids from here on are of nothing that this catalog knows.
    pub fn free_from(&self) -> u64 {
        self.next_id.max(self.reserved_id)
    }

    /// The events that make this catalog out of an empty one: what a checkpoint keeps.
    pub fn to_events(&self) -> Vec<CatalogEvent> {
        let mut events = vec![CatalogEvent::IdsReserved(self.reserved_id)];
        events.extend(self.user_groups().map(|group| CatalogEvent::UserGroupPut((**group).clone())));
        events.extend(self.users().map(|user| CatalogEvent::UserPut((**user).clone())));
        for namespace in self.namespaces() {
            events.push(CatalogEvent::NamespaceCreated(namespace.name.clone()));
            if !namespace.limits.is_none() {
                let (name, limits) = (namespace.name.clone(), namespace.limits);
                events.push(CatalogEvent::NamespaceLimited { name, limits });
            }
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
