//! AMQP 0-9-1.

use super::{BODY_BYTES, WINDOW, rounds};
use crate::{
    client::{Stream, body},
    world::Doors,
};
use anyhow::{Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use posthaste_amqp::wire::{
    Assembler, BasicProperties, Command, EncodeMethod, FieldTable, FrameMax, FrameReader, Method,
    PROTOCOL_HEADER, PropertyList, PublishRef, ShortStr, ShortString, basic, channel, confirm, connection,
    encode_ack, encode_content, encode_method, queue,
};

const CHANNEL: u16 = 1;
const QUEUE: &str = "profile";
const CONSUMER: &str = "c";
/// What the adapter allows itself.
const CONTENT_OCTETS_MAX: usize = 16 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// `delivery-mode` 2 into a durable queue, confirmed; deliveries are acknowledged.
    Persistent,
    /// `delivery-mode` 1; nothing is confirmed or acknowledged.
    Transient,
}

/// Publishes as they come from the wire, taken apart.
pub fn decode(messages: u32) -> Result<()> {
    let publish = publish_octets(Durability::Persistent)?;
    let octets = publish.repeat(WINDOW as usize);
    let mut reader = FrameReader::default();
    let mut assembler = Assembler::new(CONTENT_OCTETS_MAX as u64);
    let mut decoded = 0;
    for count in rounds(messages, WINDOW) {
        let mut input = BytesMut::from(&octets[..publish.len() * count as usize]);
        while let Some((_, frame)) = reader.read(&mut input, FrameMax::DEFAULT)? {
            decoded += u32::from(assembler.push(frame)?.is_some());
        }
    }
    ensure!(decoded == messages, "{decoded} publishes were decoded");
    Ok(())
}

/// Publishes that are confirmed, and stay in the queue.
pub async fn publish(doors: Doors, messages: u32) -> Result<()> {
    let mut publisher = Connection::open(&doors).await?;
    publisher.declare().await?;
    publisher.call(CHANNEL, &confirm::Select { no_wait: false }).await?;
    let octets = publish_octets(Durability::Persistent)?;
    for count in rounds(messages, WINDOW) {
        publisher.stream.write(&octets.repeat(count as usize)).await?;
        publisher.confirms(count).await?;
    }
    Ok(())
}

/// Publishes that go on to a consumer.
pub async fn queue(doors: Doors, messages: u32, durability: Durability) -> Result<()> {
    let is_persistent = durability == Durability::Persistent;
    let mut publisher = Connection::open(&doors).await?;
    publisher.declare().await?;
    if is_persistent {
        publisher.call(CHANNEL, &confirm::Select { no_wait: false }).await?;
    }
    let mut consumer = Connection::open(&doors).await?;
    consumer.call(CHANNEL, &basic::Qos { prefetch_count: 1000, ..Default::default() }).await?;
    let consume = basic::Consume {
        queue: ShortString::from_static(QUEUE),
        consumer_tag: ShortString::from_static(CONSUMER),
        no_ack: !is_persistent,
        ..Default::default()
    };
    consumer.call(CHANNEL, &consume).await?;
    let publish = publish_octets(durability)?;
    let delivery = delivery_octets(durability)?;
    let mut acks = BytesMut::new();
    let mut delivery_tag = 0;
    for count in rounds(messages, WINDOW) {
        publisher.stream.write(&publish.repeat(count as usize)).await?;
        if is_persistent {
            publisher.confirms(count).await?;
        }
        consumer.stream.skip(delivery * count as usize).await?;
        if is_persistent {
            for _ in 0..count {
                delivery_tag += 1;
                encode_ack(&mut acks, CHANNEL, delivery_tag, false);
            }
            consumer.stream.write(&acks).await?;
            acks.clear();
        }
    }
    Ok(())
}

struct Connection {
    stream: Stream,
    reader: FrameReader,
    assembler: Assembler,
    /// The delivery tag of the last publish that was confirmed.
    confirmed: u64,
}

