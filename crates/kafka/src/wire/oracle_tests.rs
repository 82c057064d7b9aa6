//! Every message in every version against kafka-protocol, an independent implementation generated from Kafka
//! 4.1's message definitions.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};

use super::api::{decode_any_response, decode_request_if, for_every_api};
use super::messages::*;
use super::sampler::Sampler;
use super::*;

const SAMPLES_PER_VERSION: u64 = 40;
const LENGTH: usize = LENGTH_BYTES;

fn encode_body<M: Wire>(message: &M, version: i16, flexible: bool) -> Bytes {
    let mut writer = Writer::new(version, flexible);
    message.encode(&mut writer);
    writer.finish().unwrap().to_bytes().slice(LENGTH..)
}

fn versions(api: ApiKey) -> impl Iterator<Item = (i16, bool)> {
    let range = api.range();
    (range.min_version..=range.max_version).map(|version| (version, range.is_flexible(version)))
}

/// Ours is read by theirs, written back the same, and read by us as what it was.
fn agree<M: Wire + PartialEq + Debug, T: Decodable + Encodable + Debug>(api: ApiKey) {
    for (version, flexible) in versions(api) {
        for seed in 0..SAMPLES_PER_VERSION {
            let message = M::sample(&mut Sampler::new(seed), version, false);
            let bytes = encode_body(&message, version, flexible);
            let context = format!("{} v{version}, seed {seed}: {message:?}", api.name());

            let mut rest = bytes.clone();
            let read = T::decode(&mut rest, version).unwrap_or_else(|error| panic!("{error}: {context}"));
            assert!(rest.is_empty(), "{} bytes left: {context}", rest.len());
            let mut written = BytesMut::new();
            read.encode(&mut written, version).unwrap_or_else(|error| panic!("{error}: {context}"));
            assert_eq!(written, bytes, "{context}");

            let mut reader = Reader::new(bytes, version, flexible);
            assert_eq!(M::decode(&mut reader).as_ref(), Ok(&message), "{context}");
            assert_eq!(reader.remaining(), 0, "{context}");
        }
    }
}

#[test]
fn bodies_agree_in_every_version() {
    macro_rules! check {
        ($name:ident, $module:ident, $request:ident, $response:ident) => {
            agree::<$module::$request, theirs::$request>(ApiKey::$name);
            agree::<$module::$response, theirs::$response>(ApiKey::$name);
        };
    }
    for_every_api!(check);
}

#[test]
fn headers_agree_in_every_version() {
    fn request<M: RequestBody, T: HeaderVersion>(wrap: impl Fn(M) -> Request) {
        for (version, _) in versions(M::API) {
            let sample = || M::sample(&mut Sampler::new(7), version, false);
            let client_id = ByteString::from_static("client");
            let frame = encode_request(version, 42, Some(&client_id), &sample()).unwrap();
            let frame = frame.to_bytes().slice(LENGTH..);

            let header = RequestHeader {
                api: M::API,
                api_version: version,
                correlation_id: 42,
                client_id: Some(client_id),
            };
            assert_eq!(decode_request_if(frame.clone(), |_| true), Ok((header, wrap(sample()))));

            let mut expect = BytesMut::new();
            theirs::RequestHeader::default()
                .with_request_api_key(M::API as i16)
                .with_request_api_version(version)
                .with_correlation_id(42)
                .with_client_id(Some(StrBytes::from_static_str("client")))
                .encode(&mut expect, T::header_version(version))
                .unwrap();
            assert_eq!(frame[..expect.len()], expect);
        }
    }
    fn response<M: ResponseBody + PartialEq + Debug, T: HeaderVersion>() {
        for (version, flexible) in versions(M::API) {
            let sample = M::sample(&mut Sampler::new(7), version, false);
            let frame = encode_response(42, version, &sample).unwrap().to_bytes();
            assert_eq!(frame[..LENGTH], (frame.len() as u32 - 4).to_be_bytes());
            let frame = frame.slice(LENGTH..);

            let mut expect = BytesMut::new();
            let header = theirs::ResponseHeader::default().with_correlation_id(42);
            header.encode(&mut expect, T::header_version(version)).unwrap();
            expect.extend(encode_body(&sample, version, flexible));
            assert_eq!(frame, expect);
            assert_eq!(decode_response::<M>(frame, version), Ok((42, sample)));
        }
    }
    macro_rules! check {
        ($name:ident, $module:ident, $request:ident, $response:ident) => {
            request::<$module::$request, theirs::$request>(Request::$name);
            response::<$module::$response, theirs::$response>();
        };
    }
    for_every_api!(check);
}

