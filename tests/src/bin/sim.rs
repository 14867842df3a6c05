//! Runs seeds of the simulation; see `dfs_tests::sim::cli`.
fn main() -> std::process::ExitCode {
    dfs_tests::sim::cli::main()
}
