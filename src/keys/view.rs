//! A key as it is told: on the wire and on the command line. Its token is in one answer only.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Key, Scope, Standing, Token};
use crate::activations::Timestamp;

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
