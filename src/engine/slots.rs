//! Who has which places of the store of keys: handed out, shared, counted and taken back on the server's side. The engine only
//! writes where it is told.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// All places of the store. Clones are of the same.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total: usize,
    table: Mutex<Table>,
    /// Told when places have come free.
    freed: Notify,
}

#[derive(Debug)]
struct Table {
    /// Free places, the next one last.
    free: Vec<u32>,
    /// How many hold each place.
    holders: Vec<u32>,
    /// Places that were promised and not yet taken.
    promised: usize,
}

/// Places promised to a request, so that what runs is never short of them.
#[derive(Debug)]
pub struct Promise {
    slots: Slots,
    left: usize,
}

/// Places of consecutive positions of a text, some of which others hold, too. Given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    slots: Slots,
    places: Vec<u32>,
}

impl Slots {
    /// So many places, all free.
    pub fn new(total: usize) -> Slots {
        let free = (0..total as u32).rev().collect();
        let table = Table { free, holders: vec![0; total], promised: 0 };
        Slots(Arc::new(Shared { total, table: Mutex::new(table), freed: Notify::new() }))
    }

    /// How many there are.
    pub fn total(&self) -> usize {
        self.0.total
    }

    /// How many nobody holds.
    pub fn free(&self) -> usize {
        self.table().free.len()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many places can be promised. Never returns if there are not so many in all.
    pub async fn promise(&self, places: usize) -> Promise {
        loop {
            let freed = self.0.freed.notified();
            {
                let mut table = self.table();
                if table.free.len() >= table.promised + places {
                    table.promised += places;
                    return Promise { slots: self.clone(), left: places };
                }
            }
            freed.await;
        }
    }
}

impl Promise {
    /// A text without places.
    pub fn held(&self) -> Held {
        Held { slots: self.slots.clone(), places: Vec::new() }
    }

    /// Gives a text its next place, of those promised.
    ///
    /// # Panics
    /// More are taken than were promised.
    pub fn extend(&mut self, held: &mut Held) -> u32 {
        assert!(self.left > 0, "BUG: a request counts its places before it asks for them");
        let mut table = self.slots.table();
        let place = table.free.pop().expect("BUG: promised places are free");
        table.holders[place as usize] = 1;
        table.promised -= 1;
        drop(table);
        self.left -= 1;
        held.places.push(place);
        place
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.slots.table().promised -= self.left;
        self.slots.0.freed.notify_waiters();
    }
}

impl Held {
    /// The places, in the order of positions.
    pub fn places(&self) -> &[u32] {
        &self.places
    }

    /// The first places, shared.
    #[must_use]
    pub fn shared(&self, first: usize) -> Held {
        let places = self.places[..first].to_vec();
        let mut table = self.slots.table();
        for place in &places {
            table.holders[*place as usize] += 1;
        }
        drop(table);
        Held { slots: self.slots.clone(), places }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.slots.table();
        for place in &self.places {
            let holders = &mut table.holders[*place as usize];
            *holders -= 1;
            if *holders == 0 {
                table.free.push(*place);
            }
        }
        drop(table);
        self.slots.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    /// A generator whose numbers are the same on every machine.
    fn next(state: &mut u64) -> usize {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize
    }

    #[tokio::test]
    async fn after_ten_thousand_requests_some_cancelled_at_any_point_all_places_are_free() {
        const TOTAL: usize = 300;
        let slots = Slots::new(TOTAL);
        let mut state = 7;
        let mut running: Vec<(Promise, Vec<Held>)> = Vec::new();
        for _ in 0..10_000 {
            let prompt = 1 + next(&mut state) % 20;
            let branches = next(&mut state) % 4;
            let each = 1 + next(&mut state) % 10;
            let wanted = prompt + branches * (prompt + each);
            // A request that waits and is cancelled, or gets its turn because another one ended.
            let promise = loop {
                let asked = slots.promise(wanted);
                match tokio::time::timeout(Duration::ZERO, asked).await {
                    Ok(promise) => break promise,
                    Err(_) => drop(running.remove(next(&mut state) % running.len())),
                }
            };
            running.push((promise, Vec::new()));
            let (promise, texts) = running.last_mut().unwrap();
            let mut base = promise.held();
            for _ in 0..prompt {
                promise.extend(&mut base);
            }
            texts.push(base);
            for _ in 0..branches {
                let first = next(&mut state) % (prompt + 1);
                let mut branch = texts[0].shared(first);
                for _ in first..prompt + each {
                    promise.extend(&mut branch);
                }
                // The base may end before its branches.
                if next(&mut state).is_multiple_of(3) {
                    let end = next(&mut state) % texts.len();
                    if end > 0 {
                        texts.remove(end);
                    }
                }
                texts.push(branch);
            }
            let mut owned: BTreeMap<u32, u32> = BTreeMap::new();
            for place in running.iter().flat_map(|(_, texts)| texts).flat_map(Held::places) {
                *owned.entry(*place).or_default() += 1;
            }
            let table = slots.table();
            assert!(table.free.iter().all(|place| !owned.contains_key(place)), "a freed place is held");
            assert_eq!(table.free.len() + owned.len(), TOTAL);
            assert!(owned.iter().all(|(place, holders)| table.holders[*place as usize] == *holders));
            drop(table);
            if next(&mut state).is_multiple_of(2) {
                running.remove(next(&mut state) % running.len());
            }
        }
        drop(running);
        assert_eq!((slots.free(), slots.table().promised), (TOTAL, 0));
        assert!(slots.table().holders.iter().all(|holders| *holders == 0));
    }
}
