//! AMQP 0-9-1: publishers with confirms, and consumers that accept, give back and reject.

use super::{Door, Shore, Stream, persist, wrong};
use crate::{
    history::{Fate, Order, Place, Repeats},
    message::Id,
};
use bytes::{Bytes, BytesMut};
use posthaste_amqp::wire::{
    Assembler, BasicProperties, Command, Content, ContentMethod, EncodeMethod, FieldTable, FrameMax,
    FrameReader, Method, PROTOCOL_HEADER, PropertyList, PublishRef, ReplyCode, ShortStr, ShortString, basic,
    channel, confirm, connection, encode_content, encode_method,
};
use std::{cell::Cell, collections::BTreeMap, io, rc::Rc, time::Duration};
use tokio::time::timeout;

pub(super) const CHANNEL: u16 = 1;

/// Where a publisher sends, and what becomes of it.
#[derive(Clone)]
pub struct Target {
    pub exchange: &'static str,
    pub key: &'static str,
    pub places: Vec<Place>,
    pub fate: Fate,
}

pub(super) struct Connection {
    pub stream: Stream,
    /// With these a channel may be closed: whoever called is told.
    pub tolerates: &'static [ReplyCode],
    reader: FrameReader,
    assembler: Assembler,
}

pub(super) enum Received {
    Method(Method),
    Delivery { tag: u64, redelivered: bool, content: Content },
}

impl Connection {
    pub async fn open(shore: &Shore) -> io::Result<Connection> {
        let stream = shore.connect(Door::Amqp)?;
        let mut connection = Connection {
            stream,
            tolerates: &[],
            reader: FrameReader::default(),
            assembler: Assembler::new(16 << 20),
        };
        connection.stream.write(&PROTOCOL_HEADER).await?;
        let Method::ConnectionStart(_) = connection.method().await? else {
            return Err(wrong("no connection.start"));
        };
        let start_ok = connection::StartOk {
            client_properties: FieldTable::new(),
            mechanism: ShortString::from_static("PLAIN"),
            response: Bytes::from_static(b"\0guest\0guest"),
            locale: ShortString::from_static("en_US"),
        };
        let Method::ConnectionTune(tune) = connection.call(0, &start_ok).await? else {
            return Err(wrong("no connection.tune"));
        };
        let tune_ok =
            connection::TuneOk { channel_max: tune.channel_max, frame_max: tune.frame_max, heartbeat: 0 };
        connection.send(0, &tune_ok).await?;
        let open = connection::Open { virtual_host: ShortString::from_static("/") };
        let Method::ConnectionOpenOk(_) = connection.call(0, &open).await? else {
            return Err(wrong("no connection.open-ok"));
        };
        let Method::ChannelOpenOk(_) = connection.call(CHANNEL, &channel::Open {}).await? else {
            return Err(wrong("no channel.open-ok"));
        };
        Ok(connection)
    }

    pub async fn send(&mut self, channel: u16, method: &impl EncodeMethod) -> io::Result<()> {
        let mut octets = BytesMut::new();
        encode_method(&mut octets, channel, method, FrameMax::MIN).map_err(|e| wrong(e.to_string()))?;
        self.stream.write(&octets).await
    }

    pub async fn call(&mut self, channel: u16, method: &impl EncodeMethod) -> io::Result<Method> {
        self.send(channel, method).await?;
        self.method().await
    }

    async fn method(&mut self) -> io::Result<Method> {
        match self.next().await? {
            Received::Method(method) => Ok(method),
            Received::Delivery { .. } => Err(wrong("a delivery instead of an answer")),
        }
    }

