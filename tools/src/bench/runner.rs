//! Goes through the selected groups and hands over each row as soon as it is there.
use super::error::BenchError;
use super::phase::{Done, Limit, repeat};
use super::rng::Rng;
use super::rows::{self, Group, Selection, Unit};
use super::sizes::Sizes;
use super::stop::Stop;
use crate::error::ToolError;
use anyhow::Context;
use std::fs::File;
use std::path::{Path, PathBuf};

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// How much.
    pub sizes: Sizes,
    /// Which rows.
    pub selection: Selection,
    /// Of offsets, sizes and contents.
    pub seed: u64,
}

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The row's name.
    pub metric: &'static str,
    /// Above or equal to 0.
    pub value: f64,
    /// Of the value.
    pub unit: Unit,
}

/// What a group works with.
pub struct Bench<'a> {
    /// The run.
    pub config: &'a Config,
    /// Looked at before each operation.
    pub stop: &'a Stop,
    dir: PathBuf,
    tell: &'a mut dyn FnMut(Measured) -> anyhow::Result<()>,
}

/// Measures all selected rows in `dir`, which is ours; what a group wrote is removed after it.
///
/// # Errors
/// The filesystem refuses an operation, `tell` fails, or `stop` was asked for (`Interrupted`).
pub fn run(
    config: &Config,
    dir: &Path,
    stop: &Stop,
    tell: &mut dyn FnMut(Measured) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // What others have not yet written back is not ours to wait for. Phases tell if this fails.
    let _ = sync_of(dir);
    for group in config.selection.groups() {
        let mut bench = Bench {
            config,
            stop,
            dir: dir.join(group.name),
            tell,
        };
        match bench.group(group) {
            Ok(()) => {}
            // Neither is the filesystem's doing.
            Err(e) if e.downcast_ref::<ToolError>().is_some() => return Err(e),
            Err(e) if crate::error::is_closed_output(&e) => return Err(e),
            Err(source) => {
                let group = group.name;
                return Err(BenchError::Group { group, source }.into());
            }
        }
    }
    Ok(())
}

impl Bench<'_> {
    fn group(&mut self, group: &Group) -> anyhow::Result<()> {
        make_dir(&self.dir)?;
        (group.run)(self)?;
        let what = || format!("removing {}", self.dir.display());
        std::fs::remove_dir_all(&self.dir).with_context(what)
    }

    /// The group's own directory; empty at first.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How much.
    #[must_use]
    pub fn sizes(&self) -> &Sizes {
        &self.config.sizes
    }

    /// True if a phase that makes this row, or rows that begin with it, is worth while.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.config.selection.wants(name)
    }

    /// Numbers for one purpose of this run.
    #[must_use]
    pub fn rng(&self, purpose: u64) -> Rng {
        Rng::new(self.config.seed, purpose)
    }

    /// A phase; see [`repeat`].
    ///
    /// # Errors
    /// As `op` and `last`; `Interrupted`.
    pub fn phase(
        &self,
        limit: Limit,
        op: impl FnMut(u64) -> anyhow::Result<()>,
        last: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Done> {
        repeat(limit, self.stop, op, last)
    }

    /// Hands over a value, if its row is selected.
    ///
    /// # Errors
    /// It cannot be printed.
    ///
    /// # Panics
    /// There is no such row.
    pub fn record(&mut self, metric: &'static str, value: f64) -> anyhow::Result<()> {
        let row = rows::all().find(|(name, _)| *name == metric);
        let (_, unit) = row.expect("every recorded row is in a group");
        if !self.config.selection.tells(metric) {
            return Ok(());
        }
        (self.tell)(Measured {
            metric,
            value,
            unit,
        })
        .context("printing a row")
    }
}

/// Makes a directory.
///
/// # Errors
/// As the system says, with its name.
pub fn make_dir(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(path).with_context(|| format!("making {}", path.display()))
}

/// Makes a file that is not there, to read and write it.
///
/// # Errors
/// As the system says, with its name.
pub fn make_file(path: &Path) -> anyhow::Result<File> {
    File::create_new(path).with_context(|| format!("creating {}", path.display()))
}

/// Opens a file to read it.
///
/// # Errors
/// As the system says, with its name.
pub fn open_file(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

/// Waits until all that was written to the filesystem of `dir` is on its device.
///
/// # Errors
/// As the system says, with the directory's name.
pub fn sync_of(dir: &Path) -> anyhow::Result<()> {
    let file = open_file(dir)?;
    rustix::fs::syncfs(&file)
        .with_context(|| format!("syncing the filesystem of {}", dir.display()))
}

/// Drops the pages of a file that has been synced, so that it is read from where it is stored. A
/// filesystem that does not heed this, or has a cache besides, is read as warm as it is.
pub fn forget(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::place::Place;

    fn config(rows: Selection) -> Config {
        Config {
            sizes: Sizes {
                big_mib: 2,
                random_mib: 1,
                meta: 20,
                meta_each: 4,
                small: 8,
                synced: 3,
                tree: 25,
                appends: 20,
                ..Sizes::quick()
            },
            selection: rows,
            seed: 3,
        }
    }

    fn measured(config: &Config, dir: &Path) -> Vec<Measured> {
        let mut told = Vec::new();
        let mut tell = |row| {
            told.push(row);
            Ok(())
        };
        run(config, dir, &Stop::default(), &mut tell).unwrap();
        told
    }

    #[test]
    fn all_rows_come_in_their_order_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let told = measured(&config(Selection::default()), dir.path());
        let got = told.iter().map(|m| (m.metric, m.unit));
        assert!(got.eq(rows::all()), "{told:?}");
        let sane = |m: &Measured| m.value.is_finite() && m.value > 0.0;
        assert!(told.iter().all(sane), "{told:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_row_can_be_measured_alone() {
        let dir = tempfile::tempdir().unwrap();
        for (metric, _) in rows::all() {
            // Longer names begin with it, too.
            let told = measured(&config(metric.parse().unwrap()), dir.path());
            assert_eq!(told.first().map(|m| m.metric), Some(metric));
        }
    }

    #[test]
    fn an_interrupted_run_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let place = Place::make(parent.path(), 0).unwrap();
        let stop = Stop::default();
        let mut told = 0;
        let mut tell = |_| {
            told += 1;
            stop.ask();
            Ok(())
        };
        let config = config(Selection::default());
        let error = run(&config, place.dir(), &stop, &mut tell).unwrap_err();
        assert_eq!((told, error.to_string().as_str()), (1, "interrupted"));
        assert!(place.dir().join("stream").exists());
        drop(place);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_refused_operation_names_the_group_and_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("append")).unwrap();
        let config = config("append".parse().unwrap());
        let error = run(&config, dir.path(), &Stop::default(), &mut |_| Ok(())).unwrap_err();
        let words = crate::error::words(&error);
        assert!(words.starts_with("measuring append: making /"), "{words}");
        assert!(crate::error::advice(&error).unwrap().contains("--rows"));
    }
}
