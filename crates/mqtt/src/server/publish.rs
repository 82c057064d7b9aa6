//! PUBLISH and PUBREL from the client.

use std::ops::Range;

use posthaste_broker::{Batch, Error, Outcome};
use posthaste_engine::catalog::BUS;
use posthaste_model::{Envelope, Limits, Name, Payload};

use super::connection::{Ended, Event, EventKind};
use super::conversation::{Conversation, begin};
use super::reply;
use super::sessions::submitted;
use crate::convert::{self, PublishHeaders};
use crate::session::Receipt;
use crate::wire::{PacketIdentifier, ProtocolVersion, Publish, QoS, ReasonCode};

/// Messages from the client on their way to the broker.
#[derive(Default)]
pub(crate) struct Incoming {
    /// What the current read has brought so far.
    batch: Option<Batch>,
    answers: Vec<Answer>,
    bytes: usize,
    /// Messages that the broker has not answered, and their bytes.
    pub in_flight: usize,
    in_flight_bytes: usize,
    /// The client has published: only then does it pause for its user's rate. One that subscribes goes on.
    pub publishes: bool,
}

/// Which of a batch's publishes a message is, and who is to be told.
#[derive(Debug)]
pub(crate) struct Answer {
    /// None at QoS 0.
    receipt: Option<Receipt>,
    publishes: Range<u32>,
    /// It went nowhere.
    unmatched: bool,
}

impl Incoming {
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.in_flight >= limits.publishes_in_flight_max
            || self.in_flight_bytes >= limits.publish_bytes_in_flight_max
    }

    fn add(&mut self, messages: usize, bytes: usize) {
        self.in_flight += messages;
        self.in_flight_bytes += bytes;
    }

    fn remove(&mut self, messages: usize, bytes: usize) {
        self.in_flight = self.in_flight.saturating_sub(messages);
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
    }
}

impl Conversation {
    /// Takes a message into the batch of this read.
    pub async fn publish(&mut self, publish: Publish, receipt: Option<Receipt>) -> Result<(), Ended> {
        self.sessions.counters.received.add(1);
        let Some((envelope, payload)) = convert::incoming(&publish, self.broker.now()) else {
            return self.refuse(receipt, ReasonCode::TopicNameInvalid, "the topic name has too many levels");
        };
        let receipt = match receipt {
            Some(receipt) if publish.qos == QoS::ExactlyOnce && self.durable => {
                return self.publish_exactly_once(publish.retain, envelope, payload, receipt).await;
            }
            other => other,
        };
        let headers = PublishHeaders(&publish.properties.forwarded);
        let batch = self.incoming.batch.get_or_insert_with(|| self.client.batch());
        let first = batch.len() as u32;
        let kept = publish.retain.then(|| (durable(&envelope), payload.clone()));
        match batch.publish(Some(BUS), envelope, payload, &headers) {
            Ok(routed) => {
                let unmatched = routed.nowhere() && kept.is_none();
                if let Some((envelope, payload)) = kept
                    && let Err(error) = batch.retain(envelope, payload)
                {
                    // It was allowed a moment ago, by the same catalog.
                    tracing::error!(%error, "a message that was published could not be retained");
                }
                let publishes = first..batch.len() as u32;
                self.incoming.answers.push(Answer { receipt, publishes, unmatched });
                self.incoming.bytes += publish.payload.len();
                Ok(())
            }
            Err(error) => self.refuse(receipt, reply::error(&error), &error.to_string()),
        }
    }

    /// Sends the batch of this read on its way.
    pub fn submit(&mut self) -> Result<(), Ended> {
        let Some(mut batch) = self.incoming.batch.take() else { return Ok(()) };
        self.incoming.publishes = true;
        let answers = std::mem::take(&mut self.incoming.answers);
        let bytes = std::mem::take(&mut self.incoming.bytes);
        if let Some(outcome) = batch.submit_volatile() {
            return self.answer(answers, &outcome);
        }
        self.incoming.add(answers.len(), bytes);
        let mailbox = self.mailbox.clone();
        batch.submit(move |outcome| {
            mailbox.send(Event(EventKind::Published { answers, bytes, outcome }));
        });
        Ok(())
    }

    /// A batch is as safe as promised, or refused.
    pub fn published(&mut self, answers: Vec<Answer>, bytes: usize, outcome: &Outcome) -> Result<(), Ended> {
        self.incoming.remove(answers.len(), bytes);
        self.answer(answers, outcome)
    }

    fn answer(&mut self, answers: Vec<Answer>, outcome: &Outcome) -> Result<(), Ended> {
        let mut result = Ok(());
        for Answer { receipt, publishes, unmatched } in answers {
            // Almost always empty.
            let refusal = outcome
                .refused
                .iter()
                .find(|(index, refusal)| publishes.contains(index) && reply::concerns_publisher(*refusal));
            match (receipt, refusal) {
                (receipt, Some((_, refusal))) => {
                    let text = Error::Refused(*refusal).to_string();
                    result = result.and(self.refuse(receipt, reply::refused(*refusal), &text));
                }
                (Some(receipt), None) if unmatched => {
                    self.session.acknowledge(receipt, ReasonCode::NoMatchingSubscribers);
                }
                (Some(receipt), None) => self.session.acknowledge(receipt, ReasonCode::Success),
                (None, None) => {}
            }
        }
        result
    }

