//! Who must wait before anything is done for it: addresses that show wrong keys again and again, owners with enough on their
//! way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::config::Config;
use crate::owner::Owner;

/// Failures at once, in those of so many seconds.
const BURST: NonZeroU32 = NonZeroU32::new(5).unwrap();
/// Addresses that are remembered before those that have been quiet are forgotten.
const REMEMBERED: usize = 4096;

/// Counts by address and by owner. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Admission(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    failures: DefaultKeyedRateLimiter<IpAddr>,
    most: u32,
    on_their_way: Mutex<HashMap<Owner, u32>>,
}

impl Admission {
    pub(super) fn new(config: &Config) -> Self {
        let a_second = NonZeroU32::new(config.auth.failed_per_s).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(a_second).allow_burst(a_second.saturating_mul(BURST));
        let failures = RateLimiter::keyed(quota);
        Self(Arc::new(Inner { failures, most: config.limits.owner_requests, on_their_way: Mutex::default() }))
    }

    /// Notes that an address showed a key that is none. It is told to wait if it does so too often; whoever has a good key
    /// is never held up by others at the same address.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn failed(&self, address: IpAddr) -> Result<(), Duration> {
        let failures = &self.0.failures;
        if failures.len() > REMEMBERED {
            failures.retain_recent();
        }
        failures.check_key(&address).map_err(|not_yet| not_yet.wait_time_from(DefaultClock::default().now()))
    }

    /// Lets a request of an owner in, until what is given back is gone. `None`: the owner has as many as it may on their way.
    pub(super) fn enter(&self, owner: &Owner) -> Option<OnItsWay> {
        let mut all = self.0.on_their_way.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(owner.clone()).or_default();
        if *own >= self.0.most {
            return None;
        }
        *own += 1;
        drop(all);
        Some(OnItsWay { of: self.clone(), owner: owner.clone() })
    }
}

/// A request that was let in.
#[derive(Debug)]
pub(super) struct OnItsWay {
    of: Admission,
    owner: Owner,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut all = self.of.0.on_their_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.owner) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        let flags = [("--test", "limits.owner_requests", "2".to_owned())];
        Admission::new(&crate::config::load(None, [], &flags).unwrap().config)
    }

    #[test]
    fn an_owner_has_so_many_on_their_way_and_is_forgotten_when_all_are_done() {
        let admission = admission();
        let [alice, bob] = ["alice", "bob"].map(|name| Owner::parse(name).unwrap());
        let first = admission.enter(&alice).unwrap();
        let second = admission.enter(&alice).unwrap();
        assert!(admission.enter(&alice).is_none());
        let other = admission.enter(&bob).unwrap();
        drop(first);
        let third = admission.enter(&alice).unwrap();
        assert!(admission.enter(&alice).is_none());
        drop((second, third, other));
        assert!(admission.0.on_their_way.lock().unwrap().is_empty());
    }

    #[test]
    fn an_address_fails_fifty_times_and_then_ten_times_a_second_and_few_are_remembered() {
        let admission = admission();
        let [here, there]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        let failed = (0..200).filter(|_| admission.failed(here).is_ok()).count();
        assert!((50..=60).contains(&failed), "{failed}");
        let wait = admission.failed(here).unwrap_err();
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
        assert!(admission.failed(there).is_ok());
        for n in 0..3 * REMEMBERED as u32 {
            let _ = admission.failed(IpAddr::from(n.to_be_bytes()));
            if n % 1000 == 0 {
                // One failure is forgotten after a tenth of a second.
                std::thread::sleep(Duration::from_millis(110));
            }
        }
        assert!(admission.0.failures.len() <= REMEMBERED + 1001, "{}", admission.0.failures.len());
    }
}
