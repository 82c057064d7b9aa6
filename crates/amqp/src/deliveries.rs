//! Deliveries: from the broker's threads to the output, as it has room.

use crate::{
    channel::{Consumer, Deliveries, Lease},
    connection::{Connection, Fault},
    convert::{Rendered, render},
    session::Event,
    wire::{self, DeliverRef, Exception, ReplyCode, encode_content},
};
use bytes::{Bytes, BytesMut};
use posthaste_broker::{DeliverySink, Resolved};
use posthaste_engine::{Content, Delivery, Position, command::Outcome};
use posthaste_model::{ConsumerId, DeathReason};
use posthaste_net::{Mailbox, Output};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Deliveries that are read and written at a time.
const CHUNK: usize = 128;
/// Bodies that wait in memory for room in the output; durable ones beyond that are read again later.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// Where the broker's answers and deliveries arrive.
pub(crate) struct Inbox {
    sink: Arc<Sink>,
}

struct Sink {
    mailbox: Mailbox<Event>,
    /// The session will look for room again.
    looking: AtomicBool,
}

impl Inbox {
    pub fn new(mailbox: Mailbox<Event>) -> Inbox {
        Inbox { sink: Arc::new(Sink { mailbox, looking: AtomicBool::new(false) }) }
    }

    pub fn sink(&self) -> Arc<dyn DeliverySink> {
        self.sink.clone()
    }

    pub fn mailbox(&self) -> Mailbox<Event> {
        self.sink.mailbox.clone()
    }

    /// Has the session look again. The mailbox is read only while the output has room, so this is when it
    /// has.
    fn look_again(&self) {
        if !self.sink.looking.swap(true, Ordering::Relaxed) {
            self.sink.mailbox.send(Event::Room);
        }
    }

    pub fn looked(&self) {
        self.sink.looking.store(false, Ordering::Relaxed);
    }
}

impl DeliverySink for Sink {
    fn deliver(&self, consumer: ConsumerId, deliveries: Vec<Delivery>) {
        self.mailbox.send(Event::Deliver(consumer, deliveries));
    }

    fn cancelled(&self, consumer: ConsumerId) {
        self.mailbox.send(Event::Cancelled(consumer));
    }
}

/// Deliveries that were not written yet, oldest first.
#[derive(Default)]
pub(crate) struct Waiting {
    queue: VecDeque<Deliveries>,
    /// Of bodies in memory.
    bytes: usize,
}

impl Waiting {
    pub fn is_worth_a_look(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The consumer is gone; so are its leases.
    pub fn forget(&mut self, consumer: ConsumerId) {
        drop(self.take(consumer));
    }

    /// Takes out what waits for one consumer.
    pub fn take(&mut self, consumer: ConsumerId) -> VecDeque<Delivery> {
        let mut taken = VecDeque::new();
        self.queue.retain_mut(|waiting| {
            if waiting.consumer == consumer {
                taken.append(&mut waiting.deliveries);
            }
            !waiting.deliveries.is_empty()
        });
        self.bytes -= taken.iter().map(body_bytes).sum::<usize>().min(self.bytes);
        taken
    }

    fn push(&mut self, consumer: ConsumerId, mut deliveries: VecDeque<Delivery>, streams: &[u64]) {
        for delivery in &mut deliveries {
            let bytes = body_bytes(delivery);
            if self.bytes + bytes > WAITING_BYTES_MAX && forget_body(delivery, streams) {
                continue;
            }
            self.bytes += bytes;
        }
        self.queue.push_back(Deliveries { consumer, deliveries });
    }

    /// Puts deliveries back that come before all others.
    pub fn push_front(&mut self, deliveries: Deliveries) {
        self.bytes += deliveries.deliveries.iter().map(body_bytes).sum::<usize>();
        self.queue.push_front(deliveries);
    }

    /// Takes up to `count` off the front, of one consumer.
    fn take_front(&mut self, count: usize) -> Vec<Delivery> {
        let Some(front) = self.queue.front_mut() else { return Vec::new() };
        let taken: Vec<Delivery> = front.deliveries.drain(..count.min(front.deliveries.len())).collect();
        if front.deliveries.is_empty() {
            self.queue.pop_front();
        }
        self.bytes -= taken.iter().map(body_bytes).sum::<usize>().min(self.bytes);
        taken
    }

    fn take_all_front(&mut self) -> Option<Deliveries> {
        let front = self.queue.pop_front()?;
        self.bytes -= front.deliveries.iter().map(body_bytes).sum::<usize>().min(self.bytes);
        Some(front)
    }
}

fn body_bytes(delivery: &Delivery) -> usize {
    match &delivery.content {
        Content::Inline(_, payload) => payload.body.len(),
        Content::Stored { .. } => 0,
    }
}

/// Lets go of a body that can be read again; false for what is held in memory only.
fn forget_body(delivery: &mut Delivery, streams: &[u64]) -> bool {
    let stream = streams.get(usize::from(delivery.lane)).copied();
    let (Some(stream), true, true) = (stream, delivery.position.is_durable(), body_bytes(delivery) > 0)
    else {
        return false;
    };
    delivery.content = Content::Stored { stream, offset: delivery.position.offset };
    true
}

impl Connection {
    /// The broker handed out deliveries.
    pub fn receive(&mut self, id: ConsumerId, deliveries: Vec<Delivery>) {
        match self.consumers.get(&id) {
            // Queues that do not survive a restart keep nothing on disk.
            Some(consumer) => {
                let streams: &[u64] = if consumer.queue.durable { &consumer.queue.streams } else { &[] };
                self.waiting.push(id, deliveries.into(), streams);
            }
            // It was cancelled meanwhile. Where it needed no acknowledgement they are lost, as the client
            // agreed.
            None => give_back(&self.client, id, deliveries),
        }
    }

