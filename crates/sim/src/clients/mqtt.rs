//! MQTT: devices that publish with every quality of service, and durable sessions that subscribe.

use super::{Door, Shore, Stream, persist, wrong};
use crate::{
    history::{Fate, Order, Repeats},
    message::Id,
};
use bytes::BytesMut;
use bytestring::ByteString;
use posthaste_mqtt::wire::{
    Ack, Connect, Decoder, Packet, PacketIdentifier, ProtocolVersion, Publish, PublishProperties, QoS,
    ReasonCode, Subscribe, SubscriptionOptions, TopicFilter, UserProperties,
};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
    time::Duration,
};
use tokio::time::timeout;

const SIZE_MAX: u32 = 1 << 20;

struct Connection {
    stream: Stream,
    decoder: Decoder,
    version: ProtocolVersion,
    session_present: bool,
}

impl Connection {
    async fn open(shore: &Shore, client: &str, version: ProtocolVersion) -> io::Result<Connection> {
        let stream = shore.connect(Door::Mqtt)?;
        let decoder = Decoder::for_client(version, SIZE_MAX);
        let mut connection = Connection { stream, decoder, version, session_present: false };
        let mut connect = Connect { clean_start: false, ..Connect::new(version, client) };
        if version == ProtocolVersion::V5 {
            connect.properties.session_expiry_interval = 86_400;
        }
        connection.send(&Packet::Connect(Box::new(connect))).await?;
        match connection.next().await? {
            Packet::Connack(connack) if connack.reason_code == ReasonCode::Success => {
                connection.session_present = connack.session_present;
                Ok(connection)
            }
            Packet::Connack(connack) => match connack.reason_code {
                ReasonCode::ServerUnavailable | ReasonCode::ServerBusy | ReasonCode::ServerShuttingDown => {
                    Err(io::ErrorKind::ConnectionRefused.into())
                }
                // The session cannot be stored while the disk is full.
                ReasonCode::QuotaExceeded => Err(io::ErrorKind::StorageFull.into()),
                other => Err(wrong(format!("CONNACK with {other:?}"))),
            },
            other => Err(wrong(format!("{other:?} instead of CONNACK"))),
        }
    }

    async fn send(&mut self, packet: &Packet) -> io::Result<()> {
        let mut octets = BytesMut::new();
        packet.encode(self.version, &mut octets).map_err(|e| wrong(e.to_string()))?;
        self.stream.write(&octets).await
    }

    async fn next(&mut self) -> io::Result<Packet> {
        loop {
            match self.decoder.decode(&mut self.stream.input).map_err(|e| wrong(e.to_string()))? {
                Some(Packet::Disconnect(_)) => return Err(io::ErrorKind::ConnectionReset.into()),
                Some(packet) => return Ok(packet),
                None => self.stream.fill().await?,
            }
        }
    }
}

/// How far an exchange has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sent(QoS),
    /// The broker has it; it may forget the identifier.
    Received,
}

/// What a device remembers over its connections.
pub struct Device {
    pub client: String,
    pub version: ProtocolVersion,
    pub sent: Cell<u32>,
    in_flight: RefCell<BTreeMap<u16, (Id, Stage)>>,
    /// In the order in which they were sent first.
    order: RefCell<Vec<u16>>,
    last_identifier: Cell<u16>,
    had_session: Cell<bool>,
}

impl Device {
    pub fn new(number: u32) -> Device {
        let version = if number.is_multiple_of(2) { ProtocolVersion::V5 } else { ProtocolVersion::V3_1_1 };
        Device {
            client: format!("device-{number}"),
            version,
            sent: Cell::new(0),
            in_flight: RefCell::default(),
            order: RefCell::default(),
            last_identifier: Cell::new(0),
            had_session: Cell::new(false),
        }
    }

    fn end(&self, identifier: u16) {
        self.in_flight.borrow_mut().remove(&identifier);
        self.order.borrow_mut().retain(|known| *known != identifier);
    }
}

/// Publishes until it has sent `most` messages, and finishes what it has begun.
pub async fn device(shore: Rc<Shore>, number: u32, device: Rc<Device>, most: u32) {
    persist(&shore, "MQTT device", || publish(&shore, number, &device, most)).await;
}

