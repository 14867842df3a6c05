//! Bad input: a clear error with the right exit code, nothing lost, nothing crashed.
use dfs_core::net::handshake::{Purpose, connect};
use dfs_core::net::{ClusterKey, Credentials};
use dfs_tests::proc::load::bytes;
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, program, wait_for};
use rand::{RngCore, SeedableRng};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Output};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends bytes to a TCP port and reads what comes, for a moment.
fn throw(addr: SocketAddr, bytes: &[u8]) {
    let Ok(mut stream) = TcpStream::connect(addr) else {
        panic!("{addr} takes no connections any more");
    };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(30)));
    // It may close on the first wrong byte.
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 64]);
}

#[test]
fn garbage_and_half_frames_on_every_port_harm_nothing() {
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let local = cluster.scratch().join("local");
    std::fs::write(&local, bytes(1, 300_000)).unwrap();
    cluster
        .tools(&["put", local.to_str().unwrap(), "/before"])
        .unwrap();
    let pids = cluster.pids().unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    let mut random = |len: usize| {
        let mut bytes = vec![0; len];
        rng.fill_bytes(&mut bytes);
        bytes
    };
    let key = ClusterKey::load(&cluster.dev_dir().join("cluster.key")).unwrap();
    let credentials = Credentials::new(key);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for node in cluster.nodes().unwrap() {
        let addr = node.addr;
        for len in [0, 1, 3, 4, 38, 39, 71, 5000, 200_000] {
            throw(addr, &random(len));
            let mut hello = b"DFS\x01".to_vec();
            hello.extend(random(len));
            throw(addr, &hello);
        }
        throw(addr, b"GET / HTTP/1.1\r\nHost: dfs\r\n\r\n");
        // Members of the cluster that go mad: authentic, and then garbage.
        let mad: Vec<Vec<u8>> = vec![
            vec![0xff; 64],
            vec![0; 64],
            [&100u32.to_le_bytes()[..], &[0; 4], &50u32.to_le_bytes()].concat(),
            [&u32::MAX.to_le_bytes()[..], &[7; 40]].concat(),
            [
                &(19u32 << 20).to_le_bytes()[..],
                &[0; 4],
                &8u32.to_le_bytes(),
                &[1; 5000],
            ]
            .concat(),
            random(100_000),
        ];
        for bytes in mad {
            runtime.block_on(async {
                use tokio::io::AsyncWriteExt;
                let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
                connect(&mut stream, &credentials, Purpose::General)
                    .await
                    .unwrap();
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
            });
        }
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        for len in [0, 1, 16, 64, 100, 1200, 1400, 9000, 60_000] {
            for _ in 0..20 {
                udp.send_to(&random(len), addr).unwrap();
            }
        }
    }
    // Connections that never say anything hold nobody up either.
    let silent: Vec<_> = cluster
        .nodes()
        .unwrap()
        .iter()
        .flat_map(|n| (0..20).map(|_| TcpStream::connect(n.addr).unwrap()))
        .collect();
    assert_eq!(cluster.pids().unwrap(), pids, "every daemon still runs");
    cluster.wait_health("HEALTHY", 20 * SECOND).unwrap();
    cluster
        .tools(&["put", local.to_str().unwrap(), "/after"])
        .unwrap();
    for name in ["/before", "/after"] {
        let got = run_bytes(&cluster, &["get", name, "-"]);
        assert_eq!(got, bytes(1, 300_000), "{name}");
    }
    for node in 1..=3 {
        let log = cluster.log(node).unwrap();
        assert!(!log.contains("panicked"), "node {node}:\n{log}");
        let rows = cluster.json(&["members", &node.to_string()]).unwrap();
        let rows = rows.as_array().unwrap();
        assert!(
            rows.len() == 3 && rows.iter().all(|m| m["state"] == "alive"),
            "{rows:?}"
        );
    }
    drop(silent);
}

fn run_bytes(cluster: &Cluster, args: &[&str]) -> Vec<u8> {
    let output = cluster.tools_output(args).unwrap();
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    output.stdout
}

