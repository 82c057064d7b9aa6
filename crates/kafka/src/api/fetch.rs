//! Fetch (1): reads record batches from partitions, waiting for them when there are too few.
//!
//! Fetch sessions (KIP-227) are refused in the way Kafka does when its cache is full: every request names
//! all its partitions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use posthaste_broker::{LogEntry, PartitionLog, ReadAhead, ReadError, Readable};
use posthaste_engine::catalog::Topic;
use posthaste_model::PartitionId;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::context::{Context, check_leader_epoch, partition, signed, throttle_time_ms};
use crate::convert::Rendering;
use crate::limits::FETCH_BYTES_MAX;
use crate::reply;
use crate::wire::messages::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData,
};
use crate::wire::{ErrorCode, Uuid};

/// What a connection's fetches remember.
#[derive(Default)]
pub struct Memory {
    /// Who waits, and on which partitions.
    watch: Option<(Arc<Notify>, Vec<PartitionId>)>,
    /// When a partition was last served in a response that had no room for all: the others come first now.
    served: HashMap<PartitionId, u64>,
    rounds: u64,
    /// How far partitions were read from the disk: whoever goes on there finds the next part in memory.
    reached: HashMap<PartitionId, Reached>,
}

struct Reached {
    next: u64,
    ahead: Option<ReadAhead>,
}

/// Partitions whose turns are remembered.
const REMEMBERED_PARTITIONS_MAX: usize = 100_000;

pub async fn handle(cx: &Context, version: i16, request: &FetchRequest) -> FetchResponse {
    // A full request of no session has epoch -1, or 0 when it asks for one.
    if request.session_id != 0 || request.session_epoch > 0 {
        return FetchResponse { error_code: ErrorCode::FetchSessionIdNotFound, ..Default::default() };
    }
    let mut fetch = Fetch::new(cx, version, request);
    fetch.take_ahead(cx);
    let rights = cx.client.rights();
    let wait = u64::try_from(request.max_wait_ms).unwrap_or(0);
    let deadline = Instant::now() + Duration::from_millis(wait);
    fetch.collect().await;
    if !fetch.is_enough() && wait > 0 {
        let notify = fetch.watch(cx);
        // What came before the watch began is seen by this.
        fetch.collect().await;
        while !fetch.is_enough() {
            let expired = timeout_at(deadline, notify.notified()).await.is_err();
            fetch.collect().await;
            if expired {
                break;
            }
        }
        if cx.client.rights() != rights {
            // Records that the client may not read any more do not leave, although it waited for them.
            fetch = Fetch::new(cx, version, request);
            fetch.collect().await;
        }
    }
    fetch.respond(cx)
}

/// One request on its way.
struct Fetch {
    topics: Vec<TopicFetch>,
    /// Places of partitions, as topic and partition, in the order in which they are served.
    order: Vec<(usize, usize)>,
    min_bytes: usize,
    max_bytes: usize,
    bytes: usize,
    /// Some partition had more than there was room for.
    cut: bool,
    failed: bool,
    read_committed: bool,
}

struct TopicFetch {
    name: ByteString,
    uuid: Uuid,
    broker_timestamps: bool,
    partitions: Vec<PartitionFetch>,
}

struct PartitionFetch {
    index: i32,
    /// What is read, or why nothing is.
    source: Result<Source, ErrorCode>,
    entries: Vec<LogEntry>,
    /// What follows them and cannot be read: the report is the broker's, the consumer goes on behind it.
    lost: Option<(u64, u64)>,
    bytes: usize,
    max_bytes: usize,
}

/// About what a batch without records takes.
const LOST_BYTES: usize = 61;

struct Source {
    id: PartitionId,
    log: Arc<PartitionLog>,
    /// Where this request begins, and where to read next.
    from: u64,
    next: u64,
    /// What may have been read by now, from where this request begins.
    ahead: Option<ReadAhead>,
    /// Some of it came from the disk.
    from_disk: bool,
    /// The connection's last request that read it from the disk ended where this one begins.
    goes_on: bool,
}

impl Fetch {
    fn new(cx: &Context, version: i16, request: &FetchRequest) -> Self {
        let catalog = cx.catalog();
        let mut topics = Vec::with_capacity(request.topics.len());
        let mut failed = false;
        for wanted in &request.topics {
            let topic = match version >= 13 && wanted.topic_id.is_zero() {
                true => Err(ErrorCode::UnknownTopicId),
                false => cx.topic_by(&catalog, &wanted.topic, wanted.topic_id),
            };
            let partitions: Vec<_> =
                wanted.partitions.iter().map(|wanted| PartitionFetch::new(cx, &topic, wanted)).collect();
            failed |= partitions.iter().any(|partition| partition.source.is_err());
            topics.push(TopicFetch {
                name: wanted.topic.clone(),
                uuid: wanted.topic_id,
                broker_timestamps: topic.is_ok_and(|topic| topic.config.broker_timestamps),
                partitions,
            });
        }
        let mut fetch = Self {
            topics,
            order: Vec::new(),
            min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
            max_bytes: usize::try_from(request.max_bytes).unwrap_or(0).min(FETCH_BYTES_MAX),
            bytes: 0,
            cut: false,
            failed,
            read_committed: request.isolation_level == 1,
        };
        fetch.order = fetch.serving_order(cx);
        fetch
    }

