//! What takes the space of each node, to the last block.
//!
//! 1. The leader says, group by group, the bytes of the objects that newest contents and older versions
//!    refer to: *wanted* at every member.
//! 2. Each store says the bytes of the objects that it *holds*, group by group, as its rows say.
//! 3. Each node measures its data directory file by file.
//!
//! Held and wanted is *live* or *version*, live first where a group is not complete; held and not wanted
//! waits for its deletion, as files do that no row names: with the free pages of the tables they are
//! *reclaimable*. *Metadata* is headers, tables, journal, log and snapshots of the namespace, without
//! the bytes of small objects, which lie in the tables or on the way there.
//!
//! Nothing is set to what is left over, so the parts are the whole only if rows and files agree: a row
//! without its file makes their sum too large.
use dfs_core::client::{Client, ClientError};
use dfs_core::types::{PgId, PgMap, StoreId};
use dfs_core::wire::master::{GroupBytes, MasterRequest, MasterResponse, StoreInfo};
use dfs_core::wire::node::DiskUse;
use dfs_core::wire::replica::StoreUsage;
use dfs_core::wire::{NodeRequest, NodeResponse, ReplicaRequest, ReplicaResponse};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Between two looks whether a store has counted what was written last.
const AGAIN: Duration = Duration::from_millis(250);

/// Bytes of one node, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct NodeSpace {
    /// Of objects that newest contents refer to.
    pub live: u64,
    /// Of objects that only older or deleted versions refer to.
    pub version: u64,
    /// Of deleted objects that rest before their bytes go.
    pub quarantine: u64,
    /// What can be had back: the three parts below.
    pub reclaimable: u64,
    /// Headers, tables, journal, log, snapshots of the namespace.
    pub metadata: u64,
    /// Kept to go on with when the device is full.
    pub ballast: u64,
    /// Stores that were set aside because of damage.
    pub set_aside: u64,
    /// All of the above, and `unsettled`.
    pub sum: u64,
    /// All blocks of the data directory.
    pub total: u64,
    /// Of `reclaimable`: objects that nothing refers to.
    pub unreferenced: u64,
    /// Of `reclaimable`: files that no row names.
    pub unnamed_files: u64,
    /// Of `reclaimable`: pages of the tables.
    pub free_pages: u64,
    /// Bytes of objects that should be here and are not.
    pub missing: u64,
    /// Bytes that came after the store last counted what it holds; nothing is known of them yet.
    pub unsettled: u64,
    /// The store has counted all that it holds.
    pub is_settled: bool,
}

/// What a store should hold.
#[derive(Debug, Default)]
pub struct Wanted(BTreeMap<StoreId, BTreeMap<PgId, GroupBytes>>);

impl Wanted {
    fn new(map: &PgMap, groups: &BTreeMap<PgId, GroupBytes>) -> Self {
        let mut wanted = Self::default();
        for (pg, bytes) in groups {
            let info = map.pgs.get(usize::from(pg.0));
            for store in info.into_iter().flat_map(|info| &info.members) {
                wanted.0.entry(*store).or_default().insert(*pg, *bytes);
            }
        }
        wanted
    }
}

/// Puts the bytes of a node into their parts. See the [module docs](self).
#[must_use]
pub fn account(
    wanted: &BTreeMap<PgId, GroupBytes>,
    usage: &StoreUsage,
    disk: &DiskUse,
) -> NodeSpace {
    let held = &usage.held;
    let mut space = NodeSpace {
        quarantine: usage.quarantine_bytes,
        ballast: disk.ballast,
        set_aside: disk.set_aside,
        total: disk.total,
        is_settled: held.is_current,
        ..NodeSpace::default()
    };
    let mut listed = 0;
    let mut seen = 0;
    for (pg, bytes) in &held.groups {
        let want = wanted.get(pg).copied().unwrap_or_default();
        let live = want.live.min(*bytes);
        let version = want.version.min(bytes - live);
        space.live += live;
        space.version += version;
        space.unreferenced += bytes - live - version;
        seen += live + version;
        listed += bytes;
    }
    let all: u64 = wanted.values().map(|want| want.live + want.version).sum();
    space.missing = all.saturating_sub(seen);
    // Bytes that are here without being on the list.
    let known = listed + held.namespace;
    let unlisted = usage.used_bytes.saturating_sub(known);
    let small = held.in_tables + held.namespace_in_tables;
    let resting_small = held.quarantine_in_tables;
    let resting_files = usage.quarantine_bytes.saturating_sub(resting_small);
    let in_files = usage.used_bytes.saturating_sub(small) + resting_files;
    let unnamed = disk.objects.saturating_sub(in_files);
    if held.is_current {
        space.unreferenced += unlisted;
        space.unnamed_files = unnamed;
    } else {
        space.unsettled = unlisted + unnamed;
        // What went since the count was referred to by nothing.
        let gone = known.saturating_sub(usage.used_bytes);
        space.unreferenced -= gone.min(space.unreferenced);
    }
    space.free_pages = disk.tables.free + disk.voter_tables.free;
    space.reclaimable = space.unreferenced + space.unnamed_files + space.free_pages;
    let tables = (disk.tables.total - disk.tables.free) + disk.journal;
    let voter = (disk.voter_tables.total - disk.voter_tables.free) + disk.voter_log;
    let bare = tables.saturating_sub(small + resting_small);
    space.metadata = disk.padding + bare + voter + disk.other + held.namespace;
    space.sum = space.live
        + space.version
        + space.quarantine
        + space.reclaimable
        + space.metadata
        + space.ballast
        + space.set_aside
        + space.unsettled;
    space
}