impl Connection {
    async fn open(doors: &Doors) -> Result<Connection> {
        let mut connection = Connection {
            stream: Stream::new(doors.amqp()),
            reader: FrameReader::default(),
            assembler: Assembler::new(CONTENT_OCTETS_MAX as u64),
            confirmed: 0,
        };
        connection.stream.write(&PROTOCOL_HEADER).await?;
        connection.method().await?;
        let start_ok = connection::StartOk {
            client_properties: FieldTable::new(),
            mechanism: ShortString::from_static("PLAIN"),
            response: Bytes::from_static(b"\0guest\0guest"),
            locale: ShortString::from_static("en_US"),
        };
        let Method::ConnectionTune(tune) = connection.call(0, &start_ok).await? else {
            bail!("no connection.tune")
        };
        let tune_ok =
            connection::TuneOk { channel_max: tune.channel_max, frame_max: tune.frame_max, heartbeat: 0 };
        connection.send(0, &tune_ok).await?;
        connection.call(0, &connection::Open { virtual_host: ShortString::from_static("/") }).await?;
        connection.call(CHANNEL, &channel::Open {}).await?;
        Ok(connection)
    }

    async fn declare(&mut self) -> Result<()> {
        let queue = ShortString::from_static(QUEUE);
        let declared =
            self.call(CHANNEL, &queue::Declare { queue, durable: true, ..Default::default() }).await?;
        ensure!(matches!(declared, Method::QueueDeclareOk(_)), "{declared:?} instead of queue.declare-ok");
        Ok(())
    }

    async fn send(&mut self, channel: u16, method: &impl EncodeMethod) -> Result<()> {
        let mut octets = BytesMut::new();
        encode_method(&mut octets, channel, method, FrameMax::MIN)?;
        self.stream.write(&octets).await
    }

    async fn call(&mut self, channel: u16, method: &impl EncodeMethod) -> Result<Method> {
        self.send(channel, method).await?;
        self.method().await
    }

    async fn method(&mut self) -> Result<Method> {
        loop {
            while let Some((_, frame)) = self.reader.read(&mut self.stream.input, FrameMax::DEFAULT)? {
                if let Some(Command::Method(method)) = self.assembler.push(frame)? {
                    return Ok(method);
                }
            }
            self.stream.fill().await?;
        }
    }

    /// Waits until the next `count` publishes are confirmed. They are confirmed in order, as they go to one
    /// queue.
    async fn confirms(&mut self, count: u32) -> Result<()> {
        let last = self.confirmed + u64::from(count);
        while self.confirmed < last {
            match self.method().await? {
                Method::BasicAck(ack) => self.confirmed = ack.delivery_tag,
                other => bail!("{other:?} instead of a confirm"),
            }
        }
        Ok(())
    }
}

fn publish_octets(durability: Durability) -> Result<Vec<u8>> {
    let publish = PublishRef {
        exchange: ShortStr::new(b"")?,
        routing_key: ShortStr::new(QUEUE.as_bytes())?,
        mandatory: false,
        immediate: false,
    };
    content_octets(&publish, durability)
}

/// How long each delivery is on the wire.
fn delivery_octets(durability: Durability) -> Result<usize> {
    let deliver = basic::Deliver {
        consumer_tag: ShortString::from_static(CONSUMER),
        delivery_tag: 1,
        redelivered: false,
        exchange: ShortString::from_static(""),
        routing_key: ShortString::from_static(QUEUE),
    };
    Ok(content_octets(&deliver, durability)?.len())
}

fn content_octets(method: &impl EncodeMethod, durability: Durability) -> Result<Vec<u8>> {
    let delivery_mode = Some(if durability == Durability::Persistent { 2 } else { 1 });
    let properties = BasicProperties { delivery_mode, ..BasicProperties::default() };
    let list = PropertyList::from(&properties);
    let mut octets = BytesMut::new();
    let body = [Bytes::from(body(BODY_BYTES))];
    encode_content(&mut octets, CHANNEL, method, list.as_bytes(), &body, FrameMax::DEFAULT)?;
    Ok(octets.to_vec())
}
