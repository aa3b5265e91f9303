//! Server-sent events: how they are sent, and the logs of those that are computed for whoever listens, so that a client whose connection
//! was cut goes on where it was. While nobody listens nothing is computed; after a while it is forgotten.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::listen::Seat;
use super::{Kind, Problem};
use crate::engine::growth::Follower;
use crate::owner::Owner;

/// Events that may wait for a client.
const AHEAD: usize = 64;
/// How often a comment is sent, so that what lies between does not take the connection for dead.
const ALIVE: Duration = Duration::from_secs(10);

const LAST_EVENT: &str = "last-event-id";

/// Where events of one answer go.
pub(super) type Sender = mpsc::Sender<Result<sse::Event, Infallible>>;

/// An answer of events: those that `tell` sends until it ends or the client is gone.
pub(super) fn answer<F: Future<Output = ()> + Send + 'static>(tell: impl FnOnce(Sender) -> F) -> Response {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(tell(sender));
    Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::new().interval(ALIVE)).into_response()
}

/// The same, of events that can be taken up again: when places are short, others may have this one.
pub(super) fn answer_again<F: Future<Output = ()> + Send + 'static>(
    parts: &Parts,
    tell: impl FnOnce(Sender) -> F,
) -> Response {
    let wanted = parts.extensions.get::<Seat>().map(Seat::streams);
    answer(|sender| {
        let telling = tell(sender);
        async move {
            tokio::select! {
                () = telling => {}
                () = async { match wanted { Some(wanted) => wanted.await, None => std::future::pending().await } } => {}
            }
        }
    })
}

/// Whether a client asks for events.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = values.flat_map(|value| value.split(','));
    types.any(|part| part.split(';').next().is_some_and(|name| name.trim() == "text/event-stream"))
}

/// The number of the last event that came, as the client says it.
pub(super) fn last_event(headers: &HeaderMap) -> Option<&str> {
    headers.get(LAST_EVENT).and_then(|value| value.to_str().ok())
}

/// The logs of a server. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Mutex<HashMap<String, Log>>>);

/// What was told of an answer. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The answer's, once it has begun.
    id: OnceLock<String>,
    owner: Owner,
    request: [u8; 32],
    follower: Follower,
    told: Mutex<Vec<(String, Arc<str>)>>,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    told: usize,
    over: bool,
    listeners: usize,
}

impl Streams {
    fn logs(&self) -> MutexGuard<'_, HashMap<String, Log>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log that `Last-Event-ID` names, with the number of that event. `None`: it names none, or one that is forgotten, so
    /// that its request is answered from the beginning.
    ///
    /// # Errors
    /// It is of another request.
    pub(super) fn named(
        &self,
        headers: &HeaderMap,
        owner: &Owner,
        request: [u8; 32],
    ) -> Result<Option<(Log, usize)>, Problem> {
        let Some((id, number)) = last_event(headers).and_then(|text| text.rsplit_once(':')) else {
            return Ok(None);
        };
        let Some(log) = self.logs().get(id).filter(|log| log.0.owner == *owner).cloned() else {
            return Ok(None);
        };
        let told = log.0.state.borrow().told;
        let number = number.parse::<usize>().ok().filter(|number| *number <= told);
        let Some(number) = number.filter(|_| log.0.request == request) else {
            let detail = format!("{id} is the stream of another request, or has no such event");
            let fix = "send the request that began it, and the last id that came; or leave the header out";
            let problem = Problem::new(Kind::InvalidRequest, format!("{LAST_EVENT}: {detail}; {fix}"));
            return Err(problem.error("Last-Event-ID", "unknown_event", detail, fix));
        };
        Ok(Some((log, number)))
    }

    /// Keeps a log under a name, until nobody has listened to it for so long.
    pub(super) fn keep(&self, id: &str, log: &Log, linger: Duration) {
        self.logs().insert(id.to_owned(), log.clone());
        let (streams, id, log) = (self.clone(), id.to_owned(), log.clone());
        tokio::spawn(async move {
            log.left_for(linger).await;
            streams.logs().remove(&id);
        });
    }
}

/// What tells one request from another.
pub(super) fn digest(path: &str, body: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(path).chain_update([0]).chain_update(body).finalize().into()
}

impl Log {
    /// An empty log of an owner's request, which `follower` computes.
    pub(super) fn new(owner: Owner, request: [u8; 32], follower: Follower) -> Self {
        // Whoever asked listens, before the answer begins.
        let state = watch::Sender::new(State { listeners: 1, ..State::default() });
        Self(Arc::new(Inner { id: OnceLock::new(), owner, request, follower, told: Mutex::default(), state }))
    }

    fn told(&self) -> MutexGuard<'_, Vec<(String, Arc<str>)>> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it the name of its answer.
    pub(super) fn name(&self, id: &str) {
        let _ = self.0.id.set(id.to_owned());
    }

    /// Tells an event.
    pub(super) fn tell(&self, name: &str, data: impl Into<Arc<str>>) {
        let mut told = self.told();
        told.push((name.to_owned(), data.into()));
        let count = told.len();
        drop(told);
        self.0.state.send_modify(|state| state.told = count);
    }

    /// Nothing more will be told.
    pub(super) fn end(&self) {
        self.0.state.send_modify(|state| state.over = true);
    }

    /// Bytes of all that was told.
    pub(super) fn bytes(&self) -> u64 {
        self.told().iter().map(|(name, data)| (name.len() + data.len()) as u64).sum()
    }

    /// Until nobody has listened for so long.
    pub(super) async fn left_for(&self, linger: Duration) {
        let mut state = self.0.state.subscribe();
        loop {
            if state.wait_for(|state| state.listeners == 0).await.is_err() {
                return;
            }
            let came = tokio::time::timeout(linger, state.wait_for(|state| state.listeners > 0));
            if came.await.is_err() {
                return;
            }
        }
    }

    /// Somebody who listens, from now on.
    pub(super) fn listener(&self) -> Listener {
        self.0.state.send_modify(|state| state.listeners += 1);
        self.0.follower.set_here(true);
        Listener(self.clone())
    }

    /// Whoever asked for it first.
    pub(super) fn first_listener(&self) -> Listener {
        Listener(self.clone())
    }
}

/// Somebody who listens. When the last one is gone nothing more is computed.
#[derive(Debug)]
pub(super) struct Listener(Log);

impl Drop for Listener {
    fn drop(&mut self) {
        let mut left = false;
        self.0.0.state.send_modify(|state| {
            state.listeners -= 1;
            left = state.listeners == 0;
        });
        if left {
            self.0.0.follower.set_here(false);
        }
    }
}

impl Listener {
    /// Sends the events of a log after the one of a number, and those that come, until all is told or the client is gone.
    pub(super) async fn follow(self, after: usize, sender: Sender) {
        let id = self.0.0.id.get().map_or("", String::as_str);
        let mut state = self.0.0.state.subscribe();
        let mut next = after;
        loop {
            let now = *state.borrow_and_update();
            while next < now.told {
                let (name, data) = self.0.told()[next].clone();
                next += 1;
                let event = sse::Event::default().id(format!("{id}:{next}")).event(name).data(&*data);
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            if now.over {
                return;
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    }
}
