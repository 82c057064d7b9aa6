//! Who is let in, and how much of the broker a stranger may use up meanwhile. The one place where log-ins are
//! checked, slowed down after failures, and written to the log when they are refused.
//!
//! A password that was right before costs no more than a digest. Anything else takes its turn: so many at a
//! time from one place, so many on threads that do nothing but hash passwords. A failure is answered late,
//! the later the more of them there were from that place or for that user; a success waits for its turn only.
//! So nobody can lock a user out, and guessing costs time.

use crate::{
    Broker, Error,
    access::{
        authentication::{AuthenticationError, Credentials, Principal, Shown},
        namespace::Given,
        origin::Origin,
        password::{PASSWORD_BYTES_MAX, hash_password},
        scram::{self, ClientFirst, Exchange as ScramExchange, Mechanism as ScramMechanism},
        token::looks_like_token,
    },
    environment::Work,
};
use parking_lot::Mutex;
use posthaste_engine::catalog::Password;
use posthaste_model::{Name, Timestamp};
use std::{
    collections::HashMap,
    fmt::Display,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Log-ins from one place that are checked, or answered late, at a time. Further ones wait for them.
const AT_A_TIME_PER_PLACE: usize = 8;
/// Log-ins that wait for a thread to hash on; further ones are refused.
const WAITING_MAX: usize = 512;
/// How much the threads that hash give way, 0 to 19: among busy ones at 15, each gets a thirtieth of a
/// processor at least, in which a log-in takes less than a second.
#[cfg(target_os = "linux")]
const HASHING_NICE: i32 = 15;
/// Places and users whose failures are remembered, each. Beyond that the oldest are forgotten.
const REMEMBERED_MAX: usize = 4_096;
/// A failure is answered after this; mistyping three times costs nothing more.
pub const FAILED_LOG_IN_DELAY: Duration = Duration::from_millis(DELAY_MS);
const DELAY_MS: u64 = 100;
const FAILURES_WITHOUT_MORE: u32 = 3;
/// Some clients wait 5 s for an answer to their log-in, such as RabbitMQ's for Java.
const DELAY_MS_MAX: u64 = 3_000;
/// Failures are forgotten after this long without another one.
const FORGOTTEN_MS: u64 = 60_000;
/// Refusals that are written to the log within [`LINES_MS`]: from one place, and in all.
const LINES_PER_PLACE: u32 = 10;
const LINES_IN_ALL: u32 = 120;
const LINES_MS: u64 = 60_000;
/// As much of a user's name as a stranger gets into the log, in characters.
const NAME_SHOWN: usize = 64;

/// What is remembered of log-ins.
#[derive(Default)]
pub(crate) struct LogIns {
    table: Mutex<Table>,
    hashing: Hashing,
}

#[derive(Default)]
struct Table {
    places: HashMap<IpAddr, Place>,
    users: HashMap<Name, Failures>,
    lines: Lines,
    /// Refusals that were not written down since the last one that was.
    unwritten: u64,
}

/// An address, or a network of version 6 that one customer has.
struct Place {
    turns: Arc<Semaphore>,
    failures: Failures,
    lines: Lines,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Timestamp,
}

/// How many lines were written since when.
#[derive(Clone, Copy)]
struct Lines {
    count: u32,
    since: Timestamp,
}

/// Threads that hash passwords, half as many as there are cores, so that strangers keep neither the disk's
/// nor the connections' threads busy, nor all of the processor.
#[derive(Default)]
struct Hashing {
    jobs: OnceLock<Mutex<mpsc::Sender<Job>>>,
    waiting: Arc<AtomicUsize>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Default for Failures {
    fn default() -> Failures {
        Failures { count: 0, last: Timestamp(i64::MIN) }
    }
}

impl Default for Lines {
    fn default() -> Lines {
        Lines { count: 0, since: Timestamp(i64::MIN) }
    }
}

impl Failures {
    fn count_at(&self, now: Timestamp) -> u32 {
        if now.0.abs_diff(self.last.0) < FORGOTTEN_MS { self.count } else { 0 }
    }

    fn add(&mut self, now: Timestamp) -> u32 {
        *self = Failures { count: self.count_at(now).saturating_add(1), last: now };
        self.count
    }
}

impl Lines {
    fn take(&mut self, now: Timestamp, max: u32) -> bool {
        if now.0.abs_diff(self.since.0) >= LINES_MS {
            *self = Lines { count: 0, since: now };
        }
        self.count = self.count.saturating_add(1);
        self.count <= max
    }
}

impl Table {
    fn place(&mut self, peer: IpAddr) -> &mut Place {
        let peer = network(peer);
        if self.places.len() >= REMEMBERED_MAX && !self.places.contains_key(&peer) {
            // Who waits or is answered late is kept, so that it does not begin anew; there are not that many.
            let idle = |place: &Place| place.turns.available_permits() == AT_A_TIME_PER_PLACE;
            forget_half(&mut self.places, |place| idle(place).then_some(place.failures.last));
        }
        self.places.entry(peer).or_insert_with(|| Place {
            turns: Arc::new(Semaphore::new(AT_A_TIME_PER_PLACE)),
            failures: Failures::default(),
            lines: Lines::default(),
        })
    }

    /// Notes a failure; how many milliseconds its answer is to wait. `user` exists.
    fn fail(&mut self, peer: IpAddr, user: Option<&Name>, now: Timestamp) -> u64 {
        let here = self.place(peer).failures.add(now);
        let for_user = user.map_or(0, |user| {
            if self.users.len() >= REMEMBERED_MAX && !self.users.contains_key(user) {
                forget_half(&mut self.users, |failures| Some(failures.last));
            }
            self.users.entry(user.clone()).or_default().add(now)
        });
        let more = here.max(for_user).saturating_sub(FAILURES_WITHOUT_MORE).min(16);
        (DELAY_MS << more).min(DELAY_MS_MAX)
    }

    /// Whether a refusal may be written down, and how many were not before it.
    fn line(&mut self, peer: IpAddr, now: Timestamp) -> Option<u64> {
        if self.place(peer).lines.take(now, LINES_PER_PLACE) && self.lines.take(now, LINES_IN_ALL) {
            return Some(std::mem::take(&mut self.unwritten));
        }
        self.unwritten += 1;
        None
    }
}

/// Forgets the older half of those for which `age` tells when they were last of interest.
fn forget_half<K: Clone + Eq + std::hash::Hash, V>(
    map: &mut HashMap<K, V>,
    age: impl Fn(&V) -> Option<Timestamp>,
) {
    let mut ages: Vec<i64> = map.values().filter_map(|value| Some(age(value)?.0)).collect();
    let middle = ages.len() / 2;
    if ages.is_empty() {
        return;
    }
    let (_, median, _) = ages.select_nth_unstable(middle);
    let median = *median;
    map.retain(|_, value| age(value).is_none_or(|at| at.0 > median));
}

/// One who has an address of version 6 mostly has 2^64 of them.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        other => other,
    }
}

