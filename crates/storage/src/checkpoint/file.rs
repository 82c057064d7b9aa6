//! Base and delta files: sorted keys in checksummed blocks. Integers are little-endian.
//!
//! ```text
//! header   magic 8 | version 4 | crc 4 | number 8 | kind 1 | zero 7
//! block    crc 4 | length 4 | entries 4 | index 4, then entries: key_len 4 | value_len 4 | key | value
//! trailer  a block of no entries and no length, whose index is the number of blocks before it
//! ```
//!
//! A `value_len` of all ones removes the key. Every block's checksum covers the file's number and the
//! block's index.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::read_back::ReadBack;
use super::{CheckpointError, Dir, io_error};
use crate::disk::DiskFile;
use crate::journal::format::{u32_at, u64_at};

/// Version of the checkpoint's files; written into each.
pub const FORMAT_VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 32;
const BLOCK_HEADER_BYTES: usize = 16;
const ENTRY_HEADER_BYTES: usize = 8;
/// A block is closed once it holds this many bytes.
const BLOCK_BYTES: usize = 64 * 1024;
/// Largest key plus value, in bytes.
const MAX_ENTRY_BYTES: usize = 1 << 30;
/// Read at once when a block is looked for behind damage.
const SCAN_BYTES: u64 = 1 << 20;
const REMOVED: u32 = u32::MAX;
const MAGIC: [u8; 8] = *b"PHCHKPNT";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Base,
    Delta,
}

impl Kind {
    pub fn name(self, number: u64) -> String {
        match self {
            Kind::Base => format!("{number:016x}.base"),
            Kind::Delta => format!("{number:016x}.delta"),
        }
    }

    pub fn code(self) -> u8 {
        match self {
            Kind::Base => 0,
            Kind::Delta => 1,
        }
    }

    pub fn of_code(code: u8) -> Option<Kind> {
        match code {
            0 => Some(Kind::Base),
            1 => Some(Kind::Delta),
            _ => None,
        }
    }
}

/// What a manifest says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileInfo {
    pub kind: Kind,
    pub number: u64,
    pub bytes: u64,
    pub entries: u64,
    /// Over all block checksums.
    pub crc: u32,
}

impl FileInfo {
    pub fn name(&self) -> String {
        self.kind.name(self.number)
    }
}

pub(super) struct FileWriter {
    dir: Dir,
    info: FileInfo,
    file: Arc<dyn DiskFile>,
    block: Vec<u8>,
    block_entries: u32,
    blocks: u32,
    last_key: Option<Vec<u8>>,
}

