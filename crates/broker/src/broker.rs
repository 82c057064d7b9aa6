//! The broker as everyone holds it.

use crate::{
    access::{
        access_key::SealingKey,
        audit::Audit,
        authentication::Principal,
        certificate::CertificateUser,
        login::LogIns,
        origin::Anonymous,
        password::KnownPasswords,
        revocation::Revocations,
        token::TokenIssuers,
        usage::{self, Usages},
    },
    client::Client,
    damage::Damage,
    environment::{Clock, Work},
    error::Error,
    format::Formats,
    inbox,
    live::LiveSink,
    log::Logs,
    metrics::Metrics,
    retained::RetainedView,
    tap::Taps,
    thread::Input,
};
use arc_swap::ArcSwap;
use posthaste_engine::{
    Catalog, Command, Reply,
    catalog::{CatalogCommand, Queue},
    effect::{DeadLetterFrom, OutboxEntry},
};
use posthaste_model::{
    ConnectionId, ConsumerId, DeathReason, Envelope, Limits, Name, Payload, QueueId, ShardId, Timestamp,
};
use posthaste_storage::journal::Journal;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::sync::{mpsc as async_mpsc, oneshot, watch};

/// What a broker is started with.
pub struct Config {
    /// The data directory, made if it is not there; or the address of a bucket: `s3://BUCKET/PREFIX`, or
    /// `file:///DIRECTORY` for one in a directory.
    pub data: PathBuf,
    pub limits: Limits,
    /// The formats of all adapters.
    pub formats: Formats,
    /// What clients are told to connect to, by protocol name: HOST:PORT.
    pub advertised: HashMap<String, String>,
    /// Threads that run shards; `None` for half the cores.
    pub threads: Option<u16>,
}

/// A running broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    pub(crate) shared: Arc<Shared>,
}

/// See [`Broker::footprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Of partitions and of queues' lanes.
    pub logs: usize,
    pub taps: usize,
    pub live_readers: usize,
    /// Connections that made exclusive queues.
    pub exclusive_owners: usize,
    /// Connections that are told when their rights change.
    pub rights_watches: usize,
}

/// What all of it shares.
pub(crate) struct Shared {
    pub limits: Limits,
    pub formats: Formats,
    pub metrics: Metrics,
    pub logs: Arc<Logs>,
    pub retained: RetainedView,
    pub passwords: KnownPasswords,
    /// None until it is configured.
    pub sealing_key: OnceLock<SealingKey>,
    pub revocations: Revocations,
    pub audit: Audit,
    pub log_ins: LogIns,
    pub usages: Usages,
    pub inbox_bytes: AtomicUsize,
    /// When the journal last had no room for what is published, in milliseconds since 1970.
    full_at: AtomicI64,
    pub taps: Taps,
    pub cluster_id: String,
    pub epoch: u32,
    pub journal: OnceLock<Journal>,
    pub live: ArcSwap<imbl::HashMap<QueueId, Arc<dyn LiveSink>>>,
    pub live_change: parking_lot::Mutex<()>,
    /// Connections that have exclusive queues.
    pub exclusive_owners: parking_lot::Mutex<std::collections::HashSet<ConnectionId>>,
    pub advertised: parking_lot::RwLock<HashMap<String, String>>,
    /// By name of the listener.
    pub listener_namespaces: parking_lot::RwLock<HashMap<String, Name>>,
    /// Likewise.
    pub anonymous: parking_lot::RwLock<HashMap<String, Anonymous>>,
    pub certificate_user: parking_lot::RwLock<CertificateUser>,
    pub token_issuers: TokenIssuers,
    clock: Clock,
    pub work: Work,
    catalog: ArcSwap<Catalog>,
    inboxes: Vec<inbox::Sender>,
    outboxes: Vec<async_mpsc::UnboundedSender<OutboxEntry>>,
    chores: async_mpsc::UnboundedSender<Chore>,
    last_connection: AtomicU64,
    last_consumer: AtomicU64,
    stopping: watch::Sender<bool>,
    connections: OnceLock<Arc<AtomicUsize>>,
    runtime: tokio::runtime::Handle,
    pub running: parking_lot::Mutex<Option<crate::open::Running>>,
}

