//! A file's content as pieces of objects, laid over each other in the order in which they were put.
use crate::types::{ObjectId, ObjectSum};
use std::collections::BTreeMap;

/// A run of bytes of one object at its place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The object.
    pub object: ObjectId,
    /// Where the run begins in it.
    pub from: u64,
    /// The object's identity.
    pub sum: ObjectSum,
}

/// Pieces that do not overlap; what is between them is a hole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// By first byte.
    pieces: BTreeMap<u64, Piece>,
}

impl Content {
    /// Lays a piece over what is there.
    pub fn lay(&mut self, piece: Piece) {
        self.clear(piece.offset, piece.offset.saturating_add(piece.len));
        if piece.len > 0 {
            self.pieces.insert(piece.offset, piece);
        }
    }

    /// Makes a hole of `start..end`.
    pub fn clear(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let before = self.pieces.range(..start).next_back().map(|(_, p)| *p);
        let within = self.pieces.range(start..end).map(|(_, p)| *p);
        let touched: Vec<Piece> = before.into_iter().chain(within).collect();
        for piece in touched {
            let piece_end = piece.offset + piece.len;
            if piece_end <= start {
                continue;
            }
            self.pieces.remove(&piece.offset);
            if piece.offset < start {
                let len = start - piece.offset;
                self.pieces.insert(piece.offset, Piece { len, ..piece });
            }
            if piece_end > end {
                let cut = end - piece.offset;
                let rest = Piece {
                    offset: end,
                    len: piece_end - end,
                    from: piece.from + cut,
                    ..piece
                };
                self.pieces.insert(end, rest);
            }
        }
    }

    /// The pieces, ascending.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.values()
    }

    /// End of the last piece.
    #[must_use]
    pub fn end(&self) -> u64 {
        let last = self.pieces.values().next_back();
        last.map_or(0, |piece| piece.offset + piece.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u64, len: u64, index: u32) -> Piece {
        let object = ObjectId {
            index,
            ..ObjectId::default()
        };
        Piece {
            offset,
            len,
            object,
            from: 100,
            sum: ObjectSum::default(),
        }
    }

    #[test]
    fn later_pieces_cover_earlier_ones_byte_by_byte() {
        let mut seed = 7u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let mut content = Content::default();
            let mut bytes: Vec<Option<(u32, u64)>> = vec![None; 64];
            for index in 0..20 {
                let (start, len) = (random(50), 1 + random(14));
                if random(5) == 0 {
                    content.clear(start, start + len);
                    bytes[start as usize..(start + len) as usize].fill(None);
                    continue;
                }
                content.lay(piece(start, len, index));
                for at in 0..len {
                    bytes[(start + at) as usize] = Some((index, 100 + at));
                }
            }
            let mut seen = vec![None; 64];
            for piece in content.pieces() {
                for at in 0..piece.len {
                    let place = &mut seen[(piece.offset + at) as usize];
                    assert_eq!(*place, None, "pieces overlap");
                    *place = Some((piece.object.index, piece.from + at));
                }
            }
            assert_eq!(seen, bytes);
            let end = bytes
                .iter()
                .rposition(Option::is_some)
                .map_or(0, |at| at + 1);
            assert_eq!(content.end(), end as u64);
        }
    }
}
