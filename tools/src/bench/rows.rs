//! Which rows there are, in which groups they are measured, and which of them are wanted.
use super::runner::Bench;
use super::sizes::Sizes;
use super::{meta, random, small, stream, tree};
use std::str::FromStr;

/// Of a row's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Megabytes (10^6 bytes) per second.
    MbPerSec,
    /// Reads or writes per second.
    Iops,
    /// Microseconds.
    Micros,
    /// Operations per second.
    OpsPerSec,
    /// Files per second.
    FilesPerSec,
}

impl Unit {
    /// As it is printed and saved.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MbPerSec => "MB/s",
            Self::Iops => "IOPS",
            Self::Micros => "us",
            Self::OpsPerSec => "ops/s",
            Self::FilesPerSec => "files/s",
        }
    }

    /// How many times better `now` is than `saved`; `None` if one of them is 0.
    #[must_use]
    pub fn ratio(self, now: f64, saved: f64) -> Option<f64> {
        if !(now > 0.0 && saved > 0.0) {
            return None;
        }
        Some(match self {
            Self::Micros => saved / now,
            _ => now / saved,
        })
    }
}

/// A row: its name and its unit.
pub type Row = (&'static str, Unit);

/// Rows that are measured with the same files.
#[derive(Debug)]
pub struct Group {
    /// Its name, and that of its directory.
    pub name: &'static str,
    /// In the order they are measured in.
    pub rows: &'static [Row],
    /// Bytes it needs at most.
    pub room: fn(&Sizes) -> u64,
    /// Measures.
    pub run: fn(&mut Bench<'_>) -> anyhow::Result<()>,
}

/// All of them, in their order. Random writes come last: what they leave is put in order by some
/// filesystems for seconds afterwards, which the group after them would pay for.
pub const GROUPS: &[Group] = &[
    Group {
        name: "stream",
        rows: &[
            ("seqwrite_1f", Unit::MbPerSec),
            ("seqread_1f", Unit::MbPerSec),
            ("seqread_warm", Unit::MbPerSec),
        ],
        room: Sizes::big_bytes,
        run: stream::run,
    },
    Group {
        name: "meta1",
        rows: &meta::ONE,
        room: |s| 2 * Sizes::room(s.meta, 0),
        run: meta::run_one,
    },
    Group {
        name: "meta8",
        rows: &meta::EIGHT,
        room: |s| 2 * Sizes::room(meta::THREADS * s.meta_each, 0),
        run: meta::run_eight,
    },
    Group {
        name: "small4k",
        rows: &[
            ("small4k_write", Unit::FilesPerSec),
            ("small4k_read", Unit::FilesPerSec),
            ("small4k_rm", Unit::FilesPerSec),
        ],
        room: |s| Sizes::room(s.small, 4 << 10),
        run: small::run_4k,
    },
    Group {
        name: "small64k",
        rows: &[
            ("small64k_write", Unit::FilesPerSec),
            ("small64k_read", Unit::FilesPerSec),
            ("small64k_rm", Unit::FilesPerSec),
        ],
        room: |s| Sizes::room(s.small, 64 << 10),
        run: small::run_64k,
    },
    Group {
        name: "synced",
        rows: &[("small4k_fsync", Unit::FilesPerSec)],
        room: |s| Sizes::room(s.synced, 4 << 10),
        run: small::run_synced,
    },
    Group {
        name: "tree",
        rows: &[
            ("tree_write", Unit::FilesPerSec),
            ("tree_rm", Unit::FilesPerSec),
        ],
        room: |s| Sizes::room(s.tree, tree::LEN_MAX),
        run: tree::run,
    },
    Group {
        name: "append",
        rows: &[("append_128", Unit::OpsPerSec)],
        room: |s| Sizes::room(1, s.appends * small::APPEND as u64),
        run: small::run_append,
    },
    Group {
        name: "random",
        rows: &[
            ("randread_4k", Unit::Iops),
            ("randread_4k_p50", Unit::Micros),
            ("randread_4k_p99", Unit::Micros),
            ("randwrite_4k_sync", Unit::Iops),
            ("randwrite_4k_sync_p50", Unit::Micros),
            ("randwrite_4k_sync_p99", Unit::Micros),
            ("randwrite_4k_sync_max", Unit::Micros),
            ("randwrite_4k_buf", Unit::Iops),
        ],
        room: Sizes::random_bytes,
        run: random::run,
    },
];

/// All rows.
pub fn all() -> impl Iterator<Item = Row> {
    GROUPS.iter().flat_map(|g| g.rows.iter().copied())
}

/// Which rows are wanted: those that begin with one of these, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection(Vec<String>);

impl Selection {
    /// True if this row, or one whose name begins with this, is wanted. So it also tells whether a
    /// phase is worth while that makes several rows.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        let wanted = |prefix: &String| name.starts_with(prefix) || prefix.starts_with(name);
        self.0.is_empty() || self.0.iter().any(wanted)
    }

    /// True if this row is to be told.
    #[must_use]
    pub fn tells(&self, metric: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|prefix| metric.starts_with(prefix))
    }

    /// The groups that have a row of it.
    pub fn groups(&self) -> impl Iterator<Item = &'static Group> {
        let has = |group: &&Group| group.rows.iter().any(|(metric, _)| self.tells(metric));
        GROUPS.iter().filter(has)
    }

    /// Bytes needed at most. Those of all groups: what was removed may be freed later, or be kept.
    #[must_use]
    pub fn room(&self, sizes: &Sizes) -> u64 {
        self.groups().map(|group| (group.room)(sizes)).sum()
    }
}

