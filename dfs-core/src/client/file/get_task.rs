//! Runs a [`GetMachine`] against the [`Backend`].
use super::backend::{Backend, BoxFuture};
use crate::client::get::{
    GetAction, GetConfig, GetDone, GetError, GetEvent, GetMachine, GetSpec, ReadAnswer, Resolved,
};
use crate::client::latency::Latencies;
use crate::types::{Ino, Time};
use crate::wire::{ErrorCode, ReplicaResponse, WireError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Asks the master for the current layout, and maps what is wanted by it.
pub(super) type Resolver =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Resolved, WireError>> + Send + Sync>;

/// Latencies shared by all gets of a mount.
pub(super) type SharedLatencies = Arc<Mutex<Arc<Latencies>>>;

/// One get on its way. See the [module docs](self).
pub(super) struct GetTask {
    pub backend: Arc<dyn Backend>,
    pub config: GetConfig,
    pub spec: GetSpec,
    pub latencies: SharedLatencies,
    pub resolver: Resolver,
}

impl GetTask {
    /// Runs the get to its end.
    pub async fn run(self) -> Result<GetDone, GetError> {
        let (events_in, mut events) = mpsc::unbounded_channel();
        let mut out = Vec::new();
        let (now, map) = (self.backend.now(), self.backend.pg_map());
        let latencies = Arc::clone(&lock(&self.latencies));
        let mut driver = Driver {
            ino: self.spec.ino,
            backend: Arc::clone(&self.backend),
            latencies: self.latencies,
            resolver: self.resolver,
            within: self.config.deadline,
            events: events_in,
            timer: None,
            finished: None,
        };
        let mut get = GetMachine::start(now, self.config, self.spec, map, latencies, &mut out);
        loop {
            for action in out.drain(..) {
                driver.perform(action);
            }
            if let Some(result) = driver.finished.take() {
                return result;
            }
            let pause = driver.pause();
            let event = tokio::select! {
                Some(event) = events.recv() => event,
                () = tokio::time::sleep(pause) => GetEvent::Tick,
            };
            driver.timer = None; // The machine names the next one, if it needs any.
            get.handle(self.backend.now(), event, &mut out);
        }
    }
}

fn lock(latencies: &SharedLatencies) -> std::sync::MutexGuard<'_, Arc<Latencies>> {
    latencies.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Driver {
    ino: Ino,
    backend: Arc<dyn Backend>,
    latencies: SharedLatencies,
    resolver: Resolver,
    within: Duration,
    events: mpsc::UnboundedSender<GetEvent>,
    timer: Option<Time>,
    finished: Option<Result<GetDone, GetError>>,
}

impl Driver {
    fn pause(&self) -> Duration {
        let at = self.timer.map(|at| at.since(self.backend.now()));
        at.unwrap_or(Duration::from_secs(3600))
            .max(Duration::from_micros(200))
    }

    fn perform(&mut self, action: GetAction) {
        let (backend, events, within) =
            (Arc::clone(&self.backend), self.events.clone(), self.within);
        match action {
            GetAction::Read { token, to, request } => {
                tokio::spawn(async move {
                    let result = match backend.replica_call(to, request, vec![], within).await {
                        Ok((
                            ReplicaResponse::Read {
                                offset,
                                sums,
                                stamp,
                                ..
                            },
                            payload,
                        )) => Ok((
                            ReadAnswer {
                                offset,
                                sums,
                                stamp,
                            },
                            payload,
                        )),
                        Ok(_) => Err(WireError::new(ErrorCode::BadRequest, "no answer to a READ")),
                        Err(e) => Err(e),
                    };
                    let _ = events.send(GetEvent::Read { token, result });
                });
            }
            GetAction::Stamp { token, to, request } => {
                tokio::spawn(async move {
                    let result = match backend.replica_call(to, request, vec![], within).await {
                        Ok((ReplicaResponse::Stamp(stamp), _)) => Ok(stamp),
                        Ok(_) => Err(WireError::new(ErrorCode::BadRequest, "no stamp")),
                        Err(e) => Err(e),
                    };
                    let _ = events.send(GetEvent::Stamp { token, result });
                });
            }
            GetAction::Resolve => {
                let resolver = Arc::clone(&self.resolver);
                tokio::spawn(async move {
                    let _ = events.send(GetEvent::Resolved(resolver().await));
                });
            }
            GetAction::RefreshMap { newer_than } => {
                tokio::spawn(async move {
                    let map = backend.refresh_map(newer_than).await;
                    let _ = events.send(GetEvent::Map(map));
                });
            }
            GetAction::Report { store, object } => backend.report_damage(self.ino, store, object),
            GetAction::Observe { store, bytes, took } => {
                let mut shared = lock(&self.latencies);
                let latencies = Arc::make_mut(&mut shared);
                match took {
                    Some(took) => latencies.observe(store, bytes, took),
                    None => latencies.observe_failure(store, backend.now()),
                }
            }
            GetAction::SetTimer { at } => self.timer = Some(at),
            GetAction::Finish(result) => self.finished = Some(result),
        }
    }
}
