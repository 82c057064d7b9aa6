//! A client without a socket: it hands octets to a session and reads what the session writes.
#![allow(clippy::unwrap_used)] // A helper of tests, which clippy does not take for one.

use bytes::{Bytes, BytesMut};
use posthaste_amqp::{
    Amqp, Event, Session, codec, protocol,
    wire::{
        Assembler, BasicProperties, Command, Content, ContentMethod, EncodeMethod, FieldTable, FrameMax,
        FrameReader, Method, PROTOCOL_HEADER, PropertyList, ShortString, basic, channel, confirm, connection,
        encode_content, encode_method, queue,
    },
};
use posthaste_broker::{Broker, Config, Formats};
use posthaste_model::Limits;
use posthaste_net::{Close, Closed, Mailbox, Output, Peer, Protocol, Session as _};
use std::{collections::HashMap, net::SocketAddr, time::Duration};
use tokio::sync::mpsc::UnboundedReceiver;

/// Generous: only what fails takes that long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker on a directory that goes with it.
pub struct World {
    pub broker: Broker,
    data: Option<tempfile::TempDir>,
}

impl World {
    pub fn new() -> World {
        World::with(Limits::default())
    }

    pub fn with(limits: Limits) -> World {
        World::on(tempfile::tempdir().unwrap(), limits)
    }

    /// The broker stops and starts again on the same directory.
    pub fn restart(mut self, limits: Limits) -> World {
        let data = self.data.take().unwrap();
        drop(self);
        World::on(data, limits)
    }

    fn on(data: tempfile::TempDir, limits: Limits) -> World {
        let config = Config {
            data: data.path().to_owned(),
            limits,
            formats: Formats::new([codec()]),
            advertised: HashMap::new(),
            threads: Some(2),
        };
        let broker = tokio::task::block_in_place(|| Broker::open(config)).unwrap();
        World { broker, data: Some(data) }
    }

    /// Where the broker keeps its data.
    pub fn folder(&self) -> &std::path::Path {
        self.data.as_ref().unwrap().path()
    }

    pub fn connect(&self) -> Client {
        self.connect_from("127.0.0.1:40000")
    }

    /// A connection of which nothing was said yet.
    pub fn connect_from(&self, address: &str) -> Client {
        let (mailbox, events) = Mailbox::new();
        let address: SocketAddr = address.parse().unwrap();
        let peer = Peer::plain("amqp".into(), address, self.broker.next_connection());
        let amqp: Amqp = protocol(self.broker.clone());
        Client {
            session: amqp.open(peer, mailbox),
            events,
            input: BytesMut::new(),
            out: Output::new(),
            received: BytesMut::new(),
            reader: FrameReader::default(),
            assemblers: HashMap::new(),
            end: None,
        }
    }

    /// An open connection with channel 1 open.
    pub async fn open(&self) -> Client {
        let mut client = self.connect();
        client.handshake("/", plain("guest", "guest"), 0).await;
        client.open_channel(1).await;
        client
    }
}

impl Drop for World {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| self.broker.stop());
    }
}

pub struct Client {
    pub session: Session,
    pub events: UnboundedReceiver<Event>,
    pub input: BytesMut,
    pub out: Output,
    pub received: BytesMut,
    reader: FrameReader,
    assemblers: HashMap<u16, Assembler>,
    /// How the session ended.
    pub end: Option<Close>,
}

/// What a session said, on which channel.
pub type Said = (u16, Command);

impl Client {
    /// Hands octets to the session, as if one read had brought them.
    pub async fn send_octets(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        let result = self.session.input(&mut self.input, &mut self.out).await;
        self.note(result);
    }

    pub async fn send(&mut self, channel: u16, method: &impl EncodeMethod) {
        self.send_octets(&method_octets(channel, method)).await;
    }

    fn note(&mut self, result: Result<(), Close>) {
        if let Err(close) = result {
            self.end = Some(close);
        }
        self.received.extend_from_slice(&self.out.take());
    }

    /// What was said already.
    pub fn said(&mut self) -> Option<Said> {
        while let Some((channel, frame)) = self.reader.read(&mut self.received, FrameMax::DEFAULT).unwrap() {
            let assembler = self.assemblers.entry(channel).or_insert_with(|| Assembler::new(1 << 30));
            if let Some(command) = assembler.push(frame).unwrap() {
                return Some((channel, command));
            }
        }
        None
    }

    /// What is said next, waiting for the broker where necessary.
    pub async fn next(&mut self) -> Said {
        loop {
            if let Some(said) = self.said() {
                return said;
            }
            assert!(self.end.is_none(), "the session ended: {:?}", self.end);
            let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap();
            let result = self.session.event(event, &mut self.out).await;
            self.note(result);
        }
    }

    pub async fn method(&mut self) -> Method {
        match self.next().await {
            (_, Command::Method(method)) => method,
            other => panic!("{other:?} is no plain method"),
        }
    }

    pub async fn call(&mut self, channel: u16, method: &impl EncodeMethod) -> Method {
        self.send(channel, method).await;
        self.method().await
    }

