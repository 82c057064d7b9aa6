//! How much users and namespaces use up, and what holds them to their limits.
//!
//! Connections and objects are refused above a limit. Publishes and reads are counted when they happen and
//! paid for afterwards: a client that has used up its rate is paused by its adapter, by the protocol's own
//! means, until the debt is paid. Stored bytes are added up every second while such a limit is set; what is
//! over it takes no more messages.

use crate::{Broker, Error, access::authentication::Principal, broker::Shared, client::Client};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use posthaste_engine::{
    Catalog,
    catalog::{Limited, Namespace, Queue, Topic, UsageLimits},
    command::Destination,
};
use posthaste_model::{Name, PartitionId, QueueId, Timestamp};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// How often stored bytes are added up.
const STORED_EVERY: Duration = Duration::from_secs(1);
/// A client that paused may use up so much of its rate at once, in microseconds.
const BURST_US: i64 = 1_000_000;
/// The longest pause, in microseconds: however large a message was, and however the clock was set.
const PAUSE_US_MAX: i64 = 60_000_000;

/// The accounts of users and namespaces, and the bytes that they store.
#[derive(Default)]
pub(crate) struct Usages {
    accounts: Mutex<Accounts>,
    stored: ArcSwap<Stored>,
    /// Whether anything takes no more.
    any_full: AtomicBool,
    /// Limits have changed.
    changed: Notify,
}

#[derive(Default)]
struct Accounts {
    users: HashMap<Name, Arc<Account>>,
    namespaces: HashMap<Name, Arc<Account>>,
}

/// The use that one user, or one namespace, makes of its limits.
#[derive(Default)]
pub(crate) struct Account {
    connections: AtomicU64,
    connections_max: AtomicU64,
    /// Groups of the user besides those of its entry, as its latest client had them.
    further: Mutex<Vec<Name>>,
    published: Rates,
    read: Rates,
}

#[derive(Default)]
struct Rates {
    /// Whether either has a limit.
    limited: AtomicBool,
    bytes: Bucket,
    messages: Bucket,
}

/// A rate that may be used, and when what was used is paid for.
#[derive(Default)]
struct Bucket {
    /// Per second; 0 for any.
    rate: AtomicU64,
    /// In microseconds since 1970.
    paid_at: AtomicI64,
}

/// The accounts that what a client does counts for.
#[derive(Clone, Default)]
pub(crate) struct Charged {
    user: Option<Arc<Account>>,
    namespace: Option<Arc<Account>>,
}

/// Bytes that are stored, and the queues and partitions that take no more, since their namespace or their
/// creator stores too many.
#[derive(Debug, Default)]
struct Stored {
    namespaces: HashMap<Name, u64>,
    users: HashMap<Name, u64>,
    full_queues: HashSet<QueueId>,
    full_partitions: HashSet<PartitionId>,
}

/// A connection that is counted, until this is dropped.
pub(crate) struct Seat(Charged);

/// What is used of the limits of a user or a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub connections: u64,
    pub objects: u64,
    /// As of a second ago at most; `None` while no such limit is set anywhere.
    pub stored_bytes: Option<u64>,
}

impl Bucket {
    fn set(&self, rate: Option<u64>) {
        // Nothing per second would be a pause for ever.
        self.rate.store(rate.map_or(0, |rate| rate.max(1)), Ordering::Relaxed);
    }

    fn charge(&self, now_us: i64, amount: u64) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 || amount == 0 {
            return;
        }
        let cost = (u128::from(amount) * 1_000_000 / u128::from(rate)).min(PAUSE_US_MAX as u128) as i64;
        let pay = |paid_at: i64| {
            let from = paid_at.clamp(now_us - BURST_US, now_us + PAUSE_US_MAX);
            Some((from + cost).min(now_us + PAUSE_US_MAX))
        };
        let _ = self.paid_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
    }

    /// In microseconds.
    fn pause(&self, now_us: i64) -> i64 {
        if self.rate.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        // A clock that was set back must not make it longer.
        (self.paid_at.load(Ordering::Relaxed) - now_us).clamp(0, PAUSE_US_MAX)
    }
}

