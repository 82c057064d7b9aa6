//! Every malformed input is refused with the reason code that the specification names.

use bytes::BytesMut;

use super::{bytes_of, decode};
use crate::wire::{DecodeError, DecodeError::*, Decoder, PacketType, ProtocolVersion, ReasonCode, Sender};

fn check(version: ProtocolVersion, sender: Sender, packet: &str, error: DecodeError, code: ReasonCode) {
    let bytes = bytes_of(packet);
    assert_eq!(decode(&bytes, version, sender), Err(error), "{packet}");
    assert_eq!(error.reason_code(), code, "{packet}");
}

/// A packet from its first byte and its body, with the right remaining length.
fn packet(first_byte: &str, body: &str) -> String {
    let length = bytes_of(body).len();
    assert!(length < 128, "one byte of remaining length");
    format!("{first_byte} {length:02x} {body}")
}

/// A PUBLISH of version 5 with these properties.
fn publish(properties: &str) -> String {
    packet("30", &format!("00 01 't' {:02x} {properties}", bytes_of(properties).len()))
}

/// A CONNECT of version 5 with these properties and will properties.
fn connect(flags: &str, properties: &str, rest: &str) -> String {
    let length = bytes_of(properties).len();
    packet("10", &format!("00 04 'MQTT' 05 {flags} 00 3c {length:02x} {properties} {rest}"))
}

#[test]
fn malformed_publish_packets() {
    use ReasonCode::{MalformedPacket, ProtocolError, TopicAliasInvalid, TopicNameInvalid};
    let cases = [
        (packet("36", "00 01 't' 00 01 00"), QoS3, MalformedPacket),
        (packet("38", "00 01 't' 00"), DupWithQoS0, MalformedPacket),
        (packet("30", "00 03 'a/+' 00"), TopicNameInvalid_, TopicNameInvalid),
        (packet("30", "00 03 'a/#' 00"), TopicNameInvalid_, TopicNameInvalid),
        (packet("30", "00 00 00"), EmptyTopicName, ProtocolError),
        (packet("30", "00 02 ff fe 00"), InvalidUtf8, MalformedPacket),
        (packet("30", "00 03 ed a0 80 00"), InvalidUtf8, MalformedPacket),
        (packet("30", "00 03 'a' 00 'b' 00"), NulCharacter, MalformedPacket),
        (packet("30", "00 05 'a'"), Truncated, MalformedPacket),
        (packet("32", "00 01 't' 00 00 00"), PacketIdentifierZero, ProtocolError),
        (packet("32", "00 01 't' 00"), Truncated, MalformedPacket),
        (publish("0b 01"), SubscriptionIdentifierFromClient, ProtocolError),
        (publish("23 00 00"), TopicAliasZero, TopicAliasInvalid),
        (publish("01 02"), PropertyValue(1), ProtocolError),
        (publish("01 00 01 01"), DuplicateProperty(1), ProtocolError),
        (publish("02 00 00 00 01 02 00 00 00 01"), DuplicateProperty(2), ProtocolError),
        (publish("03 00 00 03 00 00"), DuplicateProperty(3), ProtocolError),
        (publish("08 00 01 'a' 08 00 01 'a'"), DuplicateProperty(8), ProtocolError),
        (publish("09 00 00 09 00 00"), DuplicateProperty(9), ProtocolError),
        (publish("23 00 01 23 00 01"), DuplicateProperty(0x23), ProtocolError),
        (publish("08 00 03 'a/+'"), PropertyValue(8), ProtocolError),
        (publish("08 00 00"), PropertyValue(8), ProtocolError),
        (publish("11 00 00 00 01"), PropertyNotAllowed(0x11), MalformedPacket),
        (publish("18 00 00 00 01"), PropertyNotAllowed(0x18), MalformedPacket),
        (publish("00"), PropertyNotAllowed(0), MalformedPacket),
        (publish("ff"), PropertyNotAllowed(0xff), MalformedPacket),
        (publish("26 00 01 'a' 00 02 'b'"), Truncated, MalformedPacket),
        (publish("26 00 01 ff 00 00"), InvalidUtf8, MalformedPacket),
        (publish("03 00 01 00"), NulCharacter, MalformedPacket),
        (packet("30", "00 01 't' 05 01"), Truncated, MalformedPacket),
        (packet("30", "00 01 't' 80 00"), VariableByteInteger, MalformedPacket),
        (packet("30", "00 01 't' ff ff ff ff 01"), VariableByteInteger, MalformedPacket),
    ];
    for (bytes, error, code) in cases {
        check(ProtocolVersion::V5, Sender::Client, &bytes, error, code);
    }
    let v3 = ProtocolVersion::V3_1_1;
    check(v3, Sender::Client, &packet("30", "00 00"), EmptyTopicName, ProtocolError);
    check(v3, Sender::Client, &packet("36", "00 01 't' 00 01"), QoS3, MalformedPacket);
}

