//! OffsetForLeaderEpoch: where a leader epoch ended (KIP-320).

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    OffsetForLeaderEpochRequest {
        /// -1 for a consumer.
        replica_id: [3+] i32 = -2,
        topics: [0+] Vec<OffsetForLeaderTopic>,
    }

    OffsetForLeaderTopic {
        topic: [0+] ByteString,
        partitions: [0+] Vec<OffsetForLeaderPartition>,
    }

    OffsetForLeaderPartition {
        partition: [0+] i32,
        current_leader_epoch: [2+] i32 = -1,
        leader_epoch: [0+] i32,
    }

    OffsetForLeaderEpochResponse {
        throttle_time_ms: [2+] i32,
        topics: [0+] Vec<OffsetForLeaderTopicResult>,
    }

    OffsetForLeaderTopicResult {
        topic: [0+] ByteString,
        partitions: [0+] Vec<EpochEndOffset>,
    }

    EpochEndOffset {
        error_code: [0+] ErrorCode,
        partition: [0+] i32,
        leader_epoch: [1+] i32 = -1,
        end_offset: [0+] i64 = -1,
    }
}
