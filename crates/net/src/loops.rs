//! The threads that serve connections, each with an event loop of its own.
//!
//! A connection stays with its loop. Loops that shared their work would wake each other for every event,
//! which costs more than the work itself where messages come one by one.

use posthaste_model::bell::{Bell, Patience};
use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// Where it pays, what arrives gathers for so long before it is read. The system's timers add up to 50 µs.
const REST: Duration = Duration::from_micros(100);

thread_local! {
    /// The bell of the loop whose thread this is.
    static BELL: OnceCell<Arc<Bell>> = const { OnceCell::new() };
    static PATIENCE: RefCell<Patience> = RefCell::default();
    /// Bytes that the connections of this thread's loop have read since it last had a chance to rest.
    static READ: Cell<u64> = const { Cell::new(0) };
}

/// Where connections are served; none at all means by whoever accepts them.
#[derive(Clone, Default)]
pub struct Loops {
    all: Arc<[Loop]>,
}

struct Loop {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    /// Dropped with the last [`Loops`], which ends the thread.
    _stop: oneshot::Sender<()>,
}

/// A connection's place in a loop, until it is dropped.
pub(crate) struct Place {
    pub handle: Handle,
    connections: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Loops {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// A thread or its loop cannot be had.
    pub fn start(count: NonZeroUsize) -> io::Result<Loops> {
        let all = (0..count.get()).map(start).collect::<io::Result<Vec<_>>>()?;
        Ok(Loops { all: all.into() })
    }

    /// A place in the loop with the fewest connections; in any of these, since clients that open two
    /// connections each and use one would otherwise all meet in one loop.
    pub(crate) fn place(&self) -> Option<Place> {
        let any = RandomState::new();
        let connections = |at: usize| self.all.get(at).map(|one| one.connections.load(Ordering::Relaxed));
        let quietest = (0..self.all.len()).min_by_key(|at| (connections(*at), any.hash_one(at)))?;
        let quietest = self.all.get(quietest)?;
        quietest.connections.fetch_add(1, Ordering::Relaxed);
        Some(Place { handle: quietest.handle.clone(), connections: quietest.connections.clone() })
    }
}

impl fmt::Debug for Loops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loops").field("count", &self.all.len()).finish()
    }
}

/// The bell that a mailbox opened on this thread rings.
pub(crate) fn bell() -> Option<Arc<Bell>> {
    BELL.with(|bell| bell.get().cloned())
}

/// A connection of this thread's loop has read so many bytes.
pub(crate) fn has_read(bytes: usize) {
    READ.set(READ.get().saturating_add(bytes as u64));
}

fn start(number: usize) -> io::Result<Loop> {
    let bell = Arc::new(Bell::default());
    let (resting, listening) = (bell.clone(), bell.clone());
    let runtime = Builder::new_current_thread()
        .enable_all()
        // With nothing to do, before the loop waits for what comes.
        .on_thread_park(move || {
            if PATIENCE.with_borrow_mut(|patience| patience.rests(READ.take(), Instant::now())) {
                resting.rest(REST);
            }
        })
        .on_thread_unpark(move || listening.listen())
        .build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel();
    thread::Builder::new().name(format!("connections-{number}")).spawn(move || {
        BELL.with(|own| {
            let _ = own.set(bell);
        });
        // Nobody ever says stop: the sender is dropped.
        let _ = runtime.block_on(stopped);
    })?;
    Ok(Loop { handle, connections: Arc::default(), _stop: stop })
}
