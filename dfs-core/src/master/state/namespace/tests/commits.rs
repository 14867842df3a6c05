//! Puts: what is refused, where bytes land, which commits make one version.
use super::world::{ROOT, World, name, puts};
use crate::master::state::namespace;
use crate::types::layout::CROWDED_EXTENTS;
use crate::types::{
    CHUNK_SIZE, ChunkNo, ClientId, Epoch, Extent, Ino, LeaseSeq, OpId, PgPhase, Revision, SetTime,
    StoreId, Timestamp, VersionNo,
};
use crate::wire::master::{GroupBytes, Note};
use crate::wire::{Change, ErrorCode, Mutation, MutationOk, Query, QueryAnswer, WriteToken};

const KIB: u64 = 1024;

fn offset_of(done: Result<MutationOk, ErrorCode>) -> u64 {
    match done.unwrap() {
        MutationOk::Committed { offset, .. } => offset,
        other => panic!("{other:?}"),
    }
}

/// Tries a write whose commit was bent by `bend`.
fn bent(
    w: &mut World,
    ino: Ino,
    bend: impl FnOnce(&mut crate::wire::Commit),
) -> Result<MutationOk, ErrorCode> {
    let token = w.token(1);
    let op = w.next_op(1);
    let mut commit = w.commit_of(
        ino,
        token,
        Change::Write {
            puts: puts(op, 0, 10),
        },
    );
    bend(&mut commit);
    w.commit(op, commit)
}

#[test]
fn commits_need_current_epochs_members_lease_and_base() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let first = |c: &mut crate::wire::Commit, f: &dyn Fn(&mut crate::wire::PutExtent)| {
        if let Change::Write { puts } = &mut c.change {
            f(&mut puts[0]);
        }
    };
    let wrong = ErrorCode::WrongEpoch;
    assert_eq!(bent(&mut w, f, |c| c.home_epoch = Epoch(2)), Err(wrong));
    assert_eq!(
        bent(&mut w, f, |c| c.mark_acks = vec![StoreId(1)]),
        Err(wrong)
    );
    let strangers = vec![StoreId(1), StoreId(9)];
    assert_eq!(bent(&mut w, f, |c| c.mark_acks = strangers), Err(wrong));
    let twice = vec![StoreId(1), StoreId(1)];
    assert_eq!(bent(&mut w, f, |c| c.mark_acks = twice), Err(wrong));
    let old = bent(&mut w, f, |c| first(c, &|p| p.epoch = Epoch(0)));
    assert_eq!(old, Err(wrong));
    let few = bent(&mut w, f, |c| first(c, &|p| p.acks.truncate(1)));
    assert_eq!(few, Err(wrong));
    let lease = bent(&mut w, f, |c| c.lease = c.lease.next());
    assert_eq!(lease, Err(ErrorCode::StaleLease));
    let base = bent(&mut w, f, |c| c.base = Some(Revision(3)));
    assert_eq!(base, Err(ErrorCode::Conflict));
    assert!(bent(&mut w, f, |c| c.base = Some(Revision(0))).is_ok());
    for pg in &mut w.map.pgs {
        pg.phase = PgPhase::Fencing;
    }
    assert_eq!(bent(&mut w, f, |_| {}), Err(wrong));
}

#[test]
fn a_raised_lease_refuses_the_former_holder() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let token = w.token(1);
    let op = w.next_op(1);
    let commit = w.commit_of(f, token, Change::Truncate { size: 9 });
    w.run(op, |ctx| namespace::raise_lease(ctx, f)).unwrap();
    assert_eq!(w.commit(op, commit), Err(ErrorCode::StaleLease));
}

#[test]
fn commits_to_what_is_gone_or_no_file_are_refused() {
    let mut w = World::new();
    let (f, d) = (w.file(ROOT, "f"), w.dir(ROOT, "d"));
    let body = Mutation::Unlink {
        parent: ROOT,
        name: name("f"),
        purge: true,
    };
    w.apply(&body).unwrap();
    w.save(f);
    let token = w.token(1);
    let op = w.next_op(1);
    let late = w.commit_of(f, token, Change::Truncate { size: 9 });
    assert_eq!(w.reap_orphans(), 1);
    assert!(w.objects.is_empty());
    assert_eq!(w.commit(op, late), Err(ErrorCode::Stale));
    let dir = w.change(d, token, |_| Change::Truncate { size: 9 });
    assert_eq!(dir, Err(ErrorCode::IsDir));
}

