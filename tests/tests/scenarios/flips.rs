//! Flipped bits: in transit they are refused with file and hop named, on a disk they show in `where`;
//! no wrong byte is stored or returned.
use bytes::Bytes;
use dfs_core::types::{BlockSums, ChunkNo, ClientId, ObjectId, OpId};
use dfs_core::wire::replica::{CheckState, PrepareObject};
use dfs_core::wire::{ErrorCode, ReplicaRequest, ReplicaResponse};
use dfs_tests::inside::{Fleet, Place, Probe, Way};
use dfs_tests::proc::{Cluster, Mount, cluster::holders, exclusive, fuse_or_skip, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Bytes in which a pattern recurs, so that a proxy finds it in whatever piece it reads.
fn marked(tag: &str, len: usize) -> Vec<u8> {
    let line = format!("<{tag} is what the proxy looks for>");
    line.as_bytes().iter().copied().cycle().take(len).collect()
}

fn pattern(tag: &str) -> Vec<u8> {
    format!("<{tag} is what the proxy looks for>").into_bytes()
}

/// `where`: (address, whether the copy verifies) of each replica of the only chunk.
fn copies(cluster: &Cluster, path: &str) -> Vec<(String, bool)> {
    let view = cluster.json(&["where", path]).unwrap_or_default();
    let replicas = view["chunks"][0]["replicas"].as_array().cloned();
    let one = |r: &Value| {
        let addr = r["addr"].as_str().unwrap_or_default().to_owned();
        (addr, r["verifies"] == true)
    };
    replicas.unwrap_or_default().iter().map(one).collect()
}

fn all_verify(cluster: &Cluster, path: &str) {
    wait_for("three good copies", 30 * SECOND, || {
        let copies = copies(cluster, path);
        copies.len() == 3 && copies.iter().all(|(_, good)| *good)
    })
    .unwrap_or_else(|e| panic!("{path}: {e}: {:?}", copies(cluster, path)));
}

fn said(cluster: &Cluster, name: &str) -> String {
    std::fs::read_to_string(cluster.scratch().join(name)).unwrap_or_default()
}

#[test]
fn a_bit_flipped_in_transit_is_refused_with_file_and_hop_named() {
    if !fuse_or_skip("bits flipped in transit") {
        return;
    }
    let _alone = exclusive();
    let fleet = Fleet::start(5, "").unwrap();
    let cluster = &fleet.cluster;
    let mount = Mount::new(cluster, "mnt").unwrap();

    // Client -> replica: the replica refuses, the client sends again, all copies are good.
    for i in 1..=5 {
        fleet.proxy(i).flip(Way::ToNode, &pattern("put"), 1);
    }
    let want = marked("put", 300_000);
    std::fs::write(mount.join("put"), &want).unwrap();
    let flipped: u32 = (1..=5).map(|i| fleet.proxy(i).flipped()).sum();
    assert!(
        flipped >= 2,
        "{flipped} bits flipped: the replicas of one file"
    );
    all_verify(cluster, "/put");
    let logs: String = (1..=5).map(|i| cluster.log(i).unwrap()).collect();
    let place = Place::of(cluster, "/put").unwrap();
    let refusals = |l: &&str| l.contains("bytes damaged in transit") && l.contains("hop client");
    let refusal = logs.lines().find(refusals).expect("a replica's own words");
    println!("client -> replica: {refusal}");
    assert!(
        refusal.contains(&format!("inode {}", place.ino)),
        "{refusal}"
    );
    assert_eq!(std::fs::read(mount.join("put")).unwrap(), want);

    // Replica -> client, with a cold cache: the reader refuses the bytes and asks another copy.
    let want = marked("get", 300_000);
    std::fs::write(mount.join("get"), &want).unwrap();
    all_verify(cluster, "/get");
    let cold = Mount::new(cluster, "cold").unwrap();
    for i in 1..=5 {
        fleet.proxy(i).flip(Way::FromNode, &pattern("get"), 1);
    }
    let before: u32 = (1..=5).map(|i| fleet.proxy(i).flipped()).sum();
    assert_eq!(std::fs::read(cold.join("get")).unwrap(), want);
    let after: u32 = (1..=5).map(|i| fleet.proxy(i).flipped()).sum();
    assert!(after > before, "the bytes came past no proxy");
    let place = Place::of(cluster, "/get").unwrap();
    let mut line = String::new();
    wait_for("the reader's own words", 5 * SECOND, || {
        let log = said(cluster, "cold.log");
        let found = log.lines().find(|l| l.contains("bytes damaged, not used"));
        line = found.unwrap_or_default().to_owned();
        !line.is_empty()
    })
    .unwrap();
    println!("replica -> client: {line}");
    let named = [
        format!("ino={}", place.ino),
        "-> client".into(),
        "in transit".into(),
    ];
    assert!(named.iter().all(|w| line.contains(w)), "{line}");
    cold.unmount().unwrap();

    // Client -> master: the leader drops the connection, the client asks again on another.
    let leader = fleet.leader().unwrap();
    let name = "a-name-that-the-proxy-damages-on-its-way-to-the-master";
    fleet.proxy(leader).flip(Way::ToNode, name.as_bytes(), 1);
    let before = fleet.proxy(leader).flipped();
    std::fs::create_dir(mount.join(name)).unwrap();
    assert_eq!(fleet.proxy(leader).flipped(), before + 1);
    let names: Vec<_> = std::fs::read_dir(mount.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.iter().filter(|n| n.starts_with("a-name")).count(), 1);
    assert!(names.iter().any(|n| n == name), "{names:?}");
    let log = cluster.log(leader).unwrap();
    let refused = log
        .lines()
        .find(|l| l.contains("frame header fails its checksum"));
    println!(
        "client -> master: {}",
        refused.expect("the leader's own words")
    );

    // Master -> client: likewise.
    let cold = Mount::new(cluster, "cold").unwrap();
    let before = fleet.proxy(leader).flipped();
    fleet.proxy(leader).flip(Way::FromNode, name.as_bytes(), 1);
    let seen = std::fs::read_dir(cold.path()).unwrap();
    let seen: Vec<_> = seen.map(|e| e.unwrap().file_name()).collect();
    assert_eq!(seen.len(), names.len());
    assert!(seen.iter().any(|n| n == name), "{seen:?}");
    assert_eq!(fleet.proxy(leader).flipped(), before + 1);
    let log = said(cluster, "cold.log");
    let refused = log
        .lines()
        .find(|l| l.contains("frame header fails its checksum"));
    println!(
        "master -> client: {}",
        refused.expect("the mount's own words")
    );
    cold.unmount().unwrap();
    mount.unmount().unwrap();
}

#[test]
fn a_prepare_whose_bytes_do_not_fit_their_sums_stores_nothing() {
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let local = cluster.scratch().join("local");
    std::fs::write(&local, vec![7; 100_000]).unwrap();
    cluster
        .tools(&["put", local.to_str().unwrap(), "/f"])
        .unwrap();
    let place = Place::of(&cluster, "/f").unwrap();
    let mut probe = Probe::new(&cluster).unwrap();
    let good: Vec<u8> = marked("direct", 200_000);
    let op = OpId {
        client: ClientId(0xfeed),
        seq: 1,
    };
    let id = ObjectId { op, index: 0 };
    let request = || ReplicaRequest::Prepare {
        op,
        ino: place.ino,
        mark: None,
        objects: vec![PrepareObject {
            id,
            chunk: ChunkNo::HOME,
            pg: place.pg,
            epoch: place.epoch,
            len: 200_000,
            sums: BlockSums::of(&good),
            has_bytes: true,
        }],
        about: None,
    };
    let held = |probe: &mut Probe| probe.usage(1).unwrap().objects;
    let before = held(&mut probe);
    for bit in [0, 65_536 * 8 + 3, 199_999 * 8 + 7] {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let refused = probe.ask(1, request(), vec![Bytes::from(bad)]).unwrap_err();
        assert_eq!(refused.code, ErrorCode::DamagedInTransit, "{refused}");
        let words = refused.to_string();
        for part in [
            format!("inode {}", place.ino),
            id.to_string(),
            "hop client -> ".into(),
        ] {
            assert!(words.contains(&part), "{part:?} is not in: {words}");
        }
    }
    for bytes in [vec![], good[..199_999].to_vec(), [&good[..], b"x"].concat()] {
        let refused = probe
            .ask(1, request(), vec![Bytes::from(bytes)])
            .unwrap_err();
        assert_eq!(refused.code, ErrorCode::BadRequest, "{refused}");
    }
    let check = |probe: &mut Probe| {
        let request = ReplicaRequest::Check { objects: vec![id] };
        match probe.ask(1, request, Vec::new()).unwrap() {
            ReplicaResponse::Checked(found) => found[0],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (check(&mut probe), held(&mut probe)),
        (CheckState::Missing, before)
    );
    // The same request with the right bytes is taken: what was refused is the damage.
    let taken = probe.ask(1, request(), vec![Bytes::from(good)]).unwrap();
    assert!(
        matches!(taken, ReplicaResponse::Prepared { .. }),
        "{taken:?}"
    );
    assert!(matches!(check(&mut probe), CheckState::Good(_)));
}

/// Object files below a data directory that contain `pattern`.
fn object_files(dir: &Path, pattern: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.join("store/objects")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap_or_default();
                if bytes.windows(pattern.len()).any(|w| w == pattern) {
                    found.push(path);
                }
            }
        }
    }
    found
}

