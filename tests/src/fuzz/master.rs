//! What a master reads that others wrote: log entries, pages of a snapshot, namespace snapshots.
use super::commands::{Voter, beginning, faults};
use super::recoded;
use super::source::Source;
use dfs_core::master::command::{Command, LogEntry};
use dfs_core::master::state::MasterState;
use dfs_core::rescue::{NamespaceManifest, decode_part, manifest_object};
use dfs_core::store::{KvPair, MemKv};
use dfs_core::types::{Ino, Name, QuorumSizes, Time};
use dfs_core::wire::Query;

/// An entry of the log.
pub fn log_entry(data: &[u8]) {
    recoded::<LogEntry>(data);
    recoded::<Command>(data);
}

/// Rows of a state in which something happened.
#[must_use]
pub fn rows_of(commands: impl IntoIterator<Item = Command>) -> Vec<KvPair> {
    let mut voter = Voter::new();
    for (count, command) in (1u64..).zip(commands) {
        let at = Time(count * 1_000_000_000);
        voter.apply(&LogEntry { at, command });
    }
    voter.state.kv().0.clone().into_iter().collect()
}

/// Tables as another voter sent them: rows that decode as pages, or those of a state with some of
/// them changed. They are opened or refused, audited and asked.
pub fn snapshot_rows(data: &[u8]) {
    let mut source = Source::new(data);
    let rows = if source.is() {
        let Some(rows) = recoded::<Vec<KvPair>>(source.rest()) else {
            return;
        };
        rows
    } else {
        let mut rows = rows_of(beginning().into_iter().chain(super::seeds::some_history()));
        while !source.is_empty() {
            let at = usize::from(source.byte()) % rows.len();
            let (key, value) = &mut rows[at];
            let bytes = if source.below(4) == 0 { key } else { value };
            let place = usize::from(source.byte());
            match bytes.get_mut(place) {
                Some(byte) => *byte = source.byte(),
                None => bytes.push(source.byte()),
            }
        }
        rows
    };
    let kv = MemKv(rows.into_iter().collect());
    // Whatever it finds.
    let _ = faults(&kv, QuorumSizes::DEFAULT, 4);
    let Ok(state) = MasterState::open(kv) else {
        return;
    };
    let name = Name::new("a").expect("a name");
    for ino in (1..6).map(Ino) {
        let parent = ino;
        let name = name.clone();
        for query in [
            Query::GetAttr { ino },
            Query::Paths { ino },
            Query::Xattrs { ino },
            Query::History { parent, name },
        ] {
            // Whatever the answer is.
            let _ = state.query(&query);
        }
    }
    let _ = state.statfs();
}

/// What a snapshot of the namespace consists of.
pub fn manifest(data: &[u8]) {
    let Some(manifest) = NamespaceManifest::decode(data) else {
        return;
    };
    assert!(manifest.parts.len() <= data.len(), "a part takes a byte");
    // Its sum must not overflow.
    let _ = manifest.bytes();
    let object = manifest_object(&manifest);
    assert_eq!(NamespaceManifest::decode(&object.bytes), Some(manifest));
}

/// Rows of a snapshot of the namespace: keys share what they begin with, and must not be much longer
/// for that than what is there.
pub fn namespace_part(data: &[u8]) {
    let Some(rows) = decode_part(data) else {
        return;
    };
    let len: usize = rows
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    assert!(len <= 512 * data.len(), "{} bytes became {len}", data.len());
}
