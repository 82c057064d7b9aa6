//! A [`Disk`] whose files are objects and whose names are one table, replaced as a whole.
//!
//! Each sync of a directory puts the next generation of the table, if nobody else has put one: names change
//! together or not at all, and only for whoever opened the bucket last. Contents lie under keys that are used
//! once. An object is removed only after a generation was put that does not name it, so whoever has taken over
//! never misses one. What differs from a directory: a file that was never synced has no name after a crash,
//! and an opener does not find the bucket locked; it takes over, and its predecessor stops.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::file::{ObjectFile, Stored};
use super::{BlockCache, Bucket, OpenError, Put};
use crate::disk::{DirEntry, Disk, DiskFile, DiskLock};

/// Version of the bucket's layout.
pub const FORMAT_VERSION: u32 = 1;
/// Generations of the table that are kept behind the newest, for whoever looks at what happened.
const KEPT_GENERATIONS: u64 = 4;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Table {
    /// First, so that the first bytes tell one writer's table from another's.
    writer: String,
    format: u32,
    epoch: u64,
    dirs: BTreeSet<String>,
    files: BTreeMap<String, Stored>,
}

/// The files of a bucket. Clones share it.
#[derive(Clone)]
pub struct ObjectDisk {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    cache: BlockCache,
    /// Names this opener, in every table that it puts.
    writer: String,
    epoch: u64,
    state: Mutex<State>,
    locked: Arc<Mutex<HashSet<String>>>,
    /// One table at a time.
    publishing: Mutex<()>,
}

struct State {
    generation: u64,
    published: BTreeMap<String, Stored>,
    published_dirs: BTreeSet<String>,
    dirs: BTreeSet<String>,
    files: BTreeMap<String, Arc<ObjectFile>>,
    /// Objects that lose their last name with the next generation, and the handles that may still read them.
    unnamed: Vec<(Arc<str>, Weak<ObjectFile>)>,
    next_key: u64,
    right: Right,
}

/// What the opener may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Change,
    Look,
    /// Nothing any more: somebody else has opened it since.
    TakenOver,
}

impl ObjectDisk {
    /// Claims the bucket: from here on nobody who opened it earlier changes a name. `nonce` must differ from
    /// that of every other opener.
    pub fn open(bucket: Bucket, nonce: u64) -> Result<ObjectDisk, OpenError> {
        let writer = format!("{nonce:016x}");
        let name = bucket.name().to_owned();
        let failed = |action| {
            let name = name.clone();
            move |error| OpenError::Io { action, name, error }
        };
        let (generation, table) = loop {
            let own = bucket.clone();
            let newest = bucket.wait(async move { newest_table(&own, 0).await }).map_err(failed("read"))?;
            let (generation, before) = match newest {
                Some((generation, bytes)) => (generation, decode(&bytes, &name)?),
                None => {
                    refuse_foreign(&bucket, &name)?;
                    (0, Table::default())
                }
            };
            let table =
                Table { writer: writer.clone(), format: FORMAT_VERSION, epoch: before.epoch + 1, ..before };
            match put_table(&bucket, generation + 1, &table).map_err(failed("claim"))? {
                Put::Done => break (generation + 1, table),
                Put::Taken => {}
            }
        };
        let shared = Shared::new(&bucket, writer, generation, &table);
        remove_orphans(&bucket, &table).map_err(failed("clean up"))?;
        Ok(ObjectDisk { shared })
    }

    /// Opens the bucket as it is now without claiming it: nothing in it can be changed by this.
    pub fn look(bucket: Bucket) -> Result<ObjectDisk, OpenError> {
        let name = bucket.name().to_owned();
        let own = bucket.clone();
        let newest = bucket.wait(async move { newest_table(&own, 0).await });
        let newest = newest.map_err(|error| OpenError::Io { action: "read", name: name.clone(), error })?;
        let (generation, table) = match newest {
            Some((generation, bytes)) => (generation, decode(&bytes, &name)?),
            None => (0, Table::default()),
        };
        let shared = Shared::new(&bucket, String::new(), generation, &table);
        shared.state.lock().right = Right::Look;
        Ok(ObjectDisk { shared })
    }

    /// The bucket.
    pub fn bucket(&self) -> &Bucket {
        self.shared.cache.bucket()
    }

    /// Counts the openers of the bucket; no two share one.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// Whether this opener has claimed the bucket, and does not merely look at it.
    pub(crate) fn is_claimed(&self) -> bool {
        self.shared.state.lock().right != Right::Look
    }

    pub(crate) fn cache(&self) -> &BlockCache {
        &self.shared.cache
    }
}

