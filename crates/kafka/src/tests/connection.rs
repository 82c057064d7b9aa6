//! The conversation: order, limits, letting clients in, ending.

use super::*;
use crate::limits::{REQUEST_BYTES_MAX, WAITING_REQUESTS_MAX};
use crate::wire::messages::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use crate::wire::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use crate::wire::messages::metadata::MetadataRequest;
use crate::wire::messages::sasl_authenticate::SaslAuthenticateRequest;
use crate::wire::messages::sasl_handshake::SaslHandshakeRequest;
use crate::wire::messages::{
    alter_configs, api_versions, create_partitions, create_topics, delete_groups, delete_records,
    delete_topics, describe_cluster, describe_configs, describe_groups, describe_topic_partitions, fetch,
    find_coordinator, heartbeat, incremental_alter_configs, init_producer_id, join_group, leave_group,
    list_groups, list_offsets, metadata, offset_commit, offset_delete, offset_fetch, offset_for_leader_epoch,
    produce as produce_messages, sync_group,
};
use crate::wire::{ApiKey, SUPPORTED};
use base64::{Engine, engine::general_purpose::STANDARD};
use posthaste_engine::catalog::{Action, Permission, Resource, User};
use ring::{digest, hmac, pbkdf2};

const AFAR: &str = "10.1.2.3:5000";

fn waiting_fetch(topic: &'static str, offset: i64) -> FetchRequest {
    let partition =
        FetchPartition { fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() };
    FetchRequest {
        max_wait_ms: 20_000,
        min_bytes: 1,
        topics: vec![FetchTopic { topic: topic.into(), partitions: vec![partition], ..Default::default() }],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_come_in_the_order_of_their_requests() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[]).await;
    let unknown = produce("nowhere", 0, -1, batch(&["x"]));
    let good = produce("t", 0, -1, batch(&["x"]));
    let metadata = MetadataRequest::default();
    let mut expect = Vec::new();
    let mut bytes = Vec::new();
    // Those that fail at once wait for those before them that do not.
    for request in [&good, &unknown, &good, &unknown] {
        let (id, frame) = talk.frame(9, request);
        expect.push(id);
        bytes.extend_from_slice(&frame.to_bytes());
    }
    let (id, frame) = talk.frame(9, &metadata);
    expect.push(id);
    bytes.extend_from_slice(&frame.to_bytes());
    let (id, frame) = talk.frame(9, &good);
    expect.push(id);
    bytes.extend_from_slice(&frame.to_bytes());
    talk.input(&bytes).await.unwrap();
    let mut offsets = Vec::new();
    let mut answered = Vec::new();
    for index in 0..6 {
        let frame = talk.next_frame().await.unwrap();
        answered.push(i32::from_be_bytes(*frame.first_chunk().unwrap()));
        if index != 4 {
            let (_, response) = decode_response::<produce_messages::ProduceResponse>(frame, 9).unwrap();
            let partition = &response.responses[0].partition_responses[0];
            offsets.push((partition.error_code, partition.base_offset));
        }
    }
    assert_eq!(answered, expect);
    let failed = (ErrorCode::UnknownTopicOrPartition, -1);
    let at = |offset| (ErrorCode::None, offset);
    assert_eq!(offsets, [at(0), failed, at(1), failed, at(2)]);
}

/// A request behind a long poll waits, as in Kafka; the driver does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_holds_back_what_follows_and_nothing_else() {
    let world = World::new();
    let (mut consumer, mut producer) = (world.connect(), world.connect());
    consumer.create_topic("t", 1, &[]).await;
    let fetch = consumer.send(12, &waiting_fetch("t", 0)).await.unwrap();
    let metadata = consumer.send(9, &MetadataRequest::default()).await.unwrap();
    assert_eq!(consumer.written(), None);
    assert!(consumer.conversation.wants_input());
    producer.produce("t", 0, batch(&["late"])).await;
    let (answered, response) = consumer.response::<FetchRequest>(12).await.unwrap();
    assert_eq!(answered, fetch);
    let records: Bytes = response.responses[0].partitions[0]
        .records
        .chunks()
        .iter()
        .map(chunk_bytes)
        .collect::<Vec<_>>()
        .concat()
        .into();
    assert_eq!(values(&records), [(0, "late".to_owned())]);
    assert_eq!(consumer.response::<MetadataRequest>(9).await.unwrap().0, metadata);
}

