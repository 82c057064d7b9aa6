//! A full disk stops publishers, not consumers, and is over when there is space again.

use crate::support::*;
use posthaste_broker::{
    Broker, Config, Formats, QueueDeclaration,
    storage::disk::{SimDisk, Space},
};
use posthaste_engine::{
    command::{Mode, Outcome},
    effect::Refusal,
};
use posthaste_model::Limits;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

fn open_on(disk: &SimDisk) -> Broker {
    let config = Config {
        data: "data".into(),
        limits: Limits { reserve_bytes: 256 << 10, ..Limits::default() },
        formats: Formats::new([]),
        advertised: Default::default(),
        threads: Some(2),
    };
    let fatal = Box::new(|why: String| panic!("a full disk is not fatal: {why}"));
    tokio::task::block_in_place(|| Broker::open_on(Arc::new(disk.clone()), config, fatal)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_are_refused_while_settlements_go_on() {
    let disk = SimDisk::new(1);
    let broker = open_on(&disk);
    let client = client_of(&broker).await;
    let declaration = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    let queue = client.create_queue(&name("work"), declaration.clone()).await.unwrap();
    disk.set_capacity(Some(disk.used_bytes() + (1 << 20)));

    let mut accepted = 0u64;
    loop {
        let outcome = publish(&client, None, "work", &vec![1; 20_000]).await;
        match outcome.refused.first() {
            None => accepted += 1,
            Some((_, refusal)) => break assert_eq!(*refusal, Refusal::NoSpace),
        }
        assert!(accepted < 100_000, "the disk never fills");
    }
    assert!(broker.no_space());
    assert!(client.create_queue(&name("more"), declaration).await.is_err(), "new names need space too");

    let holder = hold(&client, &queue);
    let (deliveries, _) = client.pull(holder, 10, Mode::Lease).await.unwrap();
    let got = broker.resolve(deliveries).await;
    let positions: Vec<_> = got.iter().map(|r| (r.delivery.lane, r.delivery.position)).collect();
    let settled = positions.len() as u64;
    assert!(settled > 0);
    client.settle_durably(holder, positions, Outcome::Accept).await.unwrap();
    assert_eq!(ready(&client, "work").await, accepted - settled);

    let full = Instant::now();
    assert!(broker.no_space());
    disk.set_capacity(None);
    // The journal looks for space on its own; how soon is its affair.
    while !publish(&client, None, "work", b"again").await.refused.is_empty() {
        tokio::task::yield_now().await;
    }
    // Not at once: what a connection had sent behind a refused message must not overtake that. A second, by
    // clocks that count milliseconds.
    assert!(full.elapsed() >= Duration::from_millis(998), "{:?}", full.elapsed());
    tokio::task::block_in_place(|| broker.stop());
    drop((client, broker));
    let broker = open_on(&disk);
    let client = client_of(&broker).await;
    assert_eq!(ready(&client, "work").await, accepted - settled + 1);
    tokio::task::block_in_place(|| broker.stop());
}

/// As on thin storage, or where others fill a copy-on-write file system.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_whose_space_is_gone_waits_for_it_and_loses_nothing() {
    let disk = SimDisk::new(1);
    disk.set_space(Space::Thin);
    let broker = open_on(&disk);
    let client = client_of(&broker).await;
    let declaration = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    client.create_queue(&name("work"), declaration.clone()).await.unwrap();
    let earlier = client.create_queue(&name("earlier"), declaration).await.unwrap();
    for _ in 0..3 {
        assert!(publish(&client, None, "earlier", b"before").await.refused.is_empty());
    }

    disk.set_capacity(Some(disk.used_bytes()));
    let other = client_of(&broker).await;
    let waiting = tokio::spawn(async move { publish(&other, None, "work", &[1; 20_000]).await });
    while !broker.no_space() {
        tokio::task::yield_now().await;
    }
    let refused = publish(&client, None, "work", b"refused").await.refused;
    assert_eq!(refused.first().map(|(_, refusal)| *refusal), Some(Refusal::NoSpace));
    let (deliveries, _) = client.pull(hold(&client, &earlier), 10, Mode::Lease).await.unwrap();
    assert_eq!(broker.resolve(deliveries).await.len(), 3, "what is on the disk is delivered");
    assert!(!waiting.is_finished(), "what is not is not answered");

    disk.set_capacity(None);
    assert!(waiting.await.unwrap().refused.is_empty());
    while !publish(&client, None, "work", b"after").await.refused.is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::task::block_in_place(|| broker.stop());
    drop((client, broker));
    disk.crash();
    let broker = open_on(&disk);
    let client = client_of(&broker).await;
    assert_eq!(client.queue_state("earlier").await.unwrap().ready, 3);
    assert_eq!(client.queue_state("work").await.unwrap().ready, 2);
    drop(client);
    tokio::task::block_in_place(|| broker.stop());
}
