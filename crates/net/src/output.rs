//! What is to be written to a peer.

use bytes::{Buf, Bytes, BytesMut};
use std::{collections::VecDeque, io::IoSlice};

/// Bytes and chunks, in order. Chunks are written from where they are.
#[derive(Debug, Default)]
pub struct Output {
    chunks: VecDeque<Bytes>,
    chunk_bytes: usize,
    tail: BytesMut,
}

/// Pieces written at a time.
const SLICES: usize = 64;

impl Output {
    /// Smaller chunks are cheaper copied than written on their own.
    pub const COPIED_BYTES: usize = 512;

    pub fn new() -> Output {
        Output::default()
    }

    /// For small writes.
    pub fn bytes(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// For payloads: not copied, unless they are small.
    pub fn chunk(&mut self, chunk: Bytes) {
        if chunk.len() <= Self::COPIED_BYTES {
            return self.tail.extend_from_slice(&chunk);
        }
        self.seal();
        self.chunk_bytes += chunk.len();
        self.chunks.push_back(chunk);
    }

    /// All of it in the pieces in which it would be written, to be shared by several outputs.
    pub fn into_chunks(mut self) -> impl Iterator<Item = Bytes> {
        self.seal();
        self.chunks.into_iter()
    }

    /// Bytes that wait to be written.
    pub fn len(&self) -> usize {
        self.chunk_bytes + self.tail.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it as one piece, for tests.
    pub fn take(&mut self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.len());
        for chunk in self.chunks.drain(..) {
            all.extend_from_slice(&chunk);
        }
        all.extend_from_slice(&self.tail.split());
        self.chunk_bytes = 0;
        all.freeze()
    }

    /// Lets go of buffers, if they are empty.
    pub(crate) fn give_back(&mut self) {
        if self.is_empty() {
            *self = Output::new();
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.chunk_bytes += self.tail.len();
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    /// The first pieces, for a vectored write.
    pub(crate) fn slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        self.seal();
        let mut count = 0;
        for (slot, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slot = IoSlice::new(chunk);
            count += 1;
        }
        count
    }

    /// That many bytes were written.
    pub(crate) fn advance(&mut self, mut written: usize) {
        self.chunk_bytes -= written.min(self.chunk_bytes);
        while let Some(front) = self.chunks.front_mut() {
            if written < front.len() {
                return front.advance(written);
            }
            written -= front.len();
            self.chunks.pop_front();
        }
    }
}

pub(crate) const SLICES_MAX: usize = SLICES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_through_partial_writes() {
        let mut out = Output::new();
        let mut expect = Vec::new();
        for n in 0..40u8 {
            let chunk = Bytes::from(vec![n; usize::from(n) * 100]);
            expect.extend_from_slice(&[n]);
            out.bytes().extend_from_slice(&[n]);
            expect.extend_from_slice(&chunk);
            out.chunk(chunk);
        }
        assert_eq!(out.len(), expect.len());
        let mut written = Vec::new();
        for step in (1..).step_by(97) {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = out.slices(&mut slices);
            let flat: Vec<u8> = slices[..count].iter().flat_map(|s| s.iter().copied()).collect();
            let taken = step.min(flat.len());
            written.extend_from_slice(&flat[..taken]);
            out.advance(taken);
            if out.is_empty() {
                break;
            }
        }
        assert_eq!(written, expect);
    }
}
