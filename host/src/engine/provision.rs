//! Gives a server that was started on a copied data directory the names and the password that were asked for: over the
//! network like any client, as a superuser whose password nobody else knows.

use std::fmt;
use std::time::Duration;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;
use rand::distr::{Alphanumeric, SampleString};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use super::EngineError;
use crate::failpoint;
use crate::instance::{InstanceSpec, Password, Port};

/// The superuser that a data directory to copy has.
pub(super) const SUPERUSER: &str = "postgres";
/// The pause between attempts to connect to a server that starts; one takes less than that.
const PAUSE: Duration = Duration::from_millis(3);
const SETTING_UP: &str = "setting up the instance's database and superuser";

/// The first major version whose `CREATE DATABASE` takes a strategy.
const FIRST_WITH_STRATEGIES: u32 = 15;
/// The database that a server which waits has for whoever asks for one: to rename it takes a hundredth of the time that it
/// takes to make it.
const SPARE: &str = "dev-postgres-mcp-spare";
/// The databases that a fresh data directory has.
const DATABASES: [&str; 2] = ["postgres", "template1"];

/// Where the server listens, and the password that its superuser has from the data directory that was copied.
pub(super) struct Copied<'a> {
    pub(super) host: &'a str,
    pub(super) port: Port,
    pub(super) password: &'a Password,
}

/// Waits until the server takes connections, and makes it what `spec` describes or, if it `waits`, leaves it waiting to
/// become that: then the session stays. Each step has `deadline`.
pub(super) async fn provision(
    copied: Copied<'_>,
    spec: &InstanceSpec,
    waits: bool,
    deadline: Duration,
) -> Result<Option<Session>, EngineError> {
    let mut session = Session::open(copied, deadline).await?;
    if !waits {
        failpoint::around("setting up the instance", session.set_up(spec, deadline)).await?;
        return Ok(None);
    }
    failpoint::around("setting up a server ahead", session.set_up_ahead(spec, deadline)).await?;
    Ok(Some(session))
}

/// A superuser's connection to a server that was started on a copied data directory, until the server is somebody's.
pub(super) struct Session {
    client: Client,
    connection: JoinHandle<()>,
    /// Cancelled when the connection ends.
    lost: CancellationToken,
    /// Whether the server takes a strategy for copying a database.
    has_strategies: bool,
    /// Whether it has [`SPARE`].
    has_spare: bool,
}

impl Session {
    /// Waits until the server takes connections, for as long as `deadline`.
    #[tracing::instrument(level = "debug", name = "connect", skip_all)]
    async fn open(copied: Copied<'_>, deadline: Duration) -> Result<Self, EngineError> {
        let late = Instant::now() + deadline;
        let mut last = None;
        loop {
            match timeout_at(late, connect(&copied)).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(Setback::Final(error))) => return Err(error),
                // Nothing listens yet, or a proxy in front of nothing.
                Ok(Err(Setback::NotYet(error))) => last = Some(error),
                Err(_) => return Err(last.unwrap_or(late_by(deadline))),
            }
            sleep(PAUSE).await;
        }
    }

    /// Makes the database, names the superuser and gives it its password, within `deadline`.
    #[tracing::instrument(level = "debug", name = "set up", skip_all)]
    async fn set_up(self, spec: &InstanceSpec, deadline: Duration) -> Result<(), EngineError> {
        within(deadline, async {
            let database = spec.database.as_str();
            if !DATABASES.contains(&database) {
                self.run(&format!("CREATE DATABASE {}", escape_identifier(database)))
                    .await?;
            }
            self.run(&superuser(spec)).await?;
            self.close().await;
            Ok(())
        })
        .await
    }

    /// Does ahead what can be done for an instance that is asked for like `spec`, and gives the superuser a password that
    /// nobody knows, within `deadline`.
    #[tracing::instrument(level = "debug", name = "set up ahead", skip_all)]
    async fn set_up_ahead(&mut self, spec: &InstanceSpec, deadline: Duration) -> Result<(), EngineError> {
        self.has_spare = needs_database(spec);
        within(deadline, async {
            let unknown = Alphanumeric.sample_string(&mut rand::rng(), 32);
            let verifier = escape_literal(&scram_sha_256(unknown.as_bytes()));
            self.run(&format!("ALTER ROLE {SUPERUSER} PASSWORD {verifier}")).await?;
            if self.has_spare {
                self.create_database(SPARE).await?;
            }
            // A rehearsal, for what is slow only the first time: to read the catalogs, and to write to files that are still
            // the image's.
            self.run(&format!("BEGIN; {}; ROLLBACK", self.assignment(spec))).await
        })
        .await
    }

    /// As [`Session::set_up`], of a server that was set up ahead. The server itself writes `note` to its path.
    #[tracing::instrument(level = "debug", name = "assign", skip_all)]
    pub(super) async fn assign(
        &self,
        spec: &InstanceSpec,
        note: Option<Note<'_>>,
        deadline: Duration,
    ) -> Result<(), EngineError> {
        let mut work = self.assignment(spec);
        if let Some(Note { path, text }) = note {
            let (path, text) = (escape_literal(path), escape_literal(text));
            // Neither a quote nor a delimiter is in a JSON text, so it is written as it is.
            let form = r"FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02', ENCODING 'UTF8'";
            work = format!("{work}; COPY (SELECT {text}) TO {path} ({form})");
        }
        let assigned = within(deadline, async {
            if needs_database(spec) && !self.has_spare {
                self.create_database(spec.database.as_str()).await?;
            }
            self.run(&work).await
        });
        failpoint::around("assigning a server", assigned).await
    }

    /// What makes a server that waits the one that `spec` describes, as far as one transaction can.
    fn assignment(&self, spec: &InstanceSpec) -> String {
        let mut work = String::new();
        if self.has_spare && needs_database(spec) && spec.database.as_str() != SPARE {
            let (spare, database) = (escape_identifier(SPARE), escape_identifier(spec.database.as_str()));
            work = format!("ALTER DATABASE {spare} RENAME TO {database}; ");
        }
        work + &superuser(spec)
    }

    /// Removes what was made ahead and isn't wanted, and ends the session; the last of it, within `deadline`.
    #[tracing::instrument(level = "debug", name = "leave", skip_all)]
    pub(super) async fn leave(self, spec: &InstanceSpec, deadline: Duration) -> Result<(), EngineError> {
        within(deadline, async {
            if self.has_spare && !needs_database(spec) {
                self.run(&format!("DROP DATABASE {}", escape_identifier(SPARE))).await?;
            }
            self.close().await;
            Ok(())
        })
        .await
    }

    async fn create_database(&self, name: &str) -> Result<(), EngineError> {
        // The other strategy writes to each file of the one that it copies, and a container's file system copies each of
        // them first, with an fsync: 1 s instead of 0.1.
        let strategy = if self.has_strategies { " STRATEGY file_copy" } else { "" };
        self.run(&format!("CREATE DATABASE {}{strategy}", escape_identifier(name)))
            .await
    }

    /// Cancelled when the server hangs up.
    pub(super) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    async fn run(&self, statements: &str) -> Result<(), EngineError> {
        self.client
            .batch_execute(statements)
            .await
            .map_err(|error| refused(&error))
    }

    async fn close(self) {
        drop(self.client);
        let _ = self.connection.await;
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// A text that a server writes to a file of its own.
pub(super) struct Note<'a> {
    /// An absolute path on the server's side.
    pub(super) path: &'a str,
    /// A JSON text.
    pub(super) text: &'a str,
}

