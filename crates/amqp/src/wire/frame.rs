//! Frames: taking them out of a read buffer.

use bytes::{Bytes, BytesMut};

use super::content::{Command, Content};
use super::methods::{ContentMethod, Method, MethodId, basic};
use super::properties::{Outline, PropertyList};
use super::reader::{FieldError, Reader};
use super::reply_code::{Exception, ReplyCode};
use super::short_string::ShortString;

/// What a client of AMQP 0-9-1 sends first, and what the server sends before it closes the connection of a
/// client that sent anything else (AMQP 4.2.2).
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// Type, channel and size before a payload, and the end octet behind it.
pub const FRAME_OVERHEAD_OCTETS: u32 = 8;

const FRAME_HEAD_OCTETS: usize = 7;
pub(super) const FRAME_END: u8 = 0xCE;
pub(super) const CLASS_CONNECTION: u16 = 10;
pub(super) const CLASS_BASIC: u16 = 60;

/// The first eight octets of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolHeader {
    /// 0 for AMQP 0-9-1; for AMQP 1.0, which layer comes first.
    pub protocol_id: u8,
    pub major: u8,
    pub minor: u8,
    pub revision: u8,
}

/// The peer does not speak AMQP. Answer with [`PROTOCOL_HEADER`] and close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection does not begin with an AMQP protocol header")]
pub struct BadProtocolHeader;

impl ProtocolHeader {
    /// Takes the protocol header off `input`; none when octets are still missing.
    ///
    /// # Errors
    /// As soon as what came cannot become a protocol header.
    pub fn read(input: &mut BytesMut) -> Result<Option<Self>, BadProtocolHeader> {
        let name = &PROTOCOL_HEADER[..input.len().min(4)];
        if !input.starts_with(name) {
            return Err(BadProtocolHeader);
        }
        let Some(&[_, _, _, _, protocol_id, major, minor, revision]) = input.first_chunk::<8>() else {
            return Ok(None);
        };
        let _ = input.split_to(8);
        Ok(Some(Self { protocol_id, major, minor, revision }))
    }

    /// AMQP 0-9-1, or 0-9, which RabbitMQ treats alike. Anything else is answered with [`PROTOCOL_HEADER`].
    pub fn is_supported(self) -> bool {
        matches!((self.protocol_id, self.major, self.minor, self.revision), (0, 0, 9, 1) | (1, 1, 0, 9))
    }
}

/// The largest frame that either peer may send, in octets, with head and end octet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameMax(u32);

/// A client's `frame_max` that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameMaxRefused {
    #[error("negotiated frame_max = {client} is higher than the maximum allowed value ({max})")]
    AboveMaximum { client: u32, max: u32 },
    #[error(
        "negotiated frame_max = {client} is lower than the minimum allowed value ({})",
        FrameMax::MIN.0
    )]
    BelowMinimum { client: u32 },
}

impl FrameMax {
    /// `frame-min-size` (AMQP 1.1). RabbitMQ since 4.1 wants 8192, which old clients fail at.
    pub const MIN: Self = Self(4096);
    /// RabbitMQ's default.
    pub const DEFAULT: Self = Self(131_072);

    /// None below 4096 octets.
    pub const fn new(octets: u32) -> Option<Self> {
        if octets < Self::MIN.0 { None } else { Some(Self(octets)) }
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    /// What is agreed when the server proposed `self` and the client answered `client`; its 0 (no limit of
    /// its own) means the server's.
    ///
    /// # Errors
    /// Outside the minimum and what the server proposed; NOT_ALLOWED.
    pub fn negotiate(self, client: u32) -> Result<Self, FrameMaxRefused> {
        match client {
            0 => Ok(self),
            client if client > self.0 => Err(FrameMaxRefused::AboveMaximum { client, max: self.0 }),
            client => Self::new(client).ok_or(FrameMaxRefused::BelowMinimum { client }),
        }
    }

    /// How many octets of payload we put into a frame.
    pub(super) const fn payload_octets_max(self) -> usize {
        (self.0 - FRAME_OVERHEAD_OCTETS) as usize
    }
}

/// The type octet of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    Method = 1,
    Header = 2,
    Body = 3,
    Heartbeat = 8,
}

/// A frame, decoded. Everything in it is a slice of the read buffer.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// A method without content; or one with, when its header and its whole body lay back to back behind it
    /// in the read buffer, in one frame each (or none for an empty body). That is the common case, and spares
    /// it the [`Assembler`](super::Assembler)'s states.
    Command(Command),
    /// A method that content frames follow.
    ContentMethod(ContentMethod),
    Header(ContentHeader),
    Body(Bytes),
    /// Always on channel 0.
    Heartbeat,
}

/// A content header of class basic; its weight is always 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentHeader {
    /// Octets in the body frames that follow. Whatever the peer claims: not to be allocated.
    pub body_size: u64,
    pub properties: PropertyList,
}

