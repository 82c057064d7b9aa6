//! Messages to the client: from the session's queue, from shares, from live publishers, and again after a
//! resume.

use std::collections::VecDeque;
use std::sync::Arc;

use posthaste_broker::{Error, LiveMessage, Resolved, right};
use posthaste_engine::Delivery;
use posthaste_engine::catalog::{Action, Resource};
use posthaste_model::{ConsumerId, Envelope, Payload, Subject};
use posthaste_net::Output;
use tokio::time::Instant;

use super::connection::{Ended, Event, EventKind, ShareDelivery};
use super::conversation::{Backlog, Conversation, Resumed, Share, begin};
use super::live::LivePart;
use super::publish::reply_disconnect;
use super::retained::Sweep;
use super::sessions::{Handle, submitted};
use super::subscriptions::Grant;
use crate::convert::{self, Head, Outgoing};
use crate::session::{Delivery as Sent, Resend};
use crate::wire::{PacketIdentifier, Publish, QoS, ReasonCode};

/// Messages to the client on their way.
#[derive(Default)]
pub(crate) struct Delivering {
    /// What the engine has handed out and nobody has looked at.
    pub backlog: Backlog,
    /// Of these, what had been sent over an earlier connection.
    pub resumed: Resumed,
    /// Retained messages that are to be sent.
    pub sweeps: VecDeque<Sweep>,
    /// Nothing is sent until then, as the client's rate is limited.
    pub paced_until: Option<Instant>,
    /// An event will come when there is room for more output.
    pub resuming: bool,
    /// Messages of shares that wait to be put into the session's own queue, and how many are there already
    /// and have not been sent.
    unadopted: VecDeque<Resolved>,
    adopted: usize,
    /// Packet identifiers to be stored before their PUBLISH may leave.
    storing: Vec<(u8, posthaste_engine::Position, PacketIdentifier)>,
    /// Bytes of the latest messages, averaged.
    size: usize,
}

/// Output of one connection that is made in one go. Then others have their turn, and the client takes it.
const OUTPUT_BYTES: usize = 512 << 10;
/// About as many bytes are read from the disk in one go.
const READ_BYTES: usize = 1 << 20;
/// Messages that are looked at in one go.
const MESSAGES: usize = 256;

impl Conversation {
    /// Sends what there is room for.
    pub async fn deliver(&mut self, out: &mut Output) -> Result<(), Ended> {
        let limit = out.len() + OUTPUT_BYTES;
        self.judge().await;
        loop {
            self.write(out);
            if out.len() > limit {
                self.deliver_later();
                break;
            }
            self.delivering.paced_until = self.client.read_pause().map(|pause| Instant::now() + pause);
            if self.delivering.paced_until.is_some() {
                break;
            }
            let progress = self.resend().await?
                || self.sweep()
                || self.deliver_backlog().await
                || self.adopt().await
                || self.deliver_live(out);
            if !progress {
                break;
            }
        }
        self.store().await;
        Ok(())
    }

    /// Goes on when there is room for more output.
    fn deliver_later(&mut self) {
        if !std::mem::replace(&mut self.delivering.resuming, true) {
            self.mailbox.send(Event(EventKind::Resume));
        }
    }

    /// Sends messages again that an earlier connection had sent. If the disk fails to read one, the
    /// connection ends: the next one tries again. To go on without it would deliver it as a new one later.
    async fn resend(&mut self) -> Result<bool, Ended> {
        let (mut resends, mut deliveries) = (Vec::new(), Vec::new());
        while resends.len() < self.chunk()
            && let Some(resend) = self.session.next_resend()
        {
            if let Handle::Own { lane, position } = resend.handle {
                deliveries.extend(self.delivering.resumed.remove(&(lane, position)));
            }
            resends.push(resend);
        }
        if resends.is_empty() {
            return Ok(false);
        }
        let (resolved, unread) = self.broker.try_resolve(deliveries).await;
        if !unread.is_empty() {
            let text = "a stored message cannot be read at the moment; connect again";
            return Err(Ended::Broker(ReasonCode::UnspecifiedError, text.to_owned()));
        }
        let mut resolved = resolved.into_iter().peekable();
        for resend in resends {
            let is_it = |resolved: &Resolved| {
                let (lane, position) = (resolved.delivery.lane, resolved.delivery.position);
                resend.handle == Handle::Own { lane, position }
            };
            let found = resolved.next_if(is_it);
            self.resend_one(resend, found).await;
        }
        Ok(true)
    }

