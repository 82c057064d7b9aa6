//! Rights as types: what reads, appends, routes or settles takes a proof that its caller may, and only the
//! check makes one.
//!
//! A proof says what was allowed when it was made. A holder of an old one asks again ([`Client::allow`])
//! when the users have changed.

use crate::{
    access::{authentication::Principal, origin::Grant},
    client::Client,
    error::Error,
    log::PartitionLog,
};
use posthaste_engine::{
    Catalog,
    catalog::{Action, Grants, Partition, Queue, Resource, Topic},
};
use posthaste_model::{ConnectionId, ConsumerId, Name, QueueId};
use std::{fmt, marker::PhantomData, ops::Deref, sync::Arc};

/// Kinds of rights. Each type stands for the actions of which one is needed.
pub mod right {
    use posthaste_engine::catalog::Action;

    pub enum Configure {}
    pub enum Read {}
    pub enum Write {}
    /// To know that it exists and how much is in it: for everybody who may do anything with it.
    pub enum See {}

    pub trait Right: sealed::Sealed {
        const ACTIONS: &'static [Action];
    }

    impl Right for Configure {
        const ACTIONS: &'static [Action] = &[Action::Configure];
    }

    impl Right for Read {
        const ACTIONS: &'static [Action] = &[Action::Read];
    }

    impl Right for Write {
        const ACTIONS: &'static [Action] = &[Action::Write];
    }

    impl Right for See {
        const ACTIONS: &'static [Action] =
            &[Action::Read, Action::Write, Action::Configure, Action::Describe];
    }

    mod sealed {
        pub trait Sealed {}
        impl Sealed for super::Configure {}
        impl Sealed for super::Read {}
        impl Sealed for super::Write {}
        impl Sealed for super::See {}
    }
}

use right::Right;

/// Something that the client may do `R` with. A queue that nobody has checked is refused by the compiler:
///
/// ```compile_fail
/// # use posthaste_broker::{Batch, model::{Envelope, Payload}, engine::catalog::Queue};
/// # use std::sync::Arc;
/// fn unchecked(batch: &mut Batch, queue: &Arc<Queue>, envelope: Envelope, payload: Payload) {
///     batch.enqueue(queue, envelope, payload);
/// }
/// ```
///
/// So is one that was checked for something else:
///
/// ```compile_fail
/// # use posthaste_broker::{Batch, Readable, model::{Envelope, Payload}, engine::catalog::Queue};
/// # use std::sync::Arc;
/// # type Message = (Envelope, Payload);
/// fn for_something_else(batch: &mut Batch, queue: &Readable<Arc<Queue>>, message: Message) {
///     batch.enqueue(queue, message.0, message.1);
/// }
/// ```
///
/// ```
/// # use posthaste_broker::{Batch, Client, Error, right, model::{Envelope, Payload}};
/// # type Message = (Envelope, Payload);
/// fn checked(client: &Client, batch: &mut Batch, message: Message) -> Result<(), Error> {
///     let queue = client.queue_to::<right::Write>("orders")?;
///     batch.enqueue(&queue, message.0, message.1);
///     Ok(())
/// }
/// ```
pub struct Allowed<R, T> {
    object: T,
    right: PhantomData<fn() -> R>,
}

pub type Configurable<T> = Allowed<right::Configure, T>;
pub type Readable<T> = Allowed<right::Read, T>;
pub type Visible<T> = Allowed<right::See, T>;
pub type Writable<T> = Allowed<right::Write, T>;

/// An object that rights are given to, by name.
pub trait Protected {
    const RESOURCE: Resource;

    fn namespace(&self) -> &Name;
    fn name(&self) -> &Name;

    /// The connection that it belongs to alone.
    fn owner(&self) -> Option<ConnectionId> {
        None
    }
}

impl Protected for Arc<Queue> {
    const RESOURCE: Resource = Resource::Queue;

    fn namespace(&self) -> &Name {
        &self.namespace
    }

    fn name(&self) -> &Name {
        &self.name
    }

    fn owner(&self) -> Option<ConnectionId> {
        self.exclusive
    }
}

impl Protected for Arc<Topic> {
    const RESOURCE: Resource = Resource::Topic;

    fn namespace(&self) -> &Name {
        &self.namespace
    }

    fn name(&self) -> &Name {
        &self.name
    }
}

/// A client that is handed a queue's messages. It must be allowed to read the queue; only it can settle them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    queue: QueueId,
    consumer: ConsumerId,
}

