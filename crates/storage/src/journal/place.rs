//! Where a journal lies, and the only way to list it, to read it and to open it there.

use std::io;
use std::sync::Arc;

use super::format::{FILE_HEADER_BYTES, FileHeader, FileHeaderState};
use super::note::{Note, NoteState};
use super::{
    ClosedFiles, Completion, DamageKind, DiskHome, HomeFile, Journal, JournalConfig, JournalHome, Lsn,
    OpenError, RecordRef, RecoveryReport, object, recovery,
};
use crate::disk::{BLOCK_BYTES, Disk, Reserving};
use crate::object::ObjectDisk;

/// The files of a directory, or the numbered objects of a bucket. Clones are of the same journal.
#[derive(Clone)]
pub struct JournalPlace(Kind);

#[derive(Clone)]
enum Kind {
    Directory { disk: Arc<dyn Disk>, dir: String },
    Bucket(ObjectDisk),
}

/// How much of a journal is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What lies at or above this LSN. All below it was durable, and may have been released.
    From(Lsn),
    /// All that is there, also below this LSN: there, what is missing was released.
    All(Lsn),
}

impl Scope {
    /// All below it was durable.
    pub(super) fn released_below(self) -> Lsn {
        let (Scope::From(lsn) | Scope::All(lsn)) = self;
        lsn
    }

    /// The first LSN that is read.
    pub(super) fn reads_from(self) -> Lsn {
        match self {
            Scope::From(lsn) => lsn,
            Scope::All(_) => Lsn(0),
        }
    }
}

/// What was seen of a journal that was not opened.
pub struct Inspected {
    /// As when it is opened.
    pub report: RecoveryReport,
    /// To read single records from.
    pub files: ClosedFiles,
}

impl JournalPlace {
    /// A directory of `disk`; it is made if it is not there.
    pub fn directory(disk: Arc<dyn Disk>, dir: &str) -> JournalPlace {
        JournalPlace(Kind::Directory { disk, dir: dir.to_owned() })
    }

    /// The bucket that `disk` has opened.
    pub fn bucket(disk: ObjectDisk) -> JournalPlace {
        JournalPlace(Kind::Bucket(disk))
    }

    /// Numbers and sizes in bytes of all files.
    pub fn list(&self) -> Result<Vec<(u64, u64)>, OpenError> {
        self.home()?.list().map_err(|error| OpenError::Io { action: "list journal files".to_owned(), error })
    }

    /// The contents of one file, to be read only.
    pub fn file(&self, number: u64) -> Result<Arc<dyn HomeFile>, OpenError> {
        let failed = |error| OpenError::Io { action: format!("open journal file {number:016x}"), error };
        self.home()?.open(number).map_err(failed)
    }

    /// For simulations: whether damage to the block at `position` of a file may pass for an end that had not
    /// been synced, because the durable position has not been noted since.
    #[doc(hidden)]
    pub fn is_unnoted(&self, file: u64, position: u64) -> Result<bool, OpenError> {
        let Kind::Directory { .. } = &self.0 else { return Ok(false) };
        let failed = |error| OpenError::Io { action: format!("read journal file {file:016x}"), error };
        let home = self.home()?;
        let NoteState::Valid(note) = Note::read(&*home).map_err(failed)? else { return Ok(true) };
        let mut block = vec![0; FILE_HEADER_BYTES as usize];
        let read = home.open(file).and_then(|file| file.read_at(0, &mut block)).unwrap_or(0);
        let FileHeaderState::Valid(header) = FileHeader::decode(&block[..read]) else {
            return Ok(self.list()?.iter().all(|(number, _)| *number <= file));
        };
        let block_end = (header.start + position + 1).next_multiple_of(BLOCK_BYTES as u64);
        Ok(match note.position.durable_of(header.nonce, header.start) {
            Some(durable) => block_end > durable,
            None => header.start > note.position.start,
        })
    }

    /// Hands every readable record of `scope` to `replay`, in order, as [`JournalPlace::open`] would. Changes
    /// nothing of a directory. In a bucket that was opened to look at it, nothing is changed either; in one
    /// that was claimed, earlier openers are stopped first, so that what is read is all that there will be.
    pub fn inspect(
        &self,
        scope: Scope,
        replay: &mut dyn FnMut(Lsn, RecordRef<'_>),
    ) -> Result<Inspected, OpenError> {
        let (mut report, files) = match &self.0 {
            Kind::Directory { .. } => recovery::inspect(&*self.home()?, scope.reads_from(), replay)?,
            Kind::Bucket(disk) => object::inspect(disk, scope, replay)?,
        };
        report
            .quarantined
            .retain(|lost| lost.kind != DamageKind::Missing || lost.to > scope.released_below());
        Ok(Inspected { report, files: ClosedFiles::new(files) })
    }

    /// Opens the journal, hands every readable record at or above `from` to `replay`, in order, and starts
    /// the writer. Everything below `from` is taken to have been durable. `completed` is called by the writer
    /// and must not block.
    ///
    /// In a bucket every earlier opener is fenced: what it put before is replayed, and it puts nothing more.
    /// There are threads if the bucket has them, whatever [`JournalConfig::drive`] says, and one sync mode:
    /// a batch is durable, and completes, once it and all before it are there as objects.
    pub fn open(
        &self,
        config: JournalConfig,
        from: Lsn,
        replay: &mut dyn FnMut(Lsn, RecordRef<'_>),
        completed: Box<dyn FnMut(Completion) + Send>,
    ) -> Result<(Journal, RecoveryReport), OpenError> {
        match &self.0 {
            Kind::Directory { disk, .. } => {
                tell_of_space(&**disk, &config);
                Journal::open_home(self.home()?, config, from, replay, completed)
            }
            Kind::Bucket(disk) => Journal::open_objects(disk, config, from, replay, completed),
        }
    }

    fn home(&self) -> Result<Arc<dyn JournalHome>, OpenError> {
        match &self.0 {
            Kind::Directory { disk, dir } => {
                let home = DiskHome::open(disk.clone(), dir);
                let failed =
                    |error: io::Error| OpenError::Io { action: format!("open the directory {dir}"), error };
                Ok(Arc::new(home.map_err(failed)?))
            }
            Kind::Bucket(disk) => Ok(Arc::new(object::ObjectHome::new(disk))),
        }
    }
}

fn tell_of_space(disk: &dyn Disk, config: &JournalConfig) {
    if let Reserving::Not { file_system } = disk.reserving() {
        tracing::warn!(
            file_system,
            reserve_mib = config.reserve_bytes >> 20,
            "this file system keeps no space for what is written later: publishers are refused when \
             hardly more than the reserve is free; if others take that too, all waits for space",
        );
    }
}
