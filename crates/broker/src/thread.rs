//! An engine thread: shards, their inbox, and the effects that wait for the journal.

use crate::{
    batch::PublishDone,
    broker::Shared,
    change::{Closings, close, encode, only_deletes, propagate, subject_of},
    error::{Error, from_catalog},
    inbox::Inbox,
    log::{JournalEntry, PartitionLog},
    record::{CATALOG, Encoder, stream_of},
    tickets::Tickets,
};
use posthaste_engine::{
    Catalog, Command, Context, Delivery, Effect, Event, Gate, Gated, Held, Output, Publish, Reply, Shard,
    catalog::{CatalogCommand, CatalogEvent},
    effect::Refusal,
};
use posthaste_model::{ConsumerId, QueueId, ShardId, Timestamp};
use posthaste_storage::journal::{Batch, Completion, Journal, Lsn};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering, mpsc},
    time::Duration,
};
use tokio::sync::{mpsc as async_mpsc, oneshot};

/// Where deliveries of a consumer go. Called on an engine thread: it only pushes into a channel.
pub trait DeliverySink: Send + Sync {
    fn deliver(&self, consumer: ConsumerId, deliveries: Vec<Delivery>);
    /// The queue is gone, and the consumer with it.
    fn cancelled(&self, consumer: ConsumerId);
}

/// What an engine thread is given.
pub(crate) enum Input {
    Command {
        shard: ShardId,
        command: Command,
        reply: Option<oneshot::Sender<Reply>>,
    },
    Consume {
        shard: ShardId,
        command: Command,
        sink: Arc<dyn DeliverySink>,
        reply: oneshot::Sender<Reply>,
    },
    Publish(PublishJob),
    Catalog {
        command: CatalogCommand,
        reply: oneshot::Sender<Result<Arc<Catalog>, Error>>,
    },
    Completed(Completion),
    /// What is stored of which stream.
    Streams(Answers<ThreadStreams>),
    Checkpoint(Answers<ThreadCheckpoint>),
    Stop(mpsc::Sender<()>),
}

/// Where all engine threads answer the same question; it is closed once the last of them has.
pub(crate) type Answers<T> = async_mpsc::UnboundedSender<T>;

/// The streams of a thread's shards.
pub(crate) struct ThreadStreams {
    pub streams: Vec<posthaste_engine::Stream>,
    /// Readers have not been shown yet what the journal holds from here on. None: they have been shown all.
    pub unseen_from: Option<Lsn>,
}

/// What to publish, where, and which publish of the connection's batch it is.
pub(crate) type PublishItem = (ShardId, u32, Publish);

/// Changed entities, encoded; no value for what is gone.
type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// What one connection's read contained for this thread.
pub(crate) struct PublishJob {
    pub items: Vec<PublishItem>,
    pub bytes: usize,
    pub done: Arc<PublishDone>,
}

/// The changed state of a thread's shards, and what journal position it reflects.
pub(crate) struct ThreadCheckpoint {
    pub shards: Vec<(ShardId, Changes, Held)>,
    /// The catalog, if this thread keeps it and it has changed.
    pub catalog: Option<Vec<CatalogEvent>>,
    pub keeps_catalog: bool,
    /// Everything of these shards below is in it, nothing above. None: nothing was journalled yet.
    pub at: Option<Lsn>,
}

/// What waits for the journal.
enum Waiting {
    Effect(ShardId, Effect),
    Published(Arc<PublishDone>),
    Catalog(Arc<Catalog>, Closings, oneshot::Sender<Result<Arc<Catalog>, Error>>),
    /// It tells of what the catalog holds, so it leaves when readers see that.
    CatalogRefused(Error, oneshot::Sender<Result<Arc<Catalog>, Error>>),
    /// With the number of the last batch whose events are in it.
    Checkpoint(Answers<ThreadCheckpoint>, ThreadCheckpoint, u64),
}

/// What both halves of durability have to reach.
#[derive(Clone, Copy, Default)]
struct Need {
    written: u64,
    synced: u64,
}

impl Need {
    fn add(&mut self, gate: Gate) {
        match gate {
            Gate::Open => {}
            Gate::Written(batch) => self.written = self.written.max(batch),
            Gate::Synced(batch) => self.synced = self.synced.max(batch),
        }
    }
}

/// A log entry whose place is known once its batch is written.
struct Placed {
    stream: u64,
    offset: u64,
    span: u32,
    timestamp: i64,
    distance: u64,
    bytes: u64,
}

