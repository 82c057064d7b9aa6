//! Conversions: every stored format can be shown as [`Message`]s, and that is how foreign readers see it.

use bytes::Bytes;
use posthaste_model::{Envelope, Format, Message, Payload};
use std::sync::Arc;

/// How one stored format is understood. Each adapter registers its own.
pub trait Codec: Send + Sync {
    fn format(&self) -> Format;

    /// The messages of a payload that was stored at `offset`, each with its own offset: one for most formats,
    /// any number for a batch. The envelope says what routing knew; a batch has none.
    fn messages(
        &self,
        offset: u64,
        envelope: Option<&Envelope>,
        payload: &Payload,
    ) -> Result<Vec<(u64, Message)>, ConversionError>;
}

/// A payload that cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    #[error("the stored message is malformed: {0}")]
    Malformed(String),
    #[error("no adapter understands stored format {0}")]
    UnknownFormat(u8),
}

/// The registered formats.
#[derive(Clone)]
pub struct Formats {
    codecs: Arc<Vec<Option<Arc<dyn Codec>>>>,
}

impl Formats {
    /// The core's own format and those of the adapters.
    pub fn new(codecs: impl IntoIterator<Item = Arc<dyn Codec>>) -> Formats {
        let mut table: Vec<Option<Arc<dyn Codec>>> = vec![None; 256];
        let core: Arc<dyn Codec> = Arc::new(CoreCodec);
        for codec in std::iter::once(core).chain(codecs) {
            let slot = usize::from(codec.format().0);
            if let Some(slot) = table.get_mut(slot) {
                *slot = Some(codec);
            }
        }
        Formats { codecs: Arc::new(table) }
    }

    /// The messages of a payload; see [`Codec::messages`].
    pub fn messages(
        &self,
        offset: u64,
        envelope: Option<&Envelope>,
        payload: &Payload,
    ) -> Result<Vec<(u64, Message)>, ConversionError> {
        match self.codecs.get(usize::from(payload.format.0)) {
            Some(Some(codec)) => codec.messages(offset, envelope, payload),
            _ => Err(ConversionError::UnknownFormat(payload.format.0)),
        }
    }

    /// The one message of a payload that is no batch.
    pub fn message(&self, envelope: &Envelope, payload: &Payload) -> Result<Message, ConversionError> {
        let messages = self.messages(0, Some(envelope), payload)?;
        let first = messages.into_iter().next().map(|(_, message)| message);
        first.ok_or_else(|| ConversionError::Malformed("an empty batch".to_owned()))
    }
}

/// [`Format::MESSAGE`]: the message without subject and body as the head, the body as the body.
struct CoreCodec;

impl Codec for CoreCodec {
    fn format(&self) -> Format {
        Format::MESSAGE
    }

    fn messages(
        &self,
        offset: u64,
        envelope: Option<&Envelope>,
        payload: &Payload,
    ) -> Result<Vec<(u64, Message)>, ConversionError> {
        let mut message: Message =
            postcard::from_bytes(&payload.head).map_err(|e| ConversionError::Malformed(e.to_string()))?;
        // An encoded body, empty, marks that there is one.
        message.body = message.body.map(|_| payload.body.clone());
        if let Some(envelope) = envelope {
            message.subject = envelope.subject.clone();
            message.expires = message.expires.or(envelope.expires);
        }
        Ok(vec![(offset, message)])
    }
}

/// A message in the core's own format.
pub fn encode_message(mut message: Message) -> Payload {
    let body = match &mut message.body {
        Some(body) => std::mem::take(body),
        None => Bytes::new(),
    };
    let head = postcard::to_allocvec(&message).unwrap_or_default();
    Payload { format: Format::MESSAGE, head: head.into(), body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_model::{Header, Subject, Timestamp, Value};

    #[test]
    fn the_core_format_keeps_everything() {
        let formats = Formats::new([]);
        let subject = Subject::dotted("a.b").unwrap();
        for body in [None, Some(Bytes::new()), Some(Bytes::from_static(b"x"))] {
            let message = Message {
                subject: subject.clone(),
                key: Some(Bytes::from_static(b"k")),
                body,
                headers: vec![Header { name: "h".into(), value: Value::Decimal { scale: 2, unscaled: -7 } }],
                timestamp: Some(Timestamp(5)),
                correlation_id: Some(Bytes::from_static(b"\xff")),
                ..Message::default()
            };
            let payload = encode_message(message.clone());
            let envelope = Envelope::new(subject.clone(), Timestamp(9));
            assert_eq!(formats.message(&envelope, &payload), Ok(message));
        }
        let broken = Payload { format: Format(77), head: Bytes::new(), body: Bytes::new() };
        assert_eq!(formats.messages(0, None, &broken), Err(ConversionError::UnknownFormat(77)));
    }
}
