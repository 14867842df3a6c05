//! What `dfs-mount` does, from options to exit.
use crate::background::{self, Ready};
use crate::cli::{Cli, Options};
use crate::mount::{self, Mounted};
use crate::remount::remount;
use anyhow::Context;
use dfs_core::client::ClientConfig;
use dfs_daemon::discover::discover;
use dfs_daemon::embedded::Embedded;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Runs the program as `cli` says, which was parsed from `args`.
///
/// # Errors
/// What, why and what to do next.
pub fn run(cli: &Cli, args: &[OsString]) -> anyhow::Result<()> {
    let options = Options::parse(&cli.options)?;
    if cli.fake {
        return Ok(());
    }
    if options.remount {
        return remount(cli.mountpoint(), &options);
    }
    if let (Some(nodes), None) = (cli.dev, cli.ready_fd) {
        let dir = dev_dir(cli);
        eprintln!(
            "dfs-mount: embedded cluster of {nodes} nodes, kept under {}",
            dir.display()
        );
    }
    if !cli.foreground && cli.ready_fd.is_none() {
        return background::start(args, cli.log.as_deref());
    }
    start_log();
    let mut ready = Ready::new(cli.ready_fd);
    let result = serve(cli, &options, &mut ready);
    if let Err(e) = &result {
        ready.tell(Err(e));
    }
    result
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DFS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second start in one process (a test) keeps the first log.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // A log on a full device loses lines; complaining of that would end the thread.
        .log_internal_errors(false)
        .try_init();
}

fn serve(cli: &Cli, options: &Options, ready: &mut Ready) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("dfs-io")
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let signalled = Arc::new(AtomicBool::new(false));
    runtime.block_on(async { watch_signals(signalled.clone()) })?;
    let embedded = match cli.dev {
        Some(nodes) => Some(Embedded::start(runtime.handle(), &dev_dir(cli), nodes)?),
        None => None,
    };
    let config = client_config(cli, options, embedded.as_ref())?;
    let mounted = mount::mount(runtime.handle(), config, cli.mountpoint(), options)?;
    if cli.ready_fd.is_some() {
        // In the background: where it was started from can be unmounted and removed.
        std::env::set_current_dir("/").context("changing to the root directory")?;
    }
    ready.tell(Ok(()));
    let ended = Mounted::wait(mounted, runtime.handle(), &signalled);
    if let Some(embedded) = embedded {
        embedded.stop();
    }
    ended
}

fn client_config(
    cli: &Cli,
    options: &Options,
    embedded: Option<&Embedded>,
) -> anyhow::Result<ClientConfig> {
    let mut config = match embedded {
        Some(e) => ClientConfig::new(e.addrs().to_vec(), e.key().clone()),
        None => {
            let cluster = cli.cluster.as_deref().or(options.cluster.as_deref());
            let key_file = cli.key_file.as_deref().or(options.key_file.as_deref());
            discover(cluster.or(cli.source()), key_file)?
        }
    };
    config.label = format!(
        "dfs-mount {} pid {}",
        cli.mountpoint().display(),
        std::process::id()
    );
    config.deadline_data = options.timeout;
    config.deadline_meta = options.timeout.min(config.deadline_meta);
    config.attempt_timeout = config.attempt_timeout.min(config.deadline_meta);
    config.dirty_max_bytes = options.dirty_bytes as u64;
    config.behind = options.behind;
    config.data_cache_max_bytes = options.cache_bytes as u64;
    Ok(config)
}

/// Where the embedded cluster keeps its state unless told: a directory of its own, since another
/// process may run the cluster of `dfs-tools dev`.
fn dev_dir(cli: &Cli) -> PathBuf {
    if let Some(dir) = &cli.dev_dir {
        return dir.clone();
    }
    let mut name = dfs_daemon::dev::default_dir().into_os_string();
    name.push("-embedded");
    name.into()
}

/// SIGTERM and SIGINT ask for a clean unmount; SIGHUP must not kill a mount whose shell is gone.
fn watch_signals(signalled: Arc<AtomicBool>) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                _ = hup.recv() => {}
            }
        }
        signalled.store(true, Ordering::Release);
    });
    Ok(())
}
