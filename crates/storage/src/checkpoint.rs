//! Checkpoints: the state of all shards as sorted keys and values, so that recovery need not replay
//! everything.
//!
//! A generation is a manifest that names one base file and the delta files over it, all immutable and
//! checksummed. It becomes current by a rename, after its files were synced, read back past the page cache,
//! and verified. The current and the previous generation are kept; if the current one is damaged, the previous
//! one is loaded and the loss is told. If neither is whole (they share files), what is readable of the newest
//! is loaded, and told which keys are not.

mod file;
mod manifest;
mod merge;
mod read_back;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

pub use file::{FORMAT_VERSION, LostKeys};

pub(crate) use file::{SliceFile, repair as repair_file, scan as scan_file};
pub(crate) use manifest::Manifest;

use crate::disk::Disk;
use file::{FileInfo, FileReader, FileWriter, Kind};
use merge::Merge;

/// After this many deltas a new base is due.
const MAX_DELTAS: usize = 16;
/// Deltas this small are not worth a new base.
const SMALL_DELTA_BYTES: u64 = 256 * 1024;
/// Generations kept.
const GENERATIONS: usize = 2;

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// No kept generation can be read.
    #[error("no readable checkpoint: {}; restore the directory from a copy", .0.join("; "))]
    Damaged(Vec<String>),
    /// The disk failed.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried.
        action: String,
        /// What the disk said.
        error: io::Error,
    },
    /// The changes did not come in ascending order of their keys, each once.
    #[error("checkpoint keys are not ascending")]
    Unsorted,
    /// A key or value is too large, or the metadata.
    #[error("a checkpoint entry of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// What was read back differs from what was written.
    #[error("checkpoint file {file} did not read back as written; the disk may be failing")]
    Unverified {
        /// Its name.
        file: String,
    },
    /// Another version of the program wrote it.
    #[error("checkpoint file {file} has format version {found}; this program reads version {supported}")]
    Version {
        /// Its name.
        file: String,
        /// Version in the file.
        found: u32,
        /// Version that is understood.
        supported: u32,
    },
}

/// What a write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys written, removals included.
    pub entries: u64,
    /// Bytes of the file written.
    pub bytes: u64,
    /// Deltas over the base from now on.
    pub deltas: usize,
}

/// The checkpoints of a directory, open for writing.
pub struct Checkpoints {
    dir: Dir,
    current: Option<Manifest>,
    previous: Option<Manifest>,
    next_file: u64,
    /// Files with damage: set aside once they are not needed.
    damaged: Vec<String>,
}

/// The state that the newest readable generation holds.
pub struct Loaded {
    /// As given to the write that made it.
    pub meta: Vec<u8>,
    /// What could not be read, if this is not the newest generation that was written.
    pub damaged: Vec<String>,
    /// What this generation lacks, because none is whole.
    pub lost: Vec<LostKeys>,
    salvaged: bool,
    dir: Dir,
    manifest: Manifest,
}

#[derive(Clone)]
struct Dir {
    disk: Arc<dyn Disk>,
    path: String,
}

impl Checkpoints {
    /// Opens a directory, creating it if need be, and verifies its generations, newest first, until one is
    /// whole. If none is, but a manifest can be read, what is readable of the newest of these is loaded.
    /// Without any generation there is nothing loaded; with only unreadable manifests it is an error.
    pub fn open(disk: Arc<dyn Disk>, dir: &str) -> Result<(Checkpoints, Option<Loaded>), CheckpointError> {
        let dir = Dir { disk, path: dir.to_owned() };
        dir.disk.create_dir(&dir.path).map_err(|error| io_error("open", &dir.path, error))?;
        let next_file = dir.highest_number()? + 1;
        let mut checkpoints =
            Checkpoints { dir, current: None, previous: None, next_file, damaged: Vec::new() };
        let Some(found) = checkpoints.dir.find()? else { return Ok((checkpoints, None)) };
        checkpoints.current = Some(found.current.clone());
        checkpoints.previous = found.previous.clone();
        let needed = found.current.names();
        for fault in &found.faults {
            let names = [manifest_name(fault.number)].into_iter().chain(fault.files.iter().cloned());
            for name in names.filter(|name| !needed.contains(name)) {
                checkpoints.dir.set_aside(&name)?;
            }
            checkpoints.damaged.extend(fault.files.iter().filter(|name| needed.contains(name)).cloned());
        }
        checkpoints.remove_unneeded()?;
        let loaded = found.into_loaded(checkpoints.dir.clone());
        Ok((checkpoints, Some(loaded)))
    }

