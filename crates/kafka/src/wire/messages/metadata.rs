//! Metadata: brokers, topics and who leads their partitions.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::{Uuid, schema};

schema! {
    MetadataRequest {
        /// Null for all topics; in version 0 an empty list says so.
        topics: [0+, null 1+] Option<Vec<MetadataRequestTopic>>,
        allow_auto_topic_creation: [4+] bool = true,
        include_cluster_authorized_operations: [8-10] bool,
        include_topic_authorized_operations: [8+] bool,
    }

    MetadataRequestTopic {
        topic_id: [10+] Uuid,
        /// Null when the topic is asked for by its id.
        name: [0+, null 10+] Option<ByteString>,
    }

    MetadataResponse {
        throttle_time_ms: [3+] i32,
        brokers: [0+] Vec<MetadataResponseBroker>,
        cluster_id: [2+] Option<ByteString>,
        controller_id: [1+] i32 = -1,
        topics: [0+] Vec<MetadataResponseTopic>,
        /// Bit field; `i32::MIN` when not asked for.
        cluster_authorized_operations: [8-10] i32 = i32::MIN,
        /// `REBOOTSTRAP_REQUIRED` sends the client back to its bootstrap servers (KIP-1102).
        error_code: [13+] ErrorCode,
    }

    MetadataResponseBroker {
        node_id: [0+] i32,
        host: [0+] ByteString,
        port: [0+] i32,
        rack: [1+] Option<ByteString>,
    }

    MetadataResponseTopic {
        error_code: [0+] ErrorCode,
        /// Null when a topic was asked for by an id that is not known.
        name: [0+, null 12+] Option<ByteString>,
        topic_id: [10+] Uuid,
        is_internal: [1+] bool,
        partitions: [0+] Vec<MetadataResponsePartition>,
        /// Bit field; `i32::MIN` when not asked for.
        topic_authorized_operations: [8+] i32 = i32::MIN,
    }

    MetadataResponsePartition {
        error_code: [0+] ErrorCode,
        partition_index: [0+] i32,
        leader_id: [0+] i32,
        leader_epoch: [7+] i32 = -1,
        replica_nodes: [0+] Vec<i32>,
        isr_nodes: [0+] Vec<i32>,
        offline_replicas: [5+] Vec<i32>,
    }
}