/// What follows from a batch when it is durable.
struct InFlight {
    placed: Vec<Placed>,
    trimmed: Vec<(u64, u64)>,
    bytes: u64,
    base: Option<Lsn>,
}

pub(crate) struct EngineThread {
    pub shared: Arc<Shared>,
    pub number: u16,
    pub shards: BTreeMap<ShardId, Shard>,
    /// Thread 0 keeps the catalog.
    pub catalog: Option<Catalog>,
    pub journal: Journal,
    pub inbox: Inbox,
    state: State,
}

#[derive(Default)]
struct State {
    batch: Option<Batch>,
    /// The number of the open batch.
    number: u64,
    /// Bytes of memory that a batch takes, about, as the last ones did.
    batch_memory: usize,
    encoder: Encoder,
    placed: Vec<Placed>,
    trimmed: Vec<(u64, u64)>,
    /// Lanes whose floor may have moved.
    settled: Vec<(QueueId, u8)>,
    in_flight: BTreeMap<u64, InFlight>,
    written: u64,
    synced: u64,
    /// Where the last batch that was placed ends; at first, where the journal began to be written.
    last_end: Lsn,
    /// Where the latest batches end in the journal.
    ends: BTreeMap<u64, Lsn>,
    /// What the journal had room for when the round began.
    journal_room: u64,
    by_written: BTreeMap<u64, Vec<(Need, Waiting)>>,
    by_synced: BTreeMap<u64, Vec<(Need, Waiting)>>,
    tickets: Tickets,
    sinks: HashMap<ConsumerId, Arc<dyn DeliverySink>>,
    logs: HashMap<u64, Arc<PartitionLog>>,
    touched: Vec<ShardId>,
    out: Output,
    catalog_changed: u64,
    catalog_dirty: bool,
    timers: BTreeMap<ShardId, Timestamp>,
    transient_bytes: u64,
}

/// A panic of an engine thread is a defect that leaves half a decision in memory: the process ends, and
/// recovery begins from what the journal holds.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A batch is submitted when it holds this much, so that the disk works while the thread goes on.
const BATCH_BYTES: u64 = 1 << 20;
/// A journal that answers nothing for so long has failed.
const STOP_WAIT: Duration = Duration::from_secs(2);
/// More than can be on their way while something waits for one of them.
const ENDS_KEPT: usize = 65_536;
/// Where it pays, what is published gathers for so long before it is looked at.
const REST: Duration = Duration::from_micros(200);
/// Inputs taken into one batch at most.
const BATCH_INPUTS: usize = 4_096;

impl EngineThread {
    pub fn new(
        shared: Arc<Shared>,
        number: u16,
        shards: BTreeMap<ShardId, Shard>,
        catalog: Option<Catalog>,
        journal: Journal,
        inbox: Inbox,
    ) -> EngineThread {
        let state = State { number: 1, catalog_dirty: true, last_end: journal.durable(), ..State::default() };
        EngineThread { shared, number, shards, catalog, journal, inbox, state }
    }

    /// Ends recovery and works until it is told to stop.
    pub fn run(mut self, clean: bool) {
        let _guard = AbortOnPanic;
        self.begin(clean);
        loop {
            self.inbox.rest(REST);
            let Some(first) = self.wait() else { return };
            if let Some(done) = self.round(first, BATCH_INPUTS) {
                return self.stop(&done);
            }
        }
    }

    /// Ends recovery. `clean` is whether the last stop was orderly.
    pub fn begin(&mut self, clean: bool) {
        self.state.journal_room = self.journal.room(self.shared.limits.reserve_bytes);
        for (id, shard) in &mut self.shards {
            shard.recovered(clean, self.shared.epoch, &mut self.state.out);
            // Shard by shard: what is sent again must carry the name of the shard that sends it.
            emit(&self.shared, &mut self.state, *id);
            self.state.touched.push(*id);
        }
        self.finish_round();
    }

    /// One round without waiting, of at most `inputs_max` inputs; false when there was nothing to do.
    pub fn step(&mut self, inputs_max: usize) -> bool {
        let first = self.inbox.next();
        if first.is_none() && self.next_timer().is_none_or(|at| at > self.shared.now()) {
            return false;
        }
        self.round(first, inputs_max);
        true
    }

