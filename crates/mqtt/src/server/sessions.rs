//! All sessions of a namespace: who is connected, what is kept for whom is not, and when that ends.
//!
//! A session that outlives its connection is a durable queue. Its subscriptions are the queue's bindings,
//! its packet identifiers at QoS 2 live with the queue, and what else there is to know of it stands in the
//! queue's options. Here is what need not survive a restart: which connection has the session, the packet
//! identifiers of messages at QoS 1, and an index of the subscriptions, so that nobody has to search all
//! bindings.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use posthaste_broker::{Broker, Client, Error, Holder, Principal, QueueDeclaration};
use posthaste_engine::catalog::{BUS, NoHeaders, Options, Queue, QueueConfig};
use posthaste_model::{ConnectionId, Name, Timestamp};
use posthaste_net::Mailbox;
use tokio::sync::{Notify, OnceCell, OwnedMutexGuard, oneshot};

use super::connection::{Event, EventKind};
use super::counters::Counters;
use super::settings::Settings;
use super::shares::Shares;
use super::stored_will;
use super::subscriptions::Subscriptions;
use crate::convert;
use crate::session::{Closed, DelayedWill, Ending, SessionState};
use crate::wire::{Publish, PublishProperties, Will};

/// Options of a session's queue: the client identifier, which also marks the queue as a session's;
pub(crate) const CLIENT: &str = "mqtt.client-id";
/// whose it is: [`posthaste_broker::Principal::id`];
pub(super) const OWNER: &str = "mqtt.owner";
/// seconds that the session outlives its connection, decimal;
pub(super) const EXPIRY: &str = "mqtt.session-expiry";
/// when it ends, in milliseconds since the epoch, while its client is away;
pub(super) const EXPIRES_AT: &str = "mqtt.expires-at";
/// the will that is to be published while the client is away, and when.
pub(super) const WILL: &str = "mqtt.will";
pub(super) const WILL_AT: &str = "mqtt.will-at";

/// A session that never ends by itself.
pub(super) const NEVER: u32 = u32::MAX;
/// How long a connection may take to let go of its session before the next one goes on without it.
const HANDOVER: Duration = Duration::from_secs(3);
/// The longest sleep before looking at the clock again, which may be set.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Connections of a session that No Local remembers.
const CONNECTIONS_MAX: usize = 16;

/// Where a message to a client came from, and how it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handle {
    /// The session's own queue.
    Own { lane: u8, position: posthaste_engine::Position },
    /// The queue of a shared subscription.
    Share { holder: Holder, lane: u8, position: posthaste_engine::Position },
    /// Settled already, or never in a queue.
    Settled,
}

/// All sessions of a namespace.
pub(crate) struct Sessions {
    pub broker: Broker,
    pub settings: Settings,
    pub counters: Arc<Counters>,
    pub shares: Shares,
    /// Does what the listener does on nobody's behalf. Set once the stored sessions are known.
    system: OnceCell<Client>,
    pub(super) slots: Mutex<HashMap<Name, Slot>>,
    timers: Mutex<BTreeSet<(Timestamp, Name)>>,
    timers_changed: Notify,
}

/// The place of one session. Whoever connects, leaves or lets it expire holds it while doing so.
type Slot = Arc<tokio::sync::Mutex<Occupancy>>;

/// Who has a session, and what is kept of it.
#[derive(Default)]
pub(crate) struct Occupancy {
    /// Whose it is, if it is somebody's.
    pub owner: Option<String>,
    pub link: Option<Arc<Link>>,
    /// The state that the last connection left.
    pub state: Option<SessionState<Handle>>,
    pub subscriptions: Option<Subscriptions>,
    /// Its latest connections, for No Local.
    pub connections: Vec<ConnectionId>,
    pub will: Option<PendingWill>,
}

/// A will that waits for its delay to pass.
pub(crate) struct PendingWill {
    pub will: Will,
    pub at: Timestamp,
    pub client: Client,
}

