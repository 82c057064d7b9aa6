//! FindCoordinator: which broker coordinates a group or a transactional id.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    FindCoordinatorRequest {
        key: [0-3] ByteString,
        /// 0 group, 1 transactional id, 2 share group.
        key_type: [1+] i8,
        coordinator_keys: [4+] Vec<ByteString>,
    }

    FindCoordinatorResponse {
        throttle_time_ms: [1+] i32,
        error_code: [0-3] ErrorCode,
        error_message: [1-3] Option<ByteString>,
        node_id: [0-3] i32,
        host: [0-3] ByteString,
        port: [0-3] i32,
        coordinators: [4+] Vec<Coordinator>,
    }

    Coordinator {
        key: [4+] ByteString,
        node_id: [4+] i32,
        host: [4+] ByteString,
        port: [4+] i32,
        error_code: [4+] ErrorCode,
        error_message: [4+] Option<ByteString>,
    }
}
