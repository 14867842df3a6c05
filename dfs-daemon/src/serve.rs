//! The daemon as a program: log, runtime, signals.
use crate::cli::Cli;
use crate::config::Config;
use crate::run::Daemon;
use tokio::signal::unix::{SignalKind, signal};

/// Worker threads. They only move frames between sockets and the drivers' threads, so that one
/// keeps up; a second one would be woken to steal a few microseconds of work from it.
const WORKERS: usize = 1;

/// Runs a daemon until SIGTERM, SIGINT, or until it was asked to leave.
///
/// # Errors
/// What, why and what to do next.
pub fn serve(cli: &Cli) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DFS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let config = Config::load(cli)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("dfs-net")
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let daemon = Daemon::start(&config).await?;
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: stopping"),
            _ = int.recv() => tracing::info!("SIGINT: stopping"),
            () = daemon.asked_to_stop() => tracing::info!("left the cluster: stopping"),
        }
        daemon.stop().await;
        tracing::info!("stopped");
        Ok(())
    })
}
