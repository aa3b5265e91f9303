//! Who asks, and whether the rules let them: known from the head alone, before any of a body is read.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{Kind, Problem};
use super::rules::{Need, Rule, need, one_of};
use super::state::Access;
use crate::keys::{Key, Scope, Token, Unfit};
use crate::owner::Owner;

/// Who asks. Handlers find it in the request's extensions; there is no request for work without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose the request is.
    pub owner: Owner,
    /// The key it came with; none where none is needed.
    pub key: Option<Arc<Key>>,
}

impl Caller {
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

/// Middleware behind the router: finds the rule of the route, and the key that it asks for.
pub(super) async fn layer(
    State((access, rules)): State<(Access, &'static [Rule])>,
    mut request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let need = path.and_then(|path| need(rules, request.method(), &path));
    let caller = match (need, access) {
        (Some(Need::Open), _) => None,
        (None, _) => return Ok(no_rule()),
        // Keys made here would be in force once the server needs keys, whoever had made them.
        (Some(Need::One([Scope::Admin])), Access::Anyone) => return Ok(keys_are_off()),
        (Some(_), Access::Anyone) => Some(Caller { owner: Owner::local(), key: None }),
        (Some(need), Access::Keys(keys)) => {
            let token = match token(request.headers()) {
                Ok(token) => token,
                Err(problem) => return Ok(unauthorized(problem, keys.is_empty())),
            };
            let key = match keys.identify(&token) {
                Ok(key) => key,
                Err(unfit) => return Ok(unauthorized(NoKey::Unfit(unfit), keys.is_empty())),
            };
            tracing::Span::current().record("key.id", tracing::field::display(key.id));
            if let Some(scopes) = need.scopes()
                && !scopes.iter().any(|scope| key.scopes.has(*scope))
            {
                return Ok(forbidden(scopes, &key));
            }
            Some(Caller { owner: key.owner.clone(), key: Some(key) })
        }
    };
    // Nothing behind here has a use for it.
    request.headers_mut().remove(header::AUTHORIZATION);
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    Ok(next.run(request).await)
}

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
    let value = values.next().ok_or(NoKey::Missing)?;
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

/// 401. Of the token nothing is repeated.
fn unauthorized(why: NoKey, no_keys: bool) -> Response {
    let form = "send the header `Authorization: Bearer mdt_...` with a key's token";
    let detail = match why {
        NoKey::Missing => format!("this server needs a key; {form}"),
        NoKey::Several => format!("there are several Authorization headers; {form} once"),
        NoKey::NotBearer => format!("the Authorization header is not of the scheme Bearer; {form}"),
        NoKey::Malformed => {
            "the token is not one of this server's: its form or its checksum is wrong; copy all of it, from `mdt_` to its \
             last character"
                .to_owned()
        }
        NoKey::Unfit(Unfit::Unknown) => "no key has this token; ask who runs the server for one".to_owned(),
        NoKey::Unfit(Unfit::Expired) => "the key's time is over; ask who runs the server for a new one".to_owned(),
        NoKey::Unfit(Unfit::Revoked) => "the key was revoked; ask who runs the server for a new one".to_owned(),
    };
    let first = if no_keys { ". It has no key yet; `mediant key create` makes the first" } else { "" };
    let challenge = match why {
        NoKey::Missing => "Bearer realm=\"mediant\"",
        NoKey::Several | NoKey::NotBearer => "Bearer realm=\"mediant\", error=\"invalid_request\"",
        NoKey::Malformed | NoKey::Unfit(_) => "Bearer realm=\"mediant\", error=\"invalid_token\"",
    };
    let mut response = Problem::new(Kind::Unauthorized, format!("{detail}{first}")).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

/// 403: a scope is missing.
fn forbidden(scopes: &[Scope], key: &Key) -> Response {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.name()).collect();
    let has = if key.scopes.list().is_empty() { "none".to_owned() } else { key.scopes.to_string() };
    let detail = format!("this needs the scope {}; the key {} has {has}", one_of(scopes), key.id);
    let problem = Problem::new(Kind::Forbidden, detail).with("scopes", names.clone());
    let mut response = problem.into_response();
    let challenge =
        format!("Bearer realm=\"mediant\", error=\"insufficient_scope\", scope=\"{}\"", names.join(" "));
    if let Ok(value) = HeaderValue::try_from(challenge) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

fn no_rule() -> Response {
    tracing::error!("a route has no rule, so nobody may use it");
    Problem::new(Kind::Forbidden, "no rule says who may use this path; please report it").into_response()
}

fn keys_are_off() -> Response {
    let detail = "this server needs no keys, so it makes none; set auth.keys = \"on\", or use `mediant key` while it is \
                  stopped";
    Problem::new(Kind::Forbidden, detail).into_response()
}
