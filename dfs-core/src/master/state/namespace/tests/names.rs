//! Names: create, link, unlink, rmdir, rename, and the times and counts they change.
use super::world::{ROOT, World, name, node};
use crate::types::{FileKind, Timestamp};
use crate::wire::mutation::RenameMode;
use crate::wire::{ErrorCode, Mutation, MutationOk};

fn removed(done: Result<MutationOk, ErrorCode>) -> Option<crate::types::Ino> {
    match done.unwrap() {
        MutationOk::Removed { orphan, .. } | MutationOk::Renamed { orphan, .. } => orphan,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_create_that_is_not_exclusive_finds_the_file_that_is_there() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let create = |text: &str, kind, exclusive| Mutation::Create {
        parent: ROOT,
        name: name(text),
        node: node(kind),
        exclusive,
    };
    match w.apply(&create("f", FileKind::File, false)).unwrap() {
        MutationOk::Entry { attr, created } => assert_eq!((attr.ino, created), (f, false)),
        other => panic!("{other:?}"),
    }
    let again = w.apply(&create("f", FileKind::File, true));
    assert_eq!(again.unwrap_err(), ErrorCode::Exists);
    w.dir(ROOT, "d");
    let over_dir = w.apply(&create("d", FileKind::File, false));
    assert_eq!(over_dir.unwrap_err(), ErrorCode::IsDir);
    let again = w.apply(&create("d", FileKind::Dir, false));
    assert_eq!(again.unwrap_err(), ErrorCode::Exists);
    let below_file = w.create(f, "x", FileKind::File);
    assert_eq!(below_file.unwrap_err(), ErrorCode::NotDir);
}

#[test]
fn inode_numbers_are_never_reused() {
    let mut w = World::new();
    let first = w.file(ROOT, "f");
    w.apply(&Mutation::Unlink {
        parent: ROOT,
        name: name("f"),
        purge: true,
    })
    .unwrap();
    assert_eq!(w.reap_orphans(), 1);
    assert!(w.file(ROOT, "f") > first);
}

/// With three of five nodes gone for good, one of ten new files could not be written.
#[test]
fn regression_a_new_file_is_given_to_a_group_that_can_be_written() {
    use crate::types::{ChunkNo, Ino, StoreId};
    let mut w = World::new();
    for (at, info) in w
        .map
        .pgs
        .iter_mut()
        .enumerate()
        .filter(|(at, _)| at % 3 == 0)
    {
        info.members = vec![StoreId(3), StoreId(4), StoreId(5 + at as u128 % 2)];
    }
    w.down.extend([4, 5].map(StoreId));
    for i in 0..100 {
        let ino = w.file(ROOT, &format!("f{i}"));
        let home = w.map.of_chunk(ino, ChunkNo::HOME).1.unwrap();
        assert!(!home.members.contains(&StoreId(5)), "file {i}");
    }
    // Where nothing can be written, names still can.
    w.down.extend([1, 2, 3, 6].map(StoreId));
    let before = w.file(ROOT, "last");
    assert_eq!(w.file(ROOT, "more"), Ino(before.0 + 1));
}

#[test]
fn directories_count_their_subdirectories_and_entries() {
    let mut w = World::new();
    let d = w.dir(ROOT, "d");
    assert_eq!((w.attr(ROOT).nlink, w.attr(d).nlink), (3, 2));
    w.dir(d, "e");
    w.file(d, "f");
    assert_eq!((w.attr(d).nlink, w.attr(d).size), (3, 128));
    assert_eq!(w.rmdir(ROOT, "d").unwrap_err(), ErrorCode::NotEmpty);
    assert_eq!(w.rmdir(d, "f").unwrap_err(), ErrorCode::NotDir);
    assert_eq!(w.unlink(d, "e").unwrap_err(), ErrorCode::IsDir);
    w.rename((d, "e"), (ROOT, "e")).unwrap();
    assert_eq!((w.attr(ROOT).nlink, w.attr(d).nlink), (4, 2));
}

#[test]
fn a_setgid_directory_hands_its_group_down() {
    let mut w = World::new();
    let d = w.dir(ROOT, "d");
    w.apply(&Mutation::SetAttr {
        ino: d,
        mode: Some(0o2775),
        uid: None,
        gid: Some(77),
        atime: None,
        mtime: None,
    })
    .unwrap();
    let f = w.file(d, "f");
    let e = w.dir(d, "e");
    assert_eq!((w.attr(f).gid, w.attr(f).mode), (77, 0o644));
    assert_eq!((w.attr(e).gid, w.attr(e).mode), (77, 0o2644));
}

#[test]
fn a_removed_directory_takes_no_new_names() {
    let mut w = World::new();
    let d = w.dir(ROOT, "d");
    let f = w.file(ROOT, "f");
    w.rmdir(ROOT, "d").unwrap();
    assert_eq!(w.attr(d).nlink, 0);
    let refused = [
        w.create(d, "x", FileKind::File).unwrap_err(),
        w.link(f, d, "x").unwrap_err(),
        w.rename((ROOT, "f"), (d, "x")).unwrap_err(),
    ];
    assert_eq!(refused, [ErrorCode::NotFound; 3]);
    assert_eq!(w.reap_orphans(), 1);
    let gone = w.create(d, "x", FileKind::File);
    assert_eq!(gone.unwrap_err(), ErrorCode::NotFound);
}

#[test]
fn dot_versions_is_no_name_to_make() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let refused = [
        w.create(ROOT, ".versions", FileKind::File).unwrap_err(),
        w.create(ROOT, ".versions", FileKind::Dir).unwrap_err(),
        w.create(ROOT, ".versions", FileKind::Symlink).unwrap_err(),
        w.link(f, ROOT, ".versions").unwrap_err(),
        w.rename((ROOT, "f"), (ROOT, ".versions")).unwrap_err(),
    ];
    assert_eq!(refused, [ErrorCode::NotPermitted; 5]);
}

