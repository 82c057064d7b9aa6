//! Opening the journal of a bucket: fences every earlier epoch, replays what lies before the fences.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::super::files::{JournalFile, Shared};
use super::super::format::{
    FILE_HEADER_BYTES, FORMAT_VERSION, FRAME_HEADER_BYTES, FileHeader, FileHeaderState, FrameHeader,
};
use super::super::recovery::{Damage, DamageKind, RecoveryReport, Replay};
use super::super::scan::{Extent, FileScan, Snapshot, first_frame};
use super::super::{JournalConfig, Lsn, OpenError, Scope};
use super::writer::Start;
use super::{Identity, ObjectHome, key_of, number_of, place_of_key};
use crate::Random;
use crate::object::{Bucket, ObjectDisk, Put};

/// How far ahead of a running writer a barrier is put at first; more than it has under way.
const STRIDE: u64 = 64;
/// A barrier has at least so many bytes; a fence has fewer, a journal file has more than both.
const BARRIER_BYTES: u64 = 100;
/// Objects fetched at once.
const FETCHED_AT_ONCE: usize = 64;
/// Bytes fetched at once, if that is fewer objects.
const FETCHED_BYTES: u64 = 64 << 20;
const START_ALIGN: u64 = 4096;

/// An epoch's objects as they are listed.
#[derive(Default)]
struct Epoch {
    /// Sizes of journal files by number.
    files: BTreeMap<u64, u64>,
    fence: Option<u64>,
    barriers: BTreeSet<u64>,
}

static NONE: Epoch = Epoch { files: BTreeMap::new(), fence: None, barriers: BTreeSet::new() };

/// A journal file that counts.
struct Found {
    epoch: u64,
    sequence: u64,
    bytes: u64,
}

/// What an object's first block says.
struct Head {
    start: u64,
    /// LSN of the epoch's first object.
    first: u64,
    /// What was durable when it was put.
    durable: u64,
}

/// Fences, replays, and says where to go on.
pub(in crate::journal) fn recover(
    home: &Arc<ObjectHome>,
    config: JournalConfig,
    from: Lsn,
    replay: &mut Replay<'_>,
) -> Result<(Arc<Shared>, Start, RecoveryReport), OpenError> {
    let Recovery { end, frame_sequence, files, report, .. } = read(home, Scope::From(from), replay)?;
    // Above all that an earlier writer can have given out: it had at most so much under way.
    let start = end.saturating_add(config.file_bytes.saturating_mul(4)).next_multiple_of(START_ALIGN);
    let nonces = Random::new(config.nonce_seed ^ Random::new(start).next_u64());
    let shared = Shared::new(home.clone(), config, files, Vec::new(), 0);
    let start =
        Start { lsn: start, previous_end: end, frame_sequence: frame_sequence.wrapping_add(1), nonces };
    Ok((Arc::new(shared), start, report))
}

/// Replays, and says what it found; whoever has not claimed the bucket changes nothing by that.
pub(in crate::journal) fn inspect(
    disk: &ObjectDisk,
    scope: Scope,
    replay: &mut Replay<'_>,
) -> Result<(RecoveryReport, Vec<Arc<JournalFile>>), OpenError> {
    let home = Arc::new(ObjectHome::new(disk));
    let Recovery { report, files, .. } = read(&home, scope, replay)?;
    Ok((report, files))
}

/// Where epochs end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// At a fence, which is put where there is none.
    Fenced,
    /// Where a fence would be put now.
    Seen,
}

