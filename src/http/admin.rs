//! Keys: made, listed, ended, replaced.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{self, Posted};
use super::{Access, AppState, Kind, NoQuery, Problem, query};
use crate::activations::Timestamp;
use crate::keys::{
    GRACE_S, Key, KeyError, KeyId, KeyView, Keys, MOST_GRACE_S, MOST_TTL_S, NewKey, RotateError, Scope,
    Token, Wanted,
};
use crate::owner::Owner;
use crate::spec::endpoint::Endpoint;
use crate::spec::problem::{Problems, code};
use crate::spec::read::Node;

/// Shown when the body is empty.
const EXAMPLE: &str = r#"{"owner":"alice","scopes":["run","sweep","upload"],"name":"notebook"}"#;
const DAY_MS: u64 = 86_400_000;
/// Longest name of a key.
const NAME_BYTES: usize = 128;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list, create))
        .routes(routes!(revoke))
        .routes(routes!(rotate))
        .routes(routes!(usage))
}

/// What a new key is to be.
#[expect(dead_code, reason = "only its schema is used")]
#[derive(ToSchema)]
struct KeyBody {
    /// Whose it will be: 1 to 64 of a-z, 0-9, `.`, `_` and `-`. What is stored belongs to the owner, who may have several keys.
    #[schema(example = "alice")]
    owner: String,
    /// What it may do beside reading what is its owner's; nothing if left out.
    scopes: Option<Vec<Scope>>,
    /// What it is called; empty if left out.
    #[schema(example = "notebook")]
    name: Option<String>,
    /// Seconds until it ends; it does not if left out.
    ttl_s: Option<u64>,
}

/// How a key is replaced.
#[expect(dead_code, reason = "only its schema is used")]
#[derive(ToSchema)]
struct RotateBody {
    /// Seconds for which the old one can still be used, at most 604800; 86400 if left out.
    grace_s: Option<u64>,
}

/// Keys, without their tokens.
#[derive(Debug, Serialize, ToSchema)]
struct KeyList {
    /// Oldest first, those that have ended among them.
    keys: Vec<KeyView>,
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Store(error) => error.into(),
            KeyError::Chance(_) => {
                tracing::error!("{error}");
                Self::new(Kind::Unavailable, error.to_string()).retry_after(5)
            }
        }
    }
}

fn keys(state: &AppState) -> Result<&Keys, Problem> {
    match &state.access {
        Access::Keys(keys) => Ok(keys),
        // The rules let nobody come here then.
        Access::Anyone => Err(Problem::new(Kind::Forbidden, "this server needs no keys, so it makes none")),
    }
}

fn unknown(id: &str) -> Problem {
    Problem::new(Kind::NotFound, format!("there is no key {id:?}; GET /v1/admin/keys lists all"))
}

fn id(text: &str) -> Result<KeyId, Problem> {
    text.parse().map_err(|()| unknown(text))
}

/// An answer with a token in it: nothing between here and the client may keep it.
fn told(status: StatusCode, key: &Key, token: &Token) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(NewKey::of(key, token))).into_response()
}

/// Keys
///
/// Those that have ended, too; never their tokens.
#[utoipa::path(get, path = "/v1/admin/keys", tag = "keys",
    responses((status = 200, description = "All keys", body = KeyList), Problem))]
async fn list(state: State<AppState>, _: NoQuery) -> Result<Response, Problem> {
    let all = keys(&state)?.list().await?;
    let list = KeyList { keys: all.iter().map(KeyView::of).collect() };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(list)).into_response())
}

/// Make a key
///
/// Its token is in this answer and in no other: only a hash of it is stored.
#[utoipa::path(post, path = "/v1/admin/keys", tag = "keys", request_body = KeyBody,
    responses((status = 201, description = "The key with its token", body = NewKey), Problem))]
async fn create(state: State<AppState>, request: axum::extract::Request) -> Result<Response, Problem> {
    let (mut parts, content) = request.into_parts();
    let _ = <NoQuery as axum::extract::FromRequestParts<AppState>>::from_request_parts(&mut parts, &state)
        .await?;
    let request = axum::extract::Request::from_parts(parts, content);
    let Posted { value, .. } = body::json(request, &state, EXAMPLE).await?;
    let (key, token) = keys(&state)?.create(wanted(&value)?).await?;
    Ok(told(StatusCode::CREATED, &key, &token))
}

fn wanted(body: &Value) -> Result<Wanted, Problem> {
    let mut out = Problems::default();
    let root = Node::root(Endpoint::Other, body);
    let read = root.fields(&["owner", "scopes", "name", "ttl_s"], &mut out).and_then(|fields| {
        let owner = fields.need("owner", "write whose key it is, such as \"alice\"", &mut out);
        let owner = owner.and_then(|node| {
            let text = node.text(&mut out)?;
            let owner = Owner::parse(text);
            if owner.is_none() {
                let fix =
                    "write 1 to 64 of a-z, 0-9, `.`, `_` and `-`; `local` is for requests without a key";
                out.push(&node.at, code::UNKNOWN_VALUE, format!("{text:?} is no name of an owner"), fix);
            }
            owner
        });
        let scopes = fields.get("scopes").map_or(Some(Vec::new()), |node| {
            node.all(&mut out, |node, out| node.choice(&Scope::ALL, &[], out))
        });
        let name = fields.get("name").map_or(Some(String::new()), |node| {
            let name = node.label(&mut out)?;
            if name.len() > NAME_BYTES {
                let detail = "the name is over 128 bytes";
                out.push(&node.at, code::OUT_OF_RANGE, detail, "shorten it");
                return None;
            }
            Some(name)
        });
        let ttl_s = fields.get("ttl_s").map_or(Some(None), |node| {
            let ttl = node.natural(1, &mut out)?;
            if ttl > MOST_TTL_S {
                let fix = format!("write 1 to {MOST_TTL_S}, or leave it out");
                out.push(&node.at, code::OUT_OF_RANGE, format!("{ttl} s is out of range"), fix);
                return None;
            }
            Some(Some(ttl))
        });
        Some(Wanted { owner: owner?, name: name?, scopes: scopes?.into_iter().collect(), ttl_s: ttl_s? })
    });
    Ok(out.or(read)?)
}