    /// When a shard has something to do although nobody asks for it.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.state.timers.values().min().copied()
    }

    pub fn digests(&self) -> impl Iterator<Item = (ShardId, u32)> {
        self.shards.iter().map(|(id, shard)| (*id, shard.digest()))
    }

    /// Of the durable part, if this thread keeps the catalog.
    pub fn catalog_digest(&self) -> Option<u32> {
        let mut events = self.catalog.as_ref()?.to_events();
        events.retain(|event| !matches!(event, CatalogEvent::IdsReserved(_)));
        let mut encoded: Vec<_> =
            events.iter().filter_map(|event| postcard::to_allocvec(event).ok()).collect();
        encoded.sort_unstable();
        Some(encoded.iter().fold(0, |digest, event| crc32c::crc32c_append(digest, event)))
    }

    /// Takes `first` and what else has come in, and has it leave in one batch. Returns who waits for the end
    /// if the thread was told to stop.
    fn round(&mut self, first: Option<Input>, inputs_max: usize) -> Option<mpsc::Sender<()>> {
        self.state.journal_room = self.journal.room(self.shared.limits.reserve_bytes);
        let mut next = first;
        let mut taken = 0;
        while let Some(input) = next {
            if let Input::Stop(done) = input {
                self.finish_round();
                return Some(done);
            }
            self.take(input);
            taken += 1;
            let full = self.state.batch.as_ref().is_some_and(|b| b.bytes() >= BATCH_BYTES);
            next = if full || taken >= inputs_max { None } else { self.inbox.next() };
        }
        self.tick();
        self.finish_round();
        None
    }

    /// The next input, or nothing when a timer is due; ends when nobody can send any more.
    fn wait(&mut self) -> Option<Option<Input>> {
        let now = self.shared.now();
        let wait = self
            .next_timer()
            .map_or(Duration::from_secs(3_600), |at| Duration::from_millis(at.ms_since(now)));
        self.inbox.wait(wait).ok()
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Command { shard, command, reply } => self.command(shard, command, reply),
            Input::Consume { shard, command, sink, reply } => {
                if let Command::Consume(consume) = &command {
                    self.state.sinks.insert(consume.consumer, sink);
                }
                self.command(shard, command, Some(reply));
            }
            Input::Publish(job) => self.publish(job),
            Input::Catalog { command, reply } => self.change_catalog(command, reply),
            Input::Completed(completion) => self.completed(completion),
            Input::Streams(reply) => {
                let unseen = self.state.in_flight.values().any(|batch| batch.base.is_none());
                let unseen_from = unseen.then_some(self.state.last_end);
                let streams = self.shards.values().flat_map(Shard::streams).collect();
                let _ = reply.send(ThreadStreams { streams, unseen_from });
            }
            Input::Checkpoint(reply) => self.checkpoint(reply),
            Input::Stop(_) => {}
        }
    }

    fn command(&mut self, id: ShardId, command: Command, reply: Option<oneshot::Sender<Reply>>) {
        if let Command::Detach { consumer, .. } = &command {
            self.state.sinks.remove(consumer);
        }
        let ticket = self.state.tickets.take(reply);
        let Some(shard) = self.shards.get_mut(&id) else {
            return self.state.tickets.answer(ticket, Reply::Refused(Refusal::Gone));
        };
        let ctx = context(&self.shared, &self.state);
        shard.step(&ctx, command, ticket, &mut self.state.out);
        self.emit(id);
        self.state.touched.push(id);
    }

    fn publish(&mut self, job: PublishJob) {
        let mut need = Need::default();
        let ctx = context(&self.shared, &self.state);
        let (mut refused, mut appended, mut crowded) = (Vec::new(), Vec::new(), false);
        for (id, index, publish) in job.items {
            let is_append = matches!(publish, Publish::Append(_));
            let Some(shard) = self.shards.get_mut(&id) else { continue };
            let result = shard.publish(&ctx, publish, &mut self.state.out);
            crowded |= shard.take_crowded();
            match result {
                Ok(published) => {
                    need.add(published.gate);
                    if is_append {
                        appended.push((index, published.offset, published.duplicate));
                    }
                }
                Err(refusal) => refused.push((index, refusal)),
            }
            emit(&self.shared, &mut self.state, id);
            self.state.touched.push(id);
        }
        self.shared.inbox_bytes.fetch_sub(job.bytes, Ordering::Relaxed);
        self.shared.metrics.refused.add(refused.len() as u64);
        {
            let mut outcome = job.done.outcome.lock();
            outcome.refused.append(&mut refused);
            outcome.appended.append(&mut appended);
            outcome.crowded |= crowded;
        }
        self.state.hold(need, Waiting::Published(job.done));
    }

    /// Journals events and keeps effects until they may leave.
    fn emit(&mut self, id: ShardId) {
        emit(&self.shared, &mut self.state, id);
    }

    /// Fires due timers, hands out what is ready, submits the batch, releases what waits for nothing.
    fn finish_round(&mut self) {
        let mut touched = std::mem::take(&mut self.state.touched);
        touched.sort_unstable();
        touched.dedup();
        for id in touched.drain(..) {
            let Some(shard) = self.shards.get_mut(&id) else { continue };
            let ctx = context(&self.shared, &self.state);
            shard.deliver(&ctx, &mut self.state.out);
            match shard.next_timer() {
                Some(at) => self.state.timers.insert(id, at),
                None => self.state.timers.remove(&id),
            };
            emit(&self.shared, &mut self.state, id);
            for (queue, lane) in self.state.settled.drain(..) {
                if let Some(floor) = shard.floor(queue, lane) {
                    self.state.trimmed.push((stream_of(queue, lane), floor));
                }
            }
        }
        self.state.touched = touched;
        self.state.transient_bytes = self.shards.values().map(Shard::transient_bytes).sum();
        self.submit();
        self.release();
    }

    fn tick(&mut self) {
        let now = self.shared.now();
        let due: Vec<ShardId> =
            self.state.timers.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.command(id, Command::Tick, None);
        }
    }

    fn submit(&mut self) {
        let Some(batch) = self.state.batch.take() else { return };
        self.state.batch_memory = (self.state.batch_memory + batch.memory()) / 2;
        let in_flight = InFlight {
            placed: std::mem::take(&mut self.state.placed),
            trimmed: std::mem::take(&mut self.state.trimmed),
            bytes: batch.bytes(),
            base: None,
        };
        self.state.in_flight.insert(self.state.number, in_flight);
        self.state.number += 1;
        self.state.encoder.reset();
        self.journal.submit(batch);
    }

    fn completed(&mut self, completion: Completion) {
        let number = completion.number;
        if let Some(batch) = self.state.in_flight.get_mut(&number)
            && batch.base.is_none()
        {
            batch.base = Some(completion.base);
            let end = Lsn(completion.base.0 + batch.bytes);
            self.state.last_end = end;
            self.state.ends.insert(number, end);
            if self.state.ends.len() > ENDS_KEPT {
                self.state.ends.pop_first();
            }
            let (placed, trimmed) = (std::mem::take(&mut batch.placed), std::mem::take(&mut batch.trimmed));
            self.place(placed, trimmed, completion.base);
        }
        self.state.written = self.state.written.max(number);
        if completion.synced {
            self.state.synced = self.state.synced.max(number);
            self.state.in_flight.remove(&number);
        }
        self.release();
    }

    /// Shows readers what has become durable.
    fn place(&mut self, placed: Vec<Placed>, trimmed: Vec<(u64, u64)>, base: Lsn) {
        let mut changed: Vec<Arc<PartitionLog>> = Vec::new();
        for entries in placed.chunk_by(|one, next| one.stream == next.stream) {
            let Some(last) = entries.last() else { continue };
            let log = match self.state.logs.get(&last.stream) {
                Some(log) => log,
                None => {
                    let log = self.shared.logs.find_or_add(last.stream);
                    self.state.logs.entry(last.stream).or_insert(log)
                }
            };
            log.add(entries.iter().map(|entry| JournalEntry {
                offset: entry.offset,
                timestamp: entry.timestamp,
                lsn: Lsn(base.0 + entry.distance),
                bytes: entry.bytes,
            }));
            log.extend(last.offset + u64::from(last.span));
            changed.push(log.clone());
        }
        changed.iter().for_each(|log| log.wake());
        for (stream, start) in trimmed {
            if start == u64::MAX {
                self.state.logs.remove(&stream);
                self.shared.logs.remove(stream);
            } else {
                self.shared.logs.find_or_add(stream).trim(start);
            }
        }
    }

    /// Lets everything go that no longer waits.
    fn release(&mut self) {
        loop {
            let synced = self.state.by_synced.first_entry().filter(|e| *e.key() <= self.state.synced);
            let mut ready: Vec<(Need, Waiting)> = synced.map(|e| e.remove()).unwrap_or_default();
            if ready.is_empty() {
                let written = self.state.by_written.first_entry().filter(|e| *e.key() <= self.state.written);
                ready = written.map(|e| e.remove()).unwrap_or_default();
            }
            if ready.is_empty() {
                return;
            }
            for (need, waiting) in ready {
                if need.written > self.state.written || need.synced > self.state.synced {
                    self.state.hold(need, waiting);
                } else {
                    self.perform(waiting);
                }
            }
        }
    }

    fn perform(&mut self, waiting: Waiting) {
        match waiting {
            Waiting::Published(done) => done.finish_one(),
            Waiting::Catalog(snapshot, closings, reply) => {
                close(&self.shared, closings);
                self.shared.publish_catalog(snapshot.clone());
                let _ = reply.send(Ok(snapshot));
            }
            Waiting::CatalogRefused(error, reply) => drop(reply.send(Err(error))),
            Waiting::Checkpoint(reply, mut checkpoint, last) => {
                let end = self.state.ends.range(..=last).next_back().map(|(_, end)| *end);
                checkpoint.at = checkpoint.at.max(end);
                let _ = reply.send(checkpoint);
            }
            Waiting::Effect(shard, effect) => self.effect(shard, effect),
        }
    }

    fn effect(&mut self, shard: ShardId, effect: Effect) {
        match effect {
            Effect::Reply { ticket, reply } => self.state.tickets.answer(ticket, reply),
            Effect::Deliver { consumer, deliveries } => {
                self.shared.metrics.delivered.add(deliveries.len() as u64);
                if let Some(sink) = self.state.sinks.get(&consumer) {
                    sink.deliver(consumer, deliveries);
                }
            }
            Effect::Cancelled { consumer } => {
                if let Some(sink) = self.state.sinks.remove(&consumer) {
                    sink.cancelled(consumer);
                }
            }
            Effect::Ended { consumer } => drop(self.state.sinks.remove(&consumer)),
            Effect::Unused { queue } => self.shared.unused(queue),
            Effect::Outbox(entry) => self.shared.outbox(shard, *entry),
            Effect::DeadLetter { from, reason, envelope, payload } => {
                self.shared.dead_letter_now(from, reason, envelope, payload);
            }
            Effect::Retained { namespace, subject, message } => {
                self.shared.retained.change(&namespace, subject, message);
            }
            Effect::Dropped { count, .. } => self.shared.metrics.dropped.add(count),
        }
    }

    fn change_catalog(
        &mut self,
        command: CatalogCommand,
        reply: oneshot::Sender<Result<Arc<Catalog>, Error>>,
    ) {
        let Some(catalog) = &mut self.catalog else {
            let _ = reply.send(Err(Error::Gone));
            return;
        };
        let name = subject_of(&command);
        let changes = match catalog.decide(command, self.shared.now(), &self.shared.limits) {
            Ok(changes) => changes,
            Err(refusal) => {
                let need = Need { written: 0, synced: self.state.catalog_changed };
                let refused = Waiting::CatalogRefused(from_catalog(refusal, &name), reply);
                return self.state.hold(need, refused);
            }
        };
        if changes.iter().any(|c| c.durable)
            && self.shared.is_full(self.state.room(), self.shared.now())
            && !only_deletes(&changes)
        {
            let _ = reply.send(Err(Error::Refused(Refusal::NoSpace)));
            return;
        }
        let heads = match encode(&changes, &name) {
            Ok(heads) => heads,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let last = changes.iter().rposition(|c| c.durable);
        let mut closings = Closings::new();
        for (index, (change, head)) in changes.iter().zip(&heads).enumerate() {
            if change.durable {
                let batch =
                    self.state.batch.get_or_insert_with(|| Batch::new(self.number, self.state.number));
                batch.require_sync();
                let joined = last.is_some_and(|last| index < last);
                batch.push(CATALOG, joined, &bytes::Bytes::new(), |out| out.extend_from_slice(head));
                self.state.catalog_changed = self.state.number;
                self.state.catalog_dirty = true;
            }
            if let Some(catalog) = &mut self.catalog {
                let before = catalog.clone();
                catalog.apply(&change.event);
                closings.extend(propagate(&self.shared, &before, &change.event));
            }
        }
        let Some(catalog) = &self.catalog else { return };
        let need = Need { written: 0, synced: self.state.catalog_changed };
        self.state.hold(need, Waiting::Catalog(Arc::new(catalog.clone()), closings, reply));
    }

    fn checkpoint(&mut self, reply: Answers<ThreadCheckpoint>) {
        // What is in the open batch is part of the state, so the state is that of its end.
        self.finish_round();
        let shards = self.shards.iter_mut().map(|(id, s)| (*id, s.take_dirty(), s.held())).collect();
        let dirty = std::mem::take(&mut self.state.catalog_dirty);
        let catalog = self.catalog.as_ref().filter(|_| dirty).map(Catalog::to_events);
        let need = Need { written: 0, synced: self.state.number - 1 };
        let keeps_catalog = self.catalog.is_some();
        // With nothing on its way, whatever this thread journals next lies above what is durable now.
        let at = self.state.in_flight.is_empty().then(|| self.journal.durable());
        let checkpoint = ThreadCheckpoint { shards, catalog, keeps_catalog, at };
        self.state.hold(need, Waiting::Checkpoint(reply, checkpoint, self.state.number - 1));
        self.release();
    }

    /// Answers what is on its way to the disk, then ends.
    fn stop(mut self, done: &mpsc::Sender<()>) {
        if self.state.synced + 1 < self.state.number {
            // What was only written would be synced later: an empty batch that asks for it does so now.
            let number = self.state.number;
            self.state.batch.get_or_insert_with(|| Batch::new(self.number, number)).require_sync();
            self.submit();
        }
        while self.state.synced + 1 < self.state.number {
            match self.inbox.wait(STOP_WAIT) {
                Ok(Some(Input::Completed(completion))) => self.completed(completion),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let _ = done.send(());
    }
}

impl State {
    /// What the journal has room for beside the open batch.
    fn room(&self) -> u64 {
        self.journal_room.saturating_sub(self.batch.as_ref().map_or(0, Batch::bytes))
    }

    /// Keeps something until the journal has reached what it needs.
    fn hold(&mut self, mut need: Need, waiting: Waiting) {
        // An open batch without events is never submitted: what is gated on it waits for the one before.
        if self.batch.is_none() {
            need.written = need.written.min(self.number - 1);
            need.synced = need.synced.min(self.number - 1);
        }
        if need.synced > self.synced {
            self.by_synced.entry(need.synced).or_default().push((need, waiting));
        } else {
            // Also what waits for nothing: it leaves in order at the end of the round.
            self.by_written.entry(need.written).or_default().push((need, waiting));
        }
    }
}

fn context<'a>(shared: &'a Shared, state: &State) -> Context<'a> {
    let now = shared.now();
    Context {
        now,
        batch: state.number,
        durable: state.synced,
        no_space: shared.is_full(state.room(), now),
        no_memory: state.transient_bytes >= shared.limits.transient_bytes_max,
        limits: &shared.limits,
    }
}

