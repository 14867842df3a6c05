//! One mount from start to end.
//!
//! Steps: connect to the cluster; open `/dev/fuse` and mount(2) it ourselves; shake hands; serve on
//! session threads; start the notify thread; tell the waiting parent that the mount is usable. It
//! ends when the kernel ends the session (`umount`), or at SIGTERM or SIGINT: then what is buffered is
//! put, the mount is taken down (by force after a grace, so that it always ends), and the client
//! session is closed.
use crate::adapter::{Adapter, Notified, SESSION_THREADS};
use crate::cli::Options;
use crate::vfs::Vfs;
use crate::vfs::pages::{NOTIFY_THREADS, Pages};
use anyhow::{Context, bail};
use dfs_core::client::{CacheListener, Client, ClientConfig, FileLayer};
use fuser::{Config, Session, SessionACL};
use rustix::mount::UnmountFlags;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long an ordinary unmount is tried before force.
const UNMOUNT_GRACE: Duration = Duration::from_secs(5);
/// Pages read ahead per file, in KiB.
const READ_AHEAD_KB: &str = "1024";

/// A mount that serves.
pub struct Mounted {
    vfs: Arc<Vfs>,
    client: Arc<Client>,
    mountpoint: PathBuf,
    session: std::thread::JoinHandle<std::io::Result<()>>,
    notify: Vec<std::thread::JoinHandle<()>>,
    pages: Arc<Pages>,
}

/// Connects and mounts. Returns when the mount is usable.
///
/// # Errors
/// No cluster, no such directory, no permission to mount: each with what to do next.
pub fn mount(
    runtime: &tokio::runtime::Handle,
    config: ClientConfig,
    mountpoint: &Path,
    options: &Options,
) -> anyhow::Result<Mounted> {
    let mountpoint = check_mountpoint(mountpoint)?;
    let source = options.fs_name.clone().unwrap_or_else(|| {
        config
            .seeds
            .first()
            .map_or_else(|| "dfs".to_owned(), |a| format!("dfs:{a}"))
    });
    let client = runtime
        .block_on(Client::connect(config))
        .context("cannot reach the cluster")?;
    let files = runtime.block_on(async { FileLayer::new(&client) });
    let pages = Arc::new(Pages::default());
    client.set_listener(pages.clone() as Arc<dyn CacheListener>);
    let vfs = Vfs::new(client.clone(), files, pages.clone());
    let vfs = Arc::new(if options.no_atime || options.read_only {
        vfs.without_atime()
    } else {
        vfs
    });

    let device = open_device()?;
    mount_device(&device, &mountpoint, &source, options)?;
    let serve = || -> anyhow::Result<_> {
        let mut fuse = Config::default();
        fuse.acl = SessionACL::All;
        fuse.n_threads = Some(SESSION_THREADS);
        fuse.clone_fd = true;
        let adapter = Adapter::new(vfs.clone(), runtime.clone(), options.timeout);
        let session = Session::from_fd(adapter, device, SessionACL::All, fuse)
            .context("the kernel refused the FUSE session")?;
        let notifier = session.notifier();
        let told = notifier.clone();
        vfs.on_change(move |ino| crate::adapter::forget_attr(&told, ino));
        let session = std::thread::Builder::new()
            .name("dfs-session".into())
            .spawn(move || session.run())?;
        let notify = (0..NOTIFY_THREADS)
            .map(|_| {
                let (pages, notifier) = (pages.clone(), notifier.clone());
                std::thread::Builder::new()
                    .name("dfs-notify".into())
                    .spawn(move || pages.run(&Notified(notifier)))
            })
            .collect::<Result<_, _>>()?;
        Ok((session, notify))
    };
    match serve() {
        Ok((session, notify)) => {
            set_read_ahead(&mountpoint);
            Ok(Mounted {
                vfs,
                client,
                mountpoint,
                session,
                notify,
                pages,
            })
        }
        Err(e) => {
            let _ = rustix::mount::unmount(&mountpoint, UnmountFlags::DETACH);
            Err(e)
        }
    }
}

fn check_mountpoint(mountpoint: &Path) -> anyhow::Result<PathBuf> {
    let shown = mountpoint.display();
    let is_dead = |e: &std::io::Error| e.raw_os_error() == Some(libc::ENOTCONN);
    // What killed mounts left behind, one above the other; nobody can be using it.
    let mut left = 8;
    while left > 0 && asked(mountpoint).is_err_and(|e| is_dead(&e)) {
        rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)
            .with_context(|| format!("removing the dead mount on {shown}"))?;
        left -= 1;
    }
    let real = match std::fs::canonicalize(mountpoint) {
        Ok(real) => real,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            bail!("mountpoint {shown} does not exist; create it first: mkdir -p {shown}")
        }
        Err(e) => return Err(e).with_context(|| format!("mountpoint {shown}")),
    };
    if !real.is_dir() {
        bail!("mountpoint {shown} is not a directory; name an existing directory");
    }
    Ok(real)
}

