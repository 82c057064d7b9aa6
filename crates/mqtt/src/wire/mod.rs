//! The MQTT codec for versions 3.1 (`MQIsdp`), 3.1.1 and 5.
//!
//! All versions share one packet type, [`Packet`]; the version is data. [`Decoder`] cuts packets out of a
//! read buffer: topics and payloads are slices of that buffer, nothing is copied on the path of a PUBLISH.
//! [`Packet::encode_head`] writes everything but the payload of a PUBLISH and returns the payload, so that it
//! can be a chunk of its own in a vectored write.

mod ack;
mod auth;
mod connack;
mod connect;
mod decoder;
mod disconnect;
mod error;
mod field;
mod forwarded;
mod packet;
mod property;
mod publish;
mod reason_code;
mod subscribe;
#[cfg(test)]
mod tests;
mod topic;
mod unsubscribe;

pub use ack::{Ack, ReasonProperties};
pub use auth::{Auth, AuthProperties};
pub use bytestring::ByteString;
pub use connack::{Connack, ConnackProperties};
pub use connect::{Connect, ConnectProperties, Will};
pub use decoder::{CONTROL_PACKET_SIZE_MAX_BYTES, Decoder, PACKET_SIZE_MAX_BYTES, Sender};
pub use disconnect::{Disconnect, DisconnectProperties};
pub use error::{DecodeError, EncodeError};
pub use forwarded::{ForwardedProperties, ForwardedPropertiesBuilder};
pub use packet::{Packet, PacketIdentifier, PacketType, ProtocolVersion, QoS};
pub use property::{Property, UserProperties};
pub use publish::{Publish, PublishProperties};
pub use reason_code::ReasonCode;
pub use subscribe::{RetainHandling, Suback, Subscribe, SubscriptionIdentifier, SubscriptionOptions};
pub use topic::{TopicFilter, check_topic_name};
pub use unsubscribe::{Unsuback, Unsubscribe};

/// Drives every decoder on arbitrary bytes, as server and as client of each version.
///
/// What decodes must encode again, and the result must decode to the same packet.
pub fn fuzz_decode(data: &[u8]) {
    let versions = [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1, ProtocolVersion::V5];
    let mut decoders = vec![Decoder::for_server(PACKET_SIZE_MAX_BYTES)];
    for version in versions {
        decoders.push(Decoder::for_client(version, PACKET_SIZE_MAX_BYTES));
        decoders.push(Decoder::connected(version, PACKET_SIZE_MAX_BYTES));
    }
    for mut decoder in decoders {
        let mut buffer = bytes::BytesMut::from(data);
        while let Ok(Some(packet)) = decoder.decode(&mut buffer) {
            let Some(version) = decoder.version() else { return };
            let mut encoded = bytes::BytesMut::new();
            if packet.encode(version, &mut encoded).is_err() {
                continue;
            }
            let mut again = match packet {
                Packet::Connect(_) => Decoder::for_server(PACKET_SIZE_MAX_BYTES),
                _ => decoder.clone(),
            };
            let decoded = again.decode(&mut encoded);
            assert_eq!(decoded.as_ref(), Ok(&Some(packet)), "an encoded packet must decode to itself");
        }
    }
    if let Ok(properties) = ForwardedProperties::parse(bytes::Bytes::copy_from_slice(data)) {
        assert!(properties.iter().count() <= data.len());
    }
}
