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

/// Puts `whole` in the place of what is left of `was`: an extent of the row goes if one of `was`
/// (ascending) holds the same bytes at the same place. Neighbours that come to lie in `whole` become
/// one. Answers whether any did.
pub(super) fn substitute(row: &mut Vec<Extent>, was: &[Extent], whole: &Extent) -> bool {
    let within = |outer: &Extent, inner: &Extent| {
        outer.start <= inner.start
            && u64::from(inner.start) + u64::from(inner.len)
                <= u64::from(outer.start) + u64::from(outer.len)
    };
    let mut is_used = false;
    let mut new: Vec<Extent> = Vec::with_capacity(row.len());
    for mut extent in row.drain(..) {
        let at = was.partition_point(|w| w.start <= extent.start);
        let same = at.checked_sub(1).map(|at| &was[at]).filter(|w| {
            let skipped = extent.start - w.start;
            w.object == extent.object
                && w.object_offset.checked_add(skipped) == Some(extent.object_offset)
                && within(w, &extent)
                && within(whole, w)
        });
        if same.is_some() {
            is_used = true;
            let offset = whole.object_offset + (extent.start - whole.start);
            let joins =
                |e: &&mut Extent| e.object == whole.object && e.start + e.len == extent.start;
            if let Some(before) = new.last_mut().filter(joins) {
                before.len += extent.len;
                continue;
            }
            extent = Extent {
                start: extent.start,
                len: extent.len,
                object_offset: offset,
                ..whole.clone()
            };
        }
        new.push(extent);
    }
    *row = new;
    is_used
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

    #[test]
    fn a_compacted_object_takes_the_place_of_what_is_left_of_the_extents_it_was_made_of() {
        let was = vec![
            extent(1, 0, 10),
            extent(2, 10, 10),
            extent(3, 20, 10),
            extent(4, 40, 10),
        ];
        let whole = extent(9, 0, 50);
        let mut row = was.clone();
        assert!(substitute(&mut row, &was, &whole));
        assert_eq!(
            shape(&row),
            vec![(9, 0, 30, 0), (9, 40, 10, 40)],
            "a hole stays"
        );

        let mut row = was.clone();
        overlay(&mut row, extent(5, 15, 10));
        cut(&mut row, 45, 50);
        row.push(extent(6, 50, 10));
        assert!(substitute(&mut row, &was, &whole));
        let newer = vec![
            (9, 0, 15, 0),
            (5, 15, 10, 0),
            (9, 25, 5, 25),
            (9, 40, 5, 40),
            (6, 50, 10, 0),
        ];
        assert_eq!(shape(&row), newer, "what came later stays");
        assert!(!substitute(&mut row, &was, &whole));
        assert_eq!(shape(&row), newer);

        let mut row = was.clone();
        assert!(substitute(&mut row, &was, &extent(9, 10, 20)));
        let inner = vec![(1, 0, 10, 0), (9, 10, 20, 0), (4, 40, 10, 0)];
        assert_eq!(shape(&row), inner, "only what lies in the object");
    }
}
