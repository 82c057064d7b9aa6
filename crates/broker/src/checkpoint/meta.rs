//! The head of every checkpoint: the positions its state belongs to, and how much only the state holds.

use posthaste_engine::Held;
use posthaste_storage::journal::Lsn;
use serde::{Deserialize, Serialize};

/// The positions and counts of a checkpoint's state. Written by `postcard`: fields are added at the end
/// of a new version.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The journal is needed from here on.
    pub replay_from: Lsn,
    /// By shard: events below are in the state.
    pub shards: Vec<Lsn>,
    pub catalog: Lsn,
    pub next_segment: u64,
    /// By shard: what the state has the only copy of.
    pub held: Vec<Held>,
    /// Entries of the catalog.
    pub names: u64,
}

impl Meta {
    /// Makes room for so many shards.
    pub fn resize(&mut self, shards: u16) {
        self.shards.resize(usize::from(shards), Lsn(0));
        self.held.resize(usize::from(shards), Held::default());
    }
}
