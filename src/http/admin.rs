//! Keys: made, listed, ended, replaced; and on what terms their owners have something computed.

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
use super::problem::NotFound;
use super::{Access, AppState, Kind, NoQuery, Problem, query};
use crate::activations::Timestamp;
use crate::keys::{
    GRACE_S, Key, KeyError, KeyId, KeyView, Keys, MOST_GRACE_S, MOST_TTL_S, NewKey, OwnerView, RotateError,
    Scope, Token, Wanted,
};
use crate::owner::{Owner, Terms, Weight};
use crate::spec::endpoint::Endpoint;
use crate::spec::problem::{Problems, code};
use crate::spec::read::{Fields, Node};

/// Shown when the body is empty.
const EXAMPLE: &str = r#"{"owner":"alice","scopes":["run","sweep","upload"],"name":"notebook"}"#;
const DAY_MS: u64 = 86_400_000;
/// Longest name of a key.
const NAME_BYTES: usize = 128;
/// The most that the store can hold.
const MOST_ROW_LAYERS: u64 = i64::MAX as u64;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list, create))
        .routes(routes!(revoke))
        .routes(routes!(rotate))
        .routes(routes!(usage))
        .routes(routes!(owners))
        .routes(routes!(set_owner))
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
    /// Share of the engine beside others who wait, too: twice the weight, twice as much. Its owner's if left out.
    #[schema(minimum = 0.01, maximum = 100)]
    weight: Option<f64>,
    /// What may be had with this key. Its owner's limits hold beside them.
    limits: Option<LimitsBody>,
}

/// The most at once, and on a day.
#[expect(dead_code, reason = "only its schema is used")]
#[derive(ToSchema)]
struct LimitsBody {
    /// Requests with a body on their way at once.
    #[schema(minimum = 1)]
    requests: Option<u32>,
    /// Jobs of which nothing has been computed.
    #[schema(minimum = 1)]
    jobs: Option<u32>,
    /// Rows times layers on a day, UTC.
    #[schema(minimum = 1)]
    row_layers_day: Option<u64>,
}

/// On what terms an owner has something computed. What is left out is as the server is set.
#[expect(dead_code, reason = "only its schema is used")]
#[derive(ToSchema)]
struct TermsBody {
    /// Share of the engine beside others who wait, too: twice the weight, twice as much; 1 if left out. A key's own weight comes
    /// before it.
    #[schema(minimum = 0.01, maximum = 100)]
    weight: Option<f64>,
    /// What all of the owner's keys together may have.
    limits: Option<LimitsBody>,
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
    let root = Node::root(Endpoint::OTHER, body);
    let read =
        root.fields(&["owner", "scopes", "name", "ttl_s", "weight", "limits"], &mut out).and_then(|fields| {
            let owner = fields.need("owner", "write whose key it is, such as \"alice\"", &mut out);
            let owner = owner.and_then(|node| owner_name(node.text(&mut out)?, &node.at, &mut out));
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
            let terms = terms(&fields, &mut out);
            let scopes = scopes?.into_iter().collect();
            Some(Wanted { owner: owner?, name: name?, scopes, ttl_s: ttl_s?, terms: terms? })
        });
    Ok(out.or(read)?)
}

fn owner_name(text: &str, at: &str, out: &mut Problems) -> Option<Owner> {
    let owner = Owner::parse(text);
    if owner.is_none() {
        let fix = "write 1 to 64 of a-z, 0-9, `.`, `_` and `-`; `local` is for requests without a key";
        out.push(at, code::UNKNOWN_VALUE, format!("{text:?} is no name of an owner"), fix);
    }
    owner
}

/// `weight` and `limits`, as keys and owners have them.
fn terms(fields: &Fields<'_>, out: &mut Problems) -> Option<Terms> {
    let weight = fields.get("weight").map_or(Some(None), |node| {
        let number = node.number(out)?;
        let weight = Weight::of(number);
        if weight.is_none() {
            let fix = format!("write {} to {}, or leave it out", Weight::LEAST, Weight::MOST);
            out.push(&node.at, code::OUT_OF_RANGE, format!("the weight {number} is out of range"), fix);
        }
        weight.map(Some)
    });
    let limits = fields.get("limits").map_or(Some(Terms::default()), |node| {
        let limits = node.fields(&["requests", "jobs", "row_layers_day"], out)?;
        let requests = limits.get("requests").map_or(Some(None), |node| node.count(1, out).map(Some));
        let jobs = limits.get("jobs").map_or(Some(None), |node| node.count(1, out).map(Some));
        let day = limits.get("row_layers_day").map_or(Some(None), |node| {
            let most = node.natural(1, out)?;
            if most > MOST_ROW_LAYERS {
                let fix = format!("write at most {MOST_ROW_LAYERS}, or leave it out");
                out.push(&node.at, code::OUT_OF_RANGE, format!("{most} is out of range"), fix);
                return None;
            }
            Some(Some(most))
        });
        Some(Terms { weight: None, requests: requests?, jobs: jobs?, row_layers_day: day? })
    });
    Some(Terms { weight: weight?, ..limits? })
}

