use crate::{queues::pattern_binding, support::*};
use posthaste_broker::{AppendBatch, ConsumeOptions, QueueDeclaration};
use posthaste_engine::{
    catalog::{NoHeaders, TopicConfig},
    command::Mode,
};
use posthaste_model::{Name, Pattern, Subject, Syntax, Timestamp};

const OPTIONS: ConsumeOptions =
    ConsumeOptions { credit: 1_000, mode: Mode::Settled, exclusive: false, priority: 0 };

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_bound_on_the_bus_feeds_queues_once_also_over_a_restart() {
    let f = Fixture::new().await;
    let topic = f.client.create_topic(&name("orders"), 4, TopicConfig::default()).await.unwrap();
    let append = |n: u64| {
        let (_, payload) = message("orders", n.to_string().as_bytes());
        AppendBatch { span: 1, timestamp: Timestamp(1), sequence: None, payload }
    };
    let write = async |f: &Fixture, numbers: std::ops::Range<u64>| {
        let mut batch = f.client.batch();
        for n in numbers {
            batch.append(part(&f.client, &topic, (n % 4) as usize), append(n));
        }
        submit(batch).await;
    };
    write(&f, 0..100).await;
    let queue = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    let queue = f.client.create_queue(&name("work"), queue).await.unwrap();
    f.client.bind(&name("amq.topic"), pattern_binding("work", "orders.#")).await.unwrap();
    write(&f, 100..200).await;
    let f = f.restart().await;
    write(&f, 200..300).await;
    let (sink, mut mailbox) = sink();
    f.client.consume(hold(&f.client, &queue), OPTIONS, sink).await.unwrap();
    let got = bodies(&receive(&f.broker, &mut mailbox, 200).await);
    for partition in 0..4 {
        let numbers: Vec<u64> =
            got.iter().map(|b| b.parse().unwrap()).filter(|n| n % 4 == partition).collect();
        let expect: Vec<u64> = (100..300).filter(|n| n % 4 == partition).collect();
        assert_eq!(numbers, expect, "each once, in the partition's order, from the binding on");
    }
    assert_eq!(ready(&f.client, "work").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_is_captured_by_topics_and_does_not_come_back() {
    let f = Fixture::new().await;
    let captures = vec![Pattern::parse("sensors.#", Syntax::DOTTED).unwrap()];
    let config = TopicConfig { captures, ..TopicConfig::default() };
    let topic = f.client.create_topic(&name("sensors"), 4, config).await.unwrap();
    let queue = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    f.client.create_queue(&name("work"), queue).await.unwrap();
    f.client.bind(&name("amq.topic"), pattern_binding("work", "sensors.#")).await.unwrap();
    for n in 0..40 {
        let mut batch = f.client.batch();
        let (_, payload) = message("", n.to_string().as_bytes());
        let subject = Subject::slashed(format!("sensors/{}/temp", n % 5)).unwrap();
        let envelope = posthaste_model::Envelope::new(subject, Timestamp(1));
        let routed = batch.publish(Some("amq.topic"), envelope, payload, &NoHeaders).unwrap();
        assert_eq!((routed.queues, routed.topics), (1, 1));
        submit(batch).await;
    }
    let mut by_device: std::collections::BTreeMap<String, Vec<(u64, u64)>> = Default::default();
    for (index, partition) in topic.partitions.iter().enumerate() {
        let log = log_of(&f.client, &topic, index);
        for entry in log.read(0, 1 << 20).await.unwrap() {
            let subject = entry.envelope.unwrap().subject.to_string();
            let number = String::from_utf8_lossy(&entry.payload.body).parse().unwrap();
            by_device.entry(subject).or_default().push((partition.id.0, number));
        }
    }
    assert_eq!(by_device.len(), 5);
    for readings in by_device.values() {
        assert!(readings.is_sorted_by_key(|(_, n)| n) && readings.len() == 8);
        assert!(
            readings.iter().all(|(partition, _)| *partition == readings[0].0),
            "one device, one partition"
        );
    }
    // The topic's own tap hands nothing of it on again.
    let f = f.restart().await;
    assert_eq!(ready(&f.client, "work").await, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_received_once_and_published_once() {
    let mut f = Fixture::new().await;
    let durable = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    let session = f.client.create_queue(&name("session"), durable.clone()).await.unwrap();
    let holder = hold(&f.client, &session);
    f.client.create_queue(&name("work"), durable).await.unwrap();
    let bus: Name = name("amq.topic");
    f.client.bind(&bus, pattern_binding("work", "a.b")).await.unwrap();
    for round in 0..3 {
        let (envelope, payload) = message("a.b", b"once");
        let new = f.client.receive(holder, 7, Some(bus.clone()), envelope, payload).await.unwrap();
        assert_eq!(new, round == 0);
        assert_eq!(f.client.session_state(holder).await.unwrap().1, [7]);
        f = f.restart().await;
    }
    let queue = f.client.queue("work").unwrap();
    let (sink, mut mailbox) = sink();
    f.client.consume(hold(&f.client, &queue), OPTIONS, sink).await.unwrap();
    assert_eq!(bodies(&receive(&f.broker, &mut mailbox, 1).await), ["once"]);
    f.client.forget(holder, 7).await.unwrap();
    let (envelope, payload) = message("a.b", b"twice");
    assert!(f.client.receive(holder, 7, Some(bus), envelope, payload).await.unwrap());
    assert_eq!(bodies(&receive(&f.broker, &mut mailbox, 1).await), ["twice"]);
}

/// A crash between arrival and the end of the outbox entry: what is sent again is recognized, whichever shard it
/// comes from.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_arrived_is_recognized_after_a_crash() {
    use posthaste_broker::{Broker, Config, Formats, storage::disk::SimDisk};
    let disk = SimDisk::new(3);
    let open = || {
        let config = Config {
            data: "data".into(),
            limits: posthaste_model::Limits::default(),
            formats: Formats::new([]),
            advertised: Default::default(),
            threads: Some(1),
        };
        let opened = || Broker::open_on(std::sync::Arc::new(disk.clone()), config, Box::new(|_| {}));
        tokio::task::block_in_place(opened).unwrap()
    };
    let bus: Name = name("amq.topic");
    let mut expect = 0;
    let mut broker = open();
    for round in 0..6 {
        let client = client_of(&broker).await;
        let session = format!("session-{round}");
        let durable = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
        if round == 0 {
            client.create_queue(&name("work"), durable.clone()).await.unwrap();
            client.bind(&bus, pattern_binding("work", "a.b")).await.unwrap();
        }
        let holder = hold(&client, &client.create_queue(&name(&session), durable).await.unwrap());
        for id in 0..20 {
            let (envelope, payload) = message("a.b", b"once");
            assert!(client.receive(holder, id, Some(bus.clone()), envelope, payload).await.unwrap());
            expect += 1;
        }
        // The power goes when everything has arrived; what was not synced yet may be gone.
        while ready(&client, "work").await < expect {
            tokio::task::yield_now().await;
        }
        disk.cut_power_after(0);
        tokio::task::block_in_place(|| broker.stop());
        disk.crash();
        broker = open();
        let client = client_of(&broker).await;
        // Another message through each outbox comes after whatever was sent again.
        let (envelope, payload) = message("a.b", b"last");
        client.receive(holder, 99, Some(bus.clone()), envelope, payload).await.unwrap();
        expect += 1;
        while ready(&client, "work").await < expect {
            tokio::task::yield_now().await;
        }
        assert_eq!(ready(&client, "work").await, expect, "round {round}");
    }
    tokio::task::block_in_place(|| broker.stop());
}
