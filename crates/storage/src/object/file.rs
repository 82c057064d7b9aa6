//! A file of an [`super::ObjectDisk`]: in memory until it is synced, sent in parts if it is large.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use object_store::MultipartUpload;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::disk::Shared;
use super::{BlockCache, Started, io_error};
use crate::disk::DiskFile;

/// A part of a large object, in bytes.
const PART_BYTES: usize = 8 << 20;
/// A file that grows over this many bytes is sent in parts while it is written.
const STREAM_FROM_BYTES: usize = 2 * PART_BYTES;
/// Parts under way at once.
const PARTS_IN_FLIGHT: usize = 4;
/// A synced file up to this size can be changed; larger ones are final.
const MAX_REWRITE_BYTES: u64 = 64 << 20;

/// The object that holds a file's synced contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    #[serde(with = "key_text")]
    pub key: Arc<str>,
    pub bytes: u64,
}

pub(super) struct ObjectFile {
    /// Reads go on when the disk is closed.
    cache: BlockCache,
    disk: Weak<Shared>,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    /// What was synced last.
    stored: Option<Stored>,
    /// What was written since, the rest of the file included.
    changed: Option<Vec<u8>>,
    /// The parts that went ahead of `changed`.
    upload: Option<Upload>,
}

struct Upload {
    key: Arc<str>,
    multipart: Box<dyn MultipartUpload>,
    sent: u64,
    parts: VecDeque<Started<()>>,
}

impl ObjectFile {
    pub fn new(disk: Weak<Shared>, cache: BlockCache) -> ObjectFile {
        let content = Content { changed: Some(Vec::new()), ..Content::default() };
        ObjectFile { cache, disk, content: Mutex::new(content) }
    }

    pub fn stored(disk: Weak<Shared>, cache: BlockCache, stored: Stored) -> ObjectFile {
        let content = Content { stored: Some(stored), ..Content::default() };
        ObjectFile { cache, disk, content: Mutex::new(content) }
    }

    /// Where the synced contents lie, if there are any.
    pub fn place(&self) -> Option<Stored> {
        self.content.lock().stored.clone()
    }

    pub fn bytes(&self) -> u64 {
        self.content.lock().bytes()
    }

    fn disk(&self) -> io::Result<Arc<Shared>> {
        self.disk.upgrade().ok_or_else(|| io::Error::other("the bucket was closed"))
    }

    /// The contents, to be changed.
    fn change<'a>(&self, content: &'a mut Content) -> io::Result<&'a mut Vec<u8>> {
        if content.changed.is_none() {
            let mut bytes = Vec::new();
            if let Some(stored) = &content.stored {
                if stored.bytes > MAX_REWRITE_BYTES {
                    return Err(io::Error::new(
                        io::ErrorKind::Unsupported,
                        "a large object cannot be changed once it is synced",
                    ));
                }
                bytes.resize(stored.bytes as usize, 0);
                let read = self.cache.read_at(&stored.key, stored.bytes, 0, &mut bytes)?;
                bytes.truncate(read);
            }
            content.changed = Some(bytes);
        }
        Ok(content.changed.get_or_insert_default())
    }

    /// Sends full parts once there are enough of them.
    fn stream(&self, content: &mut Content) -> io::Result<()> {
        let Some(bytes) = content.changed.as_mut() else { return Ok(()) };
        let from = if content.upload.is_some() { PART_BYTES } else { STREAM_FROM_BYTES };
        if bytes.len() < from {
            return Ok(());
        }
        let disk = self.disk()?;
        if content.upload.is_none() {
            let key = disk.new_key();
            let (bucket, owned) = (disk.cache().bucket().clone(), key.clone());
            let begun = disk.cache().bucket().wait(async move { bucket.put_multipart(&owned).await });
            content.upload = Some(Upload { key, multipart: begun?, sent: 0, parts: VecDeque::new() });
        }
        let Some(upload) = content.upload.as_mut() else { return Ok(()) };
        while bytes.len() >= PART_BYTES {
            let rest = bytes.split_off(PART_BYTES);
            upload.send(std::mem::replace(bytes, rest), &disk)?;
        }
        Ok(())
    }
}

