//! Keys of the API, and what an owner has in the store.

use uuid::Uuid;

use super::error::StoreError;
use super::sql::{Row, Tx, args};
use super::{Store, wall_clock};

/// A key as it is stored: of its token, the hash alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Names it.
    pub id: Uuid,
    /// Whose it is.
    pub owner: String,
    /// What its owner calls it.
    pub name: String,
    /// SHA-256 of its token.
    pub sha256: [u8; 32],
    /// What it may do: names with commas between.
    pub scopes: String,
    /// When it was made, in milliseconds since 1970, UTC; as are the others.
    pub created_ms: i64,
    /// When it ends by itself.
    pub expires_ms: Option<i64>,
    /// When somebody ended it.
    pub revoked_ms: Option<i64>,
    /// When it was last used, to about a minute.
    pub used_ms: Option<i64>,
    /// The key that it was made to replace.
    pub follows: Option<Uuid>,
    /// On what terms it may have something computed.
    pub terms: StoredTerms,
}

/// Terms as they are stored; what is not said is as the server is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredTerms {
    /// Share beside others, in hundredths.
    pub weight: Option<i64>,
    /// Most requests at once.
    pub requests: Option<i64>,
    /// Most jobs that wait.
    pub jobs: Option<i64>,
    /// Most row-layers on a day.
    pub row_layers_day: Option<i64>,
}

impl StoredTerms {
    /// Four columns, from this one on.
    fn read(row: &Row, from: usize) -> Result<Self, StoreError> {
        Ok(Self {
            weight: row.get(from)?,
            requests: row.get(from + 1)?,
            jobs: row.get(from + 2)?,
            row_layers_day: row.get(from + 3)?,
        })
    }
}

/// What an owner has in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InUse {
    /// Jobs of which nothing has been computed.
    pub queued: u64,
    /// Jobs that are being computed.
    pub running: u64,
    /// Data sets.
    pub datasets: u64,
    /// Bytes of their cases.
    pub dataset_bytes: u64,
}

/// The columns that `read` reads, in its order.
macro_rules! columns {
    () => {
        "id, owner, name, sha256, scopes, created_ms, expires_ms, revoked_ms, used_ms, follows, weight, requests, jobs, \
         row_layers_day"
    };
}

impl Store {
    /// All keys, oldest first, with the number of changes that they show at least.
    pub async fn keys(&self) -> Result<(i64, Vec<StoredKey>), StoreError> {
        let mut tx = self.read().await?;
        // First: what changes meanwhile is read twice rather than never.
        let changes = changes(&mut tx).await?;
        let rows = tx.rows(concat!("select ", columns!(), " from api_key order by id"), args![]).await?;
        let keys = rows.iter().map(|row| self.read_key(row)).collect::<Result<_, _>>()?;
        Ok((changes, keys))
    }

    /// How often keys have changed, use left out.
    pub async fn key_changes(&self) -> Result<i64, StoreError> {
        changes(&mut self.read().await?).await
    }

