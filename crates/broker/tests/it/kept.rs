//! Large messages and batches stay in the journal's files when checkpoints are made.

use crate::support::*;
use posthaste_broker::{AppendBatch, QueueDeclaration};
use posthaste_engine::{
    catalog::{Topic, TopicConfig},
    command::{Mode, Outcome},
};
use posthaste_model::{Limits, Payload, Timestamp};
use std::{collections::BTreeSet, path::Path, sync::Arc};

const LARGE: usize = 40_000;
const SMALL: usize = 400;

fn limits() -> Limits {
    Limits {
        journal_bytes_between_checkpoints: 1 << 20,
        journal_file_bytes: 256 << 10,
        kept_entry_bytes_min: 10_000,
        recent_bytes_max: 200_000,
        ..Limits::default()
    }
}

/// Files that end so, and their bytes.
fn files(data: &Path, dir: &str, ending: &str) -> (usize, u64) {
    let entries = std::fs::read_dir(data.join(dir)).unwrap().map(Result::unwrap);
    let found = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(ending));
    found.fold((0, 0), |(files, bytes), entry| (files + 1, bytes + entry.metadata().unwrap().len()))
}

async fn append(f: &Fixture, topic: &Arc<Topic>, sizes: impl Iterator<Item = usize>, next: &mut u64) {
    let (_, payload) = message("t", b"");
    for size in sizes {
        let body = [&next.to_le_bytes()[..], &vec![*next as u8; size]].concat();
        let payload = Payload { body: body.into(), ..payload.clone() };
        let timestamp = Timestamp(*next as i64);
        let mut batch = f.client.batch();
        batch.append(part(&f.client, topic, 0), AppendBatch { span: 1, timestamp, sequence: None, payload });
        assert!(submit(batch).await.refused.is_empty());
        *next += 1;
    }
}

/// Everything from the start on is there, wherever reading begins.
async fn assert_whole(f: &Fixture, topic: &Arc<Topic>, end: u64) {
    let log = log_of(&f.client, topic, 0);
    assert_eq!(log.end(), end);
    for begin in [log.start(), (log.start() + end) / 2] {
        let mut next = begin;
        while next < end {
            for entry in log.read(next, 100_000).await.unwrap() {
                assert_eq!(entry.offset, next, "{:?}", f.broker.damage());
                assert_eq!(&entry.payload.body[..8], &next.to_le_bytes()[..]);
                assert!(entry.payload.body[8..].iter().all(|byte| *byte == next as u8));
                next += 1;
            }
        }
    }
    for wanted in [log.start(), (log.start() * 3 + end) / 4, end - 1] {
        let found = log.offset_at(Timestamp(wanted as i64)).await.unwrap();
        assert_eq!(found, Some((wanted, Timestamp(wanted as i64))));
    }
}

