//! Groups: membership, offsets, administration.

use super::*;
use crate::wire::messages::delete_groups::DeleteGroupsRequest;
use crate::wire::messages::describe_groups::DescribeGroupsRequest;
use crate::wire::messages::find_coordinator::FindCoordinatorRequest;
use crate::wire::messages::heartbeat::HeartbeatRequest;
use crate::wire::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use crate::wire::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use crate::wire::messages::list_groups::ListGroupsRequest;
use crate::wire::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::wire::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use crate::wire::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic,
};
use crate::wire::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};

fn join(member_id: &str, instance: Option<&'static str>) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::from_static(b"topics") };
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        member_id: member_id.into(),
        group_instance_id: instance.map(Into::into),
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    }
}

fn sync(joined: &JoinGroupResponse, shares: &[(&str, &'static str)]) -> SyncGroupRequest {
    let share = |(member_id, share): &(&str, &'static str)| SyncGroupRequestAssignment {
        member_id: (*member_id).into(),
        assignment: Bytes::from_static(share.as_bytes()),
    };
    SyncGroupRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        assignments: shares.iter().map(share).collect(),
        ..Default::default()
    }
}

fn heartbeat(joined: &JoinGroupResponse) -> HeartbeatRequest {
    HeartbeatRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        ..Default::default()
    }
}

/// Joins as the only member there is.
async fn join_alone(talk: &mut Talk) -> JoinGroupResponse {
    let asked = talk.ask(9, &join("", None)).await;
    assert_eq!(asked.error_code, ErrorCode::MemberIdRequired);
    let joined = talk.ask(9, &join(&asked.member_id, None)).await;
    assert_eq!((joined.error_code, &joined.leader), (ErrorCode::None, &joined.member_id));
    joined
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_the_work() {
    let world = World::new();
    let (mut one, mut two) = (world.connect(), world.connect());
    let first = join_alone(&mut one).await;
    assert_eq!(first.protocol_name.as_deref(), Some("range"));
    assert_eq!(first.members[0].metadata, "topics");
    let synced = one.ask(5, &sync(&first, &[(&first.member_id, "all")])).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (ErrorCode::None, &b"all"[..]));

    // The second one waits until the first one has heard of it and joined again.
    let asked = two.ask(9, &join("", None)).await;
    two.send(9, &join(&asked.member_id, None)).await.unwrap();
    while one.ask(4, &heartbeat(&first)).await.error_code != ErrorCode::RebalanceInProgress {
        tokio::task::yield_now().await;
    }
    let leader = one.ask(9, &join(&first.member_id, None)).await;
    let (_, follower) = two.response::<JoinGroupRequest>(9).await.unwrap();
    assert_eq!(
        (leader.generation_id, follower.generation_id),
        (first.generation_id + 1, leader.generation_id)
    );
    assert_eq!((leader.members.len(), follower.members.len()), (2, 0));
    two.send(5, &sync(&follower, &[])).await.unwrap();
    let shares = [(&*leader.member_id, "a"), (&*follower.member_id, "b")];
    assert_eq!(one.ask(5, &sync(&leader, &shares)).await.assignment, "a");
    assert_eq!(two.response::<SyncGroupRequest>(5).await.unwrap().1.assignment, "b");

    let describe = DescribeGroupsRequest { groups: vec!["g".into()], ..Default::default() };
    let group = one.ask(6, &describe).await.groups.remove(0);
    assert_eq!((&*group.group_state, &*group.protocol_data), ("Stable", "range"));
    let hosts: Vec<_> =
        group.members.iter().map(|member| (&*member.client_id, &*member.client_host)).collect();
    assert_eq!(hosts, [("test", "/127.0.0.1"); 2]);

    // Wrong generation, wrong member, wrong protocol.
    let stale = HeartbeatRequest { generation_id: 99, ..heartbeat(&leader) };
    assert_eq!(one.ask(4, &stale).await.error_code, ErrorCode::IllegalGeneration);
    let stranger = HeartbeatRequest { member_id: "nobody".into(), ..heartbeat(&leader) };
    assert_eq!(one.ask(4, &stranger).await.error_code, ErrorCode::UnknownMemberId);
    let other = SyncGroupRequest { protocol_name: Some("sticky".into()), ..sync(&leader, &[]) };
    assert_eq!(one.ask(5, &other).await.error_code, ErrorCode::InconsistentGroupProtocol);

    let identity =
        |member_id: &ByteString| MemberIdentity { member_id: member_id.clone(), ..Default::default() };
    let members = vec![identity(&follower.member_id), identity(&"nobody".into())];
    let left = one.ask(5, &LeaveGroupRequest { group_id: "g".into(), members, ..Default::default() }).await;
    let errors: Vec<_> = left.members.iter().map(|member| member.error_code).collect();
    assert_eq!(errors, [ErrorCode::None, ErrorCode::UnknownMemberId]);
    let leave =
        LeaveGroupRequest { group_id: "g".into(), member_id: leader.member_id.clone(), ..Default::default() };
    assert_eq!(one.ask(2, &leave).await.error_code, ErrorCode::None);
    assert_eq!(one.ask(2, &leave).await.error_code, ErrorCode::UnknownMemberId);
}