    /// Reads what [`Checkpoints::open`] would read, and changes nothing. Also returns what is wrong with
    /// generations that are not loaded.
    pub fn inspect(disk: Arc<dyn Disk>, dir: &str) -> Result<Option<(Loaded, Vec<String>)>, CheckpointError> {
        let dir = Dir { disk, path: dir.to_owned() };
        let Some(found) = dir.find()? else { return Ok(None) };
        let faults = found.faults.iter().map(|fault| fault.text.clone()).collect();
        Ok(Some((found.into_loaded(dir), faults)))
    }

    /// Adds a delta: keys in ascending order, each with its value, or `None` to remove it. When this
    /// returns, the new generation is durable and verified.
    pub fn write(
        &mut self,
        meta: &[u8],
        changes: &mut dyn Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
    ) -> Result<Stats, CheckpointError> {
        let (base, mut deltas) = match &self.current {
            Some(current) => (current.base.clone(), current.deltas.clone()),
            None => (None, Vec::new()),
        };
        let info = self.write_file(Kind::Delta, |writer| {
            for (key, value) in &mut *changes {
                writer.push(&key, value.as_deref())?;
            }
            Ok(())
        })?;
        let (entries, bytes) = info.as_ref().map_or((0, 0), |info| (info.entries, info.bytes));
        deltas.extend(info);
        let stats = Stats { entries, bytes, deltas: deltas.len() };
        self.switch(meta, base, deltas)?;
        Ok(stats)
    }

    /// Whether merging the deltas into a new base would pay.
    pub fn wants_base(&self) -> bool {
        let Some(current) = &self.current else { return false };
        if current.names().iter().any(|name| self.damaged.contains(name)) {
            return true;
        }
        let deltas: u64 = current.deltas.iter().map(|delta| delta.bytes).sum();
        let base = current.base.as_ref().map_or(0, |base| base.bytes);
        current.deltas.len() > MAX_DELTAS || (deltas > base / 2 && deltas > SMALL_DELTA_BYTES)
    }

    /// Merges base and deltas into a new base, a block of each in memory at a time. The state stays the same.
    pub fn write_base(&mut self, meta: &[u8]) -> Result<Stats, CheckpointError> {
        let Some(current) = self.current.clone() else { return self.write(meta, &mut std::iter::empty()) };
        let mut merge = match self.damaged.is_empty() {
            true => Merge::open(&self.dir, &current)?,
            // What is lost was told when it was loaded.
            false => Merge::salvage(&self.dir, &current)?,
        };
        let info = self.write_file(Kind::Base, |writer| {
            while let Some((key, value)) = merge.next()? {
                writer.push(&key, Some(&value))?;
            }
            Ok(())
        })?;
        let (entries, bytes) = info.as_ref().map_or((0, 0), |info| (info.entries, info.bytes));
        self.switch(meta, info, Vec::new())?;
        Ok(Stats { entries, bytes, deltas: 0 })
    }

    /// The metadata of the current generation.
    pub fn meta(&self) -> Option<&[u8]> {
        self.current.as_ref().map(|manifest| &manifest.meta[..])
    }

    /// The metadata of the generation that would be loaded if the current one were damaged. What that one
    /// needs, from the journal or from segments, must be kept.
    pub fn fallback_meta(&self) -> Option<&[u8]> {
        self.previous.as_ref().map(|manifest| &manifest.meta[..])
    }

