//! What a node answers about itself: identity, members, bandwidth, where the master is.
use super::gossip::GossipHandle;
use super::leader_book::LeaderBook;
use dfs_core::membership::{Bandwidth, Member, MemberChange, MemberNotice, TrafficClass};
use dfs_core::net::clock::{boottime, unix_ms_of};
use dfs_core::replica::VotingNow;
use dfs_core::types::{ClusterId, NodeId, StoreId, Time};
use dfs_core::wire::master::Voting;
use dfs_core::wire::node::{
    BandwidthInfo, ClassTraffic, MemberEventInfo, MemberInfo, MemberState, NodeIdentityInfo,
};
use dfs_core::wire::{NodeRequest, NodeResponse};
use std::net::SocketAddr;
use std::sync::Arc;

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// Stable id.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Data directory.
    pub data_dir: String,
    /// TCP address.
    pub tcp: SocketAddr,
}

/// See the [module docs](self).
pub struct NodeService {
    facts: NodeFacts,
    gossip: GossipHandle,
    bandwidth: Arc<Bandwidth>,
    book: LeaderBook,
    voting: Arc<VotingNow>,
}

fn unix(at: Time) -> Time {
    Time(unix_ms_of(at).saturating_mul(1_000_000))
}

fn member(m: &Member) -> MemberInfo {
    use dfs_core::membership::MemberState as S;
    MemberInfo {
        node: m.id,
        incarnation: m.incarnation,
        store: m.store,
        gossip: m.gossip,
        tcp: m.tcp,
        zone: m.zone.as_str().to_owned(),
        state: match m.state {
            S::Alive => MemberState::Alive,
            S::Suspect => MemberState::Suspect,
            S::Down => MemberState::Down,
            S::Left => MemberState::Left,
        },
        since: unix(m.since),
    }
}

fn event(n: &MemberNotice) -> MemberEventInfo {
    let what = match n.what {
        MemberChange::Joined => "joined",
        MemberChange::Restarted { .. } => "restarted",
        MemberChange::Suspected => "suspected",
        MemberChange::Recovered => "recovered",
        MemberChange::Failed => "failed",
        MemberChange::Left => "left",
        MemberChange::Renewed { .. } => "renewed",
    };
    MemberEventInfo {
        at: unix(n.at),
        node: n.node,
        incarnation: n.incarnation,
        what: what.to_owned(),
    }
}

impl NodeService {
    /// Answers for this node.
    #[must_use]
    pub fn new(
        facts: NodeFacts,
        gossip: GossipHandle,
        bandwidth: Arc<Bandwidth>,
        book: LeaderBook,
        voting: Arc<VotingNow>,
    ) -> Self {
        Self {
            facts,
            gossip,
            bandwidth,
            book,
            voting,
        }
    }

    fn identity(&self) -> NodeIdentityInfo {
        let me = self.gossip.identity();
        let raft_id = match self.voting.get() {
            Voting::As(id) => Some(id),
            Voting::Unknown | Voting::No | Voting::Failed => None,
        };
        NodeIdentityInfo {
            node: self.facts.node,
            incarnation: me.incarnation,
            store: self.facts.store,
            cluster: self.facts.cluster,
            tcp: self.facts.tcp,
            gossip: me.gossip,
            raft_id,
            pid: std::process::id(),
            data_dir: self.facts.data_dir.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn traffic(&self) -> BandwidthInfo {
        let now = boottime();
        let snapshot = self.bandwidth.snapshot(now);
        let class = |class: TrafficClass| {
            let found = snapshot.classes.iter().find(|c| c.class == class);
            found.map_or_else(ClassTraffic::default, |c| ClassTraffic {
                bytes_in: c.in_bytes,
                bytes_out: c.out_bytes,
            })
        };
        BandwidthInfo {
            since: unix(snapshot.since),
            gossip: class(TrafficClass::Gossip),
            data: class(TrafficClass::Data),
            metadata: class(TrafficClass::Metadata),
            repair: class(TrafficClass::Repair),
        }
    }

    /// The answer to a question about this node; `None` for what others answer (Raft, leaving).
    #[must_use]
    pub fn answer(&self, request: &NodeRequest) -> Option<NodeResponse> {
        Some(match request {
            NodeRequest::Ping => NodeResponse::Done,
            NodeRequest::Id => NodeResponse::Id(self.identity()),
            NodeRequest::Members => {
                NodeResponse::Members(self.gossip.members().iter().map(member).collect())
            }
            NodeRequest::MembersLog => {
                NodeResponse::MembersLog(self.gossip.log().iter().map(event).collect())
            }
            NodeRequest::Bandwidth => NodeResponse::Bandwidth(self.traffic()),
            NodeRequest::ResetBandwidth => {
                self.bandwidth.reset(boottime());
                NodeResponse::Done
            }
            NodeRequest::WhoLeads => NodeResponse::Leader(self.book.hint()),
            NodeRequest::Leave
            | NodeRequest::DiskUse
            | NodeRequest::Raft { .. }
            | NodeRequest::SnapshotPage { .. }
            | NodeRequest::NamespacePage { .. }
            | NodeRequest::StoreNamespace { .. }
            | NodeRequest::BecomeVoter { .. }
            | NodeRequest::RetireVoter { .. } => return None,
        })
    }
}