/// The entries that a client's rights rest on, to see whether they have changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Rights {
    grants: Grants,
    /// Of a client without credentials.
    unnamed: Option<Grant>,
}

/// How far a partition reaches, without what is in it.
#[derive(Clone)]
pub struct Extent(Arc<PartitionLog>);

impl<R, T> Allowed<R, T> {
    fn new(object: T) -> Allowed<R, T> {
        Allowed { object, right: PhantomData }
    }
}

impl<R> Allowed<R, Arc<Topic>> {
    /// Who may do something with a topic may do so with each of its partitions.
    pub fn partition(&self, index: usize) -> Option<Allowed<R, Partition>> {
        self.object.partitions.get(index).copied().map(Allowed::new)
    }
}

impl<R, T> Deref for Allowed<R, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

impl<R, T: Clone> Clone for Allowed<R, T> {
    fn clone(&self) -> Allowed<R, T> {
        Allowed::new(self.object.clone())
    }
}

impl<R, T: Copy> Copy for Allowed<R, T> {}

impl<R, T: fmt::Debug> fmt::Debug for Allowed<R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)
    }
}

impl Holder {
    pub fn queue(self) -> QueueId {
        self.queue
    }

    pub fn consumer(self) -> ConsumerId {
        self.consumer
    }

    /// The same consumer on another queue.
    pub fn on(self, queue: &Readable<Arc<Queue>>) -> Holder {
        Holder { queue: queue.id, ..self }
    }
}

impl Rights {
    pub(crate) fn of(principal: &Principal, catalog: &Catalog) -> Rights {
        Rights { grants: principal.grants(catalog), unnamed: principal.grant(catalog) }
    }
}

impl Extent {
    /// The first offset that is there.
    pub fn start(&self) -> u64 {
        self.0.start()
    }

    /// The offset after the last durable message.
    pub fn end(&self) -> u64 {
        self.0.end()
    }

    /// Bytes that the partition holds, as stored.
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}

impl Client {
    /// The check. What is in another namespace is not found, what belongs to another connection is locked.
    pub fn allow<R: Right, T: Protected>(&self, object: T) -> Result<Allowed<R, T>, Error> {
        if object.namespace() != self.namespace() {
            return Err(Error::NotFound(T::RESOURCE, object.name().to_string()));
        }
        self.may_any(R::ACTIONS, T::RESOURCE, object.name())?;
        if object.owner().is_some_and(|owner| owner != self.connection()) {
            return Err(Error::Locked);
        }
        Ok(Allowed::new(object))
    }

    /// The queue of this name. Who may not is told so whether or not it exists.
    pub fn queue_to<R: Right>(&self, name: &str) -> Result<Allowed<R, Arc<Queue>>, Error> {
        self.may_any(R::ACTIONS, Resource::Queue, name)?;
        Ok(Allowed::new(self.queue(name)?))
    }

    /// The topic of this name, likewise.
    pub fn topic_to<R: Right>(&self, name: &str) -> Result<Allowed<R, Arc<Topic>>, Error> {
        self.may_any(R::ACTIONS, Resource::Topic, name)?;
        Ok(Allowed::new(self.topic(name)?))
    }

    /// What the rights of this moment rest on: whoever has judged something by equal ones need not judge it
    /// again.
    pub fn rights(&self) -> Rights {
        Rights::of(self.principal(), &self.broker().shared.catalog_now())
    }

    /// Becomes one who is handed messages of a queue.
    pub fn holder(&self, queue: &Readable<Arc<Queue>>) -> Holder {
        Holder { queue: queue.id, consumer: self.broker().next_consumer() }
    }

    /// A partition's readable view.
    pub fn log(&self, partition: Readable<Partition>) -> Result<Arc<PartitionLog>, Error> {
        self.find_log(*partition)
    }

    /// How far a partition reaches, for everybody who may do anything with its topic.
    pub fn extent<R>(&self, partition: Allowed<R, Partition>) -> Result<Extent, Error> {
        self.find_log(*partition).map(Extent)
    }

    fn find_log(&self, partition: Partition) -> Result<Arc<PartitionLog>, Error> {
        self.broker().shared.logs.find(partition.id.0).ok_or(Error::Gone)
    }

    /// As [`Client::may`], if one of several actions is enough.
    pub fn may_any(&self, actions: &[Action], resource: Resource, name: &str) -> Result<(), Error> {
        let mut refused = Ok(());
        for action in actions {
            match self.may(*action, resource, name) {
                Ok(()) => return Ok(()),
                // The first is the one to ask for.
                error => refused = refused.and(error),
            }
        }
        refused
    }
}