async fn next_checkpoint(f: &Fixture, topic: &Arc<Topic>, size: usize, next: &mut u64) {
    let before = f.broker.metrics().checkpoints.value();
    while f.broker.metrics().checkpoints.value() == before {
        append(f, topic, std::iter::repeat_n(size, 5), next).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_are_written_once_until_they_are_trimmed() {
    let mut f = Fixture::with_limits(limits()).await;
    let topic = f.client.create_topic(&name("t"), 1, TopicConfig::default()).await.unwrap();
    let mut next = 0;
    for _ in 0..3 {
        for _ in 0..3 {
            next_checkpoint(&f, &topic, LARGE, &mut next).await;
        }
        f = f.restart_with(limits()).await;
        assert_whole(&f, &topic, next).await;
    }
    // What a start or stop left in a file that is not full moves.
    let (_, moved) = files(&f.data, "segments", ".segment");
    assert!(moved < 4 * (256 << 10), "{moved} bytes of {} were copied", next * LARGE as u64);
    let (before, _) = files(&f.data, "journal", ".journal");
    assert!(before as u64 * (256 << 10) > next * LARGE as u64);

    f.client.trim(part(&f.client, &topic, 0), next - 1).await.unwrap();
    for _ in 0..3 {
        next_checkpoint(&f, &topic, SMALL, &mut next).await;
    }
    assert_whole(&f, &topic, next).await;
    f = f.restart_with(limits()).await;
    let (after, _) = files(&f.data, "journal", ".journal");
    assert!(after < before / 2, "{after} files of {before}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_and_what_has_moved_are_read_in_order() {
    let mut f = Fixture::with_limits(limits()).await;
    let topic = f.client.create_topic(&name("t"), 1, TopicConfig::default()).await.unwrap();
    let mut next = 0;
    for round in 0..6 {
        for size in [LARGE, SMALL, LARGE] {
            next_checkpoint(&f, &topic, size, &mut next).await;
        }
        let sizes = [SMALL, SMALL, LARGE, SMALL, LARGE, LARGE, SMALL];
        append(&f, &topic, sizes.into_iter().cycle().take(70), &mut next).await;
        assert_whole(&f, &topic, next).await;
        f.client.trim(part(&f.client, &topic, 0), next * round / 8).await.unwrap();
        if round % 2 == 1 {
            f = f.restart_with(limits()).await;
        }
        let log = log_of(&f.client, &topic, 0);
        assert_eq!(log.start(), next * round / 8);
        assert_whole(&f, &topic, next).await;
    }
    assert!(files(&f.data, "segments", ".segment").0 > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_queue_are_given_back_when_little_in_them_is_wanted() {
    let mut f = Fixture::with_limits(limits()).await;
    let declaration = QueueDeclaration { durable: true, ..QueueDeclaration::default() };
    let queue = f.client.create_queue(&name("work"), declaration).await.unwrap();
    let (mut number, mut left) = (0u64, BTreeSet::new());
    for round in 0..6 {
        let before = f.broker.metrics().checkpoints.value();
        let holder = hold(&f.client, &queue);
        while f.broker.metrics().checkpoints.value() < before + 3 || number < (round + 1) * 300 {
            let body = [&number.to_le_bytes()[..], &vec![number as u8; LARGE]].concat();
            assert!(publish(&f.client, None, "work", &body).await.refused.is_empty());
            left.insert(number);
            number += 1;
            // All but every tenth are settled at once; at first some of them later.
            if round >= 3 || number.is_multiple_of(15) {
                let (deliveries, _) = f.client.pull(holder, 500, Mode::Lease).await.unwrap();
                let got = f.broker.resolve(deliveries).await;
                let settled = got.iter().filter(|got| !number_in(&got.payload).is_multiple_of(10));
                let settled: Vec<_> = settled.collect();
                let positions =
                    settled.iter().map(|got| (got.delivery.lane, got.delivery.position)).collect();
                f.client.settle_durably(holder, positions, Outcome::Accept).await.unwrap();
                settled.iter().for_each(|got| assert!(left.remove(&number_in(&got.payload))));
            }
        }
        f.client.detach(holder).await;
        assert_eq!(f.broker.damage(), []);
        assert_eq!(f.broker.metrics().unreadable.value(), 0);
        f = f.restart_with(limits()).await;
        assert_eq!(ready(&f.client, "work").await, left.len() as u64);
    }
    // Three checkpoints more, and little of what was published is on the disk.
    let written = number * LARGE as u64;
    let before = f.broker.metrics().checkpoints.value();
    let mut found = BTreeSet::new();
    while found.len() < left.len() || f.broker.metrics().checkpoints.value() < before + 3 {
        if found.len() == left.len() {
            assert!(publish(&f.client, None, "work", &vec![0; LARGE]).await.refused.is_empty());
        }
        let holder = hold(&f.client, &queue);
        let (deliveries, _) = f.client.pull(holder, 500, Mode::Lease).await.unwrap();
        assert!(!deliveries.is_empty());
        let got = f.broker.resolve(deliveries).await;
        let positions = got.iter().map(|got| (got.delivery.lane, got.delivery.position)).collect();
        f.client.settle_durably(holder, positions, Outcome::Accept).await.unwrap();
        found.extend(got.iter().map(|got| number_in(&got.payload)).filter(|number| left.contains(number)));
    }
    assert_eq!(found, left);
    f = f.restart_with(limits()).await;
    let (_, journal) = files(&f.data, "journal", ".journal");
    let (_, segments) = files(&f.data, "segments", ".segment");
    assert!(journal + segments < written / 2, "{journal} and {segments} bytes of {written}");
}

fn number_in(payload: &Payload) -> u64 {
    let number = u64::from_le_bytes(payload.body[..8].try_into().unwrap());
    assert!(payload.body[8..].iter().all(|byte| *byte == number as u8), "a body was changed");
    number
}
