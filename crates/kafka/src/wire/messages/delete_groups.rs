//! DeleteGroups: deletes groups and what they have committed.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    DeleteGroupsRequest {
        groups_names: [0+] Vec<ByteString>,
    }

    DeleteGroupsResponse {
        throttle_time_ms: [0+] i32,
        results: [0+] Vec<DeletableGroupResult>,
    }

    DeletableGroupResult {
        group_id: [0+] ByteString,
        error_code: [0+] ErrorCode,
    }
}
