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
    /// What a destination has is taken again when it is sent again.
    RepeatArrivals,
    /// Numbers of outbox entries begin after a start behind those that are still on their way.
    ReuseNumbers,
    /// What was on its way when the broker ended is not sent again.
    ForgetOutbox,
    /// A message that is sent again goes where it would be routed to now.
    RouteAnew,
    /// A queue's end drops its messages that are on their way to a dead-letter target.
    LoseDying,
    /// The end of a queue is answered with a message too few.
    Miscount,
    /// A start does not know what stayed in the journal's files.
    ForgetKept,
    /// Nobody is told of damage.
    UntoldDamage,
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

    /// True at every opportunity for the planted mistake, where there are few.
    pub fn strikes_always(bug: Bug) -> bool {
        PLANTED.get().0 == Some(bug)
    }

    /// True at every fourth opportunity for the planted mistake.
    pub fn strikes(bug: Bug) -> bool {
        let (planted, opportunities) = PLANTED.get();
        if planted != Some(bug) {
            return false;
        }
        PLANTED.set((planted, opportunities.wrapping_add(1)));
        opportunities % 4 == 3
    }
}

#[cfg(feature = "planted-bugs")]
pub use planting::{plant, strikes, strikes_always};

#[cfg(not(feature = "planted-bugs"))]
pub const fn strikes(_: Bug) -> bool {
    false
}

#[cfg(not(feature = "planted-bugs"))]
pub const fn strikes_always(_: Bug) -> bool {
    false
}
