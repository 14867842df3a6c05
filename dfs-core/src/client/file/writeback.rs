//! From buffered bytes to committed puts.
//!
//! Dirty bytes are cut into a put (a *flight*) when a chunk is complete, when they are old enough,
//! when the budget is reached, and at flush, fsync, recall and before any other content change.
//! With `behind`, what is closed while a flight is on its way follows it, together with what is closed until then.
//! Flights of one inode prepare side by side and commit in order; they end in [`FileLayer::land`].
use super::access;
use super::backend::OpHandle;
use super::error::{FileError, FileResult};
use super::inode::{Cut, Effect, Flight, Inode, Outcome, State};
use super::layer::FileLayer;
use super::layout::Applied;
use super::put_task::{PutTask, Renew, Turn, blocks_of, whole};
use crate::client::put::{PutChange, PutDone, PutError, PutObject, PutSpec};
use crate::types::layout::CHUNK_SIZE;
use crate::types::{BlockSums, ChunkNo, Extent, ObjectId, OpId, PgMap, SetTime};
use crate::wire::WriteToken;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often dirty files are looked at.
const SWEEP: Duration = Duration::from_millis(100);
/// Least time between two looks: each goes through all files of the last moments.
const KICK_SPACING: Duration = Duration::from_millis(10);
/// Periods of one file that wait to be sealed, about.
const SEALS_MAX: usize = 64;
/// Larger puts keep the stores busy alone.
const LEISURELY_MAX: u64 = 1 << 20;
/// Least time between two rounds of SEALs.
const SEAL_SPACING: Duration = Duration::from_millis(100);

impl FileLayer {
    /// Cuts all dirty bytes of the inode into a put, if there are any.
    pub(super) fn cut_all(self: &Arc<Self>, inode: &Arc<Inode>) {
        let mut state = inode.state();
        if state.is_dirty() {
            self.cut(inode, &mut state, None, true);
        }
    }

    /// What was closed follows the put that is on its way, together with what is closed until then: a file
    /// that is closed again and again is put as often as puts take. False if there is none.
    pub(super) fn follow(&self, inode: &Inode) -> bool {
        let mut state = inode.state();
        state.follows = state.may_buffer() && state.is_dirty() && !state.flights.is_empty();
        state.follows
    }

    /// Cuts dirty bytes (of one chunk, or all) into a put and starts it.
    pub(super) fn cut(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        state: &mut State,
        only: Option<ChunkNo>,
        latch: bool,
    ) -> Outcome {
        state.follows &= only.is_some();
        let ranges = state.dirty.cut(only);
        let end = ranges.last().map_or(0, |(at, b)| at + b.len() as u64);
        let change = match state.replace.take() {
            // Cut to nothing and not written: whoever writes next continues this version.
            Some(_) if ranges.is_empty() && state.size == 0 => PutChange::Truncate { size: 0 },
            // Nothing was written after it: for the master not yet the work of a writer.
            Some(_) if ranges.is_empty() => PutChange::Truncate { size: state.size },
            Some(_) if only.is_some() => PutChange::Replace { size: end },
            Some(_) => PutChange::Replace { size: state.size },
            None => PutChange::Write,
        };
        self.launch(inode, state, change, ranges, latch)
    }

    /// Starts a put of any kind. What is dirty and came before must have been cut before.
    pub(super) fn launch(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        state: &mut State,
        change: PutChange,
        ranges: Vec<(u64, Bytes)>,
        latch: bool,
    ) -> Outcome {
        let mut effects = Vec::with_capacity(ranges.len() + 1);
        match change {
            PutChange::Replace { .. } => effects.push(Effect::Zeros(0, u64::MAX)),
            PutChange::Truncate { size } => effects.push(Effect::Zeros(size, u64::MAX)),
            PutChange::Punch { offset, len } => {
                effects.push(Effect::Zeros(offset, offset.saturating_add(len)));
            }
            PutChange::Write
            | PutChange::Append { .. }
            | PutChange::Extend { .. }
            | PutChange::Restore { .. }
            | PutChange::Compact { .. } => {}
        }
        effects.extend(ranges.iter().map(|(at, b)| Effect::Bytes(*at, b.clone())));
        let kill_suid = std::mem::take(&mut state.kill_suid);
        let flight = Flight {
            seq: state.next_flight,
            kill_suid,
            effects: Arc::new(effects),
            bytes: ranges.iter().map(|r| r.1.len() as u64).sum(),
            sizes: matches!(
                change,
                PutChange::Replace { .. } | PutChange::Truncate { .. }
            ),
            outcome: Outcome::default(),
        };
        state.next_flight += 1;
        self.budget.fly(flight.bytes);
        state.flights.push_back(flight.clone());
        let outcome = Arc::clone(&flight.outcome);
        let token = *state.token.get_or_insert_with(|| self.next_token());
        // Without a writer the period is over when this is: nobody would end it otherwise.
        if state.writers == 0 {
            state.token = None;
            state.seals.push(token);
        }
        let mtime = state.mtime;
        let about = self.about(inode.ino, state, &change);
        let lease = state.registered.map(|r| r.lease);
        let cut = Cut {
            about,
            lease,
            flight,
            change,
            ranges,
            mtime,
            kill_suid,
            token,
            ends: Arc::default(),
            latch,
        };
        // Under the lock: op-ids of one inode ascend in the order of its flights.
        let op = self.backend.begin_op();
        let (layer, inode) = (Arc::clone(self), Arc::clone(inode));
        self.runtime
            .spawn(async move { layer.fly(inode, cut, op).await });
        outcome
    }