    pub async fn next(&mut self) -> io::Result<Received> {
        loop {
            while let Some((_, frame)) = self
                .reader
                .read(&mut self.stream.input, FrameMax::DEFAULT)
                .map_err(|e| wrong(e.to_string()))?
            {
                match self.assembler.push(frame).map_err(|e| wrong(e.to_string()))? {
                    // The broker is stopping, or found the connection broken.
                    Some(Command::Method(Method::ConnectionClose(close))) if close.reply_code == 320 => {
                        return Err(io::ErrorKind::ConnectionReset.into());
                    }
                    Some(Command::Method(Method::ConnectionClose(close))) => {
                        return Err(wrong(format!("connection.close {close:?}")));
                    }
                    // It is tried again.
                    Some(Command::Method(Method::ChannelClose(close)))
                        if close.reply_text.as_str().is_ok_and(|text| text.contains("the disk is full")) =>
                    {
                        return Err(io::ErrorKind::StorageFull.into());
                    }
                    Some(Command::Method(Method::ChannelClose(close)))
                        if !self.tolerates.iter().any(|code| *code as u16 == close.reply_code) =>
                    {
                        return Err(wrong(format!("channel.close {close:?}")));
                    }
                    Some(Command::Method(method)) => return Ok(Received::Method(method)),
                    Some(Command::Content(ContentMethod::Deliver(deliver), content)) => {
                        let (tag, redelivered) = (deliver.delivery_tag, deliver.redelivered);
                        return Ok(Received::Delivery { tag, redelivered, content });
                    }
                    Some(Command::Content(method, _)) => return Err(wrong(format!("unexpected {method:?}"))),
                    None => {}
                }
            }
            self.stream.fill().await?;
        }
    }
}

/// Publishes until it has sent `most` messages; each waits for nobody but its confirm.
pub async fn publisher(
    shore: Rc<Shore>,
    number: u32,
    sent: Rc<Cell<u32>>,
    most: u32,
    targets: Rc<Vec<Target>>,
) {
    persist(&shore, "AMQP publisher", || publish(&shore, number, &sent, most, &targets)).await;
}

async fn publish(
    shore: &Shore,
    number: u32,
    sent: &Cell<u32>,
    most: u32,
    targets: &[Target],
) -> io::Result<bool> {
    let mut connection = Connection::open(shore).await?;
    let Method::ConfirmSelectOk(_) = connection.call(CHANNEL, &confirm::Select { no_wait: false }).await?
    else {
        return Err(wrong("no confirm.select-ok"));
    };
    let mut tag = 0;
    let mut waiting: BTreeMap<u64, Id> = BTreeMap::new();
    loop {
        if sent.get() >= most || shore.draining.get() {
            return Ok(true);
        }
        let mut octets = BytesMut::new();
        for _ in 0..=shore.below(12) {
            let Some(target) = targets.get(shore.below(targets.len() as u64) as usize) else {
                return Ok(true);
            };
            let id = Id::new(number, sent.get());
            sent.set(sent.get() + 1);
            shore.history.borrow_mut().publishing(id, &target.places, Repeats::PerAttempt, target.fate);
            encode_publish(&mut octets, target, id)?;
            tag += 1;
            waiting.insert(tag, id);
        }
        connection.stream.write(&octets).await?;
        while !waiting.is_empty() {
            match connection.next().await? {
                Received::Method(Method::BasicAck(basic::Ack { delivery_tag, multiple })) => {
                    for id in take(&mut waiting, delivery_tag, multiple) {
                        shore.history.borrow_mut().acknowledged(id);
                    }
                }
                Received::Method(Method::BasicNack(basic::Nack { delivery_tag, multiple, .. })) => {
                    take(&mut waiting, delivery_tag, multiple);
                }
                Received::Method(Method::ConnectionBlocked(_) | Method::ConnectionUnblocked(_)) => {}
                Received::Method(other) => return Err(wrong(format!("unexpected {other:?}"))),
                Received::Delivery { .. } => return Err(wrong("a delivery to a publisher")),
            }
        }
        shore.pause(4).await;
    }
}

fn take(waiting: &mut BTreeMap<u64, Id>, tag: u64, multiple: bool) -> Vec<Id> {
    if multiple {
        let rest = waiting.split_off(&(tag + 1));
        return std::mem::replace(waiting, rest).into_values().collect();
    }
    waiting.remove(&tag).into_iter().collect()
}

fn encode_publish(octets: &mut BytesMut, target: &Target, id: Id) -> io::Result<()> {
    encode_message(octets, target.exchange, target.key, 2, id)
}

/// `mode` is 2 for what is to survive, 1 for what need not.
pub(super) fn encode_message(
    octets: &mut BytesMut,
    exchange: &str,
    key: &str,
    mode: u8,
    id: Id,
) -> io::Result<()> {
    let properties = BasicProperties { delivery_mode: Some(mode), ..BasicProperties::default() };
    let publish = PublishRef {
        exchange: ShortStr::new(exchange.as_bytes()).map_err(|e| wrong(e.to_string()))?,
        routing_key: ShortStr::new(key.as_bytes()).map_err(|e| wrong(e.to_string()))?,
        mandatory: false,
        immediate: false,
    };
    let list = PropertyList::from(&properties);
    encode_content(octets, CHANNEL, &publish, list.as_bytes(), &[id.body()], FrameMax::DEFAULT)
        .map_err(|e| wrong(e.to_string()))
}

