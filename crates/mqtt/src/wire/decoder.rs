//! Cuts packets out of a stream of bytes.

use bytes::{Buf, BytesMut};

use super::connect::Connect;
use super::error::DecodeError;
use super::packet::{Packet, PacketType, ProtocolVersion};
use super::publish::Publish;

/// The largest packet that the protocol can express, in bytes: five bytes of fixed header and the largest
/// remaining length.
pub const PACKET_SIZE_MAX_BYTES: u32 = 5 + super::field::VARIABLE_BYTE_INTEGER_MAX;

/// The largest packet other than PUBLISH that is accepted, in bytes, whatever the maximum packet size. A
/// decoded list of topic filters takes more than ten times its bytes on the wire, so it needs a bound of its
/// own; the largest CONNECT without user properties has under 400 KiB.
pub const CONTROL_PACKET_SIZE_MAX_BYTES: u32 = 1 << 20;

/// The side whose packets are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

/// Decodes one direction of one connection.
#[derive(Clone, Debug)]
pub struct Decoder {
    sender: Sender,
    version: Option<ProtocolVersion>,
    maximum_packet_size: u32,
}

impl Decoder {
    /// Decodes what a client sends. The first packet must be CONNECT, and fixes the version.
    pub fn for_server(maximum_packet_size: u32) -> Self {
        Self { sender: Sender::Client, version: None, maximum_packet_size }
    }

    /// Decodes what a server sends to a client that speaks this version.
    pub fn for_client(version: ProtocolVersion, maximum_packet_size: u32) -> Self {
        Self { sender: Sender::Server, version: Some(version), maximum_packet_size }
    }

    /// Decodes what a client sends after its CONNECT.
    pub fn connected(version: ProtocolVersion, maximum_packet_size: u32) -> Self {
        Self { sender: Sender::Client, version: Some(version), maximum_packet_size }
    }

    /// The version of the connection. On the server's side it is known as soon as a CONNECT with a supported
    /// version was seen, even if that CONNECT was refused for something that came later in it.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// Changes the largest accepted packet, in bytes with its fixed header.
    pub fn set_maximum_packet_size(&mut self, maximum_packet_size: u32) {
        self.maximum_packet_size = maximum_packet_size;
    }

    /// Takes one packet off the front of `buffer`; `None` when more bytes are needed.
    ///
    /// Type, reserved bits and size are checked as soon as the fixed header is there, before the rest is
    /// waited for. After an error the stream has no more packet boundaries: answer with the error's reason
    /// code and close.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(&first_byte) = buffer.first() else { return Ok(None) };
        let packet_type = self.check_first_byte(first_byte)?;
        let Some((header_len, remaining_length)) = self.remaining_length(buffer)? else { return Ok(None) };
        let size = header_len as u32 + remaining_length;
        let maximum = match packet_type {
            PacketType::Publish => self.maximum_packet_size,
            _ => self.maximum_packet_size.min(CONTROL_PACKET_SIZE_MAX_BYTES),
        };
        if size > maximum {
            return Err(DecodeError::PacketTooLarge { size, maximum });
        }
        if buffer.len() < size as usize {
            return Ok(None);
        }
        let mut body = buffer.split_to(size as usize).freeze();
        body.advance(header_len);
        let packet = match self.version {
            // Without the detour over Packet::decode, which costs a PUBLISH two moves of the whole packet.
            Some(version) if packet_type == PacketType::Publish => {
                Packet::Publish(Publish::decode(first_byte & 0x0f, body, version, self.sender)?)
            }
            Some(version) => Packet::decode(packet_type, &body, version, self.sender)?,
            None => Packet::Connect(Box::new(Connect::decode(&body, &mut self.version)?)),
        };
        Ok(Some(packet))
    }

    fn check_first_byte(&self, first_byte: u8) -> Result<PacketType, DecodeError> {
        if self.version.is_none() {
            // [MQTT-3.1.0-1]; anything else on this port (an HTTP request, a TLS hello) ends here.
            return match first_byte {
                0x10 => Ok(PacketType::Connect),
                _ => Err(DecodeError::NotConnect),
            };
        }
        let packet_type = PacketType::decode(first_byte, self.version)?;
        if !packet_type.sent_by(self.sender) || packet_type == PacketType::Connect {
            return Err(DecodeError::UnexpectedPacket(packet_type)); // [MQTT-3.1.0-2] for CONNECT
        }
        packet_type.check_flags(first_byte & 0x0f, self.version)?;
        Ok(packet_type)
    }

    /// Length of the fixed header and value of the remaining length. Only version 5 demands the shortest form
    /// [MQTT-1.5.5-1]; clients of the older ones are known to pad.
    fn remaining_length(&self, buffer: &[u8]) -> Result<Option<(usize, u32)>, DecodeError> {
        let mut value = 0u32;
        for (index, shift) in [(1, 0), (2, 7), (3, 14), (4, 21)] {
            let Some(&byte) = buffer.get(index) else { return Ok(None) };
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let minimal = byte != 0 || shift == 0;
                if !minimal && self.version == Some(ProtocolVersion::V5) {
                    return Err(DecodeError::VariableByteInteger);
                }
                return Ok(Some((index + 1, value)));
            }
        }
        Err(DecodeError::VariableByteInteger)
    }
}
