//! Content: what a channel makes of a method, a content header and body frames.

use bytes::{Bytes, BytesMut};

use super::frame::{ContentHeader, Frame};
use super::methods::{ContentMethod, EncodeMethod, Method, MethodId};
use super::properties::PropertyList;
use super::reply_code::{Exception, ReplyCode};

/// Body fragments from this size on stay slices of the read buffer; smaller ones are copied together, so that
/// a body in many tiny frames costs about its own size in memory.
const SHARED_FRAGMENT_OCTETS_MIN: usize = 16 * 1024;

/// A method with all that belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Method(Method),
    Content(ContentMethod, Content),
}

/// The properties and the body of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    pub properties: PropertyList,
    pub body: Body,
}

/// A message body, in one piece when it came in one frame.
#[derive(Debug, Clone, Default)]
pub struct Body {
    parts: Parts,
    octets: usize,
}

#[derive(Debug, Clone)]
enum Parts {
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Default for Parts {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}

impl Body {
    /// In octets.
    pub fn len(&self) -> usize {
        self.octets
    }

    pub fn is_empty(&self) -> bool {
        self.octets == 0
    }

    /// The pieces, in order.
    pub fn parts(&self) -> &[Bytes] {
        match &self.parts {
            Parts::One(part) => std::slice::from_ref(part),
            Parts::Many(parts) => parts,
        }
    }

    /// The body in one piece; copies only when it came in several frames.
    pub fn into_bytes(self) -> Bytes {
        match self.parts {
            Parts::One(part) => part,
            Parts::Many(parts) => {
                let mut joined = BytesMut::with_capacity(self.octets);
                parts.iter().for_each(|part| joined.extend_from_slice(part));
                joined.freeze()
            }
        }
    }
}

impl From<Bytes> for Body {
    fn from(octets: Bytes) -> Self {
        Self { octets: octets.len(), parts: Parts::One(octets) }
    }
}

/// Equal when their octets are, however they are divided.
impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.octets == other.octets && self.parts().iter().flatten().eq(other.parts().iter().flatten())
    }
}

/// Frames of one channel that do not make sense together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    #[error("content body frame exceeds remaining content size")]
    BodyExceedsHeader { method: MethodId },
    #[error("message size {body_size} is larger than configured max size {body_size_max}")]
    BodyTooLarge { method: MethodId, body_size: u64, body_size_max: u64 },
    #[error("expected content body, got non content body frame instead")]
    ExpectedBody { method: MethodId },
    #[error("expected content header for class 60, got non content header frame instead")]
    ExpectedHeader { method: MethodId },
    #[error("expected method frame, got non method frame instead")]
    ExpectedMethod,
}

impl AssembleError {
    /// The answer to the peer. All but `BodyTooLarge` close the connection; that one closes the channel,
    /// whose remaining content frames are to be discarded like everything else on a closing channel.
    pub fn exception(self) -> Exception {
        match self {
            Self::BodyExceedsHeader { method } => {
                Exception::new(ReplyCode::FrameError, self).caused_by(method)
            }
            Self::BodyTooLarge { method, body_size, body_size_max } => {
                Exception::message_too_large(body_size, body_size_max).caused_by(method)
            }
            Self::ExpectedBody { method } | Self::ExpectedHeader { method } => {
                Exception::new(ReplyCode::UnexpectedFrame, self).caused_by(method)
            }
            Self::ExpectedMethod => Exception::new(ReplyCode::UnexpectedFrame, self),
        }
    }
}

/// Makes commands of one channel's frames.
#[derive(Debug)]
pub struct Assembler {
    state: State,
    body_size_max: u64,
}

#[derive(Debug)]
enum State {
    Method,
    Header(ContentMethod),
    Body(ContentMethod, PartialContent),
}

#[derive(Debug)]
struct PartialContent {
    header: ContentHeader,
    parts: Vec<Bytes>,
    /// Fragments too small to be parts of their own.
    small: BytesMut,
    octets: usize,
    octets_left: u64,
}

