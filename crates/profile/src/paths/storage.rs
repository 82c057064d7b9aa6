//! The journal alone.

use super::{BODY_BYTES, WINDOW, rounds};
use crate::client::body;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use posthaste_storage::{
    disk::LocalDisk,
    journal::{Batch, Drive, Journal, JournalConfig, Lsn, StepOutcome},
};
use std::sync::Arc;

/// Appends records of 1 KiB, as an engine thread does: in batches that are synced.
pub fn journal(messages: u32) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = JournalConfig { drive: Drive::Steps, ..JournalConfig::default() };
    let disk = Arc::new(LocalDisk::new(directory.path()));
    let (journal, _) = Journal::open(disk, "journal", config, Lsn(0), &mut |_, _| {}, Box::new(|_| {}))
        .context("the journal")?;
    let body = Bytes::from(body(BODY_BYTES));
    for (number, count) in (0..).zip(rounds(messages, WINDOW)) {
        let mut batch = Batch::new(0, number);
        for n in 0..count {
            batch.push(0, false, &body, |head| head.extend_from_slice(&n.to_le_bytes()));
        }
        batch.require_sync();
        journal.submit(batch);
        ensure!(journal.step() == StepOutcome::Committed, "the journal has written nothing");
    }
    Ok(())
}
