//! The operations of the namespace model as system calls.
//!
//! A mark is stored in the permission bits, which are given with the creation itself, so that no moment
//! exists in which an object is there without its mark. Bits that an umask of 022 takes away are not used.
use crate::history::namespace::{Mark, RenameMode, TreeAnswer, TreeOp};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, linkat, mkdirat, openat, renameat_with,
    statat, unlinkat,
};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// Marks are below this.
pub const MARKS: Mark = 1 << BITS.len();
const BITS: [u32; 7] = [0o001, 0o004, 0o010, 0o040, 0o100, 0o200, 0o400];

fn mode_of(mark: Mark) -> Mode {
    let bits = BITS.iter().enumerate().filter(|(i, _)| mark >> i & 1 == 1);
    Mode::from_raw_mode(bits.map(|(_, bit)| bit).sum())
}

fn mark_of(mode: u32) -> Mark {
    let bits = BITS.iter().enumerate().filter(|(_, bit)| mode & **bit != 0);
    bits.map(|(i, _)| 1 << i).sum()
}

/// Where a path of the model lies below `base`.
fn place(base: &str, path: &[u8]) -> String {
    path.iter()
        .fold(base.to_owned(), |p, n| format!("{p}/n{n}"))
}

/// Does `op` below `base`, itself below `root`. An error may be an answer, see [`answer`].
///
/// # Errors
/// As the system call.
pub fn perform(root: impl AsFd, base: &str, op: &TreeOp) -> Result<TreeAnswer, Errno> {
    let at = |path: &[u8]| place(base, path);
    let done = |()| TreeAnswer::Done;
    match op {
        TreeOp::Create(path, mark) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            openat(root, at(path), flags, mode_of(*mark)).map(|_| TreeAnswer::Done)
        }
        TreeOp::Mkdir(path, mark) => mkdirat(root, at(path), mode_of(*mark)).map(done),
        TreeOp::Unlink(path) => unlinkat(root, at(path), AtFlags::empty()).map(done),
        TreeOp::Rmdir(path) => unlinkat(root, at(path), AtFlags::REMOVEDIR).map(done),
        TreeOp::Rename(from, to, mode) => {
            let flags = match mode {
                RenameMode::Replace => RenameFlags::empty(),
                RenameMode::NoReplace => RenameFlags::NOREPLACE,
                RenameMode::Exchange => RenameFlags::EXCHANGE,
            };
            renameat_with(&root, at(from), &root, at(to), flags).map(done)
        }
        TreeOp::Link(from, to) => {
            linkat(&root, at(from), &root, at(to), AtFlags::empty()).map(done)
        }
        TreeOp::Look(path) => {
            let stat = statat(root, at(path), AtFlags::SYMLINK_NOFOLLOW)?;
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let mark = mark_of(stat.st_mode);
            Ok(TreeAnswer::Found { mark, is_dir })
        }
        TreeOp::List(path) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = openat(root, at(path), flags, Mode::empty())?;
            let mut names = Vec::new();
            for entry in Dir::read_from(&dir)? {
                let entry = entry?;
                let name = entry.file_name().to_str().map_err(|_| Errno::ILSEQ)?;
                if let Some(number) = name.strip_prefix('n') {
                    names.push(number.parse().map_err(|_| Errno::ILSEQ)?);
                }
            }
            names.sort_unstable();
            Ok(TreeAnswer::Names(names))
        }
    }
}

/// An error that says what was there is an answer.
#[must_use]
pub fn answer(error: Errno) -> Option<TreeAnswer> {
    let answers = [
        Errno::EXIST,
        Errno::NOENT,
        Errno::NOTEMPTY,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::INVAL,
        Errno::PERM,
    ];
    answers
        .contains(&error)
        .then(|| TreeAnswer::Refused(error.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::namespace::{Node, Tree};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeMap;

    fn random_op(rng: &mut ChaCha8Rng) -> TreeOp {
        let mut path = || -> Vec<u8> {
            let depth = rng.random_range(1..=3);
            (0..depth).map(|_| rng.random_range(0..3)).collect()
        };
        let (a, b) = (path(), path());
        let mark = rng.random_range(1..MARKS);
        match rng.random_range(0..12) {
            0 | 1 => TreeOp::Create(a, mark),
            2 | 3 => TreeOp::Mkdir(a, mark),
            4 => TreeOp::Unlink(a),
            5 => TreeOp::Rmdir(a),
            6 => TreeOp::Link(a, b),
            7 => TreeOp::Look(a),
            8 => TreeOp::List(a[1..].to_vec()),
            9 => TreeOp::Rename(a, b, RenameMode::Replace),
            10 => TreeOp::Rename(a, b, RenameMode::NoReplace),
            _ => TreeOp::Rename(a, b, RenameMode::Exchange),
        }
    }

    #[test]
    fn the_model_answers_what_a_local_filesystem_answers() {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for seed in 0..60 {
            let dir = tempfile::tempdir().unwrap();
            let root = std::fs::File::open(dir.path()).unwrap();
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            let mut tree = Node::empty();
            let mut done = Vec::new();
            for _ in 0..150 {
                let op = random_op(rng);
                let is = perform(&root, ".", &op)
                    .or_else(|e| answer(e).ok_or(e))
                    .unwrap_or_else(|e| panic!("seed {seed}: {op:?}: {e}"));
                let before = tree.clone();
                let says = Tree::perform(&mut tree, &op);
                assert_eq!(is, says, "seed {seed}: {op:?} in {before:?}");
                let kind = match &says {
                    TreeAnswer::Refused(e) => Errno::from_raw_os_error(*e).to_string(),
                    TreeAnswer::Done => "done".to_owned(),
                    _ => "seen".to_owned(),
                };
                *counts.entry(kind).or_default() += 1;
                done.push((op, says));
            }
            // Modes without permissions would keep nobody out but whoever is not root.
            std::fs::remove_dir_all(dir.path()).unwrap();
        }
        println!("{counts:?}");
        assert!(counts.len() >= 9, "{counts:?}");
    }
}