/// What is wrong with a frame. All of these close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("content frame on channel 0")]
    ContentOnChannelZero,
    #[error("heartbeat frame with a payload of {payload_size} octets")]
    HeartbeatWithPayload { payload_size: u32 },
    #[error("frame type {frame_type} on channel {channel} ends with octet {octet:#04x} instead of 0xce")]
    InvalidEnd { frame_type: u8, channel: u16, octet: u8 },
    #[error("cannot decode content header: {cause}")]
    MalformedHeader { channel: u16, cause: FieldError },
    #[error("cannot decode {method}: {cause}")]
    MalformedMethod { channel: u16, method: MethodId, cause: FieldError },
    #[error("content header with weight {weight}")]
    NonZeroWeight { channel: u16, weight: u16 },
    #[error("method frame of {payload_size} octets on channel {channel} has no class and method id")]
    NoMethodId { channel: u16, payload_size: u32 },
    #[error(
        "frame type {frame_type} on channel {channel}: payload of {payload_size} octets is larger than the \
         negotiated maximum of {max}"
    )]
    TooLarge { frame_type: u8, channel: u16, payload_size: u32, max: u32 },
    #[error("heartbeat frame on channel {channel}")]
    UnexpectedHeartbeat { channel: u16 },
    #[error("expected content header for class {CLASS_BASIC}, got one for class {class_id} instead")]
    UnknownContentClass { channel: u16, class_id: u16 },
    #[error("unknown method {method}")]
    UnknownMethod { channel: u16, method: MethodId },
    #[error("unknown frame type {frame_type} on channel {channel}")]
    UnknownType { frame_type: u8, channel: u16 },
    #[error("{method} on channel {channel}")]
    WrongChannel { channel: u16, method: MethodId },
}

impl FrameError {
    /// The answer to the peer.
    pub fn exception(self) -> Exception {
        let reply_code = match self {
            Self::HeartbeatWithPayload { .. }
            | Self::InvalidEnd { .. }
            | Self::NoMethodId { .. }
            | Self::TooLarge { .. }
            | Self::UnknownType { .. } => ReplyCode::FrameError,
            Self::NonZeroWeight { .. } => ReplyCode::SyntaxError,
            Self::ContentOnChannelZero
            | Self::UnexpectedHeartbeat { .. }
            | Self::UnknownContentClass { .. } => ReplyCode::UnexpectedFrame,
            Self::MalformedHeader { cause, .. } | Self::MalformedMethod { cause, .. } => cause.reply_code(),
            Self::UnknownMethod { .. } | Self::WrongChannel { .. } => ReplyCode::CommandInvalid,
        };
        let method = match self {
            Self::MalformedMethod { method, .. }
            | Self::UnknownMethod { method, .. }
            | Self::WrongChannel { method, .. } => method,
            _ => MethodId::NONE,
        };
        Exception::new(reply_code, self).caused_by(method)
    }
}

/// Takes frames out of a connection's read buffer: all complete frames at once, then one per call.
///
/// After an error the position in the stream is lost, and the connection is to be closed.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// Complete frames only; given up as soon as the last is read, so that the buffer can be used again.
    batch: Bytes,
    at: usize,
}

impl FrameReader {
    /// The next frame and its channel, or none until `input` has more. Check for more input only after none.
    ///
    /// # Errors
    /// The next frame is wrong; those before it have been returned.
    pub fn read(
        &mut self,
        input: &mut BytesMut,
        frame_max: FrameMax,
    ) -> Result<Option<(u16, Frame)>, FrameError> {
        if self.batch.is_empty() {
            let octets = complete_frames(input, frame_max)?;
            if octets == 0 {
                return Ok(None);
            }
            self.batch = input.split_to(octets).freeze();
            self.at = 0;
        }
        let Some(raw) = RawFrame::peek(&self.batch[self.at..], frame_max)? else {
            return Ok(None);
        };
        let (channel, end) = (raw.channel, self.at + raw.octets());
        // The two methods of every message are looked at in place and built where they are returned: moving a
        // frame of 200 octets about costs more than decoding it.
        if let Some((delivery_tag, multiple)) = raw.ack() {
            self.advance(end);
            let ack = basic::Ack { delivery_tag, multiple };
            return Ok(Some((channel, Frame::Command(Command::Method(Method::BasicAck(ack))))));
        }
        if let Some(fields) = raw.publish()
            && let Some(content) = self.content_behind(end, channel, frame_max)
        {
            let frame = Frame::Command(Command::Content(
                ContentMethod::Publish(fields.slices_of(&self.batch)),
                content.slices_of(&self.batch),
            ));
            let end = content.end;
            self.advance(end);
            return Ok(Some((channel, frame)));
        }
        let frame = raw.decode(&self.batch)?;
        if let Frame::ContentMethod(method) = frame {
            let Some(content) = self.content_behind(end, channel, frame_max) else {
                self.advance(end);
                return Ok(Some((channel, Frame::ContentMethod(method))));
            };
            let (content, end) = (content.slices_of(&self.batch), content.end);
            self.advance(end);
            return Ok(Some((channel, Frame::Command(Command::Content(method, content)))));
        }
        self.advance(end);
        Ok(Some((channel, frame)))
    }

