//! The versions of the WIT package that this host speaks: which one a component is made for, and calls of its exports.

use std::fmt;

use serde::{Deserialize, Serialize};
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Engine, Store};

use super::guest::Guest;
use super::tools::Described;
use super::{v0_1, v0_2};
use crate::failure::Failure;
use crate::instance::{Caller, CreateRequest, Defaults, Found, Instance, InstanceSpec, InvalidValue};
use crate::policy::{Action, FieldError, Rejection};

/// The package's name.
const PACKAGE: &str = "dev-postgres:plugin/";

/// A version of the WIT package: what differs in the last number alone is the same to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Without lifetimes, owners and teams.
    V0_1,
    /// The current one.
    V0_2,
}

impl Version {
    /// Every version that can be loaded, the oldest first.
    pub const ALL: [Self; 2] = [Self::V0_1, Self::V0_2];

    /// As the package has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1 => "0.1.0",
            Self::V0_2 => "0.2.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a component can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// It holds a team's rules.
    Policy,
    /// It offers MCP tools.
    ToolBundle,
}

impl World {
    /// Every world.
    pub const ALL: [Self; 2] = [Self::ToolBundle, Self::Policy];

    /// As the package has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ToolBundle => "tool-bundle",
            Self::Policy => "policy",
        }
    }

    /// The interface that makes a component one of this world.
    fn export(self) -> &'static str {
        match self {
            Self::ToolBundle => "tools",
            Self::Policy => "rules",
        }
    }
}

/// The version of `world` that a component is made for.
///
/// # Errors
/// If it is of another world, or made for a version that this host doesn't speak.
pub(super) fn version(engine: &Engine, component: &Component, world: World) -> Result<Version, String> {
    let ty = component.component_type();
    let exports: Vec<&str> = ty.exports(engine).map(|(name, _)| name).collect();
    made_for(&exports, world).unwrap_or_else(|| {
        let other = World::ALL
            .into_iter()
            .find(|other| *other != world && made_for(&exports, *other).is_some());
        if let Some(other) = other {
            return Err(format!("it is one of the world {}", other.as_str()));
        }
        let known = Version::ALL.map(Version::as_str).join(" and ");
        Err(format!("it exports no {PACKAGE}{} of version {known}", world.export()))
    })
}

/// The version of `world` that a component with these exports is made for; `None` if it is of another world.
pub(super) fn made_for(exports: &[&str], world: World) -> Option<Result<Version, String>> {
    let interface = format!("{PACKAGE}{}@", world.export());
    let made_for: Vec<&str> = exports
        .iter()
        .filter_map(|name| name.strip_prefix(&interface))
        .collect();
    let minor = |version: &str| version.rsplit_once('.').map(|(minor, _)| minor.to_owned());
    let spoken = |made_for: &str| {
        Version::ALL
            .into_iter()
            .find(|version| minor(version.as_str()) == minor(made_for))
    };
    if let Some(version) = made_for.iter().find_map(|made_for| spoken(made_for)) {
        return Some(Ok(version));
    }
    let known = Version::ALL.map(Version::as_str).join(" and ");
    let unknown = made_for.first()?;
    Some(Err(format!(
        "it is made for version {unknown}, this host speaks {known}"
    )))
}

/// What a component of a world and version may import.
pub(super) fn link(linker: &mut Linker<Guest>, world: World, version: Version) -> wasmtime::Result<()> {
    match (world, version) {
        (World::ToolBundle, Version::V0_1) => v0_1::link_bundle(linker),
        (World::ToolBundle, Version::V0_2) => v0_2::link_bundle(linker),
        (World::Policy, Version::V0_1) => v0_1::link_policy(linker),
        (World::Policy, Version::V0_2) => v0_2::link_policy(linker),
    }
}

/// Where a bundle's exports are.
pub(super) enum ToolIndices {
    V0_1(v0_1::ToolIndices),
    V0_2(v0_2::ToolIndices),
}

