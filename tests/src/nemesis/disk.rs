//! A disk that loses its power: an ext4 image on a loop device.
//!
//! A cut is ext4's own shutdown without flushing its log: from then on every call fails, and what was
//! not synced is gone when the image is mounted again, as after a power cut of a machine. It needs no
//! module beyond ext4 (measured in 2026 with Linux 6.18: unsynced bytes, the unsynced tail of
//! a log and a rename without a sync of its directory are gone; what was synced is there).
use crate::proc::{run, watchdog};
use anyhow::Context;
use rustix::mount::{UnmountFlags, unmount};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `_IOR('X', 125, __u32)` of the kernel's ext4.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Do not flush the log.
const NOLOGFLUSH: u32 = 2;

/// An image and where it is mounted; unmounted on drop.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
    /// What takes the room while the disk is full.
    ballast: PathBuf,
}

impl Disk {
    /// A new one of `mb` megabytes, mounted at `at`.
    ///
    /// # Errors
    /// No loop device, no ext4, not root.
    pub fn new(image: &Path, at: &Path, mb: u64) -> anyhow::Result<Self> {
        File::create(image)?.set_len(mb << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image))?;
        std::fs::create_dir_all(at)?;
        let this = Self {
            image: image.to_owned(),
            at: at.to_owned(),
            ballast: at.join("ballast-of-another"),
        };
        watchdog::add_mount(0, at);
        this.mount()?;
        Ok(this)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    fn mount(&self) -> anyhow::Result<()> {
        let mut command = Command::new("mount");
        command.args(["-o", "loop"]).arg(&self.image).arg(&self.at);
        run(&mut command).map(|_| ())
    }

    /// Cuts the power: nothing more is written.
    ///
    /// # Errors
    /// It is cut already, or no ext4.
    pub fn cut(&self) -> anyhow::Result<()> {
        let dir = File::open(&self.at)?;
        // SAFETY: the descriptor is open, and the call reads one u32 that outlives it.
        #[allow(unsafe_code)]
        let done = unsafe {
            libc::ioctl(
                dir.as_raw_fd(),
                EXT4_IOC_SHUTDOWN,
                std::ptr::from_ref(&NOLOGFLUSH),
            )
        };
        if done != 0 {
            return Err(std::io::Error::last_os_error()).context("ext4's shutdown");
        }
        Ok(())
    }

    /// Power again, when no process uses it any more.
    ///
    /// # Errors
    /// Somebody still uses it, or the image is beyond what ext4's log mends.
    pub fn power_on(&self) -> anyhow::Result<()> {
        // A process that was killed a moment ago may hold its files a little longer.
        crate::proc::wait_for("the dead disk unmounted", Duration::from_secs(10), || {
            unmount(&self.at, UnmountFlags::empty()).is_ok()
        })?;
        self.mount()
    }

    /// Somebody else takes all but `left` bytes.
    ///
    /// # Errors
    /// Of the disk.
    pub fn fill(&self, left: u64) -> anyhow::Result<()> {
        let state = rustix::fs::statvfs(&self.at)?;
        let free = state.f_bavail * state.f_frsize;
        let file = File::create(&self.ballast)?;
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&file, flags, 0, free.saturating_sub(left).max(1)) {
            // What the daemon has written meanwhile.
            Ok(()) | Err(rustix::io::Errno::NOSPC) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The opposite of [`Self::fill`].
    ///
    /// # Errors
    /// Of the disk.
    pub fn free(&self) -> anyhow::Result<()> {
        if self.ballast.exists() {
            std::fs::remove_file(&self.ballast)?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The process that used it is dead, so that nothing waits behind the name.
        if let Err(e) = unmount(&self.at, UnmountFlags::DETACH) {
            eprintln!("cleaning up: {}: {e}", self.at.display());
        }
        watchdog::remove_mount(0, &self.at);
    }
}
