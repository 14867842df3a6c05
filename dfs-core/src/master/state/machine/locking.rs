//! Locks and unlocks: the part of a mutation that is no change of the namespace.
use super::MasterState;
use crate::master::state::{StateError, namespace};
use crate::store::Kv;
use crate::types::{ClientId, FileKind, Ino, LockHolder};
use crate::wire::{ErrorCode, Mutation, MutationOk, WireError};

impl<K: Kv> MasterState<K> {
    /// Applies a lock or an unlock; files on which something was given up go to `unlocked`.
    /// Refused is the inner error.
    pub(super) fn change_locks(
        &mut self,
        client: ClientId,
        body: &Mutation,
        unlocked: &mut Vec<Ino>,
    ) -> Result<Result<MutationOk, WireError>, StateError> {
        Ok(match body {
            Mutation::Lock(ask) => {
                match namespace::kind_of(&self.kv, ask.ino)? {
                    Some(FileKind::File) => {}
                    Some(_) => {
                        let detail = "only files can be locked";
                        return Ok(Err(WireError::new(ErrorCode::Invalid, detail)));
                    }
                    None => return Ok(Err(ErrorCode::Stale.into())),
                }
                let (freed, done) = self.locks.lock(&mut self.kv, client, ask);
                if freed {
                    unlocked.push(ask.ino);
                }
                done.map(|()| MutationOk::Locked)
            }
            Mutation::Unlock {
                ino,
                space,
                owner,
                first,
                last,
            } => {
                if first > last {
                    let detail = "a range ends before it begins";
                    return Ok(Err(WireError::new(ErrorCode::Invalid, detail)));
                }
                let owner = *owner;
                let (holder, range) = (LockHolder { client, owner }, (*first, *last));
                if self.locks.unlock(&mut self.kv, *ino, *space, holder, range) {
                    unlocked.push(*ino);
                }
                Ok(MutationOk::Done)
            }
            _ => Err(ErrorCode::BadRequest.into()),
        })
    }
}
