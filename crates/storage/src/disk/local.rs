//! A directory of the operating system's file system.

#[cfg(target_os = "linux")]
mod direct;
#[cfg(target_os = "linux")]
mod past_cache;
#[cfg(target_os = "linux")]
mod reserving;
#[cfg(target_os = "linux")]
mod sealed;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::{BLOCK_BYTES, DirEntry, Disk, DiskFile, DiskLock, Reserving};

/// Aligned as transfers past the page cache want it.
#[repr(align(4096))]
struct Zeros([u8; 1 << 20]);

static ZEROS: Zeros = Zeros([0; 1 << 20]);

/// [`Disk`] over a directory.
#[derive(Clone, Debug)]
pub struct LocalDisk {
    root: PathBuf,
}

impl LocalDisk {
    /// Uses `root`, which must exist.
    pub fn new(root: &Path) -> LocalDisk {
        LocalDisk { root: root.to_path_buf() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

impl Disk for LocalDisk {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(dir))?;
        // An existing one may have been made by a process that died before it came to this.
        let mut child = dir.trim_end_matches('/');
        while let Some((parent, _)) = child.rsplit_once('/') {
            self.sync_dir(parent)?;
            child = parent;
        }
        self.sync_dir(".")
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(path))?;
        Ok(Arc::new(LocalFile::new(file, self.path(path))?))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path(path))?;
        Ok(Arc::new(LocalFile::new(file, self.path(path))?))
    }

    #[cfg(target_os = "linux")]
    fn open_sealed(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let buffered = File::open(self.path(path))?;
        match open_past_the_cache(OpenOptions::new().read(true), &self.path(path)) {
            Some(direct) => Ok(Arc::new(sealed::SealedFile::new(direct, buffered)?)),
            None => Ok(Arc::new(LocalFile::new(buffered, self.path(path))?)),
        }
    }

    #[cfg(target_os = "linux")]
    fn create_sequential(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let buffered = OpenOptions::new().read(true).write(true).create_new(true).open(self.path(path))?;
        match open_past_the_cache(OpenOptions::new().read(true).write(true), &self.path(path)) {
            Some(direct) => Ok(Arc::new(direct::SequentialFile::new(direct, buffered))),
            None => Ok(Arc::new(LocalFile::new(buffered, self.path(path))?)),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.path(dir))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let is_dir = metadata.is_dir();
            entries.push(DirEntry { name, bytes: if is_dir { 0 } else { metadata.len() }, is_dir });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    #[cfg(unix)]
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }

    /// Elsewhere the file system journals names by itself and directories cannot be opened.
    #[cfg(not(unix))]
    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }

    #[cfg(unix)]
    fn free_bytes(&self) -> Option<u64> {
        let stats = rustix::fs::statvfs(&self.root).ok()?;
        stats.f_bavail.checked_mul(stats.f_frsize)
    }

    #[cfg(not(unix))]
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    #[cfg(target_os = "linux")]
    fn reserving(&self) -> Reserving {
        reserving::of(&self.root)
    }

    /// Elsewhere nobody has looked.
    #[cfg(not(target_os = "linux"))]
    fn reserving(&self) -> Reserving {
        Reserving::Not { file_system: format!("that of {}", std::env::consts::OS) }
    }

    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path(path))?;
        match file.try_lock() {
            Ok(()) => Ok(DiskLock::new(file)),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::WouldBlock, "another process holds the lock"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// None where the file system cannot do that.
#[cfg(target_os = "linux")]
fn open_past_the_cache(options: &mut OpenOptions, path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    options.custom_flags(flags).open(path).ok()
}

struct LocalFile {
    reader: File,
    writer: Mutex<Cursor>,
    #[cfg(target_os = "linux")]
    path: PathBuf,
    /// For those that write blocks, where the file system can do that.
    #[cfg(target_os = "linux")]
    past_cache: OnceLock<Option<past_cache::PastCache>>,
}

/// A handle with the position that the system keeps for it: sequential writes then need no seek.
struct Cursor {
    file: File,
    position: u64,
}

impl LocalFile {
    /// Positioned reads share the handle with the writer where they do not move its position.
    #[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
    fn new(file: File, path: PathBuf) -> io::Result<LocalFile> {
        Ok(LocalFile {
            reader: file.try_clone()?,
            writer: Mutex::new(Cursor { file, position: 0 }),
            #[cfg(target_os = "linux")]
            path,
            #[cfg(target_os = "linux")]
            past_cache: OnceLock::new(),
        })
    }

    /// None where the file system cannot do that.
    #[cfg(target_os = "linux")]
    fn open_past_cache(&self, cached: bool) -> Option<past_cache::PastCache> {
        let bytes = self.reader.metadata().ok()?.len();
        let file = open_past_the_cache(OpenOptions::new().read(true).write(true), &self.path)?;
        Some(past_cache::PastCache::new(file, bytes, cached))
    }

    /// Of what is not read past the page cache, nothing.
    #[cfg(target_os = "linux")]
    fn read_past_the_cache(&self, position: u64, buffer: &mut [u8]) -> usize {
        let Some(Some(past_cache)) = self.past_cache.get() else { return 0 };
        past_cache.read(position, buffer)
    }

    #[cfg(not(target_os = "linux"))]
    fn read_past_the_cache(&self, _position: u64, _buffer: &mut [u8]) -> usize {
        0
    }
}

impl Cursor {
    fn write_all(&mut self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if cfg!(not(unix)) || self.position != position {
            self.file.seek(SeekFrom::Start(position))?;
            self.position = position;
        }
        let mut parts = parts.to_vec();
        let mut rest = &mut parts[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match self.file.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.position += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Cursor {
    fn zeros(&mut self, from: u64, to: u64) -> io::Result<()> {
        let mut position = from;
        while position < to {
            let part = usize::try_from(to - position).unwrap_or(usize::MAX).min(ZEROS.0.len());
            self.write_all(position, &[IoSlice::new(&ZEROS.0[..part])])?;
            position += part as u64;
        }
        Ok(())
    }
}

impl DiskFile for LocalFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let filled = self.read_past_the_cache(position, buffer);
        Ok(filled + read_fully(&self.reader, position + filled as u64, &mut buffer[filled..])?)
    }

    #[cfg(target_os = "linux")]
    fn read_blocks(&self, position: u64, blocks: &mut [u8]) -> io::Result<usize> {
        let past_cache = self.past_cache.get_or_init(|| self.open_past_cache(true));
        match past_cache.as_ref().map(|past_cache| past_cache.read_blocks(position, blocks)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
            Some(Ok(read)) => Ok(read),
            // Not every file system can do that. Clean pages can be dropped nearly everywhere.
            _ => {
                let length = std::num::NonZeroU64::new(blocks.len() as u64);
                let advice = rustix::fs::Advice::DontNeed;
                let _ = rustix::fs::fadvise(&self.reader, position, length, advice);
                read_fully(&self.reader, position, blocks)
            }
        }
    }

    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(Some(past_cache)) = self.past_cache.get() {
            past_cache.cached(position, parts.iter().map(|part| part.len() as u64).sum());
        }
        self.writer.lock().write_all(position, parts)
    }

    #[cfg(target_os = "linux")]
    fn write_blocks(&self, position: u64, blocks: &[u8]) -> io::Result<()> {
        let past_cache = self.past_cache.get_or_init(|| self.open_past_cache(true));
        match past_cache.as_ref().map(|past_cache| past_cache.write(position, blocks)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
            Some(Ok(())) => Ok(()),
            // Not every file system can do that.
            _ => self.write_at(position, &[IoSlice::new(blocks)]),
        }
    }

    #[cfg(target_os = "linux")]
    fn assume_uncached(&self) {
        self.past_cache.get_or_init(|| self.open_past_cache(false));
    }

    fn sync_data(&self) -> io::Result<()> {
        self.reader.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut writer = self.writer.lock();
        let position = self.reader.metadata()?.len();
        // Real zeros: blocks that are only reserved would make later syncs write metadata as well. Past the
        // page cache, because bringing them there costs more than what is written later.
        if past_the_cache(&writer.file, position) {
            let whole = bytes.saturating_sub(position) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
            let outcome = writer.zeros(position, position + whole);
            through_the_cache(&writer.file)?;
            match outcome {
                // Not every file system can do that.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                outcome => outcome?,
            }
        }
        let position = self.reader.metadata()?.len();
        writer.zeros(position, bytes)
    }

    #[cfg(target_os = "linux")]
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::{Errno, retry_on_intr};
        match retry_on_intr(|| fallocate(&self.reader, FallocateFlags::empty(), 0, bytes)) {
            // Not every file system can do that.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.allocate(bytes),
            outcome => Ok(outcome?),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.reader.metadata()?.len())
    }
}

/// Has writes go past the page cache, if `position` allows that; whether they do.
#[cfg(target_os = "linux")]
fn past_the_cache(file: &File, position: u64) -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    position.is_multiple_of(BLOCK_BYTES as u64)
        && fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags | OFlags::DIRECT)).is_ok()
}

#[cfg(target_os = "linux")]
fn through_the_cache(file: &File) -> io::Result<()> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    Ok(fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags & !OFlags::DIRECT))?)
}

#[cfg(not(target_os = "linux"))]
fn past_the_cache(_: &File, _: u64) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn through_the_cache(_: &File) -> io::Result<()> {
    Ok(())
}

/// Fewer bytes only at the end of the file.
fn read_fully(file: &File, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read_once(file, &mut buffer[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(unix)]
fn read_once(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, position)
}

#[cfg(windows)]
fn read_once(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, position)
}
