//! The tables of this version, compiled in. A file that has been released is never changed: later ones follow it.

use std::borrow::Cow;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

pub(super) fn sqlite() -> Migrator {
    migrator(&[
        ("jobs", include_str!("migrations/sqlite/0001_jobs.sql")),
        ("checksums", include_str!("migrations/sqlite/0002_checksums.sql")),
        ("keys", include_str!("migrations/sqlite/0003_keys.sql")),
        ("usage", include_str!("migrations/sqlite/0004_usage.sql")),
        ("terms", include_str!("migrations/sqlite/0005_terms.sql")),
        ("shares", include_str!("migrations/sqlite/0006_shares.sql")),
    ])
}

pub(super) fn postgres() -> Migrator {
    migrator(&[
        ("jobs", include_str!("migrations/postgres/0001_jobs.sql")),
        ("checksums", include_str!("migrations/postgres/0002_checksums.sql")),
        ("keys", include_str!("migrations/postgres/0003_keys.sql")),
        ("usage", include_str!("migrations/postgres/0004_usage.sql")),
        ("terms", include_str!("migrations/postgres/0005_terms.sql")),
        ("shares", include_str!("migrations/postgres/0006_shares.sql")),
    ])
}

/// Numbered from 1.
fn migrator(files: &[(&'static str, &'static str)]) -> Migrator {
    let step = |(version, (name, sql)): (i64, &(&'static str, &'static str))| {
        Migration::new(version, Cow::Borrowed(*name), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations((1..).zip(files).map(step).collect())
}