/// End a key
///
/// At once on this server, within about two seconds on others that share its database. Jobs of its owner go on.
#[utoipa::path(delete, path = "/v1/admin/keys/{id}", tag = "keys",
    params(("id" = String, Path, description = "The key")),
    responses((status = 200, description = "The key, revoked", body = KeyView),
              NotFound, Problem))]
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
              NotFound, Problem))]
async fn rotate(
    state: State<AppState>,
    Path(text): Path<String>,
    _: NoQuery,
    Posted { value, .. }: Posted,
) -> Result<Response, Problem> {
    let mut out = Problems::default();
    let root = Node::root(Endpoint::OTHER, &value);
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
    /// The same by key; those that were not used are not listed.
    keys: Vec<KeyUsageView>,
}

/// What a key was used for on a day. Its owner's usage has it, too.
#[derive(Debug, Serialize, ToSchema)]
struct KeyUsageView {
    /// Which.
    #[schema(example = "key_0198c5d1a7c47f0d8e3b5a90c1f2d3e4")]
    key: String,
    /// Requests with a body.
    requests: u64,
    /// Rows times layers that were computed.
    row_layers: u64,
    /// Seconds of the engine.
    seconds: f64,
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
/// What was computed for each owner, and with each key, on a day, to about a second.
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
    let store = &state.jobs()?.store;
    let (rows, by_key) = (store.usage(day).await?, store.key_usage(day).await?);
    let keys = by_key.into_iter().map(|one| KeyUsageView {
        key: KeyId::stored(one.key).to_string(),
        requests: one.requests,
        row_layers: one.row_layers,
        seconds: one.seconds,
    });
    let owners = rows.into_iter().map(|one| UsageView {
        owner: one.owner,
        requests: one.requests,
        row_layers: one.row_layers,
        seconds: one.seconds,
    });
    let midnight = Timestamp(u64::try_from(day).unwrap_or(0) * DAY_MS).to_string();
    let day = midnight.split('T').next().unwrap_or_default().to_owned();
    let told = DayUsage { day, owners: owners.collect(), keys: keys.collect() };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(told)).into_response())
}

/// Owners who have terms of their own.
#[derive(Debug, Serialize, ToSchema)]
struct OwnerList {
    /// By their names.
    owners: Vec<OwnerView>,
}

/// Terms of owners
///
/// Those who have a weight or limits of their own; for all others what the server is set to holds.
#[utoipa::path(get, path = "/v1/admin/owners", tag = "keys",
    responses((status = 200, description = "Owners with terms of their own", body = OwnerList), Problem))]
async fn owners(state: State<AppState>, _: NoQuery) -> Result<Response, Problem> {
    let all = keys(&state)?.owners().await?;
    let list = OwnerList { owners: all.iter().map(|(owner, terms)| OwnerView::of(owner, terms)).collect() };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(list)).into_response())
}

/// Set an owner's terms
///
/// Weight and limits of all of the owner's keys together, in place of those before; an empty object takes them back. They hold for
/// requests from now on, on other servers of the same database within about two seconds.
#[utoipa::path(put, path = "/v1/admin/owners/{owner}", tag = "keys", request_body = TermsBody,
    params(("owner" = String, Path, description = "The owner, who need not have a key yet")),
    responses((status = 200, description = "The owner's terms", body = OwnerView),
              NotFound, Problem))]
async fn set_owner(
    state: State<AppState>,
    Path(name): Path<String>,
    _: NoQuery,
    Posted { value, .. }: Posted,
) -> Result<Json<OwnerView>, Problem> {
    let owner = Owner::parse(&name).ok_or_else(|| {
        let detail = format!(
            "{name:?} is no name of an owner; write 1 to 64 of a-z, 0-9, `.`, `_` and `-`, and not `local`"
        );
        Problem::new(Kind::NotFound, detail)
    })?;
    let mut out = Problems::default();
    let root = Node::root(Endpoint::OTHER, &value);
    let read = root.fields(&["weight", "limits"], &mut out).and_then(|fields| terms(&fields, &mut out));
    let terms = out.or(read)?;
    keys(&state)?.set_owner(&owner, terms).await?;
    Ok(Json(OwnerView::of(&owner, &terms)))
}
