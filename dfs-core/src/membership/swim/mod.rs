//! SWIM failure detection and gossip, as a machine around foca.
mod codec;
mod effects;
mod machine;
mod urgent;

pub use machine::{MemberAction, MemberEvent, Membership, MembershipStats, TimerToken};