/// A bundle's exports in one store.
pub(super) enum Tools {
    V0_1(v0_1::Tools),
    V0_2(v0_2::Tools),
}

impl ToolIndices {
    pub(super) fn new(instance: &InstancePre<Guest>, version: Version) -> wasmtime::Result<Self> {
        Ok(match version {
            Version::V0_1 => Self::V0_1(v0_1::ToolIndices::new(instance)?),
            Version::V0_2 => Self::V0_2(v0_2::ToolIndices::new(instance)?),
        })
    }

    pub(super) async fn instantiate(
        &self,
        store: &mut Store<Guest>,
        instance: &InstancePre<Guest>,
    ) -> wasmtime::Result<Tools> {
        Ok(match self {
            Self::V0_1(indices) => Tools::V0_1(indices.instantiate(store, instance).await?),
            Self::V0_2(indices) => Tools::V0_2(indices.instantiate(store, instance).await?),
        })
    }
}

impl Tools {
    pub(super) async fn check_settings(
        &self,
        store: &mut Store<Guest>,
        settings: &str,
    ) -> wasmtime::Result<Result<(), Vec<FieldError>>> {
        match self {
            Self::V0_1(tools) => tools.check_settings(store, settings).await,
            Self::V0_2(tools) => tools.check_settings(store, settings).await,
        }
    }

    pub(super) async fn describe(&self, store: &mut Store<Guest>) -> wasmtime::Result<Vec<Described>> {
        match self {
            Self::V0_1(tools) => tools.describe(store).await,
            Self::V0_2(tools) => tools.describe(store).await,
        }
    }

    pub(super) async fn call(
        &self,
        store: &mut Store<Guest>,
        name: &str,
        arguments: &str,
    ) -> wasmtime::Result<Result<String, Failure>> {
        match self {
            Self::V0_1(tools) => tools.call(store, name, arguments).await,
            Self::V0_2(tools) => tools.call(store, name, arguments).await,
        }
    }
}

/// Where a policy's exports are.
pub(super) enum RuleIndices {
    V0_1(v0_1::RuleIndices),
    V0_2(v0_2::RuleIndices),
}

/// A policy's exports in one store.
pub(super) enum Rules {
    V0_1(v0_1::Rules),
    V0_2(v0_2::Rules),
}

impl RuleIndices {
    pub(super) fn new(instance: &InstancePre<Guest>, version: Version) -> wasmtime::Result<Self> {
        Ok(match version {
            Version::V0_1 => Self::V0_1(v0_1::RuleIndices::new(instance)?),
            Version::V0_2 => Self::V0_2(v0_2::RuleIndices::new(instance)?),
        })
    }

    pub(super) async fn instantiate(
        &self,
        store: &mut Store<Guest>,
        instance: &InstancePre<Guest>,
    ) -> wasmtime::Result<Rules> {
        Ok(match self {
            Self::V0_1(indices) => Rules::V0_1(indices.instantiate(store, instance).await?),
            Self::V0_2(indices) => Rules::V0_2(indices.instantiate(store, instance).await?),
        })
    }
}

/// What rules of a version say that knows no lifetimes, asked for one.
fn knows_no_lifetimes() -> Rejection {
    Rejection::Denied("it is written for version 0.1.0 of the interface, which knows no lifetimes".into())
}

impl Rules {
    pub(super) async fn check_settings(
        &self,
        store: &mut Store<Guest>,
        settings: &str,
    ) -> wasmtime::Result<Result<(), Vec<FieldError>>> {
        match self {
            Self::V0_1(rules) => rules.check_settings(store, settings).await,
            Self::V0_2(rules) => rules.check_settings(store, settings).await,
        }
    }

