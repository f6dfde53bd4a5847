//! Gives a copied data directory the names and the password that were asked for, over the network like any client, as a
//! superuser whose password nobody else knows.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;
use tokio_postgres::NoTls;

use super::instance_dir::HOST;
use super::template::SUPERUSER;
use crate::engine::EngineError;
use crate::instance::{InstanceSpec, Password, Port};

/// The databases that a fresh data directory has.
const DATABASES: [&str; 2] = ["postgres", "template1"];

/// Makes the database, then names the superuser and gives it its password.
pub(super) async fn provision(port: Port, template: &Password, spec: &InstanceSpec) -> Result<(), EngineError> {
    let (client, connection) = tokio_postgres::Config::new()
        .host(HOST)
        .port(port.get())
        .user(SUPERUSER)
        .password(template.expose())
        .dbname("postgres")
        .application_name(env!("CARGO_PKG_NAME"))
        .connect(NoTls)
        .await
        .map_err(|error| refused(&error))?;
    let work = async {
        let database = spec.database.as_str();
        if !DATABASES.contains(&database) {
            let create = format!("CREATE DATABASE {}", escape_identifier(database));
            client.batch_execute(&create).await?;
        }
        client.batch_execute(&superuser(spec)).await
    };
    tokio::select! {
        done = work => done.map_err(|error| refused(&error)),
        end = connection => Err(end.err().map_or_else(hung_up, |error| refused(&error))),
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
        verb: "setting up the instance's database and superuser",
        reason,
    }
}

fn hung_up() -> EngineError {
    EngineError::Request {
        verb: "setting up the instance's database and superuser",
        reason: "the server closed the connection".into(),
    }
}
