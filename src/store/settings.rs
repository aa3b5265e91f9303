//! Where the database is.

use std::path::PathBuf;

/// Where the database is.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// The data folder. SQLite's file is in it; with PostgreSQL it is not used.
    pub data_dir: PathBuf,
    /// `postgres://USER:PASSWORD@HOST/DATABASE`; empty for SQLite.
    pub url: String,
}

/// The URL has a password in it.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = if self.url.is_empty() { "" } else { "postgres://..." };
        f.debug_struct("Settings").field("data_dir", &self.data_dir).field("url", &url).finish()
    }
}
