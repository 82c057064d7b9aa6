//! A data directory: its lock, its identity, and where things lie in it.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::disk::{DirEntry, Disk, DiskLock, LocalDisk, ReadOnlyDisk};

/// Version of the directory's layout.
pub const FORMAT_VERSION: u32 = 5;
/// Directory of the journal.
pub const JOURNAL_DIR: &str = "journal";
/// Directory of the segments.
pub const SEGMENTS_DIR: &str = "segments";
/// Directory of the checkpoints.
pub const CHECKPOINTS_DIR: &str = "checkpoints";
/// Virtual shards of a new directory.
pub const SHARDS: u16 = 64;

const IDENTITY: &str = "posthaste.json";
const NEW_IDENTITY: &str = "posthaste.json.new";
const LOCK: &str = "lock";
/// Space that is given up when a start finds none.
const RESERVE: &str = "reserve";
/// Enough for the identity, the first journal file of a start, and what the file system needs beside them.
const RESERVE_BYTES: u64 = 4 << 20;
/// Largest identity file that is read, in bytes.
const MAX_IDENTITY_BYTES: usize = 64 * 1024;

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing to look at.
    #[error("{path} is no data directory: it holds no posthaste.json")]
    Absent {
        /// The directory.
        path: String,
    },
    /// The identity file does not read.
    #[error("{path}/posthaste.json is damaged ({reason}); restore it from a copy of the directory")]
    Damaged {
        /// The directory.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory holds something else.
    #[error("{path} is no data directory: it holds {found} but no posthaste.json; choose an empty directory")]
    Foreign {
        /// The directory.
        path: String,
        /// A name in it.
        found: String,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process; stop that process or choose another directory")]
    InUse {
        /// The directory.
        path: String,
    },
    /// The disk failed.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The directory.
        path: String,
        /// What the disk said.
        error: io::Error,
    },
    /// Another version of the program made it.
    #[error(
        "{path} has format version {found}, this program reads {supported}; use the program that made it"
    )]
    Version {
        /// The directory.
        path: String,
        /// Version in the directory.
        found: u64,
        /// Version that is understood.
        supported: u32,
    },
}

/// An open data directory. It stays locked until this is dropped.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    path: String,
    identity: Identity,
    _lock: DiskLock,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    format: u32,
    cluster: String,
    shards: u16,
    epoch: u64,
}

impl DataDir {
    /// Opens or creates the directory at `path`. `random` becomes the cluster id of a new one.
    pub fn open(path: &Path, random: [u8; 16]) -> Result<DataDir, OpenError> {
        let name = path.display().to_string();
        let failed = |error| OpenError::Io { action: "create", path: name.clone(), error };
        create_durably(path, &mut sync_dir).map_err(failed)?;
        let disk = Arc::new(LocalDisk::new(path));
        // Before the lock nothing is known to be ours, so a directory in use keeps its reserve.
        let short = || disk.free_bytes().is_some_and(|free| free < RESERVE_BYTES);
        if short() {
            DataDir::inspect(disk.clone(), &name).map(|_ours| give_up_reserve(&*disk)).ok();
        }
        let data = DataDir::open_on(disk.clone(), &name, random)?;
        if !short() {
            keep_reserve(&*disk);
        }
        Ok(data)
    }

    /// As [`DataDir::open`], on any disk; `path` is what messages call it.
    pub fn open_on(disk: Arc<dyn Disk>, path: &str, random: [u8; 16]) -> Result<DataDir, OpenError> {
        let failed = |action| move |error| OpenError::Io { action, path: path.to_owned(), error };
        // Before the lock: a foreign directory gets no file from us.
        check_ours(&*disk, path)?;
        let lock = take_lock(&*disk, path)?;
        let identity = match read_identity(&*disk, path)? {
            Some(identity) => Identity { epoch: identity.epoch.saturating_add(1), ..identity },
            None => Identity {
                format: FORMAT_VERSION,
                cluster: random.iter().map(|byte| format!("{byte:02x}")).collect(),
                shards: SHARDS,
                epoch: 1,
            },
        };
        write_identity(&*disk, &identity).map_err(failed("write the identity of"))?;
        for dir in [JOURNAL_DIR, SEGMENTS_DIR, CHECKPOINTS_DIR] {
            disk.create_dir(dir).map_err(failed("create directories in"))?;
        }
        disk.sync_dir(".").map_err(failed("sync"))?;
        Ok(DataDir { disk, path: path.to_owned(), identity, _lock: lock })
    }

