//! SaslAuthenticate: one step of the chosen mechanism.

use bytes::Bytes;
use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    SaslAuthenticateRequest {
        auth_bytes: [0+] Bytes,
    }

    SaslAuthenticateResponse {
        error_code: [0+] ErrorCode,
        error_message: [0+] Option<ByteString>,
        auth_bytes: [0+] Bytes,
        /// How long until the client must authenticate again, in milliseconds; 0 for never.
        session_lifetime_ms: [1+] i64,
    }
}
