//! All masters lost: the tree comes back from the data directories alone, what is missing is named,
//! and nothing in those directories is changed.
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, number, sh};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// Bytes that differ from file to file.
fn bytes(seed: usize, len: usize) -> Vec<u8> {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Files of all kinds in 12 directories, then renames of files and directories.
fn make_tree(root: &Path, renames: usize) {
    for dir in 0..12 {
        std::fs::create_dir_all(root.join(format!("d{dir}/sub"))).unwrap();
    }
    let sizes = [0, 1, 300, 4096, 70_000, 200_000];
    for n in 0..240 {
        let sub = if n % 3 == 0 { "sub/" } else { "" };
        let path = root.join(format!("d{}/{sub}f{n}", n % 12));
        std::fs::write(path, bytes(n, sizes[n % 6])).unwrap();
    }
    std::fs::write(root.join("large"), bytes(1000, 9 << 20)).unwrap();
    sh(&format!(
        "cd '{}'
         truncate -s 20M sparse; printf x | dd of=sparse bs=1 seek=6000000 conv=notrunc status=none
         printf tail >> d1/f1; printf overwritten | dd of=large bs=1 seek=5000000 conv=notrunc status=none
         ln large d2/other-name; ln -s ../large d3/link; mkfifo d4/pipe
         printf bytes > $'d5/not-\\xff-utf8'; chmod 4751 d5/f5; chown 12:34 d6/sub/f6; chmod 2750 d7
         setfattr -n user.key -v value d8/f8 2>/dev/null || true
         rm d9/sub/f9; touch -d 2001-02-03T04:05:06.789 d10/f10 d11/sub",
        root.display()
    ))
    .unwrap();
    for n in 0..renames {
        let at = |round: usize| root.join(format!("moved-{}-{round}", n % 10));
        let from = match n / 10 {
            0 => root.join(format!("d{}", n % 10)),
            round => at(round - 1),
        };
        std::fs::rename(from, at(n / 10)).unwrap();
    }
}

/// Names and attributes, but not what a directory's times are, which no object tells.
fn listing(root: &Path) -> String {
    let root = root.display();
    sh(&format!(
        r"cd '{root}'; (find . -mindepth 1 ! -type d ! -name 'RESCUE-REPORT' -printf '%P %y %m %U %G %s %T@ %n %l\n';
          find . -mindepth 1 -type d -printf '%P %y %m %U %G\n') | LC_ALL=C sort"
    ))
    .unwrap()
}

