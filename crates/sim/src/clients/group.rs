//! Kafka: members of a group, who divide a topic's partitions among them, come and go.

use super::{
    Shore,
    kafka::{Connection, Membership, commit, fetch, stands},
    persist, wrong,
};
use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use posthaste_kafka::wire::{
    ErrorCode,
    messages::{
        heartbeat::HeartbeatRequest,
        join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse},
        sync_group::{SyncGroupRequest, SyncGroupRequestAssignment},
    },
};
use std::{cell::RefCell, io, rc::Rc};

const JOIN_VERSION: i16 = 5;
const SYNC_VERSION: i16 = 3;
const HEARTBEAT_VERSION: i16 = 3;
/// Short, so that a member that is gone is missed soon.
const SESSION_MS: i32 = 6_000;
const PROTOCOL: &str = "range";

/// A member for as long as the run goes on.
pub async fn member(shore: Rc<Shore>, topic: &'static str, partitions: i32, group: &'static str) {
    let member_id = RefCell::new(ByteString::new());
    persist(&shore, "Kafka group member", || take_part(&shore, topic, partitions, group, &member_id)).await;
}

/// One generation, or less.
async fn take_part(
    shore: &Shore,
    topic: &'static str,
    partitions: i32,
    group: &'static str,
    member_id: &RefCell<ByteString>,
) -> io::Result<bool> {
    let mut connection = Connection::open(shore)?;
    let Some(joined) = join(&mut connection, group, member_id).await? else { return Ok(false) };
    let membership: Membership = (joined.member_id.clone(), joined.generation_id);
    let Some(mine) = sync(&mut connection, group, &joined, partitions).await? else { return Ok(false) };
    let mut positions = stands(shore, &mut connection, topic, &mine, group).await?;
    let mut left = 2 + shore.below(40);
    while left > 0 || shore.draining.get() {
        left = left.saturating_sub(1);
        if !positions.is_empty() {
            fetch(shore, &mut connection, topic, &mut positions).await?;
            if shore.chance(1, 2)
                && !commit(shore, &mut connection, topic, &positions, group, Some(&membership)).await?
            {
                return Ok(false);
            }
        }
        if !heartbeat(&mut connection, group, &membership).await? {
            return Ok(false);
        }
        shore.pause(20).await;
    }
    Ok(false)
}

async fn join(
    connection: &mut Connection,
    group: &'static str,
    member_id: &RefCell<ByteString>,
) -> io::Result<Option<JoinGroupResponse>> {
    let request = JoinGroupRequest {
        group_id: ByteString::from_static(group),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: SESSION_MS,
        member_id: member_id.borrow().clone(),
        protocol_type: ByteString::from_static("consumer"),
        protocols: vec![JoinGroupRequestProtocol {
            name: ByteString::from_static(PROTOCOL),
            metadata: Bytes::new(),
        }],
        ..JoinGroupRequest::default()
    };
    let answer = connection.call(JOIN_VERSION, &request).await?;
    match answer.error_code {
        ErrorCode::None => {
            member_id.replace(answer.member_id.clone());
            Ok(Some(answer))
        }
        // KIP-394: the id is to be used from now on.
        ErrorCode::MemberIdRequired => {
            member_id.replace(answer.member_id);
            Ok(None)
        }
        ErrorCode::UnknownMemberId => {
            member_id.replace(ByteString::new());
            Ok(None)
        }
        ErrorCode::RebalanceInProgress | ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator => {
            Ok(None)
        }
        other => Err(wrong(format!("JoinGroup: {}", other.name()))),
    }
}

/// The partitions that this member is to read; none when the group has gone on meanwhile.
async fn sync(
    connection: &mut Connection,
    group: &'static str,
    joined: &JoinGroupResponse,
    partitions: i32,
) -> io::Result<Option<Vec<i32>>> {
    let mut assignments = Vec::new();
    for (at, member) in (0..).zip(&joined.members) {
        let count = joined.members.len() as i32;
        let mut assignment = BytesMut::new();
        (0..partitions)
            .filter(|partition| partition % count == at)
            .for_each(|partition| assignment.put_i32(partition));
        let (member_id, assignment) = (member.member_id.clone(), assignment.freeze());
        assignments.push(SyncGroupRequestAssignment { member_id, assignment });
    }
    let request = SyncGroupRequest {
        group_id: ByteString::from_static(group),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        assignments,
        ..SyncGroupRequest::default()
    };
    let answer = connection.call(SYNC_VERSION, &request).await?;
    match answer.error_code {
        ErrorCode::None => {
            let (words, _) = answer.assignment.as_chunks::<4>();
            Ok(Some(words.iter().map(|word| i32::from_be_bytes(*word)).collect()))
        }
        ErrorCode::UnknownMemberId
        | ErrorCode::IllegalGeneration
        | ErrorCode::RebalanceInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => Ok(None),
        other => Err(wrong(format!("SyncGroup: {}", other.name()))),
    }
}

async fn heartbeat(
    connection: &mut Connection,
    group: &'static str,
    member: &Membership,
) -> io::Result<bool> {
    let request = HeartbeatRequest {
        group_id: ByteString::from_static(group),
        generation_id: member.1,
        member_id: member.0.clone(),
        ..HeartbeatRequest::default()
    };
    match connection.call(HEARTBEAT_VERSION, &request).await?.error_code {
        ErrorCode::None => Ok(true),
        ErrorCode::UnknownMemberId
        | ErrorCode::IllegalGeneration
        | ErrorCode::RebalanceInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => Ok(false),
        other => Err(wrong(format!("Heartbeat: {}", other.name()))),
    }
}
