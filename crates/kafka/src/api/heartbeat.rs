//! Heartbeat (12): a member of a group is alive.

use posthaste_engine::group::Member;

use crate::context::Context;
use crate::names::group_name;
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};

pub async fn handle(cx: &Context, request: &HeartbeatRequest) -> HeartbeatResponse {
    let error_code = beat(cx, request).await.err().unwrap_or(ErrorCode::None);
    HeartbeatResponse { error_code, ..Default::default() }
}

async fn beat(cx: &Context, request: &HeartbeatRequest) -> Result<(), ErrorCode> {
    let group = group_name(&request.group_id)?;
    let member = Member {
        id: request.member_id.to_string(),
        instance: request.group_instance_id.as_ref().map(ToString::to_string),
        generation: request.generation_id,
    };
    cx.client.heartbeat(&group, member).await.map_err(|error| reply::group(&error))
}
