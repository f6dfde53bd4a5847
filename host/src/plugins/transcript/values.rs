//! The host's answers in JSON, and back: in the domain's words, whatever version of the WIT package the guest is made for.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{Failure, FailureCode};
use crate::instance::{EngineKind, Health, HealthReport, Instance, InvalidValue, Lifetime, Owner, Port, Status};
use crate::plugins::guest::Revealed;
use crate::policy::FieldError;
use crate::sql;

/// An answer of the host.
pub(in crate::plugins) trait Recorded: Sized {
    /// As it is written down.
    fn to_json(&self) -> Value;

    /// # Errors
    /// If it isn't such an answer: the reason.
    fn from_json(value: &Value) -> Result<Self, String>;
}

fn written(value: &impl Serialize) -> Value {
    // Structures of strings and numbers: JSON has them all.
    serde_json::to_value(value).unwrap_or_default()
}

fn read<T: for<'a> Deserialize<'a>>(value: &Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| error.to_string())
}

fn time(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text).map_err(|error| format!("{text:?} is no time: {error}"))
}

fn parsed<T: std::str::FromStr<Err = InvalidValue>>(field: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|InvalidValue(message)| format!("{field} {message}"))
}

fn named<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, text: &str) -> Result<T, String> {
    let found = all.iter().copied().find(|&one| name(one) == text);
    found.ok_or_else(|| format!("there is no {text:?}"))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceRecord {
    id: String,
    engine: String,
    container_id: String,
    host: String,
    port: u16,
    version: String,
    database: String,
    username: String,
    status: String,
    created_at: String,
    owner: Option<OwnerRecord>,
    /// "session", "unlimited" or a time.
    lifetime: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnerRecord {
    process: String,
    machine: String,
    process_id: u32,
    team: Option<String>,
    client: Option<String>,
}

impl From<&Instance> for InstanceRecord {
    fn from(instance: &Instance) -> Self {
        let owner = |owner: &Owner| OwnerRecord {
            process: owner.process.clone(),
            machine: owner.machine.clone(),
            process_id: owner.process_id,
            team: owner.team.as_ref().map(ToString::to_string),
            client: owner.client.clone(),
        };
        Self {
            id: instance.id.to_string(),
            engine: instance.engine.as_str().to_owned(),
            container_id: instance.container_id.clone(),
            host: instance.host.clone(),
            port: instance.port.get(),
            version: instance.version.clone(),
            database: instance.database.as_str().to_owned(),
            username: instance.username.as_str().to_owned(),
            status: instance.status.as_str().to_owned(),
            created_at: humantime::format_rfc3339_seconds(instance.created_at).to_string(),
            owner: instance.owner.as_ref().map(owner),
            lifetime: match instance.lifetime {
                Lifetime::Session => "session".into(),
                Lifetime::Unlimited => "unlimited".into(),
                Lifetime::Until(end) => humantime::format_rfc3339_seconds(end).to_string(),
            },
        }
    }
}

impl TryFrom<InstanceRecord> for Instance {
    type Error = String;

    fn try_from(record: InstanceRecord) -> Result<Self, String> {
        let owner = |owner: OwnerRecord| -> Result<Owner, String> {
            Ok(Owner {
                process: owner.process,
                machine: owner.machine,
                process_id: owner.process_id,
                // No guest is told.
                started_at: None,
                team: owner.team.map(|team| parsed("team", &team)).transpose()?,
                client: owner.client,
            })
        };
        Ok(Self {
            id: parsed("id", &record.id)?,
            engine: named(
                &[EngineKind::Docker, EngineKind::Local],
                EngineKind::as_str,
                &record.engine,
            )?,
            container_id: record.container_id,
            host: record.host,
            port: Port::try_from(record.port).map_err(|error| error.to_string())?,
            version: record.version,
            database: parsed("database", &record.database)?,
            username: parsed("username", &record.username)?,
            status: named(
                &[Status::Created, Status::Running, Status::Paused, Status::Stopped],
                Status::as_str,
                &record.status,
            )?,
            created_at: time(&record.created_at)?,
            owner: record.owner.map(owner).transpose()?,
            lifetime: match record.lifetime.as_str() {
                "session" => Lifetime::Session,
                "unlimited" => Lifetime::Unlimited,
                end => Lifetime::Until(time(end)?),
            },
        })
    }
}

impl Recorded for Instance {
    fn to_json(&self) -> Value {
        written(&InstanceRecord::from(self))
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        read::<InstanceRecord>(value)?.try_into()
    }
}

impl Recorded for Vec<Instance> {
    fn to_json(&self) -> Value {
        self.iter().map(Recorded::to_json).collect()
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        let items = value.as_array().ok_or("it is no list")?;
        items.iter().map(Recorded::from_json).collect()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectionRecord {
    instance: InstanceRecord,
    password: String,
    dsn: String,
}

impl From<&Revealed> for ConnectionRecord {
    fn from(revealed: &Revealed) -> Self {
        Self {
            instance: (&revealed.instance).into(),
            password: revealed.password.clone(),
            dsn: revealed.dsn.clone(),
        }
    }
}

impl TryFrom<ConnectionRecord> for Revealed {
    type Error = String;

    fn try_from(record: ConnectionRecord) -> Result<Self, String> {
        Ok(Self {
            instance: record.instance.try_into()?,
            password: record.password,
            dsn: record.dsn,
        })
    }
}

impl Recorded for Revealed {
    fn to_json(&self) -> Value {
        written(&ConnectionRecord::from(self))
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        read::<ConnectionRecord>(value)?.try_into()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreatedRecord {
    connection: ConnectionRecord,
    warnings: Vec<String>,
}

impl Recorded for (Revealed, Vec<String>) {
    fn to_json(&self) -> Value {
        let (connection, warnings) = self;
        written(&CreatedRecord {
            connection: connection.into(),
            warnings: warnings.clone(),
        })
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        let CreatedRecord { connection, warnings } = read(value)?;
        Ok((connection.try_into()?, warnings))
    }
}

impl Recorded for () {
    fn to_json(&self) -> Value {
        Value::Null
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        read(value)
    }
}

impl Recorded for u64 {
    fn to_json(&self) -> Value {
        (*self).into()
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        read(value)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthRecord {
    id: String,
    health: String,
    message: String,
    latency_micros: Option<u64>,
    checked_at: String,
}

impl Recorded for HealthReport {
    fn to_json(&self) -> Value {
        written(&HealthRecord {
            id: self.id.to_string(),
            health: self.health.as_str().to_owned(),
            message: self.message.clone(),
            latency_micros: self
                .latency
                .map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            checked_at: humantime::format_rfc3339_seconds(self.checked_at).to_string(),
        })
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        let record: HealthRecord = read(value)?;
        let all = [Health::Healthy, Health::Starting, Health::Unhealthy, Health::Stopped];
        Ok(Self {
            id: parsed("id", &record.id)?,
            health: named(&all, Health::as_str, &record.health)?,
            message: record.message,
            latency: record.latency_micros.map(Duration::from_micros),
            checked_at: time(&record.checked_at)?,
        })
    }
}

/// A value of SQL by its kind: `"null"`, `{"integer": 5}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SqlRecord {
    Null,
    Boolean(bool),
    Integer(i64),
    /// As text: JSON has neither NaN nor the infinities.
    Float(String),
    Text(String),
    Bytes(Vec<u8>),
    Json(String),
    Other(String),
}

impl From<&sql::Value> for SqlRecord {
    fn from(value: &sql::Value) -> Self {
        match value {
            sql::Value::Null => Self::Null,
            sql::Value::Boolean(value) => Self::Boolean(*value),
            sql::Value::Integer(value) => Self::Integer(*value),
            sql::Value::Float(value) => Self::Float(value.to_string()),
            sql::Value::Text(text) => Self::Text(text.clone()),
            sql::Value::Bytes(bytes) => Self::Bytes(bytes.clone()),
            sql::Value::Json(text) => Self::Json(text.clone()),
            sql::Value::Other(text) => Self::Other(text.clone()),
        }
    }
}

impl TryFrom<SqlRecord> for sql::Value {
    type Error = String;

    fn try_from(record: SqlRecord) -> Result<Self, String> {
        Ok(match record {
            SqlRecord::Null => Self::Null,
            SqlRecord::Boolean(value) => Self::Boolean(value),
            SqlRecord::Integer(value) => Self::Integer(value),
            SqlRecord::Float(text) => Self::Float(text.parse().map_err(|_| format!("{text:?} is no number"))?),
            SqlRecord::Text(text) => Self::Text(text),
            SqlRecord::Bytes(bytes) => Self::Bytes(bytes),
            SqlRecord::Json(text) => Self::Json(text),
            SqlRecord::Other(text) => Self::Other(text),
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableRecord {
    columns: Vec<ColumnRecord>,
    rows: Vec<Vec<SqlRecord>>,
    affected: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnRecord {
    name: String,
    type_name: String,
}

impl Recorded for sql::Table {
    fn to_json(&self) -> Value {
        let column = |column: &sql::Column| ColumnRecord {
            name: column.name.clone(),
            type_name: column.type_name.clone(),
        };
        written(&TableRecord {
            columns: self.columns.iter().map(column).collect(),
            rows: self
                .rows
                .iter()
                .map(|row| row.iter().map(Into::into).collect())
                .collect(),
            affected: self.affected,
        })
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        let record: TableRecord = read(value)?;
        let column = |column: ColumnRecord| sql::Column {
            name: column.name,
            type_name: column.type_name,
        };
        let row = |row: Vec<SqlRecord>| row.into_iter().map(TryInto::try_into).collect::<Result<_, _>>();
        Ok(Self {
            columns: record.columns.into_iter().map(column).collect(),
            rows: record.rows.into_iter().map(row).collect::<Result<_, String>>()?,
            affected: record.affected,
        })
    }
}

/// Parameters of a statement, as they are written down.
pub(in crate::plugins) fn sql_values(values: &[sql::Value]) -> Value {
    values.iter().map(|value| written(&SqlRecord::from(value))).collect()
}

/// A failure as MCP clients and the command line have it.
pub(super) fn failure_to_json(failure: &Failure) -> Value {
    failure.to_json()["error"].take()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailureRecord {
    code: String,
    message: String,
    advice: String,
    #[serde(default)]
    fields: Vec<FieldRecord>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldRecord {
    field: String,
    message: String,
}

pub(super) fn failure_from_json(value: &Value) -> Result<Failure, String> {
    let record: FailureRecord = read(value)?;
    let field = |FieldRecord { field, message }| FieldError { field, message };
    Ok(Failure {
        code: named(&FailureCode::ALL, FailureCode::as_str, &record.code)?,
        message: record.message,
        advice: record.advice,
        fields: record.fields.into_iter().map(field).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::InstanceId;

    fn assert_returns<T: Recorded>(value: &T) {
        let written = value.to_json();
        let read = T::from_json(&written).expect("it is read as it is written");
        assert_eq!(read.to_json(), written);
    }

    fn instance(lifetime: Lifetime) -> Instance {
        Instance {
            id: InstanceId::random(),
            engine: EngineKind::Docker,
            container_id: "c0ffee".into(),
            host: "127.0.0.1".into(),
            port: Port::try_from(15432).expect("a port"),
            version: "17".into(),
            database: "app".parse().expect("a name"),
            username: "me".parse().expect("a name"),
            status: Status::Paused,
            created_at: SystemTime::UNIX_EPOCH,
            owner: Some(Owner {
                process: "p".into(),
                machine: "m".into(),
                process_id: 7,
                started_at: None,
                team: Some("payments".parse().expect("a name")),
                client: None,
            }),
            lifetime,
        }
    }

    #[test]
    fn every_answer_is_read_as_it_is_written() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_mins(1);
        for lifetime in [Lifetime::Session, Lifetime::Unlimited, Lifetime::Until(end)] {
            let read = Instance::from_json(&instance(lifetime).to_json()).expect("an instance");
            assert_eq!((read.lifetime, read.status), (lifetime, Status::Paused));
        }
        let revealed = || Revealed {
            instance: instance(Lifetime::Session),
            password: "p".into(),
            dsn: "d".into(),
        };
        assert_returns(&revealed());
        assert_returns(&(revealed(), vec!["a warning".to_owned()]));
        assert_returns(&vec![instance(Lifetime::Session)]);
        assert_returns(&());
        assert_returns(&u64::MAX);
        assert_returns(&HealthReport {
            id: InstanceId::random(),
            health: Health::Starting,
            message: "not yet".into(),
            latency: Some(Duration::from_micros(7)),
            checked_at: SystemTime::UNIX_EPOCH,
        });
        let column = sql::Column {
            name: "a".into(),
            type_name: "int4".into(),
        };
        let row = vec![
            sql::Value::Null,
            sql::Value::Boolean(true),
            sql::Value::Integer(i64::MIN),
            sql::Value::Float(f64::NEG_INFINITY),
            sql::Value::Float(0.1),
            sql::Value::Text("t".into()),
            sql::Value::Bytes(vec![0, 255]),
            sql::Value::Json("{}".into()),
            sql::Value::Other("1.0".into()),
        ];
        let table = sql::Table {
            columns: vec![column],
            rows: vec![row],
            affected: 1,
        };
        assert_eq!(sql::Table::from_json(&table.to_json()).expect("a table"), table);
    }

    #[test]
    fn what_is_no_such_answer_is_told_with_the_reason() {
        let mut wrong = instance(Lifetime::Session).to_json();
        wrong["lifetime"] = "for ever".into();
        let reason = Instance::from_json(&wrong).expect_err("no time");
        assert!(reason.starts_with("\"for ever\" is no time"), "{reason}");
        wrong["status"] = "ill".into();
        assert_eq!(
            Instance::from_json(&wrong).expect_err("no status"),
            "there is no \"ill\""
        );
        assert!(u64::from_json(&"now".into()).is_err());
        assert!(failure_from_json(&serde_json::json!({ "code": "bad", "message": "", "advice": "" })).is_err());
    }
}
