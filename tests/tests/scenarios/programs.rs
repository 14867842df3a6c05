//! Programs that people use, on a mount of five daemons and on a local directory: the same output.
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Runs a script of `tests/programs` on a fresh directory below `place`.
fn run(script: &str, place: &Path) -> Vec<String> {
    let dir = place.join("work");
    std::fs::create_dir(&dir).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/programs")
        .join(script);
    let by = if path.extension().is_some_and(|e| e == "py") {
        "python3"
    } else {
        "bash"
    };
    let output = Command::new(by).arg(path).arg(&dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let erred = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{script} in {}:\n{said}\n{erred}",
        dir.display()
    );
    std::fs::remove_dir_all(&dir).unwrap();
    said.lines().map(str::to_owned).collect()
}

fn same_on_both(test: &str, script: &str) {
    if !fuse_or_skip(test) {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "programs").unwrap();
    let local = cluster.scratch().join("local");
    std::fs::create_dir(&local).unwrap();
    let want = run(script, &local);
    let began = Instant::now();
    let got = run(script, mount.path());
    println!("{script}: {:?} on the mount", began.elapsed());
    assert!(want.len() > 3, "{want:?}");
    assert_eq!(want, got);
    mount.unmount().unwrap();
}

#[test]
fn git_keeps_a_repository_as_on_a_local_disk() {
    same_on_both("git_keeps_a_repository_as_on_a_local_disk", "git.sh");
}

#[test]
fn sqlite_with_several_writers_loses_no_row_in_any_journal_mode() {
    same_on_both(
        "sqlite_with_several_writers_loses_no_row_in_any_journal_mode",
        "sqlite.py",
    );
}

#[test]
fn copying_and_saving_gives_what_it_gives_on_a_local_disk() {
    same_on_both(
        "copying_and_saving_gives_what_it_gives_on_a_local_disk",
        "copies.sh",
    );
}

/// Saves `text` as the only line of `file`, as its editor does.
const EDITORS: [(&str, &str); 4] = [
    (
        "vim, in place",
        "vim.tiny -es -u NONE -c 'set backupcopy=yes' -c '%s/.*/TEXT/' -c wq FILE </dev/null",
    ),
    (
        "vim, by a backup",
        "vim.tiny -es -u NONE -c 'set backupcopy=no writebackup' -c '%s/.*/TEXT/' -c wq FILE </dev/null",
    ),
    (
        "nano",
        "(sleep 0.2; printf '\\x0bTEXT\\n'; sleep 0.1; printf '\\x18'; sleep 0.2) \
         | TERM=xterm script -qec 'nano -t FILE' /dev/null >/dev/null",
    ),
    ("sed -i", "sed -i 's/.*/TEXT/' FILE"),
];

#[test]
fn editors_save_and_the_history_stays() {
    if !fuse_or_skip("editors_save_and_the_history_stays") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::new(&cluster, "editors").unwrap();
    for (i, (editor, command)) in EDITORS.iter().enumerate() {
        let file = mount.join(format!("f{i}"));
        std::fs::write(&file, "text 0\n").unwrap();
        for round in 1..=7 {
            let line = command
                .replace("TEXT", &format!("text {round}"))
                .replace("FILE", file.to_str().unwrap());
            dfs_tests::proc::sh(&line).unwrap();
            let saved = std::fs::read_to_string(&file).unwrap();
            assert_eq!(saved.trim_end(), format!("text {round}"), "{editor}");
        }
        let versions = mount.join(format!(".versions/f{i}"));
        let mut kept: Vec<(u64, String)> = std::fs::read_dir(versions)
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| {
                let number = e.file_name().to_str().unwrap().parse().unwrap();
                (number, std::fs::read_to_string(e.path()).unwrap())
            })
            .collect();
        kept.sort();
        let texts: Vec<_> = kept.iter().map(|(_, t)| t.trim_end().to_owned()).collect();
        let want: Vec<_> = (3..=7).map(|r| format!("text {r}")).collect();
        assert_eq!(texts, want, "{editor}");
    }
    mount.unmount().unwrap();
}
