use super::*;

fn ids(list: &[u64]) -> Vec<RaftId> {
    list.iter().copied().map(RaftId).collect()
}

fn candidate(i: u8) -> Candidate {
    Candidate {
        node: NodeId(u128::from(i)),
        addr: format!("127.0.0.1:{}", 1000 + u16::from(i))
            .parse()
            .unwrap(),
        zone: format!("z{i}"),
    }
}

fn group(voters: &[u64], learners: &[(u64, bool)], candidates: &[u8]) -> Group {
    let all = voters
        .iter()
        .copied()
        .chain(learners.iter().map(|(id, _)| *id));
    Group {
        wanted: 3,
        me: RaftId(1),
        voters: ids(voters),
        learners: learners
            .iter()
            .map(|(id, ready)| (RaftId(*id), *ready))
            .collect(),
        zones: all.map(|id| (RaftId(id), format!("z{id}"))).collect(),
        lost: BTreeSet::new(),
        stuck: BTreeSet::new(),
        candidates: candidates.iter().copied().map(candidate).collect(),
    }
}

fn assigns(group: &Group, node: u8) -> bool {
    matches!(next_move(group), Some(VoterMove::Assign(n, _)) if n == NodeId(u128::from(node)))
}

#[test]
fn a_single_node_stays_the_only_voter() {
    assert_eq!(next_move(&group(&[1], &[], &[])), None);
    assert_eq!(
        next_move(&group(&[1], &[], &[2])),
        None,
        "two voters are worse than one"
    );
}

#[test]
fn three_nodes_become_three_voters_in_one_joint_change() {
    assert!(assigns(&group(&[1], &[], &[2, 3]), 2));
    assert!(assigns(&group(&[1], &[(12, false)], &[3]), 3));
    assert_eq!(
        next_move(&group(&[1], &[(12, true), (13, false)], &[])),
        None
    );
    let promote = ConfChange::Joint(vec![
        ConfStep::Promote(RaftId(12)),
        ConfStep::Promote(RaftId(13)),
    ]);
    let ready = group(&[1], &[(12, true), (13, true)], &[]);
    assert_eq!(next_move(&ready), Some(VoterMove::Change(promote)));
    assert_eq!(next_move(&group(&[1, 12, 13], &[], &[4, 5])), None);
}

#[test]
fn a_lost_voter_is_replaced_in_one_joint_change() {
    let mut g = group(&[1, 12, 13], &[], &[4]);
    g.lost.insert(RaftId(13));
    assert!(assigns(&g, 4));
    let mut g = group(&[1, 12, 13], &[(20, true)], &[]);
    g.lost.insert(RaftId(13));
    let replace = ConfChange::Joint(vec![
        ConfStep::Promote(RaftId(20)),
        ConfStep::Remove(RaftId(13)),
    ]);
    assert_eq!(next_move(&g), Some(VoterMove::Change(replace)));
}

#[test]
fn without_a_spare_node_a_lost_voter_stays() {
    let mut g = group(&[1, 12, 13], &[], &[]);
    g.lost.insert(RaftId(13));
    assert_eq!(next_move(&g), None);
}

#[test]
fn an_id_out_of_the_group_is_retired_and_a_lost_learner_removed() {
    let mut g = group(&[1], &[], &[]);
    g.zones.insert(RaftId(9), String::new());
    assert_eq!(next_move(&g), Some(VoterMove::Retire(RaftId(9))));
    let mut g = group(&[1], &[(9, true)], &[2]);
    g.lost.insert(RaftId(9));
    let remove = ConfChange::One(ConfStep::Remove(RaftId(9)));
    assert_eq!(next_move(&g), Some(VoterMove::Change(remove)));
}

#[test]
fn a_new_voter_comes_from_a_zone_without_one() {
    let mut g = group(&[1], &[], &[2, 3]);
    g.candidates[0].zone = "z1".into();
    assert!(assigns(&g, 3));
}

#[test]
fn regression_a_silent_voter_on_a_live_node_is_removed_before_its_node_gets_a_new_id() {
    let mut g = group(&[1, 12, 13], &[], &[]);
    g.lost.insert(RaftId(13));
    g.stuck.insert(RaftId(13));
    let remove = ConfChange::One(ConfStep::Remove(RaftId(13)));
    assert_eq!(next_move(&g), Some(VoterMove::Change(remove)));
    // Another node can take its place at once.
    g.candidates.push(candidate(4));
    assert!(assigns(&g, 4));
}
