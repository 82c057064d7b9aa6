//! Content: division into frames, assembly, and what goes wrong there.

use bytes::{Bytes, BytesMut};
use posthaste_amqp::wire::*;

use crate::support::{
    channel_of, commands, content_methods, encoded, encoded_content, methods, properties, short,
};

fn body_of(octets: usize) -> Bytes {
    (0..octets).map(|index| (index * 31 % 251) as u8).collect()
}

fn publish() -> ContentMethod {
    basic::Publish::default().into()
}

#[test]
fn methods_survive() {
    for method in methods() {
        assert_eq!(commands(encoded(&method), FrameMax::DEFAULT), [Command::Method(method)]);
    }
}

#[test]
fn bodies_of_all_sizes_survive() {
    let list = PropertyList::from(&properties());
    let payload = 4096 - 8;
    for octets in [0, 1, 100, payload - 1, payload, payload + 1, 2 * payload, 2 * payload + 1, 50_000] {
        let body = body_of(octets);
        for method in content_methods() {
            let out = encoded_content(&method, &list, std::slice::from_ref(&body), FrameMax::MIN);
            let content = Content { properties: list.clone(), body: body.clone().into() };
            assert_eq!(commands(out, FrameMax::MIN), [Command::Content(method, content)], "{octets}");
        }
    }
}

#[test]
fn no_frame_exceeds_frame_max_and_empty_bodies_have_none() {
    let count = |octets: usize| {
        let out = encoded_content(&publish(), &PropertyList::default(), &[body_of(octets)], FrameMax::MIN);
        let (mut rest, mut frames) = (&out[..], 0);
        while let Some(head) = rest.first_chunk::<7>() {
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 8;
            assert!(size <= 4096);
            rest = &rest[size..];
            frames += 1;
        }
        frames - 2
    };
    assert_eq!([0, 1, 4088, 4089, 8176, 8177].map(count), [0, 1, 1, 2, 2, 3]);
}

/// The pieces a body is held in leave no trace on the wire, nor do chunks.
#[test]
fn pieces_and_chunks_make_the_same_frames() {
    let whole = body_of(40_000);
    let pieces: Vec<Bytes> = [0, 1, 1, 5000, 5000, 9000, 9001, 39_999, 40_000]
        .windows(2)
        .map(|range| whole.slice(range[0]..range[1]))
        .collect();
    for frame_max in [4096, 16_384, 131_072].map(|octets| FrameMax::new(octets).unwrap()) {
        let list = PropertyList::from(&properties());
        let expect = encoded_content(&publish(), &list, std::slice::from_ref(&whole), frame_max);
        assert_eq!(encoded_content(&publish(), &list, &pieces, frame_max), expect);
        let mut chunks = Chunks::default();
        encode_heartbeat(chunks.buffer());
        encode_content(&mut chunks, 1, &publish(), list.as_bytes(), &pieces, frame_max).unwrap();
        encode_ack(chunks.buffer(), 1, 1, false);
        assert_eq!(chunks.len(), 8 + expect.len() + 21);
        let mut joined = BytesMut::new();
        while let Some(chunk) = chunks.pop() {
            joined.extend_from_slice(&chunk);
        }
        assert!(chunks.is_empty());
        assert_eq!(joined[8..8 + expect.len()], expect[..]);
    }
}

#[test]
fn large_bodies_are_not_copied() {
    let body = body_of(100_000);
    let mut chunks = Chunks::default();
    let bodies = std::slice::from_ref(&body);
    encode_content(&mut chunks, 1, &publish(), &[0, 0], bodies, FrameMax::DEFAULT).unwrap();
    let shared = std::iter::from_fn(|| chunks.pop()).any(|chunk| chunk.as_ptr() == body.as_ptr());
    assert!(shared);

    let mut input = encoded_content(&publish(), &PropertyList::default(), bodies, FrameMax::DEFAULT);
    let read = input.as_ptr_range();
    let frame = FrameReader::default().read(&mut input, FrameMax::DEFAULT).unwrap();
    let Some((1, Frame::Command(Command::Content(_, content)))) = frame else { panic!("{frame:?}") };
    let received = content.body.into_bytes();
    assert!(read.contains(&received.as_ptr()));
    assert_eq!(received, body);
}