    /// The inner error: a plan that makes no sense.
    pub(super) async fn plan_create(
        &self,
        store: &mut Store<Guest>,
        request: &CreateRequest,
        defaults: &Defaults,
        caller: &Caller,
    ) -> wasmtime::Result<Result<Result<InstanceSpec, InvalidValue>, Rejection>> {
        match self {
            Self::V0_1(_) if request.ttl_seconds.is_some() => Ok(Err(knows_no_lifetimes())),
            Self::V0_1(rules) => rules.plan_create(store, request, defaults, caller).await,
            Self::V0_2(rules) => rules.plan_create(store, request, defaults, caller).await,
        }
    }

    pub(super) async fn plan_extend(
        &self,
        store: &mut Store<Guest>,
        target: &Instance,
        ttl_seconds: Option<u64>,
        caller: &Caller,
    ) -> wasmtime::Result<Result<u64, Rejection>> {
        match self {
            Self::V0_1(_) => Ok(Err(knows_no_lifetimes())),
            Self::V0_2(rules) => rules.plan_extend(store, target, ttl_seconds, caller).await,
        }
    }

    pub(super) async fn authorize(
        &self,
        store: &mut Store<Guest>,
        action: Action,
        target: &Instance,
        caller: &Caller,
    ) -> wasmtime::Result<Result<(), String>> {
        match self {
            Self::V0_1(rules) => rules.authorize(store, action, target, caller).await,
            Self::V0_2(rules) => rules.authorize(store, action, target, caller).await,
        }
    }

    pub(super) async fn format_dsn(&self, store: &mut Store<Guest>, found: &Found) -> wasmtime::Result<String> {
        match self {
            Self::V0_1(rules) => rules.format_dsn(store, found).await,
            Self::V0_2(rules) => rules.format_dsn(store, found).await,
        }
    }
}

