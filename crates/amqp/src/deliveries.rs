//! Deliveries: from the broker's threads to the output, as it has room.

use crate::{
    channel::{Deliveries, Lease},
    connection::{Connection, Fault},
    convert::{Rendered, render},
    session::Event,
    wire::{self, DeliverRef, Exception, ReplyCode, encode_content},
};
use bytes::{Bytes, BytesMut};
use posthaste_broker::{DeliverySink, Holder};
use posthaste_engine::{Content, Delivery, Position, catalog::Queue, command::Outcome};
use posthaste_model::{ConsumerId, DeathReason};
use posthaste_net::{Mailbox, Output};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// Deliveries that are read and written at a time; fewer of large ones.
const CHUNK_MAX: usize = 256;
const CHUNK_AT_FIRST: usize = 16;
/// Octets of bodies that a chunk is to have.
const CHUNK_OCTETS: usize = 1 << 20;
/// Bodies that wait in memory for room in the output; what is on the disk too is read again later beyond
/// that.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// Where the broker's answers and deliveries arrive.
pub(crate) struct Inbox {
    shared: Arc<Arrivals>,
}

/// What the session shares with the broker's threads.
struct Arrivals {
    mailbox: Mailbox<Event>,
    /// The session will look for room again.
    looking: AtomicBool,
    /// Octets of bodies that arrived and were not written yet.
    bytes: AtomicUsize,
}

impl Inbox {
    pub fn new(mailbox: Mailbox<Event>) -> Inbox {
        let (looking, bytes) = (AtomicBool::new(false), AtomicUsize::new(0));
        Inbox { shared: Arc::new(Arrivals { mailbox, looking, bytes }) }
    }

    /// Where deliveries of a consumer of this queue go.
    pub fn sink(&self, holder: Holder, queue: &Queue) -> Arc<dyn DeliverySink> {
        // Queues that do not survive a restart keep nothing on the disk.
        let streams = if queue.durable { queue.streams.clone() } else { Vec::new() };
        Arc::new(Sink { shared: self.shared.clone(), holder, streams })
    }

    pub fn mailbox(&self) -> Mailbox<Event> {
        self.shared.mailbox.clone()
    }

    /// Has the session look again. The mailbox is read only while the output has room, so this is when it
    /// has.
    pub fn look_again(&self) {
        if !self.shared.looking.swap(true, Ordering::Relaxed) {
            self.shared.mailbox.send(Event::Room);
        }
    }

    pub fn looked(&self) {
        self.shared.looking.store(false, Ordering::Relaxed);
    }

