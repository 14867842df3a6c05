//! The one table from our error codes to errno values.
//!
//! Exhaustive on purpose: a new [`ErrorCode`] does not compile until it has an errno here. ENOSYS is
//! never used (the kernel would stop asking for good), and an unknown outcome is EIO: neither done
//! nor failed can be claimed.
use dfs_core::wire::ErrorCode;

/// The errno that a program sees for `code`.
#[must_use]
pub fn errno(code: ErrorCode) -> i32 {
    use ErrorCode as C;
    match code {
        C::NotFound => libc::ENOENT,
        C::Exists => libc::EEXIST,
        C::NotDir => libc::ENOTDIR,
        C::IsDir => libc::EISDIR,
        C::NotEmpty => libc::ENOTEMPTY,
        C::Invalid => libc::EINVAL,
        C::NameTooLong => libc::ENAMETOOLONG,
        C::NoSpace | C::Freeing => libc::ENOSPC,
        C::TooManyLinks => libc::EMLINK,
        C::CrossDevice => libc::EXDEV,
        C::NoData => libc::ENODATA,
        C::TooBig => libc::E2BIG,
        C::NotPermitted => libc::EPERM,
        C::ReadOnly => libc::EROFS,
        C::Busy => libc::EBUSY,
        C::Stale => libc::ESTALE,
        C::FileTooBig => libc::EFBIG,
        C::NotSupported => libc::EOPNOTSUPP,
        C::Conflict => libc::EAGAIN,
        C::Locked => libc::EAGAIN,
        C::NoLocks => libc::ENOLCK,
        C::NotLeader
        | C::WrongEpoch
        | C::NoServingLease
        | C::StaleLease
        | C::SessionExpired
        | C::OpAborted
        | C::OpTooOld
        | C::Unavailable
        | C::UnknownOutcome
        | C::Corrupt
        | C::DamagedInTransit
        | C::BadRequest
        | C::Unauthorized
        | C::WrongCluster
        | C::NotReady
        | C::StoreFailed
        | C::TimedOut
        | C::Internal => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_is_an_error_and_enosys_is_never_used() {
        assert_eq!(errno(ErrorCode::UnknownOutcome), libc::EIO);
        for code in [
            ErrorCode::NotSupported,
            ErrorCode::Invalid,
            ErrorCode::Internal,
        ] {
            assert_ne!(errno(code), libc::ENOSYS);
        }
    }

    #[test]
    fn what_programs_test_for_has_its_own_errno() {
        let table = [
            (ErrorCode::NotFound, libc::ENOENT),
            (ErrorCode::Exists, libc::EEXIST),
            (ErrorCode::NotEmpty, libc::ENOTEMPTY),
            (ErrorCode::NoSpace, libc::ENOSPC),
            (ErrorCode::ReadOnly, libc::EROFS),
            (ErrorCode::NoData, libc::ENODATA),
            (ErrorCode::Stale, libc::ESTALE),
            (ErrorCode::NameTooLong, libc::ENAMETOOLONG),
            (ErrorCode::Corrupt, libc::EIO),
        ];
        for (code, want) in table {
            assert_eq!(errno(code), want, "{code:?}");
        }
    }
}
