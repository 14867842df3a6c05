//! Harness and scenarios: real processes under [`proc`], the deterministic simulator under [`sim`].
pub mod proc;
#[allow(
    clippy::needless_lifetimes,
    clippy::large_enum_variant,
    clippy::wrong_self_convention
)]
pub mod sim;
