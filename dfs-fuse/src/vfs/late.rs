//! Reads that failed at their deadline: what the kernel asks again at once fails at once.
//!
//! The kernel reads ahead first and then, when that failed, page by page what the program wanted. Each
//! would wait for a deadline of its own, and the program for their sum.
use super::Errno;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A read that took at least this long failed for want of answers.
const SLOW: Duration = Duration::from_millis(500);
/// What follows within this time is the kernel's second try.
const AGAIN: Duration = Duration::from_millis(300);

/// Last late failure of each open handle.
#[derive(Debug, Default)]
pub struct LateReads(Mutex<HashMap<u64, (Instant, Errno)>>);

impl LateReads {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Instant, Errno)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read on this handle that began then has failed.
    pub fn note(&self, handle: u64, began: Instant, error: Errno) {
        if began.elapsed() >= SLOW {
            self.lock().insert(handle, (Instant::now(), error));
        }
    }

    /// The error of a read that has just failed.
    #[must_use]
    pub fn recent(&self, handle: u64) -> Option<Errno> {
        let mut late = self.lock();
        let (at, error) = *late.get(&handle)?;
        if at.elapsed() < AGAIN {
            return Some(error);
        }
        late.remove(&handle);
        None
    }

    /// The handle is closed.
    pub fn forget(&self, handle: u64) {
        self.lock().remove(&handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_late_failure_answers_the_next_read_and_not_for_long() {
        let late = LateReads::default();
        let error = Errno(libc::EIO);
        late.note(1, Instant::now(), error);
        assert_eq!(
            late.recent(1),
            None,
            "failed at once: the next may do better"
        );
        let began = Instant::now().checked_sub(SLOW).unwrap();
        late.note(1, began, error);
        assert_eq!((late.recent(1), late.recent(2)), (Some(error), None));
        late.forget(1);
        assert_eq!(late.recent(1), None);
    }
}