/// What a session's connection and the next one know of each other.
pub(crate) struct Link {
    mailbox: Mailbox<Event>,
    phase: Mutex<Phase>,
    left: Notify,
    /// Consumers to be detached if the connection does not do it itself.
    pub consumers: Mutex<Vec<Holder>>,
}

enum Phase {
    Connected,
    /// The connection is over; what it leaves has not been picked up.
    Left(Box<Handover>),
    /// Somebody else has the session.
    Taken,
}

/// What a connection leaves.
pub(crate) struct Handover {
    pub closed: Closed<Handle>,
    pub subscriptions: Subscriptions,
    pub client: Client,
}

impl Link {
    pub fn new(mailbox: Mailbox<Event>) -> Link {
        let (phase, left, consumers) = (Mutex::new(Phase::Connected), Notify::new(), Mutex::default());
        Link { mailbox, phase, left, consumers }
    }

    /// Leaves the session to whoever comes; gives it back if it is too late for that.
    pub fn leave(&self, handover: Handover) -> Option<Handover> {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Taken) {
            return Some(handover);
        }
        *phase = Phase::Left(Box::new(handover));
        drop(phase);
        self.left.notify_one();
        None
    }

    fn pick_up(&self) -> Option<Handover> {
        match std::mem::replace(&mut *self.phase.lock(), Phase::Taken) {
            Phase::Left(handover) => Some(*handover),
            Phase::Connected | Phase::Taken => None,
        }
    }

    fn has_left(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Left(_))
    }
}

impl Sessions {
    pub fn new(broker: Broker, settings: Settings, counters: Arc<Counters>) -> Sessions {
        Sessions {
            broker,
            settings,
            counters,
            shares: Shares::default(),
            system: OnceCell::new(),
            slots: Mutex::default(),
            timers: Mutex::default(),
            timers_changed: Notify::new(),
        }
    }

    /// The client for what the listener does itself, once what was stored is known.
    pub async fn system(&self) -> &Client {
        let start = || async {
            let client = self.system_for(self.broker.next_connection());
            self.load(&client).await;
            client
        };
        self.system.get_or_init(start).await
    }

    /// The listener's own client on a connection.
    pub fn system_for(&self, connection: ConnectionId) -> Client {
        self.broker.system_client("mqtt", self.settings.namespace.clone(), connection)
    }

