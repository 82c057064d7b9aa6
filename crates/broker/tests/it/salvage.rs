//! Checkpoints that are damaged: what the journal still holds counts, wherever it lies.

use crate::{ground::Ground, support::*};
use posthaste_broker::{
    AppendBatch, Broker, Client, Config, Formats,
    stepped::{Checkpoints, Stepper, World},
};
use posthaste_engine::catalog::{Topic, TopicConfig};
use posthaste_model::{Limits, Timestamp};
use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicI64},
    task::{Context, Poll, Waker},
};
use tokio::sync::oneshot;

/// Of which so many come while a checkpoint is being made.
const MESSAGES: u64 = 60;
const MEANWHILE: u64 = 40;

fn config(checkpoint_every: u64) -> Config {
    let limits = Limits { journal_bytes_between_checkpoints: checkpoint_every, ..Limits::default() };
    Config {
        data: "data".into(),
        limits,
        formats: Formats::new([]),
        advertised: Default::default(),
        threads: Some(1),
    }
}

/// A broker whose checkpoints begin and end when the test wants it.
struct Stepped {
    broker: Broker,
    stepper: Stepper,
    checkpoints: Checkpoints,
}

impl Stepped {
    async fn open(ground: &Ground) -> Stepped {
        let world = World {
            home: ground.stepped_home(),
            clock: Arc::new(AtomicI64::new(1)),
            random: [1; 16],
            fatal: Box::new(|why| panic!("{why}")),
            ignores_checkpoints: false,
            keeps_journal: false,
        };
        let (broker, mut stepper, checkpoints) = Broker::open_stepped(world, config(1)).unwrap();
        stepper.begin();
        while !stepper.is_ready() {
            step(&mut stepper);
            tokio::task::yield_now().await;
        }
        Stepped { broker, stepper, checkpoints }
    }

    /// Lets everything happen that `done` waits for.
    async fn until<F: Future>(&mut self, done: F) -> F::Output {
        until(&mut self.stepper, done).await
    }
}

fn step(stepper: &mut Stepper) {
    (0..stepper.threads()).for_each(|thread| _ = stepper.engine(thread, usize::MAX));
    stepper.journal();
}

async fn until<F: Future>(stepper: &mut Stepper, done: F) -> F::Output {
    let mut done = pin!(done);
    loop {
        tokio::select! {
            biased;
            output = &mut done => return output,
            () = tokio::task::yield_now() => step(stepper),
        }
    }
}

/// Begins to append a message to the topic's partition.
fn append(client: &Client, topic: &Arc<Topic>, id: u64) -> oneshot::Receiver<posthaste_broker::Outcome> {
    let (_, payload) = message("log", &id.to_le_bytes());
    let mut batch = client.batch();
    batch.append(
        part(client, topic, 0),
        AppendBatch { span: 1, timestamp: Timestamp(1), sequence: None, payload },
    );
    let (done, outcome) = oneshot::channel();
    batch.submit(move |outcome| drop(done.send(outcome)));
    outcome
}

/// Messages that come while a checkpoint is being made are in its state and not in its segments: all else
/// that is known of them is in the journal.
async fn fill(ground: &Ground) {
    let mut it = Stepped::open(ground).await;
    let broker = it.broker.clone();
    let client = it.until(client_of(&broker)).await;
    it.until(client.create_topic(&name("log"), 1, TopicConfig::default())).await.unwrap();
    let topic = client.topic("log").unwrap();
    for id in 0..MESSAGES - MEANWHILE {
        let outcome = append(&client, &topic, id);
        it.until(outcome).await.unwrap();
    }
    let Stepped { stepper, checkpoints, .. } = &mut it;
    let mut checkpoint = pin!(checkpoints.make_if_due());
    let begun = checkpoint.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(
        begun,
        Poll::Pending,
        "it has asked for the streams, of which there are {}",
        MESSAGES - MEANWHILE
    );
    step(stepper);
    let outcomes: Vec<_> = (MESSAGES - MEANWHILE..MESSAGES).map(|id| append(&client, &topic, id)).collect();
    assert!(until(stepper, checkpoint).await);
    for outcome in outcomes {
        assert!(until(stepper, outcome).await.unwrap().refused.is_empty());
    }
}

/// The topic, whatever it is called now, and what is in it, by offset.
async fn read(client: &Client) -> (Arc<Topic>, Vec<(u64, u64)>) {
    let catalog = client.broker().catalog();
    let topics = catalog.namespaces().flat_map(|namespace| namespace.topics.values());
    let topic = topics.into_iter().next().unwrap().clone();
    let log = log_of(client, &topic, 0);
    let mut found = Vec::new();
    let mut next = log.start();
    while next < log.end() {
        let entries = log.read(next, 10_000).await.unwrap();
        let Some(last) = entries.last() else { break };
        next = last.offset + 1;
        let number = |body: &[u8]| u64::from_le_bytes(body.try_into().unwrap());
        found.extend(entries.iter().map(|entry| (entry.offset, number(&entry.payload.body))));
    }
    (topic, found)
}

/// The same damage on either ground costs nothing, and what comes next gets the offset that comes next,
/// although nothing was published since.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_checkpoints_cost_no_message_and_no_offset_wherever_the_journal_lies() {
    for ground in Ground::all() {
        fill(&ground).await;
        let deltas = ground.files().into_iter().map(|(file, _)| file).filter(|file| file.ends_with(".delta"));
        // The first block's checksum.
        assert!(deltas.map(|delta| ground.flip_bit(&delta, 33 * 8)).count() > 0);
        for next in [MESSAGES, MESSAGES + 1] {
            let broker = ground.open(config(u64::MAX));
            let client = client_of(&broker).await;
            let (topic, found) = read(&client).await;
            assert_eq!(found, (0..next).map(|id| (id, id)).collect::<Vec<_>>());
            assert!(append(&client, &topic, next).await.unwrap().refused.is_empty());
            assert_eq!(read(&client).await.1.last(), Some(&(next, next)));
            tokio::task::block_in_place(|| broker.stop());
        }
    }
}