#[test]
fn a_put_below_the_highest_decided_of_its_session_is_aborted() {
    let mut w = World::new();
    let (f, g) = (w.file(ROOT, "f"), w.file(ROOT, "g"));
    let token = w.token(5);
    let late = w.next_op(5);
    w.write(f, token, 0, 10);
    let change = |op| Change::Write {
        puts: puts(op, 0, 10),
    };
    let commit = w.commit_of(f, token, change(late));
    assert_eq!(w.commit(late, commit), Err(ErrorCode::OpAborted));
    let other_file = w.commit_of(g, token, change(late));
    assert!(w.commit(late, other_file).is_ok());
    w.run(late, |ctx| namespace::end_session(ctx, ClientId(5)))
        .unwrap();
    assert!(w.kv.0.keys().all(|k| k[0] != b'l'));
}

#[test]
fn ranges_that_make_no_sense_are_refused() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let bad = |f: &dyn Fn(&mut Vec<crate::wire::PutExtent>, OpId), w: &mut World, ino| {
        let token = w.token(1);
        w.change(ino, token, |op| {
            let mut ranges = puts(op, 0, 100);
            f(&mut ranges, op);
            Change::Write { puts: ranges }
        })
    };
    let invalid = Err(ErrorCode::Invalid);
    assert_eq!(bad(&|r, _| r[0].len = 0, &mut w, f), invalid);
    assert_eq!(
        bad(&|r, _| r[0].start = CHUNK_SIZE as u32 - 99, &mut w, f),
        invalid
    );
    assert_eq!(bad(&|r, op| r.extend(puts(op, 200, 1)), &mut w, f), invalid);
    assert_eq!(bad(&|r, _| r[0].object.op.seq -= 1, &mut w, f), invalid);
    let overlap = |r: &mut Vec<crate::wire::PutExtent>, op| {
        r.extend(puts(op, 99, 5));
        r[1].object.index = 1;
    };
    assert_eq!(bad(&overlap, &mut w, f), invalid);
    assert_eq!(
        bad(&|r, _| r[0].chunk = ChunkNo(u32::MAX), &mut w, f),
        Err(ErrorCode::FileTooBig)
    );
}

#[test]
fn byte_ranges_apply_in_commit_order() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let token = w.token(1);
    let a = w.write(f, token, 0, 100).seq;
    let b = w.write(f, token, 50, 100).seq;
    let c = w.write(f, token, 20, 10).seq;
    let expected = [
        (0, 20, a, 0),
        (20, 10, c, 0),
        (30, 20, a, 30),
        (50, 100, b, 0),
    ];
    assert_eq!(w.content(f, None), expected);
    let attr = w.attr(f);
    assert_eq!(
        (attr.size, attr.allocated, attr.revision),
        (150, 150, Revision(3))
    );
    w.write(f, token, 0, 150);
    assert_eq!(w.objects.len(), 1);
    assert_eq!(w.last.garbage.len(), 3);
}

#[test]
fn truncate_drops_what_is_beyond_and_growth_reads_as_a_hole() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let token = w.token(1);
    let a = w.write(f, token, CHUNK_SIZE - 100, 200).seq;
    w.change(f, token, |_| Change::Truncate {
        size: CHUNK_SIZE - 40,
    })
    .unwrap();
    assert_eq!(w.content(f, None), [(CHUNK_SIZE - 100, 60, a, 0)]);
    w.change(f, token, |_| Change::Truncate {
        size: CHUNK_SIZE * 2,
    })
    .unwrap();
    assert_eq!(w.content(f, None), [(CHUNK_SIZE - 100, 60, a, 0)]);
    let attr = w.attr(f);
    assert_eq!((attr.size, attr.allocated), (CHUNK_SIZE * 2, 60));
    let too_far = w.change(f, token, |_| Change::Truncate { size: u64::MAX });
    assert_eq!(too_far, Err(ErrorCode::FileTooBig));
}

#[test]
fn punch_cuts_a_hole_and_extend_only_grows() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let token = w.token(1);
    let a = w.write(f, token, 0, 100).seq;
    w.change(f, token, |_| Change::Punch {
        offset: 10,
        len: 20,
    })
    .unwrap();
    assert_eq!(w.content(f, None), [(0, 10, a, 0), (30, 70, a, 30)]);
    w.change(f, token, |_| Change::Extend { size: 50 }).unwrap();
    assert_eq!(w.attr(f).size, 100);
    w.change(f, token, |_| Change::Extend { size: 500 })
        .unwrap();
    assert_eq!((w.attr(f).size, w.attr(f).allocated), (500, 80));
    let far = Change::Punch {
        offset: 0,
        len: u64::MAX,
    };
    w.change(f, token, |_| far).unwrap();
    assert_eq!((w.content(f, None), w.attr(f).size), (vec![], 500));
    assert!(w.objects.is_empty());
}

