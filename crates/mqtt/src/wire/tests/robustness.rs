//! No input may panic; a packet that has not wholly arrived is not an error.

use bytes::BytesMut;

use super::samples::all;
use super::{Random, VERSIONS, decoder, encode, sender_of};
use crate::wire::*;

#[test]
fn every_packet_arrives_in_pieces_of_any_size() {
    for version in VERSIONS {
        for packet in all(version).into_iter().filter(|packet| encode(packet, version).len() < 1000) {
            let encoded = encode(&packet, version);
            let mut decoder = match packet {
                Packet::Connect(_) => Decoder::for_server(1 << 20),
                _ => decoder(version, sender_of(&packet)),
            };
            let mut buffer = BytesMut::new();
            for (index, byte) in encoded.iter().enumerate() {
                buffer.extend_from_slice(&[*byte]);
                let decoded = decoder.decode(&mut buffer);
                if index + 1 < encoded.len() {
                    assert_eq!(decoded, Ok(None), "{packet:?} after {index} bytes");
                } else {
                    assert_eq!(decoded, Ok(Some(packet.clone())));
                }
            }
        }
    }
}

#[test]
fn several_packets_in_one_read_come_out_one_by_one() {
    for version in VERSIONS {
        let sent: Vec<_> = all(version)
            .into_iter()
            .filter(|packet| sender_of(packet) == Sender::Client && !matches!(packet, Packet::Connect(_)))
            .collect();
        let mut buffer = BytesMut::new();
        for packet in &sent {
            packet.encode(version, &mut buffer).expect("encodes");
        }
        let mut decoder = decoder(version, Sender::Client);
        let mut received = Vec::new();
        while let Some(packet) = decoder.decode(&mut buffer).expect("well-formed") {
            received.push(packet);
        }
        assert_eq!(received, sent);
    }
}

#[test]
fn a_packet_whose_length_says_less_than_its_fields_is_refused() {
    for version in VERSIONS {
        for packet in all(version) {
            let encoded = encode(&packet, version);
            if encoded.len() > 127 {
                continue;
            }
            for shorter in 2..encoded.len() {
                let mut cut = encoded[..shorter].to_vec();
                cut[1] = (shorter - 2) as u8;
                fuzz_decode(&cut);
                let mut decoder = match packet {
                    Packet::Connect(_) => Decoder::for_server(1 << 20),
                    _ => decoder(version, sender_of(&packet)),
                };
                let decoded = decoder.decode(&mut BytesMut::from(&cut[..]));
                assert_ne!(decoded, Ok(None), "the packet is complete as far as its length says");
                assert_ne!(decoded, Ok(Some(packet.clone())));
            }
        }
    }
}

#[test]
fn random_damage_never_panics_and_what_still_decodes_encodes_again() {
    let mut random = Random(1);
    for version in VERSIONS {
        for packet in all(version) {
            let encoded = encode(&packet, version);
            if encoded.len() > 1000 {
                continue;
            }
            for _ in 0..300 {
                let mut damaged = encoded.to_vec();
                for _ in 0..=random.below(3) {
                    let at = random.below(damaged.len());
                    match random.below(4) {
                        0 => damaged[at] = random.below(256) as u8,
                        1 => damaged[at] ^= 1 << random.below(8),
                        2 => damaged.insert(at, random.below(256) as u8),
                        _ => {
                            damaged.remove(at);
                        }
                    }
                    if damaged.is_empty() {
                        break;
                    }
                }
                fuzz_decode(&damaged);
            }
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random(2);
    for _ in 0..20_000 {
        let length = random.below(60);
        let bytes: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        fuzz_decode(&bytes);
    }
}
