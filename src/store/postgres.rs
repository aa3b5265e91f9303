//! PostgreSQL, where several servers share the work.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::error::{Place, StoreError};
use super::schema;

/// What servers tell each other of a change through.
const CHANNEL: &str = "mediant";
const CONNECTIONS: u32 = 8;
/// How long a connection may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects, and brings the tables up to date.
pub(super) async fn open(url: &str) -> Result<(PgPool, Arc<Place>), StoreError> {
    let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| StoreError::Refused {
        place: "store.url".to_owned(),
        detail: error.to_string(),
    })?;
    let host = options.get_socket().map_or_else(
        || format!("{}:{}", options.get_host(), options.get_port()),
        |path| path.display().to_string(),
    );
    let name = options.get_database().unwrap_or_else(|| options.get_username());
    let place = Arc::new(Place::new(format!("the PostgreSQL database {name} at {host}")));
    let options = options.application_name("mediant").options([
        // Whatever the server's default: a commit is on the disk before it is answered.
        ("synchronous_commit", "on"),
        ("lock_timeout", "5s"),
        ("statement_timeout", "60s"),
        // A process that stops in the middle holds no row for longer.
        ("idle_in_transaction_session_timeout", "30s"),
    ]);
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(PATIENCE)
        .connect_with(options)
        .await
        .map_err(|error| place.error(error))?;
    schema::postgres().run(&pool).await.map_err(|error| place.migration(error))?;
    Ok((pool, place))
}

/// Passes on what other servers say, for as long as the store is open. While the database is away it tries again every
/// second; what was missed then is why everybody also polls.
pub(super) fn listen(pool: PgPool, changed: watch::Sender<u64>) -> AbortHandle {
    let task = tokio::spawn(async move {
        loop {
            if let Ok(mut listener) = PgListener::connect_with(&pool).await
                && listener.listen(CHANNEL).await.is_ok()
            {
                while listener.recv().await.is_ok() {
                    changed.send_modify(|count| *count = count.wrapping_add(1));
                }
            }
            if pool.is_closed() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    task.abort_handle()
}
