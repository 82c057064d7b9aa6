//! The APIs, one file for each, named by the specification.

pub mod alter_configs;
pub mod api_versions;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_topic_partitions;
pub mod fetch;
pub mod find_coordinator;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sasl;
pub mod sync_group;

use crate::context::Context;
use crate::wire::{EncodeError, Frame, Request, RequestHeader, ResponseBody, encode_response};

/// Answers every request but those of which the session itself is the subject: ApiVersions, Produce and the
/// SASL ones.
pub async fn answer(cx: Context, header: RequestHeader, request: Request) -> Result<Frame, EncodeError> {
    let version = header.api_version;
    let cx = &cx;
    let h = &header;
    match request {
        Request::AlterConfigs(request) => encode(h, &alter_configs::handle(cx, request).await),
        Request::ApiVersions(request) => encode(h, &api_versions::handle(version, &request)),
        Request::CreatePartitions(request) => encode(h, &create_partitions::handle(cx, request).await),
        Request::CreateTopics(request) => encode(h, &create_topics::handle(cx, version, request).await),
        Request::DeleteGroups(request) => encode(h, &delete_groups::handle(cx, request).await),
        Request::DeleteRecords(request) => encode(h, &delete_records::handle(cx, request).await),
        Request::DeleteTopics(request) => encode(h, &delete_topics::handle(cx, version, request).await),
        Request::DescribeCluster(request) => encode(h, &describe_cluster::handle(cx, &request)),
        Request::DescribeConfigs(request) => encode(h, &describe_configs::handle(cx, &request)),
        Request::DescribeGroups(request) => encode(h, &describe_groups::handle(cx, version, request).await),
        Request::DescribeTopicPartitions(request) => {
            encode(h, &describe_topic_partitions::handle(cx, &request))
        }
        Request::Fetch(request) => encode(h, &fetch::handle(cx, version, &request).await),
        Request::FindCoordinator(request) => encode(h, &find_coordinator::handle(cx, version, &request)),
        Request::Heartbeat(request) => encode(h, &heartbeat::handle(cx, &request).await),
        Request::IncrementalAlterConfigs(request) => {
            encode(h, &incremental_alter_configs::handle(cx, request).await)
        }
        Request::InitProducerId(request) => encode(h, &init_producer_id::handle(cx, &request).await),
        Request::JoinGroup(request) => encode(h, &join_group::handle(cx, h, request).await),
        Request::LeaveGroup(request) => encode(h, &leave_group::handle(cx, version, request).await),
        Request::ListGroups(request) => encode(h, &list_groups::handle(cx, &request).await),
        Request::ListOffsets(request) => encode(h, &list_offsets::handle(cx, version, request).await),
        Request::Metadata(request) => encode(h, &metadata::handle(cx, version, request).await),
        Request::OffsetCommit(request) => encode(h, &offset_commit::handle(cx, request).await),
        Request::OffsetDelete(request) => encode(h, &offset_delete::handle(cx, request).await),
        Request::OffsetFetch(request) => encode(h, &offset_fetch::handle(cx, version, request).await),
        Request::OffsetForLeaderEpoch(request) => encode(h, &offset_for_leader_epoch::handle(cx, request)),
        // The session keeps these to itself; it would not come here with them.
        Request::Produce(_) => Ok(Frame::default()),
        Request::SaslAuthenticate(_) | Request::SaslHandshake(_) => Ok(Frame::default()),
        Request::SyncGroup(request) => encode(h, &sync_group::handle(cx, request).await),
    }
}

fn encode(header: &RequestHeader, response: &impl ResponseBody) -> Result<Frame, EncodeError> {
    encode_response(header.correlation_id, header.api_version, response)
}