    async fn fly(self: Arc<Self>, inode: Arc<Inode>, cut: Cut, op: Box<dyn OpHandle>) {
        let (objects, bytes) = objects_of(&cut.ranges);
        let applied = match self.pg_map().await {
            Ok(map) => applied(&map, &inode, op.op(), &cut, &objects),
            Err(error) => {
                let nothing = Applied::default();
                return self.land(&inode, &cut, op.op(), Err(error), nothing);
            }
        };
        let result = self.put(&inode, &cut, op.op(), objects, bytes).await;
        self.land(&inode, &cut, op.op(), result, applied);
    }

    async fn put(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cut: &Cut,
        op: OpId,
        objects: Vec<PutObject>,
        bytes: BTreeMap<u32, Vec<Bytes>>,
    ) -> FileResult<PutDone> {
        let sessions = self.sessions.subscribe();
        // Changed under a session that has ended, and so perhaps under a lock that was lost with it.
        if op.client != self.backend.client() || cut.token.client != op.client {
            return Err(PutError::SessionLost { unknown: false }.into());
        }
        let lease = self.write_lease(inode).await?.lease;
        if cut.latch && cut.lease.is_some_and(|of_cut| of_cut != lease) {
            return Err(FileError::Dropped("the write lease was lost"));
        }
        let spec = PutSpec {
            op,
            ino: inode.ino,
            lease,
            token: cut.token,
            change: cut.change.clone(),
            mtime: cut.mtime.map(SetTime::At),
            // Buffered before the lease was lost, it must not overwrite what came since.
            renews: !cut.latch,
            kill_suid: cut.kill_suid,
            base: None,
            objects,
            about: cut.about.clone(),
            more: false,
        };
        let (waiting, seq) = (Arc::clone(inode), cut.flight.seq);
        let first = move |s: &State| s.flights.front().is_none_or(|f| f.seq >= seq);
        let turn: Turn = Box::new(move || Box::pin(async move { waiting.wait_until(first).await }));
        let (ends, of, token) = (Arc::clone(&cut.ends), Arc::clone(inode), cut.token);
        let task = PutTask {
            backend: Arc::clone(&self.backend),
            config: self.config.put.clone(),
            spec,
            bytes,
            sessions,
            turn,
            renew: self.renewal(inode),
            ends: Some(Arc::new(move || {
                *ends.get_or_init(|| of.state().is_last(seq, &token))
            })),
            leisure: (cut.flight.bytes <= LEISURELY_MAX).then(|| Arc::clone(&self.config.leisure)),
            feed: None,
            stored: None,
        };
        Ok(task.run().await?)
    }

    /// How a put gets another lease than the one that was refused.
    pub(super) fn renewal(self: &Arc<Self>, inode: &Arc<Inode>) -> Renew {
        let (layer, inode) = (Arc::clone(self), Arc::clone(inode));
        Box::new(move || {
            let (layer, inode) = (Arc::clone(&layer), Arc::clone(&inode));
            Box::pin(async move {
                let registered = layer.register(&inode, true).await.ok()?;
                Some(registered.lease)
            })
        })
    }

