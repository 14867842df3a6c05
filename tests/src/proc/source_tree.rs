//! A source tree with everything a copy can get wrong.
use super::sh;
use std::path::Path;

/// Makes a tree of at least 3,000 files and 50 MB below `dir`: real files of this machine, plus
/// symlinks, hard links, empty files, files around 64 KiB and 4 MiB, nanosecond times, odd modes and
/// a name that is not UTF-8.
///
/// # Errors
/// The machine has too few files, or the disk is full.
pub fn make(dir: &Path) -> anyhow::Result<()> {
    let d = dir.display();
    sh(&format!(
        r#"
mkdir -p '{d}/real' '{d}/odd'
cd /
find usr/include usr/share/doc usr/lib/python3 usr/share/perl usr/lib/gcc usr/share/zoneinfo \
    -xdev -type f -size -2048k -size +0 2>/dev/null | LC_ALL=C sort >'{d}/.list'
awk 'NR <= 3300' '{d}/.list' | tar cf - -T - | tar xf - -C '{d}/real'
rm '{d}/.list'
cd '{d}/odd'
for n in 65535 65536 65537 4194303 4194304 4194305; do head -c $n /dev/urandom >size$n; done
head -c 25000000 /dev/urandom >big
: >empty
ln -s size65536 link; ln -s /nowhere/at/all dangling; ln -s . self
ln size65537 hard1; ln size65537 hard2
mkdir -m 0700 private; mkdir -m 1777 sticky; mkdir -m 2755 group
echo x >private/secret; chmod 0000 private/secret
echo y >suid; chmod 4711 suid
echo z >"$(printf 'caf\351 latin1')"; echo w >'two  spaces and a "quote"'
truncate -s 10M sparse; printf tail >>sparse
chown 1234:5678 empty
touch -d '2001-02-03 04:05:06.123456789' empty private
touch -h -d '2011-12-13 14:15:16.987654321' link
touch -d '1969-12-31 23:59:58' suid
"#
    ))?;
    let files: u64 = sh(&format!("find '{d}' -type f | wc -l"))?.trim().parse()?;
    let bytes: u64 = sh(&format!("du -sb '{d}' | cut -f1"))?.trim().parse()?;
    anyhow::ensure!(
        files >= 3000,
        "only {files} files on this machine: install libc6-dev, perl"
    );
    anyhow::ensure!(bytes >= 50_000_000, "only {bytes} bytes");
    Ok(())
}
