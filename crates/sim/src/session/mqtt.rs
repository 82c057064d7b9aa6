//! MQTT 3.1.1 and 5: three connections, which share two client identifiers.

use super::{
    input::Input,
    line::{Line, pace},
};
use crate::clients::Doors;
use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use posthaste_mqtt::wire::{
    Ack, Connect, Decoder, Disconnect, Packet, PacketIdentifier, ProtocolVersion, Publish, PublishProperties,
    QoS, ReasonCode, RetainHandling, Subscribe, SubscriptionIdentifier, SubscriptionOptions, TopicFilter,
    Unsubscribe, UserProperties, Will,
};
use std::{
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};
use tokio::time::sleep;

const CONNECTIONS: usize = 3;
const CLIENTS: [&str; 3] = ["c1", "c2", ""];
const TOPICS: [&str; 6] = ["a", "a/b", "a/b/c", "/", "$SYS/x", ""];
const FILTERS: [&str; 9] = ["a", "a/b", "a/#", "+/b", "#", "$share/s/a/#", "$share/s/#", "$SYS/#", "+/+/c"];
const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const PROBE: &str = "probe";
const SIZE_MAX: u32 = 1 << 20;
/// How long a broker may take to serve a new connection, in simulated time.
const PATIENCE_MS: u32 = 5_000;

/// Runs the sequence, then sees whether a new connection is served.
pub async fn session(doors: Doors, data: Vec<u8>) -> Result<()> {
    let mut input = Input::new(data);
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::unconnected(&doors)).collect();
    while let Some(choice) = input.operation() {
        let client = &mut clients[usize::from(choice >> 4 & 3) % CONNECTIONS];
        if !client.line.is_open() {
            *client = Client::unconnected(&doors);
        }
        if client.connected {
            client.operate(choice & 15, &mut input).await;
        } else {
            client.connect(&mut input).await;
        }
        pace(choice >> 6).await;
        for client in &mut clients {
            client.listen().await?;
        }
    }
    drop(clients);
    sleep(Duration::from_millis(50)).await;
    serves(&doors).await.context("after the sequence")
}

struct Client {
    line: Line,
    decoder: Decoder,
    version: ProtocolVersion,
    connected: bool,
    /// Raw octets were sent: they may have been a CONNECT in another version.
    raw: bool,
    /// The last identifier that the broker used, and the last one used here.
    theirs: u16,
    ours: u16,
    received: Vec<Packet>,
}

impl Client {
    fn unconnected(doors: &Doors) -> Client {
        let version = ProtocolVersion::V5;
        Client {
            line: Line::open(&doors.mqtt),
            decoder: Decoder::for_client(version, SIZE_MAX),
            version,
            connected: false,
            raw: false,
            theirs: 0,
            ours: 0,
            received: Vec::new(),
        }
    }

    async fn send(&mut self, packet: &Packet) {
        let mut octets = BytesMut::new();
        if packet.encode(self.version, &mut octets).is_ok() {
            self.line.write(&octets).await;
        }
    }

    async fn connect(&mut self, input: &mut Input) {
        let client = input.one(CLIENTS);
        let [old, lasting, will, expires, aliases, small, keep_alive, narrow] = input.flags();
        let version = if old { ProtocolVersion::V3_1_1 } else { ProtocolVersion::V5 };
        if !self.connected {
            self.version = version;
            self.decoder = Decoder::for_client(version, SIZE_MAX);
        }
        let mut connect = Connect::new(version, client);
        connect.clean_start = !lasting;
        if keep_alive {
            connect.keep_alive = u16::from(input.below(4));
        }
        if !old {
            let expiry = if expires { input.one([1, 5, u32::MAX]) } else { 0 };
            connect.properties.session_expiry_interval = expiry;
            connect.properties.topic_alias_maximum = if aliases { 4 } else { 0 };
            if small {
                connect.properties.maximum_packet_size = NonZeroU32::new(20 + u32::from(input.byte()));
            }
            if narrow {
                let most = NonZeroU16::new(u16::from(input.below(4)));
                connect.properties.receive_maximum = most.unwrap_or(NonZeroU16::MIN);
            }
        }
        connect.will = will.then(|| Will {
            qos: input.one(QUALITIES),
            retain: input.flags()[0],
            will_delay_interval: if old { 0 } else { input.one([0, 1, 3]) },
            topic: ByteString::from_static(input.one(TOPICS)),
            payload: Bytes::from_static(b"gone"),
            ..Will::default()
        });
        self.send(&Packet::Connect(Box::new(connect))).await;
        self.connected = true;
    }

