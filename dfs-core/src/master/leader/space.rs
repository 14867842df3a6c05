//! Room: what can still be written at N copies, and what goes before a writer is refused.
//!
//! ```text
//!  enough --room below the low-water mark for a while--> short --room above it by a quarter--> enough
//! ```
//! What goes does not come back, so a passing shortage is none: a store that is down counts with its
//! last room until its repair begins, and one that could not tell its room stops the count.
//! While short, with one step under way at a time:
//! 1. stores drop what they keep for comfort, and deleted objects go at once;
//! 2. names deleted first lose their history, as much as is needed to be above the mark again;
//! 3. then old versions go, those written first first;
//! 4. nothing is left: writers are refused.
//!
//! What was deleted and rests on the stores counts as room here: it goes before, of itself.
//!
//! Until 4, stores that have no room tell writers to try again. What was dropped takes a while to be
//! free on the stores: the next step waits until they have been told and the room was measured again.
use super::leading::{Leading, Task};
use super::machine::Master;
use crate::master::command::{Command, OldVersion};
use crate::master::state::namespace::Aged;
use crate::master::state::{StateError, StoreRow};
use crate::types::{NodeId, StoreId, Time};
use crate::wire::master::{SpaceAdvice, StatFsInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Deleted objects stay this long while space is short: a read under way asks again.
const GRACE_SHORT: Duration = Duration::from_secs(1);
/// Room must be below the mark for this long; if there is next to none, it is short at once.
const SHORT_FOR: Duration = Duration::from_secs(3);
/// After the deletions of a step, the time that stores have to free bytes and to say so.
const MEASURE_AGAIN: Duration = Duration::from_millis(1500);
/// After a whole search that found nothing, before the next one.
const BARE_FOR: Duration = Duration::from_secs(30);
/// Bytes are said to be on their way to be freed this long after the last step.
const FREEING: Duration = Duration::from_secs(4);
/// Deleted names looked at for one step.
const NAMES_MAX: usize = 2000;
/// Rows looked at per step for old versions, and versions dropped at most.
const ROWS_MAX: usize = 1000;
const VERSIONS_MAX: usize = 2000;

/// A store with more room than this is not full, however large its device is.
const FULL_BYTES_MAX: u64 = 4 << 30;

/// Free bytes of one node that may become copies.
pub(super) type Rooms = BTreeMap<NodeId, u64>;

/// How space stands in this term.
#[derive(Debug, Default)]
pub(super) struct SpaceWatch {
    is_short: bool,
    /// This leader knows enough to tell.
    is_judged: bool,
    /// Since when room is below the mark.
    below_since: Option<Time>,
    /// The last step that freed something, and the log's time then.
    stepped_at: Option<Time>,
    stepped_log: Option<Time>,
    /// When it was last looked for something to free.
    looked_at: Option<Time>,
    /// Old versions found by the search under way, oldest first.
    found: BTreeSet<Aged>,
    after: Option<Vec<u8>>,
    /// A whole search found nothing that can go, then.
    bare_at: Option<Time>,
}

/// The largest number of bytes of which `n` copies fit, no two on one node.
pub(super) fn writable(rooms: &Rooms, n: usize) -> u64 {
    let mut rooms: Vec<u64> = rooms.values().copied().collect();
    rooms.sort_unstable();
    let copies = n.min(rooms.len());
    // The largest nodes hold a copy of everything; the others share the rest of the copies.
    for whole in 0..copies {
        let rest: u64 = rooms[..rooms.len() - whole].iter().sum();
        let each = rest / (copies - whole) as u64;
        if rooms[rooms.len() - whole - 1] <= each {
            return each;
        }
    }
    rooms.first().copied().unwrap_or(0)
}

impl Master {
    /// Stores that are there, or will be in time.
    fn up_rows<'a>(&'a self, leading: &'a Leading) -> impl Iterator<Item = &'a StoreRow> {
        let (now, grace) = (self.now, self.config.repair_grace);
        let is_gone = move |row: &StoreRow| {
            let down = leading.stores.down.get(&row.store);
            down.is_some_and(|at| now.since(*at) >= grace)
        };
        let rows = self.state.stores().values();
        rows.filter(move |row| !is_gone(row) && !row.draining)
    }

    /// Stores on one device: they share its room.
    fn sharing(&self, leading: &Leading, device: u64) -> u64 {
        let rows = self.up_rows(leading).filter(|r| r.device == device);
        rows.count() as u64
    }

    /// Bytes of a device that rest there, for a store other than `but`, and go before a writer is
    /// refused.
    fn coming(&self, leading: &Leading, device: u64, but: Option<StoreId>) -> u64 {
        let rows = self.up_rows(leading).filter(|row| row.device == device);
        let others = rows.filter(|row| Some(row.store) != but);
        let heard = others.filter_map(|row| leading.stores.heard.get(&row.store));
        // One that has failed lets nothing go any more.
        let heard = heard.filter(|soft| !soft.failed);
        let coming = heard.map(|soft| soft.load.coming_bytes);
        coming.fold(0, u64::saturating_add)
    }

    /// Bytes of a store's device that are free, or come free when what rests there goes. All stores on
    /// it share them.
    pub(super) fn free_on_device(&self, leading: &Leading, row: &StoreRow) -> u64 {
        let Some(soft) = leading.stores.heard.get(&row.store) else {
            return row.free;
        };
        let coming = self.coming(leading, row.device, None);
        soft.free.saturating_add(coming).min(soft.total)
    }

    /// Those of them that objects may take.
    pub(super) fn room(&self, leading: &Leading, row: &StoreRow) -> u64 {
        let soft = leading.stores.heard.get(&row.store);
        let reserve = soft.map_or(0, |soft| soft.load.reserve_bytes);
        self.free_on_device(leading, row).saturating_sub(reserve)
    }

    /// Bytes per node: room, and room with what is used.
    pub(super) fn rooms(&self, leading: &Leading) -> (Rooms, Rooms) {
        let (mut rooms, mut sizes) = (Rooms::new(), Rooms::new());
        for row in self.up_rows(leading) {
            let soft = leading.stores.heard.get(&row.store);
            let used = soft.map_or(row.used, |s| s.used);
            let room = self.room(leading, row) / self.sharing(leading, row.device).max(1);
            let add = |to: &mut Rooms, bytes| {
                let sum = to.entry(row.node).or_default();
                *sum = sum.saturating_add(bytes);
            };
            add(&mut rooms, room);
            add(&mut sizes, room.saturating_add(used));
        }
        (rooms, sizes)
    }

    /// Totals for statfs, as the stores said last. History counts as free: it goes before a writer
    /// is refused.
    pub(super) fn statfs_now(&self) -> Result<StatFsInfo, StateError> {
        let told = self.state.statfs()?;
        let Some(leading) = self.leading.as_deref() else {
            return Ok(told);
        };
        let n = usize::from(self.state.map().quorum.n);
        let (rooms, sizes) = self.rooms(leading);
        let copies = n.min(rooms.len()).max(1) as u64;
        let used: u64 = sizes.values().sum::<u64>() - rooms.values().sum::<u64>();
        let kept = (used / copies).saturating_sub(told.live_bytes);
        let total_bytes = writable(&sizes, n);
        Ok(StatFsInfo {
            total_bytes,
            free_bytes: (writable(&rooms, n) + kept).min(total_bytes),
            ..told
        })
    }

    /// True if not a byte more can be stored, as far as all stores are known: fewer than W nodes have room,
    /// and no history can go.
    pub(super) fn has_no_room(&self, leading: &Leading, told: &StatFsInfo) -> bool {
        let rooms = self.rooms(leading).0;
        let with_room = rooms.values().filter(|room| **room > 0).count();
        let is_judged = leading.space.is_judged && !rooms.is_empty();
        let w = usize::from(self.state.map().quorum.w);
        is_judged && told.free_bytes == 0 && with_room < w.min(rooms.len())
    }

    pub(super) fn space_advice(&self, store: StoreId) -> Result<SpaceAdvice, StateError> {
        let Some(leading) = self.leading.as_deref() else {
            return Ok(SpaceAdvice::default());
        };
        let row = self.state.stores().get(&store);
        let sharing = row.map_or(0, |row| self.sharing(leading, row.device));
        let sharing = u16::try_from(sharing).unwrap_or(u16::MAX);
        // A store knows what rests in it; what others have goes as well.
        let is_coming = row.is_some_and(|row| self.coming(leading, row.device, Some(store)) > 0);
        if !leading.space.is_short {
            // Whether it will be is still open.
            let is_open = !leading.space.is_judged || leading.space.below_since.is_some();
            return Ok(SpaceAdvice {
                sharing,
                freeing: is_coming || is_open,
                ..SpaceAdvice::default()
            });
        }
        let watch = &leading.space;
        let recent = |at: Time| self.now.since(at) < FREEING;
        let more = watch.bare_at.is_none()
            || self.state.delete_queue_len()? > 0
            || !self.state.deleted_bytes(1)?.is_empty();
        Ok(SpaceAdvice {
            short: true,
            freeing: more || is_coming || watch.stepped_at.is_some_and(recent),
            sharing,
        })
    }

    /// How long deleted objects stay.
    pub(super) fn delete_grace_now(&self) -> Duration {
        let is_short = self.leading.as_deref().is_some_and(|l| l.space.is_short);
        match is_short {
            true => self.config.delete_grace.min(GRACE_SHORT),
            false => self.config.delete_grace,
        }
    }

    /// Bytes (before copies) that are to be freed, if space is short.
    fn wanted_bytes(&mut self) -> Option<u64> {
        let n = usize::from(self.state.map().quorum.n);
        let leading = self.leading.as_deref()?;
        let (rooms, sizes) = self.rooms(leading);
        let is_known = |row: &StoreRow| {
            let heard = leading.stores.heard.get(&row.store);
            heard.is_some_and(|soft| soft.total > 0) || leading.stores.down.contains_key(&row.store)
        };
        if rooms.is_empty() || !self.up_rows(leading).all(is_known) {
            return None;
        }
        let now = self.now;
        let (room, size) = (writable(&rooms, n), writable(&sizes, n));
        let mark = self.config.low_water(size);
        let enough = mark + mark / 4;
        let leading = self.leading.as_deref_mut()?;
        let watch = &mut leading.space;
        let is_below = room < if watch.is_short { enough } else { mark };
        let since = is_below.then(|| watch.below_since.unwrap_or(now));
        watch.below_since = since;
        let lasts = since.is_some_and(|at| now.since(at) >= SHORT_FOR) || room < mark / 4;
        if watch.is_short != (is_below && (watch.is_short || lasts)) {
            watch.is_short = !watch.is_short;
            tracing::info!(room, mark, short = watch.is_short, "room for new files");
            leading.stores.news = true;
            if !watch.is_short {
                *watch = SpaceWatch::default();
            }
        }
        watch.is_judged = true;
        watch.is_short.then(|| enough.saturating_sub(room))
    }

    /// One step: see the [module docs](self).
    pub(super) fn free_space(&mut self) -> Result<(), StateError> {
        if self.state.cluster().is_none() {
            return Ok(());
        }
        let Some(wanted) = self.wanted_bytes() else {
            return Ok(());
        };
        let now = self.now;
        let log_now = self.log_now();
        let stepped = self.leading.as_deref().and_then(|l| l.space.stepped_log);
        let is_releasing = match stepped {
            // Queued when the step was applied, a moment after it was proposed.
            Some(at) => self.state.deletes_due(at + Duration::from_secs(1))?,
            None => false,
        };
        let Some(leading) = self.leading.as_deref_mut() else {
            return Ok(());
        };
        let watch = &mut leading.space;
        if is_releasing {
            watch.looked_at = Some(now);
        }
        let looked = watch
            .looked_at
            .is_some_and(|at| now.since(at) < MEASURE_AGAIN);
        if looked || leading.busy.contains(&Task::FreeSpace) {
            return Ok(());
        }
        // A search that goes on is one look.
        if leading.space.after.is_none() {
            leading.space.looked_at = Some(now);
        }
        let (mut names, mut bytes) = (0, 0);
        for size in self.state.deleted_bytes(NAMES_MAX)? {
            if bytes >= wanted {
                break;
            }
            names += 1;
            bytes += size;
        }
        let versions = match bytes < wanted && names < NAMES_MAX as u32 {
            true => self.oldest_versions(wanted - bytes)?,
            false => Vec::new(),
        };
        let Some(leading) = self.leading.as_deref_mut() else {
            return Ok(());
        };
        if names == 0 && versions.is_empty() {
            return Ok(());
        }
        leading.space.bare_at = None;
        (leading.space.stepped_at, leading.space.stepped_log) = (Some(now), Some(log_now));
        tracing::info!(
            names,
            versions = versions.len(),
            "history goes: space is short"
        );
        self.propose_task(Task::FreeSpace, Command::FreeSpace { names, versions });
        Ok(())
    }

    /// Goes on with the search; at its end, the oldest versions of about these bytes.
    fn oldest_versions(&mut self, wanted: u64) -> Result<Vec<OldVersion>, StateError> {
        let Some(leading) = self.leading.as_deref_mut() else {
            return Ok(Vec::new());
        };
        let watch = &mut leading.space;
        let now = self.now;
        if watch.bare_at.is_some_and(|at| now.since(at) < BARE_FOR) {
            return Ok(Vec::new());
        }
        let page = self.state.old_versions(watch.after.as_deref(), ROWS_MAX)?;
        watch.found.extend(page.found);
        while watch.found.len() > VERSIONS_MAX {
            watch.found.pop_last();
        }
        watch.after = page.after;
        if watch.after.is_some() {
            return Ok(Vec::new());
        }
        let mut bytes = 0;
        let oldest = std::mem::take(&mut watch.found).into_iter();
        let enough = oldest.take_while(|aged| {
            let take = bytes < wanted;
            bytes += aged.bytes;
            take
        });
        let versions: Vec<OldVersion> = enough.map(|aged| aged.which).collect();
        watch.bare_at = versions.is_empty().then_some(now);
        Ok(versions)
    }

    /// True if a store has no room for more.
    pub(super) fn is_full(&self, leading: &Leading, store: StoreId) -> bool {
        self.has_less_than(leading, store, 50, FULL_BYTES_MAX)
    }

    /// True if a store has room, but so little that nothing is moved there for balance. Where all
    /// stores are on one device a move takes nobody's room.
    pub(super) fn is_tight(&self, leading: &Leading, store: StoreId) -> bool {
        let mut rows = self.state.stores().values().map(|row| row.device);
        let first = rows.next();
        self.has_less_than(leading, store, 20, FULL_BYTES_MAX * 2) && rows.any(|d| Some(d) != first)
    }

    /// True if the room of a store's device is known, and less than this part of it and than so many
    /// bytes.
    fn has_less_than(&self, leading: &Leading, store: StoreId, part: u64, bytes: u64) -> bool {
        let row = self.state.stores().get(&store);
        let soft = leading.stores.heard.get(&store);
        row.zip(soft)
            .is_some_and(|(row, soft)| self.room(leading, row) < (soft.total / part).min(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(all: &[u64]) -> Rooms {
        (1..).map(NodeId).zip(all.iter().copied()).collect()
    }

    #[test]
    fn what_can_be_written_has_n_copies_on_different_nodes() {
        assert_eq!(writable(&rooms(&[100; 5]), 3), 500 / 3);
        assert_eq!(writable(&rooms(&[100, 100, 1000]), 3), 100);
        assert_eq!(writable(&rooms(&[100, 100, 1000, 1000]), 3), 200);
        assert_eq!(writable(&rooms(&[0, 90, 90, 90]), 3), 90);
        assert_eq!(writable(&rooms(&[0, 0, 90, 90]), 3), 0);
        assert_eq!(writable(&rooms(&[50]), 3), 50, "as many copies as nodes");
        assert_eq!(writable(&rooms(&[]), 3), 0);
    }
}
