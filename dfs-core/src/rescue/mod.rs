//! What is left when every master is lost: stores, whose objects say who they are, and the newest
//! namespace snapshot among them.
//!
//! A snapshot holds the rows of the namespace tables ([`NAMESPACE_TABLES`]) as of one log index, all
//! of them or it does not count. Each store pulls it from the leader and keeps it as objects of
//! [`Ino::NAMESPACE`](crate::types::Ino::NAMESPACE).
//!
//! [`NAMESPACE_TABLES`]: crate::master::state::namespace::NAMESPACE_TABLES
pub mod content;
pub mod inventory;
pub mod plan;
pub mod snapshot;

pub use content::{Content, Piece};
pub use inventory::{Directory, Inventory, InventoryError};
pub use plan::{Entry, Plan, What, plan};
pub use snapshot::{NamespaceManifest, PartBuilder, decode_part, manifest_object};