    async fn resend_one(&mut self, resend: Resend<Handle>, found: Option<Resolved>) {
        let handle = resend.handle;
        // What was begun is completed, also if the client has unsubscribed since [MQTT-3.10.4-3].
        let publish = found.as_ref().and_then(|Resolved { envelope, payload, .. }| {
            if self.is_denied(&envelope.subject) {
                return None;
            }
            let outgoing = self.convert(envelope, payload)?;
            let grant = self.grant(envelope, &outgoing).unwrap_or_default();
            Some(granted(outgoing, grant))
        });
        let settled = match publish {
            Some(publish) => {
                self.sessions.counters.sent.add(1);
                self.session.resend(resend, publish)
            }
            None => {
                if found.is_some() {
                    self.accept(handle);
                }
                // Expired, or purged. At QoS 2 the exchange goes on, and its handle is freed at PUBCOMP.
                let _ = self.session.discard(resend);
                None
            }
        };
        if let Some(settled) = settled {
            self.settled(settled).await;
        }
    }

    /// How a message is to be delivered; `None` if no subscription matches it.
    fn grant(&self, envelope: &Envelope, outgoing: &Outgoing) -> Option<Grant> {
        if let Some(identifiers) = outgoing.directed.clone() {
            // It was put into the queue for certain subscriptions, as it is to be delivered.
            return Some(Grant { qos: QoS::ExactlyOnce, retain_as_published: true, identifiers });
        }
        let own = envelope.origin.0 != 0 && self.connections.contains(&envelope.origin);
        self.subscriptions.grant(&envelope.subject, own)
    }

    /// Whether the client has lost the right to a message that was on its way to it; counts it then.
    fn is_denied(&self, subject: &Subject) -> bool {
        if self.subscriptions.suspended() == 0
            || self.subscriptions.grant(subject, false).is_some()
            || self.client.may(Action::Read, Resource::Subject, &subject.to_dotted()).is_ok()
        {
            return false;
        }
        self.sessions.counters.denied.add(1);
        true
    }

    /// The PUBLISH of a message as this session's subscriptions want it.
    fn publish_of(&mut self, envelope: &Envelope, payload: &Payload) -> Option<Publish> {
        let outgoing = self.convert(envelope, payload)?;
        if outgoing.directed.is_some() {
            self.delivering.adopted = self.delivering.adopted.saturating_sub(1);
        }
        if self.is_denied(&envelope.subject) {
            return None;
        }
        let grant = self.grant(envelope, &outgoing)?;
        Some(granted(outgoing, grant))
    }

    fn convert(&mut self, envelope: &Envelope, payload: &Payload) -> Option<Outgoing> {
        let version = self.session.version();
        match convert::outgoing(self.broker.formats(), envelope, payload, version, self.broker.now()) {
            Ok(outgoing) => Some(outgoing),
            Err(error) => {
                self.sessions.counters.undeliverable.add(1);
                let (client, subject) = (&self.client_identifier, &envelope.subject);
                tracing::debug!(%client, %subject, %error, "a message cannot be shown to an MQTT client");
                None
            }
        }
    }

    /// As many messages as are worth looking at together.
    fn chunk(&self) -> usize {
        (READ_BYTES / self.delivering.size.max(1)).clamp(1, MESSAGES)
    }

    /// Sends what the engine has handed out, as far as the client takes it.
    async fn deliver_backlog(&mut self) -> bool {
        let count = self.delivering.backlog.len().min(usize::from(self.session.credit())).min(self.chunk());
        if count == 0 {
            return false;
        }
        let deliveries: Vec<Delivery> = self.delivering.backlog.drain(..count).collect();
        let resolved = self.broker.resolve(deliveries).await;
        let bytes: usize = resolved.iter().map(|r| r.payload.body.len() + r.payload.head.len()).sum();
        self.delivering.size = (self.delivering.size + bytes / count) / 2;
        for resolved in resolved {
            self.deliver_one(resolved);
        }
        true
    }

