//! Queues between the threads of a driver: a receiver that finds nothing sleeps at once.
//!
//! A channel that spins before it sleeps pays when the next item comes within microseconds. Here it
//! comes after a message or a sync, and every turn of the spin would be a system call.
//!
//! 1. `send`: append, and wake one receiver if one sleeps (no system call otherwise);
//! 2. `recv`: take the first item, or sleep until there is one, the time is up, or nobody can send.
//!
//! Items leave in the order they came. Unbounded: senders never wait.
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// There is nobody left to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the receiving thread has ended")]
pub(crate) struct Closed;

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReceived {
    /// Nothing came in time.
    #[error("nothing came in time")]
    TimedOut,
    /// The queue is empty and all senders are gone.
    #[error("nobody can send any more")]
    Disconnected,
}

struct State<T> {
    items: VecDeque<T>,
    /// Receivers that wait for `ready`.
    asleep: usize,
    senders: usize,
    receivers: usize,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that items go in.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The end that items come out of; each goes to one of the clones.
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// An empty queue.
pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    let state = State {
        items: VecDeque::new(),
        asleep: 0,
        senders: 1,
        receivers: 1,
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        ready: Condvar::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> Sender<T> {
    /// Appends an item.
    ///
    /// # Errors
    /// [`Closed`]; the item is dropped.
    pub fn send(&self, item: T) -> Result<(), Closed> {
        let mut state = self.0.state();
        if state.receivers == 0 {
            return Err(Closed);
        }
        state.items.push_back(item);
        // With more items than sleepers, all of them have been woken already.
        let wake = state.items.len() <= state.asleep;
        drop(state);
        if wake {
            self.0.ready.notify_one();
        }
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// The next item, waiting for it.
    ///
    /// # Errors
    /// [`NotReceived::Disconnected`].
    pub fn recv(&self) -> Result<T, NotReceived> {
        let mut state = self.0.state();
        loop {
            if let Some(item) = next(&mut state)? {
                return Ok(item);
            }
            state.asleep += 1;
            let woken = self.0.ready.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.asleep -= 1;
        }
    }

    /// The next item, waiting at most `within`.
    ///
    /// # Errors
    /// [`NotReceived`].
    pub fn recv_timeout(&self, within: Duration) -> Result<T, NotReceived> {
        let until = Instant::now() + within;
        let mut state = self.0.state();
        loop {
            if let Some(item) = next(&mut state)? {
                return Ok(item);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NotReceived::TimedOut);
            }
            state.asleep += 1;
            let woken = self.0.ready.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.asleep -= 1;
        }
    }

    /// The next item if it is there.
    pub fn try_recv(&self) -> Option<T> {
        self.0.state().items.pop_front()
    }

    /// True if no item waits.
    pub fn is_empty(&self) -> bool {
        self.0.state().items.is_empty()
    }
}

fn next<T>(state: &mut State<T>) -> Result<Option<T>, NotReceived> {
    match state.items.pop_front() {
        None if state.senders == 0 => Err(NotReceived::Disconnected),
        next => Ok(next),
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.senders -= 1;
        let last = state.senders == 0;
        drop(state);
        if last {
            self.0.ready.notify_all();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.state().receivers += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.receivers -= 1;
        if state.receivers == 0 {
            // Nobody will take them; dropped outside the lock, they may hold senders of this queue.
            let items = std::mem::take(&mut state.items);
            drop(state);
            drop(items);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_the_order_they_went_in() {
        let (sender, receiver) = unbounded();
        for i in 0..3 {
            sender.send(i).unwrap();
        }
        assert!(!receiver.is_empty());
        let got: Vec<_> = std::iter::from_fn(|| receiver.try_recv()).collect();
        assert_eq!(got, [0, 1, 2]);
        let late = receiver.recv_timeout(Duration::from_millis(1));
        assert_eq!(late, Err(NotReceived::TimedOut));
    }

    #[test]
    fn what_was_sent_is_received_before_the_end_is_told() {
        let (sender, receiver) = unbounded();
        sender.clone().send(1).unwrap();
        drop(sender);
        assert_eq!(receiver.recv(), Ok(1));
        assert_eq!(receiver.recv(), Err(NotReceived::Disconnected));
        let now = receiver.recv_timeout(Duration::from_secs(60));
        assert_eq!(now, Err(NotReceived::Disconnected));
    }

    #[test]
    fn sending_to_nobody_is_refused() {
        let (sender, receiver) = unbounded();
        let other = receiver.clone();
        drop(receiver);
        assert_eq!(sender.send(1), Ok(()));
        drop(other);
        assert_eq!(sender.send(2), Err(Closed));
    }

    #[test]
    fn no_item_is_left_while_a_receiver_sleeps() {
        let (sender, receiver) = unbounded::<u64>();
        let (done, sums) = unbounded();
        let mut threads = Vec::new();
        for i in 0..3 {
            let (receiver, done) = (receiver.clone(), done.clone());
            threads.push(std::thread::spawn(move || {
                let mut sum = 0;
                loop {
                    // One of them waits with a limit, as owners do.
                    let got = match i {
                        0 => receiver.recv_timeout(Duration::from_micros(50)),
                        _ => receiver.recv(),
                    };
                    match got {
                        Ok(item) => sum += item,
                        Err(NotReceived::TimedOut) => {}
                        Err(NotReceived::Disconnected) => break,
                    }
                }
                done.send(sum).unwrap();
            }));
        }
        for item in 1..=20_000 {
            sender.send(item).unwrap();
            if item % 64 == 0 {
                std::thread::yield_now();
            }
        }
        drop(sender);
        for thread in threads {
            thread.join().unwrap();
        }
        let total: u64 = std::iter::from_fn(|| sums.try_recv()).sum();
        assert_eq!(total, 20_000 * 20_001 / 2);
    }
}
