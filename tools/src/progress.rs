//! Progress of transfers on a terminal: bytes, rate, time left. Silent elsewhere.
use crate::output::note;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// Progress of one command.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Of `total` bytes, if that is known.
    #[must_use]
    pub fn new(total: Option<u64>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::hidden();
        }
        let bar = match total {
            Some(_) => ProgressBar::new(0),
            None => ProgressBar::no_length(),
        };
        let template = match total {
            Some(_) => {
                "{bar:30} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta} left  {wide_msg}"
            }
            None => "{spinner} {bytes}  {binary_bytes_per_sec}  {elapsed}  {wide_msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    /// Shows nothing.
    #[must_use]
    pub fn hidden() -> Self {
        Self {
            bar: ProgressBar::hidden(),
        }
    }

    /// More bytes to come than were known.
    pub fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// Bytes done.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// What is being done.
    pub fn now(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Something to say in between.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| note(text));
    }

    /// Removes the bar.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
