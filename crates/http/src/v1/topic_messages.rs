//! Reading a partition of a topic, page by page.

use crate::{
    call::{Answer, Call, Reply, within},
    failure::Failure,
    message::{MessageView, Place},
    server::stopped,
};
use posthaste_broker::{Allowed, Broker, LogEntry, PartitionLog, Readable, right};
use posthaste_engine::catalog::{Partition, Resource, Topic};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    partition: Option<usize>,
    /// `beginning`, `end`, or an offset.
    from: Option<String>,
    count: Option<usize>,
    /// Bytes of messages after which no further one is added.
    bytes: Option<usize>,
    /// How long to wait when there is none.
    wait_ms: Option<u64>,
}

#[derive(Serialize)]
struct List {
    messages: Vec<Item>,
    /// What to ask for next.
    next: u64,
    start: u64,
    end: u64,
}

/// A message, or where one is that cannot be shown.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Item {
    Message(Box<MessageView>),
    Unreadable { topic: String, partition: usize, offset: u64, error: Unreadable },
}

#[derive(Serialize)]
pub struct Unreadable {
    code: &'static str,
    message: String,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Beginning,
    End,
    Offset(u64),
}

pub const COUNT_MAX: usize = 10_000;
const BYTES_DEFAULT: usize = 1 << 20;
const BYTES_MAX: usize = 16 << 20;
pub const WAIT_MS_MAX: u64 = 60_000;

/// `GET /v1/topics/{name}/messages`
pub async fn read(call: &Call) -> Answer {
    let parameters: Parameters = call.parameters()?;
    let count = within("count", parameters.count.unwrap_or(100), 1, COUNT_MAX)?;
    let bytes = within("bytes", parameters.bytes.unwrap_or(BYTES_DEFAULT), 1, BYTES_MAX)?;
    let wait = Duration::from_millis(within("wait_ms", parameters.wait_ms.unwrap_or(0), 0, WAIT_MS_MAX)?);
    let from = From::parse(parameters.from.as_deref())?;
    let topic = readable(call)?;
    let index = parameters.partition.unwrap_or(0);
    let partition = find_partition(&topic, index)?;
    let log = call.client.log(partition)?;
    if let Some(pause) = call.client.read_pause() {
        return Err(Failure::rate_limited(pause));
    }
    let from = from.resolve(&log);
    if from > log.end() {
        let message = format!("offset {from} is beyond the partition's end, {}", log.end());
        return Err(Failure::new(hyper::StatusCode::RANGE_NOT_SATISFIABLE, "out_of_range", message));
    }
    if from == log.end() && !wait.is_zero() {
        wait_for(call, &log, from, wait).await;
        // Rights may have changed meanwhile.
        call.client.standing()?;
        call.client.allow::<right::Read, _>(Arc::clone(&topic))?;
    }
    let entries = log.read(from, bytes).await?;
    if !entries.is_empty() {
        call.client.audit_read(Resource::Topic, &topic.name);
    }
    let read: usize = entries.iter().map(|entry| entry.payload.body.len()).sum();
    let reader = Reader { broker: call.broker(), topic: &topic.name, partition: index };
    let (messages, next) = reader.items(entries, from, count);
    call.client.charge_read(messages.len() as u64, read as u64);
    Reply::json(&List { messages, next, start: log.start(), end: log.end() })
}

/// The topic in the path, which the caller may read.
pub fn readable(call: &Call) -> Result<Readable<Arc<Topic>>, Failure> {
    Ok(call.client.topic_to::<right::Read>(call.text())?)
}

pub fn find_partition<R>(
    topic: &Allowed<R, Arc<Topic>>,
    index: usize,
) -> Result<Allowed<R, Partition>, Failure> {
    topic.partition(index).ok_or_else(|| {
        let last = topic.partitions.len().saturating_sub(1);
        Failure::not_found(format!("topic '{}' has partitions 0 to {last}, not {index}", topic.name))
    })
}

async fn wait_for(call: &Call, log: &Arc<PartitionLog>, from: u64, wait: Duration) {
    let moved = Arc::new(Notify::new());
    log.watch(&moved);
    let mut stopping = call.stopping();
    let arrival = async {
        while log.end() <= from {
            moved.notified().await;
        }
    };
    tokio::select! {
        () = arrival => {}
        () = tokio::time::sleep(wait) => {}
        () = stopped(&mut stopping) => {}
    }
}

impl From {
    pub fn parse(text: Option<&str>) -> Result<From, Failure> {
        match text {
            None | Some("beginning") => Ok(From::Beginning),
            Some("end") => Ok(From::End),
            Some(number) => {
                let offset = number.parse().ok().filter(|offset| *offset < u64::MAX);
                let wrong =
                    || Failure::invalid(format!("from is beginning, end or an offset, not '{number}'"));
                offset.map(From::Offset).ok_or_else(wrong)
            }
        }
    }

    /// The offset, at least that of the first message there is.
    pub fn resolve(self, log: &PartitionLog) -> u64 {
        match self {
            From::Beginning => log.start(),
            From::End => log.end(),
            From::Offset(offset) => offset.max(log.start()),
        }
    }
}

/// Shows what is stored in one partition.
pub struct Reader<'a> {
    pub broker: &'a Broker,
    pub topic: &'a str,
    pub partition: usize,
}

impl Reader<'_> {
    /// Up to `count` messages from `from` on, and the offset after the last.
    pub fn items(&self, entries: Vec<LogEntry>, from: u64, count: usize) -> (Vec<Item>, u64) {
        let (mut items, mut next) = (Vec::new(), from);
        for entry in entries {
            let after = entry.offset.saturating_add(u64::from(entry.span));
            match self.broker.formats().messages(entry.offset, entry.envelope.as_ref(), &entry.payload) {
                Ok(messages) => {
                    for (offset, message) in messages.into_iter().filter(|(offset, _)| *offset >= from) {
                        if items.len() == count {
                            return (items, next);
                        }
                        let (topic, partition) = (self.topic.to_owned(), self.partition);
                        let place = Place::Topic { topic, partition, offset };
                        items.push(Item::Message(Box::new(MessageView::new(place, message))));
                        next = offset.saturating_add(1);
                    }
                }
                Err(error) if items.len() < count => {
                    items.push(self.unreadable(entry.offset, error.to_string()))
                }
                Err(_) => return (items, next),
            }
            next = next.max(after);
            if items.len() == count {
                break;
            }
        }
        (items, next)
    }

    fn unreadable(&self, offset: u64, message: String) -> Item {
        let error = Unreadable { code: "unreadable", message };
        Item::Unreadable { topic: self.topic.to_owned(), partition: self.partition, offset, error }
    }
}
