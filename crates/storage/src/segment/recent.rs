//! What was read of segments last, by whichever reader: consumers of one queue read what lies together in
//! turn, each a little at a time.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

use super::SegmentId;

/// Larger reads serve one reader, and their memory is not kept. A disk that is busy with commits takes about
/// as long for a little as for much.
pub(super) const PIECE_BYTES_MAX: usize = 1 << 20;
/// Pieces kept at once.
const PIECES_MAX: usize = 8;

#[derive(Default)]
pub(super) struct RecentPieces(Mutex<VecDeque<Piece>>);

/// A stretch of a segment.
struct Piece {
    segment: SegmentId,
    position: u64,
    bytes: Bytes,
}

impl RecentPieces {
    /// What is known from `position` on, if that is at least `bytes`.
    pub fn from(&self, segment: SegmentId, position: u64, bytes: u64) -> Option<Bytes> {
        let pieces = self.0.lock();
        pieces.iter().rev().filter(|piece| piece.segment == segment).find_map(|piece| {
            let at = usize::try_from(position.checked_sub(piece.position)?).ok()?;
            let rest = piece.bytes.len().checked_sub(at)?;
            (rest as u64 >= bytes).then(|| piece.bytes.slice(at..))
        })
    }

    /// Whether a read at `position` goes on where one of them ends, or near that.
    pub fn lead_to(&self, segment: SegmentId, position: u64) -> bool {
        self.0.lock().iter().any(|piece| {
            let reach = piece.position + 2 * piece.bytes.len() as u64;
            piece.segment == segment && (piece.position + 1..=reach).contains(&position)
        })
    }

    pub fn add(&self, segment: SegmentId, position: u64, bytes: Bytes) {
        if bytes.len() > PIECE_BYTES_MAX {
            return;
        }
        let mut pieces = self.0.lock();
        pieces.push_back(Piece { segment, position, bytes });
        let dropped = (pieces.len() > PIECES_MAX).then(|| pieces.pop_front());
        drop(pieces);
        drop(dropped);
    }

    pub fn forget(&self, segment: SegmentId) {
        self.0.lock().retain(|piece| piece.segment != segment);
    }
}
