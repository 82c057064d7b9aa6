//! What goes from one queue or topic to another, whatever becomes of the two: each message arrives, and once.

use crate::{queues::pattern_binding, support::*};
use posthaste_broker::{
    AppendBatch, Broker, Client, Config, Formats, QueueDeclaration,
    storage::disk::{Disk, SimDisk},
};
use posthaste_engine::{
    catalog::{DeadLetter, Overflow, QueueConfig, TopicConfig},
    command::{Mode, Outcome},
};
use posthaste_model::{DeathReason, Limits, Subject, Timestamp};
use std::sync::Arc;

const BUS: &str = "amq.topic";

fn open_on(disk: &SimDisk) -> Broker {
    let config = Config {
        data: "data".into(),
        limits: Limits::default(),
        formats: Formats::new([]),
        advertised: Default::default(),
        threads: Some(2),
    };
    let opened = || Broker::open_on(Arc::new(disk.clone()), config, Box::new(|_| {}));
    tokio::task::block_in_place(opened).unwrap_or_else(|error| panic!("{error}"))
}

/// Stops the broker as a power cut does, and starts it again.
fn cut_power(disk: &SimDisk, broker: &Broker) -> Broker {
    disk.cut_power_after(0);
    tokio::task::block_in_place(|| broker.stop());
    disk.crash();
    open_on(disk)
}

async fn queue(client: &Client, of: &str, change: impl FnOnce(&mut QueueConfig)) {
    let mut declaration = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    change(&mut declaration.config);
    client.create_queue(&name(of), declaration).await.unwrap();
}

/// Rejected messages go to the queue `dead`.
fn to_dead(config: &mut QueueConfig) {
    let subject = Some(Subject::dotted("dead").unwrap());
    config.dead_letter = Some(DeadLetter { exchange: None, subject });
}

/// Takes one message at a time.
fn narrow(config: &mut QueueConfig) {
    (config.length_max, config.overflow) = (Some(1), Overflow::Reject);
}

async fn fill(client: &Client, of: &str, messages: usize) {
    let mut batch = client.batch();
    let queue = client.queue_to(of).unwrap();
    for n in 0..messages {
        let (envelope, payload) = message(of, n.to_string().as_bytes());
        batch.enqueue(&queue, envelope, payload);
    }
    assert!(submit(batch).await.refused.is_empty());
}

/// Rejects all that is ready; the answer is there when it lasts.
async fn reject_all(client: &Client, of: &str) {
    let holder = hold(client, &client.queue(of).unwrap());
    let (deliveries, left) = client.pull(holder, u32::MAX, Mode::Lease).await.unwrap();
    assert_eq!(left, 0);
    let deliveries = deliveries.iter().map(|d| (d.lane, d.position)).collect();
    client.settle_durably(holder, deliveries, Outcome::Reject(DeathReason::Rejected)).await.unwrap();
}

async fn until_ready(client: &Client, of: &str, count: u64) {
    let reached = async {
        while ready(client, of).await < count {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), reached).await;
    assert!(waited.is_ok(), "{of} has {} of {count} messages", ready(client, of).await);
    assert_eq!(ready(client, of).await, count);
}

/// Takes the next message off a queue for good.
async fn take(client: &Client, of: &str) -> String {
    until_ready(client, of, 1).await;
    let holder = hold(client, &client.queue(of).unwrap());
    let (deliveries, _) = client.pull(holder, 1, Mode::Settled).await.unwrap();
    bodies(&client.broker().resolve(deliveries).await).remove(0)
}