    /// Writes, syncs and verifies a file; `None` if nothing was pushed.
    fn write_file(
        &mut self,
        kind: Kind,
        fill: impl FnOnce(&mut FileWriter) -> Result<(), CheckpointError>,
    ) -> Result<Option<FileInfo>, CheckpointError> {
        let number = self.next_file;
        self.next_file += 1;
        let mut writer = FileWriter::create(&self.dir, kind, number)?;
        let outcome = fill(&mut writer).and_then(|()| writer.finish());
        match outcome {
            Ok(info) if info.entries > 0 => Ok(Some(info)),
            Ok(info) => {
                self.dir.discard(&info.name());
                Ok(None)
            }
            Err(error) => {
                self.dir.discard(&kind.name(number));
                Err(error)
            }
        }
    }

    fn switch(
        &mut self,
        meta: &[u8],
        base: Option<FileInfo>,
        deltas: Vec<FileInfo>,
    ) -> Result<(), CheckpointError> {
        let manifest = Manifest { number: self.next_file, meta: meta.to_vec(), base, deltas };
        self.next_file += 1;
        manifest.publish(&self.dir)?;
        self.previous = self.current.replace(manifest);
        self.remove_unneeded()?;
        // A power cut must not bring an older generation back: what it needs is about to be released.
        self.dir.disk.sync_dir(&self.dir.path).map_err(|error| io_error("sync", &self.dir.path, error))
    }

    fn remove_unneeded(&self) -> Result<(), CheckpointError> {
        let kept: Vec<String> = [&self.current, &self.previous]
            .into_iter()
            .flatten()
            .take(GENERATIONS)
            .flat_map(Manifest::names)
            .collect();
        for name in self.dir.names()? {
            let ours = number_of(&name).is_some() || name.ends_with(".manifest.new");
            if ours && !kept.contains(&name) && self.damaged.contains(&name) {
                self.dir.set_aside(&name)?;
            } else if ours && !kept.contains(&name) {
                self.dir
                    .disk
                    .remove(&self.dir.join(&name))
                    .map_err(|error| io_error("remove", &name, error))?;
            }
        }
        Ok(())
    }
}

