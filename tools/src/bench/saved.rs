//! A run as JSON: what `--json` prints, `--save` writes and `--compare` reads.
use super::error::BenchError;
use super::rows::Unit;
use super::runner::Measured;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Of what is written; others are not read.
const FORMAT: u32 = 1;
/// Far more than a run has.
const LEN_MAX: u64 = 1 << 20;

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Format of the file, by which it is known too.
    pub dfs_bench: u32,
    /// Of the program.
    pub version: String,
    /// When it began.
    pub at: String,
    /// What was measured.
    pub directory: String,
    /// Of random offsets.
    pub seed: u64,
    /// Measured with `--quick`.
    pub quick: bool,
    /// How long it took.
    pub seconds: f64,
    /// In the order they were measured in.
    pub rows: Vec<SavedRow>,
}

/// One value of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedRow {
    /// The row's name.
    pub metric: String,
    /// Above or equal to 0.
    pub value: f64,
    /// Of the value.
    pub unit: String,
    /// The value of the run that it is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<f64>,
    /// How many times better it is than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl SavedRow {
    /// A value beside that of an earlier run.
    #[must_use]
    pub fn new(row: Measured, earlier: Option<&Run>) -> Self {
        let saved = earlier.and_then(|run| run.value(row.metric, row.unit));
        Self {
            metric: row.metric.to_owned(),
            value: rounded(row.value),
            unit: row.unit.as_str().to_owned(),
            saved,
            ratio: saved
                .and_then(|saved| row.unit.ratio(row.value, saved))
                .map(rounded),
        }
    }
}

/// What is beyond thousandths is noise.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

impl Run {
    /// A run of this version, without rows yet.
    #[must_use]
    pub fn new(directory: &Path, at: String, seed: u64, quick: bool) -> Self {
        Self {
            dfs_bench: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at,
            directory: directory.display().to_string(),
            seed,
            quick,
            seconds: 0.0,
            rows: Vec::new(),
        }
    }

    /// Reads what was saved.
    ///
    /// # Errors
    /// It cannot be read, or is no whole run.
    pub fn read(path: &Path) -> Result<Self, BenchError> {
        let mut text = Vec::new();
        let read = File::open(path).and_then(|f| f.take(LEN_MAX).read_to_end(&mut text));
        read.map_err(|source| BenchError::Unread {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|why| BenchError::NotARun {
            path: path.to_owned(),
            why,
        })
    }

    /// What it is not, in words.
    fn parse(text: &[u8]) -> Result<Self, String> {
        // First only this: another format may have anything else.
        #[derive(Deserialize)]
        struct Head {
            dfs_bench: u32,
        }
        let head: Head = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if head.dfs_bench != FORMAT {
            let its = head.dfs_bench;
            return Err(format!("its format is {its}, this version reads {FORMAT}"));
        }
        let run: Self = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if run.rows.is_empty() {
            return Err("it has no rows".to_owned());
        }
        for SavedRow { metric, value, .. } in &run.rows {
            if !(value.is_finite() && *value >= 0.0) {
                return Err(format!("{metric} cannot be {value}"));
            }
        }
        Ok(run)
    }

    /// The value of this row, if it was measured in the same unit.
    #[must_use]
    pub fn value(&self, metric: &str, unit: Unit) -> Option<f64> {
        let mut rows = self.rows.iter();
        let row = rows.find(|row| row.metric == metric && row.unit == unit.as_str());
        row.map(|row| row.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(metric: &'static str, value: f64, unit: Unit) -> Measured {
        Measured {
            metric,
            value,
            unit,
        }
    }

    fn run() -> Run {
        let mut run = Run::new(Path::new("/mnt"), "2026-11-21".to_owned(), 1, true);
        for row in [
            measured("meta1_create", 1000.0, Unit::OpsPerSec),
            measured("randread_4k_p99", 100.0, Unit::Micros),
            measured("append_128", 0.0, Unit::OpsPerSec),
        ] {
            run.rows.push(SavedRow::new(row, None));
        }
        run
    }

    #[test]
    fn what_was_saved_is_read_again() {
        let text = serde_json::to_vec(&run()).unwrap();
        assert_eq!(Run::parse(&text), Ok(run()));
        assert!(!String::from_utf8(text).unwrap().contains("ratio"));
    }

    #[test]
    fn a_row_is_compared_with_the_same_row_in_the_same_unit() {
        let earlier = run();
        let beside = |metric, value, unit| {
            let row = SavedRow::new(measured(metric, value, unit), Some(&earlier));
            (row.saved, row.ratio)
        };
        let faster = beside("meta1_create", 1500.0, Unit::OpsPerSec);
        assert_eq!(faster, (Some(1000.0), Some(1.5)));
        let slower = beside("randread_4k_p99", 400.0, Unit::Micros);
        assert_eq!(slower, (Some(100.0), Some(0.25)));
        let nothing_then = beside("append_128", 5.0, Unit::OpsPerSec);
        assert_eq!(nothing_then, (Some(0.0), None));
        assert_eq!(beside("append_128", 5.0, Unit::Iops), (None, None));
        assert_eq!(beside("tree_rm", 5.0, Unit::FilesPerSec), (None, None));
    }

    #[test]
    fn a_run_that_was_compared_can_be_compared_with() {
        let mut later = run();
        later.rows[0] = SavedRow::new(
            measured("meta1_create", 1500.0, Unit::OpsPerSec),
            Some(&run()),
        );
        let text = serde_json::to_vec(&later).unwrap();
        assert_eq!(Run::parse(&text), Ok(later));
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_it_was_cut_or_changed() {
        let text = serde_json::to_string_pretty(&run()).unwrap();
        for end in 0..text.len() - 1 {
            assert!(Run::parse(&text.as_bytes()[..end]).is_err(), "{end}");
        }
        for (from, to) in [
            ("\"dfs_bench\": 1", "\"dfs_bench\": 2"),
            ("\"dfs_bench\": 1", "\"other\": 1"),
            ("1000.0", "-1.0"),
            ("1000.0", "\"fast\""),
            ("1000.0", "null"),
            ("1000.0", "1e999"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            assert!(Run::parse(changed.as_bytes()).is_err(), "{to}");
        }
        let mut empty = run();
        empty.rows.clear();
        assert!(Run::parse(&serde_json::to_vec(&empty).unwrap()).is_err());
        assert!(Run::parse(b"\xff\x00").is_err());
    }
}
