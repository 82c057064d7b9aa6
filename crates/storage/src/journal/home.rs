//! Where a journal's files live. A directory is the first home, a bucket (`super::object`) the second.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::note::NOTE_FILE_BYTES;
use super::staging::Staging;
use crate::disk::{BLOCK_BYTES, Disk, DiskFile, Reserving};
use crate::object::Ownership;

/// What is done about the blocks of a new file before they are needed.
pub enum Blocks<'a> {
    /// They are written, so that a sync has nothing to make durable but what the journal wrote. The function
    /// is called between the parts of that; it returns whether the file is needed soon.
    Written(&'a mut dyn FnMut() -> bool),
    /// They are only reserved: the disk is spared from writing everything twice, where writes are so large
    /// that what a sync has to do besides does not count.
    Reserved,
}

/// A place for journal files, which are known by number.
pub trait JournalHome: Send + Sync {
    /// Numbers and sizes in bytes of all files.
    fn list(&self) -> io::Result<Vec<(u64, u64)>>;

    /// Opens an existing file.
    fn open(&self, number: u64) -> io::Result<Arc<dyn HomeFile>>;

    /// Creates a file of `bytes` that reads as zeros; when this returns, the file and its name are durable.
    fn create(&self, number: u64, bytes: u64, blocks: Blocks<'_>) -> io::Result<Arc<dyn HomeFile>>;

    /// Removes a file; it may come back if the power is cut.
    fn remove(&self, number: u64) -> io::Result<()>;

    /// Takes a damaged file out of the list without destroying it.
    fn set_aside(&self, number: u64) -> io::Result<()>;

    /// Remembers, across starts, that a file is to be set aside when it is released.
    fn suspect(&self, _number: u64) -> io::Result<()> {
        Ok(())
    }

    /// The files of which [`JournalHome::suspect`] was told and that are not set aside yet.
    fn suspects(&self) -> io::Result<BTreeSet<u64>> {
        Ok(BTreeSet::new())
    }

    /// The file for the note of the durable position, which is made of zeros if need be and `create` says so.
    /// None if there is none, or where the home knows what is durable without it.
    fn note(&self, _create: bool) -> io::Result<Option<Arc<dyn DiskFile>>> {
        Ok(None)
    }

    /// Takes a note that cannot be read out of the way, without destroying it.
    fn set_note_aside(&self) -> io::Result<()> {
        Ok(())
    }

    /// Bytes that new files could take; a hint.
    fn free_bytes(&self) -> Option<u64>;

    /// Whether what was created is sure to have its space when it is written, again and again.
    fn reserves_space(&self) -> bool {
        true
    }

    /// Whether files are made before their contents are known.
    fn makes_files_ahead(&self) -> bool {
        true
    }

    /// What is known of whether the opener owns it still, where others can take it over.
    fn ownership(&self) -> Option<&Ownership> {
        None
    }
}

/// A journal file. Its size never changes.
pub trait HomeFile: Send + Sync {
    /// Size in bytes.
    fn bytes(&self) -> u64;

    /// Fills `buffer` from `position`; returns fewer bytes only at the end of the file.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all parts one after the other. Positions only grow within one life of a file. With
    /// `sync_follows` it is likely that a sync is next, so that gathering writes saves nothing.
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>], sync_follows: bool) -> io::Result<()>;

    /// Nothing of it has been read for long: see [`DiskFile::assume_uncached`].
    fn assume_uncached(&self) {}

    /// Makes what was written durable. An error ends the journal.
    fn sync(&self) -> io::Result<()>;

    /// Whether many of its blocks are still only [`Blocks::Reserved`].
    fn is_reserved(&self) -> bool {
        false
    }
}

/// A directory of a [`Disk`].
pub struct DiskHome {
    disk: Arc<dyn Disk>,
    dir: String,
    staging: Arc<Mutex<Staging>>,
    reserves_space: bool,
}

impl DiskHome {
    /// Uses `dir`, creating it if need be.
    pub fn open(disk: Arc<dyn Disk>, dir: &str) -> io::Result<DiskHome> {
        disk.create_dir(dir)?;
        let reserves_space = disk.reserving() == Reserving::Reserves;
        Ok(DiskHome { disk, dir: dir.to_owned(), staging: Arc::default(), reserves_space })
    }