    fn advance(&mut self, at: usize) {
        self.at = at;
        if at == self.batch.len() {
            self.batch = Bytes::new();
        }
    }

    /// The content header at `at` and its whole body, and where they end. None when there is no such thing,
    /// be it wrong or just more complicated: then the frames are read one by one.
    #[inline]
    fn content_behind(&self, at: usize, channel: u16, frame_max: FrameMax) -> Option<ContentOctets<'_>> {
        let header = RawFrame::peek(self.batch.get(at..)?, frame_max).ok()??;
        if header.frame_type != FrameType::Header as u8 || header.channel != channel {
            return None;
        }
        let end = at + header.octets();
        let (body_size, properties) = header.content_header().ok()?;
        let outline = Outline::of(properties).ok()?;
        if body_size == 0 {
            return Some(ContentOctets { properties, outline, body: &[], end });
        }
        let body = RawFrame::peek(self.batch.get(end..)?, frame_max).ok()??;
        let is_whole = body.frame_type == FrameType::Body as u8
            && body.channel == channel
            && body.payload.len() as u64 == body_size;
        let end = end + body.octets();
        is_whole.then_some(ContentOctets { properties, outline, body: body.payload, end })
    }
}

/// The fields of a `basic.publish`, in place.
struct PublishOctets<'a> {
    exchange: &'a [u8],
    routing_key: &'a [u8],
    bits: u8,
}

impl PublishOctets<'_> {
    #[inline]
    fn slices_of(&self, source: &Bytes) -> basic::Publish {
        basic::Publish {
            exchange: ShortString::from_wire(source.slice_ref(self.exchange)),
            routing_key: ShortString::from_wire(source.slice_ref(self.routing_key)),
            mandatory: self.bits & 1 != 0,
            immediate: self.bits & 2 != 0,
        }
    }
}

/// A content header and a whole body, in place, and where they end.
struct ContentOctets<'a> {
    properties: &'a [u8],
    outline: Outline,
    body: &'a [u8],
    end: usize,
}

impl ContentOctets<'_> {
    #[inline]
    fn slices_of(&self, source: &Bytes) -> Content {
        Content {
            properties: PropertyList::with_outline(source.slice_ref(self.properties), self.outline),
            body: source.slice_ref(self.body).into(),
        }
    }
}

/// A complete frame with its end octet checked, not yet decoded.
struct RawFrame<'a> {
    frame_type: u8,
    channel: u16,
    payload: &'a [u8],
}

impl<'a> RawFrame<'a> {
    /// The frame that `input` begins with, if all of it is there. The size is checked before anything else,
    /// so that nothing is buffered for a frame that will be refused.
    #[inline]
    fn peek(input: &'a [u8], frame_max: FrameMax) -> Result<Option<Self>, FrameError> {
        let Some((&[frame_type, c1, c0, s3, s2, s1, s0], rest)) =
            input.split_first_chunk::<FRAME_HEAD_OCTETS>()
        else {
            return Ok(None);
        };
        let (channel, payload_size) = (u16::from_be_bytes([c1, c0]), u32::from_be_bytes([s3, s2, s1, s0]));
        if !matches!(frame_type, 1..=3 | 8) {
            return Err(FrameError::UnknownType { frame_type, channel });
        }
        // Like RabbitMQ, forgive clients that forget the eight octets around the payload.
        if payload_size > frame_max.get() {
            let max = frame_max.get() - FRAME_OVERHEAD_OCTETS;
            return Err(FrameError::TooLarge { frame_type, channel, payload_size, max });
        }
        let Some((payload, &[octet, ..])) = rest.split_at_checked(payload_size as usize) else {
            return Ok(None);
        };
        match octet {
            FRAME_END => Ok(Some(Self { frame_type, channel, payload })),
            octet => Err(FrameError::InvalidEnd { frame_type, channel, octet }),
        }
    }

    fn octets(&self) -> usize {
        self.payload.len() + FRAME_OVERHEAD_OCTETS as usize
    }