impl FileWriter {
    pub fn create(dir: &Dir, kind: Kind, number: u64) -> Result<FileWriter, CheckpointError> {
        let name = kind.name(number);
        let file = dir.disk.create(&dir.join(&name)).map_err(|error| io_error("create", &name, error))?;
        let info = FileInfo { kind, number, bytes: 0, entries: 0, crc: 0 };
        let mut writer = FileWriter {
            dir: dir.clone(),
            info,
            file,
            block: Vec::new(),
            block_entries: 0,
            blocks: 0,
            last_key: None,
        };
        writer.append(&encode_header(kind, number))?;
        writer.begin_block();
        Ok(writer)
    }

    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), CheckpointError> {
        if self.last_key.as_deref().is_some_and(|last| last >= key) {
            return Err(CheckpointError::Unsorted);
        }
        let bytes = key.len().saturating_add(value.map_or(0, <[u8]>::len));
        if bytes > MAX_ENTRY_BYTES {
            return Err(CheckpointError::TooLarge { bytes, limit: MAX_ENTRY_BYTES });
        }
        let last = self.last_key.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        let value_len = value.map_or(REMOVED, |value| value.len() as u32);
        self.block.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.block.extend_from_slice(&value_len.to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value.unwrap_or_default());
        self.block_entries += 1;
        self.info.entries += 1;
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    /// Syncs the file and its name, and reads it back from the disk.
    pub fn finish(mut self) -> Result<FileInfo, CheckpointError> {
        if self.block_entries > 0 {
            self.end_block()?;
        }
        self.end_block()?;
        let name = self.info.name();
        let synced = self.file.sync_data().and_then(|()| self.dir.disk.sync_dir(&self.dir.path));
        synced.map_err(|error| io_error("sync", &name, error))?;
        let written = Arc::new(ReadBack::new(self.file));
        FileReader::verify_file(written, &self.info)?;
        Ok(self.info)
    }

    fn begin_block(&mut self) {
        self.block.clear();
        self.block.resize(BLOCK_HEADER_BYTES, 0);
        self.block_entries = 0;
    }

    fn end_block(&mut self) -> Result<(), CheckpointError> {
        let length = (self.block.len() - BLOCK_HEADER_BYTES) as u32;
        self.block[4..8].copy_from_slice(&length.to_le_bytes());
        self.block[8..12].copy_from_slice(&self.block_entries.to_le_bytes());
        self.block[12..16].copy_from_slice(&self.blocks.to_le_bytes());
        let crc = block_crc(self.info.number, &self.block);
        self.block[..4].copy_from_slice(&crc.to_le_bytes());
        self.info.crc = crc32c::crc32c_append(self.info.crc, &crc.to_le_bytes());
        self.blocks += 1;
        let block = std::mem::take(&mut self.block);
        self.append(&block)?;
        self.block = block;
        self.begin_block();
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let written = self.file.write_at(self.info.bytes, &[IoSlice::new(bytes)]);
        written.map_err(|error| io_error("write", &self.info.name(), error))?;
        self.info.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// A key and its value; `None` removes the key.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// A stretch of a file that cannot be read, and the keys that lay in it: none in the header, at 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostKeys {
    /// The file's name.
    pub file: String,
    /// Where the stretch begins in the file, in bytes.
    pub position: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The last key before it.
    pub after: Option<Vec<u8>>,
    /// The first key behind it.
    pub before: Option<Vec<u8>>,
}

impl LostKeys {
    /// Whether a key may have lain in the stretch.
    pub fn covers(&self, key: &[u8]) -> bool {
        let Some(after) = &self.after else { return false };
        key > &after[..] && self.before.as_ref().is_none_or(|before| key < &before[..])
    }
}

/// Reads a file block by block.
pub(super) struct FileReader {
    file: Arc<dyn DiskFile>,
    /// Where damage is stepped over: what was lost so far.
    lost: Option<Vec<LostKeys>>,
    last_key: Vec<u8>,
    info: FileInfo,
    at: u64,
    block: Vec<u8>,
    block_at: usize,
    blocks: u32,
    entries: u64,
    crc: u32,
    done: bool,
}

impl FileReader {
    pub fn open(dir: &Dir, info: &FileInfo) -> Result<FileReader, CheckpointError> {
        let name = info.name();
        let file = dir.disk.open(&dir.join(&name)).map_err(|error| io_error("open", &name, error))?;
        FileReader::of(file, info, false)
    }

    /// As [`FileReader::open`], but steps over damage and keeps account of it.
    pub fn salvage(dir: &Dir, info: &FileInfo) -> Result<FileReader, CheckpointError> {
        let name = info.name();
        let file = dir.disk.open(&dir.join(&name)).map_err(|error| io_error("open", &name, error))?;
        FileReader::of(file, info, true)
    }

    /// What was stepped over.
    pub fn lost(&self) -> &[LostKeys] {
        self.lost.as_deref().unwrap_or_default()
    }

    fn of(file: Arc<dyn DiskFile>, info: &FileInfo, salvage: bool) -> Result<FileReader, CheckpointError> {
        let mut reader = FileReader {
            file,
            lost: salvage.then(Vec::new),
            last_key: Vec::new(),
            info: info.clone(),
            at: 0,
            block: Vec::new(),
            block_at: 0,
            blocks: 0,
            entries: 0,
            crc: 0,
            done: false,
        };
        let mut header = [0; HEADER_BYTES];
        match reader.read(&mut header) {
            Err(CheckpointError::Unverified { .. }) if salvage => {}
            outcome => outcome?,
        }
        match decode_header(&header, info.number, info.kind) {
            Some(FORMAT_VERSION) => Ok(reader),
            Some(found) => {
                Err(CheckpointError::Version { file: info.name(), found, supported: FORMAT_VERSION })
            }
            // Blocks carry their own checksums, over the file's number too.
            None if salvage => {
                reader.at = HEADER_BYTES as u64;
                let (file, bytes) = (info.name(), HEADER_BYTES as u64);
                reader.lost = Some(vec![LostKeys { file, position: 0, bytes, after: None, before: None }]);
                Ok(reader)
            }
            None => Err(reader.damaged()),
        }
    }

    /// Reads the whole file; [`CheckpointError::Unverified`] unless it is what `info` says.
    pub fn verify(dir: &Dir, info: &FileInfo) -> Result<(), CheckpointError> {
        let name = info.name();
        let file = dir.disk.open(&dir.join(&name)).map_err(|error| io_error("open", &name, error))?;
        FileReader::verify_file(file, info)
    }

    fn verify_file(file: Arc<dyn DiskFile>, info: &FileInfo) -> Result<(), CheckpointError> {
        let mut reader = FileReader::of(file, info, false)?;
        let size = reader.file.size().map_err(|error| io_error("read", &info.name(), error))?;
        if size != info.bytes {
            return Err(reader.damaged());
        }
        while reader.next_block()? {}
        let whole =
            reader.done && reader.at == size && reader.crc == info.crc && reader.entries == info.entries;
        if whole { Ok(()) } else { Err(reader.damaged()) }
    }

    pub fn next(&mut self) -> Result<Option<Change>, CheckpointError> {
        while self.block_at >= self.block.len() {
            let at = self.at;
            match self.next_block() {
                Err(CheckpointError::Unverified { .. }) if self.lost.is_some() => self.step_over(at)?,
                outcome => {
                    if !outcome? {
                        return Ok(None);
                    }
                }
            }
        }
        match split_entry(&self.block[self.block_at..]) {
            Some((change, bytes)) => {
                self.block_at += bytes;
                if let Some(lost) = &mut self.lost {
                    if let Some(gap) = lost.last_mut().filter(|gap| gap.after == Some(self.last_key.clone()))
                    {
                        gap.before.get_or_insert_with(|| change.0.clone());
                    }
                    self.last_key.clone_from(&change.0);
                }
                Ok(Some(change))
            }
            None => Err(self.damaged()),
        }
    }

    /// Reads and verifies the next block; false behind the last one.
    fn next_block(&mut self) -> Result<bool, CheckpointError> {
        if self.done {
            return Ok(false);
        }
        let mut header = [0; BLOCK_HEADER_BYTES];
        self.read(&mut header)?;
        let crc = u32_at(&header, 0).ok_or_else(|| self.damaged())?;
        let length = u64::from(u32_at(&header, 4).ok_or_else(|| self.damaged())?);
        let entries = u32_at(&header, 8).ok_or_else(|| self.damaged())?;
        // Not verified yet: it may ask for no more than the file holds.
        if length > self.info.bytes.saturating_sub(self.at) {
            return Err(self.damaged());
        }
        let mut block = std::mem::take(&mut self.block);
        block.clear();
        block.extend_from_slice(&header);
        block.resize(BLOCK_HEADER_BYTES + length as usize, 0);
        self.read(&mut block[BLOCK_HEADER_BYTES..])?;
        if u32_at(&block, 12) != Some(self.blocks) || block_crc(self.info.number, &block) != crc {
            return Err(self.damaged());
        }
        self.block = block;
        self.block_at = BLOCK_HEADER_BYTES;
        self.blocks += 1;
        self.entries += u64::from(entries);
        self.crc = crc32c::crc32c_append(self.crc, &crc.to_le_bytes());
        self.done = entries == 0;
        Ok(!self.done)
    }

    /// Goes from the damaged block at `start` to the next readable one, or the end.
    fn step_over(&mut self, start: u64) -> Result<(), CheckpointError> {
        let size = self.file.size().map_err(|error| io_error("read", &self.info.name(), error))?;
        let size = size.min(self.info.bytes);
        let found = self.find_block(start + 1, size)?;
        let end = found.map_or(size.max(start), |(at, _)| at);
        let (file, after) = (self.info.name(), Some(self.last_key.clone()));
        let gap = LostKeys { file, position: start, bytes: end - start, after, before: None };
        if let Some(lost) = &mut self.lost {
            lost.push(gap);
        }
        (self.block, self.block_at) = (Vec::new(), 0);
        match found {
            Some((at, index)) => (self.at, self.blocks) = (at, index),
            None => self.done = true,
        }
        Ok(())
    }

    /// The next place from `from` on where a later block of this file can be read, and the block's index.
    fn find_block(&self, from: u64, size: u64) -> Result<Option<(u64, u32)>, CheckpointError> {
        let failed = |error| io_error("read", &self.info.name(), error);
        let mut base = from;
        while base + BLOCK_HEADER_BYTES as u64 <= size {
            let mut window = vec![0; SCAN_BYTES.min(size - base) as usize];
            let read = self.file.read_at(base, &mut window).map_err(failed)?;
            window.truncate(read);
            if window.len() < BLOCK_HEADER_BYTES {
                return Ok(None);
            }
            for at in 0..=window.len() - BLOCK_HEADER_BYTES {
                let position = base + at as u64;
                let (length, index) = (u32_at(&window, at + 4), u32_at(&window, at + 12));
                let (Some(length), Some(index)) = (length, index) else { break };
                let end = position + BLOCK_HEADER_BYTES as u64 + u64::from(length);
                let possible = end <= size && index > self.blocks && u64::from(index) <= size / 16;
                if !possible {
                    continue;
                }
                let mut block = vec![0; (end - position) as usize];
                let read = self.file.read_at(position, &mut block).map_err(failed)?;
                if read == block.len() && u32_at(&block, 0) == Some(block_crc(self.info.number, &block)) {
                    return Ok(Some((position, index)));
                }
            }
            base += (window.len() - BLOCK_HEADER_BYTES + 1) as u64;
        }
        Ok(None)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), CheckpointError> {
        let read = self.file.read_at(self.at, buffer);
        let read = read.map_err(|error| io_error("read", &self.info.name(), error))?;
        self.at += read as u64;
        if read == buffer.len() { Ok(()) } else { Err(self.damaged()) }
    }

    fn damaged(&self) -> CheckpointError {
        CheckpointError::Unverified { file: self.info.name() }
    }
}

/// Reads every entry of a file's bytes, for fuzzing; returns how many. Reads it past its damage too.
pub(crate) fn scan(file: Arc<dyn DiskFile>, number: u64) -> Result<u64, CheckpointError> {
    let kind = Kind::Delta;
    let bytes = file.size().map_err(|error| io_error("read", "", error))?;
    let info = FileInfo { kind, number, bytes, entries: 0, crc: 0 };
    let count = |mut reader: FileReader| {
        let mut entries = 0;
        while reader.next()?.is_some() {
            entries += 1;
        }
        Ok(entries)
    };
    let salvaged = FileReader::of(file.clone(), &info, true).and_then(count);
    let whole = count(FileReader::of(file, &info, false)?)?;
    assert_eq!(
        salvaged.ok(),
        Some(whole),
        "what reads without damage reads the same when damage is stepped over"
    );
    Ok(whole)
}

/// Makes the checksums of a changed file right again, for fuzzing: what is behind them is reached. With
/// `placed` the header also names the file, and every block its index.
pub(crate) fn repair(bytes: &mut [u8], number: u64, placed: bool) {
    if let Some(header) = bytes.first_chunk_mut::<HEADER_BYTES>() {
        if placed {
            header[..8].copy_from_slice(&MAGIC);
            header[16..24].copy_from_slice(&number.to_le_bytes());
            header[24] = Kind::Delta.code();
        }
        let crc = header_crc(header);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    let (mut at, mut index) = (HEADER_BYTES, 0_u32);
    while let Some(length) = u32_at(bytes, at + 4) {
        let end = at.saturating_add(BLOCK_HEADER_BYTES).saturating_add(length as usize);
        let Some(block) = bytes.get_mut(at..end) else { return };
        if placed {
            block[12..16].copy_from_slice(&index.to_le_bytes());
        }
        let crc = block_crc(number, block);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        (at, index) = (end, index + 1);
    }
}

/// A file's bytes in memory.
pub(crate) struct SliceFile(pub Vec<u8>);

impl DiskFile for SliceFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let at = usize::try_from(position).unwrap_or(usize::MAX).min(self.0.len());
        let read = buffer.len().min(self.0.len() - at);
        buffer[..read].copy_from_slice(&self.0[at..at + read]);
        Ok(read)
    }

    fn write_at(&self, _position: u64, _parts: &[IoSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

fn encode_header(kind: Kind, number: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&number.to_le_bytes());
    bytes[24] = kind.code();
    let crc = header_crc(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The version that a header names; `None` if it is damaged or another file's.
fn decode_header(bytes: &[u8; HEADER_BYTES], number: u64, kind: Kind) -> Option<u32> {
    let sound = bytes[..8] == MAGIC
        && u32_at(bytes, 12)? == header_crc(bytes)
        && u64_at(bytes, 16)? == number
        && bytes[24] == kind.code();
    if sound { u32_at(bytes, 8) } else { None }
}

fn header_crc(bytes: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

fn block_crc(number: u64, block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), &block[4..])
}

/// The entry at the start of `bytes`, and the bytes that it takes.
fn split_entry(bytes: &[u8]) -> Option<(Change, usize)> {
    let key_end = ENTRY_HEADER_BYTES.checked_add(u32_at(bytes, 0)? as usize)?;
    let key = bytes.get(ENTRY_HEADER_BYTES..key_end)?.to_vec();
    match u32_at(bytes, 4)? {
        REMOVED => Some(((key, None), key_end)),
        value_len => {
            let end = key_end.checked_add(value_len as usize)?;
            let value = bytes.get(key_end..end)?.to_vec();
            Some(((key, Some(value)), end))
        }
    }
}
