//! Every limit of the codec, in one place. What the operator may configure (frame size, batch size) is passed
//! in by the caller; these are the fixed ones.

/// Most elements one array may announce (Kafka 4.4 draws the same line).
pub const MAX_ARRAY_ELEMENTS: usize = 1_000_000;

/// Most tagged fields one structure may announce (Kafka 4.4 draws the same line).
pub const MAX_TAGGED_FIELDS: u32 = 10_000;

/// Memory that the arrays of one decoded message may take, in bytes per byte received. Tiny elements (an
/// empty string is one byte on the wire) grow when decoded; this keeps a frame from growing without bound.
/// Real requests stay below 8.
pub const ARRAY_MEMORY_PER_WIRE_BYTE: usize = 16;

/// Memory that the arrays of any message may take, in bytes, however short it is.
pub const ARRAY_MEMORY_FLOOR_BYTES: usize = 64 * 1024;

/// Byte strings shorter than this are copied into the response buffer: one more piece of a vectored write
/// costs more than the copy.
pub const COPY_BELOW_BYTES: usize = 1024;

/// Largest zstd window accepted, in bytes: what level 22, the highest that Kafka lets a producer choose,
/// needs. It is only claimed as data really fills it.
pub const MAX_ZSTD_WINDOW_BYTES: u64 = 128 * 1024 * 1024;

/// How many times its compressed size a snappy block may claim to be. The densest encoding is 64 bytes for
/// three.
pub const MAX_SNAPPY_RATIO: usize = 24;
