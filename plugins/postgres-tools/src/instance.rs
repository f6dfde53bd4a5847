//! What the tools say of an instance: the JSON, and the schema that describes it.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::bindings::dev_postgres::plugin::types::{Connection, Created, Engine, Instance, Lifetime, Owner, Status};
use crate::schema;

/// An instance without what opens it.
#[derive(Serialize)]
pub(crate) struct InstanceJson {
    id: String,
    engine: &'static str,
    container_id: String,
    host: String,
    port: u16,
    database: String,
    username: String,
    version: String,
    created_at: String,
    status: &'static str,
    lifetime: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<OwnerJson>,
}

/// Who made an instance.
#[derive(Serialize)]
struct OwnerJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    machine: String,
    process_id: u32,
}

impl From<Owner> for OwnerJson {
    fn from(owner: Owner) -> Self {
        Self {
            team: owner.team,
            client: owner.client,
            machine: owner.machine,
            process_id: owner.process_id,
        }
    }
}

impl From<Instance> for InstanceJson {
    fn from(instance: Instance) -> Self {
        let (lifetime, expires_at) = match instance.lifetime {
            Lifetime::Session => ("session", None),
            Lifetime::Until(end) => ("until", Some(end)),
            Lifetime::Unlimited => ("unlimited", None),
        };
        Self {
            id: instance.id,
            engine: match instance.engine {
                Engine::Docker => "docker",
                Engine::Local => "local",
            },
            container_id: instance.container_id,
            host: instance.host,
            port: instance.port,
            database: instance.database,
            username: instance.username,
            version: instance.version,
            created_at: instance.created_at,
            status: match instance.status {
                Status::Created => "created",
                Status::Running => "running",
                Status::Paused => "paused",
                Status::Stopped => "stopped",
            },
            lifetime,
            expires_at,
            owner: instance.owner.map(Into::into),
        }
    }
}

/// An instance with what opens it.
#[derive(Serialize)]
pub(crate) struct ConnectionJson {
    #[serde(flatten)]
    instance: InstanceJson,
    password: String,
    dsn: String,
}

impl From<Connection> for ConnectionJson {
    fn from(connection: Connection) -> Self {
        Self {
            instance: connection.instance.into(),
            password: connection.password,
            dsn: connection.dsn,
        }
    }
}

