//! A topic's messages, from anywhere on, and those that come.

use crate::{
    call::{Answer, Call, Reply, within},
    failure::Failure,
    v1::{
        stream::{Ended, Lines},
        topic_messages::{From, Reader, find_partition, readable},
    },
};
use posthaste_broker::{Broker, Client, PartitionLog, ReadError, Readable, right};
use posthaste_engine::catalog::{Partition, Resource, Topic};
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::Notify;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// All of them when left out.
    partition: Option<usize>,
    /// `beginning`, `end`, or an offset.
    from: Option<String>,
    /// Ends after so many.
    count: Option<u64>,
}

/// One partition and how far it has been read.
struct Cursor {
    partition: usize,
    part: Readable<Partition>,
    log: Arc<PartitionLog>,
    next: u64,
}

/// Read from one partition before the next one has its turn.
const BYTES_PER_TURN: usize = 256 << 10;

/// `GET /v1/topics/{name}/stream`
pub fn start(call: Call) -> Answer {
    let Parameters { partition, from, count } = call.parameters()?;
    let count = within("count", count.unwrap_or(u64::MAX), 1, u64::MAX)?;
    let from = From::parse(Some(from.as_deref().unwrap_or("end")))?;
    let topic = readable(&call)?;
    let wanted = match partition {
        Some(index) => index..index + 1,
        None => 0..topic.partitions.len(),
    };
    let moved = Arc::new(Notify::new());
    let mut cursors = Vec::new();
    for partition in wanted {
        let part = find_partition(&topic, partition)?;
        let log = call.client.log(part)?;
        log.watch(&moved);
        cursors.push(Cursor { partition, part, next: from.resolve(&log), log });
    }
    call.client.audit_read(Resource::Topic, &topic.name);
    let judged = Arc::clone(&topic);
    let (lines, body) =
        Lines::new(&call, move |client| client.allow::<right::Read, _>(judged.clone()).map(drop))?;
    let client = call.client.clone();
    tokio::spawn(async move { follow(&client, &topic, cursors, lines, &moved, count).await });
    Ok(Reply::Lines(body))
}

async fn follow(
    client: &Client,
    topic: &Topic,
    mut cursors: Vec<Cursor>,
    mut lines: Lines,
    moved: &Notify,
    count: u64,
) {
    let mut left = count;
    while left > 0 {
        let mut idle = true;
        for cursor in &mut cursors {
            match cursor.turn(client.broker(), &topic.name, &mut lines, &mut left).await {
                Ok(read) => idle &= !read,
                Err(Stop::Ended) => return,
                Err(Stop::Failed(failure)) => return lines.fail(&failure).await,
            }
        }
        // The log goes before the name does, and going wakes whoever waits.
        if idle && cursors.iter().any(|cursor| client.log(cursor.part).is_err()) {
            return lines.fail(&Failure::not_found(format!("topic '{}' was deleted", topic.name))).await;
        }
        if idle && left > 0 {
            tokio::select! {
                () = moved.notified() => {}
                Ended = lines.ended() => return,
            }
        }
    }
}

enum Stop {
    Ended,
    Failed(Failure),
}

impl Cursor {
    /// Sends what is there; false when there is nothing.
    async fn turn(
        &mut self,
        broker: &Broker,
        topic: &str,
        lines: &mut Lines,
        left: &mut u64,
    ) -> Result<bool, Stop> {
        if *left == 0 || self.next >= self.log.end() {
            return Ok(false);
        }
        let entries = self.log.read(self.next, BYTES_PER_TURN).await.map_err(Stop::of)?;
        if entries.is_empty() {
            return Ok(false);
        }
        let reader = Reader { broker, topic, partition: self.partition };
        let count = usize::try_from(*left).unwrap_or(usize::MAX);
        let (items, next) = reader.items(entries, self.next, count);
        *left -= items.len() as u64;
        self.next = next;
        lines.send(items).await.map_err(|Ended| Stop::Ended)?;
        Ok(true)
    }
}

impl Stop {
    fn of(error: ReadError) -> Stop {
        Stop::Failed(error.into())
    }
}
