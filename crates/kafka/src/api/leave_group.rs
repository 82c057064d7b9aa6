//! LeaveGroup (13): members leave a group. Up to version 2 one, from 3 several.

use crate::context::Context;
use crate::names::group_name;
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::leave_group::{
    LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse,
};

pub async fn handle(cx: &Context, version: i16, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let leaving = match version {
        0..=2 => vec![MemberIdentity { member_id: request.member_id, ..Default::default() }],
        _ => request.members,
    };
    let members = leaving
        .iter()
        .map(|member| {
            let instance = member.group_instance_id.as_ref().map(ToString::to_string);
            (member.member_id.to_string(), instance)
        })
        .collect();
    let left = match group_name(&request.group_id) {
        Ok(group) => cx.client.leave_group(&group, members).await.map_err(|error| reply::group(&error)),
        Err(error_code) => Err(error_code),
    };
    let left = match left {
        Ok(left) => left,
        Err(error_code) => return LeaveGroupResponse { error_code, ..Default::default() },
    };
    let results = left.into_iter().map(|result| result.err().map_or(ErrorCode::None, reply::member));
    let mut members: Vec<_> = leaving
        .into_iter()
        .zip(results)
        .map(|(member, error_code)| MemberResponse {
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
            error_code,
        })
        .collect();
    // The one member's result is the request's.
    let error_code = match version {
        0..=2 => members.pop().map_or(ErrorCode::UnknownMemberId, |member| member.error_code),
        _ => ErrorCode::None,
    };
    LeaveGroupResponse { error_code, members, ..Default::default() }
}
