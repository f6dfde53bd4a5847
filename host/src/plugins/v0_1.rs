//! WIT version 0.1: the generated bindings, what a guest's imports do, and the WIT ↔ domain conversion.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rand::TryRng;
use secrecy::{ExposeSecret, SecretString};
use wasmtime::ResourceLimiter;

use super::budget::{Budget, Overrun};
use super::credentials::Placeholders;
use super::grants::{Grant, Grants};
use super::{Loaded, TICK};
use crate::failure::{Failure, FailureCode};
use crate::instance::{
    Caller, Connection, ConnectionUri, CreateRequest, EngineKind, Found, Health, HealthReport, Image, Instance,
    InstanceId, InstanceSpec, InvalidValue, Limits, Password, ProgressSink, Status,
};
use crate::manager::{InstanceError, InstanceManager, NewInstance};
use crate::policy::{Action, FieldError, Rejection};
use crate::sql;

pub(super) mod bundle {
    //! The bindings of the world `tool-bundle`.
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "tool-bundle",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

pub(super) mod policy {
    //! The bindings of the world `policy`; what both worlds have is taken from the other's.
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "policy",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "dev-postgres:plugin/types": super::bundle::dev_postgres::plugin::types,
            "dev-postgres:plugin/settings": super::bundle::dev_postgres::plugin::settings,
            "dev-postgres:plugin/log": super::bundle::dev_postgres::plugin::log,
        },
    });
}

use bundle::dev_postgres::plugin::{clock, instances, log, settings, sql as wit_sql, types};
use policy::dev_postgres::plugin::random;
use policy::exports::dev_postgres::plugin::rules;

/// The most randomness that one call gives.
const RANDOM_BYTES_MAX: u32 = 1024;

/// What a line of log costs beyond its text: time, level, names. An empty one isn't free.
const LOG_LINE_BYTES: usize = 128;
/// What an instance or a report of one has in all, about.
const INSTANCE_BYTES: usize = 512;
/// How many core instances, and as many tables, one component may consist of; those of Rust have four, of Python forty.
const INSTANCES_MAX: usize = 200;
/// How many memories one component may have.
const MEMORIES_MAX: usize = 20;
/// What one element of a table takes in the host, in bytes.
const TABLE_ELEMENT_BYTES: usize = 16;

/// What the host knows of one call into a guest.
pub(super) struct Guest {
    pub(super) meter: Meter,
    name: Arc<str>,
    settings: Arc<str>,
    grants: Grants,
    budget: Budget,
    /// What is left of the budget.
    left: Budget,
    /// How many more ticks it may compute.
    pub(super) ticks_left: u128,
    /// How long it has waited for the host, as far as that was taken for computing and is not made good yet.
    waited: Duration,
    /// What the host has met in this call and must not reach the log; nothing twice.
    secrets: Vec<SecretString>,
    placeholders: Placeholders,
    /// What stands for the password and the connection URI of each instance that it was told of.
    ///
    /// By instance: one word for equal passwords would tell a guest whether it has guessed one.
    stand_ins: HashMap<InstanceId, [String; 2]>,
    tool_call: Option<ToolCall>,
}

/// On whose behalf a bundle acts in one call, and what it has made there.
#[derive(Debug)]
pub(super) struct ToolCall {
    pub(super) manager: InstanceManager,
    pub(super) caller: Caller,
    pub(super) progress: ProgressSink,
    /// Dropped with the call unless the call succeeds.
    pub(super) created: Vec<NewInstance>,
}

impl Guest {
    pub(super) fn new(loaded: &Loaded, grants: Grants, tool_call: Option<ToolCall>) -> Self {
        Self {
            meter: Meter::new(loaded.budget),
            name: Arc::clone(&loaded.name),
            settings: Arc::clone(&loaded.settings),
            grants,
            budget: loaded.budget,
            left: loaded.budget,
            ticks_left: loaded.budget.cpu.as_millis() / TICK.as_millis(),
            waited: Duration::ZERO,
            secrets: Vec::new(),
            placeholders: Placeholders::default(),
            stand_ins: HashMap::new(),
            tool_call,
        }
    }