#[test]
fn borrowed_methods_encode_like_owned_ones() {
    let list = PropertyList::default();
    for method in content_methods() {
        let expect = encoded_content(&method, &list, &[], FrameMax::MIN);
        let mut out = BytesMut::new();
        match &method {
            ContentMethod::Publish(m) => {
                let (exchange, routing_key) = ((&m.exchange).into(), (&m.routing_key).into());
                let m = PublishRef { exchange, routing_key, mandatory: m.mandatory, immediate: m.immediate };
                encode_content(&mut out, 1, &m, list.as_bytes(), &[], FrameMax::MIN)
            }
            ContentMethod::Deliver(m) => {
                let m = DeliverRef {
                    consumer_tag: (&m.consumer_tag).into(),
                    delivery_tag: m.delivery_tag,
                    redelivered: m.redelivered,
                    exchange: (&m.exchange).into(),
                    routing_key: (&m.routing_key).into(),
                };
                encode_content(&mut out, 1, &m, list.as_bytes(), &[], FrameMax::MIN)
            }
            ContentMethod::GetOk(m) => {
                let m = GetOkRef {
                    delivery_tag: m.delivery_tag,
                    redelivered: m.redelivered,
                    exchange: (&m.exchange).into(),
                    routing_key: (&m.routing_key).into(),
                    message_count: m.message_count,
                };
                encode_content(&mut out, 1, &m, list.as_bytes(), &[], FrameMax::MIN)
            }
            ContentMethod::Return(_) => continue,
        }
        .unwrap();
        assert_eq!(out, expect, "{}", method.name());
    }
}

/// What cannot be divided and does not fit is refused, and leaves nothing behind.
#[test]
fn oversized_methods_and_headers_are_refused() {
    let mut out = BytesMut::from(&b"before"[..]);
    let secure = connection::Secure { challenge: vec![0; 5000].into() };
    let error = encode_method(&mut out, 0, &secure, FrameMax::MIN).unwrap_err();
    assert_eq!((error.octets, error.frame_max), (5016, 4096));
    let mut headers = FieldTable::new();
    headers.push(short("big"), "x".repeat(5000));
    let list = PropertyList::from(&BasicProperties { headers: Some(headers), ..BasicProperties::default() });
    let body = [body_of(10)];
    assert!(encode_content(&mut out, 1, &publish(), list.as_bytes(), &body, FrameMax::MIN).is_err());
    assert_eq!(out, "before");
    assert!(encode_content(&mut out, 1, &publish(), list.as_bytes(), &body, FrameMax::DEFAULT).is_ok());
}

/// However a stream is cut into reads, the same commands come out.
#[test]
fn reads_of_any_size_make_the_same_commands() {
    let list = PropertyList::from(&properties());
    let mut stream = BytesMut::new();
    for method in methods().into_iter().filter(|method| channel_of(method) == 1) {
        stream.extend_from_slice(&encoded(&method));
    }
    for (octets, method) in [0, 3, 5000, 9000].into_iter().zip(content_methods()) {
        stream.extend_from_slice(&encoded_content(&method, &list, &[body_of(octets)], FrameMax::MIN));
    }
    let expect = commands(stream.clone(), FrameMax::MIN);
    for step in [1, 2, 7, 64, 1000, 4097] {
        let (mut reader, mut assembler) = (FrameReader::default(), Assembler::new(u64::MAX));
        let (mut input, mut got) = (BytesMut::new(), Vec::new());
        for piece in stream.chunks(step) {
            input.extend_from_slice(piece);
            while let Some((_, frame)) = reader.read(&mut input, FrameMax::MIN).unwrap() {
                got.extend(assembler.push(frame).unwrap());
            }
        }
        assert_eq!(got, expect, "{step}");
        assert!(input.is_empty());
    }
}

