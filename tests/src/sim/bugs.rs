//! The faults that tests plant, by name; the simulation must notice each.
//!
//! Nearly all are planted in what drives the machines: a driver that lies to its machine, or changes
//! what it says. So nothing of them can be reached from a program. Three can only be planted inside
//! a machine, and exist with the feature `planted` only, which no program is built with.
use std::fmt;
use std::str::FromStr;

/// A planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A store says that batches are durable before they are.
    StoreAcksBeforeSync,
    /// A voter says that log records are durable before they are.
    VoterAcksBeforeSync,
    /// A store says that it lets go of an old epoch as soon as it hears of the new one, and does so
    /// two seconds later.
    StoreFencesLate,
    /// A store serves on when its lease has run out.
    StoreIgnoresLease,
    /// A client trusts a layout it knows, without asking for stamps.
    ClientSkipsStamps,
    /// A client tries a mutation again under another op-id.
    ClientForgetsOpIds,
    /// A client goes on using what it was told to drop.
    ClientIgnoresInvalidations,
    /// A client counts what a member acknowledged under an epoch also for the next one.
    ClientMixesEpochs,
    /// A leader takes it that the others agree that it leads, without hearing them.
    LeaderReadsAlone,
    /// A leader counts one member as fenced that has said nothing.
    LeaderFencesOneTooFew,
    /// A leader decides a repeated op anew.
    LeaderForgetsResults,
    /// A leader does not wait until clients have dropped what changes.
    LeaderSkipsInvalidations,
    /// A store serves requests of any epoch.
    StoreSkipsEpochs,
    /// A store does not tell readers of puts that may be committed.
    StoreHidesMarks,
    /// A store takes notes for granted without reading them.
    StoreSkipsNotes,
    /// A store drops objects because they are old.
    StoreDeletesByAge,
    /// A store drops puts that take long, though nobody has decided that they are aborted.
    StoreSkipsAborts,
    /// A store does not find its epochs when it starts again.
    StoreForgetsEpochs,
    /// A voter writes neither terms nor votes down.
    VoterForgetsVotes,
    /// A node whose store was wiped goes on under the store's id.
    WipedStoreKeepsItsId,
    /// A leader takes commits under write leases that it has raised since.
    LeaderIgnoresLeases,
    /// A store keeps what it copied for a repair without comparing it with the master's sum.
    StoreCopiesUnverified,
    /// A directory may move below itself.
    DirsMoveIntoThemselves,
    /// Four versions of a file are kept, not five.
    KeepsOneVersionLess,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::StoreAcksBeforeSync,
        Self::VoterAcksBeforeSync,
        Self::StoreFencesLate,
        Self::StoreIgnoresLease,
        Self::ClientSkipsStamps,
        Self::ClientForgetsOpIds,
        Self::ClientIgnoresInvalidations,
        Self::ClientMixesEpochs,
        Self::LeaderReadsAlone,
        Self::LeaderFencesOneTooFew,
        Self::LeaderForgetsResults,
        Self::LeaderSkipsInvalidations,
        Self::StoreSkipsEpochs,
        Self::StoreHidesMarks,
        Self::StoreSkipsNotes,
        Self::StoreDeletesByAge,
        Self::StoreSkipsAborts,
        Self::StoreForgetsEpochs,
        Self::VoterForgetsVotes,
        Self::WipedStoreKeepsItsId,
        Self::LeaderIgnoresLeases,
        Self::StoreCopiesUnverified,
        Self::DirsMoveIntoThemselves,
        Self::KeepsOneVersionLess,
    ];

    /// It can be planted in this build: those inside machines need the feature `planted`.
    #[must_use]
    pub fn can_be_planted(self) -> bool {
        cfg!(feature = "planted") || !self.is_inside()
    }

    pub(super) fn is_inside(self) -> bool {
        matches!(
            self,
            Self::StoreCopiesUnverified | Self::DirsMoveIntoThemselves | Self::KeepsOneVersionLess
        )
    }

    /// Plants it inside the machines of this thread, if it belongs there; or none.
    #[cfg(feature = "planted")]
    pub(super) fn plant_inside(bug: Option<Self>) {
        use dfs_core::planted::Planted;
        dfs_core::planted::plant(match bug {
            Some(Self::StoreCopiesUnverified) => Some(Planted::CopiesUnverified),
            Some(Self::DirsMoveIntoThemselves) => Some(Planted::MovesIntoItself),
            Some(Self::KeepsOneVersionLess) => Some(Planted::KeepsOneVersionLess),
            _ => None,
        });
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|bug| bug.to_string() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(|bug| bug.to_string());
            format!("no such bug; there are {}", names.join(", "))
        })
    }
}