/// The space of these stores' nodes, or why a node did not tell `within` this time; the leader has as
/// long again. With `settle`, what was written last is waited for.
///
/// # Errors
/// The leader does not tell in time.
pub async fn of_nodes(
    client: &Arc<Client>,
    stores: &[StoreInfo],
    within: Duration,
    settle: bool,
) -> anyhow::Result<BTreeMap<StoreId, Result<NodeSpace, String>>> {
    let deadline = Instant::now() + within;
    let mut asked = JoinSet::new();
    for info in stores {
        let (client, store, addr) = (Arc::clone(client), info.store, info.addr);
        asked.spawn(async move {
            (
                store,
                measured(&client, (store, addr), deadline, settle).await,
            )
        });
    }
    let map = client.pg_map().await?;
    let mut told = Vec::new();
    while let Some(one) = asked.join_next().await {
        told.push(one?);
    }
    // Last, so that what was written meanwhile is wanted, and not held to be superfluous.
    let wanted = Wanted::new(&map, &groups(client, Instant::now() + within).await?);
    let none = BTreeMap::new();
    let one = |(store, answer): (StoreId, anyhow::Result<(StoreUsage, DiskUse)>)| {
        let wanted = wanted.0.get(&store).unwrap_or(&none);
        let space = answer.map(|(usage, disk)| account(wanted, &usage, &disk));
        (store, space.map_err(|e| format!("{e:#}")))
    };
    Ok(told.into_iter().map(one).collect())
}

/// Bytes of newest contents and of older versions, by group.
async fn groups(client: &Client, deadline: Instant) -> anyhow::Result<BTreeMap<PgId, GroupBytes>> {
    let mut all: BTreeMap<PgId, GroupBytes> = BTreeMap::new();
    let (mut several, mut after) = (Vec::new(), None);
    loop {
        let within = deadline.saturating_duration_since(Instant::now());
        let make = |_| MasterRequest::GroupSpace { after };
        let answer = client.master_call(make, within).await?;
        let MasterResponse::GroupSpace {
            groups,
            shared,
            next,
        } = answer
        else {
            return Err(ClientError::Mismatch { asked: "space" }.into());
        };
        for bytes in groups {
            let sum = all.entry(bytes.pg).or_default();
            sum.pg = bytes.pg;
            sum.live += bytes.live;
            sum.version += bytes.version;
        }
        several.extend(shared);
        after = next;
        if after.is_none() {
            GroupBytes::add_shared(&mut all, several);
            return Ok(all);
        }
    }
}

