//! Messages in JSON, both ways. There is one rendering for all that can be read.

use crate::{call::within, failure::Failure};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use posthaste_engine::catalog::Headers;
use posthaste_model::{Envelope, Header, Message, Subject, Timestamp, Value};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value as Json, json};

/// A message as it is shown.
#[derive(Serialize)]
pub struct MessageView {
    #[serde(flatten)]
    pub place: Place,
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// `null` is a tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    headers: Vec<HeaderView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
}

/// Where a message was read from.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Place {
    Queue { queue: String, redelivered: bool, attempt: u32 },
    Subject {},
    Topic { topic: String, partition: usize, offset: u64 },
}

/// A header as it is shown: an object for each, because names may repeat.
#[derive(Serialize)]
struct HeaderView {
    name: String,
    value: Json,
}

impl MessageView {
    pub fn new(place: Place, message: Message) -> MessageView {
        let (key, key_base64) = split(message.key);
        let (body, body_base64) = match message.body {
            None => (Some(None), None),
            Some(body) => {
                let (text, base64) = split(Some(body));
                (text.map(Some), base64)
            }
        };
        let (correlation_id, correlation_id_base64) = split(message.correlation_id);
        let header = |h: Header| HeaderView { name: h.name, value: to_json(h.value) };
        MessageView {
            place,
            subject: message.subject.to_dotted().into_owned(),
            key,
            key_base64,
            body,
            body_base64,
            headers: message.headers.into_iter().map(header).collect(),
            timestamp_ms: message.timestamp.map(|t| t.0),
            id: message.id,
            correlation_id,
            correlation_id_base64,
            reply_to: message.reply_to,
            content_type: message.content_type,
            content_encoding: message.content_encoding,
            kind: message.kind,
            user: message.user,
            application: message.application,
            expires_ms: message.expires.map(|t| t.0),
            priority: message.priority,
        }
    }
}

/// As text where it is text, else in base64.
fn split(bytes: Option<Bytes>) -> (Option<String>, Option<String>) {
    match bytes {
        None => (None, None),
        Some(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(STANDARD.encode(&bytes))),
        },
    }
}

/// A header's value. What JSON has no type for is an object with one field that says what it is.
pub fn to_json(value: Value) -> Json {
    match value {
        Value::Bool(b) => Json::Bool(b),
        Value::Bytes(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => Json::String(text.to_owned()),
            Err(_) => json!({ "base64": STANDARD.encode(&bytes) }),
        },
        Value::Decimal { .. } => json!({ "decimal": value.to_text() }),
        Value::Float(f) => Number::from_f64(f).map_or_else(|| Json::String(f.to_string()), Json::Number),
        Value::Int(i) => Json::Number(i.into()),
        Value::List(items) => Json::Array(items.into_iter().map(to_json).collect()),
        Value::Map(headers) => {
            Json::Object(headers.into_iter().map(|h| (h.name, to_json(h.value))).collect())
        }
        Value::Null => Json::Null,
        Value::String(text) => Json::String(text),
        Value::Timestamp(t) => json!({ "timestamp_ms": t.0 }),
    }
}

/// A message as it is published.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Publication {
    pub subject: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(deserialize_with = "present")]
    body: Option<Option<String>>,
    body_base64: Option<String>,
    headers: Option<HeadersGiven>,
    timestamp_ms: Option<i64>,
    id: Option<String>,
    correlation_id: Option<String>,
    correlation_id_base64: Option<String>,
    reply_to: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    user: Option<String>,
    application: Option<String>,
    pub ttl_ms: Option<u64>,
    pub delay_ms: Option<u64>,
    pub priority: Option<u8>,
    durable: Option<bool>,
    /// Of a topic.
    pub partition: Option<usize>,
    /// Refused when an exchange leads it nowhere.
    pub mandatory: Option<bool>,
}