/// The error and the reason code share a name.
#[allow(non_upper_case_globals)]
const TopicNameInvalid_: DecodeError = DecodeError::TopicNameInvalid;

#[test]
fn malformed_connect_packets() {
    use ReasonCode::{MalformedPacket, ProtocolError, UnsupportedProtocolVersion as Version};
    let cases = [
        (packet("10", "00 04 'MQTX' 05 02 00 3c 00 00 00"), ProtocolName, Version),
        (packet("10", "00 04 'MQTT' 06 02 00 3c 00 00 00"), UnsupportedProtocolVersion(6), Version),
        (packet("10", "00 04 'MQTT' 03 02 00 3c 00 00"), UnsupportedProtocolVersion(3), Version),
        (packet("10", "00 06 'MQIsdp' 04 02 00 3c 00 00"), UnsupportedProtocolVersion(4), Version),
        (packet("11", "00 04 'MQTT' 05 02 00 3c 00 00 00"), NotConnect, ProtocolError),
        (connect("03", "", "00 00"), ReservedBits(PacketType::Connect), MalformedPacket),
        (connect("1e", "", "00 00 00 00 01 't' 00 00"), QoS3, MalformedPacket),
        (connect("0a", "", "00 00"), WillFlags, MalformedPacket),
        (connect("22", "", "00 00"), WillFlags, MalformedPacket),
        (connect("06", "", "00 00 00 00 00 00 00"), EmptyTopicName, ProtocolError),
        (connect("06", "", "00 00 00 00 01 '#' 00 00"), TopicNameInvalid_, ReasonCode::TopicNameInvalid),
        (connect("06", "", "00 00 03 23 00 01 00 01 't' 00 00"), PropertyNotAllowed(0x23), MalformedPacket),
        (
            connect("06", "", "00 00 0a 18 00 00 00 01 18 00 00 00 01 00 01 't' 00 00"),
            DuplicateProperty(0x18),
            ProtocolError,
        ),
        (connect("02", "21 00 00", "00 00"), PropertyValue(0x21), ProtocolError),
        (connect("02", "27 00 00 00 00", "00 00"), PropertyValue(0x27), ProtocolError),
        (connect("02", "17 02", "00 00"), PropertyValue(0x17), ProtocolError),
        (connect("02", "19 02", "00 00"), PropertyValue(0x19), ProtocolError),
        (connect("02", "17 01 17 01", "00 00"), DuplicateProperty(0x17), ProtocolError),
        (connect("02", "21 00 01 21 00 01", "00 00"), DuplicateProperty(0x21), ProtocolError),
        (connect("02", "16 00 00", "00 00"), AuthenticationDataWithoutMethod, ProtocolError),
        (connect("02", "12 00 00", "00 00"), PropertyNotAllowed(0x12), MalformedPacket),
        (connect("02", "", "00 01 ff"), InvalidUtf8, MalformedPacket),
        (connect("02", "", "00 01 00"), NulCharacter, MalformedPacket),
        (connect("02", "", "00 05 'a'"), Truncated, MalformedPacket),
        (connect("02", "", "00 00 00"), TrailingBytes, MalformedPacket),
        (connect("82", "", "00 00"), Truncated, MalformedPacket),
    ];
    for (bytes, error, code) in cases {
        check(ProtocolVersion::V5, Sender::Client, &bytes, error, code);
    }
    let password_only = packet("10", "00 04 'MQTT' 04 42 00 3c 00 00 00 00");
    check(ProtocolVersion::V3_1_1, Sender::Client, &password_only, PasswordWithoutUserName, MalformedPacket);
}

