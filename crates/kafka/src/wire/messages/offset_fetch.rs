//! OffsetFetch: reads what groups have committed. Up to version 7 of one group, from 8 of several.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    OffsetFetchRequest {
        group_id: [0-7] ByteString,
        /// Null for all topics of the group.
        topics: [0-7, null 2-7] Option<Vec<OffsetFetchRequestTopic>>,
        groups: [8+] Vec<OffsetFetchRequestGroup>,
        /// Whether offsets that an open transaction may still change are to be an error.
        require_stable: [7+] bool,
    }

    OffsetFetchRequestGroup {
        group_id: [8+] ByteString,
        member_id: [9+] Option<ByteString>,
        member_epoch: [9+] i32 = -1,
        /// Null for all topics of the group.
        topics: [8+] Option<Vec<OffsetFetchRequestTopic>>,
    }

    OffsetFetchRequestTopic {
        name: [0+] ByteString,
        partition_indexes: [0+] Vec<i32>,
    }

    OffsetFetchResponse {
        throttle_time_ms: [3+] i32,
        topics: [0-7] Vec<OffsetFetchResponseTopic>,
        error_code: [2-7] ErrorCode,
        groups: [8+] Vec<OffsetFetchResponseGroup>,
    }

    OffsetFetchResponseGroup {
        group_id: [8+] ByteString,
        topics: [8+] Vec<OffsetFetchResponseTopic>,
        error_code: [8+] ErrorCode,
    }

    OffsetFetchResponseTopic {
        name: [0+] ByteString,
        partitions: [0+] Vec<OffsetFetchResponsePartition>,
    }

    OffsetFetchResponsePartition {
        partition_index: [0+] i32,
        /// -1 when nothing is committed.
        committed_offset: [0+] i64,
        committed_leader_epoch: [5+] i32 = -1,
        metadata: [0+] Option<ByteString>,
        error_code: [0+] ErrorCode,
    }
}