impl Shared {
    fn new(bucket: &Bucket, writer: String, generation: u64, table: &Table) -> Arc<Shared> {
        Arc::new_cyclic(|shared: &Weak<Shared>| {
            let cache = BlockCache::new(bucket.clone());
            let open =
                |stored: &Stored| Arc::new(ObjectFile::stored(shared.clone(), cache.clone(), stored.clone()));
            let state = State {
                generation,
                files: table.files.iter().map(|(path, stored)| (path.clone(), open(stored))).collect(),
                published: table.files.clone(),
                published_dirs: table.dirs.clone(),
                dirs: table.dirs.clone(),
                unnamed: Vec::new(),
                next_key: 0,
                right: Right::Change,
            };
            Shared {
                cache,
                writer,
                epoch: table.epoch,
                state: Mutex::new(state),
                locked: Arc::default(),
                publishing: Mutex::new(()),
            }
        })
    }

    pub(super) fn cache(&self) -> &BlockCache {
        &self.cache
    }

    /// A key for contents that nobody has used.
    pub(super) fn new_key(&self) -> Arc<str> {
        let mut state = self.state.lock();
        state.next_key += 1;
        format!("files/{:08}-{:08}", self.epoch, state.next_key).into()
    }

    /// Takes note of an object that was replaced. It may be named until the next generation.
    pub(super) fn replaced(&self, key: Arc<str>) {
        self.state.lock().unnamed.push((key, Weak::new()));
    }

    /// Whether a published name leads to this object.
    pub(super) fn is_published(&self, key: &str) -> bool {
        self.state.lock().published.values().any(|stored| *stored.key == *key)
    }

    /// Puts the next generation, if any name has changed, and removes what has no name any more.
    pub(super) fn publish(&self) -> io::Result<()> {
        let _one = self.publishing.lock();
        loop {
            let state = self.state.lock();
            match state.right {
                Right::Change => {}
                Right::Look => return Err(io::ErrorKind::ReadOnlyFilesystem.into()),
                Right::TakenOver => return Err(taken_over()),
            }
            let files = state.files.iter().filter_map(|(path, file)| Some((path.clone(), file.place()?)));
            let table = Table {
                writer: self.writer.clone(),
                format: FORMAT_VERSION,
                epoch: self.epoch,
                dirs: state.dirs.clone(),
                files: files.collect(),
            };
            let generation = state.generation + 1;
            if table.files == state.published && table.dirs == state.published_dirs {
                return Ok(());
            }
            drop(state);
            let bytes = encode(&table)?;
            let bucket = self.cache.bucket();
            let put = put_table_bytes(bucket, generation, bytes, &self.writer)?;
            let own = bucket.clone();
            // A generation that was removed long ago could be put again: what counts is the highest one.
            let newer = bucket.wait(async move { newest_table(&own, generation + 1).await })?;
            let mut state = self.state.lock();
            if put == Put::Taken || newer.is_some() {
                state.right = Right::TakenOver;
                return Err(taken_over());
            }
            state.generation = generation;
            let came_late = self.read_back_differs(generation, &table)?;
            if came_late {
                // An earlier attempt of ours, given up, has arrived after all.
                continue;
            }
            state.published = table.files;
            state.published_dirs = table.dirs;
            let named: HashSet<Arc<str>> =
                state.published.values().map(|stored| stored.key.clone()).collect();
            let mut gone = Vec::new();
            state.unnamed.retain(|(key, readers)| {
                let remove = !named.contains(key) && readers.strong_count() == 0;
                if remove {
                    gone.push(key.to_string());
                }
                !remove && !named.contains(key)
            });
            drop(state);
            gone.extend(generation.checked_sub(KEPT_GENERATIONS).map(table_key));
            self.remove(gone);
            return Ok(());
        }
    }

    fn read_back_differs(&self, generation: u64, table: &Table) -> io::Result<bool> {
        let bucket = self.cache.bucket().clone();
        let key = table_key(generation);
        let bytes = self.cache.bucket().wait(async move { bucket.get(&key).await })?;
        Ok(serde_json::from_slice::<Table>(&bytes)? != *table)
    }

    /// Best effort: the next opener removes what stays behind.
    fn remove(&self, keys: Vec<String>) {
        let bucket = self.cache.bucket().clone();
        self.cache.bucket().spawn(async move {
            for key in keys {
                let _ = bucket.delete(&key).await;
            }
        });
    }
}

