//! A stretch of a journal file in memory: whoever reads records that follow one another asks the disk once
//! for many.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::format::{PlacedRecord, RECORD_HEADER_BYTES, RecordHeader};
use super::{Lsn, Stored};
use crate::disk::{BLOCK_BYTES, LARGE_READ_BYTES};

/// Read at first, and again where the last read was somewhere else: most records are smaller.
const FIRST_BYTES: usize = 4 << 10;
/// Read at most where records follow one another.
pub(super) const MOST_BYTES: usize = 256 << 10;
/// Read ahead at most, while nothing else is being read ahead: a disk that is busy with commits takes about
/// as long for a little as for much.
const AHEAD_BYTES: usize = 1 << 20;
/// A span that is read ahead begins so much before the end of the one that it follows, in the midst of whose
/// last record that end may be.
const OVERLAP_BYTES: u64 = 16 << 10;
/// Spans under way at a time. They come one by one, so with more of them readers had better read for
/// themselves.
const COMING_MAX: usize = 4;

/// Records from this size on are read each by itself: what they have between them would cost more than it
/// saves.
const ALONE_FROM: usize = 128 << 10;
/// Read besides such a record: its headers, and blocks of the disk that begin before it and end behind it.
const AROUND_BYTES: usize = 3 * BLOCK_BYTES;

/// Records that lie closer to one another than this are read together with what lies between them.
const GAP_BYTES_MAX: u64 = 16 << 10;

/// Records that are expected to be so large that each is read by itself.
#[derive(Clone, Copy)]
struct Large {
    /// Bytes of each, about.
    each: usize,
    /// Records read by themselves, and those among them that were much smaller.
    read: u32,
    smaller: u32,
}

impl Large {
    /// As one of `content` bytes was read; none if too many were read in vain: bodies lie elsewhere, or
    /// differ much.
    fn after(mut self, content: u64) -> Option<Large> {
        self.read += 1;
        self.smaller += u32::from(content < self.each as u64 / 2);
        (self.smaller * 4 <= self.read + 4).then_some(self)
    }
}

/// What was read last. Records share its memory.
#[derive(Clone, Default)]
pub(super) struct Span {
    start: u64,
    /// Where the record lies that it was read for.
    first: usize,
    nonce: u64,
    bytes: Bytes,
    /// Up to where reading is expected to go on.
    wanted: u64,
    large: Option<Large>,
    /// Nobody else is expected to read the same soon.
    alone: bool,
    /// What follows is being read ahead, or need not be.
    followed: bool,
}

/// The spans read last, by whichever reader, and those that are being read ahead of readers. Consumers of one
/// queue read what lies together in turn, each a little at a time.
pub(super) struct RecentSpans {
    known: Mutex<Known>,
    arrived: Condvar,
    /// Bytes that they take at most.
    limit: usize,
}

#[derive(Default)]
struct Known {
    spans: VecDeque<Span>,
    /// Their bytes.
    bytes: usize,
    /// From where and to where reading ahead is under way.
    coming: Vec<(u64, u64)>,
}

impl RecentSpans {
    /// They take up to `bytes` of memory.
    pub fn new(bytes: usize) -> RecentSpans {
        RecentSpans { known: Mutex::default(), arrived: Condvar::new(), limit: bytes }
    }

    /// The record at `lsn`, verified, if it is in one of them; `span` is that one then. Or else one that
    /// ends near it, if reading does not go on from `span` itself.
    pub fn record(&self, lsn: Lsn, span: &mut Span) -> Option<Stored> {
        let mut known = self.known.lock();
        while known.find(lsn, Span::holds).is_none() && known.is_coming(lsn) {
            self.arrived.wait(&mut known);
        }
        let (holds, near) = (known.find(lsn, Span::holds), known.find(lsn, Span::goes_on_at));
        drop(known);
        let stored = holds.as_ref().and_then(|holds| holds.record(lsn));
        let found = if stored.is_some() { holds } else { near.filter(|_| !span.goes_on_at(lsn)) };
        if let Some(found) = found {
            span.become_like(found);
        }
        stored
    }