async fn measured(
    client: &Client,
    (store, addr): (StoreId, SocketAddr),
    deadline: Instant,
    settle: bool,
) -> anyhow::Result<(StoreUsage, DiskUse)> {
    loop {
        let within = deadline.saturating_duration_since(Instant::now());
        let disk = client.node_call_within(addr, NodeRequest::DiskUse, within);
        let NodeResponse::DiskUse(disk) = disk.await? else {
            return Err(ClientError::Mismatch { asked: "disk use" }.into());
        };
        let usage = client.store_call(addr, ReplicaRequest::Usage, within);
        let ReplicaResponse::Usage(usage) = usage.await? else {
            return Err(ClientError::Mismatch { asked: "usage" }.into());
        };
        if usage.store != store {
            anyhow::bail!("store {} is served there now", usage.store);
        }
        let is_late = Instant::now() + 2 * AGAIN > deadline;
        if usage.held.is_current || !settle || is_late {
            return Ok((usage, disk));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_core::wire::node::TableSpace;
    use dfs_core::wire::replica::HeldBytes;

    const WHOLE: (u64, u64) = (1000, 300);

    fn wanted() -> BTreeMap<PgId, GroupBytes> {
        let one = |(pg, (live, version))| {
            (
                PgId(pg),
                GroupBytes {
                    pg: PgId(pg),
                    live,
                    version,
                },
            )
        };
        [(1, WHOLE), (2, (50_000, 0))].map(one).into()
    }

    /// A store that holds all it should: 1300 small bytes, 50,000 in a file, a snapshot of 70,100.
    fn usage() -> StoreUsage {
        StoreUsage {
            used_bytes: 1300 + 50_000 + 70_100,
            held: HeldBytes {
                groups: vec![(PgId(1), 1300), (PgId(2), 50_000)],
                in_tables: 1300,
                namespace: 70_100,
                namespace_in_tables: 100,
                is_current: true,
                ..HeldBytes::default()
            },
            ..StoreUsage::default()
        }
    }

    fn disk() -> DiskUse {
        let mut disk = DiskUse {
            objects: 50_000 + 70_000,
            padding: 11_000,
            tables: TableSpace {
                total: 90_000,
                free: 20_000,
            },
            journal: 8192,
            voter_tables: TableSpace {
                total: 40_000,
                free: 10_000,
            },
            voter_log: 4096,
            ballast: 65_536,
            other: 20_480,
            set_aside: 4096,
            total: 0,
        };
        disk.total = disk.objects + disk.padding + 90_000 + 8192 + 40_000 + 4096;
        disk.total += disk.ballast + disk.other + disk.set_aside;
        disk
    }

    #[test]
    fn a_node_that_holds_what_it_should_has_nothing_superfluous_and_all_parts_are_the_whole() {
        let space = account(&wanted(), &usage(), &disk());
        assert_eq!((space.live, space.version), (51_000, 300));
        assert_eq!((space.unreferenced, space.unnamed_files), (0, 0));
        assert_eq!((space.reclaimable, space.free_pages), (30_000, 30_000));
        assert_eq!((space.missing, space.sum), (0, space.total));
        let metadata = 11_000 + 70_000 + 8192 - 1400 + 30_000 + 4096 + 20_480 + 70_100;
        assert_eq!(space.metadata, metadata);
    }

    #[test]
    fn what_nothing_refers_to_is_reclaimable_by_group_and_hides_nothing_that_is_missing() {
        let mut usage = usage();
        let mut disk = disk();
        // Group 2 has lost its file and is about to fetch it; group 9 is another node's by now.
        usage.held.groups = vec![(PgId(1), 1300), (PgId(9), 50_000)];
        let space = account(&wanted(), &usage, &disk);
        assert_eq!((space.live, space.version), (1000, 300));
        assert_eq!((space.unreferenced, space.missing), (50_000, 50_000));
        assert_eq!(space.sum, space.total);
        // A file that no row names, and bytes that no list names.
        disk.objects += 7000;
        disk.total += 7000;
        usage.held.groups.pop();
        let space = account(&wanted(), &usage, &disk);
        assert_eq!((space.unnamed_files, space.unreferenced), (7000, 50_000));
        assert_eq!(space.sum, space.total);
    }

    #[test]
    fn what_rests_is_its_own_part_of_files_and_tables() {
        let (mut usage, mut disk) = (usage(), disk());
        let before = account(&wanted(), &usage, &disk);
        // 600 bytes in the tables, 40,000 in a file.
        (usage.quarantine_bytes, usage.held.quarantine_in_tables) = (40_600, 600);
        disk.objects += 40_000;
        disk.tables.total += 600;
        disk.total += 40_600;
        let space = account(&wanted(), &usage, &disk);
        assert_eq!((space.quarantine, space.unnamed_files), (40_600, 0));
        assert_eq!((space.live, space.metadata), (before.live, before.metadata));
        assert_eq!(space.sum, space.total);
    }

    #[test]
    fn what_was_written_since_the_last_count_is_not_called_reclaimable() {
        let (mut usage, mut disk) = (usage(), disk());
        usage.held.is_current = false;
        usage.used_bytes += 9000;
        disk.objects += 9000;
        disk.total += 9000;
        let space = account(&wanted(), &usage, &disk);
        assert_eq!((space.unsettled, space.reclaimable), (9000, 30_000));
        assert_eq!(space.sum, space.total);
        usage.held.is_current = true;
        assert_eq!(account(&wanted(), &usage, &disk).unreferenced, 9000);
    }

    #[test]
    fn regression_what_was_deleted_since_the_last_count_is_not_counted_twice() {
        let (mut usage, mut disk) = (usage(), disk());
        // Group 2 has lost 30,000 bytes of versions, in one file, which rests.
        usage.held.groups[1].1 += 30_000;
        usage.held.is_current = false;
        usage.quarantine_bytes = 30_000;
        disk.objects += 30_000;
        disk.total += 30_000;
        let space = account(&wanted(), &usage, &disk);
        assert_eq!((space.unreferenced, space.quarantine), (0, 30_000));
        assert_eq!((space.live, space.sum), (51_000, space.total));
    }

    #[test]
    fn a_row_without_its_file_shows_in_the_sum() {
        let mut disk = disk();
        disk.objects -= 50_000;
        disk.total -= 50_000;
        let space = account(&wanted(), &usage(), &disk);
        assert_eq!(space.sum, space.total + 50_000);
    }

    #[test]
    fn of_a_group_that_is_not_complete_the_newest_contents_count_first() {
        let mut usage = usage();
        usage.held.groups[0].1 = 1100;
        let space = account(&wanted(), &usage, &disk());
        assert_eq!((space.live, space.version), (51_000, 100));
        assert_eq!(space.missing, 200);
    }
}
