//! Whose something is. A name and nothing else: who may use the name is for the keys to say.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

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

#[cfg(test)]
mod tests {
    use super::*;

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
