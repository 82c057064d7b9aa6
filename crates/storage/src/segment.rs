//! Segments: immutable files of entries that have left the journal.
//!
//! One file holds one large stream or many small ones, each as a [`Run`] of entries in offset order.
//! Whoever keeps the runs can read an entry with one or two reads; nothing of a file stays in memory but a
//! bounded cache of indexes.

mod cache;
pub mod format;
mod read;
mod recent;
mod store;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use store::{DiskSegments, SegmentFile, SegmentSink, SegmentStore};
pub use write::{SegmentWriter, WriteError};

pub(crate) use format::repair;
pub(crate) use read::read_all;

use cache::Cache;
use format::IndexPoint;
use recent::RecentPieces;

/// Open files kept at once.
const CACHED_FILES: usize = 256;
/// Index points kept at once; each takes 24 bytes.
const CACHED_INDEX_POINTS: usize = 256 * 1024;

/// Names a segment. Chosen by the caller; a crash may leave one behind whose runs nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId(pub u64);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One stream's contiguous entries in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Run {
    /// The file.
    pub segment: SegmentId,
    /// The stream.
    pub stream: u64,
    /// Offset of the first entry.
    pub first: u64,
    /// Offset behind the last entry's span.
    pub end: u64,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of the entries in the file.
    pub bytes: u64,
    /// Where in the file the first entry starts, in bytes.
    pub position: u64,
    /// Highest timestamp of all entries.
    pub max_timestamp: i64,
}

/// What a stream holds at an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First offset.
    pub offset: u64,
    /// Number of offsets that it covers.
    pub span: u32,
    /// Highest timestamp in it.
    pub max_timestamp: i64,
    /// As given to [`SegmentWriter::append`].
    pub head: Bytes,
    /// As given to [`SegmentWriter::append`].
    pub body: Bytes,
}

/// Why a run cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes are not those that were written, or not there.
    #[error(
        "segment {segment} is damaged for stream {stream} from offset {from} on; readable again from {resume}"
    )]
    Damaged {
        /// The file.
        segment: SegmentId,
        /// The stream.
        stream: u64,
        /// First offset that may be lost.
        from: u64,
        /// Offset from which reading may be tried again; the run's end if there is none.
        resume: u64,
    },
    /// The store failed.
    #[error("cannot read segment {segment}: {error}")]
    Io {
        /// The file.
        segment: SegmentId,
        /// What the store said.
        error: io::Error,
    },
    /// Another version of the program wrote it.
    #[error("segment {segment} has format version {found}; this program reads version {supported}")]
    Version {
        /// The file.
        segment: SegmentId,
        /// Version in the file.
        found: u32,
        /// Version that is understood.
        supported: u32,
    },
}

/// What reading all of a run showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunCheck {
    /// Entries that are readable.
    pub entries: u64,
    /// Half-open ranges of offsets that are not; they may hold offsets that the run never had.
    pub lost: Vec<(u64, u64)>,
    /// Reading is slower, and damage costs more.
    pub index_damaged: bool,
}

/// A handle to the segments of a store. Clones share their caches.
#[derive(Clone)]
pub struct Segments {
    shared: Arc<Shared>,
}

/// Segment and position of a run.
type RunPlace = (SegmentId, u64);

struct Shared {
    store: Arc<dyn SegmentStore>,
    sizes: Mutex<BTreeMap<SegmentId, u64>>,
    /// Segments in which damage was met: they are set aside, not removed.
    damaged: Mutex<BTreeSet<SegmentId>>,
    files: Mutex<Cache<SegmentId, Arc<dyn SegmentFile>>>,
    indexes: Mutex<Cache<RunPlace, Arc<[IndexPoint]>>>,
    recent: RecentPieces,
}

impl Segments {
    /// Lists the store's segments and makes them readable.
    pub fn open(store: Arc<dyn SegmentStore>) -> io::Result<Segments> {
        let sizes = store.list()?.into_iter().collect();
        let shared = Shared {
            store,
            sizes: Mutex::new(sizes),
            damaged: Mutex::default(),
            files: Mutex::new(Cache::new(CACHED_FILES)),
            indexes: Mutex::new(Cache::new(CACHED_INDEX_POINTS)),
            recent: RecentPieces::default(),
        };
        Ok(Segments { shared: Arc::new(shared) })
    }

    /// Begins a segment. It exists once [`SegmentWriter::finish`] has returned; an older one of that id is
    /// replaced.
    pub fn writer(&self, id: SegmentId) -> SegmentWriter {
        SegmentWriter::new(self.clone(), id)
    }

    /// Reads entries from the one that contains `from`, or the next one, on: at most `max_entries`, and at
    /// most `max_bytes` of heads and bodies, but at least one entry unless the run has none from there on.
    /// What lies before some damage is returned; the error comes when reading starts at it.
    pub fn read(
        &self,
        run: &Run,
        from: u64,
        max_bytes: usize,
        max_entries: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        read::read(&self.shared, run, from, max_bytes, max_entries)
    }

    /// As [`Segments::read`], only what some reader has read lately; never waits for the disk. None if the
    /// first entry is not among that.
    pub fn read_now(&self, run: &Run, from: u64, max_bytes: usize, max_entries: usize) -> Option<Vec<Entry>> {
        read::read_now(&self.shared, run, from, max_bytes, max_entries)
    }

    /// The offset of the first entry whose highest timestamp is at least `timestamp`.
    pub fn find_timestamp(&self, run: &Run, timestamp: i64) -> Result<Option<u64>, ReadError> {
        read::find_timestamp(&self.shared, run, timestamp)
    }

    /// The runs that a segment's footer lists.
    pub fn runs(&self, id: SegmentId) -> Result<Vec<Run>, ReadError> {
        read::runs(&self.shared, id)
    }

    /// Reads all of a run.
    pub fn verify(&self, run: &Run) -> Result<RunCheck, ReadError> {
        read::verify(&self.shared, run)
    }

    /// What is wrong with a segment beside its runs; refused if another version wrote it.
    pub fn verify_frame(&self, id: SegmentId) -> Result<Vec<&'static str>, ReadError> {
        read::verify_frame(&self.shared, id)
    }

    /// Segments in which damage was met since the start.
    pub fn damaged(&self) -> BTreeSet<SegmentId> {
        self.shared.damaged.lock().clone()
    }

    /// Removes a segment, or sets it aside if damage was met in it. Reads that have begun go on. One that
    /// cannot be removed stays in the list.
    pub fn remove(&self, id: SegmentId) {
        let damaged = self.shared.damaged.lock().contains(&id);
        let store = &self.shared.store;
        match if damaged { store.set_aside(id) } else { store.remove(id) } {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {}
            _ => {
                self.shared.sizes.lock().remove(&id);
                self.shared.forget(id);
            }
        }
    }

    /// All segments and their sizes in bytes.
    pub fn list(&self) -> Vec<(SegmentId, u64)> {
        self.shared.sizes.lock().iter().map(|(id, bytes)| (*id, *bytes)).collect()
    }
}

impl Shared {
    fn published(&self, id: SegmentId, bytes: u64) {
        self.forget(id);
        self.sizes.lock().insert(id, bytes);
    }

    fn forget(&self, id: SegmentId) {
        self.files.lock().retain(|cached| *cached != id);
        self.indexes.lock().retain(|(cached, _)| *cached != id);
        self.recent.forget(id);
    }
}
