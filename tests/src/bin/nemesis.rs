//! The nemesis as a program.
fn main() -> std::process::ExitCode {
    dfs_tests::nemesis::cli::main()
}