/// End a key
///
/// At once on this server, within about two seconds on others that share its database. Jobs of its owner go on.
#[utoipa::path(delete, path = "/v1/admin/keys/{id}", tag = "keys",
    params(("id" = String, Path, description = "The key")),
    responses((status = 200, description = "The key, revoked", body = KeyView),
              (status = 404, description = "not-found", body = super::problem::ProblemDocument, content_type = "application/problem+json"), Problem))]
async fn revoke(
    state: State<AppState>,
    Path(text): Path<String>,
    _: NoQuery,
) -> Result<Json<KeyView>, Problem> {
    let key = keys(&state)?.revoke(id(&text)?).await?.ok_or_else(|| unknown(&text))?;
    Ok(Json(KeyView::of(&key)))
}

/// Replace a key
///
/// Makes a key of the same owner, name, scopes and lifetime. The old one can be used for `grace_s` more seconds, so that
/// whoever has it can change over.
#[utoipa::path(post, path = "/v1/admin/keys/{id}/rotate", tag = "keys", request_body = RotateBody,
    params(("id" = String, Path, description = "The key to replace")),
    responses((status = 201, description = "The new key with its token", body = NewKey),
              (status = 404, description = "not-found", body = super::problem::ProblemDocument, content_type = "application/problem+json"), Problem))]
async fn rotate(
    state: State<AppState>,
    Path(text): Path<String>,
    _: NoQuery,
    Posted { value, .. }: Posted,
) -> Result<Response, Problem> {
    let mut out = Problems::default();
    let root = Node::root(Endpoint::Other, &value);
    let grace_s = root.fields(&["grace_s"], &mut out).and_then(|fields| {
        let Some(node) = fields.get("grace_s") else { return Some(GRACE_S) };
        let grace = node.natural(0, &mut out)?;
        if grace > MOST_GRACE_S {
            let fix = format!("write 0 to {MOST_GRACE_S}");
            out.push(&node.at, code::OUT_OF_RANGE, format!("{grace} s is out of range"), fix);
        }
        Some(grace)
    });
    let grace_s = out.or(grace_s)?;
    let rotated = keys(&state)?.rotate(id(&text)?, grace_s).await;
    let (key, token) = rotated.map_err(|error| match error {
        RotateError::Unknown(_) => unknown(&text),
        RotateError::Ended(_) | RotateError::Replaced(..) => {
            Problem::new(Kind::InvalidRequest, error.to_string())
        }
        RotateError::Failed(error) => error.into(),
    })?;
    Ok(told(StatusCode::CREATED, &key, &token))
}

/// What all owners used on a day.
#[derive(Debug, Serialize, ToSchema)]
struct DayUsage {
    /// The day, UTC.
    #[schema(example = "2026-11-30")]
    day: String,
    /// By their names; those who used nothing are not listed.
    owners: Vec<UsageView>,
}

/// What an owner used on a day.
#[derive(Debug, Serialize, ToSchema)]
struct UsageView {
    /// Who.
    #[schema(example = "alice")]
    owner: String,
    /// Requests with a body.
    requests: u64,
    /// Rows times layers that were computed.
    row_layers: u64,
    /// Seconds of the engine.
    seconds: f64,
}

/// Usage
///
/// What was computed for each owner on a day, to about a second.
#[utoipa::path(get, path = "/v1/admin/usage", tag = "keys",
    params(("day" = Option<String>, Query, description = "YYYY-MM-DD, UTC; today if left out")),
    responses((status = 200, description = "Usage by owner", body = DayUsage), Problem))]
async fn usage(state: State<AppState>, parts: Parts) -> Result<Response, Problem> {
    let query = query(&parts, &["day"])?;
    let mut out = Problems::default();
    let day = match query.get("day") {
        None => Some(crate::usage::today().0),
        Some(text) => {
            let midnight = format!("{text}T00:00:00.000Z").parse::<Timestamp>();
            let day = midnight.ok().and_then(|at| i64::try_from(at.0 / DAY_MS).ok());
            if day.is_none() {
                out.push("?day", code::UNKNOWN_VALUE, format!("{text:?} is no day"), "write YYYY-MM-DD");
            }
            day
        }
    };
    let day = out.or(day)?;
    let rows = state.jobs()?.store.usage(day).await?;
    let owners = rows.into_iter().map(|one| UsageView {
        owner: one.owner,
        requests: one.requests,
        row_layers: one.row_layers,
        seconds: one.seconds,
    });
    let midnight = Timestamp(u64::try_from(day).unwrap_or(0) * DAY_MS).to_string();
    let day = midnight.split('T').next().unwrap_or_default().to_owned();
    let told = DayUsage { day, owners: owners.collect() };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(told)).into_response())
}
