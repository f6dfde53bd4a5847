//! PostgreSQL as a client sees it.

use std::time::{Duration, Instant};

use dev_postgres_mcp::instance::Found;
use tokio_postgres::{Client, Config, NoTls};

/// How long an instance may take until it answers, on a busy machine.
const READY_TIMEOUT: Duration = Duration::from_mins(1);

/// Connects once, with these credentials.
///
/// # Errors
/// What PostgreSQL or the network says.
pub async fn connect(found: &Found, password: &str) -> Result<Client, tokio_postgres::Error> {
    let instance = &found.instance;
    let (client, connection) = Config::new()
        .host(&instance.host)
        .port(instance.port.get())
        .user(instance.username.as_str())
        .password(password)
        .dbname(instance.database.as_str())
        .connect(NoTls)
        .await?;
    // It ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

/// Connects with the instance's own credentials as soon as it answers.
///
/// # Panics
/// If it doesn't answer within a minute.
pub async fn connect_when_ready(found: &Found) -> Client {
    let start = Instant::now();
    loop {
        match connect(found, found.password.expose()).await {
            Ok(client) => return client,
            Err(error) if start.elapsed() > READY_TIMEOUT => {
                panic!("{} does not answer: {error:?}", found.instance.id)
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