    /// A put was decided.
    fn land(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cut: &Cut,
        op: OpId,
        result: FileResult<PutDone>,
        applied: Applied,
    ) {
        let mut freed = cut.flight.bytes;
        let mut state = inode.state();
        state.flights.retain(|f| f.seq != cut.flight.seq);
        match &result {
            Ok(done) => {
                self.stats.puts.fetch_add(1, Ordering::Relaxed);
                if cut.flight.sizes {
                    // Whatever was lost, this is the content now.
                    let _ = self.take_unheard(inode.ino);
                }
                if state.seals.len() > SEALS_MAX {
                    // They wait while puts go on. The seal of this period ends those before it.
                    let is_before = |t: &WriteToken| t.client == cut.token.client && *t < cut.token;
                    state.used_tokens.retain(|t| !is_before(t));
                    state.seals.retain(|t| !is_before(t));
                }
                match cut.ends.get() {
                    Some(true) => state.sealed(&cut.token),
                    _ => drop(state.used_tokens.insert(cut.token)),
                }
                match cut.change {
                    // Nobody has written that into the kernel's pages.
                    PutChange::Restore { .. } => state.own = None,
                    _ => state.learn_own(done.revision),
                }
                let moved = matches!(cut.change, PutChange::Append { at } if at != done.offset)
                    || matches!(cut.change, PutChange::Restore { .. });
                let kept = match state.layout.as_mut().map(Arc::make_mut) {
                    Some(layout) if layout.revision >= done.revision => true,
                    Some(layout) => !moved && layout.apply(done.revision, op, &applied),
                    None => false,
                };
                if !kept {
                    state.invalidate();
                }
                state.learn_attr(&done.attr);
                if !moved {
                    self.keep_blocks(cut, &applied);
                }
                if let Some(chunk) = done.crowded {
                    self.compact(inode, chunk);
                }
            }
            Err(error) => {
                tracing::warn!(ino = %inode.ino, %op, %error, "put failed");
                freed += self.not_landed(inode, &mut state, cut, error);
            }
        }
        if state.follows && state.flights.is_empty() {
            match state.writers == 0 || state.is_left() {
                true => self.end_period(inode, &mut state),
                // Somebody goes on with what was closed.
                false => drop(self.cut(inode, &mut state, None, true)),
            }
        }
        state.settle();
        let ends = state.has_ended();
        let own = state.own.clone().filter(|_| result.is_ok());
        drop(state);
        if let Some(own) = own {
            self.stored(inode.ino, &own);
        }
        self.budget.land(cut.flight.bytes);
        self.budget.give(freed);
        // Set once, here: a flight lands once.
        // `freed` counts what was buffered behind it, too.
        let is_lost = result.is_err() && (freed > 0 || cut.flight.sizes);
        let _ = cut.flight.outcome.set(result);
        if is_lost {
            self.lost(inode.ino);
        }
        inode.changed.notify_waiters();
        if ends {
            self.kick.notify_one();
        }
    }

    /// A put failed; gives the bytes that were buffered and are lost with it.
    fn not_landed(&self, inode: &Inode, state: &mut State, cut: &Cut, error: &FileError) -> u64 {
        let gone = match error {
            FileError::Put(PutError::SessionLost { unknown }) => {
                if *unknown {
                    state.invalidate();
                }
                true
            }
            // Another lease may have been got meanwhile.
            FileError::Put(PutError::StaleLease) => {
                let lease = state.registered.map(|r| r.lease);
                lease.is_none() || cut.lease.is_none() || lease == cut.lease
            }
            _ => false,
        };
        let mut freed = 0;
        if gone {
            // What was buffered under the lost lease must not overwrite what came since.
            state.registered = None;
            freed = state.drop_dirty();
            state.invalidate();
        }
        if cut.latch || gone {
            state.latch(error.clone());
            if cut.latch && self.config.behind {
                self.failed_behind(inode.ino, error);
            }
        }
        freed
    }

    /// What was just written is likely to be read: its blocks are known and verified.
    fn keep_blocks(&self, cut: &Cut, applied: &Applied) {
        for (chunk, extent) in &applied.extents {
            let at = chunk.start() + u64::from(extent.start);
            let range = cut.ranges.iter().find(|(start, b)| {
                *start <= at && at + u64::from(extent.len) <= start + b.len() as u64
            });
            let Some((start, bytes)) = range else {
                continue;
            };
            let from = (at - start) as usize;
            let bytes = bytes.slice(from..from + extent.len as usize);
            for (key, block) in blocks_of(&whole(extent.object, extent.pg, extent.sum), &bytes) {
                self.blocks.insert(key, block);
            }
        }
    }

    /// Puts what is dirty and waits until every put begun so far is decided.
    pub(super) async fn drain(self: &Arc<Self>, inode: &Arc<Inode>) {
        let _hurry = inode
            .state()
            .is_pending()
            .then(|| self.config.leisure.hurry());
        self.drain_at_leisure(inode).await;
    }

    /// The same, for what no program waits for either.
    pub(super) async fn drain_at_leisure(self: &Arc<Self>, inode: &Arc<Inode>) {
        self.cut_all(inode);
        let upto = inode.state().next_flight;
        inode
            .wait_until(|s| s.flights.iter().all(|f| f.seq >= upto))
            .await;
    }

