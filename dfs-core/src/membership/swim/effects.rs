//! What foca wants done during one call, and the timers it and the machine wait for.
use super::codec::{KIND_SWIM, SwimId};
use crate::types::{Incarnation, NodeId, Time};
use foca::{Notification, Runtime, Timer};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

/// Foca's randomness: our seeded generator behind the traits of the `rand` version foca uses.
#[derive(Debug)]
pub(super) struct SwimRng(pub(super) ChaCha8Rng);

impl rand_core_10::TryRng for SwimRng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }
    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(dst);
        Ok(())
    }
}

/// What a timer is for.
#[derive(Debug, Clone)]
pub(super) enum Alarm {
    /// Foca asked for it.
    Swim(Timer<SwimId>),
    /// Next attempt to join, or contact to an absent peer.
    Join,
    /// Next round of urgent updates.
    Urgent,
    /// The known peers may be written again.
    Peers,
    /// The next on the ring is to be looked at.
    Ring,
    /// A member that is looked at had time to answer.
    Look(NodeId),
    /// A member that did not answer had time to object; its foca incarnation.
    LookedFor(Box<SwimId>, u16),
}

/// One armed timer.
#[derive(Debug)]
pub(super) struct Armed {
    pub(super) due: Time,
    pub(super) alarm: Alarm,
    /// How often a stall moved it.
    pub(super) deferrals: u8,
}

/// Armed timers by token. Tokens are never reused, so a stale one finds nothing.
#[derive(Debug, Default)]
pub(super) struct Timers {
    last: u64,
    pub(super) armed: BTreeMap<u64, Armed>,
}

impl Timers {
    /// Arms a timer, returns its token.
    pub(super) fn arm(&mut self, due: Time, alarm: Alarm) -> u64 {
        self.last += 1;
        let armed = Armed {
            due,
            alarm,
            deferrals: 0,
        };
        self.armed.insert(self.last, armed);
        self.last
    }

    /// Moves every timer that a stall may have made unfair by `by`, each at most `times`.
    pub(super) fn defer(&mut self, by: Duration, times: u8) {
        for timer in self.armed.values_mut() {
            let accuses = matches!(
                timer.alarm,
                Alarm::Swim(
                    Timer::ProbeRandomMember(_)
                        | Timer::SendIndirectProbe { .. }
                        | Timer::ChangeSuspectToDown { .. }
                ) | Alarm::Look(_)
                    | Alarm::LookedFor(..)
            );
            if accuses && timer.deferrals < times {
                timer.due = timer.due + by;
                timer.deferrals += 1;
            }
        }
    }
}

/// Collects what one call of foca wants.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Payloads with their kind byte.
    pub(super) sends: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) timers: Vec<(Timer<SwimId>, Duration)>,
    /// Foca's own incarnation, as the last packet carried it.
    pub(super) own_incarnation: Option<u16>,
    /// Foca took a new identity after having been declared down.
    pub(super) rejoined: Option<Incarnation>,
    /// The last change between being connected (true) and not.
    pub(super) connected: Option<bool>,
}

impl Runtime<SwimId> for Effects {
    fn notify(&mut self, notification: Notification<'_, SwimId>) {
        match notification {
            Notification::Active => self.connected = Some(true),
            Notification::Idle | Notification::Defunct => self.connected = Some(false),
            Notification::Rejoin(id) => {
                self.connected = Some(false);
                self.rejoined = Some(id.0.incarnation);
            }
            Notification::DataSent(header) => self.own_incarnation = Some(header.src_incarnation),
            // Read from the membership state instead, which also shows suspicion.
            Notification::MemberUp(_)
            | Notification::MemberDown(_)
            | Notification::Rename(..)
            | Notification::DataReceived(_)
            | Notification::ProbeFailed(..) => {}
        }
    }

    fn send_to(&mut self, to: SwimId, data: &[u8]) {
        let mut payload = Vec::with_capacity(data.len() + 1);
        payload.push(KIND_SWIM);
        payload.extend_from_slice(data);
        self.sends.push((to.0.gossip, payload));
    }

    fn submit_after(&mut self, event: Timer<SwimId>, after: Duration) {
        self.timers.push((event, after));
    }
}