impl Assembler {
    /// Bodies above `body_size_max` octets are refused when their header comes.
    pub fn new(body_size_max: u64) -> Self {
        Self { state: State::Method, body_size_max }
    }

    /// How many octets of an unfinished body are held.
    pub fn buffered_octets(&self) -> usize {
        match &self.state {
            State::Body(_, content) => content.octets,
            State::Method | State::Header(_) => 0,
        }
    }

    /// The command that `frame` completes, if it does. Heartbeats belong to no channel and complete nothing.
    ///
    /// # Errors
    /// `frame` does not fit what came before it. The assembler then waits for a method again.
    #[inline]
    pub fn push(&mut self, frame: Frame) -> Result<Option<Command>, AssembleError> {
        match (&self.state, frame) {
            (State::Method, Frame::Command(command)) => {
                if let Command::Content(method, content) = &command {
                    self.check_size(method, content.body.len() as u64)?;
                }
                Ok(Some(command))
            }
            (_, frame) => self.advance(frame),
        }
    }

    fn advance(&mut self, frame: Frame) -> Result<Option<Command>, AssembleError> {
        if let Frame::Heartbeat = frame {
            return Ok(None);
        }
        match (std::mem::replace(&mut self.state, State::Method), frame) {
            (State::Method, Frame::ContentMethod(method)) => {
                self.state = State::Header(method);
                Ok(None)
            }
            (State::Method, _) => Err(AssembleError::ExpectedMethod),
            (State::Header(method), Frame::Header(header)) => self.header(method, header),
            (State::Header(method), _) => Err(AssembleError::ExpectedHeader { method: method.method_id() }),
            (State::Body(method, content), Frame::Body(fragment)) => self.body(method, content, fragment),
            (State::Body(method, _), _) => Err(AssembleError::ExpectedBody { method: method.method_id() }),
        }
    }

    fn header(
        &mut self,
        method: ContentMethod,
        header: ContentHeader,
    ) -> Result<Option<Command>, AssembleError> {
        self.check_size(&method, header.body_size)?;
        if header.body_size == 0 {
            let content = Content { properties: header.properties, body: Body::default() };
            return Ok(Some(Command::Content(method, content)));
        }
        let octets_left = header.body_size;
        let content =
            PartialContent { header, parts: Vec::new(), small: BytesMut::new(), octets: 0, octets_left };
        self.state = State::Body(method, content);
        Ok(None)
    }

    fn body(
        &mut self,
        method: ContentMethod,
        mut content: PartialContent,
        fragment: Bytes,
    ) -> Result<Option<Command>, AssembleError> {
        content.octets_left = content
            .octets_left
            .checked_sub(fragment.len() as u64)
            .ok_or(AssembleError::BodyExceedsHeader { method: method.method_id() })?;
        content.add(fragment);
        if content.octets_left > 0 {
            self.state = State::Body(method, content);
            return Ok(None);
        }
        Ok(Some(Command::Content(method, content.finish())))
    }

    #[inline]
    fn check_size(&self, method: &ContentMethod, body_size: u64) -> Result<(), AssembleError> {
        let (method, body_size_max) = (method.method_id(), self.body_size_max);
        match body_size <= body_size_max {
            true => Ok(()),
            false => Err(AssembleError::BodyTooLarge { method, body_size, body_size_max }),
        }
    }
}

impl PartialContent {
    fn add(&mut self, fragment: Bytes) {
        self.octets += fragment.len();
        let is_all = self.octets as u64 == self.header.body_size && self.octets == fragment.len();
        if fragment.len() < SHARED_FRAGMENT_OCTETS_MIN && !is_all {
            self.small.extend_from_slice(&fragment);
            return;
        }
        self.flush();
        self.parts.push(fragment);
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.parts.push(std::mem::take(&mut self.small).freeze());
        }
    }

    fn finish(mut self) -> Content {
        self.flush();
        let parts = match self.parts.len() {
            0 | 1 => Parts::One(self.parts.pop().unwrap_or_default()),
            _ => Parts::Many(self.parts),
        };
        Content { properties: self.header.properties, body: Body { parts, octets: self.octets } }
    }
}
