//! Generated text, whole or as it grows.

use axum::extract::State;
use axum::http::request::Parts;
use axum::response::Response;
use axum::response::sse;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::tied;
use super::body::Posted;
use super::prefer::take_async;
use super::stream::{self, Sender};
use super::{AppState, Kind, NoQuery, Problem};
use crate::capacity::{Lane, Share};
use crate::result::generate::GenerateResponse;
use crate::result::render::Format;
use crate::service::Generating;
use crate::spec::generate::GenerateBody;
use crate::spec::problem::code;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(generate))
}

/// Generated text
///
/// What the model writes after a prompt when it is patched or steered, in branches side by side. The shortest body is
/// `{"prompt": "…"}`. With `Accept: text/event-stream`, or `"stream": true`, events come as the texts grow: `start` with all that is
/// known before the first token, `token`, `done` for each text, and last `result` with the whole answer, or `error` with a problem.
/// A client that leaves ends its texts.
#[utoipa::path(post, path = "/v1/generate", tag = "experiments", request_body = GenerateBody,
    responses((status = 200, description = "The texts", content(
        (GenerateResponse = "application/json"), (String = "text/event-stream"))), Problem))]
async fn generate(
    state: State<AppState>,
    parts: Parts,
    _: NoQuery,
    Posted { mut value, share, .. }: Posted,
) -> Result<Response, Problem> {
    let service = state.service()?;
    let streams = take_stream(&mut value)? || stream::is_wanted(&parts.headers);
    if take_async(&mut value, "")? {
        let detail = "texts are written while the client waits, not as jobs";
        let fix = "leave out `async`, and read the events";
        let problem = Problem::new(Kind::InvalidRequest, format!("/async: {detail}; {fix}"));
        return Err(problem.error("/async", code::NOT_SUPPORTED, detail, fix));
    }
    let mut generating = service.generate((value, &share)).await?;
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
    let encode = move |_: &_| serde_json::to_vec(&generating.response());
    share.run(Lane::Finish, encode).await.map_err(|error| Problem::new(Kind::Internal, error.to_string()))
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
