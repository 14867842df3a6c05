//! Floors: a run that did hardly anything proves nothing, however green it is.
use super::oracle::Counts;

/// Seeds below which totals say nothing.
const SEEDS_MIN: u64 = 100;

impl Counts {
    /// What one run did too little of; empty when it was enough.
    pub(super) fn idle(&self) -> String {
        match (self.puts, self.gets) {
            (0, _) => "no put was acknowledged in the whole run".into(),
            (_, 0) => "no get returned bytes in the whole run".into(),
            _ => String::new(),
        }
    }

    /// What `seeds` runs did too little of together, and whether too many checks gave up. Few seeds
    /// are not judged.
    #[must_use]
    pub fn shortfalls(&self, seeds: u64) -> Vec<String> {
        if seeds < SEEDS_MIN {
            return Vec::new();
        }
        // Of a hundred seeds, about half of what they usually do.
        let floors = [
            ("puts", self.puts, 2400),
            ("puts that failed", self.puts_failed, 15),
            ("puts of unknown outcome", self.puts_unknown, 15),
            ("gets", self.gets, 3300),
            ("gets proved by stamps", self.by_stamps, 600),
            ("namespace operations", self.names, 2900),
            ("lookups from a cache", self.cached, 40),
            ("crashes", self.crashes, 300),
            ("cuts", self.cuts, 240),
            ("changes of the leader", self.leaders, 130),
            ("sessions lost", self.sessions_lost, 30),
            ("placement epochs", self.epochs, 400),
            ("wiped stores", self.wipes, 5),
            ("objects that rotted", self.rotten, 8),
            ("deaths of clients", self.deaths, 25),
            ("moves of directories", self.moves, 170),
            ("versions at the end", self.versions, 300),
        ];
        let short = floors
            .iter()
            .filter(|(_, is, floor)| is * 100 < floor * seeds);
        let tell = |(what, is, floor): &(&str, u64, u64)| {
            format!("{is} {what} in {seeds} seeds; {floor} are to be expected of each 100")
        };
        let mut found: Vec<String> = short.map(tell).collect();
        if self.undecided * 100 > seeds {
            found.push(format!(
                "{} of {seeds} histories got no verdict",
                self.undecided
            ));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_do_nothing_or_check_nothing_are_told() {
        let nothing = Counts::default();
        assert!(!nothing.idle().is_empty());
        assert!(nothing.shortfalls(SEEDS_MIN).len() > 10);
        assert!(nothing.shortfalls(1).is_empty());
        let plenty = Counts {
            puts: 9790,
            puts_failed: 209,
            puts_unknown: 117,
            gets: 13_580,
            by_stamps: 2774,
            names: 11_883,
            cached: 197,
            crashes: 1314,
            cuts: 1000,
            leaders: 544,
            sessions_lost: 148,
            epochs: 1838,
            wipes: 20,
            rotten: 40,
            deaths: 114,
            moves: 700,
            versions: 1200,
            undecided: 2,
            ..nothing
        };
        assert_eq!(plenty.shortfalls(200), [""; 0]);
        let undecided = Counts {
            undecided: 3,
            ..plenty
        };
        assert_eq!(undecided.shortfalls(200).len(), 1);
    }
}
