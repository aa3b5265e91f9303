//! What requests share before and beside the engine: bytes of memory and threads.
//!
//! Every request has a [`Share`] of one budget of bytes, from the first byte of its body until the last byte of its answer
//! is taken: its body, the tree that is read from it, the plan that is made of it, the answer. Work in proportion to a body
//! is done in [lanes](Lane) of a few threads, never on the async workers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::owner::{Account, Owner};

/// How long a request waits for memory.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// Permits are counted in these.
const UNIT: u64 = 1024;
/// Bodies above this are large: they are read beside each other, not before small ones.
const LARGE_BODY: u64 = 64 << 10;
/// Threads of each lane.
const ABREAST: usize = 2;

/// No memory is free for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory for requests is in use")]
pub struct Busy;

/// Where work waits for a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Reading, checking and lowering a request.
    Prepare,
    /// Making the answer of what was computed: done first of all, since it frees memory.
    Finish,
}

/// The memory and threads of a process for its requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Capacity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: Semaphore,
    total: u32,
    /// What requests of more than a small part may hold together. Whoever holds much for long, such as one who takes an
    /// answer slowly, leaves the rest to small requests.
    large: Semaphore,
    most: u32,
    small: u32,
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    finish: Arc<Semaphore>,
}

impl Capacity {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let all = units(bytes).max(64);
        let most = all / 4 * 3;
        let lane = || Arc::new(Semaphore::new(ABREAST));
        Self(Arc::new(Shared {
            all: Semaphore::new(all as usize),
            total: all,
            large: Semaphore::new(most as usize),
            most,
            small: all / 64,
            quick: lane(),
            slow: lane(),
            finish: lane(),
        }))
    }

    /// The share of a new request; nothing yet.
    pub fn share(&self, account: impl Into<Account>) -> Share {
        let held = Mutex::default();
        let (slow, light) = (AtomicBool::new(false), AtomicBool::new(false));
        let holding = Holding { of: self.clone(), held, slow, light, in_engine: Mutex::default() };
        Share { account: account.into(), fresh: false, holding: Some(Arc::new(holding)) }
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        u64::from(self.0.total) * UNIT
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        self.0.all.available_permits() as u64 * UNIT
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// What one request holds, and whose request it is. Clones hold the same; it is given back when the last one is gone.
#[derive(Debug, Clone)]
pub struct Share {
    account: Account,
    fresh: bool,
    holding: Option<Arc<Holding>>,
}

/// With an answer: for how long the engine had what it says.
#[derive(Debug, Clone, Copy)]
pub struct InEngine(pub Duration);

#[derive(Debug)]
struct Holding {
    of: Capacity,
    held: Mutex<Held>,
    slow: AtomicBool,
    /// Its work takes less time than handing it to another thread.
    light: AtomicBool,
    /// What it was with the engine; `None`: it was not, or shared its time with others.
    in_engine: Mutex<Option<Duration>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    all: u32,
    /// Equal to `all` once that is more than small.
    large: u32,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let held = *self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.of.0.all.add_permits(held.all as usize);
        self.of.0.large.add_permits(held.large as usize);
    }
}

impl Share {
    /// A share without bounds: of work that was bounded when it was taken on, such as a job's.
    pub fn unbounded(account: impl Into<Account>) -> Self {
        Self { account: account.into(), fresh: false, holding: None }
    }

    /// On whose account it is computed.
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// Whose request it is: whose activations and data sets it may name, and whose what it makes will be.
    pub const fn owner(&self) -> &Owner {
        &self.account.owner
    }

    /// Whether it has bounds: a client waits.
    pub const fn is_bounded(&self) -> bool {
        self.holding.is_some()
    }

    /// Says that its answer is to be computed, not found, and not to be kept.
    pub fn want_fresh(&mut self) {
        self.fresh = true;
    }

    /// Whether its answer is to be computed, not found, and not to be kept.
    pub const fn wants_fresh(&self) -> bool {
        self.fresh
    }

