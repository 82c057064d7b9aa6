//! What one connection can ask of the broker. Every method checks what its principal may do.

use crate::{
    authentication::Principal,
    batch::Batch,
    broker::{Broker, Shared},
    error::Error,
    log::PartitionLog,
    thread::{DeliverySink, Input},
};
use bytes::Bytes;
use posthaste_engine::{
    Command, Delivery, Position, Reply,
    catalog::{
        Action, BUS, Binding, CatalogCommand, Exchange, ExchangeSpec, Queue, QueueConfig, Resource, Target,
        Topic, TopicConfig, User,
    },
    command::{Consume, Mode, Outcome, Relay, Settle},
    effect::{HandleState, QueueState, Refusal},
    event::CommittedOffset,
    group::{Assignment, GroupState, Join, Joined, Member},
};
use posthaste_model::{
    ConnectionId, ConsumerId, Envelope, Name, PartitionId, Pattern, Payload, QueueId, ShardId, Subject,
    TopicId,
};
use std::sync::Arc;

/// The handle that an adapter holds for a connection. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    broker: Broker,
    principal: Principal,
    namespace: Name,
    connection: ConnectionId,
}

/// What a new queue is to be.
#[derive(Clone, Debug, Default)]
pub struct QueueDeclaration {
    pub config: QueueConfig,
    pub durable: bool,
    /// For this connection only, and gone with it.
    pub exclusive: bool,
    pub auto_delete: bool,
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

/// An event in the journal has at most this much of a group's offsets.
const OFFSETS_PER_EVENT: usize = 1_000;

impl Client {
    pub(crate) fn new(
        broker: Broker,
        principal: Principal,
        namespace: Name,
        connection: ConnectionId,
    ) -> Client {
        Client { broker, principal, namespace, connection }
    }