    /// As [`RecentSpans::record`], without waiting for what is being read ahead.
    pub fn record_now(&self, lsn: Lsn, span: &mut Span) -> Option<Stored> {
        let holds = self.known.lock().find(lsn, Span::holds)?;
        let stored = holds.record(lsn)?;
        span.become_like(holds);
        Some(stored)
    }

    pub fn add(&self, span: &Span) {
        // One that is larger holds a single large record, and would take too much memory.
        if span.bytes.len() <= AHEAD_BYTES && !span.alone {
            let mut known = self.known.lock();
            known.bytes += span.bytes.len();
            known.spans.push_back(span.clone());
            let mut dropped = Vec::new();
            while known.bytes > self.limit
                && let Some(oldest) = known.spans.pop_front()
            {
                known.bytes -= oldest.bytes.len();
                dropped.push(oldest);
            }
            drop(known);
            drop(dropped);
        }
    }

    /// Whether what follows `span` is to be read ahead, and from where. If so, whoever wants it waits until
    /// it has had its [`RecentSpans::arrival`].
    pub fn follow(&self, span: &mut Span) -> Option<Lsn> {
        if std::mem::replace(&mut span.followed, true) || span.bytes.len() < LARGE_READ_BYTES {
            return None;
        }
        let end = span.start + span.bytes.len() as u64;
        let mut known = self.known.lock();
        let same = known.spans.iter_mut().rev().find(|recent| recent.start == span.start)?;
        if std::mem::replace(&mut same.followed, true)
            || known.coming.len() >= COMING_MAX
            || known.is_coming(Lsn(end))
            || known.find(Lsn(end), Span::covers).is_some()
        {
            return None;
        }
        let from = end - OVERLAP_BYTES;
        let much = known.coming.is_empty() && self.limit >= 4 * AHEAD_BYTES;
        known.coming.push((from, from + if much { AHEAD_BYTES } else { MOST_BYTES } as u64));
        Some(Lsn(from))
    }

    /// What was to be read ahead from there is known, or cannot be read, when this is dropped. And how many
    /// bytes that is.
    pub fn arrival(&self, from: Lsn) -> (Arrival<'_>, usize) {
        let known = self.known.lock();
        let until =
            known.coming.iter().find(|(coming, _)| *coming == from.0).map_or(from.0, |(_, until)| *until);
        (Arrival(self, from), (until - from.0) as usize)
    }
}

/// Lets those go on who wait for what was to be read ahead from there, whatever came of it.
pub(super) struct Arrival<'a>(&'a RecentSpans, Lsn);

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.known.lock().coming.retain(|(coming, _)| *coming != self.1.0);
        self.0.arrived.notify_all();
    }
}

impl Known {
    fn find(&self, lsn: Lsn, is: impl Fn(&Span, Lsn) -> bool) -> Option<Span> {
        self.spans.iter().rev().find(|span| is(span, lsn)).cloned()
    }

    fn is_coming(&self, lsn: Lsn) -> bool {
        self.coming.iter().any(|(from, until)| (*from..*until).contains(&lsn.0))
    }
}

/// How to read `length` bytes from `position`: how many of the bytes before it to take along, and how many to
/// read in all, which may be a little less.
pub(super) fn extent(position: u64, length: usize) -> (usize, usize) {
    if length < LARGE_READ_BYTES {
        return (0, length);
    }
    let before = (position % BLOCK_BYTES as u64) as usize;
    (before, length / BLOCK_BYTES * BLOCK_BYTES)
}

impl Span {
    /// For a reader whose spans are of no use to others.
    pub fn alone() -> Span {
        Span { alone: true, followed: true, ..Span::default() }
    }

