//! What a start tells of, and keeps, beyond what the scan of a file finds: what is missing, by the note and
//! by the counts that later files carry.

use super::super::damage::{Amount, Damage, DamageKind};
use super::super::note::Lost;
use super::super::scan::ScanEnd;
use super::{Found, FoundFile, JournalHome, Lsn, NoteIs, OpenError, RecoveryReport, io_error};

/// How much there was in a file up to an LSN.
#[derive(Clone, Copy)]
pub(super) struct Counted {
    pub to: u64,
    pub held: Amount,
}

impl Found {
    /// What no file of the list tells of.
    pub(super) fn report_unplaced(&self, from: Lsn, report: &mut RecoveryReport) {
        let known = self.note.lost.iter().filter(|lost| lost.to > from.0);
        report.quarantined.extend(known.map(Damage::of_lost));
        let whole = |(kind, file)| Damage { kind, ..Damage::missing(0, 0, file) };
        let unreadable = self.unreadable.iter().map(|number| (DamageKind::File, Some(*number)));
        report.quarantined.extend(unreadable.map(whole));
        let note_is_damaged = self.note_state == NoteIs::Damaged;
        report.quarantined.extend(note_is_damaged.then(|| whole((DamageKind::Note, None))));
    }

    /// The file that the note tells of may not be there at all.
    pub(super) fn report_missing_file(&self, from: Lsn, report: &mut RecoveryReport) {
        let noted = self.note.position;
        let is_there = |file: &FoundFile| noted.durable_of(file.nonce, file.start).is_some();
        if noted.durable <= from.0 || self.files.iter().any(is_there) {
            return;
        }
        let before = self.files.iter().rev().find(|file| file.start < noted.start);
        let reached = before.map_or(from.0, |file| file.end.max(from.0));
        if reached < noted.start {
            report.quarantined.push(Damage::missing(reached, noted.start, None));
        }
        let lost = Some(noted.held);
        let missing = Damage::missing(noted.start.max(from.0), noted.durable, None);
        report.quarantined.push(Damage { lost, ..missing });
        report.clean_shutdown = false;
    }

    /// What later starts are to tell of, too: this one begins a file that leaves it out.
    pub(super) fn lost(&self, report: &RecoveryReport) -> Vec<Lost> {
        let missing = report.quarantined.iter().filter(|damage| damage.kind == DamageKind::Missing);
        let lost = missing.filter_map(|damage| {
            Some(Lost { from: damage.from.0, to: damage.to.0, file: damage.file, held: damage.lost? })
        });
        lost.collect()
    }

    /// Remembers which files are damaged, and takes those out of the way that are of no use.
    pub(super) fn keep_evidence(&self, home: &dyn JournalHome) -> Result<(), OpenError> {
        for file in self.files.iter().filter(|file| file.damaged && !file.is_marked) {
            home.suspect(file.number).map_err(|error| io_error("mark", file.number, error))?;
        }
        for number in &self.unreadable {
            home.set_aside(*number).map_err(|error| io_error("set aside", *number, error))?;
        }
        match self.note_state == NoteIs::Damaged {
            true => home.set_note_aside().map_err(|error| OpenError::Io {
                action: "set the journal's damaged file \"durable\" aside".into(),
                error,
            }),
            false => Ok(()),
        }
    }

    /// How much a file holds, or held, by the note or by the header of the file behind it.
    pub(super) fn counted(&self, index: usize) -> Option<Counted> {
        let file = &self.files[index];
        let noted = self.note.position;
        let by_note = noted.durable_of(file.nonce, file.start).map(|to| Counted { to, held: noted.held });
        let next = self.files.get(index + 1).and_then(|next| next.previous);
        let by_next = next.filter(|previous| previous.start == file.start).and_then(|previous| {
            let held = previous.held?;
            Some(Counted { to: previous.end, held })
        });
        by_note.into_iter().chain(by_next).max_by_key(|counted| counted.to)
    }
}

impl FoundFile {
    /// Compares what was found with what there was: returns up to where it is known that there was something.
    /// What of that was not found is told, with what was in it at most.
    pub(super) fn account(
        &mut self,
        end: &mut ScanEnd,
        counted: Option<Counted>,
        from: Lsn,
        told: &mut Vec<Damage>,
        before: usize,
    ) -> u64 {
        self.held = end.seen;
        let Some(Counted { to, held }) = counted else { return end.lsn };
        let unseen = held - end.seen;
        if to > end.lsn.max(from.0) {
            let missing = Damage::missing(end.lsn, to, Some(self.number));
            told.push(Damage { file_start: Lsn(self.start), lost: Some(unseen), ..missing });
            end.clean = false;
            return to;
        }
        let uncounted = |damage: &&mut Damage| damage.lost.is_none() && damage.to > from;
        if unseen != Amount::default()
            && let Some(damage) = told[before..].iter_mut().rfind(uncounted)
        {
            damage.lost = Some(unseen);
            self.held += unseen;
        }
        end.lsn
    }
}
