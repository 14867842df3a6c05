//! The tables of every voter.
use super::Run;
use dfs_core::types::{Ino, LogIndex, StoreId};
use dfs_core::wire::audit::{AuditPage, Fault, FaultKind};
use dfs_core::wire::master::{MasterRequest, MasterResponse};
use dfs_core::wire::{ErrorCode, WireError};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long to wait while somebody else's audit runs.
const BUSY_MAX: Duration = Duration::from_secs(60);

/// The audit of one voter.
struct Voter {
    store: StoreId,
    addr: SocketAddr,
    page: AuditPage,
    faults: Vec<Fault>,
}

impl Run {
    pub(super) async fn check_tables(&mut self) -> anyhow::Result<()> {
        let stores = self.status.stores.iter().filter(|s| s.voter);
        let voters: Vec<_> = stores.map(|s| (s.store, s.addr)).collect();
        let mut running = Vec::new();
        // All begin at once: at the same index of the log, if nothing happens.
        for (store, addr) in voters {
            match self.slice(addr, 0).await {
                Ok(page) => running.push(Voter {
                    store,
                    addr,
                    faults: page.faults.clone(),
                    page,
                }),
                Err(e) => self.is_silent(store, &e),
            }
        }
        // In turns: a voter lets an audit go that nobody asks about.
        let mut done = Vec::new();
        while !running.is_empty() {
            for mut voter in std::mem::take(&mut running) {
                match self.go_on(&mut voter).await {
                    Ok(()) if voter.page.is_last => done.push(voter),
                    Ok(()) => running.push(voter),
                    Err(e) => self.is_silent(voter.store, &e),
                }
            }
        }
        self.checked.voters = done.len() as u64;
        self.checked.rows = done.iter().map(|v| v.page.rows).max().unwrap_or(0);
        self.compare(&done);
        Ok(())
    }

    async fn slice(&self, addr: SocketAddr, run: u64) -> anyhow::Result<AuditPage> {
        let begin = Instant::now();
        loop {
            let asked = self.client.voter_call(addr, MasterRequest::Audit { run });
            match asked.await {
                Ok(MasterResponse::Audit(page)) => return Ok(page),
                Ok(_) => {
                    let words = "not an answer of a voter";
                    return Err(WireError::new(ErrorCode::BadRequest, words).into());
                }
                Err(e) if e.code() == ErrorCode::Busy && begin.elapsed() < BUSY_MAX => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    async fn go_on(&self, voter: &mut Voter) -> anyhow::Result<()> {
        if !voter.page.is_last {
            voter.page = self.slice(voter.addr, voter.page.run).await?;
            voter.faults.append(&mut voter.page.faults.clone());
        }
        Ok(())
    }

    /// What all voters have wrong is told once; the digests must agree.
    fn compare(&mut self, voters: &[Voter]) {
        let mut by_fault: BTreeMap<(FaultKind, Ino, &str), BTreeSet<StoreId>> = BTreeMap::new();
        for voter in voters {
            for fault in &voter.faults {
                let key = (fault.kind, fault.ino, fault.what.as_str());
                by_fault.entry(key).or_default().insert(voter.store);
            }
        }
        let mut found = Vec::new();
        for ((kind, ino, what), stores) in by_fault {
            match stores.len() == voters.len() && voters.len() > 1 {
                true => found.push((kind, None, ino, format!("{what} (on all voters)"))),
                false => found.extend(
                    stores
                        .into_iter()
                        .map(|s| (kind, Some(s), ino, what.to_owned())),
                ),
            }
        }
        for (kind, store, ino, what) in found {
            self.add(kind, store, ino, what);
        }
        let mut digests: BTreeMap<LogIndex, BTreeMap<u32, Vec<StoreId>>> = BTreeMap::new();
        for voter in voters {
            let at = digests.entry(voter.page.as_of).or_default();
            at.entry(voter.page.digest).or_default().push(voter.store);
        }
        for (index, by_digest) in digests.iter().filter(|(_, d)| d.len() > 1) {
            let most = by_digest.values().map(Vec::len).max().unwrap_or(0);
            let is_alone = by_digest.values().filter(|s| s.len() == most).count() == 1;
            // With a majority the others are wrong; without one nobody knows.
            for stores in by_digest.values() {
                if is_alone && stores.len() == most {
                    continue;
                }
                for store in stores {
                    let what = format!("its tables differ from another voter's at index {index}");
                    self.add(FaultKind::VotersDiffer, Some(*store), Ino(0), what);
                }
            }
        }
    }
}
