//! Access times of what this mount reads.
//!
//! 1. A read that moves the access time (`relatime`: the first one after a change, and one a day) is
//!    written down here, and from then on this mount shows it.
//! 2. A moment later the master is told of many of them at once; nobody waits for that. What it is
//!    not told because the session ends is lost, as access times of a power cut are.
use super::layer::FileLayer;
use crate::types::{Attr, Ino, Timestamp};
use crate::wire::Mutation;
use crate::wire::mutation::ACCESSED_MAX;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Times wait at least this long, so that many go together.
pub(super) const SPACING: Duration = Duration::from_secs(1);
/// Beyond this many, what is read is not written down.
const TIMES_MAX: usize = 65_536;

/// See the [module docs](self).
#[derive(Default)]
pub(super) struct AccessTimes {
    times: Mutex<Times>,
    /// There are none: attributes pass without a lock.
    some: AtomicBool,
    answered: Notify,
}

#[derive(Default)]
struct Times {
    noted: BTreeMap<Ino, Timestamp>,
    /// Told the master, and not answered yet.
    told: BTreeMap<Ino, Timestamp>,
}

impl Times {
    fn has_some(&self) -> bool {
        !self.noted.is_empty() || !self.told.is_empty()
    }
}

impl AccessTimes {
    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if it is news.
    fn note(&self, attr: &Attr, time: Timestamp) -> bool {
        let mut times = self.times();
        let known = times.noted.get(&attr.ino).or(times.told.get(&attr.ino));
        let is_known = known.is_some_and(|known| *known > attr.ctime && *known > attr.mtime);
        let is_news = !is_known && attr.is_accessed_at(time) && times.noted.len() < TIMES_MAX;
        if is_news {
            times.noted.insert(attr.ino, time);
            self.some.store(true, Ordering::Release);
        }
        is_news
    }

    /// Shows what the master does not know yet.
    pub(super) fn overlay(&self, attr: &mut Attr) {
        if !self.some.load(Ordering::Acquire) {
            return;
        }
        let times = self.times();
        let known = times.noted.get(&attr.ino).or(times.told.get(&attr.ino));
        if let Some(time) = known.filter(|time| attr.is_accessed_at(**time)) {
            attr.atime = *time;
        }
    }

    /// There are some for the master.
    pub(super) fn has_noted(&self) -> bool {
        self.some.load(Ordering::Acquire) && !self.times().noted.is_empty()
    }

    /// Some for the master, which are told from now on.
    fn take(&self) -> Vec<(Ino, Timestamp)> {
        let mut times = self.times();
        let first: Vec<_> = times.noted.iter().take(ACCESSED_MAX).collect();
        let taken: Vec<_> = first.into_iter().map(|(i, t)| (*i, *t)).collect();
        for (ino, time) in &taken {
            times.noted.remove(ino);
            times.told.insert(*ino, *time);
        }
        taken
    }

    fn answered(&self, taken: &[(Ino, Timestamp)]) {
        let mut times = self.times();
        for (ino, time) in taken {
            if times.told.get(ino) == Some(time) {
                times.told.remove(ino);
            }
        }
        self.some.store(times.has_some(), Ordering::Release);
        drop(times);
        self.answered.notify_waiters();
    }

    /// Forgets what the master was not told; true if there is nothing that it is being told.
    fn forget(&self, ino: Ino) -> bool {
        let mut times = self.times();
        times.noted.remove(&ino);
        self.some.store(times.has_some(), Ordering::Release);
        !times.told.contains_key(&ino)
    }
}

impl FileLayer {
    /// A program reads what has these attributes, now. True if that moves its access time, as far as was known.
    pub fn accessed(&self, attr: &Attr) -> bool {
        let now = self.backend.wall();
        attr.is_accessed_at(now) && self.access.note(attr, now)
    }

    /// A program is about to set this inode's access time: what was read before does not move it any
    /// more.
    pub async fn access_time_set(&self, ino: Ino) {
        loop {
            let answered = self.access.answered.notified();
            tokio::pin!(answered);
            answered.as_mut().enable();
            if self.access.forget(ino) {
                return;
            }
            let _hurry = self.config.leisure.hurry();
            answered.await;
        }
    }

    /// Tells the master, all of it.
    pub(super) async fn tell_accessed(self: &Arc<Self>) {
        loop {
            let taken = self.access.take();
            if taken.is_empty() {
                return;
            }
            let body = Mutation::Accessed {
                times: taken.clone(),
            };
            let told = self.backend.mutate(body).await;
            self.access.answered(&taken);
            if let Err(error) = told {
                tracing::debug!(%error, files = taken.len(), "access times are lost");
                return; // The others would only wait as long.
            }
        }
    }
}
