//! A full disk stops publishers, not consumers, and is over when there is space again.

use crate::support::*;
use posthaste_broker::{Broker, Config, Formats, QueueDeclaration, storage::disk::SimDisk};
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
