//! SWIM failure detection and gossip, as a machine around foca.
mod codec;
mod effects;
mod events;
mod machine;
mod urgent;

pub use events::{MemberAction, MemberEvent, MembershipStats, TimerToken};
pub use machine::Membership;