/// Takes a message with an id, for the bus.
async fn relay(client: &Client, session: &str, id: u32, subject: &str, body: &str) {
    let session = hold(client, &client.queue(session).unwrap());
    let (envelope, payload) = message(subject, body.as_bytes());
    assert!(client.receive(session, id, Some(name(BUS)), envelope, payload).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_a_queue_that_is_deleted_arrive() {
    const MESSAGES: usize = 2_000;
    for (if_unused, if_empty) in [(false, false), (true, true)] {
        let f = Fixture::new().await;
        queue(&f.client, "dead", |_| {}).await;
        queue(&f.client, "work", to_dead).await;
        fill(&f.client, "work", MESSAGES).await;
        reject_all(&f.client, "work").await;
        assert_eq!(f.client.delete_queue("work", if_unused, if_empty).await.unwrap(), 0);
        assert!(f.client.queue("work").is_err());
        // Also if the broker stops in between.
        let f = f.restart().await;
        until_ready(&f.client, "dead", MESSAGES as u64).await;
        assert_eq!(f.broker.metrics().unreadable.value(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_gets_its_dead_letters_when_it_has_room() {
    let f = Fixture::new().await;
    queue(&f.client, "dead", narrow).await;
    queue(&f.client, "work", to_dead).await;
    fill(&f.client, "work", 5).await;
    reject_all(&f.client, "work").await;
    assert_eq!(take(&f.client, "dead").await, "0");
    // They outlive their queue and a restart.
    f.client.delete_queue("work", false, false).await.unwrap();
    let f = f.restart().await;
    for n in 1..5 {
        assert_eq!(take(&f.client, "dead").await, n.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_holds_up_neither_other_queues_nor_what_is_taken_with_an_id() {
    let f = Fixture::new().await;
    queue(&f.client, "session", |_| {}).await;
    queue(&f.client, "narrow", narrow).await;
    queue(&f.client, "wide", |_| {}).await;
    for of in ["narrow", "wide"] {
        f.client.bind(&name(BUS), pattern_binding(of, "a.#")).await.unwrap();
    }
    for id in 0..5 {
        relay(&f.client, "session", id, "a.b", &id.to_string()).await;
    }
    until_ready(&f.client, "wide", 5).await;
    let f = f.restart().await;
    for n in 0..5 {
        assert_eq!(take(&f.client, "narrow").await, n.to_string());
    }
    assert_eq!(ready(&f.client, "wide").await, 5, "none twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_holds_up_a_topic_for_itself_only() {
    let f = Fixture::new().await;
    let topic = f.client.create_topic(&name("orders"), 1, TopicConfig::default()).await.unwrap();
    queue(&f.client, "narrow", narrow).await;
    queue(&f.client, "wide", |_| {}).await;
    for of in ["narrow", "wide"] {
        f.client.bind(&name(BUS), pattern_binding(of, "orders")).await.unwrap();
    }
    let write = async |client: &Client, from: u64, to: u64| {
        for n in from..to {
            let mut batch = client.batch();
            let (_, payload) = message("orders", n.to_string().as_bytes());
            let append = AppendBatch { span: 1, timestamp: Timestamp(1), sequence: None, payload };
            batch.append(part(client, &topic, 0), append);
            submit(batch).await;
        }
    };
    write(&f.client, 0, 4).await;
    until_ready(&f.client, "wide", 4).await;
    assert_eq!(take(&f.client, "narrow").await, "0");
    let f = f.restart().await;
    write(&f.client, 4, 6).await;
    until_ready(&f.client, "wide", 6).await;
    for n in 1..6 {
        assert_eq!(take(&f.client, "narrow").await, n.to_string());
    }
    assert_eq!((ready(&f.client, "narrow").await, ready(&f.client, "wide").await), (0, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_goes_where_it_went() {
    let f = Fixture::new().await;
    queue(&f.client, "session", |_| {}).await;
    queue(&f.client, "dead", narrow).await;
    queue(&f.client, "work", to_dead).await;
    let captures = vec![posthaste_model::Pattern::parse("a.#", posthaste_model::Syntax::DOTTED).unwrap()];
    let config = TopicConfig { captures, ..TopicConfig::default() };
    f.client.create_topic(&name("log"), 1, config).await.unwrap();
    f.client.bind(&name(BUS), pattern_binding("dead", "a.#")).await.unwrap();
    // The full queue keeps all of these in the outboxes of their shards.
    fill(&f.client, "dead", 1).await;
    for id in 0..20 {
        relay(&f.client, "session", id, &format!("a.{id}"), "relayed").await;
    }
    fill(&f.client, "work", 3).await;
    reject_all(&f.client, "work").await;
    // More places that they would go to, were they routed again.
    f.client.add_partitions(&name("log"), 8).await.unwrap();
    queue(&f.client, "late", |_| {}).await;
    f.client.bind(&name(BUS), pattern_binding("late", "a.#")).await.unwrap();
    let f = f.restart().await;
    for _ in 0..24 {
        take(&f.client, "dead").await;
    }
    let mut in_topic = 0;
    let topic = f.client.topic("log").unwrap();
    for partition in 0..topic.partitions.len() {
        in_topic += log_of(&f.client, &topic, partition).end();
    }
    assert_eq!((in_topic, ready(&f.client, "late").await), (20, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_not_given_out_again_after_damage() {
    let disk = SimDisk::new(5);
    let broker = open_on(&disk);
    let client = client_of(&broker).await;
    queue(&client, "session", |_| {}).await;
    queue(&client, "work", |_| {}).await;
    client.bind(&name(BUS), pattern_binding("work", "a.b")).await.unwrap();
    for id in 0..3 {
        relay(&client, "session", id, "a.b", &format!("before the damage {id}")).await;
    }
    until_ready(&client, "work", 3).await;
    disk.cut_power_after(0);
    tokio::task::block_in_place(|| broker.stop());
    disk.crash();
    assert!(flip_bit_in_first(&disk, b"before the damage 2"), "the journal holds it");
    let broker = open_on(&disk);
    assert!(!broker.damage().is_empty());
    let client = client_of(&broker).await;
    for id in 10..13 {
        relay(&client, "session", id, "a.b", "after the damage").await;
    }
    until_ready(&client, "work", 6).await;
}

/// Finds bytes in the journal's files, and flips a bit in their first place.
fn flip_bit_in_first(disk: &SimDisk, wanted: &[u8]) -> bool {
    disk.list("journal").unwrap().into_iter().any(|entry| {
        let path = format!("journal/{}", entry.name);
        let mut bytes = vec![0; disk.written_bytes(&path) as usize];
        disk.open(&path).unwrap().read_at(0, &mut bytes).unwrap();
        let at = bytes.windows(wanted.len()).position(|window| window == wanted);
        at.is_some_and(|at| disk.flip_bit(&path, 8 * at as u64))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_is_whole_or_did_not_happen_wherever_the_power_goes() {
    let mut outcomes = std::collections::BTreeSet::new();
    let is_each_seen = |outcomes: &std::collections::BTreeSet<(bool, bool)>| {
        outcomes.contains(&(true, true)) && outcomes.contains(&(false, false))
    };
    for seed in 0..400 {
        // How many operations a delete takes depends on how busy the machine is.
        if seed >= 40 && is_each_seen(&outcomes) {
            break;
        }
        let operations = seed % 40;
        let disk = SimDisk::new(seed);
        let broker = open_on(&disk);
        let client = client_of(&broker).await;
        queue(&client, "work", |_| {}).await;
        fill(&client, "work", 10).await;
        client.create_topic(&name("log"), 2, TopicConfig::default()).await.unwrap();
        let topic = client.topic("log").unwrap();
        for partition in 0..topic.partitions.len() {
            let (_, payload) = message("log", b"kept");
            let mut batch = client.batch();
            let append = AppendBatch { span: 10, timestamp: Timestamp(1), sequence: None, payload };
            batch.append(part(&client, &topic, partition), append);
            submit(batch).await;
        }
        disk.cut_power_after(operations);
        let log = name("log");
        let deletes = async {
            let _ = tokio::join!(client.delete_queue("work", false, false), client.delete_topic(&log));
        };
        // With the power gone nobody answers.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(50), deletes).await;
        let broker = cut_power(&disk, &broker);
        let client = client_of(&broker).await;
        let queue_left = client.queue("work").is_ok();
        if queue_left {
            assert_eq!(ready(&client, "work").await, 10, "after {operations} operations");
        }
        let topic_left = client.topic("log").is_ok();
        if topic_left {
            for partition in 0..topic.partitions.len() {
                assert_eq!(log_of(&client, &topic, partition).end(), 10, "after {operations} operations");
            }
        }
        outcomes.insert((queue_left, topic_left));
        tokio::task::block_in_place(|| broker.stop());
    }
    assert!(is_each_seen(&outcomes), "{outcomes:?}");
}