/// What every version's module has: the bindings of each have types of their own, which are alike here.
macro_rules! in_every_version {
    () => {
        use std::time::{Duration, Instant, SystemTime};

        use secrecy::ExposeSecret;
        use wasmtime::Store;
        use wasmtime::component::{HasSelf, InstancePre, Linker};

        use self::bundle::dev_postgres::plugin::{clock, instances, log, settings, sql as wit_sql, types};
        use self::bundle::exports::dev_postgres::plugin::tools;
        use self::policy::dev_postgres::plugin::random;
        use self::policy::exports::dev_postgres::plugin::rules;
        use super::guest::{Guest, Revealed};
        use super::tools::{Described, Hints};
        use crate::failure::{Failure, FailureCode};
        use crate::instance::{
            Caller, CreateRequest, Defaults, EngineKind, Found, Health, HealthReport, Image, Instance, InstanceSpec,
            InvalidValue, Limits, Password, Status,
        };
        use crate::policy::{Action, FieldError, Rejection};
        use crate::sql;

        pub(super) fn link_bundle(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
            bundle::ToolBundle::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
        }

        pub(super) fn link_policy(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
            policy::Policy::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
        }

        /// Where a bundle's exports are.
        pub(super) struct ToolIndices(bundle::ToolBundleIndices);

        impl ToolIndices {
            pub(super) fn new(instance: &InstancePre<Guest>) -> wasmtime::Result<Self> {
                bundle::ToolBundleIndices::new(instance).map(Self)
            }

            pub(super) async fn instantiate(
                &self,
                store: &mut Store<Guest>,
                instance: &InstancePre<Guest>,
            ) -> wasmtime::Result<Tools> {
                let instance = instance.instantiate_async(&mut *store).await?;
                let exports = self.0.load(&mut *store, &instance)?;
                Ok(Tools(exports.dev_postgres_plugin_tools().clone()))
            }
        }

        /// A bundle's exports in one store.
        pub(super) struct Tools(tools::Guest);

        impl Tools {
            pub(super) async fn check_settings(
                &self,
                store: &mut Store<Guest>,
                settings: &str,
            ) -> wasmtime::Result<Result<(), Vec<FieldError>>> {
                Ok(self
                    .0
                    .call_check_settings(store, &settings.to_owned())
                    .await?
                    .map_err(all))
            }

            pub(super) async fn describe(&self, store: &mut Store<Guest>) -> wasmtime::Result<Vec<Described>> {
                self.0.call_describe(store).await.map(all)
            }

            pub(super) async fn call(
                &self,
                store: &mut Store<Guest>,
                name: &str,
                arguments: &str,
            ) -> wasmtime::Result<Result<String, Failure>> {
                Ok(self
                    .0
                    .call_call(store, name, &arguments.to_owned())
                    .await?
                    .map_err(Into::into))
            }
        }

        /// Where a policy's exports are.
        pub(super) struct RuleIndices(policy::PolicyIndices);

        impl RuleIndices {
            pub(super) fn new(instance: &InstancePre<Guest>) -> wasmtime::Result<Self> {
                policy::PolicyIndices::new(instance).map(Self)
            }

            pub(super) async fn instantiate(
                &self,
                store: &mut Store<Guest>,
                instance: &InstancePre<Guest>,
            ) -> wasmtime::Result<Rules> {
                let instance = instance.instantiate_async(&mut *store).await?;
                let exports = self.0.load(&mut *store, &instance)?;
                Ok(Rules(exports.dev_postgres_plugin_rules().clone()))
            }
        }

        /// A policy's exports in one store.
        pub(super) struct Rules(rules::Guest);

        impl Rules {
            pub(super) async fn check_settings(
                &self,
                store: &mut Store<Guest>,
                settings: &str,
            ) -> wasmtime::Result<Result<(), Vec<FieldError>>> {
                Ok(self
                    .0
                    .call_check_settings(store, &settings.to_owned())
                    .await?
                    .map_err(all))
            }

            pub(super) async fn plan_create(
                &self,
                store: &mut Store<Guest>,
                request: &CreateRequest,
                defaults: &Defaults,
                caller: &Caller,
            ) -> wasmtime::Result<Result<Result<InstanceSpec, InvalidValue>, Rejection>> {
                let (request, defaults, caller) = (request.into(), defaults.into(), caller.into());
                let plan = self
                    .0
                    .call_plan_create(store, &request, &defaults, &caller)
                    .await?;
                Ok(plan.map(TryInto::try_into).map_err(Into::into))
            }

            pub(super) async fn authorize(
                &self,
                store: &mut Store<Guest>,
                action: Action,
                target: &Instance,
                caller: &Caller,
            ) -> wasmtime::Result<Result<(), String>> {
                let (target, caller) = (target.clone().into(), caller.into());
                self.0
                    .call_authorize(store, action.into(), &target, &caller)
                    .await
            }

            pub(super) async fn format_dsn(&self, store: &mut Store<Guest>, found: &Found) -> wasmtime::Result<String> {
                self.0.call_format_dsn(store, &found.into()).await
            }
        }

        impl types::Host for Guest {}

        impl settings::Host for Guest {
            async fn get(&mut self) -> wasmtime::Result<String> {
                self.own_settings()
            }
        }

        impl log::Host for Guest {
            async fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
                let level = match level {
                    log::Level::Debug => tracing::Level::DEBUG,
                    log::Level::Info => tracing::Level::INFO,
                    log::Level::Warn => tracing::Level::WARN,
                    log::Level::Error => tracing::Level::ERROR,
                };
                self.write_log(level, &message)
            }
        }

        impl random::Host for Guest {
            async fn bytes(&mut self, len: u32) -> wasmtime::Result<Vec<u8>> {
                self.random_bytes(len)
            }
        }

        impl clock::Host for Guest {
            async fn now(&mut self) -> wasmtime::Result<Result<u64, types::Failure>> {
                let begun = Instant::now();
                let outcome = self.now().await;
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
                let outcome = self.query_instance(&id, &statement, all(parameters)).await;
                self.answer(begun, outcome)
            }

            async fn execute(&mut self, id: String, script: String) -> wasmtime::Result<Result<(), types::Failure>> {
                let begun = Instant::now();
                let outcome = self.execute_on_instance(&id, &script).await;
                self.answer(begun, outcome)
            }
        }

        /// Each of them converted.
        fn all<A, B: From<A>>(items: Vec<A>) -> Vec<B> {
            items.into_iter().map(Into::into).collect()
        }

        fn rfc3339(time: SystemTime) -> String {
            humantime::format_rfc3339_seconds(time).to_string()
        }

        fn exposed(request: &CreateRequest) -> Option<String> {
            let password = request.password.as_ref();
            password.map(|secret| secret.expose_secret().to_owned())
        }

        /// Says which field it is that can't be what it should be.
        fn named(field: &'static str) -> impl Fn(InvalidValue) -> InvalidValue {
            move |InvalidValue(message)| InvalidValue(format!("{field} {message}"))
        }

        impl From<(Revealed, Vec<String>)> for types::Created {
            fn from((connection, warnings): (Revealed, Vec<String>)) -> Self {
                Self {
                    connection: connection.into(),
                    warnings,
                }
            }
        }

        impl From<Revealed> for types::Connection {
            fn from(revealed: Revealed) -> Self {
                Self {
                    instance: revealed.instance.into(),
                    password: revealed.password,
                    dsn: revealed.dsn,
                }
            }
        }

        impl From<EngineKind> for types::Engine {
            fn from(engine: EngineKind) -> Self {
                match engine {
                    EngineKind::Docker => Self::Docker,
                    EngineKind::Local => Self::Local,
                }
            }
        }

        impl From<Status> for types::Status {
            fn from(status: Status) -> Self {
                match status {
                    Status::Created => Self::Created,
                    Status::Running => Self::Running,
                    Status::Paused => Self::Paused,
                    Status::Stopped => Self::Stopped,
                }
            }
        }

        impl From<HealthReport> for types::HealthReport {
            fn from(report: HealthReport) -> Self {
                let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                Self {
                    id: report.id.to_string(),
                    health: match report.health {
                        Health::Healthy => types::Health::Healthy,
                        Health::Starting => types::Health::Starting,
                        Health::Unhealthy => types::Health::Unhealthy,
                        Health::Stopped => types::Health::Stopped,
                    },
                    message: report.message,
                    latency_micros: report.latency.map(micros),
                    checked_at: rfc3339(report.checked_at),
                }
            }
        }

        impl From<tools::Tool> for Described {
            fn from(tool: tools::Tool) -> Self {
                Self {
                    name: tool.name,
                    title: tool.title,
                    description: tool.description,
                    input_schema: tool.input_schema,
                    output_schema: tool.output_schema,
                    hints: Hints {
                        read_only: tool.hints.read_only,
                        destructive: tool.hints.destructive,
                        idempotent: tool.hints.idempotent,
                        open_world: tool.hints.open_world,
                    },
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
                Self {
                    columns: table.columns.into_iter().map(column).collect(),
                    rows: table.rows.into_iter().map(all).collect(),
                    affected: table.affected,
                }
            }
        }

        impl From<types::FieldError> for FieldError {
            fn from(error: types::FieldError) -> Self {
                Self {
                    field: error.field,
                    message: error.message,
                }
            }
        }

        impl From<FieldError> for types::FieldError {
            fn from(error: FieldError) -> Self {
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
                        // No version has a word of its own for what only the host's owner can mend.
                        FailureCode::Configuration | FailureCode::Internal => types::FailureCode::Internal,
                    },
                    message: failure.message,
                    advice: failure.advice,
                    fields: all(failure.fields),
                }
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
                    fields: all(failure.fields),
                }
            }
        }

        impl From<&Defaults> for rules::Defaults {
            fn from(defaults: &Defaults) -> Self {
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
                    rules::Rejection::Invalid(fields) => Self::Invalid(all(fields)),
                    rules::Rejection::Denied(reason) => Self::Denied(reason),
                }
            }
        }
    };
}
pub(super) use in_every_version;
