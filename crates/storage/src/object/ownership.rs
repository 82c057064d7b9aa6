//! Whether whoever claimed a bucket owns it still, as far as it knows.
//!
//! Nobody is told of being taken over: a fence lies in the bucket, and is met by the next put. So that a
//! broker that puts nothing finds it too, its journal looks for it, every [`LOOK_EVERY`]; and what it knows
//! is too old to act upon after [`PROOF_HOLDS`], be it because the store does not answer or because the
//! process or the machine stood still. The successor does not wait for that: for so long both may tell of
//! what they hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

/// After so long without a proof that the bucket is still owned, the journal asks for one.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After so long without a proof nothing may be told until there is one.
pub const PROOF_HOLDS: Duration = Duration::from_secs(10);
/// Before a look that failed is repeated.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What an opener knows of its ownership. Clones share it.
#[derive(Clone)]
pub struct Ownership {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    /// When the last request was begun that would have met a fence; [`NEVER`] at first.
    proven: [AtomicU64; 2],
    lost: AtomicBool,
    is_proven: Notify,
}

const NEVER: u64 = u64::MAX;

/// What time it is for a bucket's opener.
#[derive(Clone)]
pub(super) enum Clock {
    /// Of the machine.
    Machine(Instant),
    /// Milliseconds; whoever steps moves them.
    Manual(Arc<AtomicI64>),
    /// Nothing grows old.
    Still,
}

/// A moment by two clocks, in milliseconds: one that nobody sets, and one that also goes on while the machine
/// sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment([u64; 2]);

impl Clock {
    fn now(&self) -> Moment {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(NEVER - 1);
        match self {
            Clock::Machine(start) => {
                let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Moment([millis(start.elapsed()), millis(wall)])
            }
            Clock::Manual(now) => Moment([u64::try_from(now.load(Ordering::Relaxed)).unwrap_or(0); 2]),
            Clock::Still => Moment([0; 2]),
        }
    }
}

impl Ownership {
    /// Of who has yet to prove it.
    pub(super) fn new(clock: Clock) -> Ownership {
        let proven = match clock {
            Clock::Still => 0,
            _ => NEVER,
        };
        let proven = [AtomicU64::new(proven), AtomicU64::new(proven)];
        let inner = Inner { clock, proven, lost: AtomicBool::new(false), is_proven: Notify::new() };
        Ownership { inner: Arc::new(inner) }
    }

    /// Whether the bucket was owned less than [`PROOF_HOLDS`] ago. Asked before anything is told to anybody.
    pub fn is_fresh(&self) -> bool {
        !self.inner.lost.load(Ordering::Acquire) && self.age().is_some_and(|age| age < PROOF_HOLDS)
    }

    /// Waits until it is fresh: for ever, if somebody else has taken over.
    pub async fn proven(&self) {
        loop {
            let mut proven = std::pin::pin!(self.inner.is_proven.notified());
            proven.as_mut().enable();
            if self.is_fresh() {
                return;
            }
            proven.await;
        }
    }

    pub(crate) fn now(&self) -> Moment {
        self.inner.clock.now()
    }

    /// A request that was begun then has found no fence.
    pub(crate) fn prove(&self, Moment(begun): Moment) {
        for (proven, begun) in self.inner.proven.iter().zip(begun) {
            let newer = |known: u64| (known == NEVER || known < begun).then_some(begun);
            let _ = proven.fetch_update(Ordering::AcqRel, Ordering::Acquire, newer);
        }
        self.inner.is_proven.notify_waiters();
    }

    /// Somebody else owns it.
    pub(crate) fn lose(&self) {
        self.inner.lost.store(true, Ordering::Release);
    }

    /// How long until it is to be looked after, if the last attempt failed then.
    pub(crate) fn look_in(&self, failed: Option<Moment>) -> Duration {
        let due = self.age().map_or(Duration::ZERO, |age| LOOK_EVERY.saturating_sub(age));
        let pause = failed.map_or(Duration::ZERO, |failed| LOOK_AGAIN.saturating_sub(self.since(failed.0)));
        due.max(pause)
    }

    /// Of the last proof; none if there was none.
    fn age(&self) -> Option<Duration> {
        let proven = [0, 1].map(|at: usize| self.inner.proven[at].load(Ordering::Acquire));
        (!proven.contains(&NEVER)).then(|| self.since(proven))
    }

    /// By the clock that has gone farther since.
    fn since(&self, then: [u64; 2]) -> Duration {
        let Moment(now) = self.now();
        let millis = now.iter().zip(then).map(|(now, then)| now.saturating_sub(then)).max();
        Duration::from_millis(millis.unwrap_or_default())
    }
}
