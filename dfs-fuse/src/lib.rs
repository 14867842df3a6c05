//! `dfs-mount`: a DFS cluster as an ordinary directory.
//!
//! [`adapter`] is the only code that sees fuser's types; [`vfs`] has the operations, free of the
//! kernel; [`mount`] ties both to a mountpoint; [`background`] returns to the shell; [`mount8`] and
//! [`remount`] serve mount(8).
pub mod adapter;
pub mod background;
pub mod cli;
pub mod error;
pub mod mount;
pub mod mount8;
pub mod remount;
pub mod run;
pub mod vfs;

/// Memory of this machine.
pub(crate) fn memory_bytes() -> u64 {
    let about = rustix::system::sysinfo();
    (about.totalram as u64).saturating_mul(u64::from(about.mem_unit))
}