async fn publish(shore: &Shore, number: u32, device: &Device, most: u32) -> io::Result<bool> {
    let mut connection = Connection::open(shore, &device.client, device.version).await?;
    if device.had_session.replace(true) && !connection.session_present {
        return Err(wrong(format!("the session of {} is gone", device.client)));
    }
    // [MQTT-4.4.0-1]
    let order = device.order.borrow().clone();
    for identifier in order {
        let Some((id, stage)) = device.in_flight.borrow().get(&identifier).copied() else { continue };
        match stage {
            Stage::Sent(qos) => {
                let repeats = if qos == QoS::ExactlyOnce { Repeats::Never } else { Repeats::PerAttempt };
                shore.history.borrow_mut().publishing(id, &shore.device_places(), repeats, Fate::Stays);
                send(&mut connection, device, number, id, qos, Some(identifier), true).await?;
            }
            Stage::Received => connection.send(&Packet::Pubrel(ack(identifier)?)).await?,
        }
    }
    loop {
        let ended = device.sent.get() >= most || shore.draining.get();
        if ended && device.in_flight.borrow().is_empty() {
            return Ok(true);
        }
        let waiting = device.in_flight.borrow().len() as u64;
        if !ended && shore.below(6) >= waiting {
            publish_next(shore, &mut connection, device, number).await?;
            continue;
        }
        let Ok(packet) = timeout(Duration::from_millis(5 + shore.below(20)), connection.next()).await else {
            continue;
        };
        match packet? {
            Packet::Puback(ack) => {
                let identifier = ack.packet_identifier.get();
                let known = device.in_flight.borrow().get(&identifier).copied();
                match known {
                    Some((id, Stage::Sent(QoS::AtLeastOnce))) => {
                        if is_success(ack.reason_code) {
                            shore.history.borrow_mut().acknowledged(id);
                        }
                        device.end(identifier);
                    }
                    _ => return Err(wrong(format!("PUBACK of {identifier}, which is not on its way"))),
                }
            }
            Packet::Pubrec(received) => pubrec(shore, &mut connection, device, &received).await?,
            Packet::Pubcomp(ack) => device.end(ack.packet_identifier.get()),
            other => return Err(wrong(format!("unexpected {other:?}"))),
        }
    }
}

async fn publish_next(
    shore: &Shore,
    connection: &mut Connection,
    device: &Device,
    number: u32,
) -> io::Result<()> {
    let (qos, repeats) = match shore.below(8) {
        0 => (QoS::AtMostOnce, Repeats::PerAttempt),
        1..=3 => (QoS::AtLeastOnce, Repeats::PerAttempt),
        _ => (QoS::ExactlyOnce, Repeats::Never),
    };
    let fate = if qos == QoS::AtMostOnce { Fate::Dies } else { Fate::Stays };
    // Order is promised within a quality of service [MQTT-4.6.0-5], so each counts as a publisher of its own.
    let id = Id::new(number * 10 + u32::from(qos.value()), device.sent.get());
    device.sent.set(device.sent.get() + 1);
    shore.history.borrow_mut().publishing(id, &shore.device_places(), repeats, fate);
    let identifier = (qos != QoS::AtMostOnce).then(|| {
        let mut identifier = device.last_identifier.get();
        loop {
            identifier = identifier % 50 + 1;
            if !device.in_flight.borrow().contains_key(&identifier) {
                break;
            }
        }
        device.last_identifier.set(identifier);
        device.in_flight.borrow_mut().insert(identifier, (id, Stage::Sent(qos)));
        device.order.borrow_mut().push(identifier);
        identifier
    });
    send(connection, device, number, id, qos, identifier, false).await
}

async fn pubrec(
    shore: &Shore,
    connection: &mut Connection,
    device: &Device,
    received: &Ack,
) -> io::Result<()> {
    let identifier = received.packet_identifier.get();
    let known = device.in_flight.borrow().get(&identifier).copied();
    let Some((id, _)) = known else {
        return Err(wrong(format!("PUBREC of {identifier}, which is not on its way")));
    };
    if !is_success(received.reason_code) {
        device.end(identifier);
        return Ok(());
    }
    shore.history.borrow_mut().acknowledged(id);
    device.in_flight.borrow_mut().insert(identifier, (id, Stage::Received));
    connection.send(&Packet::Pubrel(ack(identifier)?)).await
}

