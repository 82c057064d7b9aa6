//! IncrementalAlterConfigs: changes single settings of topics and brokers (KIP-339).

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    IncrementalAlterConfigsRequest {
        resources: [0+] Vec<AlterConfigsResource>,
        validate_only: [0+] bool,
    }

    AlterConfigsResource {
        /// As in DescribeConfigs.
        resource_type: [0+] i8,
        resource_name: [0+] ByteString,
        configs: [0+] Vec<AlterableConfig>,
    }

    AlterableConfig {
        name: [0+] ByteString,
        /// 0 set, 1 delete (back to the default), 2 append to a list, 3 subtract from a list.
        config_operation: [0+] i8,
        value: [0+] Option<ByteString>,
    }

    IncrementalAlterConfigsResponse {
        throttle_time_ms: [0+] i32,
        responses: [0+] Vec<AlterConfigsResourceResponse>,
    }

    AlterConfigsResourceResponse {
        error_code: [0+] ErrorCode,
        error_message: [0+] Option<ByteString>,
        resource_type: [0+] i8,
        resource_name: [0+] ByteString,
    }
}
