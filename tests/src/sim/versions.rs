//! Invariant: the last five versions of a file stay readable, without a gap.
//!
//! Of each file that has a name the inode's own versions are the newest ones that there have been,
//! five or as many as there were, and the layout of each is there. That its objects are is checked
//! for all kept versions together ([`super::audit`]).
use super::oracle::CHUNKS;
use dfs_core::master::state::MasterState;
use dfs_core::store::LazyKv;
use dfs_core::types::{ChunkNo, Ino, Name};
use dfs_core::wire::Query;
use dfs_core::wire::master::QueryAnswer;

/// Versions that are promised.
const KEPT: u64 = 5;

type State = MasterState<LazyKv>;

/// Checks the names of these directories; gives the number of versions found.
pub(super) fn check_versions(state: &State, dirs: &[Ino]) -> Result<u64, String> {
    let mut found = 0;
    for dir in dirs {
        let query = Query::ReadDir {
            ino: *dir,
            after: 0,
            limit: 1000,
            with_attrs: false,
        };
        let QueryAnswer::Entries(entries, _) = state.query(&query).map_err(|e| e.to_string())?
        else {
            return Err(format!("directory {dir} is not listed"));
        };
        for entry in entries {
            found += check_name(state, *dir, &entry.name, entry.ino)
                .map_err(|what| format!("{:?} in directory {dir}: {what}", entry.name))?;
        }
    }
    Ok(found)
}

fn check_name(state: &State, parent: Ino, name: &Name, ino: Ino) -> Result<u64, String> {
    let name = name.clone();
    let query = Query::History { parent, name };
    let QueryAnswer::History(all) = state.query(&query).map_err(|e| e.to_string())? else {
        return Err("no history".into());
    };
    if all.len() as u64 > KEPT {
        return Err(format!("{} versions", all.len()));
    }
    let own: Vec<u64> = all
        .iter()
        .filter(|version| version.ino == ino)
        .map(|version| version.inode_version.0)
        .collect();
    let newest = own.first().copied().unwrap_or(0);
    let expected: Vec<u64> = (1..=newest).rev().take(KEPT as usize).collect();
    if own != expected {
        return Err(format!(
            "inode {ino} shows versions {own:?}, not {expected:?}"
        ));
    }
    for version in &all {
        let query = Query::Layout {
            ino: version.ino,
            version: Some(version.inode_version),
            first: ChunkNo::HOME,
            count: CHUNKS,
        };
        state.query(&query).map_err(|e| {
            let (ino, number) = (version.ino, version.inode_version);
            format!("version {number} of inode {ino} cannot be read: {e}")
        })?;
    }
    Ok(own.len() as u64)
}
