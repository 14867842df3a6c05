//! Faults that the simulation plants inside machines: those that no driver could plant by what it
//! tells a machine. Only with the feature `planted`, which no program is built with.
//!
//! A fault is planted for the machines of one thread, since a simulation runs in one.
use std::cell::Cell;

/// A planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A store keeps what it fetched for a repair without comparing it with the master's sum.
    CopiesUnverified,
    /// A directory may move below itself.
    MovesIntoItself,
    /// Of an inode one version less is kept.
    KeepsOneVersionLess,
}

thread_local! {
    static NOW: Cell<Option<Planted>> = const { Cell::new(None) };
}

/// Plants a fault in this thread, or none.
pub fn plant(fault: Option<Planted>) {
    NOW.set(fault);
}

/// True if this one is planted.
pub(crate) fn has(fault: Planted) -> bool {
    NOW.get() == Some(fault)
}
