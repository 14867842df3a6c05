//! From the command line to an exit code.
use crate::cli::{Cli, Command};
use crate::cluster::Tools;
use crate::commands;
use crate::dev;
use crate::error::{Exit, ToolError, advice, exit_of, is_closed_output, words};
use crate::output::Out;
use anyhow::Context;
use std::process::ExitCode;

/// Runs one command; errors are told on standard error.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    start_log();
    let result = match &cli.command {
        Command::Dev(_) if cli.global.cluster.is_some() => {
            let words = "`dev` takes no --cluster: name its directory by DFS_DEV_DIR".to_owned();
            Err(ToolError::Usage(words).into())
        }
        Command::Dev(command) => {
            let mut out = Out::stdout(cli.global.json);
            dev::run(command, &mut out).and_then(|()| out.flush())
        }
        Command::Bench(_) if cli.global.cluster.is_some() => {
            let words = "`bench` takes no --cluster: name the directory where it is mounted";
            Err(ToolError::Usage(words.to_owned()).into())
        }
        Command::Bench(args) => alone(cli.global.json, |out| commands::bench::run(args, out)),
        Command::Rescue(args) => alone(cli.global.json, |out| commands::rescue::run(args, out)),
        _ => with_runtime(cli),
    };
    let exit = match result {
        Ok(()) => Exit::Ok,
        // Whoever reads has seen enough.
        Err(e) if is_closed_output(&e) => Exit::Ok,
        Err(e) => {
            tell(&e);
            exit_of(&e)
        }
    };
    ExitCode::from(exit as u8)
}

/// A command that needs no cluster.
fn alone(json: bool, command: impl FnOnce(&mut Out) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut out = Out::stdout(json);
    let done = command(&mut out);
    // What was printed before a failure counts too.
    let flushed = out.flush();
    done.and(flushed)
}

/// What, why, and what to do next.
fn tell(error: &anyhow::Error) {
    use std::io::Write;
    let mut text = format!("dfs-tools: {}\n", words(error));
    if let Some(advice) = advice(error) {
        text.push_str(&format!("           {advice}\n"));
    }
    // Nowhere to report to if this fails.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DFS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

fn with_runtime(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let Cli { global, command } = cli;
    let out = Out::stdout(global.json);
    let mut tools = Tools::new(global, out);
    let result = runtime.block_on(async {
        let result = tokio::select! {
            result = dispatch(&command, &mut tools) => result,
            _ = tokio::signal::ctrl_c() => match command {
                // The only way to end it.
                Command::Watch(_) => Ok(()),
                _ => Err(ToolError::Interrupted.into()),
            },
        };
        tools.close().await;
        result
    });
    // What was printed before a failure counts too.
    let flushed = tools.out.flush();
    runtime.shutdown_background();
    result.and(flushed)
}

async fn dispatch(command: &Command, tools: &mut Tools) -> anyhow::Result<()> {
    match command {
        Command::Put(a) => commands::put::run(a, tools).await,
        Command::Get(a) => commands::get::run(a, tools).await,
        Command::Ls(a) => commands::ls::run(a, tools).await,
        Command::Tree(a) => commands::tree::run(a, tools).await,
        Command::Stat(a) => commands::stat::run(a, tools).await,
        Command::Mkdir(a) => commands::dirs::mkdir(a, tools).await,
        Command::Rmdir(a) => commands::dirs::rmdir(a, tools).await,
        Command::Rm(a) => commands::rm::run(a, tools).await,
        Command::Cp(a) => commands::cp::run(a, tools).await,
        Command::Mv(a) => commands::mv::run(a, tools).await,
        Command::Versions(a) => commands::versions::run(a, tools).await,
        Command::Restore(a) => commands::restore::run(a, tools).await,
        Command::Undelete(a) => commands::undelete::run(a, tools).await,
        Command::Purge(a) => commands::purge::run(a, tools).await,
        Command::Members(a) => commands::members::run(a, tools).await,
        Command::Id(a) => commands::node::id(a, tools).await,
        Command::Leave(a) => commands::node::leave(a, tools).await,
        Command::Drain(a) => commands::retire::drain(a, tools).await,
        Command::SafeToStop(a) => commands::retire::safe_to_stop(a, tools).await,
        Command::Remove(a) => commands::retire::remove(a, tools).await,
        Command::Lost(a) => commands::retire::lost(a, tools).await,
        Command::Status(a) if a.space => commands::space::run(tools).await,
        Command::Status(_) => commands::status::run(tools).await,
        Command::Where(a) => commands::r#where::run(a, tools).await,
        Command::Store(a) => commands::store::store(a, tools).await,
        Command::Map(_) => commands::store::map(tools).await,
        Command::Fsck(a) => commands::fsck::run(a, tools).await,
        Command::Watch(a) => commands::watch::run(a, tools).await,
        Command::Bandwidth(a) => commands::bandwidth::run(a, tools).await,
        Command::ResetTime(a) => commands::bandwidth::reset(a, tools).await,
        Command::Snapshot(a) => commands::snapshot::run(a, tools).await,
        Command::Repair(c) => commands::repair::run(c, tools).await,
        Command::Verify(a) => commands::verify::run(a, tools).await,
        Command::Scrub(c) => commands::scrub::run(c, tools).await,
        Command::Bench(_) | Command::Rescue(_) | Command::Dev(_) => {
            unreachable!("needs no runtime: handled before")
        }
    }
}