async fn within<T>(deadline: Duration, work: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
    timeout(deadline, work).await.unwrap_or_else(|_| Err(late_by(deadline)))
}

fn late_by(deadline: Duration) -> EngineError {
    EngineError::TimedOut {
        verb: SETTING_UP,
        after: deadline,
    }
}

/// Why an attempt came to nothing.
enum Setback {
    /// The server doesn't take connections yet.
    NotYet(EngineError),
    Final(EngineError),
}

async fn connect(copied: &Copied<'_>) -> Result<Session, Setback> {
    let (client, connection) = tokio_postgres::Config::new()
        .host(copied.host)
        .port(copied.port.get())
        .user(SUPERUSER)
        .password(copied.password.expose())
        .dbname("postgres")
        .application_name(env!("CARGO_PKG_NAME"))
        // Statements have passwords in them and are not to be logged, whatever the image's settings are.
        .options(
            "-c log_statement=none -c log_min_duration_statement=-1 -c log_duration=off \
             -c log_min_error_statement=panic",
        )
        .connect(NoTls)
        .await
        .map_err(|error| match error.code() {
            Some(code) if *code != SqlState::CANNOT_CONNECT_NOW => Setback::Final(refused(&error)),
            _ => Setback::NotYet(refused(&error)),
        })?;
    let has_strategies = connection
        .parameter("server_version")
        .is_some_and(|version| major(version) >= FIRST_WITH_STRATEGIES);
    let lost = CancellationToken::new();
    let told = lost.clone().drop_guard();
    let connection = tokio::spawn(async move {
        let _told = told;
        if let Err(error) = connection.await {
            tracing::debug!(error = ?error.to_string(), "a server hung up while it was set up");
        }
    });
    Ok(Session {
        client,
        connection,
        lost,
        has_strategies,
        has_spare: false,
    })
}

/// The number that a version begins with: 18 of "18beta1".
fn major(version: &str) -> u32 {
    let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..end].parse().unwrap_or_default()
}

/// Whether a fresh data directory lacks the database.
fn needs_database(spec: &InstanceSpec) -> bool {
    !DATABASES.contains(&spec.database.as_str())
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

#[cfg(test)]
pub(super) mod fake {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// A session with a server that greets and then says nothing; it is lost when the other end goes.
    pub(in crate::engine) async fn session() -> (Session, DuplexStream) {
        let (ours, mut theirs) = duplex(4096);
        let greeting = async {
            // The startup message, whatever it says.
            let _ = theirs.read(&mut [0; 1024]).await;
            // AuthenticationOk, ReadyForQuery in no transaction.
            let welcome = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
            theirs.write_all(welcome).await.expect("the client reads");
        };
        let mut config = tokio_postgres::Config::new();
        let (connected, ()) = tokio::join!(config.user("u").connect_raw(ours, NoTls), greeting);
        let (client, connection) = connected.expect("a session");
        let lost = CancellationToken::new();
        let told = lost.clone().drop_guard();
        let connection = tokio::spawn(async move {
            let _told = told;
            let _ = connection.await;
        });
        let session = Session {
            client,
            connection,
            lost,
            has_strategies: false,
            has_spare: false,
        };
        (session, theirs)
    }
}
