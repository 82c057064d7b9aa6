//! Reads the journal's files ahead of their replay, so that neither the disk nor the processor waits for the
//! other.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use super::HomeFile;
use crate::buffer::Buffer;

const READ_BYTES: usize = 1 << 20;
/// Files read before the replay has come to them, at most.
const FILES_AHEAD: usize = 3;

/// Brings files into the system's cache. Its thread ends when this is dropped, or with the last file.
pub(super) struct Warm(Option<Sender<usize>>);

impl Warm {
    /// For nothing: where reading ahead helps nobody.
    pub fn off() -> Warm {
        Warm(None)
    }

    /// For `files`, in their order; the first of them has the number `first`.
    pub fn start(first: usize, files: Vec<Arc<dyn HomeFile>>) -> Warm {
        let (reached, progress) = mpsc::channel();
        let thread = thread::Builder::new().name("journal-ahead".into());
        // Without the thread, replay merely waits for the disk.
        let started = thread.spawn(move || run(first, &files, &progress));
        Warm(started.is_ok().then_some(reached))
    }

    /// The replay has come to the file with this number.
    pub fn reached(&self, file: usize) {
        if let Some(sender) = &self.0 {
            // It has read them all.
            let _ = sender.send(file);
        }
    }
}

fn run(first: usize, files: &[Arc<dyn HomeFile>], progress: &Receiver<usize>) {
    let mut buffer = Buffer::new(READ_BYTES);
    let mut replayed = first;
    for (index, file) in (first..).zip(files) {
        while replayed + FILES_AHEAD < index {
            let Ok(reached) = progress.recv() else { return };
            replayed = replayed.max(reached);
        }
        let mut position = 0;
        while position < file.bytes() {
            match progress.try_recv() {
                Ok(reached) => replayed = replayed.max(reached),
                Err(mpsc::TryRecvError::Disconnected) => return,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            // The replay is past it; and what cannot be read is for the replay to find.
            if replayed > index || !matches!(file.read_at(position, &mut buffer), Ok(read) if read > 0) {
                break;
            }
            position += READ_BYTES as u64;
        }
    }
}
