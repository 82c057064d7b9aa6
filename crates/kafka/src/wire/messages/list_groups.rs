//! ListGroups: the groups there are.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    ListGroupsRequest {
        /// Empty for all states.
        states_filter: [4+] Vec<ByteString>,
        /// Empty for all types.
        types_filter: [5+] Vec<ByteString>,
    }

    ListGroupsResponse {
        throttle_time_ms: [1+] i32,
        error_code: [0+] ErrorCode,
        groups: [0+] Vec<ListedGroup>,
    }

    ListedGroup {
        group_id: [0+] ByteString,
        protocol_type: [0+] ByteString,
        group_state: [4+] ByteString,
        group_type: [5+] ByteString,
    }
}