impl Rates {
    fn set(&self, bytes: Option<u64>, messages: Option<u64>) {
        self.bytes.set(bytes);
        self.messages.set(messages);
        self.limited.store(bytes.is_some() || messages.is_some(), Ordering::Release);
    }

    fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Acquire)
    }
}

impl Account {
    fn set(&self, limits: &UsageLimits) {
        self.connections_max.store(limits.connections.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.published.set(limits.published_bytes_per_second, limits.published_messages_per_second);
        self.read.set(limits.read_bytes_per_second, limits.read_messages_per_second);
    }

    fn enter(&self) -> bool {
        let max = self.connections_max.load(Ordering::Relaxed);
        let one_more = |count: u64| (count < max).then_some(count + 1);
        self.connections.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).is_ok()
    }

    fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Charged {
    pub fn of(shared: &Shared, principal: &Principal, namespace: &Name) -> Charged {
        let mut accounts = shared.usages.accounts.lock();
        // Under the lock, so that a change of limits meets either this catalog or this account.
        let catalog = shared.catalog_now();
        let user = principal.user().map(|(name, groups)| {
            let (account, is_new) = account(&mut accounts.users, name);
            let mut further = account.further.lock();
            if is_new || *further != groups {
                groups.clone_into(&mut further);
                account.set(&catalog.limits_of_user(name, groups));
            }
            drop(further);
            account
        });
        let namespace = (!principal.is_system()).then(|| {
            let (account, is_new) = account(&mut accounts.namespaces, namespace);
            if is_new {
                account.set(&catalog.namespace(namespace).map(|n| n.limits).unwrap_or_default());
            }
            account
        });
        Charged { user, namespace }
    }

    fn each(&self) -> impl Iterator<Item = &Account> {
        self.user.iter().chain(&self.namespace).map(|account| &**account)
    }

    fn charge(&self, rates: impl Fn(&Account) -> &Rates, clock: impl Fn() -> Timestamp, used: (u64, u64)) {
        for rates in self.each().map(rates).filter(|rates| rates.is_limited()) {
            let now = micros(clock());
            rates.messages.charge(now, used.0);
            rates.bytes.charge(now, used.1);
        }
    }

    fn pause(&self, rates: impl Fn(&Account) -> &Rates, clock: impl Fn() -> Timestamp) -> Option<Duration> {
        let limited = self.each().map(rates).filter(|rates| rates.is_limited());
        let longest = limited.map(|rates| {
            let now = micros(clock());
            rates.messages.pause(now).max(rates.bytes.pause(now))
        });
        let longest = u64::try_from(longest.max().unwrap_or(0)).unwrap_or_default();
        (longest > 0).then(|| Duration::from_micros(longest))
    }
}

fn micros(now: Timestamp) -> i64 {
    now.0.saturating_mul(1_000)
}

/// The account of that name, and whether it was made now.
fn account(accounts: &mut HashMap<Name, Arc<Account>>, name: &Name) -> (Arc<Account>, bool) {
    if let Some(account) = accounts.get(name) {
        return (account.clone(), false);
    }
    // As many stay as are in use, and as many again.
    if accounts.len().is_power_of_two() {
        accounts.retain(|_, account| Arc::strong_count(account) > 1);
    }
    let account = Arc::new(Account::default());
    accounts.insert(name.clone(), account.clone());
    (account, true)
}

impl Seat {
    pub fn take(client: &Client) -> Result<Seat, Error> {
        let charged = client.charged().clone();
        let (user, namespace) = (charged.user.as_deref(), charged.namespace.as_deref());
        if user.is_some_and(|user| !user.enter()) {
            let whose = format!("user '{}'", client.principal().name());
            return Err(Error::LimitReached(connections(&whose)));
        }
        if namespace.is_some_and(|namespace| !namespace.enter()) {
            user.inspect(|user| user.leave());
            return Err(Error::LimitReached(connections(&format!("namespace '{}'", client.namespace()))));
        }
        Ok(Seat(charged))
    }
}

fn connections(whose: &str) -> String {
    format!("{whose} has as many connections as its limit allows; close some, or have the limit raised")
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.each().for_each(Account::leave);
    }
}

impl Client {
    pub(crate) fn charge_published(&self, messages: u64, bytes: u64) {
        self.charged().charge(|account| &account.published, || self.broker().now(), (messages, bytes));
    }

