//! The daemon as a program: log, runtime, signals.
use crate::cli::Cli;
use crate::config::Config;
use crate::run::Daemon;
use dfs_core::store::NO_SPACE;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Worker threads. They only move frames between sockets and the drivers' threads, so that one
/// keeps up; a second one would be woken to steal a few microseconds of work from it.
const WORKERS: usize = 1;

/// Between two tries to start on a full device.
const ROOM_EVERY: Duration = Duration::from_secs(2);

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
        // A log on a full device loses lines; complaining of that would end the thread.
        .log_internal_errors(false)
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
        let mut is_over = false;
        while !is_over {
            let daemon = tokio::select! {
                started = start(&config) => started?,
                _ = term.recv() => return Ok(()),
                _ = int.recv() => return Ok(()),
            };
            is_over = true;
            tokio::select! {
                _ = term.recv() => tracing::info!("SIGTERM: stopping"),
                _ = int.recv() => tracing::info!("SIGINT: stopping"),
                () = daemon.asked_to_stop() => tracing::info!("left the cluster: stopping"),
                () = daemon.store_lost() => {
                    tracing::error!("the store is damaged: starting again without it");
                    is_over = false;
                }
            }
            daemon.stop().await;
        }
        tracing::info!("stopped");
        Ok(())
    })
}

/// Starts a daemon, as soon as its device has room for what it must write.
async fn start(config: &Config) -> anyhow::Result<Daemon> {
    loop {
        let error = match Daemon::start(config).await {
            Err(error) if is_for_want_of_room(&error) => error,
            done => return done,
        };
        tracing::error!("{error:#}: waiting for room to start; nothing is lost");
        tokio::time::sleep(ROOM_EVERY).await;
    }
}

fn is_for_want_of_room(error: &anyhow::Error) -> bool {
    let is_full = |io: &std::io::Error| io.kind() == std::io::ErrorKind::StorageFull;
    error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(is_full) || cause.to_string().contains(NO_SPACE)
    })
}