/// Every file's checksum, by path.
fn sums(root: &Path) -> BTreeMap<String, String> {
    let root = root.display();
    let text = sh(&format!(
        "cd '{root}'; find . -type f ! -size 0 -exec sha256sum -z {{}} + | tr '\\0' '\\n' || true"
    ));
    let text = text.unwrap();
    let pair = |line: &str| {
        line.split_once("  ")
            .map(|(sum, path)| (path.to_owned(), sum.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// All that could change in a data directory by being read.
fn state_of(dirs: &[PathBuf]) -> String {
    let dirs: Vec<String> = dirs.iter().map(|d| format!("'{}'", d.display())).collect();
    sh(&format!(
        "find {} -printf '%p %s %T@ %i\\n' | LC_ALL=C sort",
        dirs.join(" ")
    ))
    .unwrap()
}

fn rescue(cluster: &Cluster, out: &Path, dirs: &[PathBuf], more: &[&str]) -> (i32, Value) {
    let mut command = cluster.command("dfs-tools");
    command
        .args(["--json", "rescue", "--out"])
        .arg(out)
        .args(more)
        .args(dirs);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|e| panic!("{e}: {said}"));
    (output.status.code().unwrap(), report)
}

#[test]
fn with_every_master_lost_the_tree_comes_back_from_the_data_directories() {
    if !fuse_or_skip("rescue") {
        return;
    }
    let _alone = exclusive();
    let renames = number("DFS_RENAMES", 100);
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    make_tree(mount.path(), renames);

    let stored = cluster.json(&["snapshot"]).unwrap();
    let stored = stored.as_array().unwrap();
    assert_eq!(stored.len(), 5, "{stored:?}");
    assert!(
        stored.iter().all(|s| s["index"] == stored[0]["index"]),
        "{stored:?}"
    );

    // What no snapshot knows: new files, and new bytes in old ones.
    let root = mount.path();
    for n in 0..10 {
        std::fs::write(
            root.join(format!("new-{n}")),
            bytes(2000 + n, 50_000 * n + 1),
        )
        .unwrap();
    }
    sh(&format!(
        "cd '{}'; printf more >> d10/f10; printf short > d10/f22; printf y | dd of=sparse bs=1 seek=15000000 conv=notrunc status=none
         printf again | dd of=large bs=1 seek=8500000 conv=notrunc status=none",
        root.display()
    ))
    .unwrap();
    let truth = cluster.scratch().join("truth");
    sh(&format!("cp -a '{}' '{}'", root.display(), truth.display())).unwrap();
    drop(mount);
    cluster.wait_health("HEALTHY", 60 * SECOND).unwrap();

    let dirs: Vec<PathBuf> = cluster
        .nodes()
        .unwrap()
        .into_iter()
        .map(|n| n.data_dir)
        .collect();
    let running = cluster
        .command("dfs-tools")
        .args(["rescue", "--out"])
        .arg(cluster.scratch().join("none"))
        .args(&dirs)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&running.stderr).into_owned();
    assert!(
        !running.status.success() && said.contains("stop the daemon first"),
        "{said}"
    );

    cluster.kill_all().unwrap();
    for dir in &dirs {
        let _ = std::fs::remove_file(dir.join("master.redb"));
        let _ = std::fs::remove_file(dir.join("raft.member"));
        let _ = std::fs::remove_dir_all(dir.join("raft"));
    }
    let before = state_of(&dirs);
    let (want, want_sums) = (listing(&truth), sums(&truth));
    assert!(want_sums.len() > 200, "{}", want_sums.len());

    // From all of them, and from any three: two lost machines cost nothing.
    let mut took = Duration::ZERO;
    let fewer: [&[PathBuf]; 3] = [&dirs, &dirs[..3], &dirs[2..]];
    for (n, some) in fewer.into_iter().enumerate() {
        let out = cluster.scratch().join(format!("out{n}"));
        let begun = Instant::now();
        let (code, report) = rescue(&cluster, &out, some, &[]);
        took = took.max(begun.elapsed());
        assert_eq!(code, 0, "{report:#}");
        assert_eq!(report["snapshot"]["index"], stored[0]["index"]);
        assert!(out.join("RESCUE-REPORT").is_file());
        assert!(
            sums(&out)
                .iter()
                .filter(|(path, _)| *path != "./RESCUE-REPORT")
                .eq(&want_sums),
            "{report:#}"
        );
        let is = listing(&out);
        let differ = want.lines().zip(is.lines()).find(|(a, b)| a != b);
        assert!(is == want, "{differ:?} {report:#}");
    }

    // From one machine of five: what is not there is named, and what is not named is right.
    let out = cluster.scratch().join("one");
    let (code, report) = rescue(&cluster, &out, &dirs[..1], &[]);
    assert_eq!(code, 6, "{report:#}");
    let incomplete: Vec<&str> = report["incomplete"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    assert!(incomplete.len() > 20, "{report:#}");
    // A file that is newer than the snapshot and has no copy there is not known there.
    let is_new = |path: &str| path.starts_with("./new-");
    let is_named = |path: &str| {
        // As the report spells the byte that is not UTF-8.
        let path = path.replace('\u{fffd}', "\\xff");
        let named = |list: &str| {
            report[list]
                .as_array()
                .unwrap()
                .iter()
                .any(|f| f["path"] == path[1..])
        };
        named("incomplete") || named("doubtful")
    };
    let got = sums(&out);
    let silent: Vec<_> = want_sums
        .iter()
        .filter(|(path, sum)| got.get(*path) != Some(*sum))
        .filter(|(path, _)| !is_new(path) && !is_named(path))
        .collect();
    // Overwritten (`other-name` is a link to `large`) after the snapshot in an object that is not there: only a stamp could tell.
    let late = ["./d10/f10", "./d10/f22", "./sparse", "./large"];
    let silent: Vec<_> = silent
        .iter()
        .filter(|(path, _)| !late.contains(&path.as_str()) && !path.ends_with("other-name"))
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
    assert!(
        incomplete
            .iter()
            .filter(|path| !path.contains('\\'))
            .all(|path| out.join(format!("{}.incomplete", &path[1..])).is_file())
    );

    // Without a snapshot: the bytes of every file are there, under the names the objects tell.
    let out = cluster.scratch().join("bare");
    let (code, report) = rescue(&cluster, &out, &dirs, &["--no-snapshot"]);
    assert!(code == 0 && report["snapshot"].is_null(), "{report:#}");
    let bare: std::collections::BTreeSet<String> = sums(&out).into_values().collect();
    // No object tells of a size beyond the last byte, nor for certain that a file was cut before
    // it was written again.
    let sizes = ["./sparse", "./d10/f22"];
    let mut lost = want_sums.iter().filter(|(_, sum)| !bare.contains(*sum));
    let other = lost.find(|(path, _)| !sizes.contains(&path.as_str()));
    assert!(other.is_none(), "{other:?}");
    assert!(sums(&out).get("./new-9") == want_sums.get("./new-9"));

    assert!(state_of(&dirs) == before, "a data directory was changed");
    println!(
        "figures: {renames} renames, {} files back from 5 and from 3 of 5 data directories in {} ms at most",
        want_sums.len(),
        took.as_millis()
    );
}
