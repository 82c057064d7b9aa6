//! A conversation with an accepted client: what it holds, and how its parts go together.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use posthaste_broker::{Broker, Client, Error, Holder, LiveSink, Readable, Rights, RightsWatch};
use posthaste_engine::catalog::Queue;
use posthaste_engine::{Delivery, Position, command::Outcome};
use posthaste_model::{ConnectionId, ConsumerId, Name};
use posthaste_net::{Mailbox, Output};

use super::connection::{Ended, Event, EventKind};
use super::deliver::Delivering;
use super::live::LiveReader;
use super::publish::Incoming;
use super::sessions::{Handle, Handover, Link, Sessions};
use super::subscriptions::{Subscription, Subscriptions};
use crate::session::{Ending, Received, Session, Settled};
use crate::wire::{Packet, QoS, ReasonCode};

/// Settlements of one consumer that are on their way to the engine.
type Settlements = (Holder, Vec<(u8, Position)>);

/// A conversation.
pub(crate) struct Conversation {
    pub sessions: Arc<Sessions>,
    pub broker: Broker,
    /// The client, with its own permissions.
    pub client: Client,
    /// What the listener itself does.
    pub system: Client,
    pub mailbox: Mailbox<Event>,
    pub link: Arc<Link>,
    pub session: Session<Handle>,
    pub client_identifier: String,
    /// What the session is known by.
    pub name: Name,
    /// The session's queue: there from the start in a session that outlives its connection, and from the
    /// first subscription on in others.
    pub queue: Option<Readable<Arc<Queue>>>,
    /// Whether that queue is durable.
    pub durable: bool,
    pub subscriptions: Subscriptions,
    /// The rights by which the subscriptions were judged last.
    pub judged: Option<Rights>,
    /// This and earlier connections of the session.
    pub connections: Vec<ConnectionId>,
    /// Who holds what comes out of the session's queue; there with the queue.
    pub holder: Option<Holder>,
    pub consuming: bool,
    /// Unacknowledged messages that the client takes.
    pub window: u32,
    pub live: Option<Arc<LiveReader>>,
    /// Shared subscriptions by their consumers.
    pub shares: HashMap<ConsumerId, Share>,
    pub incoming: Incoming,
    pub delivering: Delivering,
    pub settlements: Vec<Settlements>,
    pub rights: RightsWatch,
}

/// A shared subscription that the session is a member of.
pub(crate) struct Share {
    pub queue: Arc<Queue>,
    pub holder: Holder,
    pub subscription: Subscription,
}

impl Conversation {
    /// Handles one packet. Its answers wait for [`Conversation::finish`].
    pub async fn receive(&mut self, packet: Packet, now_ms: u64) -> Result<(), Ended> {
        match self.session.receive(packet, now_ms)? {
            Received::Nothing => {}
            Received::Publish { publish, receipt } => self.publish(publish, receipt).await?,
            Received::Pubrel(id) => self.pubrel(id).await,
            Received::Pubrec { packet_identifier, handle } => self.pubrec(packet_identifier, handle).await,
            Received::Settled(settled) => self.settled(settled).await,
            Received::Subscribe(subscribe) => {
                // What comes after it is to be routed by it.
                self.submit()?;
                self.subscribe(subscribe).await?;
            }
            Received::Unsubscribe(unsubscribe) => {
                self.submit()?;
                self.unsubscribe(unsubscribe).await?;
            }
            // No authentication method is ever accepted, so the session lets no AUTH through.
            Received::Auth(_) => {}
            Received::Disconnect(_) => return Err(Ended::ByClient),
        }
        Ok(())
    }

