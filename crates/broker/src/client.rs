//! What one connection can ask of the broker. Every method checks what its principal may do.

mod consuming;
mod groups;
mod sessions;

use crate::{
    access::{
        administration::Administration,
        authentication::{BROKER, Principal},
        rights::{Configurable, right},
        usage::Charged,
    },
    batch::Batch,
    broker::{Broker, Shared},
    error::{self, Error},
};
use bytes::Bytes;
use posthaste_engine::{
    Catalog, Command, Reply,
    catalog::{
        Action, BUS, Binding, CatalogCommand, Exchange, ExchangeSpec, Partition, Queue, QueueConfig,
        Resource, Target, Topic, TopicConfig, UsageLimits, User, UserGroup, Wish,
    },
    command::Mode,
    effect::QueueState,
};
use posthaste_model::{ConnectionId, Envelope, Name, Pattern, Payload, QueueId, ShardId, Subject};
use std::sync::Arc;

/// The handle that an adapter holds for a connection. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Handle>);

/// Behind one pointer, as each batch of publishes has a handle of its own.
#[derive(Clone)]
struct Handle {
    broker: Broker,
    principal: Principal,
    namespace: Name,
    connection: ConnectionId,
    charged: Charged,
    /// The client's own name.
    calls_itself: Option<Arc<str>>,
}

/// What a new queue is to be.
#[derive(Clone, Debug, Default)]
pub struct QueueDeclaration {
    pub config: QueueConfig,
    pub durable: bool,
    /// For this connection only, and gone with it.
    pub exclusive: bool,
    pub auto_delete: bool,
    /// The user that it counts for, where that is not the client's own.
    pub owner: Option<Name>,
}

/// How to consume.
#[derive(Clone, Copy, Debug)]
pub struct ConsumeOptions {
    /// Deliveries that may be handed out before more credit comes.
    pub credit: u32,
    pub mode: Mode,
    pub exclusive: bool,
    pub priority: i32,
}

impl Client {
    pub(crate) fn new(
        broker: Broker,
        principal: Principal,
        namespace: Name,
        connection: ConnectionId,
    ) -> Client {
        let charged = Charged::of(&broker.shared, &principal, &namespace);
        let calls_itself = None;
        Client(Arc::new(Handle { broker, principal, namespace, connection, charged, calls_itself }))
    }

    /// The broker's own handle, for what it does on nobody's behalf.
    pub(crate) fn system(broker: Broker, namespace: Name) -> Client {
        Client::new(broker, Principal::system(BROKER), namespace, ConnectionId(0))
    }

    pub fn broker(&self) -> &Broker {
        &self.0.broker
    }

    pub fn principal(&self) -> &Principal {
        &self.0.principal
    }

    pub fn namespace(&self) -> &Name {
        &self.0.namespace
    }

    pub fn connection(&self) -> ConnectionId {
        self.0.connection
    }

    pub(crate) fn charged(&self) -> &Charged {
        &self.0.charged
    }

    /// The user that what this client creates counts for.
    pub fn user(&self) -> Option<Name> {
        self.0.principal.user().map(|(name, _)| name.clone())
    }

    /// The same connection, of a client that has said what it calls itself.
    pub fn calling_itself(self, name: &str) -> Client {
        Client(Arc::new(Handle { calls_itself: Some(name.into()), ..(*self.0).clone() }))
    }

    /// The same connection in another namespace.
    pub fn in_namespace(&self, namespace: Name) -> Client {
        let charged = Charged::of(&self.0.broker.shared, &self.0.principal, &namespace);
        Client(Arc::new(Handle { namespace, charged, ..(*self.0).clone() }))
    }

    /// Whether the principal may do this here, as its rights are now.
    pub fn may(&self, action: Action, resource: Resource, name: &str) -> Result<(), Error> {
        self.may_by(&self.shared().catalog_now(), action, resource, name)
    }