impl Loaded {
    /// Calls `visit` with every key and value, in ascending order of keys.
    pub fn for_each(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64, CheckpointError> {
        let mut merge = match self.salvaged {
            false => Merge::open(&self.dir, &self.manifest)?,
            true => Merge::salvage(&self.dir, &self.manifest)?,
        };
        let mut entries = 0;
        while let Some((key, value)) = merge.next()? {
            visit(&key, &value);
            entries += 1;
        }
        Ok(entries)
    }
}

/// The generations of a directory.
struct Found {
    current: Manifest,
    previous: Option<Manifest>,
    /// What the current one lacks.
    lost: Vec<LostKeys>,
    salvaged: bool,
    faults: Vec<Fault>,
}

impl Found {
    fn into_loaded(self, dir: Dir) -> Loaded {
        // What is wrong with older generations costs nothing yet.
        let faults = self.faults.into_iter().filter(|fault| fault.number >= self.current.number);
        let (damaged, meta) = (faults.map(|fault| fault.text).collect(), self.current.meta.clone());
        Loaded { meta, damaged, lost: self.lost, salvaged: self.salvaged, dir, manifest: self.current }
    }
}

/// What makes a generation unreadable.
struct Fault {
    number: u64,
    text: String,
    /// The manifest, if that is not what is damaged, and all files are there.
    manifest: Option<Manifest>,
    /// The damaged files, if it is not the manifest itself.
    files: Vec<String>,
}

impl Dir {
    fn join(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    fn names(&self) -> Result<Vec<String>, CheckpointError> {
        let entries = self.disk.list(&self.path).map_err(|error| io_error("list", &self.path, error))?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }

    fn highest_number(&self) -> Result<u64, CheckpointError> {
        let names = self.names()?;
        let numbers = names.iter().filter_map(|name| number_of(name.trim_end_matches(".damaged")));
        Ok(numbers.max().unwrap_or(0))
    }

    fn manifest_numbers(&self) -> Result<Vec<u64>, CheckpointError> {
        let names = self.names()?;
        let mut numbers: Vec<u64> = names
            .iter()
            .filter(|name| name.ends_with(".manifest"))
            .filter_map(|name| number_of(name))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Looks for the newest whole generation and the one before; without a whole one, for the newest of which
    /// anything can be read.
    fn find(&self) -> Result<Option<Found>, CheckpointError> {
        let mut manifests = self.manifest_numbers()?;
        let mut whole: Vec<Manifest> = Vec::new();
        let mut faults = Vec::new();
        while whole.len() < GENERATIONS
            && let Some(number) = manifests.pop()
        {
            match self.verify(number)? {
                Ok(manifest) => whole.push(manifest),
                // Damage to the generation before the current one costs nothing yet, but it is no fallback
                // either.
                Err(fault) => faults.push(fault),
            }
        }
        let mut whole = whole.into_iter();
        if let Some(current) = whole.next() {
            return Ok(Some(Found {
                current,
                previous: whole.next(),
                lost: Vec::new(),
                salvaged: false,
                faults,
            }));
        }
        let Some(current) = faults.iter().find_map(|fault| fault.manifest.clone()) else {
            let texts: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
            return if texts.is_empty() { Ok(None) } else { Err(CheckpointError::Damaged(texts)) };
        };
        let mut merge = Merge::salvage(self, &current)?;
        while merge.next()?.is_some() {}
        Ok(Some(Found { current, previous: None, lost: merge.lost(), salvaged: true, faults }))
    }

    /// Reads a generation and all its files.
    fn verify(&self, number: u64) -> Result<Result<Manifest, Fault>, CheckpointError> {
        let name = manifest_name(number);
        let Some(manifest) = Manifest::read(self, number)? else {
            let text = format!("{name} is damaged");
            return Ok(Err(Fault { number, text, manifest: None, files: Vec::new() }));
        };
        let mut damaged = Vec::new();
        for info in manifest.files() {
            match FileReader::verify(self, info) {
                Ok(()) => {}
                Err(CheckpointError::Unverified { file }) => {
                    damaged.push(file);
                }
                Err(CheckpointError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                    let text = format!("{name} needs {}, which is missing", info.name());
                    return Ok(Err(Fault { number, text, manifest: None, files: Vec::new() }));
                }
                Err(error) => return Err(error),
            }
        }
        if damaged.is_empty() {
            return Ok(Ok(manifest));
        }
        let text = format!("{name} needs {}, which is damaged", damaged.join(" and "));
        Ok(Err(Fault { number, text, manifest: Some(manifest), files: damaged }))
    }

    /// Keeps a damaged file out of the way, without destroying it.
    fn set_aside(&self, name: &str) -> Result<(), CheckpointError> {
        let path = self.join(name);
        match self.disk.rename(&path, &format!("{path}.damaged")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("rename", name, error)),
            _ => Ok(()),
        }
    }

    fn discard(&self, name: &str) {
        // Best effort: the next start removes what nothing names.
        let _ = self.disk.remove(&self.join(name));
    }
}

fn manifest_name(number: u64) -> String {
    format!("{number:016x}.manifest")
}

fn number_of(name: &str) -> Option<u64> {
    let (digits, kind) = name.split_once('.')?;
    let known = digits.len() == 16 && matches!(kind, "manifest" | "base" | "delta");
    if known { u64::from_str_radix(digits, 16).ok() } else { None }
}

fn io_error(action: &str, name: &str, error: io::Error) -> CheckpointError {
    CheckpointError::Io { action: format!("{action} checkpoint file {name}"), error }
}