    /// Counts what the client was given to read. An adapter does so when it writes the messages.
    pub fn charge_read(&self, messages: u64, bytes: u64) {
        self.charged().charge(|account| &account.read, || self.broker().now(), (messages, bytes));
    }

    /// How long the client is to publish nothing more, by the limits of its user and its namespace. Adapters
    /// hold back what it sends meanwhile.
    pub fn publish_pause(&self) -> Option<Duration> {
        self.charged().pause(|account| &account.published, || self.broker().now())
    }

    /// How long a connection pauses that publishes, or asks for messages, or both: the longer of both pauses.
    pub fn pause(&self, publishes: bool, reads: bool) -> Option<Duration> {
        let publish_pause = if publishes { self.publish_pause() } else { None };
        publish_pause.max(if reads { self.read_pause() } else { None })
    }

    /// How long the client is to be given no more messages, likewise.
    pub fn read_pause(&self) -> Option<Duration> {
        self.charged().pause(|account| &account.read, || self.broker().now())
    }
}

impl Broker {
    /// What a user uses of its limits.
    pub fn usage_of_user(&self, user: &Name) -> Usage {
        let usages = &self.shared.usages;
        let connections = usages.accounts.lock().users.get(user).map(|account| account.connections());
        let objects = self.shared.catalog_now().objects_created_by(user);
        let stored_bytes = usages.stored.load().users.get(user).copied();
        Usage { connections: connections.unwrap_or_default(), objects, stored_bytes }
    }

    /// What is used of a namespace's limits.
    pub fn usage_of_namespace(&self, namespace: &Namespace) -> Usage {
        let usages = &self.shared.usages;
        let connections =
            usages.accounts.lock().namespaces.get(&namespace.name).map(|account| account.connections());
        let stored_bytes = usages.stored.load().namespaces.get(&namespace.name).copied();
        Usage { connections: connections.unwrap_or_default(), objects: namespace.objects(), stored_bytes }
    }
}

impl Usages {
    /// Whether a queue takes no more.
    pub fn is_queue_full(&self, queue: QueueId) -> bool {
        self.any_full.load(Ordering::Relaxed) && self.stored.load().full_queues.contains(&queue)
    }

    /// Whether any of the destinations takes no more.
    pub fn is_any_full(&self, to: &[Destination]) -> bool {
        to.iter().any(|to| match to {
            Destination::Queue(queue) => self.is_queue_full(*queue),
            Destination::Partition(partition) => self.is_partition_full(*partition),
        })
    }

    /// Whether a partition takes no more.
    pub fn is_partition_full(&self, partition: PartitionId) -> bool {
        self.any_full.load(Ordering::Relaxed) && self.stored.load().full_partitions.contains(&partition)
    }

    fn set_limits(&self, catalog: &Catalog) {
        let accounts = self.accounts.lock();
        for (name, account) in &accounts.users {
            account.set(&catalog.limits_of_user(name, &account.further.lock()));
        }
        for (name, account) in &accounts.namespaces {
            account.set(&catalog.namespace(name).map(|n| n.limits).unwrap_or_default());
        }
        drop(accounts);
        self.changed.notify_one();
    }
}

/// After the limits of users, groups or namespaces have changed.
pub(crate) fn limits_changed(shared: &Arc<Shared>) {
    let shared = shared.clone();
    // There may be as many accounts as connections: too many for an engine thread.
    shared.runtime().clone().spawn(async move { shared.usages.set_limits(&shared.catalog()) });
}

/// Adds up stored bytes while any are limited, until the broker stops.
pub(crate) async fn watch_stored(broker: Broker) {
    let mut stopping = broker.stopping();
    loop {
        let stored = add_up(&broker);
        let is_limited = stored.is_some();
        let stored = stored.unwrap_or_default();
        let any_full = !stored.full_queues.is_empty() || !stored.full_partitions.is_empty();
        broker.shared.usages.stored.store(Arc::new(stored));
        broker.shared.usages.any_full.store(any_full, Ordering::Relaxed);
        let wait = async {
            if is_limited {
                tokio::time::sleep(STORED_EVERY).await;
            } else {
                broker.shared.usages.changed.notified().await;
            }
        };
        tokio::select! {
            () = wait => {}
            _ = stopping.changed() => return,
        }
    }
}