async fn send(
    connection: &mut Connection,
    device: &Device,
    number: u32,
    id: Id,
    qos: QoS,
    identifier: Option<u16>,
    dup: bool,
) -> io::Result<()> {
    let publish = Publish {
        dup,
        qos,
        retain: false,
        topic_name: ByteString::from(format!("sensors/{number}")),
        packet_identifier: identifier.and_then(PacketIdentifier::new),
        properties: PublishProperties::default(),
        payload: id.body(),
    };
    debug_assert!(device.client.ends_with(&number.to_string()));
    connection.send(&Packet::Publish(publish)).await
}

fn ack(identifier: u16) -> io::Result<Ack> {
    let identifier = PacketIdentifier::new(identifier).ok_or_else(|| wrong("packet identifier 0"))?;
    Ok(Ack::new(identifier, ReasonCode::Success))
}

/// 0x10 is success without a subscriber.
fn is_success(code: ReasonCode) -> bool {
    code == ReasonCode::Success || code == ReasonCode::NoMatchingSubscribers
}

/// What a subscriber remembers over its connections.
pub struct Subscriber {
    pub session: &'static str,
    pub qos: QoS,
    pub version: ProtocolVersion,
    pub subscribed: Cell<bool>,
    /// QoS 2: identifiers that the broker has not released yet.
    received: RefCell<BTreeSet<u16>>,
}

impl Subscriber {
    pub fn new(session: &'static str, qos: QoS, version: ProtocolVersion) -> Subscriber {
        Subscriber { session, qos, version, subscribed: Cell::new(false), received: RefCell::default() }
    }
}

/// Subscribes to everything that devices publish, for as long as the run goes on.
pub async fn subscriber(shore: Rc<Shore>, subscriber: Rc<Subscriber>) {
    persist(&shore, "MQTT subscriber", || subscribe(&shore, &subscriber)).await;
}

async fn subscribe(shore: &Shore, subscriber: &Subscriber) -> io::Result<bool> {
    let mut connection = Connection::open(shore, subscriber.session, subscriber.version).await?;
    if subscriber.subscribed.get() {
        if !connection.session_present {
            return Err(wrong(format!("the session {} is gone", subscriber.session)));
        }
    } else {
        let filter =
            TopicFilter::parse(ByteString::from_static("sensors/#")).map_err(|e| wrong(e.to_string()))?;
        let subscribe = Subscribe {
            packet_identifier: PacketIdentifier::MIN,
            subscription_identifier: None,
            user_properties: UserProperties::new(),
            topic_filters: vec![(filter, SubscriptionOptions::new(subscriber.qos))],
        };
        connection.send(&Packet::Subscribe(subscribe)).await?;
    }
    let mut order = Order::new();
    let mut left = if shore.draining.get() { u64::MAX } else { 20 + shore.below(150) };
    loop {
        match connection.next().await? {
            Packet::Suback(_) => subscriber.subscribed.set(true),
            Packet::Publish(publish) => {
                if shore.chance(1, 10) {
                    shore.pause(10).await;
                }
                show(shore, &mut connection, subscriber, publish, &mut order).await?;
                left -= 1;
            }
            Packet::Pubrel(released) => {
                subscriber.received.borrow_mut().remove(&released.packet_identifier.get());
                connection.send(&Packet::Pubcomp(ack(released.packet_identifier.get())?)).await?;
            }
            other => return Err(wrong(format!("unexpected {other:?}"))),
        }
        if left == 0 {
            return Ok(false);
        }
    }
}

async fn show(
    shore: &Shore,
    connection: &mut Connection,
    subscriber: &Subscriber,
    publish: Publish,
    order: &mut Order,
) -> io::Result<()> {
    let (session, body) = (subscriber.session, &publish.payload);
    match (publish.qos, publish.packet_identifier) {
        (QoS::AtLeastOnce, Some(identifier)) => {
            shore.history.borrow_mut().shown(session, body, !publish.dup, false, order);
            connection.send(&Packet::Puback(ack(identifier.get())?)).await
        }
        (QoS::ExactlyOnce, Some(identifier)) => {
            let first = subscriber.received.borrow_mut().insert(identifier.get());
            shore.history.borrow_mut().shown(session, body, first, true, order);
            connection.send(&Packet::Pubrec(ack(identifier.get())?)).await
        }
        _ => {
            // Of these the order says nothing, neither does their absence.
            shore.history.borrow_mut().shown(session, body, false, false, order);
            Ok(())
        }
    }
}
