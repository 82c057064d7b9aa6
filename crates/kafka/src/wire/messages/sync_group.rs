//! SyncGroup: the leader hands in the assignment, every member receives its own.

use bytes::Bytes;
use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    SyncGroupRequest {
        group_id: [0+] ByteString,
        generation_id: [0+] i32,
        member_id: [0+] ByteString,
        group_instance_id: [3+] Option<ByteString>,
        protocol_type: [5+] Option<ByteString>,
        protocol_name: [5+] Option<ByteString>,
        assignments: [0+] Vec<SyncGroupRequestAssignment>,
    }

    SyncGroupRequestAssignment {
        member_id: [0+] ByteString,
        assignment: [0+] Bytes,
    }

    SyncGroupResponse {
        throttle_time_ms: [1+] i32,
        error_code: [0+] ErrorCode,
        protocol_type: [5+] Option<ByteString>,
        protocol_name: [5+] Option<ByteString>,
        assignment: [0+] Bytes,
    }
}
