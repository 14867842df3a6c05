//! Voters that are lost while their nodes live, and leaders that act late.
use super::*;
use crate::master::command::Command;

fn voters(bench: &Bench) -> Vec<RaftId> {
    bench.leader().raft().voters().to_vec()
}

fn three_voters() -> Bench {
    let mut bench = Bench::new(3, 3);
    bench.run_until("three voters", |b| voters(b).len() == 3);
    bench.run_until("groups exist", Bench::members_complete);
    bench.run_for(1000);
    bench
}

#[test]
fn regression_a_voter_that_was_set_aside_is_replaced_on_its_own_node() {
    let mut bench = three_voters();
    let gone = bench.a_follower();
    bench.set_aside(gone);
    bench.run_until("three voters again", |b| {
        let all = voters(b);
        all.len() == 3
            && !all.contains(&gone)
            && all.iter().all(|id| b.leader().raft().is_active(*id))
    });
}

#[test]
fn a_voter_that_restarts_keeps_its_id() {
    let mut bench = three_voters();
    let (before, again) = (voters(&bench), bench.a_follower());
    bench.stop(again);
    bench.run_for(2000);
    bench.start(again);
    bench.run_for(10_000);
    assert_eq!(voters(&bench), before);
}

#[test]
fn regression_a_silent_voter_on_a_node_that_lives_gets_a_new_id() {
    let mut bench = three_voters();
    let silent = bench.a_follower();
    bench.cut(silent, true);
    bench.run_for(20_000);
    assert!(voters(&bench).contains(&silent), "it has its time of grace");
    bench.run_until("it is out of the group", |b| !voters(b).contains(&silent));
    bench.run_until("three voters again", |b| voters(b).len() == 3);
    assert_eq!(bench.retired, [silent], "its node was told only then");
}

#[test]
fn regression_a_node_that_did_not_hear_that_its_vote_is_gone_is_told_again() {
    let mut bench = three_voters();
    let silent = bench.a_follower();
    bench.misses_retirements = 3;
    bench.cut(silent, true);
    bench.run_until("it is out of the group", |b| !voters(b).contains(&silent));
    bench.run_until("its node was told", |b| b.retired == [silent]);
    bench.run_until("three voters again", |b| voters(b).len() == 3);
}

#[test]
fn a_stall_of_the_leader_makes_nobody_silent() {
    let mut bench = three_voters();
    let silent = bench.a_follower();
    bench.cut(silent, true);
    bench.run_for(5000);
    bench.stall(40_000);
    bench.run_for(5000);
    assert!(voters(&bench).contains(&silent));
    bench.cut(silent, false);
}

#[test]
fn regression_nobody_is_told_to_retire_before_that_is_applied() {
    let mut bench = three_voters();
    bench.loses_answers = true;
    let gone = bench.a_follower();
    bench.set_aside(gone);
    // The node runs under the new id, and the leader does not hear of it.
    bench.run_until("an id is assigned", |b| {
        b.leader().state().raft_nodes().len() == 4
    });
    bench.run_for(300);
    // It is cut off and stalls, while another one may make that id a voter.
    bench.cut(bench.leader_id(), true);
    bench.stall(11_000);
    bench.run_for(60);
    assert_eq!(
        bench.retired,
        [],
        "the change of the group is not even proposed"
    );
}

#[test]
fn an_id_whose_node_did_not_answer_is_let_go_of() {
    let mut bench = three_voters();
    bench.loses_answers = true;
    let gone = bench.a_follower();
    bench.set_aside(gone);
    bench.run_until("an id is assigned", |b| {
        b.leader().state().raft_nodes().len() == 4
    });
    bench.run_until("its node was told to let go", |b| b.retired.len() == 1);
    assert!(
        !bench
            .leader()
            .state()
            .raft_nodes()
            .contains_key(&bench.retired[0])
    );
    bench.loses_answers = false;
    bench.run_until("three voters again", |b| {
        let all = voters(b);
        all.len() == 3 && !all.contains(&gone) && !all.contains(&b.retired[0])
    });
}

#[test]
fn regression_a_member_that_no_node_is_on_record_for_is_replaced() {
    let mut bench = three_voters();
    let orphan = bench.a_follower();
    bench.propose(Command::VoterRetired { raft_id: orphan });
    bench.run_until("it is out of the group", |b| !voters(b).contains(&orphan));
    bench.run_until("three voters again", |b| {
        let rows = b.leader().state().raft_nodes();
        voters(b).len() == 3 && voters(b).iter().all(|id| rows.contains_key(id))
    });
}
