//! A message, as the publisher's bytes ([`Payload`]), as what the engine needs of it ([`Envelope`]),
//! and as what every protocol can render ([`Message`]).

use crate::{ConnectionId, Name, Subject};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The instant `ms` milliseconds later; saturates.
    pub fn plus_ms(self, ms: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
    }

    /// Milliseconds from `earlier` to this instant; 0 when it is not later.
    pub fn ms_since(self, earlier: Timestamp) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

/// Names how a payload's bytes are laid out. The core stores it and hands it back; only the crate
/// that registered the format reads the bytes. Numbers are stored and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Format(pub u8);

impl Format {
    /// A [`Message`] in the core's own encoding: what the HTTP API and the command line publish.
    pub const MESSAGE: Format = Format(0);
}

/// A message or batch as received: stored once, never rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    pub format: Format,
    /// What the format needs besides the body, such as encoded properties. Small.
    pub head: Bytes,
    /// The body, a slice of what was read from the publisher. Not part of the serialized form:
    /// whoever stores a payload stores its body beside it.
    #[serde(skip)]
    pub body: Bytes,
}

impl Payload {
    /// The same with bytes of its own, for what is kept longer than the buffer it was read into.
    pub fn detached(&self) -> Payload {
        let Payload { format, head, body } = self;
        Payload { format: *format, head: Bytes::copy_from_slice(head), body: Bytes::copy_from_slice(body) }
    }
}

/// What routing and settlement need to know of one message without reading its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    pub subject: Subject,
    /// When the broker took it.
    pub received: Timestamp,
    /// When it stops being worth delivering.
    pub expires: Option<Timestamp>,
    /// Not to be delivered before.
    pub due: Option<Timestamp>,
    /// Higher is sooner, where a queue has priorities.
    pub priority: u8,
    /// Survives a restart, where its queue does.
    pub durable: bool,
    /// The publishing connection, for readers that do not want their own messages. Volatile: 0 after a restart.
    #[serde(skip)]
    pub origin: ConnectionId,
    /// Where it died before, latest first.
    pub deaths: Vec<Death>,
}

impl Envelope {
    pub fn new(subject: Subject, received: Timestamp) -> Envelope {
        Envelope {
            subject,
            received,
            expires: None,
            due: None,
            priority: 0,
            durable: true,
            origin: ConnectionId(0),
            deaths: Vec::new(),
        }
    }
}

/// One dead-lettering of a message; repeated deaths in the same queue for the same reason are counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    pub queue: Name,
    pub reason: DeathReason,
    pub count: u32,
    pub first: Timestamp,
    /// The exchange it had been published to; none for a direct send.
    pub exchange: Option<Name>,
    pub subject: Subject,
}

/// Why a message was dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeathReason {
    DeliveryLimit,
    Expired,
    LengthLimit,
    Rejected,
}

/// What every protocol can say about one message: the hub of all conversions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub subject: Subject,
    /// Orders and partitions; also what compaction keeps the last of.
    pub key: Option<Bytes>,
    /// `None` is a tombstone, which is not the same as an empty body.
    pub body: Option<Bytes>,
    /// In the publisher's order; a name may repeat.
    pub headers: Vec<Header>,
    /// When the publisher says it was made.
    pub timestamp: Option<Timestamp>,
    pub id: Option<String>,
    pub correlation_id: Option<Bytes>,
    /// Where a reply is wanted.
    pub reply_to: Option<String>,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    /// The kind of event or command.
    pub kind: Option<String>,
    /// Who published it, as said by the publisher.
    pub user: Option<String>,
    /// The publishing application.
    pub application: Option<String>,
    pub expires: Option<Timestamp>,
    pub due: Option<Timestamp>,
    pub priority: Option<u8>,
    pub durable: bool,
}

/// One header of a [`Message`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub name: String,
    pub value: Value,
}

/// A typed header value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    Bool(bool),
    Bytes(Bytes),
    /// `unscaled` × 10^-`scale`
    Decimal {
        scale: u8,
        unscaled: i64,
    },
    Float(f64),
    Int(i64),
    List(Vec<Value>),
    Map(Vec<Header>),
    Null,
    String(String),
    Timestamp(Timestamp),
}

impl Value {
    /// The value as plain text, for protocols whose headers are text: numbers in decimal, bytes that are
    /// UTF-8 as they are, lists and maps as JSON. Returns `None` for [`Value::Null`] and bytes that are no text.
    pub fn to_text(&self) -> Option<String> {
        match self {
            Value::Bool(b) => Some(b.to_string()),
            Value::Bytes(b) => std::str::from_utf8(b).ok().map(str::to_owned),
            Value::Decimal { scale, unscaled } => Some(decimal_text(*scale, *unscaled)),
            Value::Float(f) => Some(f.to_string()),
            Value::Int(i) => Some(i.to_string()),
            Value::List(_) | Value::Map(_) => {
                let mut out = String::new();
                self.write_json(&mut out);
                Some(out)
            }
            Value::Null => None,
            Value::String(s) => Some(s.clone()),
            Value::Timestamp(t) => Some(t.0.to_string()),
        }
    }

    fn write_json(&self, out: &mut String) {
        match self {
            Value::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write_json(out);
                }
                out.push(']');
            }
            Value::Map(headers) => {
                out.push('{');
                for (index, header) in headers.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_json_string(&header.name, out);
                    out.push(':');
                    header.value.write_json(out);
                }
                out.push('}');
            }
            Value::Null => out.push_str("null"),
            Value::Float(f) if !f.is_finite() => out.push_str("null"),
            Value::Bytes(_) | Value::String(_) => {
                write_json_string(&self.to_text().unwrap_or_default(), out);
            }
            plain => out.push_str(&plain.to_text().unwrap_or_default()),
        }
    }
}

fn decimal_text(scale: u8, unscaled: i64) -> String {
    let scale = usize::from(scale);
    if scale == 0 {
        return unscaled.to_string();
    }
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    format!("{sign}{whole}.{fraction}")
}

fn write_json_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

impl Default for Subject {
    fn default() -> Subject {
        Subject::empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_text() {
        let header = |name: &str, value| Header { name: name.into(), value };
        for (value, expect) in [
            (Value::Int(-7), Some("-7")),
            (Value::Bool(true), Some("true")),
            (Value::Float(1.5), Some("1.5")),
            (Value::Decimal { scale: 2, unscaled: -5 }, Some("-0.05")),
            (Value::Decimal { scale: 0, unscaled: 12 }, Some("12")),
            (Value::Decimal { scale: 1, unscaled: i64::MIN }, Some("-922337203685477580.8")),
            (Value::Bytes(Bytes::from_static(b"\xff")), None),
            (Value::Null, None),
            (
                Value::List(vec![Value::Int(1), Value::String("a\"b".into()), Value::Null]),
                Some(r#"[1,"a\"b",null]"#),
            ),
            (Value::Map(vec![header("k", Value::List(vec![]))]), Some(r#"{"k":[]}"#)),
        ] {
            assert_eq!(value.to_text().as_deref(), expect, "{value:?}");
        }
    }

    #[test]
    fn time_saturates() {
        assert_eq!(Timestamp(5).plus_ms(u64::MAX), Timestamp(i64::MAX));
        assert_eq!(Timestamp(5).ms_since(Timestamp(9)), 0);
        assert_eq!(Timestamp(i64::MAX).ms_since(Timestamp(i64::MIN)), i64::MAX as u64);
    }
}