/// `None` while nothing is limited.
fn add_up(broker: &Broker) -> Option<Stored> {
    let catalog = broker.catalog();
    let is_limited = catalog.namespaces().any(|n| n.limits.stored_bytes.is_some())
        || catalog.users().any(|user| user.limits.stored_bytes.is_some())
        || catalog.user_groups().any(|group| group.limits.stored_bytes.is_some());
    if !is_limited {
        return None;
    }
    let logs = &broker.shared.logs;
    let bytes_of = |stream: u64| logs.find(stream).map_or(0, |log| log.bytes());
    let queue_bytes = |queue: &Queue| queue.streams.iter().map(|stream| bytes_of(*stream)).sum::<u64>();
    let topic_bytes = |topic: &Topic| topic.partitions.iter().map(|p| bytes_of(p.id.0)).sum::<u64>();
    let mut stored = Stored::default();
    for namespace in catalog.namespaces() {
        let of_namespace = stored.namespaces.entry(namespace.name.clone()).or_default();
        let queues = namespace.queues.values().map(|queue| (&queue.created_by, queue_bytes(queue)));
        let topics = namespace.topics.values().map(|topic| (&topic.created_by, topic_bytes(topic)));
        for (creator, bytes) in queues.chain(topics) {
            *of_namespace += bytes;
            if let Some(user) = creator {
                *stored.users.entry(user.clone()).or_default() += bytes;
            }
        }
    }
    mark_full(&catalog, &mut stored);
    Some(stored)
}

fn mark_full(catalog: &Catalog, stored: &mut Stored) {
    let users = stored.users.iter().filter(|(user, bytes)| {
        catalog.limits_of_user(user, &[]).stored_bytes.is_some_and(|max| **bytes >= max)
    });
    let users: HashSet<Name> = users.map(|(user, _)| user.clone()).collect();
    for namespace in catalog.namespaces() {
        let bytes = stored.namespaces.get(&namespace.name).copied().unwrap_or_default();
        let all = namespace.limits.stored_bytes.is_some_and(|max| bytes >= max);
        let is_full = |creator: &Option<Name>| all || creator.as_ref().is_some_and(|c| users.contains(c));
        if !all && users.is_empty() {
            continue;
        }
        let queues = namespace.queues.values().filter(|queue| is_full(&queue.created_by));
        stored.full_queues.extend(queues.map(|queue| queue.id));
        let topics = namespace.topics.values().filter(|topic| is_full(&topic.created_by));
        stored.full_partitions.extend(topics.flat_map(|topic| topic.partitions.iter().map(|p| p.id)));
    }
}

/// For the answer to a client.
pub(crate) fn objects_limit(limited: Limited) -> Error {
    let whose = match limited {
        Limited::Namespace => "the namespace",
        Limited::User => "this user",
    };
    Error::LimitReached(format!(
        "{whose} has as many queues, topics and exchanges as its limit allows; delete some, or have the \
         limit raised"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_paid_for_afterwards() {
        let bucket = Bucket::default();
        bucket.set(Some(1_000));
        let second = 1_000_000;
        let mut now = 100 * second;
        bucket.charge(now, 1_000);
        assert_eq!(bucket.pause(now), 0, "one second's worth at once");
        bucket.charge(now, 500);
        assert_eq!(bucket.pause(now), second / 2);
        now += second / 2;
        assert_eq!(bucket.pause(now), 0);
        bucket.charge(now, 100);
        assert_eq!(bucket.pause(now), second / 10, "nothing was saved up meanwhile");
        now += 100 * second;
        bucket.charge(now, 2_000);
        assert_eq!(bucket.pause(now), second, "saved up is one second at most");
        bucket.charge(now, u64::MAX);
        assert_eq!(bucket.pause(now), PAUSE_US_MAX);
        // The clock is set back by an hour.
        assert_eq!(bucket.pause(now - 3_600 * second), PAUSE_US_MAX);
        bucket.charge(now - 3_600 * second, 1);
        assert_eq!(bucket.pause(now), 0);
        bucket.set(None);
        bucket.charge(now, u64::MAX);
        assert_eq!(bucket.pause(now), 0);
    }
}
