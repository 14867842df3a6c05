//! Where it is measured: a directory of our own, removed at the end whatever happens.
use super::error::BenchError;
use crate::output::note;
use std::io;
use std::path::{Path, PathBuf};

/// The directory. Dropped, it is removed with all that is in it.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    is_there: bool,
}

impl Place {
    /// What it is called in `parent`.
    #[must_use]
    pub fn name(parent: &Path) -> PathBuf {
        parent.join(format!(".dfs-bench-{}", std::process::id()))
    }

    /// Makes it, if `parent` is a directory that has `need` bytes free.
    ///
    /// # Errors
    /// It is no directory, has too little room, or nothing can be made in it. Nothing was changed.
    pub fn make(parent: &Path, need: u64) -> Result<Self, BenchError> {
        let path = parent.to_owned();
        match std::fs::metadata(parent) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(BenchError::NotADirectory { path }),
            Err(source) => return Err(BenchError::NoDirectory { path, source }),
        }
        if let Some(free) = free(parent)?
            && free < need
        {
            return Err(BenchError::NoRoom { path, need, free });
        }
        let dir = Self::name(parent);
        match std::fs::create_dir(&dir) {
            Ok(()) => Ok(Self {
                dir,
                is_there: true,
            }),
            Err(source) => Err(BenchError::Unwritable { path: dir, source }),
        }
    }

    /// Its path.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes it.
    ///
    /// # Errors
    /// Something is left behind.
    pub fn remove(mut self) -> Result<(), BenchError> {
        self.clear()
    }

    fn clear(&mut self) -> Result<(), BenchError> {
        if !std::mem::take(&mut self.is_there) {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.dir).map_err(|source| BenchError::Left {
            path: self.dir.clone(),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Another error is on its way to the user, who should hear of both.
        if let Err(BenchError::Left { path, source }) = self.clear() {
            note(format!("left behind: {}: {source}", path.display()));
        }
    }
}

/// Bytes that we may fill; `None` where the filesystem does not say.
fn free(parent: &Path) -> Result<Option<u64>, BenchError> {
    let stat = rustix::fs::statvfs(parent).map_err(|e| BenchError::NoDirectory {
        path: parent.to_owned(),
        source: io::Error::from(e),
    })?;
    let says = stat.f_blocks > 0;
    Ok(says.then(|| stat.f_bavail.saturating_mul(stat.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_in_a_directory_with_room_and_removed_with_what_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let place = Place::make(parent.path(), 1).unwrap();
        assert_eq!(place.dir(), Place::name(parent.path()));
        std::fs::create_dir(place.dir().join("d")).unwrap();
        let again = Place::make(parent.path(), 1).unwrap_err();
        assert!(again.advice().contains("was killed"), "{again}");
        drop(place);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_directory_or_has_no_room_is_refused_and_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let error = Place::make(parent.path(), u64::MAX).unwrap_err();
        assert!(matches!(error, BenchError::NoRoom { .. }), "{error}");
        assert!(error.to_string().contains("MiB are free"), "{error}");
        let file = parent.path().join("f");
        std::fs::write(&file, b"x").unwrap();
        let error = Place::make(&file, 1).unwrap_err();
        assert!(matches!(error, BenchError::NotADirectory { .. }), "{error}");
        let error = Place::make(&parent.path().join("absent"), 1).unwrap_err();
        assert!(matches!(error, BenchError::NoDirectory { .. }), "{error}");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