    /// As [`Client::may`], by a catalog that the caller has at hand.
    pub(crate) fn may_by(
        &self,
        catalog: &Catalog,
        action: Action,
        resource: Resource,
        name: &str,
    ) -> Result<(), Error> {
        // Subjects by themselves are those of the bus.
        let through = (resource == Resource::Subject).then_some((BUS, name));
        self.check(
            catalog,
            Wish { action, resource, namespace: self.in_which(resource, name), name, through },
        )
    }

    /// Whether the principal may publish under a subject to an exchange.
    pub(crate) fn may_publish(
        &self,
        catalog: &Catalog,
        exchange: &str,
        subject: &Subject,
    ) -> Result<(), Error> {
        let subject = subject.to_dotted();
        match exchange {
            BUS => self.may_by(catalog, Action::Write, Resource::Subject, &subject),
            exchange => self.may_through(catalog, Action::Write, exchange, &subject),
        }
    }

    /// Whether the principal may publish a subject to an exchange (write), or bind something to it there
    /// (read).
    fn may_through(
        &self,
        catalog: &Catalog,
        action: Action,
        exchange: &str,
        subject: &str,
    ) -> Result<(), Error> {
        let (resource, namespace, name) = (Resource::Exchange, &*self.0.namespace, exchange);
        let wish = Wish { action, resource, namespace, name, through: None };
        let through = Wish { through: Some((exchange, subject)), ..wish };
        if self.0.principal.may(catalog, self.0.calls_itself.as_deref(), &through) {
            return Ok(());
        }
        // Which of the two is missing?
        self.check(catalog, wish)?;
        let (user, name) = (self.0.principal.name().to_owned(), subject.to_owned());
        Err(Error::Denied { user, action, resource: Resource::Subject, name })
    }

    /// The right to a namespace is one that holds in it, from wherever it is asked for.
    fn in_which<'a>(&'a self, resource: Resource, name: &'a str) -> &'a str {
        if resource == Resource::Namespace { name } else { &self.0.namespace }
    }

    fn check(&self, catalog: &Catalog, wish: Wish<'_>) -> Result<(), Error> {
        if self.0.principal.may(catalog, self.0.calls_itself.as_deref(), &wish) {
            return Ok(());
        }
        let Wish { action, resource, name, .. } = wish;
        let (user, name) = (self.0.principal.name().to_owned(), name.to_owned());
        Err(Error::Denied { user, action, resource, name })
    }

    pub(crate) fn may_wish(&self, wish: &Wish<'_>) -> bool {
        self.0.principal.may(&self.shared().catalog_now(), self.0.calls_itself.as_deref(), wish)
    }

    /// Whether the principal may do everything.
    pub fn is_administrator(&self) -> bool {
        self.0.principal.is_administrator(&self.shared().catalog_now())
    }

