//! Fetch: reads record batches from partitions.

use bytestring::ByteString;

use super::{LeaderIdAndEpoch, NodeEndpoint};
use crate::wire::error_code::ErrorCode;
use crate::wire::records::RecordData;
use crate::wire::schema::{Uuid, schema};

schema! {
    /// What a consumer wants to read.
    FetchRequest {
        cluster_id: [12+, tag 0] Option<ByteString>,
        /// -1 for a consumer.
        replica_id: [0-14] i32 = -1,
        replica_state: [15+, tag 1] ReplicaState,
        /// How long to wait for `min_bytes`, in milliseconds.
        max_wait_ms: [0+] i32,
        min_bytes: [0+] i32,
        /// Most bytes in the response; one batch is returned even when it is larger.
        max_bytes: [3+] i32 = i32::MAX,
        /// 0 reads everything below the high watermark, 1 only what is not in an open transaction.
        isolation_level: [4+] i8,
        /// 0 when there is no fetch session (KIP-227).
        session_id: [7+] i32,
        /// -1 when no fetch session is wanted.
        session_epoch: [7+] i32 = -1,
        topics: [0+] Vec<FetchTopic>,
        /// Partitions to drop from the session.
        forgotten_topics_data: [7+] Vec<ForgottenTopic>,
        rack_id: [11+] ByteString,
    }

    ReplicaState {
        replica_id: [15+] i32 = -1,
        replica_epoch: [15+] i64 = -1,
    }

    FetchTopic {
        topic: [0-12] ByteString,
        topic_id: [13+] Uuid,
        partitions: [0+] Vec<FetchPartition>,
    }

    FetchPartition {
        partition: [0+] i32,
        /// Leader epoch that the consumer knows, -1 for none (KIP-320).
        current_leader_epoch: [9+] i32 = -1,
        fetch_offset: [0+] i64,
        last_fetched_epoch: [12+] i32 = -1,
        /// -1 for a consumer.
        log_start_offset: [5+] i64 = -1,
        partition_max_bytes: [0+] i32,
        replica_directory_id: [17+, tag 0] Uuid,
        /// What a follower knows as the high watermark (KIP-1166); not set by consumers.
        high_watermark: [18+, tag 1] i64 = i64::MAX,
    }

    ForgottenTopic {
        topic: [7-12] ByteString,
        topic_id: [13+] Uuid,
        partitions: [7+] Vec<i32>,
    }

    FetchResponse {
        throttle_time_ms: [1+] i32,
        error_code: [7+] ErrorCode,
        /// 0 when there is no fetch session.
        session_id: [7+] i32,
        responses: [0+] Vec<FetchableTopicResponse>,
        /// Where the leaders in `current_leader` are reached (KIP-951).
        node_endpoints: [16+, tag 0] Vec<NodeEndpoint>,
    }

    FetchableTopicResponse {
        topic: [0-12] ByteString,
        topic_id: [13+] Uuid,
        partitions: [0+] Vec<PartitionData>,
    }

    PartitionData {
        partition_index: [0+] i32,
        error_code: [0+] ErrorCode,
        high_watermark: [0+] i64,
        last_stable_offset: [4+] i64 = -1,
        log_start_offset: [5+] i64 = -1,
        diverging_epoch: [12+, tag 0] EpochEndOffset,
        current_leader: [12+, tag 1] LeaderIdAndEpoch,
        snapshot_id: [12+, tag 2] SnapshotId,
        /// Aborted transactions that reach into `records`; null unless reading committed records only.
        aborted_transactions: [4+] Option<Vec<AbortedTransaction>>,
        /// Replica to read from next (KIP-392), -1 for this one.
        preferred_read_replica: [11+] i32 = -1,
        records: [0+] RecordData,
    }

    EpochEndOffset {
        epoch: [12+] i32 = -1,
        end_offset: [12+] i64 = -1,
    }

    SnapshotId {
        end_offset: [0+] i64 = -1,
        epoch: [0+] i32 = -1,
    }

    AbortedTransaction {
        producer_id: [4+] i64,
        first_offset: [4+] i64,
    }
}
