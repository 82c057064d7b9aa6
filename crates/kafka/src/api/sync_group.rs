//! SyncGroup (14): the leader hands in the assignment, every member receives its own.

use bytes::Bytes;
use posthaste_engine::group::{Assignment, Member};

use crate::context::Context;
use crate::names::group_name;
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};

pub async fn handle(cx: &Context, request: SyncGroupRequest) -> SyncGroupResponse {
    match sync(cx, request).await {
        Ok(assignment) => SyncGroupResponse {
            protocol_type: Some(assignment.protocol_type.into()),
            protocol_name: Some(assignment.protocol.into()),
            assignment: assignment.share,
            ..Default::default()
        },
        Err(error_code) => SyncGroupResponse { error_code, ..Default::default() },
    }
}

async fn sync(cx: &Context, request: SyncGroupRequest) -> Result<Assignment, ErrorCode> {
    let group = group_name(&request.group_id)?;
    let bytes_max = cx.broker().limits().group_metadata_bytes_max;
    if request.assignments.iter().any(|given| given.assignment.len() > bytes_max) {
        return Err(ErrorCode::InvalidRequest);
    }
    let member = Member {
        id: request.member_id.to_string(),
        instance: request.group_instance_id.map(|instance| instance.to_string()),
        generation: request.generation_id,
    };
    // Assignments stay with the group, the request must not.
    let given = request.assignments.iter();
    let given = given.map(|given| (given.member_id.to_string(), Bytes::copy_from_slice(&given.assignment)));
    let assignment = cx.client.sync_group(&group, member, given.collect()).await;
    let assignment = assignment.map_err(|error| reply::group(&error))?;
    // KIP-559: a member that believes in another protocol is told so.
    let differs = |said: Option<bytestring::ByteString>, is: &str| said.is_some_and(|said| *said != *is);
    if differs(request.protocol_type, &assignment.protocol_type)
        || differs(request.protocol_name, &assignment.protocol)
    {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    Ok(assignment)
}
