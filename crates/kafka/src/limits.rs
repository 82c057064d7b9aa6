//! What the adapter allows itself and its clients, beyond the broker's own limits. The codec's are in
//! [`crate::wire::limits`].

use std::time::Duration;

/// Largest request, in bytes: Kafka's `socket.request.max.bytes`. Memory is only taken as bytes arrive.
pub const REQUEST_BYTES_MAX: usize = 100 << 20;

/// Largest request of a client that is not let in yet, in bytes: Kafka's `sasl.server.max.receive.size`.
pub const STRANGERS_REQUEST_BYTES_MAX: usize = 512 << 10;

/// Requests of one connection that wait for their turn before nothing more is read.
pub const WAITING_REQUESTS_MAX: usize = 256;

/// Bytes of requests of one connection that wait for their turn before nothing more is read.
pub const WAITING_BYTES_MAX: usize = 4 << 20;

/// Most bytes of records in one Fetch response, whatever the client allows. One batch may exceed it.
pub const FETCH_BYTES_MAX: usize = 16 << 20;

/// Bytes after which messages of other protocols go into another batch.
pub const BUILT_BATCH_BYTES: usize = 1 << 20;

/// Most bytes that one batch may decompress to. A producer's batch beyond it is refused, so that what is
/// stored can be shown to every reader.
pub const DECOMPRESSED_BATCH_BYTES_MAX: usize = 128 << 20;

/// Batches that decompress to more are checked off the threads that serve connections, in bytes.
pub const DECOMPRESSED_AT_ONCE_BYTES: usize = 1 << 20;

/// A batch may decompress to so many bytes whatever its size...
pub const DECOMPRESSED_RATIO_FREE_BYTES: usize = 16 << 20;

/// ...and to more only if that is no more than so many for each of its own.
pub const DECOMPRESSED_RATIO_MAX: usize = 1024;

/// Longest note of a consumer with a committed offset, in bytes: Kafka's `offset.metadata.max.bytes`.
pub const OFFSET_METADATA_BYTES_MAX: usize = 4096;

/// Most partitions in one DescribeTopicPartitions response (KIP-966).
pub const DESCRIBED_PARTITIONS_MAX: i32 = 2000;

/// A connection without requests is closed after this: Kafka's `connections.max.idle.ms`.
pub const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(600);
