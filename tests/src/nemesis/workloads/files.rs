//! Bytes that tell what they are, and system calls on them.
use crate::proc::load::bytes;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, read};
use std::os::fd::{AsFd, OwnedFd};

/// The error says what was there, so that nothing was changed. Every other error of a change leaves it
/// unknown.
#[must_use]
pub fn is_certain(error: Errno) -> bool {
    let certain = [
        Errno::EXIST,
        Errno::NOENT,
        Errno::NOTEMPTY,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::INVAL,
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::ROFS,
        Errno::ACCESS,
        Errno::PERM,
        Errno::MLINK,
        Errno::NAMETOOLONG,
        Errno::XDEV,
    ];
    certain.contains(&error)
}

/// Opens below a root.
///
/// # Errors
/// As `openat`.
pub fn open_at(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(
        root,
        path,
        flags | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o644),
    )
}

/// All bytes of a file, which is opened anew.
///
/// # Errors
/// As `openat` and `read`.
pub fn read_all(root: impl AsFd, path: &str) -> Result<Vec<u8>, Errno> {
    let file = open_at(root, path, OFlags::RDONLY)?;
    let (mut all, mut piece) = (Vec::new(), vec![0; 128 * 1024]);
    loop {
        match read(&file, &mut piece)? {
            0 => return Ok(all),
            n => all.extend_from_slice(&piece[..n]),
        }
    }
}

/// Bytes of a value: it, then what nobody has to remember.
///
/// # Panics
/// `len` is less than 8.
#[must_use]
pub fn encode(value: u64, len: usize) -> Vec<u8> {
    let mut all = value.to_le_bytes().to_vec();
    all.extend(bytes(value, len - 8));
    all
}

/// The value at the start of `all`, if its `len_of` bytes are there and are its own.
///
/// # Errors
/// `None`: the end is missing. Else what is wrong.
pub fn decode(all: &[u8], len_of: impl Fn(u64) -> usize) -> Result<(u64, usize), Option<String>> {
    let Some((head, _)) = all.split_first_chunk::<8>() else {
        return Err(None);
    };
    let value = u64::from_le_bytes(*head);
    let len = len_of(value);
    let (have, want) = (&all[..len.min(all.len())], encode(value, len));
    let same = have.iter().zip(&want).take_while(|(a, b)| a == b).count();
    match (same == have.len(), have.len() == len) {
        (true, true) => Ok((value, len)),
        (true, false) => Err(None),
        (false, _) => Err(Some(format!(
            "{} bytes begin as value {value:#x}, which has {len}, and differ at {same}",
            all.len()
        ))),
    }
}

/// All values of a file that is made of nothing else, and whether the last one is cut.
///
/// # Errors
/// What is wrong with one.
pub fn decode_all(
    mut all: &[u8],
    len_of: impl Fn(u64) -> usize,
) -> Result<(Vec<u64>, bool), String> {
    let mut values = Vec::new();
    while !all.is_empty() {
        match decode(all, &len_of) {
            Ok((value, len)) => {
                values.push(value);
                all = &all[len..];
            }
            Err(None) => return Ok((values, true)),
            Err(Some(what)) => return Err(format!("record {}: {what}", values.len())),
        }
    }
    Ok((values, false))
}
