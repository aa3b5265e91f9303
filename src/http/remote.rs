//! The wire of nnsight 0.8 (`remote=True`): a websocket that tells, a form that hands a block in, and what is served.
//!
//! Below `/legacy` the same routes serve notebooks that were written for older versions: a layer's output is a tuple there, and
//! saved tensors have `.value`.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, FromRequest, MatchedPath, Multipart, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use mediant_worker::message::Profile;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{interval, timeout};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::listen::Seat;
use super::packing;
use super::places::Peer;
use super::places::network;
use super::problem::NotFound;
use super::state::Readiness;
use super::{AppState, Caller, Kind, NoQuery, Problem, query};
use crate::capacity::Share;
use crate::remote::NotTaken;
use crate::remote::envelope::{self, Envelope, Wrong};
use crate::remote::frame::{self, Status};
use crate::remote::job::{Answer, Job, Party, Told, secret};
use crate::remote::names::repo_id;
use crate::remote::session::Session;
use crate::spec::problem::code;

/// What is spoken here, by version.
const NNSIGHT: &str = "0.8.1";
/// The version of transformers that this nnsight works with.
const TRANSFORMERS: &str = "5.22.2";
/// How often a websocket is asked whether its client is there.
const ALIVE: Duration = Duration::from_secs(20);

pub(super) fn routes() -> OpenApiRouter<AppState> {
    let handed_in = OpenApiRouter::default().routes(routes!(request)).layer(DefaultBodyLimit::disable());
    OpenApiRouter::default()
        .routes(routes!(subscribe))
        .merge(handed_in)
        .routes(routes!(response))
        .routes(routes!(result))
        .routes(routes!(status))
        .routes(routes!(env))
        .routes(routes!(whoami))
        .routes(routes!(ping))
        .routes(routes!(connected))
}

/// The same below `/legacy`; results are fetched from where they are.
pub(super) fn legacy() -> Router<AppState> {
    let routes = Router::new()
        .route("/subscribe", get(subscribe))
        .route("/request", post(request).layer(DefaultBodyLimit::disable()))
        .route("/response/{id}", get(response))
        .route("/status", get(status))
        .route("/env", get(env))
        .route("/whoami", get(whoami))
        .route("/ping", get(ping))
        .route("/connected", get(connected));
    Router::new().nest("/legacy", routes)
}

/// Waits for jobs
///
/// A websocket. The server's first message is `{"session_id": ...}`; what is told of jobs handed in with it follows. Clients
/// say nothing; when one closes, its jobs are cancelled.
#[utoipa::path(get, path = "/subscribe", tag = "remote",
    responses((status = 101, description = "A websocket"), Problem))]
async fn subscribe(
    state: State<AppState>,
    caller: Caller,
    extensions: Extensions,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let socket = socket.map_err(|rejection| {
        Problem::new(Kind::BadRequest, format!("this path is a websocket: {}", rejection.body_text()))
    })?;
    let (seat, readiness) = (extensions.get::<Seat>().cloned(), state.readiness.clone());
    let session = state.remote.sessions().open(&caller.owner);
    Ok(socket.on_upgrade(move |socket| follow(socket, session, seat, readiness)))
}

/// Tells a client of its jobs until one of the two is gone.
async fn follow(
    mut socket: WebSocket,
    mut session: Session,
    seat: Option<Seat>,
    mut readiness: watch::Receiver<Readiness>,
) {
    let wanted = seat.as_ref().map(Seat::streams);
    let mut wanted = std::pin::pin!(async {
        match wanted {
            Some(wanted) => wanted.await,
            None => std::future::pending().await,
        }
    });
    let mut alive = interval(ALIVE);
    let greeting = json!({"session_id": session.id}).to_string();
    if socket.send(Message::text(greeting)).await.is_err() {
        return;
    }
    let mut drains = false;
    // While the server drains, a job that runs is waited for.
    let mut works = None;
    loop {
        let message = tokio::select! {
            told = session.told.recv() => match told {
                Some(Told::Status(status)) => Message::text(status.to_string()),
                Some(Told::Result(bytes)) => Message::binary(bytes),
                None => return,
            },
            said = socket.recv() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
            () = &mut wanted => return,
            _ = alive.tick() => Message::Ping(Bytes::new()),
            draining = readiness.wait_for(|now| *now == Readiness::Draining), if !drains => {
                drains = true;
                if draining.is_ok() {
                    works = seat.as_ref().map(Seat::works);
                    alive = interval(Duration::from_millis(100));
                }
                continue;
            }
        };
        if socket.send(message).await.is_err() {
            return;
        }
        if works.is_some() && session.is_idle() {
            return;
        }
    }
}

