//! Octets written down from the specification.

use bytes::{Bytes, BytesMut};
use posthaste_amqp::wire::*;

use crate::support::{encoded, short, table};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

/// `method` and the frame in `text` are the same thing.
fn check(method: impl Into<Method>, text: &str) {
    let method = method.into();
    assert_eq!(encoded(&method), hex(text), "{}", method.name());
    let channel = u16::from_be_bytes([hex(text)[1], hex(text)[2]]);
    let frame = FrameReader::default().read(&mut BytesMut::from(&hex(text)[..]), FrameMax::MIN);
    assert_eq!(frame, Ok(Some((channel, Frame::Command(Command::Method(method))))));
}

#[test]
fn methods() {
    check(
        connection::Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 },
        "01 0000 0000000c 000a 001e 07ff 00020000 003c ce",
    );
    check(connection::Open { virtual_host: short("/") }, "01 0000 00000008 000a 0028 01 2f 00 00 ce");
    check(connection::CloseOk {}, "01 0000 00000004 000a 0033 ce");
    check(channel::OpenOk {}, "01 0001 00000008 0014 000b 00000000 ce");
    check(
        channel::Close { reply_code: 404, reply_text: short("NO"), class_id: 50, method_id: 10 },
        "01 0001 0000000d 0014 0028 0194 02 4e4f 0032 000a ce",
    );
    // Bits share an octet, lowest first: durable and auto-delete here.
    let arguments = FieldTable::from_iter([(short("x-expires"), FieldValue::LongInt(1000))]);
    check(
        queue::Declare {
            queue: short("q"),
            durable: true,
            auto_delete: true,
            arguments,
            ..queue::Declare::default()
        },
        "01 0001 0000001c 0032 000a 0000 01 71 0a 0000000f 09 782d65787069726573 49 000003e8 ce",
    );
    check(
        basic::Nack { delivery_tag: 258, multiple: true, requeue: true },
        "01 0001 0000000d 003c 0078 0000000000000102 03 ce",
    );
    check(
        basic::Qos { prefetch_size: 1, prefetch_count: 2, global: true },
        "01 0001 0000000b 003c 000a 00000001 0002 01 ce",
    );
    // Unlike its neighbours, not one above unbind.
    check(exchange::UnbindOk {}, "01 0001 00000004 0028 0033 ce");
    check(confirm::Select { no_wait: true }, "01 0001 00000005 0055 000a 01 ce");
}

#[test]
fn settlements_like_their_methods() {
    for (multiple, requeue) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut out = BytesMut::new();
        encode_ack(&mut out, 1, 1 << 50, multiple);
        assert_eq!(out, encoded(&basic::Ack { delivery_tag: 1 << 50, multiple }.into()));
        out.clear();
        encode_nack(&mut out, 1, 3, multiple, requeue);
        assert_eq!(out, encoded(&basic::Nack { delivery_tag: 3, multiple, requeue }.into()));
        out.clear();
        encode_reject(&mut out, 1, 3, requeue);
        assert_eq!(out, encoded(&basic::Reject { delivery_tag: 3, requeue }.into()));
    }
}

#[test]
fn heartbeat() {
    let mut out = BytesMut::new();
    encode_heartbeat(&mut out);
    assert_eq!(out, hex("08 0000 00000000 ce"));
    assert_eq!(FrameReader::default().read(&mut out, FrameMax::MIN), Ok(Some((0, Frame::Heartbeat))));
}

#[test]
fn publish() {
    let text = "01 0001 0000000c 003c 0028 0000 00 03 712e31 01 ce \
                02 0001 0000000f 003c 0000 0000000000000005 1000 02 ce \
                03 0001 00000005 68656c6c6f ce";
    let publish =
        basic::Publish { exchange: short(""), routing_key: short("q.1"), mandatory: true, immediate: false };
    let properties = BasicProperties { delivery_mode: Some(2), ..BasicProperties::default() };
    let list = PropertyList::from(&properties);
    let body = [Bytes::from_static(b"hello")];
    let mut out = BytesMut::new();
    encode_content(&mut out, 1, &publish, list.as_bytes(), &body, FrameMax::MIN).unwrap();
    assert_eq!(out, hex(text));
    let content = Content { properties: list, body: Bytes::from_static(b"hello").into() };
    let whole = Frame::Command(Command::Content(publish.into(), content));
    assert_eq!(FrameReader::default().read(&mut out, FrameMax::MIN), Ok(Some((1, whole))));
    assert!(out.is_empty());
}

