//! (being built)
pub mod auth;
