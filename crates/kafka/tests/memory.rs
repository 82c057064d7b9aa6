//! What a peer's bytes may cost in memory, measured at the allocator.

// A global allocator cannot be written without it.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use posthaste_kafka::wire::limits::{ARRAY_MEMORY_FLOOR_BYTES, ARRAY_MEMORY_PER_WIRE_BYTE};
use posthaste_kafka::wire::messages::{create_topics, fetch, leave_group, metadata, offset_fetch, produce};
use posthaste_kafka::wire::records::{Compression, RecordsError};
use posthaste_kafka::wire::{Reader, RequestBody, fuzz_decode};

/// Counts what this thread has allocated and not yet freed, and the most that was.
struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.get().wrapping_add(layout.size());
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes that were allocated at one time during `work`, beyond what was before it.
fn peak_of<R>(work: impl FnOnce() -> R) -> (R, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    (result, PEAK.get() - before)
}

fn check_body<M: RequestBody>(body: &[u8]) {
    let range = M::API.range();
    let allowed = body.len() * ARRAY_MEMORY_PER_WIRE_BYTE + ARRAY_MEMORY_FLOOR_BYTES + 1024;
    let body = Bytes::copy_from_slice(body);
    for version in range.min_version..=range.max_version {
        let decode = || drop(M::decode(&mut Reader::new(body.clone(), version, range.is_flexible(version))));
        let (_, peak) = peak_of(decode);
        assert!(peak <= allowed, "{} v{version}: {peak} bytes for {}", M::API.name(), body.len());
    }
}

fn check_all(body: &[u8]) {
    check_body::<produce::ProduceRequest>(body);
    check_body::<fetch::FetchRequest>(body);
    check_body::<metadata::MetadataRequest>(body);
    check_body::<offset_fetch::OffsetFetchRequest>(body);
    check_body::<leave_group::LeaveGroupRequest>(body);
    check_body::<create_topics::CreateTopicsRequest>(body);
}

#[test]
fn announced_lengths_cost_nothing() {
    for announced in
        [&[0x7f, 0xff, 0xff, 0xff][..], &[0xff, 0xff, 0xff, 0xff, 0x07], &[0x00, 0x0f, 0x42, 0x40]]
    {
        for lead in 0..40 {
            check_all(&[&vec![0; lead], announced].concat());
        }
    }
}

#[test]
fn dense_messages_cost_a_fixed_multiple_of_their_length() {
    for filler in [0u8, 1, 2, 3] {
        for count in [&[0x00, 0x01, 0x86, 0xa0][..], &[0xa1, 0x8d, 0x06]] {
            for lead in 0..24 {
                check_all(&[&vec![0; lead], count, &vec![filler; 300_000]].concat());
            }
        }
    }
}

#[test]
fn arbitrary_bytes_cost_little() {
    let mut state = 1u64;
    for _ in 0..20_000 {
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let data: Vec<u8> =
            (0..random() % 200).map(|_| [0, 1, 2, 0x7f, 0xff, random() as u8][random() % 6]).collect();
        let ((), peak) = peak_of(|| fuzz_decode(&data));
        assert!(peak < 256 * 1024, "{peak} bytes for {data:x?}");
    }
}

/// A small batch may claim to hold much: what is kept while finding out is bounded by the limit.
#[test]
fn compression_bombs_stop_at_the_limit() {
    use kafka_protocol::compression::{Compressor, Gzip, Lz4, Snappy, Zstd};

    const BOMB_BYTES: usize = 64 << 20;
    const LIMIT_BYTES: usize = 1 << 20;
    fn bomb<C: Compressor<bytes::BytesMut, BufMut = bytes::BytesMut>>() -> Bytes {
        let mut compressed = bytes::BytesMut::new();
        C::compress(&mut compressed, |plain| {
            plain.resize(BOMB_BYTES, 0);
            Ok(())
        })
        .unwrap();
        compressed.freeze()
    }
    for (codec, bytes) in [
        (Compression::Gzip, bomb::<Gzip>()),
        (Compression::Snappy, bomb::<Snappy>()),
        (Compression::Lz4, bomb::<Lz4>()),
        (Compression::Zstd, bomb::<Zstd>()),
    ] {
        let (result, peak) = peak_of(|| codec.decompress(bytes, LIMIT_BYTES));
        assert_eq!(result, Err(RecordsError::DecompressedTooLarge { limit: LIMIT_BYTES }), "{codec:?}");
        // Twice for a vector that grows, 12 MiB for the largest LZ4 blocks.
        assert!(peak < 2 * LIMIT_BYTES + (13 << 20), "{codec:?}: {peak} bytes");
    }
}
