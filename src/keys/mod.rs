//! Who may ask for what. An owner has any number of keys; what is stored belongs to the owner, what may be done is the key's.
//!
//! The table of keys is the store's; a server holds all of it in memory. So a request costs no statement, whether its token
//! is right or wrong, and a database that is away locks nobody out.

mod scope;
mod token;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::task::JoinHandle;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::activations::Timestamp;
use crate::owner::{Account, Owner, Terms, Weight, Whose};
use crate::store::{Store, StoreError, StoredKey, StoredTerms};

pub use scope::{Scope, Scopes};
pub use token::{Token, redacted};
pub use view::{KeyView, LimitsView, NewKey, OwnerView};

/// How often the store is asked whether another server has changed the keys.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is told when keys were used.
const TELL: Duration = Duration::from_mins(1);
/// The longest that a key lives on after it was replaced: 7 days.
pub const MOST_GRACE_S: u64 = 7 * 86_400;
/// How long it does unless something else is asked for: a day.
pub const GRACE_S: u64 = 86_400;
/// The longest that a key may be made for: a hundred years. More is a unit mistake (milliseconds).
pub const MOST_TTL_S: u64 = 100 * 366 * 86_400;

/// Names a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(Uuid);

impl KeyId {
    /// A name as it was stored.
    pub const fn stored(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key_{}", self.0.simple())
    }
}

impl FromStr for KeyId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let id = text.strip_prefix("key_").filter(|id| id.len() == 32).ok_or(())?;
        Uuid::try_parse(id).map(Self).map_err(|_| ())
    }
}

/// Whether a key can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It can.
    Active,
    /// Its time is over.
    Expired,
    /// Somebody has ended it.
    Revoked,
}

/// A key. Its token is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Names it.
    pub id: KeyId,
    /// Whose it is.
    pub owner: Owner,
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made, in milliseconds since 1970, UTC; as are the others.
    pub created_ms: i64,
    /// When it ends by itself.
    pub expires_ms: Option<i64>,
    /// When somebody ended it.
    pub revoked_ms: Option<i64>,
    /// When it was last used.
    pub used_ms: Option<i64>,
    /// The key that it was made to replace.
    pub follows: Option<KeyId>,
    /// On what terms it has something computed.
    pub terms: Terms,
    /// On what terms its owner has, by whatever key.
    pub owner_terms: Terms,
}

impl Key {
    fn of(stored: &StoredKey, owner_terms: Terms) -> Self {
        Self {
            terms: known(stored.terms),
            owner_terms,
            id: KeyId(stored.id),
            owner: Owner::stored(&stored.owner),
            name: stored.name.clone(),
            scopes: Scopes::stored(&stored.scopes),
            created_ms: stored.created_ms,
            expires_ms: stored.expires_ms,
            revoked_ms: stored.revoked_ms,
            used_ms: stored.used_ms,
            follows: stored.follows.map(KeyId),
        }
    }

    /// On whose account it has something computed.
    pub fn account(&self) -> Account {
        Account {
            owner: self.owner.clone(),
            key: Some(self.id.0),
            weight: self.weight(),
            owner_jobs: self.owner_terms.jobs,
            key_jobs: self.terms.jobs,
        }
    }

    /// How much its work counts beside others': its own weight, or its owner's.
    pub fn weight(&self) -> Weight {
        self.terms.weight.or(self.owner_terms.weight).unwrap_or_default()
    }

    /// As that for which something is counted.
    pub const fn whose(&self) -> Whose {
        Whose::Key(self.id.0)
    }

    /// Whether it can be used now.
    pub fn standing(&self) -> Standing {
        if self.revoked_ms.is_some() {
            Standing::Revoked
        } else if self.expires_ms.is_some_and(|at| at <= now_ms()) {
            Standing::Expired
        } else {
            Standing::Active
        }
    }
}