    /// Lets sessions expire and wills be published, until the broker stops or the namespace is deleted.
    pub async fn run(self: Arc<Sessions>) {
        let mut stopping = self.broker.stopping();
        self.system().await;
        while self.broker.catalog().namespace(&self.settings.namespace).is_some() {
            let now = self.broker.now();
            let next = self.timers.lock().first().cloned();
            let sleep = match &next {
                Some((at, name)) if *at <= now => {
                    self.timers.lock().remove(&(*at, name.clone()));
                    self.look_after(name).await;
                    continue;
                }
                Some((at, _)) => Duration::from_millis(at.ms_since(now)).min(SLEEP_MAX),
                None => SLEEP_MAX,
            };
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                () = self.timers_changed.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Waits for the turn on a session.
    pub async fn occupy(&self, name: &Name) -> OwnedMutexGuard<Occupancy> {
        let slot = self.slots.lock().entry(name.clone()).or_default().clone();
        slot.lock_owned().await
    }

    /// Forgets the place of a session about which there is nothing to know.
    pub fn vacate(&self, name: &Name, occupancy: OwnedMutexGuard<Occupancy>) {
        let idle = occupancy.link.is_none() && occupancy.subscriptions.is_none() && occupancy.will.is_none();
        drop(occupancy);
        let mut slots = self.slots.lock();
        // Whoever waits for their turn has a clone.
        if idle && slots.get(name).is_some_and(|slot| Arc::strong_count(slot) == 1) {
            slots.remove(name);
        }
    }

    /// Ends the hold of the connection that has the session now, if any, and keeps what it leaves.
    pub async fn take_over(&self, name: &Name, occupancy: &mut Occupancy, clean_start: bool) {
        let Some(link) = occupancy.link.take() else { return };
        self.counters.taken_over.add(1);
        link.mailbox.send(Event(EventKind::TakenOver { clean_start }));
        // It may have left by itself in the meantime.
        if !link.has_left() {
            let _ = tokio::time::timeout(HANDOVER, link.left.notified()).await;
        }
        match link.pick_up() {
            Some(handover) => {
                let will = handover.closed.will.filter(|will| clean_start || will.delay == 0);
                if let Some(DelayedWill { will, .. }) = will {
                    self.publish_will(&handover.client, will);
                }
                occupancy.state = Some(handover.closed.state);
                occupancy.subscriptions = Some(handover.subscriptions);
            }
            None => {
                // Its client takes nothing and it cannot be told. What is durable is known all the same.
                tracing::debug!(session = %name, "a connection was taken over without its consent");
                let consumers = std::mem::take(&mut *link.consumers.lock());
                let system = self.system().await;
                for holder in consumers {
                    system.detach(holder).await;
                }
            }
        }
    }

    /// Whose a session is, if it is not this client's.
    pub fn owner_else(&self, client: &Client, name: &Name, occupancy: &Occupancy) -> Option<String> {
        let mine = client.principal().id();
        let stored = || {
            let catalog = self.broker.catalog();
            let options = &catalog.namespace(&self.settings.namespace)?.queues.get(name)?.config.options;
            // One without an owner is not known to be anybody's.
            options.contains_key(CLIENT).then(|| options.get(OWNER).cloned().unwrap_or_default())
        };
        occupancy.owner.clone().or_else(stored).filter(|owner| *owner != mine)
    }

    /// The client of a session's owner, with the rights that the owner has now.
    pub(super) fn client_of_owner(&self, owner: Option<&String>) -> Option<Client> {
        let principal = Principal::with_id(owner?)?;
        let connection = self.broker.next_connection();
        Some(self.broker.client(principal, self.settings.namespace.clone(), connection))
    }

    /// The stored session of a client: its queue.
    pub fn find(
        &self,
        system: &Client,
        name: &Name,
        client_identifier: &str,
    ) -> Result<Option<Arc<Queue>>, Error> {
        match system.queue(name) {
            Ok(queue) if queue.config.options.get(CLIENT).is_some_and(|id| id == client_identifier) => {
                Ok(Some(queue))
            }
            // Somebody declared a queue by this name.
            Ok(_) => Err(Error::Locked),
            Err(Error::NotFound(..)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a session of `client`'s that outlives its connection.
    pub async fn create(
        &self,
        (client, system): (&Client, &Client),
        name: &Name,
        client_identifier: &str,
        expiry: u32,
    ) -> Result<Arc<Queue>, Error> {
        let owner = client.principal().id();
        let options = [(CLIENT, client_identifier.to_owned()), (OWNER, owner), (EXPIRY, expiry.to_string())];
        let config = QueueConfig {
            length_max: self.settings.session_messages_max,
            options: options.map(|(name, value)| (name.to_owned(), value)).into(),
            ..QueueConfig::default()
        };
        let declaration =
            QueueDeclaration { config, durable: true, owner: client.user(), ..QueueDeclaration::default() };
        system.create_queue(name, declaration).await
    }

    /// The client is back: nothing that was to happen in its absence does.
    pub async fn resume(
        &self,
        system: &Client,
        queue: &Queue,
        occupancy: &mut Occupancy,
        owner: String,
        expiry: u32,
    ) -> Result<(), Error> {
        if let Some(pending) = occupancy.will.take()
            && pending.at <= self.broker.now()
        {
            self.publish_will(&pending.client, pending.will);
        }
        let mut options = queue.config.options.clone();
        [EXPIRES_AT, WILL, WILL_AT].iter().for_each(|name| drop(options.remove(*name)));
        options.insert(EXPIRY.to_owned(), expiry.to_string());
        options.insert(OWNER.to_owned(), owner);
        self.configure(system, queue, options).await
    }

    /// A session's subscriptions, as the last connection left them or as they are stored.
    pub fn subscriptions(&self, queue: &Queue, occupancy: &mut Occupancy) -> Subscriptions {
        occupancy.subscriptions.take().unwrap_or_else(|| {
            let mut found = Subscriptions::default();
            self.each_subscription(|name, subscription| {
                if *name == queue.name {
                    found.insert(subscription);
                }
            });
            found
        })
    }

    /// Ends a session for good. Its will, if it waited, is published [MQTT-3.1.3-9].
    pub async fn end(&self, system: &Client, queue: &Queue, occupancy: &mut Occupancy) {
        if let Some(pending) = occupancy.will.take() {
            self.publish_will(&pending.client, pending.will);
        }
        let subscriptions = self.subscriptions(queue, occupancy);
        occupancy.owner = None;
        occupancy.state = None;
        occupancy.connections.clear();
        for share in subscriptions.iter().filter_map(|subscription| subscription.share.as_ref()) {
            self.shares.leave(system, share, &queue.name).await;
        }
        match system.delete_queue(&queue.name, false, false).await {
            Ok(_) | Err(Error::NotFound(..) | Error::Stopping) => {}
            Err(error) => tracing::warn!(session = %queue.name, %error, "a session could not be deleted"),
        }
    }

    /// A connection is over and nobody took its session: it waits for its client, or ends.
    pub async fn left(&self, name: &Name, link: &Arc<Link>) {
        let mut occupancy = self.occupy(name).await;
        let mine = occupancy.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link));
        let (true, Some(handover)) = (mine, link.pick_up()) else {
            return self.vacate(name, occupancy);
        };
        occupancy.link = None;
        let system = self.system().await;
        let Closed { will, session_expiry_interval: expiry, state } = handover.closed;
        let now = self.broker.now();
        match will {
            Some(DelayedWill { will, delay: 0 }) => self.publish_will(&handover.client, will),
            Some(DelayedWill { will, delay }) => {
                let at = now.plus_ms(u64::from(delay) * 1000);
                occupancy.will = Some(PendingWill { will, at, client: handover.client });
            }
            None => {}
        }
        let queue = system.queue(name).ok().filter(|queue| queue.config.options.contains_key(CLIENT));
        match queue {
            Some(queue) if expiry > 0 => {
                occupancy.state = Some(state);
                occupancy.subscriptions = Some(handover.subscriptions);
                self.keep(system, &queue, &occupancy, expiry, now).await;
            }
            Some(queue) => {
                occupancy.subscriptions = Some(handover.subscriptions);
                self.end(system, &queue, &mut occupancy).await;
            }
            None => *occupancy = Occupancy::default(),
        }
        self.vacate(name, occupancy);
    }

    /// A connection that had taken a session over is refused after all.
    pub async fn give_up(&self, system: &Client, queue: &Queue, occupancy: &Occupancy, expiry: u32) {
        self.keep(system, queue, occupancy, expiry, self.broker.now()).await;
    }

    /// Writes down what is to happen while the client is away.
    async fn keep(&self, system: &Client, queue: &Queue, occupancy: &Occupancy, expiry: u32, now: Timestamp) {
        let mut options = queue.config.options.clone();
        options.insert(EXPIRY.to_owned(), expiry.to_string());
        if expiry != NEVER {
            let at = now.plus_ms(u64::from(expiry) * 1000);
            options.insert(EXPIRES_AT.to_owned(), at.0.to_string());
            self.wake_at(at, &queue.name);
        }
        if let Some(pending) = &occupancy.will {
            if let Some(will) = stored_will::encode(&pending.will) {
                options.insert(WILL.to_owned(), will);
                options.insert(WILL_AT.to_owned(), pending.at.0.to_string());
            }
            self.wake_at(pending.at, &queue.name);
        }
        match self.configure(system, queue, options).await {
            Ok(()) | Err(Error::Stopping) => {}
            Err(error) => {
                tracing::warn!(session = %queue.name, %error, "a session's end could not be stored")
            }
        }
    }

    async fn configure(&self, system: &Client, queue: &Queue, options: Options) -> Result<(), Error> {
        if options == queue.config.options {
            return Ok(());
        }
        let config = QueueConfig { options, ..queue.config.clone() };
        system.configure_queue(&queue.name, config).await
    }

    /// The time of a session's timer has come: publishes its will, or ends it.
    async fn look_after(&self, name: &Name) {
        let mut occupancy = self.occupy(name).await;
        let system = self.system().await;
        let queue = system.queue(name).ok().filter(|queue| queue.config.options.contains_key(CLIENT));
        let (None, Some(queue)) = (&occupancy.link, queue) else { return self.vacate(name, occupancy) };
        let now = self.broker.now();
        let options = &queue.config.options;
        let expired = match timestamp(options, EXPIRES_AT) {
            Some(at) => at <= now,
            // Its client was connected when the broker ended, and has not come back in time.
            None => options.get(EXPIRY).is_some_and(|expiry| *expiry != NEVER.to_string()),
        };
        if expired {
            self.counters.sessions_expired.add(1);
            self.end(system, &queue, &mut occupancy).await;
            occupancy.subscriptions = None;
        } else if let Some(pending) = occupancy.will.take_if(|pending| pending.at <= now) {
            self.publish_will(&pending.client, pending.will);
            let mut options = queue.config.options.clone();
            [WILL, WILL_AT].iter().for_each(|name| drop(options.remove(*name)));
            if let Err(error) = self.configure(system, &queue, options).await {
                tracing::warn!(session = %name, %error, "a published will could not be forgotten");
            }
        }
        self.vacate(name, occupancy);
    }

    /// Publishes a will as its client would have.
    pub fn publish_will(&self, client: &Client, will: Will) {
        self.counters.wills.add(1);
        let (qos, retain) = (will.qos, will.retain);
        let publish = Publish {
            qos,
            retain,
            topic_name: will.topic,
            properties: PublishProperties {
                message_expiry_interval: will.message_expiry_interval,
                forwarded: will.forwarded,
                ..PublishProperties::default()
            },
            payload: will.payload,
            ..Publish::default()
        };
        let Some((envelope, payload)) = convert::incoming(&publish, self.broker.now()) else { return };
        let mut batch = client.batch();
        let kept = retain
            .then(|| (posthaste_model::Envelope { durable: true, ..envelope.clone() }, payload.clone()));
        let published = batch.publish(Some(BUS), envelope, payload, &NoHeaders);
        let kept = published.and_then(|_| match kept {
            Some((envelope, payload)) => batch.retain(envelope, payload).map(|_| ()),
            None => Ok(()),
        });
        if let Err(error) = kept {
            tracing::warn!(%error, "a will could not be published");
        }
        batch.submit(|outcome| {
            if let Some((_, refusal)) = outcome.refused.first() {
                tracing::warn!(?refusal, "a will was refused");
            }
        });
    }

    pub(super) fn wake_at(&self, at: Timestamp, name: &Name) {
        self.timers.lock().insert((at, name.clone()));
        self.timers_changed.notify_one();
    }
}

/// Remembers a connection of a session.
pub(crate) fn remember(connections: &mut Vec<ConnectionId>, connection: ConnectionId) {
    if connections.len() >= CONNECTIONS_MAX {
        connections.remove(0);
    }
    connections.push(connection);
}

/// How a connection that lost its session has ended.
pub(crate) fn taken_over(clean_start: bool) -> Ending {
    Ending::TakenOver { clean_start }
}

pub(super) fn timestamp(options: &Options, name: &str) -> Option<Timestamp> {
    options.get(name)?.parse().ok().map(Timestamp)
}

/// Waits for the outcome of a batch; `None` when the broker stops before.
pub(crate) async fn submitted(batch: posthaste_broker::Batch) -> Option<posthaste_broker::Outcome> {
    let (done, outcome) = oneshot::channel();
    batch.submit(move |outcome| drop(done.send(outcome)));
    outcome.await.ok()
}
