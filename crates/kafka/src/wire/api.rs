//! What is spoken: the table of APIs, and requests and responses as a whole, with their headers.

use bytes::Bytes;
use bytestring::ByteString;

use super::error_code::ErrorCode;
use super::frame::Frame;
use super::messages::api_versions::{ApiVersion, ApiVersionsResponse};
use super::messages::{
    alter_configs, api_versions, create_partitions, create_topics, delete_groups, delete_records,
    delete_topics, describe_cluster, describe_configs, describe_groups, describe_topic_partitions, fetch,
    find_coordinator, heartbeat, incremental_alter_configs, init_producer_id, join_group, leave_group,
    list_groups, list_offsets, metadata, offset_commit, offset_delete, offset_fetch, offset_for_leader_epoch,
    produce, sasl_authenticate, sasl_handshake, sync_group,
};
use super::reader::{DecodeError, Reader};
use super::schema::{Nullable, Wire};
use super::writer::{EncodeError, Writer};

/// One API: the versions that the codec knows, and whether the broker answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiRange {
    pub key: ApiKey,
    /// Whether it is answered. An API that nothing handles yet is `off`: it is neither advertised nor
    /// decoded.
    pub offered: bool,
    /// Least version that is advertised. Lower than `min_version` where clients infer features from it.
    pub advertised_min_version: i16,
    /// Least version that is decoded.
    pub min_version: i16,
    pub max_version: i16,
    /// First version with compact lengths and tagged fields (KIP-482).
    flexible_since: i16,
}

impl ApiRange {
    pub fn has(&self, version: i16) -> bool {
        (self.min_version..=self.max_version).contains(&version)
    }

    /// Whether a version uses compact lengths and tagged fields (KIP-482).
    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_since
    }
}

/// The body of a request.
pub trait RequestBody: Wire {
    const API: ApiKey;
    type Response: ResponseBody;
}

/// The body of a response.
pub trait ResponseBody: Wire {
    const API: ApiKey;
}

macro_rules! apis {
    ($(
        $switch:ident $key:literal $name:ident $module:ident $request:ident $response:ident
        [$min:literal - $max:literal] flexible $flexible:literal $(advertised from $advertised:literal)?,
    )*) => {
        /// The number of an API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(i16)]
        pub enum ApiKey {
            $($name = $key,)*
        }

        impl ApiKey {
            pub fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($key => Some(Self::$name),)*
                    _ => None,
                }
            }

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// Its row in [`SUPPORTED`].
            pub const fn range(self) -> &'static ApiRange {
                match self {
                    $(Self::$name => {
                        const ROW: &ApiRange = &ApiRange {
                            key: ApiKey::$name,
                            offered: apis!(@switch $switch),
                            advertised_min_version: apis!(@advertised $min $(, $advertised)?),
                            min_version: $min,
                            max_version: $max,
                            flexible_since: $flexible,
                        };
                        ROW
                    })*
                }
            }

        }

        /// Every API that the codec knows. The versions spoken derive from this list only.
        pub const SUPPORTED: &[ApiRange] = &[$(*ApiKey::$name.range(),)*];

        /// A request of any API.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Request {
            $($name($module::$request),)*
        }

        impl Request {
            pub fn api(&self) -> ApiKey {
                match self {
                    $(Self::$name(_) => ApiKey::$name,)*
                }
            }

            fn decode(api: ApiKey, reader: &mut Reader) -> Result<Self, DecodeError> {
                match api {
                    $(ApiKey::$name => Wire::decode(reader).map(Self::$name),)*
                }
            }
        }

        $(
            impl RequestBody for $module::$request {
                const API: ApiKey = ApiKey::$name;
                type Response = $module::$response;
            }

            impl ResponseBody for $module::$response {
                const API: ApiKey = ApiKey::$name;
            }
        )*

        /// Calls a macro with the module, request and response of every API.
        #[cfg(test)]
        macro_rules! for_every_api {
            ($callback:ident) => {
                $($callback!($name, $module, $request, $response);)*
            };
        }

        /// Reads the body of a response of any API and drops it: for fuzzing.
        pub(super) fn decode_any_response(api: ApiKey, reader: &mut Reader) -> Result<(), DecodeError> {
            match api {
                $(ApiKey::$name => <$module::$response as Wire>::decode(reader).map(drop),)*
            }
        }
    };
    (@switch on) => { true };
    (@switch off) => { false };
    (@advertised $min:literal) => { $min };
    (@advertised $min:literal, $advertised:literal) => { $advertised };
}

