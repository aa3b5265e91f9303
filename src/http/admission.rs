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
use crate::owner::{Account, Whose};

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
    on_their_way: Mutex<HashMap<Whose, u32>>,
}

impl Admission {
    pub(super) fn new(config: &Config) -> Self {
        let a_second = NonZeroU32::new(config.auth.failed_per_s).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(a_second).allow_burst(a_second.saturating_mul(BURST));
        let failures = RateLimiter::keyed(quota);
        Self(Arc::new(Inner { failures, on_their_way: Mutex::default() }))
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

    /// Lets a request in, until what is given back is gone. `most`: how many an owner or a key may have on their way, if so many
    /// are not without end.
    ///
    /// # Errors
    /// Who has as many as may be.
    pub(super) fn enter(
        &self,
        account: &Account,
        most: impl Fn(&Whose) -> Option<u32>,
    ) -> Result<OnItsWay, Whose> {
        let mut all = self.0.on_their_way.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |whose: &Whose| all.get(whose).copied().unwrap_or(0);
        if let Some(full) = account.whose().find(|whose| most(whose).is_some_and(|most| has(whose) >= most)) {
            return Err(full);
        }
        account.whose().for_each(|whose| *all.entry(whose).or_default() += 1);
        drop(all);
        Ok(OnItsWay { of: self.clone(), account: account.clone() })
    }
}

/// A request that was let in.
#[derive(Debug)]
pub(super) struct OnItsWay {
    of: Admission,
    account: Account,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut all = self.of.0.on_their_way.lock().unwrap_or_else(PoisonError::into_inner);
        for whose in self.account.whose() {
            if let Some(own) = all.get_mut(&whose) {
                *own -= 1;
                if *own == 0 {
                    all.remove(&whose);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Owner;

    fn admission() -> Admission {
        Admission::new(&crate::config::load(None, [], &[]).unwrap().config)
    }

    #[test]
    fn an_owner_and_a_key_have_so_many_on_their_way_and_are_forgotten_when_all_are_done() {
        let admission = admission();
        let account = |owner: &str, key: u128| Account {
            key: Some(uuid::Uuid::from_u128(key)),
            ..Owner::parse(owner).unwrap().into()
        };
        // Of an owner two, of a key one.
        let most = |whose: &Whose| Some(if matches!(whose, Whose::Owner(_)) { 2 } else { 1 });
        let [one, two, three, bob] =
            [("alice", 1), ("alice", 2), ("alice", 3), ("bob", 4)].map(|(o, k)| account(o, k));
        let full = |account: &Account| admission.enter(account, most).unwrap_err();
        let first = admission.enter(&one, most).unwrap();
        assert_eq!(full(&one), Whose::Key(one.key.unwrap()));
        let second = admission.enter(&two, most).unwrap();
        assert_eq!(full(&three), Whose::Owner(one.owner.clone()));
        let other = admission.enter(&bob, most).unwrap();
        drop(first);
        let third = admission.enter(&three, most).unwrap();
        assert_eq!(full(&one), Whose::Owner(one.owner.clone()));
        // Who is refused is not counted.
        assert_eq!(admission.0.on_their_way.lock().unwrap()[&Whose::Owner(one.owner)], 2);
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
