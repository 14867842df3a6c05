//! Reads: paths, directories, layouts, histories' names, placement views.
use super::world::{ROOT, World, name, node};
use crate::master::state::namespace;
use crate::types::{CHUNK_SIZE, ChunkNo, FileKind, Ino, PgId, VersionNo};
use crate::wire::{ErrorCode, Mutation, MutationOk, Query, QueryAnswer};

fn symlink(w: &mut World, parent: Ino, text: &str, target: &str) -> Ino {
    let mut node = node(FileKind::Symlink);
    node.target = target.as_bytes().to_vec();
    let body = Mutation::Create {
        parent,
        name: name(text),
        node,
        exclusive: true,
    };
    match w.apply(&body).unwrap() {
        MutationOk::Entry { attr, .. } => attr.ino,
        other => panic!("{other:?}"),
    }
}

fn walk(w: &World, path: &str, follow_last: bool) -> Result<Ino, ErrorCode> {
    let path = path
        .split('/')
        .filter(|p| !p.is_empty())
        .map(name)
        .collect();
    let start = ROOT;
    match w.query(&Query::Walk {
        start,
        path,
        follow_last,
    })? {
        QueryAnswer::Attr(attr) => Ok(attr.ino),
        other => panic!("{other:?}"),
    }
}

fn names(w: &World, dir: Ino, after: Option<&str>, limit: u32) -> Vec<(String, bool)> {
    let after = after.map(name);
    match w.query(&Query::HistoryNames { dir, after, limit }).unwrap() {
        QueryAnswer::Names(found) => found.into_iter().map(|(n, d)| (n.to_string(), d)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_walk_follows_symlinks_inside_and_the_last_only_if_asked() {
    let mut w = World::new();
    let d = w.dir(ROOT, "d");
    let e = w.dir(d, "e");
    let f = w.file(e, "f");
    symlink(&mut w, d, "up", "../d/./e");
    let abs = symlink(&mut w, e, "abs", "/d/up/f");
    assert_eq!(walk(&w, "d/e/f", false), Ok(f));
    assert_eq!(walk(&w, "d/up/f", false), Ok(f));
    assert_eq!(walk(&w, "d/e/abs", true), Ok(f));
    assert_eq!(walk(&w, "d/e/abs", false), Ok(abs));
    assert_eq!(walk(&w, "", true), Ok(ROOT));
    assert_eq!(walk(&w, "d/e/f/x", true), Err(ErrorCode::NotDir));
    assert_eq!(walk(&w, "d/x", true), Err(ErrorCode::NotFound));
    symlink(&mut w, ROOT, "loop", "loop");
    assert_eq!(walk(&w, "loop", true), Err(ErrorCode::Invalid));
    let target = w.query(&Query::ReadLink { ino: abs });
    assert_eq!(target, Ok(QueryAnswer::Target(b"/d/up/f".to_vec())));
}

#[test]
fn cookies_stay_with_their_names_while_others_come_and_go() {
    let mut w = World::new();
    for text in ["a", "b", "c", "d"] {
        w.file(ROOT, text);
    }
    let page = |w: &World, after, limit| {
        let q = Query::ReadDir {
            ino: ROOT,
            after,
            limit,
            with_attrs: false,
        };
        match w.query(&q).unwrap() {
            QueryAnswer::Entries(found, end) => {
                let pairs = found.iter().map(|e| (e.name.to_string(), e.cookie));
                (pairs.collect::<Vec<_>>(), end)
            }
            other => panic!("{other:?}"),
        }
    };
    let (first, end) = page(&w, 0, 2);
    assert_eq!(
        (first.clone(), end),
        (vec![("a".into(), 3), ("b".into(), 4)], false)
    );
    w.unlink(ROOT, "b").unwrap();
    w.rename((ROOT, "a"), (ROOT, "d")).unwrap();
    w.file(ROOT, "b");
    let (rest, end) = page(&w, 4, 9);
    let expected = vec![("c".into(), 5), ("d".into(), 6), ("b".into(), 7)];
    assert_eq!((rest, end), (expected, true));
}

#[test]
fn parents_and_paths_are_found_from_the_inode() {
    let mut w = World::new();
    let d = w.dir(ROOT, "d");
    let e = w.dir(d, "e");
    let f = w.file(e, "f");
    w.link(f, ROOT, "g").unwrap();
    let paths = w.query(&Query::Paths { ino: f }).unwrap();
    let expected = vec![b"/g".to_vec(), b"/d/e/f".to_vec()];
    assert_eq!(paths, QueryAnswer::Paths(expected));
    let parent = |ino| match w.query(&Query::Parent { ino })? {
        QueryAnswer::Attr(attr) => Ok(attr.ino),
        other => panic!("{other:?}"),
    };
    assert_eq!((parent(e), parent(ROOT)), (Ok(d), Ok(ROOT)));
    assert_eq!(parent(f), Err(ErrorCode::NotDir));
}

#[test]
fn a_layout_is_that_of_the_version_asked_for() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let token = w.token(1);
    let a = w.write(f, token, 0, CHUNK_SIZE as u32 + 10);
    w.seal(f, token);
    let token = w.token(1);
    let b = w.write(f, token, CHUNK_SIZE, 100);
    let old = w.try_layout(f, Some(VersionNo(1))).unwrap();
    assert_eq!(
        (old.op, old.size, old.chunks.len()),
        (a, CHUNK_SIZE + 10, 2)
    );
    assert!(
        old.chunks
            .iter()
            .flat_map(|c| &c.extents)
            .all(|e| e.object.op == a)
    );
    let new = w.try_layout(f, None).unwrap();
    assert_eq!((new.op, new.size), (b, CHUNK_SIZE + 100));
    let writers: Vec<_> = new.chunks.iter().map(|c| c.extents[0].object.op).collect();
    assert_eq!(writers, [a, b]);
    let part = Query::Layout {
        ino: f,
        version: None,
        first: ChunkNo(1),
        count: 1,
    };
    match w.query(&part).unwrap() {
        QueryAnswer::Layout(l) => assert_eq!((l.chunks.len(), l.chunks[0].chunk), (1, ChunkNo(1))),
        other => panic!("{other:?}"),
    }
    let far = ChunkNo(70_000);
    w.write(f, token, far.start(), 100);
    let next = |w: &World, version| w.try_layout(f, version).unwrap().next;
    assert_eq!(next(&w, None), Some(far));
    assert_eq!(next(&w, Some(VersionNo(1))), None, "its end comes before");
    assert_eq!(
        w.try_layout(f, Some(VersionNo(3))),
        Err(ErrorCode::NotFound)
    );
}

#[test]
fn names_with_history_are_listed_in_order_with_the_deleted_ones() {
    let mut w = World::new();
    w.file(ROOT, "never");
    w.dir(ROOT, "dir");
    let mut expected = Vec::new();
    for i in 0..300 {
        let text = format!("f{i:03}");
        w.audits = false;
        let f = w.file(ROOT, &text);
        w.save(f);
        if i % 3 == 0 {
            w.unlink(ROOT, &text).unwrap();
        }
        expected.push((text, i % 3 == 0));
    }
    assert_eq!(names(&w, ROOT, None, 1000), expected);
    assert_eq!(names(&w, ROOT, Some("f009"), 3), expected[10..13]);
    let mut paged = Vec::new();
    loop {
        let last = paged.last().map(|(n, _): &(String, bool)| n.clone());
        let page = names(&w, ROOT, last.as_deref(), 70);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, expected);
}

#[test]
fn inodes_of_placement_groups_come_in_order_with_a_path() {
    let mut w = World::new();
    let mut files = Vec::new();
    for i in 0..40 {
        let f = w.file(ROOT, &format!("f{i:02}"));
        w.save(f);
        files.push(f);
    }
    w.unlink(ROOT, "f07").unwrap();
    let pgs: std::collections::BTreeSet<PgId> = [PgId(1), PgId(5), PgId(6)].into();
    let is_there = |f: &&Ino| pgs.contains(&w.map.of_chunk(**f, ChunkNo(0)).0);
    let expected: Vec<Ino> = files.iter().filter(is_there).copied().collect();
    let (mut found, mut after) = (Vec::new(), Ino(0));
    loop {
        let (page, end) = namespace::inos_of_pgs(&w.kv, &pgs, after, 3).unwrap();
        for (ino, path, bytes) in page {
            let i = files.iter().position(|f| *f == ino).unwrap();
            let wanted = if i == 7 {
                String::new()
            } else {
                format!("/f{i:02}")
            };
            assert_eq!((path, bytes), (wanted.into_bytes(), 10));
            after = ino;
            found.push(ino);
        }
        if end {
            break;
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn totals_count_what_has_a_name() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    w.save(f);
    w.save(f);
    let totals = |w: &World| {
        let t = namespace::live_totals(&w.kv).unwrap();
        (t.inodes, t.bytes, t.deleted_names)
    };
    assert_eq!(totals(&w), (2, 10, 0));
    w.unlink(ROOT, "f").unwrap();
    assert_eq!(totals(&w), (1, 0, 1));
    w.undelete(ROOT, "f").unwrap();
    assert_eq!(totals(&w), (2, 10, 0));
}
