//! What of a journal had been durable and cannot be read.

use std::fmt;
use std::ops::{AddAssign, Sub};

use super::Lsn;
use super::note::Lost;

/// A stretch of the journal that cannot be read although it had been durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// First LSN of the stretch.
    pub from: Lsn,
    /// LSN behind it.
    pub to: Lsn,
    /// Number of the file, as in its name; `None` if the file is missing.
    pub file: Option<u64>,
    /// LSN of the file's first byte: what lies at an LSN lies so many bytes behind it.
    pub file_start: Lsn,
    /// What was there.
    pub kind: DamageKind,
    /// The shard that the damaged record names, if that much can be read; it is not verified.
    pub shard: Option<u16>,
    /// The damaged record's head, if it is in its place; it is not verified.
    pub head: Option<Vec<u8>>,
    /// What is missing at most, here and in the stretches that follow in the same frame, if that is known.
    pub lost: Option<Amount>,
}

/// How much there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Records.
    pub records: u64,
    /// Messages in these, as [`super::Batch::holds`] was told.
    pub messages: u64,
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        self.records = self.records.saturating_add(other.records);
        self.messages = self.messages.saturating_add(other.messages);
    }
}

impl Sub for Amount {
    type Output = Amount;

    fn sub(self, other: Amount) -> Amount {
        let records = self.records.saturating_sub(other.records);
        Amount { records, messages: self.messages.saturating_sub(other.messages) }
    }
}

/// What a damaged stretch was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// A whole file: nobody can tell what was in it.
    File,
    /// The start of a file; its records were found without it.
    FileHeader,
    /// The start of a frame; its records, where readable, were replayed.
    FrameHeader,
    /// Readable records that were joined with an unreadable one, and are therefore not replayed.
    JoinedRecords,
    /// A file, or the end of one, that is not there.
    Missing,
    /// The note of the durable position. Nothing is lost by that, but the knowledge of what is missing if the
    /// journal's end is damaged as well.
    Note,
    /// Records.
    Records,
}

impl Damage {
    pub(super) fn missing(from: u64, to: u64, file: Option<u64>) -> Damage {
        let kind = DamageKind::Missing;
        let (from, to) = (Lsn(from), Lsn(to));
        Damage { from, to, file, file_start: from, kind, shard: None, head: None, lost: None }
    }

    pub(super) fn of_lost(lost: &Lost) -> Damage {
        Damage { lost: Some(lost.held), ..Damage::missing(lost.from, lost.to, lost.file) }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            DamageKind::File => "a file of which nothing can be read",
            DamageKind::FileHeader => "damaged file header",
            DamageKind::FrameHeader => "damaged frame header",
            DamageKind::JoinedRecords => "records joined with a damaged one",
            DamageKind::Missing => "missing content",
            DamageKind::Note => "damaged or missing note of the durable position",
            DamageKind::Records => "damaged records",
        };
        f.write_str(what)?;
        if self.from < self.to {
            write!(f, " at LSN {} to {}", self.from, self.to)?;
        }
        if let Some(file) = self.file {
            write!(f, " in journal file {file:016x}")?;
        }
        if let Some(shard) = self.shard {
            write!(f, " of shard {shard}")?;
        }
        match self.lost {
            Some(lost) => write!(f, ", at most {} records", lost.records),
            None => Ok(()),
        }
    }
}
