//! Snapshots of the namespace in a store.
use super::*;
use crate::replica::NamespaceWork;
use crate::replica::machine::Cx;
use crate::rescue::snapshot::MANIFEST_PART;
use crate::rescue::{PartBuilder, manifest_object};
use crate::types::{ClusterId, LogIndex};

impl Rig {
    fn work(&mut self, work: NamespaceWork) -> Result<(), String> {
        let token = 1 + self.requests;
        self.requests = token;
        self.event(ReplicaEvent::Namespace { token, work });
        assert!(self.namespace.is_empty(), "not before it is durable");
        self.settle();
        let (of, result) = self.namespace.pop().expect("answered");
        assert_eq!(of, token);
        result
    }

    fn snapshot(&mut self, index: u64, with_manifest: bool) {
        let mut builder = PartBuilder::new(LogIndex(index));
        assert!(builder.add(vec![(vec![1], vec![2; 70_000])]).is_empty());
        let (last, manifest) = builder.finish(ClusterId(1), Time(5));
        self.work(NamespaceWork::Keep(last.unwrap())).unwrap();
        if with_manifest {
            let object = manifest_object(&manifest);
            self.work(NamespaceWork::Keep(object)).unwrap();
        }
    }

    fn kept(&self) -> Vec<(u64, u32)> {
        let all = self.store.list_objects(None, 100).unwrap();
        let ours = all.iter().map(|l| l.id).filter(|id| id.is_namespace());
        ours.map(|id| (id.op.seq, id.index)).collect()
    }
}

#[test]
fn the_newest_two_complete_snapshots_are_kept() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.snapshot(10, true);
    rig.snapshot(20, false); // the leader was lost on the way
    rig.snapshot(30, true);
    rig.snapshot(40, true);
    rig.work(NamespaceWork::Trim).unwrap();
    let whole = |index| [(index, 0), (index, MANIFEST_PART)];
    assert_eq!(rig.kept(), [whole(30), whole(40)].concat());
    rig.snapshot(50, false);
    rig.crash();
    assert_eq!(rig.kept().len(), 5);
    // Failed attempts filled the store, one after the other.
    rig.work(NamespaceWork::Trim).unwrap();
    assert_eq!(rig.kept(), [whole(30), whole(40)].concat());
    assert!(rig.holds(1), "other objects stay");
}

/// A check of the cluster called every part of a snapshot a stray.
#[test]
fn regression_a_list_of_what_is_held_leaves_snapshots_out() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    for index in 10..15 {
        rig.snapshot(index, true);
    }
    let mut out = Vec::new();
    let cx = Cx {
        now: rig.now,
        store: &mut rig.store,
        out: &mut out,
    };
    let mut held = Vec::new();
    let mut after = None;
    loop {
        let (page, is_last) = rig.replica.page(&cx, after, 2).unwrap();
        after = page.last().map(|h| h.id);
        held.extend(page);
        if is_last {
            break;
        }
    }
    assert_eq!(held.len(), 1);
    assert!(held[0].row.is_some() && !held[0].id.is_namespace());
}

#[test]
fn a_group_that_leaves_the_store_takes_no_snapshot_along() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.snapshot(10, true);
    rig.learn(map(20, info(2, &[2, 3, 4])));
    for _ in 0..20 {
        rig.tick(Duration::from_millis(100));
        rig.settle();
    }
    assert!(!rig.holds(1), "a stray by now");
    assert_eq!(rig.kept().len(), 2);
}

/// They were taken for objects that nothing refers to.
#[test]
fn regression_snapshots_are_counted_apart_from_what_groups_hold() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    let held = |rig: &mut Rig| {
        let to = rig.request(ReplicaRequest::Usage, Bytes::new());
        match rig.reply(to) {
            Some(Ok(ReplicaResponse::Usage(usage))) => (usage.used_bytes, usage.held),
            other => panic!("{other:?}"),
        }
    };
    assert!(!held(&mut rig).1.is_current, "not counted yet");
    for _ in 0..3 {
        rig.tick(Duration::from_secs(2));
        rig.settle();
    }
    let len = content(1).len() as u64;
    let (used, before) = held(&mut rig);
    assert_eq!((used, &*before.groups), (len, &[(PG, len)][..]));
    assert_eq!((before.in_tables, before.namespace), (len, 0));
    assert!(before.is_current);
    rig.snapshot(10, true);
    rig.snapshot(20, true);
    let (used, after) = held(&mut rig);
    assert_eq!(used, len + after.namespace);
    assert!(after.namespace > 140_000, "two parts of 70,000 bytes");
    // The manifests are small.
    let small = after.namespace_in_tables;
    assert!(small > 0 && small < 2000, "{small}");
    assert_eq!(after.groups, before.groups);
}

#[test]
fn a_store_that_has_failed_keeps_no_snapshot() {
    let mut rig = Rig::serving();
    rig.event(ReplicaEvent::Tick);
    rig.prepare(1);
    let (token, _) = rig.pending.pop().expect("a batch");
    let result = Err("the disk is gone".to_owned());
    rig.event(ReplicaEvent::Persisted { token, result });
    let work = NamespaceWork::Trim;
    rig.event(ReplicaEvent::Namespace { token: 7, work });
    let (of, result) = rig.namespace.pop().expect("answered at once");
    assert!(of == 7 && result.unwrap_err().contains("the disk is gone"));
}