    /// Writes down a change that somebody will ask about one day. What goes with a connection, or is the
    /// broker's own, is written down in detail only.
    fn note(&self, done: &'static str, what: Resource, name: &str, lasting: bool) {
        let (by, namespace, kind) = (self.0.principal.name(), &self.0.namespace, error::lower(&what));
        if lasting && !self.0.principal.is_system() {
            tracing::info!(by, kind, name, %namespace, "{done}");
            self.shared().audit_change(&self.0.principal, done, what, namespace, name);
        } else {
            tracing::debug!(by, kind, name, %namespace, "{done}");
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.broker.shared
    }

    pub(crate) fn no_namespace(&self) -> Error {
        Error::NotFound(Resource::Namespace, self.0.namespace.to_string())
    }

    // ---- topics

    pub async fn create_topic(
        &self,
        name: &Name,
        partitions: u32,
        config: TopicConfig,
    ) -> Result<Arc<Topic>, Error> {
        self.may(Action::Configure, Resource::Topic, name)?;
        self.may_capture(&config, &[])?;
        let (namespace, name) = (self.0.namespace.clone(), name.clone());
        let creator = self.user();
        let command =
            CatalogCommand::CreateTopic { namespace, name: name.clone(), partitions, config, creator };
        self.shared().change_catalog(command).await?;
        self.note("created", Resource::Topic, &name, true);
        let topic = self.topic(&name)?;
        // A rule on the bus may name this topic already.
        self.shared().taps.topic_changed(&self.0.broker, &topic).await;
        Ok(topic)
    }

    pub async fn add_partitions(&self, name: &Name, total: u32) -> Result<Arc<Topic>, Error> {
        self.may(Action::Configure, Resource::Topic, name)?;
        let (namespace, name) = (self.0.namespace.clone(), name.clone());
        let command = CatalogCommand::AddPartitions { namespace, name: name.clone(), total };
        self.shared().change_catalog(command).await?;
        self.note("given more partitions", Resource::Topic, &name, true);
        let topic = self.topic(&name)?;
        self.shared().taps.topic_changed(&self.0.broker, &topic).await;
        Ok(topic)
    }

    pub async fn configure_topic(&self, name: &Name, config: TopicConfig) -> Result<(), Error> {
        let current = self.topic_to::<right::Configure>(name)?;
        self.may_capture(&config, &current.config.captures)?;
        let command = CatalogCommand::ConfigureTopic {
            namespace: self.0.namespace.clone(),
            name: name.clone(),
            config,
        };
        self.shared().change_catalog(command).await?;
        self.note("changed", Resource::Topic, name, true);
        Ok(())
    }

    /// Who has a topic capture what is published on the bus reads it there, as with a binding or a
    /// subscription.
    fn may_capture(&self, config: &TopicConfig, known: &[Pattern]) -> Result<(), Error> {
        let new = || config.captures.iter().filter(|pattern| !known.contains(pattern));
        if new().next().is_none() || self.may(Action::Read, Resource::Exchange, BUS).is_ok() {
            return Ok(());
        }
        new().try_for_each(|pattern| self.may(Action::Read, Resource::Subject, &pattern.to_string()))
    }

    pub async fn delete_topic(&self, name: &Name) -> Result<(), Error> {
        self.may(Action::Configure, Resource::Topic, name)?;
        let command = CatalogCommand::DeleteTopic { namespace: self.0.namespace.clone(), name: name.clone() };
        self.shared().change_catalog(command).await?;
        self.note("deleted", Resource::Topic, name, true);
        Ok(())
    }

    pub fn topic(&self, name: &str) -> Result<Arc<Topic>, Error> {
        let catalog = self.shared().catalog_now();
        let topic = catalog.namespace(&self.0.namespace).and_then(|n| n.topics.get(name)).cloned();
        topic.ok_or_else(|| Error::NotFound(Resource::Topic, name.to_owned()))
    }

    /// Drops everything below `before`; returns where the partition begins now.
    pub async fn trim(&self, partition: Configurable<Partition>, before: u64) -> Result<u64, Error> {
        let Partition { id, shard } = *partition;
        match self.shared().ask(shard, Command::Trim { partition: id, before }).await? {
            Reply::Count(start) => {
                tracing::info!(by = self.0.principal.name(), partition = id.0, before, "messages deleted");
                Ok(start)
            }
            _ => Err(Error::Gone),
        }
    }

    /// A fresh id for an idempotent producer.
    pub async fn producer_id(&self) -> Result<u64, Error> {
        match self.shared().ask(ShardId(0), Command::ReserveProducerIds { count: 1 }).await? {
            Reply::ProducerIds { first, .. } => Ok(first),
            _ => Err(Error::Gone),
        }
    }

    // ---- queues

    pub async fn create_queue(
        &self,
        name: &Name,
        declaration: QueueDeclaration,
    ) -> Result<Arc<Queue>, Error> {
        self.may(Action::Configure, Resource::Queue, name)?;
        self.may_dead_letter(name, &declaration.config)?;
        let command = CatalogCommand::CreateQueue {
            namespace: self.0.namespace.clone(),
            name: name.clone(),
            config: declaration.config,
            durable: declaration.durable,
            exclusive: declaration.exclusive.then_some(self.0.connection),
            auto_delete: declaration.auto_delete,
            creator: declaration.owner.or_else(|| self.user()),
        };
        if declaration.exclusive {
            self.shared().exclusive_owners.lock().insert(self.0.connection);
        }
        let lasting = declaration.durable && !declaration.exclusive && !declaration.auto_delete;
        self.shared().change_catalog(command).await?;
        self.note("created", Resource::Queue, name, lasting);
        self.queue(name)
    }

    pub async fn configure_queue(&self, name: &Name, config: QueueConfig) -> Result<(), Error> {
        let current = self.queue_to::<right::Configure>(name)?;
        if config.dead_letter != current.config.dead_letter {
            self.may_dead_letter(name, &config)?;
        }
        let command = CatalogCommand::ConfigureQueue {
            namespace: self.0.namespace.clone(),
            name: name.clone(),
            config,
        };
        self.shared().change_catalog(command).await?;
        self.note("changed", Resource::Queue, name, true);
        Ok(())
    }

    /// Who has a queue dead-letter somewhere moves messages there, and needs the right to.
    fn may_dead_letter(&self, name: &str, config: &QueueConfig) -> Result<(), Error> {
        let Some(dead) = &config.dead_letter else { return Ok(()) };
        self.may(Action::Read, Resource::Queue, name)?;
        self.may(Action::Write, Resource::Exchange, dead.exchange.as_deref().unwrap_or_default())
    }

    pub fn queue(&self, name: &str) -> Result<Arc<Queue>, Error> {
        let catalog = self.shared().catalog_now();
        let queue = catalog.namespace(&self.0.namespace).and_then(|n| n.queues.get(name)).cloned();
        let queue = queue.ok_or_else(|| Error::NotFound(Resource::Queue, name.to_owned()))?;
        if queue.exclusive.is_some_and(|owner| owner != self.0.connection) {
            return Err(Error::Locked);
        }
        Ok(queue)
    }

    /// Returns how many messages it held.
    pub async fn delete_queue(&self, name: &str, if_unused: bool, if_empty: bool) -> Result<u64, Error> {
        let queue = self.queue_to::<right::Configure>(name)?;
        let count = self.shared().delete_queue(&queue, if_unused, if_empty).await?;
        let lasting = queue.durable && queue.exclusive.is_none() && !queue.auto_delete;
        self.note("deleted", Resource::Queue, name, lasting);
        Ok(count)
    }

    pub async fn purge_queue(&self, name: &str) -> Result<u64, Error> {
        let queue = self.queue_to::<right::Read>(name)?;
        match self.shared().ask(queue.shard, Command::Purge { queue: queue.id }).await? {
            Reply::Count(count) => {
                self.note("purged", Resource::Queue, name, true);
                Ok(count)
            }
            _ => Err(Error::Gone),
        }
    }

    /// What is in a queue, for everybody who may do anything with it.
    pub async fn queue_state(&self, name: &str) -> Result<QueueState, Error> {
        let queue = self.queue_to::<right::See>(name)?;
        match self.shared().ask(queue.shard, Command::QueueState { queue: queue.id }).await? {
            Reply::QueueState(state) => Ok(state),
            _ => Err(Error::Gone),
        }
    }

    // ---- routing rules

    pub async fn create_exchange(&self, spec: ExchangeSpec) -> Result<(), Error> {
        self.may(Action::Configure, Resource::Exchange, &spec.name)?;
        if let Some(alternate) = &spec.alternate {
            // Messages move on from the one to the other.
            self.may(Action::Read, Resource::Exchange, &spec.name)?;
            self.may(Action::Write, Resource::Exchange, alternate)?;
        }
        let (name, lasting) = (spec.name.clone(), spec.durable && !spec.auto_delete);
        let spec = ExchangeSpec { created_by: self.user(), ..spec };
        self.shared().change_catalog(CatalogCommand::CreateExchange(spec)).await?;
        self.note("created", Resource::Exchange, &name, lasting);
        Ok(())
    }

    pub fn exchange(&self, name: &str) -> Result<Exchange, Error> {
        let catalog = self.0.broker.catalog();
        let exchange = catalog.namespace(&self.0.namespace).and_then(|n| n.exchanges.get(name)).cloned();
        exchange.ok_or_else(|| Error::NotFound(Resource::Exchange, name.to_owned()))
    }

    pub async fn delete_exchange(&self, name: &Name, if_unused: bool) -> Result<(), Error> {
        self.may(Action::Configure, Resource::Exchange, name)?;
        let command = CatalogCommand::DeleteExchange {
            namespace: self.0.namespace.clone(),
            name: name.clone(),
            if_unused,
        };
        self.shared().change_catalog(command).await?;
        self.note("deleted", Resource::Exchange, name, true);
        Ok(())
    }

    /// When this returns, what is published next sees the binding.
    pub async fn bind(&self, exchange: &Name, binding: Binding) -> Result<(), Error> {
        // A key that is no text is no subject.
        let key = String::from_utf8_lossy(&binding.key);
        let catalog = self.0.broker.catalog();
        self.may_through(&catalog, Action::Read, exchange, &key)?;
        self.may_target(&binding.target)?;
        let (target, rule) = (binding.target.clone(), binding.rule.clone());
        let command =
            CatalogCommand::Bind { namespace: self.0.namespace.clone(), exchange: exchange.clone(), binding };
        match self.shared().change_catalog(command).await {
            Ok(_) => {}
            Err(Error::NotFound(Resource::Queue, _)) => return Err(missing(&target)),
            Err(error) => return Err(error),
        }
        if &**exchange == BUS {
            self.shared().taps.bound(&self.0.broker, &self.0.namespace, &rule).await;
        }
        Ok(())
    }

    /// Unbinding what is not bound is no error.
    pub async fn unbind(
        &self,
        exchange: &Name,
        target: Target,
        key: Bytes,
        arguments: Bytes,
    ) -> Result<(), Error> {
        self.may(Action::Read, Resource::Exchange, exchange)?;
        self.may_target(&target)?;
        let (namespace, exchange) = (self.0.namespace.clone(), exchange.clone());
        let command = CatalogCommand::Unbind { namespace, exchange, target, key, arguments };
        match self.shared().change_catalog(command).await {
            Ok(_) | Err(Error::Exists) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn may_target(&self, target: &Target) -> Result<(), Error> {
        match target {
            Target::Queue(name) => self.may(Action::Write, Resource::Queue, name),
            Target::Exchange(name) => self.may(Action::Write, Resource::Exchange, name),
        }
    }

    // ---- namespaces and users

    pub async fn create_namespace(&self, name: &Name) -> Result<(), Error> {
        self.may(Action::Configure, Resource::Namespace, name)?;
        self.shared().change_catalog(CatalogCommand::CreateNamespace(name.clone())).await?;
        self.note("created", Resource::Namespace, name, true);
        Ok(())
    }

    /// Limits what a namespace may use up.
    pub async fn limit_namespace(&self, name: &Name, limits: UsageLimits) -> Result<(), Error> {
        self.may_administer(Administration::Namespaces)?;
        let command = CatalogCommand::LimitNamespace { name: name.clone(), limits };
        match self.shared().change_catalog(command).await {
            // It is as it is to be.
            Err(Error::Exists) => return Ok(()),
            changed => changed?,
        };
        self.note("limited", Resource::Namespace, name, true);
        Ok(())
    }

    pub async fn delete_namespace(&self, name: &Name) -> Result<(), Error> {
        self.may(Action::Configure, Resource::Namespace, name)?;
        if &**name == crate::open::DEFAULT_NAMESPACE {
            return Err(Error::Protected);
        }
        self.shared().change_catalog(CatalogCommand::DeleteNamespace(name.clone())).await?;
        self.note("deleted", Resource::Namespace, name, true);
        Ok(())
    }

    /// Adds or replaces a user.
    pub async fn put_user(&self, user: User) -> Result<(), Error> {
        self.may_administer(Administration::Users)?;
        let name = user.name.clone();
        let done = if self.0.broker.catalog().user(&name).is_some() { "changed" } else { "created" };
        self.shared().change_catalog(CatalogCommand::PutUser(Box::new(user))).await?;
        self.note_user(done, "user", &name);
        Ok(())
    }

    pub async fn delete_user(&self, name: &Name) -> Result<(), Error> {
        self.may_administer(Administration::Users)?;
        self.shared().change_catalog(CatalogCommand::DeleteUser(name.clone())).await?;
        self.note_user("deleted", "user", name);
        Ok(())
    }

    /// Adds or replaces a group of users.
    pub async fn put_user_group(&self, group: UserGroup) -> Result<(), Error> {
        self.may_administer(Administration::UserGroups)?;
        let name = group.name.clone();
        let done = if self.0.broker.catalog().user_group(&name).is_some() { "changed" } else { "created" };
        self.shared().change_catalog(CatalogCommand::PutUserGroup(Box::new(group))).await?;
        self.note_user(done, "user group", &name);
        Ok(())
    }

    /// Deletes a group of users that has no members.
    pub async fn delete_user_group(&self, name: &Name) -> Result<(), Error> {
        self.may_administer(Administration::UserGroups)?;
        self.shared().change_catalog(CatalogCommand::DeleteUserGroup(name.clone())).await?;
        self.note_user("deleted", "user group", name);
        Ok(())
    }

    pub(crate) fn note_user(&self, done: &'static str, kind: &'static str, name: &str) {
        // A change of users is never beside the point, not even one by the broker's own parts.
        tracing::info!(by = self.0.principal.name(), kind, name, "{done}");
        self.shared().audit_user(&self.0.principal, done, kind, name);
    }

    /// The connection is over: its exclusive queues go.
    pub async fn close(&self) {
        let catalog = self.0.broker.catalog();
        let Some(namespace) = catalog.namespace(&self.0.namespace) else { return };
        if !self.shared().exclusive_owners.lock().remove(&self.0.connection) {
            return;
        }
        let owned: Vec<QueueId> = namespace
            .queues
            .values()
            .filter(|q| q.exclusive == Some(self.0.connection))
            .map(|q| q.id)
            .collect();
        for queue in owned {
            // Whatever else deleted it was faster.
            let _ = self.shared().change_catalog(CatalogCommand::DeleteQueue { queue }).await;
        }
    }

    // ---- publishing

    /// Begins a batch of publishes.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    // ---- retained messages

    /// Up to `max` retained messages that match, in order of subjects, behind `after`. As with subscriptions,
    /// the right is that to read the pattern: `named`, as permissions name subjects.
    pub fn retained(
        &self,
        named: &str,
        pattern: &Pattern,
        after: Option<&Subject>,
        max: usize,
    ) -> Result<Vec<(Envelope, Payload)>, Error> {
        self.may(Action::Read, Resource::Subject, named)?;
        let now = self.0.broker.now();
        let mut found = self.shared().retained.find(&self.0.namespace, pattern, after, max);
        found.retain(|(envelope, _)| envelope.expires.is_none_or(|at| at > now));
        Ok(found)
    }
}

fn missing(target: &Target) -> Error {
    match target {
        Target::Queue(name) => Error::NotFound(Resource::Queue, name.to_string()),
        Target::Exchange(name) => Error::NotFound(Resource::Exchange, name.to_string()),
    }
}
