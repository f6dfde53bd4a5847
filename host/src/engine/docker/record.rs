//! What an instance is called whose container was started ahead: a file in the container, since labels can't be changed.
//! PostgreSQL itself writes it, in the session that gives the instance its names; Docker hands it out.

use std::io::Read as _;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::client::{CallError, Client};
use super::container;
use crate::engine::EngineError;
use crate::instance::{DatabaseName, Found, Password, RoleName};

/// Where it is; PostgreSQL may write nowhere but in the data directory.
pub(super) const PATH: &str = "/dev-postgres-mcp/data/dev-postgres-mcp.json";
/// The longest that is read, with what an archive adds, in bytes: ours have 9,000 at most.
const ARCHIVE_BYTES_MAX: usize = 64 << 10;

/// What is written there.
#[derive(Serialize, Deserialize)]
struct Written {
    database: String,
    username: String,
    password: String,
    created_at: String,
    client: Option<String>,
}

/// What a label would say.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) database: DatabaseName,
    pub(super) username: RoleName,
    pub(super) password: Password,
    pub(super) created_at: SystemTime,
    pub(super) client: Option<String>,
}

impl Record {
    pub(super) fn of(found: &Found) -> Self {
        Self {
            database: found.instance.database.clone(),
            username: found.instance.username.clone(),
            password: found.password.clone(),
            created_at: found.instance.created_at,
            client: found.instance.owner.as_ref().and_then(|owner| owner.client.clone()),
        }
    }

    /// As JSON, on one line.
    pub(super) fn to_json(&self) -> Result<String, EngineError> {
        serde_json::to_string(&Written {
            database: self.database.as_str().to_owned(),
            username: self.username.as_str().to_owned(),
            password: self.password.expose().to_owned(),
            created_at: humantime::format_rfc3339_seconds(self.created_at).to_string(),
            client: self.client.clone(),
        })
        .map_err(|error| EngineError::Request {
            verb: "writing down the instance",
            reason: error.to_string(),
        })
    }

    /// Whoever may run SQL there as a superuser may have written it: whatever doesn't fit is an error.
    fn parse(text: &[u8]) -> Result<Self, String> {
        fn wrong(field: &str) -> impl FnOnce(&dyn std::fmt::Display) -> String + '_ {
            move |error| format!("its {field} {error}")
        }
        // Not the parser's own words: they may quote the password.
        let written: Written = serde_json::from_slice(text)
            .map_err(|error| format!("it makes no sense at line {} column {}", error.line(), error.column()))?;
        Ok(Self {
            database: written.database.parse().map_err(|error| wrong("database")(&error))?,
            username: written.username.parse().map_err(|error| wrong("username")(&error))?,
            password: Password::new(written.password).map_err(|error| wrong("password")(&error))?,
            created_at: humantime::parse_rfc3339(&written.created_at).map_err(|error| wrong("created_at")(&error))?,
            client: written.client,
        })
    }
}

/// Reads a container's, running or not; the inner error if what is there makes no sense.
pub(super) async fn read(client: &Client, container_id: &str) -> Result<Result<Record, String>, CallError> {
    let verb = "reading the instance back";
    let unfit = |reason: &str| Ok(Err(format!("{PATH}: {reason}")));
    let archive = match container::download(client, verb, container_id, PATH, ARCHIVE_BYTES_MAX).await {
        Ok(archive) => archive,
        Err(CallError::Refused {
            status: 404, message, ..
        }) if !message.to_lowercase().contains("no such container") => return unfit("it is not there"),
        Err(error) => return Err(error),
    };
    match only_file(&archive) {
        Some(text) => Ok(Record::parse(&text).map_err(|reason| format!("{PATH}: {reason}"))),
        None => unfit("it is no plain file"),
    }
}

fn only_file(archive: &[u8]) -> Option<Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    if !entry.header().entry_type().is_file() {
        return None;
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn record() -> Record {
        Record {
            database: "my \"db\" ünï".parse().expect("a database name"),
            username: "o'neil\\".parse().expect("a role name"),
            password: Password::new("planted\n\u{1}\u{2}\"secret").expect("a password"),
            created_at: UNIX_EPOCH + Duration::from_secs(1_795_000_000),
            client: Some("claude \"code\"".into()),
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_needs_no_quoting_in_the_file() {
        let text = record().to_json().expect("JSON");
        assert!(!text.contains(['\n', '\r', '\u{1}', '\u{2}']), "{text}");
        let read = Record::parse(text.as_bytes()).expect("a record");
        assert_eq!(read.database, record().database);
        assert_eq!(read.username, record().username);
        assert_eq!(read.password.expose(), record().password.expose());
        assert_eq!((read.created_at, read.client), (record().created_at, record().client));
    }

    #[test]
    fn what_makes_no_sense_is_said_without_quoting_it() {
        let sound: serde_json::Value = serde_json::from_str(&record().to_json().expect("JSON")).expect("JSON");
        for (field, value) in [
            ("database", ""),
            ("username", "pg_x"),
            ("password", ""),
            ("created_at", "planted"),
        ] {
            let mut damaged = sound.clone();
            damaged[field] = value.into();
            let error = Record::parse(damaged.to_string().as_bytes()).expect_err(field);
            assert!(error.starts_with(&format!("its {field} ")), "{error}");
        }
        let error = Record::parse(b"{\"password\": \"planted\", 7}").expect_err("no JSON");
        assert!(!error.contains("planted"), "{error}");
    }

    #[test]
    fn only_a_plain_file_is_read() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive
            .append_link(&mut header, "dev-postgres-mcp.json", "/etc/passwd")
            .expect("a link");
        assert!(only_file(&archive.into_inner().expect("an archive")).is_none());
        assert!(only_file(b"").is_none());
    }
}
