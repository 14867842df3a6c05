//! Tells flock(2) from fcntl(2), which fuser's `setlk` does not.
//!
//! The kernel says which in `lk_flags`, the last field but one of `fuse_lk_in`; fuser drops it. Its
//! `Request`, however, is the header of the message, in place in the buffer that the message was read
//! into: the body follows 40 bytes on. So it is read from there. The version of fuser is pinned, and
//! two checks guard against another one: [`is_readable`] finds the kernel's version number behind the
//! header of INIT before any lock is allowed to come, and every lock request says by its opcode and
//! length that its body is the expected one.
use fuser::Request;

/// `sizeof(struct fuse_in_header)`.
const HEADER_LEN: usize = 40;
/// `sizeof(struct fuse_lk_in)`: handle, owner, start, end, type, pid, flags, padding.
const BODY_LEN: usize = 48;
/// Of `lk_flags` in the body.
const FLAGS_AT: usize = 40;
/// `FUSE_LK_FLOCK`.
const FLOCK: u32 = 1;

const GETLK: u32 = 31;
const SETLK: u32 = 32;
const SETLKW: u32 = 33;
const INIT: u32 = 26;
/// Of the protocol since its beginning.
const MAJOR: u32 = 7;
/// An INIT is at least this long: header, major and minor number.
const INIT_LEN_MIN: usize = HEADER_LEN + 8;

/// The two kinds of locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// fcntl(2): a range.
    Range,
    /// flock(2): the file.
    WholeFile,
}

/// Of a lock request; `None` if this is no such request as was expected.
#[must_use]
pub fn kind_of_lock(req: &Request) -> Option<Kind> {
    let [len, opcode] = header(req)?;
    let is_lock = matches!(opcode, GETLK | SETLK | SETLKW);
    if !is_lock || len as usize != HEADER_LEN + BODY_LEN {
        return None;
    }
    match word(req, HEADER_LEN + FLAGS_AT) & FLOCK {
        0 => Some(Kind::Range),
        _ => Some(Kind::WholeFile),
    }
}

/// Behind the header of this INIT lies its body: so it is with all requests.
#[must_use]
pub fn is_readable(init: &Request) -> bool {
    let Some([len, opcode]) = header(init) else {
        return false;
    };
    opcode == INIT && len as usize >= INIT_LEN_MIN && word(init, HEADER_LEN) == MAJOR
}

/// Length and opcode, if a request is a header at all.
fn header(req: &Request) -> Option<[u32; 2]> {
    let is_header = size_of::<Request>() == HEADER_LEN && align_of::<Request>() >= 4;
    is_header.then(|| [word(req, 0), word(req, 4)])
}

/// The word at `at` bytes from the beginning of the message. The callers have seen that the message
/// is that long.
#[allow(unsafe_code)]
fn word(req: &Request, at: usize) -> u32 {
    let start: *const u8 = std::ptr::from_ref(req).cast();
    // SAFETY: fuser makes a `Request` of the first bytes of a buffer of 16 MiB that is alive, and not
    // written to, while the handler runs; `at` is a multiple of 4 within the message, whose length
    // the callers have checked (or within the header), and the header is aligned. That the body lies
    // beyond the reference's own bytes is what this module is for.
    unsafe { start.add(at).cast::<u32>().read() }
}
