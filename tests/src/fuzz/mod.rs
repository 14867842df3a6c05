//! Decoders of outside bytes, each as a small function that takes any bytes and panics only if a
//! promise breaks.
//!
//! Promises of every decoder:
//! 1. no panic, whatever the bytes are;
//! 2. work and memory are bounded by the bytes that are there, not by the lengths they claim;
//! 3. what decodes is encoded again to something that decodes to the same value.
//!
//! Where a checksum stands before the content, a function also takes the bytes as content and makes
//! the checksum right, since no mutation would ever find it. [`mod@commands`] is about more than
//! decoding: whatever the log of the master holds is applied alike by all voters, or refused.
//!
//! `tests/fuzz` has a libFuzzer target for each (nightly); `tests/tests/fuzz.rs` replays what is kept
//! in `tests/fuzz/corpus`, and mutations of it (stable). [`seeds`] makes inputs from real encodings.
pub mod build;
pub mod commands;
pub mod config;
pub mod consensus;
pub mod gossip;
pub mod master;
pub mod mutate;
pub mod seeds;
pub mod source;
pub mod store;
pub mod wire;

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// One decoder.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Of the function, the libFuzzer target and the directory of kept inputs.
    pub name: &'static str,
    /// Panics if a promise breaks.
    pub run: fn(&[u8]),
    /// Mutations that the test on stable tries: fewer where one takes longer.
    pub rounds: u32,
}

macro_rules! targets {
    ($($module:ident::$name:ident $rounds:literal,)*) => {
        /// All decoders.
        pub const TARGETS: &[Target] = &[$(
            Target { name: stringify!($name), run: $module::$name, rounds: $rounds },
        )*];
    };
}

targets! {
    wire::frame_reader 2000,
    wire::envelope 3000,
    wire::request 3000,
    wire::response 3000,
    wire::push 1000,
    wire::handshake 500,
    gossip::datagram 300,
    gossip::sealed_datagram 300,
    consensus::raft_message 2000,
    consensus::raft_record 2000,
    consensus::raft_log 150,
    consensus::raft_node 150,
    store::store_meta 1000,
    store::object_header 2000,
    store::journal 150,
    store::store_recovery 40,
    store::node_files 500,
    master::log_entry 3000,
    master::snapshot_rows 60,
    master::manifest 2000,
    master::namespace_part 2000,
    commands::commands 100,
    config::daemon_config 500,
    config::client_config 500,
    config::mount_options 1000,
    config::cluster_key 1000,
    config::paths 2000,
}

/// Durations in one message at most. Nanoseconds beyond a second are carried over when one is
/// decoded, and the sum may take a byte more.
const CARRIES_MAX: usize = 2;

/// Promise 3 for a type that travels as postcard.
fn recoded<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = postcard::from_bytes(bytes).ok()?;
    let again = postcard::to_stdvec(&value).expect("what was decoded can be encoded");
    let len_max = bytes.len() + CARRIES_MAX;
    assert!(again.len() <= len_max, "an encoding grew: {value:?}");
    let back: T = postcard::from_bytes(&again).expect("an encoding decodes");
    assert_eq!(value, back);
    Some(value)
}