/// Publishers are refused for at least so long, in milliseconds. A connection that can only close when a
/// message is refused does so meanwhile: what it had sent behind that message would otherwise be accepted
/// before it comes again.
const FULL_MS: u64 = 1_000;

/// Work that an engine thread leaves to others.
pub(crate) enum Chore {
    /// A queue that deletes itself when unused.
    DeleteUnused(QueueId),
    /// A message without durability that was dead-lettered.
    DeadLetter { from: Box<DeadLetterFrom>, reason: DeathReason, message: Box<(Envelope, Payload)> },
}

/// What only the composition at start knows.
pub(crate) struct Parts {
    pub limits: Limits,
    pub formats: Formats,
    pub logs: Arc<Logs>,
    pub catalog: Catalog,
    pub cluster_id: String,
    pub epoch: u32,
    pub clock: Clock,
    pub work: Work,
    pub advertised: HashMap<String, String>,
    pub inboxes: Vec<inbox::Sender>,
    pub outboxes: Vec<async_mpsc::UnboundedSender<OutboxEntry>>,
    pub chores: async_mpsc::UnboundedSender<Chore>,
    pub runtime: tokio::runtime::Handle,
}

impl Shared {
    pub fn new(parts: Parts) -> Shared {
        Shared {
            limits: parts.limits,
            formats: parts.formats,
            metrics: Metrics::default(),
            logs: parts.logs,
            retained: RetainedView::default(),
            passwords: KnownPasswords::default(),
            sealing_key: OnceLock::new(),
            revocations: Revocations::default(),
            audit: Audit::default(),
            log_ins: LogIns::default(),
            usages: Usages::default(),
            clock: parts.clock,
            work: parts.work,
            inbox_bytes: AtomicUsize::new(0),
            full_at: AtomicI64::new(i64::MIN),
            taps: Taps::default(),
            cluster_id: parts.cluster_id,
            epoch: parts.epoch,
            journal: OnceLock::new(),
            live: ArcSwap::default(),
            live_change: parking_lot::Mutex::new(()),
            exclusive_owners: parking_lot::Mutex::default(),
            advertised: parking_lot::RwLock::new(parts.advertised),
            listener_namespaces: parking_lot::RwLock::default(),
            anonymous: parking_lot::RwLock::default(),
            certificate_user: parking_lot::RwLock::default(),
            token_issuers: TokenIssuers::default(),
            catalog: ArcSwap::from_pointee(parts.catalog),
            inboxes: parts.inboxes,
            outboxes: parts.outboxes,
            chores: parts.chores,
            last_connection: AtomicU64::new(0),
            last_consumer: AtomicU64::new(0),
            stopping: watch::Sender::new(false),
            connections: OnceLock::new(),
            runtime: parts.runtime,
            running: parking_lot::Mutex::new(None),
        }
    }

    /// Where tasks of the broker's own run.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// As [`Shared::catalog`], for a look.
    pub fn catalog_now(&self) -> arc_swap::Guard<Arc<Catalog>> {
        self.catalog.load()
    }

    /// Shows readers a new state of the catalog.
    pub fn publish_catalog(self: &Arc<Self>, catalog: Arc<Catalog>) {
        let before = self.catalog.swap(catalog.clone());
        let same_users = before.has_users_of(&catalog);
        if !same_users || !before.has_limits_of(&catalog) {
            usage::limits_changed(self);
        }
        if !same_users {
            self.users_changed();
        }
    }

    pub fn thread_of(&self, shard: ShardId) -> usize {
        usize::from(shard.0) % self.inboxes.len().max(1)
    }

    pub fn threads(&self) -> usize {
        self.inboxes.len()
    }

