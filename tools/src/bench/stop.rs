//! Signals that ask to end: phases look at [`Stop`] before each operation, so that the directory is
//! still removed. A second signal ends the process at once, should an operation never return.
use crate::error::{Exit, ToolError};
use crate::output::note;
use anyhow::Context;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether to end.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Set by SIGINT, SIGTERM and SIGHUP from now on. A second one leaves `place` behind.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn at_signals(place: PathBuf) -> anyhow::Result<Self> {
        let stop = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("watching for signals")?;
        let signals = {
            let _entered = runtime.enter();
            let kinds = [
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
            ];
            let [a, b, c] = kinds.map(signal);
            [a, b, c].into_iter().collect::<Result<Vec<_>, _>>()
        };
        let mut signals = signals.context("watching for signals")?;
        let set = stop.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                runtime.block_on(async {
                    next(&mut signals).await;
                    set.ask();
                    note("interrupted; what was written is removed (once more to leave it)");
                    next(&mut signals).await;
                    note(format!("left behind: {}", place.display()));
                    std::process::exit(Exit::Failed as i32);
                });
            })
            .context("watching for signals")?;
        Ok(stop)
    }

    /// Asks to end.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Goes on.
    ///
    /// # Errors
    /// `Interrupted` if asked to end.
    pub fn check(&self) -> Result<(), ToolError> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(ToolError::Interrupted),
            false => Ok(()),
        }
    }
}

/// Waits for any of them.
async fn next(signals: &mut [Signal]) {
    std::future::poll_fn(|cx| {
        let came = signals.iter_mut().any(|s| s.poll_recv(cx).is_ready());
        match came {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}