/// Each type tag with its octets; what is read is written again, the tag included.
#[test]
fn field_values() {
    let cases = [
        ("74 01", FieldValue::Boolean(true)),
        ("62 ff", FieldValue::ShortShortInt(-1)),
        ("42 ff", FieldValue::ShortShortUint(255)),
        ("73 ffff", FieldValue::ShortInt(-1)),
        ("75 ffff", FieldValue::ShortUint(65_535)),
        ("49 ffffffff", FieldValue::LongInt(-1)),
        ("69 ffffffff", FieldValue::LongUint(u32::MAX)),
        ("6c ffffffffffffffff", FieldValue::LongLongInt(-1)),
        ("4c ffffffffffffffff", FieldValue::LongLongIntUpper(-1)),
        ("66 3fc00000", FieldValue::Float(1.5)),
        ("64 c002000000000000", FieldValue::Double(-2.25)),
        ("44 02 00007ab7", FieldValue::Decimal(DecimalValue { scale: 2, value: 31_415 })),
        ("53 00000002 6869", FieldValue::LongString(Bytes::from_static(b"hi"))),
        ("41 00000003 56 74 00", FieldValue::Array(vec![FieldValue::Void, FieldValue::Boolean(false)])),
        ("54 000000006553f100", FieldValue::Timestamp(1_700_000_000)),
        ("46 00000000", FieldValue::Table(FieldTable::new())),
        ("56", FieldValue::Void),
        ("78 00000001 ff", FieldValue::ByteArray(Bytes::from_static(&[255]))),
    ];
    for (text, value) in cases {
        let octets = Bytes::from(hex(&format!("01 6b {text}")));
        let table = FieldTable::decode(&octets).unwrap();
        assert_eq!(table.get("k"), Some(&value));
        assert_eq!(table.encode(), octets);
        assert_eq!(value.type_tag(), octets[2]);
    }
}

#[test]
fn duplicate_fields_keep_their_order_and_the_first_counts() {
    let octets = Bytes::from(hex("01 6b 7401 01 61 56 01 6b 7400"));
    let mut table = FieldTable::decode(&octets).unwrap();
    assert_eq!(table.len(), 3);
    assert_eq!(table.get("k"), Some(&FieldValue::Boolean(true)));
    assert_eq!(table.encode(), octets);
    table.insert(short("k"), 1);
    assert_eq!(table.get("k"), Some(&FieldValue::LongInt(1)));
    assert_eq!(table.len(), 3);
    assert!(table.remove("k"));
    assert_eq!(table.len(), 1);
}

#[test]
fn short_strings_keep_octets_that_are_not_utf8() {
    let name = ShortString::new(&b"q\xff\x00"[..]).unwrap();
    let declare = queue::Declare { queue: name.clone(), ..queue::Declare::default() };
    let mut out = encoded(&declare.clone().into());
    assert_eq!(
        FrameReader::default().read(&mut out, FrameMax::MIN),
        Ok(Some((1, Frame::Command(Command::Method(declare.into())))))
    );
    assert!(name.as_str().is_err());
    assert_eq!(name.to_string(), "q\u{fffd}\0");
    assert_eq!(ShortString::new(vec![b'x'; 256]), Err(ShortStringTooLong { octets: 256 }));
    assert_eq!(ShortString::new(vec![b'x'; 255]).map(|s| s.len()), Ok(255));
    assert_eq!(ShortString::truncated(&"ä".repeat(200)).as_str(), Ok(&"ä".repeat(127)[..]));
}

#[test]
fn protocol_header() {
    let check = |text: &[u8], expect: Result<Option<bool>, BadProtocolHeader>| {
        let header = ProtocolHeader::read(&mut BytesMut::from(text));
        assert_eq!(header.map(|header| header.map(ProtocolHeader::is_supported)), expect, "{text:?}");
    };
    check(b"", Ok(None));
    check(b"AM", Ok(None));
    check(b"AMQP\x00\x00\x09", Ok(None));
    check(&PROTOCOL_HEADER, Ok(Some(true)));
    check(b"AMQP\x01\x01\x00\x09", Ok(Some(true)));
    check(b"AMQP\x01\x01\x08\x00", Ok(Some(false)));
    check(b"AMQP\x00\x01\x00\x00", Ok(Some(false)));
    check(b"AMQP\x03\x01\x00\x00", Ok(Some(false)));
    check(b"GET / HTTP/1.1\r\n", Err(BadProtocolHeader));
    check(b"\x16\x03\x01", Err(BadProtocolHeader));
    check(b"AMX", Err(BadProtocolHeader));
}

