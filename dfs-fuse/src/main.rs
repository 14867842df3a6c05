//! Program entry of `dfs-mount`.
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    dfs_daemon::memory::bound();
    match dfs_fuse::run::run(&dfs_fuse::cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("dfs-mount: {e:#}");
            ExitCode::FAILURE
        }
    }
}
