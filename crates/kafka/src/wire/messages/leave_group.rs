//! LeaveGroup: members leave a group. Up to version 2 one, from 3 several.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    LeaveGroupRequest {
        group_id: [0+] ByteString,
        member_id: [0-2] ByteString,
        members: [3+] Vec<MemberIdentity>,
    }

    MemberIdentity {
        member_id: [3+] ByteString,
        group_instance_id: [3+] Option<ByteString>,
        reason: [5+] Option<ByteString>,
    }

    LeaveGroupResponse {
        throttle_time_ms: [1+] i32,
        error_code: [0+] ErrorCode,
        members: [3+] Vec<MemberResponse>,
    }

    MemberResponse {
        member_id: [3+] ByteString,
        group_instance_id: [3+] Option<ByteString>,
        error_code: [3+] ErrorCode,
    }
}
