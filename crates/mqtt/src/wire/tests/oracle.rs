//! The codec of mqtt-protocol-core as a second opinion, on good packets and on damaged ones.

use std::sync::Arc;

use mqtt_protocol_core::mqtt::packet::{v3_1_1, v5_0};

use super::samples::all;
use super::{Random, decode, encode, sender_of};
use crate::wire::*;

/// What the other codec makes of a whole packet: the bytes that it would send for it, or a refusal.
fn oracle(version: ProtocolVersion, packet: &[u8]) -> Option<Vec<u8>> {
    let flags = packet[0] & 0x0f;
    let header_len = 1 + packet[1..].iter().position(|byte| byte & 0x80 == 0)? + 1;
    let body = &packet[header_len..];
    macro_rules! parse {
        ($type:ty) => {{
            let (parsed, consumed) = <$type>::parse(body).ok()?;
            (consumed == body.len()).then(|| parsed.to_continuous_buffer())
        }};
    }
    macro_rules! versions {
        ($name:ident) => {
            if version == ProtocolVersion::V5 { parse!(v5_0::$name) } else { parse!(v3_1_1::$name) }
        };
    }
    match packet[0] >> 4 {
        1 => versions!(Connect),
        2 => versions!(Connack),
        3 if version == ProtocolVersion::V5 => {
            Some(v5_0::Publish::parse(flags, Arc::from(body)).ok()?.0.to_continuous_buffer())
        }
        3 => Some(v3_1_1::Publish::parse(flags, Arc::from(body)).ok()?.0.to_continuous_buffer()),
        4 => versions!(Puback),
        5 => versions!(Pubrec),
        6 => versions!(Pubrel),
        7 => versions!(Pubcomp),
        8 => versions!(Subscribe),
        9 => versions!(Suback),
        10 => versions!(Unsubscribe),
        11 => versions!(Unsuback),
        12 => versions!(Pingreq),
        13 => versions!(Pingresp),
        14 => versions!(Disconnect),
        15 => parse!(v5_0::Auth),
        _ => None,
    }
}

#[test]
fn the_oracle_reads_what_we_write_and_writes_the_same_bytes() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        for packet in all(version) {
            let ours = encode(&packet, version);
            let theirs = oracle(version, &ours);
            assert_eq!(theirs.as_deref(), Some(&ours[..]), "{packet:?}");
        }
    }
}

/// Rules that the specification has and the other codec does not apply.
fn stricter(error: &DecodeError) -> bool {
    matches!(
        error,
        DecodeError::EmptyTopicName
            | DecodeError::NoLocalOnSharedSubscription
            | DecodeError::NulCharacter
            | DecodeError::PacketIdentifierZero
            | DecodeError::PropertyValue(0x08)
            | DecodeError::QoS3
            | DecodeError::ReservedBits(PacketType::Connack | PacketType::Connect | PacketType::Subscribe)
            | DecodeError::SessionPresentOnRefusal
            | DecodeError::TopicFilterInvalid
            | DecodeError::TopicNameInvalid
            | DecodeError::VariableByteInteger
            | DecodeError::WillFlags
    )
}

/// Table 2-6 allows Bad authentication method in DISCONNECT, the table in section 3.14.2.1 does not have it.
fn more_lenient(packet: &Packet) -> bool {
    matches!(packet, Packet::Disconnect(d) if d.reason_code == ReasonCode::BadAuthenticationMethod)
}

#[test]
fn damaged_packets_are_refused_where_the_oracle_refuses_them() {
    let mut random = Random(3);
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        for packet in all(version) {
            let encoded = encode(&packet, version);
            if encoded.len() > 127 {
                continue;
            }
            for _ in 0..2000 {
                let damaged = damage(&encoded, &mut random);
                let ours = decode(&damaged, version, sender_of(&packet));
                let theirs = oracle(version, &damaged);
                match (&ours, theirs) {
                    (Ok(packet), None) => assert!(more_lenient(packet), "{damaged:02x?} {ours:?}"),
                    (Err(error), Some(_)) => {
                        let no_property_length = *error == DecodeError::Truncated && damaged[0] >> 4 == 3;
                        assert!(stricter(error) || no_property_length, "{damaged:02x?} {ours:?}");
                    }
                    (Ok(_), Some(_)) | (Err(_), None) => {}
                }
            }
        }
    }
}

/// Replaces one or two bytes behind the fixed header.
fn damage(encoded: &[u8], random: &mut Random) -> Vec<u8> {
    let mut damaged = encoded.to_vec();
    for _ in 0..=random.below(2) {
        if damaged.len() > 2 {
            let at = 2 + random.below(damaged.len() - 2);
            damaged[at] = random.below(256) as u8;
        }
    }
    damaged
}