fn read<'a>(
    home: &'a Arc<ObjectHome>,
    scope: Scope,
    replay: &mut Replay<'_>,
) -> Result<Recovery<'a>, OpenError> {
    let failed = |action: &str| {
        let action = format!("{action} in {}", home.bucket().name());
        move |error| OpenError::Io { action, error }
    };
    let (bucket, current) = (home.bucket().clone(), home.epoch);
    let ends = if home.claimed { Ends::Fenced } else { Ends::Seen };
    let released_below = scope.released_below().0;
    let found = home.bucket().wait(async move { files_of_all(&bucket, current, ends, released_below).await });
    let (found, newest) = found.map_err(failed("find the end of earlier journals"))?;
    let from = scope.reads_from().0;
    let mut recovery = Recovery {
        home,
        from,
        expected: from,
        end: from,
        frame_sequence: 0,
        files: Vec::new(),
        report: RecoveryReport::default(),
    };
    let mut rest = &found[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |found: &&Found| {
            bytes += found.bytes;
            bytes <= FETCHED_BYTES
        };
        let count = rest.iter().take(FETCHED_AT_ONCE).take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count);
        let contents = recovery.fetch(now).map_err(failed("read the journal"))?;
        for (found, bytes) in now.iter().zip(contents) {
            // Gone since it was listed: released by the writer before. If not, the next file tells.
            if let Some(bytes) = bytes {
                recovery.file(found, bytes, replay)?;
            }
        }
        rest = later;
    }
    if let Some((epoch, sequence)) = newest {
        recovery.miss_newest(&found, epoch, sequence);
    }
    recovery.report.end = Lsn(recovery.end);
    // The opener before this one may have left without a word.
    recovery.report.clean_shutdown &= found.last().is_some_and(|last| last.epoch + 1 == home.epoch);
    Ok(recovery)
}

struct Recovery<'a> {
    home: &'a Arc<ObjectHome>,
    from: u64,
    /// Where the next file's content should begin.
    expected: u64,
    end: u64,
    frame_sequence: u64,
    files: Vec<Arc<JournalFile>>,
    report: RecoveryReport,
}

impl Recovery<'_> {
    fn fetch(&self, found: &[Found]) -> io::Result<Vec<Option<Bytes>>> {
        let bucket = self.home.bucket().clone();
        let keys: Vec<String> = found.iter().map(|found| key_of(found.epoch, found.sequence)).collect();
        self.home.bucket().wait(async move {
            let fetch = async |key: &String| match bucket.get(key).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                outcome => outcome.map(Some),
            };
            try_join_all(keys.iter().map(fetch)).await
        })
    }

    /// The newest object is removed only after a newer one was put: one that is not there was lost. How large
    /// it was cannot be known.
    fn miss_newest(&mut self, found: &[Found], epoch: u64, sequence: u64) {
        if found.last().is_some_and(|last| (last.epoch, last.sequence) == (epoch, sequence)) {
            return;
        }
        let least = FILE_HEADER_BYTES + FRAME_HEADER_BYTES as u64;
        let number = number_of(epoch, sequence);
        let damage = Damage::missing(self.expected, self.expected + least, Some(number));
        self.report.quarantined.push(damage);
        self.report.clean_shutdown = false;
    }

    fn file(&mut self, found: &Found, bytes: Bytes, replay: &mut Replay<'_>) -> Result<(), OpenError> {
        let number = number_of(found.epoch, found.sequence);
        let key = key_of(found.epoch, found.sequence);
        let failed = |error| OpenError::Io { action: format!("read journal object {key}"), error };
        let size = bytes.len() as u64;
        let content = Snapshot(bytes.to_vec());
        let header = FileHeader::decode(bytes.get(..FILE_HEADER_BYTES as usize).unwrap_or_default());
        let mut declared = size;
        let (nonce, start, previous_end) = match header {
            FileHeaderState::Valid(header) => {
                declared = header.bytes.max(size);
                (header.nonce, header.start, Some(header.previous_end))
            }
            FileHeaderState::OtherVersion(found) => {
                return Err(OpenError::Version { file: number, found, supported: FORMAT_VERSION });
            }
            FileHeaderState::Blank | FileHeaderState::Damaged => {
                match first_frame(&content).map_err(failed)? {
                    Some((position, frame)) => (frame.nonce, frame.lsn - position, None),
                    None => (0, self.expected, None),
                }
            }
        };
        let before = self.report.quarantined.len();
        let missing_to = previous_end.unwrap_or(start);
        if self.expected < missing_to {
            let damage = Damage::missing(self.expected, missing_to, None);
            self.report.quarantined.push(damage);
        }
        let extent = Extent { start, limit: start + size, proven: start + size, exact: true, counted_to: 0 };
        if extent.limit > self.from {
            if previous_end.is_none() {
                let kind = DamageKind::FileHeader;
                let to = start + FILE_HEADER_BYTES;
                let damage = Damage { kind, ..Damage::missing(start, to, Some(number)) };
                self.report.quarantined.push(damage);
            }
            let scan = FileScan::new(&content, number, nonce, extent, Lsn(self.from));
            let end = scan.run(replay, &mut self.report).map_err(failed)?;
            self.frame_sequence = self.frame_sequence.max(end.sequence);
            self.report.clean_shutdown = end.clean && declared == size;
            if declared > size {
                // Objects are put whole: something has shortened this one.
                let damage = Damage::missing(extent.limit, start + declared, Some(number));
                self.report.quarantined.push(Damage { file_start: Lsn(start), ..damage });
            }
        }
        let damaged = self.report.quarantined.len() > before;
        self.expected = self.expected.max(start + declared);
        self.end = self.end.max(start + declared);
        self.files.push(Arc::new(JournalFile {
            number,
            file: Arc::new(self.home.file(&key, size)),
            nonce,
            start,
            end: AtomicU64::new(extent.limit),
            damaged: AtomicBool::new(damaged),
        }));
        Ok(())
    }
}