    /// `self` lies inside `source`.
    #[inline]
    fn decode(self, source: &Bytes) -> Result<Frame, FrameError> {
        match self.frame_type {
            1 => self.method(source),
            2 | 3 if self.channel == 0 => Err(FrameError::ContentOnChannelZero),
            2 => {
                let (body_size, properties) = self.content_header()?;
                let properties = PropertyList::parse(source.slice_ref(properties))
                    .map_err(|cause| FrameError::MalformedHeader { channel: self.channel, cause })?;
                Ok(Frame::Header(ContentHeader { body_size, properties }))
            }
            3 => Ok(Frame::Body(source.slice_ref(self.payload))),
            8 if self.channel != 0 => Err(FrameError::UnexpectedHeartbeat { channel: self.channel }),
            8 if !self.payload.is_empty() => {
                Err(FrameError::HeartbeatWithPayload { payload_size: self.payload_size() })
            }
            8 => Ok(Frame::Heartbeat),
            frame_type => Err(FrameError::UnknownType { frame_type, channel: self.channel }),
        }
    }

    #[inline]
    fn method(self, source: &Bytes) -> Result<Frame, FrameError> {
        let channel = self.channel;
        let Some((&[c1, c0, m1, m0], fields)) = self.payload.split_first_chunk::<4>() else {
            return Err(FrameError::NoMethodId { channel, payload_size: self.payload_size() });
        };
        let method =
            MethodId { class_id: u16::from_be_bytes([c1, c0]), method_id: u16::from_be_bytes([m1, m0]) };
        // AMQP 4.2.3: channel 0 is for class connection, and class connection for channel 0.
        if (channel == 0) != (method.class_id == CLASS_CONNECTION) {
            return Err(match method.name() {
                Some(_) => FrameError::WrongChannel { channel, method },
                None => FrameError::UnknownMethod { channel, method },
            });
        }
        let mut reader = Reader::new(source, fields);
        let malformed = |cause| FrameError::MalformedMethod { channel, method, cause };
        if let Some(method) = Method::read(method, &mut reader).map_err(malformed)? {
            return Ok(Frame::Command(Command::Method(method)));
        }
        match ContentMethod::read(method, &mut reader).map_err(malformed)? {
            Some(method) => Ok(Frame::ContentMethod(method)),
            None => Err(FrameError::UnknownMethod { channel, method }),
        }
    }

    /// The body size and the property list of a header frame.
    #[inline]
    fn content_header(&self) -> Result<(u64, &'a [u8]), FrameError> {
        let channel = self.channel;
        let Some((&[c1, c0, w1, w0, s7, s6, s5, s4, s3, s2, s1, s0], properties)) =
            self.payload.split_first_chunk::<12>()
        else {
            return Err(FrameError::MalformedHeader { channel, cause: FieldError::Truncated });
        };
        let (class_id, weight) = (u16::from_be_bytes([c1, c0]), u16::from_be_bytes([w1, w0]));
        if class_id != CLASS_BASIC {
            return Err(FrameError::UnknownContentClass { channel, class_id });
        }
        if weight != 0 {
            return Err(FrameError::NonZeroWeight { channel, weight });
        }
        Ok((u64::from_be_bytes([s7, s6, s5, s4, s3, s2, s1, s0]), properties))
    }

    /// Delivery tag and `multiple`, if this is a `basic.ack`.
    #[inline]
    fn ack(&self) -> Option<(u64, bool)> {
        match *self.payload {
            [0, 60, 0, 80, t7, t6, t5, t4, t3, t2, t1, t0, bits]
                if self.frame_type == 1 && self.channel != 0 =>
            {
                Some((u64::from_be_bytes([t7, t6, t5, t4, t3, t2, t1, t0]), bits & 1 != 0))
            }
            _ => None,
        }
    }

    /// The fields, if this is a `basic.publish` without fault.
    #[inline]
    fn publish(&self) -> Option<PublishOctets<'a>> {
        let [0, 60, 0, 40, _, _, exchange_octets, ref rest @ ..] = *self.payload else {
            return None;
        };
        let (exchange, rest) = rest.split_at_checked(exchange_octets.into())?;
        let (&routing_key_octets, rest) = rest.split_first()?;
        let (routing_key, rest) = rest.split_at_checked(routing_key_octets.into())?;
        let &[bits] = rest else {
            return None;
        };
        let is_publish = self.frame_type == 1 && self.channel != 0;
        is_publish.then_some(PublishOctets { exchange, routing_key, bits })
    }

    /// Was a 32-bit number on the wire.
    fn payload_size(&self) -> u32 {
        self.payload.len() as u32
    }
}

/// How many octets of `input` are complete frames.
fn complete_frames(input: &[u8], frame_max: FrameMax) -> Result<usize, FrameError> {
    let mut octets = 0;
    loop {
        match RawFrame::peek(&input[octets..], frame_max) {
            Ok(Some(frame)) => octets += frame.octets(),
            Ok(None) => return Ok(octets),
            Err(error) if octets == 0 => return Err(error),
            // What came before the wrong frame is still good.
            Err(_) => return Ok(octets),
        }
    }
}
