//! The task that sends what is queued.
use super::super::cache::Learned;
use super::super::calls::patience;
use super::super::core::Client;
use super::super::error::ClientError;
use super::super::session::OpenTicket;
use super::{NUMBERS, Queued};
use crate::net::Conn;
use crate::net::conn::deadline_in;
use crate::types::{ClientId, OpId};
use crate::wire::master::Mutated;
use crate::wire::{
    ErrorClass, ErrorCode, MasterRequest, MasterResponse, Mutation, MutationOk, Response, WireError,
};
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Instant;
use tokio::task::JoinSet;

/// Sent and not answered, at most.
const WINDOW: usize = 256;

/// What came of one request.
struct Answer {
    position: u64,
    opened: OpenTicket,
    result: Result<MasterResponse, WireError>,
}

impl Client {
    /// The task's body; ends when the client is dropped or shut down.
    pub(in super::super) async fn run_behind(this: Weak<Self>) {
        loop {
            let Some(client) = this.upgrade() else { return };
            let (kick, mut stop) = (Arc::clone(&client.behind.kick), client.stopped());
            client.deliver().await;
            drop(client); // Held over the pause, it would never be dropped.
            tokio::select! {
                () = kick.notified() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Sends until nothing is queued.
    async fn deliver(self: &Arc<Self>) {
        let mut calls = JoinSet::new();
        let leisure = Arc::clone(&self.behind.leisure);
        let hold = || {
            let leisure = Arc::clone(&leisure);
            Box::pin(async move { leisure.hold().await })
        };
        // Kept over answers: begun anew, it could miss its tick again and again.
        let mut held = Some(hold());
        let mut in_order = true;
        loop {
            self.reserve();
            if in_order && held.is_none() {
                in_order = self.send_more(&mut calls).await;
            }
            if calls.is_empty() {
                if self.behind.state().queue.is_empty() {
                    return;
                }
                if !in_order {
                    in_order = self.send_first().await;
                    continue;
                }
            }
            tokio::select! {
                Some(answer) = calls.join_next() => {
                    in_order &= answer.is_ok_and(|answer| self.answered(answer));
                }
                () = async { held.as_mut().expect("looked at").await }, if held.is_some() => {
                    held = None;
                }
                () = self.behind.kick.notified(), if held.is_none() && in_order && calls.len() < WINDOW => {
                    held = Some(hold());
                }
                else => {}
            }
        }
    }

    /// Sends what fits the window, in order. False if there is nobody to send it to.
    async fn send_more(self: &Arc<Self>, calls: &mut JoinSet<Answer>) -> bool {
        let conn = self.contact.borrow().clone();
        let conn = conn.filter(|conn| !conn.is_closed());
        while calls.len() < WINDOW {
            let Some((position, request)) = self.next_request() else {
                break;
            };
            let Some(conn) = conn.clone() else {
                return false;
            };
            let (client, opened) = (Arc::clone(self), self.session.begin_open());
            let mut call = Box::pin(async move {
                let deadline = deadline_in(client.config.attempt_timeout);
                let result = ask(&client, &conn, request, deadline).await;
                Answer {
                    position,
                    opened,
                    result,
                }
            });
            // Polled once here, it is on the connection before the next one.
            match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
                Poll::Ready(answer) => {
                    if !self.answered(answer) {
                        return false;
                    }
                }
                Poll::Pending => {
                    calls.spawn(call);
                }
            }
        }
        true
    }

    /// The first that was not sent.
    fn next_request(&self) -> Option<(u64, MasterRequest)> {
        // Unanswered, the first of all is asked again for so long.
        let deadline = deadline_in(self.config.deadline_meta);
        let mut state = self.behind.state();
        loop {
            let index = state.sent;
            let queued = state.queue.get(index)?;
            let request = (!queued.is_decided).then(|| self.request(queued, deadline));
            state.sent += 1;
            if let Some(request) = request {
                return Some((state.begin + index as u64, request));
            }
        }
    }

    fn request(&self, queued: &Queued, deadline: Instant) -> MasterRequest {
        let op = queued.ticket.op();
        MasterRequest::MutateAfter {
            op,
            low: self.session.low_for(op),
            after: queued.after,
            sole_at: queued.sole_at,
            listens: patience(deadline),
            body: queued.body.clone(),
            open: queued.open,
        }
    }

    /// Something was not answered: settles the first that is undecided, however often it must be asked. The
    /// others follow from there.
    async fn send_first(self: &Arc<Self>) -> bool {
        let (position, op) = {
            let mut state = self.behind.state();
            state.sent = 0;
            let Some(index) = state.queue.iter().position(|q| !q.is_decided) else {
                return true;
            };
            let op = state.queue[index].ticket.op();
            (state.begin + index as u64, op)
        };
        let deadline = deadline_in(self.config.deadline_meta);
        let make = |_| {
            let mut state = self.behind.state();
            match state.at(position) {
                Some(queued) if queued.ticket.op() == op => self.request(queued, deadline),
                // Given up meanwhile; whoever asks for nothing gets an answer too.
                _ => MasterRequest::Status,
            }
        };
        let opened = self.session.begin_open();
        let result = match self.persist(&make, deadline, true).await {
            Ok(answer) => Ok(answer),
            Err(given) if given.last.code == ErrorCode::SessionExpired => {
                self.behind_lost(op.client);
                return true;
            }
            Err(given) if given.timed_out => {
                self.give_up(&given.last);
                return true;
            }
            Err(given) => Err(given.last),
        };
        let answer = Answer {
            position,
            opened,
            result,
        };
        if !self.answered(answer) {
            // Refused for now: another leader, most likely.
            tokio::time::sleep(self.config.attempt_timeout / 20).await;
            return false;
        }
        true
    }

    /// False if it decides nothing.
    fn answered(&self, answer: Answer) -> bool {
        let result = match answer.result {
            Ok(MasterResponse::Mutated(done)) => Ok(done),
            Ok(_) => return false,
            Err(error) if error.code.class() == ErrorClass::Permanent => {
                if error.code == ErrorCode::SessionExpired {
                    return false;
                }
                Err(ClientError::Refused(error))
            }
            Err(_) => return false,
        };
        self.decided(answer.position, &answer.opened, result);
        true
    }

    fn decided(&self, position: u64, opened: &OpenTicket, result: Result<Mutated, ClientError>) {
        let (token, inos, open, what) = {
            let mut state = self.behind.state();
            let Some(queued) = state.at(position).filter(|queued| !queued.is_decided) else {
                return;
            };
            let what = described(&queued.body);
            (queued.token, queued.inos.clone(), queued.open, what)
        };
        // Before anybody hears that it is decided.
        match &result {
            Ok(done) => {
                self.learn_decided(token, done);
                self.note_opened(opened, open, done);
            }
            Err(error) => {
                if let (Some(_), Some(ino)) = (open, inos.last()) {
                    self.unopened(*ino);
                }
                tracing::warn!(change = what, %error, "a change that nobody waited for failed");
                // What was foreseen of it, and of all that builds on it, is not so.
                self.cache.drop_all();
                self.tell_lost(&format!("{what}: {error}"));
            }
        }
        let mut state = self.behind.state();
        let Some(queued) = state.at(position).filter(|queued| !queued.is_decided) else {
            return;
        };
        queued.is_decided = true;
        if let Err(error) = &result {
            state.note_failure(&inos, error);
            if position + 1 == state.end() {
                // Refused without a record perhaps: nothing has to follow it.
                state.last = None;
            }
        }
        while state.queue.front().is_some_and(|queued| queued.is_decided) {
            state.queue.pop_front();
            state.begin += 1;
            state.sent = state.sent.saturating_sub(1);
        }
        self.behind.decided.send_replace(state.begin);
    }

    fn learn_decided(&self, token: super::Token, done: &Mutated) {
        let attr = match &done.ok {
            MutationOk::Entry { attr, .. } | MutationOk::Attr(attr) => Some(attr),
            _ => None,
        };
        let learned = Learned {
            attr,
            others: &done.others,
            ..Learned::default()
        };
        self.cache.learn(token, learned);
    }

    /// The file layer believes a file open that this made: so it is, or it is asked for now.
    fn note_opened(&self, opened: &OpenTicket, open: Option<bool>, done: &Mutated) {
        let (Some(write), MutationOk::Entry { attr, .. }) = (open, &done.ok) else {
            return;
        };
        let is_open = done.opened.is_some() && self.session.note_open(opened, attr.ino, write);
        if !is_open {
            self.unopened(attr.ino);
        }
    }

    /// None of what is queued will be sent again.
    fn give_up(&self, why: &WireError) {
        let mut state = self.behind.state();
        let given_up = std::mem::take(&mut state.queue);
        if given_up.is_empty() {
            return;
        }
        state.begin += given_up.len() as u64;
        state.sent = 0;
        // It is never decided perhaps.
        state.last = None;
        // Their numbers may be another's after whatever has happened.
        state.numbers.clear();
        let is_made = |q: &&Queued| q.open.is_some() && !q.is_decided;
        let made = given_up.iter().filter(is_made);
        let made: Vec<_> = made.filter_map(|q| q.inos.last().copied()).collect();
        let error = |op: OpId| ClientError::Unknown {
            op,
            last: why.clone(),
        };
        for queued in given_up.iter().filter(|queued| !queued.is_decided) {
            let error = error(queued.ticket.op());
            tracing::warn!(change = described(&queued.body), %error, "a change was given up");
            state.note_failure(&queued.inos, &error);
        }
        self.cache.drop_all();
        self.behind.decided.send_replace(state.begin);
        drop(state);
        self.tell_lost(&format!("{} changes were given up: {why}", given_up.len()));
        made.into_iter().for_each(|ino| self.unopened(ino));
    }

    /// Asks for inode numbers when they run short.
    fn reserve(self: &Arc<Self>) {
        {
            let mut state = self.behind.state();
            let has_enough = state.left() >= u64::from(NUMBERS);
            if state.is_reserving || has_enough || !self.lends() {
                return;
            }
            state.is_reserving = true;
        }
        let client = Arc::clone(self);
        tokio::spawn(async move {
            let reserved = client.reserve_now().await;
            let mut state = client.behind.state();
            state.is_reserving = false;
            match reserved {
                // Those of a session that was lost meanwhile are not its successor's.
                Ok((of, MutationOk::Reserved { first })) if of == client.client_id() => {
                    let lot = first.0..first.0 + u64::from(NUMBERS);
                    state.numbers.push_back(lot);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "no inode numbers reserved"),
            }
        });
    }

    /// The session has ended, and everything queued in it.
    pub(in super::super) fn behind_lost(&self, client: ClientId) {
        let is_of = {
            let state = self.behind.state();
            let first = state.queue.front();
            first.is_some_and(|queued| queued.ticket.op().client == client)
        };
        self.behind.state().numbers.clear();
        if is_of {
            let why = "the session expired";
            self.give_up(&WireError::new(ErrorCode::SessionExpired, why));
        }
    }
}

async fn ask(
    client: &Client,
    conn: &Conn,
    request: MasterRequest,
    deadline: Instant,
) -> Result<MasterResponse, WireError> {
    match client.send(conn, request, deadline).await? {
        Response::Master(answer) => Ok(answer),
        _ => Err(WireError::new(
            ErrorCode::BadRequest,
            "not an answer of a master",
        )),
    }
}

/// For people.
fn described(body: &Mutation) -> String {
    match body {
        Mutation::CreateAs { parent, name, .. } => format!("make {name} in {parent}"),
        Mutation::Unlink { parent, name, .. } => format!("unlink {name} in {parent}"),
        Mutation::Rmdir { parent, name } => format!("rmdir {name} in {parent}"),
        Mutation::Rename {
            from_parent,
            from_name,
            to_parent,
            to_name,
            ..
        } => format!("rename {from_name} in {from_parent} to {to_name} in {to_parent}"),
        Mutation::SetAttr { ino, .. } => format!("setattr of {ino}"),
        _ => "a change".to_owned(),
    }
}