// `on` once the adapter answers every version in the range. Kafka advertises Produce from 0 although it
// refuses everything below 3, since librdkafka infers compression support from it (KAFKA-18659).
apis! {
    on 0 Produce produce ProduceRequest ProduceResponse [3-13] flexible 9 advertised from 0,
    on 1 Fetch fetch FetchRequest FetchResponse [4-18] flexible 12,
    on 2 ListOffsets list_offsets ListOffsetsRequest ListOffsetsResponse [1-10] flexible 6,
    on 3 Metadata metadata MetadataRequest MetadataResponse [0-13] flexible 9,
    on 8 OffsetCommit offset_commit OffsetCommitRequest OffsetCommitResponse [2-9] flexible 8,
    on 9 OffsetFetch offset_fetch OffsetFetchRequest OffsetFetchResponse [1-9] flexible 6,
    on 10 FindCoordinator find_coordinator FindCoordinatorRequest FindCoordinatorResponse [0-6] flexible 3,
    on 11 JoinGroup join_group JoinGroupRequest JoinGroupResponse [0-9] flexible 6,
    on 12 Heartbeat heartbeat HeartbeatRequest HeartbeatResponse [0-4] flexible 4,
    on 13 LeaveGroup leave_group LeaveGroupRequest LeaveGroupResponse [0-5] flexible 4,
    on 14 SyncGroup sync_group SyncGroupRequest SyncGroupResponse [0-5] flexible 4,
    on 15 DescribeGroups describe_groups DescribeGroupsRequest DescribeGroupsResponse [0-6] flexible 5,
    on 16 ListGroups list_groups ListGroupsRequest ListGroupsResponse [0-5] flexible 3,
    on 17 SaslHandshake sasl_handshake SaslHandshakeRequest SaslHandshakeResponse [0-1] flexible 32767,
    on 18 ApiVersions api_versions ApiVersionsRequest ApiVersionsResponse [0-4] flexible 3,
    on 19 CreateTopics create_topics CreateTopicsRequest CreateTopicsResponse [2-7] flexible 5,
    on 20 DeleteTopics delete_topics DeleteTopicsRequest DeleteTopicsResponse [1-6] flexible 4,
    on 21 DeleteRecords delete_records DeleteRecordsRequest DeleteRecordsResponse [0-2] flexible 2,
    on 22 InitProducerId init_producer_id InitProducerIdRequest InitProducerIdResponse [0-5] flexible 2,
    on 23 OffsetForLeaderEpoch offset_for_leader_epoch
        OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse [2-4] flexible 4,
    on 32 DescribeConfigs describe_configs DescribeConfigsRequest DescribeConfigsResponse [1-4] flexible 4,
    on 33 AlterConfigs alter_configs AlterConfigsRequest AlterConfigsResponse [0-2] flexible 2,
    on 36 SaslAuthenticate sasl_authenticate
        SaslAuthenticateRequest SaslAuthenticateResponse [0-2] flexible 2,
    on 37 CreatePartitions create_partitions
        CreatePartitionsRequest CreatePartitionsResponse [0-3] flexible 2,
    on 42 DeleteGroups delete_groups DeleteGroupsRequest DeleteGroupsResponse [0-2] flexible 2,
    on 44 IncrementalAlterConfigs incremental_alter_configs
        IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse [0-1] flexible 1,
    on 47 OffsetDelete offset_delete OffsetDeleteRequest OffsetDeleteResponse [0-0] flexible 32767,
    on 60 DescribeCluster describe_cluster DescribeClusterRequest DescribeClusterResponse [0-2] flexible 0,
    on 75 DescribeTopicPartitions describe_topic_partitions
        DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse [0-0] flexible 0,
}

/// The rows of [`SUPPORTED`] that are answered.
pub fn offered() -> impl Iterator<Item = &'static ApiRange> {
    SUPPORTED.iter().filter(|range| range.offered)
}

impl ApiVersionsResponse {
    /// What is spoken, for the answer to ApiVersions. With `UNSUPPORTED_VERSION`, written in version 0, it is
    /// the answer to an ApiVersions request in an unknown version (KIP-511).
    pub fn of_offered(error_code: ErrorCode) -> Self {
        let api_keys = offered().map(|range| ApiVersion {
            api_key: range.key as i16,
            min_version: range.advertised_min_version,
            max_version: range.max_version,
        });
        Self { error_code, api_keys: api_keys.collect(), ..Self::default() }
    }
}

/// What stands before the body of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    pub api: ApiKey,
    pub api_version: i16,
    /// Chosen by the client, repeated in the response.
    pub correlation_id: i32,
    pub client_id: Option<ByteString>,
}

