//! Exchanges, queues and bindings: what is refused, and in which words.

use crate::client::{World, refusal, short};
use posthaste_amqp::wire::{FieldTable, FieldValue, Method, basic, channel, confirm, exchange, queue, tx};

fn table(fields: &[(&'static str, FieldValue)]) -> FieldTable {
    fields.iter().map(|(name, value)| (short(name), value.clone())).collect()
}

fn declare(name: &'static str) -> queue::Declare {
    queue::Declare { queue: short(name), durable: true, ..Default::default() }
}

fn passive(name: &'static str) -> queue::Declare {
    queue::Declare { passive: true, ..declare(name) }
}

fn with(name: &'static str, fields: &[(&'static str, FieldValue)]) -> queue::Declare {
    queue::Declare { arguments: table(fields), ..declare(name) }
}

fn exchange(name: &'static str, kind: &'static str) -> exchange::Declare {
    exchange::Declare { exchange: short(name), r#type: short(kind), durable: true, ..Default::default() }
}

fn bind(name: &'static str, to: &'static str, key: &'static str) -> queue::Bind {
    queue::Bind { queue: short(name), exchange: short(to), routing_key: short(key), ..Default::default() }
}

/// Every answer that a fresh channel gives, in order of the list; those that close it as `CODE text`.
#[tokio::test(flavor = "multi_thread")]
async fn answers() {
    let world = World::new();
    let unbind =
        |name, from| queue::Unbind { queue: short(name), exchange: short(from), ..Default::default() };
    let delete = |name| exchange::Delete { exchange: short(name), ..Default::default() };
    let script: Vec<(Method, &str)> = vec![
        (with("q", &[("x-message-ttl", 1_000.into())]).into(), "queue.declare-ok"),
        (with("q", &[("x-message-ttl", FieldValue::LongLongInt(1_000))]).into(), "queue.declare-ok"),
        (passive("q").into(), "queue.declare-ok"),
        (
            declare("q").into(),
            "406 PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': \
                 received none but current is the value '1000' of type 'signedint'",
        ),
        (
            queue::Declare { durable: false, ..with("q", &[("x-message-ttl", 1_000.into())]) }.into(),
            "406 PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received \
                 'false' but current is 'true'",
        ),
        (
            queue::Declare { exclusive: true, ..declare("q") }.into(),
            "405 RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'",
        ),
        (
            with("new", &[("x-message-ttl", "a".into())]).into(),
            "406 PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue 'new' in vhost '/': \
                 \"expected integer, got longstr\"",
        ),
        (passive("new").into(), "404 NOT_FOUND - no queue 'new' in vhost '/'"),
        (
            declare("amq.mine").into(),
            "403 ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
        ),
        (declare("two\r\nlines").into(), "queue.declare-ok"),
        (passive("twolines").into(), "queue.declare-ok"),
        (exchange("x", "direct").into(), "exchange.declare-ok"),
        (exchange("x", "direct").into(), "exchange.declare-ok"),
        (
            exchange("x", "topic").into(),
            "406 PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost '/': received \
                 'topic' but current is 'direct'",
        ),
        (
            exchange::Declare { internal: true, ..exchange("x", "direct") }.into(),
            "406 PRECONDITION_FAILED - inequivalent arg 'internal' for exchange 'x' in vhost '/': \
                 received 'true' but current is 'false'",
        ),
        (
            exchange::Declare {
                arguments: table(&[("alternate-exchange", "ae".into())]),
                ..exchange("x", "direct")
            }
            .into(),
            "406 PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'x' in vhost \
                 '/': received the value 'ae' of type 'longstr' but current is none",
        ),
        (exchange("y", "nothing").into(), "406 PRECONDITION_FAILED - unknown exchange type 'nothing'"),
        (
            exchange("", "direct").into(),
            "403 ACCESS_REFUSED - operation not permitted on the default exchange",
        ),
        (exchange("amq.topic", "topic").into(), "exchange.declare-ok"),
        (
            exchange("amq.mine", "topic").into(),
            "403 ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
        ),
        (
            exchange("late", "x-delayed-message").into(),
            "406 PRECONDITION_FAILED - Invalid argument, 'x-delayed-type' must be an existing exchange type",
        ),
        (
            exchange::Declare {
                arguments: table(&[("x-delayed-type", "direct".into())]),
                ..exchange("late", "x-delayed-message")
            }
            .into(),
            "exchange.declare-ok",
        ),
        (
            exchange("late", "direct").into(),
            "406 PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'late' in vhost '/': \
                 received 'direct' but current is 'x-delayed-message'",
        ),
        (bind("q", "x", "k").into(), "queue.bind-ok"),
        (bind("q", "none", "k").into(), "404 NOT_FOUND - no exchange 'none' in vhost '/'"),
        (bind("none", "x", "k").into(), "404 NOT_FOUND - no queue 'none' in vhost '/'"),
        (bind("q", "", "k").into(), "403 ACCESS_REFUSED - operation not permitted on the default exchange"),
        (bind("", "x", "k").into(), "404 NOT_FOUND - no previously declared queue"),
        (
            queue::Bind { arguments: table(&[("x-match", "some".into())]), ..bind("q", "amq.headers", "") }
                .into(),
            "406 PRECONDITION_FAILED - Invalid x-match field value",
        ),
        (unbind("q", "none").into(), "queue.unbind-ok"),
        (unbind("none", "x").into(), "queue.unbind-ok"),
        (
            exchange::Delete { if_unused: true, ..delete("x") }.into(),
            "406 PRECONDITION_FAILED - exchange 'x' in vhost '/' in use",
        ),
        (
            delete("amq.topic").into(),
            "403 ACCESS_REFUSED - deletion of system exchange 'amq.topic' in vhost '/' not allowed",
        ),
        (delete("x").into(), "exchange.delete-ok"),
        (delete("x").into(), "exchange.delete-ok"),
        (queue::Delete { queue: short("none"), ..Default::default() }.into(), "queue.delete-ok"),
        (
            basic::Qos { prefetch_size: 1, ..Default::default() }.into(),
            "! 540 NOT_IMPLEMENTED - prefetch_size!=0 (1)",
        ),
        (basic::Recover { requeue: false }.into(), "! 540 NOT_IMPLEMENTED - requeue=false"),
        (
            basic::Ack { delivery_tag: 9, multiple: false }.into(),
            "406 PRECONDITION_FAILED - unknown delivery tag 9",
        ),
        (
            basic::Nack { delivery_tag: 9, multiple: true, requeue: true }.into(),
            "406 PRECONDITION_FAILED - unknown delivery tag 9",
        ),
        (
            basic::Reject { delivery_tag: 0, requeue: true }.into(),
            "406 PRECONDITION_FAILED - unknown delivery tag 0",
        ),
        (
            basic::Consume { queue: short("amq.rabbitmq.reply-to"), ..Default::default() }.into(),
            "406 PRECONDITION_FAILED - reply consumer cannot acknowledge",
        ),
        (channel::Flow { active: true }.into(), "channel.flow-ok"),
        (channel::Flow { active: false }.into(), "! 540 NOT_IMPLEMENTED - active=false"),
        (confirm::Select { no_wait: false }.into(), "confirm.select-ok"),
        (tx::Select {}.into(), "! 540 NOT_IMPLEMENTED - transactions are not supported"),
        (basic::QosOk {}.into(), "! 503 COMMAND_INVALID - unexpected basic.qos-ok"),
    ];
    let mut client = world.open().await;
    for (method, expect) in script {
        let answer = client.call(1, &method).await;
        let found = refusal(&answer).unwrap_or_else(|| answer.name().to_owned());
        assert!(found.starts_with(expect), "{found}\n{expect}\n{method:?}");
        match answer {
            Method::ChannelClose(_) => {
                client.send(1, &channel::CloseOk {}).await;
                client.open_channel(1).await;
            }
            Method::ConnectionClose(_) => client = world.open().await,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_declared_last_needs_no_name() {
    let world = World::new();
    let mut client = world.open().await;
    let Method::QueueDeclareOk(ok) =
        client.call(1, &queue::Declare { exclusive: true, ..Default::default() }).await
    else {
        panic!("no declare-ok")
    };
    let name = ok.queue.as_str().unwrap().to_owned();
    assert!(name.starts_with("amq.gen-"), "{name}");
    // No name and no key: the key is the name.
    assert_eq!(client.call(1, &bind("", "amq.direct", "")).await, queue::BindOk {}.into());
    let to_itself =
        basic::Publish { exchange: short("amq.direct"), routing_key: ok.queue, ..Default::default() };
    let octets = crate::client::publish_octets(1, &to_itself, &Default::default(), b"x");
    client.send_octets(&octets).await;
    assert!(client.get("", true).await.is_some());
    // A channel opened anew has declared nothing.
    client.call(1, &channel::Close::default()).await;
    client.open_channel(1).await;
    let answer = client.call(1, &basic::Get::default()).await;
    assert_eq!(refusal(&answer).unwrap(), "404 NOT_FOUND - no previously declared queue");
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_queues_belong_to_their_connection() {
    let world = World::new();
    let (mut owner, mut other) = (world.open().await, world.open().await);
    owner.declare(queue::Declare { queue: short("mine"), exclusive: true, ..Default::default() }).await;
    let methods: [Method; 5] = [
        passive("mine").into(),
        bind("mine", "amq.direct", "k").into(),
        queue::Purge { queue: short("mine"), no_wait: false }.into(),
        queue::Delete { queue: short("mine"), ..Default::default() }.into(),
        basic::Consume { queue: short("mine"), ..Default::default() }.into(),
    ];
    for method in methods {
        let answer = other.call(1, &method).await;
        assert!(refusal(&answer).is_some_and(|text| text.starts_with("405 RESOURCE_LOCKED")), "{answer:?}");
        other.send(1, &channel::CloseOk {}).await;
        other.open_channel(1).await;
    }
    owner.close().await;
    let answer = other.call(1, &passive("mine")).await;
    assert!(refusal(&answer).unwrap().starts_with("404"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_answered_who_does_not_wait() {
    let world = World::new();
    let mut client = world.open().await;
    let methods: [Method; 6] = [
        exchange::Declare { no_wait: true, ..exchange("x", "fanout") }.into(),
        queue::Declare { no_wait: true, ..declare("q") }.into(),
        queue::Bind { no_wait: true, ..bind("q", "x", "") }.into(),
        basic::Consume { queue: short("q"), consumer_tag: short("t"), no_wait: true, ..Default::default() }
            .into(),
        basic::Cancel { consumer_tag: short("t"), no_wait: true }.into(),
        queue::Purge { queue: short("q"), no_wait: true }.into(),
    ];
    for method in methods {
        client.send(1, &method).await;
    }
    assert_eq!(client.ready("q").await, 0);
}
