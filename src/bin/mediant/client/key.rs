//! `mediant key`: who may ask a server. In the store of a configuration, or through a running server.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use mediant::config::Settings;
use mediant::keys::{
    KeyId, KeyView, Keys, LimitsView, MOST_GRACE_S, MOST_TTL_S, NewKey, OwnerView, Scope, Scopes, Wanted,
};
use mediant::owner::{Owner, Terms, Weight};
use mediant::store::{self, Store, StoreError};
use reqwest::Method;
use serde_json::{Value, json};

use super::server::Server;
use super::{block_on, say};

/// `mediant key`
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key, and print its token: that is shown now and never again
    Create(CreateArgs),
    /// List all keys, those that have ended among them
    List(PlaceArgs),
    /// End a key at once
    Revoke(RevokeArgs),
    /// Make a key in place of another, which can be used a while longer, and print the new token
    Rotate(RotateArgs),
    /// Set weight and limits of an owner, of all keys together, in place of those before
    Owner(OwnerArgs),
    /// List the owners who have a weight or limits of their own
    Owners(PlaceArgs),
}

/// On what terms something is computed.
#[derive(Debug, Args)]
struct TermsArgs {
    /// Share of the engine beside others who wait, too: twice the weight, twice as much; 0.01 to 100
    #[arg(long, value_name = "NUMBER", value_parser = weight)]
    weight: Option<Weight>,
    /// What may be had: requests=N at once, jobs=N that wait, row-layers-day=N (2e9 will do); with commas between
    #[arg(long, value_name = "NAME=N", value_delimiter = ',', value_parser = limit)]
    limits: Vec<Limit>,
}

/// One of the limits.
#[derive(Debug, Clone, Copy)]
enum Limit {
    Requests(u32),
    Jobs(u32),
    RowLayersDay(u64),
}

impl TermsArgs {
    fn terms(&self) -> Terms {
        let mut terms = Terms { weight: self.weight, ..Terms::default() };
        for limit in &self.limits {
            match *limit {
                Limit::Requests(n) => terms.requests = Some(n),
                Limit::Jobs(n) => terms.jobs = Some(n),
                Limit::RowLayersDay(n) => terms.row_layers_day = Some(n),
            }
        }
        terms
    }
}

#[derive(Debug, Args)]
struct OwnerArgs {
    /// Whose terms they are
    #[arg(value_parser = owner)]
    owner: Owner,
    #[command(flatten)]
    terms: TermsArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Where the keys are.
#[derive(Debug, Args)]
struct PlaceArgs {
    /// A running server, asked with an admin key's token in `MEDIANT_KEY`; without it, the store of the configuration
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "data_dir"])]
    server: Option<String>,
    /// Configuration file whose store is meant
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder whose store is meant
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Whose it will be: what is stored belongs to the owner, who may have several keys
    #[arg(long, value_parser = owner)]
    owner: Owner,
    /// What it may do beside reading: run, sweep, upload, remote, admin
    #[arg(long, value_delimiter = ',', default_value = "run,sweep,upload,remote", value_parser = scope)]
    scopes: Vec<Scope>,
    /// What it is called
    #[arg(long, default_value = "")]
    name: String,
    /// When it ends: 90d, 12h; never if left out
    #[arg(long, value_name = "SPAN", value_parser = span)]
    expires: Option<u64>,
    #[command(flatten)]
    terms: TermsArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// The key, as `mediant key list` names it
    #[arg(value_parser = key_id)]
    key: KeyId,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// The key to replace, as `mediant key list` names it
    #[arg(value_parser = key_id)]
    key: KeyId,
    /// How long the old one can still be used: 24h, 0s; at most 7d
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = span)]
    grace: u64,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Makes, lists, ends or replaces keys.