#[test]
fn an_append_lands_at_the_true_end_and_may_be_split_over_chunks() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let token = w.token(1);
    w.write(f, token, 0, 4096);
    let at = |at, len| {
        move |op| Change::Append {
            at,
            puts: puts(op, at, len),
        }
    };
    assert_eq!(offset_of(w.change(f, token, at(4096, 100))), 4096);
    // Prepared at byte 4096, but the file ends elsewhere by now.
    w.change(f, token, |_| Change::Truncate {
        size: CHUNK_SIZE - KIB,
    })
    .unwrap();
    let done = w.change(f, token, at(4096, 3 * KIB as u32));
    assert_eq!(offset_of(done), CHUNK_SIZE - KIB);
    let content = w.content(f, None);
    let seq = content[2].2;
    let (k, split) = (KIB as u32, CHUNK_SIZE - KIB);
    assert_eq!(
        content[2..],
        [(split, k, seq, 0), (CHUNK_SIZE, 2 * k, seq, k)]
    );
    // The object's PG is that of the chunk it was prepared for, in both chunks' listings.
    let home = w.map.of_chunk(f, ChunkNo(0)).0;
    let (rows, end) = namespace::pg_rows(&w.kv, &w.map, home, None, 10).unwrap();
    let mut listed = rows
        .iter()
        .map(|r| (r.chunk, r.objects.iter().any(|o| o.0.op.seq == seq)));
    assert!(end && listed.by_ref().all(|(_, has)| has));
    assert_eq!(rows.iter().map(|r| r.chunk.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((rows[0].clean.is_some(), rows[1].clean), (true, None));
    let before_at = w.change(f, token, at(CHUNK_SIZE * 7, 10));
    assert_eq!(offset_of(before_at), CHUNK_SIZE + 2 * KIB);
}

/// It was counted in both chunks.
#[test]
fn regression_the_bytes_of_an_object_in_two_chunks_count_once() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let token = w.token(1);
    let size = CHUNK_SIZE - KIB;
    w.write(f, token, 0, 4096);
    w.change(f, token, |_| Change::Truncate { size }).unwrap();
    let append = |op| Change::Append {
        at: 4096,
        puts: puts(op, 4096, 3 * KIB as u32),
    };
    assert_eq!(offset_of(w.change(f, token, append)), size);
    let space = |w: &World, page: usize| {
        let all = w.space(page);
        let sum = |of: fn(&GroupBytes) -> u64| all.values().map(of).sum::<u64>();
        (sum(|b| b.live), sum(|b| b.version))
    };
    let all = 4096 + 3 * KIB;
    assert_eq!((space(&w, 1), space(&w, 100)), ((all, 0), (all, 0)));
    // What is left of it in the second chunk keeps it alive, whatever the first one shows.
    w.seal(f, token);
    w.write(f, token, size, KIB as u32);
    assert_eq!(space(&w, 1), (all + KIB, 0));
    w.unlink(ROOT, "f").unwrap();
    assert_eq!(space(&w, 100), (0, all + KIB));
}

#[test]
fn notes_tell_the_home_group_and_every_object_holder() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let token = w.token(1);
    let op = w.write(f, token, CHUNK_SIZE - 5, 10);
    let notes = &w.last.notes;
    let home = w.map.of_chunk(f, ChunkNo(0)).0;
    let second = w.map.of_chunk(f, ChunkNo(1)).0;
    let committed = Note::Committed {
        ino: f,
        revision: Revision(1),
        op,
    };
    assert!(notes.contains(&(home, committed)));
    let held = |pg, chunk| {
        let holds = notes.iter().filter(|(p, _)| *p == pg);
        holds
            .filter(|(_, n)| matches!(n, Note::Hold { chunk: c, .. } if *c == chunk))
            .count()
    };
    assert_eq!((held(home, ChunkNo(0)), held(second, ChunkNo(1))), (1, 1));
    assert!(w.last.touched.iter().any(|t| t.ino == f && t.content));
}

