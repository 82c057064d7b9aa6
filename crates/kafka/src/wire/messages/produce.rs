//! Produce: appends record batches to partitions.

use bytes::Bytes;
use bytestring::ByteString;

use super::{LeaderIdAndEpoch, NodeEndpoint};
use crate::wire::error_code::ErrorCode;
use crate::wire::schema::{Uuid, schema};

schema! {
    /// What a producer wants appended.
    ProduceRequest {
        transactional_id: [3+] Option<ByteString>,
        /// Whose acknowledgement is awaited: 0 none (and no response is sent), 1 the leader, -1 all replicas.
        acks: [0+] i16,
        timeout_ms: [0+] i32,
        topic_data: [0+] Vec<TopicProduceData>,
    }

    TopicProduceData {
        name: [0-12] ByteString,
        topic_id: [13+] Uuid,
        partition_data: [0+] Vec<PartitionProduceData>,
    }

    PartitionProduceData {
        index: [0+] i32,
        /// Record batches as the producer made them: a slice of the request.
        records: [0+] Option<Bytes>,
    }

    ProduceResponse {
        responses: [0+] Vec<TopicProduceResponse>,
        throttle_time_ms: [1+] i32,
        /// Where the leaders in `current_leader` are reached (KIP-951).
        node_endpoints: [10+, tag 0] Vec<NodeEndpoint>,
    }

    TopicProduceResponse {
        name: [0-12] ByteString,
        topic_id: [13+] Uuid,
        partition_responses: [0+] Vec<PartitionProduceResponse>,
    }

    PartitionProduceResponse {
        index: [0+] i32,
        error_code: [0+] ErrorCode,
        /// Offset that the first record of the request received; -1 on error.
        base_offset: [0+] i64,
        /// Milliseconds since 1970 when the topic stamps records itself, else -1.
        log_append_time_ms: [2+] i64 = -1,
        log_start_offset: [5+] i64 = -1,
        /// The records that caused the batch to be refused.
        record_errors: [8+] Vec<BatchIndexAndErrorMessage>,
        error_message: [8+] Option<ByteString>,
        current_leader: [10+, tag 0] LeaderIdAndEpoch,
    }

    BatchIndexAndErrorMessage {
        batch_index: [8+] i32,
        batch_index_error_message: [8+] Option<ByteString>,
    }
}