/// What a job is told by.
#[derive(Debug, Serialize, ToSchema)]
struct JobStatus {
    /// The job, by which it is asked after.
    id: String,
    /// RECEIVED, QUEUED, RUNNING, LOG, COMPLETED or ERROR.
    status: String,
    /// A line that was printed, an error's traceback, or empty.
    description: String,
    /// Where the result is fetched; `torch.load` reads it, after zstd where the request was packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// What it cost, once it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Value>,
}

/// Hands a block in
///
/// A form: `data` is the envelope (`model_key`, `session_id`, `compress`, `env`), `blob` the block as nnsight packs it. With a
/// `session_id` the websocket is told what becomes of the job; without, `GET /response/{id}` tells.
#[utoipa::path(post, path = "/request", tag = "remote",
    request_body(content = Object, content_type = "multipart/form-data", description = "The form of nnsight 0.8"),
    responses((status = 200, description = "It was taken on", body = JobStatus), Problem))]
async fn request(State(state): State<AppState>, request: Request) -> Result<Json<Value>, Problem> {
    let (parts, body) = request.into_parts();
    let caller = Caller::of(&parts.extensions)?;
    if let Some(reason) = state.remote.unavailable() {
        return Err(Problem::new(Kind::Unavailable, format!("remote=True is not served here: {reason}"))
            .retry_after(60));
    }
    let service = state.service()?;
    let share = state.capacity.share(caller.account());
    let head =
        Head { base: base(&parts.headers, &parts.extensions, &state), legacy: is_legacy(&parts.extensions) };
    let address = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
    let seconds = state.config.http.body_timeout_s;
    let form =
        timeout(state.config.http.body_timeout(), form(Request::from_parts(parts, body), &state, &share));
    let too_slow =
        |_| Problem::new(Kind::RequestTimeout, format!("the body was not complete after {seconds} s"));
    let (envelope, payload) = form.await.map_err(too_slow)??;
    let came = Instant::now();
    let hub = state.remote.hub(&service.served).await;
    let hub = hub.map_err(|reason| Problem::new(Kind::Internal, reason))?;
    envelope.check(&service.served, &hub.commit).map_err(wrong)?;
    let client = match envelope.session_id.as_str() {
        "" => None,
        id => Some(state.remote.sessions().find(id, &caller.owner).ok_or_else(|| {
            wrong(Wrong {
                pointer: "/data/session_id",
                code: code::UNKNOWN_NAME,
                detail: "this websocket is not open".to_owned(),
                fix: "subscribe again".to_owned(),
            })
        })?),
    };
    let party = match (&caller.key, address) {
        (None, Some(address)) => Party::Address(network(address)),
        _ => Party::Owner(caller.owner.clone()),
    };
    let id = secret();
    let job = Job {
        id: id.clone(),
        owner: caller.owner,
        party,
        profile: if head.legacy { Profile::Legacy } else { Profile::Plain },
        packed: envelope.compress,
        came,
        eager: envelope.eager(),
        near: address.is_some_and(is_near),
        payload,
        base: head.base,
        client,
        share,
    };
    state.remote.submit(job, service).await?;
    Ok(Json(frame::status(&id, Status::Received, "", None)))
}

/// What of a request's head a job needs.
struct Head {
    base: String,
    legacy: bool,
}

/// Whether an address is this machine's, or of its own network.
fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

fn is_legacy(extensions: &Extensions) -> bool {
    extensions.get::<MatchedPath>().is_some_and(|path| path.as_str().starts_with("/legacy/"))
}

