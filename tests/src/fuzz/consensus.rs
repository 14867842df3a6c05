//! What voters say to each other and keep of it: messages, records, the log on disk, the machine.
use super::recoded;
use super::source::Source;
use dfs_core::consensus::{
    ConfChange, HardState, LogConfig, LogError, LogId, LogRecord, LogWrite, RaftAction, RaftConfig,
    RaftEvent, RaftLog, RaftMessage, RaftNode, RecoveredLog, SnapshotMeta, StateAt,
};
use dfs_core::store::{Disk, SimDisk};
use dfs_core::types::{ClusterId, RaftId, Time, crc32c};
use std::sync::Arc;
use std::time::Duration;

const ME: RaftId = RaftId(1);
/// Directory of the log.
const DIR: &str = "raft";
/// Where the first frame of a segment stands.
const FRAMES_FROM: usize = 4096;
const FRAME_HEADER: usize = 32;
/// Events of a machine because of one input.
const EVENTS_MAX: usize = 400;

const ID: LogId = LogId {
    cluster: ClusterId(4),
    raft: ME,
};

fn bootstrapped() -> SnapshotMeta {
    SnapshotMeta::bootstrap((1..=3).map(RaftId))
}

/// A message of a voter: it survives the wire, and is judged without a panic.
pub fn raft_message(data: &[u8]) {
    let Ok(message) = RaftMessage::decode(data) else {
        return;
    };
    let again = message.encode();
    assert_eq!(RaftMessage::decode(&again).as_ref(), Ok(&message));
    // Whatever it decides.
    let _ = message.validate(ME, RaftId(2));
    recoded::<RaftMessage>(data);
}

/// A record of the log, and a change of members.
pub fn raft_record(data: &[u8]) {
    recoded::<LogRecord>(data);
    recoded::<SnapshotMeta>(data);
    if let Ok(change) = ConfChange::decode(data) {
        assert_eq!(ConfChange::decode(&change.encode()), Ok(change.clone()));
        // Whatever it decides.
        let _ = change.check(&bootstrapped().conf);
    }
}

fn options() -> LogConfig {
    LogConfig {
        segment_bytes: 16 << 10,
        spares_max: 1,
    }
}

fn opened(disk: &Arc<SimDisk>) -> Result<(RaftLog, RecoveredLog), LogError> {
    let disk: Arc<dyn Disk> = disk.clone();
    RaftLog::open(disk, DIR, ID, options())
}

fn content(disk: &SimDisk, path: &str) -> Vec<u8> {
    let file = disk.open(path, false).expect("the file is there");
    let len = file.len().expect("a simulated disk tells lengths");
    let len = usize::try_from(len).expect("small");
    let bytes = file.read_at(0, len);
    bytes.expect("a simulated disk can be read").to_vec()
}

/// Offset and ordinal of the frame that would come next.
fn end_of(segment: &[u8]) -> (usize, u64) {
    let (mut at, mut ordinal) = (FRAMES_FROM, 1);
    while let Some(header) = segment.get(at..at + FRAME_HEADER)
        && header[..4] == segment[FRAMES_FROM..FRAMES_FROM + 4]
    {
        let len = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
        ordinal = 1 + u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
        at = (at + FRAME_HEADER + len as usize).next_multiple_of(8);
    }
    (at, ordinal)
}

/// Writes a frame whose payload is `payload`, whatever it is, with right checksums.
fn forge(disk: &SimDisk, path: &str, payload: &[u8]) {
    let segment = content(disk, path);
    let (at, ordinal) = end_of(&segment);
    let mut frame = segment[FRAMES_FROM..FRAMES_FROM + 4].to_vec();
    let len = u32::try_from(payload.len()).expect("small");
    frame.extend(len.to_le_bytes());
    frame.extend(0u64.to_le_bytes());
    frame.extend(ordinal.to_le_bytes());
    frame.extend(crc32c(payload).to_le_bytes());
    let covered = [&frame[..], &(at as u64).to_le_bytes()].concat();
    frame.extend(crc32c(&covered).to_le_bytes());
    frame.extend(payload);
    frame.resize(frame.len().next_multiple_of(8), 0);
    let file = disk.open(path, false).expect("the file is there");
    let done = file.write_at(at as u64, &frame);
    done.expect("a simulated disk has room");
}