    fn deliver_one(&mut self, resolved: Resolved) {
        let Resolved { delivery, envelope, payload } = &resolved;
        let (lane, position) = (delivery.lane, delivery.position);
        let share = (!self.is_own(delivery.consumer)).then_some(delivery.consumer);
        let handle = match share {
            Some(consumer) => match self.shares.get(&consumer) {
                Some(Share { holder, .. }) => Handle::Share { holder: *holder, lane, position },
                // It has left the share, and what was on its way goes to others.
                None => return self.give_back(delivery),
            },
            None => Handle::Own { lane, position },
        };
        if envelope.expires.is_some_and(|at| at <= self.broker.now()) {
            self.sessions.counters.expired.add(1);
            return self.accept(handle); // [MQTT-3.3.2-5]
        }
        let publish = match share {
            Some(consumer) => self.shared_publish_of(consumer, envelope, payload),
            None => self.publish_of(envelope, payload),
        };
        // Nothing matches any more, or it cannot be shown.
        let Some(mut publish) = publish else { return self.accept(handle) };
        if share.is_some() && self.durable && publish.qos == QoS::ExactlyOnce {
            return self.delivering.unadopted.push_back(resolved);
        }
        publish.dup = delivery.redelivered;
        self.send(publish, handle);
    }

    /// The PUBLISH of a message that came through a shared subscription.
    fn shared_publish_of(
        &mut self,
        consumer: ConsumerId,
        envelope: &Envelope,
        payload: &Payload,
    ) -> Option<Publish> {
        let outgoing = self.convert(envelope, payload)?;
        let subscription = &self.shares.get(&consumer)?.subscription;
        let grant = Grant {
            qos: subscription.options.qos,
            retain_as_published: subscription.options.retain_as_published,
            identifiers: subscription.identifier.into_iter().collect(),
        };
        Some(granted(outgoing, grant))
    }

    /// Hands a message to the session.
    pub fn send(&mut self, publish: Publish, handle: Handle) {
        self.sessions.counters.sent.add(1);
        self.client.charge_read(1, publish.payload.len() as u64);
        match self.session.deliver(publish, handle) {
            Sent::Done(handle) => self.accept(handle),
            Sent::InFlight(_) => {}
            Sent::Store(id) => match handle {
                Handle::Own { lane, position } if self.durable => {
                    self.delivering.storing.push((lane, position, id));
                }
                _ => self.session.stored(id),
            },
            Sent::TooLarge(handle) => {
                self.sessions.counters.too_large.add(1);
                self.accept(handle); // [MQTT-3.1.2-25]
            }
            // Credit was checked before. Should it be wrong, the message comes again later.
            Sent::Full(_, handle) => {
                if let Handle::Own { lane, position } = handle
                    && let Some(holder) = self.holder
                {
                    let outcome = posthaste_engine::command::Outcome::Release { attempted: false };
                    self.system.settle(holder, vec![(lane, position)], outcome);
                }
            }
        }
    }

    /// Stores the packet identifiers of messages at QoS 2 before they are sent.
    async fn store(&mut self) {
        let storing = std::mem::take(&mut self.delivering.storing);
        let (Some(holder), false) = (self.holder, storing.is_empty()) else { return };
        let (client, mailbox) = (self.system.clone(), self.mailbox.clone());
        let ids: Vec<_> = storing.iter().map(|(_, _, id)| *id).collect();
        let handles = storing.into_iter().map(|(lane, position, id)| (lane, position, u32::from(id.get())));
        let handles = handles.collect();
        let request = async move { client.assign_handles(holder, handles).await };
        begin(request, move |result| {
            mailbox.send(Event(EventKind::Stored(ids, result)));
        })
        .await;
    }

    /// What had to be stored is.
    pub fn stored(&mut self, ids: Vec<PacketIdentifier>, result: Result<(), Error>) -> Result<(), Ended> {
        if let Err(error) = result {
            return Err(Ended::Broker(reply_disconnect(&error), error.to_string()));
        }
        for id in ids {
            self.session.stored(id);
        }
        Ok(())
    }