/// An object, or a list where names repeat.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum HeadersGiven {
    List(Vec<HeaderGiven>),
    Object(Map<String, Json>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderGiven {
    name: String,
    value: Json,
}

/// Tells `null` from nothing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

/// Header values inside header values, at most.
const DEPTH_MAX: usize = 16;
/// Times further away than that are not times: about 100 years.
const SPAN_MS_MAX: u64 = 100 * 366 * 86_400_000;

impl Publication {
    /// The message and what routing needs of it.
    ///
    /// # Errors
    /// 400 for what cannot be a message, 413 for one over the limit.
    pub fn into_message(
        self,
        subject: &str,
        now: Timestamp,
        max: usize,
    ) -> Result<(Envelope, Message), Failure> {
        let subject = Subject::dotted(subject.to_owned()).map_err(|e| Failure::invalid(e.to_string()))?;
        let body = match (self.body, self.body_base64) {
            (Some(_), Some(_)) => return Err(Failure::invalid("give body or body_base64, not both")),
            (Some(body), None) => body.map(Bytes::from),
            (None, Some(text)) => Some(from_base64("body_base64", &text)?),
            (None, None) => Some(Bytes::new()),
        };
        let size = body.as_ref().map_or(0, Bytes::len);
        if size > max {
            let message = format!("the message has {size} bytes, allowed are {max}");
            return Err(Failure::too_large(message));
        }
        let ttl = self.ttl_ms.map(|ms| within("ttl_ms", ms, 0, SPAN_MS_MAX)).transpose()?;
        let delay = self.delay_ms.map(|ms| within("delay_ms", ms, 0, SPAN_MS_MAX)).transpose()?;
        let message = Message {
            subject: subject.clone(),
            key: either("key", self.key, self.key_base64)?,
            body,
            headers: self.headers.map_or(Ok(Vec::new()), HeadersGiven::into_headers)?,
            timestamp: Some(self.timestamp_ms.map_or(now, Timestamp)),
            id: self.id,
            correlation_id: either("correlation_id", self.correlation_id, self.correlation_id_base64)?,
            reply_to: self.reply_to,
            content_type: self.content_type,
            content_encoding: self.content_encoding,
            kind: self.kind,
            user: self.user,
            application: self.application,
            expires: ttl.map(|ms| now.plus_ms(ms)),
            due: delay.map(|ms| now.plus_ms(ms)),
            priority: self.priority,
            durable: self.durable.unwrap_or(true),
        };
        let envelope = Envelope {
            expires: message.expires,
            due: message.due,
            priority: message.priority.unwrap_or(0),
            durable: message.durable,
            ..Envelope::new(subject, now)
        };
        Ok((envelope, message))
    }
}

fn either(what: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, Failure> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(Failure::invalid(format!("give {what} or {what}_base64, not both"))),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(text)) => from_base64(&format!("{what}_base64"), &text).map(Some),
        (None, None) => Ok(None),
    }
}

fn from_base64(what: &str, text: &str) -> Result<Bytes, Failure> {
    let decoded = STANDARD.decode(text);
    decoded.map(Bytes::from).map_err(|e| Failure::invalid(format!("{what} is not base64: {e}")))
}

impl HeadersGiven {
    fn into_headers(self) -> Result<Vec<Header>, Failure> {
        let one = |(name, value): (String, Json)| Ok(Header { name, value: from_json(value, DEPTH_MAX)? });
        match self {
            HeadersGiven::List(headers) => headers.into_iter().map(|h| one((h.name, h.value))).collect(),
            HeadersGiven::Object(headers) => headers.into_iter().map(one).collect(),
        }
    }
}

/// The opposite of [`to_json`].
pub fn from_json(value: Json, depth: usize) -> Result<Value, Failure> {
    if depth == 0 {
        return Err(Failure::invalid(format!("header values are nested more than {DEPTH_MAX} deep")));
    }
    Ok(match value {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(n) => match n.as_i64() {
            Some(i) => Value::Int(i),
            None => Value::Float(n.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::String(text),
        Json::Array(items) => {
            Value::List(items.into_iter().map(|item| from_json(item, depth - 1)).collect::<Result<_, _>>()?)
        }
        Json::Object(fields) => match tagged(&fields)? {
            Some(value) => value,
            None => {
                let header = |(name, value)| Ok(Header { name, value: from_json(value, depth - 1)? });
                Value::Map(fields.into_iter().map(header).collect::<Result<_, Failure>>()?)
            }
        },
    })
}

/// An object that stands for a value of another type.
fn tagged(fields: &Map<String, Json>) -> Result<Option<Value>, Failure> {
    let mut only = fields.iter();
    let (Some((name, value)), None) = (only.next(), only.next()) else { return Ok(None) };
    match (name.as_str(), value) {
        ("base64", Json::String(text)) => Ok(Some(Value::Bytes(from_base64("a header", text)?))),
        ("timestamp_ms", Json::Number(n)) => Ok(n.as_i64().map(|ms| Value::Timestamp(Timestamp(ms)))),
        ("decimal", Json::String(text)) => {
            let no_decimal = || Failure::invalid(format!("{text:?} is no decimal number of 18 digits"));
            decimal(text).map(Some).ok_or_else(no_decimal)
        }
        _ => Ok(None),
    }
}

fn decimal(text: &str) -> Option<Value> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{fraction}");
    let plain = digits.strip_prefix('-').unwrap_or(&digits);
    if plain.is_empty() || plain.len() > 18 || !plain.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Value::Decimal { scale: u8::try_from(fraction.len()).ok()?, unscaled: digits.parse().ok()? })
}