    pub async fn event(&mut self, event: EventKind) -> Result<(), Ended> {
        match event {
            EventKind::Adopted { share, safe } => self.adopted(share, safe),
            EventKind::Cancelled(consumer) => self.cancelled(consumer)?,
            EventKind::Deliveries(deliveries) => self.delivering.backlog.extend(deliveries),
            EventKind::Forgotten(id, result) => self.forgotten(id, result)?,
            EventKind::Live => {}
            EventKind::Published { answers, bytes, outcome } => self.published(answers, bytes, &outcome)?,
            EventKind::Received { receipt, bytes, result } => self.received(receipt, bytes, result)?,
            EventKind::Resume => self.delivering.resuming = false,
            EventKind::Rights => match self.client.standing() {
                Ok(()) => self.judge().await,
                Err(revoked) => return Err(Ended::Broker(ReasonCode::NotAuthorized, revoked.to_string())),
            },
            EventKind::Stored(ids, result) => self.stored(ids, result)?,
            EventKind::TakenOver { clean_start } => return Err(Ended::TakenOver { clean_start }),
        }
        Ok(())
    }

    /// Hands on what has gathered, and writes what is to be said.
    pub async fn finish(&mut self, out: &mut Output) -> Result<(), Ended> {
        let submitted = self.submit();
        let delivered = self.deliver(out).await;
        self.settle();
        self.write(out);
        submitted.and(delivered)
    }

    /// Whether more packets should be read.
    pub fn wants_input(&self) -> bool {
        // With something in flight there will be an event, and with it another look.
        let waits = self.incoming.in_flight > 0;
        self.session.accepts_input()
            && !(waits && (self.incoming.is_full(self.broker.limits()) || self.broker.overloaded()))
    }

    /// How long nothing is read, as the client's rate is limited.
    pub fn input_pause(&self) -> Option<Duration> {
        self.client.pause(self.incoming.publishes, false)
    }

    /// Writes the packets that the session has to say.
    pub fn write(&mut self, out: &mut Output) {
        let version = self.session.version();
        while let Some(packet) = self.session.poll_transmit() {
            match packet.encode_head(version, out.bytes()) {
                Ok(payload) if payload.is_empty() => {}
                Ok(payload) => out.chunk(payload),
                Err(error) => tracing::error!(%error, "a packet could not be written"),
            }
        }
    }

    /// A message is done with, on this side.
    pub fn accept(&mut self, handle: Handle) {
        let (holder, delivery) = match handle {
            Handle::Own { lane, position } => match self.holder {
                Some(holder) => (holder, (lane, position)),
                None => return,
            },
            Handle::Share { holder, lane, position } => (holder, (lane, position)),
            Handle::Settled => return,
        };
        match self.settlements.iter_mut().find(|(known, _)| *known == holder) {
            Some((_, deliveries)) => deliveries.push(delivery),
            None => self.settlements.push((holder, vec![delivery])),
        }
    }

    /// Tells the engine what is done with.
    pub fn settle(&mut self) {
        for (holder, deliveries) in self.settlements.drain(..) {
            self.system.settle(holder, deliveries, Outcome::Accept);
        }
    }

    /// The client has a message at QoS 2: its handle alone remains.
    async fn pubrec(&mut self, id: std::num::NonZeroU16, handle: Handle) {
        match (handle, self.holder) {
            (Handle::Own { .. }, Some(holder)) if self.durable => {
                let (client, mailbox) = (self.system.clone(), self.mailbox.clone());
                let request = async move { client.settle_handle(holder, u32::from(id.get())).await };
                begin(request, move |result| {
                    mailbox.send(Event(EventKind::Stored(vec![id], result)));
                })
                .await;
            }
            _ => {
                self.accept(handle);
                self.session.stored(id);
            }
        }
    }

    /// The client is done with a message.
    pub async fn settled(&mut self, settled: Settled<Handle>) {
        let Settled { packet_identifier, handle, qos, reason_code } = settled;
        if let Handle::Own { lane, position } = handle {
            self.delivering.resumed.remove(&(lane, position));
        }
        let refused = reason_code.is_error();
        match (self.holder, qos) {
            (Some(holder), QoS::ExactlyOnce) if self.durable => {
                let client = self.system.clone();
                let id = u32::from(packet_identifier.get());
                // Refused with PUBREC, the message is not settled yet; otherwise this changes nothing.
                if refused {
                    let client = client.clone();
                    begin(async move { client.settle_handle(holder, id).await }, drop).await;
                }
                begin(async move { client.free_handle(holder, id).await }, drop).await;
            }
            // Settled at PUBREC.
            (_, QoS::ExactlyOnce) if !refused => {}
            _ => self.accept(handle),
        }
    }