    /// Waits until the budget has room for `more`, putting dirty bytes to make it.
    pub(super) async fn make_room(self: &Arc<Self>, more: u64) {
        while !self.budget.has_room(more) {
            let _hurry = self.config.leisure.hurry();
            for inode in self.all() {
                if self.budget.is_pressed() {
                    self.cut_all(&inode);
                }
            }
            self.budget.wait_for_room(more).await;
        }
    }

    /// Waits for one put.
    pub(super) async fn outcome(&self, inode: &Inode, outcome: &Outcome) -> FileResult<PutDone> {
        let _hurry = self.config.leisure.hurry();
        inode.wait_until(|_| outcome.get().is_some()).await;
        outcome.get().cloned().expect("waited for")
    }

    /// Puts what is old, all of it when the budget is short, cuts versions, and releases what is
    /// idle.
    pub(super) async fn run_writeback(layer: Weak<Self>) {
        let (mut sealed_at, mut noted_at) = (None, None);
        loop {
            let Some(this) = layer.upgrade() else { return };
            let pressed = this.budget.is_pressed();
            let now = this.backend.now();
            let inodes = this.all();
            let idle = inodes.is_empty();
            let may_seal = sealed_at.is_none_or(|at| now.since(at) >= SEAL_SPACING);
            let mut ended = Vec::new();
            for inode in inodes {
                let due = |at| pressed || now.since(at) >= this.config.write_delay;
                if inode.state().dirty_since().is_some_and(due) {
                    this.cut_all(&inode);
                }
                if may_seal && inode.state().has_ended() {
                    ended.push(inode);
                }
            }
            if !ended.is_empty() {
                sealed_at = Some(now);
                this.seal_together(ended);
            }
            this.release_idle();
            if this.access.has_noted() && now.since(*noted_at.get_or_insert(now)) >= access::SPACING
            {
                noted_at = None;
                let layer = Arc::clone(&this);
                this.runtime
                    .spawn(async move { layer.tell_accessed().await });
            }
            let pause = if idle { SWEEP * 10 } else { SWEEP };
            let kick = Arc::clone(&this.kick);
            drop(this); // Held over the pause, it would keep the layer alive.
            if tokio::time::timeout(pause, kick.notified()).await.is_ok() {
                tokio::time::sleep(KICK_SPACING).await;
            }
        }
    }
}

/// Cuts ranges at chunk boundaries into objects, and their bytes by index.
pub(super) fn objects_of(ranges: &[(u64, Bytes)]) -> (Vec<PutObject>, BTreeMap<u32, Vec<Bytes>>) {
    let (mut objects, mut by_index) = (Vec::new(), BTreeMap::new());
    for (offset, bytes) in ranges {
        let (mut at, mut rest) = (*offset, bytes.clone());
        while !rest.is_empty() {
            let chunk = ChunkNo::of(at);
            let start = at - chunk.start();
            let room = usize::try_from(CHUNK_SIZE - start).unwrap_or(usize::MAX);
            let part = rest.split_to(rest.len().min(room));
            at += part.len() as u64;
            let sums = BlockSums::of(&part);
            let sum = sums.object_sum(u32::try_from(part.len()).unwrap_or(u32::MAX));
            let start = u32::try_from(start).unwrap_or(0);
            by_index.insert(u32::try_from(objects.len()).unwrap_or(u32::MAX), vec![part]);
            objects.push(PutObject {
                chunk,
                start,
                sums,
                sum,
            });
        }
    }
    (objects, by_index)
}

/// What the put does to the layout once it is committed.
fn applied(map: &PgMap, inode: &Inode, op: OpId, cut: &Cut, objects: &[PutObject]) -> Applied {
    let mut applied = Applied::default();
    for (index, object) in (0u32..).zip(objects) {
        let (pg, _) = map.of_chunk(inode.ino, object.chunk);
        let extent = Extent {
            start: object.start,
            len: object.sum.len,
            pg,
            object: ObjectId { op, index },
            object_offset: 0,
            sum: object.sum,
        };
        let end = object.chunk.start() + u64::from(object.start) + u64::from(object.sum.len);
        applied.end = applied.end.max(end);
        applied.extents.push((object.chunk, extent));
    }
    match cut.change {
        PutChange::Replace { size } => {
            applied.holes.push((0, u64::MAX));
            applied.size = Some(size);
        }
        PutChange::Truncate { size } => {
            applied.holes.push((size, u64::MAX));
            applied.size = Some(size);
        }
        PutChange::Punch { offset, len } => {
            applied.holes.push((offset, offset.saturating_add(len)));
        }
        PutChange::Extend { size } => applied.end = size,
        PutChange::Write
        | PutChange::Append { .. }
        | PutChange::Restore { .. }
        | PutChange::Compact { .. } => {}
    }
    applied
}
