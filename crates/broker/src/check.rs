//! Looking at a data directory while no broker runs on it: every checksum is verified, nothing is changed.

use crate::{
    damage::{Damage, DamageKind, object_of},
    environment::Work,
    home::{Home, Place},
    log::Chunk,
    open::{OpenError, Recovered},
    record,
};
use posthaste_storage::{
    checkpoint::{CheckpointError, Checkpoints},
    data_dir,
    disk::Disk,
    journal::{self, ClosedFiles, Inspected, Lsn, RecordRef, RecoveryReport, Scope},
    segment::{DiskSegments, ReadError, RunCheck, Segments},
};
use serde::Serialize;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// What a data directory holds, and what of it is damaged.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Check {
    pub cluster_id: String,
    /// How often the directory was opened.
    pub epoch: u64,
    pub journal: JournalCheck,
    pub segments: SegmentsCheck,
    pub checkpoints: CheckpointsCheck,
    pub topics: usize,
    pub queues: usize,
    /// Files that were set aside when damage was met before.
    pub set_aside: Vec<String>,
    pub damage: Vec<Damage>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct JournalCheck {
    pub files: usize,
    pub bytes: u64,
    /// Where the journal is needed from, and where its content ends.
    pub from: u64,
    pub end: u64,
    /// Records in it that are readable.
    pub records: u64,
    /// The broker was stopped in order.
    pub clean_shutdown: bool,
    /// An unsynced tail: what was being written when the broker ended, and never acknowledged. The next start
    /// drops it.
    pub unsynced_bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct SegmentsCheck {
    pub files: usize,
    pub bytes: u64,
    /// Messages and batches that are readable.
    pub entries: u64,
    /// Files that nothing refers to; the next checkpoint removes them.
    pub unused: usize,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckpointsCheck {
    pub files: usize,
    pub bytes: u64,
}

impl Check {
    /// Whether there is no damage.
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty()
    }
}

/// Looks at a data directory or a bucket; `name` is what messages call it. No broker must run on it: a
/// directory in use is refused; a broker on a bucket is not disturbed, but what it changes meanwhile may look
/// like damage.
pub fn check(home: &Home, name: &str) -> Result<Check, OpenError> {
    check_place(&home.look(name)?)
}

/// As [`check`], of what was opened to be looked at.
pub(crate) fn check_place(Place { data, journal }: &Place) -> Result<Check, OpenError> {
    let disk = data.disk();
    let mut check =
        Check { cluster_id: data.cluster_id().to_owned(), epoch: data.epoch(), ..Check::default() };
    count_files(&mut check, &*disk)?;
    for (_, bytes) in journal.list()? {
        check.journal.files += 1;
        check.journal.bytes += bytes;
    }
    let segments = Segments::open(Arc::new(DiskSegments::open(disk.clone(), data_dir::SEGMENTS_DIR)?))?;
    let mut recovered = Recovered::new(data.shards(), Work::Here);
    match Checkpoints::inspect(disk.clone(), data_dir::CHECKPOINTS_DIR) {
        Ok(Some((loaded, faults))) => {
            recovered.take(&loaded, &segments, journal)?;
            let older = faults.iter().filter(|fault| !loaded.damaged.contains(fault));
            let told = older.map(|fault| format!("{fault}; it is an older generation, nothing is lost"));
            check.damage.extend(told.map(|what| Damage::new(DamageKind::Checkpoint, what)));
        }
        Ok(None) => {}
        Err(CheckpointError::Damaged(faults)) => {
            // Without any of them nobody knows what the rest means.
            check.damage.extend(faults.into_iter().map(|what| Damage::new(DamageKind::Checkpoint, what)));
            return Ok(check);
        }
        Err(error) => return Err(error.into()),
    }
    recovered.meta.resize(data.shards());
    recovered.index_places();
    let from = recovered.meta.replay_from;
    let mut replay = |lsn: Lsn, record: RecordRef<'_>| recovered.replay(lsn, record);
    let Inspected { report, files } = journal.inspect(Scope::From(from), &mut replay)?;
    check.damage.extend(recovered.assess(&report));
    told_of_journal(&mut check.journal, from, &report);
    check_segments(&mut check, &recovered, &segments)?;
    check_kept(&mut check, &recovered, &files);
    check.topics = recovered.catalog.namespaces().map(|n| n.topics.len()).sum();
    check.queues = recovered.catalog.namespaces().map(|n| n.queues.len()).sum();
    Ok(check)
}

fn told_of_journal(journal: &mut JournalCheck, from: Lsn, report: &RecoveryReport) {
    journal.from = from.0;
    journal.end = report.end.0;
    journal.records = report.records;
    journal.clean_shutdown = report.clean_shutdown;
    journal.unsynced_bytes = report.cut_bytes;
}

fn count_files(check: &mut Check, disk: &dyn Disk) -> Result<(), OpenError> {
    for dir in [data_dir::JOURNAL_DIR, data_dir::SEGMENTS_DIR, data_dir::CHECKPOINTS_DIR] {
        for entry in disk.list(dir)? {
            if entry.name.ends_with(".damaged") {
                check.set_aside.push(format!("{dir}/{}", entry.name));
                continue;
            }
            let (files, bytes) = match dir {
                data_dir::SEGMENTS_DIR => (&mut check.segments.files, &mut check.segments.bytes),
                data_dir::CHECKPOINTS_DIR => (&mut check.checkpoints.files, &mut check.checkpoints.bytes),
                // The journal's place tells of its files.
                _ => continue,
            };
            (*files, *bytes) = (*files + 1, *bytes + entry.bytes);
        }
    }
    Ok(())
}

/// Reads what stayed in the journal.
fn check_kept(check: &mut Check, recovered: &Recovered, files: &ClosedFiles) {
    for stream in recovered.shards.iter().flat_map(|shard| shard.streams()) {
        let chunks = recovered.kept.get(&stream.id).map_or(&[][..], Vec::as_slice);
        let mut places = chunks.iter().flat_map(Chunk::places).peekable();
        while let Some((offset, lsn)) = places.next() {
            // Where it ends is not known if nothing follows: at its own offset at least.
            let until = places.peek().map_or(offset.saturating_add(1), |(next, _)| *next);
            if until <= stream.start {
                continue;
            }
            let read = files.read(lsn);
            let body = read.as_ref().and_then(|read| record::body_at(&read.head, lsn));
            if read.is_some() && body.is_none_or(|body| files.read(body).is_some()) {
                check.journal.records += 1;
                continue;
            }
            let mut told = Damage::new(DamageKind::Journal, "damaged record that stayed in the journal");
            if let Some((file, position)) = files.place(lsn) {
                told.file = Some(format!("{}/{}", data_dir::JOURNAL_DIR, journal::file_name(file)));
                told.position = Some(position);
            }
            let object = object_of(&recovered.catalog, stream.id);
            check.damage.push(told.with_offsets(object, offset.max(stream.start), until));
        }
    }
}

/// Reads all of every segment that is needed.
fn check_segments(check: &mut Check, recovered: &Recovered, segments: &Segments) -> Result<(), OpenError> {
    let streams = recovered.shards.iter().flat_map(|shard| shard.streams());
    let starts: HashMap<u64, u64> = streams.map(|stream| (stream.id, stream.start)).collect();
    let mut runs: Vec<_> = recovered.runs.values().flatten().copied().collect();
    runs.sort_by_key(|run| (run.segment, run.position));
    let mut needed = BTreeSet::new();
    for run in runs {
        needed.insert(run.segment);
        let RunCheck { entries, lost, index_damaged } = match segments.verify(&run) {
            Err(ReadError::Io { error, .. }) => {
                let what = format!("a segment cannot be read: {error}");
                let object = object_of(&recovered.catalog, run.stream);
                let told = Damage::of_segment(run.segment, &what);
                check.damage.push(told.with_offsets(object, run.first, run.end));
                continue;
            }
            outcome => outcome?,
        };
        check.segments.entries += entries;
        if index_damaged {
            let what = "damaged index; reading is slower, nothing is lost";
            let object = object_of(&recovered.catalog, run.stream);
            check.damage.push(Damage { object, ..Damage::of_segment(run.segment, what) });
        }
        // What is below the start was settled or trimmed.
        let Some(start) = starts.get(&run.stream) else { continue };
        for (from, to) in lost.into_iter().filter(|(_, to)| to > start) {
            let object = object_of(&recovered.catalog, run.stream);
            let told = Damage::of_segment(run.segment, "damaged segment");
            let told = told.with_offsets(object, from.max(*start), to);
            if !check.damage.contains(&told) {
                check.damage.push(told);
            }
        }
    }
    check.segments.unused = segments.list().iter().filter(|(id, _)| !needed.contains(id)).count();
    Ok(())
}
