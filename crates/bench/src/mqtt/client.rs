//! A client's connection, as little of MQTT 3.1.1 as the load needs.

use super::Options;
use anyhow::{Context, Result, bail, ensure};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

const READ_BYTES: usize = 64 << 10;
const CLEAN_SESSION: u8 = 0b10;

/// What a broker sends.
#[derive(Debug)]
pub enum Packet {
    ConnAck { code: u8 },
    PubAck,
    Publish { sent_nanos: u64, packet_identifier: Option<u16> },
    SubAck { code: u8 },
}

pub struct Client {
    reader: Reader,
    writer: Writer,
}

pub struct Reader {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
    filled: usize,
}

pub struct Writer(OwnedWriteHalf);

impl Client {
    /// Connects and waits until the broker agrees.
    pub async fn open(at: SocketAddr, identifier: &str, clean: bool) -> Result<Client> {
        let stream = TcpStream::connect(at).await.with_context(|| format!("cannot connect to {at}"))?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let mut client = Client {
            reader: Reader { stream: reader, buffer: vec![0; READ_BYTES], filled: 0 },
            writer: Writer(writer),
        };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, if clean { CLEAN_SESSION } else { 0 }, 0, 0];
        string(&mut body, identifier)?;
        client.writer.write(&packet(0x10, &body)).await?;
        client
            .reader
            .receive(|packet| {
                ensure!(matches!(packet, Packet::ConnAck { code: 0 }), "{packet:?} to CONNECT");
                Ok(())
            })
            .await?;
        Ok(client)
    }

    /// Connects and subscribes to the topic.
    pub async fn subscriber(options: &Options, topic: &str, number: u32) -> Result<Client> {
        let identifier = format!("{topic}-subscriber-{number}");
        let mut client = Client::open(options.at, &identifier, !options.persistent).await?;
        let mut body = vec![0, 1];
        string(&mut body, topic)?;
        body.push(options.qos);
        client.writer.write(&packet(0x82, &body)).await?;
        client
            .reader
            .receive(|packet| {
                ensure!(
                    matches!(packet, Packet::SubAck { code } if code == options.qos),
                    "{packet:?} to SUBSCRIBE"
                );
                Ok(())
            })
            .await?;
        Ok(client)
    }

    pub fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }
}

impl Reader {
    /// Reads once, or until a packet is whole, and hands over all that came; returns how many. Cancellation
    /// loses nothing.
    pub async fn receive(&mut self, mut each: impl FnMut(Packet) -> Result<()>) -> Result<u64> {
        loop {
            let read = self.stream.read(&mut self.buffer[self.filled..]).await.context("cannot read")?;
            ensure!(read > 0, "the broker closed the connection");
            self.filled += read;
            let (mut at, mut packets) = (0, 0);
            while let Some((packet, length)) = parse(&self.buffer[at..self.filled])? {
                each(packet)?;
                at += length;
                packets += 1;
            }
            self.buffer.copy_within(at..self.filled, 0);
            self.filled -= at;
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.filled * 2, 0);
            }
            if packets > 0 {
                return Ok(packets);
            }
        }
    }
}

impl Writer {
    pub async fn write(&mut self, octets: &[u8]) -> Result<()> {
        self.0.write_all(octets).await.context("cannot write")
    }
}

/// A message that is published again and again; it carries the time at which it was written.
pub struct Publish {
    octets: Vec<u8>,
    identifier_at: Option<usize>,
    time_at: usize,
    next_identifier: u16,
    buffer: Vec<u8>,
}

impl Publish {
    /// `bytes` of payload, at least eight.
    pub fn new(topic: &str, qos: u8, bytes: usize) -> Publish {
        let mut body = Vec::new();
        // Topics are short.
        let _ = string(&mut body, topic);
        let identifier_in_body = (qos > 0).then_some(body.len());
        body.extend(identifier_in_body.map_or(&[][..], |_| &[0, 0]));
        let time_in_body = body.len();
        body.extend((0..bytes).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8));
        let octets = packet(0x30 | qos << 1, &body);
        let head = octets.len() - body.len();
        Publish {
            identifier_at: identifier_in_body.map(|at| head + at),
            time_at: head + time_in_body,
            octets,
            next_identifier: 0,
            buffer: Vec::new(),
        }
    }

    /// So many of them, one after the other.
    pub fn encode(&mut self, count: u64, now_nanos: u64) -> &[u8] {
        self.buffer.clear();
        for _ in 0..count {
            let begin = self.buffer.len();
            self.buffer.extend_from_slice(&self.octets);
            if let Some(at) = self.identifier_at {
                self.next_identifier =
                    if self.next_identifier == u16::MAX { 1 } else { self.next_identifier + 1 };
                self.buffer[begin + at..][..2].copy_from_slice(&self.next_identifier.to_be_bytes());
            }
            self.buffer[begin + self.time_at..][..8].copy_from_slice(&now_nanos.to_be_bytes());
        }
        &self.buffer
    }
}

/// Appends an acknowledgement.
pub fn puback(out: &mut Vec<u8>, packet_identifier: u16) {
    out.extend_from_slice(&[0x40, 2]);
    out.extend_from_slice(&packet_identifier.to_be_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        let low = (left % 128) as u8;
        left /= 128;
        out.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

fn string(out: &mut Vec<u8>, text: &str) -> Result<()> {
    out.extend_from_slice(&u16::try_from(text.len())?.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// The first packet and its length, when it is whole.
fn parse(input: &[u8]) -> Result<Option<(Packet, usize)>> {
    let (mut remaining, mut head) = (0, 1);
    loop {
        let Some(&digit) = input.get(head) else { return Ok(None) };
        ensure!(head <= 4, "a remaining length of more than four bytes");
        remaining |= usize::from(digit & 0x7f) << (7 * (head - 1));
        head += 1;
        if digit & 0x80 == 0 {
            break;
        }
    }
    let Some(body) = input.get(head..head + remaining) else { return Ok(None) };
    let byte = |at: usize| body.get(at).copied().context("a packet that is too short");
    let packet = match input[0] >> 4 {
        2 => Packet::ConnAck { code: byte(1)? },
        3 => {
            let qos = input[0] >> 1 & 3;
            let mut at = 2 + usize::from(u16::from_be_bytes([byte(0)?, byte(1)?]));
            let mut packet_identifier = None;
            if qos > 0 {
                packet_identifier = Some(u16::from_be_bytes([byte(at)?, byte(at + 1)?]));
                at += 2;
            }
            let time = body.get(at..at + 8).context("a payload without its time")?;
            Packet::Publish { sent_nanos: u64::from_be_bytes(time.try_into()?), packet_identifier }
        }
        4 => Packet::PubAck,
        9 => Packet::SubAck { code: byte(2)? },
        other => bail!("an unexpected packet of type {other}"),
    };
    Ok(Some((packet, head + remaining)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_parsed() {
        for (qos, bytes) in [(0, 8), (1, 8), (0, 100), (1, 20_000)] {
            let mut publish = Publish::new("a/b", qos, bytes);
            let octets = publish.encode(2, 77).to_vec();
            let (first, length) = parse(&octets).unwrap().unwrap();
            assert_eq!(length * 2, octets.len());
            for (packet, expect) in [(first, 1), (parse(&octets[length..]).unwrap().unwrap().0, 2)] {
                let Packet::Publish { sent_nanos: 77, packet_identifier } = packet else {
                    panic!("{packet:?}")
                };
                assert_eq!(packet_identifier, (qos > 0).then_some(expect));
            }
            assert!(parse(&octets[..length - 1]).unwrap().is_none());
        }
    }
}