/// KIP-345.
#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_comes_back_and_fences_its_former_self() {
    let world = World::new();
    let mut talk = world.connect();
    let first = talk.ask(9, &join("", Some("i"))).await;
    assert_eq!(first.error_code, ErrorCode::None, "a static member needs no id first");
    talk.ask(5, &SyncGroupRequest { group_instance_id: Some("i".into()), ..sync(&first, &[]) }).await;
    let second = talk.ask(9, &join("", Some("i"))).await;
    assert_eq!((second.error_code, second.generation_id), (ErrorCode::None, first.generation_id));
    assert_ne!(first.member_id, second.member_id);
    let old = HeartbeatRequest { group_instance_id: Some("i".into()), ..heartbeat(&first) };
    assert_eq!(talk.ask(4, &old).await.error_code, ErrorCode::FencedInstanceId);
    let new = HeartbeatRequest { group_instance_id: Some("i".into()), ..heartbeat(&second) };
    assert_eq!(talk.ask(4, &new).await.error_code, ErrorCode::None);
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_that_are_refused() {
    let world = World::new();
    let mut talk = world.connect();
    let mut wide = join("", None);
    wide.protocols[0].metadata = vec![0; world.broker.limits().group_metadata_bytes_max + 1].into();
    for (request, expect) in [
        (JoinGroupRequest { group_id: "".into(), ..join("", None) }, ErrorCode::InvalidGroupId),
        (JoinGroupRequest { session_timeout_ms: 1, ..join("", None) }, ErrorCode::InvalidSessionTimeout),
        (JoinGroupRequest { session_timeout_ms: -1, ..join("", None) }, ErrorCode::InvalidSessionTimeout),
        (JoinGroupRequest { protocols: Vec::new(), ..join("", None) }, ErrorCode::InconsistentGroupProtocol),
        (join("nobody", None), ErrorCode::UnknownMemberId),
        (wide, ErrorCode::InvalidRequest),
    ] {
        let response = talk.ask(9, &request).await;
        assert_eq!((response.error_code, response.generation_id), (expect, -1));
    }
    // Before version 4 nobody has to come twice.
    assert_eq!(talk.ask(3, &join("", None)).await.error_code, ErrorCode::None);
}

fn commit(partitions: &[(i32, i64, &str)]) -> OffsetCommitRequest {
    let partition = |(index, offset, metadata): &(i32, i64, &str)| OffsetCommitRequestPartition {
        partition_index: *index,
        committed_offset: *offset,
        committed_leader_epoch: 3,
        committed_metadata: Some((*metadata).into()),
    };
    let partitions = partitions.iter().map(partition).collect();
    let topics = vec![OffsetCommitRequestTopic { name: "t".into(), partitions }];
    OffsetCommitRequest { group_id: "g".into(), topics, ..Default::default() }
}

