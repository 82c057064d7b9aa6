use crate::support::*;
use bytes::Bytes;
use posthaste_broker::{AppendBatch, Error};
use posthaste_engine::{catalog::TopicConfig, effect::Refusal, event::Sequence};
use posthaste_model::{Limits, Payload, Timestamp};
use std::sync::Arc;
use tokio::sync::Notify;

fn batch_of(span: u32, body: Vec<u8>, at: i64, sequence: Option<Sequence>) -> AppendBatch {
    let (_, payload) = message("t", &body);
    AppendBatch {
        span,
        timestamp: Timestamp(at),
        sequence,
        payload: Payload { body: Bytes::from(body), ..payload },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn appended_batches_are_read_back_whole_by_any_offset_in_them() {
    let f = Fixture::new().await;
    let topic = f.client.create_topic(&name("t"), 3, TopicConfig::default()).await.unwrap();
    let partition = part(&f.client, &topic, 1);
    let log = log_of(&f.client, &topic, 1);
    let changed = Arc::new(Notify::new());
    log.watch(&changed);
    for n in 0..50u8 {
        let mut batch = f.client.batch();
        batch.append(partition, batch_of(10, vec![n; 5_000], i64::from(n) * 100, None));
        let outcome = submit(batch).await;
        assert_eq!(outcome.appended, [(0, u64::from(n) * 10, false)]);
    }
    changed.notified().await;
    assert_eq!((log.start(), log.end()), (0, 500));
    for from in [0, 9, 10, 255, 499] {
        let entries = log.read(from, 12_000).await.unwrap();
        assert_eq!(entries[0].offset, from / 10 * 10);
        assert_eq!(entries[0].payload.body, vec![(from / 10) as u8; 5_000]);
        assert!(entries.len() <= 2, "two batches fill the bytes asked for");
    }
    assert!(log.read(500, 1).await.unwrap().is_empty());
    assert_eq!(log.offset_at(Timestamp(250)).await.unwrap(), Some((30, Timestamp(300))));
    assert_eq!(log.offset_at(Timestamp(100_000)).await.unwrap(), None);
    assert_eq!(f.client.trim(part(&f.client, &topic, 1), 125).await.unwrap(), 125);
    f.client.delete_topic(&name("t")).await.unwrap();
    assert_eq!(
        f.client.delete_topic(&name("t")).await.map_err(|e| matches!(e, Error::NotFound(..))),
        Err(true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_producer_is_held_to_its_numbers_also_after_a_restart() {
    let mut f = Fixture::new().await;
    let topic = f.client.create_topic(&name("t"), 1, TopicConfig::default()).await.unwrap();
    let partition = part(&f.client, &topic, 0);
    let producer = f.client.producer_id().await.unwrap();
    let sequence = |first| Some(Sequence { producer, epoch: 0, first, count: 5 });
    for round in 0..2 {
        let mut batch = f.client.batch();
        for first in [0, 5, 0, 20] {
            batch.append(partition, batch_of(5, vec![1], 0, sequence(first)));
        }
        let outcome = submit(batch).await;
        let fresh = round == 1;
        assert_eq!(outcome.appended, [(0, 0, fresh), (1, 5, fresh), (2, 0, true)]);
        assert_eq!(outcome.refused, [(3, Refusal::OutOfSequence)]);
        f = f.restart().await;
    }
    assert!(f.client.producer_id().await.unwrap() > producer);
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_move_what_is_kept_into_segments_and_nothing_is_missing() {
    let limits = || Limits {
        journal_bytes_between_checkpoints: 4 << 20,
        recent_bytes_max: 1 << 20,
        ..Limits::default()
    };
    let mut f = Fixture::with_limits(limits()).await;
    let topic = f.client.create_topic(&name("t"), 1, TopicConfig::default()).await.unwrap();
    let partition = part(&f.client, &topic, 0);
    let mut written = 0u64;
    for round in 0..3 {
        let before = f.broker.metrics().checkpoints.value();
        // Goes on until a checkpoint was made meanwhile, so that reading crosses from segments into the
        // journal.
        while f.broker.metrics().checkpoints.value() == before {
            let mut batch = f.client.batch();
            for _ in 0..50 {
                let body = [&written.to_le_bytes()[..], &vec![round; 3_000]].concat();
                batch.append(partition, batch_of(1, body, written as i64, None));
                written += 1;
            }
            assert!(submit(batch).await.refused.is_empty());
        }
        f = f.restart_with(limits()).await;
        let log = log_of(&f.client, &topic, 0);
        assert_eq!(log.end(), written);
        let mut next = 0;
        while next < written {
            for entry in log.read(next, 1 << 20).await.unwrap() {
                assert_eq!((entry.offset, &entry.payload.body[..8]), (next, &next.to_le_bytes()[..]));
                next += 1;
            }
        }
        assert_eq!(log.offset_at(Timestamp(written as i64 / 2)).await.unwrap().unwrap().0, written / 2);
    }
}

/// Settings that no record of the journal could hold are refused, and nothing is made.
#[tokio::test(flavor = "multi_thread")]
async fn settings_beyond_what_can_be_stored_are_refused() {
    let f = Fixture::new().await;
    let words = |n: usize| (0..250).map(|word| format!("word-{n}-{word}")).collect::<Vec<_>>().join(".");
    let captures = (0..2_000)
        .map(|n| posthaste_model::Pattern::parse(&words(n), posthaste_model::Syntax::DOTTED).unwrap())
        .collect();
    let config = TopicConfig { captures, ..TopicConfig::default() };
    let refused = f.client.create_topic(&name("wide"), 1, config).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert!(f.client.topic("wide").is_err());
    f.client.create_topic(&name("wide"), 1, TopicConfig::default()).await.unwrap();
}