    /// What was read ahead of readers.
    pub fn ahead(start: Lsn, nonce: u64, bytes: Bytes) -> Span {
        Span { start: start.0, first: bytes.len(), nonce, bytes, ..Span::default() }
    }

    /// The record at `lsn`, verified, if all of it is here.
    pub fn record(&self, lsn: Lsn) -> Option<Stored> {
        let at = usize::try_from(lsn.0.checked_sub(self.start)?).ok()?;
        let record = PlacedRecord::decode(self.bytes.get(at..)?, lsn, self.nonce)?;
        let head = at + RECORD_HEADER_BYTES;
        let body = head + record.head.len();
        let end = body + record.body.len();
        Some(Stored {
            shard: record.header.shard,
            head: self.bytes.slice(head..body),
            body: self.bytes.slice(body..end),
        })
    }

    /// How much to read for a record that is not here: what is wanted; more each time that reading goes on
    /// near the end of this span; else as much as the first record here took, as they are mostly of the same
    /// size.
    pub fn length_at(&self, lsn: Lsn) -> usize {
        if let Some(large) = self.large {
            return large.each + AROUND_BYTES;
        }
        let wanted = usize::try_from(self.wanted.saturating_sub(lsn.0)).unwrap_or(MOST_BYTES);
        let usual = if self.goes_on_at(lsn) {
            2 * self.bytes.len()
        } else {
            let first = self.bytes.get(self.first..).and_then(RecordHeader::decode);
            first.map_or(0, |header| usize::try_from(header.content_bytes()).unwrap_or(0))
        };
        wanted.max(usual).clamp(FIRST_BYTES, MOST_BYTES)
    }

    fn goes_on_at(&self, lsn: Lsn) -> bool {
        let length = self.bytes.len() as u64;
        length > 0 && lsn.0 > self.start && lsn.0 - self.start <= 2 * length
    }

    /// This many records from `first` to `last` are about to be read, of about `each` bytes, and no more than
    /// about `bytes` of them.
    pub fn expect(&mut self, first: Lsn, last: Lsn, records: usize, each: usize, bytes: usize) {
        let distance = last.0.saturating_sub(first.0);
        let apart = distance / (records.max(2) as u64 - 1);
        if apart <= GAP_BYTES_MAX {
            // The last one is probably as long as the others.
            self.wanted = first.0 + (distance + apart).min(bytes as u64);
        }
        let is_large = (ALONE_FROM..AHEAD_BYTES).contains(&each);
        self.large = is_large.then_some(Large { each, read: 0, smaller: 0 });
    }

    /// Takes over what another one holds.
    fn become_like(&mut self, other: Span) {
        let followed = other.followed || self.alone || self.large.is_some();
        *self = Span { wanted: self.wanted, large: self.large, alone: self.alone, followed, ..other };
    }

    pub fn is_followed(&self) -> bool {
        self.followed
    }

    /// Whether all of the record at `lsn` seems to be here.
    fn holds(&self, lsn: Lsn) -> bool {
        let at = lsn.0.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let rest = at.and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        RecordHeader::decode(rest).is_some_and(|header| {
            (header.lsn, header.nonce) == (lsn.0, self.nonce) && header.content_bytes() <= rest.len() as u64
        })
    }

    fn covers(&self, lsn: Lsn) -> bool {
        lsn.0 >= self.start && lsn.0 - self.start < self.bytes.len() as u64
    }

