//! Program entry of `dfs-mount`.
use clap::Parser;
use dfs_fuse::{cli::Cli, mount8, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    dfs_daemon::memory::bound();
    let done = mount8::arguments(std::env::args_os().collect()).and_then(|args| {
        let cli = Cli::parse_from(&args);
        run::run(&cli, &args)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("dfs-mount: {e:#}");
            ExitCode::FAILURE
        }
    }
}