impl Hashing {
    /// `None` when too many wait already, or everything ends.
    async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let (done, result) = oneshot::channel();
        let waiting = self.waiting.clone();
        let job: Job = Box::new(move || {
            waiting.fetch_sub(1, Ordering::Relaxed);
            // Who asked may be gone by now: then there is nothing to do.
            if !done.is_closed() {
                let _ = done.send(job());
            }
        });
        let jobs = self.jobs.get_or_init(|| Mutex::new(start_threads()));
        if jobs.lock().send(job).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        result.await.ok()
    }
}

/// Gives the thread less of a busy processor than those that serve clients who are let in.
fn yield_to_others() {
    // Linux takes this for the calling thread alone. Without it strangers only cost more.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, HASHING_NICE);
}

/// They end when the sender goes.
fn start_threads() -> mpsc::Sender<Job> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let jobs = Arc::new(Mutex::new(jobs));
    let count = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    for number in 0..count {
        let jobs = jobs.clone();
        let work = move || {
            yield_to_others();
            loop {
                // Held only while waiting for the next one.
                let Ok(job) = jobs.lock().recv() else { return };
                job();
            }
        };
        if let Err(error) = std::thread::Builder::new().name(format!("passwords-{number}")).spawn(work) {
            tracing::error!(%error, "a thread for checking passwords cannot be started");
        }
    }
    sender
}