#[test]
fn malformed_subscribe_and_unsubscribe_packets() {
    use ReasonCode::{MalformedPacket, ProtocolError, TopicFilterInvalid as FilterInvalid};
    let v5 = [
        (packet("82", "00 01 00"), NoTopicFilters, ProtocolError),
        (packet("82", "00 00 00 00 01 't' 00"), PacketIdentifierZero, ProtocolError),
        (packet("80", "00 01 00 00 01 't' 00"), ReservedBits(PacketType::Subscribe), MalformedPacket),
        (packet("83", "00 01 00 00 01 't' 00"), ReservedBits(PacketType::Subscribe), MalformedPacket),
        (packet("82", "00 01 00 00 01 't' 03"), SubscriptionQoS3, ProtocolError),
        (packet("82", "00 01 00 00 01 't' 30"), RetainHandling3, ProtocolError),
        (packet("82", "00 01 00 00 01 't' 40"), ReservedBits(PacketType::Subscribe), MalformedPacket),
        (packet("82", "00 01 00 00 01 't' 80"), ReservedBits(PacketType::Subscribe), MalformedPacket),
        (packet("82", "00 01 00 00 0b '$share/g/to' 04"), NoLocalOnSharedSubscription, ProtocolError),
        (packet("82", "00 01 00 00 08 '$share/g' 00"), TopicFilterInvalid, FilterInvalid),
        (packet("82", "00 01 00 00 04 'a/#/' 00"), TopicFilterInvalid, FilterInvalid),
        (packet("82", "00 01 00 00 00 00"), TopicFilterInvalid, FilterInvalid),
        (packet("82", "00 01 00 00 01 't'"), Truncated, MalformedPacket),
        (packet("82", "00 01 02 0b 00 00 01 't' 00"), PropertyValue(0x0b), ProtocolError),
        (packet("82", "00 01 04 0b 01 0b 02 00 01 't' 00"), DuplicateProperty(0x0b), ProtocolError),
        (packet("82", "00 01 03 1f 00 00 00 01 't' 00"), PropertyNotAllowed(0x1f), MalformedPacket),
        (packet("a2", "00 01 00"), NoTopicFilters, ProtocolError),
        (packet("a0", "00 01 00 00 01 't'"), ReservedBits(PacketType::Unsubscribe), MalformedPacket),
        (packet("a2", "00 00 00 00 01 't'"), PacketIdentifierZero, ProtocolError),
        (packet("a2", "00 01 02 0b 01 00 01 't'"), PropertyNotAllowed(0x0b), MalformedPacket),
        (packet("a2", "00 01 00 00 02 'a+'"), TopicFilterInvalid, FilterInvalid),
    ];
    for (bytes, error, code) in v5 {
        check(ProtocolVersion::V5, Sender::Client, &bytes, error, code);
    }
    let v3 = [
        (packet("82", "00 01"), NoTopicFilters, ProtocolError),
        (packet("82", "00 01 00 01 't' 04"), ReservedBits(PacketType::Subscribe), MalformedPacket),
        (packet("82", "00 01 00 01 't' 03"), SubscriptionQoS3, ProtocolError),
        (packet("a2", "00 01"), NoTopicFilters, ProtocolError),
    ];
    for (bytes, error, code) in v3 {
        check(ProtocolVersion::V3_1_1, Sender::Client, &bytes, error, code);
    }
}

#[test]
fn malformed_acknowledgements_and_other_packets() {
    use ReasonCode::{MalformedPacket, ProtocolError};
    let cases = [
        (packet("40", "00 00"), PacketIdentifierZero, ProtocolError),
        (packet("40", "00"), Truncated, MalformedPacket),
        (packet("41", "00 01"), ReservedBits(PacketType::Puback), MalformedPacket),
        (packet("60", "00 01"), ReservedBits(PacketType::Pubrel), MalformedPacket),
        (packet("40", "00 01 92"), ReasonCodeNotAllowed(0x92), ProtocolError),
        (packet("62", "00 01 87"), ReasonCodeNotAllowed(0x87), ProtocolError),
        (packet("40", "00 01 00 00 00"), TrailingBytes, MalformedPacket),
        (packet("40", "00 01 00 06 1f 00 00 1f 00 00"), DuplicateProperty(0x1f), ProtocolError),
        (packet("40", "00 01 00 02 01 00"), PropertyNotAllowed(1), MalformedPacket),
        (packet("c0", "00"), TrailingBytes, MalformedPacket),
        (packet("c1", ""), ReservedBits(PacketType::Pingreq), MalformedPacket),
        (packet("e0", "01"), ReasonCodeNotAllowed(1), ProtocolError),
        (packet("e0", "00 03 12 00 00"), PropertyNotAllowed(0x12), MalformedPacket),
        (packet("e1", ""), ReservedBits(PacketType::Disconnect), MalformedPacket),
        (packet("f0", "18 00"), AuthenticationMethodMissing, ProtocolError),
        (packet("f0", "04 00"), ReasonCodeNotAllowed(4), ProtocolError),
        (packet("00", ""), ReservedPacketType(0), MalformedPacket),
        (packet("20", "00 00 00"), UnexpectedPacket(PacketType::Connack), ProtocolError),
        (packet("90", "00 01 00 00"), UnexpectedPacket(PacketType::Suback), ProtocolError),
        (packet("d0", ""), UnexpectedPacket(PacketType::Pingresp), ProtocolError),
    ];
    for (bytes, error, code) in cases {
        check(ProtocolVersion::V5, Sender::Client, &bytes, error, code);
    }
    let v3 = ProtocolVersion::V3_1_1;
    check(v3, Sender::Client, &packet("f0", ""), ReservedPacketType(15), MalformedPacket);
    check(v3, Sender::Client, &packet("40", "00 01 00"), TrailingBytes, MalformedPacket);
    check(v3, Sender::Client, &packet("e0", "00"), TrailingBytes, MalformedPacket);
    let bad_connack = ReservedBits(PacketType::Connack);
    check(v3, Sender::Server, &packet("20", "02 00"), bad_connack, MalformedPacket);
    check(v3, Sender::Server, &packet("20", "01 05"), SessionPresentOnRefusal, ProtocolError);
    check(v3, Sender::Server, &packet("20", "00 06"), ReasonCodeNotAllowed(6), ProtocolError);
    check(v3, Sender::Server, &packet("90", "00 01 81"), ReasonCodeNotAllowed(0x81), ProtocolError);
}