    /// Stores a new key.
    pub async fn put_key(&self, key: &StoredKey) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        insert(&mut tx, key).await?;
        self.changed_keys(tx).await
    }

    /// Ends a key for ever; whether there is one. One that has been ended before keeps its time.
    pub async fn revoke_key(&self, id: Uuid) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let sql = "update api_key set revoked_ms = coalesce(revoked_ms, $2) where id = $1";
        let found = tx.run(sql, args![id, wall_clock()]).await? > 0;
        self.changed_keys(tx).await?;
        Ok(found)
    }

    /// Stores a key that replaces another, which ends at `until_ms`, or before if it would have; whether the other was
    /// there and in force. If not, nothing is stored.
    pub async fn rotate_key(&self, old: Uuid, until_ms: i64, new: &StoredKey) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let sql = "update api_key set expires_ms = case when expires_ms < $2 then expires_ms else $2 end \
                   where id = $1 and revoked_ms is null and (expires_ms is null or expires_ms > $3)";
        if tx.run(sql, args![old, until_ms, wall_clock()]).await? == 0 {
            return Ok(false);
        }
        insert(&mut tx, new).await?;
        self.changed_keys(tx).await?;
        Ok(true)
    }

    /// The terms of owners who have any of their own, by their names.
    pub async fn owner_terms(&self) -> Result<Vec<(String, StoredTerms)>, StoreError> {
        let sql = "select owner, weight, requests, jobs, row_layers_day from owner_terms order by owner";
        let rows = self.read().await?.rows(sql, args![]).await?;
        rows.iter().map(|row| Ok((row.get(0)?, StoredTerms::read(row, 1)?))).collect()
    }

    /// Sets an owner's terms, in place of those before.
    pub async fn set_owner_terms(&self, owner: &str, terms: StoredTerms) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        tx.run("delete from owner_terms where owner = $1", args![owner]).await?;
        let StoredTerms { weight, requests, jobs, row_layers_day } = terms;
        if terms != StoredTerms::default() {
            let sql = "insert into owner_terms (owner, weight, requests, jobs, row_layers_day) values ($1, $2, $3, $4, $5)";
            tx.run(sql, args![owner, weight, requests, jobs, row_layers_day]).await?;
        }
        self.changed_keys(tx).await
    }

    /// Remembers when keys were used. That is no change that others need to hear of.
    pub async fn note_keys_used(&self, used: &[(Uuid, i64)]) -> Result<(), StoreError> {
        if used.is_empty() {
            return Ok(());
        }
        let mut tx = self.write().await?;
        let sql = "update api_key set used_ms = $2 where id = $1 and (used_ms is null or used_ms < $2)";
        for (id, at) in used {
            tx.run(sql, args![*id, *at]).await?;
        }
        tx.commit().await
    }

    /// What an owner has here.
    pub async fn in_use(&self, owner: &str) -> Result<InUse, StoreError> {
        let mut tx = self.read().await?;
        let sql = "select (select count(*) from job where owner = $1 and state = 'queued'), \
                   (select count(*) from job where owner = $1 and state = 'running'), \
                   (select count(*) from dataset where owner = $1), \
                   (select cast(coalesce(sum(bytes), 0) as bigint) from dataset where owner = $1)";
        let Some(row) = tx.row(sql, args![owner]).await? else { return Ok(InUse::default()) };
        let count = |column| row.get::<i64>(column).map(|n| u64::try_from(n).unwrap_or(0));
        Ok(InUse { queued: count(0)?, running: count(1)?, datasets: count(2)?, dataset_bytes: count(3)? })
    }

    async fn changed_keys(&self, mut tx: Tx) -> Result<(), StoreError> {
        tx.run("update api_key_changes set count = count + 1", args![]).await?;
        self.publish(tx).await
    }

    fn read_key(&self, row: &Row) -> Result<StoredKey, StoreError> {
        let hash: Vec<u8> = row.get(3)?;
        let sha256 = hash
            .try_into()
            .map_err(|_| self.0.place.corrupt("a key's SHA-256 is not of 32 bytes".to_owned()))?;
        Ok(StoredKey {
            id: row.get(0)?,
            owner: row.get(1)?,
            name: row.get(2)?,
            sha256,
            scopes: row.get(4)?,
            created_ms: row.get(5)?,
            expires_ms: row.get(6)?,
            revoked_ms: row.get(7)?,
            used_ms: row.get(8)?,
            follows: row.get(9)?,
            terms: StoredTerms::read(row, 10)?,
        })
    }
}

async fn changes(tx: &mut Tx) -> Result<i64, StoreError> {
    match tx.row("select count from api_key_changes", args![]).await? {
        Some(row) => row.get(0),
        None => Err(tx.lost_row()),
    }
}

async fn insert(tx: &mut Tx, key: &StoredKey) -> Result<(), StoreError> {
    let sql = "insert into api_key (id, owner, name, sha256, scopes, created_ms, expires_ms, follows, weight, requests, \
               jobs, row_layers_day) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let StoredTerms { weight, requests, jobs, row_layers_day } = key.terms;
    let args = args![
        key.id,
        &key.owner,
        &key.name,
        key.sha256.as_slice(),
        &key.scopes,
        key.created_ms,
        key.expires_ms,
        key.follows,
        weight,
        requests,
        jobs,
        row_layers_day
    ];
    tx.run(sql, args).await.map(|_| ())
}
