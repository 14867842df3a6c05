//! Returning to the shell when the mount is usable.
//!
//! The starting process runs itself again in a session of its own, with a pipe: the new process
//! writes one line when it is ready (`ok`, or the error), and the starting one prints and exits.
//! (fork alone is no way: the runtime has threads.)
use anyhow::{Context, bail};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Starts this program again with `args` (its name first) in the background and waits until it is
/// ready.
///
/// # Errors
/// What the background process said, or that it died.
pub fn start(args: &[OsString], log: Option<&std::path::Path>) -> anyhow::Result<()> {
    let (read, write) = rustix::pipe::pipe().context("pipe")?;
    let fd = write.as_raw_fd();
    let log: Stdio = match log {
        Some(path) => {
            let file = File::options().append(true).create(true).open(path);
            file.with_context(|| format!("log file {}", path.display()))?
                .into()
        }
        None => Stdio::null(),
    };
    let mut command = Command::new(std::env::current_exe().context("own path")?);
    // Not by the name of a mount helper, which would read these arguments as mount(8)'s.
    command
        .arg0("dfs-mount")
        .args(args.iter().skip(1))
        .arg("--ready-fd")
        .arg(fd.to_string());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0);
    let mut child = command
        .spawn()
        .context("cannot start the background process")?;
    drop(write);
    let mut said = String::new();
    File::from(read)
        .read_to_string(&mut said)
        .context("waiting for the mount")?;
    match said.strip_prefix("ok") {
        Some(_) => Ok(()),
        None if said.is_empty() => {
            let status = child.wait().context("background process")?;
            bail!("the mount process died while starting ({status}); use -f to see why")
        }
        None => bail!("{}", said.trim_end()),
    }
}

/// The pipe to the process that started us.
pub struct Ready(Option<File>);

impl Ready {
    /// From `--ready-fd`.
    #[must_use]
    pub fn new(fd: Option<i32>) -> Self {
        Self(fd.map(take_fd))
    }

    /// Tells the starting process how it went. Later calls do nothing.
    pub fn tell(&mut self, result: Result<(), &anyhow::Error>) {
        let Some(mut pipe) = self.0.take() else {
            return;
        };
        let line = match result {
            Ok(()) => "ok\n".to_owned(),
            Err(e) => format!("{e:#}\n"),
        };
        // Nobody may be left to hear it.
        let _ = pipe.write_all(line.as_bytes());
    }
}

#[allow(unsafe_code)]
fn take_fd(fd: i32) -> File {
    // SAFETY: the parent opened this descriptor for us alone and named it on the command line.
    unsafe { File::from(OwnedFd::from_raw_fd(fd)) }
}