    /// Says for how long the engine had what was computed for it; `None`: that is not known.
    pub fn was_computed(&self, took: Option<Duration>) {
        if let Some(holding) = &self.holding {
            *holding.in_engine.lock().unwrap_or_else(PoisonError::into_inner) = took;
        }
    }

    /// For how long the engine had what was computed for it, if that is known.
    pub fn in_engine(&self) -> Option<Duration> {
        *self.holding.as_ref()?.in_engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.holding.as_ref().map_or(0, |holding| u64::from(holding.held().all) * UNIT)
    }

    /// Holds so many bytes, or less; waits a while for them. More than may be held at once counts as all of that.
    ///
    /// # Errors
    /// None became free. What was held still is.
    pub async fn resize(&self, bytes: u64) -> Result<(), Busy> {
        let Some(holding) = &self.holding else { return Ok(()) };
        let shared = &holding.of.0;
        let wanted = units(bytes).min(shared.most);
        let held = holding.held();
        if wanted <= held.all {
            holding.shrink(wanted);
            return Ok(());
        }
        let large = if wanted > shared.small { wanted - held.large } else { 0 };
        let both = async {
            let of_large = shared.large.acquire_many(large).await.map_err(|_| Busy)?;
            let of_all = shared.all.acquire_many(wanted - held.all).await.map_err(|_| Busy)?;
            of_large.forget();
            of_all.forget();
            let mut now = holding.held.lock().unwrap_or_else(PoisonError::into_inner);
            now.all += wanted - held.all;
            now.large += large;
            Ok(())
        };
        timeout(PATIENCE, both).await.unwrap_or(Err(Busy))
    }

    /// Holds at most so many bytes from now on.
    pub fn shrink(&self, bytes: u64) {
        if let Some(holding) = &self.holding {
            holding.shrink(units(bytes));
        }
    }

    /// Says how large the request's body is, on which it depends whom its work waits for.
    pub fn of_body(&self, bytes: u64) {
        if let Some(holding) = &self.holding {
            holding.slow.store(bytes > LARGE_BODY, Ordering::Relaxed);
        }
    }

    /// Says whether what comes next takes less time than handing it to another thread, and is therefore done where it comes.
    pub fn set_light(&self, light: bool) {
        if let Some(holding) = &self.holding {
            holding.light.store(light, Ordering::Relaxed);
        }
    }

    /// Says that what comes next is more than that, unless it is `light`.
    pub fn stays_light(&self, light: bool) {
        if !light {
            self.set_light(false);
        }
    }

    fn is_light(&self) -> bool {
        self.holding.as_ref().is_some_and(|holding| holding.light.load(Ordering::Relaxed))
    }

    /// Does work on a thread, when one is free; little work at once, on this one. The work is never begun if this is dropped before, and learns of it if this
    /// is dropped while it is done. A panic goes on its way to the caller.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&Abandoned) -> T + Send + 'static,
    ) -> T {
        if self.is_light() {
            return work(&Abandoned::default());
        }
        let place = match &self.holding {
            None => None,
            Some(holding) => {
                let shared = &holding.of.0;
                let lane = match lane {
                    Lane::Finish => &shared.finish,
                    Lane::Prepare if holding.slow.load(Ordering::Relaxed) => &shared.slow,
                    Lane::Prepare => &shared.quick,
                };
                Arc::clone(lane).acquire_owned().await.ok()
            }
        };
        let abandoned = Abandoned::default();
        let left = Left(abandoned.clone());
        // Memory is held as long as the work holds it, whoever still waits for it.
        let share = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _held = (place, share);
            work(&abandoned)
        });
        let done = done.await;
        drop(left);
        match done {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Ties the share to bytes: it is held until the last part of them is gone.
    pub fn tie(self, bytes: Vec<u8>) -> Tied {
        self.shrink(bytes.len() as u64);
        Tied { bytes, _share: self }
    }
}

