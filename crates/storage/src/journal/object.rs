//! The journal in a bucket: its files are objects, put whole, several at a time.
//!
//! Object `journal/{epoch:08}/{sequence:016}` is a journal file that holds what had come in when it was put.
//! Numbers have no gaps, and only what lies before the first one that is missing is acknowledged: a later one
//! that did arrive counts for nothing until then. A fence, which is smaller than any journal file, ends an
//! epoch at its number for good. A barrier, a little larger, stops a writer that runs faster than whoever
//! fences it.

mod recovery;
mod writer;

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

pub(super) use recovery::{inspect, recover};
pub(super) use writer::ObjectWriter;

use super::format::{FILE_HEADER_BYTES, FileHeader, u64_at};
use super::{Blocks, HomeFile, JournalHome};
use crate::object::{BlockCache, Bucket, ObjectDisk, Ownership};

/// Bits of a file's number that count within its epoch.
const SEQUENCE_BITS: u32 = 40;
/// Where a file's first block names the object, behind the first copy of the file header.
const IDENTITY_AT: usize = 1024;
const IDENTITY_MAGIC: [u8; 8] = *b"PHOBJECT";

/// Whose object it is; no two objects ever put share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The node; 0 where there is one.
    pub node: u64,
    pub epoch: u64,
    pub sequence: u64,
    pub nonce: u64,
    /// LSN of the epoch's first object.
    pub first: u64,
}

impl Identity {
    /// The file's first block, with the object's identity in it.
    fn block(&self, header: &FileHeader) -> Vec<u8> {
        let mut block = header.encode();
        block[IDENTITY_AT..IDENTITY_AT + 8].copy_from_slice(&IDENTITY_MAGIC);
        for (index, field) in
            [self.node, self.epoch, self.sequence, self.nonce, self.first].iter().enumerate()
        {
            let at = IDENTITY_AT + 8 + index * 8;
            block[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        block
    }

    fn decode(block: &[u8]) -> Option<Identity> {
        let magic = block.get(IDENTITY_AT..IDENTITY_AT + 8)?;
        let field = |index: usize| u64_at(block, IDENTITY_AT + 8 + index * 8);
        let identity = Identity {
            node: field(0)?,
            epoch: field(1)?,
            sequence: field(2)?,
            nonce: field(3)?,
            first: field(4)?,
        };
        (magic == IDENTITY_MAGIC).then_some(identity)
    }
}

/// What a fence and a barrier begin with, and no journal file.
const FENCE_BEGINS: &[u8] = b"{\"";

fn key_of(epoch: u64, sequence: u64) -> String {
    key_of_number(number_of(epoch, sequence))
}

fn number_of(epoch: u64, sequence: u64) -> u64 {
    (epoch << SEQUENCE_BITS) | sequence
}

fn key_of_number(number: u64) -> String {
    format!("journal/{}", name_of_number(number))
}

/// Whether a file with this number is an object: epochs begin with 1, and files of a directory have none.
pub(super) fn is_object(number: u64) -> bool {
    number >> SEQUENCE_BITS > 0
}

/// Epoch and sequence, as in its key.
pub(super) fn name_of_number(number: u64) -> String {
    format!("{:08}/{:016}", number >> SEQUENCE_BITS, number & ((1 << SEQUENCE_BITS) - 1))
}

/// As [`name_of_number`] has put it.
pub(super) fn number_of_name(name: &str) -> Option<u64> {
    let (epoch, sequence) = place_of_key(&format!("journal/{name}"))?;
    (name_of_number(number_of(epoch, sequence)) == name).then_some(number_of(epoch, sequence))
}

/// Epoch and sequence of a key.
fn place_of_key(key: &str) -> Option<(u64, u64)> {
    let (epoch, sequence) = key.strip_prefix("journal/")?.split_once('/')?;
    Some((epoch.parse().ok()?, sequence.parse().ok()?))
}

/// The journal's part of a bucket. Its files are made by the writer, and whole from the start.
pub(super) struct ObjectHome {
    cache: BlockCache,
    /// The epoch that this opener writes in, or would if it had claimed the bucket: those before it are read.
    epoch: u64,
    /// Whether it has, so that it may fence others.
    claimed: bool,
    ownership: Ownership,
}

impl ObjectHome {
    pub fn new(disk: &ObjectDisk) -> ObjectHome {
        let claimed = disk.is_claimed();
        let epoch = if claimed { disk.epoch() } else { disk.epoch() + 1 };
        ObjectHome { cache: disk.cache().clone(), epoch, claimed, ownership: disk.bucket().ownership() }
    }

    fn bucket(&self) -> &Bucket {
        self.cache.bucket()
    }

    fn file(&self, key: &str, bytes: u64) -> ObjectFile {
        ObjectFile { key: key.into(), bytes, cache: self.cache.clone(), chunks: Mutex::new(None) }
    }
}

impl JournalHome for ObjectHome {
    fn list(&self) -> io::Result<Vec<(u64, u64)>> {
        let bucket = self.bucket().clone();
        let keys = self.bucket().wait(async move { bucket.list("journal").await })?;
        let files = keys.iter().filter(|(_, bytes)| *bytes >= FILE_HEADER_BYTES);
        let numbered = files.filter_map(|(key, bytes)| {
            let (epoch, sequence) = place_of_key(key)?;
            Some((number_of(epoch, sequence), *bytes))
        });
        Ok(numbered.collect())
    }

    fn open(&self, number: u64) -> io::Result<Arc<dyn HomeFile>> {
        let listed = self.list()?.into_iter().find(|(listed, _)| *listed == number);
        let (_, bytes) = listed.ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(self.file(&key_of_number(number), bytes)))
    }

    /// Refused: an object comes into being with its contents.
    fn create(&self, _number: u64, _bytes: u64, _blocks: Blocks<'_>) -> io::Result<Arc<dyn HomeFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Begins to remove an object; one that stays behind is removed after the next start.
    fn remove(&self, number: u64) -> io::Result<()> {
        let bucket = self.bucket().clone();
        self.bucket().spawn(async move {
            let _ = bucket.delete(&key_of_number(number)).await;
        });
        Ok(())
    }

    /// A damaged object stays where it is: below what is replayed it does no harm.
    fn set_aside(&self, _number: u64) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }

    fn makes_files_ahead(&self) -> bool {
        false
    }

    fn ownership(&self) -> Option<&Ownership> {
        Some(&self.ownership)
    }
}

/// A journal file that is an object.
struct ObjectFile {
    key: Arc<str>,
    bytes: u64,
    cache: BlockCache,
    /// The contents, until the store has them.
    chunks: Mutex<Option<Vec<Bytes>>>,
}

impl HomeFile for ObjectFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let chunks = self.chunks.lock().clone();
        match chunks {
            Some(chunks) => Ok(copy_from(&chunks, position, buffer)),
            None => self.cache.read_at(&self.key, self.bytes, position, buffer),
        }
    }

    fn write_at(&self, _position: u64, _parts: &[IoSlice<'_>], _sync_follows: bool) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn copy_from(chunks: &[Bytes], position: u64, buffer: &mut [u8]) -> usize {
    let mut skip = usize::try_from(position).unwrap_or(usize::MAX);
    let mut read = 0;
    for chunk in chunks {
        let part = chunk.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(chunk.len());
        let count = part.len().min(buffer.len() - read);
        buffer[read..read + count].copy_from_slice(&part[..count]);
        read += count;
    }
    read
}
