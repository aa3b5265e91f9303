//! Generated text, whole or as it grows.

use axum::extract::State;
use axum::http::request::Parts;
use axum::response::Response;
use axum::response::sse;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Asked, tied};
use super::body::Posted;
use super::enqueue::Later;
use super::experiments::JobHeaders;
use super::stream::{self, Sender};
use super::{AppState, Kind, NoQuery, Problem};
use crate::capacity::{Lane, Share};
use crate::jobs::view::JobView;
use crate::result::generate::GenerateResponse;
use crate::result::plates::Show;
use crate::result::render::Format;
use crate::result::texts::TextsOutcome;
use crate::service::{Generating, Refusal};
use crate::spec::generate::GenerateBody;
use crate::spec::kind;
use crate::spec::problem::code;

/// Answers of `POST /v1/generate`.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "documents answers")]
enum GenerateAnswer {
    /// Of one prompt.
    One(Box<GenerateResponse>),
    /// Of a data set.
    Cases(Box<TextsOutcome>),
}

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(generate))
}

/// Generated text
///
/// What the model writes after a prompt when it is patched or steered, in branches side by side. The shortest body is
/// `{"prompt": "…"}`. With `Accept: text/event-stream`, or `"stream": true`, events come as the texts grow: `start` with all that is
/// known before the first token, `token`, `done` for each text, and last `result` with the whole answer, or `error` with a problem.
/// A client that leaves ends its texts.
///
/// Texts of a data set of prompts (`dataset`) are a job, which survives a restart, and so are those that would take too long to wait
/// for, or that are asked for with `Prefer: respond-async`; the job's result is a `TextsOutcome`. If a data set is estimated to take no
/// longer than `limits.sync_limit_s`, the answer waits for it.
#[utoipa::path(post, path = "/v1/generate", tag = "experiments", request_body = GenerateBody,
    params(JobHeaders),
    responses((status = 200, description = "The texts", content(
        (GenerateAnswer = "application/json"), (String = "text/event-stream"))),
              (status = 202, description = "The job that will write them", body = JobView), Problem))]
async fn generate(
    state: State<AppState>,
    parts: Parts,
    _: NoQuery,
    mut posted: Posted,
) -> Result<Response, Problem> {
    let service = state.service()?;
    let streams = take_stream(&mut posted.value)? || stream::is_wanted(&parts.headers);
    let of_cases = posted.value.get("dataset").is_some_and(|dataset| !dataset.is_null());
    let (body, share, later) = Later::of(&state, &parts, kind::Kind::Generate, posted)?;
    if streams && (of_cases || later.is_wanted()) {
        let detail = "the texts of a job come when they are all written";
        let fix = "leave out `stream`, and follow GET /v1/jobs/{id}/events";
        let problem = Problem::new(Kind::InvalidRequest, format!("/stream: {detail}; {fix}"));
        return Err(problem.error("/stream", code::CONFLICT, detail, fix));
    }
    if later.is_wanted() {
        return later.submit(body).await;
    }
    if of_cases {
        return later.wait(body, Asked { format: Format::Json, table: None, show: Show::default() }).await;
    }
    let mut generating = match service.generate((body, &share)).await {
        Err(refusal) if !streams => return later.instead(refusal).await,
        begun => begun?,
    };
    if !streams {
        while generating.next().await?.is_some() {}
        let bytes = encoded(generating, &share).await?;
        return Ok(tied(Format::Json, bytes, share));
    }
    Ok(stream::answer(|sender| follow(generating, share, sender)))
}

/// Sends what happens until the texts have ended or the client is gone.
async fn follow(mut generating: Generating, share: Share, sender: Sender) {
    let event = |name: &str, data: String| Ok(sse::Event::default().event(name).data(data));
    let failed = |problem: Problem| event("error", json!(problem.document(None)).to_string());
    loop {
        let next = tokio::select! {
            next = generating.next() => next,
            () = sender.closed() => return,
        };
        let told = match next {
            Ok(Some((name, data))) => event(name, data.to_string()),
            Ok(None) => break,
            Err(refusal) => {
                let _ = sender.send(failed(refusal.into())).await;
                return;
            }
        };
        if sender.send(told).await.is_err() {
            return;
        }
    }
    let last = match encoded(generating, &share).await {
        Ok(bytes) => event("result", String::from_utf8_lossy(&bytes).into_owned()),
        Err(problem) => failed(problem),
    };
    let _ = sender.send(last).await;
}

async fn encoded(generating: Generating, share: &Share) -> Result<Vec<u8>, Problem> {
    let encode = move |_: &_| Ok::<_, Refusal>(serde_json::to_vec(&generating.response()?));
    let encoded = share.run(Lane::Finish, encode).await?;
    encoded.map_err(|error| Problem::new(Kind::Internal, error.to_string()))
}

/// Takes `stream` out of the body.
fn take_stream(body: &mut Value) -> Result<bool, Problem> {
    match body.as_object_mut().and_then(|map| map.shift_remove("stream")) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(other) => {
            let detail = format!("expected true or false, got {}", crate::spec::read::describe(&other));
            let problem = Problem::new(Kind::InvalidRequest, format!("/stream: {detail}"));
            Err(problem.error("/stream", code::WRONG_TYPE, detail, "write true or false"))
        }
    }
}
