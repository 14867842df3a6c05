//! Everything that any store holds: is it still needed, and is this the right place?
use super::Run;
use super::suspects::{About, Suspect, Suspects};
use dfs_core::types::{Ino, PgId, StoreId};
use dfs_core::wire::audit::{FaultKind, ObjectFate};
use dfs_core::wire::replica::HeldObject;
use dfs_core::wire::{ReplicaRequest, ReplicaResponse};

/// Objects asked for at once.
const PAGE: u32 = 1024;

impl Run {
    pub(super) async fn check_holdings(&mut self, suspects: &mut Suspects) -> anyhow::Result<()> {
        for store in self.stores() {
            let mut after = None;
            loop {
                let request = ReplicaRequest::Held { after, limit: PAGE };
                let Some(ReplicaResponse::Held(held, is_last)) = self.ask(store, request).await
                else {
                    break;
                };
                self.judge_page(store, &held, suspects).await?;
                after = held.last().map(|h| h.id).or(after);
                if is_last || held.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn judge_page(
        &mut self,
        store: StoreId,
        held: &[HeldObject],
        suspects: &mut Suspects,
    ) -> anyhow::Result<()> {
        self.checked.held += held.len() as u64;
        let ids: Vec<_> = held.iter().map(|h| h.id).collect();
        let (fates, as_of) = self.fates(&ids).await?;
        for (held, fate) in held.iter().zip(fates) {
            if let Some((kind, what)) = self.judge_holding(store, held, Some(fate)) {
                let suspect = Suspect {
                    kind,
                    store,
                    pg: held.row.map_or(PgId(0), |row| row.0),
                    ino: ino_of(held),
                    about: About::Held(held.id),
                    what,
                };
                suspects.add(suspect, as_of);
            }
        }
        Ok(())
    }

    /// What is wrong about holding this.
    pub(super) fn judge_holding(
        &self,
        store: StoreId,
        held: &HeldObject,
        fate: Option<ObjectFate>,
    ) -> Option<(FaultKind, String)> {
        if held.is_new || (held.row.is_none() && held.header.is_none()) {
            return None;
        }
        let id = held.id;
        if fate == Some(ObjectFate::Garbage) {
            let what = format!("object {id} is held and nothing refers to it");
            return Some((FaultKind::StrayObject, what));
        }
        let (pg, ..) = match (held.row, held.header) {
            (Some(row), Some(_)) => row,
            (Some(_), None) => {
                let what = format!("object {id} is listed, its bytes are not there");
                return Some((FaultKind::ObjectUnbacked, what));
            }
            _ => {
                let what = format!("object {id} is there and not listed");
                return Some((FaultKind::ObjectUnlisted, what));
            }
        };
        let info = self.map.pgs.get(usize::from(pg.0));
        let is_here = info.is_some_and(|i| i.members.contains(&store) || i.prior.contains(&store));
        if fate == Some(ObjectFate::Referenced) && !is_here {
            let what = format!("object {id} of group {}, which is elsewhere", pg.0);
            return Some((FaultKind::ForeignObject, what));
        }
        None
    }
}

fn ino_of(held: &HeldObject) -> Ino {
    let listed = held.row.map(|row| row.1);
    listed.or(held.header.map(|h| h.0)).unwrap_or(Ino(0))
}
