//! The threads that serve connections, each with an event loop of its own.
//!
//! A connection stays with its loop. Loops that shared their work would wake each other for every event,
//! which costs more than the work itself where messages come one by one.

use posthaste_model::bell::{Bell, Patience};
use std::{
    cell::{Cell, OnceCell},
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// While the broker waits for its disk, what arrives may gather for so long before it is read. The system's
/// timers add up to 50 µs.
const REST: Duration = Duration::from_micros(50);

thread_local! {
    /// The bell of the loop whose thread this is.
    static BELL: OnceCell<Arc<Bell>> = const { OnceCell::new() };
    static PATIENCE: Cell<Patience> = Cell::default();
    /// A connection of this thread's loop found more than one thing at once.
    static GATHERED: Cell<bool> = const { Cell::new(false) };
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
    /// Starts `count` threads. `busy` says whether the broker waits for its disk, so that nothing which is
    /// read now could be stored at once: then what arrives is left to gather for a moment.
    ///
    /// # Errors
    /// A thread or its loop cannot be had.
    pub fn start(
        count: NonZeroUsize,
        busy: impl Fn() -> bool + Clone + Send + Sync + 'static,
    ) -> io::Result<Loops> {
        let all =
            (0..count.get()).map(|number| start(number, busy.clone())).collect::<io::Result<Vec<_>>>()?;
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

/// A connection found more than one thing at once.
pub(crate) fn gathered() {
    GATHERED.set(true);
}

/// With nothing to do: rests before the loop waits for what comes, if that pays.
fn rest(bell: &Bell) {
    let mut patience = PATIENCE.get();
    if patience.rests(GATHERED.take()) && bell.rest(REST) {
        patience.rested();
    }
    PATIENCE.set(patience);
}

fn start(number: usize, busy: impl Fn() -> bool + Send + Sync + 'static) -> io::Result<Loop> {
    let bell = Arc::new(Bell::default());
    let (resting, listening) = (bell.clone(), bell.clone());
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || {
            if busy() {
                rest(&resting);
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
