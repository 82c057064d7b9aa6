//! Wrong, cut and random input: an error or a wait, never a panic, and no memory on the peer's word.

use bytes::{Bytes, BytesMut};
use posthaste_amqp::wire::*;

use crate::support::{Random, content_methods, encoded, encoded_content, methods, properties};

fn frame(frame_type: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![frame_type];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xCE);
    frame
}

fn check(input: &[u8], expect: FrameError, reply_code: ReplyCode) {
    let result = FrameReader::default().read(&mut BytesMut::from(input), FrameMax::MIN);
    assert_eq!(result, Err(expect));
    assert_eq!(expect.exception().reply_code, reply_code);
}

#[test]
fn wrong_frames() {
    use ReplyCode::{CommandInvalid, FrameError as Malformed, SyntaxError, UnexpectedFrame};
    let id = |class_id, method_id| MethodId { class_id, method_id };
    check(&[4, 0, 0, 0, 0, 0, 0], FrameError::UnknownType { frame_type: 4, channel: 0 }, Malformed);
    // Refused by its head alone.
    let max = 4088;
    let error = FrameError::TooLarge { frame_type: 3, channel: 1, payload_size: u32::MAX, max };
    check(&[3, 0, 1, 255, 255, 255, 255], error, Malformed);
    let error = FrameError::TooLarge { frame_type: 3, channel: 1, payload_size: 4097, max };
    check(&[3, 0, 1, 0, 0, 16, 1], error, Malformed);
    let error = FrameError::InvalidEnd { frame_type: 8, channel: 0, octet: 0 };
    check(&[8, 0, 0, 0, 0, 0, 0, 0], error, Malformed);
    check(&frame(8, 2, b""), FrameError::UnexpectedHeartbeat { channel: 2 }, UnexpectedFrame);
    check(&frame(8, 0, b"x"), FrameError::HeartbeatWithPayload { payload_size: 1 }, Malformed);
    check(&frame(3, 0, b"x"), FrameError::ContentOnChannelZero, UnexpectedFrame);
    check(&frame(1, 1, &[0, 60, 0]), FrameError::NoMethodId { channel: 1, payload_size: 3 }, Malformed);
    let error = FrameError::UnknownMethod { channel: 1, method: id(60, 200) };
    check(&frame(1, 1, &[0, 60, 0, 200]), error, CommandInvalid);
    let error = FrameError::WrongChannel { channel: 0, method: id(90, 10) };
    check(&frame(1, 0, &[0, 90, 0, 10]), error, CommandInvalid);
    let error = FrameError::WrongChannel { channel: 7, method: id(10, 51) };
    check(&frame(1, 7, &[0, 10, 0, 51]), error, CommandInvalid);
    assert_eq!(error.exception().to_string(), "COMMAND_INVALID - connection.close-ok on channel 7");
    let cause = FieldError::Truncated;
    let error = FrameError::MalformedMethod { channel: 1, method: id(60, 80), cause };
    check(&frame(1, 1, &[0, 60, 0, 80, 1]), error, Malformed);
    assert_eq!(error.exception().method, id(60, 80));
    let cause = FieldError::TrailingOctets { octets: 1 };
    let error = FrameError::MalformedMethod { channel: 1, method: id(90, 10), cause };
    check(&frame(1, 1, &[0, 90, 0, 10, 0]), error, Malformed);
    let header = |class: u8, weight: u8| [0, class, 0, weight, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let error = FrameError::UnknownContentClass { channel: 1, class_id: 70 };
    check(&frame(2, 1, &header(70, 0)), error, UnexpectedFrame);
    check(&frame(2, 1, &header(60, 1)), FrameError::NonZeroWeight { channel: 1, weight: 1 }, SyntaxError);
    let error = FrameError::MalformedHeader { channel: 1, cause: FieldError::Truncated };
    check(&frame(2, 1, &header(60, 0)[..13]), error, Malformed);
    check(&frame(2, 1, &[0]), error, Malformed);
}

/// RabbitMQ lets pass what forgets the eight octets around the payload.
#[test]
fn payload_as_large_as_frame_max() {
    let mut input = BytesMut::from(&frame(3, 1, &[7; 4096])[..]);
    let read = FrameReader::default().read(&mut input, FrameMax::MIN);
    assert_eq!(read, Ok(Some((1, Frame::Body(Bytes::from(vec![7; 4096]))))));
}

fn command(method: Method) -> Frame {
    Frame::Command(Command::Method(method))
}

#[test]
fn good_frames_before_a_wrong_one_are_read() {
    let mut input = encoded(&tx::Select {}.into());
    input.extend_from_slice(&encoded(&tx::Commit {}.into()));
    input.extend_from_slice(&[9; 16]);
    let mut reader = FrameReader::default();
    let mut next = || reader.read(&mut input, FrameMax::MIN);
    assert_eq!(next(), Ok(Some((1, command(tx::Select {}.into())))));
    assert_eq!(next(), Ok(Some((1, command(tx::Commit {}.into())))));
    assert_eq!(next(), Err(FrameError::UnknownType { frame_type: 9, channel: 0x0909 }));
}

/// A content header that is wrong is reported as such even behind its method in the same read.
#[test]
fn wrong_header_behind_its_method() {
    let publish: ContentMethod = basic::Publish::default().into();
    let mut input = encoded_content(&publish, &PropertyList::default(), &[], FrameMax::MIN);
    let flags = input.len() - 2;
    input[flags] = 1;
    let mut reader = FrameReader::default();
    assert_eq!(reader.read(&mut input, FrameMax::MIN), Ok(Some((1, Frame::ContentMethod(publish)))));
    let cause = FieldError::UnknownPropertyFlags { flags: 1 };
    let error = FrameError::MalformedHeader { channel: 1, cause };
    assert_eq!(reader.read(&mut input, FrameMax::MIN), Err(error));
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| {
        let mut octets = Vec::new();
        for _ in 0..depth {
            let length = octets.len() as u32;
            octets.splice(0..0, [&[0, b'F'][..], &length.to_be_bytes()].concat());
        }
        FieldTable::decode(&octets.into())
    };
    assert!(nested(TABLE_DEPTH_MAX - 1).is_ok());
    assert_eq!(nested(TABLE_DEPTH_MAX), Err(FieldError::TooDeep));
    assert_eq!(nested(10_000), Err(FieldError::TooDeep));
}

#[test]
fn values_are_limited() {
    let array = |values: usize| {
        let mut octets = vec![0, b'A'];
        octets.extend((values as u32).to_be_bytes());
        octets.resize(octets.len() + values, b'V');
        FieldTable::decode(&octets.into())
    };
    assert!(array(TABLE_VALUES_MAX - 1).is_ok());
    assert_eq!(array(TABLE_VALUES_MAX), Err(FieldError::TooManyValues));
}

fn samples() -> Vec<BytesMut> {
    let list = PropertyList::from(&properties());
    let contents = content_methods()
        .into_iter()
        .map(|method| encoded_content(&method, &list, &[Bytes::from(vec![1; 5000])], FrameMax::MIN));
    methods().iter().map(encoded).chain(contents).collect()
}

/// A frame that is cut anywhere is waited for; fields that are cut inside a complete frame are an error.
#[test]
fn truncation() {
    for sample in samples() {
        let first = u32::from_be_bytes([sample[3], sample[4], sample[5], sample[6]]) as usize + 8;
        for octets in 0..first {
            let mut input = BytesMut::from(&sample[..octets]);
            assert_eq!(FrameReader::default().read(&mut input, FrameMax::MIN), Ok(None));
            assert_eq!(input.len(), octets);
        }
        for octets in 4..first - 8 {
            let channel = u16::from_be_bytes([sample[1], sample[2]]);
            let mut input = BytesMut::from(&frame(1, channel, &sample[7..7 + octets])[..]);
            let read = FrameReader::default().read(&mut input, FrameMax::MIN);
            assert!(matches!(read, Err(FrameError::MalformedMethod { .. })), "{read:?}");
        }
    }
    let list = PropertyList::from(&properties());
    for octets in 0..list.as_bytes().len() {
        assert_eq!(PropertyList::parse(list.as_bytes().slice(..octets)), Err(FieldError::Truncated));
    }
}

#[test]
fn mutations() {
    let samples = samples();
    let mut random = Random(7);
    for round in 0..40_000 {
        let mut sample = samples[round % samples.len()].to_vec();
        // Mostly in the first frame, where the structure is.
        let reach = sample.len().min(400);
        for _ in 0..=random.below(4) {
            let at = random.below(reach);
            sample[at] = match random.below(3) {
                0 => random.next() as u8,
                1 => sample[at] ^ (1 << random.below(8)),
                _ => [0, 0xFF, 0x7F, 0x80][random.below(4)],
            };
        }
        fuzz_decode(&sample);
        // The same as property list and table, which otherwise only well-formed frames reach.
        fuzz_decode(sample.get(11..).unwrap_or_default());
    }
}

#[test]
fn noise() {
    let mut random = Random(11);
    for _ in 0..20_000 {
        let length = random.below(64);
        let octets: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        fuzz_decode(&octets);
        fuzz_decode(&frame([1, 2, 3, 8][random.below(4)], 1, &octets));
    }
}