/// What a new key is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose it will be.
    pub owner: Owner,
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Seconds until it ends; without, it does not.
    pub ttl_s: Option<u64>,
    /// On what terms it will have something computed.
    pub terms: Terms,
}

/// Terms that were stored.
fn known(stored: StoredTerms) -> Terms {
    let count = |n: Option<i64>| n.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    Terms {
        weight: stored.weight.map(Weight::stored),
        requests: count(stored.requests),
        jobs: count(stored.jobs),
        row_layers_day: stored.row_layers_day.map(|n| u64::try_from(n).unwrap_or(0)),
    }
}

fn to_store(terms: Terms) -> StoredTerms {
    StoredTerms {
        weight: terms.weight.map(Weight::hundredths),
        requests: terms.requests.map(i64::from),
        jobs: terms.jobs.map(i64::from),
        row_layers_day: terms.row_layers_day.map(|n| i64::try_from(n).unwrap_or(i64::MAX)),
    }
}

/// Why a key could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no chance to make a token of.
    #[error("the system gives no random numbers: {0}")]
    Chance(#[from] getrandom::Error),
}

/// Why a key could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// There is none of this name.
    #[error("there is no key {0}")]
    Unknown(KeyId),
    /// It can no longer be used, so nothing is to be replaced.
    #[error("the key {0} has ended; make a new one in its place")]
    Ended(KeyId),
    /// It has been replaced, and waits for its end.
    #[error("the key {0} has been replaced by {1}; rotate that one")]
    Replaced(KeyId, KeyId),
    /// Making the new one failed.
    #[error(transparent)]
    Failed(#[from] KeyError),
}

impl From<StoreError> for RotateError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

/// Why a token gives nobody access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// No key has it.
    Unknown,
    /// Its key's time is over.
    Expired,
    /// Its key was ended.
    Revoked,
}

/// The keys of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    table: RwLock<Table>,
    reading: tokio::sync::Mutex<()>,
    /// When keys were used that the store has not been told of.
    used: Mutex<HashMap<KeyId, i64>>,
}

/// A key beside the hash of its token.
type Hashed = ([u8; 32], Arc<Key>);

/// What the store said when it was last read.
#[derive(Debug, Default)]
struct Table {
    changes: i64,
    /// By the first bytes of the hash. What is told by how long a search takes is of a hash, and leads to no token.
    by_hash: HashMap<[u8; 8], Vec<Hashed>>,
    /// Terms of owners who have any of their own.
    owners: HashMap<String, Terms>,
    count: usize,
}

impl Table {
    fn new(changes: i64, stored: &[StoredKey], owners: HashMap<String, Terms>) -> Self {
        let mut table = Self { changes, count: stored.len(), ..Self::default() };
        for key in stored {
            let found = table.by_hash.entry(start(&key.sha256)).or_default();
            let terms = owners.get(&key.owner).copied().unwrap_or_default();
            found.push((key.sha256, Arc::new(Key::of(key, terms))));
        }
        table.owners = owners;
        table
    }

    fn terms_of(&self, owner: &str) -> Terms {
        self.owners.get(owner).copied().unwrap_or_default()
    }

    fn find(&self, sha256: &[u8; 32]) -> Option<&Arc<Key>> {
        let candidates = self.by_hash.get(&start(sha256)).map_or(&[][..], Vec::as_slice);
        candidates.iter().find(|(hash, _)| bool::from(hash.ct_eq(sha256))).map(|(_, key)| key)
    }
}

fn start(sha256: &[u8; 32]) -> [u8; 8] {
    let mut start = [0; 8];
    start.copy_from_slice(&sha256[..8]);
    start
}

fn now_ms() -> i64 {
    i64::try_from(Timestamp::now().0).unwrap_or(i64::MAX)
}

fn after(now_ms: i64, seconds: u64) -> i64 {
    now_ms.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000))
}