#[test]
fn a_configuration_that_cannot_work_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = |text: &str, wanted: &[&str]| {
        let file = dir.path().join("dfs.toml");
        std::fs::write(&file, text).unwrap();
        let data = dir.path().join("data");
        let output = Command::new(program("dfs-daemon"))
            .args(["--listen", "127.0.0.1:1", "--bootstrap", "--data"])
            .arg(&data)
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        let words = said(&output);
        println!("{}: {words}", text.replace('\n', "; "));
        assert_eq!(output.status.code(), Some(1), "{words}");
        for word in wanted {
            assert!(words.contains(word), "{word:?} is not in: {words}");
        }
        assert!(!data.exists(), "refused, but began: {words}");
    };
    refuse(
        "listne = \"127.0.0.1:1\"",
        &["dfs.toml", "listne", "expected one of", "line 1"],
    );
    refuse("[repair]\ngrace = 3", &["grace", "grace_ms"]);
    let sizes = [
        "cluster.copies",
        "write_quorum",
        "read_quorum",
        "raise the quorum",
    ];
    let with = |more: &[&'static str]| [&sizes[..], more].concat();
    refuse(
        "[cluster]\nread_quorum = 1",
        &with(&["W=2 + R=1 must exceed N=3"]),
    );
    refuse(
        "[cluster]\nwrite_quorum = 1\nread_quorum = 3",
        &with(&["2 x W=1 must exceed N=3"]),
    );
    refuse(
        "[cluster]\ncopies = 4\nread_quorum = 3",
        &with(&["2 x W=2 must exceed N=4"]),
    );
    refuse(
        "[cluster]\nmasters = 2",
        &["cluster.masters = 2", "1, 3 or 5"],
    );
    refuse(
        "[store]\nreserve_percent = 80",
        &["store.reserve_percent = 80", "0 to 50"],
    );
    refuse("[cluster", &["dfs.toml", "line 1"]);
}

