//! Who asks, and whether the rules let them: known from the head alone, before any of a body is read.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::admission::{Admission, OnItsWay};
use super::places::Peer;
use super::places::network;
use super::problem::{Kind, Problem, whole_seconds};
use super::rules::{Need, Rule, need, one_of};
use super::state::{Access, AppState, FIRST_KEY};
use crate::engine::Queue;
use crate::keys::{Key, Scope, Token, Unfit};
use crate::owner::{Account, Owner, Whose};
use crate::service::Service;
use crate::usage;

/// Who asks. Handlers find it in the request's extensions; there is no request for work without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose the request is.
    pub owner: Owner,
    /// The key it came with; none where none is needed.
    pub key: Option<Arc<Key>>,
}

impl Caller {
    /// On whose account the request is.
    pub(super) fn account(&self) -> Account {
        self.key.as_ref().map_or_else(|| (&self.owner).into(), |key| key.account())
    }

    /// Who sent a request.
    pub(super) fn of(extensions: &Extensions) -> Result<Self, Problem> {
        let caller = extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::new(Kind::Internal, "it is not known who asks"))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(&parts.extensions)
    }
}

/// What is known at the door.
#[derive(Debug, Clone)]
pub(super) struct Door {
    access: Access,
    rules: &'static [Rule],
    admission: Admission,
    service: Arc<OnceLock<Service>>,
    owner_requests: u32,
    row_layers_day: Option<u64>,
}

impl Door {
    pub(super) fn new(state: &AppState, rules: &'static [Rule]) -> Self {
        Self {
            access: state.access.clone(),
            rules,
            admission: Admission::new(&state.config),
            service: Arc::clone(&state.service),
            owner_requests: state.config.limits.owner_requests,
            row_layers_day: state.config.limits.row_layers_day(),
        }
    }

    /// Who sent a request, if its route asks for that, and a place among the owner's.
    fn open(&self, request: &Request) -> Result<(Option<Caller>, Option<OnItsWay>), Refused> {
        let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let need = path.and_then(|path| need(self.rules, request.method(), path)).ok_or(Refused::NoRule)?;
        let keys = match (need, &self.access) {
            (Need::Open, _) => return Ok((None, None)),
            // Keys made here would be in force once the server needs keys, whoever had made them.
            (Need::One([Scope::Admin]), Access::Anyone) => return Err(Refused::KeysAreOff),
            (_, Access::Anyone) => return Ok((Some(Caller { owner: Owner::local(), key: None }), None)),
            (_, Access::Keys(keys)) => keys,
        };
        let key = token(request.headers())
            .and_then(|token| keys.identify(&token).map_err(NoKey::Unfit))
            .map_err(|why| self.refused(why, request.extensions(), keys.is_empty()))?;
        tracing::Span::current().record("key.id", tracing::field::display(key.id));
        if let Some(scopes) = need.scopes()
            && !scopes.iter().any(|scope| key.scopes.has(*scope))
        {
            return Err(Refused::NoScope(scopes, key));
        }
        // Reads are quick, and streams of events have places of their own.
        let place = if *request.method() == Method::POST { Some(self.admit(need, &key)?) } else { None };
        Ok((Some(Caller { owner: key.owner.clone(), key: Some(key) }), place))
    }

    /// A place for a request with a body, if its owner and its key have one and may have more computed.
    fn admit(&self, need: Need, key: &Key) -> Result<OnItsWay, Refused> {
        let (account, of_owner) = (key.account(), &key.owner_terms);
        let most = |whose: &Whose| match whose {
            Whose::Owner(_) => Some(of_owner.requests.unwrap_or(self.owner_requests)),
            Whose::Key(_) => key.terms.requests,
        };
        let place = self.admission.enter(&account, most).map_err(|whose| Refused::Enough {
            by_key: matches!(whose, Whose::Key(_)),
            first: self.service.get().and_then(|service| service.engine.first_of(&key.owner)),
        })?;
        let Some(service) = self.service.get() else { return Ok(place) };
        let computes = |scope: &Scope| matches!(scope, Scope::Run | Scope::Sweep | Scope::Remote);
        if need.scopes().is_some_and(|scopes| scopes.iter().any(computes)) {
            for whose in account.whose() {
                let (most, by_key) = match whose {
                    Whose::Owner(_) => (of_owner.row_layers_day.or(self.row_layers_day), false),
                    Whose::Key(_) => (key.terms.row_layers_day, true),
                };
                let Some(most) = most else { continue };
                let used = service.ledger.used(&whose).row_layers;
                if used >= most {
                    return Err(Refused::DailyLimit { used, most, by_key });
                }
            }
        }
        service.ledger.let_in(&account);
        Ok(place)
    }

