//! The gossip driver on loopback sockets, in one process.
#![allow(clippy::unwrap_used)]

use dfs_core::membership::{
    Bandwidth, MemberChange, MemberState, MembershipConfig, NodeIdentityFile, Zone,
};
use dfs_core::net::auth::ClusterKey;
use dfs_core::net::clock::{boottime, unix_ms};
use dfs_core::store::{Disk, SimDisk};
use dfs_core::types::{NodeId, StoreId};
use dfs_daemon::driver::gossip::{GossipConfig, GossipHandle, spawn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn key() -> ClusterKey {
    ClusterKey::from_bytes([7; 32])
}

fn start(disk: &SimDisk, id: u128, key: &ClusterKey, join: Vec<SocketAddr>) -> GossipHandle {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let path = NodeIdentityFile::PATH;
    let identity = NodeIdentityFile::open(disk.clone(), path, NodeId(id), unix_ms()).unwrap();
    let cfg = GossipConfig {
        bind: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        tcp: "127.0.0.1:1".parse().unwrap(),
        store: StoreId(id),
        zone: Zone::new("here").unwrap(),
        membership: MembershipConfig::default(),
        join,
    };
    let bandwidth = Arc::new(Bandwidth::new(boottime()));
    spawn(cfg, identity, key, key.cluster_id(), disk, bandwidth).unwrap()
}

fn wait(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < limit, "waited {limit:?} until {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(1));
    }
    begin.elapsed()
}

fn all_list(nodes: &[GossipHandle], about: NodeId, state: MemberState) -> bool {
    nodes.iter().all(|n| {
        let members = n.members();
        members.iter().any(|m| m.id == about && m.state == state)
    })
}

fn complete(nodes: &[GossipHandle]) -> bool {
    nodes
        .iter()
        .all(|n| all_list(nodes, n.identity().id, MemberState::Alive))
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_cluster_forms_and_sees_a_crash_a_goodbye_and_a_restart() {
    let disks: Vec<SimDisk> = (0..5).map(|_| SimDisk::new()).collect();
    let first = start(&disks[0], 1, &key(), vec![]);
    let introducer = first.identity().gossip;
    let mut nodes = vec![first];
    for (i, disk) in disks.iter().enumerate().skip(1) {
        nodes.push(start(disk, i as u128 + 1, &key(), vec![introducer]));
    }
    let formed = wait("the cluster forms", LONG, || complete(&nodes));
    let mut notices = nodes[0].subscribe();

    let victim = nodes.pop().unwrap();
    victim.stop();
    let limit = Duration::from_secs(6);
    let told = wait("the crash is in all lists", limit, || {
        all_list(&nodes, NodeId(5), MemberState::Down)
    });
    println!("formed in {formed:?}; crash in all lists in {told:?}");
    let mut seen = Vec::new();
    while let Ok(n) = notices.try_recv() {
        if n.node == NodeId(5) {
            seen.push(n.what);
        }
    }
    assert!(seen.contains(&MemberChange::Failed), "{seen:?}");
    assert!(
        nodes[0]
            .log()
            .iter()
            .any(|n| n.what == MemberChange::Failed)
    );
    assert!(!nodes[0].is_active(NodeId(5)) && nodes[0].is_active(NodeId(4)));

    let leaver = nodes.pop().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(leaver.leave());
    wait(
        "the goodbye is in all lists",
        Duration::from_secs(2),
        || all_list(&nodes, NodeId(4), MemberState::Left),
    );

    // The introducer is gone too: the peers file alone leads back.
    let before = nodes[1].incarnation();
    nodes.remove(1).stop();
    nodes.insert(1, start(&disks[1], 99, &key(), vec![]));
    wait("the restarted node is back", LONG, || complete(&nodes));
    assert_eq!(nodes[1].identity().id, NodeId(2), "its id is on disk");
    assert!(nodes[1].incarnation() > before);
    nodes.iter().for_each(GossipHandle::stop);
}

#[test]
fn a_node_with_another_key_is_not_heard() {
    let disks = [SimDisk::new(), SimDisk::new()];
    let member = start(&disks[0], 1, &key(), vec![]);
    let other = ClusterKey::from_bytes([8; 32]);
    let stranger = start(&disks[1], 2, &other, vec![member.identity().gossip]);
    wait("three datagrams are refused", LONG, || {
        member.stats().drops.refused >= 3
    });
    assert_eq!((member.members().len(), stranger.members().len()), (1, 1));
    member.stop();
    stranger.stop();
}