/// Unknown tagged fields are passed over, wherever they are.
#[test]
fn unknown_tagged_fields_are_skipped() {
    let topic = theirs::metadata_request::MetadataRequestTopic::default()
        .with_name(Some(StrBytes::from_static_str("t").into()))
        .with_unknown_tagged_field(7, Bytes::from_static(b"later"));
    let request = theirs::MetadataRequest::default()
        .with_topics(Some(vec![topic]))
        .with_unknown_tagged_field(99, Bytes::from_static(b"later still"));
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes, 12).unwrap();
    let mut reader = Reader::new(bytes.freeze(), 12, true);
    let read = metadata::MetadataRequest::decode(&mut reader).unwrap();
    assert_eq!(read.topics.unwrap()[0].name.as_deref(), Some("t"));
    assert_eq!(reader.remaining(), 0);
}

#[test]
fn every_truncation_is_an_error() {
    fn check_one<M: Wire>(api: ApiKey) {
        for (version, flexible) in versions(api) {
            let message = M::sample(&mut Sampler::new(3), version, false);
            let bytes = encode_body(&message, version, flexible);
            for end in 0..bytes.len() {
                let mut reader = Reader::new(bytes.slice(..end), version, flexible);
                assert!(M::decode(&mut reader).is_err(), "{} v{version} cut at {end}", api.name());
            }
        }
    }
    macro_rules! check {
        ($name:ident, $module:ident, $request:ident, $response:ident) => {
            check_one::<$module::$request>(ApiKey::$name);
            check_one::<$module::$response>(ApiKey::$name);
        };
    }
    for_every_api!(check);
}

/// Damaged messages may decode to something or be refused, but what decodes can be written again.
#[test]
fn mutations_never_panic() {
    fn check_one<M: Wire>(api: ApiKey, sampler: &mut Sampler) {
        for (version, flexible) in versions(api) {
            for _ in 0..60 {
                let message = M::sample(sampler, version, false);
                let mut bytes = encode_body(&message, version, flexible).to_vec();
                for _ in 0..1 + sampler.below(4) {
                    if !bytes.is_empty() {
                        let at = sampler.below(bytes.len());
                        bytes[at] = [0x00, 0x01, 0x7f, 0x80, 0xff, sampler.next() as u8][sampler.below(6)];
                    }
                }
                let mut reader = Reader::new(bytes.into(), version, flexible);
                if let Ok(read) = M::decode(&mut reader) {
                    encode_body(&read, version, flexible);
                }
            }
        }
    }
    let mut sampler = Sampler::new(11);
    macro_rules! check {
        ($name:ident, $module:ident, $request:ident, $response:ident) => {
            check_one::<$module::$request>(ApiKey::$name, &mut sampler);
            check_one::<$module::$response>(ApiKey::$name, &mut sampler);
        };
    }
    for_every_api!(check);
}

#[test]
fn random_bytes_never_panic() {
    let mut sampler = Sampler::new(5);
    for round in 0..20_000 {
        let mut data: Vec<u8> = (0..sampler.below(120)).map(|_| sampler.next() as u8).collect();
        if round % 2 == 0 {
            data.iter_mut().for_each(|byte| *byte &= 0x07);
        }
        fuzz_decode(&data);
        let mut reader = Reader::new(data.into(), 0, round % 3 == 0);
        let _ = decode_any_response(SUPPORTED[round % SUPPORTED.len()].key, &mut reader);
    }
}