    /// Locks an existing directory to look at it: nothing in it changes, and it is no start.
    pub fn inspect(disk: Arc<dyn Disk>, path: &str) -> Result<DataDir, OpenError> {
        check_ours(&*disk, path)?;
        let identity =
            read_identity(&*disk, path)?.ok_or_else(|| OpenError::Absent { path: path.to_owned() })?;
        let lock = take_lock(&*disk, path)?;
        let disk = Arc::new(ReadOnlyDisk(disk));
        Ok(DataDir { disk, path: path.to_owned(), identity, _lock: lock })
    }

    /// The disk whose root is this directory.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    /// What messages call it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// 32 hexadecimal digits, chosen once.
    pub fn cluster_id(&self) -> &str {
        &self.identity.cluster
    }

    /// How often the directory was opened, this time included. No two starts share one.
    pub fn epoch(&self) -> u64 {
        self.identity.epoch
    }

    /// Virtual shards, fixed when the directory was created.
    pub fn shards(&self) -> u16 {
        self.identity.shards
    }
}

/// Creates a directory, and its parents where they are missing, as durably as what is going to be
/// acknowledged in it: `sync` is given every directory in which a name is new.
fn create_durably(path: &Path, sync: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    std::fs::create_dir_all(path)?;
    if missing.is_empty() && !path.join(IDENTITY).exists() {
        // An earlier start may have made it, and ended before it came to this. It may as well be somebody
        // else's, in a directory that we cannot open.
        let _ = sync(parent_of(path));
    }
    missing.into_iter().try_for_each(|dir| sync(parent_of(dir)))
}

fn parent_of(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

/// Elsewhere the file system journals names by itself and directories cannot be opened.
#[cfg(not(unix))]
fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// A start needs some space: to count itself, and for a journal file to begin with. When others have taken
/// all there is, it takes this.
fn give_up_reserve(disk: &dyn Disk) {
    // Without it the start says what it has no space for.
    let _ = disk.remove(RESERVE);
}

fn keep_reserve(disk: &dyn Disk) {
    let Ok(file) = disk.create(RESERVE) else { return };
    if file.allocate(RESERVE_BYTES).and_then(|()| file.sync_data()).is_err() {
        let _ = disk.remove(RESERVE);
    }
}

fn take_lock(disk: &dyn Disk, path: &str) -> Result<DiskLock, OpenError> {
    let path = path.to_owned();
    match disk.lock(LOCK) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(OpenError::InUse { path }),
        outcome => outcome.map_err(|error| OpenError::Io { action: "lock", path, error }),
    }
}

fn check_ours(disk: &dyn Disk, path: &str) -> Result<(), OpenError> {
    let entries =
        disk.list(".").map_err(|error| OpenError::Io { action: "list", path: path.into(), error })?;
    if entries.iter().any(|entry| entry.name == IDENTITY) {
        return Ok(());
    }
    // A first start that was interrupted left at most these; ext4 puts lost+found into a fresh volume.
    let harmless = |entry: &&DirEntry| ![LOCK, NEW_IDENTITY, "lost+found"].contains(&entry.name.as_str());
    match entries.iter().find(harmless) {
        Some(entry) => Err(OpenError::Foreign { path: path.to_owned(), found: entry.name.clone() }),
        None => Ok(()),
    }
}

fn read_identity(disk: &dyn Disk, path: &str) -> Result<Option<Identity>, OpenError> {
    let read = || -> io::Result<Option<Vec<u8>>> {
        let file = match disk.open(IDENTITY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            outcome => outcome?,
        };
        let mut bytes = vec![0; MAX_IDENTITY_BYTES];
        let read = file.read_at(0, &mut bytes)?;
        bytes.truncate(read);
        Ok(Some(bytes))
    };
    let bytes = read().map_err(|error| OpenError::Io { action: "read", path: path.to_owned(), error })?;
    let Some(bytes) = bytes else { return Ok(None) };
    let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(found) if found == u64::from(FORMAT_VERSION) => {}
        Some(found) => {
            let supported = FORMAT_VERSION;
            return Err(OpenError::Version { path: path.to_owned(), found, supported });
        }
        None => return Err(damaged("it names no format version".to_owned())),
    }
    let identity: Identity = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
    if identity.shards == 0 {
        return Err(damaged("it names no shards".to_owned()));
    }
    Ok(Some(identity))
}

