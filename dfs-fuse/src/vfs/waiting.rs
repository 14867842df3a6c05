//! When a program that waits for a lock must be let go.
//!
//! fuser tells nothing of signals, and the kernel lets no signal, not even SIGKILL, end a request
//! that was read. So the thread's signals are looked at in /proc: one that is pending and not blocked
//! can only be taken when the request is answered. It must be seen twice: a signal to the process may
//! be about to be taken by another of its threads. A thread of a process that this one cannot see
//! (number 0) is let go after a while instead, lest nothing can ever end it.
use std::time::Duration;
use tokio::sync::watch;

/// Between looks at a thread.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks of which both must see a signal.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a thread may wait whose signals cannot be seen.
const UNSEEN_MAX: Duration = Duration::from_secs(60);

/// Ends all waiting at the end of a mount.
#[derive(Debug)]
pub struct Waits(watch::Sender<bool>);

impl Default for Waits {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Waits {
    /// Becomes true at the end.
    #[must_use]
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }

    /// It has come.
    #[must_use]
    pub fn have_ended(&self) -> bool {
        *self.0.borrow()
    }

    /// It comes.
    pub fn end(&self) {
        self.0.send_replace(true);
    }
}

/// Returns when thread `thread` has a signal to take, is gone, or everything ends.
pub async fn interrupted(thread: u32, mut ended: watch::Receiver<bool>) {
    let signalled = async {
        if thread == 0 {
            return tokio::time::sleep(UNSEEN_MAX).await;
        }
        let path = format!("/proc/{thread}/status");
        loop {
            tokio::time::sleep(LOOK).await;
            if has_signal(&path) {
                tokio::time::sleep(LOOK_AGAIN).await;
                if has_signal(&path) {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = signalled => {}
        // An error means that the mount is gone.
        _ = ended.wait_for(|ended| *ended) => {}
    }
}

fn has_signal(path: &str) -> bool {
    // A thread that is gone waits for nothing.
    std::fs::read_to_string(path).map_or(true, |status| is_signalled(&status))
}

/// A signal is pending, to the thread or its process, that the thread does not block.
fn is_signalled(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(own: u64, shared: u64, blocked: u64) -> String {
        format!(
            "Name:\tx\nSigQ:\t1/2\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t0\n"
        )
    }

    #[test]
    fn a_pending_signal_counts_unless_it_is_blocked() {
        assert!(!is_signalled(&status(0, 0, 0)));
        assert!(is_signalled(&status(1 << 8, 0, 0)), "to the thread");
        assert!(is_signalled(&status(0, 1 << 13, 0)), "to the process");
        assert!(!is_signalled(&status(1 << 9, 1 << 13, 1 << 9 | 1 << 13)));
        assert!(is_signalled(&status(0, 0b11, 0b01)));
    }

    #[tokio::test]
    async fn a_thread_that_is_gone_or_a_mount_that_ends_waits_no_more() {
        let waits = Waits::default();
        // No process has this number.
        interrupted(u32::MAX, waits.ended()).await;
        let own = std::process::id();
        let waiting = tokio::spawn(interrupted(own, waits.ended()));
        waits.end();
        waiting.await.unwrap();
        assert!(waits.have_ended());
    }
}