/// Channels may interleave their content frames (AMQP 4.2.6).
#[test]
fn channels_interleave() {
    let body = body_of(6000);
    let frames = |channel: u16| {
        let mut out = BytesMut::new();
        let list = PropertyList::default();
        let bodies = std::slice::from_ref(&body);
        encode_content(&mut out, channel, &publish(), list.as_bytes(), bodies, FrameMax::MIN).unwrap();
        let mut frames = Vec::new();
        while let Some(head) = out.first_chunk::<7>() {
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 8;
            frames.push(out.split_to(size));
        }
        frames
    };
    let mut input: BytesMut =
        frames(1).into_iter().zip(frames(2)).flat_map(|(a, b)| [a, b]).flatten().collect();
    let mut assemblers = [Assembler::new(u64::MAX), Assembler::new(u64::MAX)];
    let (mut reader, mut done) = (FrameReader::default(), Vec::new());
    while let Some((channel, frame)) = reader.read(&mut input, FrameMax::MIN).unwrap() {
        if let Some(Command::Content(_, content)) = assemblers[usize::from(channel) - 1].push(frame).unwrap()
        {
            assert_eq!(content.body.clone().into_bytes(), body);
            done.push(channel);
        }
    }
    assert_eq!(done, [1, 2]);
}

/// A body in one-octet frames is held in about its own size.
#[test]
fn tiny_fragments_are_gathered() {
    let mut assembler = Assembler::new(u64::MAX);
    let header = ContentHeader { body_size: 100_000, properties: PropertyList::default() };
    assert_eq!(assembler.push(Frame::ContentMethod(publish())), Ok(None));
    assert_eq!(assembler.push(Frame::Header(header)), Ok(None));
    let body = body_of(100_000);
    let mut command = None;
    for at in 0..body.len() {
        assert_eq!(assembler.buffered_octets(), at);
        command = assembler.push(Frame::Body(body.slice(at..at + 1))).unwrap();
    }
    let Some(Command::Content(_, content)) = command else { panic!("incomplete") };
    assert_eq!(content.body.parts().len(), 1);
    assert_eq!(content.body.into_bytes(), body);
    assert_eq!(assembler.buffered_octets(), 0);
}

#[test]
fn frames_out_of_order() {
    let header = |body_size| Frame::Header(ContentHeader { body_size, properties: PropertyList::default() });
    let body = |octets| Frame::Body(body_of(octets));
    let begin = || Frame::ContentMethod(publish());
    let whole = || {
        let content = Content { properties: PropertyList::default(), body: body_of(11).into() };
        Frame::Command(Command::Content(publish(), content))
    };
    let method = publish().method_id();
    let check = |frames: Vec<Frame>, expect: AssembleError, reply_code: ReplyCode| {
        let mut assembler = Assembler::new(10);
        let results: Vec<_> = frames.into_iter().map(|frame| assembler.push(frame)).collect();
        let (last, before) = results.split_last().unwrap();
        assert!(before.iter().all(|result| *result == Ok(None)), "{results:?}");
        assert_eq!(*last, Err(expect));
        assert_eq!(expect.exception().reply_code, reply_code);
        // The next command is read as if nothing had been.
        assert!(matches!(assembler.push(Frame::Command(Command::Method(tx::Select {}.into()))), Ok(Some(_))));
    };
    let unexpected = ReplyCode::UnexpectedFrame;
    check(vec![header(1)], AssembleError::ExpectedMethod, unexpected);
    check(vec![body(1)], AssembleError::ExpectedMethod, unexpected);
    check(vec![begin(), body(1)], AssembleError::ExpectedHeader { method }, unexpected);
    check(vec![begin(), begin()], AssembleError::ExpectedHeader { method }, unexpected);
    check(vec![begin(), whole()], AssembleError::ExpectedHeader { method }, unexpected);
    check(vec![begin(), header(2), header(2)], AssembleError::ExpectedBody { method }, unexpected);
    check(vec![begin(), header(2), begin()], AssembleError::ExpectedBody { method }, unexpected);
    check(vec![begin(), header(2), body(1), whole()], AssembleError::ExpectedBody { method }, unexpected);
    check(
        vec![begin(), header(2), body(1), body(2)],
        AssembleError::BodyExceedsHeader { method },
        ReplyCode::FrameError,
    );
    let too_large = AssembleError::BodyTooLarge { method, body_size: 11, body_size_max: 10 };
    check(vec![begin(), header(11)], too_large, ReplyCode::PreconditionFailed);
    check(vec![whole()], too_large, ReplyCode::PreconditionFailed);
    let exception = too_large.exception();
    assert_eq!(
        exception.to_string(),
        "PRECONDITION_FAILED - message size 11 is larger than configured max size 10"
    );
    assert_eq!(exception.into_close(4).0, 4);
}
