//! What owners use, counted where it is computed, and kept by the store. Counting costs no statement: every second what has
//! come together is added to the store, and what other servers have added is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::owner::{Account, Owner, Whose};
use crate::store::{KeyUsage, OwnerUsage, Store, StoreError};

/// How often the store is told and asked.
const SETTLE: Duration = Duration::from_secs(1);
const DAY_S: u64 = 86_400;

/// What was used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// Requests with a body that were let in.
    pub requests: u64,
    /// Rows times layers that were computed.
    pub row_layers: u64,
    /// Seconds of the engine.
    pub seconds: f64,
}

impl Used {
    #[must_use]
    fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            row_layers: self.row_layers + other.row_layers,
            seconds: self.seconds + other.seconds,
        }
    }
}

/// What the owners of a server use. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

type ByDay = HashMap<(i64, Whose), Used>;

#[derive(Debug, Default)]
struct Book {
    /// What the store has, of the day that it was last asked for.
    stored: ByDay,
    /// What the store is being told.
    writing: ByDay,
    /// What it is yet to be told.
    pending: ByDay,
}

/// Today, as days since 1970, UTC; and the seconds that are left of it.
pub fn today() -> (i64, u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    (i64::try_from(now / DAY_S).unwrap_or(0), DAY_S - now % DAY_S)
}

impl Ledger {
    /// Counts a request.
    pub fn let_in(&self, account: &Account) {
        self.add(account, Used { requests: 1, ..Used::default() });
    }

    /// Counts what was computed.
    pub fn computed(&self, account: &Account, row_layers: u64, seconds: f64) {
        self.add(account, Used { requests: 0, row_layers, seconds });
    }

    /// What an owner or a key has used today, here and on other servers until a second ago.
    pub fn used(&self, whose: &Whose) -> Used {
        let (book, key) = (self.book(), (today().0, whose.clone()));
        let parts = [&book.stored, &book.writing, &book.pending];
        parts.iter().filter_map(|part| part.get(&key)).fold(Used::default(), |sum, used| sum.and(*used))
    }

    /// What owners have used today, who used most first.
    pub fn owners_today(&self) -> Vec<(Owner, Used)> {
        let (book, today) = (self.book(), today().0);
        let mut sums: HashMap<&Owner, Used> = HashMap::new();
        for ((day, whose), used) in [&book.stored, &book.writing, &book.pending].into_iter().flatten() {
            if let (true, Whose::Owner(owner)) = (*day == today, whose) {
                let sum = sums.entry(owner).or_default();
                *sum = sum.and(*used);
            }
        }
        let mut owners: Vec<(Owner, Used)> =
            sums.into_iter().map(|(owner, used)| (owner.clone(), used)).collect();
        owners.sort_by(|a, b| (b.1.row_layers, &a.0).cmp(&(a.1.row_layers, &b.0)));
        owners
    }

    /// Tells the store what has been used, and asks it what all servers say of today.
    ///
    /// # Errors
    /// The store cannot be used; nothing is lost.
    pub async fn settle(&self, store: &Store) -> Result<(), StoreError> {
        // Always in the same order: two servers that wait for one another's rows would wait for ever.
        let (mut told, mut by_key) = (Vec::new(), Vec::new());
        {
            let mut book = self.book();
            // What an earlier try left, too.
            for (key, used) in std::mem::take(&mut book.pending) {
                let sum = book.writing.entry(key).or_default();
                *sum = sum.and(used);
            }
            for ((day, whose), used) in &book.writing {
                let (day, Used { requests, row_layers, seconds }) = (*day, *used);
                match whose {
                    Whose::Owner(owner) => {
                        let owner = owner.to_string();
                        told.push(OwnerUsage { owner, day, requests, row_layers, seconds });
                    }
                    Whose::Key(key) => {
                        by_key.push(KeyUsage { key: *key, day, requests, row_layers, seconds });
                    }
                }
            }
        }
        told.sort_by(|a: &OwnerUsage, b: &OwnerUsage| (&a.owner, a.day).cmp(&(&b.owner, b.day)));
        by_key.sort_by_key(|one: &KeyUsage| (one.key, one.day));
        store.add_usage(&told, &by_key).await?;
        {
            // It counts as stored from here on, whether or not the store can be asked.
            let mut book = self.book();
            for (key, used) in std::mem::take(&mut book.writing) {
                let sum = book.stored.entry(key).or_default();
                *sum = sum.and(used);
            }
        }
        let day = today().0;
        let (owners, keys) = (store.usage(day).await?, store.key_usage(day).await?);
        let owners = owners.into_iter().map(|one| {
            let used = Used { requests: one.requests, row_layers: one.row_layers, seconds: one.seconds };
            ((day, Whose::Owner(Owner::stored(&one.owner))), used)
        });
        let keys = keys.into_iter().map(|one| {
            let used = Used { requests: one.requests, row_layers: one.row_layers, seconds: one.seconds };
            ((day, Whose::Key(one.key)), used)
        });
        self.book().stored = owners.chain(keys).collect();
        Ok(())
    }

