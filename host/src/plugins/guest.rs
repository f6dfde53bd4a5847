//! What the host knows of one call into a guest, and what it does for the guest when asked: in the domain's words, for every
//! version of the WIT package.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rand::TryRng;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use wasmtime::ResourceLimiter;

use super::budget::{Budget, LOAD_WALL, Overrun};
use super::credentials::Placeholders;
use super::grants::{Grant, Grants};
use super::journal::Journal;
use super::transcript::{Recorded, Transcript, sql_values};
use super::turns::Turn;
use super::wasi::Wasi;
use super::{Loaded, TICK};
use crate::failure::{Failure, FailureCode};
use crate::instance::{
    Caller, Connection, CreateRequest, Health, HealthReport, Instance, InstanceId, InvalidValue, ProgressSink,
};
use crate::manager::{InstanceError, InstanceManager, NewInstance};
use crate::policy::{FieldError, Holding, Inventory};
use crate::sql;

/// The most randomness that one call gives.
const RANDOM_BYTES_MAX: u32 = 1024;

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
    /// Its turn to compute, if it has computed for longer than a tick.
    pub(super) turn: Turn,
    /// How long it has waited for the host, as far as that was taken for computing and is not made good yet.
    waited: Duration,
    journal: Journal,
    /// For a guest that imports WASI, once it uses any of it.
    wasi: Option<Box<Wasi>>,
    placeholders: Placeholders,
    /// What stands for the password and the connection URI of each instance that it was told of.
    ///
    /// By instance: one word for equal passwords would tell a guest whether it has guessed one.
    stand_ins: HashMap<InstanceId, [String; 2]>,
    asked_by: AskedBy,
}

/// Who waits for a call's answer, which decides what it can be about.
pub(super) enum AskedBy {
    /// The host, at load: it is about nothing.
    Host,
    /// The manager, for a policy's answer.
    Manager(Arc<dyn Inventory>),
    /// An MCP client, for a tool's result.
    Client(Box<ToolCall>),
}

impl AskedBy {
    fn transcript(&self) -> Option<Transcript> {
        match self {
            Self::Client(call) => call.transcript.clone(),
            Self::Host | Self::Manager(_) => None,
        }
    }
}

/// An instance with what opens it, as a guest may see it.
#[derive(Debug)]
pub(super) struct Revealed {
    pub(super) instance: Instance,
    pub(super) password: String,
    pub(super) dsn: String,
}

/// On whose behalf a bundle acts in one call, and what it has made there.
#[derive(Debug)]
pub(super) struct ToolCall {
    pub(super) manager: InstanceManager,
    pub(super) caller: Caller,
    pub(super) progress: ProgressSink,
    /// Dropped with the call unless the call succeeds.
    pub(super) created: Vec<NewInstance>,
    /// Where what happens is written down, if anybody wants to know.
    pub(super) transcript: Option<Transcript>,
}

impl ToolCall {
    fn is_pretended(&self) -> bool {
        self.transcript.as_ref().is_some_and(Transcript::is_pretended)
    }

    /// Fails where the host only pretends, once it is sure that there is such an instance and the caller may read it.
    async fn check_runs_sql(&self, id: InstanceId) -> Result<(), Refusal> {
        if !self.is_pretended() {
            return Ok(());
        }
        self.manager.get(id, &self.caller).await?;
        let message = "this host only pretends: it runs no SQL";
        let advice = "`dev-postgres-mcp plugin record` calls the tool on a real host.";
        Err(Failure::new(FailureCode::Unavailable, message, advice).into())
    }
}

impl Guest {
    pub(super) fn new(loaded: &Loaded, grants: Grants, asked_by: AskedBy) -> Self {
        let (name, may_log) = (Arc::clone(&loaded.name), grants.has(Grant::Log));
        let journal = Journal::new(name, may_log, loaded.budget.log_bytes, asked_by.transcript());
        Self {
            meter: Meter::new(loaded.budget),
            journal,
            wasi: None,
            name: Arc::clone(&loaded.name),
            settings: Arc::clone(&loaded.settings),
            grants,
            budget: loaded.budget,
            left: loaded.budget,
            ticks_left: loaded.budget.cpu.as_millis() / TICK.as_millis(),
            turn: Turn::default(),
            waited: Duration::ZERO,
            placeholders: Placeholders::default(),
            stand_ins: HashMap::new(),
            asked_by,
        }
    }