impl Content {
    fn bytes(&self) -> u64 {
        let sent = self.upload.as_ref().map_or(0, |upload| upload.sent);
        match (&self.changed, &self.stored) {
            (Some(changed), _) => sent + changed.len() as u64,
            (None, Some(stored)) => stored.bytes,
            (None, None) => 0,
        }
    }
}

impl Upload {
    fn send(&mut self, part: Vec<u8>, disk: &Shared) -> io::Result<()> {
        while self.parts.len() >= PARTS_IN_FLIGHT {
            self.wait_for_one()?;
        }
        self.sent += part.len() as u64;
        let part = self.multipart.put_part(part.into());
        let started = disk.cache().bucket().start(async move { part.await.map_err(io_error) });
        self.parts.push_back(started);
        Ok(())
    }

    fn wait_for_one(&mut self) -> io::Result<()> {
        self.parts.pop_front().map_or(Ok(()), Started::wait)
    }

    fn finish(mut self, last: Vec<u8>, disk: &Shared) -> io::Result<Stored> {
        if !last.is_empty() {
            self.send(last, disk)?;
        }
        while !self.parts.is_empty() {
            self.wait_for_one()?;
        }
        let Upload { key, mut multipart, sent, .. } = self;
        disk.cache().bucket().wait(async move { multipart.complete().await.map(drop).map_err(io_error) })?;
        Ok(Stored { key, bytes: sent })
    }
}

impl DiskFile for ObjectFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = self.content.lock();
        if content.upload.is_some() {
            let why = "a large object can be read only once it is synced";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        if let Some(changed) = &content.changed {
            let at = usize::try_from(position).unwrap_or(usize::MAX).min(changed.len());
            let read = buffer.len().min(changed.len() - at);
            buffer[..read].copy_from_slice(&changed[at..at + read]);
            return Ok(read);
        }
        let Some(stored) = content.stored.clone() else { return Ok(0) };
        drop(content);
        self.cache.read_at(&stored.key, stored.bytes, position, buffer)
    }

    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut content = self.content.lock();
        let sent = content.upload.as_ref().map_or(0, |upload| upload.sent);
        let Some(mut at) = position.checked_sub(sent).and_then(|at| usize::try_from(at).ok()) else {
            let why = "a part that has been sent cannot be changed";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        };
        let bytes = self.change(&mut content)?;
        for part in parts {
            let end = at.checked_add(part.len()).ok_or(io::ErrorKind::FileTooLarge)?;
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[at..end].copy_from_slice(part);
            at = end;
        }
        self.stream(&mut content)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.content.lock();
        let Some(bytes) = content.changed.take() else { return Ok(()) };
        let disk = self.disk()?;
        let outcome = match content.upload.take() {
            Some(upload) => upload.finish(bytes, &disk),
            None => {
                let (key, bytes) = (disk.new_key(), Bytes::from(bytes));
                let stored = Stored { key: key.clone(), bytes: bytes.len() as u64 };
                let (bucket, sent) = (disk.cache().bucket().clone(), bytes.clone());
                let put = disk.cache().bucket().wait(async move { bucket.put(&key, sent).await });
                if put.is_err() {
                    content.changed = Some(bytes.into());
                }
                put.map(|()| stored)
            }
        };
        let replaced = content.stored.replace(outcome?);
        drop(content);
        let Some(replaced) = replaced else { return Ok(()) };
        let named = disk.is_published(&replaced.key);
        disk.replaced(replaced.key);
        // The name is durable already, and must lead to what is synced now.
        if named { disk.publish() } else { Ok(()) }
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut content = self.content.lock();
        if content.bytes() >= bytes {
            return Ok(());
        }
        if bytes > MAX_REWRITE_BYTES || content.upload.is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.change(&mut content)?.resize(bytes as usize, 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes())
    }
}

mod key_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(key: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(key)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}
