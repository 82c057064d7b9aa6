//! Every limit of the broker, with its unit, in one place.

use serde::{Deserialize, Serialize};

/// Limits that hold for a whole broker. All can be set in the configuration file, section `[limits]`, by
/// these names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest message or batch, in bytes. A bigger one is refused with the protocol's error. Default 16
    /// MiB.
    pub message_bytes_max: usize,
    /// Connections over all listeners. Further ones are closed at once. Default 20,000.
    pub connections_max: usize,
    /// Bytes waiting to be written to one connection before nothing more is read from it. Default 4 MiB.
    pub connection_output_bytes_max: usize,
    /// A connection whose peer takes nothing for this long while output waits is closed, in milliseconds.
    /// Default 60 s.
    pub slow_reader_ms_max: u64,
    /// A connection that has not finished its protocol's handshake by then is closed, in milliseconds.
    /// Default 10 s.
    pub handshake_ms_max: u64,
    /// Publishes of one connection that wait for the disk before nothing more is read from it. Default 64 Ki.
    pub publishes_in_flight_max: usize,
    /// Bytes of publishes of one connection that wait for the disk, likewise. Default 32 MiB.
    pub publish_bytes_in_flight_max: usize,
    /// Bytes of commands that wait for one engine thread before publishers are held back. Default 128 MiB.
    pub inbox_bytes_max: usize,
    /// Deliveries to one consumer that are not settled yet, where the consumer names no limit. Default 2,000.
    pub unsettled_per_consumer_max: u32,
    /// Memory for messages that ask for no durability, over all queues, in bytes. Default 256 MiB.
    pub transient_bytes_max: u64,
    /// Messages without durability in one queue, in bytes. Default 64 MiB.
    pub transient_bytes_per_queue_max: u64,
    /// Retained messages in one namespace. Default 1,000,000.
    pub retained_messages_max: usize,
    /// Bytes of retained messages in one namespace. Default 256 MiB.
    pub retained_bytes_max: usize,
    /// Messages that one shard took under an identifier of the publisher's (MQTT QoS 2) and that have not
    /// reached all their queues and topics, because these are full, in bytes. Further ones are refused.
    /// Default 64 MiB.
    pub outbox_bytes_max: u64,
    /// Topics, queues and exchanges in one namespace, each. Default 200,000.
    pub names_per_namespace_max: usize,
    /// Partitions of one topic. Default 10,000.
    pub partitions_per_topic_max: u32,
    /// Priorities of one queue. Default 255.
    pub priorities_per_queue_max: u8,
    /// Bindings of one namespace. Default 1,000,000.
    pub bindings_max: usize,
    /// Members of one consumer group. Default 10,000.
    pub group_members_max: usize,
    /// Bytes of one group member's metadata or assignment. Default 1 MiB.
    pub group_metadata_bytes_max: usize,
    /// Journal bytes after which a checkpoint is made. Default 256 MiB.
    pub journal_bytes_between_checkpoints: u64,
    /// Messages and batches of on average at least so many bytes stay in the journal's files, as long as half
    /// of a file is wanted, in place of being copied into segments by checkpoints. Default 64 KiB.
    pub kept_entry_bytes_min: u64,
    /// Size of the journal's files. At least 16 KiB. Default 64 MiB.
    pub journal_file_bytes: u64,
    /// Memory for recently written messages, from which readers that keep up are served, in bytes. Default 32
    /// MiB.
    pub recent_bytes_max: usize,
    /// Journal bytes kept back for settlements, deletes and checkpoints when the disk is full. Default 8 MiB.
    pub reserve_bytes: u64,
    /// Idempotent producers remembered in one partition. Default 10,000.
    pub producers_per_partition_max: usize,
    /// Size of the audit trail, in bytes; older events go. 0: none is kept. Default 64 MiB.
    pub audit_bytes_max: u64,
    /// Times a message is dead-lettered before it is dropped instead, so that a circle of queues ends.
    /// Default 16.
    pub deaths_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        Limits {
            message_bytes_max: 16 * MIB,
            connections_max: 20_000,
            connection_output_bytes_max: 4 * MIB,
            slow_reader_ms_max: 60_000,
            handshake_ms_max: 10_000,
            publishes_in_flight_max: 64 * KIB,
            publish_bytes_in_flight_max: 32 * MIB,
            inbox_bytes_max: 128 * MIB,
            unsettled_per_consumer_max: 2_000,
            transient_bytes_max: 256 * MIB as u64,
            transient_bytes_per_queue_max: 64 * MIB as u64,
            retained_messages_max: 1_000_000,
            retained_bytes_max: 256 * MIB,
            outbox_bytes_max: 64 * MIB as u64,
            names_per_namespace_max: 200_000,
            partitions_per_topic_max: 10_000,
            priorities_per_queue_max: 255,
            bindings_max: 1_000_000,
            group_members_max: 10_000,
            group_metadata_bytes_max: MIB,
            journal_bytes_between_checkpoints: 256 * MIB as u64,
            kept_entry_bytes_min: 64 * KIB as u64,
            journal_file_bytes: 64 * MIB as u64,
            recent_bytes_max: 32 * MIB,
            reserve_bytes: 8 * MIB as u64,
            producers_per_partition_max: 10_000,
            audit_bytes_max: 64 * MIB as u64,
            deaths_max: 16,
        }
    }
}
