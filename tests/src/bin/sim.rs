//! Runs seeds of the simulation; see `dfs_tests::sim::cli`. With `DFS_LOG` set, what the machines
//! themselves log goes to standard error.
fn main() -> std::process::ExitCode {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("DFS_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .without_time()
            .init();
    }
    dfs_tests::sim::cli::main()
}