    fn add(&self, account: &Account, used: Used) {
        let mut book = self.book();
        for whose in account.whose() {
            let sum = book.pending.entry((today().0, whose)).or_default();
            *sum = sum.and(used);
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a part of a job costs, until it is stored with its numbers. What never is was computed all the same, and is charged
/// when this is dropped.
#[derive(Debug)]
pub struct Tab {
    own: Ledger,
    of: Ledger,
}

impl Tab {
    /// Of the owners of this ledger.
    pub fn of(ledger: &Ledger) -> Self {
        Self { own: Ledger::default(), of: ledger.clone() }
    }

    /// Where it comes together.
    pub const fn ledger(&self) -> &Ledger {
        &self.own
    }

    /// All of it so far, by owners: what keys used is in it.
    pub fn total(&self) -> Used {
        let book = self.own.book();
        let owners = book.pending.iter().filter(|((_, whose), _)| matches!(whose, Whose::Owner(_)));
        owners.fold(Used::default(), |sum, (_, used)| sum.and(*used))
    }

    /// The store has it: it is no more to be charged, and seen at once.
    pub fn is_stored(self) {
        let used = std::mem::take(&mut self.own.book().pending);
        let mut book = self.of.book();
        for (key, used) in used {
            let sum = book.stored.entry(key).or_default();
            *sum = sum.and(used);
        }
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        let used = std::mem::take(&mut self.own.book().pending);
        let mut book = self.of.book();
        for (key, used) in used {
            let sum = book.pending.entry(key).or_default();
            *sum = sum.and(used);
        }
    }
}

/// Settles with the store every second, for ever, once there is something to settle.
pub async fn keep(store: Store, ledger: impl Fn() -> Option<Ledger> + Send) {
    let mut is_well = true;
    loop {
        if let Some(ledger) = ledger() {
            let settled = ledger.settle(&store).await;
            if let (Err(error), true) = (&settled, is_well) {
                tracing::warn!(
                    "what owners used was not stored; it is kept, and tried again every second: {error}"
                );
            }
            is_well = settled.is_ok();
        }
        tokio::time::sleep(SETTLE).await;
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::Settings;

    fn with_key(owner: &str, key: u128) -> Account {
        Account { key: Some(Uuid::from_u128(key)), ..Owner::parse(owner).unwrap().into() }
    }

    #[test]
    fn a_tab_is_charged_once_by_the_store_or_when_it_is_dropped() {
        let alice = with_key("alice", 1);
        let of = |ledger: &Ledger| alice.whose().map(|whose| ledger.used(&whose)).collect::<Vec<_>>();
        let ledger = Ledger::default();
        let tab = Tab::of(&ledger);
        tab.ledger().computed(&alice, 5, 0.5);
        tab.ledger().computed(&alice, 2, 0.25);
        let used = Used { requests: 0, row_layers: 7, seconds: 0.75 };
        assert_eq!((tab.total(), of(&ledger)), (used, vec![Used::default(); 2]));
        tab.is_stored();
        assert_eq!(of(&ledger), [used, used]);
        assert!(ledger.book().pending.is_empty(), "the store is not told again");
        let lost = Tab::of(&ledger);
        lost.ledger().computed(&alice, 1, 0.0);
        drop(lost);
        assert_eq!((of(&ledger)[0].row_layers, ledger.book().pending.len()), (8, 2));
    }

    #[tokio::test]
    async fn what_is_used_is_stored_once_and_that_of_other_servers_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { data_dir: folder.path().join("data"), url: String::new() };
        let store = Store::open(&settings).await.unwrap();
        // Alice has two keys.
        let [alice, second, bob] =
            [("alice", 1), ("alice", 2), ("bob", 3)].map(|(name, key)| with_key(name, key));
        let owner = |ledger: &Ledger, of: &Account| ledger.used(&Whose::Owner(of.owner.clone()));
        let key = |ledger: &Ledger, of: &Account| ledger.used(&Whose::Key(of.key.unwrap()));
        let (here, there) = (Ledger::default(), Ledger::default());
        here.let_in(&alice);
        here.computed(&alice, 100, 0.5);
        here.computed(&second, 20, 0.25);
        let used = Used { requests: 1, row_layers: 120, seconds: 0.75 };
        assert_eq!((owner(&here, &alice), owner(&here, &bob)), (used, Used::default()));
        assert_eq!((key(&here, &alice).row_layers, key(&here, &second).row_layers), (100, 20));
        for _ in 0..3 {
            here.settle(&store).await.unwrap();
            assert_eq!((owner(&here, &alice), key(&here, &second).row_layers), (used, 20));
        }
        there.computed(&alice, 3, 1.0);
        there.computed(&bob, 7, 1.0);
        there.settle(&store).await.unwrap();
        assert_eq!(owner(&there, &alice).row_layers, 123);
        assert_eq!(owner(&here, &alice).row_layers, 120, "not asked yet");
        here.settle(&store).await.unwrap();
        assert_eq!((owner(&here, &alice).row_layers, owner(&here, &bob).row_layers), (123, 7));
        // A store that is away loses nothing and forgets nothing.
        here.computed(&bob, 1, 0.0);
        store.close().await.unwrap();
        for _ in 0..2 {
            assert!(here.settle(&store).await.is_err());
            assert_eq!(owner(&here, &bob).row_layers, 8);
        }
        drop(store);
        let again = Store::open(&settings).await.unwrap();
        here.settle(&again).await.unwrap();
        let stored = again.usage(today().0).await.unwrap();
        assert_eq!(
            stored.iter().map(|one| (&one.owner[..], one.row_layers)).collect::<Vec<_>>(),
            [("alice", 123), ("bob", 8)]
        );
        assert_eq!((stored[0].requests, stored[0].seconds), (1, 1.75));
        assert!(again.usage(today().0 - 1).await.unwrap().is_empty());
    }
}
