//! Encoding frames: heads are written into a buffer, large bodies are handed over as they are.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame::{CLASS_BASIC, FRAME_END, FrameMax, FrameType};
use super::methods::sealed::WriteFields;
use super::methods::{EncodeMethod, MethodId};
use super::short_string::ShortStr;
use super::writer::Writer;

/// A piece of a body up to this size is copied next to its frame head, which is cheaper than one more slice
/// in a vectored write.
pub const INLINE_BODY_OCTETS_MAX: usize = 4096;

/// Where encoded frames go.
pub trait Output {
    /// The end of the output, for appending octets.
    fn buffer(&mut self) -> &mut BytesMut;

    /// Appends `octets` after all that was written, without copying if that pays.
    fn append(&mut self, octets: Bytes);
}

/// Copies everything.
impl Output for BytesMut {
    fn buffer(&mut self) -> &mut BytesMut {
        self
    }

    fn append(&mut self, octets: Bytes) {
        self.extend_from_slice(&octets);
    }
}

/// Encoded frames as a list of chunks for vectored writes.
#[derive(Debug, Default)]
pub struct Chunks {
    front: VecDeque<Bytes>,
    tail: BytesMut,
    octets: usize,
}

impl Chunks {
    /// In octets.
    pub fn len(&self) -> usize {
        self.octets + self.tail.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next chunk.
    pub fn pop(&mut self) -> Option<Bytes> {
        let chunk = match self.front.pop_front() {
            Some(chunk) => {
                self.octets -= chunk.len();
                chunk
            }
            None if self.tail.is_empty() => return None,
            None => self.tail.split().freeze(),
        };
        Some(chunk)
    }

    fn push(&mut self, chunk: Bytes) {
        self.octets += chunk.len();
        self.front.push_back(chunk);
    }
}

impl Output for Chunks {
    fn buffer(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    fn append(&mut self, octets: Bytes) {
        if !self.tail.is_empty() {
            let head = self.tail.split().freeze();
            self.push(head);
        }
        self.push(octets);
    }
}

/// A frame that must not be divided is larger than the peer accepts. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} frame of {octets} octets is larger than the negotiated frame_max of {frame_max}")]
pub struct FrameTooLarge {
    pub what: &'static str,
    pub octets: usize,
    pub frame_max: u32,
}

/// # Errors
/// The method does not fit a frame, which only those with tables or long strings can.
pub fn encode_method(
    out: &mut BytesMut,
    channel: u16,
    method: &impl EncodeMethod,
    frame_max: FrameMax,
) -> Result<(), FrameTooLarge> {
    let start = out.len();
    put_method(out, channel, method);
    check(out, start, "method", frame_max)
}

/// Encodes a method, a content header and as many body frames as `frame_max` makes necessary. `properties` is
/// a property list as [`PropertyList::as_bytes`](super::PropertyList::as_bytes) gives it; the body is the
/// pieces one after the other.
///
/// # Errors
/// The properties do not fit a frame.
pub fn encode_content<O: Output>(
    out: &mut O,
    channel: u16,
    method: &impl EncodeMethod,
    properties: &[u8],
    body: &[Bytes],
    frame_max: FrameMax,
) -> Result<(), FrameTooLarge> {
    let head = out.buffer();
    let start = head.len();
    let body_size = body.iter().map(Bytes::len).sum::<usize>();
    head.reserve(CONTENT_HEAD_OCTETS_GUESS + properties.len() + body_size.min(INLINE_BODY_OCTETS_MAX));
    put_method(head, channel, method);
    let header_start = head.len();
    put_header(head, channel, properties, body_size as u64);
    if let Err(error) = check(head, header_start, "content header", frame_max) {
        head.truncate(start);
        return Err(error);
    }
    match body {
        [] => {}
        [piece] if body_size <= frame_max.payload_octets_max() => {
            if body_size > 0 {
                put_head(out.buffer(), FrameType::Body, channel, body_size);
                put_octets(out, piece.clone());
                out.buffer().put_u8(FRAME_END);
            }
        }
        pieces => put_body(out, channel, pieces, body_size, frame_max),
    }
    Ok(())
}

pub fn encode_heartbeat(out: &mut BytesMut) {
    put_head(out, FrameType::Heartbeat, 0, 0);
    out.put_u8(FRAME_END);
}

/// `basic.ack`: confirms a publish, or (from a client) accepts a delivery.
pub fn encode_ack(out: &mut BytesMut, channel: u16, delivery_tag: u64, multiple: bool) {
    put_settlement(out, channel, 80, delivery_tag, multiple.into());
}

/// `basic.nack`.
pub fn encode_nack(out: &mut BytesMut, channel: u16, delivery_tag: u64, multiple: bool, requeue: bool) {
    put_settlement(out, channel, 120, delivery_tag, u8::from(multiple) | u8::from(requeue) << 1);
}

/// `basic.reject`.
pub fn encode_reject(out: &mut BytesMut, channel: u16, delivery_tag: u64, requeue: bool) {
    put_settlement(out, channel, 90, delivery_tag, requeue.into());
}

macro_rules! borrowed {
    ($($(#[$doc:meta])* $name:ident = $method_id:literal { $($(#[$field_doc:meta])* $field:ident: $ty:ty),* }
        |$self:ident, $writer:ident| $write:expr;
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name<'a> {
            $($(#[$field_doc])* pub $field: $ty,)*
        }

        impl EncodeMethod for $name<'_> {
            fn method_id(&self) -> MethodId {
                MethodId { class_id: CLASS_BASIC, method_id: $method_id }
            }
        }

        impl WriteFields for $name<'_> {
            #[inline]
            fn write_fields(&$self, $writer: &mut Writer<'_>) {
                $write
            }
        }
    )*};
}

borrowed! {
    /// [`basic::Deliver`](super::basic::Deliver), borrowed.
    DeliverRef = 60 {
        consumer_tag: ShortStr<'a>,
        delivery_tag: u64,
        redelivered: bool,
        exchange: ShortStr<'a>,
        routing_key: ShortStr<'a>
    } |self, writer| {
        writer.short_string(self.consumer_tag);
        writer.u64(self.delivery_tag);
        writer.u8(self.redelivered.into());
        writer.short_string(self.exchange);
        writer.short_string(self.routing_key);
    };

    /// [`basic::GetOk`](super::basic::GetOk), borrowed.
    GetOkRef = 71 {
        delivery_tag: u64,
        redelivered: bool,
        exchange: ShortStr<'a>,
        routing_key: ShortStr<'a>,
        message_count: u32
    } |self, writer| {
        writer.u64(self.delivery_tag);
        writer.u8(self.redelivered.into());
        writer.short_string(self.exchange);
        writer.short_string(self.routing_key);
        writer.u32(self.message_count);
    };

    /// [`basic::Publish`](super::basic::Publish), borrowed.
    PublishRef = 40 {
        exchange: ShortStr<'a>,
        routing_key: ShortStr<'a>,
        mandatory: bool,
        immediate: bool
    } |self, writer| {
        writer.u16(0);
        writer.short_string(self.exchange);
        writer.short_string(self.routing_key);
        writer.u8(u8::from(self.mandatory) | u8::from(self.immediate) << 1);
    };
}

/// Heads and ends of three frames and a method with names of usual length.
const CONTENT_HEAD_OCTETS_GUESS: usize = 160;

fn put_head(out: &mut BytesMut, frame_type: FrameType, channel: u16, payload_octets: usize) {
    let [c1, c0] = channel.to_be_bytes();
    // Callers have checked the size against frame_max, or patch and check it afterwards.
    let [s3, s2, s1, s0] = u32::try_from(payload_octets).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&[frame_type as u8, c1, c0, s3, s2, s1, s0]);
}

#[inline]
fn put_method(out: &mut BytesMut, channel: u16, method: &impl EncodeMethod) {
    put_head(out, FrameType::Method, channel, 0);
    let payload = out.len();
    let MethodId { class_id, method_id } = method.method_id();
    out.put_u32(u32::from(class_id) << 16 | u32::from(method_id));
    method.write_fields(&mut Writer::new(out));
    let payload_octets = u32::try_from(out.len() - payload).unwrap_or(u32::MAX);
    out[payload - 4..payload].copy_from_slice(&payload_octets.to_be_bytes());
    out.put_u8(FRAME_END);
}

#[inline]
fn put_header(out: &mut BytesMut, channel: u16, properties: &[u8], body_size: u64) {
    put_head(out, FrameType::Header, channel, 12 + properties.len());
    out.put_u16(CLASS_BASIC);
    out.put_u16(0);
    out.put_u64(body_size);
    out.extend_from_slice(properties);
    out.put_u8(FRAME_END);
}

fn put_settlement(out: &mut BytesMut, channel: u16, method_id: u16, delivery_tag: u64, bits: u8) {
    let ([c1, c0], [m1, m0]) = (channel.to_be_bytes(), method_id.to_be_bytes());
    let mut frame = [
        FrameType::Method as u8,
        c1,
        c0,
        0,
        0,
        0,
        13,
        0,
        60,
        m1,
        m0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        bits,
        FRAME_END,
    ];
    frame[11..19].copy_from_slice(&delivery_tag.to_be_bytes());
    out.extend_from_slice(&frame);
}

fn put_octets(out: &mut impl Output, octets: Bytes) {
    match octets.len() <= INLINE_BODY_OCTETS_MAX {
        true => out.buffer().extend_from_slice(&octets),
        false => out.append(octets),
    }
}

/// Divides the body into frames, whatever its division into pieces.
fn put_body<O: Output>(out: &mut O, channel: u16, pieces: &[Bytes], body_size: usize, frame_max: FrameMax) {
    let mut body_left = body_size;
    let mut frame_left = 0;
    for piece in pieces {
        let mut piece = piece.clone();
        while piece.has_remaining() {
            if frame_left == 0 {
                frame_left = body_left.min(frame_max.payload_octets_max());
                put_head(out.buffer(), FrameType::Body, channel, frame_left);
            }
            let octets = piece.split_to(piece.len().min(frame_left));
            frame_left -= octets.len();
            body_left -= octets.len();
            put_octets(out, octets);
            if frame_left == 0 {
                out.buffer().put_u8(FRAME_END);
            }
        }
    }
}

/// Takes the frame that begins at `start` back if it is too large.
fn check(
    out: &mut BytesMut,
    start: usize,
    what: &'static str,
    frame_max: FrameMax,
) -> Result<(), FrameTooLarge> {
    let octets = out.len() - start;
    if octets <= frame_max.get() as usize {
        return Ok(());
    }
    out.truncate(start);
    Err(FrameTooLarge { what, octets, frame_max: frame_max.get() })
}
