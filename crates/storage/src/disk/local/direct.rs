//! Files that are written once, from front to back, past the page cache.
//!
//! What is moved into segments is large and rarely read again soon: in the page cache it would take the place of what
//! is, and cost a copy. And reading it back proves something only if it comes from the disk.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;

use super::read_fully;
use crate::buffer::Buffer;
use crate::disk::{BLOCK_BYTES, DiskFile};

/// Written and read at a time.
const TRANSFER_BYTES: usize = 1 << 20;

/// A file with two handles: one past the page cache, one through it for what is not aligned.
pub(super) struct SequentialFile {
    direct: File,
    buffered: File,
    tail: Mutex<Tail>,
}

/// What has been taken but not written yet.
struct Tail {
    buffer: Buffer,
    filled: usize,
    /// Where the buffer's first byte belongs in the file.
    position: u64,
    /// How much of the buffer has been written through the other handle.
    flushed: usize,
}

impl SequentialFile {
    pub fn new(direct: File, buffered: File) -> SequentialFile {
        let tail = Tail { buffer: Buffer::new(TRANSFER_BYTES), filled: 0, position: 0, flushed: 0 };
        SequentialFile { direct, buffered, tail: Mutex::new(tail) }
    }

    /// Writes a whole buffer past the page cache, or through it if the file system wants that.
    fn transfer(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        match self.direct.write_all_at(bytes, position) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.buffered.write_all_at(bytes, position)
            }
            outcome => outcome,
        }
    }

    /// What is left goes through the page cache; the next sync brings it to the disk.
    fn flush(&self, tail: &mut Tail) -> io::Result<()> {
        let Tail { buffer, filled, position, flushed } = tail;
        if *flushed < *filled {
            self.buffered.write_all_at(&buffer[*flushed..*filled], *position + *flushed as u64)?;
            *flushed = *filled;
        }
        Ok(())
    }
}

impl DiskFile for SequentialFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut tail = self.tail.lock();
        self.flush(&mut tail)?;
        if !position.is_multiple_of(BLOCK_BYTES as u64) {
            return read_fully(&self.buffered, position, buffer);
        }
        let mut scratch = Buffer::new(TRANSFER_BYTES);
        let mut filled = 0;
        while filled < buffer.len() {
            let wanted = (buffer.len() - filled).min(TRANSFER_BYTES);
            let part = &mut scratch[..wanted.next_multiple_of(BLOCK_BYTES)];
            let at = position + filled as u64;
            let read = match self.direct.read_at(part, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.buffered.read_at(part, at)?
                }
                outcome => outcome?,
            };
            let taken = read.min(wanted);
            buffer[filled..filled + taken].copy_from_slice(&part[..taken]);
            filled += taken;
            // A short read ends at the end of the file, or where it is no longer aligned.
            if taken < wanted {
                let rest = &mut buffer[filled..];
                return Ok(filled + read_fully(&self.buffered, position + filled as u64, rest)?);
            }
        }
        Ok(filled)
    }

    fn write_at(&self, position: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut tail = self.tail.lock();
        if position != tail.position + tail.filled as u64 {
            return Err(io::Error::other("a sequential file is written from front to back"));
        }
        for part in parts {
            let mut rest: &[u8] = part;
            while !rest.is_empty() {
                let filled = tail.filled;
                let (taken, left) = rest.split_at(rest.len().min(TRANSFER_BYTES - filled));
                tail.buffer[filled..filled + taken.len()].copy_from_slice(taken);
                tail.filled += taken.len();
                rest = left;
                if tail.filled == TRANSFER_BYTES {
                    let at = tail.position;
                    self.transfer(&tail.buffer, at)?;
                    (tail.position, tail.filled, tail.flushed) = (at + TRANSFER_BYTES as u64, 0, 0);
                }
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.flush(&mut self.tail.lock())?;
        self.buffered.sync_data()
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn size(&self) -> io::Result<u64> {
        let tail = self.tail.lock();
        Ok(tail.position + tail.filled as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use crate::disk::{Disk, LocalDisk};

    #[test]
    fn what_is_written_piece_by_piece_is_read_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let disk = LocalDisk::new(dir.path());
        for (name, pieces) in [
            ("small", vec![10]),
            ("aligned", vec![4096, 4096]),
            ("one transfer", vec![1 << 20]),
            ("many", vec![1, 4095, 1 << 20, 77, 3 << 20, 5000]),
        ] {
            let total: usize = pieces.iter().sum();
            let content: Vec<u8> = (0..total).map(|at| (at * 7 + at / 4096) as u8).collect();
            let file = disk.create_sequential(name).unwrap();
            let mut at = 0;
            for piece in pieces {
                file.write_at(at as u64, &[IoSlice::new(&content[at..at + piece])]).unwrap();
                at += piece;
            }
            file.sync_data().unwrap();
            assert_eq!(file.size().unwrap(), total as u64);
            for file in [file, disk.open(name).unwrap()] {
                let mut read = vec![0; total + 100];
                assert_eq!(file.read_at(0, &mut read).unwrap(), total, "{name}");
                assert!(read[..total] == content, "{name}");
                let from = total / 3;
                let mut part = vec![0; total / 2];
                assert_eq!(file.read_at(from as u64, &mut part).unwrap(), part.len(), "{name}");
                assert!(part == content[from..from + part.len()], "{name}");
            }
        }
    }

    #[test]
    fn gaps_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = LocalDisk::new(dir.path()).create_sequential("file").unwrap();
        file.write_at(0, &[IoSlice::new(b"abc")]).unwrap();
        assert!(file.write_at(5, &[IoSlice::new(b"d")]).is_err());
    }
}
