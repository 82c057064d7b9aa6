//! JoinGroup: a member enters a group, or stays for its next generation.

use bytes::Bytes;
use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    JoinGroupRequest {
        group_id: [0+] ByteString,
        session_timeout_ms: [0+] i32,
        /// -1 in version 0, where the session timeout stands for it.
        rebalance_timeout_ms: [1+] i32 = -1,
        /// Empty at first; the response says which id to use.
        member_id: [0+] ByteString,
        group_instance_id: [5+] Option<ByteString>,
        /// `consumer` for consumers.
        protocol_type: [0+] ByteString,
        protocols: [0+] Vec<JoinGroupRequestProtocol>,
        reason: [8+] Option<ByteString>,
    }

    JoinGroupRequestProtocol {
        name: [0+] ByteString,
        metadata: [0+] Bytes,
    }

    JoinGroupResponse {
        throttle_time_ms: [2+] i32,
        error_code: [0+] ErrorCode,
        generation_id: [0+] i32 = -1,
        protocol_type: [7+] Option<ByteString>,
        protocol_name: [0+, null 7+] Option<ByteString>,
        leader: [0+] ByteString,
        /// Whether the leader is to leave the assignment as it is (KIP-814).
        skip_assignment: [9+] bool,
        member_id: [0+] ByteString,
        /// Only the leader is told.
        members: [0+] Vec<JoinGroupResponseMember>,
    }

    JoinGroupResponseMember {
        member_id: [0+] ByteString,
        group_instance_id: [5+] Option<ByteString>,
        metadata: [0+] Bytes,
    }
}