    async fn operate(&mut self, operation: u8, input: &mut Input) {
        match operation {
            0..=3 => self.publish(input).await,
            4 | 5 => self.subscribe(input).await,
            6 => self.unsubscribe(input).await,
            7..=10 => self.acknowledge(operation, input).await,
            11 => self.disconnect(input).await,
            12 => sleep(input.pause(20)).await,
            13 => self.raw_packet(input).await,
            14 => match input.below(3) {
                0 => self.line.cut(),
                1 => self.send(&Packet::Pingreq).await,
                // A second CONNECT on a connection is a protocol error [MQTT-3.1.0-2].
                _ => self.connect(input).await,
            },
            _ => {
                self.raw = true;
                let octets = input.bytes(64);
                self.line.write(&octets).await;
            }
        }
    }

    /// An identifier of our own, mostly a new one.
    fn identifier(&mut self, input: &mut Input) -> Option<PacketIdentifier> {
        self.ours = (input.near(i64::from(self.ours) + 1) as u16).max(1);
        PacketIdentifier::new(self.ours)
    }

    async fn publish(&mut self, input: &mut Input) {
        let qos = input.one(QUALITIES);
        let topic = input.one(TOPICS);
        let [retain, dup, expires, alias, empty, large, named, _] = input.flags();
        let mut properties = PublishProperties::default();
        if self.version == ProtocolVersion::V5 {
            properties.message_expiry_interval = expires.then(|| u32::from(input.below(4)));
            properties.topic_alias = if alias { NonZeroU16::new(input.near(1) as u16) } else { None };
        }
        let payload = match (empty, large) {
            (true, _) => Vec::new(),
            (_, true) => vec![b'x'; 300],
            _ => vec![b'x'; usize::from(input.below(32))],
        };
        let publish = Publish {
            dup: dup && qos != QoS::AtMostOnce,
            qos,
            retain,
            topic_name: ByteString::from_static(if alias && !named { "" } else { topic }),
            packet_identifier: if qos == QoS::AtMostOnce { None } else { self.identifier(input) },
            properties,
            payload: payload.into(),
        };
        self.send(&Packet::Publish(publish)).await;
    }

    async fn subscribe(&mut self, input: &mut Input) {
        let count = 1 + usize::from(input.below(2));
        let mut topic_filters = Vec::new();
        for _ in 0..count {
            let Ok(filter) = TopicFilter::parse(ByteString::from_static(input.one(FILTERS))) else { return };
            let [no_local, retain_as_published, ..] = input.flags();
            let v5 = self.version == ProtocolVersion::V5;
            let mut options = SubscriptionOptions::new(input.one(QUALITIES));
            if v5 {
                options.no_local = no_local;
                options.retain_as_published = retain_as_published;
                options.retain_handling = input.one([
                    RetainHandling::SendAtSubscribe,
                    RetainHandling::SendIfNewSubscription,
                    RetainHandling::DoNotSend,
                ]);
            }
            topic_filters.push((filter, options));
        }
        let subscription_identifier = match self.version {
            ProtocolVersion::V5 => SubscriptionIdentifier::new(u32::from(input.below(3))),
            _ => None,
        };
        let Some(packet_identifier) = self.identifier(input) else { return };
        let user_properties = UserProperties::new();
        let subscribe =
            Subscribe { packet_identifier, subscription_identifier, user_properties, topic_filters };
        self.send(&Packet::Subscribe(subscribe)).await;
    }

    async fn unsubscribe(&mut self, input: &mut Input) {
        let Ok(filter) = TopicFilter::parse(ByteString::from_static(input.one(FILTERS))) else { return };
        let Some(packet_identifier) = self.identifier(input) else { return };
        let user_properties = UserProperties::new();
        let unsubscribe = Unsubscribe { packet_identifier, user_properties, topic_filters: vec![filter] };
        self.send(&Packet::Unsubscribe(unsubscribe)).await;
    }

