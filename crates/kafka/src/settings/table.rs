//! Every setting of topics: those of Kafka 4.1, and our own.

use std::ops::RangeInclusive;

use super::Kind::{self, Boolean, Choice, Int, List, Long, Ratio};
use super::Setting;
use super::Treatment::{self, Fixed, Honoured, Kept};

/// Kafka's spelling of "no limit" for 64-bit settings.
pub const UNLIMITED: &str = "9223372036854775807";
const ANY_LONG: RangeInclusive<i64> = i64::MIN..=i64::MAX;
const NOT_NEGATIVE: RangeInclusive<i64> = 0..=i64::MAX;
const NOT_NEGATIVE_INT: RangeInclusive<i64> = 0..=i32::MAX as i64;
const POSITIVE: RangeInclusive<i64> = 1..=i64::MAX;

pub const CAPTURE: &str = "posthaste.capture";
pub const CLEANUP_POLICY: &str = "cleanup.policy";
pub const DURABILITY: &str = "posthaste.durability";
pub const FLUSH_MESSAGES: &str = "flush.messages";
pub const FLUSH_MS: &str = "flush.ms";
pub const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
pub const RETENTION_BYTES: &str = "retention.bytes";
pub const RETENTION_TIME: &str = "retention.ms";
pub const TIMESTAMP_AFTER_MAX: &str = "message.timestamp.after.max.ms";
pub const TIMESTAMP_BEFORE_MAX: &str = "message.timestamp.before.max.ms";
pub const TIMESTAMP_TYPE: &str = "message.timestamp.type";

const fn setting(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    synonym: Option<&'static str>,
    treatment: Treatment,
    documentation: &'static str,
) -> Setting {
    Setting { name, kind, default, synonym, treatment, documentation }
}

