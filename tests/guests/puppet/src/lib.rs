//! A tool bundle that does what its arguments say: it stands for any guest, good or hostile.
//!
//! Its tool takes a list of deeds and returns what came of each. Its settings say what it does when it is asked to check
//! them and to describe itself.

use std::hint::black_box;

use serde::Deserialize;
use serde_json::{Value, json};

use bindings::dev_postgres::plugin::types::{Connection, CreateRequest, Failure, FailureCode, FieldError, Instance};
use bindings::dev_postgres::plugin::{clock, instances, log, settings, sql};
use bindings::exports::dev_postgres::plugin::tools::{Guest, Hints, Tool};

#[allow(unsafe_code, reason = "generated from wit/0.2.0/plugin.wit")]
mod bindings {
    wit_bindgen::generate!({ path: "../../../wit/0.2.0", world: "tool-bundle" });
    export!(Puppet with_types_in self);
    use super::Puppet;
}

struct Puppet;

/// What the configuration says.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// The tool's name; `act` if there is none.
    tool: Option<String>,
    /// How many tools there are, all but the first with a number at the end.
    tools: Option<usize>,
    input_schema: Option<Value>,
    output_schema: Option<Value>,
    /// How many properties the input schema has.
    nodes: usize,
    /// What it does before it describes itself.
    describe: Vec<Deed>,
    /// What it does before it has checked its settings.
    check: Vec<Deed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Deed {
    // What any bundle may want to do.
    Create {
        version: Option<String>,
        database: Option<String>,
        username: Option<String>,
        password: Option<String>,
        ttl_seconds: Option<u64>,
    },
    /// Creates an instance and drops it in the same call.
    CreateAndDrop,
    List,
    Get {
        id: String,
    },
    Drop {
        id: String,
    },
    Health {
        id: String,
    },
    Extend {
        id: String,
        ttl_seconds: Option<u64>,
    },
    Now,
    Query {
        id: String,
        statement: String,
        #[serde(default)]
        parameters: Vec<Value>,
    },
    Execute {
        id: String,
        script: String,
    },
    Log {
        text: String,
        times: u32,
    },
    // What nobody should do.
    Trap,
    Spin,
    Recurse,
    Hoard,
    /// Calls a host function again and again.
    AskSettings {
        times: u32,
    },
    /// Asks for a list again and again.
    AskList {
        times: u32,
    },
    /// Logs the credentials of an instance.
    LogCredentials {
        id: String,
    },
    /// Fails with the credentials of an instance in all that a failure says.
    FailWithCredentials {
        id: String,
    },
    /// Asks for an instance whose password is the word that it got for another's.
    CreateLike {
        id: String,
    },
    /// Returns so many bytes.
    Return {
        bytes: usize,
    },
    /// Returns this.
    ReturnText {
        text: String,
    },
    ReturnInvalidUtf8,
    /// Fails with a message of so many bytes.
    Fail {
        bytes: usize,
    },
    /// Fails with this.
    FailAs {
        code: u8,
        message: String,
        advice: String,
        fields: Vec<(String, String)>,
    },
    /// Fails with so many fields.
    FailWithFields {
        fields: usize,
    },
}

enum End {
    Result(String),
    Failure(Failure),
}

fn failure(message: String) -> Failure {
    Failure {
        code: FailureCode::Failed,
        message,
        advice: String::new(),
        fields: Vec::new(),
    }
}

#[expect(unconditional_recursion, reason = "that is the deed")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    recurse(depth + 1) + frame[3]
}

fn hoard() {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(black_box(vec![1; 1 << 20]));
    }
}

fn instance(instance: &Instance) -> Value {
    json!({ "id": instance.id, "host": instance.host, "port": instance.port })
}

fn connection(connection: &Connection) -> Value {
    json!({
        "id": connection.instance.id,
        "password": connection.password,
        "dsn": connection.dsn,
        "seen": connection.password.len(),
    })
}

