//! The audit of the namespace: recomputes everything that is kept twice and compares.
//!
//! Rows come in key order, a few at a time, from a state that does not change meanwhile; memory does
//! not grow with the tables. Three ways to compare:
//! 1. row by row with the row that must exist elsewhere ([`names`], [`history`], [`content`]);
//! 2. counts of neighbouring rows (entries of a directory, links of an inode), added up while the
//!    group lasts, and compared when it ends;
//! 3. [`sums`] of two tables whose orders differ (references, placement, pins): what differs is named
//!    in a second pass over the part that differs.
mod content;
mod history;
mod names;
mod sums;

use super::keys;
use super::records::{Inode, Meta};
use crate::master::state::StateError;
use crate::store::{KvRead, prefix_end};
use crate::types::{Ino, PgMap};
use crate::wire::audit::{Fault, FaultKind};
use content::Contents;
use history::Histories;
use names::Names;
use serde::de::DeserializeOwned;
use sums::Sums;

/// Faults kept until they are taken.
const FAULTS_MAX: usize = 10_000;

/// A row that is there and cannot be used; reported where the walk meets it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unreadable;

/// What a lookup gives: the row, none, or one that cannot be used.
pub(super) type Found<T> = Result<Option<T>, Unreadable>;

/// What is wrong, and how rows are looked up.
#[derive(Debug, Default)]
pub(super) struct Findings {
    faults: Vec<Fault>,
}

impl Findings {
    pub fn add(&mut self, kind: FaultKind, ino: Ino, what: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { kind, ino, what });
        }
    }

    /// Adds a fault unless `holds`.
    pub fn expect(&mut self, holds: bool, kind: FaultKind, ino: Ino, what: impl Fn() -> String) {
        if !holds {
            self.add(kind, ino, what());
        }
    }

    /// Decodes a row that the walk met.
    pub fn decode<T: DeserializeOwned>(&mut self, key: &[u8], value: &[u8]) -> Option<T> {
        let row = postcard::from_bytes(value).ok();
        if row.is_none() {
            self.add(
                FaultKind::UnreadableRow,
                Ino(0),
                format!("row {}", hex(key)),
            );
        }
        row
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A row that another one says exists.
pub(super) fn find<T: DeserializeOwned>(kv: &dyn KvRead, key: &[u8]) -> Found<T> {
    match kv.get(key) {
        Ok(None) => Ok(None),
        Ok(Some(value)) => postcard::from_bytes(&value)
            .map(Some)
            .map_err(|_| Unreadable),
        Err(_) => Err(Unreadable),
    }
}

pub(super) fn has(kv: &dyn KvRead, key: &[u8]) -> bool {
    // Unreadable counts as there: the walk reports it.
    !matches!(kv.get(key), Ok(None))
}

/// Any row below the prefix.
pub(super) fn has_any(kv: &dyn KvRead, prefix: &[u8]) -> bool {
    let first = kv.scan(prefix, &prefix_end(prefix), 1);
    first.map_or(true, |rows| !rows.is_empty())
}

pub(super) fn find_inode(kv: &dyn KvRead, ino: Ino) -> Found<Inode> {
    find(kv, &keys::inode(ino))
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// All rows.
    Walk,
    /// Rows of the tables whose sums differ.
    Name,
    Done,
}

/// See the [module docs](self).
#[derive(Debug)]
pub struct Audit {
    pgs: u16,
    pass: Pass,
    findings: Findings,
    names: Names,
    histories: Histories,
    contents: Contents,
    sums: Sums,
    meta: Option<Meta>,
}

impl Audit {
    /// Begins one over a cluster of `pgs` placement groups.
    #[must_use]
    pub fn new(pgs: u16) -> Self {
        Self {
            pgs,
            pass: Pass::Walk,
            findings: Findings::default(),
            names: Names::default(),
            histories: Histories::default(),
            contents: Contents::default(),
            sums: Sums::default(),
            meta: None,
        }
    }

    /// Looks at one row. Rows must come in key order, all of them.
    pub fn row(&mut self, kv: &dyn KvRead, key: &[u8], value: &[u8]) {
        match self.pass {
            Pass::Walk => self.walk(kv, key, value),
            Pass::Name => {
                let found = &mut self.findings;
                self.contents
                    .add(found, &mut self.sums, self.pgs, key, value);
            }
            Pass::Done => {}
        }
    }

    fn walk(&mut self, kv: &dyn KvRead, key: &[u8], value: &[u8]) {
        let found = &mut self.findings;
        match key.first() {
            Some(b'a') if key == keys::META => self.meta = found.decode(key, value),
            Some(b'a') if key.starts_with(keys::ORPHANS) => self.names.orphan(kv, found, key),
            Some(b'a') if key.starts_with(keys::XATTRS) => {
                self.names.xattr(kv, found, key, value.len());
            }
            Some(b'b') => self.names.inode(kv, found, key, value),
            Some(b'c') => self.names.dentry(kv, found, key, value),
            Some(b'd') => self.names.cookie(kv, found, key, value),
            Some(b'e') => self.contents.row(kv, found, key, value),
            Some(b'h') => self.names.link(kv, found, key),
            Some(b'i') => self.histories.record(kv, found, key, value),
            Some(b'j') => self.histories.deleted(kv, found, key),
            Some(b'k') => self.histories.version(kv, found, key, value),
            Some(b'm') => self.contents.row_index(kv, found, key),
            _ => {}
        }
        self.contents
            .add(found, &mut self.sums, self.pgs, key, value);
    }

    /// All rows were seen. True if they must all be seen once more.
    pub fn end(&mut self, kv: &dyn KvRead) -> bool {
        let found = &mut self.findings;
        match self.pass {
            Pass::Walk => {
                self.names.end(kv, found);
                self.histories.end(kv, found);
                self.contents.end(kv, found);
                let deleted = self.histories.deleted_names;
                self.names.totals(found, self.meta.as_ref(), deleted);
                let again = self.sums.begin_naming();
                self.pass = if again { Pass::Name } else { Pass::Done };
                again
            }
            Pass::Name => {
                self.sums.name(found);
                self.pass = Pass::Done;
                false
            }
            Pass::Done => false,
        }
    }

    /// What was found since the last time.
    pub fn take_faults(&mut self) -> Vec<Fault> {
        std::mem::take(&mut self.findings.faults)
    }
}

/// Audits all tables of the namespace at once; answers what is wrong, nothing when all is well.
///
/// # Errors
/// [`StateError`] when a value cannot be read at all.
pub fn check(kv: &dyn KvRead, map: &PgMap) -> Result<Vec<String>, StateError> {
    let mut audit = Audit::new(u16::try_from(map.pgs.len()).unwrap_or(u16::MAX));
    loop {
        super::read::for_each_in(kv, b"a", b"n", |key, value| {
            audit.row(kv, key, value);
            Ok(true)
        })?;
        if !audit.end(kv) {
            break;
        }
    }
    let words = |fault: Fault| format!("{}: {}", fault.kind.name(), fault.what);
    Ok(audit.take_faults().into_iter().map(words).collect())
}