    /// Without a key, or with one that is none: told to wait where an address has shown too many of these. To have none is
    /// no such thing.
    fn refused(&self, why: NoKey, extensions: &Extensions, no_keys: bool) -> Refused {
        let peer = extensions.get::<Peer>().filter(|_| matches!(why, NoKey::Malformed | NoKey::Unfit(_)));
        match peer.map_or(Ok(()), |peer| self.admission.failed(network(peer.0.ip()))) {
            Ok(()) => Refused::NoKey { why, no_keys },
            Err(wait) => Refused::TooManyFailures(wait),
        }
    }
}

/// Middleware behind the router: finds the rule of the route, and the key that it asks for.
pub(super) async fn layer(
    State(door): State<Door>,
    mut request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    let (caller, _place) = match door.open(&request) {
        Ok(open) => open,
        Err(refused) => return Ok(refused.into_response()),
    };
    // Nothing behind here has a use for it.
    request.headers_mut().remove(header::AUTHORIZATION);
    request.headers_mut().remove(NNSIGHT);
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    Ok(next.run(request).await)
}

/// Where nnsight has the key. It may send the header without one.
const NNSIGHT: HeaderName = HeaderName::from_static("ndif-api-key");

/// Why a request has no key.
#[derive(Debug, Clone, Copy)]
enum NoKey {
    Missing,
    Several,
    NotBearer,
    Malformed,
    Unfit(Unfit),
}

fn token(headers: &HeaderMap) -> Result<Token, NoKey> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        let key = headers.get(NNSIGHT).filter(|key| !matches!(key.as_bytes(), b"" | b"None"));
        let key = key.ok_or(NoKey::Missing)?.to_str().map_err(|_| NoKey::Malformed)?;
        return Token::parse(key.trim()).ok_or(NoKey::Malformed);
    };
    if values.next().is_some() {
        return Err(NoKey::Several);
    }
    let text = value.to_str().map_err(|_| NoKey::Malformed)?;
    let (scheme, token) = text.trim().split_once(' ').ok_or(NoKey::NotBearer)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(NoKey::NotBearer);
    }
    Token::parse(token.trim()).ok_or(NoKey::Malformed)
}