    /// `first` bytes precede the record at `lsn`.
    pub fn fill(&mut self, lsn: Lsn, first: usize, nonce: u64, bytes: Bytes) {
        let content = bytes.get(first..).and_then(RecordHeader::decode).map_or(0, |it| it.content_bytes());
        self.large = self.large.and_then(|large| large.after(content));
        (self.start, self.first) = (lsn.0 - first as u64, first);
        (self.nonce, self.bytes, self.followed) = (nonce, bytes, self.alone || self.large.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_read_as_is_expected_or_has_been_read_nearby() {
        let read = |lsn, bytes| {
            let mut span = Span::default();
            span.fill(Lsn(lsn), 0, 1, Bytes::from(vec![0; bytes]));
            span
        };
        let mut span = Span::default();
        assert_eq!(span.length_at(Lsn(100_000)), FIRST_BYTES);
        span.expect(Lsn(100_000), Lsn(190_000), 10, 9_000, 1 << 20);
        assert_eq!(span.length_at(Lsn(100_000)), 100_000);
        assert_eq!(span.length_at(Lsn(150_000)), 50_000);
        assert_eq!(span.length_at(Lsn(250_000)), FIRST_BYTES);
        // No more than there is room for.
        span.expect(Lsn(100_000), Lsn(190_000), 10, 9_000, 20_000);
        assert_eq!(span.length_at(Lsn(100_000)), 20_000);
        // Too far from one another.
        let mut span = Span::default();
        span.expect(Lsn(100_000), Lsn(1_000_000), 3, 9_000, 1 << 20);
        assert_eq!(span.length_at(Lsn(100_000)), FIRST_BYTES);
        // What others have read.
        let recent = RecentSpans::new(1 << 20);
        recent.add(&read(50_000, 40_000));
        recent.add(&read(400_000, 200_000));
        for (lsn, length) in [(90_100, 80_000), (610_000, MOST_BYTES), (45_000, FIRST_BYTES)] {
            let mut span = Span::default();
            assert!(recent.record(Lsn(lsn), &mut span).is_none());
            assert_eq!(span.length_at(Lsn(lsn)), length, "{lsn}");
        }
    }

    #[test]
    fn what_follows_a_large_span_is_read_ahead_once() {
        let recent = RecentSpans::new(1 << 20);
        let span = |start, bytes: usize| Span::ahead(Lsn(start), 1, Bytes::from(vec![0; bytes]));
        let follow = |span: &Span| recent.follow(&mut span.clone());
        let (small, large) = (span(0, 1_000), span(100_000, MOST_BYTES));
        [&small, &large].into_iter().for_each(|span| recent.add(span));
        assert_eq!(follow(&small), None);
        let end = 100_000 + MOST_BYTES as u64;
        let from = Lsn(end - OVERLAP_BYTES);
        assert_eq!(follow(&large), Some(from));
        assert_eq!(follow(&large), None, "it is under way");
        // A reader that comes to it waits.
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut found = Span::default();
                (recent.record(Lsn(end + 100), &mut found), found.start)
            });
            let (arrival, length) = recent.arrival(from);
            assert_eq!(length, MOST_BYTES);
            // Or goes on without it.
            assert!(recent.record_now(Lsn(end + 100), &mut Span::default()).is_none());
            recent.add(&span(from.0, MOST_BYTES));
            drop(arrival);
            // No record is in these zeros, but reading goes on from there.
            assert!(matches!(reader.join(), Ok((None, start)) if start == from.0));
        });
        // With room enough, much of it at once.
        let roomy = RecentSpans::new(4 << 20);
        roomy.add(&large);
        let from = roomy.follow(&mut large.clone());
        assert_eq!(from.map(|from| roomy.arrival(from).1), Some(AHEAD_BYTES));
        // What a reader has read for itself is not read ahead.
        recent.add(&span(10_000_000, MOST_BYTES));
        recent.add(&span(10_000_000 + MOST_BYTES as u64, MOST_BYTES));
        assert_eq!(follow(&span(10_000_000, MOST_BYTES)), None);
        // Whoever reads alone wants nothing read ahead.
        let mut alone = Span::alone();
        alone.fill(Lsn(20_000_000), 0, 1, Bytes::from(vec![0; MOST_BYTES]));
        recent.add(&alone);
        assert_eq!(follow(&alone), None);
    }
}
