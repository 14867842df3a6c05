//! Byte accounting by class of traffic, shared by the UDP and TCP drivers.
//!
//! Counters are relaxed atomics: a snapshot is exact for each counter and only nearly simultaneous
//! across them. What is counted is what was handed to or taken from a socket, without IP, UDP and
//! TCP headers.
use crate::types::Time;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What bytes are spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TrafficClass {
    /// Membership datagrams.
    Gossip,
    /// File content between clients and stores.
    Data,
    /// Master requests, Raft, stamps and notes.
    Metadata,
    /// Copies made by repair and rebalancing.
    Repair,
}

impl TrafficClass {
    /// All classes, in display order.
    pub const ALL: [Self; 4] = [Self::Gossip, Self::Data, Self::Metadata, Self::Repair];

    /// Lower-case name, as metrics and commands show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gossip => "gossip",
            Self::Data => "data",
            Self::Metadata => "metadata",
            Self::Repair => "repair",
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    in_bytes: AtomicU64,
    out_bytes: AtomicU64,
    in_messages: AtomicU64,
    out_messages: AtomicU64,
}

/// Bytes and messages of each class since the last reset.
#[derive(Debug, Default)]
pub struct Bandwidth {
    since: AtomicU64,
    classes: [Counters; 4],
}

/// Counters of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassTraffic {
    /// The class.
    pub class: TrafficClass,
    /// Bytes received.
    pub in_bytes: u64,
    /// Bytes sent.
    pub out_bytes: u64,
    /// Datagrams or frames received.
    pub in_messages: u64,
    /// Datagrams or frames sent.
    pub out_messages: u64,
}

/// All counters at about one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BandwidthSnapshot {
    /// When counting began, on the driver's clock.
    pub since: Time,
    /// When the snapshot was taken.
    pub at: Time,
    /// One entry per class, in the order of [`TrafficClass::ALL`].
    pub classes: Vec<ClassTraffic>,
}

impl BandwidthSnapshot {
    /// Length of the counting interval.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.at.since(self.since)
    }
}

impl Bandwidth {
    /// Counts from `now`.
    #[must_use]
    pub fn new(now: Time) -> Self {
        let this = Self::default();
        this.since.store(now.0, Relaxed);
        this
    }

    /// Counts one received message of `bytes`.
    pub fn add_in(&self, class: TrafficClass, bytes: usize) {
        let c = &self.classes[class as usize];
        c.in_bytes.fetch_add(bytes as u64, Relaxed);
        c.in_messages.fetch_add(1, Relaxed);
    }

    /// Counts one sent message of `bytes`.
    pub fn add_out(&self, class: TrafficClass, bytes: usize) {
        let c = &self.classes[class as usize];
        c.out_bytes.fetch_add(bytes as u64, Relaxed);
        c.out_messages.fetch_add(1, Relaxed);
    }

    /// The counters.
    #[must_use]
    pub fn snapshot(&self, now: Time) -> BandwidthSnapshot {
        let classes = TrafficClass::ALL
            .iter()
            .map(|&class| {
                let c = &self.classes[class as usize];
                ClassTraffic {
                    class,
                    in_bytes: c.in_bytes.load(Relaxed),
                    out_bytes: c.out_bytes.load(Relaxed),
                    in_messages: c.in_messages.load(Relaxed),
                    out_messages: c.out_messages.load(Relaxed),
                }
            })
            .collect();
        BandwidthSnapshot {
            since: Time(self.since.load(Relaxed)),
            at: now,
            classes,
        }
    }

    /// Sets every counter to zero and starts a new interval at `now`.
    pub fn reset(&self, now: Time) {
        for c in &self.classes {
            for counter in [&c.in_bytes, &c.out_bytes, &c.in_messages, &c.out_messages] {
                counter.store(0, Relaxed);
            }
        }
        self.since.store(now.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_counted_apart_and_a_reset_starts_anew() {
        let bandwidth = Bandwidth::new(Time(5));
        bandwidth.add_in(TrafficClass::Gossip, 100);
        bandwidth.add_out(TrafficClass::Repair, 7);
        bandwidth.add_out(TrafficClass::Repair, 8);
        let s = bandwidth.snapshot(Time(10));
        assert_eq!((s.since, s.interval()), (Time(5), Duration::from_nanos(5)));
        assert_eq!((s.classes[0].in_bytes, s.classes[0].out_bytes), (100, 0));
        assert_eq!((s.classes[3].out_bytes, s.classes[3].out_messages), (15, 2));
        bandwidth.reset(Time(20));
        let s = bandwidth.snapshot(Time(20));
        assert!(s.classes.iter().all(|c| c.in_bytes + c.out_bytes == 0));
        assert_eq!(s.since, Time(20));
    }

    #[test]
    fn every_class_has_its_own_slot() {
        for (i, class) in TrafficClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, i);
        }
    }
}
