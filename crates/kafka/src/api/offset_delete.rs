//! OffsetDelete (47): forgets what a group has committed for some partitions (KIP-496).

use posthaste_broker::right;
use posthaste_engine::group::Phase;
use posthaste_model::{Name, TopicId};

use crate::context::{Context, partition};
use crate::names::group_name;
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};

/// Kafka refuses only the topics that a live group subscribes to. Subscriptions are the members' own business
/// here, so a group has to be empty.
pub async fn handle(cx: &Context, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let group = match empty_group(cx, &request.group_id).await {
        Ok(group) => group,
        Err(error_code) => return OffsetDeleteResponse { error_code, ..Default::default() },
    };
    let mut forgotten: Vec<(TopicId, u32)> = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for wanted in request.topics {
        let topic = cx.topic::<right::Read>(&wanted.name);
        let mut partitions = Vec::with_capacity(wanted.partitions.len());
        for wanted_partition in wanted.partitions {
            let partition_index = wanted_partition.partition_index;
            let checked = topic.as_ref().map_err(|error| *error).and_then(|topic| {
                partition(topic, partition_index)?;
                let index = u32::try_from(partition_index).map_err(|_| ErrorCode::UnknownTopicOrPartition)?;
                Ok((topic.id, index))
            });
            let error_code = checked.as_ref().err().copied().unwrap_or(ErrorCode::None);
            forgotten.extend(checked.ok());
            partitions.push(OffsetDeleteResponsePartition { partition_index, error_code });
        }
        topics.push(OffsetDeleteResponseTopic { name: wanted.name, partitions });
    }
    let done = cx.client.forget_offsets(&group, forgotten).await;
    let error_code = done.err().map_or(ErrorCode::None, |error| reply::group(&error));
    OffsetDeleteResponse { error_code, topics, ..Default::default() }
}

async fn empty_group(cx: &Context, name: &str) -> Result<Name, ErrorCode> {
    let group = group_name(name)?;
    let state = cx.client.describe_group(&group).await.map_err(|error| reply::group(&error))?;
    match state {
        None => Err(ErrorCode::GroupIdNotFound),
        Some(state) if state.phase != Phase::Empty => Err(ErrorCode::NonEmptyGroup),
        Some(_) => Ok(group),
    }
}
