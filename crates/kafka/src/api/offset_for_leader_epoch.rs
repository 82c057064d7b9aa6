//! OffsetForLeaderEpoch (23): where a leader epoch ended (KIP-320).

use std::sync::Arc;

use posthaste_broker::Visible;
use posthaste_engine::catalog::Topic;

use crate::context::{Context, check_leader_epoch, partition, signed};
use crate::wire::ErrorCode;
use crate::wire::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};

pub fn handle(cx: &Context, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|wanted| {
        let topic = cx.topic(&wanted.topic);
        let answer = |wanted: &OffsetForLeaderPartition| {
            let ended = topic.as_ref().map_err(|error| *error).and_then(|topic| end(cx, topic, wanted));
            match ended {
                Ok(end) => end,
                Err(error_code) => {
                    EpochEndOffset { error_code, partition: wanted.partition, ..Default::default() }
                }
            }
        };
        let partitions = wanted.partitions.iter().map(answer).collect();
        OffsetForLeaderTopicResult { topic: wanted.topic, partitions }
    });
    OffsetForLeaderEpochResponse { topics: topics.collect(), ..Default::default() }
}

/// Nothing that was acknowledged is ever cut off, so an epoch that a client knows reaches to the end of the
/// log, whichever it was. An epoch from the future is not known.
fn end(
    cx: &Context,
    topic: &Visible<Arc<Topic>>,
    wanted: &OffsetForLeaderPartition,
) -> Result<EpochEndOffset, ErrorCode> {
    let found = partition(topic, wanted.partition)?;
    check_leader_epoch(wanted.current_leader_epoch, cx.epoch())?;
    let extent = cx.extent(found)?;
    let known = (0..=cx.epoch()).contains(&wanted.leader_epoch);
    Ok(EpochEndOffset {
        partition: wanted.partition,
        leader_epoch: if known { wanted.leader_epoch } else { -1 },
        end_offset: if known { signed(extent.end()) } else { -1 },
        ..Default::default()
    })
}
