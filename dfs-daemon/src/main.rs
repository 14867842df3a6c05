//! Program entry of `dfs-daemon`.
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    dfs_daemon::memory::bound();
    dfs_daemon::open_files::allow_all();
    match dfs_daemon::serve(&dfs_daemon::cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("dfs-daemon: {e:#}");
            ExitCode::FAILURE
        }
    }
}
