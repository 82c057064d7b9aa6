//! Manifests: what a generation consists of. Integers are little-endian.
//!
//! ```text
//! magic 8 | version 4 | crc 4 | number 8 | meta_len 4 | files 4 | file* | meta
//! file   kind 1 | zero 3 | crc 4 | number 8 | bytes 8 | entries 8
//! ```

use std::io::{self, IoSlice};

use super::file::{FileInfo, Kind};
use super::read_back::ReadBack;
use super::{CheckpointError, Dir, io_error, manifest_name};
use crate::disk::DiskFile as _;
use crate::journal::format::{u32_at, u64_at};

/// Version of manifests, and of what callers keep in the files that they name. Since version 2 that may be
/// places in journal files that are kept; a program that knows only version 1 would lose them.
pub const MANIFEST_VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"PHMANIFS";
const HEADER_BYTES: usize = 32;
const FILE_BYTES: usize = 32;
/// Largest metadata in bytes.
const MAX_META_BYTES: usize = 64 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub number: u64,
    pub meta: Vec<u8>,
    pub base: Option<FileInfo>,
    /// Oldest first.
    pub deltas: Vec<FileInfo>,
}

/// How a manifest's bytes read.
enum ManifestState {
    Valid(Manifest),
    OtherVersion(u32),
    Damaged,
}

impl Manifest {
    pub fn files(&self) -> impl Iterator<Item = &FileInfo> {
        self.base.iter().chain(&self.deltas)
    }

    /// The names of everything that the generation needs.
    pub fn names(&self) -> Vec<String> {
        let files = self.files().map(FileInfo::name);
        files.chain([manifest_name(self.number)]).collect()
    }

    /// Writes the manifest under another name, syncs and verifies it, and gives it its own.
    pub(super) fn publish(&self, dir: &Dir) -> Result<(), CheckpointError> {
        if self.meta.len() > MAX_META_BYTES {
            return Err(CheckpointError::TooLarge { bytes: self.meta.len(), limit: MAX_META_BYTES });
        }
        let name = manifest_name(self.number);
        let unfinished = format!("{name}.new");
        let bytes = self.encode();
        let published = (|| {
            let file = dir.disk.create(&dir.join(&unfinished))?;
            file.write_at(0, &[IoSlice::new(&bytes)])?;
            file.sync_data()?;
            let mut read = vec![0; bytes.len()];
            if ReadBack::new(file).read_at(0, &mut read)? != read.len() || read != bytes {
                return Ok(false);
            }
            dir.disk.rename(&dir.join(&unfinished), &dir.join(&name))?;
            dir.disk.sync_dir(&dir.path)?;
            Ok(true)
        })();
        match published {
            Ok(true) => Ok(()),
            Ok(false) => Err(CheckpointError::Unverified { file: name }),
            Err(error) => Err(io_error("write", &name, error)),
        }
    }

    /// Reads a manifest; `None` if it is damaged.
    pub(super) fn read(dir: &Dir, number: u64) -> Result<Option<Manifest>, CheckpointError> {
        let name = manifest_name(number);
        let read = || -> io::Result<Vec<u8>> {
            let file = dir.disk.open(&dir.join(&name))?;
            let mut bytes =
                vec![0; usize::try_from(file.size()?).unwrap_or(usize::MAX).min(2 * MAX_META_BYTES)];
            let read = file.read_at(0, &mut bytes)?;
            bytes.truncate(read);
            Ok(bytes)
        };
        let bytes = read().map_err(|error| io_error("read", &name, error))?;
        match Manifest::decode_any(&bytes) {
            ManifestState::Valid(manifest) if manifest.number == number => Ok(Some(manifest)),
            ManifestState::Valid(_) | ManifestState::Damaged => Ok(None),
            ManifestState::OtherVersion(found) => {
                Err(CheckpointError::Version { file: name, found, supported: MANIFEST_VERSION })
            }
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let files: Vec<&FileInfo> = self.files().collect();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + files.len() * FILE_BYTES + self.meta.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&MANIFEST_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&(self.meta.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(files.len() as u32).to_le_bytes());
        for file in files {
            bytes.extend_from_slice(&[file.kind.code(), 0, 0, 0]);
            bytes.extend_from_slice(&file.crc.to_le_bytes());
            bytes.extend_from_slice(&file.number.to_le_bytes());
            bytes.extend_from_slice(&file.bytes.to_le_bytes());
            bytes.extend_from_slice(&file.entries.to_le_bytes());
        }
        bytes.extend_from_slice(&self.meta);
        let crc = manifest_crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Makes the checksum of a changed manifest right again, for fuzzing: what is behind it is reached. With
    /// `placed` the metadata also takes what the files leave.
    pub fn repair(bytes: &mut [u8], placed: bool) {
        let (Some(files), true) = (u32_at(bytes, 28), bytes.len() >= HEADER_BYTES) else { return };
        let left = (bytes.len() - HEADER_BYTES).checked_sub((files as usize).saturating_mul(FILE_BYTES));
        if placed && let Some(left) = left {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[24..28].copy_from_slice(&(left as u32).to_le_bytes());
        }
        let crc = manifest_crc(bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a manifest of this version; `None` if it is damaged or another version's.
    pub fn decode(bytes: &[u8]) -> Option<Manifest> {
        match Manifest::decode_any(bytes) {
            ManifestState::Valid(manifest) => Some(manifest),
            ManifestState::OtherVersion(_) | ManifestState::Damaged => None,
        }
    }

    fn decode_any(bytes: &[u8]) -> ManifestState {
        let sound = bytes.len() >= HEADER_BYTES
            && bytes[..8] == MAGIC
            && u32_at(bytes, 12) == Some(manifest_crc(bytes));
        let version = u32_at(bytes, 8).filter(|_| sound);
        match version {
            Some(1..=MANIFEST_VERSION) => match decode_sound(bytes) {
                Some(manifest) => ManifestState::Valid(manifest),
                None => ManifestState::Damaged,
            },
            Some(found) => ManifestState::OtherVersion(found),
            None => ManifestState::Damaged,
        }
    }
}

fn decode_sound(bytes: &[u8]) -> Option<Manifest> {
    let number = u64_at(bytes, 16)?;
    let meta_len = u32_at(bytes, 24)? as usize;
    let files_end = (u32_at(bytes, 28)? as usize).checked_mul(FILE_BYTES)?.checked_add(HEADER_BYTES)?;
    let meta = bytes.get(files_end..files_end.checked_add(meta_len)?)?.to_vec();
    let mut base = None;
    let mut deltas = Vec::new();
    for file in bytes.get(HEADER_BYTES..files_end)?.chunks_exact(FILE_BYTES) {
        let kind = Kind::of_code(file[0])?;
        let info = FileInfo {
            kind,
            crc: u32_at(file, 4)?,
            number: u64_at(file, 8)?,
            bytes: u64_at(file, 16)?,
            entries: u64_at(file, 24)?,
        };
        match kind {
            Kind::Base if base.is_none() && deltas.is_empty() => base = Some(info),
            Kind::Base => return None,
            Kind::Delta => deltas.push(info),
        }
    }
    Some(Manifest { number, meta, base, deltas })
}

fn manifest_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}
