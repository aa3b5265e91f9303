//! A key as it is told: on the wire and on the command line. Its token is in one answer only.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Key, Scope, Standing, Token};
use crate::activations::Timestamp;
use crate::owner::{Owner, Terms, Weight};

/// The most at once, and on a day. Null: as the server is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = KeyLimits)]
pub struct LimitsView {
    /// Requests with a body on their way at once.
    pub requests: Option<u32>,
    /// Jobs of which nothing has been computed.
    pub jobs: Option<u32>,
    /// Rows times layers on a day, UTC.
    pub row_layers_day: Option<u64>,
}

impl LimitsView {
    /// Of somebody's terms.
    pub const fn of(terms: &Terms) -> Self {
        Self { requests: terms.requests, jobs: terms.jobs, row_layers_day: terms.row_layers_day }
    }
}

/// On what terms an owner has something computed, by whatever key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = OwnerTerms)]
pub struct OwnerView {
    /// Who.
    #[schema(example = "alice")]
    pub owner: String,
    /// Share of the engine beside others who wait, too; null: 1. A key's own weight comes before it.
    pub weight: Option<f64>,
    /// What all of the owner's keys together may have.
    pub limits: LimitsView,
}

impl OwnerView {
    /// Of an owner.
    pub fn of(owner: &Owner, terms: &Terms) -> Self {
        let weight = terms.weight.map(Weight::number);
        Self { owner: owner.to_string(), weight, limits: LimitsView::of(terms) }
    }
}

/// A key, without its token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Key)]
pub struct KeyView {
    /// Names the key. It is no secret.
    #[schema(example = "key_0198c5d1a7c47f0d8e3b5a90c1f2d3e4")]
    pub id: String,
    /// Whose it is: jobs, data sets and activations belong to the owner, not to the key.
    #[schema(example = "alice")]
    pub owner: String,
    /// What it is called.
    #[schema(example = "notebook")]
    pub name: String,
    /// What it may do beside reading.
    pub scopes: Vec<Scope>,
    /// Whether it can be used.
    pub standing: Standing,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// When it ends by itself; null: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// When it was ended, if it was.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked: Option<Timestamp>,
    /// When it was last used, to about a minute; null: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used: Option<Timestamp>,
    /// The key that it was made to replace.
    pub follows: Option<String>,
    /// Share of the engine beside others who wait, too; null: its owner's.
    pub weight: Option<f64>,
    /// What may be had with this key; its owner's limits hold beside them.
    pub limits: LimitsView,
}

impl KeyView {
    /// A key as it stands now.
    pub fn of(key: &Key) -> Self {
        let at = |ms: i64| Timestamp(u64::try_from(ms).unwrap_or(0));
        Self {
            id: key.id.to_string(),
            owner: key.owner.to_string(),
            name: key.name.clone(),
            scopes: key.scopes.list(),
            standing: key.standing(),
            created: at(key.created_ms),
            expires: key.expires_ms.map(at),
            revoked: key.revoked_ms.map(at),
            last_used: key.used_ms.map(at),
            follows: key.follows.map(|id| id.to_string()),
            weight: key.terms.weight.map(Weight::number),
            limits: LimitsView::of(&key.terms),
        }
    }
}

/// A key that has just been made.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct NewKey {
    /// The key.
    #[serde(flatten)]
    pub key: KeyView,
    /// What to send as `Authorization: Bearer ...`. It is told now and never again.
    pub token: String,
}

impl NewKey {
    /// A key with its token.
    pub fn of(key: &Key, token: &Token) -> Self {
        Self { key: KeyView::of(key), token: token.expose().to_owned() }
    }
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("key", &self.key).finish_non_exhaustive()
    }
}
