//! One way to say a statement to either database. Statements are written once, with `$1`, which both read; where the
//! databases differ the statement is chosen by [`Tx::pick`].

use std::sync::Arc;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Postgres, Row as _, SqlSafeStr, Sqlite};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::error::{Place, StoreError};

/// A transaction on either database. Dropped, it is rolled back: in SQLite when its connection returns to the pool.
pub(super) struct Tx {
    pub(super) open: Open,
    pub(super) place: Arc<Place>,
    /// Held by a change that a client asks for.
    pub(super) _turn: Option<OwnedSemaphorePermit>,
}

/// Which database it is on.
pub(super) enum Open {
    /// A connection that has been told to begin. Not sqlx's transaction: SQLite ends one by itself when the disk is full, and
    /// sqlx would take the connection to be in it for ever.
    Sqlite(PoolConnection<Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

/// A value of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    Int(i64),
    MaybeInt(Option<i64>),
    Real(f64),
    Text(&'a str),
    MaybeText(Option<&'a str>),
    Bytes(&'a [u8]),
    Id(Uuid),
    MaybeId(Option<Uuid>),
}

/// A row of an answer; columns by their place, from 0.
pub(super) struct Row {
    place: Arc<Place>,
    of: RowOf,
}

enum RowOf {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// Values without a type of their own in [`Arg`].
macro_rules! arg {
    ($($type:ty => $make:expr),* $(,)?) => {
        $(impl<'a> From<$type> for Arg<'a> {
            fn from(value: $type) -> Self {
                $make(value)
            }
        })*
    };
}

arg! {
    i64 => Arg::Int,
    u32 => |n: u32| Arg::Int(i64::from(n)),
    u16 => |n: u16| Arg::Int(i64::from(n)),
    // No count here comes near 2^63.
    u64 => |n: u64| Arg::Int(i64::try_from(n).unwrap_or(i64::MAX)),
    Option<i64> => Arg::MaybeInt,
    f64 => Arg::Real,
    &'a str => Arg::Text,
    &'a String => |s: &'a String| Arg::Text(s),
    Option<&'a str> => Arg::MaybeText,
    &'a [u8] => Arg::Bytes,
    &'a Vec<u8> => |b: &'a Vec<u8>| Arg::Bytes(b),
    Uuid => Arg::Id,
    Option<Uuid> => Arg::MaybeId,
    super::job::JobId => |id: super::job::JobId| Arg::Id(id.0),
}

/// `args![id, "name", 3_i64]`: the values of a statement.
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$($crate::store::sql::Arg::from($value)),*] };
}
pub(super) use args;

/// Binds `args` to a query of any database.
macro_rules! bound {
    ($sql:expr, $args:expr) => {{
        let mut query = sqlx::query($sql);
        for arg in $args {
            query = match *arg {
                Arg::Int(n) => query.bind(n),
                Arg::MaybeInt(n) => query.bind(n),
                Arg::Real(x) => query.bind(x),
                Arg::Text(text) => query.bind(storable(text)),
                Arg::MaybeText(text) => query.bind(text.map(storable)),
                Arg::Bytes(bytes) => query.bind(bytes.to_vec()),
                Arg::Id(id) => query.bind(id),
                Arg::MaybeId(id) => query.bind(id),
            };
        }
        query
    }};
}

/// PostgreSQL has no NUL in texts.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

impl Tx {
    /// The statement of the database this is on.
    pub(super) fn pick(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        match self.open {
            Open::Sqlite(_) => sqlite,
            Open::Postgres(_) => postgres,
        }
    }

    /// A row that this transaction has just written is not there: somebody has changed the tables.
    pub(super) fn lost_row(&self) -> StoreError {
        self.place.corrupt("a row that was just written is not there".to_owned())
    }

    /// Runs a statement: how many rows it changed.
    pub(super) async fn run(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64, StoreError> {
        let done = match &mut self.open {
            Open::Sqlite(tx) => bound!(sql, args).execute(&mut **tx).await.map(|done| done.rows_affected()),
            Open::Postgres(tx) => bound!(sql, args).execute(&mut **tx).await.map(|done| done.rows_affected()),
        };
        done.map_err(|error| self.place.error(error))
    }

    /// All rows of an answer.
    pub(super) async fn rows(
        &mut self,
        sql: impl SqlSafeStr,
        args: &[Arg<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let rows: Result<Vec<RowOf>, _> = match &mut self.open {
            Open::Sqlite(tx) => bound!(sql, args)
                .fetch_all(&mut **tx)
                .await
                .map(|rows| rows.into_iter().map(RowOf::Sqlite).collect()),
            Open::Postgres(tx) => bound!(sql, args)
                .fetch_all(&mut **tx)
                .await
                .map(|rows| rows.into_iter().map(RowOf::Postgres).collect()),
        };
        let rows = rows.map_err(|error| self.place.error(error))?;
        Ok(rows.into_iter().map(|of| Row { place: Arc::clone(&self.place), of }).collect())
    }

    /// The first row of an answer.
    pub(super) async fn row(
        &mut self,
        sql: &'static str,
        args: &[Arg<'_>],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(sql, args).await?.into_iter().next())
    }

    /// Makes everything said so far true and durable, or nothing of it.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let done = match self.open {
            Open::Sqlite(mut tx) => sqlx::query("commit").execute(&mut *tx).await.map(|_| ()),
            Open::Postgres(tx) => tx.commit().await,
        };
        done.map_err(|error| self.place.error(error))?;
        // Synced, but to files that nobody will find: what was said is not kept.
        self.place.in_place()
    }
}

/// `head ($1, $2, ...) tail` with as many places as there are values: only their number enters the text.
pub(super) fn listed(head: &str, count: usize, tail: &str) -> AssertSqlSafe<String> {
    let places: Vec<String> = (1..=count).map(|i| format!("${i}")).collect();
    AssertSqlSafe(format!("{head} ({}) {tail}", places.join(", ")))
}

impl Row {
    /// A column as its type.
    pub(super) fn get<T>(&self, column: usize) -> Result<T, StoreError>
    where
        T: sqlx::Type<Sqlite> + sqlx::Type<Postgres>,
        for<'r> T: sqlx::Decode<'r, Sqlite> + sqlx::Decode<'r, Postgres>,
    {
        match &self.of {
            RowOf::Sqlite(row) => row.try_get(column),
            RowOf::Postgres(row) => row.try_get(column),
        }
        .map_err(|error| self.place.error(error))
    }

    /// A count that was stored from a `u32`.
    pub(super) fn count(&self, column: usize) -> Result<u32, StoreError> {
        Ok(u32::try_from(self.get::<i64>(column)?).unwrap_or(u32::MAX))
    }

    /// A name as what it means.
    pub(super) fn named<T: Copy>(&self, column: usize, names: &[(&str, T)]) -> Result<T, StoreError> {
        let text: String = self.get(column)?;
        names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
            self.place.corrupt(format!("`{text}` in a column that has only names of this program"))
        })
    }
}
