//! DescribeTopicPartitions: partitions of topics, page by page (KIP-966).

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::{Uuid, schema};

schema! {
    DescribeTopicPartitionsRequest {
        /// Empty for all topics.
        topics: [0+] Vec<TopicRequest>,
        response_partition_limit: [0+] i32 = 2000,
        /// Where to go on; null for the beginning.
        cursor: [0+] Option<Cursor>,
    }

    TopicRequest {
        name: [0+] ByteString,
    }

    /// First topic and partition of the next page.
    Cursor {
        topic_name: [0+] ByteString,
        partition_index: [0+] i32,
    }

    DescribeTopicPartitionsResponse {
        throttle_time_ms: [0+] i32,
        topics: [0+] Vec<DescribeTopicPartitionsResponseTopic>,
        /// Null when there is no further page.
        next_cursor: [0+] Option<Cursor>,
    }

    DescribeTopicPartitionsResponseTopic {
        error_code: [0+] ErrorCode,
        name: [0+] Option<ByteString>,
        topic_id: [0+] Uuid,
        is_internal: [0+] bool,
        partitions: [0+] Vec<DescribeTopicPartitionsResponsePartition>,
        /// Bit field; `i32::MIN` when not asked for.
        topic_authorized_operations: [0+] i32 = i32::MIN,
    }

    DescribeTopicPartitionsResponsePartition {
        error_code: [0+] ErrorCode,
        partition_index: [0+] i32,
        leader_id: [0+] i32,
        leader_epoch: [0+] i32 = -1,
        replica_nodes: [0+] Vec<i32>,
        isr_nodes: [0+] Vec<i32>,
        eligible_leader_replicas: [0+] Option<Vec<i32>>,
        last_known_elr: [0+] Option<Vec<i32>>,
        offline_replicas: [0+] Vec<i32>,
    }
}
