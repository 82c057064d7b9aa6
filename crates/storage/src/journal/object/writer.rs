//! The one writer of an epoch: puts what has arrived as the next object, while earlier ones are under way.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use parking_lot::Mutex;

use super::super::batch::PlacedBatch;
use super::super::files::{JournalFile, Life, Shared};
use super::super::format::{CLEAN, FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, FrameHeader};
use super::super::writer::Step;
use super::super::{Batch, Completion, Lsn};
use super::{FENCE_BEGINS, Identity, ObjectFile, ObjectHome, key_of, number_of};
use crate::Random;
use crate::object::{Moment, Put};

/// Objects under way at once.
const IN_FLIGHT: usize = 16;
/// While others are under way, an object smaller than this waits for more: the fraction of a put's usual time
/// that [`SPREAD`] says.
const WORTH_PUTTING_BYTES: u64 = 1 << 20;
/// Small objects begun within the time that one put takes.
const SPREAD: u32 = 8;
/// How long a close waits for the store.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);

/// What recovery hands to the writer.
pub(in crate::journal) struct Start {
    /// LSN of the first object.
    pub lsn: u64,
    /// Where the content before it ends.
    pub previous_end: u64,
    pub frame_sequence: u64,
    pub nonces: Random,
}

pub(in crate::journal) struct ObjectWriter {
    shared: Arc<Shared>,
    home: Arc<ObjectHome>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    /// Number of the next object in this epoch.
    sequence: u64,
    frame_sequence: u64,
    nonces: Random,
    /// LSN of the epoch's first object.
    first: u64,
    end: u64,
    previous_end: u64,
    previous_start: u64,
    durable: u64,
    in_flight: VecDeque<InFlight>,
    last_begun: Option<Instant>,
    looking: bool,
    look_failed: Option<Moment>,
    /// What a put usually takes.
    latency: Duration,
    marked_clean: bool,
    closing_since: Option<Instant>,
    completed: Box<dyn FnMut(Completion) + Send>,
    fatal: Option<Box<dyn FnOnce(String) + Send + Sync>>,
}

struct InFlight {
    sequence: u64,
    start: u64,
    end: u64,
    batch_bytes: u64,
    completions: Vec<(Completion, bool)>,
    begun: Instant,
    asked: Moment,
    done: bool,
}

/// What has come of a request.
enum Outcome {
    Put {
        sequence: u64,
        put: io::Result<Put>,
    },
    /// The number of the fence that was found, if there is one.
    Looked {
        begun: Moment,
        fence: io::Result<Option<u64>>,
    },
}

/// The writer has stopped.
struct Stopped;

impl ObjectWriter {
    pub fn new(
        shared: Arc<Shared>,
        home: Arc<ObjectHome>,
        start: Start,
        completed: Box<dyn FnMut(Completion) + Send>,
        fatal: Option<Box<dyn FnOnce(String) + Send + Sync>>,
    ) -> ObjectWriter {
        shared.end.store(start.lsn, Ordering::Release);
        shared.durable.store(start.lsn, Ordering::Release);
        ObjectWriter {
            shared,
            home,
            outcomes: Arc::default(),
            sequence: 0,
            frame_sequence: start.frame_sequence,
            nonces: start.nonces,
            first: start.lsn,
            end: start.lsn,
            previous_end: start.previous_end,
            previous_start: start.previous_end,
            durable: start.lsn,
            in_flight: VecDeque::new(),
            last_begun: None,
            looking: false,
            look_failed: None,
            latency: Duration::ZERO,
            marked_clean: false,
            closing_since: None,
            completed,
            fatal,
        }
    }

    /// The writer thread's life.
    pub fn run(&mut self) {
        while self.turn().is_ok() {}
    }

