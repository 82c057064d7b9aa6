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
        }
    }
}
