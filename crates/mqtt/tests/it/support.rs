//! A broker with an MQTT listener on a temporary directory, and clients that speak packet by packet.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, atomic::AtomicUsize};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use posthaste_broker::{Anonymous, Broker, Client as Admin, Config, Formats};
use posthaste_model::{Limits, Name};
use posthaste_mqtt::wire::{
    Ack, Connack, Connect, Decoder, PACKET_SIZE_MAX_BYTES, Packet, PacketIdentifier, ProtocolVersion,
    Publish, QoS, ReasonCode, Subscribe, SubscriptionIdentifier, SubscriptionOptions, TopicFilter,
};
use posthaste_mqtt::{Mqtt, Settings};
use posthaste_net::{Entrance, Listener, Networks, Shared};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Nothing in these tests takes that long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub const V3: ProtocolVersion = ProtocolVersion::V3_1_1;
pub const V5: ProtocolVersion = ProtocolVersion::V5;
pub const VERSIONS: [ProtocolVersion; 2] = [V3, V5];

pub struct Server {
    directory: tempfile::TempDir,
    pub broker: Broker,
    /// For what no MQTT client can do.
    pub admin: Admin,
    pub mqtt: Arc<Mqtt>,
    address: SocketAddr,
    shared: Shared,
    serving: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Server {
        Server::on(tempfile::tempdir().unwrap(), Limits::default(), false).await
    }

    /// One that hands a session to any user who names it.
    pub async fn with_shared_client_ids() -> Server {
        Server::on(tempfile::tempdir().unwrap(), Limits::default(), true).await
    }

    async fn on(directory: tempfile::TempDir, limits: Limits, shared_client_ids: bool) -> Server {
        let config = Config {
            data: directory.path().join("data"),
            limits: limits.clone(),
            formats: Formats::new([posthaste_mqtt::codec()]),
            advertised: Default::default(),
            threads: Some(2),
        };
        let broker = tokio::task::block_in_place(|| Broker::open(config)).unwrap();
        broker.set_anonymous("mqtt", Anonymous::Administrator);
        let admin = broker.system_client("test", Name::constant("default"), broker.next_connection());
        let listener = Listener::bind("mqtt", "127.0.0.1:0", Entrance::default()).await.unwrap();
        let address = listener.address();
        let ids = broker.clone();
        let shared = Shared {
            limits: Arc::new(limits),
            stopping: broker.stopping(),
            connections: Arc::new(AtomicUsize::new(0)),
            loops: Default::default(),
            next_connection: Arc::new(move || ids.next_connection()),
            leave: Default::default(),
        };
        let settings = Settings { shared_client_ids, ..Settings::new(broker.limits()) };
        let mqtt = Arc::new(posthaste_mqtt::protocol_with(broker.clone(), settings));
        let serving = tokio::spawn(posthaste_net::serve(listener, mqtt.clone(), shared.clone()));
        Server { directory, broker, admin, mqtt, address, shared, serving }
    }

    /// Stops the broker in an orderly way and starts it again on what it left.
    pub async fn restart(self) -> Server {
        self.restart_with(Limits::default()).await
    }

    pub async fn restart_with(self, limits: Limits) -> Server {
        self.broker.announce_stop();
        tokio::time::timeout(PATIENCE, self.serving).await.unwrap().unwrap();
        tokio::task::block_in_place(|| self.broker.stop());
        Server::on(self.directory, limits, false).await
    }

    /// Where the broker keeps its data.
    pub fn folder(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    pub fn settings(&self) -> Settings {
        Settings::new(self.broker.limits())
    }

    /// A connection on which nothing was said.
    pub async fn dial(&self, version: ProtocolVersion) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        Client::on(stream, version)
    }

    /// Connects and returns CONNACK.
    pub async fn connect_with(&self, connect: Connect) -> (Client, Connack) {
        self.dial(connect.version).await.connect(connect).await
    }

