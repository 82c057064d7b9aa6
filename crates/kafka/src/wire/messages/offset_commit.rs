//! OffsetCommit: stores how far a group has read.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    OffsetCommitRequest {
        group_id: [0+] ByteString,
        generation_id_or_member_epoch: [1+] i32 = -1,
        member_id: [1+] ByteString,
        group_instance_id: [7+] Option<ByteString>,
        /// How long to keep the offsets, in milliseconds; -1 for the broker's choice.
        retention_time_ms: [2-4] i64 = -1,
        topics: [0+] Vec<OffsetCommitRequestTopic>,
    }

    OffsetCommitRequestTopic {
        name: [0+] ByteString,
        partitions: [0+] Vec<OffsetCommitRequestPartition>,
    }

    OffsetCommitRequestPartition {
        partition_index: [0+] i32,
        committed_offset: [0+] i64,
        committed_leader_epoch: [6+] i32 = -1,
        committed_metadata: [0+] Option<ByteString>,
    }

    OffsetCommitResponse {
        throttle_time_ms: [3+] i32,
        topics: [0+] Vec<OffsetCommitResponseTopic>,
    }

    OffsetCommitResponseTopic {
        name: [0+] ByteString,
        partitions: [0+] Vec<OffsetCommitResponsePartition>,
    }

    OffsetCommitResponsePartition {
        partition_index: [0+] i32,
        error_code: [0+] ErrorCode,
    }
}