    /// Hands something to an engine thread; false when it has stopped.
    pub fn input(&self, thread: usize, input: Input) -> bool {
        self.inboxes.get(thread).is_some_and(|inbox| inbox.send(input))
    }

    /// Has a shard do something, without an answer.
    pub fn send(&self, shard: ShardId, command: Command) {
        self.input(self.thread_of(shard), Input::Command { shard, command, reply: None });
    }

    /// Has a shard do something, and waits for its answer.
    pub async fn ask(&self, shard: ShardId, command: Command) -> Result<Reply, Error> {
        let (reply, answer) = oneshot::channel();
        if !self.input(self.thread_of(shard), Input::Command { shard, command, reply: Some(reply) }) {
            return Err(Error::Stopping);
        }
        match answer.await {
            Ok(Reply::Refused(refusal)) => Err(refusal.into()),
            Ok(reply) => Ok(reply),
            Err(_) => Err(Error::Stopping),
        }
    }

    /// Changes the catalog; the change is visible and, where it is durable, safe when this returns.
    pub async fn change_catalog(self: &Arc<Self>, command: CatalogCommand) -> Result<Arc<Catalog>, Error> {
        let takes_away = crate::change::takes_away(&command);
        let (reply, answer) = oneshot::channel();
        if !self.input(0, Input::Catalog { command, reply }) {
            return Err(Error::Stopping);
        }
        let changed = answer.await.unwrap_or(Err(Error::Stopping));
        if takes_away {
            self.taps.unbound(self);
        }
        changed
    }

    /// Deletes a queue, if it is still there and the conditions hold; returns how many messages were ready in
    /// it. Its shard seals it first, so that the count stays true; the catalog's change is the decision; the
    /// shard closes it once that is durable. A crash leaves all of the queue or nothing.
    pub async fn delete_queue(
        self: &Arc<Self>,
        queue: &Queue,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<u64, Error> {
        let (shared, shard, queue) = (self.clone(), queue.shard, queue.id);
        // On a task of its own: a caller that goes away in the middle must not leave the queue sealed.
        let deleted = self.runtime.spawn(async move {
            let seal = Command::SealQueue { queue, if_unused, if_empty };
            let count = match shared.ask(shard, seal).await {
                Ok(Reply::Count(count)) => count,
                // Somebody else is deleting it. The catalog answers when it is gone.
                Ok(_) | Err(Error::Gone) => 0,
                Err(error) => return Err(error),
            };
            match shared.change_catalog(CatalogCommand::DeleteQueue { queue }).await {
                Ok(_) | Err(Error::NotFound(..)) => Ok(count),
                Err(error) => {
                    shared.send(shard, Command::UnsealQueue { queue });
                    Err(error)
                }
            }
        });
        deleted.await.unwrap_or(Err(Error::Stopping))
    }

    pub fn unused(&self, queue: QueueId) {
        let _ = self.chores.send(Chore::DeleteUnused(queue));
    }

    pub fn outbox(&self, shard: ShardId, entry: OutboxEntry) {
        if let Some(outbox) = self.outboxes.get(usize::from(shard.0)) {
            let _ = outbox.send(entry);
        }
    }

    pub fn dead_letter_now(
        &self,
        from: Box<DeadLetterFrom>,
        reason: DeathReason,
        envelope: Envelope,
        payload: Payload,
    ) {
        let message = Box::new((envelope, payload));
        let _ = self.chores.send(Chore::DeadLetter { from, reason, message });
    }

    /// Whether publishers should be held back because the disk is full.
    pub fn no_space(&self) -> bool {
        self.journal
            .get()
            .is_some_and(|journal| self.is_full(journal.room(self.limits.reserve_bytes), self.now()))
    }

    /// Whether publishes are refused when the journal has `room` bytes left: that is less than the reserve,
    /// or was less at most [`FULL_MS`] ago.
    pub fn is_full(&self, room: u64, now: Timestamp) -> bool {
        let full = room < self.limits.reserve_bytes;
        if full {
            self.full_at.store(now.0, Ordering::Relaxed);
        }
        // However the clock was set meanwhile.
        full || now.0.abs_diff(self.full_at.load(Ordering::Relaxed)) < FULL_MS
    }
}

impl Broker {
    /// The names, configurations and routing rules of this moment.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.shared.catalog()
    }

    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Names this data directory for ever: 22 characters.
    pub fn cluster_id(&self) -> &str {
        &self.shared.cluster_id
    }