    /// These wait no longer.
    fn let_go<'a>(&self, deliveries: impl IntoIterator<Item = &'a Delivery>) {
        let bytes: usize = deliveries.into_iter().map(body_bytes).sum();
        if bytes > 0 {
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

struct Sink {
    shared: Arc<Arrivals>,
    holder: Holder,
    /// Where the queue's lanes are stored.
    streams: Vec<u64>,
}

impl DeliverySink for Sink {
    fn deliver(&self, _: ConsumerId, mut deliveries: Vec<Delivery>) {
        let mut bytes = self.shared.bytes.load(Ordering::Relaxed);
        let before = bytes;
        for delivery in &mut deliveries {
            let body = body_bytes(delivery);
            if bytes + body <= WAITING_BYTES_MAX || !forget_body(delivery, &self.streams) {
                bytes += body;
            }
        }
        self.shared.bytes.fetch_add(bytes - before, Ordering::Relaxed);
        self.shared.mailbox.send(Event::Deliver(self.holder, deliveries));
    }

    fn cancelled(&self, consumer: ConsumerId) {
        self.shared.mailbox.send(Event::Cancelled(consumer));
    }
}

/// Octets that a delivery keeps in memory.
fn body_bytes(delivery: &Delivery) -> usize {
    match &delivery.content {
        Content::Inline(_, payload) => payload.body.len(),
        Content::Stored { .. } => 0,
    }
}

/// Lets go of a body that can be read again; false for what is nowhere else: held in memory only, or settled
/// as it was handed out.
fn forget_body(delivery: &mut Delivery, streams: &[u64]) -> bool {
    let stored = delivery.position.is_durable() && !delivery.settled;
    let Some(stream) = streams.get(usize::from(delivery.lane)).copied().filter(|_| stored) else {
        return false;
    };
    delivery.content = Content::Stored { stream, offset: delivery.position.offset };
    true
}

/// Deliveries that were not written yet, oldest first.
pub(crate) struct Waiting {
    queue: VecDeque<Deliveries>,
    /// How many to take at a time.
    chunk: usize,
}

impl Waiting {
    pub fn new() -> Waiting {
        Waiting { queue: VecDeque::new(), chunk: CHUNK_AT_FIRST }
    }

    pub fn is_worth_a_look(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes out what waits for one consumer.
    pub fn take(&mut self, holder: Holder) -> VecDeque<Delivery> {
        take_of(&mut self.queue, holder)
    }

    /// Takes up to `count` off the front, of one consumer.
    fn take_front(&mut self, count: usize) -> Vec<Delivery> {
        let Some(front) = self.queue.front_mut() else { return Vec::new() };
        let taken = front.deliveries.drain(..count.min(front.deliveries.len())).collect();
        if front.deliveries.is_empty() {
            self.queue.pop_front();
        }
        taken
    }

    /// A chunk had so many octets: the next ones are to be as long as fits.
    fn adapt(&mut self, count: usize, octets: usize) {
        let fitting = CHUNK_OCTETS / (octets / count.max(1)).max(1);
        self.chunk = fitting.min(self.chunk * 2).clamp(1, CHUNK_MAX);
    }
}

/// Takes out what is for one consumer, oldest first.
pub(crate) fn take_of(queue: &mut VecDeque<Deliveries>, holder: Holder) -> VecDeque<Delivery> {
    let mut taken = VecDeque::new();
    queue.retain_mut(|waiting| {
        if waiting.holder == holder {
            taken.append(&mut waiting.deliveries);
        }
        !waiting.deliveries.is_empty()
    });
    taken
}

impl Connection {
    /// The broker handed out deliveries.
    pub fn receive(&mut self, holder: Holder, deliveries: Vec<Delivery>) {
        if self.consumers.contains_key(&holder.consumer()) {
            self.waiting.queue.push_back(Deliveries { holder, deliveries: deliveries.into() });
        } else {
            // It was cancelled meanwhile.
            self.give_back(holder, deliveries);
        }
    }

    /// Deliveries to a consumer that is gone were not seen by anyone. Those that were settled as they were
    /// handed out are lost, which is what a client without acknowledgements has agreed to.
    pub fn give_back(&self, holder: Holder, deliveries: impl IntoIterator<Item = Delivery>) {
        let deliveries: Vec<Delivery> = deliveries.into_iter().collect();
        self.inbox.let_go(&deliveries);
        if deliveries.is_empty() {
            return;
        }
        let places = deliveries.iter().map(|d| (d.lane, d.position)).collect();
        self.client.settle(holder, places, Outcome::Release { attempted: false });
    }

    /// Forgets what waits for a consumer whose leases ended otherwise.
    pub fn forget_waiting(&mut self, holder: Holder) {
        let forgotten = self.waiting.take(holder);
        self.inbox.let_go(&forgotten);
    }

    /// Forgets what a channel holds back, likewise.
    pub fn forget_held(&self, held: impl IntoIterator<Item = Deliveries>) {
        held.into_iter().for_each(|held| self.inbox.let_go(&held.deliveries));
    }

    /// Writes what waits, while there is room.
    pub async fn deliver_waiting(&mut self, out: &mut Output) -> Result<(), Fault> {
        let out_max = self.broker.limits().connection_output_bytes_max;
        while let Some(front) = self.waiting.queue.front() {
            if out.len() >= out_max {
                self.inbox.look_again();
                return Ok(());
            }
            if let Some(pause) = self.client.read_pause() {
                self.pace(pause);
                return Ok(());
            }
            let holder = front.holder;
            let id = holder.consumer();
            let Some((number, no_ack)) = self.consumers.get(&id).map(|c| (c.channel, c.no_ack)) else {
                let left = self.waiting.take(holder);
                self.give_back(holder, left);
                continue;
            };
            let Some(channel) = self.channels.get_mut(number) else {
                self.forget_waiting(holder);
                continue;
            };
            let room = if no_ack { usize::MAX } else { channel.room() };
            if room == 0 || (!no_ack && !channel.held.is_empty()) {
                channel.held.extend(self.waiting.queue.pop_front());
                continue;
            }
            let chunk = self.waiting.take_front(room.min(self.waiting.chunk));
            self.deliver(id, chunk, out).await?;
        }
        Ok(())
    }

    /// What was held back for want of room under `basic.qos` with `global` is looked at again.
    pub fn unhold(&mut self, number: u16) {
        let Some(channel) = self.channels.get_mut(number) else { return };
        if channel.room() == 0 {
            return;
        }
        while let Some(held) = channel.held.pop_back() {
            self.waiting.queue.push_front(held);
        }
    }

    /// Writes deliveries to one consumer.
    pub async fn deliver(
        &mut self,
        id: ConsumerId,
        chunk: Vec<Delivery>,
        out: &mut Output,
    ) -> Result<(), Fault> {
        self.inbox.let_go(&chunk);
        let count = chunk.len();
        let resolved = self.broker.resolve(chunk).await;
        let Some(queue) = self.consumers.get(&id).map(|consumer| consumer.queue.clone()) else {
            return Ok(());
        };
        let octets: usize = resolved.iter().map(|message| message.payload.body.len()).sum();
        self.waiting.adapt(count, octets);
        self.client.charge_read(resolved.len() as u64, octets as u64);
        let mut unreadable = Vec::new();
        let mut add = 0;
        for message in resolved {
            let place = (message.delivery.lane, message.delivery.position);
            let redelivered = message.delivery.redelivered;
            match render(&self.broker, &queue, message) {
                Ok(rendered) => add += self.write(id, place, redelivered, &rendered, out)?,
                Err(error) => {
                    tracing::error!(queue = %queue.name, %error, "a message cannot be rendered");
                    self.broker.metrics().unreadable.add(1);
                    unreadable.push(place);
                }
            }
        }
        let Some(consumer) = self.consumers.get_mut(&id) else { return Ok(()) };
        if consumer.no_ack {
            add = consumer.window.passed(u32::try_from(count).unwrap_or(u32::MAX), octets);
        } else if !unreadable.is_empty() {
            // It goes where rejected messages go.
            self.client.settle(consumer.holder, unreadable, Outcome::Reject(DeathReason::Rejected));
        }
        if add > 0 {
            self.client.credit(consumer.holder, add);
        }
        Ok(())
    }

    /// Writes one delivery; returns credit to add.
    fn write(
        &mut self,
        id: ConsumerId,
        (lane, position): (u8, Position),
        redelivered: bool,
        message: &Rendered,
        out: &mut Output,
    ) -> Result<u32, Fault> {
        let Some(consumer) = self.consumers.get_mut(&id) else { return Ok(0) };
        let number = consumer.channel;
        let Some(channel) = self.channels.get_mut(number) else { return Ok(0) };
        let delivery_tag = channel.next_delivery_tag();
        let (exchange, routing_key) = message.address();
        let consumer_tag = consumer.tag.as_short_str();
        let deliver = DeliverRef { consumer_tag, delivery_tag, redelivered, exchange, routing_key };
        write_content(number, &deliver, message, self.frame_max, out)
            .map_err(|exception| Fault { channel: 0, exception })?;
        if consumer.no_ack {
            return Ok(0);
        }
        channel.unsettled.push(delivery_tag, Lease { holder: consumer.holder, lane, position });
        channel.consumers_unsettled += 1;
        Ok(consumer.window.delivered())
    }
}

/// # Errors
/// The properties do not fit a frame. The message stays in its queue, for clients that accept larger ones.
pub(crate) fn write_content(
    number: u16,
    method: &impl wire::EncodeMethod,
    message: &Rendered,
    frame_max: wire::FrameMax,
    out: &mut Output,
) -> Result<(), Exception> {
    let body = std::slice::from_ref(&message.body);
    encode_content(&mut Out(out), number, method, &message.properties, body, frame_max).map_err(|error| {
        let text = format!("a message cannot be delivered: {error}; connect with a larger frame_max");
        Exception::new(ReplyCode::ResourceError, text)
    })
}

/// The connection's output as the codec writes to it.
pub(crate) struct Out<'a>(pub &'a mut Output);

impl wire::Output for Out<'_> {
    fn buffer(&mut self) -> &mut BytesMut {
        self.0.bytes()
    }

    fn append(&mut self, octets: Bytes) {
        self.0.chunk(octets);
    }
}

/// The priority that a consumer asked for.
///
/// # Errors
/// PRECONDITION_FAILED when it is no number.
pub(crate) fn consumer_priority(table: &wire::FieldTable) -> Result<i32, Exception> {
    let Some(value) = table.get("x-priority") else { return Ok(0) };
    let priority = value.as_i64().and_then(|priority| i32::try_from(priority).ok());
    priority.ok_or_else(|| {
        let text = format!("invalid arg 'x-priority': {{unacceptable_type,{}}}", value.type_name());
        Exception::new(ReplyCode::PreconditionFailed, text)
    })
}