    /// `written`: the end of what the file's blocks were written to, with zeros at least.
    fn file(&self, number: u64, bytes: u64, file: Arc<dyn DiskFile>, written: u64) -> Arc<dyn HomeFile> {
        let written = AtomicU64::new(written);
        Arc::new(DiskHomeFile { number, bytes, file, staging: self.staging.clone(), written })
    }

    fn path(&self, number: u64) -> String {
        format!("{}/{}", self.dir, super::file_name(number))
    }

    /// The name that says of a file that it is damaged, and nothing else.
    fn mark(&self, number: u64) -> String {
        format!("{}/{number:016x}{MARK_ENDING}", self.dir)
    }
}

impl JournalHome for DiskHome {
    fn list(&self) -> io::Result<Vec<(u64, u64)>> {
        let entries = self.disk.list(&self.dir)?;
        let numbered = entries.iter().filter_map(|entry| Some((number_of(&entry.name)?, entry.bytes)));
        Ok(numbered.collect())
    }

    fn open(&self, number: u64) -> io::Result<Arc<dyn HomeFile>> {
        let file = self.disk.open(&self.path(number))?;
        let bytes = file.size()?;
        Ok(self.file(number, bytes, file, bytes))
    }

    fn create(&self, number: u64, bytes: u64, blocks: Blocks<'_>) -> io::Result<Arc<dyn HomeFile>> {
        let path = self.path(number);
        let file = self.disk.create(&path)?;
        let (made, written) = match blocks {
            Blocks::Written(rest) => (fill(&*file, bytes, rest), bytes),
            Blocks::Reserved => (file.reserve(bytes), 0),
        };
        if let Err(error) = made.and_then(|()| file.sync_data()).and_then(|()| self.disk.sync_dir(&self.dir))
        {
            // Best effort: what stays behind is a blank file, which the next start removes.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        Ok(self.file(number, bytes, file, written))
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.disk.remove(&self.path(number))
    }

    fn set_aside(&self, number: u64) -> io::Result<()> {
        let aside = format!("{}/{number:016x}.damaged", self.dir);
        self.disk.rename(&self.path(number), &aside)?;
        // No file gets the number again, so a mark that stays says nothing.
        let _ = self.disk.remove(&self.mark(number));
        self.disk.sync_dir(&self.dir)
    }

    fn suspect(&self, number: u64) -> io::Result<()> {
        match self.disk.create(&self.mark(number)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.disk.sync_dir(&self.dir),
        }
    }

    fn suspects(&self) -> io::Result<BTreeSet<u64>> {
        let entries = self.disk.list(&self.dir)?;
        Ok(entries.iter().filter_map(|entry| number_before(&entry.name, MARK_ENDING)).collect())
    }

    fn note(&self, create: bool) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let path = format!("{}/{NOTE_NAME}", self.dir);
        match self.disk.open(&path) {
            // One whose making was interrupted is too short.
            Ok(file) if create && file.size()? < NOTE_FILE_BYTES => {
                file.allocate(NOTE_FILE_BYTES)?;
                file.sync_data()?;
                self.disk.sync_dir(&self.dir)?;
                return Ok(Some(file));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            outcome => return outcome.map(Some),
        }
        let file = self.disk.create(&path)?;
        let made = file.allocate(NOTE_FILE_BYTES).and_then(|()| file.sync_data());
        if let Err(error) = made.and_then(|()| self.disk.sync_dir(&self.dir)) {
            // Best effort: one that is too short is as good as none.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        Ok(Some(file))
    }

    fn set_note_aside(&self) -> io::Result<()> {
        let path = format!("{}/{NOTE_NAME}", self.dir);
        match self.disk.rename(&path, &format!("{path}.damaged")) {
            // It may be the note that is missing.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.disk.sync_dir(&self.dir),
        }
    }

    fn free_bytes(&self) -> Option<u64> {
        self.disk.free_bytes()
    }

    fn reserves_space(&self) -> bool {
        self.reserves_space
    }
}

const NOTE_NAME: &str = "durable";
const MARK_ENDING: &str = ".suspect";

/// Zeros written at a time: a sync of the journal waits behind no more than this.
const PART_BYTES: u64 = 256 << 10;
/// And when the journal would rather wait for a sync than for the file.
const SOON_PART_BYTES: u64 = 2 << 20;

fn fill(file: &dyn DiskFile, bytes: u64, rest: &mut dyn FnMut() -> bool) -> io::Result<()> {
    let (mut filled, mut part) = (0, PART_BYTES);
    while bytes - filled > part {
        filled += part;
        file.allocate(filled)?;
        part = if rest() { SOON_PART_BYTES } else { PART_BYTES };
    }
    file.allocate(bytes)
}

/// So much at a time is written past a page cache even if no sync follows: that takes less of the processor,
/// and the syncs that come later, before the next file at the latest, have nothing left to wait for.
const PAST_CACHE_FROM: u64 = 256 << 10;

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

struct DiskHomeFile {
    number: u64,
    bytes: u64,
    file: Arc<dyn DiskFile>,
    staging: Arc<Mutex<Staging>>,
    written: AtomicU64,
}

impl HomeFile for DiskHomeFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(position, buffer)
    }

