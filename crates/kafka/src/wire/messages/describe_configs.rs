//! DescribeConfigs: settings of topics and brokers, and where each comes from.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    DescribeConfigsRequest {
        resources: [0+] Vec<DescribeConfigsResource>,
        include_synonyms: [1+] bool,
        include_documentation: [3+] bool,
    }

    DescribeConfigsResource {
        /// 2 topic, 4 broker, 8 broker logger, 16 client metrics, 32 group.
        resource_type: [0+] i8,
        resource_name: [0+] ByteString,
        /// Null for all.
        configuration_keys: [0+] Option<Vec<ByteString>>,
    }

    DescribeConfigsResponse {
        throttle_time_ms: [0+] i32,
        results: [0+] Vec<DescribeConfigsResult>,
    }

    DescribeConfigsResult {
        error_code: [0+] ErrorCode,
        error_message: [0+] Option<ByteString>,
        resource_type: [0+] i8,
        resource_name: [0+] ByteString,
        configs: [0+] Vec<DescribeConfigsResourceResult>,
    }

    DescribeConfigsResourceResult {
        name: [0+] ByteString,
        value: [0+] Option<ByteString>,
        read_only: [0+] bool,
        /// 1 topic, 2 dynamic broker, 3 dynamic default broker, 4 static broker, 5 default, 6 dynamic broker
        /// logger, 7 client metrics, 8 group.
        config_source: [1+] i8 = -1,
        is_sensitive: [0+] bool,
        synonyms: [1+] Vec<DescribeConfigsSynonym>,
        /// 0 unknown, 1 boolean, 2 string, 3 int, 4 short, 5 long, 6 double, 7 list, 8 class, 9 password.
        config_type: [3+] i8,
        documentation: [3+] Option<ByteString>,
    }

    DescribeConfigsSynonym {
        name: [1+] ByteString,
        value: [1+] Option<ByteString>,
        source: [1+] i8,
    }
}