/// Consumes a queue for as long as the run goes on. `rejects`: it may reject, and the queue has a dead-letter
/// target.
pub async fn consumer(shore: Rc<Shore>, queue: &'static str, rejects: bool) {
    persist(&shore, "AMQP consumer", || consume(&shore, queue, rejects)).await;
}

struct Consumer<'a> {
    shore: &'a Shore,
    queue: &'static str,
    /// Delivered and not settled.
    held: Vec<(u64, Id)>,
    /// Sent as settled since the last call that is to prove it.
    accepted: Vec<Id>,
    proving: Option<Vec<Id>>,
}

async fn consume(shore: &Shore, queue: &'static str, rejects: bool) -> io::Result<bool> {
    let mut connection = Connection::open(shore).await?;
    let prefetch_count = 1 + shore.below(40) as u16;
    let qos = basic::Qos { prefetch_size: 0, prefetch_count, global: false };
    let Method::BasicQosOk(_) = connection.call(CHANNEL, &qos).await? else {
        return Err(wrong("no basic.qos-ok"));
    };
    let consume = basic::Consume { queue: ShortString::truncated(queue), ..basic::Consume::default() };
    let Method::BasicConsumeOk(_) = connection.call(CHANNEL, &consume).await? else {
        return Err(wrong("no basic.consume-ok"));
    };
    let mut order = Order::new();
    let mut consumer = Consumer { shore, queue, held: Vec::new(), accepted: Vec::new(), proving: None };
    // Nobody stays for ever.
    let mut left = if shore.draining.get() { u64::MAX } else { 20 + shore.below(200) };
    loop {
        let received = timeout(Duration::from_millis(5 + shore.below(20)), connection.next()).await;
        match received {
            Ok(received) => match received? {
                Received::Delivery { tag, redelivered, content } => {
                    let body = content.body.into_bytes();
                    let id = shore.history.borrow_mut().delivered(queue, &body, redelivered, &mut order);
                    consumer.held.extend(id.map(|id| (tag, id)));
                    left -= 1;
                }
                Received::Method(Method::BasicQosOk(_)) => {
                    let proved = consumer.proving.take().unwrap_or_default();
                    shore.history.borrow_mut().surely_settled(queue, &proved);
                }
                Received::Method(other) => return Err(wrong(format!("unexpected {other:?}"))),
            },
            // Nothing comes: what is held is settled, so that more can.
            Err(_) => {
                while !consumer.held.is_empty() {
                    consumer.settle_some(&mut connection, rejects).await?;
                }
            }
        }
        if consumer.held.len() > shore.below(30) as usize {
            consumer.settle_some(&mut connection, rejects).await?;
        }
        if consumer.proving.is_none() && consumer.accepted.len() > 8 {
            connection.send(CHANNEL, &qos).await?;
            consumer.proving = Some(std::mem::take(&mut consumer.accepted));
        }
        if left == 0 {
            return Ok(false);
        }
    }
}

impl Consumer<'_> {
    /// Settles one delivery, or all up to it.
    async fn settle_some(&mut self, connection: &mut Connection, rejects: bool) -> io::Result<()> {
        let draining = self.shore.draining.get();
        let at = self.shore.below(self.held.len() as u64) as usize;
        let Some((delivery_tag, id)) = self.held.get(at).copied() else { return Ok(()) };
        match self.shore.below(20) {
            0 | 1 if !draining => {
                self.held.remove(at);
                let nack = basic::Nack { delivery_tag, multiple: false, requeue: true };
                connection.send(CHANNEL, &nack).await
            }
            2 if !draining && rejects => {
                self.held.remove(at);
                connection.send(CHANNEL, &basic::Reject { delivery_tag, requeue: false }).await
            }
            3..=9 => {
                for (_, id) in self.held.drain(..=at) {
                    self.shore.history.borrow_mut().settling(self.queue, id);
                    self.accepted.push(id);
                }
                connection.send(CHANNEL, &basic::Ack { delivery_tag, multiple: true }).await
            }
            _ => {
                self.held.remove(at);
                self.shore.history.borrow_mut().settling(self.queue, id);
                self.accepted.push(id);
                connection.send(CHANNEL, &basic::Ack { delivery_tag, multiple: false }).await
            }
        }
    }
}