impl From<NotTaken> for Problem {
    fn from(not_taken: NotTaken) -> Self {
        let detail = not_taken.to_string();
        match not_taken {
            NotTaken::Full(full) => {
                let fix = "wait for one of them to end";
                Self::new(Kind::Overloaded, format!("{detail}; {fix}"))
                    .error(
                        "",
                        code::LIMIT,
                        format!("the limit is {} (remote.queued_per_owner)", full.most),
                        fix,
                    )
                    .retry_after(5)
            }
            NotTaken::Store(_) => {
                tracing::error!("{detail}");
                Self::new(Kind::InsufficientStorage, detail)
            }
        }
    }
}

/// As nnsight shows it: the detail alone, so the fix is in it.
fn wrong(Wrong { pointer, code, detail, fix }: Wrong) -> Problem {
    Problem::new(Kind::InvalidRequest, format!("{detail}; {fix}")).error(pointer, code, detail, fix)
}

/// The two fields of the form, within their sizes.
async fn form(request: Request<Body>, state: &AppState, share: &Share) -> Result<(Envelope, Bytes), Problem> {
    let mut form = Multipart::from_request(request, state).await.map_err(|rejection| {
        let detail = format!("the body is no form: {}", rejection.body_text());
        Problem::new(Kind::UnsupportedMediaType, detail)
    })?;
    let broken = |error: MultipartError| {
        Problem::new(Kind::BadRequest, format!("the form broke off: {}", error.body_text()))
    };
    let (mut envelope, mut block) = (None, None);
    while let Some(field) = form.next_field().await.map_err(broken)? {
        match field.name() {
            Some("data") => {
                let text = read(field, envelope::MOST_BYTES, "the field `data`", share).await?;
                let text = String::from_utf8_lossy(&text).into_owned();
                envelope = Some(Envelope::read(&text).map_err(wrong)?);
            }
            Some("blob") => {
                block = Some(
                    read(field, state.config.remote.request_bytes, "remote.request_bytes", share).await?,
                );
            }
            _ => {}
        }
    }
    let missing = |name: &str| {
        wrong(Wrong {
            pointer: "",
            code: code::MISSING,
            detail: format!("the form has no field `{name}`"),
            fix: format!("send it with nnsight {NNSIGHT}"),
        })
    };
    Ok((envelope.ok_or_else(|| missing("data"))?, block.ok_or_else(|| missing("blob"))?.into()))
}

async fn read(mut field: Field<'_>, most: usize, what: &str, share: &Share) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let broken = |error: MultipartError| {
        Problem::new(Kind::BadRequest, format!("the form broke off: {}", error.body_text()))
    };
    while let Some(chunk) = field.chunk().await.map_err(broken)? {
        if bytes.len() + chunk.len() > most {
            let detail = format!("the block has more than {most} bytes ({what}); send less with it");
            return Err(Problem::new(Kind::BodyTooLarge, detail).with("limit_bytes", most));
        }
        share.resize((bytes.len() + chunk.len()) as u64).await?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// This server's address as the client has it.
fn base(headers: &HeaderMap, extensions: &Extensions, state: &AppState) -> String {
    let configured = &state.config.remote.public_url;
    if !configured.is_empty() {
        return configured.clone();
    }
    let text = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        Some(value.split(',').next().unwrap_or(value).trim().to_owned()).filter(|text| !text.is_empty())
    };
    let forwarded = text("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let secure = forwarded || extensions.get::<Seat>().is_some_and(|seat| seat.secure);
    let scheme = if secure { "https" } else { "http" };
    let host = text("x-forwarded-host").or_else(|| text(header::HOST.as_str())).unwrap_or_default();
    format!("{scheme}://{host}")
}

/// What became of a job
///
/// Of one that was handed in without a websocket. COMPLETED names where the result is fetched.
#[utoipa::path(get, path = "/response/{id}", tag = "remote",
    params(("id" = String, Path, description = "The job")),
    responses((status = 200, description = "Its last status", body = JobStatus), NotFound, Problem))]
async fn response(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoQuery,
    parts: Parts,
) -> Result<Json<Value>, Problem> {
    let base = base(&parts.headers, &parts.extensions, &state);
    let found = state.remote.response(&id, &caller.owner, &base).await;
    found.map(Json).ok_or_else(|| Problem::new(Kind::NotFound, "there is no such job"))
}

