//! History belongs to the name: what a name remembers, and how it comes back.
use super::world::{ROOT, World, name};
use crate::master::state::namespace;
use crate::types::{FileKind, Ino, OpId, Time};
use crate::wire::mutation::{PurgeScope, RenameMode, XattrMode};
use crate::wire::{ErrorCode, Mutation, Query, QueryAnswer};

fn purge_name(w: &mut World, parent: Ino, text: &str) {
    let name = name(text);
    w.apply(&Mutation::Purge(PurgeScope::Name { parent, name }))
        .unwrap();
}

fn trim(w: &mut World, before: Time, keep: u64, max: u32) -> u64 {
    w.run(OpId::default(), |ctx| {
        namespace::trim_history(ctx, before, keep, max)
    })
    .unwrap()
}

fn removed_dir(w: &World, parent: Ino, text: &str) -> Result<Ino, ErrorCode> {
    let name = name(text);
    match w.query(&Query::RemovedDir { parent, name })? {
        QueryAnswer::Attr(attr) => Ok(attr.ino),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_deleted_file_comes_back_with_content_owner_mode_mtime_attributes_and_history() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let (a, b) = (w.save(f).seq, w.save(f).seq);
    w.apply(&Mutation::SetXattr {
        ino: f,
        key: b"user.k".to_vec(),
        value: b"v".to_vec(),
        mode: XattrMode::Any,
    })
    .unwrap();
    let before = w.attr(f);
    w.unlink(ROOT, "f").unwrap();
    assert_eq!(w.lookup(ROOT, "f"), Err(ErrorCode::NotFound));
    let listed = w.history(ROOT, "f");
    assert!(
        listed
            .iter()
            .all(|v| v.deleted_at.is_some() && !v.is_current)
    );
    assert_eq!(w.writers(ROOT, "f"), [b, a]);
    assert_eq!(w.reap_orphans(), 0);
    assert_eq!(w.undelete(ROOT, "f"), Ok(f));
    let mut after = w.attr(f);
    after.ctime = before.ctime;
    assert_eq!(after, before);
    assert_eq!(w.writers(ROOT, "f"), [b, a]);
    assert!(w.history(ROOT, "f")[0].is_current);
    assert_eq!(w.undelete(ROOT, "f"), Err(ErrorCode::Exists));
}

#[test]
fn a_file_that_was_never_written_can_be_undeleted_too() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    assert!(w.history(ROOT, "f").is_empty());
    w.unlink(ROOT, "f").unwrap();
    let listed = w.history(ROOT, "f");
    assert_eq!((listed.len(), listed[0].size), (1, 0));
    assert_eq!(w.undelete(ROOT, "f"), Ok(f));
    assert!(w.history(ROOT, "f").is_empty());
    w.save(f);
    assert_eq!(w.numbers(ROOT, "f"), [1]);
}

#[test]
fn an_empty_file_over_deleted_history_is_undeleted_first() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    w.save(f);
    w.unlink(ROOT, "f").unwrap();
    let g = w.file(ROOT, "f");
    assert_eq!(w.numbers(ROOT, "f"), [1]);
    assert!(!w.history(ROOT, "f")[0].is_current);
    w.unlink(ROOT, "f").unwrap();
    assert_eq!(w.numbers(ROOT, "f"), [2, 1]);
    assert_eq!(w.undelete(ROOT, "f"), Ok(g));
    w.save(g);
    assert_eq!(w.numbers(ROOT, "f"), [2, 1]);
}

#[test]
fn an_open_handle_on_a_deleted_file_keeps_writing_and_the_history_stays_as_it_was() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let token = w.token(1);
    let a = w.write(f, token, 0, 10).seq;
    w.unlink(ROOT, "f").unwrap();
    let b = w.write(f, token, 0, 10).seq;
    w.write(f, token, 0, 10);
    assert_eq!(w.writers(ROOT, "f"), [a]);
    assert_eq!(w.content(f, None)[0].2, b + 1);
    assert_eq!(w.objects.len(), 2);
}

#[test]
fn purge_drops_at_once_what_unlink_would_keep() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    w.save(f);
    w.unlink(ROOT, "f").unwrap();
    let g = w.file(ROOT, "f");
    w.save(g);
    w.apply(&Mutation::Unlink {
        parent: ROOT,
        name: name("f"),
        purge: true,
    })
    .unwrap();
    assert!(w.history(ROOT, "f").is_empty());
    assert_eq!(w.reap_orphans(), 2);
    assert!(w.objects.is_empty());
    assert_eq!(w.undelete(ROOT, "f"), Err(ErrorCode::NotFound));
}