    async fn acknowledge(&mut self, operation: u8, input: &mut Input) {
        // PUBREL continues what was begun here, the others what the broker began.
        let last = if operation == 9 { self.ours } else { self.theirs };
        let Some(identifier) = PacketIdentifier::new(input.near(last.into()) as u16) else { return };
        let reason = match (self.version, input.byte()) {
            (ProtocolVersion::V5, 248..) => ReasonCode::UnspecifiedError,
            _ => ReasonCode::Success,
        };
        let packet = match operation {
            7 => Packet::Puback(Ack::new(identifier, reason)),
            8 => Packet::Pubrec(Ack::new(identifier, reason)),
            9 => Packet::Pubrel(Ack::new(identifier, ReasonCode::Success)),
            _ => Packet::Pubcomp(Ack::new(identifier, ReasonCode::Success)),
        };
        self.send(&packet).await;
    }

    async fn disconnect(&mut self, input: &mut Input) {
        let [with_will, expires, ..] = input.flags();
        let v5 = self.version == ProtocolVersion::V5;
        let reason =
            if with_will && v5 { ReasonCode::DisconnectWithWillMessage } else { ReasonCode::Success };
        let mut disconnect = Disconnect::new(reason);
        if expires && v5 {
            disconnect.properties.session_expiry_interval = Some(input.one([0, 1, 5]));
        }
        self.send(&Packet::Disconnect(Box::new(disconnect))).await;
    }

    /// A packet of the right length, of whatever type and content the fuzzer likes.
    async fn raw_packet(&mut self, input: &mut Input) {
        self.raw = true;
        let first = input.byte();
        let body = input.bytes(96);
        let mut octets = vec![first, body.len() as u8];
        octets.extend(body);
        self.line.write(&octets).await;
    }

    /// Reads what has arrived. It must be sound.
    async fn listen(&mut self) -> Result<()> {
        self.line.listen().await;
        loop {
            let packet = match self.decoder.decode(&mut self.line.input) {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(()),
                Err(_) if self.raw => {
                    self.line.cut();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            match &packet {
                Packet::Publish(Publish { packet_identifier: Some(identifier), .. }) => {
                    self.theirs = identifier.get();
                }
                Packet::Pubrec(ack) => self.ours = ack.packet_identifier.get(),
                Packet::Disconnect(_) => self.line.cut(),
                _ => {}
            }
            self.received.push(packet);
        }
    }
}

/// A new client connects, subscribes, publishes and receives what it published.
async fn serves(doors: &Doors) -> Result<()> {
    let mut client = Client::unconnected(doors);
    client.send(&Packet::Connect(Box::new(Connect::new(ProtocolVersion::V5, PROBE)))).await;
    let accepts = |packet: &Packet| match packet {
        Packet::Connack(connack) => connack.reason_code == ReasonCode::Success,
        _ => false,
    };
    wait(&mut client, accepts).await?;
    let filter = TopicFilter::parse(ByteString::from_static(PROBE))?;
    let subscribe = Subscribe {
        packet_identifier: PacketIdentifier::MIN,
        subscription_identifier: None,
        user_properties: UserProperties::new(),
        topic_filters: vec![(filter, SubscriptionOptions::new(QoS::AtLeastOnce))],
    };
    client.send(&Packet::Subscribe(subscribe)).await;
    wait(&mut client, |packet| matches!(packet, Packet::Suback(_))).await?;
    let publish = Publish {
        qos: QoS::AtLeastOnce,
        topic_name: ByteString::from_static(PROBE),
        packet_identifier: PacketIdentifier::new(2),
        payload: Bytes::from_static(b"still here"),
        ..Publish::default()
    };
    client.send(&Packet::Publish(publish)).await;
    wait(&mut client, |packet| matches!(packet, Packet::Puback(_))).await?;
    let arrives =
        |packet: &Packet| matches!(packet, Packet::Publish(publish) if publish.payload == b"still here"[..]);
    wait(&mut client, arrives).await
}

async fn wait(client: &mut Client, is_it: impl Fn(&Packet) -> bool) -> Result<()> {
    for _ in 0..PATIENCE_MS {
        client.listen().await?;
        if client.received.iter().any(&is_it) {
            return Ok(());
        }
        ensure!(client.line.is_open(), "a new connection is closed: {:?}", client.received);
        sleep(Duration::from_millis(1)).await;
    }
    bail!("a new connection is not served: {:?}", client.received)
}
