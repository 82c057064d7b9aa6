//! DeleteTopics: deletes topics, by name or (6+) by id.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::{Uuid, schema};

schema! {
    DeleteTopicsRequest {
        topics: [6+] Vec<DeleteTopicState>,
        topic_names: [0-5] Vec<ByteString>,
        timeout_ms: [0+] i32,
    }

    DeleteTopicState {
        /// Null when the topic is named by its id.
        name: [6+] Option<ByteString>,
        topic_id: [6+] Uuid,
    }

    DeleteTopicsResponse {
        throttle_time_ms: [1+] i32,
        responses: [0+] Vec<DeletableTopicResult>,
    }

    DeletableTopicResult {
        name: [0+, null 6+] Option<ByteString>,
        topic_id: [6+] Uuid,
        error_code: [0+] ErrorCode,
        error_message: [5+] Option<ByteString>,
    }
}
