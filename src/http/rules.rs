//! Who may use which route: one table, which denies what is not in it.

use axum::http::Method;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};

use super::problem::{self, MEDIA_TYPE};
use crate::keys::Scope;
use crate::spec::kind::Kind;

/// Name of the security scheme in the document.
const SCHEME: &str = "key";

/// What a route asks of who uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing.
    Open,
    /// A key, whatever it may do.
    Key,
    /// A key that may do one of these.
    One(&'static [Scope]),
    /// An admin's key where keys are needed at all, else nothing: what only shows how the server is.
    Operator,
}

impl Need {
    /// The scopes of which a key must have one, if it must.
    pub(super) const fn scopes(self) -> Option<&'static [Scope]> {
        match self {
            Self::Open | Self::Key => None,
            Self::One(scopes) => Some(scopes),
            Self::Operator => Some(&[Scope::Admin]),
        }
    }
}

/// Who may use a route.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) method: Method,
    /// As the router and the document write it.
    pub(super) path: &'static str,
    pub(super) need: Need,
}

const fn rule(method: Method, path: &'static str, need: Need) -> Rule {
    Rule { method, path, need }
}

const RUN: Need = Need::One(&[Scope::Run]);
const SWEEP: Need = Need::One(&[Scope::Sweep]);
/// Whoever may begin a job may end it.
const WORK: Need = Need::One(&[Scope::Run, Scope::Sweep]);
const UPLOAD: Need = Need::One(&[Scope::Upload]);
/// Runs store activations, too.
const STORES: Need = Need::One(&[Scope::Run, Scope::Upload]);
const REMOTE: Need = Need::One(&[Scope::Remote]);
const ADMIN: Need = Need::One(&[Scope::Admin]);

/// The table, but for the kinds of experiments: see [`of_kind`].
pub(super) const RULES: &[Rule] = &[
    // The page has the field for the key.
    rule(Method::GET, "/", Need::Open),
    rule(Method::GET, "/assets/{build}/{*path}", Need::Open),
    // What the program itself brings: guides and the client.
    rule(Method::GET, "/docs", Need::Open),
    rule(Method::GET, "/docs/search", Need::Open),
    rule(Method::GET, "/docs/{page}", Need::Open),
    rule(Method::GET, "/clients", Need::Open),
    rule(Method::GET, "/clients/", Need::Open),
    rule(Method::GET, "/clients/mediant", Need::Open),
    rule(Method::GET, "/clients/mediant/", Need::Open),
    rule(Method::GET, "/clients/{wheel}", Need::Open),
    rule(Method::GET, "/healthz", Need::Open),
    rule(Method::GET, "/readyz", Need::Open),
    rule(Method::GET, "/metrics", Need::Operator),
    rule(Method::GET, "/v1/version", Need::Open),
    rule(Method::GET, "/v1/openapi.json", Need::Open),
    rule(Method::GET, "/v1/me", Need::Key),
    // All of it for admins, for others what is theirs.
    rule(Method::GET, "/v1/status", Need::Key),
    rule(Method::GET, "/v1/models", Need::Key),
    rule(Method::GET, "/v1/models/{id}", Need::Key),
    rule(Method::GET, "/v1/capabilities", Need::Key),
    rule(Method::GET, "/v1/lints", Need::Key),
    rule(Method::GET, "/v1/examples", Need::Key),
    rule(Method::POST, "/v1/tokenize", Need::Key),
    rule(Method::POST, "/v1/plan", Need::Key),
    rule(Method::POST, "/v1/align", RUN),
    rule(Method::POST, "/v1/completions", RUN),
    rule(Method::POST, "/v1/chat/completions", RUN),
    rule(Method::GET, "/v1/results/{id}", Need::Key),
    rule(Method::GET, "/v1/jobs", Need::Key),
    rule(Method::GET, "/v1/jobs/{id}", Need::Key),
    rule(Method::DELETE, "/v1/jobs/{id}", WORK),
    rule(Method::GET, "/v1/jobs/{id}/result", Need::Key),
    rule(Method::GET, "/v1/jobs/{id}/plot", Need::Key),
    rule(Method::GET, "/v1/jobs/{id}/events", Need::Key),
    rule(Method::GET, "/v1/datasets", Need::Key),
    rule(Method::POST, "/v1/datasets", UPLOAD),
    rule(Method::GET, "/v1/datasets/{id}", Need::Key),
    rule(Method::DELETE, "/v1/datasets/{id}", UPLOAD),
    rule(Method::GET, "/v1/activations", Need::Key),
    rule(Method::POST, "/v1/activations", UPLOAD),
    rule(Method::GET, "/v1/activations/{id}", Need::Key),
    rule(Method::DELETE, "/v1/activations/{id}", STORES),
    // Says nothing but that the server is there.
    rule(Method::GET, "/ping", Need::Open),
    rule(Method::GET, "/connected", Need::Open),
    rule(Method::GET, "/subscribe", REMOTE),
    rule(Method::POST, "/request", REMOTE),
    rule(Method::GET, "/response/{id}", REMOTE),
    // Who fetches a result shows the token in its address, not a key.
    rule(Method::GET, "/result/{id}", Need::Open),
    rule(Method::GET, "/status", REMOTE),
    rule(Method::GET, "/env", REMOTE),
    rule(Method::GET, "/whoami", REMOTE),
    rule(Method::GET, "/api/models/{*path}", REMOTE),
    rule(Method::GET, "/{name}/resolve/{*path}", REMOTE),
    rule(Method::GET, "/{owner}/{name}/resolve/{*path}", REMOTE),
    rule(Method::GET, "/v1/admin/keys", ADMIN),
    rule(Method::POST, "/v1/admin/keys", ADMIN),
    rule(Method::DELETE, "/v1/admin/keys/{id}", ADMIN),
    rule(Method::POST, "/v1/admin/keys/{id}/rotate", ADMIN),
    rule(Method::GET, "/v1/admin/usage", ADMIN),
    rule(Method::GET, "/v1/admin/owners", ADMIN),
    rule(Method::PUT, "/v1/admin/owners/{owner}", ADMIN),
];

