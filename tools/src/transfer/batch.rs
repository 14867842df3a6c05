//! Many files at the same time: each failure is told when it happens, and the others go on.
use crate::error::{Exit, ToolError, exit_of, words};
use crate::progress::Progress;
use std::future::Future;
use tokio::task::JoinSet;

/// Files transferred at the same time.
const AT_ONCE: usize = 8;

/// Transfers that run.
pub struct Batch {
    running: JoinSet<anyhow::Result<()>>,
    progress: Progress,
    all: usize,
    failed: usize,
    first: Option<anyhow::Error>,
}

impl Batch {
    /// Without transfers.
    #[must_use]
    pub fn new(progress: Progress) -> Self {
        Self {
            running: JoinSet::new(),
            progress,
            all: 0,
            failed: 0,
            first: None,
        }
    }

    /// Shows how far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Adds one, waiting while too many run.
    pub async fn add(
        &mut self,
        transfer: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        while self.running.len() >= AT_ONCE {
            self.wait_one().await;
        }
        self.all += 1;
        self.running.spawn(transfer);
    }

    /// Counts something that was done, or failed, already.
    pub fn note(&mut self, done: anyhow::Result<()>) {
        self.all += 1;
        self.take(done);
    }

    fn take(&mut self, done: anyhow::Result<()>) {
        let Err(e) = done else { return };
        self.failed += 1;
        match self.first {
            // Told at the end, if it stays the only one.
            None => self.first = Some(e),
            Some(_) => self.progress.say(&words(&e)),
        }
    }

    async fn wait_one(&mut self) {
        match self.running.join_next().await {
            Some(Ok(done)) => self.take(done),
            Some(Err(e)) => self.take(Err(e.into())),
            None => {}
        }
    }

    /// Waits for all.
    ///
    /// # Errors
    /// The failure if there was one; how many if there were several, which were told.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        while !self.running.is_empty() {
            self.wait_one().await;
        }
        self.progress.end();
        let (failed, all) = (self.failed, self.all);
        match self.first {
            None => Ok(()),
            Some(e) if failed == 1 => Err(e),
            Some(e) => {
                self.progress.say(&words(&e));
                let exit: Exit = exit_of(&e);
                Err(ToolError::Parts { failed, all, exit }.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_failure_does_not_stop_the_others() {
        let mut batch = Batch::new(Progress::hidden());
        let (sender, receiver) = std::sync::mpsc::channel();
        for i in 0..20 {
            let sender = sender.clone();
            batch
                .add(async move {
                    if i == 3 {
                        return Err(ToolError::NotFound("three".into()).into());
                    }
                    Ok(sender.send(i)?)
                })
                .await;
        }
        let e = batch.finish().await.unwrap_err();
        assert_eq!(
            (e.to_string().as_str(), exit_of(&e)),
            ("three", Exit::NotFound)
        );
        drop(sender);
        assert_eq!(receiver.iter().count(), 19);
    }

    #[tokio::test]
    async fn several_failures_are_counted_and_keep_the_first_ones_exit_code() {
        let mut batch = Batch::new(Progress::hidden());
        batch.note(Err(ToolError::Damaged("a".into()).into()));
        batch.note(Ok(()));
        batch.note(Err(ToolError::NotFound("b".into()).into()));
        let e = batch.finish().await.unwrap_err();
        assert_eq!(
            (e.to_string().as_str(), exit_of(&e)),
            ("2 of 3 failed", Exit::Damaged)
        );
    }
}
