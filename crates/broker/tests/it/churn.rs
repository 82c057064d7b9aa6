//! What clients make and take away again leaves nothing behind.

use crate::{queues::pattern_binding, support::*};
use posthaste_broker::{ConsumeOptions, Footprint, QueueDeclaration};
use posthaste_engine::{
    catalog::{QueueConfig, TopicConfig},
    command::Mode,
};
use std::sync::Arc;

const OPTIONS: ConsumeOptions =
    ConsumeOptions { credit: 10, mode: Mode::Lease, exclusive: false, priority: 0 };
const ROUNDS: usize = 20;
const BUS: &str = "amq.topic";

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let waited = async {
        while !reached() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(30), waited).await;
    assert!(in_time.is_ok(), "{what}");
}

/// The mailboxes of consumers that were cancelled, detached or refused are let go, whatever is on its way to
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_leave_nothing_behind() {
    let f = Fixture::new().await;
    let declaration = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    let queue = f.client.create_queue(&name("work"), declaration).await.unwrap();
    let mut kept = Vec::new();
    for round in 0..ROUNDS {
        publish(&f.client, None, "work", b"message").await;
        let (sink, mailbox) = sink();
        let holder = hold(&f.client, &queue);
        f.client.consume(holder, OPTIONS, sink.clone()).await.unwrap();
        let alone = ConsumeOptions { exclusive: true, ..OPTIONS };
        assert!(f.client.consume(hold(&f.client, &queue), alone, sink.clone()).await.is_err());
        match round % 2 {
            0 => f.client.cancel(holder).await,
            _ => f.client.detach(holder).await,
        }
        kept.push((sink, mailbox));
    }
    until("every mailbox is let go", || kept.iter().all(|(sink, _)| Arc::strong_count(sink) == 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_leave_nothing_behind() {
    let f = Fixture::new().await;
    let before: Footprint = f.broker.footprint();
    for round in 0..ROUNDS {
        let client = client_of(&f.broker).await;
        let config = QueueConfig { priorities: 9, ..QueueConfig::default() };
        let declaration = QueueDeclaration { durable: true, config, ..QueueDeclaration::default() };
        client.create_queue(&name("work"), declaration).await.unwrap();
        let exclusive = QueueDeclaration { exclusive: true, ..QueueDeclaration::default() };
        client.create_queue(&name("mine"), exclusive).await.unwrap();
        for topic in ["one", "two", "three"] {
            client.create_topic(&name(topic), 3, TopicConfig::default()).await.unwrap();
        }
        for of in ["work", "mine"] {
            client.bind(&name(BUS), pattern_binding(of, "#")).await.unwrap();
        }
        for priority in 0..10 {
            let mut batch = client.batch();
            let (mut envelope, payload) = message("work", b"message");
            envelope.priority = priority;
            batch.enqueue(&client.queue_to("work").unwrap(), envelope, payload);
            submit(batch).await;
        }
        let made = f.broker.footprint();
        assert!(made.logs >= before.logs + 19 && made.taps == 9 && made.exclusive_owners == 1, "{made:?}");
        client.close().await;
        // In any order: a tap ends with its topic, or with the last queue that wanted it.
        let delete_queue = async || client.delete_queue("work", false, false).await.unwrap();
        if round % 2 == 0 {
            delete_queue().await;
        }
        for topic in ["one", "two", "three"] {
            client.delete_topic(&name(topic)).await.unwrap();
        }
        if round % 2 == 1 {
            delete_queue().await;
        }
        until("all of it goes", || f.broker.footprint() == before).await;
    }
}