    /// Writes what waits, while there is room.
    pub async fn deliver_waiting(&mut self, out: &mut Output) -> Result<(), Fault> {
        let out_max = self.broker.limits().connection_output_bytes_max;
        while let Some(front) = self.waiting.queue.front() {
            if out.len() >= out_max {
                self.inbox.look_again();
                return Ok(());
            }
            let Some(consumer) = self.consumers.get(&front.consumer) else {
                if let Some(Deliveries { consumer, deliveries }) = self.waiting.take_all_front() {
                    give_back(&self.client, consumer, deliveries.into());
                }
                continue;
            };
            let (id, number, no_ack) = (front.consumer, consumer.channel, consumer.no_ack);
            let Some(channel) = self.channels.get_mut(number) else {
                self.waiting.take_all_front();
                continue;
            };
            let room = if no_ack { usize::MAX } else { channel.room() };
            if room == 0 || (!no_ack && !channel.held.is_empty()) {
                if let Some(mut held) = self.waiting.take_all_front() {
                    let streams: &[u64] = if consumer.queue.durable { &consumer.queue.streams } else { &[] };
                    held.deliveries.iter_mut().for_each(|delivery| _ = forget_body(delivery, streams));
                    channel.held.push_back(held);
                }
                continue;
            }
            let chunk = self.waiting.take_front(room.min(CHUNK));
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
            self.waiting.push_front(held);
        }
    }

    /// Writes deliveries to one consumer.
    pub async fn deliver(
        &mut self,
        id: ConsumerId,
        chunk: Vec<Delivery>,
        out: &mut Output,
    ) -> Result<(), Fault> {
        let count = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let expected: Vec<(u8, Position)> = if chunk.iter().all(|d| matches!(d.content, Content::Inline(..)))
        {
            Vec::new()
        } else {
            chunk.iter().map(|d| (d.lane, d.position)).collect()
        };
        let resolved = self.broker.resolve(chunk).await;
        let Some(consumer) = self.consumers.get_mut(&id) else { return Ok(()) };
        let queue = consumer.queue.clone();
        let number = consumer.channel;
        let mut unreadable = missing(&expected, &resolved);
        let mut add = 0;
        for message in resolved {
            let (lane, position, redelivered) =
                (message.delivery.lane, message.delivery.position, message.delivery.redelivered);
            let rendered = match render(&self.broker, &queue, message) {
                Ok(rendered) => rendered,
                Err(error) => {
                    tracing::error!(queue = %queue.name, %error, "a message cannot be rendered");
                    self.broker.metrics().unreadable.add(1);
                    unreadable.push((lane, position));
                    continue;
                }
            };
            let Some(consumer) = self.consumers.get_mut(&id) else { break };
            let Some(channel) = self.channels.get_mut(number) else { break };
            let delivery_tag = channel.next_delivery_tag();
            write(number, consumer, delivery_tag, redelivered, &rendered, self.frame_max, out)
                .map_err(|exception| Fault { channel: 0, exception })?;
            if !consumer.no_ack {
                let lease = Lease { queue: queue.id, consumer: id, lane, position };
                channel.unsettled.push(delivery_tag, lease);
                channel.consumers_unsettled += 1;
                add += consumer.window.delivered();
            }
        }
        let Some(consumer) = self.consumers.get_mut(&id) else { return Ok(()) };
        if consumer.no_ack {
            add = consumer.window.passed(count);
        } else if !unreadable.is_empty() {
            // Nobody can read it: it goes where rejected messages go.
            let outcome = Outcome::Reject(DeathReason::Rejected);
            self.client.settle(queue.id, id, unreadable, outcome);
        }
        if add > 0 {
            self.client.credit(queue.id, id, add);
        }
        Ok(())
    }
}

/// Deliveries that found no message.
fn missing(expected: &[(u8, Position)], resolved: &[Resolved]) -> Vec<(u8, Position)> {
    if expected.len() <= resolved.len() {
        return Vec::new();
    }
    let mut found = resolved.iter().map(|r| (r.delivery.lane, r.delivery.position)).peekable();
    expected.iter().copied().filter(|place| found.next_if_eq(place).is_none()).collect()
}

/// Deliveries to a consumer that is gone were not seen by anyone.
pub(crate) fn give_back(client: &posthaste_broker::Client, consumer: ConsumerId, deliveries: Vec<Delivery>) {
    let Some(queue) = deliveries.first().map(|d| d.queue) else { return };
    let places = deliveries.iter().map(|d| (d.lane, d.position)).collect();
    client.settle(queue, consumer, places, Outcome::Release { attempted: false });
}

fn write(
    number: u16,
    consumer: &Consumer,
    delivery_tag: u64,
    redelivered: bool,
    message: &Rendered,
    frame_max: wire::FrameMax,
    out: &mut Output,
) -> Result<(), Exception> {
    let (exchange, routing_key) = message.address();
    let consumer_tag = consumer.tag.as_short_str();
    let deliver = DeliverRef { consumer_tag, delivery_tag, redelivered, exchange, routing_key };
    write_content(number, &deliver, message, frame_max, out)
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
