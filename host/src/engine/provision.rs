//! Gives a server that was started on a copied data directory the names and the password that were asked for: over the
//! network like any client, as a superuser whose password nobody else knows.

use std::time::Duration;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use super::EngineError;
use crate::instance::{InstanceSpec, Password, Port};

/// The superuser that a data directory to copy has.
pub(super) const SUPERUSER: &str = "postgres";
/// The pause between attempts to connect to a server that starts; one takes less than that.
const PAUSE: Duration = Duration::from_millis(3);
const SETTING_UP: &str = "setting up the instance's database and superuser";

/// The databases that a fresh data directory has.
const DATABASES: [&str; 2] = ["postgres", "template1"];

/// Where the server listens, and the password that its superuser has from the data directory that was copied.
pub(super) struct Copied<'a> {
    pub(super) host: &'a str,
    pub(super) port: Port,
    pub(super) password: &'a Password,
}

/// Waits until the server takes connections, makes the database, names the superuser and gives it its password, all
/// within `deadline`.
pub(super) async fn provision(copied: Copied<'_>, spec: &InstanceSpec, deadline: Duration) -> Result<(), EngineError> {
    let late = Instant::now() + deadline;
    let mut last = None;
    loop {
        match timeout_at(late, attempt(&copied, spec)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Setback::Final(error))) => return Err(error),
            // Nothing listens yet, or a proxy in front of nothing.
            Ok(Err(Setback::NotYet(error))) => last = Some(error),
            Err(_) => {
                return Err(last.unwrap_or(EngineError::TimedOut {
                    verb: SETTING_UP,
                    after: deadline,
                }));
            }
        }
        sleep(PAUSE).await;
    }
}

/// Why an attempt came to nothing.
enum Setback {
    /// The server doesn't take connections yet.
    NotYet(EngineError),
    Final(EngineError),
}

async fn attempt(copied: &Copied<'_>, spec: &InstanceSpec) -> Result<(), Setback> {
    let (client, connection) = tokio_postgres::Config::new()
        .host(copied.host)
        .port(copied.port.get())
        .user(SUPERUSER)
        .password(copied.password.expose())
        .dbname("postgres")
        .application_name(env!("CARGO_PKG_NAME"))
        .connect(NoTls)
        .await
        .map_err(|error| match error.code() {
            Some(code) if *code != SqlState::CANNOT_CONNECT_NOW => Setback::Final(refused(&error)),
            _ => Setback::NotYet(refused(&error)),
        })?;
    let work = async {
        let database = spec.database.as_str();
        if !DATABASES.contains(&database) {
            let create = format!("CREATE DATABASE {}", escape_identifier(database));
            client.batch_execute(&create).await?;
        }
        client.batch_execute(&superuser(spec)).await
    };
    tokio::select! {
        done = work => done.map_err(|error| Setback::Final(refused(&error))),
        end = connection => Err(Setback::Final(end.err().map_or_else(hung_up, |error| refused(&error)))),
    }
}

/// PostgreSQL renames no role that runs the session. The password comes last: a rename clears an MD5 one. It is a
/// verifier, which PostgreSQL stores as it is: a password that looks like one would be taken for one.
fn superuser(spec: &InstanceSpec) -> String {
    let username = spec.username.as_str();
    let name = escape_identifier(username);
    let verifier = escape_literal(&scram_sha_256(spec.password.expose().as_bytes()));
    let set_password = format!("ALTER ROLE {name} PASSWORD {verifier}");
    if username == SUPERUSER {
        return set_password;
    }
    let renamer = if username == "renamer" {
        "another_renamer"
    } else {
        "renamer"
    };
    format!(
        "CREATE ROLE {renamer} SUPERUSER; SET SESSION AUTHORIZATION {renamer}; ALTER ROLE {SUPERUSER} RENAME TO {name}; \
         RESET SESSION AUTHORIZATION; DROP ROLE {renamer}; {set_password}"
    )
}

/// Not the server's words alone: they don't say what was tried.
fn refused(error: &tokio_postgres::Error) -> EngineError {
    let reason = error.as_db_error().map_or_else(
        || error.to_string(),
        |answer| format!("{} (SQLSTATE {})", answer.message(), answer.code().code()),
    );
    EngineError::Request {
        verb: SETTING_UP,
        reason,
    }
}

fn hung_up() -> EngineError {
    EngineError::Request {
        verb: SETTING_UP,
        reason: "the server closed the connection".into(),
    }
}