    /// A message at QoS 2 in a session that outlives its connection: its packet identifier becomes durable
    /// together with the message, and the broker publishes it once [MQTT-4.3.3-10].
    async fn publish_exactly_once(
        &mut self,
        retain: bool,
        envelope: Envelope,
        payload: Payload,
        receipt: Receipt,
    ) -> Result<(), Ended> {
        let Some(session) = self.holder else { return Ok(()) };
        let (client, mailbox, sessions) = (self.client.clone(), self.mailbox.clone(), self.sessions.clone());
        let (id, bytes) = (receipt.packet_identifier(), payload.body.len());
        let mut keep = None;
        if retain {
            let mut batch = client.batch();
            if let Err(error) = batch.retain(durable(&envelope), payload.clone()) {
                return self.refuse(Some(receipt), reply::error(&error), &error.to_string());
            }
            keep = Some(submitted(batch));
        }
        self.incoming.add(1, bytes);
        self.incoming.publishes = true;
        let request = async move {
            let keep = async {
                match keep {
                    Some(keep) => keep.await.is_some_and(|outcome| outcome.refused.is_empty()),
                    None => true,
                }
            };
            let bus = Name::constant(BUS);
            let receive = client.receive(session, u32::from(id.get()), Some(bus), envelope, payload);
            let (kept, result) = tokio::join!(keep, receive);
            if !kept && result.is_ok() {
                // The message itself is published; a second copy would be worse than one that is not kept.
                sessions.counters.dropped.add(1);
                tracing::warn!("there is no room to retain a message");
            }
            result
        };
        begin(request, move |result| {
            mailbox.send(Event(EventKind::Received { receipt, bytes, result }));
        })
        .await;
        Ok(())
    }

    /// A message at QoS 2 is safe, or refused.
    pub fn received(
        &mut self,
        receipt: Receipt,
        bytes: usize,
        result: Result<bool, Error>,
    ) -> Result<(), Ended> {
        self.incoming.remove(1, bytes);
        match result {
            Ok(_) => {
                self.session.acknowledge(receipt, ReasonCode::Success);
                Ok(())
            }
            Err(error @ (Error::Stopping | Error::Gone)) => {
                Err(Ended::Broker(ReasonCode::ServerShuttingDown, error.to_string()))
            }
            Err(error) => self.refuse(Some(receipt), reply::error(&error), &error.to_string()),
        }
    }

    /// PUBREL: the packet identifier is forgotten before it may be used again.
    pub async fn pubrel(&mut self, id: PacketIdentifier) {
        let Some(session) = self.holder.filter(|_| self.durable) else {
            return self.session.complete(id);
        };
        let (client, mailbox) = (self.client.clone(), self.mailbox.clone());
        let request = async move { client.forget(session, u32::from(id.get())).await };
        begin(request, move |result| {
            mailbox.send(Event(EventKind::Forgotten(id, result)));
        })
        .await;
    }

    pub fn forgotten(&mut self, id: PacketIdentifier, result: Result<(), Error>) -> Result<(), Ended> {
        match result {
            Ok(()) => {
                self.session.complete(id);
                Ok(())
            }
            Err(error) => Err(Ended::Broker(reply_disconnect(&error), error.to_string())),
        }
    }

    /// Refuses a message: version 5 says so, version 3 can only close the connection. There the client still
    /// has the message, and nobody believes that it arrived [MQTT-3.3.5-2, 3.1.1].
    fn refuse(&mut self, receipt: Option<Receipt>, reason: ReasonCode, text: &str) -> Result<(), Ended> {
        match receipt {
            Some(receipt) if self.session.version() == ProtocolVersion::V5 => {
                self.session.acknowledge_with(receipt, reason, Some(text));
                Ok(())
            }
            Some(_) => Err(Ended::Broker(reason, format!("a message was refused: {text}"))),
            None => {
                self.sessions.counters.dropped.add(1);
                tracing::debug!(client = %self.client_identifier, reason = text, "a message was dropped");
                Ok(())
            }
        }
    }
}

/// What the session cannot go on without did not happen.
pub(crate) fn reply_disconnect(error: &Error) -> ReasonCode {
    match error {
        Error::Stopping => ReasonCode::ServerShuttingDown,
        // The session was deleted.
        Error::Gone => ReasonCode::AdministrativeAction,
        _ => ReasonCode::UnspecifiedError,
    }
}

/// What is retained is kept for good, whatever its QoS.
fn durable(envelope: &Envelope) -> Envelope {
    Envelope { durable: true, ..envelope.clone() }
}