/// The files that count of every epoch before `current`, in order; and epoch and sequence of the newest
/// object that was there when its epoch ended.
async fn files_of_all(
    bucket: &Bucket,
    current: u64,
    ends: Ends,
    from: u64,
) -> io::Result<(Vec<Found>, Option<(u64, u64)>)> {
    let mut ended: BTreeMap<u64, u64> = BTreeMap::new();
    loop {
        let mut epochs = list(bucket).await?;
        // A list is no snapshot: an object may be missing in it although later ones are there. What ended
        // before it was asked for is whole.
        let open: Vec<u64> = (1..current).filter(|number| !ended.contains_key(number)).collect();
        if open.is_empty() {
            let files = |(number, end)| {
                let epoch: Epoch = epochs.remove(&number).unwrap_or_default();
                let files = epoch.files.into_iter().take_while(move |(sequence, _)| *sequence < end);
                files.map(move |(sequence, bytes)| Found { epoch: number, sequence, bytes })
            };
            let newest = ended.iter().rev().find_map(|(number, end)| Some((*number, end.checked_sub(1)?)));
            return Ok((ended.into_iter().flat_map(files).collect(), newest));
        }
        for number in open {
            let epoch = epochs.get(&number).unwrap_or(&NONE);
            let end = match epoch.fence {
                Some(fence) => Some(fence),
                None => end(bucket, current, number, epoch, ends, from).await?,
            };
            ended.extend(end.map(|end| (number, end)));
        }
    }
}

async fn list(bucket: &Bucket) -> io::Result<BTreeMap<u64, Epoch>> {
    let mut epochs: BTreeMap<u64, Epoch> = BTreeMap::new();
    for (key, bytes) in bucket.list("journal").await? {
        let Some((number, sequence)) = place_of_key(&key) else { continue };
        let epoch = epochs.entry(number).or_default();
        match bytes {
            // The end may be before it.
            BARRIER_BYTES..FILE_HEADER_BYTES => _ = epoch.barriers.insert(sequence),
            0..BARRIER_BYTES => epoch.fence = epoch.fence.or(Some(sequence)),
            _ => _ = epoch.files.insert(sequence, bytes),
        }
    }
    Ok(epochs)
}