#[test]
fn a_second_connect_is_a_protocol_error() {
    let mut buffer = bytes_of(&packet("10", "00 04 'MQTT' 04 02 00 3c 00 01 'c'"));
    buffer.extend_from_slice(&buffer.clone());
    let mut decoder = Decoder::for_server(1000);
    assert!(matches!(decoder.decode(&mut buffer), Ok(Some(_))));
    assert_eq!(decoder.decode(&mut buffer), Err(UnexpectedPacket(PacketType::Connect)));
}

#[test]
fn the_version_is_known_even_when_the_rest_of_the_connect_is_malformed() {
    let mut buffer = bytes_of(&connect("03", "", "00 00"));
    let mut decoder = Decoder::for_server(1000);
    assert!(decoder.decode(&mut buffer).is_err());
    assert_eq!(decoder.version(), Some(ProtocolVersion::V5));
}

#[test]
fn size_type_and_flags_are_checked_before_the_body_arrives() {
    let too_large = |size, maximum| PacketTooLarge { size, maximum };
    let cases = [
        ("30 e4 07", Err(too_large(999, 998))),
        ("30 e3 07", Ok(None)),
        ("30 ff ff ff 7f", Err(too_large(268_435_460, 998))),
        ("30 ff ff ff ff", Err(VariableByteInteger)),
        ("30 80 80 80 80 01", Err(VariableByteInteger)),
        ("30 80 00", Err(VariableByteInteger)),
        ("30 ff ff ff", Ok(None)),
        ("30", Ok(None)),
        ("", Ok(None)),
        ("c1", Err(ReservedBits(PacketType::Pingreq))),
        ("d0", Err(UnexpectedPacket(PacketType::Pingresp))),
    ];
    for (text, expect) in cases {
        let mut buffer = bytes_of(text);
        let capacity = buffer.capacity();
        let decoded = Decoder::connected(ProtocolVersion::V5, 998).decode(&mut buffer);
        assert_eq!(decoded, expect, "{text}");
        assert_eq!(buffer.capacity(), capacity, "{text}: nothing may be allocated for what is announced");
    }
    let size = DecodeError::PacketTooLarge { size: 1, maximum: 0 };
    assert_eq!(size.reason_code(), ReasonCode::PacketTooLarge);
}

#[test]
fn control_packets_have_a_limit_of_their_own() {
    let mut buffer = bytes_of("82 ff ff ff 7f");
    let mut decoder = Decoder::connected(ProtocolVersion::V5, u32::MAX);
    let error = PacketTooLarge { size: 268_435_460, maximum: crate::wire::CONTROL_PACKET_SIZE_MAX_BYTES };
    assert_eq!(decoder.decode(&mut buffer), Err(error));
    assert_eq!(decoder.decode(&mut bytes_of("30 ff ff ff 7f")), Ok(None));
}

#[test]
fn what_is_not_mqtt_ends_at_its_first_byte() {
    for start in ["GET / HTTP/1.1", "\u{16}\u{3}\u{1}", "AMQP", "\0\0\0\u{10}"] {
        let mut buffer = BytesMut::from(start);
        assert_eq!(Decoder::for_server(1000).decode(&mut buffer), Err(NotConnect), "{start:?}");
    }
}