    /// Whether this is the consumer of the session's own queue.
    pub fn is_own(&self, consumer: ConsumerId) -> bool {
        self.holder.is_some_and(|holder| holder.consumer() == consumer)
    }

    /// A queue is gone: the session with it, or a share.
    fn cancelled(&mut self, consumer: ConsumerId) -> Result<(), Ended> {
        if self.is_own(consumer) {
            let text = "the session was deleted".to_owned();
            return Err(Ended::Broker(ReasonCode::AdministrativeAction, text));
        }
        self.shares.remove(&consumer);
        Ok(())
    }

    /// Ends the conversation: gives back what is not done, and leaves the session to the next connection.
    pub async fn leave(mut self, ending: Ending) {
        // It is over anyway.
        let _ = self.submit();
        self.settle();
        if let (Some(queue), Some(live)) = (&self.queue, &self.live) {
            let sink: Arc<dyn LiveSink> = live.clone();
            self.system.detach_live(queue, &sink);
        }
        let mut closed = self.session.close(ending);
        if !self.durable {
            // A message that may have reached its client at QoS 2 must not reach another one
            // [MQTT-4.8.2-5].
            for in_flight in &closed.state.outbound {
                if let Handle::Share { holder, lane, position } = in_flight.handle
                    && in_flight.phase != crate::session::OutboundPhase::AtLeastOnce
                {
                    self.system.settle(holder, vec![(lane, position)], Outcome::Accept);
                }
            }
        }
        // What was shared goes to other members.
        closed.state.outbound.retain(|in_flight| !matches!(in_flight.handle, Handle::Share { .. }));
        let consumers = std::mem::take(&mut *self.link.consumers.lock());
        for holder in consumers {
            self.system.detach(holder).await;
        }
        if let (Some(queue), false) = (&self.queue, self.durable) {
            end_clean_session(&self.sessions, &self.system, queue, &self.subscriptions).await;
        }
        // The next connection of the session counts instead of this one.
        drop(self.rights);
        let handover = Handover { closed, subscriptions: self.subscriptions, client: self.client };
        if let Some(late) = self.link.leave(handover) {
            // The session went on without it, but the will is still its own.
            if let Some(will) = late.closed.will.filter(|will| will.delay == 0) {
                self.sessions.publish_will(&late.client, will.will);
            }
            return;
        }
        self.sessions.left(&self.name, &self.link).await;
    }
}

/// Deletes the queue of a session that ends with its connection.
async fn end_clean_session(
    sessions: &Sessions,
    system: &Client,
    queue: &Queue,
    subscriptions: &Subscriptions,
) {
    for share in subscriptions.iter().filter_map(|subscription| subscription.share.as_ref()) {
        sessions.shares.leave(system, share, &queue.name).await;
    }
    match system.delete_queue(&queue.name, false, false).await {
        Ok(_) | Err(Error::NotFound(..) | Error::Stopping) => {}
        Err(error) => tracing::warn!(queue = %queue.name, %error, "a session could not be deleted"),
    }
}

/// Makes a request at once, so that requests reach the engine in the order of these calls, and tells its
/// result later.
pub(crate) async fn begin<F>(request: F, done: impl FnOnce(F::Output) + Send + 'static)
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let mut request = Box::pin(request);
    // A request is sent when its future is first looked at.
    match poll_fn(|context| Poll::Ready(request.as_mut().poll(context))).await {
        Poll::Ready(result) => done(result),
        Poll::Pending => {
            tokio::spawn(async move { done(request.await) });
        }
    }
}

/// What a resumed session finds in its queue of the messages that it had sent.
pub(crate) type Resumed = HashMap<(u8, Position), Delivery>;

/// Deliveries in the order of their queues.
pub(crate) type Backlog = VecDeque<Delivery>;
