//! What is published on the bus under a pattern, live: handed over by the publishers, kept nowhere.

use crate::{
    call::{Answer, Call, Reply, name, within},
    failure::Failure,
    message::{MessageView, Place},
    v1::stream::{Ended, Lines},
};
use bytes::Bytes;
use posthaste_broker::{Broker, Client, LiveBatch, LiveMessage, LiveSink, QueueDeclaration, Readable, right};
use posthaste_engine::catalog::{Action, BUS, Binding, Queue, Resource, Rule, Target};
use posthaste_model::{Envelope, Name, Pattern, Payload, Syntax};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{Notify, oneshot};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    pattern: String,
    /// Ends after so many.
    count: Option<u64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    Message(Box<MessageView>),
    /// So many were lost because this reader is too slow.
    Dropped {
        dropped: u64,
    },
}

/// Messages and bytes that wait for a slow reader; what comes on top is dropped.
const MESSAGES_MAX: usize = 8_192;
const BYTES_MAX: usize = 4 << 20;

/// `POST /v1/subjects/stream`
pub async fn start(call: Call) -> Answer {
    let Parameters { pattern, count } = call.json_or_parameters()?;
    let count = within("count", count.unwrap_or(u64::MAX), 1, u64::MAX)?;
    let parsed = Pattern::parse(&pattern, Syntax::DOTTED);
    let parsed = parsed.map_err(|e| Failure::invalid(format!("pattern: {e}")))?;
    call.client.may(Action::Read, Resource::Subject, &pattern)?;
    call.client.audit_read(Resource::Subject, &pattern);
    let judged = pattern.clone();
    let (lines, body) =
        Lines::new(&call, move |client| client.may(Action::Read, Resource::Subject, &judged))?;
    let (ready, is_ready) = oneshot::channel();
    // The task, not the request, owns the queue: the request may be given up at any moment.
    tokio::spawn(async move {
        match Subscription::open(&call, parsed, pattern).await {
            Ok(subscription) => {
                let _ = ready.send(Ok(()));
                subscription.run(lines, count).await;
            }
            Err(failure) => drop(ready.send(Err(failure))),
        }
    });
    let stopping = || Failure::unavailable("stopping", "the broker is stopping");
    is_ready.await.map_err(|_| stopping())??;
    Ok(Reply::Lines(body))
}

/// A queue of its own that is bound to the bus, and goes with its connection.
struct Subscription {
    client: Client,
    queue: Readable<Arc<Queue>>,
    reader: Arc<LiveReader>,
    sink: Arc<dyn LiveSink>,
}

impl Subscription {
    async fn open(call: &Call, pattern: Pattern, key: String) -> Result<Subscription, Failure> {
        let broker = call.broker();
        let connection = broker.next_connection();
        // Its queue is the broker's own: the caller's right is that to read the pattern.
        let client = broker.system_client("http", call.client.namespace().clone(), connection);
        let queue_name = name(&format!("http.{}.{connection}", broker.epoch()))?;
        let declaration = QueueDeclaration { exclusive: true, ..QueueDeclaration::default() };
        let queue = client.allow::<right::Read, _>(client.create_queue(&queue_name, declaration).await?)?;
        let reader = Arc::new(LiveReader::default());
        let sink: Arc<dyn LiveSink> = reader.clone();
        client.attach_live(&queue, sink.clone());
        let subscription = Subscription { client, queue, reader, sink };
        let binding = Binding {
            target: Target::Queue(queue_name),
            key: key.into(),
            rule: Rule::Pattern(pattern),
            arguments: Bytes::new(),
            durable: false,
            transient: true,
        };
        match subscription.client.bind(&Name::constant(BUS), binding).await {
            Ok(()) => Ok(subscription),
            Err(error) => {
                subscription.close().await;
                Err(error.into())
            }
        }
    }

    async fn run(self, mut lines: Lines, count: u64) {
        // Either way it is over.
        let _ = self.read(&mut lines, count).await;
        self.close().await;
    }

    async fn close(self) {
        self.client.detach_live(&self.queue, &self.sink);
        self.client.close().await;
    }

    async fn read(&self, lines: &mut Lines, count: u64) -> Result<(), Ended> {
        let broker = self.client.broker();
        let mut left = count;
        while left > 0 {
            let (waiting, dropped) = self.reader.take();
            if waiting.is_empty() && dropped == 0 {
                tokio::select! {
                    () = self.reader.arrived.notified() => continue,
                    ended = lines.ended() => return Err(ended),
                }
            }
            let room = usize::try_from(left).unwrap_or(usize::MAX);
            let messages = waiting.into_iter().filter_map(|message| show(broker, message)).take(room);
            let mut sent: Vec<Line> = messages.map(|m| Line::Message(Box::new(m))).collect();
            left -= sent.len() as u64;
            sent.extend((dropped > 0).then_some(Line::Dropped { dropped }));
            lines.send(sent).await?;
        }
        Ok(())
    }
}

fn show(broker: &Broker, (envelope, payload): (Envelope, Payload)) -> Option<MessageView> {
    match broker.formats().message(&envelope, &payload) {
        Ok(message) => Some(MessageView::new(Place::Subject {}, message)),
        Err(error) => {
            tracing::warn!(subject = %envelope.subject, %error, "a message cannot be shown");
            None
        }
    }
}

/// What waits for the stream.
#[derive(Default)]
struct LiveReader {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<(Envelope, Payload)>,
    bytes: usize,
    dropped: u64,
}

impl LiveReader {
    fn take(&self) -> (VecDeque<(Envelope, Payload)>, u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { messages, dropped, .. } = std::mem::take(&mut *waiting);
        (messages, dropped)
    }
}

impl LiveSink for LiveReader {
    fn offer(&self, batch: &Arc<LiveBatch>) -> usize {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = 0;
        for LiveMessage { envelope, payload } in batch.messages() {
            let bytes = waiting.bytes + payload.head.len() + payload.body.len();
            // One message always fits, however big.
            let full = waiting.messages.len() >= MESSAGES_MAX || bytes > BYTES_MAX;
            if full && !waiting.messages.is_empty() {
                break;
            }
            waiting.bytes = bytes;
            waiting.messages.push_back((envelope.clone(), payload.clone()));
            taken += 1;
        }
        waiting.dropped += (batch.messages().len() - taken) as u64;
        self.arrived.notify_one();
        taken
    }
}
