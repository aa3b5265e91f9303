//! What a key may do beside reading what is its owner's.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One thing that a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Runs, patches, traces and alignments.
    Run,
    /// Sweeps.
    Sweep,
    /// Storing data sets and activations.
    Upload,
    /// `remote=True` of nnsight: blocks of Python, in locked processes.
    Remote,
    /// Making and ending keys. It brings none of the others with it.
    Admin,
}

impl Scope {
    /// Every scope by its name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("run", Self::Run),
        ("sweep", Self::Sweep),
        ("upload", Self::Upload),
        ("remote", Self::Remote),
        ("admin", Self::Admin),
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Sweep => "sweep",
            Self::Upload => "upload",
            Self::Remote => "remote",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Reads `run,sweep`. Names that are not known give nothing.
    pub fn stored(text: &str) -> Self {
        let known = |name: &str| Scope::ALL.iter().find(|(known, _)| *known == name).map(|(_, scope)| *scope);
        text.split(',').filter_map(known).collect()
    }

    /// Whether one is among them.
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// All of them, in the order of [`Scope::ALL`].
    pub fn list(self) -> Vec<Scope> {
        Scope::ALL.into_iter().map(|(_, scope)| scope).filter(|scope| self.has(*scope)).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

/// As it is stored: `run,sweep`.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list().into_iter().map(Scope::name).collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_stored_as_names_and_unknown_ones_give_nothing() {
        for (name, scope) in Scope::ALL {
            assert_eq!(scope.name(), name);
            assert_eq!(Scopes::stored(name).list(), [scope]);
        }
        assert_eq!(Scopes::stored("sweep,run").to_string(), "run,sweep");
        assert_eq!(Scopes::stored("everything, admin,,RUN"), Scopes::default());
        assert_eq!(Scopes::stored(""), Scopes::default());
    }
}
