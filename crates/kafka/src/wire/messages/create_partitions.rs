//! CreatePartitions: adds partitions to topics.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    CreatePartitionsRequest {
        topics: [0+] Vec<CreatePartitionsTopic>,
        timeout_ms: [0+] i32,
        validate_only: [0+] bool,
    }

    CreatePartitionsTopic {
        name: [0+] ByteString,
        /// How many partitions there are to be, those that exist included.
        count: [0+] i32,
        /// Brokers of each new partition; null for the broker's choice.
        assignments: [0+] Option<Vec<CreatePartitionsAssignment>>,
    }

    CreatePartitionsAssignment {
        broker_ids: [0+] Vec<i32>,
    }

    CreatePartitionsResponse {
        throttle_time_ms: [0+] i32,
        results: [0+] Vec<CreatePartitionsTopicResult>,
    }

    CreatePartitionsTopicResult {
        name: [0+] ByteString,
        error_code: [0+] ErrorCode,
        error_message: [0+] Option<ByteString>,
    }
}
