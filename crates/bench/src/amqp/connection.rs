//! A client's connection with one channel, blocking.

use crate::broker;
use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use posthaste_amqp::wire::{
    Assembler, BasicProperties, Command, ContentMethod, EncodeMethod, FieldTable, FrameMax, FrameReader,
    Method, PROTOCOL_HEADER, PropertyList, PublishRef, ShortStr, ShortString, basic, channel, confirm,
    connection, encode_content, encode_method, queue,
};
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// The channel that everything happens on.
pub const CHANNEL: u16 = 1;
const READ_OCTETS: usize = 128 << 10;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a broker sends to a publisher or consumer.
#[derive(Debug)]
pub enum Received {
    Ack { delivery_tag: u64, multiple: bool },
    Delivery { delivery_tag: u64 },
    Other(Method),
}

pub struct Connection {
    stream: TcpStream,
    input: BytesMut,
    buffer: Vec<u8>,
    reader: FrameReader,
    assembler: Assembler,
}

impl Connection {
    /// Logs in as guest and opens [`CHANNEL`].
    pub fn open(at: SocketAddr) -> Result<Connection> {
        let mut connection = Connection {
            stream: broker::connect(at)?,
            input: BytesMut::new(),
            buffer: vec![0; READ_OCTETS],
            reader: FrameReader::default(),
            assembler: Assembler::new(16 << 20),
        };
        connection.write(&PROTOCOL_HEADER)?;
        let Method::ConnectionStart(_) = connection.answer()? else { bail!("no connection.start") };
        let start_ok = connection::StartOk {
            client_properties: FieldTable::new(),
            mechanism: ShortString::from_static("PLAIN"),
            response: Bytes::from_static(b"\0guest\0guest"),
            locale: ShortString::from_static("en_US"),
        };
        let Method::ConnectionTune(tune) = connection.call(0, &start_ok)? else {
            bail!("no connection.tune")
        };
        let tune_ok =
            connection::TuneOk { channel_max: tune.channel_max, frame_max: tune.frame_max, heartbeat: 0 };
        connection.send(0, &tune_ok)?;
        let open = connection::Open { virtual_host: ShortString::from_static("/") };
        let Method::ConnectionOpenOk(_) = connection.call(0, &open)? else { bail!("no connection.open-ok") };
        let opened = connection.call(CHANNEL, &channel::Open {})?;
        ensure!(matches!(opened, Method::ChannelOpenOk(_)), "{opened:?} instead of channel.open-ok");
        Ok(connection)
    }

    /// Declares a durable queue and returns how many messages it has ready.
    pub fn declare(&mut self, name: &str) -> Result<u32> {
        self.declare_as(name, true, FieldTable::new())
    }

    pub fn declare_as(&mut self, name: &str, durable: bool, arguments: FieldTable) -> Result<u32> {
        let queue = ShortString::truncated(name);
        let declare = queue::Declare { queue, durable, arguments, ..Default::default() };
        match self.call(CHANNEL, &declare)? {
            Method::QueueDeclareOk(ok) => Ok(ok.message_count),
            other => bail!("{other:?} instead of queue.declare-ok"),
        }
    }

    pub fn select_confirms(&mut self) -> Result<()> {
        let answer = self.call(CHANNEL, &confirm::Select { no_wait: false })?;
        ensure!(matches!(answer, Method::ConfirmSelectOk(_)), "{answer:?} instead of confirm.select-ok");
        Ok(())
    }

    pub fn consume(&mut self, consume: basic::Consume, prefetch: u16) -> Result<()> {
        let qos = basic::Qos { prefetch_size: 0, prefetch_count: prefetch, global: false };
        let answer = self.call(CHANNEL, &qos)?;
        ensure!(matches!(answer, Method::BasicQosOk(_)), "{answer:?} instead of basic.qos-ok");
        let answer = self.call(CHANNEL, &consume)?;
        ensure!(matches!(answer, Method::BasicConsumeOk(_)), "{answer:?} instead of basic.consume-ok");
        Ok(())
    }

    pub fn write(&mut self, octets: &[u8]) -> Result<()> {
        self.stream.write_all(octets).context("cannot write to the broker")
    }

    /// As [`Connection::write`], but gives up `patience` after nothing more was taken; false then.
    pub fn write_within(&mut self, octets: &[u8], patience: Duration) -> Result<bool> {
        self.stream.set_write_timeout(Some(patience))?;
        match self.stream.write_all(octets) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(error) => Err(error).context("cannot write to the broker"),
        }
    }

    /// Waits for octets and reads what is there.
    pub fn wait(&mut self) -> Result<()> {
        let read = self.stream.read(&mut self.buffer).context("cannot read from the broker")?;
        ensure!(read > 0, "the broker closed the connection");
        self.input.extend_from_slice(&self.buffer[..read]);
        Ok(())
    }

    /// As [`Connection::wait`], but not beyond `end`.
    pub fn wait_until(&mut self, end: Instant) -> Result<()> {
        let left = end.saturating_duration_since(Instant::now());
        self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let read = self.stream.read(&mut self.buffer);
        self.stream.set_read_timeout(Some(PATIENCE))?;
        match read {
            Ok(0) => bail!("the broker closed the connection"),
            Ok(read) => self.input.extend_from_slice(&self.buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The next thing among what was read.
    pub fn received(&mut self) -> Result<Option<Received>> {
        while let Some((_, frame)) = self.reader.read(&mut self.input, FrameMax::DEFAULT)? {
            match self.assembler.push(frame)? {
                Some(Command::Method(Method::BasicAck(basic::Ack { delivery_tag, multiple }))) => {
                    return Ok(Some(Received::Ack { delivery_tag, multiple }));
                }
                Some(Command::Content(ContentMethod::Deliver(deliver), _)) => {
                    return Ok(Some(Received::Delivery { delivery_tag: deliver.delivery_tag }));
                }
                Some(Command::Method(method)) => return Ok(Some(Received::Other(method))),
                Some(Command::Content(method, _)) => bail!("unexpected {method:?}"),
                None => {}
            }
        }
        Ok(None)
    }

    fn answer(&mut self) -> Result<Method> {
        loop {
            match self.received()? {
                Some(Received::Other(method)) => return Ok(method),
                Some(other) => bail!("{other:?} instead of an answer"),
                None => self.wait()?,
            }
        }
    }

    fn send(&mut self, channel: u16, method: &impl EncodeMethod) -> Result<()> {
        let mut octets = BytesMut::new();
        encode_method(&mut octets, channel, method, FrameMax::MIN)?;
        self.write(&octets)
    }

    fn call(&mut self, channel: u16, method: &impl EncodeMethod) -> Result<Method> {
        self.send(channel, method)?;
        self.answer()
    }
}

/// The frames of a publish to a queue.
pub fn publish_octets(queue: &str, body_bytes: usize, persistent: bool) -> Result<Vec<u8>> {
    let delivery_mode = Some(if persistent { 2 } else { 1 });
    let properties = BasicProperties { delivery_mode, ..BasicProperties::default() };
    let publish = PublishRef {
        exchange: ShortStr::new(b"")?,
        routing_key: ShortStr::new(queue.as_bytes())?,
        mandatory: false,
        immediate: false,
    };
    let body: Vec<u8> = (0..body_bytes).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let mut octets = BytesMut::new();
    let list = PropertyList::from(&properties);
    encode_content(&mut octets, CHANNEL, &publish, list.as_bytes(), &[body.into()], FrameMax::DEFAULT)?;
    Ok(octets.to_vec())
}
