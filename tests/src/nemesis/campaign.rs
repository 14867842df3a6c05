//! One cluster's life under a schedule, and the judgement at its end.
//!
//! 1. Lab and workloads begin.
//! 2. Rounds until the time is over; between them every daemon and mount must still run.
//! 3. Everything is healed.
//! 4. The workloads end and judge what they saw: no answer may be wrong, and no call may hang.
//! 5. The cluster must become healthy by itself, find nothing wrong with itself, and both mounts must
//!    go politely.
use super::agent::Agent;
use super::fault::{Fault, Shown};
use super::lab::Lab;
use super::schedule::{Kind, Round, Schedule};
use crate::history::Figures;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Until a healed cluster must be healthy: repair of some hundred megabytes on a small machine.
const HEALED_MAX: Duration = Duration::from_secs(180);

/// What is done, and for how long.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Decides the rounds and what the workloads do.
    pub seed: u64,
    /// How long rounds begin.
    pub length: Duration,
    /// At most so many rounds.
    pub rounds: usize,
    /// What is drawn.
    pub kind: Kind,
    /// Daemons.
    pub nodes: usize,
    /// The program of the nemesis, which runs the workloads too.
    pub program: PathBuf,
    /// What is wrong with the cluster, so that the judgement must find it.
    pub plant: Option<Plant>,
}

/// Something that no judge may miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// The daemons' syncs do nothing.
    NoSync,
}

impl Settings {
    /// The command that does it again.
    #[must_use]
    pub fn command(&self) -> String {
        let kind = match self.kind {
            Kind::Mixed => "mixed",
            Kind::Power => "power",
        };
        let (seed, seconds) = (self.seed, self.length.as_secs());
        let mut command = format!(
            "cargo run --release -p dfs-tests --bin nemesis -- --seed {seed} --seconds {seconds} --kind {kind}"
        );
        if self.rounds != usize::MAX {
            command += &format!(" --rounds {}", self.rounds);
        }
        if self.plant.is_some() {
            command += " --plant no-sync";
        }
        command
    }
}

/// What came of one campaign, or of several.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Seconds of faults.
    pub seconds: f64,
    /// Rounds.
    pub rounds: usize,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, usize>,
    /// Counts of what programs did, by workload.
    pub workloads: BTreeMap<String, Figures>,
    /// What a correct cluster may not show.
    pub anomalies: Vec<String>,
}

impl Report {
    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.rounds += other.rounds;
        for (kind, n) in other.faults {
            *self.faults.entry(kind).or_default() += n;
        }
        for (name, counts) in other.workloads {
            self.workloads.entry(name).or_default().add(counts);
        }
        self.anomalies.extend(other.anomalies);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "figures: {:.0} s of faults, {} rounds",
            self.seconds, self.rounds
        )?;
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(k, n)| format!("{k} {n}"))
            .collect();
        writeln!(f, "figures: {}", faults.join(", "))?;
        for (name, c) in &self.workloads {
            let longest = c.longest_ns as f64 / 1e9;
            writeln!(
                f,
                "figures: {name:<10} {} ok, {} failed, {} unknown, longest {longest:.1} s, {} keys",
                c.ok, c.failed, c.unknown, c.keys
            )?;
        }
        write!(f, "figures: {} anomalies", self.anomalies.len())
    }
}

/// Plays a campaign. Anomalies are in the report, with the command that repeats it.
///
/// # Errors
/// The nemesis itself failed.
pub fn run(settings: &Settings) -> anyhow::Result<Report> {
    println!("nemesis: {}", settings.command());
    let config = config(settings.seed);
    let is_lying = settings.plant == Some(Plant::NoSync);
    let mut lab = Lab::start(settings.nodes, DISK_MB, &config, is_lying)?;
    let kept = kept(settings);
    let agent = Agent::start(&settings.program, &lab.mounts(), settings.seed, &kept)?;
    let mut report = Report::default();
    let played = play(settings, &mut lab, &mut report);
    if let Err(e) = &played {
        // Said now: what comes may wait for what this has left.
        println!("the nemesis failed: {e:#}");
    }
    let healed = lab.heal();
    if let Err(e) = &healed {
        println!("the nemesis cannot heal: {e:#}");
    }
    match agent.stop_and_verify() {
        Ok(verdict) => {
            report.anomalies.extend(verdict.anomalies);
            let rows = verdict.rows.into_iter();
            report.workloads = rows.map(|(name, row)| (name, row.figures)).collect();
        }
        Err(e) => report.anomalies.push(format!("no verdict: {e:#}")),
    }
    played?;
    healed?;
    if report.anomalies.is_empty() {
        // What programs saw is worth more than what a broken cluster becomes.
        settle(&mut lab, &mut report)?;
    }
    if report.anomalies.is_empty() {
        std::fs::remove_dir_all(&kept)?;
        return Ok(report);
    }
    lab.keep_logs(&kept)?;
    for anomaly in &report.anomalies {
        println!("ANOMALY: {anomaly}");
    }
    println!(
        "logs and histories are in {}; again: {}",
        kept.display(),
        settings.command()
    );
    Ok(report)
}

