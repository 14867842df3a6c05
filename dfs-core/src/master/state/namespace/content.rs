//! What a change makes of a file's content: new rows per chunk, the new size, where it landed.
//!
//! Nothing is written here. [`plan`] reads the current version and computes; the commit decides
//! which version takes the result.
use super::extents;
use super::read;
use super::records::Inode;
use super::tx::Tx;
use super::versions::{self, ChangeKind};
use crate::master::state::{ApplyError, StateError};
use crate::types::layout::FILE_SIZE_MAX;
use crate::types::{CHUNK_SIZE, ChunkNo, Extent, Ino, VersionNo};
use crate::wire::{Change, ErrorCode, PutExtent, WireError};
use std::collections::BTreeMap;

const LAST_CHUNK: ChunkNo = ChunkNo(u32::MAX);

/// The effect of one change.
#[derive(Debug)]
pub(super) struct Plan {
    /// New contents of chunks, only of those that change.
    pub rows: BTreeMap<ChunkNo, Vec<Extent>>,
    /// New size.
    pub size: u64,
    /// First byte written.
    pub offset: u64,
    /// Where the new objects' bytes landed.
    pub placed: Vec<(ChunkNo, Extent)>,
    pub kind: ChangeKind,
}

/// The prepared ranges of a change.
pub(super) fn puts(change: &Change) -> &[PutExtent] {
    match change {
        Change::Write { puts } | Change::Append { puts, .. } | Change::Replace { puts, .. } => puts,
        Change::Compact { put, .. } => std::slice::from_ref(&**put),
        _ => &[],
    }
}

/// Checks that the ranges make sense: whole objects of this op, ascending, inside their chunks.
pub(super) fn check_puts(tx: &Tx<'_>, change: &Change) -> Result<(), ApplyError> {
    let mut end = match change {
        Change::Append { at, .. } => Some(*at),
        _ => None,
    };
    let is_append = end.is_some();
    let mut seen = std::collections::BTreeSet::new();
    for put in puts(change) {
        let start = put.chunk.start() + u64::from(put.start);
        let in_chunk = u64::from(put.start) + u64::from(put.len) <= CHUNK_SIZE;
        let follows = end.is_none_or(|end| {
            if is_append {
                start == end
            } else {
                start >= end
            }
        });
        let is_whole = put.len > 0 && put.sum.len == put.len;
        let is_own = put.object.op == tx.op && seen.insert(put.object.index);
        if !(in_chunk && follows && is_whole && is_own) {
            let detail = format!("range at byte {start} of {} makes no sense", put.object);
            return Err(WireError::new(ErrorCode::Invalid, detail).into());
        }
        end = Some(start + u64::from(put.len));
    }
    Ok(())
}

/// Computes a change of the newest content.
pub(super) fn plan(
    tx: &Tx<'_>,
    ino: Ino,
    inode: &Inode,
    change: &Change,
) -> Result<Plan, ApplyError> {
    let planner = Planner { tx, ino, inode };
    let plan = match change {
        Change::Write { puts } => planner.write(puts, 0)?,
        Change::Append { at, puts } => {
            let shift = i128::from(inode.size) - i128::from(*at);
            let mut plan = planner.write(puts, shift)?;
            plan.offset = inode.size;
            plan
        }
        Change::Truncate { size } => planner.truncate(*size)?,
        Change::Punch { offset, len } => planner.punch(*offset, *len)?,
        Change::Extend { size } => Plan {
            size: inode.size.max(*size),
            ..planner.nothing(ChangeKind::Write)
        },
        Change::Replace { puts, size } => planner.replace(puts, *size)?,
        Change::Restore {
            from,
            inode_version,
        } => planner.restore(*from, *inode_version)?,
        Change::Compact { put, was } => planner.compact(put, was)?,
    };
    if plan.size > FILE_SIZE_MAX {
        return Err(ErrorCode::FileTooBig.into());
    }
    Ok(plan)
}

struct Planner<'a, 'b> {
    tx: &'a Tx<'b>,
    ino: Ino,
    inode: &'a Inode,
}

impl Planner<'_, '_> {
    fn nothing(&self, kind: ChangeKind) -> Plan {
        Plan {
            rows: BTreeMap::new(),
            size: self.inode.size,
            offset: 0,
            placed: Vec::new(),
            kind,
        }
    }

    fn row(&self, chunk: ChunkNo) -> Result<Vec<Extent>, StateError> {
        let row = read::row_at(&self.tx.kv, self.ino, chunk, self.inode.version)?;
        Ok(row.map(|(_, extents)| extents).unwrap_or_default())
    }

    fn rows(&self, first: ChunkNo, last: ChunkNo) -> Result<Rows, StateError> {
        read::rows_at(&self.tx.kv, self.ino, self.inode.version, first, last)
    }

    /// Lays prepared ranges, moved by `shift` bytes, over the content.
    fn write(&self, puts: &[PutExtent], shift: i128) -> Result<Plan, ApplyError> {
        let mut plan = self.nothing(ChangeKind::Write);
        plan.placed = self.place(puts, shift)?;
        for (chunk, extent) in &plan.placed {
            if !plan.rows.contains_key(chunk) {
                plan.rows.insert(*chunk, self.row(*chunk)?);
            }
            if let Some(row) = plan.rows.get_mut(chunk) {
                extents::overlay(row, extent.clone());
            }
        }
        let start = |(chunk, e): &(ChunkNo, Extent)| chunk.start() + u64::from(e.start);
        plan.offset = plan.placed.first().map_or(0, start);
        let end = plan.placed.last().map(|p| start(p) + u64::from(p.1.len));
        plan.size = plan.size.max(end.unwrap_or(0));
        Ok(plan)
    }

