//! The check of the whole cluster, at the end of scenarios and in those about damage.
use super::Cluster;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// One problem that `fsck` told of.
#[derive(Debug, Clone, Deserialize)]
pub struct Problem {
    /// Its name.
    pub kind: String,
    /// The node's address; none for all nodes.
    pub addr: Option<String>,
    /// The path of the file concerned, if it has one.
    pub path: Option<String>,
    /// In words.
    pub what: String,
}

/// What one run of `fsck` said.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Counts of what was looked at.
    pub checked: serde_json::Value,
}

impl Report {
    /// Names of the kinds of damage that were found.
    #[must_use]
    pub fn kinds(&self) -> BTreeSet<&str> {
        self.problems.iter().map(|p| p.kind.as_str()).collect()
    }
}

/// One run of `fsck`, whatever it finds.
///
/// # Errors
/// It could not run.
pub fn fsck(cluster: &Cluster, args: &[&str]) -> anyhow::Result<Report> {
    let mut all = vec!["--json", "fsck"];
    all.extend(args);
    let output = cluster.tools_output(&all)?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Report = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("fsck printed no report: {words}"))?;
    let is_clean = report.problems.is_empty();
    if is_clean != output.status.success() {
        bail!(
            "fsck says {} with {} problems",
            output.status,
            report.problems.len()
        );
    }
    Ok(report)
}

/// Waits until `fsck` finds nothing: for the end of a scenario, when repair has done its work.
///
/// # Errors
/// It still finds something after a minute and a half; the last findings.
pub fn fsck_clean(cluster: &Cluster) -> anyhow::Result<Report> {
    let begin = Instant::now();
    loop {
        let report = fsck(cluster, &[])?;
        if report.problems.is_empty() {
            return Ok(report);
        }
        if begin.elapsed() > Duration::from_secs(90) {
            bail!("fsck still finds problems: {:#?}", report.problems);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
