//! What a check of the whole cluster finds: kinds of damage by name, and pages of the audit of the
//! master's tables.
use crate::types::{Ino, LogIndex};
use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $advice:ident;)*) => {
        /// A kind of damage. Append-only.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum FaultKind { $($(#[$doc])* $kind,)* }

        impl FaultKind {
            /// All kinds, in order.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$kind => $advice,)* }
            }
        }
    };
}

const VOTER: &str = "stop this voter, remove its master.redb and raft directory, start it: it \
                     copies the state of the others; if all voters agree, report it as a bug";
const HEAL: &str = "the store fetches it from another member; run fsck again in a minute";
const WAIT: &str = "the store removes it by itself once the master confirms that nothing needs it";
const STORE: &str = "restart the node; if it stays, take the node out with `forget` and wipe it";
const REACH: &str = "start the node or `forget` it, then run fsck again";

kinds! {
    /// A row of the master's tables fails its checksum or cannot be decoded.
    UnreadableRow = "unreadable-row", VOTER;
    /// A directory entry names an inode that does not exist.
    EntryWithoutInode = "entry-without-inode", VOTER;
    /// A directory entry and its inode have different kinds.
    EntryKind = "entry-wrong-kind", VOTER;
    /// The reverse index of entries and the entries differ.
    LinkIndex = "link-index", VOTER;
    /// The order of a directory and its entries differ.
    CookieIndex = "cookie-index", VOTER;
    /// An inode has another number of names than its link count says.
    LinkCount = "link-count", VOTER;
    /// A directory has another number of entries than it says.
    EntryCount = "entry-count", VOTER;
    /// A directory says it is in another one than the entry that names it.
    WrongParent = "wrong-parent", VOTER;
    /// A directory does not hang under the root.
    DetachedDirectory = "detached-directory", VOTER;
    /// The index of inodes without names and the inodes differ.
    OrphanIndex = "orphan-index", VOTER;
    /// A name's history holds a version that is gone.
    PinWithoutVersion = "pin-without-version", VOTER;
    /// A version or inode is held by another number of histories than it says.
    PinCount = "pin-count", VOTER;
    /// A directory has another number of histories than it says.
    HistoryCount = "history-count", VOTER;
    /// A history is empty, too long, out of order, or contradicts the name's entry.
    HistoryRecord = "history-record", VOTER;
    /// The index of deleted names and the histories differ.
    DeletedIndex = "deleted-index", VOTER;
    /// A removed directory and the history that remembers it differ.
    Tombstone = "tombstone", VOTER;
    /// A file's newest version is missing.
    NewestVersion = "newest-version-missing", VOTER;
    /// A version that nothing keeps, or that is newer than its file, or of no file.
    StrayVersion = "stray-version", VOTER;
    /// Extents out of order, overlapping, empty or too long.
    ExtentOrder = "extent-order", VOTER;
    /// Extents beyond the end of the file.
    ExtentBeyondSize = "extent-beyond-size", VOTER;
    /// A row of extents that no version reads, or of no file.
    StrayRow = "stray-row", VOTER;
    /// The index of rows by version and the rows differ.
    RowIndex = "row-index", VOTER;
    /// A file covers another number of bytes than it says.
    AllocatedBytes = "allocated-bytes", VOTER;
    /// The number of references to an object is wrong.
    ObjectReferences = "object-references", VOTER;
    /// The index of what a placement group holds is wrong.
    GroupIndex = "group-index", VOTER;
    /// An inode has other extended attributes than it counts.
    AttributeCount = "attribute-count", VOTER;
    /// The totals of the namespace are wrong.
    Totals = "totals", VOTER;
    /// Inode numbers would be given twice.
    InodeNumber = "inode-number", VOTER;
    /// A session is both live and ended.
    SessionEnded = "session-ended", VOTER;
    /// The result of an operation, or a lock, of no live session.
    WithoutSession = "without-session", VOTER;
    /// The delete queue names an object that is still referred to, or its length is wrong.
    DeleteQueue = "delete-queue", VOTER;
    /// A placement group has unknown, repeated or too many members, or none.
    GroupMembers = "group-members", VOTER;
    /// Voters have different tables at the same index of the log.
    VotersDiffer = "voters-differ", VOTER;
    /// A member lacks an object that it must hold.
    ObjectMissing = "object-missing", HEAL;
    /// An object's bytes do not match their checksums.
    ObjectDamaged = "object-damaged", HEAL;
    /// An object is whole but has other bytes than the master knows.
    ObjectIdentity = "object-other-bytes", HEAL;
    /// An object is filed under another group, inode or chunk than the master knows.
    ObjectMisplaced = "object-misplaced", STORE;
    /// A store's list of objects names one whose bytes it does not have.
    ObjectUnbacked = "object-unbacked", HEAL;
    /// A store has the bytes of an object that its list does not name.
    ObjectUnlisted = "object-unlisted", STORE;
    /// A store holds an object that nothing refers to.
    StrayObject = "stray-object", WAIT;
    /// A store holds an object of a group that it has nothing to do with.
    ForeignObject = "foreign-object", WAIT;
    /// A stamp is newer than the master's newest commit, or of an inode that is gone.
    StampAhead = "stamp-ahead", STORE;
    /// A stamp is older than what the store has been told.
    StampBehind = "stamp-behind", STORE;
    /// A mark of an operation that was decided before the store was last told.
    MarkDecided = "mark-decided", STORE;
    /// A node could not be checked.
    NodeUnreachable = "node-unreachable", REACH;
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// The inode concerned; 0 for none.
    pub ino: Ino,
    /// What exactly, for people.
    pub what: String,
}

/// A slice of the audit of a voter's tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// Names the audit: ask with it for the next slice.
    pub run: u64,
    /// The state that is audited.
    pub as_of: LogIndex,
    /// Rows looked at so far.
    pub rows: u64,
    /// Found in this slice.
    pub faults: Vec<Fault>,
    /// That was all.
    pub is_last: bool,
    /// Of all rows, once all were read: equal on all voters at the same index.
    pub digest: u32,
}

/// What the master knows of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectFate {
    /// Some kept version refers to it.
    Referenced,
    /// Its operation may still be applied.
    Undecided,
    /// Nothing refers to it, and it waits in the delete queue or its grace is not over.
    Waiting,
    /// Its operation is decided and nothing refers to it, now and for ever.
    Garbage,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: BTreeSet<_> = FaultKind::ALL.iter().map(|k| k.name()).collect();
        assert_eq!(names.len(), FaultKind::ALL.len());
        assert!(FaultKind::ALL.iter().all(|k| !k.advice().is_empty()));
    }
}
