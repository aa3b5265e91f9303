//! Events of a job as they come: server-sent events, which can be taken up again where they were left.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::request::Parts;
use axum::response::Response;
use axum::response::sse;
use serde_json::{Value, json};
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::NotFound;
use super::state::Readiness;
use super::stream::{self, Sender};
use super::{AppState, Caller, Problem, jobs, query};
use crate::activations::Timestamp;
use crate::jobs::Jobs;
use crate::jobs::view::eta;
use crate::spec::problem::{Problems, code};
use crate::store::StoreError;
use crate::store::job::{Event, Job, JobId};

/// Events fetched at once.
const BATCH: u32 = 256;
/// How often the store is asked when nothing was heard: changes made by other processes may go unnoticed.
const POLL: Duration = Duration::from_secs(1);

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(events))
}

/// Events of a job
///
/// `state` when it changes, `progress` with what is done and how long the rest will take, `partial` with the means so far.
/// Each has a number: a client that comes back with the header `Last-Event-ID` gets those after it. The stream ends when the
/// job is over.
#[utoipa::path(get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path, description = "The job"),
           ("after" = Option<i64>, Query, description = "Events after this one, as Last-Event-ID"),
           ("Last-Event-ID" = Option<i64>, Header, description = "Events after this one")),
    responses((status = 200, description = "Events", body = String, content_type = "text/event-stream"),
              NotFound, Problem))]
async fn events(
    state: State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Response, Problem> {
    let query = query(&parts, &["after"])?;
    let header = stream::last_event(&parts.headers);
    let after = query.get("after").map(String::as_str).or(header);
    let mut out = Problems::default();
    let after = after.map_or(Some(0), |text| {
        let after = text.parse::<i64>().ok().filter(|n| *n >= 0);
        if after.is_none() {
            let detail = format!("{text:?} is no event");
            out.push("?after", code::UNKNOWN_VALUE, detail, "write the number of the last event that came");
        }
        after
    });
    let after = out.or(after)?;
    let jobs = state.jobs()?.clone();
    let job = jobs::find(&jobs, &caller, &id).await?;
    let readiness = state.readiness.clone();
    Ok(stream::answer_again(&parts, |sender| Follow { jobs, id: job.id, after, sender, readiness }.run()))
}

/// Waits until the server stops.
async fn stopping(readiness: &mut watch::Receiver<Readiness>) {
    if readiness.wait_for(|now| *now == Readiness::Draining).await.is_err() {
        // Nobody is left to say so.
        std::future::pending::<()>().await;
    }
}

struct Follow {
    jobs: Jobs,
    id: JobId,
    after: i64,
    sender: Sender,
    readiness: watch::Receiver<Readiness>,
}

impl Follow {
    /// Until the job is over, the client is gone, or the server stops.
    async fn run(mut self) {
        let mut changes = self.jobs.store.subscribe();
        loop {
            changes.mark_unchanged();
            match self.send_new().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => tracing::warn!(job.id = %self.id, "its events cannot be read: {error}"),
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(POLL) => {}
                () = self.sender.closed() => return,
                () = stopping(&mut self.readiness) => return,
            }
        }
    }

    /// Sends what is new; whether more may come.
    async fn send_new(&mut self) -> Result<bool, StoreError> {
        loop {
            // The job first: what happened before it was over is among the events that are read after.
            let Some(job) = self.jobs.store.job(self.id).await? else { return Ok(false) };
            let events = self.jobs.store.events(self.id, self.after, BATCH).await?;
            for event in &events {
                self.after = event.seq;
                if self.sender.send(Ok(told(event, &job))).await.is_err() {
                    return Ok(false);
                }
            }
            if events.len() < BATCH as usize {
                return Ok(!job.state.is_over());
            }
        }
    }
}

/// An event on the wire. Progress says how long the rest will take.
fn told(event: &Event, job: &Job) -> sse::Event {
    let mut data: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
    if let Some(map) = data.as_object_mut() {
        map.insert("job".to_owned(), job.id.to_string().into());
        map.insert("at".to_owned(), json!(Timestamp(u64::try_from(event.at_ms).unwrap_or(0))));
        if let (true, Some(done)) = (event.kind == "progress", map.get("units_done").and_then(Value::as_u64))
        {
            let then = Job { units_done: done as u32, ..job.clone() };
            map.insert("eta_s".to_owned(), json!(eta(&then, event.at_ms)));
        }
    }
    sse::Event::default().id(event.seq.to_string()).event(&event.kind).data(data.to_string())
}
