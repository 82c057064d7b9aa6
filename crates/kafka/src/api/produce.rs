//! Produce (0): appends record batches to partitions.

use std::sync::Arc;

use bytes::Bytes;
use posthaste_broker::{AppendBatch, Batch, Extent, Outcome, Writable};
use posthaste_engine::catalog::{Partition, Topic};
use posthaste_engine::effect::Refusal;
use posthaste_engine::event::Sequence;
use posthaste_model::{Payload, Timestamp};

use crate::context::{Context, partition, signed};
use crate::convert::FORMAT;
use crate::inflate::Checked;
use crate::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use crate::wire::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse,
};
use crate::wire::records::{ProduceRules, RecordBatch, RecordsError, Verified, validate_produce};
use crate::wire::{EncodeError, ErrorCode, Frame, RequestHeader, encode_response};
use crate::{reply, settings};

/// Whose acknowledgement a producer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Nobody's: no response is sent.
    None,
    /// The disk's. There is one replica, so the leader and all are the same.
    Durable,
    /// It said something else.
    Invalid,
}

impl Acks {
    fn of(acks: i16) -> Self {
        match acks {
            0 => Self::None,
            1 | -1 => Self::Durable,
            _ => Self::Invalid,
        }
    }

    pub fn is_none(self) -> bool {
        self == Self::None
    }
}

/// A Produce request whose batches are on their way.
pub struct Dispatched {
    /// Its place among the responses; none with acks=0.
    pub slot: Option<u64>,
    pub acks: Acks,
    /// Bytes of records that wait for the disk.
    pub bytes: usize,
    correlation_id: i32,
    api_version: i16,
    response: ProduceResponse,
    expected: Vec<Expected>,
}

/// A batch whose fate is not known yet.
struct Expected {
    /// Its place in the broker's batch.
    index: u32,
    topic: usize,
    partition: usize,
    extent: Extent,
    /// The time that the broker gave it; -1 when its own counts.
    log_append_time_ms: i64,
}

/// Checks a request, and adds what is good to `batch`.
pub fn dispatch(
    cx: &Context,
    header: &RequestHeader,
    request: ProduceRequest,
    checked: Checked,
    batch: &mut Batch,
) -> Dispatched {
    let acks = Acks::of(request.acks);
    let mut checked = checked.into_iter();
    let catalog = cx.catalog();
    let mut dispatched = Dispatched {
        slot: None,
        acks,
        bytes: 0,
        correlation_id: header.correlation_id,
        api_version: header.api_version,
        response: ProduceResponse::default(),
        expected: Vec::new(),
    };
    for data in request.topic_data {
        let topic = match (acks, &request.transactional_id) {
            (Acks::Invalid, _) => Err(ErrorCode::InvalidRequiredAcks),
            // Transactions are not offered, and nothing may be taken for part of one.
            (_, Some(_)) => Err(ErrorCode::TransactionalIdAuthorizationFailed),
            _ => cx.topic_by(&catalog, &data.name, data.topic_id),
        };
        let mut responses = Vec::with_capacity(data.partition_data.len());
        for partition_data in data.partition_data {
            let index = partition_data.index;
            let checked = checked.next().flatten();
            let result = topic.as_ref().map_err(|error| (*error, None)).and_then(|topic| {
                let accepted = accept(cx, topic, header.api_version, partition_data, checked)?;
                Ok((accepted, topic))
            });
            let mut response = PartitionProduceResponse { index, base_offset: -1, ..Default::default() };
            match result {
                Ok((accepted, _)) => {
                    dispatched.bytes += accepted.append.payload.body.len();
                    dispatched.expected.push(Expected {
                        index: batch.append(accepted.partition, accepted.append),
                        topic: dispatched.response.responses.len(),
                        partition: responses.len(),
                        extent: accepted.extent,
                        log_append_time_ms: accepted.log_append_time_ms,
                    });
                }
                Err((error_code, message)) => {
                    response.error_code = error_code;
                    response.error_message = message.map(Into::into);
                }
            }
            responses.push(response);
        }
        let (name, topic_id) = (data.name, data.topic_id);
        dispatched.response.responses.push(TopicProduceResponse {
            name,
            topic_id,
            partition_responses: responses,
        });
    }
    dispatched
}

/// A batch that may be appended.
struct Accepted {
    partition: Writable<Partition>,
    extent: Extent,
    append: AppendBatch,
    log_append_time_ms: i64,
}

type Rejected = (ErrorCode, Option<String>);