    /// As the client asks, but first those that found no room the last times.
    fn serving_order(&self, cx: &Context) -> Vec<(usize, usize)> {
        let mut order = Vec::new();
        for (at, topic) in self.topics.iter().enumerate() {
            let readable =
                topic.partitions.iter().enumerate().filter(|(_, partition)| partition.source.is_ok());
            order.extend(readable.map(|(partition, _)| (at, partition)));
        }
        let memory = cx.fetches.lock();
        if !memory.served.is_empty() {
            order.sort_by_key(|place| {
                let id = self.source(*place).map(|source| source.id);
                id.and_then(|id| memory.served.get(&id)).copied().unwrap_or(0)
            });
        }
        order
    }

    fn source(&self, (topic, partition): (usize, usize)) -> Option<&Source> {
        self.topics.get(topic)?.partitions.get(partition)?.source.as_ref().ok()
    }

    /// Reads whatever there is by now and has room.
    async fn collect(&mut self) {
        self.cut = false;
        for at in 0..self.order.len() {
            let Some(&(topic, partition)) = self.order.get(at) else { break };
            let others = self.bytes;
            let Some(fetch) =
                self.topics.get_mut(topic).and_then(|topic| topic.partitions.get_mut(partition))
            else {
                continue;
            };
            let before = fetch.bytes;
            let (all, failed) = fetch.read(self.max_bytes.saturating_sub(others), others == 0).await;
            self.bytes += fetch.bytes - before;
            self.cut |= !all;
            self.failed |= failed;
        }
    }

    /// Whether to answer now: enough was read, or something went wrong.
    fn is_enough(&self) -> bool {
        self.failed || self.bytes >= self.min_bytes || self.cut && self.bytes > 0 || self.order.is_empty()
    }

    /// Has the end of every partition watched.
    fn watch(&self, cx: &Context) -> Arc<Notify> {
        let sources: Vec<_> = self.order.iter().filter_map(|place| self.source(*place)).collect();
        let mut ids: Vec<_> = sources.iter().map(|source| source.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut memory = cx.fetches.lock();
        if let Some((notify, watched)) = &memory.watch
            && *watched == ids
        {
            return notify.clone();
        }
        let notify = Arc::new(Notify::new());
        for source in sources {
            source.log.watch(&notify);
        }
        memory.watch = Some((notify.clone(), ids));
        notify
    }

    fn respond(mut self, cx: &Context) -> FetchResponse {
        self.remember(cx);
        self.read_ahead(cx);
        let entries = self.topics.iter().flat_map(|topic| &topic.partitions).flat_map(|p| &p.entries);
        let messages = entries.map(|entry| u64::from(entry.span)).sum();
        cx.client.charge_read(messages, self.bytes as u64);
        let epoch = cx.epoch();
        let formats = cx.broker().formats();
        let responses = self.topics.into_iter().map(|topic| {
            let rendering = || Rendering::new(formats, epoch, topic.broker_timestamps);
            let partitions = topic.partitions.into_iter();
            FetchableTopicResponse {
                topic: topic.name,
                topic_id: topic.uuid,
                partitions: partitions.map(|fetch| fetch.respond(rendering(), self.read_committed)).collect(),
            }
        });
        let throttle_time_ms = throttle_time_ms(cx.client.read_pause());
        FetchResponse { throttle_time_ms, responses: responses.collect(), ..Default::default() }
    }

    /// Finds what was read ahead for this request.
    fn take_ahead(&mut self, cx: &Context) {
        let mut memory = cx.fetches.lock();
        if memory.reached.is_empty() {
            return;
        }
        for source in self.sources_mut() {
            if let Some(reached) = memory.reached.remove(&source.id)
                && reached.next == source.next
            {
                (source.goes_on, source.ahead) = (true, reached.ahead);
            }
        }
    }

    /// Begins to read what the next requests are likely to ask for.
    fn read_ahead(&mut self, cx: &Context) {
        let mut memory = cx.fetches.lock();
        let bytes_max = self.max_bytes;
        for partition in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            let room = partition.max_bytes.min(bytes_max);
            let Ok(source) = &mut partition.source else { continue };
            let more = source.next < source.log.end();
            // Without room this time, what was read ahead is still good.
            let ahead = match source.next == source.from {
                true => source.ahead.take(),
                false if source.from_disk && source.goes_on && more => {
                    source.log.read_ahead(source.next, room)
                }
                false => None,
            };
            if (source.from_disk || ahead.is_some()) && memory.reached.len() < REMEMBERED_PARTITIONS_MAX {
                memory.reached.insert(source.id, Reached { next: source.next, ahead });
            }
        }
    }

    fn sources_mut(&mut self) -> impl Iterator<Item = &mut Source> {
        let partitions = self.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        partitions.filter_map(|partition| partition.source.as_mut().ok())
    }

