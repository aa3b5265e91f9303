//! Whose something is, and on what terms it is computed. Who may use a name is for the keys to say.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use uuid::Uuid;

/// Owner of what requests without a key make. No key has it.
pub const LOCAL: &str = "local";
/// Longest name.
const MOST_BYTES: usize = 64;

/// Whose a job, a data set or an activation is. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(Arc<str>);

impl Owner {
    /// Who asks without a key.
    pub fn local() -> Self {
        Self(LOCAL.into())
    }

    /// A name that a key may have: 1 to 64 of `a-z0-9._-`, and not [`LOCAL`].
    pub fn parse(name: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let fits = (1..=MOST_BYTES).contains(&name.len()) && name.bytes().all(plain) && name != LOCAL;
        fits.then(|| Self(name.into()))
    }

    /// A name as it was stored.
    pub fn stored(name: &str) -> Self {
        Self(name.into())
    }
}

impl Deref for Owner {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much of the engine somebody gets beside others, in hundredths: of two who both wait, the one with twice the weight has twice
/// as much computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// The least.
    pub const LEAST: f64 = 0.01;
    /// The most.
    pub const MOST: f64 = 100.0;
    const ONE: u32 = 100;

    /// A weight, to the hundredth; `None` if it is out of range.
    pub fn of(weight: f64) -> Option<Self> {
        let fits = (Self::LEAST..=Self::MOST).contains(&weight);
        fits.then(|| Self((weight * f64::from(Self::ONE)).round() as u32))
    }

    /// As it was stored.
    pub fn stored(hundredths: i64) -> Self {
        let most = (Self::MOST * f64::from(Self::ONE)) as u32;
        Self(u32::try_from(hundredths).unwrap_or(Self::ONE).clamp(1, most))
    }

    /// As it is stored.
    pub fn hundredths(self) -> i64 {
        i64::from(self.0)
    }

    /// As a number.
    pub fn number(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ONE)
    }

    /// What work counts for in taking turns: half of it for whoever has twice the weight.
    pub fn turn(self, work: u64) -> u64 {
        let counts = u128::from(work) * u128::from(Self::ONE);
        u64::try_from(counts.div_ceil(u128::from(self.0))).unwrap_or(u64::MAX)
    }

    /// The work that counts for so much.
    pub fn work(self, turn: u64) -> u64 {
        let work = u128::from(turn) * u128::from(self.0) / u128::from(Self::ONE);
        u64::try_from(work).unwrap_or(u64::MAX)
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(Self::ONE)
    }
}

/// On what terms an owner, or one key, has something computed. What is left open is as the server is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// Share of the engine beside others.
    pub weight: Option<Weight>,
    /// Most requests with a body on their way at once.
    pub requests: Option<u32>,
    /// Most jobs of which nothing has been computed.
    pub jobs: Option<u32>,
    /// Most row-layers on a day.
    pub row_layers_day: Option<u64>,
}

/// On whose account something is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Whose it is.
    pub owner: Owner,
    /// The key that asked for it; none where none is needed.
    pub key: Option<Uuid>,
    /// How much it counts beside others.
    pub weight: Weight,
    /// Most jobs of the owner that wait; the server's setting if it is left open.
    pub owner_jobs: Option<u32>,
    /// Most of them that this key has made.
    pub key_jobs: Option<u32>,
}

impl From<Owner> for Account {
    fn from(owner: Owner) -> Self {
        Self { owner, key: None, weight: Weight::default(), owner_jobs: None, key_jobs: None }
    }
}

impl From<&Owner> for Account {
    fn from(owner: &Owner) -> Self {
        owner.clone().into()
    }
}

/// For whom something is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Whose {
    /// For an owner, by whatever key.
    Owner(Owner),
    /// For one key.
    Key(Uuid),
}

impl Account {
    /// For whom it is counted: the owner, and the key.
    pub fn whose(&self) -> impl Iterator<Item = Whose> {
        std::iter::once(Whose::Owner(self.owner.clone())).chain(self.key.map(Whose::Key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_divides_what_work_counts_for_and_one_changes_nothing() {
        for work in [0, 1, 7, 12_345, u64::MAX] {
            assert_eq!((Weight::default().turn(work), Weight::default().work(work)), (work, work));
        }
        let [two, half, small] = [2.0, 0.5, 0.01].map(|weight| Weight::of(weight).unwrap());
        assert_eq!((two.turn(100), half.turn(100), small.turn(100)), (50, 200, 10_000));
        assert_eq!((two.work(100), half.work(100), two.turn(1)), (200, 50, 1));
        for bad in [0.0, -1.0, 0.009, 100.01, f64::NAN, f64::INFINITY] {
            assert_eq!(Weight::of(bad), None, "{bad}");
        }
        for good in [0.01, 1.0, 2.5, 100.0] {
            let weight = Weight::of(good).unwrap();
            assert_eq!((weight.number(), Weight::stored(weight.hundredths())), (good, weight));
        }
    }

    #[test]
    fn names_are_plain_and_local_is_nobodys() {
        for good in ["alice", "lab-2.b_c", "7", &"x".repeat(64)] {
            assert_eq!(Owner::parse(good).as_deref(), Some(good));
        }
        for bad in ["", "local", "Alice", "a b", "a/b", "é", "a\n", &"x".repeat(65)] {
            assert_eq!(Owner::parse(bad), None, "{bad:?}");
        }
    }
}
