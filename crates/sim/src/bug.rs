//! Mistakes on purpose: a checker that finds none of them would prove nothing.

use clap::ValueEnum;
use posthaste_engine::planted;

/// A mistake that a run can be made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bug {
    /// The disk says that it synced when it did not, the bucket that it took what it did not.
    SkipSync,
    /// A message that a consumer gave back is lost.
    LoseRelease,
    /// Deliveries leave in the wrong order.
    Reorder,
    /// After a restart, what was not settled before something that was counts as settled.
    ForgetHole,
    /// Replies and deliveries do not wait for the journal.
    BeforeDurable,
    /// A message that its destination refuses counts as arrived.
    LoseRefusedArrival,
    /// What a destination has is taken again when it is sent again.
    RepeatArrivals,
    /// Numbers of outbox entries are given out again after a start.
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

impl Bug {
    /// As the engine calls it; the disk's is not its business.
    pub fn planted(self) -> Option<planted::Bug> {
        match self {
            Bug::SkipSync => None,
            Bug::LoseRelease => Some(planted::Bug::LoseRelease),
            Bug::Reorder => Some(planted::Bug::Reorder),
            Bug::ForgetHole => Some(planted::Bug::ForgetHole),
            Bug::BeforeDurable => Some(planted::Bug::BeforeDurable),
            Bug::LoseRefusedArrival => Some(planted::Bug::LoseRefusedArrival),
            Bug::RepeatArrivals => Some(planted::Bug::RepeatArrivals),
            Bug::ReuseNumbers => Some(planted::Bug::ReuseNumbers),
            Bug::ForgetOutbox => Some(planted::Bug::ForgetOutbox),
            Bug::RouteAnew => Some(planted::Bug::RouteAnew),
            Bug::LoseDying => Some(planted::Bug::LoseDying),
            Bug::Miscount => Some(planted::Bug::Miscount),
            Bug::ForgetKept => Some(planted::Bug::ForgetKept),
            Bug::UntoldDamage => Some(planted::Bug::UntoldDamage),
        }
    }
}
