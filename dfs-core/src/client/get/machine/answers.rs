//! What a get makes of the answers of stores and master.
use super::{Currency, GetMachine, Sent};
use crate::client::get::fetch::{Bad, Fetch};
use crate::client::get::types::{GetAction, GetError, ReadAnswer, Resolved};
use crate::types::{StoreId, Time};
use crate::wire::{ErrorClass, ErrorCode, Stamp, WireError};
use bytes::Bytes;

impl GetMachine {
    pub(super) fn on_read(
        &mut self,
        now: Time,
        token: u64,
        result: Result<(ReadAnswer, Bytes), WireError>,
        out: &mut Vec<GetAction>,
    ) {
        let Some(sent) = self.sent.remove(&token) else {
            return;
        };
        if sent.stamp {
            let stamp = match &result {
                Ok((answer, _)) => answer.stamp.clone().unwrap_or_else(|| {
                    Err(WireError::new(
                        ErrorCode::BadRequest,
                        "the stamp asked for is missing",
                    ))
                }),
                // The store answers stamps only with data; ask it (or another) for a bare one.
                Err(e) => Err(e.clone()),
            };
            self.on_stamp(sent.to, stamp, out);
        }
        self.observe(now, &sent, result.as_ref().err(), out);
        let fetch = sent.fetch.and_then(|id| self.fetches.get_mut(&id));
        let Some(fetch) = fetch else { return }; // Of a layout that is no longer current.
        fetch.waiting.remove(&token);
        let object = fetch.piece.object;
        let bad = match result {
            Ok((answer, payload)) => match Fetch::verify(&fetch.piece, &answer, &payload) {
                Some(bytes) => {
                    fetch.bytes.get_or_insert(bytes);
                    return;
                }
                None => Bad::Damaged,
            },
            Err(e) => {
                self.last_error = e.to_string();
                match e.code {
                    ErrorCode::NotFound => Bad::Missing,
                    ErrorCode::Corrupt => Bad::Damaged,
                    _ => Bad::Failed,
                }
            }
        };
        fetch.fail(sent.to, bad);
        if bad == Bad::Damaged {
            out.push(GetAction::Report {
                store: sent.to,
                object,
            });
        }
    }

    fn observe(&self, now: Time, sent: &Sent, error: Option<&WireError>, out: &mut Vec<GetAction>) {
        use ErrorCode as C;
        let answered = error.is_none_or(|e| {
            matches!(
                e.code,
                C::NotFound | C::Corrupt | C::WrongEpoch | C::NoServingLease
            )
        });
        let took = answered.then(|| now.since(sent.at));
        out.push(GetAction::Observe {
            store: sent.to,
            bytes: sent.bytes,
            took,
        });
    }

    pub(super) fn on_bare_stamp(
        &mut self,
        now: Time,
        token: u64,
        result: Result<Stamp, WireError>,
        out: &mut Vec<GetAction>,
    ) {
        let Some(sent) = self.sent.remove(&token) else {
            return;
        };
        self.observe(now, &sent, result.as_ref().err(), out);
        self.on_stamp(sent.to, result, out);
    }

    fn on_stamp(
        &mut self,
        from: StoreId,
        stamp: Result<Stamp, WireError>,
        out: &mut Vec<GetAction>,
    ) {
        self.note_reached(from, stamp.as_ref().err());
        let Currency::Stamps(fresh) = &mut self.currency else {
            return;
        };
        match stamp {
            Ok(stamp) => fresh.add(from, &stamp),
            Err(e) => {
                fresh.fail(from);
                if e.code == ErrorCode::WrongEpoch {
                    self.refresh_map(out);
                    self.resolve(out);
                }
            }
        }
    }

    pub(super) fn on_resolved(
        &mut self,
        now: Time,
        result: Result<Resolved, WireError>,
        out: &mut Vec<GetAction>,
    ) {
        if !matches!(self.currency, Currency::Resolving(None)) {
            return;
        }
        match result {
            Ok(resolved) => {
                self.spec.revision = resolved.revision;
                self.spec.op = resolved.op;
                self.resolved = true;
                self.currency = Currency::Proven;
                self.set_pieces(now, resolved.pieces);
            }
            Err(e) if e.code.class() == ErrorClass::Permanent => {
                self.finish(Err(GetError::Refused(e)), out);
            }
            Err(e) => {
                self.last_error = e.to_string();
                self.currency = Currency::Resolving(Some(now + self.config.retry));
            }
        }
    }
}
