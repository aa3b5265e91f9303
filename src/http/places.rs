//! Who may be connected. Places are limited, and each address has a share of them; behind a full house stand those who wait,
//! with a reserve of their own, so that liveness and readiness are always answered.
//!
//! Who uses its place for nothing gives way to who comes: first connections between two requests, then event streams, which
//! clients take up again where they were left.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Connections without a place whose request has not come yet.
const RESERVE: usize = 64;
/// Requests that wait for a place.
const QUEUE: usize = 256;
/// Connections that have been told to end and have not yet.
const ENDING: usize = 256;
/// How long a place is kept for nothing, whoever else wants it. A client short of time sends its head no later.
const IDLE: Duration = Duration::from_millis(250);
/// How long a connection without a place may take for its head when the reserve is full.
const BRIEF: Duration = Duration::from_millis(100);

/// The client's address, in the extensions of every request that came through a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// How many may be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Most {
    /// In all.
    pub(super) connections: usize,
    /// From one address.
    pub(super) per_address: usize,
}

/// The places of a listener. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Places {
    most: Most,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// In the order in which they came.
    open: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    address: IpAddr,
    stand: Stand,
    doing: Doing,
    since: Instant,
    leave: watch::Sender<bool>,
}

/// What right a connection has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// It has a place.
    Seated,
    /// It has none, and its request is not known yet.
    Reserve,
    /// Its request waits for a place.
    Queued,
    /// It was told to end, and counts no more.
    Ending,
}

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing, or sending a head.
    Waiting,
    /// A request is read, computed or answered.
    Working,
    /// Events are sent, as long as there are some.
    Streaming,
}

/// A connection's place among the others; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    places: Places,
    leave: watch::Receiver<bool>,
}

impl Places {
    pub(super) fn new(most: Most) -> Self {
        Self { most, table: Arc::default() }
    }

    /// A place for who comes from an address, or a stand in the reserve. `None` where both are full: try again.
    pub(super) fn enter(&self, from: IpAddr) -> Option<Place> {
        let mut table = self.table();
        if table.open.len() >= self.most.connections + RESERVE + QUEUE + ENDING {
            return None;
        }
        let address = network(from);
        let stand = if table.seat(self.most, address) {
            Stand::Seated
        } else {
            table.stand(Stand::Reserve, RESERVE).then_some(Stand::Reserve)?
        };
        let (leave, told) = watch::channel(false);
        let id = table.next;
        table.next += 1;
        let entry = Entry { address, stand, doing: Doing::Waiting, since: Instant::now(), leave };
        table.open.insert(id, entry);
        Some(Place { id, places: self.clone(), leave: told })
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whether one more from an address may sit down, now that whoever had to has given way.
    fn seat(&mut self, most: Most, address: IpAddr) -> bool {
        let mut by_address: HashMap<IpAddr, usize> = HashMap::new();
        for entry in self.open.values().filter(|entry| entry.stand == Stand::Seated) {
            *by_address.entry(entry.address).or_default() += 1;
        }
        let all: usize = by_address.values().sum();
        let crowded = if by_address.get(&address).is_some_and(|own| *own >= most.per_address) {
            Some(address)
        } else if all >= most.connections {
            by_address.into_iter().max_by_key(|(_, count)| *count).map(|(address, _)| address)
        } else {
            None
        };
        crowded.is_none_or(|crowded| {
            self.dismiss(|entry| entry.address == crowded && entry.stand == Stand::Seated, IDLE)
        })
    }

    /// Whether one more may stand so.
    fn stand(&mut self, stand: Stand, most: usize) -> bool {
        let there = self.open.values().filter(|entry| entry.stand == stand).count();
        there < most || self.dismiss(|entry| entry.stand == stand, BRIEF)
    }

    /// Tells the connection to end that has used its place for nothing for longest, and for `least` at least.
    fn dismiss(&mut self, among: impl Fn(&Entry) -> bool, least: Duration) -> bool {
        let idle = |entry: &&mut Entry| {
            among(entry) && entry.doing != Doing::Working && entry.since.elapsed() >= least
        };
        let last = self.open.values_mut().filter(idle).min_by_key(|e| (e.doing == Doing::Streaming, e.since));
        let Some(entry) = last else { return false };
        entry.stand = Stand::Ending;
        entry.leave.send_replace(true);
        true
    }
}

impl Place {
    /// Whether it is one, not a stand in the reserve.
    pub(super) fn is_seated(&self) -> bool {
        // Who was told to end may finish what has begun.
        self.with(|entry| matches!(entry.stand, Stand::Seated | Stand::Ending))
    }

