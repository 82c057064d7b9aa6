//! Records and messages: how a record batch is shown to readers of other protocols, and how their messages
//! are shown to consumers of Kafka.
//!
//! What Kafka has no field for travels as a header with a well-known name, in both directions.

use bytes::Bytes;
use posthaste_broker::{Codec, ConversionError, Formats, LogEntry};
use posthaste_model::{Envelope, Format, Header, Message, Payload, Subject, Timestamp, Value};

use crate::context::signed;
use crate::limits::{BUILT_BATCH_BYTES, DECOMPRESSED_BATCH_BYTES_MAX};
use crate::wire::records::{BatchBuilder, HEADER_BYTES, Record, RecordBatch, RecordData};

/// A record batch of version 2 as the producer sent it: base offset and leader epoch are set when it is
/// fetched.
pub const FORMAT: Format = Format(1);

const APPLICATION: &str = "app-id";
const CONTENT_ENCODING: &str = "content-encoding";
const CONTENT_TYPE: &str = "content-type";
const CORRELATION_ID: &str = "correlation-id";
const EXPIRATION: &str = "expiration";
const ID: &str = "message-id";
const KIND: &str = "type";
const PRIORITY: &str = "priority";
const REPLY_TO: &str = "reply-to";
const USER: &str = "user-id";

/// Shows stored record batches as messages.
pub struct RecordBatches;

impl Codec for RecordBatches {
    fn format(&self) -> Format {
        FORMAT
    }

    fn messages(
        &self,
        offset: u64,
        envelope: Option<&Envelope>,
        payload: &Payload,
    ) -> Result<Vec<(u64, Message)>, ConversionError> {
        let malformed =
            |error: crate::wire::records::RecordsError| ConversionError::Malformed(error.to_string());
        let batch = RecordBatch::split_from(&mut payload.body.clone()).map_err(malformed)?;
        // Transaction markers are no messages.
        if batch.header().attributes.is_control() {
            return Ok(Vec::new());
        }
        let subject = envelope.map_or_else(Subject::empty, |envelope| envelope.subject.clone());
        let mut messages = Vec::new();
        for record in batch.records(DECOMPRESSED_BATCH_BYTES_MAX).map_err(malformed)? {
            let record = record.map_err(malformed)?;
            let delta = u64::try_from(record.offset_delta).unwrap_or(0);
            messages.push((offset.saturating_add(delta), message(record, subject.clone())));
        }
        Ok(messages)
    }
}

/// A record as a message.
fn message(record: Record, subject: Subject) -> Message {
    let mut message = Message {
        subject,
        key: record.key,
        body: record.value,
        // Kafka's "no timestamp" is -1.
        timestamp: (record.timestamp >= 0).then_some(Timestamp(record.timestamp)),
        durable: true,
        ..Message::default()
    };
    for header in record.headers.iter() {
        let value = match header.value {
            None => Value::Null,
            Some(value) => match take_field(&mut message, &header.key, &value) {
                true => continue,
                false => text(&value).map_or(Value::Bytes(value), Value::String),
            },
        };
        message.headers.push(Header { name: header.key.to_string(), value });
    }
    message
}

/// Sets the field that a header stands for. False when it stands for none, or the field is set already, or
/// the value is nothing that the field can hold: then it stays a header.
fn take_field(message: &mut Message, name: &str, value: &Bytes) -> bool {
    if name == CORRELATION_ID {
        return set(&mut message.correlation_id, Some(value.clone()));
    }
    if name == EXPIRATION {
        let expires = text(value).and_then(|text| text.parse().ok()).map(Timestamp);
        return set(&mut message.expires, expires);
    }
    if name == PRIORITY {
        let priority = text(value).and_then(|text| text.parse().ok());
        return set(&mut message.priority, priority);
    }
    let field = match name {
        APPLICATION => &mut message.application,
        CONTENT_ENCODING => &mut message.content_encoding,
        CONTENT_TYPE => &mut message.content_type,
        ID => &mut message.id,
        KIND => &mut message.kind,
        REPLY_TO => &mut message.reply_to,
        USER => &mut message.user,
        _ => return false,
    };
    set(field, text(value))
}

fn set<T>(field: &mut Option<T>, value: Option<T>) -> bool {
    let taken = field.is_none() && value.is_some();
    if taken {
        *field = value;
    }
    taken
}

fn text(value: &[u8]) -> Option<String> {
    std::str::from_utf8(value).ok().map(str::to_owned)
}