/// Why a request is not let in.
#[derive(Debug)]
enum Refused {
    NoRule,
    KeysAreOff,
    NoKey {
        why: NoKey,
        no_keys: bool,
    },
    NoScope(&'static [Scope], Arc<Key>),
    TooManyFailures(Duration),
    /// `first`: when one of the owner's is answered, if that is known.
    Enough {
        by_key: bool,
        first: Option<Queue>,
    },
    DailyLimit {
        used: u64,
        most: u64,
        by_key: bool,
    },
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (problem, challenge) = match self {
            Self::NoRule => {
                tracing::error!("a route has no rule, so nobody may use it");
                let detail = "no rule says who may use this path";
                (refusal(Kind::Forbidden, "no_rule", detail, "report it"), None)
            }
            Self::KeysAreOff => {
                let detail = "this server needs no keys, so it makes none";
                let fix = "set auth.keys = \"on\", or use `mediant key` while it is stopped";
                (refusal(Kind::Forbidden, "keys_off", detail, fix), None)
            }
            Self::NoKey { why, no_keys } => unauthorized(why, no_keys),
            Self::NoScope(scopes, key) => {
                let names: Vec<&str> = scopes.iter().map(|scope| scope.name()).collect();
                let has =
                    if key.scopes.list().is_empty() { "none".to_owned() } else { key.scopes.to_string() };
                let detail = format!("this needs the scope {}; the key {} has {has}", one_of(scopes), key.id);
                let fix = format!("ask who runs the server for a key with the scope {}", one_of(scopes));
                let error = format!("error=\"insufficient_scope\", scope=\"{}\"", names.join(" "));
                let problem = refusal(Kind::Forbidden, "missing_scope", &detail, &fix);
                (problem.with("scopes", names), Some(error))
            }
            Self::TooManyFailures(wait) => {
                let detail = "your address has shown too many keys that are none";
                let fix = "mend the token, and wait as long as Retry-After says";
                let problem = refusal(Kind::Overloaded, "failed_keys", detail, fix);
                (problem.retry_after(whole_seconds(wait.as_secs_f64())), None)
            }
            Self::Enough { by_key, first } => {
                let (code, detail) = if by_key {
                    (
                        "key_requests",
                        "as many requests with this key are on their way as its limit `requests` allows",
                    )
                } else {
                    (
                        "owner_requests",
                        "as many of your requests are on their way as limits.owner_requests, or your own limit, allows",
                    )
                };
                let fix = "wait for one of them; with `Prefer: respond-async` requests become jobs, which are not counted";
                let problem = refusal(Kind::Overloaded, code, detail, fix);
                (problem.retry_after(first.map_or(1, |first| whole_seconds(first.seconds))), None)
            }
            Self::DailyLimit { used, most, by_key } => {
                let (code, whom, what) = if by_key {
                    ("key_daily_limit", "with this key", "limit `row_layers_day` of the key")
                } else {
                    ("daily_limit", "for you", "limits.owner_row_layers_day")
                };
                let detail = format!("{used} row-layers were computed {whom} today, of {most}");
                let fix =
                    format!("come back after midnight, UTC, or ask who runs the server for a larger {what}");
                let problem = refusal(Kind::Overloaded, code, &detail, &fix);
                (problem.retry_after(usage::today().1), None)
            }
        };
        let mut response = problem.into_response();
        let challenge = challenge.map(|error| {
            format!("Bearer realm=\"mediant\"{}{error}", if error.is_empty() { "" } else { ", " })
        });
        if let Some(Ok(value)) = challenge.map(HeaderValue::try_from) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

fn refusal(kind: Kind, code: &'static str, detail: &str, fix: &str) -> Problem {
    Problem::new(kind, format!("{detail}; {fix}")).error("", code, detail, fix)
}

/// 401 and its challenge. Of the token nothing is repeated.
fn unauthorized(why: NoKey, no_keys: bool) -> (Problem, Option<String>) {
    let (code, detail) = match why {
        NoKey::Missing => ("missing_key", "this server needs a key"),
        NoKey::Several => ("bad_authorization", "there are several Authorization headers"),
        NoKey::NotBearer => ("bad_authorization", "the Authorization header is not of the scheme Bearer"),
        NoKey::Malformed => {
            ("malformed_key", "the token is not one of this server's: its form or its checksum is wrong")
        }
        NoKey::Unfit(Unfit::Unknown) => ("unknown_key", "no key has this token"),
        NoKey::Unfit(Unfit::Expired) => ("expired_key", "the key's time is over"),
        NoKey::Unfit(Unfit::Revoked) => ("revoked_key", "the key was revoked"),
    };
    let fix = match why {
        _ if no_keys => FIRST_KEY,
        NoKey::Missing | NoKey::NotBearer => {
            "send the header `Authorization: Bearer mdt_...` with a key's token"
        }
        NoKey::Several => "send one",
        NoKey::Malformed => "copy all of it, from `mdt_` to its last character",
        NoKey::Unfit(_) => "ask who runs the server for a key",
    };
    let error = match why {
        NoKey::Missing => "",
        NoKey::Several | NoKey::NotBearer => "error=\"invalid_request\"",
        NoKey::Malformed | NoKey::Unfit(_) => "error=\"invalid_token\"",
    };
    (refusal(Kind::Unauthorized, code, detail, fix), Some(error.to_owned()))
}