    /// The broker's own handle, for what it does on nobody's behalf.
    pub(crate) fn system(broker: Broker, namespace: Name) -> Client {
        Client::new(broker, Principal::system(), namespace, ConnectionId(0))
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    pub fn namespace(&self) -> &Name {
        &self.namespace
    }

    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// The same connection in another namespace.
    pub fn in_namespace(&self, namespace: Name) -> Client {
        Client { namespace, ..self.clone() }
    }

    /// Whether the principal may do this here.
    pub fn may(&self, action: Action, resource: Resource, name: &str) -> Result<(), Error> {
        if self.principal.may(action, resource, &self.namespace, name) {
            return Ok(());
        }
        let (user, name) = (self.principal.name().to_owned(), name.to_owned());
        Err(Error::Denied { user, action, resource, name })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.broker.shared
    }

    pub(crate) fn no_namespace(&self) -> Error {
        Error::NotFound(Resource::Namespace, self.namespace.to_string())
    }

    // ---- topics

    pub async fn create_topic(
        &self,
        name: &Name,
        partitions: u32,
        config: TopicConfig,
    ) -> Result<Arc<Topic>, Error> {
        self.may(Action::Configure, Resource::Topic, name)?;
        let (namespace, name) = (self.namespace.clone(), name.clone());
        let command = CatalogCommand::CreateTopic { namespace, name: name.clone(), partitions, config };
        self.shared().change_catalog(command).await?;
        let topic = self.topic(&name)?;
        // A rule on the bus may name this topic already.
        self.shared().taps.topic_changed(&self.broker, &topic).await;
        Ok(topic)
    }

    pub async fn add_partitions(&self, name: &Name, total: u32) -> Result<Arc<Topic>, Error> {
        self.may(Action::Configure, Resource::Topic, name)?;
        let (namespace, name) = (self.namespace.clone(), name.clone());
        let command = CatalogCommand::AddPartitions { namespace, name: name.clone(), total };
        self.shared().change_catalog(command).await?;
        let topic = self.topic(&name)?;
        self.shared().taps.topic_changed(&self.broker, &topic).await;
        Ok(topic)
    }

    pub async fn configure_topic(&self, name: &Name, config: TopicConfig) -> Result<(), Error> {
        self.may(Action::Configure, Resource::Topic, name)?;
        let (namespace, name) = (self.namespace.clone(), name.clone());
        self.shared().change_catalog(CatalogCommand::ConfigureTopic { namespace, name, config }).await?;
        Ok(())
    }

    pub async fn delete_topic(&self, name: &Name) -> Result<(), Error> {
        self.may(Action::Configure, Resource::Topic, name)?;
        let (namespace, name) = (self.namespace.clone(), name.clone());
        self.shared().change_catalog(CatalogCommand::DeleteTopic { namespace, name }).await?;
        Ok(())
    }

    pub fn topic(&self, name: &str) -> Result<Arc<Topic>, Error> {
        let catalog = self.broker.catalog();
        let topic = catalog.namespace(&self.namespace).and_then(|n| n.topics.get(name)).cloned();
        topic.ok_or_else(|| Error::NotFound(Resource::Topic, name.to_owned()))
    }

    /// A partition's readable view. Reading needs [`Action::Read`] on the topic, which the caller checks once
    /// per request.
    pub fn log(&self, partition: PartitionId) -> Result<Arc<PartitionLog>, Error> {
        self.shared().logs.find(partition.0).ok_or(Error::Gone)
    }

    /// Drops everything below `before`; returns where the partition begins now.
    pub async fn trim(&self, partition: PartitionId, before: u64) -> Result<u64, Error> {
        let shard = self.broker.catalog().place(partition.0);
        match self.shared().ask(shard, Command::Trim { partition, before }).await? {
            Reply::Count(start) => Ok(start),
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
        let command = CatalogCommand::CreateQueue {
            namespace: self.namespace.clone(),
            name: name.clone(),
            config: declaration.config,
            durable: declaration.durable,
            exclusive: declaration.exclusive.then_some(self.connection),
            auto_delete: declaration.auto_delete,
        };
        if declaration.exclusive {
            self.shared().exclusive_owners.lock().insert(self.connection);
        }
        self.shared().change_catalog(command).await?;
        self.queue(name)
    }

    pub async fn configure_queue(&self, name: &Name, config: QueueConfig) -> Result<(), Error> {
        self.may(Action::Configure, Resource::Queue, name)?;
        let (namespace, name) = (self.namespace.clone(), name.clone());
        self.shared().change_catalog(CatalogCommand::ConfigureQueue { namespace, name, config }).await?;
        Ok(())
    }

    pub fn queue(&self, name: &str) -> Result<Arc<Queue>, Error> {
        let catalog = self.broker.catalog();
        let queue = catalog.namespace(&self.namespace).and_then(|n| n.queues.get(name)).cloned();
        let queue = queue.ok_or_else(|| Error::NotFound(Resource::Queue, name.to_owned()))?;
        if queue.exclusive.is_some_and(|owner| owner != self.connection) {
            return Err(Error::Locked);
        }
        Ok(queue)
    }

    /// Returns how many messages it held.
    pub async fn delete_queue(&self, name: &str, if_unused: bool, if_empty: bool) -> Result<u64, Error> {
        self.may(Action::Configure, Resource::Queue, name)?;
        let queue = self.queue(name)?;
        self.shared().delete_queue(&queue, if_unused, if_empty).await
    }

    pub async fn purge_queue(&self, name: &str) -> Result<u64, Error> {
        self.may(Action::Read, Resource::Queue, name)?;
        let queue = self.queue(name)?;
        match self.shared().ask(queue.shard, Command::Purge { queue: queue.id }).await? {
            Reply::Count(count) => Ok(count),
            _ => Err(Error::Gone),
        }
    }

    pub async fn queue_state(&self, name: &str) -> Result<QueueState, Error> {
        let queue = self.queue(name)?;
        match self.shared().ask(queue.shard, Command::QueueState { queue: queue.id }).await? {
            Reply::QueueState(state) => Ok(state),
            _ => Err(Error::Gone),
        }
    }

    // ---- routing rules

    pub async fn create_exchange(&self, spec: ExchangeSpec) -> Result<(), Error> {
        self.may(Action::Configure, Resource::Exchange, &spec.name)?;
        self.shared().change_catalog(CatalogCommand::CreateExchange(spec)).await?;
        Ok(())
    }

    pub fn exchange(&self, name: &str) -> Result<Exchange, Error> {
        let catalog = self.broker.catalog();
        let exchange = catalog.namespace(&self.namespace).and_then(|n| n.exchanges.get(name)).cloned();
        exchange.ok_or_else(|| Error::NotFound(Resource::Exchange, name.to_owned()))
    }

    pub async fn delete_exchange(&self, name: &Name, if_unused: bool) -> Result<(), Error> {
        self.may(Action::Configure, Resource::Exchange, name)?;
        let (namespace, name) = (self.namespace.clone(), name.clone());
        self.shared().change_catalog(CatalogCommand::DeleteExchange { namespace, name, if_unused }).await?;
        Ok(())
    }

    /// When this returns, what is published next sees the binding.
    pub async fn bind(&self, exchange: &Name, binding: Binding) -> Result<(), Error> {
        self.may(Action::Read, Resource::Exchange, exchange)?;
        self.may_target(&binding.target)?;
        let (target, rule) = (binding.target.clone(), binding.rule.clone());
        let command =
            CatalogCommand::Bind { namespace: self.namespace.clone(), exchange: exchange.clone(), binding };
        match self.shared().change_catalog(command).await {
            Ok(_) => {}
            Err(Error::NotFound(Resource::Queue, _)) => return Err(missing(&target)),
            Err(error) => return Err(error),
        }
        if &**exchange == BUS {
            self.shared().taps.bound(&self.broker, &self.namespace, &rule).await;
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
        let (namespace, exchange) = (self.namespace.clone(), exchange.clone());
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
        self.shared().change_catalog(CatalogCommand::CreateNamespace(name.clone())).await.map(|_| ())
    }

    pub async fn delete_namespace(&self, name: &Name) -> Result<(), Error> {
        self.may(Action::Configure, Resource::Namespace, name)?;
        if &**name == crate::open::DEFAULT_NAMESPACE {
            return Err(Error::Protected);
        }
        self.shared().change_catalog(CatalogCommand::DeleteNamespace(name.clone())).await.map(|_| ())
    }

    /// Adds or replaces a user. Only administrators may.
    pub async fn put_user(&self, user: User) -> Result<(), Error> {
        self.administers(&user.name)?;
        self.shared().change_catalog(CatalogCommand::PutUser(user)).await.map(|_| ())
    }

    pub async fn delete_user(&self, name: &Name) -> Result<(), Error> {
        self.administers(name)?;
        self.shared().change_catalog(CatalogCommand::DeleteUser(name.clone())).await.map(|_| ())
    }

    fn administers(&self, name: &Name) -> Result<(), Error> {
        if self.principal.user().administrator {
            return Ok(());
        }
        let (user, name) = (self.principal.name().to_owned(), name.to_string());
        Err(Error::Denied { user, action: Action::Configure, resource: Resource::Namespace, name })
    }

    /// The connection is over: its exclusive queues go.
    pub async fn close(&self) {
        let catalog = self.broker.catalog();
        let Some(namespace) = catalog.namespace(&self.namespace) else { return };
        if !self.shared().exclusive_owners.lock().remove(&self.connection) {
            return;
        }
        let owned: Vec<QueueId> = namespace
            .queues
            .values()
            .filter(|q| q.exclusive == Some(self.connection))
            .map(|q| q.id)
            .collect();
        for queue in owned {
            // Whatever else deleted it was faster.
            let _ = self.shared().change_catalog(CatalogCommand::DeleteQueue { queue }).await;
        }
    }

    // ---- publishing and consuming

    /// Begins a batch of publishes.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    pub async fn consume(
        &self,
        queue: &Queue,
        options: ConsumeOptions,
        consumer: ConsumerId,
        sink: Arc<dyn DeliverySink>,
    ) -> Result<(), Error> {
        self.may(Action::Read, Resource::Queue, &queue.name)?;
        let ConsumeOptions { credit, mode, exclusive, priority } = options;
        let command =
            Command::Consume(Consume { queue: queue.id, consumer, credit, mode, exclusive, priority });
        let (reply, answer) = tokio::sync::oneshot::channel();
        let input = Input::Consume { shard: queue.shard, command, sink, reply };
        if !self.shared().input(self.shared().thread_of(queue.shard), input) {
            return Err(Error::Stopping);
        }
        match answer.await {
            Ok(Reply::Refused(refusal)) => Err(refusal.into()),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Stopping),
        }
    }

    fn send(&self, queue: QueueId, command: Command) {
        self.shared().send(self.shard_of_queue(queue), command);
    }

    async fn ask(&self, queue: QueueId, command: Command) -> Result<Reply, Error> {
        self.shared().ask(self.shard_of_queue(queue), command).await
    }

    fn shard_of_queue(&self, queue: QueueId) -> ShardId {
        // As the catalog places it; also right for a queue that was deleted meanwhile.
        self.broker.catalog().place(queue.0)
    }

    /// Lets the consumer be handed `add` more.
    pub fn credit(&self, queue: QueueId, consumer: ConsumerId, add: u32) {
        self.send(queue, Command::Credit { queue, consumer, add });
    }

    pub fn settle(
        &self,
        queue: QueueId,
        consumer: ConsumerId,
        deliveries: Vec<(u8, Position)>,
        outcome: Outcome,
    ) {
        self.send(queue, Command::Settle(Settle { queue, consumer, deliveries, outcome, lasting: false }));
    }

    /// As [`Client::settle`], which a power cut before the next sync undoes, but returns once it lasts.
    pub async fn settle_durably(
        &self,
        queue: QueueId,
        consumer: ConsumerId,
        deliveries: Vec<(u8, Position)>,
        outcome: Outcome,
    ) -> Result<(), Error> {
        let settle = Settle { queue, consumer, deliveries, outcome, lasting: true };
        self.ask(queue, Command::Settle(settle)).await.map(|_| ())
    }

    /// Ends a consumer; what it holds stays leased to it.
    pub async fn cancel(&self, queue: QueueId, consumer: ConsumerId) {
        // A queue that is gone has no consumers.
        let _ = self.ask(queue, Command::Cancel { queue, consumer }).await;
    }

    /// Ends a consumer and gives back what it holds.
    pub async fn detach(&self, queue: QueueId, consumer: ConsumerId) {
        let _ = self.ask(queue, Command::Detach { queue, consumer }).await;
    }

    /// Gives back what a consumer holds; it goes on.
    pub fn recover(&self, queue: QueueId, consumer: ConsumerId) {
        self.send(queue, Command::Recover { queue, consumer });
    }

    /// Takes what is ready at once, up to `count`; also says how many messages are ready beyond that.
    pub async fn pull(
        &self,
        queue: &Queue,
        consumer: ConsumerId,
        count: u32,
        mode: Mode,
    ) -> Result<(Vec<Delivery>, u64), Error> {
        self.may(Action::Read, Resource::Queue, &queue.name)?;
        let command = Command::Pull { queue: queue.id, consumer, count, mode };
        match self.shared().ask(queue.shard, command).await? {
            Reply::Deliveries { deliveries, ready } => Ok((deliveries, ready)),
            _ => Err(Error::Gone),
        }
    }

    // ---- groups

    async fn ask_group(&self, group: &Name, action: Action, command: Command) -> Result<Reply, Error> {
        self.may(action, Resource::Group, group)?;
        self.shared().ask(self.shard_of_group(group), command).await
    }

    fn shard_of_group(&self, group: &Name) -> ShardId {
        self.broker.catalog().shard_of(group)
    }

    /// Waits until the group's round is complete, which may take as long as its members' rebalance timeouts.
    pub async fn join_group(&self, join: Join) -> Result<Joined, Error> {
        let group = join.group.clone();
        match self.ask_group(&group, Action::Read, Command::Join(Box::new(join))).await? {
            Reply::Joined(joined) => Ok(*joined),
            _ => Err(Error::Gone),
        }
    }

    /// Waits until the group's leader has divided the work.
    pub async fn sync_group(
        &self,
        group: &Name,
        member: Member,
        assignments: Vec<(String, Bytes)>,
    ) -> Result<Assignment, Error> {
        let (namespace, name) = (self.namespace.clone(), group.clone());
        let command = Command::Sync { namespace, group: name, member, assignments };
        match self.ask_group(group, Action::Read, command).await? {
            Reply::Assignment(assignment) => Ok(*assignment),
            _ => Err(Error::Gone),
        }
    }

    pub async fn heartbeat(&self, group: &Name, member: Member) -> Result<(), Error> {
        let (namespace, name) = (self.namespace.clone(), group.clone());
        self.ask_group(group, Action::Read, Command::Heartbeat { namespace, group: name, member })
            .await
            .map(|_| ())
    }

    /// Each member by id, or by instance name alone; one result for each.
    pub async fn leave_group(
        &self,
        group: &Name,
        members: Vec<(String, Option<String>)>,
    ) -> Result<Vec<Result<(), Refusal>>, Error> {
        let (namespace, name) = (self.namespace.clone(), group.clone());
        match self.ask_group(group, Action::Read, Command::Leave { namespace, group: name, members }).await? {
            Reply::Left(results) => Ok(results),
            _ => Err(Error::Gone),
        }
    }

    /// Durable when it returns.
    pub async fn commit_offsets(
        &self,
        group: &Name,
        member: Option<Member>,
        offsets: Vec<CommittedOffset>,
    ) -> Result<(), Error> {
        for part in offsets.chunks(OFFSETS_PER_EVENT) {
            let command = Command::CommitOffsets {
                namespace: self.namespace.clone(),
                group: group.clone(),
                member: member.clone(),
                offsets: part.to_vec(),
            };
            self.ask_group(group, Action::Read, command).await?;
        }
        Ok(())
    }

    /// `None` for all that the group has.
    pub async fn fetch_offsets(
        &self,
        group: &Name,
        partitions: Option<Vec<(TopicId, u32)>>,
    ) -> Result<Vec<CommittedOffset>, Error> {
        let (namespace, name) = (self.namespace.clone(), group.clone());
        let command = Command::FetchOffsets { namespace, group: name, partitions };
        match self.ask_group(group, Action::Read, command).await? {
            Reply::Offsets(offsets) => Ok(offsets),
            _ => Err(Error::Gone),
        }
    }

    pub async fn describe_group(&self, group: &Name) -> Result<Option<GroupState>, Error> {
        let (namespace, name) = (self.namespace.clone(), group.clone());
        let command = Command::DescribeGroup { namespace, group: name };
        match self.ask_group(group, Action::Read, command).await? {
            Reply::Group(state) => Ok(state.map(|state| *state)),
            _ => Err(Error::Gone),
        }
    }

    /// The groups of the namespace that the principal may see.
    pub async fn list_groups(&self) -> Result<Vec<GroupState>, Error> {
        let mut all = Vec::new();
        for shard in 0..self.broker.catalog().shards() {
            let command = Command::ListGroups { namespace: self.namespace.clone() };
            if let Reply::Groups(groups) = self.shared().ask(ShardId(shard), command).await? {
                all.extend(
                    groups.into_iter().filter(|g| self.may(Action::Read, Resource::Group, &g.group).is_ok()),
                );
            }
        }
        all.sort_by(|a, b| a.group.cmp(&b.group));
        Ok(all)
    }

    pub async fn delete_group(&self, group: &Name) -> Result<(), Error> {
        let (namespace, name) = (self.namespace.clone(), group.clone());
        let command = Command::DeleteGroup { namespace, group: name };
        self.ask_group(group, Action::Configure, command).await.map(|_| ())
    }

    pub async fn forget_offsets(&self, group: &Name, partitions: Vec<(TopicId, u32)>) -> Result<(), Error> {
        let (namespace, name) = (self.namespace.clone(), group.clone());
        let command = Command::ForgetOffsets { namespace, group: name, partitions };
        self.ask_group(group, Action::Configure, command).await.map(|_| ())
    }

    // ---- retained messages

    /// Up to `max` retained messages that match, in order of subjects, behind `after`.
    pub fn retained(
        &self,
        pattern: &Pattern,
        after: Option<&Subject>,
        max: usize,
    ) -> Vec<(Envelope, Payload)> {
        let now = self.broker.now();
        let mut found = self.shared().retained.find(&self.namespace, pattern, after, max);
        found.retain(|(envelope, _)| envelope.expires.is_none_or(|at| at > now));
        found
    }

    // ---- durable sessions

    /// Takes a message with an id of the publisher's choice exactly once; false when it had been taken
    /// before. The broker publishes it itself. Durable when it returns.
    pub async fn receive(
        &self,
        session: QueueId,
        id: u32,
        exchange: Option<Name>,
        mut envelope: Envelope,
        payload: Payload,
    ) -> Result<bool, Error> {
        let named = if exchange.as_deref() == Some(BUS) {
            self.may(Action::Write, Resource::Subject, &envelope.subject.to_dotted())
        } else {
            self.may(Action::Write, Resource::Exchange, exchange.as_deref().unwrap_or_default())
        };
        named?;
        envelope.origin = self.connection;
        let (to, live) = crate::outbox::destinations(
            &self.broker,
            &self.namespace,
            exchange.as_deref(),
            &envelope,
            &payload,
        );
        let relay = Box::new(Relay { to, live, envelope, payload });
        let reply = self.ask(session, Command::Receive { queue: session, id, relay }).await?;
        Ok(!matches!(reply, Reply::Duplicate { .. }))
    }

    pub async fn forget(&self, session: QueueId, id: u32) -> Result<(), Error> {
        self.ask(session, Command::Forget { queue: session, id }).await.map(|_| ())
    }

    /// Gives deliveries handles that outlive the connection. Durable when it returns.
    pub async fn assign_handles(
        &self,
        session: QueueId,
        consumer: ConsumerId,
        handles: Vec<(u8, Position, u32)>,
    ) -> Result<(), Error> {
        self.ask(session, Command::AssignHandles { queue: session, consumer, handles }).await.map(|_| ())
    }

    /// The reader has the message; the handle is still taken. Durable when it returns.
    pub async fn settle_handle(&self, session: QueueId, handle: u32) -> Result<(), Error> {
        self.ask(session, Command::SettleHandle { queue: session, handle }).await.map(|_| ())
    }

    pub async fn free_handle(&self, session: QueueId, handle: u32) -> Result<(), Error> {
        self.ask(session, Command::FreeHandle { queue: session, handle }).await.map(|_| ())
    }

    /// The handles in use and the ids received.
    pub async fn session_state(&self, session: QueueId) -> Result<(Vec<HandleState>, Vec<u32>), Error> {
        match self.ask(session, Command::SessionState { queue: session }).await? {
            Reply::Session { handles, received } => Ok((handles, received)),
            _ => Err(Error::Gone),
        }
    }

    // ---- live readers

    /// Has messages that reach `queue` through transient bindings handed to `sink`.
    pub fn attach_live(&self, queue: QueueId, sink: Arc<dyn crate::LiveSink>) {
        let shared = self.shared();
        let _one_at_a_time = shared.live_change.lock();
        let mut live = (**shared.live.load()).clone();
        live.insert(queue, sink);
        shared.live.store(Arc::new(live));
    }

    /// Ends that, unless another sink has taken its place.
    pub fn detach_live(&self, queue: QueueId, sink: &Arc<dyn crate::LiveSink>) {
        let shared = self.shared();
        let _one_at_a_time = shared.live_change.lock();
        let mut live = (**shared.live.load()).clone();
        if live.get(&queue).is_some_and(|known| Arc::ptr_eq(known, sink)) {
            live.remove(&queue);
            shared.live.store(Arc::new(live));
        }
    }
}

fn missing(target: &Target) -> Error {
    match target {
        Target::Queue(name) => Error::NotFound(Resource::Queue, name.to_string()),
        Target::Exchange(name) => Error::NotFound(Resource::Exchange, name.to_string()),
    }
}
