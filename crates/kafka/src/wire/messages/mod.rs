//! Requests and responses, one module for each API, with the names of Kafka's own message definitions.
//!
//! One structure serves all versions of a message. A field that a version does not have is left at its
//! default when decoding, and not written when encoding.

pub mod alter_configs;
pub mod api_versions;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_topic_partitions;
pub mod fetch;
pub mod find_coordinator;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sasl_authenticate;
pub mod sasl_handshake;
pub mod sync_group;

use bytestring::ByteString;

use super::schema::schema;

schema! {
    /// Who leads a partition now, in answers that send a client elsewhere (KIP-951).
    LeaderIdAndEpoch {
        leader_id: [0+] i32 = -1,
        leader_epoch: [0+] i32 = -1,
    }

    /// Where a broker is reached.
    NodeEndpoint {
        node_id: [0+] i32,
        host: [0+] ByteString,
        port: [0+] i32,
        rack: [0+] Option<ByteString>,
    }
}
