//! Invariants of the voters' tables, at rest:
//! 1. all members of the Raft group have applied the same log, and their tables hold the same rows;
//! 2. the tables of each contradict themselves nowhere;
//! 3. what a state caches of its tables is what a state opened over them would cache.
use super::node::Node;
use super::trace::Trace;
use dfs_core::consensus::RaftNode;
use dfs_core::master::state::{MasterState, StateAudit};
use dfs_core::store::LazyKv;
use dfs_core::types::LogIndex;

type State = MasterState<LazyKv>;

/// Rows of one slice of an audit.
const SLICE: usize = 1000;
/// Slices of one audit.
const SLICES_MAX: usize = 1000;

fn raft_of(node: &Node) -> Option<&RaftNode> {
    Some(node.daemon.as_ref()?.voter.as_ref()?.master.raft())
}

/// The states of the members of the group that this node leads, with their nodes.
fn states(nodes: &[Node], leader: usize) -> Result<Vec<(usize, &State)>, String> {
    let members = raft_of(&nodes[leader]).map_or(&[][..], RaftNode::voters);
    let state_of = |member| {
        let voters = nodes
            .iter()
            .filter_map(|n| Some((n.index, n.daemon.as_ref()?.voter.as_ref()?)));
        let mut mine = voters.filter(|(_, voter)| voter.id == member);
        let found = mine.next().map(|(node, v)| (node, v.master.state()));
        found.ok_or_else(|| format!("member {} of the group does not run", member.0))
    };
    members.iter().map(|member| state_of(*member)).collect()
}

/// Each member of the group that this node leads runs.
pub(super) fn do_all_run(nodes: &[Node], leader: usize) -> bool {
    states(nodes, leader).is_ok()
}

/// Why the members cannot be compared yet; empty when they can.
pub(super) fn disorder_of_voters(nodes: &[Node], leader: usize) -> String {
    let states = match states(nodes, leader) {
        Ok(states) => states,
        Err(what) => return what,
    };
    let index = |state: &State| state.applied().index;
    let first = states.first().map(|(_, state)| index(state));
    match states.iter().all(|(_, state)| Some(index(state)) == first) {
        true => String::new(),
        false => {
            let found: Vec<LogIndex> = states.iter().map(|(_, state)| index(state)).collect();
            format!("the members of the group have applied up to {found:?}")
        }
    }
}

/// Checks the tables of all members, which have applied the same entries.
pub(super) fn audit_voters(nodes: &[Node], leader: usize, trace: &mut Trace) -> Result<(), String> {
    let mut first = None;
    for (node, state) in states(nodes, leader)? {
        let digest = audit(state).map_err(|e| format!("voter on node {node}: {e}"))?;
        let this = (state.applied().index, state.applied().hash, digest);
        let (other, known) = *first.get_or_insert((node, this));
        if known != this {
            return Err(format!(
                "voters differ: node {other} has index, log and tables {known:?}, node {node} {this:?}"
            ));
        }
        trace.mix(u64::from(digest));
    }
    Ok(())
}

/// Audits one state to the end; tells the digest of its rows.
fn audit(state: &State) -> Result<u32, String> {
    let stale = state.stale_caches().map_err(|e| e.to_string())?;
    if !stale.is_empty() {
        return Err(format!("it caches {stale:?} otherwise than its tables"));
    }
    let pgs = u16::try_from(state.map().pgs.len()).expect("few groups");
    let mut audit = StateAudit::new(pgs, state.map().quorum);
    for _ in 0..SLICES_MAX {
        let step = audit.step(state.kv(), SLICE);
        step.map_err(|e| e.to_string())?;
        let faults = audit.take_faults();
        if !faults.is_empty() {
            return Err(format!("the audit of its tables: {faults:?}"));
        }
        if audit.is_done() {
            return Ok(audit.digest());
        }
    }
    Err("the audit of its tables does not end".into())
}
