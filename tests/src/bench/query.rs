//! The query that every create ends with.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::NoTls;

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause between attempts: less than one takes.
const PAUSE: Duration = Duration::from_millis(2);

/// Connects, has one query answered, and goes.
pub(super) async fn once(dsn: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    // It ends with the client.
    tokio::spawn(connection);
    client.simple_query("SELECT 1").await.map(drop)
}

/// The same, as soon as the server answers: it doesn't say when it does.
pub(super) async fn as_soon_as_possible(dsn: &str) {
    let begun = Instant::now();
    while let Err(error) = once(dsn).await {
        assert!(begun.elapsed() < PATIENCE, "the server does not answer: {error:?}");
        sleep(PAUSE).await;
    }
}