impl FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let prefixes: Vec<_> = text.split(',').map(|p| p.trim().to_owned()).collect();
        for prefix in &prefixes {
            let known = !prefix.is_empty() && all().any(|(metric, _)| metric.starts_with(prefix));
            if !known {
                let names: Vec<_> = all().map(|(metric, _)| metric).collect();
                let names = names.join(", ");
                return Err(format!("no row begins with \"{prefix}\"; rows are {names}"));
            }
        }
        Ok(Self(prefixes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pattern: &str) -> Vec<&'static str> {
        let selection: Selection = pattern.parse().unwrap();
        let names = all().map(|(metric, _)| metric);
        names.filter(|metric| selection.tells(metric)).collect()
    }

    #[test]
    fn every_row_has_one_name_and_its_group_a_directory_of_its_own() {
        let mut names: Vec<_> = all().map(|(metric, _)| metric).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        let mut groups: Vec<_> = GROUPS.iter().map(|g| g.name).collect();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), GROUPS.len());
    }

    #[test]
    fn rows_are_selected_by_the_beginnings_of_their_names() {
        assert_eq!(told("append"), ["append_128"]);
        assert_eq!(told("small4k_r, append_128").len(), 3);
        assert_eq!(told("meta").len(), 14);
        let all_of_them = Selection::default();
        assert!(all().all(|(metric, _)| all_of_them.tells(metric)));
        assert_eq!(all_of_them.groups().count(), GROUPS.len());
    }

    #[test]
    fn only_groups_with_a_selected_row_run_and_need_room() {
        let selection: Selection = "meta1,append".parse().unwrap();
        let names: Vec<_> = selection.groups().map(|g| g.name).collect();
        assert_eq!(names, ["meta1", "append"]);
        let sizes = Sizes::full();
        assert!(selection.room(&sizes) < 64 << 20);
        assert!(Selection::default().room(&sizes) > sizes.big_bytes() + sizes.random_bytes());
    }

    #[test]
    fn a_phase_is_wanted_for_any_of_its_rows() {
        let selection: Selection = "randread_4k_p99".parse().unwrap();
        assert!(selection.wants("randread_4k") && !selection.tells("randread_4k"));
        assert!(!selection.wants("randwrite_4k_sync"));
    }

    #[test]
    fn what_selects_nothing_is_refused_with_the_names_there_are() {
        for pattern in ["", "nothing", "append,,meta1", "meta1,128"] {
            let error = pattern.parse::<Selection>().unwrap_err();
            assert!(error.contains("meta1_create"), "{pattern}: {error}");
        }
    }

    #[test]
    fn ratios_above_one_are_better_now() {
        assert_eq!(Unit::OpsPerSec.ratio(200.0, 100.0), Some(2.0));
        assert_eq!(Unit::Micros.ratio(200.0, 100.0), Some(0.5));
        assert_eq!(Unit::Micros.ratio(0.0, 100.0), None);
        assert_eq!(Unit::Iops.ratio(1.0, 0.0), None);
    }
}
