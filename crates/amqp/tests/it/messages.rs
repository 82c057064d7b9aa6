//! Publishing, confirming, delivering, settling.

use crate::client::{Client, Delivered, World, persistent, publish_octets, refusal, short, to};
use bytes::{Bytes, BytesMut};
use posthaste_amqp::wire::{
    BasicProperties, Command, ContentMethod, FieldTable, FieldValue, Method, PropertyList, basic, channel,
    exchange, queue,
};
use posthaste_broker::encode_message;
use posthaste_engine::catalog::NoHeaders;
use posthaste_model::{ConnectionId, Envelope, Header, Limits, Message, Name, Subject, Value};
use posthaste_net::Session as _;
use std::ops::RangeInclusive;

fn durable(name: &'static str) -> queue::Declare {
    queue::Declare { queue: short(name), durable: true, ..Default::default() }
}

fn table(fields: &[(&'static str, FieldValue)]) -> FieldTable {
    fields.iter().map(|(name, value)| (short(name), value.clone())).collect()
}

fn with(name: &'static str, fields: &[(&'static str, FieldValue)]) -> queue::Declare {
    queue::Declare { arguments: table(fields), ..durable(name) }
}

async fn publish(client: &mut Client, routing_key: &'static str, bodies: &[&str]) {
    let mut octets = BytesMut::new();
    for body in bodies {
        octets.extend_from_slice(&publish_octets(1, &to("", routing_key), &persistent(), body.as_bytes()));
    }
    client.send_octets(&octets).await;
}

async fn bodies(client: &mut Client, count: usize) -> Vec<Delivered> {
    let mut found = Vec::new();
    while found.len() < count {
        found.push(client.delivery().await);
    }
    found
}

fn texts(deliveries: &[Delivered]) -> Vec<String> {
    deliveries.iter().map(|d| String::from_utf8_lossy(&d.body()).into_owned()).collect()
}

/// Nothing more is delivered: the answer to a question comes first.
async fn nothing_more(client: &mut Client) {
    assert_eq!(
        client.call(1, &channel::Flow { active: true }).await,
        channel::FlowOk { active: true }.into()
    );
}

fn consume(name: &'static str, tag: &'static str) -> basic::Consume {
    basic::Consume { queue: short(name), consumer_tag: short(tag), ..Default::default() }
}

