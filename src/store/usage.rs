//! What owners have used, by day.

use uuid::Uuid;

use super::Store;
use super::error::StoreError;
use super::sql::{Tx, args};

/// What an owner used on a day.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnerUsage {
    /// Who.
    pub owner: String,
    /// When: days since 1970, UTC.
    pub day: i64,
    /// Requests with a body that were let in.
    pub requests: u64,
    /// Rows times layers that were computed.
    pub row_layers: u64,
    /// Seconds of the engine.
    pub seconds: f64,
}

/// What a key used on a day. The owner's usage has it, too.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyUsage {
    /// Which.
    pub key: Uuid,
    /// When: days since 1970, UTC.
    pub day: i64,
    /// Requests with a body that were let in.
    pub requests: u64,
    /// Rows times layers that were computed.
    pub row_layers: u64,
    /// Seconds of the engine.
    pub seconds: f64,
}

/// Adds to what a key has used on a day.
pub(super) async fn add_to_key(tx: &mut Tx, one: &KeyUsage) -> Result<(), StoreError> {
    let sql = "insert into key_usage (key_id, day, requests, row_layers, seconds) values ($1, $2, $3, $4, $5) \
               on conflict (key_id, day) do update set requests = key_usage.requests + excluded.requests, \
               row_layers = key_usage.row_layers + excluded.row_layers, seconds = key_usage.seconds + excluded.seconds";
    tx.run(sql, args![one.key, one.day, one.requests, one.row_layers, one.seconds]).await.map(|_| ())
}

/// Adds to what an owner has used on a day.
pub(super) async fn add(tx: &mut Tx, one: &OwnerUsage) -> Result<(), StoreError> {
    let sql = "insert into owner_usage (owner, day, requests, row_layers, seconds) values ($1, $2, $3, $4, $5) \
               on conflict (owner, day) do update set requests = owner_usage.requests + excluded.requests, \
               row_layers = owner_usage.row_layers + excluded.row_layers, seconds = owner_usage.seconds + excluded.seconds";
    tx.run(sql, args![&one.owner, one.day, one.requests, one.row_layers, one.seconds]).await.map(|_| ())
}

impl Store {
    /// Adds to what owners have used, and what of it their keys have.
    pub async fn add_usage(&self, used: &[OwnerUsage], by_key: &[KeyUsage]) -> Result<(), StoreError> {
        if used.is_empty() && by_key.is_empty() {
            return Ok(());
        }
        let mut tx = self.write().await?;
        for one in used {
            add(&mut tx, one).await?;
        }
        for one in by_key {
            add_to_key(&mut tx, one).await?;
        }
        tx.commit().await
    }

    /// What all keys used on a day.
    pub async fn key_usage(&self, day: i64) -> Result<Vec<KeyUsage>, StoreError> {
        let sql =
            "select key_id, requests, row_layers, seconds from key_usage where day = $1 order by key_id";
        let rows = self.read().await?.rows(sql, args![day]).await?;
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        rows.iter()
            .map(|row| {
                Ok(KeyUsage {
                    key: row.get(0)?,
                    day,
                    requests: count(row.get(1)?),
                    row_layers: count(row.get(2)?),
                    seconds: row.get(3)?,
                })
            })
            .collect()
    }

    /// What all owners used on a day, by their names.
    pub async fn usage(&self, day: i64) -> Result<Vec<OwnerUsage>, StoreError> {
        let sql =
            "select owner, requests, row_layers, seconds from owner_usage where day = $1 order by owner";
        let rows = self.read().await?.rows(sql, args![day]).await?;
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        rows.iter()
            .map(|row| {
                Ok(OwnerUsage {
                    owner: row.get(0)?,
                    day,
                    requests: count(row.get(1)?),
                    row_layers: count(row.get(2)?),
                    seconds: row.get(3)?,
                })
            })
            .collect()
    }
}