/// The headers of a message as a record has them.
fn record_headers(message: &Message) -> Vec<(&str, Option<Bytes>)> {
    let text = |text: &Option<String>| text.as_ref().map(|text| Bytes::copy_from_slice(text.as_bytes()));
    let number = |number: i64| Bytes::from(number.to_string());
    let fields = [
        (CONTENT_TYPE, text(&message.content_type)),
        (CONTENT_ENCODING, text(&message.content_encoding)),
        (CORRELATION_ID, message.correlation_id.clone()),
        (REPLY_TO, text(&message.reply_to)),
        (ID, text(&message.id)),
        (KIND, text(&message.kind)),
        (USER, text(&message.user)),
        (APPLICATION, text(&message.application)),
        (EXPIRATION, message.expires.map(|at| number(at.0))),
        (PRIORITY, message.priority.map(|priority| number(priority.into()))),
    ];
    let mut headers: Vec<_> = fields.into_iter().filter(|(_, value)| value.is_some()).collect();
    let fields = headers.len();
    for header in &message.headers {
        if headers.iter().take(fields).any(|(name, _)| *name == header.name) {
            continue;
        }
        let value = match &header.value {
            Value::Null => None,
            Value::Bytes(bytes) => Some(bytes.clone()),
            other => other.to_text().map(Bytes::from),
        };
        headers.push((&header.name, value));
    }
    headers
}

/// The records of entries that follow each other, for a Fetch response. Stored batches are set in by
/// reference; messages of other protocols that stand next to each other become one batch.
pub struct Rendering<'a> {
    formats: &'a Formats,
    epoch: i32,
    /// The topic stamps its records itself.
    broker_timestamps: bool,
    data: RecordData,
    building: Option<BatchBuilder>,
}

impl<'a> Rendering<'a> {
    pub fn new(formats: &'a Formats, epoch: i32, broker_timestamps: bool) -> Self {
        Self { formats, epoch, broker_timestamps, data: RecordData::default(), building: None }
    }

    pub fn push(&mut self, entry: LogEntry) {
        if entry.payload.format == FORMAT && entry.payload.body.len() >= HEADER_BYTES {
            self.flush();
            self.data.push_rebased(entry.payload.body, signed(entry.offset), self.epoch);
            return;
        }
        let messages = self
            .formats
            .messages(entry.offset, entry.envelope.as_ref(), &entry.payload)
            .unwrap_or_else(|error| {
                // Offsets without a record are allowed; a consumer passes over them.
                tracing::warn!(offset = entry.offset, %error, "a stored message is shown to no consumer");
                Vec::new()
            });
        for (offset, message) in messages {
            self.push_message(signed(offset), entry.timestamp, &message);
        }
        let last = entry.offset.saturating_add(u64::from(entry.span)).saturating_sub(1);
        self.builder(signed(entry.offset)).extend_to(signed(last));
        if self.building.as_ref().is_some_and(|building| building.len() >= BUILT_BATCH_BYTES) {
            self.flush();
        }
    }

    /// Offsets up to `to` that have no records any more: a batch without records takes a consumer past them.
    pub fn pass(&mut self, from: u64, to: u64) {
        self.flush();
        self.builder(signed(from)).extend_to(signed(to.saturating_sub(1)));
        self.flush();
    }

    fn push_message(&mut self, offset: i64, stored: Timestamp, message: &Message) {
        let timestamp = match message.timestamp {
            Some(timestamp) if !self.broker_timestamps => timestamp,
            _ => stored,
        };
        let headers = record_headers(message);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_deref())).collect();
        let (key, value) = (message.key.as_deref(), message.body.as_deref());
        for _ in 0..2 {
            if self.builder(offset).push(offset, timestamp.0, key, value, &headers) {
                return;
            }
            self.flush();
        }
        tracing::warn!(offset, "a stored message is too large for a record");
    }

    fn builder(&mut self, base_offset: i64) -> &mut BatchBuilder {
        self.building.get_or_insert_with(|| BatchBuilder::new(base_offset, self.epoch))
    }

    fn flush(&mut self) {
        if let Some(building) = self.building.take() {
            self.data.push(building.finish());
        }
    }

    pub fn finish(mut self) -> RecordData {
        self.flush();
        self.data
    }
}

/// The first record at or after a time in a stored entry, as offset and timestamp; `from` is the least
/// offset.
pub fn first_record_at(entry: &LogEntry, from: u64, at: Timestamp) -> Option<(u64, Timestamp)> {
    if entry.payload.format != FORMAT {
        return (entry.offset >= from && entry.timestamp >= at).then_some((entry.offset, entry.timestamp));
    }
    let batch = RecordBatch::split_from(&mut entry.payload.body.clone()).ok()?;
    for record in batch.records(DECOMPRESSED_BATCH_BYTES_MAX).ok()? {
        let record = record.ok()?;
        let offset = entry.offset.saturating_add(u64::try_from(record.offset_delta).unwrap_or(0));
        if offset >= from && record.timestamp >= at.0 {
            return Some((offset, Timestamp(record.timestamp)));
        }
    }
    None
}

#[cfg(test)]
mod tests;