    /// Puts a message of a share into the session's own queue. Once it may have reached the client at QoS 2
    /// it must not reach another one, and is completed even after a restart [MQTT-4.8.2-4].
    async fn adopt(&mut self) -> bool {
        if self.delivering.adopted >= usize::from(self.session.credit()) {
            return false;
        }
        let Some(resolved) = self.delivering.unadopted.pop_front() else { return false };
        let Resolved { delivery, envelope, payload } = resolved;
        let publish = self.shared_publish_of(delivery.consumer, &envelope, &payload);
        let holder = self.shares.get(&delivery.consumer).map(|share| share.holder);
        let queue =
            self.queue.as_ref().and_then(|q| self.system.allow::<right::Write, _>(Arc::clone(q)).ok());
        let (Some(publish), Some(queue), Some(holder)) = (publish, queue, holder) else {
            // Unsubscribed in the meantime: for other members.
            self.give_back(&delivery);
            return true;
        };
        let share = ShareDelivery { holder, lane: delivery.lane, position: delivery.position };
        let head = Head {
            qos: publish.qos,
            retain: publish.retain,
            directed: Some(publish.properties.subscription_identifiers),
            forwarded: publish.properties.forwarded,
        };
        self.delivering.adopted += 1;
        let mut batch = self.system.batch();
        batch.enqueue(&queue, envelope, Payload { head: head.encode(), ..payload });
        let mailbox = self.mailbox.clone();
        begin(submitted(batch), move |outcome| {
            let safe = outcome.is_some_and(|outcome| outcome.refused.is_empty());
            mailbox.send(Event(EventKind::Adopted { share, safe }));
        })
        .await;
        true
    }

    /// A message of a share is in the session's own queue, or stays with the share.
    pub fn adopted(&mut self, share: ShareDelivery, safe: bool) {
        let ShareDelivery { holder, lane, position } = share;
        if safe {
            return self.accept(Handle::Share { holder, lane, position });
        }
        self.delivering.adopted = self.delivering.adopted.saturating_sub(1);
        let outcome = posthaste_engine::command::Outcome::Release { attempted: false };
        self.system.settle(holder, vec![(lane, position)], outcome);
    }

    /// A message of a share that the session is no member of any more goes to other members.
    fn give_back(&self, delivery: &Delivery) {
        let known = self.link.consumers.lock();
        let Some(holder) = known.iter().find(|holder| holder.consumer() == delivery.consumer) else { return };
        let outcome = posthaste_engine::command::Outcome::Release { attempted: false };
        self.system.settle(*holder, vec![(delivery.lane, delivery.position)], outcome);
    }

    /// Sends what came straight from publishers.
    fn deliver_live(&mut self, out: &mut Output) -> bool {
        let Some(part) = self.live.as_ref().and_then(|live| live.next()) else { return false };
        if !self.send_encoded(&part, out) {
            for message in part.messages() {
                self.deliver_live_one(message);
            }
        }
        true
    }

    /// Sends messages as they were encoded once for all connections, if they are the same to this one.
    fn send_encoded(&mut self, part: &LivePart, out: &mut Output) -> bool {
        let version = self.session.version();
        let Some(encoded) = part.encoded(version, self.broker.formats()) else { return false };
        let subjects = part.messages().iter().map(|message| &message.envelope.subject);
        if !self.session.takes_encoded(encoded.largest_bytes())
            || !self.subscriptions.grants_as_to_all(encoded.retained(), subjects)
        {
            return false;
        }
        self.write(out);
        let count = part.messages().len() as u64;
        self.sessions.counters.sent.add(count);
        self.client.charge_read(count, part.bytes() as u64);
        encoded.chunks().for_each(|chunk| out.chunk(chunk.clone()));
        true
    }

    fn deliver_live_one(&mut self, LiveMessage { envelope, payload }: &LiveMessage) {
        if envelope.expires.is_some_and(|at| at <= self.broker.now()) {
            self.sessions.counters.expired.add(1);
        } else if let Some(mut publish) = self.publish_of(envelope, payload) {
            publish.qos = QoS::AtMostOnce;
            self.send(publish, Handle::Settled);
        }
    }
}

/// A message with what its subscriptions say of it.
fn granted(outgoing: Outgoing, grant: Grant) -> Publish {
    let Outgoing { mut publish, qos, retain, .. } = outgoing;
    publish.qos = qos.min(grant.qos); // [MQTT-3.8.4-8]
    publish.retain = retain && grant.retain_as_published; // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
    publish.properties.subscription_identifiers = grant.identifiers;
    publish
}
