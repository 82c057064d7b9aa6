//! A broker on a temporary directory, and the few words that tests speak to it.

use bytes::Bytes;
use posthaste_broker::{
    Allowed, Broker, Client, Config, DeliverySink, Formats, Holder, Outcome, PartitionLog, Protected,
    Resolved, encode_message, right::Right,
};
use posthaste_engine::{
    Delivery,
    catalog::{NoHeaders, Partition, Queue, Topic},
};
use posthaste_model::{ConsumerId, Envelope, Limits, Message, Name, Payload, Subject};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot};

pub struct Fixture {
    pub directory: tempfile::TempDir,
    /// A path below the directory, or the address of a bucket there.
    pub data: PathBuf,
    pub broker: Broker,
    pub client: Client,
}

pub fn open(path: &Path, limits: Limits) -> Broker {
    let config = Config {
        data: path.to_owned(),
        limits,
        formats: Formats::new([]),
        advertised: Default::default(),
        threads: Some(2),
    };
    tokio::task::block_in_place(|| Broker::open(config)).unwrap()
}

pub async fn client_of(broker: &Broker) -> Client {
    broker.system_client("test", name("default"), broker.next_connection())
}

impl Fixture {
    pub async fn new() -> Fixture {
        Fixture::with_limits(Limits::default()).await
    }

    pub async fn with_limits(limits: Limits) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        Fixture::on(directory, data, limits).await
    }

    /// As [`Fixture::with_limits`], on a bucket that is a directory.
    pub async fn in_bucket(limits: Limits) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("file://{}/bucket", directory.path().display());
        Fixture::on(directory, address.into(), limits).await
    }

    async fn on(directory: tempfile::TempDir, data: PathBuf, limits: Limits) -> Fixture {
        let broker = open(&data, limits);
        let client = client_of(&broker).await;
        Fixture { directory, data, broker, client }
    }

    /// Stops the broker in an orderly way and starts it again on what it left.
    pub async fn restart(self) -> Fixture {
        self.restart_with(Limits::default()).await
    }

    pub async fn restart_with(self, limits: Limits) -> Fixture {
        tokio::task::block_in_place(|| self.broker.stop());
        Fixture::on(self.directory, self.data, limits).await
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn message(subject: &str, body: &[u8]) -> (Envelope, Payload) {
    let subject = Subject::dotted(subject.to_owned()).unwrap();
    let message =
        Message { subject: subject.clone(), body: Some(Bytes::copy_from_slice(body)), ..Message::default() };
    (Envelope::new(subject, posthaste_model::Timestamp(1)), encode_message(message))
}

/// Publishes and waits until it is safe.
pub async fn publish(client: &Client, exchange: Option<&str>, subject: &str, body: &[u8]) -> Outcome {
    let mut batch = client.batch();
    let (envelope, payload) = message(subject, body);
    batch.publish(exchange, envelope, payload, &NoHeaders).unwrap();
    submit(batch).await
}

pub async fn submit(batch: posthaste_broker::Batch) -> Outcome {
    let (done, outcome) = oneshot::channel();
    batch.submit(move |outcome| drop(done.send(outcome)));
    outcome.await.unwrap()
}

/// The right to something of the client's namespace.
pub fn to<R: Right, T: Protected + Clone>(client: &Client, object: &T) -> Allowed<R, T> {
    client.allow(object.clone()).unwrap()
}

pub fn part<R: Right>(client: &Client, topic: &Arc<Topic>, index: usize) -> Allowed<R, Partition> {
    to::<R, _>(client, topic).partition(index).unwrap()
}

pub fn log_of(client: &Client, topic: &Arc<Topic>, index: usize) -> Arc<PartitionLog> {
    client.log(part(client, topic, index)).unwrap()
}

pub fn hold(client: &Client, queue: &Arc<Queue>) -> Holder {
    client.holder(&to(client, queue))
}

/// Messages that wait in a queue.
pub async fn ready(client: &Client, queue: &str) -> u64 {
    client.queue_state(queue).await.unwrap().ready
}

/// A consumer's mailbox.
pub struct Sink(pub mpsc::UnboundedSender<Vec<Delivery>>);

impl DeliverySink for Sink {
    fn deliver(&self, _: ConsumerId, deliveries: Vec<Delivery>) {
        let _ = self.0.send(deliveries);
    }

    fn cancelled(&self, _: ConsumerId) {}
}

pub fn sink() -> (Arc<Sink>, mpsc::UnboundedReceiver<Vec<Delivery>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Arc::new(Sink(sender)), receiver)
}

/// The next `count` deliveries, with their messages.
pub async fn receive(
    broker: &Broker,
    mailbox: &mut mpsc::UnboundedReceiver<Vec<Delivery>>,
    count: usize,
) -> Vec<Resolved> {
    let mut resolved = Vec::new();
    while resolved.len() < count {
        let deliveries = tokio::time::timeout(std::time::Duration::from_secs(20), mailbox.recv());
        let deliveries = deliveries.await.expect("a delivery in time").expect("a live consumer");
        resolved.extend(broker.resolve(deliveries).await);
    }
    resolved
}

pub fn bodies(resolved: &[Resolved]) -> Vec<String> {
    resolved.iter().map(|r| String::from_utf8_lossy(&r.payload.body).into_owned()).collect()
}
