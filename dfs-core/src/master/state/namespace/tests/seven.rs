//! Seven overwrites of a file, done in each of the ways that programs save: the last five remain.
use super::world::{ROOT, World, puts};
use crate::types::FileKind;
use crate::wire::Change;

fn last_five(ops: &[u64]) -> Vec<u64> {
    ops.iter().rev().take(5).copied().collect()
}

#[test]
fn seven_puts_under_one_token_are_one_version() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let token = w.token(1);
    let ops: Vec<u64> = (0..7).map(|_| w.write(f, token, 0, 10).seq).collect();
    w.seal(f, token);
    assert_eq!(w.writers(ROOT, "f"), vec![ops[6]]);
    assert_eq!(w.numbers(ROOT, "f"), vec![1]);
    assert_eq!(w.objects.len(), 1);
}

#[test]
fn seven_opens_and_closes_leave_the_last_five() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let ops: Vec<u64> = (0..7).map(|_| w.save(f).seq).collect();
    assert_eq!(w.writers(ROOT, "f"), last_five(&ops));
    assert_eq!(w.numbers(ROOT, "f"), vec![7, 6, 5, 4, 3]);
    assert_eq!(w.objects.len(), 5);
    let found = w.history(ROOT, "f");
    assert!(found[0].is_current && found[1..].iter().all(|v| !v.is_current));
}

#[test]
fn seven_new_tokens_without_a_seal_leave_the_last_five() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let mut ops = Vec::new();
    for _ in 0..7 {
        let token = w.token(1);
        ops.push(w.write(f, token, 0, 10).seq);
    }
    assert_eq!(w.writers(ROOT, "f"), last_five(&ops));
}

#[test]
fn seven_truncates_and_writes_in_one_open_leave_the_last_five() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let mut ops = Vec::new();
    for _ in 0..7 {
        let token = w.token(1);
        w.change(f, token, |_| Change::Truncate { size: 0 })
            .unwrap();
        ops.push(w.write(f, token, 0, 10).seq);
        w.seal(f, token);
    }
    assert_eq!(w.writers(ROOT, "f"), last_five(&ops));
    assert_eq!(w.numbers(ROOT, "f"), vec![7, 6, 5, 4, 3]);
    assert_eq!(w.objects.len(), 5);
}

#[test]
fn seven_truncates_by_path_before_an_open_leave_the_last_five() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    let mut ops = Vec::new();
    for writer in [1, 2, 1, 3, 2, 1, 1] {
        let by_path = w.token(9);
        w.change(f, by_path, |_| Change::Truncate { size: 0 })
            .unwrap();
        if writer == 1 {
            w.seal(f, by_path);
        }
        let token = w.token(writer);
        ops.push(w.write(f, token, 0, 10).seq);
        w.write(f, token, 5, 10);
        w.seal(f, token);
    }
    assert_eq!(w.writers(ROOT, "f"), last_five(&ops));
    assert_eq!(w.numbers(ROOT, "f"), vec![7, 6, 5, 4, 3]);
}

#[test]
fn seven_replacements_of_the_whole_leave_the_last_five() {
    let mut w = World::new();
    let f = w.file(ROOT, "f");
    for _ in 0..7 {
        let token = w.token(1);
        let replace = |op| Change::Replace {
            puts: puts(op, 0, 10),
            size: 10,
        };
        w.change(f, token, replace).unwrap();
        w.seal(f, token);
    }
    assert_eq!(w.numbers(ROOT, "f"), vec![7, 6, 5, 4, 3]);
    assert_eq!(w.objects.len(), 5);
}

#[test]
fn seven_temporary_files_renamed_over_it_leave_the_last_five() {
    let mut w = World::new();
    let mut ops = Vec::new();
    for _ in 0..7 {
        let tmp = w.file(ROOT, "f.tmp");
        ops.push(w.save(tmp).seq);
        w.rename((ROOT, "f.tmp"), (ROOT, "f")).unwrap();
        w.reap_orphans();
    }
    assert_eq!(w.writers(ROOT, "f"), last_five(&ops));
    assert_eq!(w.numbers(ROOT, "f"), vec![7, 6, 5, 4, 3]);
    assert!(w.history(ROOT, "f.tmp").is_empty());
    assert_eq!(w.objects.len(), 5);
}

#[test]
fn seven_temporary_files_closed_after_the_rename_leave_the_last_five() {
    let mut w = World::new();
    let mut ops = Vec::new();
    for _ in 0..7 {
        let tmp = w.file(ROOT, "f.tmp");
        let token = w.token(1);
        ops.push(w.write(tmp, token, 0, 10).seq);
        w.rename((ROOT, "f.tmp"), (ROOT, "f")).unwrap();
        w.seal(tmp, token);
        w.reap_orphans();
    }
    assert_eq!(w.writers(ROOT, "f"), last_five(&ops));
    assert_eq!(w.objects.len(), 5);
}

#[test]
fn seven_deletions_and_new_files_leave_the_last_five() {
    let mut w = World::new();
    let mut ops = Vec::new();
    for i in 0..7 {
        if i > 0 {
            w.unlink(ROOT, "f").unwrap();
            w.reap_orphans();
        }
        let f = w.file(ROOT, "f");
        ops.push(w.save(f).seq);
    }
    assert_eq!(w.writers(ROOT, "f"), last_five(&ops));
    assert_eq!(w.numbers(ROOT, "f"), vec![7, 6, 5, 4, 3]);
    assert!(w.history(ROOT, "f").iter().all(|v| v.deleted_at.is_none()));
    w.reap_orphans();
    assert_eq!(w.objects.len(), 5);
}

#[test]
fn backups_by_rename_keep_each_content_under_the_name_that_it_moved_to() {
    let mut w = World::new();
    let mut ops = Vec::new();
    for i in 0..7 {
        if i > 0 {
            w.rename((ROOT, "f"), (ROOT, "f~")).unwrap();
        }
        let f = w.file(ROOT, "f");
        ops.push(w.save(f).seq);
    }
    assert_eq!(w.writers(ROOT, "f"), vec![ops[6]]);
    assert_eq!(w.writers(ROOT, "f~"), last_five(&ops[..6]));
}

#[test]
fn the_last_five_remain_after_the_file_and_its_parents_were_renamed() {
    let mut w = World::new();
    let a = w.create(ROOT, "a", FileKind::Dir).unwrap().ino;
    let b = w.dir(a, "b");
    let mut ops = Vec::new();
    for i in 0..7 {
        let tmp = w.file(b, "tmp");
        ops.push(w.save(tmp).seq);
        w.rename((b, "tmp"), (b, "f")).unwrap();
        if i == 3 {
            w.rename((ROOT, "a"), (ROOT, "c")).unwrap();
        }
    }
    w.rename((a, "b"), (ROOT, "d")).unwrap();
    assert_eq!(w.writers(b, "f"), last_five(&ops));
    let numbers = w.numbers(b, "f");
    w.rename((b, "f"), (ROOT, "g")).unwrap();
    assert_eq!(w.writers(ROOT, "g"), last_five(&ops));
    assert_eq!(w.numbers(ROOT, "g"), numbers);
    assert!(w.history(b, "f").is_empty());
}
