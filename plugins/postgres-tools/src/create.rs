//! `create_postgres_instance`: a fresh server, and everything it takes to connect to it.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::bindings::dev_postgres::plugin::instances;
use crate::bindings::dev_postgres::plugin::types::{CreateRequest, Failure};
use crate::bindings::exports::dev_postgres::plugin::tools::{Hints, Tool};
use crate::instance::{CreatedJson, created_schema};
use crate::{arguments, result, schema};

pub(crate) const NAME: &str = "create_postgres_instance";

const DESCRIPTION: &str = "\
Starts a throwaway PostgreSQL server (in a container, or without Docker as local processes) and returns once it answers \
queries. Use it whenever a task needs a real, empty PostgreSQL: running tests, trying a migration or a query, \
reproducing a bug. Every argument is optional. Returns the instance's id and all it takes to connect: `dsn`, a URI for psql and every driver, and host, \
port, database, username (a superuser) and password one by one. Takes a second or two, and longer the first time a \
version is used. The instance and its data go when drop_postgres_instance is called with its id, and at the latest when this MCP \
server ends; with `ttl_seconds` they go after that time instead, whatever becomes of the server, and \
extend_postgres_instance puts that off. Keep the id, and drop the instance when the work is done. `password` and `dsn` are secrets: keep them out of files under version control, logs and summaries.";

/// What the model may choose; the policy fills in the rest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    version: Option<String>,
    database: Option<String>,
    username: Option<String>,
    password: Option<String>,
    ttl_seconds: Option<u64>,
}

impl From<Arguments> for CreateRequest {
    fn from(arguments: Arguments) -> Self {
        Self {
            version: arguments.version,
            database: arguments.database,
            username: arguments.username,
            password: arguments.password,
            ttl_seconds: arguments.ttl_seconds,
        }
    }
}

pub(crate) fn describe() -> Tool {
    Tool {
        name: NAME.into(),
        title: "Create a PostgreSQL instance".into(),
        description: DESCRIPTION.into(),
        input_schema: input_schema().to_string(),
        output_schema: Some(created_schema().to_string()),
        hints: Hints {
            read_only: false,
            destructive: false,
            idempotent: false,
            // It may download an image, but only the operator's: what the model reaches is this host's instances.
            open_world: false,
        },
    }
}

/// What PostgreSQL asks of every name and password. The policy checks again, in bytes where JSON Schema counts
/// characters, and may ask for more; here the model learns of it before it calls.
fn input_schema() -> Value {
    let properties = schema::properties(json!({
        "version": {
            "type": "string",
            "pattern": r"^[1-9][0-9](\.(0|[1-9][0-9]?))?$",
            "description": "PostgreSQL major version from 10 on, such as \"17\", or major.minor, such as \"17.5\". Leave \
                            it out for this server's default.",
        },
        "database": {
            "type": "string",
            "minLength": 1,
            "maxLength": 63,
            "pattern": NO_NUL,
            "not": { "type": "string", "const": "template0" },
            "description": "Name of the database to create: any 1 to 63 bytes of text without NUL, but not template0. \
                            Default: postgres, or what this server's policy has.",
        },
        "username": {
            "type": "string",
            "minLength": 1,
            "maxLength": 63,
            "pattern": NO_NUL,
            "not": { "type": "string", "pattern": "^(pg_|(public|none)$)" },
            "description": "Name of the superuser to create: any 1 to 63 bytes of text without NUL, but neither public \
                            nor none nor starting with pg_. Default: postgres, or what this server's policy has.",
        },
        "password": {
            "type": "string",
            "minLength": 1,
            "maxLength": 1024,
            "pattern": NO_NUL,
            "description": "The user's password: any 1 to 1024 bytes of text without NUL. Leave it out to have a strong \
                            one generated.",
        },
        "ttl_seconds": schema::ttl_seconds(
            "How long the instance is to live, in seconds, 1 to what this server's policy allows (by default a week). \
             Leave it out for as long as this MCP server runs.",
        ),
    }));
    schema::object(
        "What to create; everything is optional.",
        properties,
        &["version", "database", "username", "password", "ttl_seconds"],
    )
}

const NO_NUL: &str = r"^[^\x00]*$";

pub(crate) fn call(arguments: &str) -> Result<String, Failure> {
    let arguments: Arguments = arguments::parse(arguments)?;
    let created = instances::create(&arguments.into())?;
    result::write(&CreatedJson::from(created))
}

#[cfg(test)]
mod tests {
    use crate::schema::tests::{assert_fits, fits, input_of};

    use super::*;

    fn assert_refused(arguments: &Value) {
        assert!(
            fits(&input_of(&describe()), arguments).is_err(),
            "{arguments} was taken"
        );
    }

    #[test]
    fn every_argument_is_optional_and_reaches_the_request_unchanged() {
        assert_fits(&input_of(&describe()), &json!({}));
        let request = CreateRequest::from(arguments::parse::<Arguments>("{}").expect("it fits"));
        assert!(request.version.is_none() && request.password.is_none());

        let nasty = json!({
            "version": "16.4",
            "database": "my-db \"x\" 'y'",
            "username": "us er%/@",
            "password": "p@ss:/w?rd#1 %41'\"\\\r\n\u{10ffff}",
            "ttl_seconds": 3600,
        });
        assert_fits(&input_of(&describe()), &nasty);
        let request = CreateRequest::from(arguments::parse::<Arguments>(&nasty.to_string()).expect("it fits"));
        for (field, value) in [
            ("version", request.version),
            ("database", request.database),
            ("username", request.username),
            ("password", request.password),
        ] {
            assert_eq!(value.as_deref(), nasty[field].as_str(), "{field}");
        }
        assert_eq!(request.ttl_seconds, Some(3600));
    }

    #[test]
    fn a_version_is_a_major_or_a_minor_from_10_on() {
        for version in ["10", "17", "99", "10.0", "16.4", "17.10"] {
            assert_fits(&input_of(&describe()), &json!({ "version": version }));
        }
        for version in [
            "",
            "9.6",
            "017",
            "100",
            "17.",
            "17.05",
            "17.100",
            "17.1.2",
            "17-alpine",
            "latest",
            " 17",
            "17\n",
            "１７",
        ] {
            assert_refused(&json!({ "version": version }));
        }
    }

    #[test]
    fn names_that_postgresql_keeps_for_itself_are_refused() {
        for username in ["pg_", "pg_x", "pg_\n", "public", "none"] {
            assert_refused(&json!({ "username": username }));
            assert_fits(&input_of(&describe()), &json!({ "database": username }));
        }
        assert_refused(&json!({ "database": "template0" }));
        for name in ["pg", "PG_x", "Public", "nones", "template1", "日本語", "\n", " "] {
            assert_fits(&input_of(&describe()), &json!({ "database": name, "username": name }));
        }
    }

    #[test]
    fn empty_overlong_and_nul_are_refused_as_are_wrong_types_and_unknown_fields() {
        for field in ["database", "username", "password"] {
            for value in [
                json!(""),
                json!("x".repeat(1025)),
                json!("a\0b"),
                json!(7),
                json!(null),
                json!(["a"]),
            ] {
                assert_refused(&json!({ field: value }));
            }
        }
        for seconds in [json!(0), json!(-1), json!(1.5), json!("1h"), json!(315_360_001)] {
            assert_refused(&json!({ "ttl_seconds": seconds }));
        }
        assert_refused(&json!({ "version": 17 }));
        assert_refused(&json!({ "port": 5432 }));
    }
}