fn write_identity(disk: &dyn Disk, identity: &Identity) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(identity)?;
    bytes.push(b'\n');
    match disk.remove(NEW_IDENTITY) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(NEW_IDENTITY)?;
    file.write_at(0, &[IoSlice::new(&bytes)])?;
    file.sync_data()?;
    disk.rename(NEW_IDENTITY, IDENTITY)?;
    disk.sync_dir(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    fn open(disk: &SimDisk, random: u8) -> Result<DataDir, OpenError> {
        DataDir::open_on(Arc::new(disk.clone()), "data", [random; 16])
    }

    #[test]
    fn every_directory_in_which_a_name_is_new_is_synced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/data");
        let synced = || {
            let mut synced = Vec::new();
            let mut sync = |dir: &Path| {
                assert!(path.exists(), "synced before the name was there");
                synced.push(dir.to_path_buf());
                sync_dir(dir)
            };
            create_durably(&path, &mut sync).unwrap();
            synced
        };
        let parent = root.path().join("a/b");
        assert_eq!(synced(), [parent.clone(), root.path().join("a"), root.path().to_path_buf()]);
        assert_eq!(synced(), [parent], "a start may have ended before it came to this");
        DataDir::open(&path, [1; 16]).unwrap();
        assert_eq!(synced(), Vec::<std::path::PathBuf>::new());
        assert_eq!(parent_of(Path::new("data")), Path::new("."));
    }

    #[test]
    fn identity_stays_and_the_epoch_counts_starts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("data");
        for epoch in 1..4 {
            let opened = DataDir::open(&path, [epoch; 16]).unwrap();
            assert_eq!(opened.cluster_id(), "01".repeat(16));
            assert_eq!((opened.epoch(), opened.shards()), (u64::from(epoch), 64));
            let second = DataDir::open(&path, [9; 16]);
            assert!(matches!(&second, Err(OpenError::InUse { .. })));
        }
    }

    #[test]
    fn what_is_not_ours_is_refused_and_left_alone() {
        let put = |name: &str, text: &str| {
            let disk = SimDisk::new(1);
            disk.create(name).unwrap().write_at(0, &[IoSlice::new(text.as_bytes())]).unwrap();
            let error = open(&disk, 1).err().unwrap();
            (error, disk.list(".").unwrap().len())
        };
        let (error, files) = put("letter.txt", "dear");
        assert!(matches!(&error, OpenError::Foreign { found, .. } if found == "letter.txt"), "{error}");
        assert_eq!(files, 1);
        let (error, _) = put(IDENTITY, r#"{"format": 6, "new": true}"#);
        assert!(matches!(error, OpenError::Version { found: 6, supported: 5, .. }), "{error}");
        for text in ["", "{", "[]", r#"{"format": 5}"#, r#"{"format":5,"cluster":"a","shards":0,"epoch":1}"#]
        {
            let (error, _) = put(IDENTITY, text);
            assert!(matches!(error, OpenError::Damaged { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn a_crash_never_loses_the_identity_nor_repeats_an_epoch() {
        for seed in 0..200 {
            let disk = SimDisk::new(seed);
            let mut random = crate::Random::new(seed);
            let mut last: Option<(String, u64)> = None;
            for start in 0..5 {
                disk.cut_power_after(random.below(14));
                if let Ok(opened) = open(&disk, start) {
                    if let Some((cluster, epoch)) = &last {
                        assert!(opened.cluster_id() == cluster && opened.epoch() > *epoch);
                    }
                    last = Some((opened.cluster_id().to_owned(), opened.epoch()));
                }
                disk.crash();
            }
            assert!(open(&disk, 9).is_ok());
        }
    }
}
