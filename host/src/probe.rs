//! Asks a PostgreSQL server whether it answers, as its user would: over TCP, with the instance's own credentials.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

use crate::failure::printable;
use crate::instance::Found;

/// How long one connection with its query may take while a server starts: a proxy in front of it may accept early and
/// then say nothing.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after the first failed attempt; each further one is half as long again.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// The longest pause between attempts.
const LAST_PAUSE: Duration = Duration::from_millis(40);

/// How many clients there are besides whoever asks: PostgreSQL's own processes are none.
const CONNECTIONS: &str = "SELECT count(*) FROM pg_catalog.pg_stat_activity \
    WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()";

/// How much of a server's error message is repeated.
const MESSAGE_CHARS_MAX: usize = 300;

/// Why a server did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Nothing answers yet, or not any more; it may come.
    #[error("{0}")]
    Silent(String),
    /// A server answers and will not have us: waiting doesn't help.
    #[error("{0}")]
    Refused(String),
    /// No answer within the deadline.
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
}

/// Runs one query within `deadline` and says how long that took, connecting included.
///
/// # Errors
/// If the query was not answered.
pub async fn query(found: &Found, deadline: Duration) -> Result<Duration, ProbeError> {
    let begun = Instant::now();
    timeout(deadline, attempt(found))
        .await
        .map_err(|_| ProbeError::TimedOut(deadline))?
        .map(|()| begun.elapsed())
}

/// Asks how many clients are connected, this one aside, within `deadline`.
///
/// # Errors
/// If that was not answered.
pub async fn connections(found: &Found, deadline: Duration) -> Result<u64, ProbeError> {
    let answer = timeout(deadline, ask(found, CONNECTIONS)).await;
    let count = answer.map_err(|_| ProbeError::TimedOut(deadline))??;
    count
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| ProbeError::Refused("counting the connections was answered with something else".into()))
}

/// Asks again and again, ever more slowly, until a query is answered.
///
/// # Errors
/// When `deadline` has passed, with what the last attempt met; at once when the server refuses the credentials.
pub async fn until_ready(found: &Found, deadline: Duration) -> Result<(), ProbeError> {
    let end = Instant::now() + deadline;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match query(found, ATTEMPT_TIMEOUT).await {
            Ok(_) => return Ok(()),
            Err(refused @ ProbeError::Refused(_)) => return Err(refused),
            Err(error) => error,
        };
        if Instant::now() + pause >= end {
            return Err(error);
        }
        tracing::trace!(%error, "not ready yet");
        sleep(pause).await;
        pause = (pause * 3 / 2).min(LAST_PAUSE);
    }
}

async fn attempt(found: &Found) -> Result<(), ProbeError> {
    match ask(found, "SELECT 1").await?.as_deref() {
        Some("1") => Ok(()),
        _ => Err(ProbeError::Refused("SELECT 1 was answered with something else".into())),
    }
}

/// The first value of the answer, if it has one.
async fn ask(found: &Found, query: &str) -> Result<Option<String>, ProbeError> {
    let (client, connection) = config(found).connect(NoTls).await.map_err(|error| classify(&error))?;
    let answer = tokio::select! {
        answer = client.simple_query(query) => answer.map_err(|error| classify(&error))?,
        end = connection => return Err(match end {
            Ok(()) => ProbeError::Silent("the server closed the connection".into()),
            Err(error) => classify(&error),
        }),
    };
    Ok(answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten().map(str::to_owned),
        _ => None,
    }))
}

/// The instance as its superuser reaches it.
pub(crate) fn config(found: &Found) -> Config {
    let instance = &found.instance;
    let mut config = Config::new();
    config
        .host(&instance.host)
        .port(instance.port.get())
        .user(instance.username.as_str())
        .password(found.password.expose())
        .dbname(instance.database.as_str())
        .application_name(env!("CARGO_PKG_NAME"));
    config
}

/// A server's error in its own words.
pub(crate) fn refusal(answer: &DbError) -> String {
    // Whoever may run SQL may choose these words.
    let message: String = answer.message().chars().take(MESSAGE_CHARS_MAX).collect();
    let message = printable(&message);
    format!("{message} (SQLSTATE {})", answer.code().code())
}

/// A server that starts, stops or is out of connections may do better later; one that knows neither the role nor the
/// database will not.
fn classify(error: &tokio_postgres::Error) -> ProbeError {
    let Some(answer) = error.as_db_error() else {
        return ProbeError::Silent(chain(error));
    };
    let reason = refusal(answer);
    let hopeless = [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
    ];
    if hopeless.contains(answer.code()) {
        ProbeError::Refused(reason)
    } else {
        ProbeError::Silent(reason)
    }
}

/// An error with its causes: tokio-postgres says "error connecting to server" and keeps the rest in `source`.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::engine::fake::FakeEngine;
    use crate::instance::{Port, Status};

    #[tokio::test]
    async fn a_server_that_takes_the_connection_and_says_nothing_is_given_up_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("the port").port();
        let (engine, _) = FakeEngine::default().with_instance(Status::Running);
        let mut found = engine.instances.lock().expect("unpoisoned").remove(0);
        found.instance.port = Port::try_from(port).expect("a port");
        let deadline = Duration::from_millis(50);
        assert_eq!(query(&found, deadline).await, Err(ProbeError::TimedOut(deadline)));
        assert_eq!(connections(&found, deadline).await, Err(ProbeError::TimedOut(deadline)));
    }
}
