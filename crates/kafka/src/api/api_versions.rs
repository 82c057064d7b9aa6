//! ApiVersions (18).

use crate::wire::ErrorCode;
use crate::wire::messages::api_versions::{ApiVersionsRequest, ApiVersionsResponse};

/// No feature is finalized, so clients use neither transactions of the second kind nor the newer group
/// protocols.
pub fn handle(version: i16, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    match request.is_valid(version) {
        true => ApiVersionsResponse::of_offered(ErrorCode::None),
        false => ApiVersionsResponse { error_code: ErrorCode::InvalidRequest, ..Default::default() },
    }
}

/// The answer to a version that is not known (KIP-511).
pub fn unsupported() -> ApiVersionsResponse {
    ApiVersionsResponse::of_offered(ErrorCode::UnsupportedVersion)
}
