//! PUBLISH packets at QoS 0, encoded once for all connections that get the same.

use std::sync::OnceLock;

use bytes::Bytes;
use posthaste_broker::{Formats, LiveBatch};
use posthaste_net::Output;

use crate::convert;
use crate::wire::{ProtocolVersion, Publish};

/// What the readers of a batch share: its packets, by protocol version.
#[derive(Default)]
pub(crate) struct Encodings {
    /// Versions 3.1 and 3.1.1 have the same PUBLISH.
    v3: OnceLock<Option<Encoded>>,
    v5: OnceLock<Option<Encoded>>,
}

/// The packets of a batch, with QoS 0 and no retain flag, subscription identifier or topic alias.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Large payloads are where they were received.
    chunks: Box<[Bytes]>,
    largest_bytes: u32,
    retained: bool,
}

impl Encodings {
    /// `None` if a message is not the same to everyone at any time: because it expires, was put into one
    /// session's queue, or cannot be shown.
    pub fn encoded(
        &self,
        version: ProtocolVersion,
        formats: &Formats,
        batch: &LiveBatch,
    ) -> Option<&Encoded> {
        let slot = match version {
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => &self.v3,
            ProtocolVersion::V5 => &self.v5,
        };
        slot.get_or_init(|| encode(version, formats, batch)).as_ref()
    }
}

impl Encoded {
    pub fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        self.chunks.iter()
    }

    /// The size of the largest packet.
    pub fn largest_bytes(&self) -> u32 {
        self.largest_bytes
    }

    /// Whether a message was published with the retain flag, which the packets do not have.
    pub fn retained(&self) -> bool {
        self.retained
    }
}

/// Fixed header, lengths and properties of a packet without much, in bytes.
const HEAD_BYTES: usize = 16;

fn encode(version: ProtocolVersion, formats: &Formats, batch: &LiveBatch) -> Option<Encoded> {
    let mut out = Output::new();
    let (mut largest_bytes, mut retained) = (0, false);
    let small = |bytes: usize| bytes <= Output::COPIED_BYTES;
    let copied = batch.messages().iter().filter(|message| small(message.payload.body.len()));
    out.bytes().reserve(copied.map(|message| message.bytes() + HEAD_BYTES).sum());
    for message in batch.messages() {
        let (envelope, payload) = (&message.envelope, &message.payload);
        if envelope.expires.is_some() {
            return None;
        }
        let outgoing = convert::outgoing(formats, envelope, payload, version, envelope.received).ok()?;
        if outgoing.directed.is_some() {
            return None;
        }
        retained |= outgoing.retain;
        let publish: Publish = outgoing.publish;
        largest_bytes = largest_bytes.max(publish.encoded_len(version).ok()?);
        publish.encode_head(version, out.bytes()).ok()?;
        out.chunk(publish.payload);
    }
    Some(Encoded { chunks: out.into_chunks().collect(), largest_bytes, retained })
}
