//! Metadata, topics, settings.

use super::*;
use crate::wire::Uuid;
use crate::wire::messages::create_partitions::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsTopic,
};
use crate::wire::messages::create_topics::CreatableReplicaAssignment;
use crate::wire::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use crate::wire::messages::describe_cluster::DescribeClusterRequest;
use crate::wire::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResult,
};
use crate::wire::messages::describe_topic_partitions::{
    Cursor, DescribeTopicPartitionsRequest, TopicRequest,
};
use crate::wire::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponseTopic};
use crate::wire::messages::{alter_configs, incremental_alter_configs};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

async fn metadata(talk: &mut Talk, name: &'static str, create: bool) -> MetadataResponseTopic {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    let request = MetadataRequest {
        topics: Some(vec![topic]),
        allow_auto_topic_creation: create,
        ..Default::default()
    };
    talk.ask(12, &request).await.topics.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_names_the_broker_and_its_topics() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 3, &[]).await;
    let epoch = i32::try_from(world.broker.epoch()).unwrap();
    for version in 0..=13 {
        let request = MetadataRequest {
            topics: if version == 0 { Some(Vec::new()) } else { None },
            ..Default::default()
        };
        let response = talk.ask(version, &request).await;
        let broker = &response.brokers[0];
        assert_eq!((broker.node_id, &*broker.host, broker.port), (1, "kafka.test", 9999));
        if version >= 2 {
            assert_eq!(response.cluster_id.as_deref(), Some(world.broker.cluster_id()));
        }
        let topic = &response.topics[0];
        assert_eq!((topic.name.as_deref(), topic.partitions.len()), (Some("t"), 3));
        for (index, partition) in (0..).zip(&topic.partitions) {
            assert_eq!((partition.partition_index, partition.leader_id), (index, 1));
            assert_eq!((&partition.replica_nodes[..], &partition.isr_nodes[..]), (&[1][..], &[1][..]));
            assert_eq!(partition.leader_epoch, if version >= 7 { epoch } else { -1 });
        }
    }
    let nothing = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
    assert_eq!(talk.ask(12, &nothing).await.topics, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_created_when_somebody_asks_for_it() {
    let world = World::new();
    let mut talk = world.connect();
    assert_eq!(metadata(&mut talk, "t", false).await.error_code, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(metadata(&mut talk, "no good", true).await.error_code, ErrorCode::InvalidTopicException);
    let created = metadata(&mut talk, "t", true).await;
    assert_eq!((created.error_code, created.partitions.len()), (ErrorCode::None, 1));
    let found = metadata(&mut talk, "t", false).await;
    assert_eq!(found.topic_id, created.topic_id);
    for (topic_id, expect) in
        [(created.topic_id, ErrorCode::None), (Uuid([1; 16]), ErrorCode::UnknownTopicId)]
    {
        let topic = MetadataRequestTopic { topic_id, name: None };
        let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
        let topic = talk.ask(12, &request).await.topics.remove(0);
        assert_eq!((topic.error_code, topic.topic_id), (expect, topic_id));
    }
}

fn creatable(name: &'static str, num_partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic { name: name.into(), num_partitions, replication_factor, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_topics_can_be_created() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("there", 1, &[]).await;
    let assigned = |indexes: &[(i32, i32)]| CreatableTopic {
        assignments: indexes
            .iter()
            .map(|(partition_index, broker)| CreatableReplicaAssignment {
                partition_index: *partition_index,
                broker_ids: vec![*broker],
            })
            .collect(),
        ..creatable("assigned", -1, -1)
    };
    let with = |name: &'static str, value: &'static str| CreatableTopic {
        configs: vec![CreatableTopicConfig { name: name.into(), value: Some(value.into()) }],
        ..creatable("configured", 1, 1)
    };
    for (topic, version, expect) in [
        (creatable("a", 4, 1), 2, Ok(4)),
        (creatable("b", -1, -1), 4, Ok(1)),
        (creatable("c", -1, 1), 3, Err(ErrorCode::InvalidPartitions)),
        (creatable("c", 1, -1), 3, Err(ErrorCode::InvalidReplicationFactor)),
        (creatable("c", 0, 1), 7, Err(ErrorCode::InvalidPartitions)),
        (creatable("c", i32::MAX, 1), 7, Err(ErrorCode::InvalidPartitions)),
        (creatable("c", 1, 0), 7, Err(ErrorCode::InvalidReplicationFactor)),
        (creatable("c", 1, 3), 7, Err(ErrorCode::InvalidReplicationFactor)),
        (creatable("there", 1, 1), 7, Err(ErrorCode::TopicAlreadyExists)),
        (creatable("no good", 1, 1), 7, Err(ErrorCode::InvalidTopicException)),
        (with("retention.ms", "5"), 7, Ok(1)),
        (with("retention.ms", "soon"), 7, Err(ErrorCode::InvalidConfig)),
        (with("no.such", "5"), 7, Err(ErrorCode::InvalidConfig)),
        (assigned(&[(1, 1), (0, 1)]), 7, Ok(2)),
        (assigned(&[(0, 2)]), 7, Err(ErrorCode::InvalidReplicaAssignment)),
        (assigned(&[(0, 1), (2, 1)]), 7, Err(ErrorCode::InvalidReplicaAssignment)),
        (CreatableTopic { num_partitions: 2, ..assigned(&[(0, 1)]) }, 7, Err(ErrorCode::InvalidRequest)),
    ] {
        for validate_only in [true, false] {
            let request =
                CreateTopicsRequest { topics: vec![topic.clone()], validate_only, ..Default::default() };
            let created = talk.ask(version, &request).await.topics.remove(0);
            let expect_error = expect.err().unwrap_or(ErrorCode::None);
            assert_eq!(created.error_code, expect_error, "{topic:?}: {:?}", created.error_message);
            assert_eq!(created.error_message.is_some(), expect.is_err());
            let found = metadata(&mut talk, "assigned", false).await;
            assert!(!validate_only || topic.name != "assigned" || found.error_code.is_error());
        }
        if let Ok(partitions) = expect {
            let name = topic.name.clone();
            let wanted = MetadataRequestTopic { name: Some(name), ..Default::default() };
            let request = MetadataRequest { topics: Some(vec![wanted]), ..Default::default() };
            assert_eq!(talk.ask(12, &request).await.topics[0].partitions.len(), partitions);
            let delete = DeleteTopicsRequest { topic_names: vec![topic.name.clone()], ..Default::default() };
            assert_eq!(talk.ask(5, &delete).await.responses[0].error_code, ErrorCode::None);
        }
    }
    let twice = vec![creatable("twice", 1, 1), creatable("twice", 2, 1)];
    let response = talk.ask(7, &CreateTopicsRequest { topics: twice, ..Default::default() }).await;
    let errors: Vec<_> = response.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(errors, [ErrorCode::InvalidRequest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_deleted_by_name_and_by_id() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("a", 1, &[]).await;
    talk.create_topic("b", 1, &[]).await;
    let topic_id = metadata(&mut talk, "b", false).await.topic_id;
    let state =
        |name: Option<&'static str>, topic_id| DeleteTopicState { name: name.map(Into::into), topic_id };
    let topics = vec![
        state(Some("a"), Uuid::ZERO),
        state(None, topic_id),
        state(Some("a"), topic_id),
        state(Some("nowhere"), Uuid::ZERO),
        state(None, Uuid([9; 16])),
    ];
    let response = talk.ask(6, &DeleteTopicsRequest { topics, ..Default::default() }).await;
    let errors: Vec<_> = response.responses.iter().map(|deleted| deleted.error_code).collect();
    let expect = [
        ErrorCode::None,
        ErrorCode::None,
        ErrorCode::InvalidRequest,
        ErrorCode::UnknownTopicOrPartition,
        ErrorCode::UnknownTopicId,
    ];
    assert_eq!(errors, expect);
    assert_eq!(response.responses[1].name.as_deref(), Some("b"));
    // A new topic of the same name is another one.
    talk.create_topic("b", 1, &[]).await;
    assert_ne!(metadata(&mut talk, "b", false).await.topic_id, topic_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_added() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 2, &[]).await;
    let on = |broker| Some(vec![CreatePartitionsAssignment { broker_ids: vec![broker] }]);
    for (name, count, assignments, validate_only, expect) in [
        ("t", 3, None, true, ErrorCode::None),
        ("t", 3, None, false, ErrorCode::None),
        ("t", 3, None, false, ErrorCode::InvalidPartitions),
        ("t", 2, None, false, ErrorCode::InvalidPartitions),
        ("t", -1, None, false, ErrorCode::InvalidPartitions),
        ("t", i32::MAX, None, false, ErrorCode::InvalidPartitions),
        ("t", 4, on(2), false, ErrorCode::InvalidReplicaAssignment),
        ("t", 5, on(1), false, ErrorCode::InvalidReplicaAssignment),
        ("t", 4, on(1), false, ErrorCode::None),
        ("nowhere", 4, None, false, ErrorCode::UnknownTopicOrPartition),
    ] {
        let topic = CreatePartitionsTopic { name: name.into(), count, assignments };
        let request = CreatePartitionsRequest { topics: vec![topic], validate_only, ..Default::default() };
        let response = talk.ask(3, &request).await;
        assert_eq!(response.results[0].error_code, expect, "{name} {count}");
    }
    assert_eq!(metadata(&mut talk, "t", false).await.partitions.len(), 4);
    let appended = talk.produce("t", 3, batch(&["v0"])).await;
    assert_eq!(appended.error_code, ErrorCode::None);
}

async fn describe(talk: &mut Talk, resource_type: i8, name: &'static str) -> DescribeConfigsResult {
    let resource =
        DescribeConfigsResource { resource_type, resource_name: name.into(), ..Default::default() };
    let request = DescribeConfigsRequest {
        resources: vec![resource],
        include_synonyms: true,
        include_documentation: true,
    };
    talk.ask(4, &request).await.results.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_described_with_their_sources() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.ms", "5000")]).await;
    let topic = describe(&mut talk, TOPIC, "t").await;
    let config = |name: &str| topic.configs.iter().find(|config| config.name == *name).unwrap();
    let retention = config("retention.ms");
    assert_eq!((retention.value.as_deref(), retention.config_source), (Some("5000"), 1));
    let synonyms: Vec<_> =
        retention.synonyms.iter().map(|s| (&*s.name, s.value.as_deref().unwrap(), s.source)).collect();
    assert_eq!(synonyms, [("retention.ms", "5000", 1), ("log.retention.ms", "604800000", 5)]);
    let policy = config("cleanup.policy");
    assert_eq!((policy.value.as_deref(), policy.config_source, policy.config_type), (Some("delete"), 5, 7));
    assert!(topic.configs.iter().all(|config| config.documentation.is_some() && config.value.is_some()));

    let broker = describe(&mut talk, BROKER, "1").await;
    for (name, expect) in
        [("message.max.bytes", "1048588"), ("num.partitions", "1"), ("log.retention.ms", "604800000")]
    {
        let config = broker.configs.iter().find(|config| config.name == *name).unwrap();
        assert_eq!((config.value.as_deref(), config.read_only), (Some(expect), true));
    }
    for (resource_type, name, expect) in [
        (TOPIC, "nowhere", ErrorCode::UnknownTopicOrPartition),
        (BROKER, "", ErrorCode::None),
        (BROKER, "7", ErrorCode::InvalidRequest),
        (8, "1", ErrorCode::InvalidRequest),
    ] {
        assert_eq!(describe(&mut talk, resource_type, name).await.error_code, expect, "{name}");
    }
    let resource = DescribeConfigsResource {
        resource_type: TOPIC,
        resource_name: "t".into(),
        configuration_keys: Some(vec!["retention.ms".into(), "no.such".into()]),
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let some = talk.ask(1, &request).await.results.remove(0);
    assert_eq!((some.configs.len(), some.configs[0].synonyms.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed() {
    use incremental_alter_configs::{AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest};
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[("retention.bytes", "9")]).await;
    let value = async |talk: &mut Talk, name: &str| {
        let topic = describe(talk, TOPIC, "t").await;
        topic.configs.into_iter().find(|config| config.name == *name).unwrap().value.unwrap()
    };
    for (resource_type, name, setting, operation, to, expect) in [
        (TOPIC, "t", "retention.ms", 0, Some("7"), ErrorCode::None),
        (TOPIC, "t", "cleanup.policy", 2, Some("compact"), ErrorCode::None),
        (TOPIC, "t", "cleanup.policy", 3, Some("delete"), ErrorCode::None),
        (TOPIC, "t", "retention.ms", 0, None, ErrorCode::InvalidConfig),
        (TOPIC, "t", "retention.ms", 9, Some("7"), ErrorCode::InvalidRequest),
        (TOPIC, "t", "retention.ms", 2, Some("7"), ErrorCode::InvalidConfig),
        (TOPIC, "t", "no.such", 0, Some("7"), ErrorCode::InvalidConfig),
        (TOPIC, "nowhere", "retention.ms", 0, Some("7"), ErrorCode::UnknownTopicOrPartition),
        (BROKER, "1", "num.partitions", 0, Some("7"), ErrorCode::InvalidConfig),
        (16, "x", "retention.ms", 0, Some("7"), ErrorCode::InvalidRequest),
    ] {
        let config =
            AlterableConfig { name: setting.into(), config_operation: operation, value: to.map(Into::into) };
        let resource =
            AlterConfigsResource { resource_type, resource_name: name.into(), configs: vec![config] };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        let response = talk.ask(1, &request).await.responses.remove(0);
        assert_eq!(response.error_code, expect, "{name} {setting}: {:?}", response.error_message);
    }
    assert_eq!(value(&mut talk, "cleanup.policy").await, "compact");
    assert_eq!(value(&mut talk, "retention.ms").await, "7");
    assert_eq!(value(&mut talk, "retention.bytes").await, "9");

    // The older request replaces all.
    let config = alter_configs::AlterableConfig { name: "retention.ms".into(), value: Some("8".into()) };
    let resource = alter_configs::AlterConfigsResource {
        resource_type: TOPIC,
        resource_name: "t".into(),
        configs: vec![config],
    };
    for (validate_only, expect) in [(true, "9"), (false, "-1")] {
        let request = alter_configs::AlterConfigsRequest { resources: vec![resource.clone()], validate_only };
        assert_eq!(talk.ask(2, &request).await.responses[0].error_code, ErrorCode::None);
        assert_eq!(value(&mut talk, "retention.bytes").await, expect);
    }
    assert_eq!(value(&mut talk, "retention.ms").await, "8");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_described() {
    let world = World::new();
    let mut talk = world.connect();
    for (endpoint_type, expect) in [
        (1, ErrorCode::None),
        (2, ErrorCode::MismatchedEndpointType),
        (3, ErrorCode::UnsupportedEndpointType),
    ] {
        let request = DescribeClusterRequest { endpoint_type, ..Default::default() };
        let response = talk.ask(2, &request).await;
        assert_eq!(response.error_code, expect);
        if expect == ErrorCode::None {
            assert_eq!((response.controller_id, response.brokers[0].broker_id), (1, 1));
            assert_eq!(response.cluster_id, world.broker.cluster_id());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_described_page_by_page() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("a", 3, &[]).await;
    talk.create_topic("b", 2, &[]).await;
    let mut cursor: Option<Cursor> = None;
    let mut pages = Vec::new();
    loop {
        let request = DescribeTopicPartitionsRequest {
            response_partition_limit: 2,
            cursor: cursor.clone(),
            ..Default::default()
        };
        let response = talk.ask(0, &request).await;
        let page: Vec<_> = response
            .topics
            .iter()
            .flat_map(|topic| {
                let name = topic.name.as_deref().unwrap();
                topic.partitions.iter().map(move |partition| format!("{name}{}", partition.partition_index))
            })
            .collect();
        pages.push(page);
        cursor = response.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, [vec!["a0", "a1"], vec!["a2", "b0"], vec!["b1"]]);
    let topics = vec![TopicRequest { name: "nowhere".into() }];
    let response = talk.ask(0, &DescribeTopicPartitionsRequest { topics, ..Default::default() }).await;
    assert_eq!(response.topics[0].error_code, ErrorCode::UnknownTopicOrPartition);
}