    /// Keeps `secret` out of the log.
    pub(super) fn hide(&mut self, secret: &str) {
        let is_known = self.secrets.iter().any(|known| known.expose_secret() == secret);
        if !secret.is_empty() && !is_known {
            self.secrets.push(secret.into());
        }
    }

    /// Gives back what waiting for the host costs of the time for computing: the clock of that goes on, and the guest is
    /// interrupted once, at its next step, if it has ticked meanwhile.
    fn make_good(&mut self, waited: Duration) {
        self.waited += waited.min(TICK);
        if let Some(rest) = self.waited.checked_sub(TICK) {
            self.waited = rest;
            self.ticks_left += 1;
        }
    }

    /// What a host function that waited since `begun` answers, as the bindings want it.
    fn answer<T>(
        &mut self,
        begun: Instant,
        outcome: Result<T, Refusal>,
    ) -> wasmtime::Result<Result<T, types::Failure>> {
        self.make_good(begun.elapsed());
        match outcome {
            Ok(answer) => Ok(Ok(answer)),
            Err(Refusal::Told(failure)) => Ok(Err(failure)),
            Err(Refusal::Ends(error)) => Err(error),
        }
    }

    /// What a successful call has made, for the caller to keep, and what stands for credentials in its result.
    pub(super) fn take_results(&mut self) -> (Vec<NewInstance>, Placeholders) {
        let created = self.tool_call.as_mut().map(|call| std::mem::take(&mut call.created));
        (created.unwrap_or_default(), std::mem::take(&mut self.placeholders))
    }

    /// Every host function begins here; `bytes` are in its arguments.
    fn count(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let calls = self.left.host_calls.checked_sub(1);
        self.left.host_calls = calls.ok_or(Overrun::HostCalls(self.budget.host_calls))?;
        self.pass(bytes)
    }

    /// Counts data on its way to the host or from there.
    fn pass(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let left = self.left.host_bytes.checked_sub(bytes);
        self.left.host_bytes = left.ok_or(Overrun::HostBytes(self.budget.host_bytes))?;
        Ok(())
    }

    /// Every host function that needs a grant begins here; `bytes` are in its arguments.
    fn enter(&mut self, grant: Grant, bytes: usize) -> Result<&mut ToolCall, Refusal> {
        self.count(bytes)?;
        if !self.grants.has(grant) {
            return Err(Refusal::Told(self.denied(grant)));
        }
        self.in_tool_call()
    }

    fn in_tool_call(&mut self) -> Result<&mut ToolCall, Refusal> {
        let outside = || {
            Refusal::Ends(wasmtime::Error::msg(
                "the host can be asked for this in tools.call only",
            ))
        };
        self.tool_call.as_mut().ok_or_else(outside)
    }

    fn denied(&self, grant: Grant) -> types::Failure {
        let (name, grant) = (&self.name, grant.as_str());
        Failure::new(
            FailureCode::Denied,
            format!("the bundle {name} has no grant {grant:?}"),
            format!("Whoever trusts it with that adds {grant:?} to its `grants` in the configuration file."),
        )
        .into()
    }

    /// The credentials themselves, or what stands for them.
    fn reveal(&mut self, connection: &Connection) -> wasmtime::Result<types::Connection> {
        let (password, dsn) = (connection.password.expose(), connection.dsn.expose());
        self.pass(password.len() + dsn.len())?;
        // Also of what the guest isn't told: it may find out, in the instance itself.
        self.hide(password);
        self.hide(dsn);
        let [password, dsn] = if self.grants.has(Grant::ReadCredentials) {
            [password.to_owned(), dsn.to_owned()]
        } else {
            let placeholders = &mut self.placeholders;
            self.stand_ins
                .entry(connection.instance.id)
                .or_insert_with(|| [placeholders.stand_in(password), placeholders.stand_in(dsn)])
                .clone()
        };
        Ok(types::Connection {
            instance: (&connection.instance).into(),
            password,
            dsn,
        })
    }
}

/// Why a host function has no answer.
enum Refusal {
    /// The guest is told, and goes on.
    Told(types::Failure),
    /// The call ends.
    Ends(wasmtime::Error),
}

impl From<InstanceError> for Refusal {
    fn from(error: InstanceError) -> Self {
        Self::Told(Failure::from(&error).into())
    }
}

