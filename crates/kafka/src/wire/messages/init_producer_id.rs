//! InitProducerId: an identity for an idempotent or transactional producer.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    InitProducerIdRequest {
        /// Null for a producer that is idempotent only.
        transactional_id: [0+] Option<ByteString>,
        transaction_timeout_ms: [0+] i32,
        /// The identity whose epoch is to be raised, -1 for a new one (KIP-360).
        producer_id: [3+] i64 = -1,
        producer_epoch: [3+] i16 = -1,
    }

    InitProducerIdResponse {
        throttle_time_ms: [0+] i32,
        error_code: [0+] ErrorCode,
        producer_id: [0+] i64 = -1,
        producer_epoch: [0+] i16,
    }
}
