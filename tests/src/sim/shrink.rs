//! Which of a failing seed's faults are needed.
//!
//! The run is repeated without a half of the faults, then without quarters, and so on; what fails
//! all the same goes on without them. At the end no single fault can be left out. A run without a
//! fault takes another course from there on, so the failure that is left may be another one.
use super::settings::Settings;
use super::{planned, run};
use std::collections::BTreeSet;

/// What is left of a failing run.
#[derive(Debug)]
pub struct Shrunk {
    /// Repeats it.
    pub settings: Settings,
    /// The faults that are left: number, and what.
    pub kept: Vec<(usize, String)>,
    /// How it fails.
    pub error: String,
    /// Runs that it took.
    pub runs: u32,
}

/// Leaves out as many faults as possible. `None` if the run does not fail.
#[must_use]
pub fn shrink(failing: &Settings) -> Option<Shrunk> {
    let mut error = run(failing.clone()).err()?;
    let (mut settings, mut runs) = (failing.clone(), 1);
    let faults = planned(failing);
    let mut kept: Vec<usize> = (0..faults.len())
        .filter(|number| !failing.without.contains(number))
        .collect();
    let mut size = kept.len().div_ceil(2);
    while size > 0 && !kept.is_empty() {
        let mut at = 0;
        let before = kept.len();
        while at < kept.len() {
            let end = (at + size).min(kept.len());
            let mut without = settings.without.clone();
            without.extend(&kept[at..end]);
            let fewer = Settings {
                without,
                ..settings.clone()
            };
            runs += 1;
            match run(fewer.clone()) {
                Ok(_) => at = end,
                Err(e) => {
                    (settings, error) = (fewer, e);
                    kept.drain(at..end);
                }
            }
        }
        // Once more by ones, until nothing changes any more.
        size = match size {
            1 => usize::from(kept.len() < before),
            _ => size.div_ceil(2),
        };
    }
    let left: BTreeSet<usize> = kept.into_iter().collect();
    let kept = faults.into_iter().enumerate();
    let kept = kept.filter(|(number, _)| left.contains(number)).collect();
    Some(Shrunk {
        settings,
        kept,
        error,
        runs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Bug;

    #[test]
    fn a_planted_bug_is_left_with_the_faults_that_it_needs() {
        let bug = Bug::StoreFencesLate;
        let mut seeds = (0..100).map(|seed| Settings::with_bug(seed, bug));
        let failing = seeds.find(|settings| run(settings.clone()).is_err());
        let failing = failing.expect("it is caught within 100 seeds");
        let before = planned(&failing);

        let shrunk = shrink(&failing).expect("it failed before");

        assert!(shrunk.kept.len() < before.len(), "{shrunk:?}");
        let again = run(shrunk.settings.clone()).expect_err("what is left fails");
        assert_eq!(again, shrunk.error);
        for (number, what) in &shrunk.kept {
            assert_eq!(before[*number], *what);
            let mut fewer = shrunk.settings.clone();
            fewer.without.insert(*number);
            assert!(run(fewer).is_ok(), "fault {number} is not needed");
        }
    }

    #[test]
    fn a_run_that_does_well_is_not_shrunk() {
        assert!(shrink(&Settings::new(0)).is_none());
    }
}