    /// The extents of prepared ranges, split where a shifted one crosses into the next chunk. Each
    /// keeps the PG that its object was prepared in.
    fn place(&self, puts: &[PutExtent], shift: i128) -> Result<Vec<(ChunkNo, Extent)>, ApplyError> {
        let mut placed = Vec::with_capacity(puts.len());
        for put in puts {
            let pg = self.tx.pg_of(self.ino, put.chunk);
            let wanted = i128::from(put.chunk.start()) + i128::from(put.start) + shift;
            let mut at = u64::try_from(wanted).map_err(|_| ErrorCode::Invalid)?;
            if at.saturating_add(u64::from(put.len)) > FILE_SIZE_MAX {
                return Err(ErrorCode::FileTooBig.into());
            }
            let mut done = 0;
            while done < put.len {
                let chunk = ChunkNo::of(at);
                // Both fit: a chunk has 4 MiB.
                let start = (at - chunk.start()) as u32;
                let len = (put.len - done).min(CHUNK_SIZE as u32 - start);
                let extent = Extent {
                    start,
                    len,
                    pg,
                    object: put.object,
                    object_offset: done,
                    sum: put.sum,
                };
                placed.push((chunk, extent));
                done += len;
                at += u64::from(len);
            }
        }
        Ok(placed)
    }

    fn truncate(&self, size: u64) -> Result<Plan, ApplyError> {
        let mut plan = self.nothing(ChangeKind::Truncate);
        if size < plan.size {
            self.cut(&mut plan, size, u64::MAX)?;
        }
        plan.size = size;
        Ok(plan)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<Plan, ApplyError> {
        let mut plan = self.nothing(ChangeKind::Write);
        self.cut(&mut plan, offset, offset.saturating_add(len))?;
        plan.offset = offset;
        Ok(plan)
    }

    /// Cuts the bytes `from..to` of the file.
    fn cut(&self, plan: &mut Plan, from: u64, to: u64) -> Result<(), StateError> {
        let last = ChunkNo::of(to.saturating_sub(1));
        for (chunk, mut row) in self.rows(ChunkNo::of(from), last)? {
            let before = read::covered(&row);
            let within = |at: u64| at.saturating_sub(chunk.start()).min(CHUNK_SIZE) as u32;
            extents::cut(&mut row, within(from), within(to));
            if read::covered(&row) != before {
                plan.rows.insert(chunk, row);
            }
        }
        Ok(())
    }

    fn replace(&self, puts: &[PutExtent], size: u64) -> Result<Plan, ApplyError> {
        let mut plan = self.nothing(ChangeKind::Replace);
        plan.placed = self.place(puts, 0)?;
        for (chunk, extent) in &plan.placed {
            if chunk.start() + u64::from(extent.start + extent.len) > size {
                let detail = "a range lies beyond the new size";
                return Err(WireError::new(ErrorCode::Invalid, detail).into());
            }
        }
        for (chunk, _) in self.rows(ChunkNo::HOME, LAST_CHUNK)? {
            plan.rows.insert(chunk, Vec::new());
        }
        for (chunk, extent) in &plan.placed {
            let row = plan.rows.entry(*chunk).or_default();
            row.push(extent.clone());
        }
        plan.size = size;
        Ok(plan)
    }

    fn restore(&self, from: Ino, version: VersionNo) -> Result<Plan, ApplyError> {
        let kv = &self.tx.kv;
        let source = self.tx.inode(from)?;
        let Some(facts) = versions::facts(kv, from, &source, version)? else {
            let detail = format!("version {version} of inode {from} is not kept");
            return Err(WireError::new(ErrorCode::NotFound, detail).into());
        };
        let mut plan = self.nothing(ChangeKind::Restore);
        let mut current: BTreeMap<_, _> =
            self.rows(ChunkNo::HOME, LAST_CHUNK)?.into_iter().collect();
        for (chunk, row) in read::rows_at(kv, from, version, ChunkNo::HOME, LAST_CHUNK)? {
            if current.remove(&chunk).as_ref() != Some(&row) {
                plan.rows.insert(chunk, row);
            }
        }
        plan.rows
            .extend(current.into_keys().map(|c| (c, Vec::new())));
        plan.size = facts.size;
        Ok(plan)
    }

    fn compact(&self, put: &PutExtent, was: &[Extent]) -> Result<Plan, ApplyError> {
        let mut plan = self.nothing(ChangeKind::Compact);
        let mut row = self.row(put.chunk)?;
        for (chunk, whole) in self.place(std::slice::from_ref(put), 0)? {
            if extents::substitute(&mut row, was, &whole) {
                plan.placed.push((chunk, whole));
            }
        }
        if !plan.placed.is_empty() {
            plan.rows.insert(put.chunk, row);
        }
        Ok(plan)
    }
}

type Rows = Vec<(ChunkNo, Vec<Extent>)>;
