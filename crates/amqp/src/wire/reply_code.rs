//! Reply codes, and the exceptions that close a channel or a connection, in RabbitMQ's wording.

use std::fmt;

use super::methods::{Method, MethodId, channel, connection};
use super::short_string::ShortString;

/// The reply codes of AMQP 0-9-1 (AMQP 1.2), with RabbitMQ's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ReplyCode {
    ReplySuccess = 200,
    ContentTooLarge = 311,
    NoRoute = 312,
    NoConsumers = 313,
    ConnectionForced = 320,
    InvalidPath = 402,
    AccessRefused = 403,
    NotFound = 404,
    ResourceLocked = 405,
    PreconditionFailed = 406,
    FrameError = 501,
    SyntaxError = 502,
    CommandInvalid = 503,
    ChannelError = 504,
    UnexpectedFrame = 505,
    ResourceError = 506,
    NotAllowed = 530,
    NotImplemented = 540,
    InternalError = 541,
}

impl ReplyCode {
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The name that begins the reply text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReplySuccess => "REPLY_SUCCESS",
            Self::ContentTooLarge => "CONTENT_TOO_LARGE",
            Self::NoRoute => "NO_ROUTE",
            Self::NoConsumers => "NO_CONSUMERS",
            Self::ConnectionForced => "CONNECTION_FORCED",
            Self::InvalidPath => "INVALID_PATH",
            Self::AccessRefused => "ACCESS_REFUSED",
            Self::NotFound => "NOT_FOUND",
            Self::ResourceLocked => "RESOURCE_LOCKED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::FrameError => "FRAME_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::CommandInvalid => "COMMAND_INVALID",
            Self::ChannelError => "CHANNEL_ERROR",
            Self::UnexpectedFrame => "UNEXPECTED_FRAME",
            Self::ResourceError => "RESOURCE_ERROR",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// A hard error closes the connection, a soft one only the channel.
    pub const fn is_hard_error(self) -> bool {
        match self {
            Self::ReplySuccess
            | Self::ContentTooLarge
            | Self::NoRoute
            | Self::NoConsumers
            | Self::AccessRefused
            | Self::NotFound
            | Self::ResourceLocked
            | Self::PreconditionFailed => false,
            Self::ConnectionForced
            | Self::InvalidPath
            | Self::FrameError
            | Self::SyntaxError
            | Self::CommandInvalid
            | Self::ChannelError
            | Self::UnexpectedFrame
            | Self::ResourceError
            | Self::NotAllowed
            | Self::NotImplemented
            | Self::InternalError => true,
        }
    }
}

/// What closes a channel or a connection: a code, a text, and the method that caused it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reply_text}")]
pub struct Exception {
    pub reply_code: ReplyCode,
    /// `NAME - explanation`, cut to 255 octets.
    pub reply_text: ShortString,
    /// The method that failed, or 0.0 when there is none.
    pub method: MethodId,
}

impl Exception {
    /// The text becomes `NAME - explanation`, as RabbitMQ writes it.
    pub fn new(reply_code: ReplyCode, explanation: impl fmt::Display) -> Self {
        let reply_text = ShortString::truncated(&format!("{} - {explanation}", reply_code.name()));
        Self { reply_code, reply_text, method: MethodId::NONE }
    }

    #[must_use]
    pub fn caused_by(mut self, method: MethodId) -> Self {
        self.method = method;
        self
    }

    /// The close method, and the channel to send it on: `connection.close` on channel 0 for a hard error and
    /// for whatever happened on channel 0, else `channel.close` on `channel`.
    pub fn into_close(self, channel: u16) -> (u16, Method) {
        let (reply_code, MethodId { class_id, method_id }) = (self.reply_code.code(), self.method);
        let reply_text = self.reply_text;
        match self.reply_code.is_hard_error() || channel == 0 {
            true => (0, connection::Close { reply_code, reply_text, class_id, method_id }.into()),
            false => (channel, channel::Close { reply_code, reply_text, class_id, method_id }.into()),
        }
    }
}

/// RabbitMQ's texts for what goes wrong most often.
impl Exception {
    /// `no queue 'q' in vhost '/'`
    pub fn not_found(resource: Resource<'_>) -> Self {
        Self::new(ReplyCode::NotFound, format_args!("no {resource}"))
    }

    /// `configure access to queue 'q' in vhost '/' refused for user 'u'`; `permission` is `configure`,
    /// `write` or
    /// `read`.
    pub fn access_refused(permission: &str, resource: Resource<'_>, user: &str) -> Self {
        Self::new(
            ReplyCode::AccessRefused,
            format_args!("{permission} access to {resource} refused for user '{user}'"),
        )
    }

    /// `queue name 'amq.q' contains reserved prefix 'amq.*'`
    pub fn reserved_prefix(kind: ResourceKind, name: &ShortString) -> Self {
        Self::new(
            ReplyCode::AccessRefused,
            format_args!("{kind} name '{name}' contains reserved prefix 'amq.*'"),
        )
    }

    pub fn default_exchange() -> Self {
        Self::new(ReplyCode::AccessRefused, "operation not permitted on the default exchange")
    }

    /// `queue 'q' in vhost '/' in exclusive use`: there is an exclusive consumer, or there are others.
    pub fn in_exclusive_use(queue: Resource<'_>) -> Self {
        Self::new(ReplyCode::AccessRefused, format_args!("{queue} in exclusive use"))
    }

    /// Another connection owns the exclusive queue.
    pub fn locked(queue: Resource<'_>) -> Self {
        Self::new(
            ReplyCode::ResourceLocked,
            format_args!(
                "cannot obtain exclusive access to locked {queue}. It could be originally declared on \
                 another connection or the exclusive property value does not match that of the original \
                 declaration."
            ),
        )
    }

    /// A declaration that differs from what exists. `received` and `current` read like `'true'`, `none`, or
    /// `the value '10' of type 'signedint'`.
    pub fn inequivalent_arg(
        arg: &str,
        resource: Resource<'_>,
        received: impl fmt::Display,
        current: impl fmt::Display,
    ) -> Self {
        Self::new(
            ReplyCode::PreconditionFailed,
            format_args!(
                "inequivalent arg '{arg}' for {resource}: received {received} but current is {current}"
            ),
        )
    }

    pub fn in_use(resource: Resource<'_>) -> Self {
        Self::new(ReplyCode::PreconditionFailed, format_args!("{resource} in use"))
    }

    pub fn not_empty(queue: Resource<'_>) -> Self {
        Self::new(ReplyCode::PreconditionFailed, format_args!("{queue} not empty"))
    }

    pub fn unknown_delivery_tag(delivery_tag: u64) -> Self {
        Self::new(ReplyCode::PreconditionFailed, format_args!("unknown delivery tag {delivery_tag}"))
    }

    pub fn message_too_large(octets: u64, octets_max: u64) -> Self {
        Self::new(
            ReplyCode::PreconditionFailed,
            format_args!("message size {octets} is larger than configured max size {octets_max}"),
        )
    }

    pub fn reused_consumer_tag(consumer_tag: &ShortString) -> Self {
        Self::new(ReplyCode::NotAllowed, format_args!("attempt to reuse consumer tag '{consumer_tag}'"))
    }
}

/// What an error text is about; reads `queue 'q' in vhost '/'`.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    pub kind: ResourceKind,
    pub name: &'a ShortString,
    pub vhost: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceKind {
    Exchange,
    Queue,
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind, self.name, self.vhost)
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exchange => "exchange",
            Self::Queue => "queue",
        })
    }
}