impl From<wasmtime::Error> for Refusal {
    fn from(error: wasmtime::Error) -> Self {
        Self::Ends(error)
    }
}

impl From<types::Failure> for Refusal {
    fn from(failure: types::Failure) -> Self {
        Self::Told(failure)
    }
}

/// `text` without `secrets`. They are looked for in the text as it was, each in time proportional to its length: what
/// stands for one is never taken for another, so the outcome stays within a few times the text.
fn redacted(text: &str, secrets: &[SecretString]) -> String {
    let mut is_secret = vec![false; text.len()];
    for secret in secrets {
        for (at, found) in text.match_indices(secret.expose_secret()) {
            is_secret[at..at + found.len()].fill(true);
        }
    }
    let mut shown = String::new();
    let mut was_secret = false;
    for (at, character) in text.char_indices() {
        match (is_secret[at], was_secret) {
            (false, _) => shown.push(character),
            (true, false) => shown.push_str("[redacted]"),
            (true, true) => {}
        }
        was_secret = is_secret[at];
    }
    shown
}

/// Counts the memory that a guest holds, tables included.
pub(super) struct Meter {
    bytes_left: usize,
    bytes_max: usize,
}

impl Meter {
    fn new(budget: Budget) -> Self {
        Self {
            bytes_left: budget.memory_bytes,
            bytes_max: budget.memory_bytes,
        }
    }

    fn take(&mut self, bytes: usize) -> wasmtime::Result<bool> {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                Ok(true)
            }
            None => Err(Overrun::Memory(self.bytes_max).into()),
        }
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        self.take(desired.saturating_sub(current))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        self.take(desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT_BYTES))
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

impl types::Host for Guest {}

impl settings::Host for Guest {
    async fn get(&mut self) -> wasmtime::Result<String> {
        self.count(self.settings.len())?;
        Ok(self.settings.to_string())
    }
}

impl log::Host for Guest {
    async fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.count(message.len())?;
        if !self.grants.has(Grant::Log) {
            tracing::trace!(component = %self.name, "logs without the grant \"log\": dropped");
            return Ok(());
        }
        let left = self.left.log_bytes.checked_sub(message.len() + LOG_LINE_BYTES);
        self.left.log_bytes = left.ok_or(Overrun::Log(self.budget.log_bytes))?;
        let message = redacted(&message, &self.secrets);
        let component = &self.name;
        // `Debug` keeps line breaks and control characters out of a line-based log.
        match level {
            log::Level::Debug => tracing::debug!(%component, ?message),
            log::Level::Info => tracing::info!(%component, ?message),
            log::Level::Warn => tracing::warn!(%component, ?message),
            log::Level::Error => tracing::error!(%component, ?message),
        }
        Ok(())
    }
}

impl random::Host for Guest {
    async fn bytes(&mut self, len: u32) -> wasmtime::Result<Vec<u8>> {
        self.count(len as usize)?;
        if len > RANDOM_BYTES_MAX {
            return Err(wasmtime::Error::msg(format!(
                "asked for {len} random bytes, may have {RANDOM_BYTES_MAX}"
            )));
        }
        let mut bytes = vec![0; len as usize];
        rand::rngs::SysRng.try_fill_bytes(&mut bytes)?;
        Ok(bytes)
    }
}

impl clock::Host for Guest {
    async fn now(&mut self) -> wasmtime::Result<Result<u64, types::Failure>> {
        self.count(0)?;
        if !self.grants.has(Grant::Clock) {
            return Ok(Err(self.denied(Grant::Clock)));
        }
        // A clock before 1970 is nobody's that has ever fetched this program.
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl instances::Host for Guest {
    async fn create(
        &mut self,
        request: types::CreateRequest,
    ) -> wasmtime::Result<Result<types::Created, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.create_instance(request.into()).await;
        self.answer(begun, outcome)
    }

    async fn list(&mut self) -> wasmtime::Result<Result<Vec<types::Instance>, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.list_instances().await;
        self.answer(begun, outcome)
    }

