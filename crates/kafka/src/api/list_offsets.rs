//! ListOffsets (2): finds offsets by time or position.

use std::collections::HashSet;
use std::sync::Arc;

use posthaste_broker::{PartitionLog, ReadError, Readable, Visible};
use posthaste_engine::catalog::Topic;
use posthaste_model::Timestamp;

use crate::context::{Context, check_leader_epoch, partition, signed};
use crate::convert::first_record_at;
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};

/// What a timestamp in a request may stand for, with the first version that has it.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: (i64, i16) = (-3, 7);
const EARLIEST_LOCAL: (i64, i16) = (-4, 8);
const LATEST_TIERED: (i64, i16) = (-5, 9);

/// Bytes read at a time when looking for a record.
const SCANNED_BYTES: usize = 1 << 20;

pub async fn handle(cx: &Context, version: i16, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let mut seen = HashSet::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let topic = cx.topic(&wanted.name);
        let mut partitions = Vec::with_capacity(wanted.partitions.len());
        for wanted_partition in &wanted.partitions {
            let twice = !seen.insert((wanted.name.clone(), wanted_partition.partition_index));
            let found = match (&topic, twice) {
                (_, true) => Err(ErrorCode::InvalidRequest),
                (Err(error), _) => Err(*error),
                (Ok(topic), _) => find(cx, version, topic, wanted_partition).await,
            };
            partitions.push(respond(cx, wanted_partition.partition_index, found));
        }
        topics.push(ListOffsetsTopicResponse { name: wanted.name, partitions });
    }
    ListOffsetsResponse { topics, ..Default::default() }
}

/// Offset and timestamp; -1 where there is none.
type Found = (i64, i64);

async fn find(
    cx: &Context,
    version: i16,
    topic: &Visible<Arc<Topic>>,
    wanted: &ListOffsetsPartition,
) -> Result<Found, ErrorCode> {
    let extent = cx.extent(partition(topic, wanted.partition_index)?)?;
    check_leader_epoch(wanted.current_leader_epoch, cx.epoch())?;
    let since = |(timestamp, since): (i64, i16)| wanted.timestamp == timestamp && version >= since;
    match wanted.timestamp {
        LATEST => return Ok((signed(extent.end()), -1)),
        EARLIEST => return Ok((signed(extent.start()), -1)),
        _ if since(EARLIEST_LOCAL) => return Ok((signed(extent.start()), -1)),
        // There is no tiered storage.
        _ if since(LATEST_TIERED) => return Ok((-1, -1)),
        _ => {}
    }
    // How far a partition reaches is for everybody who sees it, what its records say for readers.
    let topic: Readable<_> = cx.client.allow(Arc::clone(topic)).map_err(|error| reply::topic(&error))?;
    let log = cx.log(partition(&topic, wanted.partition_index)?)?;
    let found = match wanted.timestamp {
        _ if since(MAX_TIMESTAMP) => latest_record(cx, &log).await,
        negative if negative < 0 => return Err(ErrorCode::UnsupportedVersion),
        timestamp => first_at(&log, Timestamp(timestamp)).await,
    };
    let found = found.map_err(|error| reply::read(&error))?;
    Ok(found.map_or((-1, -1), |(offset, timestamp)| (signed(offset), timestamp.0)))
}

fn respond(
    cx: &Context,
    partition_index: i32,
    found: Result<Found, ErrorCode>,
) -> ListOffsetsPartitionResponse {
    match found {
        Ok((offset, timestamp)) => ListOffsetsPartitionResponse {
            partition_index,
            timestamp,
            offset,
            leader_epoch: if offset < 0 { -1 } else { cx.epoch() },
            ..Default::default()
        },
        Err(error_code) => ListOffsetsPartitionResponse { partition_index, error_code, ..Default::default() },
    }
}

/// The first record at or after a time.
async fn first_at(log: &Arc<PartitionLog>, at: Timestamp) -> Result<Option<(u64, Timestamp)>, ReadError> {
    let Some((mut from, _)) = log.offset_at(at).await? else { return Ok(None) };
    loop {
        let entries = log.read(from, SCANNED_BYTES).await?;
        let Some(last) = entries.last() else { return Ok(None) };
        let start = log.start();
        let late = entries.iter().filter(|entry| entry.timestamp >= at);
        if let Some(found) = late.filter_map(|entry| first_record_at(entry, start, at)).next() {
            return Ok(Some(found));
        }
        from = last.offset.saturating_add(u64::from(last.span));
    }
}

/// The first of the records with the largest timestamp. The log finds the first entry at or after a time; so
/// the largest time with an entry is found by halving.
async fn latest_record(cx: &Context, log: &Arc<PartitionLog>) -> Result<Option<(u64, Timestamp)>, ReadError> {
    let Some((_, first)) = log.offset_at(Timestamp(i64::MIN)).await? else { return Ok(None) };
    let mut low = first.0;
    let mut high = i64::MAX;
    // Most often nothing is in the future.
    let mut probe = cx.broker().now().0.max(low);
    while low < high {
        match log.offset_at(Timestamp(probe.saturating_add(1))).await? {
            Some((_, found)) => low = found.0.max(probe.saturating_add(1)),
            None => high = probe,
        }
        probe = low + high.saturating_sub(low) / 2;
    }
    first_at(log, Timestamp(low)).await
}
