//! What a command changes, decided against what is there. Nothing is changed yet.

use super::{
    Catalog, CatalogCommand, CatalogEvent, CatalogRefusal, Change, Namespace, PREDECLARED,
    entry::{Binding, Partition, Queue, Rule, Target, Topic},
    permission::PERMISSIONS_MAX,
    routing::{BindingKey, Exchange, binding_key},
    user::{CREDENTIALS_MAX, User},
};
use bytes::Bytes;
use posthaste_model::{Limits, Name, PartitionId, Pattern, QueueId, Timestamp, TopicId};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

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
            CatalogCommand::LimitNamespace { name, limits } => {
                if self.within(&name)?.limits == limits {
                    return Err(CatalogRefusal::Unchanged);
                }
                Ok(vec![durable(CatalogEvent::NamespaceLimited { name, limits })])
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
            CatalogCommand::PutUser(_)
            | CatalogCommand::DeleteUser(_)
            | CatalogCommand::PutAccessKey { .. }
            | CatalogCommand::DeleteAccessKey { .. }
            | CatalogCommand::PutUserGroup(_)
            | CatalogCommand::DeleteUserGroup(_) => self.decide_user(command),
        }
    }

    fn decide_user(&self, command: CatalogCommand) -> Decided {
        let event = match command {
            CatalogCommand::PutUser(mut user) => {
                if let Some(known) = self.user(&user.name) {
                    user.access_keys.clone_from(&known.access_keys);
                }
                let many = [user.access_keys.len(), user.certificate_names.len(), user.groups.len()];
                if many.iter().any(|len| *len > CREDENTIALS_MAX) || user.permissions.len() > PERMISSIONS_MAX {
                    return Err(CatalogRefusal::TooMany);
                }
                if user.groups.iter().any(|group| self.user_group(group).is_none()) {
                    return Err(CatalogRefusal::UserGroupUnknown);
                }
                let another = |known: Option<&Arc<User>>| known.is_some_and(|known| known.name != user.name);
                let taken =
                    user.certificate_names.iter().any(|name| another(self.user_by_certificate_name(name)))
                        || user.access_keys.iter().any(|key| another(self.user_by_access_key(&key.id)))
                        || self.user_by_access_key(&user.name).is_some();
                if taken {
                    return Err(CatalogRefusal::TakenCredential);
                }
                CatalogEvent::UserPut(*user)
            }
            CatalogCommand::DeleteUser(name) => {
                self.user(&name).ok_or(CatalogRefusal::UserUnknown)?;
                CatalogEvent::UserDeleted(name)
            }
            CatalogCommand::PutAccessKey { .. } | CatalogCommand::DeleteAccessKey { .. } => {
                self.decide_access_key(command)?
            }
            CatalogCommand::PutUserGroup(group) => {
                if group.permissions.len() > PERMISSIONS_MAX {
                    return Err(CatalogRefusal::TooMany);
                }
                CatalogEvent::UserGroupPut(*group)
            }
            CatalogCommand::DeleteUserGroup(name) => {
                self.user_group(&name).ok_or(CatalogRefusal::UserGroupUnknown)?;
                // A group of that name that comes later would find members that it never took in.
                if self.users().any(|user| user.groups.contains(&name)) {
                    return Err(CatalogRefusal::InUse);
                }
                CatalogEvent::UserGroupDeleted(name)
            }
            _ => return Err(CatalogRefusal::Unknown),
        };
        Ok(vec![durable(event)])
    }

    fn decide_access_key(&self, command: CatalogCommand) -> Result<CatalogEvent, CatalogRefusal> {
        let of =
            |user: &Name| self.user(user).map(|user| User::clone(user)).ok_or(CatalogRefusal::UserUnknown);
        match command {
            CatalogCommand::PutAccessKey { user, key } => {
                let mut user = of(&user)?;
                // A client that names the key must not be taken for another user.
                if self.user_by_access_key(&key.id).is_some() || self.user(&key.id).is_some() {
                    return Err(CatalogRefusal::TakenCredential);
                }
                if user.access_keys.len() >= CREDENTIALS_MAX {
                    return Err(CatalogRefusal::TooMany);
                }
                user.access_keys.push(key);
                Ok(CatalogEvent::UserPut(user))
            }
            CatalogCommand::DeleteAccessKey { user, id } => {
                let mut user = of(&user)?;
                let before = user.access_keys.len();
                user.access_keys.retain(|key| key.id != id);
                match user.access_keys.len() < before {
                    true => Ok(CatalogEvent::UserPut(user)),
                    false => Err(CatalogRefusal::AccessKeyUnknown),
                }
            }
            _ => Err(CatalogRefusal::Unknown),
        }
    }

    fn decide_topic(&self, command: CatalogCommand, now: Timestamp, limits: &Limits) -> Decided {
        let mut ids = self.ids();
        let topic = match command {
            CatalogCommand::CreateTopic { namespace, name, partitions, config, creator } => {
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
                self.check_objects(within, creator.as_ref())?;
                let id = TopicId(ids.take());
                let partitions = (0..partitions).map(|_| self.new_partition(&mut ids)).collect();
                Topic { id, namespace, name, partitions, config, created: now, created_by: creator }
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
            #[rustfmt::skip]
            CatalogCommand::CreateQueue {
                namespace, name, config, durable, exclusive, auto_delete, creator,
            } => {
                let within = self.within(&namespace)?;
                if within.queues.contains_key(&name) {
                    return Err(CatalogRefusal::Exists);
                }
                let too_many = within.queues.len() >= limits.names_per_namespace_max
                    || config.priorities > limits.priorities_per_queue_max;
                if too_many {
                    return Err(CatalogRefusal::TooMany);
                }
                self.check_objects(within, creator.as_ref())?;
                let mut ids = self.ids();
                let streams: Vec<u64> = (0..=config.priorities).map(|_| ids.take()).collect();
                let id = QueueId(streams.first().copied().unwrap_or_default());
                // An exclusive queue goes with its connection, so it never survives a restart.
                let durable = durable && exclusive.is_none();
                let (shard, created, created_by) = (self.place(id.0), now, creator);
                #[rustfmt::skip]
                let queue = Queue {
                    id, namespace, name, shard, streams, config, durable, exclusive, auto_delete, created,
                    created_by,
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
                self.check_objects(within, spec.created_by.as_ref())?;
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

pub(super) fn is_predeclared(name: &str) -> bool {
    PREDECLARED.iter().any(|(known, _)| *known == name)
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
