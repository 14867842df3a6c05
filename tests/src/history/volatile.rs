//! What a mount may show of its own writes before they are acknowledged.
//!
//! A write in place is visible on its own mount at once, and durable (and visible elsewhere, for good)
//! when its fsync returns. Until then it is what unsynced data is on a local disk: it may be read there,
//! and be gone after the mount process has died or the put has failed. So a read is *own pending* iff
//! 1. it saw a value whose write was made on the same mount process, and had begun before the read ended;
//! 2. that write was not acknowledged when the read began (its outcome was open, or unknown);
//! 3. no other write to the key both began after that write had returned (with an error) and was
//!    acknowledged before the read began: that one has replaced the value on every mount.
//!
//! An own pending read says nothing about the order of what is durable, and is left out of it. Every
//! other read counts: on other mounts (the value is durable if it can be read there), and on the same
//! mount after the acknowledgement. A value that comes back after rule 3 must be explained as a write of
//! unknown outcome that has happened late, for everybody.
//!
//! Content that is replaced by rename needs none of this: it is synced before its name is given to it.
use super::register::{RegisterOp, RegisterRecord, seen, writes};

/// The records of one key without own pending reads, and how many those were.
///
/// # Errors
/// A value was written twice.
pub fn without_own_pending(
    records: &[RegisterRecord],
) -> Result<(Vec<RegisterRecord>, usize), String> {
    let writes = writes(records)?;
    // Acknowledged writes by call, and the earliest return from there on.
    let mut acked: Vec<(u64, u64)> = records
        .iter()
        .filter(|r| matches!(r.op, RegisterOp::Write(_)))
        .filter_map(|r| Some((r.call, r.done()?)))
        .collect();
    acked.sort_unstable();
    let mut earliest = u64::MAX;
    for (_, ret) in acked.iter_mut().rev() {
        earliest = earliest.min(*ret);
        *ret = earliest;
    }
    let was_replaced = |after: Option<u64>, by: u64| {
        let Some(after) = after else { return false };
        let from = acked.partition_point(|(call, _)| *call <= after);
        acked.get(from).is_some_and(|(_, ret)| *ret < by)
    };
    let is_own_pending = |read: &RegisterRecord| {
        let Some(write) = seen(read).and_then(|value| writes.get(&value)) else {
            return false;
        };
        let begun = read.ret.is_some_and(|ret| write.call <= ret);
        let pending = write.done().is_none_or(|ret| ret >= read.call);
        write.who.mount == read.who.mount && begun && pending && !was_replaced(write.ret, read.call)
    };
    let mut kept = records.to_vec();
    kept.retain(|record| !is_own_pending(record));
    let own = records.len() - kept.len();
    Ok((kept, own))
}

#[cfg(test)]
mod tests {
    use super::super::record::{Outcome, Record, Who};
    use super::super::register::RegisterAnswer;
    use super::super::{judge, zones};
    use super::*;

    fn write(mount: u32, value: u64, (call, ret): (u64, u64), is_acked: bool) -> RegisterRecord {
        Record {
            who: Who { client: 0, mount },
            key: 0,
            op: RegisterOp::Write(value),
            call,
            ret: Some(ret),
            outcome: match is_acked {
                true => Outcome::Ok(RegisterAnswer::Wrote { version: None }),
                false => Outcome::Unknown,
            },
        }
    }

    fn read(mount: u32, value: u64, call: u64, ret: u64) -> RegisterRecord {
        let version = None;
        Record {
            who: Who { client: 1, mount },
            key: 0,
            op: RegisterOp::Read,
            call,
            ret: Some(ret),
            outcome: Outcome::Ok(RegisterAnswer::Saw { value, version }),
        }
    }

    fn is_fine(records: &[RegisterRecord]) -> bool {
        let (kept, _) = without_own_pending(records).unwrap();
        let by_zones = zones::check(&kept).is_ok();
        assert_eq!(by_zones, judge::search_register(&kept).is_ok());
        by_zones
    }

    #[test]
    fn a_mount_may_show_its_own_write_and_lose_it() {
        let lost = [
            write(0, 1, (0, 10), true),
            write(0, 2, (20, 40), false),
            read(0, 2, 25, 30),
            read(0, 2, 45, 46),
            read(1, 1, 50, 51),
            read(0, 1, 60, 61),
        ];
        assert!(is_fine(&lost));
        let elsewhere = [
            write(0, 1, (0, 10), true),
            write(0, 2, (20, 40), false),
            read(1, 2, 25, 30),
            read(1, 1, 50, 51),
        ];
        assert!(!is_fine(&elsewhere), "another mount shows what is durable");
    }

    #[test]
    fn what_was_acknowledged_is_pending_no_more() {
        let acked = [
            write(0, 1, (0, 10), true),
            write(0, 2, (20, 40), true),
            read(0, 2, 45, 46),
            read(1, 1, 50, 51),
        ];
        assert!(!is_fine(&acked));
        let early = [
            write(0, 1, (0, 10), true),
            write(0, 2, (20, 40), true),
            read(0, 2, 25, 30),
            read(1, 1, 32, 33),
        ];
        assert!(is_fine(&early), "not yet put");
    }

    #[test]
    fn what_was_replaced_does_not_come_back_on_one_mount_only() {
        let back = [
            write(0, 1, (0, 10), false),
            write(1, 2, (20, 30), true),
            read(0, 1, 40, 41),
            read(1, 2, 50, 51),
        ];
        assert!(!is_fine(&back));
        let late = [
            write(0, 1, (0, 10), false),
            write(1, 2, (20, 30), true),
            read(0, 1, 40, 41),
            read(1, 1, 50, 51),
        ];
        assert!(is_fine(&late), "an unknown write that happened late");
    }
}