    /// The next delivery: tag, redelivered, properties, body.
    pub async fn delivery(&mut self) -> Delivered {
        match self.next().await {
            (_, Command::Content(ContentMethod::Deliver(deliver), content)) => Delivered { deliver, content },
            other => panic!("{other:?} is no delivery"),
        }
    }

    pub async fn handshake(&mut self, vhost: &'static str, start_ok: connection::StartOk, heartbeat: u16) {
        self.send_octets(&PROTOCOL_HEADER).await;
        assert!(matches!(self.method().await, Method::ConnectionStart(_)));
        assert!(matches!(self.call(0, &start_ok).await, Method::ConnectionTune(_)));
        let tune_ok = connection::TuneOk { channel_max: 100, frame_max: 131_072, heartbeat };
        self.send(0, &tune_ok).await;
        let open = connection::Open { virtual_host: ShortString::from_static(vhost) };
        assert_eq!(self.call(0, &open).await, connection::OpenOk {}.into());
    }

    pub async fn open_channel(&mut self, number: u16) {
        assert_eq!(self.call(number, &channel::Open {}).await, channel::OpenOk {}.into());
    }

    pub async fn confirm_select(&mut self, number: u16) {
        let answer = self.call(number, &confirm::Select { no_wait: false }).await;
        assert_eq!(answer, confirm::SelectOk {}.into());
    }

    /// Declares a queue and returns how many messages and consumers it has.
    pub async fn declare(&mut self, declare: queue::Declare) -> (u32, u32) {
        match self.call(1, &declare).await {
            Method::QueueDeclareOk(ok) => (ok.message_count, ok.consumer_count),
            other => panic!("{other:?}"),
        }
    }

    /// How many messages are ready.
    pub async fn ready(&mut self, name: &'static str) -> u32 {
        self.declare(queue::Declare { queue: short(name), passive: true, ..Default::default() }).await.0
    }

    /// One message by `basic.get`, which is there already.
    pub async fn get(&mut self, name: &'static str, no_ack: bool) -> Option<(basic::GetOk, Content)> {
        self.send(1, &basic::Get { queue: short(name), no_ack }).await;
        match self.next().await {
            (_, Command::Content(ContentMethod::GetOk(ok), content)) => Some((ok, content)),
            (_, Command::Method(Method::BasicGetEmpty(_))) => None,
            other => panic!("{other:?}"),
        }
    }

    /// As `get`, for a message that is still on its way.
    pub async fn get_soon(&mut self, name: &'static str) -> (basic::GetOk, Content) {
        for _ in 0..10_000 {
            if let Some(found) = self.get(name, true).await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("no message in {name}");
    }

    pub async fn consume(&mut self, channel: u16, consume: basic::Consume) {
        let answer = self.call(channel, &consume).await;
        assert!(matches!(answer, Method::BasicConsumeOk(_)), "{answer:?}");
    }

    pub async fn close(self) {
        self.session.closed(Closed::ByPeer).await;
    }
}

#[derive(Debug)]
pub struct Delivered {
    pub deliver: basic::Deliver,
    pub content: Content,
}

impl Delivered {
    pub fn body(&self) -> Bytes {
        self.content.body.clone().into_bytes()
    }

    pub fn tag(&self) -> u64 {
        self.deliver.delivery_tag
    }
}

pub fn short(text: &'static str) -> ShortString {
    ShortString::from_static(text)
}

pub fn plain(user: &str, password: &str) -> connection::StartOk {
    let mut capabilities = FieldTable::new();
    for name in ["authentication_failure_close", "consumer_cancel_notify", "connection.blocked"] {
        capabilities.push(short(name), true);
    }
    let mut client_properties = FieldTable::new();
    client_properties.push(short("capabilities"), capabilities);
    connection::StartOk {
        client_properties,
        mechanism: short("PLAIN"),
        response: format!("\0{user}\0{password}").into(),
        locale: short("en_US"),
    }
}

pub fn method_octets(channel: u16, method: &impl EncodeMethod) -> BytesMut {
    let mut octets = BytesMut::new();
    encode_method(&mut octets, channel, method, FrameMax::DEFAULT).unwrap();
    octets
}

pub fn to(exchange: &'static str, routing_key: &'static str) -> basic::Publish {
    basic::Publish {
        exchange: short(exchange),
        routing_key: short(routing_key),
        mandatory: false,
        immediate: false,
    }
}

/// The frames of a publish.
pub fn publish_octets(
    channel: u16,
    publish: &basic::Publish,
    properties: &BasicProperties,
    body: &[u8],
) -> BytesMut {
    let mut octets = BytesMut::new();
    let (list, body) = (PropertyList::from(properties), [Bytes::copy_from_slice(body)]);
    encode_content(&mut octets, channel, publish, list.as_bytes(), &body, FrameMax::DEFAULT).unwrap();
    octets
}

pub fn persistent() -> BasicProperties {
    BasicProperties { delivery_mode: Some(2), ..BasicProperties::default() }
}

/// An answer as `CODE text`, if it closes something.
pub fn refusal(method: &Method) -> Option<String> {
    match method {
        Method::ChannelClose(close) => Some(format!("{} {}", close.reply_code, close.reply_text)),
        Method::ConnectionClose(close) => Some(format!("! {} {}", close.reply_code, close.reply_text)),
        _ => None,
    }
}