    /// How long the call may take, waiting included.
    pub(super) fn wall(&self) -> Duration {
        match self.asked_by {
            AskedBy::Host => self.budget.wall.min(LOAD_WALL),
            AskedBy::Manager(_) | AskedBy::Client(_) => self.budget.wall,
        }
    }

    /// Keeps `secret` out of the log.
    pub(super) fn hide(&self, secret: &str) {
        self.journal.hide(secret);
    }

    /// What the guest has of WASI.
    pub(super) fn wasi(&mut self) -> &mut Wasi {
        self.wasi
            .get_or_insert_with(|| Box::new(Wasi::new(&self.journal, self.grants.has(Grant::Clock))))
    }

    /// Gives back what waiting for the host costs of the time for computing: the clock of that goes on, and the guest is
    /// interrupted once, at its next step, if it has ticked meanwhile.
    pub(super) fn make_good(&mut self, waited: Duration) {
        self.waited += waited.min(TICK);
        if let Some(rest) = self.waited.checked_sub(TICK) {
            self.waited = rest;
            self.ticks_left += 1;
        }
    }

    /// What a host function that waited since `begun` answers, as the bindings of the guest's version want it.
    pub(super) fn answer<T, A: From<T>, F: From<Failure>>(
        &mut self,
        begun: Instant,
        outcome: Result<T, Refusal>,
    ) -> wasmtime::Result<Result<A, F>> {
        self.make_good(begun.elapsed());
        match outcome {
            Ok(answer) => Ok(Ok(answer.into())),
            Err(Refusal::Told(failure)) => Ok(Err(failure.into())),
            Err(Refusal::Ends(error)) => Err(error),
        }
    }

    /// Runs a function of the host and has it written down where somebody wants to know; or answers it from what was
    /// written down.
    async fn noted<T: Recorded>(
        &mut self,
        function: &str,
        arguments: impl FnOnce() -> Value,
        run: impl AsyncFnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let Some(transcript) = self.asked_by.transcript() else {
            return run(self).await;
        };
        let arguments = arguments();
        if transcript.is_replayed() {
            self.count(0)?;
            return match transcript.replay(function, &arguments) {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(failure)) => Err(failure.into()),
                Err(difference) => Err(wasmtime::Error::msg(difference).into()),
            };
        }
        let outcome = run(self).await;
        let answer = match &outcome {
            Ok(answer) => Ok(answer),
            Err(Refusal::Told(failure)) => Err(failure),
            Err(Refusal::Ends(_)) => return outcome,
        };
        let stand_ins = self
            .stand_ins
            .values()
            .flatten()
            .map(|word| SecretString::from(word.as_str()));
        transcript.write(
            function,
            &arguments,
            answer,
            self.journal.secrets().into_iter().chain(stand_ins),
        );
        outcome
    }

    /// What a successful call has made, for the caller to keep, and what stands for credentials in its result.
    pub(super) fn take_results(&mut self) -> (Vec<NewInstance>, Placeholders) {
        let created = match &mut self.asked_by {
            AskedBy::Client(call) => std::mem::take(&mut call.created),
            AskedBy::Host | AskedBy::Manager(_) => Vec::new(),
        };
        (created, std::mem::take(&mut self.placeholders))
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
        self.turn.end();
        self.count(bytes)?;
        if !self.grants.has(grant) {
            return Err(Refusal::Told(self.denied(grant)));
        }
        self.in_tool_call()
    }

    fn in_tool_call(&mut self) -> Result<&mut ToolCall, Refusal> {
        match &mut self.asked_by {
            AskedBy::Client(call) => Ok(call),
            AskedBy::Host | AskedBy::Manager(_) => Err(Refusal::Ends(wasmtime::Error::msg(
                "the host can be asked for this in tools.call only",
            ))),
        }
    }

    fn denied(&self, grant: Grant) -> Failure {
        let (name, grant) = (&self.name, grant.as_str());
        // An author's call is written down, and has its grants from the command line.
        let place = match self.asked_by.transcript() {
            Some(_) => "`--grants`",
            None => "its `grants` in the configuration file",
        };
        Failure::new(
            FailureCode::Denied,
            format!("the bundle {name} has no grant {grant:?}"),
            format!("Whoever trusts it with that adds {grant:?} to {place}."),
        )
    }

    /// The credentials themselves, or what stands for them.
    fn reveal(&mut self, connection: &Connection) -> wasmtime::Result<Revealed> {
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
        Ok(Revealed {
            instance: connection.instance.clone(),
            password,
            dsn,
        })
    }
}