    /// Where there are no threads: gives requests a turn, and begins to put what has arrived.
    pub fn step(&mut self) -> Step {
        self.home.bucket().step();
        let (begun, durable) = (self.sequence, self.durable);
        if self.shared.has_ended() || self.collect().is_err() {
            return Step::Idle;
        }
        self.look_if_due();
        let batches = {
            let mut inbox = self.shared.inbox.lock();
            let open = matches!(inbox.life, Life::Open | Life::Closing);
            let takes = open && !inbox.batches.is_empty() && self.in_flight.len() < IN_FLIGHT;
            if takes { inbox.take(self.shared.config.frame_bytes) } else { Vec::new() }
        };
        if !batches.is_empty() {
            self.put(batches, 0);
        }
        if (begun, durable) == (self.sequence, self.durable) { Step::Idle } else { Step::Committed }
    }

    /// Where there are no threads: puts what is left, and marks the end, if the store answers in time.
    pub fn finish(&mut self) {
        let since = Instant::now();
        while !self.shared.has_ended() {
            self.step();
            if self.end_if_done().is_err() {
                return;
            }
            if since.elapsed() > CLOSE_PATIENCE {
                self.shared.turn(Life::Abandoned);
            }
        }
    }

    fn turn(&mut self) -> Result<(), Stopped> {
        self.collect()?;
        self.look_if_due();
        let batches = self.wait()?;
        if !batches.is_empty() {
            self.put(batches, 0);
        }
        if self.closing_since.is_some() { self.end_if_done() } else { Ok(()) }
    }

    /// Marks the end behind everything else, and then stops.
    fn end_if_done(&mut self) -> Result<(), Stopped> {
        if self.in_flight.is_empty() && !self.has_work() {
            if self.marked_clean {
                self.shared.turn(Life::Closed);
                return Err(Stopped);
            }
            self.marked_clean = true;
            self.put(Vec::new(), CLEAN);
        }
        Ok(())
    }

    fn has_work(&self) -> bool {
        !self.shared.inbox.lock().batches.is_empty()
    }

    /// How long until a look is due; none while there is one.
    fn look_in(&self) -> Option<Duration> {
        (!self.looking).then(|| self.home.ownership.look_in(self.look_failed))
    }

    /// Looks for a fence, if it is long ago that a request has shown that there is none: at the number that
    /// comes next, where it lies if nothing is under way, and at those that are.
    fn look_if_due(&mut self) {
        if self.look_in().is_none_or(|due| !due.is_zero()) {
            return;
        }
        self.looking = true;
        let first = self.in_flight.front().map_or(self.sequence, |put| put.sequence);
        let numbers = first..=self.sequence;
        let (bucket, epoch, begun) = (self.home.bucket().clone(), self.home.epoch, self.home.ownership.now());
        let (shared, outcomes) = (self.shared.clone(), self.outcomes.clone());
        self.home.bucket().spawn(async move {
            // All of them: one that was ours may be gone by now, and the fence lies behind it.
            let look = async |sequence: u64| {
                let found = bucket.try_begins_with(&key_of(epoch, sequence), FENCE_BEGINS).await?;
                io::Result::Ok(found.then_some(sequence))
            };
            let found = try_join_all(numbers.map(look)).await;
            let fence = found.map(|found| found.into_iter().flatten().next());
            outcomes.lock().push(Outcome::Looked { begun, fence });
            let _inbox = shared.inbox.lock();
            shared.arrived.notify_all();
        });
    }

    /// Sleeps until an object is worth putting, and takes what goes into it, or until something has changed
    /// or a look is due.
    fn wait(&mut self) -> Result<Vec<Batch>, Stopped> {
        let shared = self.shared.clone();
        let mut inbox = shared.inbox.lock();
        loop {
            match inbox.life {
                Life::Open => {}
                Life::Closing => {
                    let since = *self.closing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > CLOSE_PATIENCE {
                        drop(inbox);
                        shared.turn(Life::Abandoned);
                        return Err(Stopped);
                    }
                }
                _ => return Err(Stopped),
            }
            if !self.outcomes.lock().is_empty() {
                return Ok(Vec::new());
            }
            let look = self.look_in();
            if look.is_some_and(|due| due.is_zero()) {
                return Ok(Vec::new());
            }
            let look = look.map(|due| Instant::now() + due);
            let full = self.in_flight.len() >= IN_FLIGHT;
            if inbox.batches.is_empty() && self.in_flight.is_empty() && inbox.life == Life::Closing {
                return Ok(Vec::new());
            }
            inbox.writer_waits = true;
            if inbox.batches.is_empty() || full {
                let patience = (inbox.life == Life::Closing).then(|| Instant::now() + Duration::from_secs(1));
                match look.into_iter().chain(patience).min() {
                    Some(until) => _ = shared.arrived.wait_until(&mut inbox, until),
                    None => shared.arrived.wait(&mut inbox),
                }
            } else {
                let bytes: u64 = inbox.batches.iter().map(Batch::bytes).sum();
                let due = self.last_begun.map(|begun| begun + self.latency / SPREAD);
                let now = Instant::now();
                let gathers = !self.in_flight.is_empty() && bytes < WORTH_PUTTING_BYTES;
                match due.filter(|due| gathers && *due > now) {
                    Some(due) => {
                        let until = look.map_or(due, |look| look.min(due));
                        shared.arrived.wait_until(&mut inbox, until);
                    }
                    None => {
                        inbox.writer_waits = false;
                        return Ok(inbox.take(shared.config.frame_bytes));
                    }
                }
            }
            inbox.writer_waits = false;
        }
    }