/// Every setting of topics, by name.
pub const SETTINGS: &[Setting] = &[
    setting(
        CLEANUP_POLICY,
        List,
        "delete",
        Some("log.cleanup.policy"),
        Honoured,
        "'delete' drops old records by retention; with 'compact' alone nothing is dropped.",
    ),
    setting(
        "compression.gzip.level",
        Int(-1..=9),
        "-1",
        Some("compression.gzip.level"),
        Kept,
        "No effect: batches are kept as the producer compressed them.",
    ),
    setting(
        "compression.lz4.level",
        Int(1..=17),
        "9",
        Some("compression.lz4.level"),
        Kept,
        "No effect: batches are kept as the producer compressed them.",
    ),
    setting(
        "compression.type",
        Choice(&["producer"]),
        "producer",
        Some("compression.type"),
        Fixed,
        "Batches are kept as the producer compressed them.",
    ),
    setting(
        "compression.zstd.level",
        Int(-131_072..=22),
        "3",
        Some("compression.zstd.level"),
        Kept,
        "No effect: batches are kept as the producer compressed them.",
    ),
    setting(
        "delete.retention.ms",
        Long(NOT_NEGATIVE),
        "86400000",
        Some("log.cleaner.delete.retention.ms"),
        Kept,
        "No effect: tombstones are kept.",
    ),
    setting(
        "file.delete.delay.ms",
        Long(NOT_NEGATIVE),
        "60000",
        Some("log.segment.delete.delay.ms"),
        Kept,
        "No effect.",
    ),
    setting(
        FLUSH_MESSAGES,
        Long(POSITIVE),
        "1",
        Some("log.flush.interval.messages"),
        Honoured,
        "Every batch is flushed before its acknowledgement, unless posthaste.durability is 'os'.",
    ),
    setting(
        FLUSH_MS,
        Long(NOT_NEGATIVE),
        "0",
        Some("log.flush.interval.ms"),
        Honoured,
        "Every batch is flushed before its acknowledgement, unless posthaste.durability is 'os'.",
    ),
    setting(
        "follower.replication.throttled.replicas",
        List,
        "",
        None,
        Kept,
        "No effect: there are no followers.",
    ),
    setting(
        "index.interval.bytes",
        Int(NOT_NEGATIVE_INT),
        "4096",
        Some("log.index.interval.bytes"),
        Kept,
        "No effect.",
    ),
    setting(
        "leader.replication.throttled.replicas",
        List,
        "",
        None,
        Kept,
        "No effect: there are no followers.",
    ),
    setting(
        "local.retention.bytes",
        Long(ANY_LONG),
        "-2",
        Some("log.local.retention.bytes"),
        Fixed,
        "There is no tiered storage.",
    ),
    setting(
        "local.retention.ms",
        Long(ANY_LONG),
        "-2",
        Some("log.local.retention.ms"),
        Fixed,
        "There is no tiered storage.",
    ),
    setting(
        "max.compaction.lag.ms",
        Long(POSITIVE),
        UNLIMITED,
        Some("log.cleaner.max.compaction.lag.ms"),
        Kept,
        "No effect: topics are not compacted.",
    ),
    setting(
        MAX_MESSAGE_BYTES,
        Int(NOT_NEGATIVE_INT),
        "",
        Some("message.max.bytes"),
        Honoured,
        "The largest record batch, in bytes.",
    ),
    setting(
        TIMESTAMP_AFTER_MAX,
        Long(NOT_NEGATIVE),
        "3600000",
        Some("log.message.timestamp.after.max.ms"),
        Honoured,
        "How far in the future a record's timestamp may be, in milliseconds.",
    ),
    setting(
        TIMESTAMP_BEFORE_MAX,
        Long(NOT_NEGATIVE),
        UNLIMITED,
        Some("log.message.timestamp.before.max.ms"),
        Honoured,
        "How far in the past a record's timestamp may be, in milliseconds.",
    ),
    setting(
        TIMESTAMP_TYPE,
        Choice(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        Some("log.message.timestamp.type"),
        Honoured,
        "Whether records carry the producer's time or the broker's.",
    ),
    setting(
        "min.cleanable.dirty.ratio",
        Ratio,
        "0.5",
        Some("log.cleaner.min.cleanable.ratio"),
        Kept,
        "No effect: topics are not compacted.",
    ),
    setting(
        "min.compaction.lag.ms",
        Long(NOT_NEGATIVE),
        "0",
        Some("log.cleaner.min.compaction.lag.ms"),
        Kept,
        "No effect: topics are not compacted.",
    ),
    setting(
        "min.insync.replicas",
        Int(1..=i32::MAX as i64),
        "1",
        Some("min.insync.replicas"),
        Fixed,
        "There is one replica; it is in sync.",
    ),
    setting(
        CAPTURE,
        List,
        "",
        None,
        Honoured,
        "Patterns of subjects whose messages on the bus the topic takes: orders.*.created,sensors.#",
    ),
    setting(
        DURABILITY,
        Choice(&["fsync", "os"]),
        "fsync",
        None,
        Honoured,
        "A batch is acknowledged once the disk ('fsync') or the operating system ('os') has it.",
    ),
    setting("preallocate", Boolean, "false", Some("log.preallocate"), Kept, "No effect."),
    setting("remote.log.copy.disable", Boolean, "false", None, Fixed, "There is no tiered storage."),
    setting("remote.log.delete.on.disable", Boolean, "false", None, Fixed, "There is no tiered storage."),
    setting("remote.storage.enable", Boolean, "false", None, Fixed, "There is no tiered storage."),
    setting(
        RETENTION_BYTES,
        Long(-1..=i64::MAX),
        "-1",
        Some("log.retention.bytes"),
        Honoured,
        "How many bytes of records each partition keeps; -1 for any number.",
    ),
    setting(
        RETENTION_TIME,
        Long(-1..=i64::MAX),
        "604800000",
        Some("log.retention.ms"),
        Honoured,
        "How long records are kept, in milliseconds; -1 for ever.",
    ),
    setting(
        "segment.bytes",
        Int(14..=i32::MAX as i64),
        "1073741824",
        Some("log.segment.bytes"),
        Kept,
        "No effect.",
    ),
    setting(
        "segment.index.bytes",
        Int(4..=i32::MAX as i64),
        "10485760",
        Some("log.index.size.max.bytes"),
        Kept,
        "No effect.",
    ),
    setting("segment.jitter.ms", Long(NOT_NEGATIVE), "0", Some("log.roll.jitter.ms"), Kept, "No effect."),
    setting("segment.ms", Long(POSITIVE), "604800000", Some("log.roll.ms"), Kept, "No effect."),
    setting(
        "unclean.leader.election.enable",
        Boolean,
        "false",
        Some("unclean.leader.election.enable"),
        Kept,
        "No effect: there is one replica.",
    ),
];