///
/// # Errors
/// The store cannot be opened, or the server refuses.
pub(crate) fn key(args: &KeyArgs) -> anyhow::Result<()> {
    block_on(async {
        match &args.command {
            KeyCommand::Create(args) => {
                if args.expires.is_some_and(|s| !(1..=MOST_TTL_S).contains(&s)) {
                    bail!("--expires is out of range; write 1s to 36600d, or leave it out");
                }
                let made = Place::open(&args.place).await?.create(args).await?;
                told(&made)
            }
            KeyCommand::List(args) => {
                let keys = Place::open(args).await?.list().await?;
                keys.iter().try_for_each(|key| say(&line(key)))
            }
            KeyCommand::Revoke(args) => {
                let key = Place::open(&args.place).await?.revoke(args.key).await?;
                say(&line(&key))
            }
            KeyCommand::Rotate(args) => {
                if args.grace > MOST_GRACE_S {
                    bail!("--grace is out of range; write 0s to 7d");
                }
                let made = Place::open(&args.place).await?.rotate(args.key, args.grace).await?;
                told(&made)
            }
            KeyCommand::Owner(args) => {
                let set = Place::open(&args.place).await?.set_owner(&args.owner, args.terms.terms()).await?;
                say(&owner_line(&set))
            }
            KeyCommand::Owners(args) => {
                let owners = Place::open(args).await?.owners().await?;
                owners.iter().try_for_each(|owner| say(&owner_line(owner)))
            }
        }
    })
}

/// Weight and limits in words.
fn terms_words(weight: Option<f64>, limits: &LimitsView) -> Vec<String> {
    let count = |name: &str, n: Option<u64>| n.map(|n| format!("{name}={n}"));
    let words = [
        weight.map(|weight| format!("weight {weight}")),
        count("requests", limits.requests.map(u64::from)),
        count("jobs", limits.jobs.map(u64::from)),
        count("row-layers-day", limits.row_layers_day),
    ];
    words.into_iter().flatten().collect()
}

/// An owner's terms in a line for people.
fn owner_line(owner: &OwnerView) -> String {
    let words = terms_words(owner.weight, &owner.limits);
    let words = if words.is_empty() { "as the server is set".to_owned() } else { words.join("  ") };
    format!("{}  {words}", owner.owner)
}

/// The token alone goes to standard output, so that it can be put where it belongs.
fn told(made: &NewKey) -> anyhow::Result<()> {
    eprintln!("{}\nThe token is shown now and never again:", line(&made.key));
    say(&made.token)
}

/// A key in a line for people.
fn line(key: &KeyView) -> String {
    let names: Vec<&str> = key.scopes.iter().map(|scope| scope.name()).collect();
    let scopes = if names.is_empty() { "(reads only)".to_owned() } else { names.join(",") };
    let standing = json!(key.standing);
    let mut parts = vec![key.id.clone(), key.owner.clone(), scopes];
    parts.push(standing.as_str().unwrap_or_default().to_owned());
    parts.push(key.expires.map_or_else(|| "no end".to_owned(), |at| format!("until {at}")));
    parts.push(key.last_used.map_or_else(|| "never used".to_owned(), |at| format!("used {at}")));
    parts.extend(terms_words(key.weight, &key.limits));
    parts.extend((!key.name.is_empty()).then(|| format!("{:?}", key.name)));
    parts.join("  ")
}

/// Where the keys are.
enum Place {
    Store { store: Store, keys: Keys },
    Server(Server),
}

impl Place {
    async fn open(args: &PlaceArgs) -> anyhow::Result<Self> {
        if let Some(url) = &args.server {
            return Ok(Self::Server(Server::new(url)?));
        }
        let (config, data_dir) = (args.config.clone(), args.data_dir.clone());
        let config = Settings { config, data_dir, ..Settings::default() }.load()?.config;
        let place =
            store::Settings { data_dir: config.store.data_dir(), url: config.store.url.expose().to_owned() };
        let store = match Store::open(&place).await {
            Ok(store) => store,
            Err(error @ StoreError::HeldByOther { .. }) => {
                let fix = "a server uses this store: stop it, or let it do this with --server URL and an admin key's token in $MEDIANT_KEY";
                return Err(anyhow::Error::new(error).context(fix));
            }
            Err(error) => return Err(error.into()),
        };
        let keys = Keys::open(store.clone()).await?;
        Ok(Self::Store { store, keys })
    }