/// Asks whoever serves the mountpoint; the kernel may still know attributes of a mount that died.
fn asked(mountpoint: &Path) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    statx(
        CWD,
        mountpoint,
        AtFlags::STATX_FORCE_SYNC,
        StatxFlags::BASIC_STATS,
    )?;
    Ok(())
}

fn open_device() -> anyhow::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};
    open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| {
        anyhow::anyhow!(
            "cannot open /dev/fuse: {e}; load the fuse module (modprobe fuse) or, in a \
                         container, pass the device in (--device /dev/fuse)"
        )
    })
}

fn mount_device(
    device: &OwnedFd,
    mountpoint: &Path,
    source: &str,
    options: &Options,
) -> anyhow::Result<()> {
    let (uid, gid) = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions,allow_other,\
         max_read=1048576",
        device.as_raw_fd()
    );
    let flags = crate::remount::flags(options);
    let data = std::ffi::CString::new(data)?;
    rustix::mount::mount(source, mountpoint, "fuse.dfs", flags, Some(data.as_c_str())).map_err(
        |e| {
            let hint = if e == rustix::io::Errno::PERM {
                "; mounting needs root (or CAP_SYS_ADMIN): run it with sudo"
            } else {
                ""
            };
            anyhow::anyhow!("cannot mount on {}: {e}{hint}", mountpoint.display())
        },
    )
}

/// The kernel reads at most 128 KiB ahead unless it is told; needs root, and is only for speed.
fn set_read_ahead(mountpoint: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::metadata(mountpoint) else {
        return;
    };
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(e) = std::fs::write(&path, READ_AHEAD_KB) {
        tracing::debug!("{path}: {e}");
    }
}

impl Mounted {
    /// Serves until the kernel ends the session or `signalled` is set, then cleans up.
    ///
    /// # Errors
    /// What was buffered could not be put, or the session ended badly.
    pub fn wait(
        self,
        runtime: &tokio::runtime::Handle,
        signalled: &AtomicBool,
    ) -> anyhow::Result<()> {
        while !self.session.is_finished() && !signalled.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(100));
        }
        self.vfs.end_waits();
        runtime.block_on(self.vfs.flush_all());
        if !self.session.is_finished() {
            let forced = unmount(&self.mountpoint, || self.session.is_finished());
            if forced {
                // Programs that are still inside see what was lent.
                runtime.block_on(self.client.end_lending());
            }
        }
        self.pages.stop();
        let ended = self.session.join();
        for thread in self.notify {
            let _ = thread.join();
        }
        // What was written between the first time and the unmount.
        runtime.block_on(self.vfs.flush_all());
        runtime.block_on(self.client.shutdown());
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) if is_unmount(&e) => Ok(()),
            Ok(Err(e)) => Err(e).context("the FUSE session"),
            Err(_) => bail!("a session thread panicked"),
        }
    }
}

/// The end that a session thread hears of when it takes a request (a RELEASE, mostly) at the moment of the
/// unmount: the kernel has dropped the request. A thread that has none hears ENODEV, which fuser knows.
fn is_unmount(e: &std::io::Error) -> bool {
    e.raw_os_error() == Some(libc::ECONNABORTED)
}

/// Unmounts: politely for a grace, then by force (open files get ENOTCONN). True if it took force.
fn unmount(mountpoint: &Path, ended: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + UNMOUNT_GRACE;
    while Instant::now() < deadline && !ended() {
        if rustix::mount::unmount(mountpoint, UnmountFlags::empty()).is_ok() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    if ended() {
        return false;
    }
    tracing::warn!("{} is busy: unmounting by force", mountpoint.display());
    let force = UnmountFlags::FORCE | UnmountFlags::DETACH;
    if let Err(e) = rustix::mount::unmount(mountpoint, force) {
        tracing::error!("umount {}: {e}", mountpoint.display());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_a_request_taken_while_the_mount_goes_is_no_error_of_the_session() {
        let error = std::io::Error::from_raw_os_error;
        assert!(is_unmount(&error(libc::ECONNABORTED)));
        assert!(!is_unmount(&error(libc::EIO)));
    }
}