/// A message's headers, as exchanges look at them.
pub struct HeadersOf<'a>(pub &'a [Header]);

impl Headers for HeadersOf<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        self.0.iter().find(|h| h.name == name).map(|h| h.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(json: &str) -> Result<Message, Failure> {
        let publication: Publication =
            serde_json::from_str(json).map_err(|e| Failure::invalid(e.to_string()))?;
        publication.into_message("a.b", Timestamp(1_000), 8).map(|(_, message)| message)
    }

    #[test]
    fn what_is_published_is_shown_the_same() {
        let given = r#"{"key":"k","body_base64":"/w==","headers":[{"name":"n","value":-3},{"name":"n","value":1.5},
            {"name":"b","value":{"base64":"/w=="}},{"name":"t","value":{"timestamp_ms":7}},
            {"name":"d","value":{"decimal":"-0.05"}},{"name":"l","value":[null,true,"x"]},
            {"name":"m","value":{"base64":"AA==","more":1}}],"id":"i","correlation_id":"c","reply_to":"r",
            "content_type":"text/plain","content_encoding":"e","type":"t","user":"u","application":"a",
            "timestamp_ms":5,"priority":3}"#;
        let message = publish(given).unwrap();
        let shown = serde_json::to_value(MessageView::new(Place::Subject {}, message)).unwrap();
        let mut expect: Json = serde_json::from_str(given).unwrap();
        expect["subject"] = json!("a.b");
        assert_eq!(shown, expect);
    }

    #[test]
    fn bodies() {
        for (given, expect) in [
            (r#"{}"#, Some(&b""[..])),
            (r#"{"body":"x"}"#, Some(b"x")),
            (r#"{"body":null}"#, None),
            (r#"{"body_base64":"eA=="}"#, Some(b"x")),
        ] {
            assert_eq!(publish(given).unwrap().body.as_deref(), expect, "{given}");
        }
    }

    #[test]
    fn what_is_no_message() {
        let deep = format!(r#"{{"headers":{{"a":{}{}}}}}"#, "[".repeat(20), "]".repeat(20));
        for (given, code, names) in [
            (r#"{"body":"x","body_base64":"eA=="}"#, "invalid", "not both"),
            (r#"{"body":{"a":1}}"#, "invalid", "string"),
            (r#"{"body":"123456789"}"#, "too_large", "9 bytes"),
            (r#"{"bodi":"x"}"#, "invalid", "bodi"),
            (r#"{"key_base64":"?"}"#, "invalid", "key_base64"),
            (r#"{"headers":{"d":{"decimal":"1e5"}}}"#, "invalid", "1e5"),
            (r#"{"ttl_ms":99999999999999999}"#, "invalid", "ttl_ms"),
            (r#"{"priority":256}"#, "invalid", "256"),
            (deep.as_str(), "invalid", "deep"),
        ] {
            let failure = publish(given).unwrap_err();
            assert_eq!(failure.code, code, "{given}");
            assert!(failure.message.contains(names), "{given}: {}", failure.message);
        }
    }

    #[test]
    fn times_become_instants() {
        let message = publish(r#"{"ttl_ms":5,"delay_ms":7}"#).unwrap();
        let times = (message.timestamp, message.expires, message.due);
        assert_eq!(times, (Some(Timestamp(1_000)), Some(Timestamp(1_005)), Some(Timestamp(1_007))));
    }
}