/// A log directory: what was appended is found again, or that it rotted is said; what opens once opens
/// again with the same content.
pub fn raft_log(data: &[u8]) {
    let mut source = Source::new(data);
    let disk = Arc::new(SimDisk::new());
    let made = RaftLog::create(disk.clone(), DIR, ID, options(), &bootstrapped());
    let (mut log, first) = made.expect("a log can be made");
    let mut written = first.entries.len();
    for _ in 0..source.below(4) {
        let Ok(LogRecord::Entry(mut entry)) = postcard::from_bytes(source.piece()) else {
            continue;
        };
        entry.index.0 = 2 + written as u64;
        entry.term.0 %= 1 << 40; // larger ones are refused before they come here
        let records = vec![LogRecord::Entry(entry)];
        let appended = log.append(&[LogWrite { records }]);
        appended.expect("an entry that follows can be appended");
        written += 1;
    }
    drop(log);
    let (_, sound) = opened(&disk).expect("a log that nothing happened to opens");
    assert_eq!(sound.entries.len(), written);
    let path = format!("{DIR}/seg-{:016x}", 0);
    // What is forged, or hides how far the log went, may take something away unseen; rot may not.
    let mut is_forged = false;
    while !source.is_empty() {
        match source.below(4) {
            0 => {
                let at = u64::from(source.byte()) << 8 | u64::from(source.byte());
                disk.flip_bit(&path, at % (16 << 10));
            }
            1 => {
                let at = FRAMES_FROM as u64 + u64::from(source.byte());
                disk.flip_bit(&path, at);
            }
            2 => {
                is_forged = true;
                disk.flip_bit(&format!("{DIR}/acked"), u64::from(source.below(24)));
            }
            _ => {
                is_forged = true;
                forge(&disk, &path, source.piece());
            }
        }
    }
    let found = opened(&disk);
    if let Err(refused) = &found
        && !is_forged
    {
        let is_named = matches!(refused, LogError::Rot { .. });
        assert!(is_named, "rot is called {refused}");
    }
    if let Ok((log, recovered)) = found {
        drop(log);
        if !is_forged {
            assert_eq!(recovered, sound, "what was acknowledged is gone unseen");
        }
        let (_, again) = opened(&disk).expect("what opened once opens again");
        assert_eq!(recovered.entries, again.entries);
        let config = RaftConfig::new(ME);
        // Whatever it decides.
        let _ = RaftNode::new(config, recovered, &StateAt::default(), 1);
    }
}

/// A member among peers that say anything; the machine checks its invariants after each event.
pub fn raft_node(data: &[u8]) {
    let mut source = Source::new(data);
    let base = bootstrapped();
    let log = RecoveredLog {
        hard: HardState {
            term: base.term,
            vote: None,
            commit: base.index,
        },
        base,
        entries: Vec::new(),
        installing: None,
        dropped_torn_tail: false,
    };
    let mut config = RaftConfig::new(ME);
    config.keep_entries = 1;
    let node = RaftNode::new(config, log, &StateAt::default(), 1);
    let mut node = node.expect("a first voter starts");
    let (mut now, mut unsynced) = (Time::ZERO, Vec::new());
    for _ in 0..EVENTS_MAX {
        if source.is_empty() {
            return;
        }
        now = now + Duration::from_millis(60);
        let mut events = vec![match source.below(8) {
            0 => RaftEvent::Tick,
            1 => RaftEvent::Campaign,
            2 => match unsynced.pop() {
                Some(token) => {
                    unsynced.clear();
                    RaftEvent::Persisted { token }
                }
                None => RaftEvent::Tick,
            },
            3 => RaftEvent::SnapshotFailed,
            how => {
                let from = RaftId(u64::from(how) - 2);
                match RaftMessage::decode(source.piece()) {
                    Ok(message) => RaftEvent::Message { from, message },
                    Err(_) => RaftEvent::Tick,
                }
            }
        }];
        while let Some(event) = events.pop() {
            let mut out = Vec::new();
            node.handle(now, event, &mut out);
            for action in out {
                match action {
                    RaftAction::Persist { token, .. } => unsynced.push(token),
                    RaftAction::Apply { entries } => {
                        let last = entries.last().expect("something is to be applied");
                        events.push(RaftEvent::Applied { index: last.index });
                    }
                    RaftAction::Send { message, .. } => {
                        let again = RaftMessage::decode(&message.encode());
                        assert_eq!(again, Ok(message));
                    }
                    _ => {}
                }
            }
        }
    }
}