impl Holding {
    fn held(&self) -> Held {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shrink(&self, to: u32) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &self.of.0;
        let large = if to > shared.small { to.min(held.large) } else { 0 };
        shared.all.add_permits(held.all.saturating_sub(to) as usize);
        shared.large.add_permits((held.large - large) as usize);
        *held = Held { all: held.all.min(to), large };
    }
}

/// Bytes and the share that they are of.
#[derive(Debug)]
pub struct Tied {
    bytes: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Tied {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Whether nobody waits for some work any more. Long work asks now and then, and stops.
#[derive(Debug, Clone, Default)]
pub struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    /// Whether to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Left(Abandoned);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn bytes_are_held_by_whoever_has_a_clone_and_given_back_by_the_last() {
        let capacity = Capacity::new(64 * MIB);
        let share = capacity.share(Owner::local());
        share.resize(10 * MIB).await.unwrap();
        let clone = share.clone();
        drop(share);
        assert_eq!(capacity.free(), 54 * MIB);
        clone.resize(20 * MIB).await.unwrap();
        clone.resize(5 * MIB).await.unwrap();
        assert_eq!((capacity.free(), clone.bytes()), (59 * MIB, 5 * MIB));
        let tied = clone.tie(vec![0; MIB as usize]);
        assert_eq!(capacity.free(), 63 * MIB);
        drop(tied);
        assert_eq!(capacity.free(), 64 * MIB);
    }

    #[tokio::test]
    async fn large_requests_leave_room_for_small_ones_and_wait_for_each_other() {
        let capacity = Capacity::new(64 * MIB);
        let (first, second, small) =
            (capacity.share(Owner::local()), capacity.share(Owner::local()), capacity.share(Owner::local()));
        first.resize(1 << 40).await.unwrap();
        assert_eq!(first.bytes(), 48 * MIB, "all that one may hold");
        assert_eq!(second.resize(2 * MIB).await, Err(Busy));
        assert_eq!(second.bytes(), 0);
        small.resize(MIB).await.unwrap();
        let waiting = tokio::spawn(async move { second.resize(2 * MIB).await.map(|()| second) });
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(first);
        let second = waiting.await.unwrap().unwrap();
        drop((second, small));
        assert_eq!(capacity.free(), 64 * MIB);
        let again = capacity.share(Owner::local());
        again.resize(48 * MIB).await.unwrap();
    }

    #[tokio::test]
    async fn work_waits_for_a_thread_and_learns_that_it_is_abandoned() {
        let capacity = Capacity::new(MIB);
        let share = capacity.share(Owner::local());
        share.resize(1000).await.unwrap();
        let (started, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let long = |n: usize| {
            let (share, started) = (share.clone(), started.clone());
            tokio::spawn(async move {
                share
                    .run(Lane::Prepare, move |abandoned| {
                        started.send(n).unwrap();
                        while !abandoned.is_set() {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        started.send(100 + n).unwrap();
                    })
                    .await;
            })
        };
        let tasks: Vec<_> = (0..=ABREAST).map(long).collect();
        for _ in 0..ABREAST {
            assert!(seen.recv().await.unwrap() < ABREAST);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(seen.try_recv().is_err(), "the last one waits");
        assert_eq!(share.run(Lane::Finish, |_| 7).await, 7, "another lane is free");
        // The one that waits is dropped first, and so never begins.
        tasks[ABREAST].abort();
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        for _ in 0..ABREAST {
            assert!(seen.recv().await.unwrap() >= 100);
        }
        drop(share);
        while capacity.free() < MIB {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(seen.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_panic_reaches_the_caller() {
        let share = Share::unbounded(Owner::local());
        let task = tokio::spawn(async move { share.run(Lane::Prepare, |_| panic!("of this test")).await });
        assert!(task.await.unwrap_err().is_panic());
    }
}
