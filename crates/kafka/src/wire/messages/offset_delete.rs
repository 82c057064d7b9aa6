//! OffsetDelete: forgets what a group has committed for some partitions (KIP-496).

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    OffsetDeleteRequest {
        group_id: [0+] ByteString,
        topics: [0+] Vec<OffsetDeleteRequestTopic>,
    }

    OffsetDeleteRequestTopic {
        name: [0+] ByteString,
        partitions: [0+] Vec<OffsetDeleteRequestPartition>,
    }

    OffsetDeleteRequestPartition {
        partition_index: [0+] i32,
    }

    OffsetDeleteResponse {
        error_code: [0+] ErrorCode,
        throttle_time_ms: [0+] i32,
        topics: [0+] Vec<OffsetDeleteResponseTopic>,
    }

    OffsetDeleteResponseTopic {
        name: [0+] ByteString,
        partitions: [0+] Vec<OffsetDeleteResponsePartition>,
    }

    OffsetDeleteResponsePartition {
        partition_index: [0+] i32,
        error_code: [0+] ErrorCode,
    }
}
