//! Comparing trees without trusting ourselves: `diff -r` and `find -printf`.
use super::sh;
use anyhow::{Context, bail};
use std::path::Path;

/// Everything `find` can say of a tree that a copy must keep.
const FORMAT: &str = r"%P %y %m %U %G %s %T@ %n %l\n";

/// Fails unless the two trees are the same: names, kinds, modes, owners, sizes, times, link counts,
/// link targets and bytes. Sizes of directories are the filesystem's own matter.
///
/// # Errors
/// The first differences.
pub fn same_trees(a: &Path, b: &Path) -> anyhow::Result<()> {
    let (a, b) = (a.display(), b.display());
    let list = |dir: &dyn std::fmt::Display| {
        let files = format!("find '{dir}' -mindepth 1 ! -type d -printf '{FORMAT}'");
        let dirs = format!(r"find '{dir}' -mindepth 1 -type d -printf '%P %y %m %U %G %T@\n'");
        sh(&format!("({files}; {dirs}) | LC_ALL=C sort"))
    };
    let (left, right) = (list(&a)?, list(&b)?);
    if left != right {
        let differs = left.lines().zip(right.lines()).find(|(l, r)| l != r);
        bail!(
            "{a} and {b} differ ({} and {} entries), first at {differs:?}",
            left.lines().count(),
            right.lines().count()
        );
    }
    sh(&format!("diff -r --no-dereference '{a}' '{b}'")).context("contents differ")?;
    Ok(())
}