#[test]
fn kill_suid_and_mtime_follow_the_put() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    w.apply(&Mutation::SetAttr {
        ino: f,
        mode: Some(0o6755),
        uid: None,
        gid: None,
        atime: None,
        mtime: None,
    })
    .unwrap();
    let before = w.attr(f).mtime;
    bent(&mut w, f, |c| c.mtime = None).unwrap();
    assert_eq!((w.attr(f).mtime, w.attr(f).mode), (before, 0o6755));
    bent(&mut w, f, |c| c.kill_suid = true).unwrap();
    assert!(w.attr(f).mtime > before && w.attr(f).mode == 0o755);
}

#[test]
fn regression_a_close_does_not_move_the_ctime_that_the_write_set() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let log = |w: &World| Timestamp::from_log_time(w.at);
    let later = |time: Timestamp, secs| Timestamp {
        secs: time.secs + secs,
        ..time
    };
    let written = later(log(&w), 1);
    bent(&mut w, f, |c| c.mtime = Some(SetTime::At(written))).unwrap();
    assert_eq!((w.attr(f).mtime, w.attr(f).ctime), (written, written));
    // Older than what was seen: the ctime stays.
    bent(&mut w, f, |c| {
        c.mtime = Some(SetTime::At(later(written, -1)));
    })
    .unwrap();
    assert_eq!(w.attr(f).ctime, written);
    // A wrong clock sets its own mtime only.
    for off in [-7200, 7200] {
        let wrong = later(log(&w), off);
        bent(&mut w, f, |c| c.mtime = Some(SetTime::At(wrong))).unwrap();
        assert_eq!((w.attr(f).mtime, w.attr(f).ctime), (wrong, log(&w)));
    }
}

#[test]
fn what_changes_nothing_makes_no_version() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    w.save(f);
    let token = w.token(1);
    for change in [
        Change::Truncate { size: 10 },
        Change::Extend { size: 3 },
        Change::Punch { offset: 50, len: 5 },
        Change::Write { puts: vec![] },
    ] {
        w.change(f, token, |_| change).unwrap();
    }
    w.seal(f, token);
    w.apply(&Mutation::SetAttr {
        ino: f,
        mode: Some(0o600),
        uid: None,
        gid: None,
        atime: None,
        mtime: None,
    })
    .unwrap();
    assert_eq!(w.numbers(ROOT, "f"), [1]);
    assert_eq!(w.attr(f).revision, Revision(5));
}

#[test]
fn writers_on_two_mounts_share_a_version_until_the_last_closes() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let (a, b) = (w.token(1), w.token(2));
    w.write(f, a, 0, 10);
    w.write(f, b, 0, 10);
    w.seal(f, a);
    w.write(f, b, 0, 10);
    let again = w.token(1);
    w.write(f, again, 0, 10);
    assert_eq!(w.numbers(ROOT, "f"), [1]);
    w.seal(f, b);
    w.seal(f, again);
    w.write(f, b, 0, 10);
    assert_eq!(w.numbers(ROOT, "f"), [2, 1]);
}

#[test]
fn a_commit_that_is_the_last_of_its_period_is_a_commit_and_a_seal() {
    let versions = |ends_with: fn(&mut World, Ino, WriteToken)| {
        let mut w = World::new();
        let f = w.file(ROOT, "f");
        // What another mount writes makes a version of its own only after the end.
        let (first, second, third) = (w.token(1), w.token(1), w.token(2));
        w.write(f, first, 0, 10);
        // Ends the period before it, too.
        w.write(f, second, 0, 20);
        ends_with(&mut w, f, second);
        w.write(f, third, 5, 10);
        let asked = w.query(&Query::History {
            parent: ROOT,
            name: name("f"),
        });
        let Ok(QueryAnswer::History(versions)) = asked else {
            panic!("{asked:?}");
        };
        versions
            .iter()
            .map(|v| (v.version, v.size))
            .collect::<Vec<_>>()
    };
    let sealed = versions(|w, f, token| {
        w.write(f, token, 20, 10);
        w.seal(f, token);
    });
    let last = versions(|w, f, token| {
        let op = w.next_op(1);
        let puts = puts(op, 20, 10);
        let commit = w.commit_of(f, token, Change::Write { puts });
        w.commit_last(op, commit).unwrap();
    });
    assert_eq!(last, sealed);
    assert_eq!(last.len(), 3, "{last:?}");
    assert_eq!(last.first().map(|v| v.1), Some(30));
}

