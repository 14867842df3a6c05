//! Carries the machines' outgoing calls: resolves whom they mean and runs each on the runtime.
use super::leader_book::LeaderBook;
use dfs_core::net::pool::Pool;
use dfs_core::wire::rpc::{Call, CallResult, CallTarget};
use dfs_core::wire::{ErrorCode, WireError};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Longest wait for an answer; the machines retry.
const DEADLINE: Duration = Duration::from_secs(5);

/// See the [module docs](self).
#[derive(Clone)]
pub struct Calls {
    runtime: tokio::runtime::Handle,
    /// For the master and voters; takes its pushes.
    metadata: Pool,
    /// For copies between stores.
    repair: Pool,
    book: LeaderBook,
}

impl Calls {
    /// Calls run on `runtime`.
    #[must_use]
    pub fn new(
        runtime: tokio::runtime::Handle,
        metadata: Pool,
        repair: Pool,
        book: LeaderBook,
    ) -> Self {
        Self {
            runtime,
            metadata,
            repair,
            book,
        }
    }

    /// Makes the call and hands its result to `done`, exactly once, on the runtime.
    pub fn spawn(&self, call: Call, done: impl FnOnce(u64, CallResult) + Send + 'static) {
        let this = self.clone();
        self.runtime.spawn(async move {
            let token = call.token;
            let result = this.run(call).await;
            done(token, result);
        });
    }

    async fn run(&self, call: Call) -> CallResult {
        let Call {
            token: _,
            to,
            request,
            payload,
        } = call;
        let deadline = Instant::now() + DEADLINE;
        match to {
            CallTarget::Leader => self.book.call(&request, &payload, deadline).await,
            CallTarget::Store(_, addr) => self.repair.call(addr, request, payload, deadline).await,
            CallTarget::Node(_, addr) => self.metadata.call(addr, request, payload, deadline).await,
            CallTarget::Voter(id) => {
                let detail = format!("the address of Raft id {} is not known here", id.0);
                Err(WireError::new(ErrorCode::Unavailable, detail))
            }
        }
    }

    /// Sends messages that may be lost.
    pub fn cast_all(&self, addr: SocketAddr, requests: Vec<dfs_core::wire::Request>) {
        let _entered = self.runtime.enter();
        self.metadata.cast_all(addr, requests);
    }
}