impl Keys {
    /// The keys of a store, read once.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn open(store: Store) -> Result<Self, StoreError> {
        let keys = Self(Arc::new(Inner {
            store,
            table: RwLock::default(),
            reading: tokio::sync::Mutex::default(),
            used: Mutex::default(),
        }));
        keys.read_again().await?;
        Ok(keys)
    }

    /// Whether there is no key at all, so that nobody can ask.
    pub fn is_empty(&self) -> bool {
        self.table().count == 0
    }

    /// The key of a token, if it can be used. Nothing is asked of the store.
    ///
    /// # Errors
    /// Why not.
    pub fn identify(&self, token: &Token) -> Result<Arc<Key>, Unfit> {
        let key = self.table().find(&token.sha256()).cloned().ok_or(Unfit::Unknown)?;
        match key.standing() {
            Standing::Expired => Err(Unfit::Expired),
            Standing::Revoked => Err(Unfit::Revoked),
            Standing::Active => {
                self.used().insert(key.id, now_ms());
                Ok(key)
            }
        }
    }

    /// Makes a key. Its token is known to nobody but the caller.
    ///
    /// # Errors
    /// It cannot be stored.
    pub async fn create(&self, wanted: Wanted) -> Result<(Key, Token), KeyError> {
        let (stored, token) = make(&wanted, None)?;
        self.0.store.put_key(&stored).await?;
        tracing::info!(key.id = %KeyId(stored.id), key.owner = stored.owner, key.scopes = stored.scopes, "key made");
        self.read_again().await?;
        Ok((self.key(&stored), token))
    }

    fn key(&self, stored: &StoredKey) -> Key {
        Key::of(stored, self.table().terms_of(&stored.owner))
    }

    /// An owner's own terms. Nothing is asked of the store.
    pub fn owner_terms(&self, owner: &Owner) -> Terms {
        self.table().terms_of(owner)
    }

    /// The owners who have terms of their own, by their names.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn owners(&self) -> Result<Vec<(Owner, Terms)>, StoreError> {
        let stored = self.0.store.owner_terms().await?;
        Ok(stored.into_iter().map(|(owner, terms)| (Owner::stored(&owner), known(terms))).collect())
    }

    /// Sets an owner's terms in place of those before; of requests from now on, here at once and on other servers within about two
    /// seconds.
    ///
    /// # Errors
    /// That cannot be stored.
    pub async fn set_owner(&self, owner: &Owner, terms: Terms) -> Result<(), StoreError> {
        self.0.store.set_owner_terms(owner, to_store(terms)).await?;
        tracing::info!(key.owner = %owner, ?terms, "terms of an owner set");
        self.read_again().await
    }

    /// All keys, oldest first, those that have ended among them.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn list(&self) -> Result<Vec<Key>, StoreError> {
        let (_, stored) = self.0.store.keys().await?;
        let used = self.used().clone();
        let keys = stored.iter().map(|stored| self.key(stored));
        Ok(keys.map(|key| Key { used_ms: key.used_ms.max(used.get(&key.id).copied()), ..key }).collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        Ok(self.list().await?.into_iter().find(|key| key.id == id))
    }

    /// Ends a key, here at once and on other servers within about two seconds. `None` if there is none.
    ///
    /// # Errors
    /// That cannot be stored.
    pub async fn revoke(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        if !self.0.store.revoke_key(id.0).await? {
            return Ok(None);
        }
        tracing::info!(key.id = %id, "key revoked");
        self.read_again().await?;
        self.get(id).await
    }

    /// Makes a key of the same owner, name, scopes and terms, made for as long as the old one was; the old one can be used for
    /// `grace_s` more seconds at most, so that whoever has it can change over.
    ///
    /// # Errors
    /// There is no such key, or it has ended; the new one cannot be stored.
    pub async fn rotate(&self, id: KeyId, grace_s: u64) -> Result<(Key, Token), RotateError> {
        let all = self.list().await?;
        let old = all.iter().find(|key| key.id == id).ok_or(RotateError::Unknown(id))?;
        let successor = |key: &&Key| key.follows == Some(id) && key.standing() == Standing::Active;
        if let Some(key) = all.iter().find(successor) {
            return Err(RotateError::Replaced(id, key.id));
        }
        let lifetime_ms = old.expires_ms.filter(|_| old.standing() == Standing::Active);
        let wanted = Wanted {
            owner: old.owner.clone(),
            name: old.name.clone(),
            scopes: old.scopes,
            ttl_s: lifetime_ms.map(|end| u64::try_from((end - old.created_ms) / 1000).unwrap_or(0)),
            terms: old.terms,
        };
        let (stored, token) = make(&wanted, Some(id))?;
        let until = after(now_ms(), grace_s.min(MOST_GRACE_S));
        if !self.0.store.rotate_key(id.0, until, &stored).await? {
            return Err(RotateError::Ended(id));
        }
        tracing::info!(key.id = %KeyId(stored.id), key.follows = %id, "key made in place of another");
        self.read_again().await?;
        Ok((self.key(&stored), token))
    }

    /// Keeps up with what other servers do to the keys, and tells the store when keys were used, until aborted.
    pub fn keep(&self) -> JoinHandle<()> {
        let keys = self.clone();
        tokio::spawn(async move {
            let (mut is_well, mut told) = (true, tokio::time::Instant::now());
            loop {
                tokio::time::sleep(LOOK).await;
                let looked = keys.look().await;
                if let (Err(error), true) = (&looked, is_well) {
                    tracing::warn!("the keys cannot be read again, those known stay in force: {error}");
                }
                is_well = looked.is_ok();
                if told.elapsed() >= TELL {
                    told = tokio::time::Instant::now();
                    keys.tell_use().await;
                }
            }
        })
    }

    /// Reads the keys again if another server has changed them.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn look(&self) -> Result<(), StoreError> {
        let known = self.table().changes;
        if self.0.store.key_changes().await? == known { Ok(()) } else { self.read_again().await }
    }

    /// Tells the store when keys were used.
    pub async fn tell_use(&self) {
        let used: Vec<(Uuid, i64)> =
            std::mem::take(&mut *self.used()).into_iter().map(|(id, at)| (id.0, at)).collect();
        if let Err(error) = self.0.store.note_keys_used(&used).await {
            tracing::debug!("when keys were used cannot be stored: {error}");
            let mut pending = self.used();
            for (id, at) in used {
                pending.entry(KeyId(id)).or_insert(at);
            }
        }
    }

    async fn read_again(&self) -> Result<(), StoreError> {
        // One after the other, so that what was read last is what stays.
        let _turn = self.0.reading.lock().await;
        let (changes, stored) = self.0.store.keys().await?;
        let owners = self.0.store.owner_terms().await?;
        let owners = owners.into_iter().map(|(owner, terms)| (owner, known(terms))).collect();
        *self.0.table.write().unwrap_or_else(PoisonError::into_inner) = Table::new(changes, &stored, owners);
        Ok(())
    }

    fn table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self) -> std::sync::MutexGuard<'_, HashMap<KeyId, i64>> {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make(wanted: &Wanted, follows: Option<KeyId>) -> Result<(StoredKey, Token), KeyError> {
    let (token, created_ms) = (Token::new()?, now_ms());
    let stored = StoredKey {
        id: Uuid::now_v7(),
        owner: wanted.owner.to_string(),
        name: wanted.name.clone(),
        sha256: token.sha256(),
        scopes: wanted.scopes.to_string(),
        created_ms,
        expires_ms: wanted.ttl_s.map(|ttl| after(created_ms, ttl)),
        revoked_ms: None,
        used_ms: None,
        follows: follows.map(|id| id.0),
        terms: to_store(wanted.terms),
    };
    Ok((stored, token))
}

#[cfg(test)]
mod tests;
