//! DeleteRecords: moves the start of partitions forward.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    DeleteRecordsRequest {
        topics: [0+] Vec<DeleteRecordsTopic>,
        timeout_ms: [0+] i32,
    }

    DeleteRecordsTopic {
        name: [0+] ByteString,
        partitions: [0+] Vec<DeleteRecordsPartition>,
    }

    DeleteRecordsPartition {
        partition_index: [0+] i32,
        /// First offset to keep; -1 for the high watermark.
        offset: [0+] i64,
    }

    DeleteRecordsResponse {
        throttle_time_ms: [0+] i32,
        topics: [0+] Vec<DeleteRecordsTopicResult>,
    }

    DeleteRecordsTopicResult {
        name: [0+] ByteString,
        partitions: [0+] Vec<DeleteRecordsPartitionResult>,
    }

    DeleteRecordsPartitionResult {
        partition_index: [0+] i32,
        low_watermark: [0+] i64,
        error_code: [0+] ErrorCode,
    }
}