    async fn create(self, args: &CreateArgs) -> anyhow::Result<NewKey> {
        match self {
            Self::Store { store, keys } => {
                let scopes: Scopes = args.scopes.iter().copied().collect();
                let (owner, name) = (args.owner.clone(), args.name.clone());
                let made = keys
                    .create(Wanted { owner, name, scopes, ttl_s: args.expires, terms: args.terms.terms() })
                    .await;
                store.close().await?;
                let (key, token) = made?;
                Ok(NewKey::of(&key, &token))
            }
            Self::Server(server) => {
                let mut body = json!({"owner": &*args.owner, "scopes": args.scopes});
                if !args.name.is_empty() {
                    body["name"] = json!(args.name);
                }
                if let Some(ttl) = args.expires {
                    body["ttl_s"] = json!(ttl);
                }
                add_terms(&mut body, &args.terms.terms());
                read(server.ask(Method::POST, "/v1/admin/keys", Some(&body)).await?)
            }
        }
    }

    async fn list(self) -> anyhow::Result<Vec<KeyView>> {
        match self {
            Self::Store { store, keys } => {
                let all = keys.list().await;
                store.close().await?;
                Ok(all?.iter().map(KeyView::of).collect())
            }
            Self::Server(server) => {
                let answer = server.ask(Method::GET, "/v1/admin/keys", None).await?;
                read(answer.get("keys").cloned().unwrap_or_default())
            }
        }
    }

    async fn owners(self) -> anyhow::Result<Vec<OwnerView>> {
        match self {
            Self::Store { store, keys } => {
                let all = keys.owners().await;
                store.close().await?;
                Ok(all?.iter().map(|(owner, terms)| OwnerView::of(owner, terms)).collect())
            }
            Self::Server(server) => {
                let answer = server.ask(Method::GET, "/v1/admin/owners", None).await?;
                read(answer.get("owners").cloned().unwrap_or_default())
            }
        }
    }

    async fn set_owner(self, owner: &Owner, terms: Terms) -> anyhow::Result<OwnerView> {
        match self {
            Self::Store { store, keys } => {
                let set = keys.set_owner(owner, terms).await;
                store.close().await?;
                set?;
                Ok(OwnerView::of(owner, &terms))
            }
            Self::Server(server) => {
                let mut body = json!({});
                add_terms(&mut body, &terms);
                read(server.ask(Method::PUT, &format!("/v1/admin/owners/{}", &**owner), Some(&body)).await?)
            }
        }
    }

    async fn revoke(self, id: KeyId) -> anyhow::Result<KeyView> {
        match self {
            Self::Store { store, keys } => {
                let revoked = keys.revoke(id).await;
                store.close().await?;
                revoked?.as_ref().map(KeyView::of).with_context(|| format!("there is no key {id}"))
            }
            Self::Server(server) => {
                read(server.ask(Method::DELETE, &format!("/v1/admin/keys/{id}"), None).await?)
            }
        }
    }

    async fn rotate(self, id: KeyId, grace_s: u64) -> anyhow::Result<NewKey> {
        match self {
            Self::Store { store, keys } => {
                let rotated = keys.rotate(id, grace_s).await;
                store.close().await?;
                let (key, token) = rotated?;
                Ok(NewKey::of(&key, &token))
            }
            Self::Server(server) => {
                let (path, body) = (format!("/v1/admin/keys/{id}/rotate"), json!({"grace_s": grace_s}));
                read(server.ask(Method::POST, &path, Some(&body)).await?)
            }
        }
    }
}

