//! Keeps this store's snapshots of the namespace: pulls one from the leader every so often, and when
//! somebody asks.
//!
//! Steps: 1. pages of one pinned state, one after the other, with pauses so that the leader has most
//! of its time for others; 2. parts go to the store as they fill up, each durable before the next
//! page is asked for; 3. the manifest, which alone makes it a snapshot; 4. what is older than the
//! newest two is dropped. It fails as a whole: what was written of it is dropped.
use super::leader_book::LeaderBook;
use super::replica::ReplicaHandle;
use dfs_core::net::clock::unix_ms;
use dfs_core::replica::NamespaceWork;
use dfs_core::rescue::{PartBuilder, manifest_object};
use dfs_core::types::{ClusterId, LogIndex, StoreId, Time};
use dfs_core::wire::node::NamespaceStored;
use dfs_core::wire::{ErrorCode, NodeRequest, NodeResponse, Request, Response, WireError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Bytes of a page: what the leader reads between two other events.
const PAGE_BYTES: u32 = 256 << 10;
/// How long one page may take.
const PAGE_WITHIN: Duration = Duration::from_secs(10);
/// After a page that took this long, pause so many times as long.
const PAUSE_TIMES: u32 = 3;
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Stores that take their snapshot at the same time share the leader's pin if it is this young.
const SHARED_AGE: Duration = Duration::from_secs(60);
/// After a snapshot that failed.
const RETRY: Duration = Duration::from_secs(60);

/// See the [module docs](self).
#[derive(Clone)]
pub struct NamespaceKeeper {
    cluster: ClusterId,
    store: StoreId,
    book: LeaderBook,
    replica: ReplicaHandle,
    /// One at a time.
    turn: Arc<Mutex<()>>,
}

impl NamespaceKeeper {
    /// For the store of this node.
    #[must_use]
    pub fn new(
        (cluster, store): (ClusterId, StoreId),
        book: LeaderBook,
        replica: ReplicaHandle,
    ) -> Self {
        Self {
            cluster,
            store,
            book,
            replica,
            turn: Arc::default(),
        }
    }

    /// Takes a snapshot each time the Unix clock passes a multiple of `every`; for ever.
    pub async fn run(self, every: Duration) {
        let every_ms = u64::try_from(every.as_millis())
            .unwrap_or(u64::MAX)
            .max(1000);
        // Not all stores in the same moment.
        let late = Duration::from_millis(self.store.0 as u64 % 20_000).min(every / 4);
        loop {
            let wait = every_ms - unix_ms() % every_ms;
            tokio::time::sleep(Duration::from_millis(wait) + late).await;
            let mut pause = RETRY;
            while let Err(error) = self.take(LogIndex(0), SHARED_AGE).await {
                tracing::warn!(%error, "no namespace snapshot was taken");
                if every <= pause {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }

    /// Takes a snapshot of the state pinned at `index`; 0: of one that was pinned at most `age_max`
    /// ago. It is durable when this returns.
    ///
    /// # Errors
    /// The leader's (`NotFound`: that state is not pinned any more), or `StoreFailed` with the
    /// store's words; the snapshots that were there stay.
    pub async fn take(
        &self,
        index: LogIndex,
        age_max: Duration,
    ) -> Result<NamespaceStored, WireError> {
        let _turn = self.turn.lock().await;
        // Of an attempt that was cut off by the end of the daemon.
        self.keep(NamespaceWork::Trim).await?;
        let taken = self.pull(index, age_max).await;
        let trimmed = self.keep(NamespaceWork::Trim).await;
        let stored = taken?;
        trimmed?;
        tracing::info!(index = %stored.index, rows = stored.rows, bytes = stored.bytes, "namespace snapshot");
        Ok(stored)
    }

    async fn pull(
        &self,
        mut index: LogIndex,
        age_max: Duration,
    ) -> Result<NamespaceStored, WireError> {
        let mut after = Vec::new();
        let mut builder: Option<PartBuilder> = None;
        let taken_at = loop {
            let asked = Instant::now();
            let (at, taken_at, pairs) = self.page(index, age_max, after).await?;
            index = at;
            let builder = builder.get_or_insert_with(|| PartBuilder::new(index));
            after = match pairs.last() {
                Some((last, _)) => last.clone(),
                None => break taken_at,
            };
            for part in builder.add(pairs) {
                self.keep(NamespaceWork::Keep(part)).await?;
            }
            let pause = (asked.elapsed() * PAUSE_TIMES).min(PAUSE_MAX);
            tokio::time::sleep(pause).await;
        };
        let builder = builder.unwrap_or_else(|| PartBuilder::new(index));
        let (last, manifest) = builder.finish(self.cluster, taken_at);
        if let Some(part) = last {
            self.keep(NamespaceWork::Keep(part)).await?;
        }
        self.keep(NamespaceWork::Keep(manifest_object(&manifest)))
            .await?;
        Ok(NamespaceStored {
            index,
            taken_at,
            rows: manifest.rows,
            bytes: manifest.bytes(),
        })
    }

    async fn page(
        &self,
        index: LogIndex,
        age_max: Duration,
        after: Vec<u8>,
    ) -> Result<(LogIndex, Time, Vec<dfs_core::store::KvPair>), WireError> {
        let request = Request::Node(NodeRequest::NamespacePage {
            index,
            age_max_ms: u32::try_from(age_max.as_millis()).unwrap_or(u32::MAX),
            after: after.clone(),
            bytes_max: PAGE_BYTES,
        });
        let deadline = Instant::now() + PAGE_WITHIN;
        let answer = self.book.call(&request, &[], deadline).await?;
        let bad = |what| WireError::new(ErrorCode::BadRequest, what);
        let Response::Node(NodeResponse::NamespacePage {
            index: at,
            taken_at,
            pairs,
        }) = answer.0
        else {
            return Err(bad("the answer is no page of the namespace"));
        };
        let follows = pairs.first().is_none_or(|(first, _)| *first > after);
        let ascends = pairs.windows(2).all(|two| two[0].0 < two[1].0);
        if !follows || !ascends || (index != LogIndex(0) && at != index) {
            return Err(bad("a page of the namespace is not the one that follows"));
        }
        Ok((at, taken_at, pairs))
    }

    async fn keep(&self, work: NamespaceWork) -> Result<(), WireError> {
        let failed = |cause| WireError::new(ErrorCode::StoreFailed, cause);
        self.replica.namespace(work).await.map_err(failed)
    }
}