#[test]
fn purging_a_live_name_keeps_its_content_only() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    w.save(f);
    w.unlink(ROOT, "f").unwrap();
    let g = w.file(ROOT, "f");
    w.save(g);
    let last = w.save(g).seq;
    assert_eq!(w.numbers(ROOT, "f").len(), 3);
    purge_name(&mut w, ROOT, "f");
    assert_eq!(w.writers(ROOT, "f"), [last]);
    w.reap_orphans();
    assert_eq!(w.objects.len(), 1);
}

#[test]
fn renaming_over_a_file_appends_its_versions_and_numbers_go_on() {
    let mut w = World::new();
    let (f, t) = (w.file(ROOT, "f"), w.file(ROOT, "t"));
    let (a, b) = (w.save(f).seq, w.save(f).seq);
    let (c, d) = (w.save(t).seq, w.save(t).seq);
    w.rename((ROOT, "t"), (ROOT, "f")).unwrap();
    assert_eq!(w.writers(ROOT, "f"), [d, c, b, a]);
    assert_eq!(w.numbers(ROOT, "f"), [4, 3, 2, 1]);
    assert_eq!(w.attr(t).version.0, 4);
    assert!(w.history(ROOT, "t").is_empty());
    assert_eq!(w.undelete(ROOT, "t"), Err(ErrorCode::NotFound));
    let e = w.save(t).seq;
    let g = w.save(t).seq;
    assert_eq!(w.writers(ROOT, "f"), [g, e, d, c, b]);
    w.save(t);
    w.reap_orphans();
    assert_eq!(w.objects.len(), 5);
    assert!(namespace::orphans(&w.kv, Ino(0), 9).unwrap().is_empty());
    assert!(w.query(&Query::GetAttr { ino: f }).is_err());
}

#[test]
fn the_source_name_keeps_what_it_had_besides_the_content_that_moved() {
    let mut w = World::new();
    let old = w.file(ROOT, "t");
    let a = w.save(old).seq;
    w.unlink(ROOT, "t").unwrap();
    let (f, t) = (w.file(ROOT, "f"), w.file(ROOT, "t"));
    let b = w.save(f).seq;
    let c = w.save(t).seq;
    w.rename((ROOT, "t"), (ROOT, "f")).unwrap();
    assert_eq!(w.writers(ROOT, "f"), [c, b]);
    assert_eq!(w.writers(ROOT, "t"), [a]);
    assert_eq!(w.undelete(ROOT, "t"), Ok(old));
}

#[test]
fn a_plain_rename_carries_versions_and_pins_behind_the_deleted_history_of_the_target() {
    let mut w = World::new();
    let gone = w.file(ROOT, "g");
    let a = w.save(gone).seq;
    w.unlink(ROOT, "g").unwrap();
    let f = w.file(ROOT, "f");
    let b = w.save(f).seq;
    w.unlink(ROOT, "f").unwrap();
    let f = w.file(ROOT, "f");
    let c = w.save(f).seq;
    w.rename((ROOT, "f"), (ROOT, "g")).unwrap();
    assert_eq!(w.writers(ROOT, "g"), [c, b, a]);
    assert_eq!(w.numbers(ROOT, "g"), [3, 2, 1]);
    assert!(w.history(ROOT, "f").is_empty());
}

#[test]
fn exchange_pins_on_each_side_what_was_lost() {
    let mut w = World::new();
    let (f, g) = (w.file(ROOT, "f"), w.file(ROOT, "g"));
    let (a, b) = (w.save(f).seq, w.save(g).seq);
    let swap = RenameMode::Exchange;
    w.rename_as((ROOT, "f"), (ROOT, "g"), swap).unwrap();
    assert_eq!(
        (w.writers(ROOT, "f"), w.writers(ROOT, "g")),
        (vec![b, a], vec![a, b])
    );
    let c = w.save(g).seq;
    assert_eq!(w.writers(ROOT, "f"), [c, b, a]);
    w.rename_as((ROOT, "f"), (ROOT, "g"), swap).unwrap();
    assert_eq!(
        (w.writers(ROOT, "f"), w.writers(ROOT, "g")),
        (vec![a, c, b], vec![c, b, a])
    );
}

#[test]
fn hard_links_share_the_part_of_the_inode() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let a = w.save(f).seq;
    w.link(f, ROOT, "g").unwrap();
    let b = w.save(f).seq;
    assert_eq!(
        (w.writers(ROOT, "f"), w.writers(ROOT, "g")),
        (vec![b, a], vec![b, a])
    );
    w.unlink(ROOT, "f").unwrap();
    let c = w.save(f).seq;
    assert_eq!(
        (w.writers(ROOT, "f"), w.writers(ROOT, "g")),
        (vec![b, a], vec![c, b, a])
    );
    assert_eq!(w.undelete(ROOT, "f"), Ok(f));
    assert_eq!((w.attr(f).nlink, w.writers(ROOT, "f")), (2, vec![c, b, a]));
}