/// A result
///
/// Once, to who shows the token that COMPLETED told.
#[utoipa::path(get, path = "/result/{id}", tag = "remote",
    params(("id" = String, Path, description = "The job"),
           ("token" = String, Query, description = "As COMPLETED told")),
    responses((status = 200, description = "What `torch.load` reads, after zstd where the request was packed",
               body = String, content_type = "application/octet-stream"),
              NotFound, Problem))]
async fn result(
    State(state): State<AppState>,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<Response, Problem> {
    let mut query = query(&parts, &["token"])?;
    let token = query.remove("token").unwrap_or_default();
    let fetched = state.remote.fetch(&id, &token);
    let Answer { bytes, share } = fetched
        .ok_or_else(|| Problem::new(Kind::NotFound, "this result was fetched, or its time is over"))?;
    let held = Held { bytes, _share: share };
    let body = Body::from(Bytes::from_owner(held));
    let head = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")];
    let mut response = (head, body).into_response();
    packing::as_it_is(&mut response);
    Ok(response)
}

/// Bytes on their way, and the memory that they hold.
struct Held {
    bytes: Bytes,
    _share: Option<Share>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What is served
///
/// As nnsight's `status()` reads it: one deployment. Beside it which versions are spoken, and why no blocks run, if so.
#[utoipa::path(get, path = "/status", tag = "remote",
    responses((status = 200, description = "Deployments", body = Object), Problem))]
async fn status(State(state): State<AppState>, _: NoQuery) -> Json<Value> {
    let readiness = state.readiness();
    let unavailable = state.remote.unavailable();
    let application_state = match &readiness {
        Readiness::Loading | Readiness::Restarting(_) => "DEPLOYING",
        Readiness::Ready | Readiness::StoreFailed(_) if unavailable.is_none() => "RUNNING",
        _ => "UNHEALTHY",
    };
    let mut deployments = serde_json::Map::new();
    if let Ok(service) = state.service() {
        let id = repo_id(&service.served);
        let model_key = format!(
            "nnsight.modeling.transformers.TransformersModel:{}",
            json!({"repo_id": id, "revision": "main", "task": "text-generation"})
        );
        let deployment = json!({
            "deployment_level": "HOT",
            "application_state": application_state,
            "model_key": model_key,
            "repo_id": id,
            "task": "text-generation",
            "trust_remote_code": false,
            "revision": "main",
            "pinned": true,
        });
        deployments.insert(id, deployment);
    }
    Json(json!({
        "deployments": deployments,
        "server": {
            "name": "mediant",
            "version": env!("CARGO_PKG_VERSION"),
            "status": readiness.report(&state.access).status,
            "nnsight": NNSIGHT,
            "transformers": TRANSFORMERS,
            "profiles": {"": "plain", "/legacy": "older notebooks"},
            "blocks": unavailable.is_none(),
            "reason": unavailable,
            "sandbox_lacks": state.remote.lacks(),
            "hub": state.config.remote.hub,
        },
    }))
}

/// What blocks find installed
///
/// As nnsight's `compare()` reads it. `torch`, `nnsight` and `einops` are stand-ins: names and operations, no numbers.
#[utoipa::path(get, path = "/env", tag = "remote",
    responses((status = 200, description = "Versions", body = Object), Problem))]
async fn env(_: NoQuery) -> Json<Value> {
    Json(json!({
        "python_version": "any",
        "packages": {"nnsight": NNSIGHT, "transformers": TRANSFORMERS},
        "stand_ins": ["torch", "nnsight", "einops"],
    }))
}

/// Whose key it is
#[utoipa::path(get, path = "/whoami", tag = "remote",
    responses((status = 200, description = "Owner and scopes", body = Object), Problem))]
async fn whoami(caller: Caller, _: NoQuery) -> Json<Value> {
    let scopes = caller.key.as_ref().map(|key| key.scopes.list()).unwrap_or_default();
    Json(json!({"email": caller.owner.to_string(), "tags": scopes}))
}

/// Whether the server answers
#[utoipa::path(get, path = "/ping", tag = "remote",
    responses((status = 200, description = "It does", body = String, content_type = "application/json")))]
async fn ping() -> Json<&'static str> {
    Json("pong")
}

/// Whether the server answers, in another form
#[utoipa::path(get, path = "/connected", tag = "remote",
    responses((status = 200, description = "It does", body = Object)))]
async fn connected() -> Json<Value> {
    Json(json!({"status": "connected"}))
}
