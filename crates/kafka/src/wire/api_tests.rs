use bytes::Bytes;

use super::super::messages::{fetch, metadata, offset_fetch};
use super::super::records::RecordData;
use super::super::{Fault, Uuid};
use super::*;

fn frame(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

fn decode(frame: Bytes) -> Result<(RequestHeader, Request), RequestError> {
    decode_request_if(frame, |_| true)
}

#[test]
fn the_table_is_in_order_and_consistent() {
    assert!(SUPPORTED.is_sorted_by_key(|range| range.key as i16));
    for range in SUPPORTED {
        assert!(range.advertised_min_version <= range.min_version && range.min_version <= range.max_version);
        assert_eq!(ApiKey::from_code(range.key as i16), Some(range.key));
        assert_eq!(range.key.range(), range);
    }
    // librdkafka infers compression support from it (KAFKA-18659).
    assert_eq!(ApiKey::Produce.range().advertised_min_version, 0);
    assert!(!ApiKey::Produce.range().has(2));
}

#[test]
fn what_is_not_offered_is_neither_advertised_nor_decoded() {
    for range in SUPPORTED {
        let listed = ApiVersionsResponse::of_offered(ErrorCode::None).api_keys;
        let listed = listed.iter().find(|entry| entry.api_key == range.key as i16);
        assert_eq!(listed.is_some(), range.offered);
        let request = [&(range.key as i16).to_be_bytes()[..], &[0x7f, 0xff], &[0, 0, 0, 9]].concat();
        let refused = decode_request(request.into()).unwrap_err();
        assert_eq!(matches!(refused, RequestError::UnsupportedVersion { .. }), range.offered);
        assert_eq!(matches!(refused, RequestError::UnknownApi { .. }), !range.offered);
    }
}

/// As librdkafka 2 opens a connection.
#[test]
fn api_versions_request_by_the_book() {
    let (header, request) = decode(frame(&[
        &[0, 18, 0, 3, 0, 0, 0, 1],
        &[0, 7],
        b"rdkafka",
        &[0],
        &[11],
        b"librdkafka",
        &[7],
        b"2.15.0",
        &[0],
    ]))
    .unwrap();
    assert_eq!((header.api, header.api_version, header.correlation_id), (ApiKey::ApiVersions, 3, 1));
    assert_eq!(header.client_id.as_deref(), Some("rdkafka"));
    let Request::ApiVersions(request) = request else { panic!("{request:?}") };
    assert_eq!(&*request.client_software_name, "librdkafka");
    assert_eq!(&*request.client_software_version, "2.15.0");
}

/// KIP-511: the range of versions reaches a client that asked in a version from the future, in a form that
/// every client reads.
#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let future = frame(&[&[0, 18, 0, 99, 0, 0, 0, 5], b"\xff\xff", &[0xee; 20]]);
    assert_eq!(
        decode(future),
        Err(RequestError::UnsupportedVersion {
            api: ApiKey::ApiVersions,
            api_version: 99,
            correlation_id: 5
        })
    );
    let range = ApiVersion { api_key: 18, min_version: 0, max_version: 4 };
    let answer = ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion,
        api_keys: vec![range],
        ..Default::default()
    };
    let expect = [0, 0, 0, 16, 0, 0, 0, 5, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4];
    assert_eq!(encode_response(5, 0, &answer).unwrap().to_bytes(), &expect[..]);
}

/// The response header has tagged fields from the first flexible version on, but never in ApiVersions.
#[test]
fn response_headers() {
    let empty = ApiVersionsResponse::default();
    let expect = [0, 0, 0, 12, 0, 0, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0];
    assert_eq!(encode_response(5, 3, &empty).unwrap().to_bytes(), &expect[..]);
    let empty = offset_fetch::OffsetFetchResponse::default();
    let expect = [0, 0, 0, 11, 0, 0, 0, 5, 0, 0, 0, 0, 0, 1, 0];
    assert_eq!(encode_response(5, 8, &empty).unwrap().to_bytes(), &expect[..]);
}