#[test]
fn a_version_pinned_by_a_name_outlives_the_window_of_its_inode() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let a = w.save(f).seq;
    w.link(f, ROOT, "g").unwrap();
    w.unlink(ROOT, "f").unwrap();
    for _ in 0..8 {
        w.save(f);
    }
    assert_eq!(w.writers(ROOT, "f"), [a]);
    assert_eq!((w.numbers(ROOT, "g").len(), w.objects.len()), (5, 6));
    purge_name(&mut w, ROOT, "f");
    assert_eq!(w.objects.len(), 5);
}

#[test]
fn undelete_brings_back_removed_directories_all_the_way_up() {
    let mut w = World::new();
    let d = w.dir(ROOT, "d");
    let e = w.dir(d, "e");
    let f = w.file(e, "f");
    let a = w.save(f).seq;
    w.unlink(e, "f").unwrap();
    w.rmdir(d, "e").unwrap();
    w.rmdir(ROOT, "d").unwrap();
    assert_eq!(w.reap_orphans(), 0);
    assert_eq!(removed_dir(&w, ROOT, "d"), Ok(d));
    assert_eq!(removed_dir(&w, d, "e"), Ok(e));
    assert_eq!(w.writers(e, "f"), [a]);
    let again = w.dir(ROOT, "d");
    assert_eq!(w.undelete(e, "f"), Err(ErrorCode::Exists));
    w.rmdir(ROOT, "d").unwrap();
    assert_eq!(namespace::orphans(&w.kv, Ino(0), 9).unwrap(), [again]);
    assert_eq!(w.undelete(e, "f"), Ok(f));
    assert_eq!(
        (w.lookup(ROOT, "d"), w.lookup(d, "e"), w.lookup(e, "f")),
        (Ok(d), Ok(e), Ok(f))
    );
    assert_eq!(removed_dir(&w, ROOT, "d"), Err(ErrorCode::NotFound));
}

#[test]
fn a_removed_directory_itself_can_be_undeleted() {
    let mut w = World::new();
    let d = w.dir(ROOT, "d");
    let f = w.file(d, "f");
    w.save(f);
    w.unlink(d, "f").unwrap();
    w.rmdir(ROOT, "d").unwrap();
    assert_eq!(w.undelete(ROOT, "d"), Ok(d));
    assert_eq!(w.undelete(d, "f"), Ok(f));
}

#[test]
fn a_tombstone_goes_with_the_last_thing_it_remembers_and_so_do_those_above() {
    let mut w = World::new();
    let d = w.dir(ROOT, "d");
    let e = w.dir(d, "e");
    let f = w.file(e, "f");
    w.save(f);
    w.unlink(e, "f").unwrap();
    w.rmdir(d, "e").unwrap();
    w.rmdir(ROOT, "d").unwrap();
    let at = Time(w.at.0 + 1);
    assert_eq!(trim(&mut w, at, 100, 10), 1);
    assert_eq!(namespace::orphans(&w.kv, Ino(0), 9).unwrap(), [d, e, f]);
    assert_eq!(w.reap_orphans(), 3);
    assert_eq!(removed_dir(&w, ROOT, "d"), Err(ErrorCode::NotFound));
    assert!(w.objects.is_empty());
}

#[test]
fn deleted_names_are_trimmed_oldest_first_by_age_and_number() {
    let mut w = World::new();
    for text in ["a", "b", "c", "d"] {
        let f = w.file(ROOT, text);
        w.save(f);
        w.unlink(ROOT, text).unwrap();
    }
    let count = |w: &World| namespace::live_totals(&w.kv).unwrap().deleted_names;
    assert_eq!(count(&w), 4);
    assert_eq!(trim(&mut w, Time(0), 100, 10), 0);
    assert_eq!(trim(&mut w, Time(0), 2, 1), 1);
    assert_eq!(w.undelete(ROOT, "a"), Err(ErrorCode::NotFound));
    let oldest = namespace::oldest_deleted(&w.kv).unwrap().unwrap();
    assert_eq!(trim(&mut w, Time(oldest.0 + 1), 100, 10), 1);
    assert_eq!((count(&w), w.reap_orphans(), w.objects.len()), (2, 2, 2));
    w.undelete(ROOT, "d").unwrap();
    assert_eq!(count(&w), 1);
    w.apply(&Mutation::Purge(PurgeScope::AllDeleted)).unwrap();
    assert_eq!((count(&w), w.reap_orphans()), (0, 1));
    assert_eq!(w.history(ROOT, "d").len(), 1);
}

