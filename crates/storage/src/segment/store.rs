//! Where segments live. A directory, or through `crate::object::ObjectDisk` a bucket.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::SegmentId;
use crate::disk::{BLOCK_BYTES, Disk, DiskFile};

/// A place for immutable files, known by id.
pub trait SegmentStore: Send + Sync {
    /// All published segments and their sizes in bytes.
    fn list(&self) -> io::Result<Vec<(SegmentId, u64)>>;

    /// Begins a segment, which nobody sees before it is published.
    fn create(&self, id: SegmentId) -> io::Result<Box<dyn SegmentSink>>;

    /// Opens a published segment.
    fn open(&self, id: SegmentId) -> io::Result<Arc<dyn SegmentFile>>;

    /// Removes a segment; it may come back if the power is cut.
    fn remove(&self, id: SegmentId) -> io::Result<()>;

    /// Takes a damaged segment out of the list without destroying it. A store without a way to do so keeps
    /// it where it is.
    fn set_aside(&self, id: SegmentId) -> io::Result<()> {
        let _ = id;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A segment being written. Dropped without [`SegmentSink::publish`], it leaves nothing behind.
pub trait SegmentSink: Send {
    /// Writes behind what was written before.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was appended durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Reads back what was appended; fewer bytes only at the end. Whole blocks of what was synced are read
    /// past a page cache.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Gives the segment its name, durably, replacing an older one.
    fn publish(self: Box<Self>) -> io::Result<()>;
}

/// A published segment.
pub trait SegmentFile: Send + Sync {
    /// Size in bytes.
    fn bytes(&self) -> u64;

    /// Fills `buffer` from `position`; fewer bytes only at the end of the file.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A directory of a [`Disk`].
pub struct DiskSegments {
    disk: Arc<dyn Disk>,
    dir: String,
}

impl DiskSegments {
    /// Uses `dir`, creating it if need be, and removes what unfinished writers left there.
    pub fn open(disk: Arc<dyn Disk>, dir: &str) -> io::Result<DiskSegments> {
        disk.create_dir(dir)?;
        for entry in disk.list(dir)?.iter().filter(|entry| entry.name.ends_with(".segment.new")) {
            disk.remove(&format!("{dir}/{}", entry.name))?;
        }
        Ok(DiskSegments { disk, dir: dir.to_owned() })
    }

    fn path(&self, id: SegmentId) -> String {
        format!("{}/{id}.segment", self.dir)
    }
}

impl SegmentStore for DiskSegments {
    fn list(&self) -> io::Result<Vec<(SegmentId, u64)>> {
        let entries = self.disk.list(&self.dir)?;
        let segments = entries.iter().filter_map(|entry| {
            let digits = entry.name.strip_suffix(".segment").filter(|digits| digits.len() == 16)?;
            Some((SegmentId(u64::from_str_radix(digits, 16).ok()?), entry.bytes))
        });
        Ok(segments.collect())
    }

    fn create(&self, id: SegmentId) -> io::Result<Box<dyn SegmentSink>> {
        let path = self.path(id);
        let unfinished = format!("{path}.new");
        match self.disk.remove(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create_sequential(&unfinished)?;
        let (disk, dir) = (self.disk.clone(), self.dir.clone());
        Ok(Box::new(DiskSink { disk, dir, path, unfinished, file, end: 0, published: false }))
    }

    fn open(&self, id: SegmentId) -> io::Result<Arc<dyn SegmentFile>> {
        let file = self.disk.open_sealed(&self.path(id))?;
        Ok(Arc::new(DiskSegmentFile { bytes: file.size()?, file }))
    }

    fn remove(&self, id: SegmentId) -> io::Result<()> {
        self.disk.remove(&self.path(id))
    }

    fn set_aside(&self, id: SegmentId) -> io::Result<()> {
        self.disk.rename(&self.path(id), &format!("{}/{id}.damaged", self.dir))?;
        self.disk.sync_dir(&self.dir)
    }
}

struct DiskSink {
    disk: Arc<dyn Disk>,
    dir: String,
    path: String,
    unfinished: String,
    file: Arc<dyn DiskFile>,
    end: u64,
    published: bool,
}

impl SegmentSink for DiskSink {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(self.end, &[IoSlice::new(bytes)])?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let aligned = position.is_multiple_of(BLOCK_BYTES as u64)
            && buffer.len().is_multiple_of(BLOCK_BYTES)
            && buffer.as_ptr().align_offset(BLOCK_BYTES) == 0;
        match aligned {
            true => self.file.read_blocks(position, buffer),
            false => self.file.read_at(position, buffer),
        }
    }

    fn publish(mut self: Box<Self>) -> io::Result<()> {
        self.disk.rename(&self.unfinished, &self.path)?;
        self.published = true;
        self.disk.sync_dir(&self.dir)
    }
}

impl Drop for DiskSink {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the next start removes it.
            let _ = self.disk.remove(&self.unfinished);
        }
    }
}

struct DiskSegmentFile {
    bytes: u64,
    file: Arc<dyn DiskFile>,
}

impl SegmentFile for DiskSegmentFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(position, buffer)
    }
}
