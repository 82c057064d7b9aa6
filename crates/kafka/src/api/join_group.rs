//! JoinGroup (11): a member enters a group, or stays for its next generation.

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::Bytes;
use bytestring::ByteString;
use posthaste_broker::Error;
use posthaste_engine::group::{Join, Joined};

use crate::context::Context;
use crate::names::group_name;
use crate::reply;
use crate::wire::messages::join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember};
use crate::wire::{ErrorCode, RequestHeader};

/// First version whose newcomers come back with the id that they are given (KIP-394).
const MEMBER_ID_REQUIRED_SINCE: i16 = 4;

pub async fn handle(cx: &Context, header: &RequestHeader, request: JoinGroupRequest) -> JoinGroupResponse {
    let member = request.member_id.to_string();
    let joined = match join(cx, header, request) {
        Ok(join) => cx.client.join_group(join).await.map_err(|error| reply::group(&error)),
        Err(error_code) => Err(error_code),
    };
    match joined {
        Ok(joined) => respond(joined),
        Err(error_code) => JoinGroupResponse {
            error_code,
            protocol_name: Some(ByteString::new()),
            member_id: member.into(),
            ..Default::default()
        },
    }
}

fn join(cx: &Context, header: &RequestHeader, request: JoinGroupRequest) -> Result<Join, ErrorCode> {
    let group = group_name(&request.group_id)?;
    let milliseconds = |ms: i32| u64::try_from(ms).map_err(|_| ErrorCode::InvalidSessionTimeout);
    let session_timeout_ms = milliseconds(request.session_timeout_ms)?;
    let rebalance_timeout_ms = match request.rebalance_timeout_ms {
        ms if ms < 0 => session_timeout_ms,
        ms => milliseconds(ms)?,
    };
    let metadata: usize = request.protocols.iter().map(|p| p.name.len() + p.metadata.len()).sum();
    if metadata > cx.broker().limits().group_metadata_bytes_max {
        return Err(ErrorCode::InvalidRequest);
    }
    let instance = request.group_instance_id.map(|instance| instance.to_string());
    let client = header.client_id.as_deref().unwrap_or_default().to_owned();
    // The metadata stays with the group, the request must not.
    let protocols = request.protocols.iter();
    let protocols = protocols.map(|p| (p.name.to_string(), Bytes::copy_from_slice(&p.metadata))).collect();
    Ok(Join {
        namespace: cx.client.namespace().clone(),
        group,
        member: request.member_id.to_string(),
        new_member: new_member_id(instance.as_deref().unwrap_or(&client)),
        require_member_id: header.api_version >= MEMBER_ID_REQUIRED_SINCE && instance.is_none(),
        instance,
        client,
        host: format!("/{}", cx.peer),
        session_timeout_ms,
        rebalance_timeout_ms,
        protocol_type: request.protocol_type.to_string(),
        protocols,
    })
}

/// As Kafka makes them: the client's own name and a random part.
fn new_member_id(client: &str) -> String {
    let random = || RandomState::new().build_hasher().finish();
    let (a, b) = (random(), random());
    let [b0, b1, b2, b3, rest @ ..] = b.to_be_bytes();
    let rest = rest.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    format!(
        "{client}-{:08x}-{:04x}-{:04x}-{:02x}{:02x}-{:02x}{:02x}{rest:08x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xffff,
        b0,
        b1,
        b2,
        b3
    )
}

fn respond(joined: Joined) -> JoinGroupResponse {
    let error_code = joined.refusal.map_or(ErrorCode::None, |refusal| reply::group(&Error::from(refusal)));
    let failed = error_code.is_error();
    let member = |(member_id, instance, metadata): (String, Option<String>, Bytes)| JoinGroupResponseMember {
        member_id: member_id.into(),
        group_instance_id: instance.map(Into::into),
        metadata,
    };
    JoinGroupResponse {
        error_code,
        generation_id: joined.generation,
        protocol_type: (!failed).then(|| joined.protocol_type.into()),
        protocol_name: Some(joined.protocol.into()),
        leader: joined.leader.into(),
        member_id: joined.member.into(),
        members: joined.members.into_iter().map(member).collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::new_member_id;

    #[test]
    fn member_ids_are_named_and_unique() {
        let [first, second] = [new_member_id("app"), new_member_id("app")];
        assert_ne!(first, second);
        let id = first.strip_prefix("app-").unwrap();
        let lengths: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
    }
}
