//! What owners use, counted where it is computed, and kept by the store. Counting costs no statement: every second what has
//! come together is added to the store, and what other servers have added is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::owner::Owner;
use crate::store::{OwnerUsage, Store, StoreError};

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

type ByDay = HashMap<(i64, Owner), Used>;

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
    pub fn let_in(&self, owner: &Owner) {
        self.add(owner, Used { requests: 1, ..Used::default() });
    }

    /// Counts what was computed.
    pub fn computed(&self, owner: &Owner, row_layers: u64, seconds: f64) {
        self.add(owner, Used { requests: 0, row_layers, seconds });
    }

    /// What an owner has used today, here and on other servers until a second ago.
    pub fn used(&self, owner: &Owner) -> Used {
        let (book, key) = (self.book(), (today().0, owner.clone()));
        let parts = [&book.stored, &book.writing, &book.pending];
        parts.iter().filter_map(|part| part.get(&key)).fold(Used::default(), |sum, used| sum.and(*used))
    }

    /// Tells the store what has been used, and asks it what all servers say of today.
    ///
    /// # Errors
    /// The store cannot be used; nothing is lost.
    pub async fn settle(&self, store: &Store) -> Result<(), StoreError> {
        // Always in the same order: two servers that wait for one another's rows would wait for ever.
        let mut told: Vec<OwnerUsage> = {
            let mut book = self.book();
            // What an earlier try left, too.
            for (key, used) in std::mem::take(&mut book.pending) {
                let sum = book.writing.entry(key).or_default();
                *sum = sum.and(used);
            }
            let row = |((day, owner), used): (&(i64, Owner), &Used)| OwnerUsage {
                owner: owner.to_string(),
                day: *day,
                requests: used.requests,
                row_layers: used.row_layers,
                seconds: used.seconds,
            };
            book.writing.iter().map(row).collect()
        };
        told.sort_by(|a, b| (&a.owner, a.day).cmp(&(&b.owner, b.day)));
        store.add_usage(&told).await?;
        {
            // It counts as stored from here on, whether or not the store can be asked.
            let mut book = self.book();
            for (key, used) in std::mem::take(&mut book.writing) {
                let sum = book.stored.entry(key).or_default();
                *sum = sum.and(used);
            }
        }
        let day = today().0;
        let stored = store.usage(day).await?;
        let read = |one: OwnerUsage| {
            let used = Used { requests: one.requests, row_layers: one.row_layers, seconds: one.seconds };
            ((day, Owner::stored(&one.owner)), used)
        };
        self.book().stored = stored.into_iter().map(read).collect();
        Ok(())
    }

    fn add(&self, owner: &Owner, used: Used) {
        let mut book = self.book();
        let sum = book.pending.entry((today().0, owner.clone())).or_default();
        *sum = sum.and(used);
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

    /// All of it so far.
    pub fn total(&self) -> Used {
        self.own.book().pending.values().fold(Used::default(), |sum, used| sum.and(*used))
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
    use super::*;
    use crate::store::Settings;

    #[test]
    fn a_tab_is_charged_once_by_the_store_or_when_it_is_dropped() {
        let alice = Owner::parse("alice").unwrap();
        let ledger = Ledger::default();
        let tab = Tab::of(&ledger);
        tab.ledger().computed(&alice, 5, 0.5);
        tab.ledger().computed(&alice, 2, 0.25);
        let used = Used { requests: 0, row_layers: 7, seconds: 0.75 };
        assert_eq!((tab.total(), ledger.used(&alice)), (used, Used::default()));
        tab.is_stored();
        assert_eq!(ledger.used(&alice), used);
        assert!(ledger.book().pending.is_empty(), "the store is not told again");
        let lost = Tab::of(&ledger);
        lost.ledger().computed(&alice, 1, 0.0);
        drop(lost);
        assert_eq!((ledger.used(&alice).row_layers, ledger.book().pending.len()), (8, 1));
    }

    #[tokio::test]
    async fn what_is_used_is_stored_once_and_that_of_other_servers_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { data_dir: folder.path().join("data"), url: String::new() };
        let store = Store::open(&settings).await.unwrap();
        let [alice, bob] = ["alice", "bob"].map(|name| Owner::parse(name).unwrap());
        let (here, there) = (Ledger::default(), Ledger::default());
        here.let_in(&alice);
        here.computed(&alice, 100, 0.5);
        here.computed(&alice, 20, 0.25);
        let used = Used { requests: 1, row_layers: 120, seconds: 0.75 };
        assert_eq!((here.used(&alice), here.used(&bob)), (used, Used::default()));
        for _ in 0..3 {
            here.settle(&store).await.unwrap();
            assert_eq!(here.used(&alice), used);
        }
        there.computed(&alice, 3, 1.0);
        there.computed(&bob, 7, 1.0);
        there.settle(&store).await.unwrap();
        assert_eq!(there.used(&alice).row_layers, 123);
        assert_eq!(here.used(&alice).row_layers, 120, "not asked yet");
        here.settle(&store).await.unwrap();
        assert_eq!((here.used(&alice).row_layers, here.used(&bob).row_layers), (123, 7));
        // A store that is away loses nothing and forgets nothing.
        here.computed(&bob, 1, 0.0);
        store.close().await.unwrap();
        for _ in 0..2 {
            assert!(here.settle(&store).await.is_err());
            assert_eq!(here.used(&bob).row_layers, 8);
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
