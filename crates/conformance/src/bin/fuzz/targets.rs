//! The decoders and the sessions, each with the memory that it may use.

use posthaste_storage::fuzz as stored;

use crate::mutate::Repair;

/// One decoder, or the sessions of one protocol.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Memory held at once, whatever the input.
    pub base_bytes_max: usize,
    /// And for each byte of input.
    pub bytes_per_input_byte_max: usize,
    /// Makes a mutated input pass a checksum, so that what lies behind it is reached.
    pub repair: Option<Repair>,
}

const MEBIBYTE: usize = 1 << 20;

/// Largest factor between a value on the wire and the same value decoded (an empty string in an array).
const DECODED_BYTES_PER_BYTE: usize = 64;

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target {
        name,
        run,
        base_bytes_max: 8 * MEBIBYTE,
        bytes_per_input_byte_max: DECODED_BYTES_PER_BYTE,
        repair: None,
    }
}

/// A whole broker and its disk are held, twice when the journal is replayed.
const fn session(name: &'static str, run: fn(&[u8])) -> Target {
    Target { base_bytes_max: 64 * MEBIBYTE, bytes_per_input_byte_max: 4096, ..target(name, run) }
}

pub const TARGETS: [Target; 10] = [
    Target { repair: Some(checksum_of_batch), ..target("kafka", posthaste_kafka::wire::fuzz_decode) },
    target("amqp", posthaste_amqp::wire::fuzz_decode),
    target("mqtt", posthaste_mqtt::wire::fuzz_decode),
    Target {
        repair: Some(stored::repair_journal),
        ..target("journal", |bytes| {
            stored::journal_file(bytes);
        })
    },
    Target {
        repair: Some(|bytes| stored::repair_segment(1, bytes)),
        ..target("segment", |bytes| {
            stored::segment_file(1, bytes);
        })
    },
    Target {
        repair: Some(|bytes| stored::repair_checkpoint(1, bytes)),
        ..target("checkpoint", |bytes| {
            stored::checkpoint_file(1, bytes);
        })
    },
    Target {
        repair: Some(stored::repair_manifest),
        ..target("manifest", |bytes| {
            stored::manifest(bytes);
        })
    },
    session("amqp-session", posthaste_sim::session::fuzz_amqp),
    session("kafka-session", posthaste_sim::session::fuzz_kafka),
    session("mqtt-session", posthaste_sim::session::fuzz_mqtt),
];

/// A record batch follows the two bytes that choose an API; its CRC32C covers everything behind itself.
fn checksum_of_batch(input: &mut [u8]) {
    const BATCH: usize = 2;
    const MAGIC: usize = BATCH + 16;
    const CRC: usize = BATCH + 17;
    const COVERED: usize = BATCH + 21;
    if input.len() > COVERED && input[MAGIC] == 2 {
        // The length of the batch says where it ends; a wrong one is left wrong.
        let length =
            u32::from_be_bytes([input[BATCH + 8], input[BATCH + 9], input[BATCH + 10], input[BATCH + 11]]);
        let end = usize::try_from(length).map_or(usize::MAX, |length| length.saturating_add(BATCH + 12));
        if end >= COVERED && end <= input.len() {
            let checksum = crc32c::crc32c(&input[COVERED..end]);
            input[CRC..COVERED].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}