/// What a publisher is told about these publishes, until all are settled: `ack TAG`, `nack TAG`, `return
/// BODY`.
async fn told(client: &mut Client, tags: RangeInclusive<u64>) -> Vec<String> {
    let (mut told, mut settled) = (Vec::new(), tags.start() - 1);
    while settled < *tags.end() {
        match client.next().await.1 {
            Command::Method(Method::BasicAck(ack)) => {
                assert!(ack.delivery_tag == settled + 1 || ack.multiple, "{ack:?} after {settled}");
                settled = ack.delivery_tag;
                told.push(format!("ack {settled}"));
            }
            Command::Method(Method::BasicNack(nack)) => {
                assert_eq!((nack.delivery_tag, nack.multiple), (settled + 1, false));
                settled += 1;
                told.push(format!("nack {settled}"));
            }
            Command::Content(ContentMethod::Return(back), content) => {
                assert_eq!((back.reply_code, back.reply_text.to_string()), (312, "NO_ROUTE".into()));
                told.push(format!("return {}", String::from_utf8_lossy(&content.body.into_bytes())));
            }
            other => panic!("{other:?}"),
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn confirms_follow_returns_and_refusals_stand_out() {
    let world = World::new();
    let mut client = world.open().await;
    client
        .declare(with("full", &[("x-max-length", 2.into()), ("x-overflow", "reject-publish".into())]))
        .await;
    client.declare(durable("q")).await;
    client.confirm_select(1).await;
    let mut octets = BytesMut::new();
    let nowhere = basic::Publish { mandatory: true, ..to("", "nowhere") };
    for (publish, body) in [
        (&to("", "q"), "1"),
        (&nowhere, "2"),
        (&to("", "full"), "3"),
        (&to("", "full"), "4"),
        (&to("", "full"), "5"),
        (&to("", "nowhere"), "6"),
    ] {
        octets.extend_from_slice(&publish_octets(1, publish, &persistent(), body.as_bytes()));
    }
    client.send_octets(&octets).await;
    assert_eq!(told(&mut client, 1..=6).await, ["return 2", "ack 4", "nack 5", "ack 6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_publish_harms_none_before_it() {
    let world = World::new();
    let mut client = world.open().await;
    client.declare(durable("q")).await;
    let user = BasicProperties { user_id: Some(short("bob")), ..persistent() };
    let late = BasicProperties { expiration: Some(short("soon")), ..persistent() };
    let replies = BasicProperties { reply_to: Some(short("amq.rabbitmq.reply-to")), ..persistent() };
    let copies = BasicProperties { headers: Some(table(&[("CC", "q".into())])), ..persistent() };
    let immediate = basic::Publish { immediate: true, ..to("", "q") };
    client
        .call(
            1,
            &exchange::Declare {
                exchange: short("in"),
                r#type: short("fanout"),
                internal: true,
                ..Default::default()
            },
        )
        .await;
    let mut expected = 0;
    for (publish, properties, expect) in [
        (to("none", "q"), persistent(), "404 NOT_FOUND - no exchange 'none' in vhost '/'"),
        (
            to("in", "q"),
            persistent(),
            "403 ACCESS_REFUSED - cannot publish to internal exchange 'in' in vhost '/'",
        ),
        (
            to("", "q"),
            user,
            "406 PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'",
        ),
        (to("", "q"), late, "406 PRECONDITION_FAILED - invalid expiration 'soon': no_integer"),
        (to("", "q"), replies, "406 PRECONDITION_FAILED - fast reply consumer does not exist"),
        (
            to("", "q"),
            copies,
            "406 PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",longstr}",
        ),
        (immediate, persistent(), "! 540 NOT_IMPLEMENTED - immediate=true"),
    ] {
        let mut octets = publish_octets(1, &to("", "q"), &persistent(), b"good");
        octets.extend_from_slice(&publish_octets(1, &publish, &properties, b"bad"));
        octets.extend_from_slice(&publish_octets(1, &to("", "q"), &persistent(), b"too late"));
        client.send_octets(&octets).await;
        let answer = client.method().await;
        assert_eq!(refusal(&answer).as_deref(), Some(expect));
        expected += 1;
        client = world.open().await;
        assert_eq!(client.ready("q").await, expected, "after {expect}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_larger_than_allowed_close_the_channel() {
    let world = World::with(Limits { message_bytes_max: 1_000, ..Limits::default() });
    let mut client = world.open().await;
    client.send_octets(&publish_octets(1, &to("", "q"), &persistent(), &[0; 1_001])).await;
    let answer = client.method().await;
    let expect = "406 PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000";
    assert_eq!(refusal(&answer).as_deref(), Some(expect));
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_limits_each_consumer() {
    let world = World::new();
    let mut client = world.open().await;
    client.declare(durable("q")).await;
    publish(&mut client, "q", &["0", "1", "2", "3", "4", "5"]).await;
    client.call(1, &basic::Qos { prefetch_count: 2, ..Default::default() }).await;
    client.consume(1, consume("q", "c")).await;
    let first = bodies(&mut client, 2).await;
    assert_eq!(texts(&first), ["0", "1"]);
    nothing_more(&mut client).await;
    client.send(1, &basic::Ack { delivery_tag: first[0].tag(), multiple: false }).await;
    assert_eq!(texts(&bodies(&mut client, 1).await), ["2"]);
    client.send(1, &basic::Ack { delivery_tag: 0, multiple: true }).await;
    assert_eq!(texts(&bodies(&mut client, 2).await), ["3", "4"]);
    nothing_more(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn global_prefetch_is_shared_and_changes_at_run_time() {
    let world = World::new();
    let mut client = world.open().await;
    client.declare(durable("a")).await;
    client.declare(durable("b")).await;
    publish(&mut client, "a", &["a1", "a2", "a3"]).await;
    publish(&mut client, "b", &["b1", "b2", "b3"]).await;
    let limit = |prefetch_count| basic::Qos { prefetch_count, global: true, ..Default::default() };
    client.call(1, &limit(2)).await;
    client.consume(1, consume("a", "a")).await;
    let mut seen = bodies(&mut client, 2).await;
    client.consume(1, consume("b", "b")).await;
    nothing_more(&mut client).await;
    // One more, as Celery does for every task with an ETA.
    assert_eq!(client.call(1, &limit(3)).await, basic::QosOk {}.into());
    seen.extend(bodies(&mut client, 1).await);
    nothing_more(&mut client).await;
    client.send(1, &basic::Ack { delivery_tag: 3, multiple: true }).await;
    seen.extend(bodies(&mut client, 3).await);
    let mut texts = texts(&seen);
    texts.sort();
    assert_eq!(texts, ["a1", "a2", "a3", "b1", "b2", "b3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_keeps_its_place() {
    let world = World::new();
    let mut client = world.open().await;
    client.declare(durable("q")).await;
    publish(&mut client, "q", &["0", "1", "2", "3"]).await;
    let mut tags = Vec::new();
    for _ in 0..3 {
        tags.push(client.get("q", false).await.unwrap().0);
    }
    assert!(tags.iter().all(|ok| !ok.redelivered));
    assert_eq!(tags.iter().map(|ok| ok.message_count).collect::<Vec<_>>(), [3, 2, 1]);
    client.send(1, &basic::Nack { delivery_tag: 2, multiple: true, requeue: true }).await;
    client.send(1, &basic::Ack { delivery_tag: 3, multiple: false }).await;
    let mut again = Vec::new();
    while let Some((ok, content)) = client.get("q", false).await {
        again.push((ok.redelivered, content.body.into_bytes()));
    }
    let body = |text: &'static str| Bytes::from_static(text.as_bytes());
    assert_eq!(again, [(true, body("0")), (true, body("1")), (false, body("3"))]);
    // The channel's end gives back what it held, also by basic.get.
    client.call(1, &channel::Close::default()).await;
    client.open_channel(1).await;
    assert_eq!(client.ready("q").await, 3);
    client.get("q", false).await.unwrap();
    assert_eq!(client.call(1, &basic::Recover { requeue: true }).await, basic::RecoverOk {}.into());
    assert_eq!(client.ready("q").await, 3);
    let answer = client.call(1, &basic::Ack { delivery_tag: 1, multiple: false }).await;
    assert_eq!(refusal(&answer).as_deref(), Some("406 PRECONDITION_FAILED - unknown delivery tag 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_consumers_keep_what_they_have() {
    let world = World::new();
    let mut client = world.open().await;
    client.declare(queue::Declare { auto_delete: true, ..durable("q") }).await;
    publish(&mut client, "q", &["0"]).await;
    client.consume(1, consume("q", "c")).await;
    let held = client.delivery().await;
    client.consume(1, consume("q", "d")).await;
    let cancel = |tag| basic::Cancel { consumer_tag: short(tag), no_wait: false };
    let answer = client.call(1, &cancel("c")).await;
    assert_eq!(answer, basic::CancelOk { consumer_tag: short("c") }.into());
    assert_eq!(client.ready("q").await, 0);
    client.send(1, &basic::Reject { delivery_tag: held.tag(), requeue: true }).await;
    let again = client.delivery().await;
    assert_eq!((again.deliver.consumer_tag.to_string(), again.deliver.redelivered), ("d".into(), true));
    // The last one takes an auto-delete queue along before it is answered.
    client.call(1, &cancel("d")).await;
    let answer = client.call(1, &queue::Declare { passive: true, ..durable("q") }).await;
    assert!(refusal(&answer).unwrap().starts_with("404"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_are_told_when_their_queue_goes() {
    let world = World::new();
    let (mut client, mut other) = (world.open().await, world.open().await);
    client.declare(durable("q")).await;
    client.consume(1, consume("q", "c")).await;
    let answer = other.call(1, &queue::Delete { queue: short("q"), ..Default::default() }).await;
    assert_eq!(answer, queue::DeleteOk { message_count: 0 }.into());
    assert_eq!(client.method().await, basic::Cancel { consumer_tag: short("c"), no_wait: true }.into());
    // Its tag is free again.
    client.declare(durable("q")).await;
    client.consume(1, consume("q", "c")).await;
    let answer = client.call(1, &consume("q", "c")).await;
    assert_eq!(refusal(&answer).as_deref(), Some("! 530 NOT_ALLOWED - attempt to reuse consumer tag 'c'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_consumers_are_alone() {
    let world = World::new();
    let mut client = world.open().await;
    client.declare(durable("q")).await;
    client.consume(1, basic::Consume { exclusive: true, ..consume("q", "c") }).await;
    let answer = client.call(1, &consume("q", "d")).await;
    let expect = "403 ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    assert_eq!(refusal(&answer).as_deref(), Some(expect));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_acknowledgement_everything_flows() {
    let world = World::with(Limits { unsettled_per_consumer_max: 10, ..Limits::default() });
    let mut client = world.open().await;
    client.declare(durable("q")).await;
    let numbers: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    publish(&mut client, "q", &numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
    client.consume(1, basic::Consume { no_ack: true, ..consume("q", "c") }).await;
    assert_eq!(texts(&bodies(&mut client, 500).await), numbers);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_prefetch_is_no_limit() {
    let world = World::with(Limits { unsettled_per_consumer_max: 10, ..Limits::default() });
    let mut client = world.open().await;
    client.declare(durable("q")).await;
    let numbers: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    publish(&mut client, "q", &numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
    client.consume(1, consume("q", "c")).await;
    assert_eq!(texts(&bodies(&mut client, 500).await), numbers);
    client.send(1, &basic::Ack { delivery_tag: 500, multiple: true }).await;
    assert_eq!(client.ready("q").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_written_no_more_than_there_is_room_for() {
    let world = World::with(Limits { connection_output_bytes_max: 10_000, ..Limits::default() });
    let mut client = world.open().await;
    client.declare(durable("q")).await;
    let body = "x".repeat(1_000);
    publish(&mut client, "q", &vec![body.as_str(); 400]).await;
    client.consume(1, basic::Consume { no_ack: true, ..consume("q", "c") }).await;
    let mut seen = 0;
    while seen < 400 {
        let event = client.events.recv().await.unwrap();
        client.session.event(event, &mut client.out).await.unwrap();
        // A chunk of deliveries more than there was room for, at most.
        assert!(client.out.len() < 10_000 + 260 * 1_100, "{} octets", client.out.len());
        client.received.extend_from_slice(&client.out.take());
        while let Some((_, Command::Content(..))) = client.said() {
            seen += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_tell_their_story() {
    let world = World::new();
    let mut client = world.open().await;
    client.declare(durable("dead")).await;
    let dead = [("x-dead-letter-exchange", "".into()), ("x-dead-letter-routing-key", "dead".into())];
    client.declare(with("q", &dead)).await;
    let properties = BasicProperties {
        expiration: Some(short("60000")),
        headers: Some(table(&[("mine", 1.into())])),
        ..persistent()
    };
    client.send_octets(&publish_octets(1, &to("", "q"), &properties, b"poison")).await;
    let (ok, _) = client.get("q", false).await.unwrap();
    client.send(1, &basic::Reject { delivery_tag: ok.delivery_tag, requeue: false }).await;
    let (ok, content) = client.get_soon("dead").await;
    assert_eq!((ok.exchange.to_string(), ok.routing_key.to_string()), (String::new(), "dead".into()));
    let found = content.properties.decode().unwrap();
    assert_eq!(found.expiration, None);
    let headers = found.headers.unwrap();
    assert_eq!(headers.get("mine"), Some(&1.into()));
    let deaths = headers.get("x-death").and_then(FieldValue::as_array).unwrap();
    let death = deaths[0].as_table().unwrap();
    for (name, expect) in
        [("reason", "rejected"), ("queue", "q"), ("count", "1"), ("original-expiration", "60000")]
    {
        assert_eq!(death.get(name).unwrap().to_string(), expect, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quorum_queues_count_deliveries_and_give_up() {
    let world = World::new();
    let mut client = world.open().await;
    client.declare(durable("dead")).await;
    let arguments = [
        ("x-queue-type", "quorum".into()),
        ("x-delivery-limit", 1.into()),
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ];
    client.declare(with("q", &arguments)).await;
    publish(&mut client, "q", &["x"]).await;
    let count =
        |list: &PropertyList| list.headers().unwrap().and_then(|h| h.get("x-delivery-count").cloned());
    let (ok, content) = client.get("q", false).await.unwrap();
    assert_eq!(count(&content.properties), None);
    // basic.nack is no attempt, basic.reject is.
    client.send(1, &basic::Nack { delivery_tag: ok.delivery_tag, multiple: false, requeue: true }).await;
    let (ok, content) = client.get("q", false).await.unwrap();
    assert_eq!((ok.redelivered, count(&content.properties)), (true, None));
    client.send(1, &basic::Reject { delivery_tag: ok.delivery_tag, requeue: true }).await;
    let (ok, content) = client.get("q", false).await.unwrap();
    assert_eq!(count(&content.properties), Some(FieldValue::LongLongInt(1)));
    client.send(1, &basic::Reject { delivery_tag: ok.delivery_tag, requeue: true }).await;
    let (_, content) = client.get_soon("dead").await;
    let headers = content.properties.headers().unwrap().unwrap();
    assert_eq!(headers.get("x-first-death-reason").and_then(FieldValue::as_str), Some("delivery_limit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_to_each_queue_once() {
    let world = World::new();
    let mut client = world.open().await;
    client.confirm_select(1).await;
    for name in ["a", "b", "c"] {
        client.declare(durable(name)).await;
    }
    let keys = |names: &[&'static str]| FieldValue::Array(names.iter().map(|name| (*name).into()).collect());
    let headers = table(&[("CC", keys(&["b", "a"])), ("BCC", keys(&["c", "b"]))]);
    let properties = BasicProperties { headers: Some(headers), ..persistent() };
    let mandatory = basic::Publish { mandatory: true, ..to("", "a") };
    client.send_octets(&publish_octets(1, &mandatory, &properties, b"x")).await;
    assert_eq!(told(&mut client, 1..=1).await, ["ack 1"]);
    for name in ["a", "b", "c"] {
        let (ok, content) = client.get(name, true).await.unwrap();
        assert_eq!((ok.routing_key.to_string(), ok.message_count), ("a".into(), 0), "in {name}");
        let headers = content.properties.headers().unwrap().unwrap();
        assert!(headers.contains("CC") && !headers.contains("BCC"));
    }
    // Nowhere by its own key, but somewhere by another.
    let elsewhere = basic::Publish { mandatory: true, ..to("", "nowhere") };
    client.send_octets(&publish_octets(1, &elsewhere, &properties, b"y")).await;
    assert_eq!(told(&mut client, 2..=2).await, ["ack 2"]);
    assert_eq!(client.ready("c").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_reply_to() {
    let world = World::new();
    let (mut requester, mut server) = (world.open().await, world.open().await);
    server.declare(durable("requests")).await;
    requester.consume(1, basic::Consume { no_ack: true, ..consume("amq.rabbitmq.reply-to", "r") }).await;
    let ask = BasicProperties { reply_to: Some(short("amq.rabbitmq.reply-to")), ..Default::default() };
    requester.send_octets(&publish_octets(1, &to("", "requests"), &ask, b"question")).await;
    let (_, content) = server.get_soon("requests").await;
    let reply_to = content.properties.reply_to().unwrap().to_short_string();
    assert!(reply_to.to_string().starts_with("amq.rabbitmq.reply-to."), "{reply_to}");
    let there = queue::Declare { queue: reply_to.clone(), passive: true, ..Default::default() };
    assert_eq!(server.declare(there.clone()).await, (0, 1));
    let answer = basic::Publish { routing_key: reply_to, mandatory: true, ..to("", "") };
    server.send_octets(&publish_octets(1, &answer, &Default::default(), b"answer")).await;
    assert_eq!(requester.delivery().await.body(), "answer");
    // It goes with its channel; later answers come back.
    requester.call(1, &channel::Close::default()).await;
    server.send_octets(&publish_octets(1, &answer, &Default::default(), b"late")).await;
    assert!(matches!(server.next().await, (1, Command::Content(ContentMethod::Return(_), _))));
    assert!(refusal(&server.call(1, &there).await).unwrap().starts_with("404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_protocols_arrive_with_what_they_say() {
    let world = World::new();
    let mut client = world.open().await;
    client.declare(durable("q")).await;
    let bind = queue::Bind {
        queue: short("q"),
        exchange: short("amq.topic"),
        routing_key: short("sensors.#"),
        ..Default::default()
    };
    client.call(1, &bind).await;
    let message = Message {
        key: Some(Bytes::from_static(b"7")),
        body: Some(Bytes::from_static(b"21.5")),
        headers: vec![Header { name: "unit".into(), value: Value::String("C".into()) }],
        content_type: Some("text/plain".into()),
        correlation_id: Some(Bytes::from_static(b"c1")),
        durable: true,
        ..Message::default()
    };
    let principal =
        world.broker.authenticate(posthaste_broker::Credentials::Anonymous, [127, 0, 0, 1].into()).await;
    let other = world.broker.client(principal.unwrap(), Name::constant("default"), ConnectionId(0));
    let mut batch = other.batch();
    let envelope = Envelope::new(Subject::slashed("sensors/7/temp").unwrap(), world.broker.now());
    batch.publish(Some("amq.topic"), envelope, encode_message(message), &NoHeaders).unwrap();
    batch.submit(|_| {});
    let (ok, content) = client.get_soon("q").await;
    assert_eq!(
        (ok.exchange.to_string(), ok.routing_key.to_string()),
        ("amq.topic".into(), "sensors.7.temp".into())
    );
    let properties = content.properties.decode().unwrap();
    assert_eq!((properties.content_type, properties.delivery_mode), (Some(short("text/plain")), Some(2)));
    assert_eq!(properties.correlation_id, Some(short("c1")));
    assert_eq!(properties.headers, Some(table(&[("unit", "C".into()), ("x-key", "7".into())])));
    assert_eq!(content.body.into_bytes(), "21.5");
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_are_held_back_while_too_much_is_in_flight() {
    let world = World::with(Limits { publishes_in_flight_max: 3, ..Limits::default() });
    let mut client = world.open().await;
    client.declare(durable("q")).await;
    client.confirm_select(1).await;
    publish(&mut client, "q", &["0", "1", "2"]).await;
    assert!(!client.session.wants_input());
    assert_eq!(told(&mut client, 1..=3).await.last().map(String::as_str), Some("ack 3"));
    assert!(client.session.wants_input());
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_things_survive_a_restart() {
    let world = World::new();
    let mut client = world.open().await;
    client.declare(with("q", &[("x-max-priority", 5.into())])).await;
    client.declare(queue::Declare { durable: false, ..durable("passing") }).await;
    client.confirm_select(1).await;
    let urgent = BasicProperties { priority: Some(9), ..persistent() };
    let mut octets = publish_octets(1, &to("", "q"), &persistent(), b"low");
    octets.extend_from_slice(&publish_octets(1, &to("", "q"), &urgent, b"high"));
    octets.extend_from_slice(&publish_octets(1, &to("", "q"), &BasicProperties::default(), b"transient"));
    client.send_octets(&octets).await;
    told(&mut client, 1..=3).await;
    client.close().await;
    let world = world.restart(Limits::default());
    let mut client = world.open().await;
    // Declared as before, it is the same queue.
    assert_eq!(client.declare(with("q", &[("x-max-priority", 5.into())])).await, (2, 0));
    let (ok, content) = client.get("q", true).await.unwrap();
    assert_eq!(
        (content.properties.priority(), content.body.into_bytes()),
        (Some(9), Bytes::from_static(b"high"))
    );
    assert_eq!((ok.exchange.to_string(), ok.routing_key.to_string()), (String::new(), "q".into()));
    assert_eq!(client.get("q", true).await.unwrap().1.body.into_bytes(), "low");
    let gone = client.call(1, &queue::Declare { passive: true, ..durable("passing") }).await;
    assert!(refusal(&gone).unwrap().starts_with("404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_blocks_publishers_and_nobody_else() {
    let world = World::new();
    let mut client = world.open().await;
    client.declare(durable("q")).await;
    client.confirm_select(1).await;
    publish(&mut client, "q", &["0"]).await;
    told(&mut client, 1..=1).await;
    client.close().await;
    // A reserve that no disk has room for.
    let world = world.restart(Limits { reserve_bytes: u64::MAX, ..Limits::default() });
    let mut client = world.open().await;
    client.confirm_select(1).await;
    publish(&mut client, "q", &["1"]).await;
    assert_eq!(told(&mut client, 1..=1).await, ["nack 1"]);
    assert!(matches!(client.method().await, Method::ConnectionBlocked(_)));
    assert!(client.session.wants_input(), "who is told goes on");
    let refused = client.call(1, &durable("new")).await;
    assert!(refusal(&refused).unwrap().contains("the disk is full"), "{refused:?}");
    let mut consumer = world.open().await;
    consumer.consume(1, consume("q", "c")).await;
    assert_eq!(consumer.delivery().await.body(), "0");
    // Who would not learn that a publish was refused is not listened to until there is room.
    let mut careless = world.open().await;
    publish(&mut careless, "q", &["2"]).await;
    assert!(matches!(careless.method().await, Method::ConnectionBlocked(_)));
    assert!(!careless.session.wants_input());
    assert!(careless.session.deadline().is_some(), "it is looked again whether there is room");
}

/// Has the session take events until it does not want input, or there are none for now.
async fn until_it_listens_no_more(client: &mut crate::client::Client) -> bool {
    while client.session.wants_input() {
        let Some(event) = client.events.recv().await else { return false };
        let was_published = matches!(event, posthaste_amqp::Event::Published(..));
        client.session.event(event, &mut client.out).await.unwrap();
        if was_published {
            break;
        }
    }
    !client.session.wants_input()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_consumers_do_not_keep_up_with_is_slowed_before_it_loses_anything() {
    let world = World::with(Limits { transient_bytes_per_queue_max: 20_000, ..Limits::default() });
    let mut publisher = world.open().await;
    publisher.declare(durable("q")).await;
    let body = vec![b'x'; 1_000];
    let transient = publish_octets(1, &to("", "q"), &BasicProperties::default(), &body);
    publisher.send_octets(&transient.repeat(12)).await;
    assert!(!until_it_listens_no_more(&mut publisher).await, "nobody consumes: waiting helps nobody");
    let mut consumer = world.open().await;
    consumer.call(1, &basic::Qos { prefetch_count: 1, ..Default::default() }).await;
    consumer.consume(1, consume("q", "c")).await;
    publisher.send_octets(&transient).await;
    assert!(until_it_listens_no_more(&mut publisher).await);
    tokio::time::sleep_until(publisher.session.deadline().unwrap()).await;
    publisher.session.timeout(&mut publisher.out).await.unwrap();
    assert!(publisher.session.wants_input(), "it is listened to again soon");
    assert_eq!(world.broker.metrics().refused.value(), 0);
}

/// Inverts a bit wherever a file of the journal holds a text.
fn rot(world: &World, text: &str) {
    use std::os::unix::fs::FileExt;
    let mut rotten = 0;
    for entry in std::fs::read_dir(world.folder().join("journal")).unwrap() {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(entry.unwrap().path()).unwrap();
        // What follows was never written to.
        let mut start = vec![0; 64 << 10];
        let read = file.read_at(&mut start, 0).unwrap();
        if let Some(at) = start[..read].windows(text.len()).position(|window| window == text.as_bytes()) {
            file.write_at(&[start[at] ^ 1], at as u64).unwrap();
            rotten += 1;
        }
    }
    assert_eq!(rotten, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_messages_are_passed_over_and_take_nobodys_prefetch() {
    // Nothing is served from memory.
    let world = World::with(Limits { recent_bytes_max: 1, ..Limits::default() });
    let mut client = world.open().await;
    client.declare(durable("q")).await;
    client.confirm_select(1).await;
    let all = ["first", "second", "third", "fourth", "fifth", "sixth"];
    for (body, tag) in all.iter().zip(1..) {
        publish(&mut client, "q", &[body]).await;
        told(&mut client, tag..=tag).await;
    }
    // The block that the journal is in the midst of is written again, from memory.
    client.declare(durable("other")).await;
    publish(&mut client, "other", &[&"x".repeat(8 << 10)]).await;
    told(&mut client, 7..=7).await;
    ["second", "fourth", "fifth"].iter().for_each(|text| rot(&world, text));
    client.call(1, &basic::Qos { prefetch_count: 1, ..Default::default() }).await;
    client.consume(1, consume("q", "c")).await;
    for expect in ["first", "third", "sixth"] {
        let delivery = client.delivery().await;
        assert_eq!(delivery.body(), expect);
        client.send(1, &basic::Ack { delivery_tag: delivery.tag(), multiple: false }).await;
    }
    nothing_more(&mut client).await;
    assert_eq!(world.broker.metrics().unreadable.value(), 3);
    assert_eq!(world.broker.damage_counts(), (3, 3));
}
