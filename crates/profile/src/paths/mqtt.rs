//! MQTT.

use super::{BODY_BYTES, WINDOW, rounds};
use crate::{
    client::{Stream, body},
    world::Doors,
};
use anyhow::{Result, bail, ensure};
use bytes::BytesMut;
use bytestring::ByteString;
use posthaste_mqtt::wire::{
    Ack, Connect, Decoder, Packet, PacketIdentifier, ProtocolVersion, Publish, PublishProperties, QoS,
    ReasonCode, Subscribe, SubscriptionOptions, TopicFilter, UserProperties,
};

const VERSION: ProtocolVersion = ProtocolVersion::V5;
const PACKET_BYTES_MAX: u32 = 1 << 20;
const TOPIC: &str = "profile/1";
const FAN: u32 = 10;
const FAN_BODY_BYTES: usize = 100;

/// PUBLISH packets as they come from the wire, taken apart.
pub fn decode(messages: u32) -> Result<()> {
    let publish = publish_octets(QoS::AtLeastOnce, BODY_BYTES, 1)?;
    let octets = publish.repeat(WINDOW as usize);
    let mut decoder = Decoder::connected(VERSION, PACKET_BYTES_MAX);
    let mut decoded = 0;
    for count in rounds(messages, WINDOW) {
        let mut input = BytesMut::from(&octets[..publish.len() * count as usize]);
        while decoder.decode(&mut input)?.is_some() {
            decoded += 1;
        }
    }
    ensure!(decoded == messages, "{decoded} packets were decoded");
    Ok(())
}

/// From one client to another.
pub async fn qos0(doors: Doors, messages: u32) -> Result<()> {
    let mut subscriber = Connection::open(&doors, "subscriber", true).await?;
    subscriber.subscribe(QoS::AtMostOnce).await?;
    let mut publisher = Connection::open(&doors, "publisher", true).await?;
    let octets = publish_octets(QoS::AtMostOnce, BODY_BYTES, 0)?;
    for count in rounds(messages, WINDOW) {
        publisher.stream.write(&octets.repeat(count as usize)).await?;
        subscriber.stream.skip(octets.len() * count as usize).await?;
    }
    Ok(())
}

/// From one client to a session that outlives its connection.
pub async fn qos1(doors: Doors, messages: u32) -> Result<()> {
    let mut subscriber = Connection::open(&doors, "subscriber", false).await?;
    subscriber.subscribe(QoS::AtLeastOnce).await?;
    let mut publisher = Connection::open(&doors, "publisher", true).await?;
    let mut octets = Vec::new();
    for identifier in 1..=WINDOW {
        octets.extend(publish_octets(QoS::AtLeastOnce, BODY_BYTES, identifier as u16)?);
    }
    let publish = octets.len() / WINDOW as usize;
    let mut acks = BytesMut::new();
    for count in rounds(messages, WINDOW) {
        publisher.stream.write(&octets[..publish * count as usize]).await?;
        for _ in 0..count {
            match publisher.next().await? {
                Packet::Puback(ack) if ack.reason_code == ReasonCode::Success => {}
                other => bail!("{other:?} instead of PUBACK"),
            }
        }
        for _ in 0..count {
            let Packet::Publish(Publish { packet_identifier: Some(identifier), .. }) =
                subscriber.next().await?
            else {
                bail!("no PUBLISH with QoS 1")
            };
            Packet::Puback(Ack::new(identifier, ReasonCode::Success)).encode(VERSION, &mut acks)?;
        }
        subscriber.stream.write(&acks).await?;
        acks.clear();
    }
    Ok(())
}

/// From one client to ten; `messages` are deliveries.
pub async fn fanout(doors: Doors, messages: u32) -> Result<()> {
    let mut subscribers = Vec::new();
    for n in 0..FAN {
        let mut subscriber = Connection::open(&doors, &format!("subscriber-{n}"), true).await?;
        subscriber.subscribe(QoS::AtMostOnce).await?;
        subscribers.push(subscriber);
    }
    let mut publisher = Connection::open(&doors, "publisher", true).await?;
    let octets = publish_octets(QoS::AtMostOnce, FAN_BODY_BYTES, 0)?;
    for count in rounds(messages.div_ceil(FAN), WINDOW) {
        publisher.stream.write(&octets.repeat(count as usize)).await?;
        for subscriber in &mut subscribers {
            subscriber.stream.skip(octets.len() * count as usize).await?;
        }
    }
    Ok(())
}

struct Connection {
    stream: Stream,
    decoder: Decoder,
}

impl Connection {
    async fn open(doors: &Doors, client: &str, clean: bool) -> Result<Connection> {
        let decoder = Decoder::for_client(VERSION, PACKET_BYTES_MAX);
        let mut connection = Connection { stream: Stream::new(doors.mqtt()), decoder };
        let mut connect = Connect { clean_start: clean, ..Connect::new(VERSION, client) };
        if !clean {
            connect.properties.session_expiry_interval = 86_400;
        }
        connection.send(&Packet::Connect(Box::new(connect))).await?;
        match connection.next().await? {
            Packet::Connack(connack) if connack.reason_code == ReasonCode::Success => Ok(connection),
            other => bail!("{other:?} instead of CONNACK"),
        }
    }

    async fn subscribe(&mut self, qos: QoS) -> Result<()> {
        let filter = TopicFilter::parse(ByteString::from_static("profile/#"))?;
        let subscribe = Subscribe {
            packet_identifier: PacketIdentifier::MIN,
            subscription_identifier: None,
            user_properties: UserProperties::new(),
            topic_filters: vec![(filter, SubscriptionOptions::new(qos))],
        };
        self.send(&Packet::Subscribe(subscribe)).await?;
        match self.next().await? {
            Packet::Suback(_) => Ok(()),
            other => bail!("{other:?} instead of SUBACK"),
        }
    }

    async fn send(&mut self, packet: &Packet) -> Result<()> {
        let mut octets = BytesMut::new();
        packet.encode(VERSION, &mut octets)?;
        self.stream.write(&octets).await
    }

    async fn next(&mut self) -> Result<Packet> {
        loop {
            match self.decoder.decode(&mut self.stream.input)? {
                Some(packet) => return Ok(packet),
                None => self.stream.fill().await?,
            }
        }
    }
}

fn publish_octets(qos: QoS, body_bytes: usize, identifier: u16) -> Result<Vec<u8>> {
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic_name: ByteString::from_static(TOPIC),
        packet_identifier: PacketIdentifier::new(identifier),
        properties: PublishProperties::default(),
        payload: body(body_bytes).into(),
    };
    let mut octets = BytesMut::new();
    Packet::Publish(publish).encode(VERSION, &mut octets)?;
    Ok(octets.to_vec())
}
