//! Heartbeat: a member of a group is alive.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    HeartbeatRequest {
        group_id: [0+] ByteString,
        generation_id: [0+] i32,
        member_id: [0+] ByteString,
        group_instance_id: [3+] Option<ByteString>,
    }

    HeartbeatResponse {
        throttle_time_ms: [1+] i32,
        error_code: [0+] ErrorCode,
    }
}
