//! A check over version numbers, in linear time after sorting.
//!
//! Where every write is told its version, the versions are the order, and nothing is to be searched:
//! 1. no two writes have the same version;
//! 2. there is no gap that a write of unknown outcome does not fill;
//! 3. a write that began after an operation had returned has a higher version than that one;
//! 4. a read that began after an operation had returned has no lower version than that one;
//! 5. a read does not end before the write of its version began.
//!
//! A write of unknown outcome whose version was read is checked as one that never returned.

/// Writes or reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It made its version.
    Write,
    /// It saw its version.
    Read,
}

/// An operation of a known version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamped {
    /// The version made or seen.
    pub version: u64,
    /// Which.
    pub kind: Kind,
    /// A time before it.
    pub call: u64,
    /// A time after it, if it was acknowledged.
    pub ret: Option<u64>,
}

/// Checks all operations on one key. Versions begin above `base`; `unplaced` writes may have made any.
///
/// # Errors
/// The first rule that is broken, with the versions.
pub fn check(ops: &[Stamped], base: u64, unplaced: usize) -> Result<(), String> {
    let mut written: Vec<(u64, u64)> = Vec::new();
    for op in ops.iter().filter(|op| op.kind == Kind::Write) {
        written.push((op.version, op.call));
    }
    written.sort_unstable();
    if let Some(pair) = written.windows(2).find(|p| p[0].0 == p[1].0) {
        return Err(format!("two writes made version {}", pair[0].0));
    }
    if let Some((version, _)) = written.first().filter(|(version, _)| *version <= base) {
        return Err(format!("a write made version {version}, not above {base}"));
    }
    let last = written.last().map_or(base, |(version, _)| *version);
    let missing = (last - base) - written.len() as u64;
    if missing > unplaced as u64 {
        return Err(format!(
            "{missing} versions up to {last} were made by nobody, and only {unplaced} writes are of unknown outcome"
        ));
    }
    check_order(ops)?;
    let begun = |version: u64| {
        let found = written.binary_search_by_key(&version, |(version, _)| *version);
        found.ok().map(|i| written[i].1)
    };
    for op in ops.iter().filter(|op| op.kind == Kind::Read) {
        let version = op.version;
        match (begun(version), op.ret) {
            (Some(call), Some(ret)) if call > ret => {
                return Err(format!("version {version} was read before its write began"));
            }
            (None, _) if version > last => {
                return Err(format!(
                    "version {version} was read, and {last} is the last"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Rules 3 and 4.
fn check_order(ops: &[Stamped]) -> Result<(), String> {
    // At the same time calls come first: nothing is known of the order then.
    let mut ends: Vec<(u64, bool, usize)> = Vec::new();
    for (i, op) in ops.iter().enumerate() {
        ends.push((op.call, false, i));
        ends.extend(op.ret.map(|ret| (ret, true, i)));
    }
    ends.sort_unstable();
    let mut floor: Option<u64> = None;
    for (at, is_ret, i) in ends {
        let Stamped { version, kind, .. } = ops[i];
        if is_ret {
            floor = floor.max(Some(version));
            continue;
        }
        let Some(floor) = floor else { continue };
        let ms = at as f64 / 1e6;
        match kind {
            Kind::Write if version <= floor => {
                return Err(format!(
                    "a write that began at {ms:.3} ms made version {version}, but {floor} was known before"
                ));
            }
            Kind::Read if version < floor => {
                return Err(format!(
                    "stale: a read that began at {ms:.3} ms saw version {version}, but {floor} was known before"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(kind: Kind, version: u64, call: u64, ret: u64) -> Stamped {
        let ret = Some(ret);
        Stamped {
            version,
            kind,
            call,
            ret,
        }
    }

    #[test]
    fn versions_that_follow_real_time_are_accepted() {
        let ops = [
            op(Kind::Write, 1, 0, 10),
            op(Kind::Write, 2, 5, 15),
            op(Kind::Read, 1, 6, 12),
            op(Kind::Read, 2, 13, 20),
        ];
        assert_eq!(check(&ops, 0, 0), Ok(()));
    }

    #[test]
    fn each_rule_is_checked() {
        let twice = [op(Kind::Write, 1, 0, 1), op(Kind::Write, 1, 2, 3)];
        assert!(check(&twice, 0, 0).is_err());
        let gap = [op(Kind::Write, 1, 0, 1), op(Kind::Write, 3, 2, 3)];
        assert!(check(&gap, 0, 0).is_err());
        assert_eq!(check(&gap, 0, 1), Ok(()), "filled by an unknown one");
        let back = [op(Kind::Write, 2, 0, 1), op(Kind::Write, 1, 2, 3)];
        assert!(check(&back, 0, 0).is_err());
        let stale = [
            op(Kind::Write, 1, 0, 1),
            op(Kind::Write, 2, 2, 3),
            op(Kind::Read, 1, 4, 5),
        ];
        assert!(check(&stale, 0, 0).is_err());
        let early = [op(Kind::Read, 1, 0, 1), op(Kind::Write, 1, 2, 3)];
        assert!(check(&early, 0, 0).is_err());
        let unmade = [op(Kind::Write, 1, 0, 1), op(Kind::Read, 2, 2, 3)];
        assert!(check(&unmade, 0, 0).is_err());
    }
}