/// Room of each daemon's disk.
const DISK_MB: u64 = 2048;

/// Half of the campaigns repair soon.
fn config(seed: u64) -> String {
    let grace_ms = if seed.is_multiple_of(2) { 2000 } else { 10_000 };
    format!(
        "[cluster]\nplacement_groups = 32\n[repair]\ngrace_ms = {grace_ms}\nvoter_grace_ms = 8000\n"
    )
}

fn kept(settings: &Settings) -> PathBuf {
    let name = format!("dfs-nemesis-{}-{}", std::process::id(), settings.seed);
    std::env::temp_dir().join(name)
}

fn play(settings: &Settings, lab: &mut Lab, report: &mut Report) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut schedule = Schedule::new(settings.seed, settings.nodes, settings.kind);
    while began.elapsed() < settings.length && report.rounds < settings.rounds {
        let round = schedule.next_round();
        report.rounds += 1;
        one_round(&round, lab, report, began)?;
        for death in lab.deaths()? {
            report.anomalies.push(death);
        }
    }
    report.seconds += began.elapsed().as_secs_f64();
    Ok(())
}

fn one_round(
    round: &Round,
    lab: &mut Lab,
    report: &mut Report,
    began: Instant,
) -> anyhow::Result<()> {
    let size = lab.size();
    let said: Vec<String> = round
        .faults
        .iter()
        .map(|f| Shown(f, size).to_string())
        .collect();
    let at = began.elapsed().as_secs_f64();
    println!(
        "{at:7.1} s  {} for {} ms",
        said.join("; "),
        round.hold.as_millis()
    );
    if round.is_careful {
        let waited = lab
            .wait_health("HEALTHY", HEALED_MAX)
            .and_then(|_| lab.wait_scrubbed(HEALED_MAX));
        if let Err(e) = waited {
            report
                .anomalies
                .push(format!("not whole between rounds: {e:#}"));
            return Ok(());
        }
    }
    for fault in &round.faults {
        fault.begin(lab)?;
        *report.faults.entry(fault.kind(size)).or_default() += 1;
    }
    std::thread::sleep(round.hold);
    // A mount needs a cluster to begin with.
    let (mounts, others): (Vec<_>, Vec<_>) = round
        .faults
        .iter()
        .partition(|fault| matches!(fault, Fault::KillMount { .. }));
    others
        .into_iter()
        .chain(mounts)
        .try_for_each(|fault| fault.end(lab))?;
    if round.is_careful {
        // The next round may destroy elsewhere.
        if let Err(e) = lab.wait_health("HEALTHY", HEALED_MAX) {
            report
                .anomalies
                .push(format!("not healthy after {}: {e:#}", said.join("; ")));
        } else if let Err(e) = lab.wait_scrubbed(HEALED_MAX) {
            report
                .anomalies
                .push(format!("not scrubbed after {}: {e:#}", said.join("; ")));
        }
    }
    std::thread::sleep(round.rest);
    Ok(())
}

fn settle(lab: &mut Lab, report: &mut Report) -> anyhow::Result<()> {
    match lab.wait_health("HEALTHY", HEALED_MAX) {
        Ok(took) => println!("healthy {:.1} s after the end", took.as_secs_f64()),
        Err(e) => report
            .anomalies
            .push(format!("not healthy when healed: {e:#}")),
    }
    // Flips are found by the scrub, which goes first so that the check finds nothing.
    if let Err(e) = lab.wait_scrubbed(HEALED_MAX) {
        report
            .anomalies
            .push(format!("not scrubbed when healed: {e:#}"));
    }
    for problem in lab.fsck(Duration::from_secs(90))? {
        report.anomalies.push(format!("fsck: {problem}"));
    }
    for i in 0..super::lab::CLIENTS {
        if let Err(e) = lab.client(i).unmount() {
            report
                .anomalies
                .push(format!("mount {i} does not go: {e:#}"));
        }
    }
    report.anomalies.extend(lab.deaths()?);
    Ok(())
}