impl Broker {
    /// Finds out who a client is.
    pub async fn log_in(
        &self,
        origin: &Origin,
        credentials: Credentials<'_>,
    ) -> Result<Principal, AuthenticationError> {
        let (user, password) = match credentials {
            Credentials::Anonymous => {
                return self.without_password(origin).map_err(|error| self.refused(origin, None, error));
            }
            Credentials::Certificate => {
                return self.by_certificate(origin).map_err(|error| self.refused(origin, None, error));
            }
            Credentials::Token(token) => return self.by_token(origin, token).await,
            Credentials::Password { user, password } => (user, password),
        };
        let catalog = self.catalog();
        let Given { user, namespace } = Given::read(&catalog, user);
        if self.accepts_tokens()
            && let Some(token) = looks_like_token(password)
        {
            let result = self.by_password_or_token(origin, user, token).await;
            return result.map(|principal| principal.naming(namespace));
        }
        if let Some(by_key) = self.by_access_key(user, password, origin) {
            return match by_key {
                Ok(principal) => Ok(principal.naming(namespace)),
                Err(error) => {
                    let _turn = self.turn(origin, user).await?;
                    Err(self.fail(origin, user, error).await)
                }
            };
        }
        if let Some(known) = self.known_password(user, password, origin) {
            let known = known.map(|principal| principal.naming(namespace));
            return known.map_err(|error| self.refused(origin, Some(user), error));
        }
        let _turn = self.turn(origin, user).await?;
        // Somebody before may have shown the same.
        let result = match self.known_password(user, password, origin) {
            Some(known) => known,
            None => self.check_password(user, password, origin).await,
        };
        match result {
            Ok(principal) => Ok(principal.naming(namespace)),
            Err(error) => Err(self.fail(origin, user, error).await),
        }
    }

    async fn by_token(&self, origin: &Origin, token: &str) -> Result<Principal, AuthenticationError> {
        let _turn = self.turn(origin, "").await?;
        match self.check_token(token, origin).await {
            Ok(principal) => Ok(principal),
            Err(error) => Err(self.fail(origin, "", error).await),
        }
    }

    /// A client whose password may be a token. Should it be the very password of the user that is named, then
    /// it is that.
    async fn by_password_or_token(
        &self,
        origin: &Origin,
        user: &str,
        token: &str,
    ) -> Result<Principal, AuthenticationError> {
        let password = token.as_bytes();
        let may_be_one = password.len() <= PASSWORD_BYTES_MAX;
        if may_be_one && let Some(known) = self.known_password(user, password, origin) {
            return known.map_err(|error| self.refused(origin, Some(user), error));
        }
        let _turn = self.turn(origin, user).await?;
        let by_token = self.check_token(token, origin).await;
        // With a wrong token, a user that is not there takes as long as one that is.
        let has_password = || self.catalog().user(user).is_some_and(|user| user.password.is_set());
        let result = if may_be_one && (by_token.is_err() || has_password()) {
            match (self.check_password(user, password, origin).await, by_token) {
                (Err(AuthenticationError::Wrong), by_token) => by_token,
                (by_password, _) => by_password,
            }
        } else {
            by_token
        };
        match result {
            Ok(principal) => Ok(principal),
            Err(error) => Err(self.fail(origin, user, error).await),
        }
    }

