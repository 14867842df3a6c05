//! Byte ranges of one chunk: pure functions over an ascending, non-overlapping list of extents.
use crate::types::Extent;

/// Removes the bytes `from..to` (relative to the chunk), splitting extents that reach over.
pub(super) fn cut(row: &mut Vec<Extent>, from: u32, to: u32) {
    if from >= to {
        return;
    }
    let mut kept = Vec::with_capacity(row.len() + 1);
    for extent in row.drain(..) {
        let end = extent.start + extent.len;
        if end <= from || extent.start >= to {
            kept.push(extent);
            continue;
        }
        if extent.start < from {
            kept.push(Extent {
                len: from - extent.start,
                ..extent.clone()
            });
        }
        if end > to {
            let skipped = to - extent.start;
            kept.push(Extent {
                start: to,
                len: end - to,
                object_offset: extent.object_offset + skipped,
                ..extent
            });
        }
    }
    *row = kept;
}

/// Lays an extent over what is there.
pub(super) fn overlay(row: &mut Vec<Extent>, extent: Extent) {
    cut(row, extent.start, extent.start + extent.len);
    let at = row.partition_point(|e| e.start < extent.start);
    row.insert(at, extent);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClientId, ObjectId, ObjectSum, OpId, PgId};

    fn extent(seq: u64, start: u32, len: u32) -> Extent {
        let op = OpId {
            client: ClientId(1),
            seq,
        };
        Extent {
            start,
            len,
            pg: PgId(0),
            object: ObjectId { op, index: 0 },
            object_offset: 0,
            sum: ObjectSum { len, crc: 0 },
        }
    }

    fn shape(row: &[Extent]) -> Vec<(u64, u32, u32, u32)> {
        let tuple = |e: &Extent| (e.object.op.seq, e.start, e.len, e.object_offset);
        row.iter().map(tuple).collect()
    }

    #[test]
    fn a_write_inside_an_extent_leaves_both_ends_of_it() {
        let mut row = vec![extent(1, 10, 100)];
        overlay(&mut row, extent(2, 40, 20));
        let expected = vec![(1, 10, 30, 0), (2, 40, 20, 0), (1, 60, 50, 50)];
        assert_eq!(shape(&row), expected);
    }

    #[test]
    fn a_cut_takes_whole_extents_and_parts_of_them() {
        let mut row = vec![extent(1, 0, 10), extent(2, 10, 10), extent(3, 30, 10)];
        cut(&mut row, 5, 35);
        assert_eq!(shape(&row), vec![(1, 0, 5, 0), (3, 35, 5, 5)]);
        cut(&mut row, 5, 5);
        assert_eq!(row.len(), 2);
    }
}
