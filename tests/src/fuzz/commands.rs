//! Any log of the master, applied by two voters: alike, or refused, and never with a panic. What an
//! entry says comes from outside: most of it is what clients and stores sent, checked or not.
use super::build;
use super::source::Source;
use dfs_core::client::new_node;
use dfs_core::master::command::{ChangeCause, Command, LogEntry, PgChange};
use dfs_core::master::state::{MasterState, StateAudit};
use dfs_core::store::{KvRead, MemKv};
use dfs_core::types::{
    ClientId, ClusterId, Epoch, FileKind, Incarnation, Ino, Name, NodeId, OpId, PgId, QuorumSizes,
    StoreId, Term, Time,
};
use dfs_core::wire::{Mutation, Query};
use std::net::SocketAddr;

/// Entries of one log.
const ENTRIES_MAX: u64 = 120;
const PGS: u16 = 4;
/// Operations of the beginning have lower numbers.
const FIRST_SEQ: u64 = 3;
/// Rows of one slice of an audit.
const AUDIT_ROWS: usize = 512;

/// A voter's state machine alone.
#[derive(Debug)]
pub struct Voter {
    /// The state.
    pub state: MasterState<MemKv>,
}

impl Default for Voter {
    fn default() -> Self {
        Self::new()
    }
}

impl Voter {
    /// Before the first entry.
    #[must_use]
    pub fn new() -> Self {
        let state = MasterState::open(MemKv::default());
        Self {
            state: state.expect("empty tables are a state"),
        }
    }

    /// Applies an entry and says what it did, in words.
    pub fn apply(&mut self, entry: &LogEntry) -> String {
        let index = self.state.applied().index.next();
        match self.state.apply(index, Term(1), entry) {
            Ok(applied) => format!("{applied:?}"),
            Err(error) => panic!("{entry:?} stops every voter: {error}"),
        }
    }
}

/// A cluster of five stores, three of which are members of every group, with three sessions,
/// two files and a directory.
#[must_use]
pub fn beginning() -> Vec<Command> {
    let quorum = QuorumSizes::DEFAULT;
    let mut log = vec![Command::Bootstrap {
        cluster: ClusterId(1),
        quorum,
        pgs: PGS,
        voters: 3,
    }];
    log.extend((1..=5).map(|n| Command::StoreSeen {
        store: StoreId(n),
        node: NodeId(n),
        incarnation: Incarnation(1),
        addr: SocketAddr::from(([127, 0, 0, 1], 7400)),
        zone: String::new(),
        device: 1,
    }));
    let changes = (0..PGS).map(|pg| PgChange {
        pg: PgId(pg),
        from: Epoch(0),
        members: (1..=3).map(StoreId).collect(),
    });
    log.push(Command::BeginEpoch {
        cause: ChangeCause::Create,
        changes: changes.collect(),
    });
    log.extend((1..=3).map(|n| Command::OpenSession {
        client: ClientId(n),
        label: "fuzz".into(),
    }));
    let nodes = [
        (b"a", FileKind::File),
        (b"b", FileKind::File),
        (b"c", FileKind::Dir),
    ];
    for (seq, (name, kind)) in (1..).zip(nodes) {
        let node = new_node(kind, 0o755, 0, 0);
        let body = Mutation::Create {
            parent: Ino::ROOT,
            name: Name::new(&name[..]).expect("a name"),
            node,
            exclusive: true,
        };
        let client = ClientId(1);
        let op = OpId { client, seq };
        log.push(Command::Mutate { op, low: 1, body });
    }
    log
}

/// What a state's own audit finds.
///
/// # Panics
/// If the audit does not end.
#[must_use]
pub fn faults(kv: &dyn KvRead, quorum: QuorumSizes, pgs: u16) -> Vec<String> {
    let mut audit = StateAudit::new(pgs, quorum);
    let mut found = Vec::new();
    for _ in 0..10_000 {
        audit
            .step(kv, AUDIT_ROWS)
            .expect("tables in memory can be read");
        found.extend(audit.take_faults().iter().map(|f| format!("{f:?}")));
        if audit.is_done() {
            return found;
        }
    }
    panic!("the audit does not end");
}

/// The next entry: as a leader would make it, or any that decodes.
fn entry(source: &mut Source<'_>, now: u64, next: u64) -> LogEntry {
    if source.below(16) == 0
        && let Ok((entry, rest)) = postcard::take_from_bytes::<LogEntry>(source.rest())
    {
        source.skip(source.rest().len() - rest.len());
        return entry;
    }
    let command = build::command(source, next);
    let at = match source.below(16) {
        0 => source.number(),
        _ => now,
    };
    let at = Time(at);
    LogEntry { at, command }
}

fn ask(voter: &Voter, source: &mut Source<'_>) {
    let query = match source.below(4) {
        0 => Query::Layout {
            ino: build::ino(source),
            version: None,
            first: dfs_core::types::ChunkNo(source.short()),
            count: source.short(),
        },
        1 => Query::ReadDir {
            ino: build::ino(source),
            after: source.number(),
            limit: source.short(),
            with_attrs: source.is(),
        },
        2 => Query::Walk {
            start: build::ino(source),
            path: source.some(build::name),
            follow_last: source.is(),
        },
        _ => match postcard::from_bytes(source.piece()) {
            Ok(query) => query,
            Err(_) => Query::StatFs,
        },
    };
    // Whatever the answer is.
    let _ = voter.state.query(&query);
}

/// See the [module docs](self).
pub fn commands(data: &[u8]) {
    let (mut one, mut other) = (Voter::new(), Voter::new());
    for command in beginning() {
        let at = Time(1);
        let entry = LogEntry { at, command };
        assert_eq!(one.apply(&entry), other.apply(&entry));
    }
    let mut source = Source::new(data);
    for count in 1..=ENTRIES_MAX {
        if source.is_empty() {
            break;
        }
        let now = count * 1_000_000_000;
        let entry = entry(&mut source, now, FIRST_SEQ + count);
        let said = one.apply(&entry);
        // The other voter has it from its own disk, and may have started again just before.
        let bytes = postcard::to_stdvec(&entry).expect("entries are plain data");
        let entry: LogEntry = postcard::from_bytes(&bytes).expect("an entry decodes");
        if source.below(16) == 0 {
            let kv = other.state.kv().clone();
            other.state = MasterState::open(kv).expect("what was written can be read");
            ask(&one, &mut source);
        }
        assert_eq!(said, other.apply(&entry), "{entry:?}");
        assert_eq!(one.state.applied(), other.state.applied());
    }
    assert!(
        one.state.kv() == other.state.kv(),
        "equal logs, unequal tables"
    );
    let quorum = one.state.map().quorum;
    let found = faults(one.state.kv(), quorum, PGS);
    assert!(found.is_empty(), "{found:#?}");
}
