//! Attributes and extended attributes.
use super::world::{ROOT, World, node};
use crate::types::{FileKind, Ino, SetTime, Timestamp};
use crate::wire::mutation::XattrMode;
use crate::wire::{ErrorCode, Mutation, MutationOk, Query, QueryAnswer};

fn set(ino: Ino, mode: Option<u32>, uid: Option<u32>) -> Mutation {
    Mutation::SetAttr {
        ino,
        mode,
        uid,
        gid: None,
        atime: None,
        mtime: None,
    }
}

fn set_xattr(
    w: &mut World,
    ino: Ino,
    key: &[u8],
    len: usize,
    mode: XattrMode,
) -> Result<MutationOk, ErrorCode> {
    w.apply(&Mutation::SetXattr {
        ino,
        key: key.to_vec(),
        value: vec![1; len],
        mode,
    })
}

#[test]
fn chown_takes_special_rights_from_files_but_not_from_directories() {
    let mut w = World::new();
    let (f, d) = (w.file(ROOT, "f"), w.dir(ROOT, "d"));
    let mut mode_after = |ino, mode| {
        w.apply(&set(ino, Some(mode), None)).unwrap();
        w.apply(&set(ino, None, Some(5))).unwrap();
        w.attr(ino).mode
    };
    assert_eq!(mode_after(f, 0o6755), 0o755);
    assert_eq!(mode_after(f, 0o6745), 0o2745);
    assert_eq!(mode_after(d, 0o6755), 0o6755);
    assert_eq!(w.attr(f).uid, 5);
}

#[test]
fn setattr_sets_what_is_given_and_always_ctime() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let time = Timestamp {
        secs: -5,
        nanos: 17,
    };
    w.apply(&Mutation::SetAttr {
        ino: f,
        mode: None,
        uid: None,
        gid: Some(9),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::At(time)),
    })
    .unwrap();
    let (a, now) = (w.attr(f), Timestamp::from_log_time(w.at));
    assert_eq!((a.atime, a.mtime, a.ctime), (now, time, now));
    assert_eq!((a.mode, a.uid, a.gid), (0o644, node(FileKind::File).uid, 9));
}

#[test]
fn extended_attributes_keep_to_their_modes_and_limits() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let (any, create, replace) = (XattrMode::Any, XattrMode::Create, XattrMode::Replace);
    let missing = set_xattr(&mut w, f, b"user.a", 1, replace);
    assert_eq!(missing.unwrap_err(), ErrorCode::NoData);
    set_xattr(&mut w, f, b"user.a", 1, create).unwrap();
    assert!(w.attr(f).has_xattrs);
    let again = set_xattr(&mut w, f, b"user.a", 1, create);
    assert_eq!(again.unwrap_err(), ErrorCode::Exists);
    set_xattr(&mut w, f, b"user.a", 2, replace).unwrap();
    let long_key = set_xattr(&mut w, f, &[b'x'; 256], 1, any);
    assert_eq!(long_key.unwrap_err(), ErrorCode::Invalid);
    let long_value = set_xattr(&mut w, f, b"user.b", 65_537, any);
    assert_eq!(long_value.unwrap_err(), ErrorCode::TooBig);
    let full = (0..17).map(|i| set_xattr(&mut w, f, &[b'x', i + 1], 65_000, any));
    let refused: Vec<_> = full.filter_map(Result::err).collect();
    assert_eq!(refused, [ErrorCode::NoSpace]);
    let key = b"user.a".to_vec();
    w.apply(&Mutation::RemoveXattr { ino: f, key }).unwrap();
    let key = b"user.a".to_vec();
    let gone = w.apply(&Mutation::RemoveXattr { ino: f, key });
    assert_eq!(gone.unwrap_err(), ErrorCode::NoData);
    match w.query(&Query::Xattrs { ino: f }).unwrap() {
        QueryAnswer::Xattrs(all) => assert_eq!((all.len(), all[0].0.clone()), (16, vec![b'x', 1])),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_read_moves_the_access_time_after_a_change_and_once_a_day() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let changed = w.attr(f);
    let at = |secs: i64| Timestamp {
        secs: changed.ctime.secs + secs,
        ..changed.ctime
    };
    let mut read = |times: &[(Ino, Timestamp)]| {
        let times = times.to_vec();
        w.apply(&Mutation::Accessed { times }).unwrap();
        w.attr(f)
    };
    assert_eq!(read(&[(f, at(-1))]), changed, "before the last change");
    let first = read(&[(Ino(999), at(5)), (f, at(10))]);
    let expected = crate::types::Attr {
        atime: at(10),
        ..changed.clone()
    };
    assert_eq!(first, expected, "and nothing else moves");
    assert_eq!(read(&[(f, at(20))]).atime, at(10));
    let day = 24 * 3600;
    assert_eq!(read(&[(f, at(10 + day))]).atime, at(10 + day));
    let times = vec![(f, at(1)); crate::wire::mutation::ACCESSED_MAX + 1];
    let refused = w.apply(&Mutation::Accessed { times });
    assert_eq!(refused, Err(ErrorCode::BadRequest));
}