    /// As [`Server::connect_with`], from another machine: through a proxy that says so.
    pub async fn connect_from_afar(&self, connect: Connect) -> (Client, Connack) {
        let proxies = Networks::new(["127.0.0.1".parse().unwrap()]);
        let entrance = Entrance { proxies, ..Entrance::default() };
        let listener = Listener::bind("mqtt", "127.0.0.1:0", entrance).await.unwrap();
        let stream = TcpStream::connect(listener.address()).await.unwrap();
        tokio::spawn(posthaste_net::serve(listener, self.mqtt.clone(), self.shared.clone()));
        let mut client = Client::on(stream, connect.version);
        client.send_bytes(b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 1883\r\n").await;
        client.connect(connect).await
    }

    /// A client whose session ends with the connection.
    pub async fn clean(&self, version: ProtocolVersion, identifier: &str) -> Client {
        let (client, connack) = self.connect_with(Connect::new(version, identifier)).await;
        assert_eq!((connack.reason_code, connack.session_present), (ReasonCode::Success, false));
        client
    }

    /// A client whose session stays, and whether it was there.
    pub async fn lasting(&self, version: ProtocolVersion, identifier: &str) -> (Client, bool) {
        let (client, connack) = self.connect_with(lasting(version, identifier)).await;
        assert_eq!(connack.reason_code, ReasonCode::Success);
        (client, connack.session_present)
    }
}

/// A CONNECT for a session that stays.
pub fn lasting(version: ProtocolVersion, identifier: &str) -> Connect {
    let mut connect = Connect::new(version, identifier);
    connect.clean_start = false;
    if version == V5 {
        connect.properties.session_expiry_interval = u32::MAX;
    }
    connect
}

pub struct Client {
    stream: TcpStream,
    decoder: Decoder,
    version: ProtocolVersion,
    input: BytesMut,
    /// Packets that came while another one was waited for.
    early: VecDeque<Packet>,
    next_id: u16,
}

impl Client {
    fn on(stream: TcpStream, version: ProtocolVersion) -> Client {
        let decoder = Decoder::for_client(version, PACKET_SIZE_MAX_BYTES);
        Client { stream, decoder, version, input: BytesMut::new(), early: VecDeque::new(), next_id: 0 }
    }

    async fn connect(mut self, connect: Connect) -> (Client, Connack) {
        self.send(Packet::Connect(Box::new(connect))).await;
        match self.packet().await {
            Packet::Connack(connack) => (self, *connack),
            other => panic!("not a CONNACK: {other:?}"),
        }
    }

