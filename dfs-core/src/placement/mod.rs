//! Which stores hold which placement group: pure functions from a map and stores to changes.
//!
//! * [`view`] what the planner knows of a store, and its fair share;
//! * [`choose`] the next member of one PG;
//! * [`weigh`] what a copy of each group weighs;
//! * [`plan`] changes for creation, a failed store, a drained store;
//! * [`rebalance`] changes for an emptier store, a full one, and copies in one zone.
//!
//! Decides nothing by itself: the leader proposes the changes, the state machine applies them.
//! Invariants of every plan:
//! 1. never two copies on one node;
//! 2. never two copies in one zone while a zone without a copy has room (on a store that is not
//!    spare);
//! 3. a change replaces only what its cause names (minimal moves), and never the last complete copy;
//! 4. no candidate, no change: the PG stays as it is.
pub mod choose;
pub mod plan;
pub mod rebalance;
pub mod view;
pub mod weigh;

pub use plan::{plan_create, plan_drain, plan_failed};
pub use rebalance::{plan_rebalance, plan_relief, plan_spread, unevenness};
pub use view::{StoreRole, StoreView};
pub use weigh::Weights;
