//! Timing of failure detection.
//!
//! How the numbers make up the time from a crash to its notice (n nodes, no loss): the first probe
//! of the dead node starts within about one `probe_period` (each of n-1 nodes probes one member
//! per period), fails at the end of that period, and `suspect_for` later the node is declared
//! down and everybody is told at once: about `2 * probe_period + suspect_for`, 1 s by default. Which
//! member is probed is chance; the ring of `look` bounds the wait for a first probe at two periods.
//! The constants do not depend on n; they are checked by simulation from 2 to 20 nodes.
use std::time::Duration;

/// Settings of the membership machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipConfig {
    /// One member is probed per period. At its end a member that did not answer is suspected.
    /// More than twice `probe_rtt`.
    pub probe_period: Duration,
    /// How long a direct answer may take before others are asked to probe. Also what counts as a
    /// stall: a timer that fires later than this defers every accusation.
    pub probe_rtt: Duration,
    /// How long a suspected member has to object before it is declared down.
    pub suspect_for: Duration,
    /// Members asked to probe indirectly, and targets of one gossip round. At least 1.
    pub fanout: usize,
    /// Times each update rides on other datagrams. At least 1.
    pub transmissions: u8,
    /// Rounds in which an urgent update (suspicion, objection, down, left) is sent directly.
    pub eager_rounds: u8,
    /// Distance of those rounds.
    pub eager_interval: Duration,
    /// Most members told directly in a round; beyond it gossip does the rest.
    pub eager_targets_max: usize,
    /// First distance between attempts to join while alone; doubles up to `rejoin_max`.
    pub rejoin_min: Duration,
    /// Longest distance between attempts to join while alone, and the distance between contacts to
    /// known peers that are not in the list (which heals partitions).
    pub rejoin_max: Duration,
    /// How long Down and Left members stay listed, and how long a dead run is remembered.
    pub keep_down: Duration,
    /// Most Down and Left members listed; the newest stay.
    pub keep_down_max: usize,
    /// Entries of the event log; the newest stay.
    pub log_max: usize,
    /// Largest payload produced or accepted, in bytes, before sealing.
    pub packet_max: usize,
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("membership: {field}: {rule}")]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// The rule it breaks.
    pub rule: &'static str,
}

impl Default for MembershipConfig {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(200),
            probe_rtt: Duration::from_millis(60),
            suspect_for: Duration::from_millis(600),
            fanout: 3,
            transmissions: 20,
            eager_rounds: 4,
            eager_interval: Duration::from_millis(100),
            eager_targets_max: 64,
            rejoin_min: Duration::from_millis(200),
            rejoin_max: Duration::from_secs(3),
            keep_down: Duration::from_secs(6 * 3600),
            keep_down_max: 256,
            log_max: 1000,
            packet_max: 1300,
        }
    }
}

impl MembershipConfig {
    /// For hosts with more runnable threads than cores: slower to accuse.
    #[must_use]
    pub fn busy() -> Self {
        Self {
            probe_period: Duration::from_millis(250),
            probe_rtt: Duration::from_millis(80),
            suspect_for: Duration::from_millis(1500),
            eager_interval: Duration::from_millis(200),
            ..Self::default()
        }
    }

    /// A profile by name: `default` or `busy`.
    #[must_use]
    pub fn profile(name: &str) -> Option<Self> {
        match name {
            "default" => Some(Self::default()),
            "busy" => Some(Self::busy()),
            _ => None,
        }
    }

    /// Checks every rule named on the fields.
    ///
    /// # Errors
    /// [`ConfigError`] naming the first broken rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let rules = [
            (
                !self.probe_rtt.is_zero(),
                "probe_rtt",
                "must be more than zero",
            ),
            (
                self.probe_period > self.probe_rtt * 2,
                "probe_period",
                "must be more than twice probe_rtt, or indirect probes have no time",
            ),
            (
                self.suspect_for >= self.probe_period * 2,
                "suspect_for",
                "must be at least two probe periods, or a suspect cannot object in time",
            ),
            ((1..=16).contains(&self.fanout), "fanout", "must be 1 to 16"),
            (self.transmissions > 0, "transmissions", "must be 1 or more"),
            (self.eager_rounds > 0, "eager_rounds", "must be 1 or more"),
            (
                self.eager_interval >= Duration::from_millis(10),
                "eager_interval",
                "must be at least 10 ms",
            ),
            (
                self.rejoin_min >= Duration::from_millis(10) && self.rejoin_min <= self.rejoin_max,
                "rejoin_min",
                "must be at least 10 ms and at most rejoin_max",
            ),
            (
                self.keep_down >= Duration::from_secs(60),
                "keep_down",
                "must be at least 60 s, or stale gossip could revive a dead run",
            ),
            (self.log_max > 0, "log_max", "must be 1 or more"),
            (
                (512..=60_000).contains(&self.packet_max),
                "packet_max",
                "must be 512 to 60,000 bytes",
            ),
        ];
        for (holds, field, rule) in rules {
            if !holds {
                return Err(ConfigError { field, rule });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_valid_and_broken_settings_are_named() {
        for name in ["default", "busy"] {
            MembershipConfig::profile(name).unwrap().validate().unwrap();
        }
        assert!(MembershipConfig::profile("lazy").is_none());
        let broken = MembershipConfig {
            probe_rtt: Duration::from_millis(100),
            ..MembershipConfig::default()
        };
        assert_eq!(broken.validate().unwrap_err().field, "probe_period");
        let broken = MembershipConfig {
            suspect_for: Duration::from_millis(300),
            ..MembershipConfig::default()
        };
        assert_eq!(broken.validate().unwrap_err().field, "suspect_for");
    }
}
