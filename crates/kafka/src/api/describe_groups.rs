//! DescribeGroups (15): state and members of groups.

use bytestring::ByteString;
use posthaste_engine::group::{GroupState, MemberState, Phase};

use crate::context::Context;
use crate::names::group_name;
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::describe_groups::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};

/// First version that says that a group is not known; before, it is a dead one (KIP-1043).
const UNKNOWN_SINCE: i16 = 6;

pub async fn handle(cx: &Context, version: i16, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let mut groups = Vec::with_capacity(request.groups.len());
    for group_id in request.groups {
        let mut group = match describe(cx, &group_id).await {
            Ok(Some(state)) => shown(group_id, state),
            Ok(None) => dead(group_id, version),
            Err(error_code) => DescribedGroup { error_code, group_id, ..Default::default() },
        };
        if request.include_authorized_operations && !group.error_code.is_error() {
            group.authorized_operations = cx.group_operations(&group.group_id);
        }
        groups.push(group);
    }
    DescribeGroupsResponse { groups, ..Default::default() }
}

async fn describe(cx: &Context, group_id: &str) -> Result<Option<GroupState>, ErrorCode> {
    let group = group_name(group_id)?;
    cx.client.describe_group(&group).await.map_err(|error| reply::group(&error))
}

fn shown(group_id: ByteString, state: GroupState) -> DescribedGroup {
    DescribedGroup {
        group_id,
        group_state: state_name(state.phase).into(),
        protocol_type: state.protocol_type.into(),
        protocol_data: state.protocol.into(),
        members: state.members.into_iter().map(member).collect(),
        ..Default::default()
    }
}

fn member(member: MemberState) -> DescribedGroupMember {
    DescribedGroupMember {
        member_id: member.id.into(),
        group_instance_id: member.instance.map(Into::into),
        client_id: member.client.into(),
        client_host: member.host.into(),
        member_metadata: member.metadata,
        member_assignment: member.share,
    }
}

fn dead(group_id: ByteString, version: i16) -> DescribedGroup {
    let unknown = version >= UNKNOWN_SINCE;
    let message = unknown.then(|| format!("Group {group_id} not found.").into());
    DescribedGroup {
        error_code: if unknown { ErrorCode::GroupIdNotFound } else { ErrorCode::None },
        error_message: message,
        group_id,
        group_state: "Dead".into(),
        ..Default::default()
    }
}

/// Kafka's name for a phase of a group.
pub fn state_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Empty => "Empty",
        Phase::Forming => "PreparingRebalance",
        Phase::Dividing => "CompletingRebalance",
        Phase::Stable => "Stable",
    }
}
