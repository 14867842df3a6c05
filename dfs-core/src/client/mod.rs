//! The client library: machines of put and get, the file layer, sessions and caches.
//!
//! [`Client`] (feature `net`) is the core that mount and tools share: it finds the master, keeps a
//! session with it, repeats what was not answered, and caches metadata as long as the master vouches
//! for it. The file layer plugs in by [`RecallHandler`] and [`AttrOverlay`], a mount by
//! [`CacheListener`].
#[cfg(feature = "net")]
pub mod file;
pub mod get;
pub mod latency;
#[cfg(feature = "net")]
#[allow(clippy::disallowed_methods)] // The clock of a driver.
pub mod leisure;
pub mod put;

#[cfg(feature = "net")]
mod admin;
#[cfg(feature = "net")]
mod admin_repair;
#[cfg(feature = "net")]
mod attrs;
#[cfg(feature = "net")]
#[allow(clippy::disallowed_methods)] // Deadlines of a driver.
mod behind;
#[cfg(feature = "net")]
#[allow(clippy::disallowed_types)] // Nothing depends on the order of its maps.
mod cache;
#[cfg(feature = "net")]
#[allow(clippy::disallowed_methods)] // Deadlines of a driver.
mod calls;
#[cfg(feature = "net")]
mod config;
#[cfg(feature = "net")]
mod contact;
#[cfg(feature = "net")]
mod core;
#[cfg(feature = "net")]
mod error;
#[cfg(feature = "net")]
mod files;
#[cfg(feature = "net")]
mod hooks;
#[cfg(feature = "net")]
mod lending;
#[cfg(feature = "net")]
#[allow(clippy::disallowed_methods)] // Deadlines of a driver.
mod locks;
#[cfg(feature = "net")]
mod map;
#[cfg(feature = "net")]
mod names;
#[cfg(feature = "net")]
#[allow(clippy::disallowed_types)] // Nothing depends on the order of its maps.
mod path_hints;
#[cfg(feature = "net")]
mod session;
#[cfg(all(test, feature = "net"))]
pub(crate) mod testing;
#[cfg(all(test, feature = "net"))]
mod tests;
#[cfg(feature = "net")]
mod trips;

#[cfg(feature = "net")]
pub use self::{
    admin::WatchEvent,
    attrs::SetAttrArgs,
    cache::XattrList,
    config::{ClientConfig, ConfigError},
    core::{Client, ContactState},
    error::{ClientError, Result},
    file::{FileError, FileLayer, FileReader, FileWriter, GiveUp, OpenFile, OpenMode},
    files::{OpenMoment, Opened},
    hooks::{Ack, AttrOverlay, CacheListener, RecallHandler},
    locks::LockGrant,
    names::{Made, new_node, split_path},
    session::{CacheToken, OpTicket},
    trips::Trips,
};
