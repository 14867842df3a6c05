//! The placement map and the stores' addresses, as the master last told them.
use super::core::Client;
use super::error::{ClientError, Result};
use crate::net::conn::deadline_in;
use crate::types::{LogIndex, PgMap, StoreId};
use crate::wire::{
    ErrorCode, MasterRequest, MasterResponse, NodeRequest, NodeResponse, Query, QueryAnswer,
    ReplicaRequest, ReplicaResponse, Request, Response, WireError,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use std::time::Instant;

/// See the [module docs](self).
#[derive(Default)]
pub(super) struct MapCell {
    state: RwLock<State>,
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    map: Option<Arc<PgMap>>,
    /// The master has this version.
    newest: LogIndex,
    stores: BTreeMap<StoreId, SocketAddr>,
}

impl MapCell {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_least(&self, version: LogIndex) -> Option<Arc<PgMap>> {
        self.read().map.clone().filter(|m| m.version >= version)
    }
}

impl Client {
    pub(super) fn note_stores(&self, stores: Vec<(StoreId, SocketAddr)>) {
        // Told twice a second, and nearly always the same.
        let same = {
            let state = self.map.read();
            state.stores.len() == stores.len()
                && stores.iter().all(|(s, a)| state.stores.get(s) == Some(a))
        };
        if !same {
            self.map.write().stores = stores.into_iter().collect();
        }
    }

    pub(super) fn note_map_version(&self, version: LogIndex) {
        if self.map.read().newest < version {
            self.map.write().newest = version;
        }
    }

    /// The placement map: as cached, or fetched when the master has said that there is a newer one.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn pg_map(&self) -> Result<Arc<PgMap>> {
        let newest = self.map.read().newest;
        match self.known_map(newest) {
            Some(map) => Ok(map),
            None => self.refresh_map(newest).await,
        }
    }

    /// The cached map if it will do. Without a session nobody tells us of newer ones.
    fn known_map(&self, min_version: LogIndex) -> Option<Arc<PgMap>> {
        self.map
            .at_least(min_version)
            .filter(|_| self.config.session)
    }

    /// The map last fetched, without waiting.
    #[must_use]
    pub fn cached_pg_map(&self) -> Option<Arc<PgMap>> {
        self.map.read().map.clone()
    }

    /// The placement map at `min_version` or newer if the master has such a one by now; else its
    /// current one.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn refresh_map(&self, min_version: LogIndex) -> Result<Arc<PgMap>> {
        let _one = self.map.fetching.lock().await;
        if let Some(map) = self.known_map(min_version) {
            return Ok(map);
        }
        let QueryAnswer::PgMap(map) = self.query(Query::PgMap, false).await? else {
            return Err(ClientError::Mismatch {
                asked: "placement map",
            });
        };
        let map = Arc::new(map);
        let mut state = self.map.write();
        if state.map.as_ref().is_none_or(|m| m.version <= map.version) {
            state.map = Some(Arc::clone(&map));
        }
        // A version heard of before the answer came is not waited for any longer.
        state.newest = state.newest.min(map.version);
        Ok(map)
    }

    /// Where a store is, as the master last said.
    #[must_use]
    pub fn store_addr(&self, store: StoreId) -> Option<SocketAddr> {
        self.map.read().stores.get(&store).copied()
    }

    /// All stores and their addresses.
    #[must_use]
    pub fn stores(&self) -> Vec<(StoreId, SocketAddr)> {
        let state = self.map.read();
        state.stores.iter().map(|(s, a)| (*s, *a)).collect()
    }

    /// Asks a store. The payload of the answer is not verified here.
    ///
    /// # Errors
    /// As [`Conn::call`](crate::net::Conn::call); `Unavailable` when its address is not known or it
    /// refused a connection lately.
    pub async fn replica_call(
        &self,
        store: StoreId,
        request: ReplicaRequest,
        payload: Vec<Bytes>,
        deadline: Instant,
    ) -> Result<(ReplicaResponse, Bytes), WireError> {
        let Some(addr) = self.store_addr(store) else {
            return Err(WireError::new(
                ErrorCode::Unavailable,
                format!("the address of store {store} is not known"),
            ));
        };
        self.trips.to_store(&request);
        let request = Request::Replica(request);
        match self.pool.call(addr, request, payload, deadline).await? {
            (Response::Replica(answer), payload) => Ok((answer, payload)),
            _ => Err(WireError::new(
                ErrorCode::BadRequest,
                format!("{addr}: not an answer of a store"),
            )),
        }
    }

    /// Asks a node by address, within `deadline_meta`; needs no leader.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what [`Conn::call`](crate::net::Conn::call) says.
    pub async fn node_call(&self, addr: SocketAddr, request: NodeRequest) -> Result<NodeResponse> {
        let within = self.config.deadline_meta;
        self.node_call_within(addr, request, within).await
    }

    /// As [`node_call`](Self::node_call), for what may take this long.
    ///
    /// # Errors
    /// As there.
    pub async fn node_call_within(
        &self,
        addr: SocketAddr,
        request: NodeRequest,
        within: Duration,
    ) -> Result<NodeResponse> {
        let deadline = deadline_in(within);
        let request = Request::Node(request);
        match self.pool.call(addr, request, Vec::new(), deadline).await? {
            (Response::Node(answer), _) => Ok(answer),
            _ => Err(ClientError::Mismatch { asked: "node" }),
        }
    }

    /// Asks the store at an address, for which no session is needed.
    ///
    /// # Errors
    /// It does not answer in time, or refuses.
    pub async fn store_call(
        &self,
        addr: SocketAddr,
        request: ReplicaRequest,
        within: Duration,
    ) -> Result<ReplicaResponse> {
        let deadline = deadline_in(within);
        let request = Request::Replica(request);
        match self.pool.call(addr, request, Vec::new(), deadline).await? {
            (Response::Replica(answer), _) => Ok(answer),
            _ => Err(ClientError::Mismatch { asked: "store" }),
        }
    }

    /// Asks the voter at an address, whether it leads or not.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn voter_call(
        &self,
        addr: SocketAddr,
        request: MasterRequest,
    ) -> Result<MasterResponse> {
        let deadline = deadline_in(self.config.deadline_meta);
        let request = Request::Master(request);
        match self.pool.call(addr, request, Vec::new(), deadline).await? {
            (Response::Master(answer), _) => Ok(answer),
            _ => Err(ClientError::Mismatch { asked: "voter" }),
        }
    }
}
