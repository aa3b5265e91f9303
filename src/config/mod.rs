//! Configuration: layers of TOML, environment and flags in; one checked [`Config`] out.
//!
//! The compiled-in `config/default.toml` names every key, so it doubles as the schema: a key that is not in it is an
//! error in every other layer, and a value's type is known before any section is deserialised.

mod database_url;
mod flags;
mod layers;
mod sections;
mod validate;

use std::fmt;
use std::path::PathBuf;

pub use database_url::DatabaseUrl;
pub use flags::Settings;
pub use layers::{Loaded, Sources, load};
pub use sections::{
    Activations, Auth, Cache, Config, Engine, Http, Jobs, KeysUse, Limits, Model, Remote, RemoteSource,
    Results, Sharing, Store, Telemetry, Wheel,
};

pub use crate::spec::dtype::Dtype;

/// Prefix of the environment variables that set configuration keys: `MEDIANT__SECTION__KEY`.
pub const ENV_PREFIX: &str = "MEDIANT__";

/// Where a value came from; later variants win over earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The compiled-in `config/default.toml`.
    Default,
    /// A file named by `--config`.
    File(PathBuf),
    /// An environment variable, by name.
    Env(String),
    /// A command-line flag, as typed: `--listen`.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One thing wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Dotted key: `http.listen`.
    pub key: String,
    /// The layer that holds the bad value.
    pub source: Source,
    /// What is wrong.
    pub detail: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}; {}", self.key, self.source, self.detail, self.fix)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named by `--config` cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {detail}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's message with line and column.
        detail: String,
    },
    /// Keys or values are wrong; all of them are listed.
    #[error("{} in the configuration:{}", count(.0.len()), list(.0))]
    Invalid(Vec<Fault>),
}

fn count(n: usize) -> String {
    if n == 1 { "1 problem".to_owned() } else { format!("{n} problems") }
}

fn list(faults: &[Fault]) -> String {
    faults.iter().flat_map(|fault| ["\n  - ".to_owned(), fault.to_string()]).collect()
}
