//! The last five versions, however a file is overwritten; and undelete.
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, run, sh};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Newest five of seven overwrites, as they must be listed: oldest first.
fn expected(content: impl Fn(u32) -> Vec<u8>) -> Vec<Vec<u8>> {
    (3..=7).map(content).collect()
}

fn line(i: u32) -> Vec<u8> {
    format!("content number {i}\n").into_bytes()
}

/// Contents below `.versions/NAME`, in the order of version numbers.
fn in_versions(dir: &Path, name: &str) -> Vec<Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir.join(".versions").join(name)).unwrap() {
        let path = entry.unwrap().path();
        let number: u64 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes.len() as u64);
        all.insert(number, bytes);
    }
    all.into_values().collect()
}

/// Contents through `dfs-tools versions FILE 5 -o DIR`.
fn by_tools(cluster: &Cluster, path: &str) -> Vec<Vec<u8>> {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().to_str().unwrap();
    cluster.tools(&["versions", path, "5", "-o", dir]).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(out.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| {
            let digits = |s: &str| {
                s.rsplit(|c: char| !c.is_ascii_digit())
                    .next()
                    .unwrap()
                    .to_owned()
            };
            let name = p.file_name().unwrap().to_str().unwrap().to_owned();
            (
                digits(&name).parse::<u64>().unwrap(),
                std::fs::read(&p).unwrap(),
            )
        })
        .collect();
    files.sort();
    files.into_iter().map(|(_, bytes)| bytes).collect()
}

fn check(cluster: &Cluster, mount: &Path, path: &str, want: &[Vec<u8>], how: &str) {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let got = in_versions(&mount.join(dir.trim_start_matches('/')), name);
    assert_eq!(show(&got), show(want), "{how}: .versions");
    assert_eq!(
        show(&by_tools(cluster, path)),
        show(want),
        "{how}: dfs-tools versions"
    );
}

fn show(all: &[Vec<u8>]) -> Vec<String> {
    all.iter()
        .map(|b| String::from_utf8_lossy(b).into_owned())
        .collect()
}