fn accept(
    cx: &Context,
    topic: &Writable<Arc<Topic>>,
    api_version: i16,
    data: PartitionProduceData,
    checked: Option<Result<Verified, RecordsError>>,
) -> Result<Accepted, Rejected> {
    let partition = partition(topic, data.index).map_err(|error| (error, None))?;
    let extent = cx.extent(partition).map_err(|error| (error, None))?;
    let rejected = |error: RecordsError| (reply::records(&error), Some(error.to_string()));
    let broker_max = cx.broker().limits().message_bytes_max;
    let topic_max = topic.config.message_bytes_max.and_then(|max| usize::try_from(max).ok());
    let max_batch_bytes = topic_max.unwrap_or(broker_max).min(broker_max);
    let rules = ProduceRules { api_version, max_batch_bytes, max_batches: 1 };
    let records = data.records.unwrap_or_default();
    let mut found = validate_produce(&records, &rules).map_err(rejected)?;
    let Some(mut batch) = found.pop() else { return Err((ErrorCode::InvalidRecord, None)) };
    if batch.header().attributes.is_transactional() {
        return Err((ErrorCode::TransactionalIdAuthorizationFailed, None));
    }
    let now = cx.broker().now();
    let verified = checked.unwrap_or_else(|| batch.verify_records(DECOMPRESSED_BATCH_BYTES_MAX));
    check_records(topic, verified.map_err(rejected)?, now)?;
    let mut log_append_time_ms = -1;
    if topic.config.broker_timestamps {
        log_append_time_ms = now.0;
        batch = batch.with_log_append_time(now.0);
    }
    let append = append_of(batch)?;
    Ok(Accepted { partition, extent, append, log_append_time_ms })
}

/// Checks what needs a look at every record.
fn check_records(topic: &Topic, verified: Verified, now: Timestamp) -> Result<(), Rejected> {
    if let Some(index) = verified.first_without_key
        && settings::is_compacted(&topic.config)
    {
        let why = format!("record {index} has no key, which a compacted topic needs");
        return Err((ErrorCode::InvalidRecord, Some(why)));
    }
    if topic.config.broker_timestamps {
        return Ok(());
    }
    let (before_max, after_max) = settings::timestamp_bounds(&topic.config);
    let too_old = now.0.saturating_sub(verified.min_timestamp) > before_max;
    let too_new = verified.max_timestamp.saturating_sub(now.0) > after_max;
    if (too_old && verified.min_timestamp >= 0) || too_new {
        let (min, max) = (verified.min_timestamp, verified.max_timestamp);
        let why = format!(
            "timestamps {min} to {max} are not all within [{}, {}]",
            now.0.saturating_sub(before_max),
            now.0.saturating_add(after_max),
        );
        return Err((ErrorCode::InvalidTimestamp, Some(why)));
    }
    Ok(())
}

fn append_of(batch: RecordBatch) -> Result<AppendBatch, Rejected> {
    let header = batch.header();
    // The rules for producers make the count at least 1, and sequences not negative where there is an id.
    let count = u32::try_from(header.records_count).map_err(|_| (ErrorCode::InvalidRecord, None))?;
    let sequence = match u64::try_from(header.producer_id) {
        Err(_) => None,
        Ok(producer) => Some(Sequence {
            producer,
            epoch: u16::try_from(header.producer_epoch).map_err(|_| (ErrorCode::InvalidRecord, None))?,
            first: u32::try_from(header.base_sequence).map_err(|_| (ErrorCode::InvalidRecord, None))?,
            count,
        }),
    };
    let timestamp = Timestamp(header.max_timestamp);
    let payload = Payload { format: FORMAT, head: Bytes::new(), body: batch.into_bytes() };
    Ok(AppendBatch { span: count, timestamp, sequence, payload })
}

impl Dispatched {
    /// Whether nothing is expected any more.
    pub fn is_done(&self) -> bool {
        self.expected.is_empty()
    }

    /// Takes what came of the broker's batch, both lists sorted by index.
    pub fn complete(&mut self, outcome: &Outcome) {
        for expected in std::mem::take(&mut self.expected) {
            let topic = self.response.responses.get_mut(expected.topic);
            let Some(response) =
                topic.and_then(|topic| topic.partition_responses.get_mut(expected.partition))
            else {
                continue;
            };
            match result_of(outcome, expected.index) {
                Ok((offset, duplicate)) => {
                    response.base_offset = signed(offset);
                    response.log_append_time_ms = if duplicate { -1 } else { expected.log_append_time_ms };
                    response.log_start_offset = signed(expected.extent.start());
                }
                Err(refusal) => response.error_code = reply::append(refusal),
            }
        }
    }

    pub fn encode(mut self, throttle_time_ms: i32) -> Result<Frame, EncodeError> {
        self.response.throttle_time_ms = throttle_time_ms;
        encode_response(self.correlation_id, self.api_version, &self.response)
    }

    pub fn first_error(&self) -> Option<ErrorCode> {
        let partitions = self.response.responses.iter().flat_map(|topic| &topic.partition_responses);
        partitions.map(|response| response.error_code).find(|error| error.is_error())
    }
}

fn result_of(outcome: &Outcome, index: u32) -> Result<(u64, bool), Refusal> {
    if let Ok(at) = outcome.appended.binary_search_by_key(&index, |(index, ..)| *index) {
        return outcome
            .appended
            .get(at)
            .map_or(Err(Refusal::Gone), |(_, offset, duplicate)| Ok((*offset, *duplicate)));
    }
    let refused = outcome.refused.iter().find(|(refused, _)| *refused == index);
    Err(refused.map_or(Refusal::Gone, |(_, refusal)| *refusal))
}