    /// Says what the connection does.
    pub(super) fn doing(&self, doing: Doing) {
        self.with(|entry| (entry.doing, entry.since) = (doing, Instant::now()));
    }

    /// Whether it was told to end.
    pub(super) fn is_ending(&self) -> bool {
        self.with(|entry| entry.stand == Stand::Ending)
    }

    /// Whether it does that.
    pub(super) fn does(&self, doing: Doing) -> bool {
        self.with(|entry| entry.doing == doing)
    }

    /// Waits for a place until `deadline`; whether there was one. Where too many wait, none is waited for.
    pub(super) async fn sit(&self, deadline: tokio::time::Instant) -> bool {
        const AGAIN: Duration = Duration::from_millis(20);
        loop {
            {
                let mut table = self.places.table();
                let Some(entry) = table.open.get(&self.id) else { return false };
                let (address, stand) = (entry.address, entry.stand);
                let now = if matches!(stand, Stand::Seated | Stand::Ending) {
                    return true;
                } else if table.seat(self.places.most, address) {
                    Stand::Seated
                } else if stand == Stand::Queued || table.stand(Stand::Queued, QUEUE) {
                    Stand::Queued
                } else {
                    return false;
                };
                if let Some(entry) = table.open.get_mut(&self.id) {
                    entry.stand = now;
                }
                if now == Stand::Seated {
                    return true;
                }
            }
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits until the connection is told to end.
    pub(super) fn told_to_leave(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut leave = self.leave.clone();
        async move {
            if leave.wait_for(|leave| *leave).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Entry) -> T) -> T {
        let mut table = self.places.table();
        f(table.open.get_mut(&self.id).expect("BUG: an entry is there as long as its place"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().open.remove(&self.id);
    }
}

/// Whom an address stands for: of IPv6, whoever has a /64 has all addresses in it.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most { connections: 4, per_address: 3 };

    fn from(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn an_address_has_its_share_and_the_rest_is_for_others() {
        let places = Places::new(MOST);
        let busy = |n| {
            let place = places.enter(from(n)).unwrap();
            place.doing(Doing::Working);
            place
        };
        let own: Vec<Place> = (0..5).map(|_| busy(1)).collect();
        assert_eq!(own.iter().filter(|place| place.is_seated()).count(), 3);
        let other = busy(2);
        assert!(other.is_seated());
        assert!(!busy(3).is_seated(), "the house is full");
        drop(own);
        assert!(busy(3).is_seated());
    }

    #[test]
    fn idle_connections_give_way_before_streams_and_work_does_not() {
        let places = Places::new(MOST);
        let all: Vec<Place> = (0..4).map(|i| places.enter(from(i / 3)).unwrap()).collect();
        all[0].doing(Doing::Streaming);
        all[1].doing(Doing::Working);
        assert!(!places.enter(from(9)).unwrap().is_seated(), "nobody was idle for long");
        std::thread::sleep(IDLE + Duration::from_millis(20));
        let told = |i: usize| *all[i].leave.borrow();
        let first = places.enter(from(9)).unwrap();
        assert!(first.is_seated() && told(2) && !told(0), "the idle one of the address that has most");
        first.doing(Doing::Working);
        let second = places.enter(from(8)).unwrap();
        second.doing(Doing::Working);
        assert!(second.is_seated() && told(0) && !told(1));
    }

    #[tokio::test]
    async fn who_has_no_place_waits_for_one() {
        let places = Places::new(Most { connections: 1, per_address: 1 });
        let first = places.enter(from(1)).unwrap();
        first.doing(Doing::Working);
        let second = places.enter(from(2)).unwrap();
        second.doing(Doing::Working);
        let at = |ms| tokio::time::Instant::now() + Duration::from_millis(ms);
        assert!(!second.sit(at(50)).await);
        let waiting = tokio::spawn(async move { second.sit(at(5000)).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(first);
        assert!(waiting.await.unwrap());
        // The reserve is full of who sends nothing: the first of them makes room, after a moment.
        let silent: Vec<Option<Place>> = (0..RESERVE + 2).map(|_| places.enter(from(3))).collect();
        assert!(silent[RESERVE + 1].is_none());
        tokio::time::sleep(BRIEF + Duration::from_millis(20)).await;
        assert!(places.enter(from(4)).is_some());
    }

    #[test]
    fn who_has_a_network_has_its_addresses() {
        let ip = |text: &str| network(text.parse().unwrap());
        assert_eq!(ip("2001:db8::1"), ip("2001:db8:0:0:ffff::2"));
        assert_ne!(ip("2001:db8::1"), ip("2001:db8:0:1::1"));
        assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
    }
}