/// What is said of terms, as a server reads it.
fn add_terms(body: &mut Value, terms: &Terms) {
    if let Some(weight) = terms.weight {
        body["weight"] = json!(weight.number());
    }
    let limits = LimitsView::of(terms);
    if limits != LimitsView::default() {
        body["limits"] = json!(limits);
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: Value) -> anyhow::Result<T> {
    // Not why: that would quote what may be a token.
    serde_json::from_value(answer)
        .map_err(|_| anyhow::anyhow!("the answer is not that of a mediant server of this version"))
}

fn owner(text: &str) -> Result<Owner, String> {
    let fix = "write 1 to 64 of a-z, 0-9, `.`, `_` and `-`; `local` is for requests without a key";
    Owner::parse(text).ok_or_else(|| fix.to_owned())
}

fn scope(text: &str) -> Result<Scope, String> {
    let known = Scope::ALL.into_iter().find(|(name, _)| *name == text).map(|(_, scope)| scope);
    known.ok_or_else(|| "write run, sweep, upload, remote or admin".to_owned())
}

fn key_id(text: &str) -> Result<KeyId, String> {
    text.parse()
        .map_err(|()| "write its id, key_ and 32 hex digits, as `mediant key list` prints it".to_owned())
}

fn weight(text: &str) -> Result<Weight, String> {
    let weight = text.parse().ok().and_then(Weight::of);
    weight.ok_or_else(|| format!("write a number from {} to {}", Weight::LEAST, Weight::MOST))
}

/// `requests=32`; a count may be written as `2e9`.
fn limit(text: &str) -> Result<Limit, String> {
    let fix = "write requests=N, jobs=N or row-layers-day=N, with N at least 1";
    let (name, count) = text.split_once('=').ok_or(fix)?;
    let plain = |text: &str| text.parse::<u64>().ok();
    // Whole numbers below 2^53 are exact.
    let short = |text: &str| {
        text.parse::<f64>().ok().filter(|n| n.fract() == 0.0 && (1.0..9e15).contains(n)).map(|n| n as u64)
    };
    let count =
        plain(count).or_else(|| short(count)).filter(|n| *n >= 1 && i64::try_from(*n).is_ok()).ok_or(fix)?;
    let small = || u32::try_from(count).map_err(|_| format!("{name} is at most {}", u32::MAX));
    match name {
        "requests" => Ok(Limit::Requests(small()?)),
        "jobs" => Ok(Limit::Jobs(small()?)),
        "row-layers-day" => Ok(Limit::RowLayersDay(count)),
        _ => Err(fix.to_owned()),
    }
}

/// Seconds of `90d`, `24h`, `30m` or `45s`.
fn span(text: &str) -> Result<u64, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let seconds = units.into_iter().find_map(|(unit, seconds)| {
        let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
        count.checked_mul(seconds)
    });
    seconds.ok_or_else(|| "write a number and s, m, h or d, such as 90d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_names_and_counts() {
        let read = |text: &str| {
            let limits = text.split(',').map(|one| limit(one).unwrap()).collect();
            TermsArgs { weight: Some(weight("2.5").unwrap()), limits }.terms()
        };
        let terms = read("requests=32,row-layers-day=2e9,jobs=7");
        assert_eq!(
            (terms.requests, terms.jobs, terms.row_layers_day),
            (Some(32), Some(7), Some(2_000_000_000))
        );
        assert_eq!(
            owner_line(&OwnerView::of(&Owner::parse("ann").unwrap(), &terms)),
            "ann  weight 2.5  requests=32  jobs=7  row-layers-day=2000000000"
        );
        for bad in [
            "",
            "requests",
            "requests=",
            "requests=0",
            "requests=-1",
            "requests=1.5",
            "rows=1",
            "requests=5e9",
            "row-layers-day=1e19",
            "jobs=inf",
        ] {
            assert!(limit(bad).is_err(), "{bad}");
        }
        for bad in ["0", "-1", "nan", "101", "x", ""] {
            assert!(weight(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_have_units() {
        assert_eq!(span("90d"), Ok(7_776_000));
        assert_eq!((span("24h"), span("0s"), span("5m")), (Ok(86_400), Ok(0), Ok(300)));
        for bad in ["", "90", "d", "-1d", "1.5h", "1w", "99999999999999999999s", "999999999999999999d"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
