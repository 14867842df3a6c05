//! Where inodes are, as far as this client has seen: for the headers of objects, so that a disk can
//! be read without a master. Nothing else may rely on it: a name can change without our hearing.
//!
//! Two parts, hot and cold: when hot is half of the limit, cold is dropped and hot becomes cold.
use crate::types::{Ino, Name, PathHint};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Inodes remembered at most.
const INODES_MAX: usize = 131_072;
/// Directories on the way to the root that are followed.
const DEPTH_MAX: usize = 512;

#[derive(Debug, Clone)]
enum Place {
    Entry(Ino, Name),
    /// From the root on.
    Path(Vec<u8>),
}

#[derive(Debug, Default)]
struct Inner {
    hot: HashMap<Ino, Place>,
    cold: HashMap<Ino, Place>,
}

impl Inner {
    fn note(&mut self, ino: Ino, place: Place) {
        if self.hot.len() >= INODES_MAX / 2 {
            self.cold = std::mem::take(&mut self.hot);
        }
        self.hot.insert(ino, place);
    }

    fn place(&self, ino: Ino) -> Option<&Place> {
        self.hot.get(&ino).or_else(|| self.cold.get(&ino))
    }
}

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(super) struct PathHints(Mutex<Inner>);

impl PathHints {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name stands for an inode.
    pub fn note(&self, dir: Ino, name: &Name, ino: Ino) {
        self.inner().note(ino, Place::Entry(dir, name.clone()));
    }

    /// A path of names from the root leads to an inode.
    pub fn note_path(&self, path: &[Name], ino: Ino) {
        let mut bytes = Vec::new();
        for name in path {
            bytes.push(b'/');
            bytes.extend_from_slice(name.as_bytes());
        }
        self.inner().note(ino, Place::Path(bytes));
    }

    /// The path of an inode, or the part of it that is known.
    pub fn path(&self, ino: Ino) -> Option<PathHint> {
        let inner = self.inner();
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = ino;
        let mut front: &[u8] = b"";
        let mut is_whole = false;
        for _ in 0..DEPTH_MAX {
            if at == Ino::ROOT {
                is_whole = true;
                break;
            }
            match inner.place(at) {
                Some(Place::Entry(dir, name)) => {
                    names.push(name.as_bytes());
                    at = *dir;
                }
                Some(Place::Path(path)) => {
                    (front, is_whole) = (path, true);
                    break;
                }
                None => break,
            }
        }
        if names.is_empty() && front.is_empty() {
            return None;
        }
        let mut path = front.to_vec();
        for name in names.iter().rev() {
            if is_whole || !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        Some(PathHint::new(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn a_path_is_put_together_from_the_names_seen() {
        let hints = PathHints::default();
        assert_eq!(hints.path(Ino(9)), None);
        hints.note(Ino(8), &name("file"), Ino(9));
        assert_eq!(hints.path(Ino(9)), Some(PathHint(b"file".to_vec())));
        hints.note(Ino(7), &name("b"), Ino(8));
        assert_eq!(hints.path(Ino(9)), Some(PathHint(b"b/file".to_vec())));
        hints.note(Ino::ROOT, &name("a"), Ino(7));
        assert_eq!(hints.path(Ino(9)), Some(PathHint(b"/a/b/file".to_vec())));
        hints.note_path(&[name("x"), name("y")], Ino(8));
        assert_eq!(hints.path(Ino(9)), Some(PathHint(b"/x/y/file".to_vec())));
    }

    #[test]
    fn a_circle_of_stale_names_ends() {
        let hints = PathHints::default();
        hints.note(Ino(8), &name("a"), Ino(9));
        hints.note(Ino(9), &name("b"), Ino(8));
        assert!(hints.path(Ino(9)).is_some_and(|path| !path.is_whole()));
    }
}