async fn commit_errors(talk: &mut Talk, request: &OffsetCommitRequest) -> Vec<ErrorCode> {
    let response = talk.ask(9, request).await;
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| partition.error_code).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_kept_with_epoch_and_metadata() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 2, &[]).await;
    let long = "x".repeat(4097);
    let request = commit(&[(0, 42, "note"), (1, 7, &long), (2, 1, ""), (1, -5, "")]);
    let expect = [
        ErrorCode::None,
        ErrorCode::OffsetMetadataTooLarge,
        ErrorCode::UnknownTopicOrPartition,
        ErrorCode::InvalidRequest,
    ];
    assert_eq!(commit_errors(&mut talk, &request).await, expect);

    let topic = OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0, 1] };
    let nowhere = OffsetFetchRequestTopic { name: "nowhere".into(), partition_indexes: vec![0] };
    let topics = Some(vec![topic, nowhere]);
    for version in 1..=9 {
        let group =
            OffsetFetchRequestGroup { group_id: "g".into(), topics: topics.clone(), ..Default::default() };
        let request = match version {
            8.. => OffsetFetchRequest { groups: vec![group], ..Default::default() },
            _ => OffsetFetchRequest { group_id: "g".into(), topics: topics.clone(), ..Default::default() },
        };
        let mut response = talk.ask(version, &request).await;
        let topics = if version >= 8 { response.groups.remove(0).topics } else { response.topics };
        let found = topics.iter().flat_map(|topic| &topic.partitions);
        let found: Vec<_> = found.map(|p| (p.committed_offset, p.metadata.as_deref().unwrap())).collect();
        assert_eq!(found, [(42, "note"), (-1, ""), (-1, "")], "version {version}");
        let epoch = if version >= 5 { 3 } else { -1 };
        assert_eq!(topics[0].partitions[0].committed_leader_epoch, epoch);
    }
    let all = OffsetFetchRequestGroup { group_id: "g".into(), ..Default::default() };
    let empty = OffsetFetchRequestGroup { group_id: "none".into(), ..Default::default() };
    let response = talk.ask(9, &OffsetFetchRequest { groups: vec![all, empty], ..Default::default() }).await;
    assert_eq!((response.groups[0].topics.len(), response.groups[1].topics.len()), (1, 0));
    assert_eq!(response.groups[0].topics[0].partitions.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_commit() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[]).await;
    let one = commit(&[(0, 1, "")]);
    let of = |member_id: &ByteString, generation| OffsetCommitRequest {
        member_id: member_id.clone(),
        generation_id_or_member_epoch: generation,
        ..one.clone()
    };
    assert_eq!(commit_errors(&mut talk, &of(&"nobody".into(), 1)).await, [ErrorCode::UnknownMemberId]);
    let joined = join_alone(&mut talk).await;
    let (member, generation) = (&joined.member_id, joined.generation_id);
    assert_eq!(commit_errors(&mut talk, &of(member, generation)).await, [ErrorCode::RebalanceInProgress]);
    talk.ask(5, &sync(&joined, &[])).await;
    assert_eq!(commit_errors(&mut talk, &of(member, generation)).await, [ErrorCode::None]);
    assert_eq!(commit_errors(&mut talk, &of(member, generation + 1)).await, [ErrorCode::IllegalGeneration]);
    assert_eq!(commit_errors(&mut talk, &one).await, [ErrorCode::UnknownMemberId]);
    let nameless = OffsetCommitRequest { group_id: "".into(), ..one.clone() };
    assert_eq!(commit_errors(&mut talk, &nameless).await, [ErrorCode::InvalidGroupId]);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_listed_and_deleted() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[]).await;
    assert_eq!(commit_errors(&mut talk, &commit(&[(0, 1, "")])).await, [ErrorCode::None]);
    for (states, types, expect) in [
        (&[][..], &[][..], 1),
        (&["Empty"], &[], 1),
        (&["stable", "empty"], &["Classic"], 1),
        (&["Stable"], &[], 0),
        (&[], &["consumer"], 0),
    ] {
        let names = |names: &[&'static str]| names.iter().map(|name| (*name).into()).collect();
        let request = ListGroupsRequest { states_filter: names(states), types_filter: names(types) };
        let response = talk.ask(5, &request).await;
        assert_eq!(response.groups.len(), expect, "{states:?} {types:?}");
    }
    let partitions = vec![OffsetDeleteRequestPartition { partition_index: 0 }];
    let topics = vec![OffsetDeleteRequestTopic { name: "t".into(), partitions }];
    let delete = |group: &'static str| OffsetDeleteRequest { group_id: group.into(), topics: topics.clone() };
    assert_eq!(talk.ask(0, &delete("none")).await.error_code, ErrorCode::GroupIdNotFound);
    assert_eq!(talk.ask(0, &delete("g")).await.error_code, ErrorCode::None);

    assert_eq!(commit_errors(&mut talk, &commit(&[(0, 1, "")])).await, [ErrorCode::None]);
    let delete = DeleteGroupsRequest { groups_names: vec!["g".into(), "none".into(), "".into()] };
    let errors = |response: crate::wire::messages::delete_groups::DeleteGroupsResponse| {
        response.results.into_iter().map(|result| result.error_code).collect::<Vec<_>>()
    };
    let expect = [ErrorCode::None, ErrorCode::GroupIdNotFound, ErrorCode::InvalidGroupId];
    assert_eq!(errors(talk.ask(2, &delete).await), expect);
    join_alone(&mut talk).await;
    assert_eq!(errors(talk.ask(2, &delete).await)[0], ErrorCode::NonEmptyGroup);

    let describe = DescribeGroupsRequest { groups: vec!["none".into()], ..Default::default() };
    for (version, expect) in [(5, ErrorCode::None), (6, ErrorCode::GroupIdNotFound)] {
        let group = talk.ask(version, &describe).await.groups.remove(0);
        assert_eq!((group.error_code, &*group.group_state), (expect, "Dead"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn this_broker_coordinates_everything() {
    let world = World::new();
    let mut talk = world.connect();
    for version in 0..=3 {
        let response =
            talk.ask(version, &FindCoordinatorRequest { key: "g".into(), ..Default::default() }).await;
        assert_eq!((response.error_code, response.node_id), (ErrorCode::None, 1));
        assert_eq!((&*response.host, response.port), ("kafka.test", 9999));
    }
    for (key_type, expect) in [
        (0, [ErrorCode::None, ErrorCode::InvalidGroupId]),
        (1, [ErrorCode::TransactionalIdAuthorizationFailed; 2]),
        (2, [ErrorCode::InvalidRequest; 2]),
    ] {
        let coordinator_keys = vec!["g".into(), "".into()];
        let request = FindCoordinatorRequest { key_type, coordinator_keys, ..Default::default() };
        let response = talk.ask(6, &request).await;
        let errors: Vec<_> = response.coordinators.iter().map(|found| found.error_code).collect();
        assert_eq!(errors, expect);
    }
}