/// JSON's own types are SQL's; an array of numbers is bytes.
fn parameter(value: &Value) -> sql::Value {
    match value {
        Value::Null => sql::Value::Null,
        Value::Bool(value) => sql::Value::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => sql::Value::Integer(integer),
            None => sql::Value::Float(number.as_f64().expect("a number")),
        },
        Value::String(text) => sql::Value::Text(text.clone()),
        Value::Array(bytes) => {
            sql::Value::Bytes(bytes.iter().map(|byte| byte.as_u64().expect("a byte") as u8).collect())
        }
        Value::Object(_) => sql::Value::Json(value.to_string()),
    }
}

fn shown(value: &sql::Value) -> Value {
    match value {
        sql::Value::Null => json!("null"),
        sql::Value::Boolean(value) => json!({ "boolean": value }),
        sql::Value::Integer(value) => json!({ "integer": value }),
        sql::Value::Float(value) => json!({ "float": value }),
        sql::Value::Text(text) => json!({ "text": text }),
        sql::Value::Bytes(bytes) => json!({ "bytes": bytes }),
        sql::Value::Json(text) => json!({ "json": text }),
        sql::Value::Other(text) => json!({ "other": text }),
    }
}

/// Does one deed; its answer, or the end of the call.
fn act(deed: &Deed) -> Result<Result<Value, Failure>, End> {
    Ok(match deed {
        Deed::Create {
            version,
            database,
            username,
            password,
            ttl_seconds,
        } => {
            let request = CreateRequest {
                version: version.clone(),
                database: database.clone(),
                username: username.clone(),
                password: password.clone(),
                ttl_seconds: *ttl_seconds,
            };
            instances::create(&request).map(|created| connection(&created.connection))
        }
        Deed::CreateAndDrop => {
            let request = CreateRequest {
                version: None,
                database: None,
                username: None,
                password: None,
                ttl_seconds: None,
            };
            instances::create(&request)
                .and_then(|created| instances::drop(&created.connection.instance.id))
                .map(|()| json!("dropped"))
        }
        Deed::List => instances::list().map(|all| all.iter().map(instance).collect()),
        Deed::Get { id } => instances::get(id).map(|found| connection(&found)),
        Deed::Drop { id } => instances::drop(id).map(|()| json!("dropped")),
        Deed::Health { id } => instances::health(id).map(|report| json!(report.message)),
        Deed::Extend { id, ttl_seconds } => instances::extend(id, *ttl_seconds).map(|extended| instance(&extended)),
        Deed::Now => clock::now().map(|now| json!(now)),
        Deed::Query {
            id,
            statement,
            parameters,
        } => {
            let parameters: Vec<sql::Value> = parameters.iter().map(parameter).collect();
            sql::query(id, statement, &parameters).map(|table| {
                let columns = table
                    .columns
                    .iter()
                    .map(|column| json!([column.name, column.type_name]));
                let rows = table.rows.iter().map(|row| row.iter().map(shown).collect::<Value>());
                json!({
                    "columns": columns.collect::<Value>(),
                    "rows": rows.collect::<Value>(),
                    "affected": table.affected,
                })
            })
        }
        Deed::Execute { id, script } => sql::execute(id, script).map(|()| json!("executed")),
        Deed::Log { text, times } => {
            (0..*times).for_each(|_| log::write(log::Level::Warn, text));
            Ok(json!("logged"))
        }
        Deed::Trap => core::arch::wasm32::unreachable(),
        Deed::Spin => loop {
            black_box(());
        },
        Deed::Recurse => Ok(json!(recurse(0))),
        Deed::Hoard => {
            hoard();
            Ok(Value::Null)
        }
        Deed::AskSettings { times } => {
            (0..*times).for_each(|_| drop(settings::get()));
            Ok(json!("asked"))
        }
        Deed::AskList { times } => {
            (0..*times).for_each(|_| drop(instances::list()));
            Ok(json!("asked"))
        }
        Deed::LogCredentials { id } => instances::get(id).map(|found| {
            log::write(log::Level::Error, &format!("password: {}", found.password));
            log::write(log::Level::Error, &format!("dsn: {}", found.dsn));
            json!("logged")
        }),
        Deed::FailWithCredentials { id } => match instances::get(id) {
            Ok(found) => {
                return Err(End::Failure(Failure {
                    code: FailureCode::Failed,
                    message: found.dsn.clone(),
                    advice: found.password.clone(),
                    fields: vec![FieldError {
                        field: found.password,
                        message: found.dsn,
                    }],
                }));
            }
            Err(failure) => Err(failure),
        },
        Deed::CreateLike { id } => instances::get(id).and_then(|found| {
            let request = CreateRequest {
                version: None,
                database: None,
                username: None,
                password: Some(found.password),
                ttl_seconds: None,
            };
            instances::create(&request).map(|created| connection(&created.connection))
        }),
        Deed::Return { bytes } => return Err(End::Result("x".repeat(*bytes))),
        Deed::ReturnText { text } => return Err(End::Result(text.clone())),
        Deed::ReturnInvalidUtf8 => {
            // SAFETY: nothing here looks at it, and the host is to find out.
            let text = unsafe { String::from_utf8_unchecked(vec![b'"', 0xff, 0xfe, b'"']) };
            return Err(End::Result(text));
        }
        Deed::Fail { bytes } => return Err(End::Failure(failure("x".repeat(*bytes)))),
        Deed::FailAs {
            code,
            message,
            advice,
            fields,
        } => {
            let fields = fields.iter().map(|(field, message)| FieldError {
                field: field.clone(),
                message: message.clone(),
            });
            return Err(End::Failure(Failure {
                code: match code {
                    0 => FailureCode::InvalidArguments,
                    1 => FailureCode::Denied,
                    2 => FailureCode::NotFound,
                    3 => FailureCode::Exhausted,
                    4 => FailureCode::Unavailable,
                    5 => FailureCode::TimedOut,
                    6 => FailureCode::Failed,
                    _ => FailureCode::Internal,
                },
                message: message.clone(),
                advice: advice.clone(),
                fields: fields.collect(),
            }));
        }
        Deed::FailWithFields { fields } => {
            let field = || FieldError {
                field: String::new(),
                message: String::new(),
            };
            return Err(End::Failure(Failure {
                fields: (0..*fields).map(|_| field()).collect(),
                ..failure(String::new())
            }));
        }
    })
}

