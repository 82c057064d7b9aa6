//! ApiVersions: which requests, in which versions, this broker answers.

use bytestring::ByteString;

use crate::wire::error_code::ErrorCode;
use crate::wire::schema::schema;

schema! {
    ApiVersionsRequest {
        client_software_name: [3+] ByteString,
        client_software_version: [3+] ByteString,
    }

    /// The only response whose header has no tagged fields in any version: a client must be able to read it
    /// before it knows what the broker speaks. A request in an unknown version is answered in version 0 with
    /// `UNSUPPORTED_VERSION` (KIP-511).
    ApiVersionsResponse {
        error_code: [0+] ErrorCode,
        api_keys: [0+] Vec<ApiVersion>,
        throttle_time_ms: [1+] i32,
        /// In version 3, features whose least version is 0 must be left out: its clients refuse them.
        supported_features: [3+, tag 0] Vec<SupportedFeatureKey>,
        finalized_features_epoch: [3+, tag 1] i64 = -1,
        finalized_features: [3+, tag 2] Vec<FinalizedFeatureKey>,
        zk_migration_ready: [3+, tag 3] bool,
    }

    ApiVersion {
        api_key: [0+] i16,
        min_version: [0+] i16,
        max_version: [0+] i16,
    }

    SupportedFeatureKey {
        name: [3+] ByteString,
        min_version: [3+] i16,
        max_version: [3+] i16,
    }

    FinalizedFeatureKey {
        name: [3+] ByteString,
        max_version_level: [3+] i16,
        min_version_level: [3+] i16,
    }
}

impl ApiVersionsRequest {
    /// Whether the client names itself as KIP-511 demands: letters, digits, dots and dashes, with a letter or
    /// digit at both ends. Otherwise the answer is `INVALID_REQUEST`. Always true below version 3, which has
    /// no names.
    pub fn is_valid(&self, version: i16) -> bool {
        version < 3
            || (is_software_name(&self.client_software_name)
                && is_software_name(&self.client_software_version))
    }
}

fn is_software_name(name: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    outer(bytes.first()) && outer(bytes.last()) && bytes.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_software_names() {
        for (name, version, expect) in [
            ("apache-kafka-java", "4.1.0", true),
            ("librdkafka", "2.15.0-RC1", true),
            ("a", "1", true),
            ("", "1", false),
            ("a", "", false),
            ("a b", "1", false),
            ("-a", "1", false),
            ("a", "1.", false),
            ("ä", "1", false),
        ] {
            let request = ApiVersionsRequest {
                client_software_name: name.into(),
                client_software_version: version.into(),
            };
            assert_eq!(request.is_valid(3), expect, "{name} {version}");
            assert!(request.is_valid(2));
        }
    }
}
