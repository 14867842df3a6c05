//! A small device that is really full when it is full: a tmpfs of its own, gone on drop.
use super::watchdog;
use anyhow::Context;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A mounted tmpfs.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts one of `mb` megabytes on `path`, which is made.
    ///
    /// # Errors
    /// Not root, or no such kernel.
    pub fn new(path: &Path, mb: usize) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)?;
        let options = std::ffi::CString::new(format!("size={mb}m"))?;
        mount(
            "none",
            path,
            "tmpfs",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .with_context(|| format!("a tmpfs on {}", path.display()))?;
        watchdog::add_mount(0, path);
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Somebody else takes every byte that is left, in the file `name`; how many that were.
    ///
    /// # Errors
    /// Anything but a full device.
    pub fn fill(&self, name: &str) -> anyhow::Result<u64> {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(self.path.join(name))?;
        let mut taken = 0;
        for size in [1 << 20, 4096] {
            let bytes = vec![0x5a; size];
            loop {
                match file.write(&bytes) {
                    Ok(0) => break,
                    Ok(n) => taken += n as u64,
                    Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(taken)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(e) = unmount(&self.path, UnmountFlags::DETACH) {
            eprintln!("cleaning up: {}: {e}", self.path.display());
        }
        watchdog::remove_mount(0, &self.path);
    }
}