#[test]
fn frame_max_is_negotiated() {
    assert_eq!(FrameMax::new(4095), None);
    let server = FrameMax::DEFAULT;
    assert_eq!(server.negotiate(0), Ok(server));
    assert_eq!(server.negotiate(4096), Ok(FrameMax::MIN));
    assert_eq!(
        server.negotiate(4095).unwrap_err().to_string(),
        "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)"
    );
    assert_eq!(
        server.negotiate(131_073).unwrap_err().to_string(),
        "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)"
    );
}

#[test]
fn exceptions_read_like_rabbitmq() {
    let name = short("q");
    let queue = Resource { kind: ResourceKind::Queue, name: &name, vhost: "/" };
    let check = |exception: Exception, code: u16, text: &str| {
        assert_eq!((exception.reply_code.code(), exception.to_string()), (code, text.to_owned()));
    };
    check(Exception::not_found(queue), 404, "NOT_FOUND - no queue 'q' in vhost '/'");
    check(
        Exception::in_exclusive_use(queue),
        403,
        "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use",
    );
    check(
        Exception::inequivalent_arg("durable", queue, "'true'", "'false'"),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but \
         current is 'false'",
    );
    check(Exception::unknown_delivery_tag(5), 406, "PRECONDITION_FAILED - unknown delivery tag 5");

    let get = basic::Get::default().method_id();
    let (channel, close) = Exception::not_found(queue).caused_by(get).into_close(3);
    let Method::ChannelClose(close) = close else { panic!("{close:?}") };
    assert_eq!((channel, close.reply_code, close.class_id, close.method_id), (3, 404, 60, 70));
    let (channel, close) = Exception::new(ReplyCode::NotAllowed, "no").into_close(3);
    assert!(matches!((channel, close), (0, Method::ConnectionClose(_))));
    assert_eq!(Exception::new(ReplyCode::InternalError, "é".repeat(300)).reply_text.len(), 255);
}

#[test]
fn properties_are_read_without_decoding() {
    let properties = crate::support::properties();
    let list = PropertyList::from(&properties);
    assert_eq!(PropertyList::parse(list.as_bytes().clone()).as_ref(), Ok(&list));
    assert_eq!(list.decode(), Ok(properties.clone()));
    assert_eq!((list.delivery_mode(), list.priority(), list.is_persistent()), (Some(2), Some(7), true));
    let text = |string: Option<ShortStr<'_>>| string.map(ShortStr::to_short_string);
    assert_eq!(text(list.content_type()), properties.content_type);
    assert_eq!(text(list.content_encoding()), properties.content_encoding);
    assert_eq!(text(list.correlation_id()), properties.correlation_id);
    assert_eq!(text(list.reply_to()), properties.reply_to);
    assert_eq!(text(list.expiration()), properties.expiration);
    assert_eq!(text(list.message_id()), properties.message_id);
    assert_eq!(text(list.user_id()), properties.user_id);
    assert_eq!(list.timestamp(), properties.timestamp);
    assert_eq!(list.headers(), Ok(Some(table())));

    let none = PropertyList::default();
    assert_eq!(none.decode(), Ok(BasicProperties::default()));
    assert_eq!((none.delivery_mode(), none.expiration(), none.headers()), (None, None, Ok(None)));
    assert_eq!(none, PropertyList::from(&BasicProperties::default()));
}

#[test]
fn wrong_property_lists() {
    let parse = |text: &str| PropertyList::parse(hex(text).into()).unwrap_err();
    assert_eq!(parse(""), FieldError::Truncated);
    assert_eq!(parse("8000"), FieldError::Truncated);
    assert_eq!(parse("8000 05 61"), FieldError::Truncated);
    assert_eq!(parse("2000 ffffffff"), FieldError::Truncated);
    assert_eq!(parse("1000 02 00"), FieldError::TrailingOctets { octets: 1 });
    assert_eq!(parse("0001 0000"), FieldError::UnknownPropertyFlags { flags: 1 });
    let list = PropertyList::parse(hex("2000 00000003 01 61 5a").into()).unwrap();
    assert_eq!(list.headers(), Err(FieldError::UnknownTypeTag { tag: b'Z' }));
    assert_eq!(list.decode(), Err(FieldError::UnknownTypeTag { tag: b'Z' }));
}
