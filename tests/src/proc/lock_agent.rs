//! A process of its own that locks files: what one process cannot try alone.
use anyhow::{Context, bail};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

const SCRIPT: &str = include_str!("lock_agent.py");
/// What needs no lock is answered by then.
const SOON: Duration = Duration::from_secs(15);

/// Commands: `open PATH` (answers a descriptor), `close FD`, `dup FD`, `read FD`, `write FD TEXT`,
/// `fsync FD`, `fork SECONDS`, `alarm SECONDS`; `range_lock|ofd_lock FD ex|sh|un wait|try [FIRST
/// LEN]`, `flock FD ex|sh|un wait|try`, `getlk FD ex|sh [FIRST LEN]`; `count PATH CYCLES`,
/// `ping_pong PATH LOCKS ROUNDS`. Killed on drop.
pub struct LockAgent {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
}

impl LockAgent {
    /// Starts one.
    ///
    /// # Errors
    /// There is no `python3`.
    pub fn start() -> anyhow::Result<Self> {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("python3")?;
        let commands = child.stdin.take().context("no pipe")?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let this = Self {
            child,
            commands,
            answers,
        };
        this.answer(SOON)?;
        Ok(this)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something; its answer is waited for by [`answer`](Self::answer).
    ///
    /// # Errors
    /// It has died.
    pub fn tell(&mut self, command: &str) -> anyhow::Result<()> {
        writeln!(self.commands, "{command}").context("the agent has died")
    }

    /// Its next answer.
    ///
    /// # Errors
    /// None in time, or it has died.
    pub fn answer(&self, within: Duration) -> anyhow::Result<String> {
        match self.answers.recv_timeout(within) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout) => bail!("no answer within {within:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the agent has died"),
        }
    }

    /// True if it has not answered after this time.
    pub fn is_waiting(&self, so_far: Duration) -> bool {
        self.answers.recv_timeout(so_far) == Err(RecvTimeoutError::Timeout)
    }

    /// Tells it something and takes its answer.
    ///
    /// # Errors
    /// None soon.
    pub fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        self.tell(command)?;
        self.answer(SOON).context(command.to_owned())
    }

    /// As [`ask`](Self::ask), of a command that must succeed; what follows the `ok`.
    ///
    /// # Errors
    /// It did not.
    pub fn done(&mut self, command: &str) -> anyhow::Result<String> {
        let answer = self.ask(command)?;
        match answer.strip_prefix("ok") {
            Some(rest) => Ok(rest.trim_start().to_owned()),
            None => bail!("{command}: {answer}"),
        }
    }

    /// Opens a file; its descriptor.
    ///
    /// # Errors
    /// It cannot.
    pub fn open(&mut self, path: &Path) -> anyhow::Result<String> {
        self.done(&format!("open {}", path.display()))
    }

    /// Kills it as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// It does not go in time: it hangs in the kernel.
    pub fn kill(mut self, within: Duration) -> anyhow::Result<Duration> {
        self.child.kill()?;
        super::wait_for("a killed process to end", within, || {
            self.child.try_wait().is_ok_and(|status| status.is_some())
        })
    }
}

impl Drop for LockAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let gone = || self.child.try_wait().is_ok_and(|status| status.is_some());
        // One that hangs on a mount is freed by whoever kills the mount.
        let _ = super::wait_for("the agent to end", Duration::from_secs(2), gone);
    }
}
