//! Who is in the cluster and who looks alive: SWIM gossip over authenticated datagrams.
//!
//! What it decides is a hint for repair and display. It never decides quorums, placement or leases.
//! The machine is [`Membership`]; foca (the SWIM implementation) is seen by `swim` alone.
pub mod bandwidth;
pub mod config;
pub mod durable;
pub mod identity;
pub mod list;
pub mod peers;
pub mod swim;

pub use bandwidth::{Bandwidth, BandwidthSnapshot, ClassTraffic, TrafficClass};
pub use config::{ConfigError, MembershipConfig};
pub use durable::DurableError;
pub use identity::{NodeIdentity, NodeIdentityFile, Zone, ZoneError};
pub use list::{Member, MemberChange, MemberList, MemberNotice, MemberState};
pub use peers::{Peer, PeerBook};
pub use swim::{MemberAction, MemberEvent, Membership, MembershipStats, TimerToken};