#[test]
fn what_is_no_request_is_refused() {
    let header = |api, api_version| RequestHeader { api, api_version, correlation_id: 1, client_id: None };
    let body = |api, api_version, field, fault| RequestError::Body {
        header: header(api, api_version),
        error: DecodeError { field, fault },
    };
    let huge = Fault::ArrayTooLong { announced: 0x7fff_ffff, possible: 0 };
    for (bytes, expect) in [
        (&[][..], RequestError::Header(Fault::Truncated { needed: 2, remaining: 0 }.into())),
        (
            &[0x7f, 0, 0, 0, 0, 0, 0, 1],
            RequestError::UnknownApi { api_key: 0x7f00, api_version: 0, correlation_id: 1 },
        ),
        (
            &[0, 0, 0, 2, 0, 0, 0, 1],
            RequestError::UnsupportedVersion { api: ApiKey::Produce, api_version: 2, correlation_id: 1 },
        ),
        (
            &[0, 3, 0xff, 0xff, 0, 0, 0, 1],
            RequestError::UnsupportedVersion { api: ApiKey::Metadata, api_version: -1, correlation_id: 1 },
        ),
        // Four bytes that make a careless decoder reserve 154 GB.
        (
            &[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff],
            body(ApiKey::Metadata, 1, "topics", huge),
        ),
        (
            &[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe],
            body(ApiKey::Metadata, 1, "topics", Fault::NegativeLength(-2)),
        ),
        (
            &[0, 3, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            body(ApiKey::Metadata, 0, "topics", Fault::UnexpectedNull),
        ),
        (
            &[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 1, 0, 1, 0xff],
            body(ApiKey::Metadata, 1, "name", Fault::NotUtf8),
        ),
        (
            &[0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0, 1, 1, 0x91, 0x4e],
            body(ApiKey::ApiVersions, 3, "", Fault::TooManyTaggedFields(10_001)),
        ),
        (
            &[0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0, 1, 1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f],
            body(ApiKey::ApiVersions, 3, "", Fault::Truncated { needed: u32::MAX as usize, remaining: 0 }),
        ),
    ] {
        assert_eq!(decode(Bytes::copy_from_slice(bytes)), Err(expect), "{bytes:x?}");
    }
}

/// An element may be far smaller on the wire than in memory: the sum is bounded, not only each array.
#[test]
fn many_tiny_elements_are_refused_before_they_are_allocated() {
    let count = 500_000u32;
    let mut body = vec![0; 6 * count as usize];
    body[..4].copy_from_slice(&count.to_be_bytes());
    let mut reader = Reader::new(body.into(), 0, false);
    let refused = Vec::<metadata::MetadataResponsePartition>::decode(&mut reader).unwrap_err();
    assert!(matches!(refused.fault, Fault::ArrayTooLong { .. }), "{refused}");

    // One byte each on the wire, 32 in memory.
    let mut body = vec![1; 500_000];
    body[..3].copy_from_slice(&[0x80, 0x89, 0x1a]);
    let mut reader = Reader::new(body.into(), 0, true);
    let refused = Vec::<ByteString>::decode(&mut reader).unwrap_err();
    assert_eq!(refused.fault, Fault::OverMemory);
}

/// Stored batches reach the socket without being copied; a new base offset does not change that.
#[test]
fn fetched_records_are_set_in_by_reference() {
    let stored = Bytes::from(vec![9u8; 5000]);
    let mut records = RecordData::default();
    records.push(stored.clone());
    records.push_rebased(stored.clone(), 77, 3);
    let partition = fetch::PartitionData { partition_index: 1, records, ..Default::default() };
    let topic = fetch::FetchableTopicResponse {
        topic_id: Uuid([7; 16]),
        partitions: vec![partition],
        ..Default::default()
    };
    let response = fetch::FetchResponse { responses: vec![topic], ..Default::default() };
    let frame = encode_response(1, 13, &response).unwrap();

    let large: Vec<_> = frame.pieces().iter().filter(|piece| piece.len() > 4000).collect();
    assert_eq!(large[0].as_ptr(), stored.as_ptr());
    assert_eq!(large[1].as_ptr(), stored[16..].as_ptr());

    let (_, read) = decode_response::<fetch::FetchResponse>(frame.to_bytes().slice(4..), 13).unwrap();
    let mut expect = [&stored[..], &stored[..]].concat();
    expect[5000..5008].copy_from_slice(&77i64.to_be_bytes());
    expect[5012..5016].copy_from_slice(&3i32.to_be_bytes());
    assert_eq!(read.responses[0].partitions[0].records, RecordData::from(Bytes::from(expect)));
}

/// A group that joined in a flexible version may have a name that older versions cannot say.
#[test]
fn a_string_too_long_for_the_version_fails_to_encode() {
    let topic = fetch::FetchableTopicResponse { topic: "x".repeat(40_000).into(), ..Default::default() };
    let response = fetch::FetchResponse { responses: vec![topic], ..Default::default() };
    assert_eq!(encode_response(1, 11, &response), Err(EncodeError::StringTooLong(40_000)));
    assert!(encode_response(1, 12, &response).is_ok());
}
