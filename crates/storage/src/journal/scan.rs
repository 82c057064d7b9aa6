//! Reading one journal file in order, past damage.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::format::{
    CLEAN, CONTINUES, FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FrameHeader, JOINED, PlacedRecord,
    RECORD_HEADER_BYTES, RecordHeader, u64_at,
};
use super::recovery::{Amount, Damage, DamageKind, RecoveryReport, Replay};
use super::{HomeFile, Lsn, RecordRef};

/// Bytes read at once.
const WINDOW_BYTES: u64 = 1 << 20;
/// Frames and records begin at multiples of this, and keep LSN and nonce at the same distance.
const STEP: u64 = 8;
const LSN_AT: usize = 16;
/// Unused parts are recognised by this many zeros at once.
static ZEROS: [u8; 4096] = [0; 4096];

/// How far a file's content goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// LSN of the file's first byte.
    pub start: u64,
    /// LSN behind which nothing counts.
    pub limit: u64,
    /// Everything below this LSN was durable.
    pub proven: u64,
    /// Whether content reaches up to `limit`, rather than at most so far.
    pub exact: bool,
    /// LSN up to which it is known how much there was.
    pub counted_to: u64,
}

/// Where a file's content ended.
pub(super) struct ScanEnd {
    pub lsn: u64,
    pub sequence: u64,
    pub clean: bool,
    /// What frames and records below [`Extent::counted_to`] say that they hold, readable or told as damaged.
    pub seen: Amount,
}

pub(super) struct FileScan<'a> {
    window: Window<'a>,
    number: u64,
    nonce: u64,
    extent: Extent,
    from: u64,
    /// What the rest of the file proves to be durable, once it has been looked at.
    ahead: Option<Ahead>,
    /// A record was lost: what continues it must not be replayed.
    broken: bool,
    end: ScanEnd,
}

/// What a look at all that lies behind some damage found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ahead {
    /// Highest durable position that a readable frame names.
    durable: u64,
    /// LSN behind the last thing that belongs to this life of the file.
    furthest: u64,
}

/// Where reading goes on behind damage.
enum Next {
    At(u64),
    Cut(u64),
    Nothing,
}

enum Records {
    /// So much is readable, and was replayed unless it lies in the checkpoint; damage was reported.
    Done(Amount),
    /// The tail is cut at this LSN.
    Cut(u64),
}

