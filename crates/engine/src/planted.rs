//! Mistakes on purpose, so that what looks for mistakes can be shown to find them. Only there with the
//! feature `planted-bugs`, which no program that is shipped has.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A message that is given back is forgotten until the next start.
    LoseRelease,
    /// Deliveries leave in the wrong order.
    Reorder,
    /// What was not settled before something that was counts as settled after a checkpoint.
    ForgetHole,
    /// Replies and deliveries do not wait for the journal.
    BeforeDurable,
    /// A message that its destination refuses counts as arrived.
    LoseRefusedArrival,
}

#[cfg(feature = "planted-bugs")]
mod planting {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<(Option<Bug>, u32)> = const { Cell::new((None, 0)) };
    }

    /// Has engines on this thread make a mistake from now on.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set((bug, 0));
    }

    /// True at every fourth opportunity for the planted mistake.
    pub(crate) fn strikes(bug: Bug) -> bool {
        let (planted, opportunities) = PLANTED.get();
        if planted != Some(bug) {
            return false;
        }
        PLANTED.set((planted, opportunities.wrapping_add(1)));
        opportunities % 4 == 3
    }
}

#[cfg(feature = "planted-bugs")]
pub use planting::plant;
#[cfg(feature = "planted-bugs")]
pub(crate) use planting::strikes;

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn strikes(_: Bug) -> bool {
    false
}
