//! The same question for registers without a search: where every value is written once, a history
//! has an order iff its zones fit (Gibbons and Korach, *Testing Shared Memories*, 1997).
//!
//! The write of a value and its reads are a cluster. Its zone lies between the earliest return and the
//! latest call in it. A *forward* zone (earliest return before latest call) is a time at which the
//! register surely held this value. A history has an order iff
//! 1. every value that was read was written, and no read ended before its write began;
//! 2. no two forward zones overlap;
//! 3. no other zone lies within a forward one.
//!
//! Nothing of a write of unknown outcome is known but its call: its cluster has no return but those of
//! its reads, and without reads there is none.
use super::record::Outcome;
use super::register::{NOTHING, RegisterOp, RegisterRecord, seen};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy)]
struct Cluster {
    value: u64,
    first_ret: u64,
    last_call: u64,
    has_write: bool,
    /// Call of the write.
    begun: u64,
}

/// Checks all operations on one key.
///
/// # Errors
/// The values whose zones contradict.
pub fn check(records: &[RegisterRecord]) -> Result<(), String> {
    // The register held nothing before all calls.
    let nothing = Cluster {
        value: NOTHING,
        first_ret: 0,
        last_call: 0,
        has_write: true,
        begun: 0,
    };
    let mut clusters: BTreeMap<u64, Cluster> = BTreeMap::from([(NOTHING, nothing)]);
    for record in records {
        // One later, as nothing was there before the first call.
        let (call, later) = (record.call + 1, |ret: Option<u64>| ret.map(|t| t + 1));
        let (value, ret, is_write) = match (record.op, &record.outcome) {
            (_, Outcome::Fail) => continue,
            (RegisterOp::Write(value), _) => (value, later(record.done()), true),
            (RegisterOp::Read, _) => match seen(record) {
                Some(value) => (value, later(record.ret), false),
                None => continue,
            },
        };
        let cluster = clusters.entry(value).or_insert(Cluster {
            value,
            first_ret: u64::MAX,
            last_call: 0,
            has_write: false,
            begun: 0,
        });
        cluster.first_ret = cluster.first_ret.min(ret.unwrap_or(u64::MAX));
        cluster.last_call = cluster.last_call.max(call);
        if is_write {
            cluster.has_write = true;
            cluster.begun = call;
        }
    }
    let mut forward = Vec::new();
    let mut backward = Vec::new();
    for cluster in clusters.into_values() {
        let value = cluster.value;
        if !cluster.has_write {
            return Err(format!("value {value} was read, but not written"));
        }
        if cluster.first_ret < cluster.begun {
            return Err(format!("value {value} was read before it was written"));
        }
        if cluster.first_ret == u64::MAX {
            continue;
        }
        match cluster.first_ret < cluster.last_call {
            true => forward.push(cluster),
            false => backward.push(cluster),
        }
    }
    fit(forward, &backward)
}

/// Rules 2 and 3. Ends that touch leave the order open.
fn fit(mut forward: Vec<Cluster>, backward: &[Cluster]) -> Result<(), String> {
    forward.sort_by_key(|c| c.first_ret);
    if let Some(pair) = forward.windows(2).find(|p| p[1].first_ret < p[0].last_call) {
        let (a, b) = (pair[0].value, pair[1].value);
        return Err(format!("values {a} and {b} were both there at a time"));
    }
    for inner in backward {
        // Of a backward zone the latest call is the beginning.
        let before = forward.partition_point(|c| c.first_ret < inner.last_call);
        let Some(outer) = before.checked_sub(1).map(|i| forward[i]) else {
            continue;
        };
        if inner.first_ret < outer.last_call {
            return Err(format!(
                "value {} was there all the time in which {} must have been written and read",
                outer.value, inner.value
            ));
        }
    }
    Ok(())
}
