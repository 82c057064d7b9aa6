//! The commits that a journal recorded, read from a stopped broker's directory without changing it.

use anyhow::{Context, Result};
use posthaste_storage::{
    data_dir::JOURNAL_DIR,
    journal::format::{FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, FileHeaderState, FrameHeader},
};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

/// Sizes in bytes, headers included, of all commits whose bytes are still in the journal, in order.
pub fn sizes(data: &Path) -> Result<Vec<u64>> {
    let mut frames = Vec::new();
    let directory = data.join(JOURNAL_DIR);
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "journal") {
            frames_of(&File::open(&path)?, &mut frames)?;
        }
    }
    frames.sort_unstable();
    Ok(frames.into_iter().map(|(_, bytes)| bytes).collect())
}

/// Adds sequence number and size of each frame of the file's present life.
fn frames_of(file: &File, frames: &mut Vec<(u64, u64)>) -> Result<()> {
    let size = file.metadata()?.len();
    let mut block = vec![0; FILE_HEADER_BYTES.min(size) as usize];
    file.read_exact_at(&mut block, 0)?;
    let FileHeaderState::Valid(life) = FileHeader::decode(&block) else { return Ok(()) };
    let mut position = FILE_HEADER_BYTES;
    let mut head = [0; FRAME_HEADER_BYTES];
    while position + FRAME_HEADER_BYTES as u64 <= size {
        file.read_exact_at(&mut head, position)?;
        let Some(frame) = FrameHeader::decode(&head) else { return Ok(()) };
        if frame.nonce != life.nonce || frame.lsn != life.start + position {
            return Ok(());
        }
        frames.push((frame.sequence, frame.end() - frame.lsn));
        position += frame.end() - frame.lsn;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_storage::{
        disk::LocalDisk,
        journal::{Batch, Journal, JournalConfig, Lsn},
    };
    use std::sync::{Arc, mpsc};

    #[test]
    fn what_a_journal_wrote_is_found() {
        let data = tempfile::tempdir().unwrap();
        let (done, completed) = mpsc::channel();
        let disk = Arc::new(LocalDisk::new(data.path()));
        let config = JournalConfig { file_bytes: 64 << 10, nonce_seed: 7, ..JournalConfig::default() };
        let ended = Box::new(move |completion| done.send(completion).unwrap());
        let (journal, _) = Journal::open(disk, JOURNAL_DIR, config, Lsn(0), &mut |_, _| {}, ended).unwrap();
        for number in 0..20 {
            let mut batch = Batch::new(0, number);
            batch.push(0, false, &bytes::Bytes::from(vec![2; 10_000]), |head| head.extend([1; 40]));
            batch.require_sync();
            journal.submit(batch);
            completed.recv().unwrap();
        }
        let stats = journal.frame_sizes();
        let found = sizes(data.path()).unwrap();
        assert_eq!(found, stats.recent.iter().map(|size| u64::from(*size)).collect::<Vec<_>>());
        assert_eq!(found.len(), 20);
    }
}
