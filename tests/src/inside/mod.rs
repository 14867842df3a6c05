//! What a scenario cannot do from outside: ask one store directly, and stand between the processes
//! with a proxy that damages, cuts or holds what passes.
pub mod asking;
pub mod fleet;
pub mod probe;
pub mod proxy;

pub use asking::Asking;
pub use fleet::Fleet;
pub use probe::{Place, Probe};
pub use proxy::{Proxy, Way};
