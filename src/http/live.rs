//! Experiments answered with events: what happens while they are computed, and the result.

use std::pin::pin;
use std::time::Duration;

use axum::http::request::Parts;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::body::Posted;
use super::enqueue::Later;
use super::kept::Results;
use super::stream::{self, Log, Streams};
use super::{AppState, Kind as ProblemKind, Problem, query};
use crate::capacity::{Lane, Share};
use crate::engine::growth::Follower;
use crate::result::render::Answer;
use crate::service::experiment::AtOnce;
use crate::service::{Happened, Refusal, Service};
use crate::spec::kind::Kind;

/// A request that is computed for a log.
struct Telling {
    service: Service,
    log: Log,
    happened: mpsc::UnboundedReceiver<Happened>,
    /// Is told when the answer begins, or why it does not.
    begins: Option<oneshot::Sender<Result<(), Refusal>>>,
    streams: Streams,
    results: Results,
    linger: Duration,
}

/// Answers with events, from the beginning or, with `Last-Event-ID`, after an event of before. What is refused before it begins is
/// answered as without events: with a problem, or a job.
pub(super) async fn answer<E: AtOnce<Response: Answer>>(
    kind: Kind,
    state: &AppState,
    parts: &Parts,
    posted: Posted,
) -> Result<Response, Problem> {
    query(parts, &[])?;
    let (request, owner) = (stream::digest(kind.name(), &posted.bytes), posted.share.owner().clone());
    if let Some((log, after)) = state.streams.named(&parts.headers, &owner, request)? {
        return Ok(stream::answer_again(parts, |sender| log.listener().follow(after, sender)));
    }
    let (body, share, later) = Later::of(state, parts, kind, posted)?;
    if later.is_wanted() {
        return later.submit(body).await;
    }
    let (tell, happened) = mpsc::unbounded_channel();
    let (begins, begun) = oneshot::channel();
    let follower = Follower::curious();
    let log = Log::new(owner, request, follower.clone());
    let listener = log.first_listener();
    let telling = Telling {
        service: state.service()?.followed(follower, tell),
        log,
        happened,
        begins: Some(begins),
        streams: state.streams.clone(),
        results: state.results.clone(),
        linger: Duration::from_secs_f64(state.config.results.stream_s),
    };
    tokio::spawn(telling.run::<E>(body, share));
    match begun.await {
        Ok(Ok(())) => Ok(stream::answer_again(parts, |sender| listener.follow(0, sender))),
        Ok(Err(refusal)) => later.instead(refusal).await,
        Err(_) => Err(Problem::new(ProblemKind::Internal, "the server failed on this request")),
    }
}

impl Telling {
    /// Computes, and keeps the log for as long as somebody may want it.
    async fn run<E: AtOnce<Response: Answer>>(mut self, body: Value, share: Share) {
        let (log, service) = (self.log.clone(), self.service.clone());
        let mut forgotten = pin!(log.left_for(self.linger));
        let done = {
            let mut work = pin!(service.answer::<E>((body, &share)));
            loop {
                tokio::select! {
                    biased;
                    Some((name, data)) = self.happened.recv() => self.tell(name, &data),
                    done = &mut work => break done,
                    () = &mut forgotten => return,
                }
            }
        };
        while let Ok((name, data)) = self.happened.try_recv() {
            self.tell(name, &data);
        }
        match done {
            Ok(response) => self.tell_result(response, &share).await,
            Err(refusal) => match self.begins.take() {
                Some(begins) => {
                    let _ = begins.send(Err(refusal));
                    return;
                }
                None => self.log.tell("error", json!(Problem::from(refusal).document(None)).to_string()),
            },
        }
        self.log.end();
        // The log takes the place of what it was made of. Where there is no room, it is held all the same.
        let _ = share.resize(self.log.bytes()).await;
        forgotten.await;
    }

    fn tell(&mut self, name: &str, data: &Value) {
        if let Some(id) = data["id"].as_str().filter(|_| name == "start") {
            self.begin(id);
        }
        self.log.tell(name, data.to_string());
    }

    /// The answer begins.
    fn begin(&mut self, id: &str) {
        if let Some(begins) = self.begins.take() {
            self.log.name(id);
            self.streams.keep(id, &self.log, self.linger);
            let _ = begins.send(Ok(()));
        }
    }

    async fn tell_result(&mut self, mut response: impl Answer, share: &Share) {
        let made = share.run(Lane::Finish, move |_| {
            response.rendered().fill_plots();
            let result = response.shared();
            let json = String::from_utf8(result.json()).unwrap_or_default();
            (result, json)
        });
        let (result, json) = made.await;
        self.begin(result.id());
        if !share.wants_fresh() {
            self.results.keep(share.owner(), result, json.len());
        }
        self.log.tell("result", json);
    }
}