/// Why a host function has no answer.
pub(super) enum Refusal {
    /// The guest is told, and goes on.
    Told(Failure),
    /// The call ends.
    Ends(wasmtime::Error),
}

impl From<InstanceError> for Refusal {
    fn from(error: InstanceError) -> Self {
        Self::Told((&error).into())
    }
}

impl From<wasmtime::Error> for Refusal {
    fn from(error: wasmtime::Error) -> Self {
        Self::Ends(error)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Told(failure)
    }
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

    /// How much it holds, in bytes: the most that it ever held, since it gives nothing back.
    pub(super) fn used(&self) -> usize {
        self.bytes_max - self.bytes_left
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

/// What the imports do.
impl Guest {
    /// The component's own settings.
    pub(super) fn own_settings(&mut self) -> wasmtime::Result<String> {
        self.count(self.settings.len())?;
        Ok(self.settings.to_string())
    }

    /// Writes to the host's log.
    pub(super) fn write_log(&mut self, level: tracing::Level, message: &str) -> wasmtime::Result<()> {
        self.count(message.len())?;
        Ok(self.journal.write(level, message)?)
    }

    /// `len` random bytes.
    pub(super) fn random_bytes(&mut self, len: u32) -> wasmtime::Result<Vec<u8>> {
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

    /// Milliseconds since 1970.
    pub(super) async fn now(&mut self) -> Result<u64, Refusal> {
        self.noted(
            "clock.now",
            || json!({}),
            async |guest| {
                guest.count(0)?;
                if !guest.grants.has(Grant::Clock) {
                    return Err(guest.denied(Grant::Clock).into());
                }
                // A clock before 1970 is nobody's that has ever fetched this program.
                let since = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            },
        )
        .await
    }

    /// Everything there is, for a policy that counts.
    pub(super) async fn inventory(&mut self) -> Result<Vec<Holding>, Refusal> {
        self.turn.end();
        self.count(0)?;
        let AskedBy::Manager(inventory) = &self.asked_by else {
            return Err(Refusal::Ends(wasmtime::Error::msg(
                "the host can be asked for this in answers to the host only",
            )));
        };
        let holdings = inventory.holdings().await?;
        self.pass(holdings.len() * INSTANCE_BYTES)?;
        Ok(holdings)
    }

    pub(super) async fn query_instance(
        &mut self,
        id: &str,
        statement: &str,
        parameters: Vec<sql::Value>,
    ) -> Result<sql::Table, Refusal> {
        let arguments = || json!({ "id": id, "statement": statement, "parameters": sql_values(&parameters) });
        self.noted("sql.query", arguments, async |guest| {
            let bytes = id.len() + statement.len() + parameters.iter().map(sql::Value::bytes).sum::<usize>();
            let call = guest.enter(Grant::Sql, bytes)?;
            let id = parse_id(id)?;
            call.check_runs_sql(id).await?;
            let table = call.manager.query(id, statement, &parameters, &call.caller).await?;
            guest.pass(table.rows.iter().flatten().map(sql::Value::bytes).sum())?;
            Ok(table)
        })
        .await
    }

    pub(super) async fn execute_on_instance(&mut self, id: &str, script: &str) -> Result<(), Refusal> {
        self.noted(
            "sql.execute",
            || json!({ "id": id, "script": script }),
            async |guest| {
                let call = guest.enter(Grant::Sql, id.len() + script.len())?;
                let id = parse_id(id)?;
                call.check_runs_sql(id).await?;
                Ok(call.manager.execute(id, script, &call.caller).await?)
            },
        )
        .await
    }

    pub(super) async fn create_instance(&mut self, request: CreateRequest) -> Result<(Revealed, Vec<String>), Refusal> {
        let arguments = || {
            json!({
                "version": request.version,
                "database": request.database,
                "username": request.username,
                "password": request.password.as_ref().map(ExposeSecret::expose_secret),
                "ttl_seconds": request.ttl_seconds,
            })
        };
        self.noted("instances.create", arguments, async |guest| guest.made(&request).await)
            .await
    }

    async fn made(&mut self, request: &CreateRequest) -> Result<(Revealed, Vec<String>), Refusal> {
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
        let made = call.manager.create(request, &call.caller, &call.progress).await?;
        let (connection, warnings) = (made.connection().clone(), made.warnings().to_vec());
        call.created.push(made);
        Ok((self.reveal(&connection)?, warnings))
    }

    pub(super) async fn list_instances(&mut self) -> Result<Vec<Instance>, Refusal> {
        self.noted(
            "instances.list",
            || json!({}),
            async |guest| {
                let call = guest.enter(Grant::Read, 0)?;
                let instances = call.manager.list(&call.caller).await?;
                guest.pass(instances.len() * INSTANCE_BYTES)?;
                Ok(instances)
            },
        )
        .await
    }

    pub(super) async fn get_instance(&mut self, id: &str) -> Result<Revealed, Refusal> {
        self.noted(
            "instances.get",
            || json!({ "id": id }),
            async |guest| {
                let call = guest.enter(Grant::Read, id.len() + INSTANCE_BYTES)?;
                let connection = call.manager.get(parse_id(id)?, &call.caller).await?;
                Ok(guest.reveal(&connection)?)
            },
        )
        .await
    }

    pub(super) async fn drop_instance(&mut self, id: &str) -> Result<(), Refusal> {
        self.noted(
            "instances.drop",
            || json!({ "id": id }),
            async |guest| {
                let call = guest.enter(Grant::Drop, id.len())?;
                let id = parse_id(id)?;
                call.manager.remove(id, &call.caller).await?;
                // What this call itself has made is neither to be kept nor to be dropped again.
                for gone in call.created.extract_if(.., |made| made.connection().instance.id == id) {
                    gone.forget();
                }
                Ok(())
            },
        )
        .await
    }

    pub(super) async fn extend_instance(&mut self, id: &str, ttl_seconds: Option<u64>) -> Result<Instance, Refusal> {
        let arguments = || json!({ "id": id, "ttl_seconds": ttl_seconds });
        self.noted("instances.extend", arguments, async |guest| {
            let call = guest.enter(Grant::Create, id.len() + INSTANCE_BYTES)?;
            let id = parse_id(id)?;
            let extended = call.manager.extend(id, ttl_seconds, &call.caller).await?;
            // What this call itself has made is kept later, for as long as it says by then.
            for made in call
                .created
                .iter_mut()
                .filter(|made| made.connection().instance.id == id)
            {
                made.live(extended.lifetime);
            }
            Ok(extended)
        })
        .await
    }

    pub(super) async fn check_instance(&mut self, id: &str) -> Result<HealthReport, Refusal> {
        self.noted(
            "instances.health",
            || json!({ "id": id }),
            async |guest| {
                let call = guest.enter(Grant::Health, id.len() + INSTANCE_BYTES)?;
                let id = parse_id(id)?;
                if call.is_pretended() {
                    call.manager.get(id, &call.caller).await?;
                    return Ok(HealthReport {
                        id,
                        health: Health::Healthy,
                        message: "This host only pretends: its instances are always well.".into(),
                        latency: Some(Duration::ZERO),
                        checked_at: SystemTime::now(),
                    });
                }
                Ok(call.manager.health(id, &call.caller).await?)
            },
        )
        .await
    }
}

fn parse_id(text: &str) -> Result<InstanceId, Failure> {
    text.parse().map_err(|InvalidValue(message)| {
        Failure::invalid(vec![FieldError {
            field: "id".into(),
            message,
        }])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::FakeEngine;
    use crate::instance::{ConnectionUri, Password, Status};

    fn guest(grants: impl IntoIterator<Item = Grant>) -> Guest {
        let budget = Budget::BUNDLE;
        let grants: Grants = grants.into_iter().collect();
        Guest {
            meter: Meter::new(budget),
            journal: Journal::new("guest".into(), grants.has(Grant::Log), budget.log_bytes, None),
            wasi: None,
            name: "guest".into(),
            settings: "{}".into(),
            grants,
            budget,
            left: budget,
            ticks_left: 0,
            turn: Turn::default(),
            waited: Duration::ZERO,
            placeholders: Placeholders::default(),
            stand_ins: HashMap::new(),
            asked_by: AskedBy::Host,
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

    #[tokio::test]
    async fn a_password_that_a_guest_makes_up_is_a_secret_only_where_it_may_create() {
        let mut guest = guest([Grant::Read]);
        let request = CreateRequest {
            password: Some("e".to_owned().into()),
            ..CreateRequest::default()
        };
        assert!(guest.create_instance(request).await.is_err());
        assert_eq!(guest.journal.secrets().len(), 0);
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
        assert_eq!(guest.journal.secrets().len(), 2);
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
