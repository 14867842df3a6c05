//! Program entry of `dfs-tools`.
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    dfs_tools::run::run(dfs_tools::cli::Cli::parse())
}