    /// Higher with each start.
    pub fn epoch(&self) -> u32 {
        self.shared.epoch
    }

    pub fn now(&self) -> Timestamp {
        self.shared.now()
    }

    pub fn formats(&self) -> &Formats {
        &self.shared.formats
    }

    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// What had been durable and could not be read, as far as it was met since the start; the first thousand
    /// stretches.
    pub fn damage(&self) -> Vec<Damage> {
        self.shared.logs.damages().found()
    }

    /// How many stretches are damaged, and how many messages are missing because of it, at most.
    pub fn damage_counts(&self) -> (u64, u64) {
        let damages = self.shared.logs.damages();
        (damages.stretches(), damages.messages())
    }

    /// What clients of a protocol are told to connect to.
    pub fn peers_address(&self, protocol: &str) -> Option<String> {
        self.shared.advertised.read().get(protocol).cloned()
    }

    /// Says what clients of a protocol are to be told; a listener does once it knows its port.
    pub fn advertise(&self, protocol: &str, address: String) {
        self.shared.advertised.write().entry(protocol.to_owned()).or_insert(address);
    }

    pub fn client(&self, principal: Principal, namespace: Name, connection: ConnectionId) -> Client {
        Client::new(self.clone(), principal, namespace, connection)
    }

    /// A handle for what an adapter does of its own: keep sessions, say. `what` names it in the log. Nothing
    /// that a client wishes is done with it before the client's own right to it was checked.
    pub fn system_client(&self, what: &'static str, namespace: Name, connection: ConnectionId) -> Client {
        Client::new(self.clone(), Principal::system(what), namespace, connection)
    }

    /// Whether a principal may do anything at all in a namespace.
    pub fn may_enter(&self, principal: &Principal, namespace: &str) -> bool {
        principal.may_enter(&self.shared.catalog_now(), namespace)
    }

    /// Does work that takes long, so that other connections of this thread do not wait for it. `None` when
    /// the broker is stopping.
    pub async fn work_aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.shared.work.run(work).await
    }

    pub fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.shared.last_connection.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub fn next_consumer(&self) -> ConsumerId {
        ConsumerId(self.shared.last_consumer.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Turns true when the broker is about to stop.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.shared.stopping.subscribe()
    }

    /// True while publishers are refused because the disk is full.
    pub fn no_space(&self) -> bool {
        self.shared.no_space()
    }

    /// Bytes of commands that wait for the engine. Above the limit, adapters read no more publishes.
    pub fn overloaded(&self) -> bool {
        self.shared.inbox_bytes.load(Ordering::Relaxed) > self.shared.limits.inbox_bytes_max
    }

    /// Sizes and counts of the journal's commits.
    pub fn commit_stats(&self) -> Option<posthaste_storage::journal::CommitStats> {
        self.shared.journal.get().map(Journal::frame_sizes)
    }

    /// Where the number of open connections is counted.
    pub fn watch_connections(&self, open: Arc<AtomicUsize>) {
        let _ = self.shared.connections.set(open);
    }

    /// What the broker holds in memory for objects that clients make, each by its number: all of it goes with
    /// them.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            logs: self.shared.logs.all().len(),
            taps: self.shared.taps.len(),
            live_readers: self.shared.live.load().len(),
            exclusive_owners: self.shared.exclusive_owners.lock().len(),
            rights_watches: self.shared.revocations.len(),
        }
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.shared.connections.get().map_or(0, |open| open.load(Ordering::Relaxed))
    }

    /// Tells everyone that the end is near; connections close.
    pub fn announce_stop(&self) {
        self.shared.stopping.send_replace(true);
    }
}
