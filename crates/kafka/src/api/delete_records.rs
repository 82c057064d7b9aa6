//! DeleteRecords (21): moves the start of partitions forward.

use std::sync::Arc;

use posthaste_broker::Configurable;
use posthaste_engine::catalog::Topic;

use crate::context::{Context, partition, signed};
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteRecordsTopicResult,
};

/// Stands for the high watermark.
const ALL: i64 = -1;

pub async fn handle(cx: &Context, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let topic = cx.topic(&wanted.name);
        let mut partitions = Vec::with_capacity(wanted.partitions.len());
        for wanted in wanted.partitions {
            let trimmed = match &topic {
                Ok(topic) => trim(cx, topic, &wanted).await,
                Err(error_code) => Err(*error_code),
            };
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: wanted.partition_index,
                low_watermark: trimmed.unwrap_or(-1),
                error_code: trimmed.err().unwrap_or(ErrorCode::None),
            });
        }
        topics.push(DeleteRecordsTopicResult { name: wanted.name, partitions });
    }
    DeleteRecordsResponse { topics, ..Default::default() }
}

async fn trim(
    cx: &Context,
    topic: &Configurable<Arc<Topic>>,
    wanted: &DeleteRecordsPartition,
) -> Result<i64, ErrorCode> {
    let partition = partition(topic, wanted.partition_index)?;
    let end = cx.extent(partition)?.end();
    let before = match wanted.offset {
        ALL => end,
        offset => u64::try_from(offset).map_err(|_| ErrorCode::OffsetOutOfRange)?,
    };
    if before > end {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    cx.client.trim(partition, before).await.map(signed).map_err(|error| reply::topic(&error))
}