    /// Begins a proof of a password: what is to be answered to the client's first message. A user that is not
    /// there is answered alike.
    ///
    /// # Errors
    /// Says what is wrong with the message.
    pub fn begin_scram(
        &self,
        origin: &Origin,
        mechanism: ScramMechanism,
        first: &[u8],
    ) -> Result<(ScramExchange, String), &'static str> {
        let refused = |why| {
            self.log_in_refused(origin, None, &why);
            why
        };
        let first = ClientFirst::read(first).map_err(refused)?;
        let random = scram::nonce().ok_or("the machine has no randomness").map_err(refused)?;
        let catalog = self.shared.catalog_now();
        let user = catalog.user(Given::read(&catalog, &first.user).user);
        let verifier = user.and_then(|user| mechanism.verifier(&user.password));
        let key = self.shared.passwords.salt();
        Ok(ScramExchange::begin(mechanism, first, verifier.cloned(), key, random))
    }

    /// Judges the client's last message: who it is, and what is to be answered.
    ///
    /// # Errors
    /// It is not let in.
    pub async fn finish_scram(
        &self,
        origin: &Origin,
        exchange: &ScramExchange,
        last: &[u8],
    ) -> Result<(Principal, String), AuthenticationError> {
        let catalog = self.catalog();
        let Given { user: name, namespace } = Given::read(&catalog, exchange.user());
        let _turn = self.turn(origin, name).await?;
        let user = self.catalog().user(name).cloned();
        let result = match (exchange.finish(last), user) {
            (Some(answer), Some(user)) if exchange.is_of(&user.password) => {
                let shown = Shown::Password(user.clone());
                Principal::admit(&user, origin, shown).map(|principal| (principal.naming(namespace), answer))
            }
            _ => Err(AuthenticationError::Wrong),
        };
        match result {
            Ok(done) => Ok(done),
            Err(error) => Err(self.fail(origin, name, error).await),
        }
    }

    /// As the user of the client's certificate if it is one's, else as a client without credentials.
    fn without_password(&self, origin: &Origin) -> Result<Principal, AuthenticationError> {
        if origin.certificate.is_none() {
            return match self.admits_unnamed(origin) {
                true => Ok(Principal::anonymous(origin.unnamed())),
                false => Err(origin.why_no_anonymous()),
            };
        }
        match self.by_certificate(origin) {
            Err(AuthenticationError::UnknownCertificate) if self.admits_unnamed(origin) => {
                Ok(Principal::anonymous(origin.unnamed()))
            }
            result => result,
        }
    }

    /// Waits until another log-in from there may be checked.
    async fn turn(&self, origin: &Origin, user: &str) -> Result<OwnedSemaphorePermit, AuthenticationError> {
        let turns = self.shared.log_ins.table.lock().place(origin.peer.ip()).turns.clone();
        if let Ok(turn) = turns.clone().try_acquire_owned() {
            return Ok(turn);
        }
        let patience = Duration::from_millis(self.limits().handshake_ms_max);
        match tokio::time::timeout(patience, turns.acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(self.refused(origin, Some(user), AuthenticationError::Busy)),
        }
    }

    /// Notes a failure, and answers late.
    async fn fail(&self, origin: &Origin, user: &str, error: AuthenticationError) -> AuthenticationError {
        let error = self.refused(origin, Some(user), error);
        if error != AuthenticationError::Busy {
            let known = self.catalog().user(user).map(|user| user.name.clone());
            let now = self.shared.now();
            let wait = self.shared.log_ins.table.lock().fail(origin.peer.ip(), known.as_ref(), now);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        error
    }

    /// As [`Broker::log_in`], for a program that has the broker within it.
    pub async fn authenticate(
        &self,
        credentials: Credentials<'_>,
        peer: IpAddr,
    ) -> Result<Principal, AuthenticationError> {
        self.log_in(&Origin::direct(peer), credentials).await
    }

    /// A user's verifiers of a password.
    ///
    /// # Errors
    /// Too many wait for theirs, or the machine has no randomness.
    pub async fn hash_password(&self, password: Vec<u8>) -> Result<Password, Error> {
        let hashed = self.hash_work(move || hash_password(&password)).await;
        hashed.ok_or(Error::Invalid(AuthenticationError::Busy.to_string()))?.map_err(Error::Invalid)
    }

    fn refused(
        &self,
        origin: &Origin,
        user: Option<&str>,
        error: AuthenticationError,
    ) -> AuthenticationError {
        self.log_in_refused(origin, user, &error);
        error
    }

    /// Writes down that somebody was not let in, also where the protocol saw why; `reason` is no secret.
    pub fn log_in_refused(&self, origin: &Origin, user: Option<&str>, reason: &dyn Display) {
        let Origin { protocol, listener, peer, .. } = origin;
        self.metrics().authentication_failures.add(1);
        let line = self.shared.log_ins.table.lock().line(peer.ip(), self.shared.now());
        let Some(unwritten) = line else { return };
        let user: String = user.unwrap_or_default().chars().take(NAME_SHOWN).collect();
        tracing::warn!(protocol, %listener, user, %peer, %reason, unwritten, "log-in refused");
        self.shared.audit_refused(origin, &user, reason.to_string());
    }

    /// Hashes or checks a password, off the threads that others need.
    pub(crate) async fn hash_work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        match self.shared.work {
            Work::Here => Some(work()),
            Work::Elsewhere => self.shared.log_ins.hashing.run(work).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn failures_are_answered_ever_later_and_forgotten() {
        let mut table = Table::default();
        let (here, there) = (address("192.0.2.1"), address("192.0.2.2"));
        let ann = Name::constant("ann");
        let waits: Vec<u64> = (0..10).map(|n| table.fail(here, None, Timestamp(n))).collect();
        assert_eq!(waits, [100, 100, 100, 200, 400, 800, 1_600, 3_000, 3_000, 3_000]);
        assert_eq!(table.fail(there, None, Timestamp(10)), 100);
        // From many places against one user.
        let waits: Vec<u64> = (1..=5)
            .map(|n| table.fail(address(&format!("198.51.100.{n}")), Some(&ann), Timestamp(11)))
            .collect();
        assert_eq!(waits, [100, 100, 100, 200, 400]);
        assert_eq!(table.fail(here, Some(&ann), Timestamp(12 + FORGOTTEN_MS as i64)), 100);
    }

    #[test]
    fn strangers_cannot_fill_the_memory_or_the_log() {
        let mut table = Table::default();
        let busy = table.place(address("203.0.113.9")).turns.clone();
        let _turn = busy.try_acquire().unwrap();
        let mut written = 0;
        for n in 0..20_000u32 {
            let peer = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            let user = Name::new(&format!("user-{n}")).unwrap();
            table.fail(peer, Some(&user), Timestamp(i64::from(n)));
            written += u32::from(table.line(peer, Timestamp(1)).is_some());
        }
        assert!(table.places.len() <= REMEMBERED_MAX && table.users.len() <= REMEMBERED_MAX);
        assert!(table.places.contains_key(&address("203.0.113.9")), "who waits is not forgotten");
        assert_eq!(written, LINES_IN_ALL);
        let later = Timestamp(2 + LINES_MS as i64);
        assert_eq!(table.line(address("192.0.2.1"), later), Some(20_000 - u64::from(LINES_IN_ALL)));
        let one_place = (0..100).filter(|_| table.line(address("192.0.2.1"), later).is_some()).count();
        assert_eq!(one_place, LINES_PER_PLACE as usize - 1);
    }

    #[test]
    fn a_network_of_version_6_is_one_place() {
        for (one, other, same) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            assert_eq!(network(address(one)) == network(address(other)), same, "{one} {other}");
        }
    }
}