    /// Always up to the end of the last block, where nothing is needed yet: the system need not read that
    /// block first.
    fn write_at(&self, position: u64, parts: &[IoSlice<'_>], sync_follows: bool) -> io::Result<()> {
        let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let end = position.saturating_add(length);
        let padded = end.next_multiple_of(BLOCK_BYTES as u64);
        self.written.fetch_max(padded, Ordering::Relaxed);
        let mut staging = self.staging.lock();
        if (sync_follows || length >= PAST_CACHE_FROM) && padded <= self.bytes {
            return staging.write(self.number, &*self.file, position, parts);
        }
        // Nor the first one.
        let before = staging.leave(self.number, position);
        let pad = padded.min(self.bytes).saturating_sub(end) as usize;
        let mut all = Vec::with_capacity(parts.len() + 2);
        all.push(IoSlice::new(before));
        all.extend_from_slice(parts);
        all.push(IoSlice::new(&ZEROS[..pad]));
        self.file.write_at(position - before.len() as u64, &all)
    }

    fn assume_uncached(&self) {
        self.file.assume_uncached();
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn is_reserved(&self) -> bool {
        // At the end of a full file there may be no room for another frame.
        self.written.load(Ordering::Relaxed) < self.bytes / 4 * 3
    }
}

pub(super) fn number_of(name: &str) -> Option<u64> {
    number_before(name, ".journal")
}

fn number_before(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::LocalDisk;

    #[test]
    fn frames_that_go_past_the_page_cache_and_through_it_lie_behind_one_another() {
        let dir = tempfile::tempdir().unwrap();
        let home = DiskHome::open(Arc::new(LocalDisk::new(dir.path())), "journal").unwrap();
        in_turn(&home, 1, Blocks::Written(&mut || true));
        in_turn(&home, 2, Blocks::Reserved);
    }

    fn in_turn(home: &DiskHome, number: u64, blocks: Blocks<'_>) {
        let file = home.create(number, 8 << 20, blocks).unwrap();
        let large = PAST_CACHE_FROM as usize;
        let mut expected = Vec::new();
        for (length, sync_follows) in [
            (1_000, false),
            (large + 1_000, false),
            (3_000, false),
            (5_000, true),
            (2 * large, false),
            (large - 1, false),
            (3_333, true),
            (large, true),
            (1 << 20, false),
            (100, false),
        ] {
            let content: Vec<u8> = (0..length).map(|at| (at * 7 + expected.len()) as u8).collect();
            let parts = content.chunks(70_000).map(IoSlice::new).collect::<Vec<_>>();
            file.write_at(expected.len() as u64, &parts, sync_follows).unwrap();
            expected.extend_from_slice(&content);
        }
        file.sync().unwrap();
        for file in [file, home.open(number).unwrap()] {
            let mut read = vec![1; expected.len() + BLOCK_BYTES];
            assert_eq!(file.read_at(0, &mut read).unwrap(), read.len());
            assert!(read[..expected.len()] == expected);
            assert!(read[expected.len()..].iter().all(|byte| *byte == 0), "what was not written yet");
        }
    }
}
