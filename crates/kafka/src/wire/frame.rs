//! Frames: a length of four bytes, then that many bytes.

use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of the length in front of every frame.
pub const LENGTH_BYTES: usize = 4;

/// Why the byte stream is no sequence of frames. The connection cannot be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame length {0} is negative")]
    Negative(i32),
    #[error("frame of {length} bytes is longer than the {limit} allowed")]
    TooLong { length: usize, limit: usize },
}

/// Takes the next whole frame, without its length, off the front of `received`; `None` when more bytes are
/// needed. The length is judged as soon as its four bytes are there, and nothing is reserved for it.
pub fn split_frame(received: &mut BytesMut, max_frame_bytes: usize) -> Result<Option<Bytes>, FrameError> {
    let Some(prefix) = received.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let announced = i32::from_be_bytes(*prefix);
    let length = usize::try_from(announced).map_err(|_| FrameError::Negative(announced))?;
    if length > max_frame_bytes {
        return Err(FrameError::TooLong { length, limit: max_frame_bytes });
    }
    if received.len() - LENGTH_BYTES < length {
        return Ok(None);
    }
    received.advance(LENGTH_BYTES);
    Ok(Some(received.split_to(length).freeze()))
}

/// One frame ready to be sent, its length in front: pieces to be written one after the other. Stored records
/// are pieces of their own and are never copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    pieces: Vec<Bytes>,
    len: usize,
}

impl Frame {
    pub(super) fn new(pieces: Vec<Bytes>) -> Self {
        let len = pieces.iter().map(Bytes::len).sum();
        Self { pieces, len }
    }

    /// Bytes in all pieces, the length included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true of an encoded frame, which has at least its length.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    pub fn into_pieces(self) -> Vec<Bytes> {
        self.pieces
    }

    /// The pieces as a vectored write takes them.
    pub fn io_slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        self.pieces.iter().map(|piece| IoSlice::new(piece))
    }

    /// The frame in one piece; copies when there are several.
    pub fn to_bytes(&self) -> Bytes {
        match self.pieces.as_slice() {
            [only] => only.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_and_in_order() {
        let stream = [0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0, 0, 0, 1, b'c'];
        let mut received = BytesMut::new();
        let mut frames = Vec::new();
        for byte in stream {
            received.extend_from_slice(&[byte]);
            while let Some(frame) = split_frame(&mut received, 2).unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(frames, [&b"ab"[..], b"", b"c"]);
        assert!(received.is_empty());
    }

    #[test]
    fn a_bad_length_is_refused_before_the_body_arrives() {
        let check = |length: i32, expect| {
            let mut received = BytesMut::from(&length.to_be_bytes()[..]);
            let before = received.capacity();
            assert_eq!(split_frame(&mut received, 1000), Err(expect));
            assert_eq!(received.capacity(), before);
        };
        check(-1, FrameError::Negative(-1));
        check(1001, FrameError::TooLong { length: 1001, limit: 1000 });
        check(i32::MAX, FrameError::TooLong { length: i32::MAX as usize, limit: 1000 });
    }
}
