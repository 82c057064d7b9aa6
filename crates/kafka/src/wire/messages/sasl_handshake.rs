//! SaslHandshake: chooses the mechanism that SaslAuthenticate goes on with.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    SaslHandshakeRequest {
        mechanism: [0+] ByteString,
    }

    SaslHandshakeResponse {
        error_code: [0+] ErrorCode,
        mechanisms: [0+] Vec<ByteString>,
    }
}
