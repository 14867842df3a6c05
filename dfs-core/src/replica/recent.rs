//! A bounded memory of op-ids: the oldest is forgotten first.
use crate::types::OpId;
use std::collections::BTreeMap;

/// At most `max` ops.
#[derive(Debug)]
pub struct RecentOps {
    max: usize,
    next: u64,
    by_age: BTreeMap<u64, OpId>,
    ages: BTreeMap<OpId, u64>,
}

impl RecentOps {
    /// Empty.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            next: 0,
            by_age: BTreeMap::new(),
            ages: BTreeMap::new(),
        }
    }

    /// True if it is remembered.
    #[must_use]
    pub fn contains(&self, op: OpId) -> bool {
        self.ages.contains_key(&op)
    }

    /// Puts back what was remembered before a restart, in ascending order of `age`.
    pub fn restore(&mut self, age: u64, op: OpId) {
        self.next = self.next.max(age + 1);
        self.by_age.insert(age, op);
        self.ages.insert(op, age);
    }

    /// Remembers it. Returns its age number if it is new, and the numbers of those forgotten.
    pub fn insert(&mut self, op: OpId) -> (Option<u64>, Vec<u64>) {
        if self.contains(op) {
            return (None, Vec::new());
        }
        let age = self.next;
        self.restore(age, op);
        let mut forgotten = Vec::new();
        while self.by_age.len() > self.max {
            let (old, op) = self
                .by_age
                .pop_first()
                .expect("it is longer than max, which is >= 1");
            self.ages.remove(&op);
            forgotten.push(old);
        }
        (Some(age), forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClientId;

    #[test]
    fn forgets_the_oldest_first() {
        let op = |seq| OpId {
            client: ClientId(1),
            seq,
        };
        let mut recent = RecentOps::new(2);
        assert_eq!(recent.insert(op(1)), (Some(0), vec![]));
        assert_eq!(recent.insert(op(1)), (None, vec![]));
        assert_eq!(recent.insert(op(2)), (Some(1), vec![]));
        assert_eq!(recent.insert(op(3)), (Some(2), vec![0]));
        assert!(!recent.contains(op(1)) && recent.contains(op(2)) && recent.contains(op(3)));
    }
}