impl<'a> FileScan<'a> {
    pub fn new(file: &'a dyn HomeFile, number: u64, nonce: u64, extent: Extent, from: Lsn) -> FileScan<'a> {
        FileScan {
            window: Window::new(file),
            number,
            nonce,
            extent,
            from: from.0,
            ahead: None,
            broken: false,
            end: ScanEnd {
                lsn: extent.start + FILE_HEADER_BYTES,
                sequence: 0,
                clean: false,
                seen: Amount::default(),
            },
        }
    }

    /// With what [`FileScan::unproven`] found.
    pub fn with(mut self, ahead: Option<Ahead>) -> Self {
        self.ahead = ahead;
        self
    }

    /// The positions of all that may never have reached the disk, as far as can be told: what is readable
    /// above every durable position that is named anywhere. The file header belongs to the first frame.
    pub fn unproven(&mut self) -> io::Result<(Range<u64>, Ahead)> {
        let start = self.extent.start;
        let mut found = Ahead { durable: self.extent.proven.max(self.from), furthest: 0 };
        let (mut lsn, mut clean) = (start + FILE_HEADER_BYTES, false);
        while lsn < self.extent.limit
            && let Some(frame) = self.frame_at(lsn)?
        {
            found.durable = found.durable.max(frame.durable);
            (lsn, clean) = (frame.end(), frame.flags & CLEAN != 0);
        }
        if !clean && lsn < self.extent.limit {
            let behind = self.look_ahead(lsn)?;
            found.durable = found.durable.max(behind.durable);
            found.furthest = behind.furthest;
        }
        found.furthest = found.furthest.max(lsn);
        let from = if found.durable > start + FILE_HEADER_BYTES { found.durable - start } else { 0 };
        Ok((from..found.furthest - start, found))
    }

    /// Replays the file.
    pub fn run(mut self, replay: &mut Replay<'_>, report: &mut RecoveryReport) -> io::Result<ScanEnd> {
        let mut lsn = self.extent.start + FILE_HEADER_BYTES;
        while lsn < self.extent.limit {
            let next = match self.frame_at(lsn)? {
                Some(frame) => {
                    self.end.sequence = self.end.sequence.max(frame.sequence);
                    self.end.clean = frame.flags & CLEAN != 0;
                    self.see(lsn, frame.amount());
                    let end = frame.end().min(self.extent.limit);
                    let before = report.quarantined.len();
                    match self.records(lsn + FRAME_HEADER_BYTES as u64, end, replay, report)? {
                        Records::Done(readable) => {
                            if let Some(damage) = report.quarantined.get_mut(before) {
                                damage.lost = Some(frame.amount() - readable);
                            }
                            end
                        }
                        Records::Cut(at) => return self.cut(at, report),
                    }
                }
                None if self.is_proven(lsn)? => match self.step_over(lsn, replay, report)? {
                    Next::At(next) => next,
                    Next::Cut(at) => return self.cut(at, report),
                    Next::Nothing => break,
                },
                None if self.extent.exact => break,
                None => return self.cut(lsn, report),
            };
            lsn = next;
            self.end.lsn = next;
            if self.end.clean && !self.extent.exact {
                // Nothing follows the mark, so there is no tail to look for.
                break;
            }
        }
        Ok(self.end)
    }

    fn see(&mut self, lsn: u64, amount: Amount) {
        if lsn < self.extent.counted_to {
            self.end.seen += amount;
        }
    }

    fn frame_at(&mut self, lsn: u64) -> io::Result<Option<FrameHeader>> {
        let bytes = self.window.bytes(lsn - self.extent.start, FRAME_HEADER_BYTES as u64)?;
        let frame = FrameHeader::decode(bytes);
        let file_end = self.extent.start.saturating_add(self.window.size);
        Ok(frame.filter(|frame| {
            frame.lsn == lsn
                && frame.nonce == self.nonce
                && frame.length.is_multiple_of(STEP)
                && frame.end() <= file_end
        }))
    }

    /// Replays the records in `[from, to)`, which lie next to each other.
    fn records(
        &mut self,
        from: u64,
        to: u64,
        replay: &mut Replay<'_>,
        report: &mut RecoveryReport,
    ) -> io::Result<Records> {
        if to <= self.from.max(from) {
            // All of it lies in the checkpoint.
            self.broken = false;
            return Ok(Records::Done(Amount::default()));
        }
        // What it reports on needs the scan's state, but not this window: looking ahead takes one of its own.
        let file = self.window.file;
        let mut window = std::mem::replace(&mut self.window, Window::new(file));
        let payload = window.bytes(from - self.extent.start, to - from)?;
        let outcome = self.records_in(payload, from, replay, report);
        self.window = window;
        outcome
    }

    fn records_in(
        &mut self,
        payload: &[u8],
        from: u64,
        replay: &mut Replay<'_>,
        report: &mut RecoveryReport,
    ) -> io::Result<Records> {
        let mut group: Vec<PlacedRecord<'_>> = Vec::new();
        let mut readable = Amount::default();
        let mut at = 0;
        while at < payload.len() {
            let lsn = from + at as u64;
            let Some(record) = PlacedRecord::decode(&payload[at..], Lsn(lsn), self.nonce) else {
                let first = group.first().map_or(lsn, |record| record.header.lsn);
                if !self.is_proven(lsn)? {
                    return Ok(Records::Cut(first));
                }
                self.report_joined(first, lsn, report);
                group.clear();
                let next = self.next_record(payload, from, at + STEP as usize);
                let header = RecordHeader::decode(&payload[at..])
                    .filter(|header| header.lsn == lsn && header.nonce == self.nonce);
                let shard = header.map(|header| header.shard);
                self.report(lsn, from + next as u64, DamageKind::Records, shard, report);
                if let Some(damage) = report.quarantined.last_mut() {
                    let head_end = |header: RecordHeader| RECORD_HEADER_BYTES + header.head_len as usize;
                    let lost = payload.get(at..next).unwrap_or_default();
                    let head = header.and_then(|header| lost.get(RECORD_HEADER_BYTES..head_end(header)));
                    damage.head = head.map(<[u8]>::to_vec);
                }
                self.broken = true;
                at = next;
                continue;
            };
            at = at.saturating_add(usize::try_from(record.header.stride()).unwrap_or(usize::MAX));
            let continues = record.header.flags & CONTINUES != 0;
            if self.broken && continues {
                let stride = record.header.stride();
                self.report(lsn, lsn + stride, DamageKind::JoinedRecords, Some(record.header.shard), report);
                continue;
            }
            self.broken = false;
            let joined = record.header.flags & JOINED != 0;
            group.push(record);
            if !joined {
                readable += self.deliver(&mut group, replay, report);
            }
        }
        if let Some(first) = group.first() {
            // A batch clears the mark of its last record: the rest of this group was cut off or is lost.
            let end = from + payload.len() as u64;
            if !self.is_proven(end - 1)? {
                return Ok(Records::Cut(first.header.lsn));
            }
            self.report_joined(first.header.lsn, end, report);
            self.broken = true;
        }
        Ok(Records::Done(readable))
    }

    fn deliver(
        &self,
        group: &mut Vec<PlacedRecord<'_>>,
        replay: &mut Replay<'_>,
        report: &mut RecoveryReport,
    ) -> Amount {
        let messages = group.iter().map(|record| u64::from(record.header.messages)).sum();
        let amount = Amount { records: group.len() as u64, messages };
        for record in group.drain(..).filter(|record| record.header.lsn >= self.from) {
            report.records += 1;
            let joined = record.header.flags & JOINED != 0;
            let shard = record.header.shard;
            replay(Lsn(record.header.lsn), RecordRef { shard, joined, head: record.head, body: record.body });
        }
        amount
    }

    /// The place of the next readable record, or the payload's end.
    fn next_record(&self, payload: &[u8], from: u64, mut at: usize) -> usize {
        while at + RECORD_HEADER_BYTES <= payload.len() {
            let lsn = from + at as u64;
            if u64_at(payload, at + LSN_AT) == Some(lsn)
                && PlacedRecord::decode(&payload[at..], Lsn(lsn), self.nonce).is_some()
            {
                return at;
            }
            at += STEP as usize;
        }
        payload.len()
    }

    /// Goes on behind a damaged frame header: at its records if they are readable, else at the next frame.
    fn step_over(
        &mut self,
        lsn: u64,
        replay: &mut Replay<'_>,
        report: &mut RecoveryReport,
    ) -> io::Result<Next> {
        let mut next = lsn + STEP;
        while next < self.extent.limit && next - self.extent.start < self.window.size {
            next = self.extent.start + self.window.skip_unused(next - self.extent.start)?;
            if self.is_candidate(next)? {
                let run_end = self.run_of_records(next)?;
                let is_frame = run_end == next && self.frame_at(next)?.is_some();
                if run_end > next || is_frame {
                    let only_header = next - lsn == FRAME_HEADER_BYTES as u64 && run_end > next;
                    let kind = if only_header { DamageKind::FrameHeader } else { DamageKind::Records };
                    self.report(lsn, next, kind, None, report);
                    self.broken |= !only_header;
                    return Ok(match self.records(next, run_end, replay, report)? {
                        Records::Done(readable) => {
                            self.see(next, readable);
                            Next::At(run_end)
                        }
                        Records::Cut(at) => Next::Cut(at),
                    });
                }
            }
            next += STEP;
        }
        if self.extent.exact {
            let whole = self.extent.limit - self.extent.start <= self.window.size;
            let kind = if whole { DamageKind::Records } else { DamageKind::Missing };
            self.report(lsn, self.extent.limit, kind, None, report);
            self.end.lsn = self.extent.limit;
        }
        Ok(Next::Nothing)
    }

    /// The LSN behind the readable records that lie next to each other from `lsn` on.
    fn run_of_records(&mut self, lsn: u64) -> io::Result<u64> {
        let mut end = lsn;
        while end < self.extent.limit && end - self.extent.start < self.window.size {
            let position = end - self.extent.start;
            let header = RecordHeader::decode(self.window.bytes(position, RECORD_HEADER_BYTES as u64)?);
            let Some(header) = header.filter(|header| header.lsn == end && header.lengths_are_sound()) else {
                break;
            };
            let content = self.window.bytes(position, header.content_bytes())?;
            if PlacedRecord::decode(content, Lsn(end), self.nonce).is_none() {
                break;
            }
            end += header.stride();
        }
        Ok(end.min(self.extent.limit))
    }

    fn is_candidate(&mut self, lsn: u64) -> io::Result<bool> {
        let (position, nonce) = (lsn - self.extent.start, self.nonce);
        let bytes = self.window.bytes(position, RECORD_HEADER_BYTES as u64)?;
        Ok(u64_at(bytes, LSN_AT) == Some(lsn) && u64_at(bytes, LSN_AT + 8) == Some(nonce))
    }

    /// Whether what should be at `lsn` had been durable.
    pub fn is_proven(&mut self, lsn: u64) -> io::Result<bool> {
        if lsn < self.extent.proven.max(self.from) {
            return Ok(true);
        }
        // Behind an exact end nothing counts, and below it everything is proven.
        Ok(!self.extent.exact && lsn < self.look_ahead(lsn)?.durable)
    }

    fn look_ahead(&mut self, lsn: u64) -> io::Result<Ahead> {
        if let Some(ahead) = self.ahead {
            return Ok(ahead);
        }
        let mut scan = FileScan::new(self.window.file, self.number, self.nonce, self.extent, Lsn(self.from));
        let mut ahead = Ahead::default();
        let mut at = lsn & !(STEP - 1);
        while at < self.extent.limit && at - self.extent.start < self.window.size {
            at = self.extent.start + scan.window.skip_unused(at - self.extent.start)?;
            if scan.is_candidate(at)? {
                let mut end = at + RECORD_HEADER_BYTES as u64;
                if let Some(frame) = scan.frame_at(at)? {
                    ahead.durable = ahead.durable.max(frame.durable);
                    end = frame.end();
                }
                ahead.furthest = ahead.furthest.max(end);
            }
            at += STEP;
        }
        self.ahead = Some(ahead);
        Ok(ahead)
    }

    fn cut(mut self, lsn: u64, report: &mut RecoveryReport) -> io::Result<ScanEnd> {
        self.end.lsn = lsn;
        self.end.clean = false;
        if !self.extent.exact {
            let furthest = self.look_ahead(lsn)?.furthest;
            report.cut_bytes += furthest.saturating_sub(lsn);
        }
        Ok(self.end)
    }

    fn report_joined(&self, from: u64, to: u64, report: &mut RecoveryReport) {
        if from < to {
            self.report(from, to, DamageKind::JoinedRecords, None, report);
        }
    }

    fn report(&self, from: u64, to: u64, kind: DamageKind, shard: Option<u16>, report: &mut RecoveryReport) {
        report.quarantined.push(Damage {
            from: Lsn(from),
            to: Lsn(to),
            file: Some(self.number),
            file_start: Lsn(self.extent.start),
            kind,
            shard,
            head: None,
            lost: None,
        });
    }
}

/// The first readable frame of a file whose header is lost, with its position. Frames of earlier lives lie
/// behind those of the last one.
pub(super) fn first_frame(file: &dyn HomeFile) -> io::Result<Option<(u64, FrameHeader)>> {
    let mut window = Window::new(file);
    let mut position = FILE_HEADER_BYTES;
    while position < window.size {
        position = window.skip_unused(position)?;
        let frame = FrameHeader::decode(window.bytes(position, FRAME_HEADER_BYTES as u64)?);
        if let Some(frame) = frame.filter(|frame| frame.lsn >= position && frame.lsn.is_multiple_of(STEP)) {
            return Ok(Some((position, frame)));
        }
        position += STEP;
    }
    Ok(None)
}

/// A file's bytes, read in large pieces.
struct Window<'a> {
    file: &'a dyn HomeFile,
    size: u64,
    base: u64,
    buffer: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn HomeFile) -> Window<'a> {
        Window { file, size: file.bytes(), base: 0, buffer: Vec::new() }
    }

    /// `length` bytes at `position`, fewer at the file's end. What is allocated is bounded by what the file
    /// holds.
    fn bytes(&mut self, position: u64, length: u64) -> io::Result<&[u8]> {
        let left = self.size.saturating_sub(position);
        let length = length.min(left);
        let inside =
            position >= self.base && position.saturating_add(length) <= self.base + self.buffer.len() as u64;
        if !inside {
            let wanted = usize::try_from(length.max(WINDOW_BYTES).min(left)).unwrap_or(usize::MAX);
            self.buffer.resize(wanted, 0);
            let read = self.file.read_at(position, &mut self.buffer)?;
            self.buffer.truncate(read);
            self.base = position;
        }
        let at = (position.saturating_sub(self.base) as usize).min(self.buffer.len());
        let end = at.saturating_add(length as usize).min(self.buffer.len());
        Ok(&self.buffer[at..end])
    }

    /// The first position from `position` on at which a header may start, passing over what was never
    /// written.
    fn skip_unused(&mut self, mut position: u64) -> io::Result<u64> {
        while self.bytes(position, ZEROS.len() as u64)? == ZEROS {
            // A header may start in these zeros only so late that its LSN lies behind them.
            position += (ZEROS.len() - RECORD_HEADER_BYTES) as u64;
        }
        Ok(position)
    }
}

/// A file's bytes in memory.
pub(super) struct Snapshot(pub Vec<u8>);

impl HomeFile for Snapshot {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let at = usize::try_from(position).unwrap_or(usize::MAX).min(self.0.len());
        let read = buffer.len().min(self.0.len() - at);
        buffer[..read].copy_from_slice(&self.0[at..at + read]);
        Ok(read)
    }

    fn write_at(&self, _position: u64, _parts: &[IoSlice<'_>], _sync_follows: bool) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