impl Disk for ObjectDisk {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let mut path = String::new();
        for part in dir.split('/').filter(|part| !matches!(*part, "" | ".")) {
            path = if path.is_empty() { part.to_owned() } else { format!("{path}/{part}") };
            state.dirs.insert(path.clone());
        }
        Ok(())
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.shared.state.lock();
        let file = state.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.clone())
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.shared.state.lock();
        if path.rsplit_once('/').is_some_and(|(dir, _)| !state.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(ObjectFile::new(Arc::downgrade(&self.shared), self.shared.cache.clone()));
        state.files.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        if let Some(replaced) = state.files.insert(to.to_owned(), file) {
            state.forget(&replaced);
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let file = state.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.forget(&file);
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        let state = self.shared.state.lock();
        let prefix = match dir {
            "." | "" => String::new(),
            dir if state.dirs.contains(dir) => format!("{dir}/"),
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        let within = |path: &str| {
            let name = path.strip_prefix(&prefix).filter(|name| !name.contains('/'))?;
            Some(name.to_owned())
        };
        let dirs = state
            .dirs
            .iter()
            .filter_map(|path| Some(DirEntry { name: within(path)?, bytes: 0, is_dir: true }));
        let files = state.files.iter().filter_map(|(path, file)| {
            Some(DirEntry { name: within(path)?, bytes: file.bytes(), is_dir: false })
        });
        let mut entries: Vec<_> = dirs.chain(files).collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Makes all names durable, those of other directories too.
    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        self.shared.publish()
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// Excludes other holders in this process. Other processes are not kept out: they take over.
    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        if !self.shared.locked.lock().insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(DiskLock::new(Held { locked: self.shared.locked.clone(), path: path.to_owned() }))
    }
}

struct Held {
    locked: Arc<Mutex<HashSet<String>>>,
    path: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.locked.lock().remove(&self.path);
    }
}

impl State {
    fn forget(&mut self, file: &Arc<ObjectFile>) {
        if let Some(stored) = file.place() {
            self.unnamed.push((stored.key, Arc::downgrade(file)));
        }
    }
}

fn taken_over() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "another broker has taken over this bucket; this one must not change it any more",
    )
}

fn table_key(generation: u64) -> String {
    format!("table/{generation:016}")
}

/// The newest table from `from` on, with its generation.
async fn newest_table(bucket: &Bucket, from: u64) -> io::Result<Option<(u64, Bytes)>> {
    loop {
        let keys = bucket.list("table").await?;
        let numbered =
            keys.iter().filter_map(|(key, _)| Some((key.strip_prefix("table/")?.parse::<u64>().ok()?, key)));
        let Some((generation, key)) = numbered.max().filter(|(generation, _)| *generation >= from) else {
            return Ok(None);
        };
        match bucket.get(key).await {
            // Replaced and removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => return outcome.map(|bytes| Some((generation, bytes))),
        }
    }
}

fn put_table(bucket: &Bucket, generation: u64, table: &Table) -> io::Result<Put> {
    put_table_bytes(bucket, generation, encode(table)?, &table.writer)
}

fn put_table_bytes(bucket: &Bucket, generation: u64, bytes: Bytes, writer: &str) -> io::Result<Put> {
    let identity = identity(writer);
    let own = bucket.clone();
    let attempts = std::sync::atomic::AtomicU32::new(0);
    bucket.wait(async move {
        let goes_on = || attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < super::ATTEMPTS;
        own.put_new(&table_key(generation), &[bytes], identity.as_bytes(), goes_on).await
    })
}

fn identity(writer: &str) -> String {
    format!("{{\"writer\":\"{writer}\"")
}

fn encode(table: &Table) -> io::Result<Bytes> {
    Ok(Bytes::from(serde_json::to_vec(table)?))
}

fn decode(bytes: &[u8], name: &str) -> Result<Table, OpenError> {
    let failed = |error: serde_json::Error| OpenError::Io {
        action: "read the table of",
        name: name.to_owned(),
        error: error.into(),
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(failed)?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(found) if found != u64::from(FORMAT_VERSION) => {
            Err(OpenError::Version { name: name.to_owned(), found, supported: FORMAT_VERSION })
        }
        _ => serde_json::from_value(value).map_err(failed),
    }
}

/// Without a table nothing below the prefix can be ours, but for what a probe left.
fn refuse_foreign(bucket: &Bucket, name: &str) -> Result<(), OpenError> {
    let own = bucket.clone();
    let keys = bucket.wait(async move { own.list("").await }).map_err(|error| OpenError::Io {
        action: "list",
        name: name.to_owned(),
        error,
    })?;
    let ours = |key: &str| key.starts_with("probe/") || key.starts_with("table/");
    match keys.into_iter().find(|(key, _)| !ours(key)) {
        Some((found, _)) => Err(OpenError::Foreign { name: name.to_owned(), found }),
        None => Ok(()),
    }
}

/// Removes contents that no name leads to. Whoever wrote them cannot name them any more.
fn remove_orphans(bucket: &Bucket, table: &Table) -> io::Result<()> {
    let own = bucket.clone();
    let named: HashSet<String> = table.files.values().map(|stored| stored.key.to_string()).collect();
    let before = format!("files/{:08}", table.epoch);
    bucket.wait(async move {
        for (key, _) in own.list("files").await? {
            if key < before && !named.contains(&key) {
                own.delete(&key).await?;
            }
        }
        Ok(())
    })
}
