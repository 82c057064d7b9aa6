//! Reading a file back past the page cache. Through it the bytes that were just written would be found,
//! whatever became of them on the disk.

use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::buffer::Buffer;
use crate::disk::{BLOCK_BYTES, DiskFile};

/// Read at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// A file that was synced, as the disk has it.
pub(super) struct ReadBack {
    file: Arc<dyn DiskFile>,
    window: Mutex<Window>,
}

struct Window {
    bytes: Buffer,
    start: u64,
    length: usize,
}

impl ReadBack {
    pub fn new(file: Arc<dyn DiskFile>) -> ReadBack {
        let window = Window { bytes: Buffer::new(WINDOW_BYTES), start: 0, length: 0 };
        ReadBack { file, window: Mutex::new(window) }
    }
}

impl DiskFile for ReadBack {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut window = self.window.lock();
        let mut filled = 0;
        while filled < buffer.len() {
            let at = position + filled as u64;
            if at < window.start || at >= window.start + window.length as u64 {
                window.start = at - at % BLOCK_BYTES as u64;
                window.length = 0;
                window.length = self.file.read_blocks(window.start, &mut window.bytes)?;
            }
            let skipped = (at - window.start) as usize;
            let held = window.bytes.get(skipped..window.length).unwrap_or_default();
            if held.is_empty() {
                break;
            }
            let part = held.len().min(buffer.len() - filled);
            buffer[filled..filled + part].copy_from_slice(&held[..part]);
            filled += part;
        }
        Ok(filled)
    }

    fn write_at(&self, _position: u64, _parts: &[IoSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}