#[test]
fn purging_a_removed_directory_drops_all_that_it_remembers() {
    let mut w = World::new();
    let d = w.dir(ROOT, "d");
    let e = w.dir(d, "e");
    for (dir, text) in [(d, "x"), (e, "y"), (e, "z")] {
        let f = w.file(dir, text);
        w.save(f);
        w.unlink(dir, text).unwrap();
    }
    w.rmdir(d, "e").unwrap();
    w.rmdir(ROOT, "d").unwrap();
    purge_name(&mut w, ROOT, "d");
    assert_eq!(w.reap_orphans(), 5);
    assert!(w.objects.is_empty());
}

#[test]
fn old_versions_do_not_show_more_than_the_file_does_now() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    w.save(f);
    let chmod = |ino, mode| Mutation::SetAttr {
        ino,
        mode: Some(mode),
        uid: Some(7),
        gid: None,
        atime: None,
        mtime: None,
    };
    w.save(f);
    w.apply(&chmod(f, 0o600)).unwrap();
    let modes = |w: &World| {
        w.history(ROOT, "f")
            .iter()
            .map(|v| (v.mode, v.uid))
            .collect::<Vec<_>>()
    };
    assert_eq!(modes(&w), [(0o400, 7), (0o400, 7)]);
    let t = w.file(ROOT, "t");
    w.save(t);
    w.rename((ROOT, "t"), (ROOT, "f")).unwrap();
    // What was private stays private, and its owner's, under a public successor.
    assert_eq!(modes(&w), [(0o444, 1000), (0o400, 7), (0o400, 7)]);
}

#[test]
fn other_kinds_leave_a_files_history_alone() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let a = w.save(f).seq;
    w.create(ROOT, "s", FileKind::Symlink).unwrap();
    w.rename((ROOT, "s"), (ROOT, "f")).unwrap();
    assert_eq!(w.writers(ROOT, "f"), [a]);
    assert!(w.history(ROOT, "f")[0].deleted_at.is_some());
    w.unlink(ROOT, "f").unwrap();
    assert_eq!(w.undelete(ROOT, "f"), Ok(f));
    assert_eq!(w.reap_orphans(), 1);
}

/// An editor's backup took the history along, and the file that was saved had none.
#[test]
fn regression_a_save_that_moves_the_old_file_away_keeps_the_history() {
    let mut w = World::new();
    let mut saved = Vec::new();
    let f = w.file(ROOT, "f");
    saved.push(w.save(f).seq);
    for _ in 0..7 {
        w.rename((ROOT, "f"), (ROOT, "f~")).unwrap();
        let f = w.file(ROOT, "f");
        saved.push(w.save(f).seq);
        w.unlink(ROOT, "f~").unwrap();
        let newest: Vec<u64> = saved.iter().rev().take(5).copied().collect();
        assert_eq!(w.writers(ROOT, "f"), newest);
    }
    assert!(w.history(ROOT, "f~").is_empty());
    // By a temporary file that takes the name, too.
    w.rename((ROOT, "f"), (ROOT, "f.bak")).unwrap();
    let t = w.file(ROOT, "tmp");
    saved.push(w.save(t).seq);
    w.rename((ROOT, "tmp"), (ROOT, "f")).unwrap();
    w.unlink(ROOT, "f.bak").unwrap();
    let newest: Vec<u64> = saved.iter().rev().take(5).copied().collect();
    assert_eq!(w.writers(ROOT, "f"), newest);
    assert!(w.history(ROOT, "tmp").is_empty() && w.history(ROOT, "f.bak").is_empty());
}

#[test]
fn a_file_removed_long_after_a_rename_keeps_its_history_to_itself() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let old = w.save(f).seq;
    w.rename((ROOT, "f"), (ROOT, "g")).unwrap();
    let f = w.file(ROOT, "f");
    let new = w.save(f).seq;
    w.at = Time(w.at.0 + 120_000_000_000);
    w.unlink(ROOT, "g").unwrap();
    assert_eq!(
        (w.writers(ROOT, "f"), w.writers(ROOT, "g")),
        (vec![new], vec![old])
    );
}

#[test]
fn deleted_history_that_was_there_before_the_rename_stays_with_the_name() {
    let mut w = World::new();
    let g = w.file(ROOT, "g");
    let gone = w.save(g).seq;
    w.unlink(ROOT, "g").unwrap();
    let f = w.file(ROOT, "f");
    let old = w.save(f).seq;
    w.rename((ROOT, "f"), (ROOT, "g")).unwrap();
    let f = w.file(ROOT, "f");
    let new = w.save(f).seq;
    w.unlink(ROOT, "g").unwrap();
    assert_eq!(
        (w.writers(ROOT, "f"), w.writers(ROOT, "g")),
        (vec![new, old], vec![gone])
    );
}
