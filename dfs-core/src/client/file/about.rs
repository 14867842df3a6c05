//! What a put says of its file in the headers of its objects.
use super::inode::State;
use super::layer::FileLayer;
use crate::client::put::PutChange;
use crate::types::{Ino, PutAbout, PutKind, Revision};

impl FileLayer {
    /// What is believed of the file when the put is cut (it is no flight yet, or the last one).
    pub(super) fn about(&self, ino: Ino, state: &State, change: &PutChange) -> PutAbout {
        let attr = state.attr.as_ref();
        let earlier = state.flights.len().saturating_sub(1) as u64;
        let known = attr.map_or(0, |attr| attr.revision.0);
        let kind = match change {
            PutChange::Replace { .. } => PutKind::Replace,
            PutChange::Append { .. } => PutKind::Append,
            PutChange::Compact { .. } => PutKind::Compact,
            PutChange::Write
            | PutChange::Truncate { .. }
            | PutChange::Punch { .. }
            | PutChange::Extend { .. }
            | PutChange::Restore { .. } => PutKind::Write,
        };
        let size = match change {
            PutChange::Replace { size } => *size,
            _ => state.size,
        };
        PutAbout {
            path: self.backend.path_hint(ino),
            kind,
            // Each put that was cut before this one, and is not decided yet, makes one revision.
            base: Revision(known + earlier),
            size: Some(size),
            mtime: state.mtime.or(attr.map(|attr| attr.mtime)),
            mode: attr.map_or(0, |attr| attr.mode),
            uid: attr.map_or(0, |attr| attr.uid),
            gid: attr.map_or(0, |attr| attr.gid),
        }
    }
}