/// Why a frame is no request that can be answered as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not even the header can be read. Kafka closes the connection.
    #[error("malformed request header: {0}")]
    Header(DecodeError),
    /// Kafka closes the connection.
    #[error("API {api_key} in version {api_version} is not offered")]
    UnknownApi { api_key: i16, api_version: i16, correlation_id: i32 },
    /// ApiVersions is answered in version 0 (see [`ApiVersionsResponse::of_offered`]); with anything else
    /// Kafka closes the connection.
    #[error("{} has no version {api_version}", api.name())]
    UnsupportedVersion { api: ApiKey, api_version: i16, correlation_id: i32 },
    /// Kafka closes the connection.
    #[error("malformed {} request in version {}: {error}", header.api.name(), header.api_version)]
    Body { header: RequestHeader, error: DecodeError },
}

/// Reads one frame, without its length, as a request of an offered API. Bytes after the body are ignored, as
/// Kafka does.
pub fn decode_request(frame: Bytes) -> Result<(RequestHeader, Request), RequestError> {
    decode_request_if(frame, |range| range.offered)
}

pub(super) fn decode_request_if(
    frame: Bytes,
    accept: impl Fn(&ApiRange) -> bool,
) -> Result<(RequestHeader, Request), RequestError> {
    let mut reader = Reader::new(frame, 0, false);
    let start = |reader: &mut Reader| -> Result<(i16, i16, i32), DecodeError> {
        Ok((i16::decode(reader)?, i16::decode(reader)?, i32::decode(reader)?))
    };
    let (api_key, api_version, correlation_id) = start(&mut reader).map_err(RequestError::Header)?;
    let api = ApiKey::from_code(api_key)
        .filter(|api| accept(api.range()))
        .ok_or(RequestError::UnknownApi { api_key, api_version, correlation_id })?;
    let range = api.range();
    if !range.has(api_version) {
        return Err(RequestError::UnsupportedVersion { api, api_version, correlation_id });
    }
    // The client id keeps its old length form in every version, so that any broker can read it.
    let client_id = ByteString::decode_nullable(&mut reader)
        .map_err(|error| RequestError::Header(error.in_field("client_id")))?;
    let header = RequestHeader { api, api_version, correlation_id, client_id };
    reader.switch_to(api_version, range.is_flexible(api_version));
    if reader.flexible() {
        reader.tagged_fields(|_, _| Ok(())).map_err(RequestError::Header)?;
    }
    match Request::decode(api, &mut reader) {
        Ok(request) => Ok((header, request)),
        Err(error) => Err(RequestError::Body { header, error }),
    }
}

/// Writes a response, with its header and length, in the version of the request that it answers.
pub fn encode_response<R: ResponseBody>(
    correlation_id: i32,
    api_version: i16,
    response: &R,
) -> Result<Frame, EncodeError> {
    let mut writer = Writer::new(api_version, R::API.range().is_flexible(api_version));
    correlation_id.encode(&mut writer);
    if has_flexible_response_header(R::API, api_version) {
        writer.uvarint(0);
    }
    response.encode(&mut writer);
    writer.finish()
}

/// Writes a request, with its header and length: for clients and tests.
pub fn encode_request<R: RequestBody>(
    api_version: i16,
    correlation_id: i32,
    client_id: Option<&ByteString>,
    request: &R,
) -> Result<Frame, EncodeError> {
    let mut writer = Writer::new(api_version, false);
    (R::API as i16).encode(&mut writer);
    api_version.encode(&mut writer);
    correlation_id.encode(&mut writer);
    ByteString::encode_nullable(client_id, &mut writer);
    writer.switch_to(api_version, R::API.range().is_flexible(api_version));
    if writer.flexible() {
        writer.uvarint(0);
    }
    request.encode(&mut writer);
    writer.finish()
}

/// Reads one frame, without its length, as the response to a request in `api_version`, with its correlation
/// id: for clients and tests.
pub fn decode_response<R: ResponseBody>(frame: Bytes, api_version: i16) -> Result<(i32, R), DecodeError> {
    let mut reader = Reader::new(frame, api_version, R::API.range().is_flexible(api_version));
    let correlation_id = i32::decode(&mut reader)?;
    if has_flexible_response_header(R::API, api_version) {
        reader.tagged_fields(|_, _| Ok(()))?;
    }
    Ok((correlation_id, R::decode(&mut reader)?))
}

/// A client reads the answer to ApiVersions before it knows what the broker speaks, so that header never
/// changes.
fn has_flexible_response_header(api: ApiKey, api_version: i16) -> bool {
    api != ApiKey::ApiVersions && api.range().is_flexible(api_version)
}

#[cfg(test)]
pub(super) use for_every_api;

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