    fn remember(&self, cx: &Context) {
        let mut memory = cx.fetches.lock();
        if !self.cut {
            memory.served.clear();
            return;
        }
        memory.rounds += 1;
        let round = memory.rounds;
        for topic in &self.topics {
            for partition in topic.partitions.iter().filter(|partition| partition.bytes > 0) {
                if let Ok(source) = &partition.source
                    && memory.served.len() < REMEMBERED_PARTITIONS_MAX
                {
                    memory.served.insert(source.id, round);
                }
            }
        }
    }
}

impl PartitionFetch {
    fn new(cx: &Context, topic: &Result<Readable<Arc<Topic>>, ErrorCode>, wanted: &FetchPartition) -> Self {
        let source = || {
            let topic = topic.as_ref().map_err(|error| *error)?;
            let partition = partition(topic, wanted.partition)?;
            check_leader_epoch(wanted.current_leader_epoch, cx.epoch())?;
            let log = cx.log(partition)?;
            let next = u64::try_from(wanted.fetch_offset).map_err(|_| ErrorCode::OffsetOutOfRange)?;
            if next < log.start() || next > log.end() {
                return Err(ErrorCode::OffsetOutOfRange);
            }
            Ok(Source {
                id: partition.id,
                log,
                from: next,
                next,
                ahead: None,
                from_disk: false,
                goes_on: false,
            })
        };
        Self {
            index: wanted.partition,
            source: source(),
            entries: Vec::new(),
            lost: None,
            bytes: 0,
            max_bytes: usize::try_from(wanted.partition_max_bytes).unwrap_or(0),
        }
    }

    /// Reads on, up to `room` bytes; the first batch may exceed it when `at_least_one`. Returns whether there
    /// was room for all that there is, and whether reading failed.
    async fn read(&mut self, room: usize, mut at_least_one: bool) -> (bool, bool) {
        let Ok(source) = &mut self.source else { return (true, false) };
        let mut room = room.min(self.max_bytes.saturating_sub(self.bytes));
        loop {
            let end = source.log.end();
            if source.next >= end {
                break;
            }
            // An entry like the last one has no room any more: reading it would be in vain.
            let last = self.entries.last().map_or(0, size_of);
            if (room == 0 || room < last) && !at_least_one {
                return (false, false);
            }
            let entries = match source.read(room).await {
                Ok(entries) if entries.is_empty() => {
                    let from = self.lost.map_or(source.next, |(from, _)| from);
                    self.lost = Some((from, end));
                    self.bytes += LOST_BYTES;
                    source.next = end;
                    break;
                }
                Ok(entries) => entries,
                // What was read before the fault is an answer; the next request meets it first.
                Err(_) if !self.entries.is_empty() => return (false, false),
                Err(error) => {
                    tracing::error!(partition = %source.id, offset = source.next, %error, "cannot fetch");
                    self.source = Err(reply::read(&error));
                    return (true, true);
                }
            };
            // Behind what is lost a response begins anew.
            if self.lost.is_some() {
                return (false, false);
            }
            for entry in entries {
                let size = size_of(&entry);
                if size > room && !at_least_one {
                    return (false, false);
                }
                at_least_one = false;
                room = room.saturating_sub(size);
                self.bytes += size;
                source.next = entry.offset.saturating_add(u64::from(entry.span));
                self.entries.push(entry);
            }
        }
        (true, false)
    }

    fn respond(self, mut rendering: Rendering<'_>, read_committed: bool) -> PartitionData {
        let partition_index = self.index;
        let source = match self.source {
            Ok(source) => source,
            Err(error_code) => {
                return PartitionData {
                    partition_index,
                    error_code,
                    high_watermark: -1,
                    ..Default::default()
                };
            }
        };
        self.entries.into_iter().for_each(|entry| rendering.push(entry));
        if let Some((from, to)) = self.lost {
            rendering.pass(from, to);
        }
        // Without transactions everything below the high watermark is stable.
        let high_watermark = signed(source.log.end());
        PartitionData {
            partition_index,
            high_watermark,
            last_stable_offset: high_watermark,
            log_start_offset: signed(source.log.start()),
            aborted_transactions: read_committed.then(Vec::new),
            records: rendering.finish(),
            ..Default::default()
        }
    }
}

impl Source {
    /// What comes next, up to about `room` bytes.
    async fn read(&mut self, room: usize) -> Result<Vec<LogEntry>, ReadError> {
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.from() == self.next) {
            self.from_disk = true;
            // Whatever is wrong is found out again, and reported.
            match ahead.entries().await {
                Ok(entries) if !entries.is_empty() => return Ok(entries),
                _ => {}
            }
        }
        if let Some(entries) = self.log.read_now(self.next, room) {
            return Ok(entries);
        }
        self.from_disk = true;
        self.log.read(self.next, room).await
    }
}

fn size_of(entry: &LogEntry) -> usize {
    // An entry without a body is still a record.
    (entry.payload.body.len() + entry.payload.head.len()).max(1)
}
