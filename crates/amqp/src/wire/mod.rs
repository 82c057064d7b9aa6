//! The AMQP 0-9-1 codec, in both directions: no I/O, no clock, no broker.
//!
//! Inbound: [`ProtocolHeader::read`], then [`FrameReader`] takes frames out of a read buffer, and one
//! [`Assembler`] per channel makes a [`Command`] of a method and the content frames that follow it. Strings,
//! property lists and bodies are slices of the read buffer, so whoever keeps one for long copies it out first
//! ([`ShortString::detached`]).
//!
//! Outbound: [`encode_method`], [`encode_content`] and friends append to an [`Output`], which keeps large
//! bodies as shared chunks for vectored writes.
//!
//! Every fault of the peer is a variant of [`FrameError`] or [`AssembleError`], and knows the [`Exception`]
//! that answers it.

mod content;
mod encode;
mod field_table;
mod frame;
mod methods;
mod properties;
mod reader;
mod reply_code;
mod short_string;
mod writer;

pub use content::{AssembleError, Assembler, Body, Command, Content};
pub use encode::{
    Chunks, DeliverRef, FrameTooLarge, GetOkRef, INLINE_BODY_OCTETS_MAX, Output, PublishRef, encode_ack,
    encode_content, encode_heartbeat, encode_method, encode_nack, encode_reject,
};
pub use field_table::{DecimalValue, FieldTable, FieldValue, TABLE_DEPTH_MAX, TABLE_VALUES_MAX};
pub use frame::{
    BadProtocolHeader, ContentHeader, FRAME_OVERHEAD_OCTETS, Frame, FrameError, FrameMax, FrameMaxRefused,
    FrameReader, FrameType, PROTOCOL_HEADER, ProtocolHeader,
};
pub use methods::{
    ContentMethod, EncodeMethod, Method, MethodId, access, basic, channel, confirm, connection, exchange,
    queue, tx,
};
pub use properties::{BasicProperties, PropertyList};
pub use reader::FieldError;
pub use reply_code::{Exception, ReplyCode, Resource, ResourceKind};
pub use short_string::{ShortStr, ShortString, ShortStringTooLong};

use bytes::{Bytes, BytesMut};

/// Drives every decoder on arbitrary octets, and checks that what was decoded survives encoding and decoding.
/// For fuzzing: it panics only when the codec is wrong.
pub fn fuzz_decode(data: &[u8]) {
    let _ = ProtocolHeader::read(&mut BytesMut::from(data));
    let octets = Bytes::copy_from_slice(data);
    if let Ok(table) = FieldTable::decode(&octets) {
        let once = table.encode();
        let again = FieldTable::decode(&once).map(|table| table.encode());
        assert_eq!(again, Ok(once));
    }
    if let Ok(list) = PropertyList::parse(octets) {
        assert_eq!(list.check_headers(|_| {}), list.headers().map(|_| ()));
    }
    if let Ok(list) = PropertyList::parse(Bytes::copy_from_slice(data))
        && let Ok(properties) = list.decode()
    {
        let once = PropertyList::from(&properties);
        assert_eq!(PropertyList::parse(once.as_bytes().clone()), Ok(once));
    }
    fuzz_frames(data);
}

fn fuzz_frames(data: &[u8]) {
    let mut input = BytesMut::from(data);
    let mut reader = FrameReader::default();
    let mut assembler = Assembler::new(1 << 20);
    while let Ok(Some((channel, frame))) = reader.read(&mut input, FrameMax::MIN) {
        let mut out = BytesMut::new();
        match assembler.push(frame) {
            Ok(Some(Command::Method(method))) => {
                // Wider than what was read, since a boolean may have been read from, say, 0x02.
                let _ = encode_method(&mut out, channel, &method, FrameMax::DEFAULT);
            }
            Ok(Some(Command::Content(method, content))) => {
                assert_eq!(
                    content.body.len() as u64,
                    content.body.parts().iter().map(|p| p.len() as u64).sum::<u64>()
                );
                let (list, body) = (content.properties.as_bytes(), content.body.parts());
                let _ = encode_content(&mut out, channel, &method, list, body, FrameMax::DEFAULT);
            }
            Ok(None) => continue,
            Err(_) => return,
        }
        assert!(matches!(FrameReader::default().read(&mut out, FrameMax::DEFAULT), Ok(Some(_))));
    }
}
