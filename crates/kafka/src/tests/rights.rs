//! Who may do what: every API times every person has a stated answer. An API that `exchange` does not know is
//! no match for the compiler, one without a row fails.

use super::*;
use crate::wire::messages::{
    alter_configs::{self, AlterConfigsRequest},
    api_versions::ApiVersionsRequest,
    create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic},
    delete_groups::DeleteGroupsRequest,
    delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic},
    delete_topics::{DeleteTopicState, DeleteTopicsRequest},
    describe_cluster::DescribeClusterRequest,
    describe_configs::{DescribeConfigsRequest, DescribeConfigsResource},
    describe_groups::DescribeGroupsRequest,
    describe_topic_partitions::{DescribeTopicPartitionsRequest, TopicRequest},
    fetch::{FetchPartition, FetchRequest, FetchTopic},
    find_coordinator::FindCoordinatorRequest,
    heartbeat::HeartbeatRequest,
    incremental_alter_configs::{self, IncrementalAlterConfigsRequest},
    init_producer_id::InitProducerIdRequest,
    join_group::{JoinGroupRequest, JoinGroupRequestProtocol},
    leave_group::LeaveGroupRequest,
    list_groups::ListGroupsRequest,
    list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
    metadata::{MetadataRequest, MetadataRequestTopic},
    offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_delete::{OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic},
    offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic},
    offset_for_leader_epoch::{OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic},
    sasl_authenticate::SaslAuthenticateRequest,
    sasl_handshake::SaslHandshakeRequest,
    sync_group::SyncGroupRequest,
};
use crate::wire::{ApiKey, SUPPORTED};
use posthaste_engine::catalog::{Action, Permission, Resource, User};
use posthaste_engine::event::CommittedOffset;
use posthaste_model::Timestamp;

const PERSONS: [&str; 6] = ["owner", "reader", "writer", "stranger", "revoked", "tenant"];

const NONE: ErrorCode = ErrorCode::None;
const TOPIC: ErrorCode = ErrorCode::TopicAuthorizationFailed;
const GROUP: ErrorCode = ErrorCode::GroupAuthorizationFailed;
const CLUSTER: ErrorCode = ErrorCode::ClusterAuthorizationFailed;
/// Let in, as far as rights go.
const MEMBER: ErrorCode = ErrorCode::UnknownMemberId;
const JOIN: ErrorCode = ErrorCode::MemberIdRequired;
const SASL: ErrorCode = ErrorCode::IllegalSaslState;

