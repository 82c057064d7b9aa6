//! A will as text, so that it can be kept with its session over a restart.

use bytes::BytesMut;

use crate::wire::{Connect, Decoder, PACKET_SIZE_MAX_BYTES, Packet, ProtocolVersion, Will};

/// Bytes of a will that can be kept: in hexadecimal digits it takes twice as many of a session's settings.
pub(crate) const BYTES_MAX: usize = 256 << 10;

/// Whether a will can be kept.
pub(crate) fn fits(will: &Will) -> bool {
    encode(will).is_some_and(|text| text.len() <= 2 * BYTES_MAX)
}

/// A CONNECT with nothing but the will, in hexadecimal digits.
pub(crate) fn encode(will: &Will) -> Option<String> {
    let mut connect = Connect::new(ProtocolVersion::V5, "");
    connect.will = Some(will.clone());
    let mut bytes = BytesMut::new();
    Packet::Connect(Box::new(connect)).encode(ProtocolVersion::V5, &mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) fn decode(text: &str) -> Option<Will> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    let bytes: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
    let mut bytes = BytesMut::from(bytes?.as_slice());
    match Decoder::for_server(PACKET_SIZE_MAX_BYTES).decode(&mut bytes) {
        Ok(Some(Packet::Connect(connect))) => connect.will,
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{ForwardedProperties, QoS};

    #[test]
    fn comes_back() {
        let mut forwarded = ForwardedProperties::builder();
        forwarded.user_property("a", "ä").unwrap();
        let will = Will {
            qos: QoS::AtLeastOnce,
            retain: true,
            will_delay_interval: 5,
            message_expiry_interval: Some(7),
            forwarded: forwarded.build(),
            topic: "a/b".into(),
            payload: bytes::Bytes::from_static(b"\x00\xff"),
        };
        assert_eq!(decode(&encode(&will).unwrap()), Some(will));
        for text in ["", "0", "zz", "1000", "ä"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
