//! ListOffsets: finds offsets by time or position.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    ListOffsetsRequest {
        /// -1 for a consumer.
        replica_id: [0+] i32 = -1,
        /// 1 finds nothing beyond the last stable offset.
        isolation_level: [2+] i8,
        topics: [0+] Vec<ListOffsetsTopic>,
        /// How long to wait for tiered storage, in milliseconds.
        timeout_ms: [10+] i32,
    }

    ListOffsetsTopic {
        name: [0+] ByteString,
        partitions: [0+] Vec<ListOffsetsPartition>,
    }

    ListOffsetsPartition {
        partition_index: [0+] i32,
        current_leader_epoch: [4+] i32 = -1,
        /// Milliseconds since 1970, or -1 latest, -2 earliest, -3 largest timestamp (7+), -4 earliest local
        /// (8+), -5 latest tiered (9+).
        timestamp: [0+] i64,
    }

    ListOffsetsResponse {
        throttle_time_ms: [2+] i32,
        topics: [0+] Vec<ListOffsetsTopicResponse>,
    }

    ListOffsetsTopicResponse {
        name: [0+] ByteString,
        partitions: [0+] Vec<ListOffsetsPartitionResponse>,
    }

    ListOffsetsPartitionResponse {
        partition_index: [0+] i32,
        error_code: [0+] ErrorCode,
        timestamp: [1+] i64 = -1,
        offset: [1+] i64 = -1,
        leader_epoch: [4+] i32 = -1,
    }
}