#[test]
fn a_session_that_ends_no_longer_keeps_a_version_open() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let (a, b) = (w.token(1), w.token(2));
    w.write(f, a, 0, 10);
    w.write(f, b, 0, 10);
    w.run(OpId::default(), |ctx| {
        namespace::end_session(ctx, ClientId(1))
    })
    .unwrap();
    w.seal(f, b);
    w.save(f);
    assert_eq!(w.numbers(ROOT, "f"), [2, 1]);
    let open = w.token(3);
    w.write(f, open, 0, 10);
    w.run(OpId::default(), |ctx| {
        namespace::seal_all(ctx, &[f, Ino(99)])
    })
    .unwrap();
    w.write(f, open, 0, 10);
    assert_eq!(w.numbers(ROOT, "f"), [4, 3, 2, 1]);
}

#[test]
fn restore_shares_the_old_objects_and_is_a_version_of_its_own() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let (a, b) = (w.save(f).seq, w.save(f).seq);
    let token = w.token(1);
    let restore = |no| {
        move |_| Change::Restore {
            from: f,
            inode_version: VersionNo(no),
        }
    };
    w.change(f, token, restore(1)).unwrap();
    assert_eq!(w.writers(ROOT, "f"), [a, b, a]);
    assert_eq!(w.objects.len(), 2);
    let missing = w.change(f, token, restore(9));
    assert_eq!(missing, Err(ErrorCode::NotFound));
    for _ in 0..5 {
        w.save(f);
    }
    assert_eq!(w.objects.len(), 5);
    // From a replaced inode of the same name.
    let tmp = w.file(ROOT, "tmp");
    let c = w.save(tmp).seq;
    w.rename((ROOT, "tmp"), (ROOT, "f")).unwrap();
    let old = w.history(ROOT, "f")[1].clone();
    let back = Change::Restore {
        from: old.ino,
        inode_version: old.inode_version,
    };
    w.change(tmp, token, |_| back).unwrap();
    let writers = w.writers(ROOT, "f");
    assert_eq!((writers[0], writers[1]), (writers[2], c));
}

#[test]
fn the_put_that_takes_a_chunk_past_another_multiple_is_told_and_compacting_it_shows_nowhere() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let token = w.token(1);
    let crowd = u64::try_from(CROWDED_EXTENTS).unwrap();
    for n in 0..crowd {
        let done = w.change(f, token, |op| Change::Write {
            puts: puts(op, n * 10, 9),
        });
        let MutationOk::Committed { crowded, .. } = done.unwrap() else {
            panic!("no commit")
        };
        assert_eq!(crowded, (n == crowd - 1).then_some(ChunkNo(0)), "{n}");
    }
    w.seal(f, token);
    let later = w.token(2);
    w.write(f, later, 5_000_000, 10);
    let extents = |w: &World, version| w.try_layout(f, version).unwrap().chunks[0].extents.clone();
    let compact = |w: &mut World, op, was: Vec<Extent>| {
        let put = Box::new(puts(op, 0, (crowd * 10 - 1) as u32).remove(0));
        let mut commit = w.commit_of(f, token, Change::Compact { put, was });
        (commit.mtime, commit.lease) = (None, LeaseSeq(99));
        w.commit(op, commit).unwrap();
    };
    let count = |row: &[Extent], op| row.iter().filter(|e| e.object.op == op).count();

    // A later put of the same session and another lease do not matter to it.
    let (op, was) = (w.next_op(1), extents(&w, None));
    let again = w.token(1);
    let over = w.write(f, again, 5_000_000, 10);
    compact(&mut w, op, was);
    for version in [None, Some(VersionNo(1))] {
        let row = extents(&w, version);
        assert_eq!(
            (row.len(), count(&row, op)),
            (CROWDED_EXTENTS, CROWDED_EXTENTS)
        );
    }
    // What came after its layout stays, and so does what an older version reads.
    let (op, was) = (w.next_op(1), extents(&w, None));
    let over_too = w.write(f, later, 20, 5);
    compact(&mut w, op, was);
    let row = extents(&w, None);
    assert_eq!((row.len(), count(&row, over_too)), (CROWDED_EXTENTS + 1, 1));
    assert_eq!(count(&row, op), CROWDED_EXTENTS);
    assert_eq!(count(&extents(&w, Some(VersionNo(1))), op), 0);
    assert_ne!(over, over_too);
    assert_eq!(w.numbers(ROOT, "f"), [2, 1]);
}
