//! One file of 1 GiB within the memory budget.
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, peak_memory, sh};

const LIMIT: u64 = 512 << 20;

#[test]
fn a_gibibyte_goes_in_and_out_while_every_process_stays_below_512_mib() {
    if !fuse_or_skip("large_file") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::new(&cluster, "mnt").unwrap();
    let file = mount.join("big");
    // Not compressible, not repeating, and made without keeping a copy.
    let make = "openssl enc -aes-128-ctr -nosalt -K 00 -iv 00 </dev/zero 2>/dev/null | head -c 1G";
    let written = sh(&format!(
        "set +o pipefail; {make} | tee '{}' | md5sum",
        file.display()
    ))
    .unwrap();
    sh(&format!("sync '{}'", file.display())).unwrap();
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    let read = sh(&format!("md5sum <'{}'", file.display())).unwrap();
    assert_eq!(written, read);
    let mut pids = vec![("mount".to_owned(), mount.pid())];
    pids.extend(
        cluster
            .nodes()
            .unwrap()
            .iter()
            .map(|n| (format!("node {}", n.node), n.pid.expect("all nodes run"))),
    );
    for (who, pid) in pids {
        let peak = peak_memory(pid).unwrap();
        println!("{who}: peak {} MiB", peak >> 20);
        assert!(peak < LIMIT, "{who} used {} MiB", peak >> 20);
    }
    mount.unmount().unwrap();
}