    async fn get(&mut self, id: String) -> wasmtime::Result<Result<types::Connection, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.get_instance(&id).await;
        self.answer(begun, outcome)
    }

    async fn drop(&mut self, id: String) -> wasmtime::Result<Result<(), types::Failure>> {
        let begun = Instant::now();
        let outcome = self.drop_instance(&id).await;
        self.answer(begun, outcome)
    }

    async fn health(&mut self, id: String) -> wasmtime::Result<Result<types::HealthReport, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.check_instance(&id).await;
        self.answer(begun, outcome)
    }
}

impl wit_sql::Host for Guest {
    async fn query(
        &mut self,
        id: String,
        statement: String,
        parameters: Vec<wit_sql::Value>,
    ) -> wasmtime::Result<Result<wit_sql::Table, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.query_instance(&id, &statement, parameters).await;
        self.answer(begun, outcome)
    }

    async fn execute(&mut self, id: String, script: String) -> wasmtime::Result<Result<(), types::Failure>> {
        let begun = Instant::now();
        let outcome = self.execute_on_instance(&id, &script).await;
        self.answer(begun, outcome)
    }
}

impl Guest {
    async fn query_instance(
        &mut self,
        id: &str,
        statement: &str,
        parameters: Vec<wit_sql::Value>,
    ) -> Result<wit_sql::Table, Refusal> {
        let parameters: Vec<sql::Value> = parameters.into_iter().map(Into::into).collect();
        let bytes = id.len() + statement.len() + parameters.iter().map(sql::Value::bytes).sum::<usize>();
        let call = self.enter(Grant::Sql, bytes)?;
        let table = call
            .manager
            .query(parse_id(id)?, statement, &parameters, &call.caller)
            .await?;
        self.pass(table.rows.iter().flatten().map(sql::Value::bytes).sum())?;
        Ok(table.into())
    }

    async fn execute_on_instance(&mut self, id: &str, script: &str) -> Result<(), Refusal> {
        let call = self.enter(Grant::Sql, id.len() + script.len())?;
        Ok(call.manager.execute(parse_id(id)?, script, &call.caller).await?)
    }

    async fn create_instance(&mut self, request: CreateRequest) -> Result<types::Created, Refusal> {
        let password = request.password.as_ref().map(ExposeSecret::expose_secret);
        let asked = [&request.version, &request.database, &request.username];
        let texts = asked.into_iter().flatten().map(String::as_str).chain(password);
        let bytes = texts.map(str::len).sum::<usize>() + INSTANCE_BYTES;
        let (left, may) = (self.left.instances.checked_sub(1), self.budget.instances);
        self.left.instances = left.unwrap_or_default();
        self.enter(Grant::Create, bytes)?;
        left.ok_or_else(|| wasmtime::Error::from(Overrun::Instances(may)))?;
        if let Some(password) = password {
            self.hide(password);
        }
        let call = self.in_tool_call()?;
        let made = call.manager.create(&request, &call.caller, &call.progress).await?;
        let (connection, warnings) = (made.connection().clone(), made.warnings().to_vec());
        call.created.push(made);
        Ok(types::Created {
            connection: self.reveal(&connection)?,
            warnings,
        })
    }

    async fn list_instances(&mut self) -> Result<Vec<types::Instance>, Refusal> {
        let call = self.enter(Grant::Read, 0)?;
        let instances = call.manager.list(&call.caller).await?;
        self.pass(instances.len() * INSTANCE_BYTES)?;
        Ok(instances.iter().map(Into::into).collect())
    }

    async fn get_instance(&mut self, id: &str) -> Result<types::Connection, Refusal> {
        let call = self.enter(Grant::Read, id.len() + INSTANCE_BYTES)?;
        let connection = call.manager.get(parse_id(id)?, &call.caller).await?;
        Ok(self.reveal(&connection)?)
    }

    async fn drop_instance(&mut self, id: &str) -> Result<(), Refusal> {
        let call = self.enter(Grant::Drop, id.len())?;
        let id = parse_id(id)?;
        call.manager.remove(id, &call.caller).await?;
        // What this call itself has made is neither to be kept nor to be dropped again.
        for gone in call.created.extract_if(.., |made| made.connection().instance.id == id) {
            gone.forget();
        }
        Ok(())
    }

    async fn check_instance(&mut self, id: &str) -> Result<types::HealthReport, Refusal> {
        let call = self.enter(Grant::Health, id.len() + INSTANCE_BYTES)?;
        let report = call.manager.health(parse_id(id)?, &call.caller).await?;
        Ok((&report).into())
    }
}