#[test]
fn a_mountpoint_that_does_not_exist_is_an_error_that_says_what_to_do() {
    if !fuse_or_skip("a missing mountpoint") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let missing = cluster.scratch().join("not/there");
    for foreground in [true, false] {
        let mut command = cluster.command("dfs-mount");
        if foreground {
            command.arg("-f");
        }
        let output = command.arg(&missing).output().unwrap();
        let words = said(&output);
        println!("{words}");
        assert_eq!(output.status.code(), Some(1), "{words}");
        let shown = missing.display().to_string();
        assert!(
            words.contains(&shown) && words.contains("does not exist"),
            "{words}"
        );
        assert!(words.contains("mkdir"), "{words}");
    }
    let file = cluster.scratch().join("file");
    std::fs::write(&file, "x").unwrap();
    let output = cluster
        .command("dfs-mount")
        .arg("-f")
        .arg(&file)
        .output()
        .unwrap();
    println!("{}", said(&output));
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains(&file.display().to_string()));
    let output = cluster
        .command("dfs-mount")
        .args(["-o", "tiemout=3"])
        .arg("/mnt")
        .output()
        .unwrap();
    assert!(
        !output.status.success() && said(&output).contains("tiemout"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_version_that_does_not_exist_is_an_error_that_names_those_that_do() {
    if !fuse_or_skip("a missing version") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    for i in 1..=3 {
        std::fs::write(mount.join("f"), format!("content {i}")).unwrap();
    }
    let fails = |args: &[&str], exit: i32, wanted: &[&str]| {
        let output = cluster.tools_output(args).unwrap();
        let words = said(&output);
        println!("{args:?}: exit {:?}: {words}", output.status.code());
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {words}");
        for word in wanted {
            assert!(
                words.contains(word),
                "{args:?}: {word:?} is not in: {words}"
            );
        }
    };
    fails(
        &["restore", "/f", "99"],
        3,
        &["/f has no version 99", "kept are: 3, 2, 1"],
    );
    fails(&["restore", "/f", "0"], 3, &["no version 0"]);
    fails(&["restore", "/f", "newest"], 2, &["newest"]);
    fails(&["restore", "/nothing", "1"], 3, &["/nothing"]);
    fails(&["versions", "/f", "6"], 2, &["6 versions are not kept"]);
    fails(&["versions", "/f", "0"], 2, &["at least 1"]);
    fails(
        &["versions", "/nothing"],
        3,
        &["/nothing: no such file, live or removed"],
    );
    fails(&["undelete", "/nothing"], 3, &["/nothing"]);
    fails(&["get", "/nothing", "-"], 3, &["/nothing"]);
    fails(&["where", "/nothing"], 3, &["/nothing"]);
    fails(&["members", "9"], 3, &["1 to 3"]);
    fails(&["store", "zz"], 3, &["zz"]);
    let errno = |path: &str| std::fs::read(mount.join(path)).unwrap_err().raw_os_error();
    for path in [
        ".versions/f/99",
        ".versions/f/0",
        ".versions/f/x",
        ".versions/nothing/1",
    ] {
        assert_eq!(errno(path), Some(libc::ENOENT), "{path}");
    }
    let error = std::fs::write(mount.join(".versions/f/99"), "x").unwrap_err();
    let errno = error.raw_os_error();
    assert!(
        errno == Some(libc::EROFS) || errno == Some(libc::ENOENT),
        "{error}"
    );
    assert_eq!(
        std::fs::read_to_string(mount.join("f")).unwrap(),
        "content 3"
    );
    mount.unmount().unwrap();
}

#[test]
fn a_full_disk_is_an_error_before_the_ack_and_deletes_still_work() {
    if !fuse_or_skip("a full disk") {
        return;
    }
    let _alone = exclusive();
    const FILE: usize = 1 << 20;
    let config = "[store]\ncapacity_bytes = 100000000\n[repair]\ndelete_grace_ms = 500\n";
    let cluster = Cluster::start_with(3, config).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let write = |i: u64| -> std::io::Result<()> {
        let mut file = std::fs::File::create(mount.join(format!("f{i}")))?;
        file.write_all(&bytes(i, FILE))?;
        file.sync_all()
    };
    let mut acked = Vec::new();
    let mut errors = Vec::new();
    for i in 0..400 {
        match write(i) {
            Ok(()) => acked.push(i),
            Err(e) => errors.push(e),
        }
        if errors.len() >= 4 {
            break;
        }
    }
    println!(
        "{} files of 1 MiB acknowledged, then {:?}",
        acked.len(),
        errors.first()
    );
    assert!(
        errors.len() == 4 && acked.len() > 20,
        "{} acknowledged",
        acked.len()
    );
    for e in &errors {
        assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{e}");
    }
    let local = cluster.scratch().join("local");
    std::fs::write(&local, bytes(999, 4 * FILE)).unwrap();
    let output = cluster
        .tools_output(&["put", local.to_str().unwrap(), "/put"])
        .unwrap();
    let words = said(&output);
    println!("{words}");
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("no space"), "{words}");
    // Reads and names still work, and nothing acknowledged is missing.
    let verify = |acked: &[u64], name: &str| {
        let again = Mount::new(&cluster, name).unwrap();
        for i in acked {
            let got = std::fs::read(again.join(format!("f{i}"))).unwrap();
            assert!(got == bytes(*i, FILE), "f{i}: {} bytes", got.len());
        }
        again.unmount().unwrap();
    };
    verify(&acked, "full");
    std::fs::create_dir(mount.join("dir")).unwrap();
    std::fs::rename(mount.join("f0"), mount.join("dir/f0")).unwrap();
    std::fs::rename(mount.join("dir/f0"), mount.join("f0")).unwrap();
    // Deletes, and then there is room again.
    let (gone, kept) = acked.split_at(acked.len() / 2);
    for i in gone {
        std::fs::remove_file(mount.join(format!("f{i}"))).unwrap();
    }
    cluster.tools(&["purge", "--all", "--yes"]).unwrap();
    wait_for("room after deletes", 60 * SECOND, || write(5000).is_ok()).unwrap();
    verify(&[kept, &[5000]].concat(), "after");
    mount.unmount().unwrap();
    cluster.kill_all().unwrap();
    cluster.start_all().unwrap();
    verify(&[kept, &[5000]].concat(), "restarted");
}