/// What a route asks for; `None` if no rule names it.
pub(super) fn need(rules: &[Rule], method: &Method, path: &str) -> Option<Need> {
    // The router answers HEAD with what GET would say, without its body.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    // Below `/legacy` is what is above it, with the same rules.
    let path = path.strip_prefix("/legacy").unwrap_or(path);
    let listed = rules.iter().find(|rule| rule.method == *method && rule.path == path);
    listed.map(|rule| rule.need).or_else(|| of_kind(method, path))
}

/// What the experiment of a path asks for: of each kind there is one, and jobs of many units have a scope of their own.
fn of_kind(method: &Method, path: &str) -> Option<Need> {
    let kind = Kind::named(path.strip_prefix("/v1/")?).filter(|_| *method == Method::POST)?;
    Some(if kind == Kind::Sweep { SWEEP } else { RUN })
}

/// Says in the document what each route asks for. A route without a rule needs a key there, and is refused here.
pub(super) fn document(document: &mut OpenApi, rules: &[Rule]) {
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("mdt_...")
        .description(Some(
            "A key's token, as `mediant key create` prints it. On the loopback none is needed unless `auth.keys` says so.",
        ))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
    let needs_key: SecurityRequirement = SecurityRequirement::new(SCHEME, Vec::<String>::new());
    document.security = Some(vec![needs_key]);
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            match need(rules, &method, path) {
                Some(Need::Open) => operation.security = Some(Vec::new()),
                need => refusals(operation, need.and_then(Need::scopes).map(one_of).as_deref()),
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PUT, &mut item.put),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// `run`, or `one of run, sweep`.
pub(super) fn one_of(scopes: &[Scope]) -> String {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.name()).collect();
    if let [only] = names[..] { only.to_owned() } else { format!("one of {}", names.join(", ")) }
}

fn refusals(operation: &mut Operation, scopes: Option<&str>) {
    let no_scope = scopes.map_or_else(String::new, |scopes| format!("; needs the scope {scopes}"));
    for (kind, more) in [(problem::Kind::Unauthorized, String::new()), (problem::Kind::Forbidden, no_scope)] {
        let content = ContentBuilder::new()
            .schema(Some(RefOr::<utoipa::openapi::Schema>::Ref(Ref::from_schema_name("Problem"))))
            .build();
        let response = ResponseBuilder::new()
            .description(format!("{}{more}", kind.slug()))
            .content(MEDIA_TYPE, content)
            .build();
        operation.responses.responses.insert(kind.status().as_str().to_owned(), RefOr::T(response));
    }
}
