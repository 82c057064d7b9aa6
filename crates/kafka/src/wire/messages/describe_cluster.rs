//! DescribeCluster: the brokers of the cluster.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    DescribeClusterRequest {
        include_cluster_authorized_operations: [0+] bool,
        /// 1 brokers, 2 controllers.
        endpoint_type: [1+] i8 = 1,
        include_fenced_brokers: [2+] bool,
    }

    DescribeClusterResponse {
        throttle_time_ms: [0+] i32,
        error_code: [0+] ErrorCode,
        error_message: [0+] Option<ByteString>,
        endpoint_type: [1+] i8 = 1,
        cluster_id: [0+] ByteString,
        controller_id: [0+] i32 = -1,
        brokers: [0+] Vec<DescribeClusterBroker>,
        /// Bit field; `i32::MIN` when not asked for.
        cluster_authorized_operations: [0+] i32 = i32::MIN,
    }

    DescribeClusterBroker {
        broker_id: [0+] i32,
        host: [0+] ByteString,
        port: [0+] i32,
        rack: [0+] Option<ByteString>,
        is_fenced: [2+] bool,
    }
}
