//! AMQP 0-9-1: two connections with a few channels each.

use super::{
    input::Input,
    line::{Line, pace},
};
use crate::clients::Doors;
use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use posthaste_amqp::wire::{
    Assembler, BasicProperties, Command, ContentMethod, EncodeMethod, FieldTable, FieldValue, FrameMax,
    FrameReader, Method, PROTOCOL_HEADER, PropertyList, PublishRef, ShortStr, ShortString, basic, channel,
    confirm, connection, encode_content, encode_method, exchange, queue, tx,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::sleep;

const CHANNELS: u8 = 3;
const QUEUES: [&str; 5] = ["q1", "q2", "q3", "", "amq.none"];
const EXCHANGES: [&str; 7] = ["", "e1", "e2", "amq.topic", "amq.fanout", "amq.headers", "amq.direct"];
const KINDS: [&str; 5] = ["direct", "fanout", "topic", "headers", "x-unknown"];
const KEYS: [&str; 6] = ["q1", "q2", "a.b", "a.*", "#", ""];
const TAGS: [&str; 3] = ["t1", "t2", ""];
const PROBE: &str = "probe";
/// How long a broker may take to serve a new connection, in simulated time.
const PATIENCE_MS: u32 = 5_000;

/// Runs the sequence, then sees whether a new connection is served.
pub async fn session(doors: Doors, data: Vec<u8>) -> Result<()> {
    let mut input = Input::new(data);
    let mut clients = [Client::open(&doors).await, Client::open(&doors).await];
    while let Some(choice) = input.operation() {
        let client = &mut clients[usize::from(choice >> 5 & 1)];
        if !client.line.is_open() {
            *client = Client::open(&doors).await;
        }
        client.operate(choice & 31, &mut input).await;
        pace(choice >> 6).await;
        for client in &mut clients {
            client.listen().await?;
        }
    }
    drop(clients);
    sleep(Duration::from_millis(50)).await;
    serves(&doors).await.context("after the sequence")
}

/// A channel, as its client knows it.
struct Channel {
    assembler: Assembler,
    /// The last delivery's; the broker counts them up one by one.
    tag: u64,
}

impl Default for Channel {
    fn default() -> Channel {
        Channel { assembler: Assembler::new(16 << 20), tag: 0 }
    }
}

struct Client {
    line: Line,
    reader: FrameReader,
    channels: BTreeMap<u16, Channel>,
    /// What arrived since it was last looked at.
    received: Vec<(u16, Command)>,
}

impl Client {
    /// Opens a connection and its first channel without waiting for answers.
    async fn open(doors: &Doors) -> Client {
        let mut client = Client {
            line: Line::open(&doors.amqp),
            reader: FrameReader::default(),
            channels: BTreeMap::new(),
            received: Vec::new(),
        };
        client.line.write(&PROTOCOL_HEADER).await;
        let start_ok = connection::StartOk {
            client_properties: capabilities(),
            // Checking a password takes longer than everything else.
            mechanism: ShortString::from_static("ANONYMOUS"),
            response: Bytes::new(),
            locale: ShortString::from_static("en_US"),
        };
        client.send(0, &start_ok).await;
        let frame_max = 131_072;
        client.send(0, &connection::TuneOk { channel_max: 2047, frame_max, heartbeat: 0 }).await;
        client.send(0, &connection::Open { virtual_host: ShortString::from_static("/") }).await;
        client.send(1, &channel::Open {}).await;
        client
    }

    async fn send(&mut self, channel: u16, method: &impl EncodeMethod) {
        let mut octets = BytesMut::new();
        if encode_method(&mut octets, channel, method, FrameMax::DEFAULT).is_ok() {
            self.line.write(&octets).await;
        }
    }

    async fn operate(&mut self, operation: u8, input: &mut Input) {
        let channel = u16::from(1 + input.below(CHANNELS));
        match operation {
            0 => self.send(channel, &channel::Open {}).await,
            1 => self.declare_queue(channel, input).await,
            2 => self.declare_exchange(channel, input).await,
            3 | 4 => self.bind(channel, operation == 4, input).await,
            5..=8 => self.publish(channel, input).await,
            9 => self.send(channel, &confirm::Select { no_wait: input.flags()[0] }).await,
            10 | 11 => {
                let queue = name(input.one(QUEUES));
                self.send(channel, &basic::Get { queue, no_ack: input.flags()[0] }).await;
            }
            12 | 13 => self.consume(channel, input).await,
            14..=18 => self.settle(operation, channel, input).await,
            19 => {
                let flags = input.flags();
                let prefetch_size = if flags[1] { 1000 } else { 0 };
                let prefetch_count = u16::from(input.below(6));
                self.send(channel, &basic::Qos { prefetch_size, prefetch_count, global: flags[0] }).await;
            }
            20 => {
                let consumer_tag = name(input.one(TAGS));
                self.send(channel, &basic::Cancel { consumer_tag, no_wait: input.flags()[0] }).await;
            }
            21 => {
                let queue = name(input.one(QUEUES));
                self.send(channel, &queue::Purge { queue, no_wait: input.flags()[0] }).await;
            }
            22 => self.delete(channel, input).await,
            23 => {
                let reply_text = ShortString::from_static("done");
                let close = channel::Close { reply_code: 200, reply_text, class_id: 0, method_id: 0 };
                self.send(channel, &close).await;
            }
            24 => {
                let requeue = input.flags()[0];
                self.send(channel, &basic::Recover { requeue }).await;
            }
            25 => match input.below(4) {
                0 => self.send(channel, &tx::Commit {}).await,
                1 => self.send(channel, &tx::Rollback {}).await,
                _ => self.send(channel, &tx::Select {}).await,
            },
            26 => self.send(channel, &channel::Flow { active: input.flags()[0] }).await,
            27 => self.close_connection(input).await,
            28 => self.raw_frame(channel, input).await,
            29 => {
                let octets = input.bytes(64);
                self.line.write(&octets).await;
            }
            30 => sleep(input.pause(10)).await,
            _ => self.bind_exchange(channel, input).await,
        }
    }

    async fn declare_queue(&mut self, channel: u16, input: &mut Input) {
        let queue = name(input.one(QUEUES));
        let [not_durable, exclusive, auto_delete, passive, no_wait, ..] = input.flags();
        let declare = queue::Declare {
            queue,
            passive,
            durable: !not_durable,
            exclusive,
            auto_delete,
            no_wait,
            arguments: queue_arguments(input),
        };
        self.send(channel, &declare).await;
    }

    async fn declare_exchange(&mut self, channel: u16, input: &mut Input) {
        let exchange = name(input.one(EXCHANGES));
        let r#type = name(input.one(KINDS));
        let [not_durable, auto_delete, internal, passive, no_wait, alternate, ..] = input.flags();
        let mut arguments = FieldTable::new();
        if alternate {
            arguments.push(name("alternate-exchange"), text(input.one(EXCHANGES)));
        }
        let durable = !not_durable;
        let declare = exchange::Declare {
            exchange,
            r#type,
            passive,
            durable,
            auto_delete,
            internal,
            no_wait,
            arguments,
        };
        self.send(channel, &declare).await;
    }

    async fn bind(&mut self, channel: u16, unbind: bool, input: &mut Input) {
        let (queue, exchange) = (name(input.one(QUEUES)), name(input.one(EXCHANGES)));
        let routing_key = name(input.one(KEYS));
        let [no_wait, match_headers, any, ..] = input.flags();
        let mut arguments = FieldTable::new();
        if match_headers {
            arguments.push(name("x-match"), text(if any { "any" } else { "all" }));
            arguments.push(name("h"), FieldValue::LongInt(i32::from(input.below(3))));
        }
        if unbind {
            self.send(channel, &queue::Unbind { queue, exchange, routing_key, arguments }).await;
        } else {
            self.send(channel, &queue::Bind { queue, exchange, routing_key, no_wait, arguments }).await;
        }
    }

    async fn bind_exchange(&mut self, channel: u16, input: &mut Input) {
        let (destination, source) = (name(input.one(EXCHANGES)), name(input.one(EXCHANGES)));
        let routing_key = name(input.one(KEYS));
        let [unbind, no_wait, ..] = input.flags();
        let arguments = FieldTable::new();
        if unbind {
            let unbind = exchange::Unbind { destination, source, routing_key, no_wait, arguments };
            self.send(channel, &unbind).await;
        } else {
            self.send(channel, &exchange::Bind { destination, source, routing_key, no_wait, arguments })
                .await;
        }
    }

    async fn publish(&mut self, channel: u16, input: &mut Input) {
        let (exchange, key) = (input.one(EXCHANGES), input.one(KEYS));
        let [mandatory, transient, expires, prioritized, headers, copied, replies, immediate] = input.flags();
        let mut properties = BasicProperties {
            delivery_mode: Some(if transient { 1 } else { 2 }),
            ..BasicProperties::default()
        };
        if expires {
            properties.expiration =
                Some(name(input.one(["0", "1", "50", "-1", "x", "99999999999999999999"])));
        }
        if prioritized {
            properties.priority = Some(input.byte());
        }
        if headers || copied {
            let mut table = FieldTable::new();
            table.push(name("h"), FieldValue::LongInt(i32::from(input.below(3))));
            if copied {
                let keys = vec![text(input.one(KEYS)), text(input.one(KEYS))];
                table.push(name(input.one(["CC", "BCC", "x-delay", "x-death"])), FieldValue::Array(keys));
            }
            properties.headers = Some(table);
        }
        if replies {
            properties.reply_to = Some(name(input.one(["amq.rabbitmq.reply-to", "q1"])));
        }
        let body = vec![b'x'; usize::from(input.byte())];
        let octets = published(channel, exchange, key, mandatory, immediate && transient, &properties, &body);
        if let Some(octets) = octets {
            // Sometimes only the beginning of it, before something else.
            let cut = input.byte();
            let sent = if cut >= 250 { octets.len() * usize::from(cut - 249) / 8 } else { octets.len() };
            self.line.write(&octets[..sent]).await;
        }
    }

    async fn consume(&mut self, channel: u16, input: &mut Input) {
        let queue = name(input.one(QUEUES));
        let consumer_tag = name(input.one(TAGS));
        let [no_ack, exclusive, no_local, no_wait, prioritized, ..] = input.flags();
        let mut arguments = FieldTable::new();
        if prioritized {
            arguments.push(name("x-priority"), FieldValue::LongInt(i32::from(input.byte()) - 128));
        }
        let consume = basic::Consume { queue, consumer_tag, no_local, no_ack, exclusive, no_wait, arguments };
        self.send(channel, &consume).await;
    }

    async fn settle(&mut self, operation: u8, channel: u16, input: &mut Input) {
        let last = self.channels.get(&channel).map_or(0, |channel| channel.tag);
        let delivery_tag = input.near(i64::try_from(last).unwrap_or(i64::MAX)).cast_unsigned();
        let [multiple, keep, ..] = input.flags();
        let requeue = !keep;
        match operation {
            14..=16 => self.send(channel, &basic::Ack { delivery_tag, multiple }).await,
            17 => self.send(channel, &basic::Nack { delivery_tag, multiple, requeue }).await,
            _ => self.send(channel, &basic::Reject { delivery_tag, requeue }).await,
        }
    }

    async fn delete(&mut self, channel: u16, input: &mut Input) {
        let [of_exchange, if_unused, if_empty, no_wait, ..] = input.flags();
        if of_exchange {
            let exchange = name(input.one(EXCHANGES));
            self.send(channel, &exchange::Delete { exchange, if_unused, no_wait }).await;
        } else {
            let queue = name(input.one(QUEUES));
            self.send(channel, &queue::Delete { queue, if_unused, if_empty, no_wait }).await;
        }
    }

    async fn close_connection(&mut self, input: &mut Input) {
        if input.flags()[0] {
            self.line.cut();
            return;
        }
        let reply_text = ShortString::from_static("done");
        self.send(0, &connection::Close { reply_code: 200, reply_text, class_id: 0, method_id: 0 }).await;
    }

    /// A frame with a sound envelope around whatever the fuzzer likes.
    async fn raw_frame(&mut self, channel: u16, input: &mut Input) {
        let kind = input.one([1, 2, 3, 8, 0]);
        let payload = input.bytes(96);
        let mut octets = vec![kind];
        octets.extend(channel.to_be_bytes());
        octets.extend((payload.len() as u32).to_be_bytes());
        octets.extend(payload);
        octets.push(0xce);
        self.line.write(&octets).await;
    }

    /// Reads what has arrived. It must be sound, and deliveries must be counted.
    async fn listen(&mut self) -> Result<()> {
        self.line.listen().await;
        while let Some((number, frame)) = self.reader.read(&mut self.line.input, FrameMax::DEFAULT)? {
            let channel = self.channels.entry(number).or_default();
            let Some(command) = channel.assembler.push(frame)? else { continue };
            match &command {
                Command::Method(Method::ChannelClose(_)) => {
                    self.channels.remove(&number);
                    self.send(number, &channel::CloseOk {}).await;
                }
                Command::Method(Method::ChannelCloseOk(_)) => {
                    self.channels.remove(&number);
                }
                Command::Method(Method::ConnectionClose(_)) => {
                    self.send(0, &connection::CloseOk {}).await;
                    self.line.cut();
                }
                Command::Method(Method::ConnectionCloseOk(_)) => self.line.cut(),
                Command::Content(ContentMethod::Deliver(basic::Deliver { delivery_tag, .. }), _)
                | Command::Content(ContentMethod::GetOk(basic::GetOk { delivery_tag, .. }), _) => {
                    channel.tag += 1;
                    let expected = channel.tag;
                    ensure!(*delivery_tag == expected, "delivery {delivery_tag} instead of {expected}");
                }
                _ => {}
            }
            self.received.push((number, command));
        }
        Ok(())
    }
}

/// A new client declares a queue, publishes into it with a confirm, and gets the message.
async fn serves(doors: &Doors) -> Result<()> {
    let mut client = Client::open(doors).await;
    let declare = queue::Declare { queue: name(PROBE), durable: true, ..queue::Declare::default() };
    client.send(1, &declare).await;
    client.send(1, &confirm::Select { no_wait: true }).await;
    let properties = BasicProperties { delivery_mode: Some(2), ..BasicProperties::default() };
    let octets = published(1, "", PROBE, true, false, &properties, b"still here").context("a message")?;
    client.line.write(&octets).await;
    wait(&mut client, |command| matches!(command, Command::Method(Method::BasicAck(_)))).await?;
    client.send(1, &basic::Get { queue: name(PROBE), no_ack: true }).await;
    wait(&mut client, |command| match command {
        Command::Content(ContentMethod::GetOk(_), content) => content.body.parts().concat() == b"still here",
        _ => false,
    })
    .await
}

async fn wait(client: &mut Client, is_it: impl Fn(&Command) -> bool) -> Result<()> {
    for _ in 0..PATIENCE_MS {
        client.listen().await?;
        if client.received.iter().any(|(_, command)| is_it(command)) {
            return Ok(());
        }
        ensure!(client.line.is_open(), "a new connection is closed: {:?}", client.received);
        sleep(Duration::from_millis(1)).await;
    }
    bail!("a new connection is not served: {:?}", client.received)
}

fn published(
    channel: u16,
    exchange: &str,
    key: &str,
    mandatory: bool,
    immediate: bool,
    properties: &BasicProperties,
    body: &[u8],
) -> Option<BytesMut> {
    let publish = PublishRef {
        exchange: ShortStr::new(exchange.as_bytes()).ok()?,
        routing_key: ShortStr::new(key.as_bytes()).ok()?,
        mandatory,
        immediate,
    };
    let mut octets = BytesMut::new();
    let list = PropertyList::from(properties);
    let body = [Bytes::copy_from_slice(body)];
    encode_content(&mut octets, channel, &publish, list.as_bytes(), &body, FrameMax::DEFAULT).ok()?;
    Some(octets)
}

fn queue_arguments(input: &mut Input) -> FieldTable {
    let [ttl, limited, dies, expires, priorities, single, rejects, stream] = input.flags();
    let mut arguments = FieldTable::new();
    let mut number =
        |key: &'static str, value: u8| arguments.push(name(key), FieldValue::LongInt(value.into()));
    if ttl {
        number("x-message-ttl", input.below(80));
    }
    if limited {
        number("x-max-length", input.below(4));
    }
    if expires {
        number("x-expires", input.byte());
    }
    if priorities {
        number("x-max-priority", input.byte());
    }
    if dies {
        arguments.push(name("x-dead-letter-exchange"), text(input.one(EXCHANGES)));
        if input.flags()[0] {
            arguments.push(name("x-dead-letter-routing-key"), text(input.one(KEYS)));
        }
    }
    if single {
        arguments.push(name("x-single-active-consumer"), FieldValue::Boolean(true));
    }
    if rejects {
        let overflow = input.one(["reject-publish", "drop-head", "reject-publish-dlx"]);
        arguments.push(name("x-overflow"), text(overflow));
    }
    if stream {
        arguments.push(name("x-queue-type"), text(input.one(["quorum", "classic", "stream"])));
    }
    arguments
}

/// What a client has to say it can do, to be told of cancelled consumers.
fn capabilities() -> FieldTable {
    let mut capabilities = FieldTable::new();
    for capability in ["consumer_cancel_notify", "basic.nack", "publisher_confirms", "connection.blocked"] {
        capabilities.push(name(capability), FieldValue::Boolean(true));
    }
    let mut properties = FieldTable::new();
    properties.push(name("capabilities"), FieldValue::Table(capabilities));
    properties
}

fn name(text: &str) -> ShortString {
    ShortString::truncated(text)
}

fn text(text: &str) -> FieldValue {
    FieldValue::LongString(Bytes::copy_from_slice(text.as_bytes()))
}