#[test]
fn hard_links_share_the_inode_and_directories_have_none() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let d = w.dir(ROOT, "d");
    w.link(f, d, "g").unwrap();
    assert_eq!(w.attr(f).nlink, 2);
    assert_eq!(w.link(d, ROOT, "e").unwrap_err(), ErrorCode::NotPermitted);
    assert_eq!(w.link(f, ROOT, "d").unwrap_err(), ErrorCode::Exists);
    assert_eq!(removed(w.unlink(ROOT, "f")), None);
    assert_eq!(removed(w.unlink(d, "g")), Some(f));
}

#[test]
fn names_set_the_times_of_the_directory_and_the_inode() {
    let mut w = World::new();
    let d = w.dir(ROOT, "d");
    let f = w.file(d, "f");
    let now = |w: &World| Timestamp::from_log_time(w.at);
    let made = now(&w);
    let a = w.attr(f);
    assert_eq!([a.atime, a.mtime, a.ctime, a.crtime], [made; 4]);
    assert_eq!((w.attr(d).mtime, w.attr(d).ctime), (made, made));
    w.link(f, ROOT, "g").unwrap();
    assert_eq!((w.attr(f).ctime, w.attr(f).mtime), (now(&w), made));
    assert_eq!((w.attr(ROOT).mtime, w.attr(d).mtime), (now(&w), made));
    w.rename((ROOT, "g"), (d, "h")).unwrap();
    assert_eq!(
        [w.attr(ROOT).mtime, w.attr(d).mtime, w.attr(f).ctime],
        [now(&w); 3]
    );
    w.unlink(d, "h").unwrap();
    assert_eq!([w.attr(d).mtime, w.attr(f).ctime], [now(&w); 2]);
    assert_eq!((w.attr(f).mtime, w.attr(d).crtime < made), (made, true));
}

