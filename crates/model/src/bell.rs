//! A rest that can be cut short, and whether to take it.
//!
//! A thread that is woken for each of many small things spends more on waking than on the work. While it
//! knows that nothing it does now could be of use, it rests for a moment, and finds them together.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

/// Belongs to one thread, which rests; others ring.
#[derive(Debug, Default)]
pub struct Bell {
    resting: AtomicBool,
    rung: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Bell {
    /// Something has come that should not wait: ends the rest, or keeps the next one from beginning.
    pub fn ring(&self) {
        // One of the two sees what the other has stored: whoever goes to rest looks at `rung` after
        // `resting`.
        self.rung.store(true, Ordering::SeqCst);
        if self.resting.load(Ordering::SeqCst)
            && self.resting.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Forgets what has rung. Called before looking at what has come, so that nothing is missed.
    pub fn listen(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }

    /// Waits for `limit`, or until it rings; not at all if it has rung since [`Bell::listen`]. It may end
    /// early for no reason. Only ever called by the same thread. Returns whether it was let rest.
    pub fn rest(&self, limit: Duration) -> bool {
        self.thread.get_or_init(thread::current);
        self.resting.store(true, Ordering::SeqCst);
        if !self.rung.load(Ordering::SeqCst) {
            thread::park_timeout(limit);
        }
        self.resting.store(false, Ordering::SeqCst);
        !self.rung.load(Ordering::SeqCst)
    }
}

/// Finds out whether resting pays: who talks to a peer that waits for each answer finds nothing more by
/// waiting itself, and only loses time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// Chances to rest that are left out.
    left_out: u8,
    /// How many are left out after the next rest in vain.
    doubt: u8,
    /// The last rest is not judged yet.
    open: bool,
}

impl Patience {
    /// With rests always in vain, one of so many chances is taken.
    const DOUBT_MAX: u8 = 63;

    /// Called at each chance to rest; `gathered` is whether more than one thing was found at once since the
    /// last.
    pub fn rests(&mut self, gathered: bool) -> bool {
        if std::mem::take(&mut self.open) {
            self.doubt = if gathered { 0 } else { (self.doubt * 2 + 1).min(Self::DOUBT_MAX) };
            self.left_out = self.doubt;
        }
        let rests = self.left_out == 0;
        self.left_out = self.left_out.saturating_sub(1);
        rests
    }

    /// It was let rest, and what comes now tells whether that paid.
    pub fn rested(&mut self) {
        self.open = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_lasts_as_long_as_it_pays() {
        let mut patience = Patience::default();
        let mut rests = |pays: bool| {
            let mut count = 0;
            for _ in 0..640 {
                if patience.rests(pays) {
                    patience.rested();
                    count += 1;
                }
            }
            count
        };
        assert_eq!(rests(true), 640);
        let in_vain = rests(false);
        assert!((9..20).contains(&in_vain), "{in_vain}");
        assert!(rests(true) > 570);
    }

    #[test]
    fn what_has_rung_is_heard() {
        let bell = Bell::default();
        thread::scope(|scope| {
            let rings = scope.spawn(|| {
                for _ in 0..1_000 {
                    bell.listen();
                    // An hour, if a ring were missed.
                    while !bell.rung.load(Ordering::SeqCst) {
                        bell.rest(Duration::from_secs(3_600));
                    }
                }
            });
            while !rings.is_finished() {
                bell.ring();
                thread::yield_now();
            }
        });
    }
}
