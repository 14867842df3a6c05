//! Command line of `dfs-tools`.
use crate::commands;
use crate::dev::DevCommand;
use crate::error::EXIT_CODES;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Work with a DFS cluster, without mounting it.
#[derive(Debug, Parser)]
#[command(name = "dfs-tools", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Flags of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of all commands.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Addresses of daemons (comma-separated), or a cluster directory
    #[arg(long, global = true, value_name = "ADDRS|DIR")]
    pub cluster: Option<String>,
    /// File with the cluster key
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// How long one operation may take (default: 10 for metadata, 30 for data)
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let secs: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(secs) {
        Ok(d) if (0.1..=86_400.0).contains(&secs) => Ok(d),
        _ => Err("must be 0.1 to 86400 seconds".to_owned()),
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copy local files into the cluster; each becomes one new version
    Put(commands::put::PutArgs),
    /// Copy files of the cluster to local ones; only verified bytes are written
    Get(commands::get::GetArgs),
    /// List a directory
    Ls(commands::ls::LsArgs),
    /// Show a directory with all below it
    Tree(commands::tree::TreeArgs),
    /// Show everything about a file or directory
    Stat(commands::stat::StatArgs),
    /// Make directories
    Mkdir(commands::dirs::MkdirArgs),
    /// Remove empty directories
    Rmdir(commands::dirs::RmdirArgs),
    /// Remove files; their history stays for undelete
    Rm(commands::rm::RmArgs),
    /// Copy files within the cluster
    Cp(commands::cp::CpArgs),
    /// Move or rename files and directories
    Mv(commands::mv::MvArgs),
    /// List or fetch the last versions of a file
    Versions(commands::versions::VersionsArgs),
    /// Make an old version of a file the current one
    Restore(commands::restore::RestoreArgs),
    /// Bring back a removed file or directory
    Undelete(commands::undelete::UndeleteArgs),
    /// Drop history for good
    Purge(commands::purge::PurgeArgs),
    /// List the members as a node sees them
    Members(commands::members::MembersArgs),
    /// Show who a node is
    Id(commands::node::IdArgs),
    /// Make a node leave the cluster and stop
    Leave(commands::node::LeaveArgs),
    /// Empty a node: its data moves elsewhere, and nothing new comes to it
    #[command(alias = "forget")]
    Drain(commands::retire::DrainArgs),
    /// Say by exit code whether a node can be stopped without anything becoming unavailable
    SafeToStop(commands::retire::StopArgs),
    /// Forget an empty, stopped node for good
    Remove(commands::retire::RemoveArgs),
    /// Name the files of which bytes may be lost: no complete copy of these is on a node that is up
    Lost(commands::retire::LostArgs),
    /// Show how the cluster is
    Status(commands::status::StatusArgs),
    /// Show which nodes hold a file, and verify every copy
    Where(commands::r#where::WhereArgs),
    /// List the files a node holds
    Store(commands::store::StoreArgs),
    /// Show files to nodes and nodes to files, whole
    Map(commands::store::MapArgs),
    /// Check everything: all tables, all copies of all versions, all that is held
    Fsck(commands::fsck::FsckArgs),
    /// Print files added and removed as it happens
    Watch(commands::watch::WatchArgs),
    /// Show bytes sent and received since the last reset, by class
    Bandwidth(commands::bandwidth::BandwidthArgs),
    /// Set the bandwidth counters to zero
    ResetTime(commands::bandwidth::ResetArgs),
    /// Pause, resume, boost or look at repair
    #[command(subcommand)]
    Repair(commands::repair::RepairCommand),
    /// Compare all replicas of files with the master's record, now
    Verify(commands::verify::VerifyArgs),
    /// Verify every replica in the background, or show what that found
    #[command(subcommand)]
    Scrub(commands::scrub::ScrubCommand),
    /// Keep the names of all files in every store now, for `rescue` (happens hourly by itself)
    Snapshot(commands::snapshot::SnapshotArgs),
    /// Rebuild a tree from data directories when all masters are lost
    Rescue(commands::rescue::RescueArgs),
    /// Measure how fast a directory is, by a short workload; needs no cluster
    Bench(commands::bench::BenchArgs),
    /// Run a development cluster on this machine
    #[command(subcommand)]
    Dev(DevCommand),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("dfs-tools").chain(args.iter().copied()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_may_come_before_or_after_the_command() {
        for args in [["--json", "status"], ["status", "--json"]] {
            assert!(parse(&args).unwrap().global.json);
        }
        let cli = parse(&["dev", "status", "--json", "--cluster", "127.0.0.1:1"]).unwrap();
        assert!(cli.global.json && cli.global.cluster.is_some());
        let cli = parse(&["--timeout", "2.5", "ls", "/"]).unwrap();
        assert_eq!(cli.global.timeout, Some(Duration::from_millis(2500)));
        assert!(parse(&["--timeout", "0", "ls"]).is_err());
        assert!(parse(&["--timeout", "soon", "ls"]).is_err());
    }

    #[test]
    fn wrong_usage_has_exit_code_2() {
        for args in [
            &["frobnicate"][..],
            &["put"],
            &["put", "only-one"],
            &["restore", "/f"],
            &["bench"],
            &["bench", "/mnt", "--rows", "no-such-row"],
        ] {
            assert_eq!(parse(args).unwrap_err().exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn help_documents_the_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(
            help.contains("damaged data") && help.contains("Exit codes"),
            "{help}"
        );
        let readme = include_str!("../../README.md");
        for text in [help.as_str(), readme] {
            assert!(text.contains("the nodes that hold the bytes"), "{text}");
        }
    }

    #[test]
    fn commands_take_what_their_usage_says() {
        for args in [
            &["put", "-r", "a", "b", "/dest"][..],
            &["put", "-", "/x"],
            &["get", "/a", "-"],
            &["ls", "-l", "/"],
            &["ls"],
            &["rm", "-r", "--purge", "/a", "/b"],
            &["versions", "/f", "5", "-o", "dir"],
            &["versions", "/f", "--concat", "out"],
            &["restore", "/f", "3"],
            &["purge", "--all", "--yes"],
            &["purge", "/f"],
            &["members", "--log"],
            &["members", "3", "--log"],
            &["id", "3"],
            &["leave", "127.0.0.1:7400"],
            &["bandwidth"],
            &["reset-time", "ab12"],
            &["repair", "pause"],
            &["repair", "boost", "10m"],
            &["drain", "3", "--no-wait"],
            &["drain", "3", "--cancel"],
            &["safe-to-stop", "3"],
            &["remove", "3"],
            &["lost", "--all"],
            &["repair", "log", "--json"],
            &["verify", "/d", "-r"],
            &["verify", "/f", "--current", "--json"],
            &["scrub", "start"],
            &["scrub", "status", "--json"],
            &["dev", "up", "5"],
            &["dev", "up"],
            &["bench", "/mnt", "--quick", "--rows", "meta1,append"],
            &[
                "bench",
                "/mnt",
                "--seed",
                "7",
                "--save",
                "a",
                "--compare",
                "b",
            ],
            &["dev", "kill", "2"],
            &["map"],
            &["watch", "/d"],
            &["where", "/f", "--json"],
            &["fsck", "--fast", "--json"],
        ] {
            assert!(
                parse(args).is_ok(),
                "{args:?}: {}",
                parse(args).unwrap_err()
            );
        }
    }
}