#[test]
fn seven_overwrites_in_any_way_leave_exactly_the_newest_five() {
    if !fuse_or_skip("versions") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let m = mount.path();
    let overwrite = |name: &str, script: &str| {
        for i in 1..=7 {
            let file = m.join(name);
            let text = String::from_utf8(line(i)).unwrap();
            let vars = format!("f='{}' t='{}' i={i}\n", file.display(), text.trim_end());
            sh(&(vars + script)).unwrap();
        }
        check(&cluster, m, &format!("/{name}"), &expected(line), name);
    };
    overwrite("redirect", r#"echo "$t" >"$f""#);
    overwrite("group", r#"(printf '%s' "$t"; (echo) ) >"$f""#);
    overwrite(
        "cp",
        r#"s=$(mktemp); echo "$t" >"$s"; cp "$s" "$f"; rm "$s""#,
    );
    overwrite("rename", r#"echo "$t" >"$f.tmp"; mv "$f.tmp" "$f""#);
    overwrite(
        "truncate",
        r#"[ -e "$f" ] && truncate -s 0 "$f"; echo "$t" | dd of="$f" conv=notrunc 2>&1"#,
    );

    for i in 1..=7 {
        sh(&format!(
            "printf 'line {i}\\n' >>'{}'",
            m.join("append").display()
        ))
        .unwrap();
    }
    let grown = |i| {
        (1..=i)
            .flat_map(|k| format!("line {k}\n").into_bytes())
            .collect()
    };
    check(&cluster, m, "/append", &expected(grown), "append");

    sh(&format!(
        "echo 'content number 1' >'{}'",
        m.join("sed").display()
    ))
    .unwrap();
    for i in 2..=7 {
        sh(&format!(
            "sed -i 's/number .*/number {i}/' '{}'",
            m.join("sed").display()
        ))
        .unwrap();
    }
    check(&cluster, m, "/sed", &expected(line), "sed -i");

    std::fs::write(m.join("mmap"), line(1)).unwrap();
    for i in 2..=7 {
        let script = format!(
            "python3 -c \"import mmap\nwith open('{}', 'r+b') as f:\n with mmap.mmap(f.fileno(), 0) as m: m[15:16] = b'{i}'\"",
            m.join("mmap").display()
        );
        sh(&script).unwrap();
    }
    check(&cluster, m, "/mmap", &expected(line), "mmap");

    for i in 1..=7 {
        let local = cluster.scratch().join("local");
        std::fs::write(&local, line(i)).unwrap();
        cluster
            .tools(&["put", local.to_str().unwrap(), "/put"])
            .unwrap();
    }
    check(&cluster, m, "/put", &expected(line), "dfs-tools put");

    std::fs::create_dir(m.join("before")).unwrap();
    for i in 1..=4 {
        std::fs::write(m.join("before/f"), line(i)).unwrap();
    }
    std::fs::rename(m.join("before"), m.join("after")).unwrap();
    for i in 5..=7 {
        std::fs::write(m.join("after/f"), line(i)).unwrap();
    }
    check(
        &cluster,
        m,
        "/after/f",
        &expected(line),
        "renamed parent directory",
    );

    // fsync cuts nothing.
    let file = std::fs::File::options()
        .write(true)
        .open(m.join("after/f"))
        .unwrap();
    for i in 0..1000u32 {
        file.write_all_at(&i.to_be_bytes(), 0).unwrap();
        file.sync_data().unwrap();
    }
    drop(file);
    assert_eq!(in_versions(&m.join("after"), "f").len(), 5);
    assert_eq!(
        show(&in_versions(&m.join("after"), "f")[..4]),
        show(&expected(line)[1..])
    );
    mount.unmount().unwrap();
}

#[test]
fn undelete_brings_back_content_owner_times_attributes_and_history() {
    if !fuse_or_skip("undelete") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let m = mount.path();
    std::fs::create_dir_all(m.join("gone/deeper")).unwrap();
    for place in ["plain", "gone/deeper/file"] {
        let f = m.join(place);
        for i in 1..=3 {
            std::fs::write(&f, line(i)).unwrap();
        }
        std::fs::set_permissions(&f, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(&f, Some(1234), Some(5678)).unwrap();
        sh(&format!(
            "setfattr -n user.color -v blue '{0}'; touch -d '2020-02-02 02:02:02.5' '{0}'",
            f.display()
        ))
        .unwrap();
        let before = std::fs::metadata(&f).unwrap();
        if place == "plain" {
            std::fs::remove_file(&f).unwrap();
        } else {
            std::fs::remove_dir_all(m.join("gone")).unwrap();
        }
        assert!(!f.exists());
        cluster.tools(&["undelete", &format!("/{place}")]).unwrap();
        let after = std::fs::metadata(&f).unwrap();
        let key = |s: &std::fs::Metadata| (s.mode(), s.uid(), s.gid(), s.mtime(), s.mtime_nsec());
        assert_eq!(key(&before), key(&after), "{place}");
        assert_eq!(std::fs::read(&f).unwrap(), line(3));
        let xattr = sh(&format!(
            "getfattr --only-values -n user.color '{}'",
            f.display()
        ))
        .unwrap();
        assert_eq!(xattr, "blue");
        let (dir, name) = (
            f.parent().unwrap(),
            f.file_name().unwrap().to_str().unwrap(),
        );
        assert_eq!(
            show(&in_versions(dir, name)),
            show(&[line(1), line(2), line(3)]),
            "{place}"
        );
    }
    mount.unmount().unwrap();
}

#[test]
fn the_history_view_is_hidden_and_cannot_be_changed() {
    if !fuse_or_skip("history view") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let m = mount.path();
    for i in 1..=2 {
        std::fs::write(m.join("f"), line(i)).unwrap();
    }
    std::fs::write(m.join("deleted"), line(9)).unwrap();
    std::fs::remove_file(m.join("deleted")).unwrap();
    let names = |dir: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(m), ["f"]);
    assert_eq!(names(&m.join(".versions")), ["deleted", "f"]);
    let code = |r: std::io::Result<()>| r.unwrap_err().raw_os_error().unwrap();
    let old = m.join(".versions/f/1");
    assert_eq!(std::fs::read(&old).unwrap(), line(1));
    assert_eq!(code(std::fs::write(&old, "x")), libc::EROFS);
    assert_eq!(code(std::fs::remove_file(&old)), libc::EROFS);
    assert_eq!(
        code(std::fs::create_dir(m.join("sub/.versions"))),
        libc::ENOENT
    );
    std::fs::create_dir(m.join("sub")).unwrap();
    assert_eq!(
        code(std::fs::write(m.join(".versions/new"), "x")),
        libc::EROFS
    );
    let mv = sh(&format!("mv '{0}/f' '{0}/sub/.versions' 2>&1", m.display()));
    assert!(mv.is_err());
    let cat = run(std::process::Command::new("cat").arg(m.join(".versions/f/99")));
    assert!(cat.is_err());
    mount.unmount().unwrap();
}
