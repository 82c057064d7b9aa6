//! CreateTopics: creates topics.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::{Uuid, schema};

schema! {
    CreateTopicsRequest {
        topics: [0+] Vec<CreatableTopic>,
        timeout_ms: [0+] i32 = 60_000,
        validate_only: [1+] bool,
    }

    CreatableTopic {
        name: [0+] ByteString,
        /// -1 when `assignments` says it, or for the broker's default (4+).
        num_partitions: [0+] i32,
        /// -1 when `assignments` says it, or for the broker's default (4+).
        replication_factor: [0+] i16,
        assignments: [0+] Vec<CreatableReplicaAssignment>,
        configs: [0+] Vec<CreatableTopicConfig>,
    }

    CreatableReplicaAssignment {
        partition_index: [0+] i32,
        broker_ids: [0+] Vec<i32>,
    }

    CreatableTopicConfig {
        name: [0+] ByteString,
        value: [0+] Option<ByteString>,
    }

    CreateTopicsResponse {
        throttle_time_ms: [2+] i32,
        topics: [0+] Vec<CreatableTopicResult>,
    }

    CreatableTopicResult {
        name: [0+] ByteString,
        topic_id: [7+] Uuid,
        error_code: [0+] ErrorCode,
        error_message: [1+] Option<ByteString>,
        /// Why `configs` is null.
        topic_config_error_code: [5+, tag 0] ErrorCode,
        num_partitions: [5+] i32 = -1,
        replication_factor: [5+] i16 = -1,
        configs: [5+] Option<Vec<CreatableTopicConfigs>>,
    }

    CreatableTopicConfigs {
        name: [5+] ByteString,
        value: [5+] Option<ByteString>,
        read_only: [5+] bool,
        /// As in DescribeConfigs.
        config_source: [5+] i8 = -1,
        is_sensitive: [5+] bool,
    }
}
