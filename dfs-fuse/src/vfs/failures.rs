//! The newest failures with their reasons, for `.dfs/status`.
//!
//! A program hears an errno only. Whoever asks why finds the reason here, without reading logs.
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Failures remembered.
const KEPT: usize = 20;

/// One failure.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When.
    pub at: Instant,
    /// What the program was told.
    pub errno: i32,
    /// Why.
    pub reason: String,
    /// How often in a row.
    pub times: u64,
}

// One process is one mount, and errors become errnos in `From`, where no mount is at hand.
static NEWEST: Mutex<VecDeque<Failure>> = Mutex::new(VecDeque::new());

/// Notes a failure; the same one again is counted.
pub fn note(errno: i32, reason: String) {
    let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
    let at = Instant::now();
    if let Some(last) = newest.back_mut().filter(|f| f.reason == reason) {
        last.at = at;
        last.times += 1;
        return;
    }
    if newest.len() == KEPT {
        newest.pop_front();
    }
    newest.push_back(Failure {
        at,
        errno,
        reason,
        times: 1,
    });
}

/// The newest first.
#[must_use]
pub fn newest() -> Vec<Failure> {
    let newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
    newest.iter().rev().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_again_is_counted_and_old_ones_make_room() {
        for _ in 0..3 {
            note(libc::EIO, "nobody answers".into());
        }
        assert_eq!(newest()[0].times, 3);
        for i in 0..2 * KEPT {
            note(libc::EIO, format!("failure {i}"));
        }
        let kept = newest();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].reason, format!("failure {}", 2 * KEPT - 1));
    }
}
