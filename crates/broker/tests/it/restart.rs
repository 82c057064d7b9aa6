use crate::support::*;
use posthaste_broker::{Error, QueueDeclaration};
use posthaste_engine::command::{Mode, Outcome};
use posthaste_model::Limits;

fn limits() -> Limits {
    Limits { journal_bytes_between_checkpoints: 2 << 20, recent_bytes_max: 1 << 20, ..Limits::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_and_ends_of_queues_survive_checkpoints_and_restarts() {
    holes_and_ends_survive(Fixture::with_limits(limits()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_and_ends_of_queues_survive_in_a_bucket() {
    holes_and_ends_survive(Fixture::in_bucket(limits()).await).await;
}

async fn holes_and_ends_survive(mut f: Fixture) {
    let declaration = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    let queue = f.client.create_queue(&name("work"), declaration).await.unwrap();
    let mut expect: Vec<u64> = Vec::new();
    let mut number = 0u64;
    for _ in 0..3 {
        let before = f.broker.metrics().checkpoints.value();
        while f.broker.metrics().checkpoints.value() == before {
            let mut batch = f.client.batch();
            for _ in 0..20 {
                let (envelope, payload) = message("work", &[&number.to_le_bytes()[..], &[0; 2_000]].concat());
                batch.enqueue(&to(&f.client, &queue), envelope, payload);
                expect.push(number);
                number += 1;
            }
            submit(batch).await;
            // Every third is settled, so that the queue is full of holes.
            let holder = hold(&f.client, &queue);
            let (deliveries, _) = f.client.pull(holder, 20, Mode::Lease).await.unwrap();
            let got = f.broker.resolve(deliveries).await;
            let settled: Vec<_> = got.iter().step_by(3).collect();
            let positions = settled.iter().map(|r| (r.delivery.lane, r.delivery.position)).collect();
            f.client.settle_durably(holder, positions, Outcome::Accept).await.unwrap();
            for done in settled {
                let number = u64::from_le_bytes(done.payload.body[..8].try_into().unwrap());
                expect.retain(|n| *n != number);
            }
            f.client.detach(holder).await;
        }
        f = f.restart_with(limits()).await;
        assert_eq!(ready(&f.client, "work").await, expect.len() as u64);
    }
    let mut found = Vec::new();
    let holder = hold(&f.client, &queue);
    loop {
        let (deliveries, _) = f.client.pull(holder, 500, Mode::Lease).await.unwrap();
        if deliveries.is_empty() {
            break;
        }
        let got = f.broker.resolve(deliveries).await;
        found.extend(got.iter().map(|r| u64::from_le_bytes(r.payload.body[..8].try_into().unwrap())));
    }
    assert_eq!(found, expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_durable_is_gone_and_what_was_deleted_stays_deleted() {
    let f = Fixture::new().await;
    let durable = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    f.client.create_queue(&name("volatile"), QueueDeclaration::default()).await.unwrap();
    let kept = f.client.create_queue(&name("kept"), durable.clone()).await.unwrap();
    f.client.create_queue(&name("deleted"), durable.clone()).await.unwrap();
    publish(&f.client, None, "deleted", b"x").await;
    assert_eq!(f.client.delete_queue("deleted", false, true).await, Err(Error::NotEmpty));
    assert_eq!(f.client.delete_queue("deleted", false, false).await, Ok(1));
    let mut batch = f.client.batch();
    let (mut envelope, payload) = message("kept", b"transient");
    batch.enqueue(&to(&f.client, &kept), envelope.clone(), payload.clone());
    envelope.durable = false;
    batch.enqueue(&to(&f.client, &kept), envelope, payload);
    submit(batch).await;
    assert_eq!(ready(&f.client, "kept").await, 2);
    let f = f.restart().await;
    assert!(matches!(f.client.queue("volatile"), Err(Error::NotFound(..))));
    assert!(matches!(f.client.queue("deleted"), Err(Error::NotFound(..))));
    assert_eq!(ready(&f.client, "kept").await, 1);
    // Ids are never reused.
    let again = f.client.create_queue(&name("deleted"), durable).await.unwrap();
    assert!(again.id > kept.id);
    assert_eq!(ready(&f.client, "deleted").await, 0);
}