    pub async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.encode(self.version, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        // The other side may be gone already.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next packet; `None` when the server has closed the connection.
    pub async fn next(&mut self) -> Option<Packet> {
        if let Some(packet) = self.early.pop_front() {
            return Some(packet);
        }
        self.arriving().await
    }

    /// The next packet that is not a message.
    async fn answer(&mut self) -> Packet {
        loop {
            match self.arriving().await.expect("an open connection") {
                message @ Packet::Publish(_) => self.early.push_back(message),
                answer => return answer,
            }
        }
    }

    async fn arriving(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(packet);
            }
            let read = self.stream.read_buf(&mut self.input);
            match tokio::time::timeout(PATIENCE, read).await.expect("a packet in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    pub async fn packet(&mut self) -> Packet {
        self.next().await.expect("an open connection")
    }

    /// The next packet, which must be a message.
    pub async fn message(&mut self) -> Publish {
        match self.packet().await {
            Packet::Publish(publish) => publish,
            other => panic!("not a PUBLISH: {other:?}"),
        }
    }

    /// Receives that many messages and acknowledges them; returns their payloads.
    pub async fn take(&mut self, count: usize) -> Vec<String> {
        let mut payloads = Vec::new();
        for _ in 0..count {
            let publish = self.message().await;
            payloads.push(String::from_utf8_lossy(&publish.payload).into_owned());
            self.acknowledge(&publish).await;
        }
        payloads
    }

    /// Acknowledges a message, at QoS 2 to the end.
    pub async fn acknowledge(&mut self, publish: &Publish) {
        let Some(id) = publish.packet_identifier else { return };
        if publish.qos == QoS::AtLeastOnce {
            return self.send(Packet::Puback(Ack::new(id, ReasonCode::Success))).await;
        }
        self.send(Packet::Pubrec(Ack::new(id, ReasonCode::Success))).await;
        assert_eq!(self.answer().await, Packet::Pubrel(Ack::new(id, ReasonCode::Success)));
        self.send(Packet::Pubcomp(Ack::new(id, ReasonCode::Success))).await;
    }

    pub fn id(&mut self) -> PacketIdentifier {
        self.next_id += 1;
        PacketIdentifier::new(self.next_id).unwrap()
    }

    /// Publishes, and returns the reason code of the acknowledgement; at QoS 2 to the end.
    pub async fn publish(&mut self, topic: &str, payload: &str, qos: QoS) -> ReasonCode {
        self.publish_with(message(topic, payload, qos)).await
    }

    pub async fn publish_with(&mut self, mut publish: Publish) -> ReasonCode {
        let qos = publish.qos;
        if qos != QoS::AtMostOnce {
            publish.packet_identifier = Some(self.id());
        }
        self.send(Packet::Publish(publish)).await;
        match qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => match self.answer().await {
                Packet::Puback(ack) => ack.reason_code,
                other => panic!("not a PUBACK: {other:?}"),
            },
            QoS::ExactlyOnce => match self.answer().await {
                Packet::Pubrec(ack) if ack.reason_code.is_error() => ack.reason_code,
                Packet::Pubrec(ack) => {
                    let id = ack.packet_identifier;
                    self.send(Packet::Pubrel(Ack::new(id, ReasonCode::Success))).await;
                    assert_eq!(self.answer().await, Packet::Pubcomp(Ack::new(id, ReasonCode::Success)));
                    ack.reason_code
                }
                other => panic!("not a PUBREC: {other:?}"),
            },
        }
    }

    /// Subscribes, and returns the one reason code.
    pub async fn subscribe(&mut self, filter: &str, options: u8) -> ReasonCode {
        self.subscribe_as(filter, options, 0).await
    }

    /// With a subscription identifier, unless that is 0. Retained messages must not come before the SUBACK.
    pub async fn subscribe_as(&mut self, filter: &str, options: u8, identifier: u32) -> ReasonCode {
        let options = SubscriptionOptions::from_byte(options, V5).unwrap();
        let subscribe = Subscribe {
            packet_identifier: self.id(),
            subscription_identifier: SubscriptionIdentifier::new(identifier),
            user_properties: Default::default(),
            topic_filters: vec![(TopicFilter::parse(filter.into()).unwrap(), options)],
        };
        self.send(Packet::Subscribe(subscribe)).await;
        match self.answer().await {
            Packet::Suback(suback) => suback.reason_codes[0],
            other => panic!("not a SUBACK: {other:?}"),
        }
    }

    /// Fails if anything comes before the answer to a ping. What earlier publishes cause must have
    /// happened: at QoS 1 it has when they are acknowledged, unless it is the other end of a queue that is
    /// asked.
    pub async fn silence(&mut self) {
        self.send(Packet::Pingreq).await;
        assert_eq!(self.packet().await, Packet::Pingresp);
    }

    /// The reason of the DISCONNECT with which the server closes, `None` when it just closes.
    pub async fn end(&mut self) -> Option<ReasonCode> {
        let mut reason = None;
        while let Some(packet) = self.next().await {
            if let Packet::Disconnect(disconnect) = packet {
                reason = Some(disconnect.reason_code);
            }
        }
        reason
    }

    pub async fn disconnect(mut self) {
        let packet = posthaste_mqtt::wire::Disconnect::new(ReasonCode::Success);
        self.send(Packet::Disconnect(Box::new(packet))).await;
        assert_eq!(self.next().await, None);
    }
}

pub fn message(topic: &str, payload: &str, qos: QoS) -> Publish {
    Publish {
        qos,
        topic_name: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        ..Publish::default()
    }
}

pub fn retained(topic: &str, payload: &str, qos: QoS) -> Publish {
    Publish { retain: true, ..message(topic, payload, qos) }
}

/// Waits until something is so; what is waited for happens on other tasks.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what}");
}
