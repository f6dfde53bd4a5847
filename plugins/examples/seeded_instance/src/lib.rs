//! An example tool bundle: a PostgreSQL instance that has a team's data in it.
//!
//! Its one tool creates an instance, runs a script there, and counts the rows of a table to see that all is as it should
//! be. If it isn't, the call fails, and the host drops the instance.
//!
//! It needs the grants `create` and `sql`, and no `read-credentials`: the password and the DSN in its result are words
//! that the host fills in when the call has ended.
//!
//! ```sh
//! cargo build --release --target wasm32-unknown-unknown
//! ```
//!
//! ```toml
//! [[bundle]]
//! name = "seeded-instance"
//! component = "target/wasm32-unknown-unknown/release/seeded_instance.wasm"
//! grants = ["create", "sql"]
//! settings = { script = "CREATE TABLE t (n int); INSERT INTO t VALUES (1)", table = "t", rows = 1 }
//! ```

mod settings;

use serde::{Deserialize, Serialize};
use serde_json::json;

use bindings::dev_postgres::plugin::types::{CreateRequest, Failure, FailureCode, FieldError};
use bindings::dev_postgres::plugin::{instances, settings as host_settings, sql};
use bindings::exports::dev_postgres::plugin::tools::{Guest, Hints, Tool};
use settings::Settings;

#[allow(unsafe_code, reason = "generated from wit/0.2.0/plugin.wit")]
mod bindings {
    wit_bindgen::generate!({ path: "../../../wit/0.2.0", world: "tool-bundle" });

    // Linkers of other targets, where only the tests run, don't take a component's export names.
    #[cfg(target_arch = "wasm32")]
    export!(SeededInstance with_types_in self);
    #[cfg(target_arch = "wasm32")]
    use super::SeededInstance;
}

struct SeededInstance;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    version: Option<String>,
}

#[derive(Serialize)]
struct Seeded {
    id: String,
    table: String,
    rows: i64,
    password: String,
    dsn: String,
}

fn internal(message: impl Into<String>) -> Failure {
    Failure {
        code: FailureCode::Internal,
        message: message.into(),
        advice: String::new(),
        fields: Vec::new(),
    }
}

fn seed(arguments: Arguments, settings: Settings) -> Result<Seeded, Failure> {
    let created = instances::create(&CreateRequest {
        version: arguments.version,
        database: None,
        username: None,
        password: None,
        ttl_seconds: None,
    })?;
    let connection = created.connection;
    let id = connection.instance.id;
    sql::execute(&id, &settings.script)?;
    let counted = sql::query(&id, &settings.count(), &[])?;
    let rows = match counted.rows.first().and_then(|row| row.first()) {
        Some(sql::Value::Integer(rows)) => *rows,
        _ => return Err(internal("count(*) is no number")),
    };
    if rows != settings.rows {
        return Err(Failure {
            code: FailureCode::Failed,
            message: format!(
                "the table {:?} has {rows} rows and should have {}",
                settings.table, settings.rows
            ),
            advice: "Tell whoever keeps the settings of this bundle: script and count don't agree.".into(),
            fields: Vec::new(),
        });
    }
    Ok(Seeded {
        id,
        table: settings.table,
        rows,
        password: connection.password,
        dsn: connection.dsn,
    })
}

impl Guest for SeededInstance {
    fn check_settings(settings: String) -> Result<(), Vec<FieldError>> {
        let told = |(field, message): (&str, String)| {
            vec![FieldError {
                field: field.into(),
                message,
            }]
        };
        Settings::parse(&settings).map(drop).map_err(told)
    }

    fn describe() -> Vec<Tool> {
        let version = json!({
            "type": "string",
            "description": "PostgreSQL version, such as \"17\". Leave it out for this server's default.",
        });
        let input_schema = json!({
            "type": "object",
            "properties": { "version": version },
            "additionalProperties": false,
        });
        let text = |description: &str| json!({ "type": "string", "description": description });
        let output_schema = json!({
            "type": "object",
            "properties": {
                "id": text("The instance's id: pass it to the other tools."),
                "table": text("The table whose rows were counted."),
                "rows": { "type": "integer", "description": "How many rows it has." },
                "password": text("The user's password. A secret."),
                "dsn": text("Connection URI with the password in it. A secret."),
            },
            "required": ["id", "table", "rows", "password", "dsn"],
            "additionalProperties": false,
        });
        vec![Tool {
            name: "create_seeded_instance".into(),
            title: "Create a seeded PostgreSQL instance".into(),
            description:
                "Starts a throwaway PostgreSQL server that has this team's example data in it, and returns what \
                          it takes to connect. Use it instead of create_postgres_instance when a task needs data. Drop \
                          the instance with drop_postgres_instance when the work is done."
                    .into(),
            input_schema: input_schema.to_string(),
            output_schema: Some(output_schema.to_string()),
            hints: Hints {
                read_only: false,
                destructive: false,
                idempotent: false,
                open_world: false,
            },
        }]
    }

    fn call(_name: String, arguments: String) -> Result<String, Failure> {
        // The host has checked both before.
        let arguments = serde_json::from_str(&arguments).map_err(|_| internal("the arguments do not fit"))?;
        let settings = Settings::parse(&host_settings::get())
            .map_err(|(field, message)| internal(format!("{field} {message}")))?;
        let seeded = seed(arguments, settings)?;
        serde_json::to_string(&seeded).map_err(|error| internal(error.to_string()))
    }
}
