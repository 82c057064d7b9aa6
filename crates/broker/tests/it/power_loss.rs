//! The power goes at any moment, on a disk that forgets, tears and reorders what was not synced.

use crate::support::*;
use posthaste_broker::{
    AppendBatch, Broker, Client, Config, Formats, QueueDeclaration,
    storage::{Random, disk::SimDisk},
};
use posthaste_engine::{catalog::TopicConfig, command::Mode};
use posthaste_model::{Limits, Timestamp};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::watch;

const PUBLISHERS: u64 = 4;
const SEEDS: u64 = 8;

/// A broker on a simulated disk; `dark` turns true when its journal can no longer write.
fn open_on(disk: &SimDisk, dark: &watch::Sender<bool>, keeps_files: bool) -> Broker {
    let mut limits = Limits { journal_bytes_between_checkpoints: 200_000, ..Limits::default() };
    if keeps_files {
        (limits.journal_file_bytes, limits.kept_entry_bytes_min) = (64 << 10, 200);
    }
    let config = Config {
        data: "data".into(),
        limits,
        formats: Formats::new([]),
        advertised: Default::default(),
        threads: Some(2),
    };
    let dark = dark.clone();
    let fatal = Box::new(move |_| {
        dark.send_replace(true);
    });
    tokio::task::block_in_place(|| Broker::open_on(Arc::new(disk.clone()), config, fatal)).unwrap()
}

/// Publishes numbers of its own to a queue and a partition until nothing is acknowledged any more.
async fn publisher(client: Client, number: u64, mut dark: watch::Receiver<bool>) -> BTreeSet<u64> {
    let queue = client.queue("work").unwrap();
    let partition = part(&client, &client.topic("log").unwrap(), number as usize % 3);
    let mut safe = BTreeSet::new();
    for n in 0.. {
        let id = n * PUBLISHERS + number;
        let body = [&id.to_le_bytes()[..], &vec![7; (id % 900) as usize]].concat();
        let (envelope, payload) = message("work", &body);
        let mut batch = client.batch();
        batch.enqueue(&to(&client, &queue), envelope, payload.clone());
        batch.append(partition, AppendBatch { span: 1, timestamp: Timestamp(1), sequence: None, payload });
        let (done, outcome) = tokio::sync::oneshot::channel();
        batch.submit(move |outcome| drop(done.send(outcome)));
        tokio::select! {
            outcome = outcome => assert!(outcome.unwrap().refused.is_empty()),
            _ = dark.wait_for(|dark| *dark) => return safe,
        }
        safe.insert(id);
    }
    safe
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_when_the_power_comes_back() {
    for seed in 0..SEEDS {
        let dark = watch::Sender::new(false);
        let disk = SimDisk::new(seed);
        let mut random = Random::new(seed);
        let broker = open_on(&disk, &dark, seed % 2 == 1);
        let client = client_of(&broker).await;
        let declaration = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
        client.create_queue(&name("work"), declaration).await.unwrap();
        client.create_topic(&name("log"), 3, TopicConfig::default()).await.unwrap();
        let tasks: Vec<_> =
            (0..PUBLISHERS).map(|n| tokio::spawn(publisher(client.clone(), n, dark.subscribe()))).collect();
        disk.cut_power_after(50 + random.below(1_500));
        let mut safe = BTreeSet::new();
        for task in tasks {
            safe.extend(task.await.unwrap());
        }
        tokio::task::block_in_place(|| broker.stop());
        drop((client, broker));
        disk.crash();

        let broker = open_on(&disk, &dark, seed % 2 == 1);
        let client = client_of(&broker).await;
        let found = drain(&broker, &client).await;
        let missing: Vec<_> = safe.difference(&found.iter().copied().collect()).copied().collect();
        assert!(missing.is_empty(), "seed {seed}: {} of {} lost: {missing:?}", missing.len(), safe.len());
        check_order(&found, seed);
        let logged = read_log(&client).await;
        let all: BTreeSet<u64> = logged.iter().flatten().copied().collect();
        assert!(safe.is_subset(&all), "seed {seed}: records lost");
        logged.iter().for_each(|partition| check_order(partition, seed));
        assert!(safe.len() > 5, "seed {seed}: the run was too short to say anything");
        tokio::task::block_in_place(|| broker.stop());
    }
}

/// Each publisher's numbers ascend, and no more than one of them was on its way when the power went.
fn check_order(found: &[u64], seed: u64) {
    for publisher in 0..PUBLISHERS {
        let numbers: Vec<u64> = found.iter().filter(|id| *id % PUBLISHERS == publisher).copied().collect();
        assert!(numbers.windows(2).all(|w| w[0] + PUBLISHERS == w[1]), "seed {seed}: {numbers:?}");
    }
}

async fn drain(broker: &Broker, client: &Client) -> Vec<u64> {
    let queue = client.queue("work").unwrap();
    let mut found = Vec::new();
    loop {
        let (deliveries, _) = client.pull(hold(client, &queue), 1_000, Mode::Lease).await.unwrap();
        if deliveries.is_empty() {
            return found;
        }
        for resolved in broker.resolve(deliveries).await {
            found.push(number_in(&resolved.payload.body));
        }
    }
}

async fn read_log(client: &Client) -> Vec<Vec<u64>> {
    let mut partitions = Vec::new();
    let topic = client.topic("log").unwrap();
    for partition in 0..topic.partitions.len() {
        let log = log_of(client, &topic, partition);
        let mut numbers = Vec::new();
        let mut next = log.start();
        while next < log.end() {
            for entry in log.read(next, 1 << 20).await.unwrap() {
                numbers.push(number_in(&entry.payload.body));
                next = entry.offset + 1;
            }
        }
        partitions.push(numbers);
    }
    partitions
}

/// The number that a body was made from; the rest of it must be what it was made with.
fn number_in(body: &[u8]) -> u64 {
    let id = u64::from_le_bytes(body[..8].try_into().unwrap());
    assert!(body[8..].len() as u64 == id % 900 && body[8..].iter().all(|b| *b == 7), "a body was changed");
    id
}