fn chunk_bytes(chunk: &crate::wire::records::RecordChunk) -> Bytes {
    match chunk {
        crate::wire::records::RecordChunk::Verbatim(bytes) => bytes.clone(),
        rebased => panic!("{rebased:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_on_during_a_long_poll_is_held_back_in_the_end() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[]).await;
    talk.send(12, &waiting_fetch("t", 0)).await.unwrap();
    for _ in 0..WAITING_REQUESTS_MAX {
        assert!(talk.conversation.wants_input());
        talk.send(9, &MetadataRequest::default()).await.unwrap();
    }
    assert!(!talk.conversation.wants_input());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_is_held_back_by_what_is_on_its_way() {
    let world = World::with_limits(Limits { publishes_in_flight_max: 2, ..Limits::default() });
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[]).await;
    let request = produce("t", 0, -1, batch(&["x"]));
    for _ in 0..5 {
        talk.send(9, &request).await.unwrap();
    }
    assert!(!talk.conversation.wants_input());
    for offset in 0..5 {
        let (_, response) = talk.response::<ProduceRequest>(9).await.unwrap();
        assert_eq!(response.responses[0].partition_responses[0].base_offset, offset);
    }
    assert!(talk.conversation.wants_input());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_arrive_in_any_pieces() {
    let world = World::new();
    let mut talk = world.connect();
    let (id, frame) = talk.frame(9, &MetadataRequest::default());
    for byte in frame.to_bytes() {
        assert_eq!(talk.written(), None);
        talk.input(&[byte]).await.unwrap();
    }
    assert_eq!(talk.response::<MetadataRequest>(9).await.unwrap().0, id);
}

/// KIP-511.
#[tokio::test(flavor = "multi_thread")]
async fn api_versions_in_an_unknown_version_is_answered_in_version_0() {
    let world = World::new();
    let mut talk = world.connect();
    talk.input(&[0, 0, 0, 12, 0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff, 0xee, 0xee]).await.unwrap();
    let frame = talk.next_frame().await.unwrap();
    let (id, response) = decode_response::<ApiVersionsResponse>(frame, 0).unwrap();
    assert_eq!((id, response.error_code), (7, ErrorCode::UnsupportedVersion));
    let range = response.api_keys.iter().find(|range| range.api_key == 18).unwrap();
    assert_eq!((range.min_version, range.max_version), (0, 4));
    // The conversation goes on.
    let request =
        ApiVersionsRequest { client_software_name: "a".into(), client_software_version: "1".into() };
    let response = talk.ask(4, &request).await;
    assert_eq!((response.error_code, response.api_keys.len()), (ErrorCode::None, SUPPORTED.len()));
    let nameless = talk.ask(4, &ApiVersionsRequest::default()).await;
    assert_eq!(nameless.error_code, ErrorCode::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_closes_the_connection() {
    let world = World::new();
    let huge = u32::try_from(REQUEST_BYTES_MAX + 1).unwrap().to_be_bytes();
    for (bytes, expect) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "longer than"),
        (&[0xff, 0xff, 0xff, 0xff], "negative"),
        (&huge, "longer than"),
        (&[0, 0, 0, 0], "malformed request header"),
        (&[0, 0, 0, 10, 0x7f, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff], "API 32512"),
        (&[0, 0, 0, 10, 0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff], "Metadata has no version 99"),
        (&[0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff], "Produce has no version 2"),
        (&[0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff], "malformed Metadata"),
    ] {
        match world.connect().input(bytes).await {
            Err(Close::Error(why)) => assert!(why.contains(expect), "{why}"),
            other => panic!("{other:?} for {bytes:x?}"),
        }
    }
}

/// A producer may begin with a request that is larger than what a stranger may send.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_first_request_is_a_matter_of_who_sends_it() {
    let world = World::new();
    world.connect().create_topic("t", 1, &[]).await;
    let text = "x".repeat(700_000);
    let request = produce("t", 0, -1, batch(&[&text]));
    let mut near = world.connect();
    let (_, frame) = near.frame(9, &request);
    let bytes = frame.to_bytes();
    near.input(&bytes[..1000]).await.unwrap();
    near.input(&bytes[1000..]).await.unwrap();
    let (_, response) = near.response::<ProduceRequest>(9).await.unwrap();
    assert_eq!(response.responses[0].partition_responses[0].base_offset, 0);
    let refused = world.connect_from(AFAR).input(&bytes[..1000]).await;
    assert!(matches!(refused, Err(Close::Error(_))), "{refused:?}");
}

/// Who says nothing is let go; who waits for an answer is not.
#[tokio::test(flavor = "multi_thread")]
async fn deadlines() {
    let world = World::new();
    let mut talk = world.connect();
    assert!(!talk.conversation.is_admitted());
    talk.create_topic("t", 1, &[]).await;
    assert!(talk.conversation.is_admitted());
    // Early is not late.
    assert_eq!(talk.conversation.timeout(&mut talk.out).await, Ok(()));
    talk.send(12, &waiting_fetch("t", 0)).await.unwrap();
    assert_eq!(talk.conversation.deadline(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_from_afar_need_credentials() {
    let world = World::new();
    let mut talk = world.connect_from(AFAR);
    talk.ask(0, &ApiVersionsRequest::default()).await;
    assert!(!talk.conversation.is_admitted(), "one ApiVersions makes nobody known");
    let why = talk.closes(9, &MetadataRequest::default()).await;
    assert!(why.contains("credentials"), "{why}");
}

fn plain(password: &str) -> SaslAuthenticateRequest {
    SaslAuthenticateRequest { auth_bytes: format!("\0guest\0{password}").into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_lets_a_user_in() {
    let world = World::new();
    let handshake = |mechanism: &'static str| SaslHandshakeRequest { mechanism: mechanism.into() };
    for version in 0..=2 {
        let mut talk = world.connect();
        assert_eq!(talk.ask(1, &handshake("PLAIN")).await.error_code, ErrorCode::None);
        assert_eq!(talk.ask(version, &plain("guest")).await.error_code, ErrorCode::None);
        talk.ask(9, &MetadataRequest::default()).await;
        assert_eq!(talk.ask(1, &handshake("PLAIN")).await.error_code, ErrorCode::IllegalSaslState);
    }
    for (first, password, expect) in [
        (Some("PLAIN"), "wrong", ErrorCode::SaslAuthenticationFailed),
        (None, "guest", ErrorCode::IllegalSaslState),
    ] {
        let mut talk = world.connect();
        if let Some(mechanism) = first {
            talk.ask(1, &handshake(mechanism)).await;
        }
        assert_eq!(talk.send(2, &plain(password)).await, Err(Close::Done));
        let (_, response) = talk.response::<SaslAuthenticateRequest>(2).await.unwrap();
        assert_eq!(response.error_code, expect);
        assert!(response.error_message.is_some());
    }
    let mut talk = world.connect();
    assert_eq!(talk.send(1, &handshake("SCRAM-SHA-1")).await, Err(Close::Done));
    let (_, response) = talk.response::<SaslHandshakeRequest>(1).await.unwrap();
    assert_eq!(response.error_code, ErrorCode::UnsupportedSaslMechanism);
    assert_eq!(response.mechanisms, ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]);
    let mut talk = world.connect();
    talk.ask(1, &handshake("PLAIN")).await;
    let why = talk.closes(9, &MetadataRequest::default()).await;
    assert!(why.contains("credentials"), "{why}");
}

/// What a client answers to the challenge of SCRAM-SHA-512, and what it then expects.
fn scram_proof(password: &str, first: &str, challenge: &str) -> (String, String) {
    let attribute = |name: &str| challenge.split(',').find_map(|part| part.strip_prefix(name)).unwrap();
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, key), text);
    let mut salted = [0; 64];
    let salt = STANDARD.decode(attribute("s=")).unwrap();
    let rounds = attribute("i=").parse().unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rounds, &salt, password.as_bytes(), &mut salted);
    let last = format!("c=biws,r={}", attribute("r="));
    let covered = format!("{first},{challenge},{last}");
    let client_key = sign(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA512, client_key.as_ref());
    let signature = sign(stored_key.as_ref(), covered.as_bytes());
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    let server_key = sign(&salted, b"Server Key");
    let expect = format!("v={}", STANDARD.encode(sign(server_key.as_ref(), covered.as_bytes())));
    (format!("{last},p={}", STANDARD.encode(proof)), expect)
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_lets_a_user_in() {
    let world = World::new();
    let token = |text: &str| SaslAuthenticateRequest { auth_bytes: text.to_owned().into() };
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    for (user, password, is_let_in) in
        [("guest", "guest", true), ("guest", "wrong", false), ("nobody", "guest", false)]
    {
        let mut talk = world.connect();
        talk.ask(1, &SaslHandshakeRequest { mechanism: "SCRAM-SHA-512".into() }).await;
        let first = format!("n={user},r=nonce");
        let challenge = talk.ask(2, &token(&format!("n,,{first}"))).await;
        assert_eq!(challenge.error_code, ErrorCode::None);
        assert!(!talk.conversation.is_admitted());
        let (last, expect) = scram_proof(password, &first, &text(&challenge.auth_bytes));
        if is_let_in {
            let answer = talk.ask(2, &token(&last)).await;
            assert_eq!((answer.error_code, text(&answer.auth_bytes)), (ErrorCode::None, expect));
            talk.ask(9, &MetadataRequest::default()).await;
        } else {
            assert_eq!(talk.send(2, &token(&last)).await, Err(Close::Done));
            let (_, response) = talk.response::<SaslAuthenticateRequest>(2).await.unwrap();
            assert_eq!(response.error_code, ErrorCode::SaslAuthenticationFailed);
            assert!(response.error_message.unwrap().contains("wrong"));
        }
    }
    // Without headers, as old clients send it.
    let mut talk = world.connect();
    talk.ask(0, &SaslHandshakeRequest { mechanism: "SCRAM-SHA-512".into() }).await;
    let framed = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
    talk.input(&framed("n,,n=guest,r=nonce")).await.unwrap();
    let challenge = text(&talk.next_frame().await.unwrap());
    let (last, expect) = scram_proof("guest", "n=guest,r=nonce", &challenge);
    talk.input(&framed(&last)).await.unwrap();
    assert_eq!(text(&talk.next_frame().await.unwrap()), expect);
    talk.ask(9, &MetadataRequest::default()).await;
}

/// SaslHandshake v0 is followed by tokens without headers.
#[tokio::test(flavor = "multi_thread")]
async fn plain_without_headers() {
    let world = World::new();
    for (token, expect) in [(&b"\0guest\0guest"[..], true), (b"\0guest\0wrong", false)] {
        let mut talk = world.connect();
        talk.ask(0, &SaslHandshakeRequest { mechanism: "PLAIN".into() }).await;
        let frame = [&(token.len() as u32).to_be_bytes()[..], token].concat();
        assert_eq!(talk.input(&frame).await.is_ok(), expect);
        if expect {
            assert_eq!(talk.next_frame().await.unwrap(), Bytes::new());
            talk.ask(9, &MetadataRequest::default()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn produce_without_acknowledgement_is_silent_or_closes() {
    let world = World::new();
    let mut talk = world.connect();
    talk.create_topic("t", 1, &[]).await;
    let (_, silent) = talk.frame(9, &produce("t", 0, 0, batch(&["x"])));
    let (id, loud) = talk.frame(9, &produce("t", 0, -1, batch(&["x"])));
    talk.input(&[silent.to_bytes(), loud.to_bytes()].concat()).await.unwrap();
    let (answered, response) = talk.response::<ProduceRequest>(9).await.unwrap();
    assert_eq!((answered, response.responses[0].partition_responses[0].base_offset), (id, 1));
    let why = talk.closes(9, &produce("nowhere", 0, 0, batch(&["x"]))).await;
    assert!(why.contains("UNKNOWN_TOPIC_OR_PARTITION"), "{why}");
}

/// Every request in every version has a response that its client can read, whatever it says.
#[tokio::test(flavor = "multi_thread")]
async fn every_version_of_every_api_is_answered() {
    let world = World::new();
    let mut talk = world.connect();
    let mut covered = 0;
    macro_rules! check {
        ($($module:ident $request:ident),* $(,)?) => {$({
            let range = <$module::$request as RequestBody>::API.range();
            for version in range.min_version..=range.max_version {
                let mut request = $module::$request::default();
                let _ = &mut request;
                talk.ask(version, &request).await;
            }
            covered += 1;
        })*};
    }
    check!(
        alter_configs AlterConfigsRequest, api_versions ApiVersionsRequest,
        create_partitions CreatePartitionsRequest, create_topics CreateTopicsRequest,
        delete_groups DeleteGroupsRequest, delete_records DeleteRecordsRequest,
        delete_topics DeleteTopicsRequest, describe_cluster DescribeClusterRequest,
        describe_configs DescribeConfigsRequest, describe_groups DescribeGroupsRequest,
        describe_topic_partitions DescribeTopicPartitionsRequest, fetch FetchRequest,
        find_coordinator FindCoordinatorRequest, heartbeat HeartbeatRequest,
        incremental_alter_configs IncrementalAlterConfigsRequest, init_producer_id InitProducerIdRequest,
        join_group JoinGroupRequest, leave_group LeaveGroupRequest, list_groups ListGroupsRequest,
        list_offsets ListOffsetsRequest, metadata MetadataRequest, offset_commit OffsetCommitRequest,
        offset_delete OffsetDeleteRequest, offset_fetch OffsetFetchRequest,
        offset_for_leader_epoch OffsetForLeaderEpochRequest, sync_group SyncGroupRequest,
    );
    for version in ApiKey::Produce.range().min_version..=ApiKey::Produce.range().max_version {
        talk.ask(version, &ProduceRequest { acks: -1, ..Default::default() }).await;
    }
    // The two of SASL end or change a conversation and have tests of their own.
    assert_eq!(covered + 1 + 2, SUPPORTED.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_user() {
    let world = World::new();
    let administrator = world.client().await;
    let mut talk = world.connect();
    talk.ask(1, &SaslHandshakeRequest { mechanism: "PLAIN".into() }).await;
    assert_eq!(talk.ask(2, &plain("guest")).await.error_code, ErrorCode::None);
    administrator.delete_user(&Name::constant("guest")).await.unwrap();
    let ended = loop {
        if let Err(close) = talk.event().await {
            break close;
        }
    };
    assert_eq!(ended, Close::Error("user 'guest' was deleted".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_waits_hands_out_nothing_after_its_right_is_gone() {
    let world = World::new();
    let administrator = world.client().await;
    administrator.create_topic(&Name::constant("t"), 1, Default::default()).await.unwrap();
    let set = async |actions: Vec<Action>| {
        let guest = User::clone(world.broker.catalog().user("guest").unwrap());
        let permission = Permission { resource: None, ..Permission::allow(&actions, Resource::Topic, "*") };
        let user = User { administrator: false, permissions: vec![permission], ..guest };
        administrator.put_user(user).await.unwrap();
    };
    set(vec![Action::Read]).await;
    let mut talk = world.connect();
    talk.ask(1, &SaslHandshakeRequest { mechanism: "PLAIN".into() }).await;
    talk.ask(2, &plain("guest")).await;
    talk.send(12, &waiting_fetch("t", 0)).await.unwrap();
    set(vec![Action::Configure]).await;
    let secret = produce("t", 0, -1, batch(&["secret"]));
    world.connect().ask(9, &secret).await;
    let (_, response) = talk.response::<FetchRequest>(12).await.unwrap();
    assert_eq!(response.responses[0].partitions[0].error_code, ErrorCode::TopicAuthorizationFailed);
}