    /// Begins to put the batches as one object.
    fn put(&mut self, batches: Vec<Batch>, flags: u32) {
        let batch_bytes: u64 = batches.iter().map(Batch::bytes).sum();
        let records: usize = batches.iter().map(Batch::len).sum();
        let total = FILE_HEADER_BYTES + FRAME_HEADER_BYTES as u64 + batch_bytes;
        let (start, nonce) = (self.end, self.nonces.next_u64());
        let (previous_start, previous_end) = (self.previous_start, self.previous_end);
        let header = FileHeader { nonce, start, previous_end, previous_start, bytes: total, previous: None };
        let (epoch, sequence, first) = (self.home.epoch, self.sequence, self.first);
        let identity = Identity { node: 0, epoch, sequence, nonce, first };
        let frame = FrameHeader {
            sequence: self.frame_sequence,
            lsn: start + FILE_HEADER_BYTES,
            nonce,
            length: batch_bytes,
            durable: self.durable,
            records: records as u32,
            flags,
            messages: batches.iter().map(Batch::messages).sum(),
        };
        let block = Bytes::from(identity.block(&header));
        let mut chunks = vec![block.clone(), Bytes::copy_from_slice(&frame.encode())];
        let mut completions = Vec::with_capacity(batches.len());
        let mut placed: Vec<PlacedBatch> = Vec::with_capacity(batches.len());
        let mut lsn = start + FILE_HEADER_BYTES + FRAME_HEADER_BYTES as u64;
        for batch in batches {
            let completion =
                Completion { source: batch.source, number: batch.number, base: Lsn(lsn), synced: true };
            completions.push((completion, batch.requires_sync));
            let bytes = batch.bytes();
            let batch = batch.place(lsn, nonce);
            batch.chunks(&mut chunks);
            placed.push(batch);
            lsn += bytes;
        }
        let key = key_of(self.home.epoch, self.sequence);
        let file =
            Arc::new(ObjectFile { chunks: Mutex::new(Some(chunks.clone())), ..self.home.file(&key, total) });
        self.shared.files.write().push(Arc::new(JournalFile {
            number: number_of(self.home.epoch, self.sequence),
            file: file.clone(),
            nonce,
            start,
            end: AtomicU64::new(start + total),
            damaged: AtomicBool::new(false),
        }));
        self.end = start + total;
        (self.previous_start, self.previous_end) = (start, self.end);
        self.shared.stats.lock().frame(total, records as u64);
        let dropped = self.shared.ring.write().push(placed.into_iter());
        drop(dropped);
        self.shared.end.store(self.end, Ordering::Release);
        let (begun, asked) = (Instant::now(), self.home.ownership.now());
        self.start_put(key, chunks, block, file);
        self.last_begun = Some(begun);
        self.in_flight.push_back(InFlight {
            sequence: self.sequence,
            start,
            end: self.end,
            batch_bytes,
            completions,
            begun,
            asked,
            done: false,
        });
        (self.sequence, self.frame_sequence) = (self.sequence + 1, self.frame_sequence + 1);
    }

