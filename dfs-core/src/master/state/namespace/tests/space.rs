//! What goes when space runs short, and in which order.
use super::world::{ROOT, World};
use crate::master::command::OldVersion;
use crate::master::state::namespace;
use crate::types::OpId;

fn free(w: &mut World, names: u32, versions: &[OldVersion]) {
    w.run(OpId::default(), |ctx| {
        namespace::free_space(ctx, names, versions)
    })
    .unwrap();
}

fn oldest(w: &World) -> Vec<OldVersion> {
    let page = namespace::old_versions(&w.kv, None, 1000).unwrap();
    assert_eq!(page.after, None);
    let mut found = page.found;
    found.sort();
    found.into_iter().map(|aged| aged.which).collect()
}

#[test]
fn names_that_were_deleted_first_go_first() {
    let mut w = World::new();
    for text in ["b", "a", "c"] {
        let ino = w.file(ROOT, text);
        w.save(ino);
        w.unlink(ROOT, text).unwrap();
    }
    assert_eq!(namespace::deleted_bytes(&w.kv, 10).unwrap().len(), 3);
    free(&mut w, 2, &[]);
    assert!(w.history(ROOT, "c").len() == 1);
    let bytes = namespace::deleted_bytes(&w.kv, 10).unwrap();
    assert_eq!(bytes.len(), 1, "b and a are gone");
    assert!(bytes[0] > 0);
    assert_eq!(w.reap_orphans(), 2);
}

#[test]
fn old_versions_go_one_by_one_and_the_newest_stays() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let saved: Vec<u64> = (0..4).map(|_| w.save(f).seq).collect();
    let all = oldest(&w);
    assert_eq!(all.len(), 3, "{all:?}");
    free(&mut w, 0, &all[..1]);
    assert_eq!(w.writers(ROOT, "f"), [saved[3], saved[2], saved[1]]);
    free(&mut w, 0, &all);
    assert_eq!(w.writers(ROOT, "f"), [saved[3]]);
    assert_eq!(oldest(&w), []);
}

#[test]
fn what_a_name_used_to_be_goes_and_what_it_is_stays() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    w.save(f);
    let temp = w.file(ROOT, "tmp");
    let last = w.save(temp).seq;
    w.rename((ROOT, "tmp"), (ROOT, "f")).unwrap();
    let all = oldest(&w);
    assert!(matches!(&all[..], [OldVersion::Pin { ino, .. }] if *ino == f));
    free(&mut w, 0, &all);
    assert_eq!(w.writers(ROOT, "f"), [last]);
    assert_eq!(w.reap_orphans(), 1);
    // Asked for again, or of a file that has become the newest: nothing happens.
    free(&mut w, 0, &all);
    let newest = OldVersion::Window {
        ino: temp,
        version: w.history(ROOT, "f")[0].inode_version,
    };
    free(&mut w, 0, &[newest]);
    assert_eq!(w.writers(ROOT, "f"), [last]);
}
