//! Taking messages from a queue, in one request.

use crate::{
    call::{Answer, Call, Reply, within},
    failure::Failure,
    message::{MessageView, Place},
    server::stopped,
    v1::{
        stream::{Mailbox, mailbox},
        topic_messages::{COUNT_MAX, WAIT_MS_MAX},
    },
};
use posthaste_broker::{Broker, Client, ConsumeOptions, Holder, Readable, Resolved, right};
use posthaste_engine::{
    Delivery, Position,
    catalog::{Queue, Resource},
    command::{Mode, Outcome},
};
use posthaste_model::DeathReason;
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default = "one")]
    count: usize,
    #[serde(default)]
    ack: Ack,
    /// How long to wait when there is none.
    #[serde(default)]
    wait_ms: u64,
}

fn one() -> usize {
    1
}

/// What becomes of the messages.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ack {
    /// They are done.
    #[default]
    Accept,
    /// They stay, and are marked as redelivered.
    Release,
    /// They are dead-lettered, or dropped.
    Reject,
}

#[derive(Serialize)]
struct Taken {
    messages: Vec<MessageView>,
}

/// Bytes of bodies after which no further message is taken.
const BYTES_MAX: usize = 16 << 20;

/// `POST /v1/queues/{name}/get`
pub async fn take(call: &Call) -> Answer {
    let request: Request = if call.body.is_empty() {
        Request { count: 1, ack: Ack::default(), wait_ms: 0 }
    } else {
        call.json()?
    };
    let count = within("count", request.count, 1, COUNT_MAX)?;
    let wait = Duration::from_millis(within("wait_ms", request.wait_ms, 0, WAIT_MS_MAX)?);
    let queue = call.client.queue_to::<right::Read>(call.text())?;
    if let Some(pause) = call.client.read_pause() {
        return Err(Failure::rate_limited(pause));
    }
    let mut taker = Taker::new(call, queue);
    let mut taken = taker.pull(count).await?;
    if taken.is_empty() && !wait.is_zero() {
        taken = taker.wait(call, wait).await?;
        // Rights may have changed meanwhile; what was taken goes back then.
        call.client.standing()?;
        call.client.allow::<right::Read, _>(taker.queue.clone())?;
        if !taken.is_empty() {
            taken.extend(taker.pull(count.saturating_sub(taken.len())).await?);
        }
    }
    if !taken.is_empty() {
        call.client.audit_read(Resource::Queue, &taker.queue.name);
    }
    let bytes: usize = taken.iter().map(|resolved| resolved.payload.body.len()).sum();
    call.client.charge_read(taken.len() as u64, bytes as u64);
    let held = taken.iter().map(|r| (r.delivery.lane, r.delivery.position)).collect();
    let name = taker.queue.name.clone();
    let messages = taken.into_iter().filter_map(|resolved| show(call.broker(), &name, resolved)).collect();
    taker.end(held, request.ack).await?;
    Reply::json(&Taken { messages })
}

/// A message of a queue as it is shown; none, reported, when it cannot be.
pub fn show(broker: &Broker, queue: &str, resolved: Resolved) -> Option<MessageView> {
    let Resolved { delivery, envelope, payload } = resolved;
    match broker.formats().message(&envelope, &payload) {
        Ok(message) => {
            let Delivery { redelivered, attempt, .. } = delivery;
            let place = Place::Queue { queue: queue.to_owned(), redelivered, attempt };
            Some(MessageView::new(place, message))
        }
        Err(error) => {
            broker.metrics().unreadable.add(1);
            tracing::error!(queue, %error, "a stored message cannot be shown");
            None
        }
    }
}

/// Holds messages, and gives them back if the request ends before it has said what becomes of them.
struct Taker {
    client: Client,
    queue: Arc<Queue>,
    holder: Holder,
    ended: bool,
}

impl Taker {
    fn new(call: &Call, queue: Readable<Arc<Queue>>) -> Taker {
        let holder = call.client.holder(&queue);
        Taker { client: call.client.clone(), queue: Arc::clone(&queue), holder, ended: false }
    }

    /// One after the other, because each may be big.
    async fn pull(&self, count: usize) -> Result<Vec<Resolved>, Failure> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < count && bytes < BYTES_MAX {
            let (deliveries, _) = self.client.pull(self.holder, 1, Mode::Lease).await?;
            if deliveries.is_empty() {
                break;
            }
            for resolved in self.client.broker().resolve(deliveries).await {
                bytes += resolved.payload.body.len() + resolved.payload.head.len();
                taken.push(resolved);
            }
        }
        Ok(taken)
    }

    /// Waits for one.
    async fn wait(&self, call: &Call, wait: Duration) -> Result<Vec<Resolved>, Failure> {
        let (sink, mut mailbox): (_, Mailbox) = mailbox();
        let options = ConsumeOptions { credit: 1, mode: Mode::Lease, exclusive: false, priority: 0 };
        self.client.consume(self.holder, options, sink).await?;
        let mut stopping = call.stopping();
        let arrived = tokio::select! {
            arrived = mailbox.recv() => arrived.flatten().unwrap_or_default(),
            () = tokio::time::sleep(wait) => Vec::new(),
            () = stopped(&mut stopping) => Vec::new(),
        };
        // No more of them; what is held stays held.
        self.client.cancel(self.holder).await;
        Ok(self.client.broker().resolve(arrived).await)
    }

    async fn end(&mut self, held: Vec<(u8, Position)>, ack: Ack) -> Result<(), Failure> {
        let outcome = match ack {
            Ack::Accept => Outcome::Accept,
            Ack::Release => Outcome::Release { attempted: false },
            Ack::Reject => Outcome::Reject(DeathReason::Rejected),
        };
        if !held.is_empty() {
            self.client.settle_durably(self.holder, held, outcome).await?;
        }
        self.ended = true;
        // Whatever came in the meantime and was not taken.
        self.client.detach(self.holder).await;
        Ok(())
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        if !self.ended {
            let (client, holder) = (self.client.clone(), self.holder);
            tokio::spawn(async move { client.detach(holder).await });
        }
    }
}