fn parse_id(text: &str) -> Result<InstanceId, types::Failure> {
    text.parse().map_err(|InvalidValue(message)| {
        Failure::invalid(vec![FieldError {
            field: "id".into(),
            message,
        }])
        .into()
    })
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

impl From<types::CreateRequest> for CreateRequest {
    fn from(request: types::CreateRequest) -> Self {
        Self {
            version: request.version,
            database: request.database,
            username: request.username,
            password: request.password.map(Into::into),
        }
    }
}

impl From<&CreateRequest> for types::CreateRequest {
    fn from(request: &CreateRequest) -> Self {
        Self {
            version: request.version.clone(),
            database: request.database.clone(),
            username: request.username.clone(),
            password: request
                .password
                .as_ref()
                .map(|secret| secret.expose_secret().to_owned()),
        }
    }
}

impl From<&Instance> for types::Instance {
    fn from(instance: &Instance) -> Self {
        Self {
            id: instance.id.to_string(),
            engine: match instance.engine {
                EngineKind::Docker => types::Engine::Docker,
                EngineKind::Local => types::Engine::Local,
            },
            container_id: instance.container_id.clone(),
            host: instance.host.clone(),
            port: instance.port.get(),
            version: instance.version.clone(),
            database: instance.database.as_str().to_owned(),
            username: instance.username.as_str().to_owned(),
            status: match instance.status {
                Status::Created => types::Status::Created,
                Status::Running => types::Status::Running,
                Status::Paused => types::Status::Paused,
                Status::Stopped => types::Status::Stopped,
            },
            created_at: rfc3339(instance.created_at),
        }
    }
}

impl From<wit_sql::Value> for sql::Value {
    fn from(value: wit_sql::Value) -> Self {
        match value {
            wit_sql::Value::Null => Self::Null,
            wit_sql::Value::Boolean(value) => Self::Boolean(value),
            wit_sql::Value::Integer(value) => Self::Integer(value),
            wit_sql::Value::Float(value) => Self::Float(value),
            wit_sql::Value::Text(text) => Self::Text(text),
            wit_sql::Value::Bytes(bytes) => Self::Bytes(bytes),
            wit_sql::Value::Json(text) => Self::Json(text),
            wit_sql::Value::Other(text) => Self::Other(text),
        }
    }
}

impl From<sql::Value> for wit_sql::Value {
    fn from(value: sql::Value) -> Self {
        match value {
            sql::Value::Null => Self::Null,
            sql::Value::Boolean(value) => Self::Boolean(value),
            sql::Value::Integer(value) => Self::Integer(value),
            sql::Value::Float(value) => Self::Float(value),
            sql::Value::Text(text) => Self::Text(text),
            sql::Value::Bytes(bytes) => Self::Bytes(bytes),
            sql::Value::Json(text) => Self::Json(text),
            sql::Value::Other(text) => Self::Other(text),
        }
    }
}

impl From<sql::Table> for wit_sql::Table {
    fn from(table: sql::Table) -> Self {
        let column = |column: sql::Column| wit_sql::Column {
            name: column.name,
            type_name: column.type_name,
        };
        let row = |row: Vec<sql::Value>| row.into_iter().map(Into::into).collect();
        Self {
            columns: table.columns.into_iter().map(column).collect(),
            rows: table.rows.into_iter().map(row).collect(),
            affected: table.affected,
        }
    }
}

impl From<&HealthReport> for types::HealthReport {
    fn from(report: &HealthReport) -> Self {
        Self {
            id: report.id.to_string(),
            health: match report.health {
                Health::Healthy => types::Health::Healthy,
                Health::Starting => types::Health::Starting,
                Health::Unhealthy => types::Health::Unhealthy,
                Health::Stopped => types::Health::Stopped,
            },
            message: report.message.clone(),
            latency_micros: report.latency.map(micros),
            checked_at: rfc3339(report.checked_at),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl From<types::FieldError> for FieldError {
    fn from(error: types::FieldError) -> Self {
        Self {
            field: error.field,
            message: error.message,
        }
    }
}

impl From<Failure> for types::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            code: match failure.code {
                FailureCode::InvalidArguments => types::FailureCode::InvalidArguments,
                FailureCode::Denied => types::FailureCode::Denied,
                FailureCode::NotFound => types::FailureCode::NotFound,
                FailureCode::Exhausted => types::FailureCode::Exhausted,
                FailureCode::Unavailable => types::FailureCode::Unavailable,
                FailureCode::TimedOut => types::FailureCode::TimedOut,
                FailureCode::Failed => types::FailureCode::Failed,
                FailureCode::Internal => types::FailureCode::Internal,
            },
            message: failure.message,
            advice: failure.advice,
            fields: failure
                .fields
                .into_iter()
                .map(|FieldError { field, message }| types::FieldError { field, message })
                .collect(),
        }
    }
}

impl types::Failure {
    /// How long it is.
    pub(super) fn bytes(&self) -> usize {
        let fields = self.fields.iter();
        // As much for each field as JSON has around it.
        let in_fields = fields.map(|field| field.field.len() + field.message.len() + 32);
        self.message.len() + self.advice.len() + in_fields.sum::<usize>()
    }
}

impl From<types::Failure> for Failure {
    fn from(failure: types::Failure) -> Self {
        Self {
            code: match failure.code {
                types::FailureCode::InvalidArguments => FailureCode::InvalidArguments,
                types::FailureCode::Denied => FailureCode::Denied,
                types::FailureCode::NotFound => FailureCode::NotFound,
                types::FailureCode::Exhausted => FailureCode::Exhausted,
                types::FailureCode::Unavailable => FailureCode::Unavailable,
                types::FailureCode::TimedOut => FailureCode::TimedOut,
                types::FailureCode::Failed => FailureCode::Failed,
                types::FailureCode::Internal => FailureCode::Internal,
            },
            message: failure.message,
            advice: failure.advice,
            fields: failure.fields.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<&Caller> for rules::Caller {
    fn from(caller: &Caller) -> Self {
        match caller {
            Caller::CommandLine => Self::CommandLine,
            Caller::Mcp(client) => Self::Mcp(client.clone()),
        }
    }
}

impl From<&crate::instance::Defaults> for rules::Defaults {
    fn from(defaults: &crate::instance::Defaults) -> Self {
        Self {
            repository: defaults.image.repository().to_owned(),
            version: defaults.image.version().to_owned(),
            memory_mib: defaults.limits.memory_mib(),
            cpu_millis: defaults.limits.cpu_millis(),
            durable: defaults.durable,
        }
    }
}

impl From<Action> for rules::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Get => Self::Get,
            Action::List => Self::List,
            Action::Drop => Self::Drop,
            Action::Health => Self::Health,
        }
    }
}

impl From<&Found> for rules::Endpoint {
    fn from(found: &Found) -> Self {
        let instance = &found.instance;
        Self {
            host: instance.host.clone(),
            port: instance.port.get(),
            database: instance.database.as_str().to_owned(),
            username: instance.username.as_str().to_owned(),
            password: found.password.expose().to_owned(),
        }
    }
}

impl From<rules::Rejection> for Rejection {
    fn from(rejection: rules::Rejection) -> Self {
        match rejection {
            rules::Rejection::Invalid(fields) => Self::Invalid(fields.into_iter().map(Into::into).collect()),
            rules::Rejection::Denied(reason) => Self::Denied(reason),
        }
    }
}

/// A policy's spec is checked like any other input.
impl TryFrom<types::InstanceSpec> for InstanceSpec {
    type Error = InvalidValue;

    fn try_from(spec: types::InstanceSpec) -> Result<Self, InvalidValue> {
        let named = |field: &'static str| move |InvalidValue(message)| InvalidValue(format!("{field} {message}"));
        Ok(Self {
            image: Image::new(&spec.repository, &spec.version).map_err(named("the image"))?,
            database: spec.database.parse().map_err(named("database"))?,
            username: spec.username.parse().map_err(named("username"))?,
            password: Password::new(spec.password).map_err(named("password"))?,
            limits: Limits::new(spec.memory_mib, spec.cpu_millis)?,
            durable: spec.durable,
        })
    }
}

/// A policy's connection URI, as far as the host can judge it.
pub(super) fn connection_uri(text: String) -> Result<ConnectionUri, InvalidValue> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(InvalidValue(
            "the connection URI is empty or has control characters".into(),
        ));
    }
    Ok(ConnectionUri::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::FakeEngine;

    fn guest(grants: impl IntoIterator<Item = Grant>) -> Guest {
        let budget = Budget::BUNDLE;
        Guest {
            meter: Meter::new(budget),
            name: "guest".into(),
            settings: "{}".into(),
            grants: grants.into_iter().collect(),
            budget,
            left: budget,
            ticks_left: 0,
            waited: Duration::ZERO,
            secrets: Vec::new(),
            placeholders: Placeholders::default(),
            stand_ins: HashMap::new(),
            tool_call: None,
        }
    }

    fn connection(password: &str) -> Connection {
        let (engine, _) = FakeEngine::default().with_instance(Status::Running);
        let found = engine.instances.lock().expect("unpoisoned").remove(0);
        Connection {
            instance: found.instance,
            password: Password::new(password).expect("a password"),
            dsn: ConnectionUri::new(format!("postgresql://postgres:{password}@127.0.0.1/")),
        }
    }

    #[test]
    fn secrets_are_looked_for_in_the_text_as_it_was() {
        let of = |text: &str, secrets: &[&str]| {
            let secrets: Vec<SecretString> = secrets.iter().map(|&secret| secret.into()).collect();
            redacted(text, &secrets)
        };
        assert_eq!(of("me", &["e"]), "m[redacted]");
        assert_eq!(of("me", &["e", "d", "r", "redacted", "["]), "m[redacted]");
        assert_eq!(of("é: s3cret, s3", &["s3", "s3cret"]), "é: [redacted], [redacted]");
        assert_eq!(
            of("uri://s3cret@é s3cret", &["s3cret", "uri://s3cret@é"]),
            "[redacted] [redacted]"
        );
        assert_eq!(
            of("abcd", &["abc", "bcd"]),
            "[redacted]",
            "where they overlap nothing stays"
        );
        assert_eq!(of("é", &["è"]), "é");
        assert_eq!(of("nothing", &[]), "nothing");
    }

    #[tokio::test]
    async fn a_password_that_a_guest_makes_up_is_a_secret_only_where_it_may_create() {
        let mut guest = guest([Grant::Read]);
        let request = CreateRequest {
            password: Some("e".to_owned().into()),
            ..CreateRequest::default()
        };
        assert!(guest.create_instance(request).await.is_err());
        assert!(guest.secrets.is_empty());
    }

    #[test]
    fn what_an_instance_is_known_by_is_counted_each_time_and_kept_once() {
        let mut guest = guest([Grant::Read]);
        let (one, other) = (connection("s3cret"), connection("s3cret"));
        let before = guest.left.host_bytes;
        let told = guest.reveal(&one).expect("within the budget");
        assert!(told.password.starts_with("credential-"), "{}", told.password);
        let each = before - guest.left.host_bytes;
        assert_eq!(each, one.password.expose().len() + one.dsn.expose().len());
        for _ in 0..9 {
            let again = guest.reveal(&one).expect("within the budget");
            assert_eq!((&again.password, &again.dsn), (&told.password, &told.dsn));
        }
        assert_eq!(before - guest.left.host_bytes, 10 * each);
        assert_eq!(guest.secrets.len(), 2);
        let other = guest.reveal(&other).expect("within the budget");
        assert_ne!(
            other.password, told.password,
            "nobody learns whose passwords are the same"
        );
        guest.left.host_bytes = each - 1;
        assert!(guest.reveal(&one).is_err());
    }

    #[test]
    fn waiting_gives_back_what_the_clock_takes_for_it_and_no_more() {
        let mut guest = guest([]);
        guest.make_good(TICK * 100);
        assert_eq!(
            guest.ticks_left, 1,
            "a guest is interrupted once, however long it waited"
        );
        for _ in 0..4 {
            guest.make_good(TICK / 4);
        }
        assert_eq!(guest.ticks_left, 2, "short waits are taken for computing now and then");
        guest.make_good(TICK / 4);
        assert_eq!(guest.ticks_left, 2);
    }
}