/// Finds where an epoch ends, or has it end; `None` if that needs another look.
async fn end(
    bucket: &Bucket,
    by: u64,
    number: u64,
    epoch: &Epoch,
    ends: Ends,
    from: u64,
) -> io::Result<Option<u64>> {
    let free = match first_free(bucket, number, epoch, from).await {
        // Its writer has released something since it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        free => free?,
    };
    if ends == Ends::Seen || epoch.barriers.contains(&free) {
        return Ok(Some(free));
    }
    let put = async |sequence, body: String| {
        let body = Bytes::from(body);
        bucket.put_new(&key_of(number, sequence), std::slice::from_ref(&body), &body, || true).await
    };
    if put(free, format!("{{\"fence\":{number},\"by\":{by:020}}}")).await? == Put::Done {
        return Ok(Some(free));
    }
    // Its writer still runs, and puts faster than somebody else can list. A barrier stops it there at the
    // latest; the fence goes to the first place that it leaves free before that.
    let (mut at, mut stride) = (free, STRIDE);
    let mut stopped = epoch.barriers.range(free..).next().is_some();
    while !stopped {
        at += stride;
        stride = stride.saturating_mul(2);
        let barrier = format!("{{\"barrier\":{number},\"by\":{by:0100}}}");
        stopped = put(at, barrier).await? == Put::Done;
    }
    Ok(None)
}

/// The number of the first object that the epoch's writer cannot have acknowledged.
///
/// Released objects are gone, but never the newest of those that were acknowledged; released ones end at or
/// below `from`. So a gap below `from` is what was released, and a gap above it is where the acknowledged
/// part ends, unless a later object says that more had been durable: then something was lost, and the fence
/// goes behind it.
async fn first_free(bucket: &Bucket, number: u64, epoch: &Epoch, from: u64) -> io::Result<u64> {
    let mut next = 0;
    // Unknown until an object is looked at.
    let mut reached = None;
    let files: Vec<(u64, u64)> = epoch.files.iter().map(|(sequence, bytes)| (*sequence, *bytes)).collect();
    let mut index = 0;
    while let Some((sequence, bytes)) = files.get(index).copied() {
        if sequence != next {
            let start = head(bucket, number, sequence).await?.map(|head| head.start);
            // Starting at or below what a checkpoint needs: what is missing before it was released.
            let released = start.is_some_and(|start| start <= from);
            if !released && !proven(bucket, number, &files[index..], reached).await? {
                break;
            }
            reached = start;
        } else if reached.is_none() {
            reached = head(bucket, number, sequence).await?.map(|head| head.start);
        }
        // Sizes add up to the next gap.
        reached = reached.map(|reached| reached + bytes);
        next = sequence + 1;
        index += 1;
    }
    Ok(next)
}

/// Whether one of these objects says that something from `reached`, or else from the epoch's start on, had
/// been durable.
async fn proven(
    bucket: &Bucket,
    number: u64,
    files: &[(u64, u64)],
    reached: Option<u64>,
) -> io::Result<bool> {
    for (sequence, _) in files {
        let head = head(bucket, number, *sequence).await?;
        if head.is_some_and(|head| head.durable > reached.unwrap_or(head.first)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What an object says of itself; `None` if it is damaged.
async fn head(bucket: &Bucket, number: u64, sequence: u64) -> io::Result<Option<Head>> {
    let length = FILE_HEADER_BYTES + FRAME_HEADER_BYTES as u64;
    let bytes = bucket.get_range(&key_of(number, sequence), 0..length).await?;
    let FileHeaderState::Valid(header) = FileHeader::decode(&bytes) else { return Ok(None) };
    let identity = Identity::decode(&bytes).filter(|id| id.epoch == number && id.sequence == sequence);
    let frame = bytes.get(FILE_HEADER_BYTES as usize..).and_then(FrameHeader::decode);
    Ok(identity.map(|identity| Head {
        start: header.start,
        first: identity.first,
        durable: frame.map_or(0, |frame| frame.durable),
    }))
}
