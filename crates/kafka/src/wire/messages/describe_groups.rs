//! DescribeGroups: state and members of groups.

use bytes::Bytes;
use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    DescribeGroupsRequest {
        groups: [0+] Vec<ByteString>,
        include_authorized_operations: [3+] bool,
    }

    DescribeGroupsResponse {
        throttle_time_ms: [1+] i32,
        groups: [0+] Vec<DescribedGroup>,
    }

    DescribedGroup {
        error_code: [0+] ErrorCode,
        error_message: [6+] Option<ByteString>,
        group_id: [0+] ByteString,
        group_state: [0+] ByteString,
        protocol_type: [0+] ByteString,
        /// Name of the chosen protocol, empty when there is none.
        protocol_data: [0+] ByteString,
        members: [0+] Vec<DescribedGroupMember>,
        /// Bit field; `i32::MIN` when not asked for.
        authorized_operations: [3+] i32 = i32::MIN,
    }

    DescribedGroupMember {
        member_id: [0+] ByteString,
        group_instance_id: [4+] Option<ByteString>,
        client_id: [0+] ByteString,
        client_host: [0+] ByteString,
        member_metadata: [0+] Bytes,
        member_assignment: [0+] Bytes,
    }
}