fn act_all(deeds: &[Deed]) -> Result<String, Failure> {
    let mut outcomes = Vec::new();
    for deed in deeds {
        match act(deed) {
            Ok(Ok(answer)) => outcomes.push(json!({ "done": answer })),
            Ok(Err(Failure {
                code, message, advice, ..
            })) => {
                outcomes.push(json!({ "failed": format!("{code:?}"), "message": message, "advice": advice }));
            }
            Err(End::Result(text)) => return Ok(text),
            Err(End::Failure(failure)) => return Err(failure),
        }
    }
    Ok(json!({ "outcomes": outcomes }).to_string())
}

fn its_settings() -> Settings {
    serde_json::from_str(&settings::get()).expect("settings that it knows")
}

impl Guest for Puppet {
    fn check_settings(text: String) -> Result<(), Vec<FieldError>> {
        let settings: Settings = serde_json::from_str(&text).map_err(|error| {
            vec![FieldError {
                field: "settings".into(),
                message: error.to_string(),
            }]
        })?;
        match act_all(&settings.check) {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.fields),
        }
    }

    fn describe() -> Vec<Tool> {
        let settings = its_settings();
        let _ = act_all(&settings.describe);
        let mut input_schema = settings.input_schema.unwrap_or(json!({ "type": "object" }));
        for node in 0..settings.nodes {
            input_schema["properties"][format!("p{node}")] = json!({});
        }
        let name = settings.tool.unwrap_or("act".into());
        (0..settings.tools.unwrap_or(1))
            .map(|number| Tool {
                name: if number == 0 {
                    name.clone()
                } else {
                    format!("{name}{number}")
                },
                title: "Act".into(),
                description: "Does what it is told.".into(),
                input_schema: input_schema.to_string(),
                output_schema: settings.output_schema.as_ref().map(ToString::to_string),
                hints: Hints {
                    read_only: false,
                    destructive: true,
                    idempotent: false,
                    open_world: false,
                },
            })
            .collect()
    }

    fn call(_name: String, arguments: String) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Arguments {
            deeds: Vec<Deed>,
        }
        let arguments: Arguments = serde_json::from_str(&arguments).map_err(|error| failure(error.to_string()))?;
        act_all(&arguments.deeds)
    }
}