/// An API, what is asked for, and the error for each person. The owner may do everything with `mine*` of each
/// kind, the reader only read, the writer only write. A stranger's permissions match nothing; the revoked one
/// was an owner until after it had logged in; the tenant is an owner, but of another namespace.
const TABLE: &[(ApiKey, &str, [ErrorCode; 6])] = &[
    (ApiKey::Produce, "mine", [NONE, TOPIC, NONE, TOPIC, TOPIC, TOPIC]),
    (ApiKey::Produce, "secret", [TOPIC; 6]),
    (ApiKey::Fetch, "mine", [NONE, NONE, TOPIC, TOPIC, TOPIC, TOPIC]),
    (ApiKey::Fetch, "secret", [TOPIC; 6]),
    (ApiKey::ListOffsets, "mine at its end", [NONE, NONE, NONE, TOPIC, TOPIC, TOPIC]),
    (ApiKey::ListOffsets, "mine by time", [NONE, NONE, TOPIC, TOPIC, TOPIC, TOPIC]),
    (ApiKey::Metadata, "mine", [NONE, NONE, NONE, TOPIC, TOPIC, TOPIC]),
    (ApiKey::Metadata, "secret", [TOPIC; 6]),
    // To be created because somebody asked.
    (ApiKey::Metadata, "mine.auto", [NONE, NONE, NONE, TOPIC, TOPIC, TOPIC]),
    (ApiKey::OffsetCommit, "mine", [NONE, NONE, TOPIC, TOPIC, TOPIC, TOPIC]),
    (ApiKey::OffsetCommit, "secret", [TOPIC; 6]),
    (ApiKey::OffsetCommit, "mine in group secret", [GROUP, GROUP, TOPIC, TOPIC, TOPIC, TOPIC]),
    (ApiKey::OffsetFetch, "mine", [NONE, NONE, GROUP, GROUP, GROUP, GROUP]),
    (ApiKey::OffsetFetch, "secret", [TOPIC, TOPIC, GROUP, GROUP, GROUP, GROUP]),
    (ApiKey::FindCoordinator, "mine", [NONE, NONE, NONE, GROUP, GROUP, GROUP]),
    (ApiKey::JoinGroup, "mine.join", [JOIN, JOIN, GROUP, GROUP, GROUP, GROUP]),
    (ApiKey::Heartbeat, "mine", [MEMBER, MEMBER, GROUP, GROUP, GROUP, GROUP]),
    (ApiKey::LeaveGroup, "mine", [MEMBER, MEMBER, GROUP, GROUP, GROUP, GROUP]),
    (ApiKey::SyncGroup, "mine", [MEMBER, MEMBER, GROUP, GROUP, GROUP, GROUP]),
    (ApiKey::DescribeGroups, "mine", [NONE, NONE, GROUP, GROUP, GROUP, GROUP]),
    // Holds the groups that one sees: below.
    (ApiKey::ListGroups, "", [NONE; 6]),
    // Who is logged in does not log in again.
    (ApiKey::SaslHandshake, "", [SASL; 6]),
    (ApiKey::SaslAuthenticate, "", [SASL; 6]),
    (ApiKey::ApiVersions, "", [NONE; 6]),
    (ApiKey::CreateTopics, "mine.new", [NONE, TOPIC, TOPIC, TOPIC, TOPIC, TOPIC]),
    (ApiKey::CreateTopics, "secret", [TOPIC; 6]),
    (ApiKey::DeleteTopics, "mine", [NONE, TOPIC, TOPIC, TOPIC, TOPIC, TOPIC]),
    (ApiKey::DeleteTopics, "secret", [TOPIC; 6]),
    (ApiKey::DeleteRecords, "mine", [NONE, TOPIC, TOPIC, TOPIC, TOPIC, TOPIC]),
    (ApiKey::InitProducerId, "", [NONE; 6]),
    (ApiKey::OffsetForLeaderEpoch, "mine", [NONE, NONE, NONE, TOPIC, TOPIC, TOPIC]),
    (ApiKey::DescribeConfigs, "mine", [NONE, NONE, NONE, TOPIC, TOPIC, TOPIC]),
    (ApiKey::DescribeConfigs, "the broker", [CLUSTER; 6]),
    (ApiKey::AlterConfigs, "mine", [NONE, TOPIC, TOPIC, TOPIC, TOPIC, TOPIC]),
    (ApiKey::CreatePartitions, "mine", [NONE, TOPIC, TOPIC, TOPIC, TOPIC, TOPIC]),
    (ApiKey::DeleteGroups, "mine", [NONE, GROUP, GROUP, GROUP, GROUP, GROUP]),
    (ApiKey::IncrementalAlterConfigs, "mine", [NONE, TOPIC, TOPIC, TOPIC, TOPIC, TOPIC]),
    (ApiKey::OffsetDelete, "mine", [NONE, GROUP, GROUP, GROUP, GROUP, GROUP]),
    (ApiKey::DescribeCluster, "", [NONE; 6]),
    (ApiKey::DescribeTopicPartitions, "mine", [NONE, NONE, NONE, TOPIC, TOPIC, TOPIC]),
    (ApiKey::DescribeTopicPartitions, "secret", [TOPIC; 6]),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_api_by_every_person() {
    for range in SUPPORTED {
        assert!(TABLE.iter().any(|(api, ..)| *api == range.key), "{} has no row", range.key.name());
    }
    let world = world().await;
    for (api, what, answers) in TABLE {
        for (person, expect) in PERSONS.into_iter().zip(*answers) {
            reset(&world).await;
            let mut talk = log_in(&world, person).await;
            let code = exchange(&mut talk, *api, what).await;
            assert_eq!(code, Some(expect), "{person}: {} {what}", api.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_hold_what_the_person_sees() {
    let world = world().await;
    reset(&world).await;
    for (person, topics, groups) in [
        ("owner", true, true),
        ("reader", true, true),
        ("writer", true, false),
        ("stranger", false, false),
        ("revoked", false, false),
        ("tenant", false, false),
    ] {
        let mut talk = log_in(&world, person).await;
        let expect = |sees: bool| if sees { vec!["mine"] } else { Vec::new() };
        let all = talk.ask(9, &MetadataRequest { topics: None, ..Default::default() }).await;
        let names: Vec<_> = all.topics.iter().filter_map(|topic| topic.name.as_deref()).collect();
        assert_eq!(names, expect(topics), "{person}");
        let all = talk.ask(0, &DescribeTopicPartitionsRequest::default()).await;
        let names: Vec<_> = all.topics.iter().filter_map(|topic| topic.name.as_deref()).collect();
        assert_eq!(names, expect(topics), "{person}");
        let all = talk.ask(5, &ListGroupsRequest::default()).await;
        let names: Vec<_> = all.groups.iter().map(|group| &*group.group_id).collect();
        assert_eq!(names, expect(groups), "{person}");
        // All that the group has, but for topics that the person does not see.
        let group = OffsetFetchRequestGroup { group_id: "mine".into(), topics: None, ..Default::default() };
        let all = talk.ask(9, &OffsetFetchRequest { groups: vec![group], ..Default::default() }).await;
        let names: Vec<_> = all.groups[0].topics.iter().map(|topic| &*topic.name).collect();
        assert_eq!(names, expect(groups), "{person}");
        // The id of a topic is as much as its name.
        let delete = DeleteTopicState { name: Some("secret".into()), ..Default::default() };
        let deleted = talk.ask(6, &DeleteTopicsRequest { topics: vec![delete], ..Default::default() }).await;
        assert!(deleted.responses[0].topic_id.is_zero(), "{person}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_afar_nobody_is_let_in_without_a_user_of_its_own() {
    let world = world().await;
    // Known by now, so that no failure has to be waited for.
    log_in(&world, "guest").await;
    for (api, what, _) in TABLE {
        let mut talk = world.connect_from("203.0.113.7:5000");
        let code = exchange(&mut talk, *api, what).await;
        let expect = match api {
            ApiKey::ApiVersions | ApiKey::SaslHandshake => Some(NONE),
            ApiKey::SaslAuthenticate => Some(SASL),
            // The connection is closed.
            _ => None,
        };
        assert_eq!(code, expect, "{} {what}", api.name());
    }
    let mut talk = world.connect_from("203.0.113.7:5000");
    talk.ask(1, &SaslHandshakeRequest { mechanism: "PLAIN".into() }).await;
    let refused = put(&mut talk, 2, plain("guest"), |r| r.error_code).await;
    assert_eq!(refused, Some(ErrorCode::SaslAuthenticationFailed));
}

/// A broker with all persons, and topics that are nobody's.
async fn world() -> World {
    let world = World::new();
    let admin = admin(&world);
    admin.create_namespace(&Name::constant("other")).await.unwrap();
    admin.create_topic(&Name::constant("secret"), 1, Default::default()).await.unwrap();
    let all = &[Action::Configure, Action::Read, Action::Write];
    for (person, namespace, name, actions) in [
        ("owner", "*", "mine*", &all[..]),
        ("reader", "*", "mine*", &all[1..2]),
        ("writer", "*", "mine*", &all[2..]),
        ("stranger", "*", "nothing*", all),
        ("tenant", "other", "*", all),
    ] {
        set(&world, person, namespace, name, actions).await;
    }
    world
}

fn admin(world: &World) -> Client {
    world.broker.system_client("test", Name::constant("default"), world.broker.next_connection())
}

/// A user with the first user's password and one permission.
async fn set(world: &World, person: &str, namespace: &str, name: &str, actions: &[Action]) {
    let guest = User::clone(world.broker.catalog().user("guest").unwrap());
    let permission = Permission { resource: None, ..Permission::allow(actions, Resource::Topic, name) };
    let permission = if namespace == "*" { permission } else { permission.within(namespace) };
    let user = User {
        name: Name::new(person).unwrap(),
        administrator: false,
        permissions: vec![permission],
        ..guest
    };
    admin(world).put_user(user).await.unwrap();
}

/// Restores the objects that each request finds, whatever the last one did.
async fn reset(world: &World) {
    let admin = admin(world);
    // It is there already, or it is not.
    let _ = admin.create_topic(&Name::constant("mine"), 1, Default::default()).await;
    let offset = |topic: &str| CommittedOffset {
        topic: admin.topic(topic).unwrap().id,
        partition: 0,
        offset: 0,
        epoch: -1,
        metadata: String::new(),
        committed: Timestamp(0),
    };
    let group = Name::constant("mine");
    admin.commit_offsets(&group, None, vec![offset("mine"), offset("secret")]).await.unwrap();
}

fn plain(user: &str) -> SaslAuthenticateRequest {
    SaslAuthenticateRequest { auth_bytes: format!("\0{user}\0guest").into() }
}

/// A connection of a person; the revoked one has lost its rights since.
async fn log_in(world: &World, person: &str) -> Talk {
    let all = &[Action::Configure, Action::Read, Action::Write];
    if person == "revoked" {
        set(world, person, "*", "mine*", all).await;
    }
    let mut talk = world.connect();
    talk.ask(1, &SaslHandshakeRequest { mechanism: "PLAIN".into() }).await;
    assert_eq!(talk.ask(2, &plain(person)).await.error_code, NONE, "{person}");
    if person == "revoked" {
        assert_eq!(exchange(&mut talk, ApiKey::Fetch, "mine").await, Some(NONE));
        set(world, person, "*", "nothing*", all).await;
    }
    talk
}

/// Asks, and takes the error out of the response. None when the connection ends.
async fn put<R: RequestBody>(
    talk: &mut Talk,
    version: i16,
    request: R,
    code: impl FnOnce(R::Response) -> ErrorCode,
) -> Option<ErrorCode> {
    // An answer may come before the end.
    let sent = talk.send(version, &request).await;
    if sent.is_err() {
        let frame = talk.written()?;
        return Some(code(decode_response::<R::Response>(frame, version).unwrap().1));
    }
    talk.response::<R>(version).await.ok().map(|(_, response)| code(response))
}

/// Asks one API, by whatever version names the object. `what` begins with the name of a topic or group.
async fn exchange(t: &mut Talk, api: ApiKey, what: &'static str) -> Option<ErrorCode> {
    use ApiKey as A;
    let name = what.split(' ').next().unwrap();
    let group = if what.ends_with("group secret") { "secret" } else { "mine" };
    match api {
        A::Produce => {
            put(t, 9, produce(name, 0, -1, batch(&["x"])), |r| {
                r.responses[0].partition_responses[0].error_code
            })
            .await
        }
        A::Fetch => put(t, 12, fetch(name), |r| r.responses[0].partitions[0].error_code).await,
        A::ListOffsets => put(t, 7, list_offsets(name, what), |r| r.topics[0].partitions[0].error_code).await,
        A::Metadata => put(t, 9, metadata(name), |r| r.topics[0].error_code).await,
        A::OffsetCommit => put(t, 9, commit(group, name), |r| r.topics[0].partitions[0].error_code).await,
        A::OffsetFetch => {
            put(t, 9, offset_fetch(name), |mut r| {
                let group = r.groups.remove(0);
                group.topics.first().map_or(group.error_code, |topic| topic.partitions[0].error_code)
            })
            .await
        }
        A::FindCoordinator => put(t, 4, find_coordinator(name), |r| r.coordinators[0].error_code).await,
        A::JoinGroup => put(t, 9, join(name), |r| r.error_code).await,
        A::Heartbeat => put(t, 4, heartbeat(name), |r| r.error_code).await,
        A::LeaveGroup => put(t, 2, leave(name), |r| r.error_code).await,
        A::SyncGroup => put(t, 5, sync(name), |r| r.error_code).await,
        A::DescribeGroups => put(t, 6, describe_groups(name), |r| r.groups[0].error_code).await,
        A::ListGroups => put(t, 5, ListGroupsRequest::default(), |r| r.error_code).await,
        A::SaslHandshake => {
            put(t, 1, SaslHandshakeRequest { mechanism: "PLAIN".into() }, |r| r.error_code).await
        }
        A::SaslAuthenticate => put(t, 2, plain("owner"), |r| r.error_code).await,
        A::ApiVersions => put(t, 3, api_versions(), |r| r.error_code).await,
        A::CreateTopics => put(t, 7, create_topics(name), |r| r.topics[0].error_code).await,
        A::DeleteTopics => put(t, 6, delete_topics(name), |r| r.responses[0].error_code).await,
        A::DeleteRecords => put(t, 2, delete_records(name), |r| r.topics[0].partitions[0].error_code).await,
        A::InitProducerId => put(t, 4, InitProducerIdRequest::default(), |r| r.error_code).await,
        A::OffsetForLeaderEpoch => {
            put(t, 4, leader_epoch(name), |r| r.topics[0].partitions[0].error_code).await
        }
        A::DescribeConfigs => put(t, 4, describe_configs(name), |r| r.results[0].error_code).await,
        A::AlterConfigs => put(t, 2, alter(name), |r| r.responses[0].error_code).await,
        A::CreatePartitions => put(t, 3, create_partitions(name), |r| r.results[0].error_code).await,
        A::DeleteGroups => put(t, 2, delete_groups(name), |r| r.results[0].error_code).await,
        A::IncrementalAlterConfigs => {
            put(t, 1, alter_incrementally(name), |r| r.responses[0].error_code).await
        }
        A::OffsetDelete => put(t, 0, offset_delete(name), |r| r.error_code).await,
        A::DescribeCluster => {
            put(t, 1, DescribeClusterRequest { endpoint_type: 1, ..Default::default() }, |r| r.error_code)
                .await
        }
        A::DescribeTopicPartitions => put(t, 0, describe_partitions(name), |r| r.topics[0].error_code).await,
    }
}

fn fetch(topic: &'static str) -> FetchRequest {
    let partition = FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = FetchTopic { topic: topic.into(), partitions: vec![partition], ..Default::default() };
    FetchRequest { topics: vec![topic], ..Default::default() }
}

fn list_offsets(topic: &'static str, what: &str) -> ListOffsetsRequest {
    let timestamp = if what.ends_with("by time") { 1 } else { -1 };
    let partition = ListOffsetsPartition { timestamp, ..Default::default() };
    let topic = ListOffsetsTopic { name: topic.into(), partitions: vec![partition] };
    ListOffsetsRequest { topics: vec![topic], ..Default::default() }
}

fn metadata(topic: &'static str) -> MetadataRequest {
    let topic = MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
    MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: true, ..Default::default() }
}

fn commit(group: &'static str, topic: &'static str) -> OffsetCommitRequest {
    let partitions = vec![OffsetCommitRequestPartition::default()];
    let topics = vec![OffsetCommitRequestTopic { name: topic.into(), partitions }];
    OffsetCommitRequest { group_id: group.into(), topics, ..Default::default() }
}

fn offset_fetch(topic: &'static str) -> OffsetFetchRequest {
    let topics = Some(vec![OffsetFetchRequestTopic { name: topic.into(), partition_indexes: vec![0] }]);
    let group = OffsetFetchRequestGroup { group_id: "mine".into(), topics, ..Default::default() };
    OffsetFetchRequest { groups: vec![group], ..Default::default() }
}

fn find_coordinator(group: &'static str) -> FindCoordinatorRequest {
    FindCoordinatorRequest { coordinator_keys: vec![group.into()], ..Default::default() }
}

fn join(group: &'static str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::new() }],
        ..Default::default()
    }
}

fn heartbeat(group: &'static str) -> HeartbeatRequest {
    HeartbeatRequest { group_id: group.into(), member_id: "nobody".into(), ..Default::default() }
}

fn leave(group: &'static str) -> LeaveGroupRequest {
    LeaveGroupRequest { group_id: group.into(), member_id: "nobody".into(), ..Default::default() }
}

fn sync(group: &'static str) -> SyncGroupRequest {
    SyncGroupRequest { group_id: group.into(), member_id: "nobody".into(), ..Default::default() }
}

fn describe_groups(group: &'static str) -> DescribeGroupsRequest {
    DescribeGroupsRequest { groups: vec![group.into()], ..Default::default() }
}

fn api_versions() -> ApiVersionsRequest {
    ApiVersionsRequest { client_software_name: "test".into(), client_software_version: "1".into() }
}

fn create_topics(topic: &'static str) -> CreateTopicsRequest {
    let topic =
        CreatableTopic { name: topic.into(), num_partitions: 1, replication_factor: 1, ..Default::default() };
    CreateTopicsRequest { topics: vec![topic], validate_only: true, ..Default::default() }
}

fn delete_topics(topic: &'static str) -> DeleteTopicsRequest {
    let topic = DeleteTopicState { name: Some(topic.into()), ..Default::default() };
    DeleteTopicsRequest { topics: vec![topic], ..Default::default() }
}

fn delete_records(topic: &'static str) -> DeleteRecordsRequest {
    let partitions = vec![DeleteRecordsPartition::default()];
    let topics = vec![DeleteRecordsTopic { name: topic.into(), partitions }];
    DeleteRecordsRequest { topics, ..Default::default() }
}

fn leader_epoch(topic: &'static str) -> OffsetForLeaderEpochRequest {
    let partitions = vec![OffsetForLeaderPartition::default()];
    let topics = vec![OffsetForLeaderTopic { topic: topic.into(), partitions }];
    OffsetForLeaderEpochRequest { topics, ..Default::default() }
}

fn describe_configs(name: &'static str) -> DescribeConfigsRequest {
    let (resource_type, resource_name) = if name == "the" { (4, "0".into()) } else { (2, name.into()) };
    let resource = DescribeConfigsResource { resource_type, resource_name, ..Default::default() };
    DescribeConfigsRequest { resources: vec![resource], ..Default::default() }
}

fn alter(topic: &'static str) -> AlterConfigsRequest {
    let resource = alter_configs::AlterConfigsResource {
        resource_type: 2,
        resource_name: topic.into(),
        ..Default::default()
    };
    AlterConfigsRequest { resources: vec![resource], validate_only: true }
}

fn alter_incrementally(topic: &'static str) -> IncrementalAlterConfigsRequest {
    let resource = incremental_alter_configs::AlterConfigsResource {
        resource_type: 2,
        resource_name: topic.into(),
        ..Default::default()
    };
    IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: true }
}

fn create_partitions(topic: &'static str) -> CreatePartitionsRequest {
    let topic = CreatePartitionsTopic { name: topic.into(), count: 2, assignments: None };
    CreatePartitionsRequest { topics: vec![topic], validate_only: true, ..Default::default() }
}

fn delete_groups(group: &'static str) -> DeleteGroupsRequest {
    DeleteGroupsRequest { groups_names: vec![group.into()] }
}

fn offset_delete(topic: &'static str) -> OffsetDeleteRequest {
    let partitions = vec![OffsetDeleteRequestPartition::default()];
    let topics = vec![OffsetDeleteRequestTopic { name: topic.into(), partitions }];
    OffsetDeleteRequest { group_id: "mine".into(), topics }
}

fn describe_partitions(topic: &'static str) -> DescribeTopicPartitionsRequest {
    let topics = vec![TopicRequest { name: topic.into() }];
    DescribeTopicPartitionsRequest { topics, ..Default::default() }
}