/// Moves what a shard produced into the batch and the waiting effects.
fn emit(shared: &Shared, state: &mut State, id: ShardId) {
    let mut out = std::mem::take(&mut state.out);
    for journaled in out.events.drain(..) {
        let batch = state.batch.get_or_insert_with(|| {
            let room = (state.batch_memory + state.batch_memory / 4).max(4_096);
            Batch::with_capacity(shared.thread_of(id) as u16, state.number, room)
        });
        let before = batch.bytes();
        let distance = state.encoder.push(batch, id.0, &journaled);
        let bytes = batch.bytes() - before;
        observe(shared, state, &journaled.event, distance, bytes);
    }
    for Gated { gate, effect } in out.effects.drain(..) {
        let mut need = Need::default();
        need.add(gate);
        state.hold(need, Waiting::Effect(id, effect));
    }
    state.out = out;
}

/// Notes what readers will see of an event once it is durable.
fn observe(shared: &Shared, state: &mut State, event: &Event, distance: u64, bytes: u64) {
    match event {
        Event::Appended { partition, offset, span, timestamp, .. } => {
            shared.metrics.published.add(1);
            let (stream, timestamp) = (partition.0, timestamp.0);
            state.placed.push(Placed { stream, offset: *offset, span: *span, timestamp, distance, bytes });
        }
        Event::Enqueued { queue, lane, offset, envelope, .. } => {
            shared.metrics.published.add(1);
            let (stream, timestamp) = (stream_of(*queue, *lane), envelope.received.0);
            state.placed.push(Placed { stream, offset: *offset, span: 1, timestamp, distance, bytes });
        }
        Event::Settled { queue, lane, .. } if state.settled.last() != Some(&(*queue, *lane)) => {
            state.settled.push((*queue, *lane));
        }
        Event::Trimmed { partition, start } => state.trimmed.push((partition.0, *start)),
        Event::PartitionClosed { partition } => state.trimmed.push((partition.0, u64::MAX)),
        Event::QueueClosed { queue, lanes } => {
            state.trimmed.extend((0..*lanes).map(|lane| (stream_of(*queue, lane as u8), u64::MAX)));
        }
        _ => {}
    }
}