/// Flips one bit of the object's bytes on the disk of node `i`.
fn rot(cluster: &Cluster, i: u8, tag: &str) {
    use std::os::unix::fs::FileExt;
    let node = cluster.nodes().unwrap().into_iter().find(|n| n.node == i);
    let files = object_files(&node.unwrap().data_dir, &pattern(tag));
    assert_eq!(files.len(), 1, "one object file on node {i}: {files:?}");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&files[0])
        .unwrap();
    let mut byte = [0];
    let at = 4096 + 150_000;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_byte_flipped_on_a_disk_shows_in_the_next_where_and_is_never_returned() {
    if !fuse_or_skip("a byte flipped on a disk") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let want = marked("disk", 1_000_000);
    std::fs::write(mount.join("disk"), &want).unwrap();
    mount.unmount().unwrap();
    all_verify(&cluster, "/disk");
    let held = holders(&cluster, "/disk").unwrap();
    let nodes = cluster.nodes().unwrap();
    let bad = || {
        let addrs = copies(&cluster, "/disk")
            .into_iter()
            .filter(|(_, good)| !good);
        let node = |addr: String| {
            nodes
                .iter()
                .find(|n| n.addr.to_string() == addr)
                .unwrap()
                .node
        };
        addrs.map(|(addr, _)| node(addr)).collect::<Vec<u8>>()
    };
    let read = |name: &str| {
        let mount = Mount::new(&cluster, name).unwrap();
        let got = std::fs::read(mount.join("disk"));
        mount.unmount().unwrap();
        got
    };
    // One copy: named by the next `where`, healed from the others.
    rot(&cluster, held[0], "disk");
    assert_eq!(bad(), [held[0]]);
    assert_eq!(read("one").unwrap(), want);
    all_verify(&cluster, "/disk");
    // Two copies, and no repair: read from the third.
    cluster.tools(&["repair", "pause"]).unwrap();
    // Stores hear of the pause with their next heartbeat; until then they heal what is found.
    wait_for("damage that stays", 20 * SECOND, || {
        for node in &held[..2] {
            if !bad().contains(node) {
                rot(&cluster, *node, "disk");
            }
        }
        let found = bad();
        held[..2].iter().all(|n| found.contains(n)) && bad().len() == 2
    })
    .unwrap();
    assert_eq!(read("two").unwrap(), want);
    let shown = cluster.tools(&["where", "/disk"]).unwrap();
    println!("{shown}");
    assert_eq!(shown.matches("damaged").count(), 2, "{shown}");
    // All three: an error, and not one wrong byte.
    rot(&cluster, held[2], "disk");
    let error = read("three").unwrap_err();
    println!("all copies damaged: {error}");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let out = cluster.scratch().join("out");
    let got = cluster
        .tools_output(&["get", "/disk", out.to_str().unwrap()])
        .unwrap();
    let words = String::from_utf8_lossy(&got.stderr).into_owned();
    println!("{words}");
    assert_eq!(got.status.code(), Some(6), "{words}");
    assert!(!out.exists(), "a damaged file appeared");
    assert!(words.contains("no valid copy, 3 damaged"), "{words}");
    cluster.tools(&["repair", "resume"]).unwrap();
}
