mod oracle;
mod rejections;
mod robustness;
mod round_trips;
mod samples;
mod topics;

use bytes::BytesMut;

use super::{DecodeError, Decoder, Packet, ProtocolVersion, Sender};

const VERSIONS: [ProtocolVersion; 3] = [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1, ProtocolVersion::V5];

/// Parses `"10 0c 00 04"`; text in single quotes stands for its bytes.
fn bytes_of(text: &str) -> BytesMut {
    let mut bytes = BytesMut::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        for byte in part.split_whitespace() {
            bytes.extend_from_slice(&[u8::from_str_radix(byte, 16).expect("a hexadecimal byte")]);
        }
    }
    bytes
}

fn decoder(version: ProtocolVersion, sender: Sender) -> Decoder {
    match sender {
        Sender::Client => Decoder::connected(version, 1 << 20),
        Sender::Server => Decoder::for_client(version, 1 << 20),
    }
}

/// Decodes one packet that is wholly there.
fn decode(packet: &[u8], version: ProtocolVersion, sender: Sender) -> Result<Packet, DecodeError> {
    let mut buffer = BytesMut::from(packet);
    let mut decoder = match (packet.first(), sender) {
        (Some(0x10..=0x1f), Sender::Client) => Decoder::for_server(1 << 20),
        _ => decoder(version, sender),
    };
    let decoded = decoder.decode(&mut buffer)?.expect("a whole packet");
    assert!(buffer.is_empty(), "nothing may be left over");
    Ok(decoded)
}

fn encode(packet: &Packet, version: ProtocolVersion) -> BytesMut {
    let mut out = BytesMut::new();
    packet.encode(version, &mut out).expect("the sample must encode");
    out
}

/// The side that sends this packet; where both may, the client.
fn sender_of(packet: &Packet) -> Sender {
    let only_server = !packet.packet_type().sent_by(Sender::Client);
    let server_property =
        matches!(packet, Packet::Publish(p) if !p.properties.subscription_identifiers.is_empty());
    if only_server || server_property { Sender::Server } else { Sender::Client }
}

/// A small deterministic generator (SplitMix64), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}