#[test]
fn a_rename_keeps_to_the_kinds_that_it_meets() {
    let mut w = World::new();
    let (d, e) = (w.dir(ROOT, "d"), w.dir(ROOT, "e"));
    let f = w.file(ROOT, "f");
    w.file(e, "x");
    assert_eq!(
        w.rename((ROOT, "f"), (ROOT, "d")).unwrap_err(),
        ErrorCode::IsDir
    );
    assert_eq!(
        w.rename((ROOT, "d"), (ROOT, "f")).unwrap_err(),
        ErrorCode::NotDir
    );
    assert_eq!(
        w.rename((ROOT, "d"), (ROOT, "e")).unwrap_err(),
        ErrorCode::NotEmpty
    );
    assert_eq!(
        w.rename((ROOT, "d"), (d, "y")).unwrap_err(),
        ErrorCode::Invalid
    );
    w.rename((ROOT, "d"), (e, "d")).unwrap();
    assert_eq!(
        w.rename((ROOT, "e"), (d, "y")).unwrap_err(),
        ErrorCode::Invalid
    );
    let no = RenameMode::NoReplace;
    let refused = w.rename_as((ROOT, "f"), (e, "x"), no);
    assert_eq!(refused.unwrap_err(), ErrorCode::Exists);
    w.rename((ROOT, "e"), (ROOT, "g")).unwrap();
    let replaced = w.dir(ROOT, "h");
    assert_eq!(removed(w.rename((ROOT, "g"), (ROOT, "h"))), Some(replaced));
    assert_eq!(w.lookup(ROOT, "h"), Ok(e));
    assert_eq!(
        w.rename((ROOT, "zz"), (ROOT, "h")).unwrap_err(),
        ErrorCode::NotFound
    );
    assert_eq!(w.lookup(ROOT, "f"), Ok(f));
}

#[test]
fn renaming_one_link_onto_another_of_the_same_inode_does_nothing() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    w.link(f, ROOT, "g").unwrap();
    let before = w.kv.clone();
    assert_eq!(removed(w.rename((ROOT, "f"), (ROOT, "g"))), None);
    assert_eq!(removed(w.rename((ROOT, "f"), (ROOT, "f"))), None);
    let swap = RenameMode::Exchange;
    assert_eq!(removed(w.rename_as((ROOT, "f"), (ROOT, "g"), swap)), None);
    assert_eq!(w.kv, before);
}

#[test]
fn exchange_swaps_what_two_names_mean() {
    let mut w = World::new();
    let d = w.dir(ROOT, "d");
    let f = w.file(d, "f");
    let e = w.dir(ROOT, "e");
    let swap = RenameMode::Exchange;
    w.rename_as((d, "f"), (ROOT, "e"), swap).unwrap();
    assert_eq!((w.lookup(ROOT, "e"), w.lookup(d, "f")), (Ok(f), Ok(e)));
    assert_eq!((w.attr(ROOT).nlink, w.attr(d).nlink), (3, 3));
    let missing = w.rename_as((d, "f"), (ROOT, "zz"), swap);
    assert_eq!(missing.unwrap_err(), ErrorCode::NotFound);
    let below = w.rename_as((ROOT, "d"), (d, "f"), swap);
    assert_eq!(below.unwrap_err(), ErrorCode::Invalid);
    let above = w.rename_as((d, "f"), (ROOT, "d"), swap);
    assert_eq!(above.unwrap_err(), ErrorCode::Invalid);
}

#[test]
fn watchers_hear_of_names_that_come_and_go() {
    let mut w = World::new();
    w.file(ROOT, "f");
    w.file(ROOT, "g");
    w.rename((ROOT, "f"), (ROOT, "g")).unwrap();
    let heard: Vec<_> = w
        .last
        .watch
        .iter()
        .map(|e| (e.added, e.name.to_string()))
        .collect();
    let event = |added, text: &str| (added, text.to_string());
    assert_eq!(
        heard,
        [event(false, "g"), event(false, "f"), event(true, "g")]
    );
}
