//! OffsetCommit (8): stores how far a group has read.

use std::sync::Arc;

use posthaste_broker::Readable;
use posthaste_engine::catalog::Topic;
use posthaste_engine::event::CommittedOffset;
use posthaste_engine::group::Member;

use crate::context::{Context, partition};
use crate::limits::OFFSET_METADATA_BYTES_MAX;
use crate::names::group_name;
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitResponse, OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
};

pub async fn handle(cx: &Context, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let mut offsets = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for committed in &request.topics {
        let topic = cx.topic(&committed.name);
        let mut partitions = Vec::with_capacity(committed.partitions.len());
        for wanted in &committed.partitions {
            let checked = topic.as_ref().map_err(|error| *error).and_then(|topic| check(cx, topic, wanted));
            let error_code = match checked {
                Ok(offset) => {
                    offsets.push(offset);
                    ErrorCode::None
                }
                Err(error_code) => error_code,
            };
            let partition_index = wanted.partition_index;
            partitions.push(OffsetCommitResponsePartition { partition_index, error_code });
        }
        topics.push(OffsetCommitResponseTopic { name: committed.name.clone(), partitions });
    }
    if let Err(error_code) = commit(cx, &request, offsets).await {
        let all = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        all.filter(|partition| !partition.error_code.is_error())
            .for_each(|partition| partition.error_code = error_code);
    }
    OffsetCommitResponse { topics, ..Default::default() }
}

async fn commit(
    cx: &Context,
    request: &OffsetCommitRequest,
    offsets: Vec<CommittedOffset>,
) -> Result<(), ErrorCode> {
    let group = group_name(&request.group_id)?;
    if offsets.is_empty() {
        return Ok(());
    }
    let instance = request.group_instance_id.as_ref().map(ToString::to_string);
    let generation = request.generation_id_or_member_epoch;
    // A consumer that manages its own partitions says neither.
    let is_member = generation >= 0 || !request.member_id.is_empty() || instance.is_some();
    let member = is_member.then(|| Member { id: request.member_id.to_string(), instance, generation });
    cx.client.commit_offsets(&group, member, offsets).await.map_err(|error| reply::group(&error))
}

fn check(
    cx: &Context,
    topic: &Readable<Arc<Topic>>,
    wanted: &OffsetCommitRequestPartition,
) -> Result<CommittedOffset, ErrorCode> {
    partition(topic, wanted.partition_index)?;
    let metadata = wanted.committed_metadata.as_deref().unwrap_or_default();
    if metadata.len() > OFFSET_METADATA_BYTES_MAX {
        return Err(ErrorCode::OffsetMetadataTooLarge);
    }
    Ok(CommittedOffset {
        topic: topic.id,
        partition: u32::try_from(wanted.partition_index).map_err(|_| ErrorCode::UnknownTopicOrPartition)?,
        offset: u64::try_from(wanted.committed_offset).map_err(|_| ErrorCode::InvalidRequest)?,
        epoch: wanted.committed_leader_epoch,
        metadata: metadata.to_owned(),
        committed: cx.broker().now(),
    })
}