    fn start_put(&self, key: String, chunks: Vec<Bytes>, identity: Bytes, file: Arc<ObjectFile>) {
        let (bucket, shared, outcomes) =
            (self.home.bucket().clone(), self.shared.clone(), self.outcomes.clone());
        let sequence = self.sequence;
        self.home.bucket().spawn(async move {
            let goes_on = || matches!(shared.inbox.lock().life, Life::Open | Life::Closing);
            let put = bucket.put_new(&key, &chunks, &identity, goes_on).await;
            if matches!(put, Ok(Put::Done)) {
                *file.chunks.lock() = None;
            }
            outcomes.lock().push(Outcome::Put { sequence, put });
            // Under the lock, so that a writer about to sleep has seen it or is woken.
            let _inbox = shared.inbox.lock();
            shared.arrived.notify_all();
        });
    }

    /// Completes what is durable now: everything before the first object that is still under way.
    fn collect(&mut self) -> Result<(), Stopped> {
        let outcomes = std::mem::take(&mut *self.outcomes.lock());
        for outcome in outcomes {
            let (sequence, put) = match outcome {
                Outcome::Put { sequence, put } => (sequence, put),
                Outcome::Looked { begun, fence } => {
                    self.looked(begun, fence)?;
                    continue;
                }
            };
            match put {
                Ok(Put::Done) => {
                    let put = self.in_flight.iter_mut().find(|put| put.sequence == sequence);
                    if let Some(put) = put {
                        put.done = true;
                        let took = put.begun.elapsed();
                        self.latency =
                            if self.latency.is_zero() { took } else { (self.latency * 7 + took) / 8 };
                    }
                }
                Ok(Put::Taken) => return Err(self.taken_over(sequence)),
                // The journal has ended, or nobody would wait for it.
                Err(error) if self.shared.has_ended() => {
                    tracing::debug!(%error, "a put was given up");
                    return Err(Stopped);
                }
                Err(error) => return Err(self.fail(sequence, &error.to_string())),
            }
        }
        while let Some(put) = self.in_flight.pop_front_if(|put| put.done) {
            // Had there been a fence when it was begun, it would lie here or before.
            self.home.ownership.prove(put.asked);
            self.durable = put.end;
            self.shared.newest_durable.store(put.start, Ordering::Release);
            self.shared.durable.store(put.end, Ordering::Release);
            self.shared.stats.lock().syncs += 1;
            self.shared.taken(put.batch_bytes);
            for (completion, requires_sync) in put.completions {
                if !requires_sync {
                    (self.completed)(Completion { synced: false, ..completion });
                }
                (self.completed)(completion);
            }
        }
        Ok(())
    }

    fn looked(&mut self, begun: Moment, fence: io::Result<Option<u64>>) -> Result<(), Stopped> {
        self.looking = false;
        self.look_failed = None;
        match fence {
            Ok(None) => self.home.ownership.prove(begun),
            Ok(Some(sequence)) => return Err(self.taken_over(sequence)),
            Err(error) => {
                let store = self.home.bucket().name();
                tracing::warn!(
                    %error,
                    store,
                    "it cannot be seen whether another broker has taken over; trying again"
                );
                self.look_failed = Some(self.home.ownership.now());
            }
        }
        Ok(())
    }

    fn taken_over(&mut self, sequence: u64) -> Stopped {
        self.home.ownership.lose();
        let (key, bucket) = (key_of(self.home.epoch, sequence), self.home.bucket().name());
        self.stop_for(format!("another broker has taken over this bucket, {bucket}: its fence is {key}"))
    }

    /// What was under way may or may not be kept; whoever reads the bucket next finds out.
    fn fail(&mut self, sequence: u64, reason: &str) -> Stopped {
        let (key, bucket) = (key_of(self.home.epoch, sequence), self.home.bucket().name());
        self.stop_for(format!("cannot put journal object {key} in {bucket}: {reason}"))
    }

    fn stop_for(&mut self, reason: String) -> Stopped {
        self.shared.turn(Life::Failed);
        let told = format!("{reason}; stopping. Nothing acknowledged is lost");
        super::super::writer::stop_for(self.fatal.take(), told);
        Stopped
    }
}