/// A new instance, and what whoever asked for it should know.
#[derive(Serialize)]
pub(crate) struct CreatedJson {
    #[serde(flatten)]
    connection: ConnectionJson,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl From<Created> for CreatedJson {
    fn from(created: Created) -> Self {
        Self {
            connection: created.connection.into(),
            warnings: created.warnings,
        }
    }
}

/// What not every instance has.
const OPTIONAL: [&str; 2] = ["expires_at", "owner"];

/// The schema of [`InstanceJson`].
pub(crate) fn instance_schema() -> Value {
    schema::object(
        "A PostgreSQL instance, without its password and DSN.",
        instance_properties(),
        &OPTIONAL,
    )
}

/// The schema of [`ConnectionJson`].
pub(crate) fn connection_schema() -> Value {
    schema::object(
        "A PostgreSQL instance with what it takes to connect.",
        connection_properties(),
        &OPTIONAL,
    )
}

/// The schema of [`CreatedJson`].
pub(crate) fn created_schema() -> Value {
    let mut properties = connection_properties();
    properties.insert(
        "warnings".into(),
        json!({
            "type": "array",
            "description": "What is not quite as asked for or configured, one sentence each; absent if there is nothing.",
            "items": { "type": "string", "description": "One sentence." },
        }),
    );
    schema::object(
        "A new PostgreSQL instance with what it takes to connect.",
        properties,
        &[&OPTIONAL[..], &["warnings"]].concat(),
    )
}

fn connection_properties() -> Map<String, Value> {
    let mut properties = instance_properties();
    properties.insert(
        "password".into(),
        json!({ "type": "string", "description": "The user's password. A secret." }),
    );
    properties.insert(
        "dsn".into(),
        json!({
            "type": "string",
            "description": "Connection URI (postgresql://…) with the password in it, percent-encoded: pass it to psql or \
                            to a driver as it is. A secret.",
        }),
    );
    properties
}

fn instance_properties() -> Map<String, Value> {
    schema::properties(json!({
        "id": schema::instance_id("The instance's id: pass it to the other tools."),
        "engine": {
            "type": "string",
            "enum": ["docker", "local"],
            "description": "What runs the server: a Docker container, or the machine of this MCP server itself.",
        },
        "container_id": {
            "type": "string",
            "description": "Full id of the container that runs the server; empty if there is none.",
        },
        "host": {
            "type": "string",
            "description": "Host name or IP address to connect to; IPv6 without brackets.",
        },
        "port": {
            "type": "integer",
            "minimum": 1,
            "maximum": 65535,
            "description": "TCP port to connect to.",
        },
        "database": { "type": "string", "description": "Name of the database." },
        "username": { "type": "string", "description": "Name of the user, who is a superuser." },
        "version": {
            "type": "string",
            "description": "PostgreSQL version, as it was asked for: \"17\", \"16.4\".",
        },
        "created_at": schema::time("When the instance was created."),
        "status": {
            "type": "string",
            "enum": ["created", "running", "paused", "stopped"],
            "description": "What the server's processes do. Whether it answers is health_check_postgres's to tell.",
        },
        "lifetime": {
            "type": "string",
            "enum": ["session", "until", "unlimited"],
            "description": "How long it stays if nobody drops it: session, as long as the MCP server that made it runs; \
                            until expires_at; unlimited.",
        },
        "expires_at": schema::time("When it goes, where its lifetime is until."),
        "owner": {
            "type": "object",
            "description": "Who made it, where that is known.",
            "properties": {
                "team": { "type": "string", "description": "The team that the MCP server was started for." },
                "client": { "type": "string", "description": "The MCP client; left out for the command line." },
                "machine": { "type": "string", "description": "The machine that it ran on." },
                "process_id": { "type": "integer", "description": "Its process there." },
            },
            "required": ["machine", "process_id"],
            "additionalProperties": false,
        },
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn instance() -> Instance {
        Instance {
            id: "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21".into(),
            engine: Engine::Docker,
            container_id: "4f5e".into(),
            host: "127.0.0.1".into(),
            port: 15432,
            version: "17".into(),
            database: "my-db \"x\" 'y'".into(),
            username: "us er%/@".into(),
            status: Status::Running,
            created_at: "2026-11-22T17:40:32Z".into(),
            owner: Some(Owner {
                team: Some("payments".into()),
                client: Some("claude-code".into()),
                machine: "laptop".into(),
                process_id: 4711,
            }),
            lifetime: Lifetime::Until("2026-11-22T18:40:32Z".into()),
        }
    }

    pub(crate) fn connection() -> Connection {
        Connection {
            instance: instance(),
            password: "s3cret\"\\".into(),
            dsn: "postgresql://…".into(),
        }
    }

    #[test]
    fn a_connection_is_one_flat_object() {
        let json = serde_json::to_value(ConnectionJson::from(connection())).expect("JSON");
        assert_eq!(
            json,
            json!({
                "id": "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21",
                "engine": "docker",
                "container_id": "4f5e",
                "host": "127.0.0.1",
                "port": 15432,
                "database": "my-db \"x\" 'y'",
                "username": "us er%/@",
                "version": "17",
                "created_at": "2026-11-22T17:40:32Z",
                "status": "running",
                "lifetime": "until",
                "expires_at": "2026-11-22T18:40:32Z",
                "owner": { "team": "payments", "client": "claude-code", "machine": "laptop", "process_id": 4711 },
                "password": "s3cret\"\\",
                "dsn": "postgresql://…",
            })
        );
        schema::tests::assert_fits(&connection_schema(), &json);
    }

    #[test]
    fn warnings_are_there_if_there_are_any() {
        for warnings in [vec![], vec!["One.".to_owned(), "Two.".to_owned()]] {
            let created = Created {
                connection: connection(),
                warnings: warnings.clone(),
            };
            let json = serde_json::to_value(CreatedJson::from(created)).expect("JSON");
            schema::tests::assert_fits(&created_schema(), &json);
            assert_eq!(json.get("warnings").is_some(), !warnings.is_empty(), "{json}");
            schema::tests::assert_fits(
                &connection_schema(),
                &serde_json::to_value(ConnectionJson::from(connection())).expect("JSON"),
            );
        }
    }

    #[test]
    fn an_instance_has_neither_password_nor_dsn() {
        let json = serde_json::to_value(InstanceJson::from(instance())).expect("JSON");
        schema::tests::assert_fits(&instance_schema(), &json);
        assert!(json.get("password").is_none() && json.get("dsn").is_none());
    }

    #[test]
    fn every_status_is_one_that_the_schema_knows() {
        for status in [Status::Created, Status::Running, Status::Paused, Status::Stopped] {
            let json = serde_json::to_value(InstanceJson::from(Instance { status, ..instance() })).expect("JSON");
            schema::tests::assert_fits(&instance_schema(), &json);
        }
    }
}
