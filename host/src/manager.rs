//! The one way to instances: every create, read and drop passes the policy here.

mod inventory;
mod pool;
mod sweep;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::inventory::{Beginning, Beginnings};
use self::pool::{Pool, Ready};
pub use self::sweep::{Left, Sweeper};
use crate::engine::{Ended, Engine, EngineError, Pruned};
use crate::failure::{Failure, FailureCode, without};
use crate::instance::{
    Caller, Connection, CreateRequest, Created, Defaults, Found, Health, HealthReport, Image, Instance, InstanceId,
    InstanceSpec, Lifetime, MemoryKills, Owner, Password, Progress, ProgressSink, Stats, Status, TeamName, Ttl, Usage,
};
use crate::memory;
use crate::metrics::METRICS;
use crate::owner::Owners;
use crate::policy::{Action, Inventory, Policy, Rejection};
use crate::ports::{PortAllocator, PortRange, PortsExhausted};
use crate::probe::{self, ProbeError};
use crate::sql::{self, SqlError};

/// How long the query of a health check may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an engine may take to tell what an instance takes: a busy Docker samples for two seconds.
const USAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many instances are asked at once for what they take.
const STATS_AT_ONCE: usize = 8;
/// How long it is tried to keep an instance that somebody has been told of.
const KEEP_PATIENCE: Duration = Duration::from_secs(10);
/// The pause before it is tried again.
const KEEP_PAUSE: Duration = Duration::from_millis(250);
/// How long the removal of an instance that nobody waits for is tried: Docker may be restarted, or updated.
const REMOVAL_PATIENCE: Duration = Duration::from_hours(1);
/// The pause before the second attempt; each further one is twice as long.
const REMOVAL_PAUSE: Duration = Duration::from_millis(250);
/// The longest of these pauses.
const REMOVAL_PAUSE_MAX: Duration = Duration::from_secs(15);
/// How long a call that failed waits for its instance's removal, which goes on in the background then.
const REMOVAL_WAIT: Duration = Duration::from_secs(10);
/// Why an instance goes that is its process's.
const SESSION_ENDED: &str = "its session has ended";
/// The pause before an instance's end is waited for again: Docker may have been restarted.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

const GONE_ADVICE: &str = "List the instances to see which ones there are; a dropped instance doesn't come back.";
const DIED_ADVICE: &str =
    "Read the log lines; if they name no cause, another version or more memory (instance.memory_mib) may do.";

/// What the manager goes by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the policy is told for requests that leave it open.
    pub defaults: Defaults,
    /// The ports that instances may have.
    pub ports: PortRange,
    /// How long a started instance may take until it answers its first query.
    pub ready_timeout: Duration,
    /// How many servers of each image [`InstanceManager::start_ahead`] keeps waiting.
    pub pool_size: usize,
    /// Whether what an MCP client makes without a time to live outlives this process.
    pub keeps_on_exit: bool,
    /// The team that this process was started for.
    pub team: Option<TeamName>,
}

/// Creates, lists, gets, drops and checks instances.
#[derive(Debug, Clone)]
pub struct InstanceManager {
    engine: Arc<dyn Engine>,
    policy: Arc<dyn Policy>,
    defaults: Defaults,
    ports: PortAllocator,
    ready_timeout: Duration,
    tracker: TaskTracker,
    owners: Owners,
    keeps_on_exit: bool,
    team: Option<TeamName>,
    pool: Pool,
    beginnings: Beginnings,
    sessions: Sessions,
    sweeper: Sweeper,
}

/// The instances that end with this process.
#[derive(Debug, Clone, Default)]
// A std mutex: held for a few instructions, never across a wait.
struct Sessions(Arc<Mutex<Ending>>);

#[derive(Debug, Default)]
struct Ending {
    instances: HashSet<InstanceId>,
    has_begun: bool,
}

impl Sessions {
    /// `false` if the end of the process has begun, and nobody comes for it any more.
    #[must_use]
    fn add(&self, id: InstanceId) -> bool {
        let mut ending = self.lock();
        if !ending.has_begun {
            ending.instances.insert(id);
        }
        !ending.has_begun
    }

    fn remove(&self, id: InstanceId) {
        self.lock().instances.remove(&id);
    }

    /// What there is; from now on, none is added.
    fn end(&self) -> HashSet<InstanceId> {
        let mut ending = self.lock();
        ending.has_begun = true;
        std::mem::take(&mut ending.instances)
    }

    fn lock(&self) -> MutexGuard<'_, Ending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an instance was not created, shown or dropped.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The policy says no.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// There is no such instance.
    #[error("there is no instance {0}")]
    NotFound(InstanceId),
    /// There is no such instance where can be looked.
    #[error("there is no instance {id} here, and where else it may be can't be looked: {unseen}")]
    NotSeen {
        /// What was asked for.
        id: InstanceId,
        /// What can't be looked at, and why.
        unseen: String,
    },
    /// No port is left.
    #[error(transparent)]
    Ports(#[from] PortsExhausted),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The new instance's server ended before it answered.
    #[error("PostgreSQL ended before it answered: it {0}")]
    Died(Ended),
    /// The new instance's server did not answer in time.
    #[error("PostgreSQL did not answer within {} s: {reason}", after.as_secs_f32())]
    NotReady {
        /// The deadline.
        after: Duration,
        /// What the last attempt met.
        reason: String,
    },
    /// SQL was not run, or not to its end.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The new instance's server answers and refuses its own credentials.
    #[error("PostgreSQL refuses the credentials that it was created with: {0}")]
    Refused(String),
}

impl From<&InstanceError> for Failure {
    fn from(error: &InstanceError) -> Self {
        let (code, advice): (FailureCode, &str) = match error {
            InstanceError::Rejected(Rejection::Invalid(fields)) => return Self::invalid(fields.clone()),
            InstanceError::Rejected(Rejection::Denied(_)) => (
                FailureCode::Denied,
                "Ask for something that the policy allows, or ask whoever keeps the policy to change it.",
            ),
            InstanceError::Rejected(Rejection::Broken(_)) => (
                FailureCode::Internal,
                "Tell whoever keeps the policy component; the server's log has the details.",
            ),
            InstanceError::NotFound(_) => (FailureCode::NotFound, GONE_ADVICE),
            InstanceError::NotSeen { .. } => (
                FailureCode::NotFound,
                "If it was made in Docker, start Docker and try again; a dropped instance doesn't come back.",
            ),
            InstanceError::Ports(PortsExhausted { .. }) => (
                FailureCode::Exhausted,
                "Drop instances that are no longer needed, or configure a wider range (instance.ports).",
            ),
            InstanceError::Engine(error) => return Self::from(error),
            InstanceError::Sql(error) => return Self::from(error),
            InstanceError::Died(_) => (FailureCode::Failed, DIED_ADVICE),
            InstanceError::NotReady { .. } => (
                FailureCode::TimedOut,
                "Try again; on a slow machine allow more time (instance.ready_timeout).",
            ),
            InstanceError::Refused(_) => (
                FailureCode::Failed,
                "The image must create the superuser and the database from POSTGRES_USER and POSTGRES_DB, as the official one does.",
            ),
        };
        Self::new(code, error.to_string(), advice)
    }
}

impl From<&EngineError> for Failure {
    fn from(error: &EngineError) -> Self {
        let (code, advice): (FailureCode, &str) = match error {
            EngineError::Unreachable { advice, .. } | EngineError::None { advice, .. } => {
                (FailureCode::Unavailable, advice)
            }
            EngineError::NoSuchImage { .. } => (
                FailureCode::Unavailable,
                "Ask for a version that the image repository has as a tag, such as \"17\".",
            ),
            EngineError::Pull { .. } => (
                FailureCode::Unavailable,
                "See whether the registry can be reached: `docker pull` with the same image tells more.",
            ),
            EngineError::NoSuchVersion { .. } => (
                FailureCode::Unavailable,
                "Ask for one of these versions or for none, or install the one that you want.",
            ),
            EngineError::Ended(_) => (FailureCode::Failed, DIED_ADVICE),
            EngineError::PortTaken(_) => (FailureCode::Exhausted, "Try again."),
            EngineError::Request { .. } => (
                FailureCode::Failed,
                "`dev-postgres-mcp doctor` shows what the engine can do.",
            ),
            EngineError::Gone => (FailureCode::NotFound, GONE_ADVICE),
            EngineError::Damaged { .. } => (
                FailureCode::Failed,
                "It can't be used any more: drop it, by its whole id.",
            ),
            EngineError::TimedOut { .. } => (
                FailureCode::TimedOut,
                "Try again; if it stays so, restart the engine: `dev-postgres-mcp doctor` shows how it stands.",
            ),
        };
        Self::new(code, error.to_string(), advice)
    }
}

impl InstanceManager {
    /// Background work, clean-up above all, runs on `tracker`: whoever ends the process waits for it.
    #[must_use]
    pub fn new(
        engine: Arc<dyn Engine>,
        policy: Arc<dyn Policy>,
        settings: Settings,
        owners: Owners,
        tracker: TaskTracker,
    ) -> Self {
        let ports = PortAllocator::new(settings.ports);
        let pool = Pool::new(
            Arc::clone(&engine),
            ports.clone(),
            settings.defaults.clone(),
            settings.pool_size,
            memory::is_short,
            tracker.clone(),
        );
        Self {
            sweeper: Sweeper::new(Arc::clone(&engine), owners.clone()),
            engine,
            policy,
            defaults: settings.defaults,
            ports,
            ready_timeout: settings.ready_timeout,
            tracker,
            owners,
            keeps_on_exit: settings.keeps_on_exit,
            team: settings.team,
            pool,
            beginnings: Beginnings::default(),
            sessions: Sessions::default(),
        }
    }

    /// A person or a script on the command line, as the policy is told.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            team: self.team.clone(),
            client: None,
        }
    }

    /// Has servers of the default version started in the background, if any are to wait; those of other versions are
    /// from when one is asked for. Until [`InstanceManager::close`]. They are the process's, as `caller` is.
    pub async fn start_ahead(&self, caller: &Caller) {
        if self.pool.is_off() {
            return;
        }
        // What the policy makes of a request that asks for nothing. One that it denies comes too late for the pool.
        if let Ok(spec) = self.plan(&CreateRequest::default(), caller, self.inventory()).await {
            self.pool.want(&spec.image, &spec.database);
        }
        // Nobody would remove what waits for a process of which nobody sees that it was killed.
        let owners = self.owners.clone();
        let can_be_judged = tokio::task::spawn_blocking(move || owners.me().is_ok()).await;
        if matches!(can_be_judged, Ok(true))
            && let Ok(owner) = self.owner(caller).await
        {
            self.pool.open(owner);
        }
    }

    /// This process as the owner of what `caller` asks for.
    async fn owner(&self, caller: &Caller) -> Result<Owner, InstanceError> {
        let (owners, caller) = (self.owners.clone(), caller.clone());
        tokio::task::spawn_blocking(move || owners.owner(&caller))
            .await
            .map_err(|error| {
                InstanceError::Engine(EngineError::Request {
                    verb: "finding out who this process is",
                    reason: error.to_string(),
                })
            })
    }

    /// What there is, for the policy.
    fn inventory(&self) -> Arc<dyn Inventory> {
        self.beginnings.inventory(&self.engine)
    }

    /// Does all that can be done for instances of a version before one is asked for. What they are made from, and whether
    /// that has a template.
    ///
    /// # Errors
    /// If the policy doesn't allow such instances, or they can't be had.
    pub async fn prepare(
        &self,
        version: Option<String>,
        caller: &Caller,
        progress: &ProgressSink,
    ) -> Result<(Image, bool), InstanceError> {
        let request = CreateRequest {
            version,
            ..CreateRequest::default()
        };
        let spec = self.plan(&request, caller, self.inventory()).await?;
        let has_template = self.engine.prepare(&spec.image, progress).await?;
        Ok((spec.image, has_template))
    }

    /// What the policy makes of a request.
    async fn plan(
        &self,
        request: &CreateRequest,
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<InstanceSpec, InstanceError> {
        let mut defaults = self.defaults.clone();
        if request.version.is_none() {
            defaults.image = self.engine.default_image(&self.defaults.image).await;
        }
        Ok(self.policy.plan_create(request, &defaults, caller, inventory).await?)
    }

    /// What removes instances that are over.
    #[must_use]
    pub fn sweeper(&self) -> &Sweeper {
        &self.sweeper
    }

    /// Removes what is of no use any more: instances that are over ([`Sweeper::sweep`]), and what is only there to be fast.
    /// Adds it to `pruned`, whatever comes then. `dry_run` only says what.
    ///
    /// # Errors
    /// If the engine can't tell which there are, or fails to.
    pub async fn prune(&self, dry_run: bool, pruned: &mut Vec<Pruned>) -> Result<(), InstanceError> {
        self.sweeper.sweep(dry_run, pruned).await?;
        Ok(self.engine.prune(dry_run, pruned).await?)
    }

    /// Removes the servers that wait and the instances that end with this process, in the background. Creates still work; what
    /// they make that ends with this process is removed as soon as it is kept.
    pub fn close(&self) {
        self.pool.close();
        for id in self.sessions.end() {
            let sweeper = self.sweeper.clone();
            self.tracker.spawn(async move { sweeper.end_session_of(id).await });
        }
    }

    /// Creates an instance and returns once it answers queries.
    ///
    /// The future may be dropped at any point: what it had made is removed in the background.
    ///
    /// # Errors
    /// On any error nothing is left of the instance.
    #[tracing::instrument(level = "debug", skip_all)]
    pub async fn create(
        &self,
        request: &CreateRequest,
        caller: &Caller,
        progress: &ProgressSink,
    ) -> Result<NewInstance, InstanceError> {
        let creating = METRICS.creating();
        let outcome = self.make(request, caller, progress).await;
        if let Err(InstanceError::Rejected(rejection)) = &outcome {
            count("create", rejection);
        }
        let code = outcome.as_ref().map_err(|error| Failure::from(error).code);
        creating.ended(code.map_or_else(FailureCode::as_str, |_| "created"));
        outcome
    }

    async fn make(
        &self,
        request: &CreateRequest,
        caller: &Caller,
        progress: &ProgressSink,
    ) -> Result<NewInstance, InstanceError> {
        let creating = self.pool.creating();
        let owner = self.owner(caller).await?;
        let (beginning, inventory) = self.beginnings.begin(&owner, &self.engine);
        let spec = self.plan(request, caller, inventory).await?;
        let taken = self.pool.take(&spec);
        self.pool.want(&spec.image, &spec.database);
        let warm = match taken {
            Some(taken) => self.assign(taken, &spec, &owner, &beginning).await,
            None => None,
        };
        let (created, mut unkept) = match warm {
            Some(made) => made,
            None => self.start(&spec, &owner, &beginning, progress).await?,
        };
        let Created {
            mut found,
            mut warnings,
            answers,
        } = created;
        let id = found.instance.id;
        if request.version.is_none()
            && spec.image != self.defaults.image
            && self.engine.default_image(&self.defaults.image).await == spec.image
        {
            // The policy may have chosen another one, and then it is no news.
            let (given, wanted) = (spec.image.version(), self.defaults.image.version());
            warnings.push(format!(
                "PostgreSQL {wanted}, the default, is not installed here: this is {given}, the newest that is."
            ));
        }
        progress.tell(Progress::Waiting);
        let answered = if answers {
            Ok(())
        } else {
            self.until_ready(&found).await
        };
        let connection = match answered {
            Ok(()) => self.lifetime(&spec, &found, caller).await.map(|lifetime| {
                found.instance.lifetime = lifetime;
                found
            }),
            Err(error) => Err(error),
        };
        let connection = match connection {
            Ok(found) => self.connection(found).await.map_err(InstanceError::from),
            Err(error) => Err(error),
        };
        drop(creating);
        match connection {
            Ok(connection) => {
                if connection.instance.lifetime == Lifetime::Session {
                    warnings.extend(self.unnoticed().await);
                }
                let (engine, port) = (connection.instance.engine.as_str(), connection.instance.port);
                tracing::info!(%id, engine, %port, image = %spec.image, %caller, "created");
                Ok(NewInstance {
                    connection,
                    warnings,
                    unkept,
                    sessions: self.sessions.clone(),
                    _awaited: self.tracker.token(),
                })
            }
            Err(error) => {
                unkept.remove().await;
                Err(error)
            }
        }
    }

    /// What to know of an instance that goes with this process where nobody would notice that it was killed.
    async fn unnoticed(&self) -> Option<String> {
        let owners = self.owners.clone();
        let me = tokio::task::spawn_blocking(move || owners.me()).await;
        let error = me.unwrap_or_else(|error| Err(io::Error::other(error))).err()?;
        Some(format!(
            "If this server is killed, nobody notices and the instance stays, because {error}: drop it when you are \
             done, give it a time to live, or have the setting local.state_dir name another folder."
        ))
    }

    /// How long a new instance stays.
    async fn lifetime(&self, spec: &InstanceSpec, found: &Found, caller: &Caller) -> Result<Lifetime, InstanceError> {
        Ok(match spec.ttl {
            Some(ttl) => Lifetime::Until(self.end(ttl, &found.instance).await?),
            None if caller.client.is_none() || self.keeps_on_exit => Lifetime::Unlimited,
            None => Lifetime::Session,
        })
    }

    /// When an instance ends that lives so long from now on.
    async fn end(&self, ttl: Ttl, instance: &Instance) -> Result<SystemTime, InstanceError> {
        Ok(ttl.end(self.engine.now(instance.engine).await?))
    }

    /// Has an instance live for some time from now on, whatever it would have lived for; `None` leaves that time to the
    /// policy. Returns it as it is then.
    ///
    /// # Errors
    /// If there is none with this id, or the policy denies it.
    pub async fn extend(
        &self,
        id: InstanceId,
        ttl_seconds: Option<u64>,
        caller: &Caller,
    ) -> Result<Instance, InstanceError> {
        let found = self.find(id).await?;
        let planned = self
            .policy
            .plan_extend(&found.instance, ttl_seconds, caller, self.inventory())
            .await;
        let ttl = planned.inspect_err(|rejection| count("extend", rejection))?;
        let lifetime = Lifetime::Until(self.end(ttl, &found.instance).await?);
        self.engine.keep(id, lifetime).await?;
        self.sessions.remove(id);
        // Looked at again: it may have been removed at its end while it was put off.
        let found = self.find(id).await?;
        tracing::info!(%id, %caller, "extended");
        Ok(found.instance)
    }

    /// Every instance that the caller may see, oldest first.
    ///
    /// # Errors
    /// If the engine can't tell, or the policy is broken.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<Instance>, InstanceError> {
        let instances = self.sweeper.not_over(self.engine.list().await?).await;
        let verdicts = self.authorize_each(Action::List, &instances, caller).await?;
        let mut visible = Vec::new();
        for (instance, verdict) in instances.into_iter().zip(verdicts) {
            match verdict {
                Ok(()) => visible.push(instance),
                // `Debug` keeps a guest's words on one line.
                Err(reason) => tracing::debug!(id = %instance.id, ?reason, "left out of the list"),
            }
        }
        Ok(visible)
    }

    /// Why a list may be too short, as a clause, where there is reason to think that it is.
    pub async fn overlooked(&self) -> Option<String> {
        self.engine.overlooked().await
    }

    /// Every instance that this process's user may see, for the metrics, which don't count what is denied here.
    ///
    /// # Errors
    /// As [`InstanceManager::list`].
    pub async fn present(&self) -> Result<Vec<Instance>, InstanceError> {
        let instances = self.engine.list().await?;
        if self.policy.only_monitors() {
            // Nobody has asked for what they would deny here.
            return Ok(instances);
        }
        let caller = self.caller();
        let verdicts = self
            .policy
            .authorize_each(Action::List, &instances, &caller, self.inventory())
            .await?;
        let visible = instances.into_iter().zip(verdicts);
        Ok(visible
            .filter_map(|(instance, verdict)| verdict.ok().map(|()| instance))
            .collect())
    }

    /// One instance with its credentials.
    ///
    /// # Errors
    /// If there is none with this id, or the policy denies it.
    pub async fn get(&self, id: InstanceId, caller: &Caller) -> Result<Connection, InstanceError> {
        let found = self.allowed(id, Action::Get, caller).await?;
        Ok(self.connection(found).await?)
    }

    /// Removes an instance with its data, one that is damaged, too: the policy is then asked about what can still be read of
    /// it.
    ///
    /// # Errors
    /// If there is none with this id, or the policy denies it.
    pub async fn remove(&self, id: InstanceId, caller: &Caller) -> Result<(), InstanceError> {
        let target = match self.sweeper.legible(id).await? {
            Some(instance) if !self.sweeper.is_over(&instance).await => instance,
            _ => return Err(self.not_found(id).await),
        };
        self.authorize(Action::Drop, &target, caller).await?;
        if !self.engine.remove(id).await? {
            return Err(self.not_found(id).await);
        }
        self.sessions.remove(id);
        tracing::info!(%id, %caller, "dropped");
        Ok(())
    }

    /// Runs a query on an instance and says how it went. An instance that doesn't answer is a report, not an error.
    ///
    /// # Errors
    /// If there is none with this id, or the policy denies it.
    pub async fn health(&self, id: InstanceId, caller: &Caller) -> Result<HealthReport, InstanceError> {
        let found = self.allowed(id, Action::Health, caller).await?;
        let answer = async {
            match found.instance.status {
                Status::Stopped => (Health::Stopped, "The instance has stopped.".to_owned(), None),
                Status::Created => (Health::Starting, "The instance has not been started yet.".into(), None),
                Status::Paused => (Health::Unhealthy, "The instance is paused.".into(), None),
                Status::Running => match probe::query(&found, HEALTH_TIMEOUT).await {
                    Ok(latency) => (Health::Healthy, "PostgreSQL answered a query.".into(), Some(latency)),
                    Err(error) => (
                        self.silent(&found, &error),
                        format!("PostgreSQL did not answer a query: {error}."),
                        None,
                    ),
                },
            }
        };
        let ((health, mut message, latency), kills) = tokio::join!(answer, self.memory_kills(id));
        if let Some(kills) = kills {
            message = format!("{message} {kills}");
        }
        Ok(HealthReport {
            id,
            health,
            message,
            latency,
            checked_at: SystemTime::now(),
        })
    }

    /// What an instance takes and how busy it is, or each one that the caller may see, oldest first. Takes a second or two,
    /// and longer for more than eight. One that doesn't answer is among them, with the reason.
    ///
    /// # Errors
    /// If there is none with this id, the policy denies it or is broken, or the engine can't tell which there are.
    pub async fn stats(&self, id: Option<InstanceId>, caller: &Caller) -> Result<Vec<Stats>, InstanceError> {
        if let Some(id) = id {
            let found = self.allowed(id, Action::Health, caller).await?;
            return Ok(vec![self.measure(found).await]);
        }
        let instances = self.list(caller).await?;
        let verdicts = self.authorize_each(Action::Health, &instances, caller).await?;
        let measured = stream::iter(instances.into_iter().zip(verdicts)).map(|(instance, verdict)| async move {
            let problem = match verdict {
                Ok(()) => match self.engine.get(instance.id).await {
                    Ok(Some(found)) => return Some(self.measure(found).await),
                    // Dropped meanwhile.
                    Ok(None) => return None,
                    Err(error) => error.to_string(),
                },
                Err(reason) => Rejection::Denied(reason).to_string(),
            };
            Some(Stats {
                instance,
                usage: Usage::default(),
                connections: None,
                problems: vec![problem],
            })
        });
        // In their order.
        Ok(measured
            .buffered(STATS_AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await)
    }

    async fn measure(&self, found: Found) -> Stats {
        let usage = async {
            match timeout(USAGE_TIMEOUT, self.engine.usage(found.instance.id)).await {
                Ok(Ok(Some(usage))) => Ok(usage),
                Ok(Ok(None)) => Err("it was dropped meanwhile".into()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!(
                    "what it takes was not told within {} s",
                    USAGE_TIMEOUT.as_secs()
                )),
            }
        };
        let connections = async {
            match found.instance.status {
                Status::Running => match probe::connections(&found, HEALTH_TIMEOUT).await {
                    Ok(count) => Ok(Some(count)),
                    Err(error) => Err(format!("PostgreSQL did not answer a query: {error}")),
                },
                // Its status says why it has none.
                Status::Created | Status::Paused | Status::Stopped => Ok(None),
            }
        };
        let (usage, connections) = tokio::join!(usage, connections);
        let mut problems = Vec::new();
        Stats {
            usage: usage.unwrap_or_else(|problem: String| {
                problems.push(problem);
                Usage::default()
            }),
            connections: connections.unwrap_or_else(|problem| {
                problems.push(problem);
                None
            }),
            instance: found.instance,
            problems,
        }
    }

    /// How often the kernel has killed a process of an instance for want of memory; `None` if never, as far as can be told.
    async fn memory_kills(&self, id: InstanceId) -> Option<MemoryKills> {
        let told = match timeout(HEALTH_TIMEOUT, self.engine.memory_kills(id)).await {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => {
                tracing::debug!(%id, error = ?error.to_string(), "nobody knows whether it had too little memory");
                None
            }
            Err(_) => None,
        };
        told.filter(|kills| kills.count > 0)
    }

    /// Runs one statement on an instance. Who may read an instance may do so.
    ///
    /// # Errors
    /// If there is none with this id, the policy denies it, or the statement fails or passes a limit.
    pub async fn query(
        &self,
        id: InstanceId,
        statement: &str,
        parameters: &[sql::Value],
        caller: &Caller,
    ) -> Result<sql::Table, InstanceError> {
        let found = self.allowed(id, Action::Get, caller).await?;
        Ok(sql::query(&found, statement, parameters, &self.tracker).await?)
    }

    /// Runs a script of SQL on an instance. Who may read an instance may do so.
    ///
    /// # Errors
    /// If there is none with this id, the policy denies it, or a statement fails or passes a limit.
    pub async fn execute(&self, id: InstanceId, script: &str, caller: &Caller) -> Result<(), InstanceError> {
        let found = self.allowed(id, Action::Get, caller).await?;
        Ok(sql::execute(&found, script, &self.tracker).await?)
    }

    /// A server that doesn't answer is given the time of a create before it counts as unhealthy.
    fn silent(&self, found: &Found, error: &ProbeError) -> Health {
        // A clock that ran backwards makes the instance new, not ill.
        let age = found.instance.created_at.elapsed().unwrap_or_default();
        match error {
            ProbeError::Silent(_) | ProbeError::TimedOut(_) if age < self.ready_timeout => Health::Starting,
            _ => Health::Unhealthy,
        }
    }

    async fn allowed(&self, id: InstanceId, action: Action, caller: &Caller) -> Result<Found, InstanceError> {
        let found = self.find(id).await?;
        self.authorize(action, &found.instance, caller).await?;
        Ok(found)
    }

    async fn authorize(&self, action: Action, target: &Instance, caller: &Caller) -> Result<(), InstanceError> {
        let verdict = self.policy.authorize(action, target, caller, self.inventory()).await;
        Ok(verdict.inspect_err(|rejection| count(action.as_str(), rejection))?)
    }

    /// An instance that is there and not over.
    async fn find(&self, id: InstanceId) -> Result<Found, InstanceError> {
        match self.engine.get(id).await? {
            Some(found) if !self.sweeper.is_over(&found.instance).await => Ok(found),
            _ => Err(self.not_found(id).await),
        }
    }

    async fn authorize_each(
        &self,
        action: Action,
        instances: &[Instance],
        caller: &Caller,
    ) -> Result<Vec<Result<(), String>>, InstanceError> {
        let verdicts = self
            .policy
            .authorize_each(action, instances, caller, self.inventory())
            .await;
        let verdicts = verdicts.inspect_err(|rejection| count(action.as_str(), rejection))?;
        for _ in verdicts.iter().filter(|verdict| verdict.is_err()) {
            METRICS.policy_denied(action.as_str(), false);
        }
        Ok(verdicts)
    }

    async fn not_found(&self, id: InstanceId) -> InstanceError {
        match self.engine.unseen().await {
            Some(unseen) => InstanceError::NotSeen { id, unseen },
            None => InstanceError::NotFound(id),
        }
    }

    async fn connection(&self, found: Found) -> Result<Connection, Rejection> {
        let dsn = self.policy.connection_uri(&found).await?;
        Ok(Connection {
            instance: found.instance,
            password: found.password,
            dsn,
        })
    }

    /// Makes an instance of a server that waits; `None` if that fails.
    #[tracing::instrument(level = "debug", name = "take", skip_all)]
    async fn assign(
        &self,
        ready: Ready,
        spec: &InstanceSpec,
        owner: &Owner,
        beginning: &Beginning,
    ) -> Option<(Created, Unkept)> {
        let Ready {
            waiting,
            unkept,
            counted,
            ..
        } = ready;
        drop(counted);
        beginning.becomes(waiting.id());
        match self.engine.assign(waiting, spec, owner).await {
            Ok(created) => Some((created, unkept)),
            // Dropped, it is removed.
            Err(error) => {
                tracing::info!(error = ?error.to_string(), "a server that was started ahead is of no use");
                None
            }
        }
    }

    /// Creates and starts the instance on the first port that the engine takes.
    #[tracing::instrument(level = "debug", name = "start", skip_all)]
    async fn start(
        &self,
        spec: &InstanceSpec,
        owner: &Owner,
        beginning: &Beginning,
        progress: &ProgressSink,
    ) -> Result<(Created, Unkept), InstanceError> {
        self.engine.prepare(&spec.image, progress).await?;
        let id = InstanceId::random();
        beginning.becomes(id);
        let mut candidates = self.ports.candidates(&mut rand::rng());
        loop {
            let lease = match candidates.next_lease() {
                Ok(lease) => lease,
                // Before a create fails for want of a port, one that only waits gives its own up.
                Err(_) if self.pool.give_up_one().await => {
                    candidates = self.ports.candidates(&mut rand::rng());
                    continue;
                }
                Err(exhausted) => return Err(exhausted.into()),
            };
            match self.engine.create(id, spec, owner, lease.port(), progress).await {
                Err(EngineError::PortTaken(port)) => tracing::debug!(%port, "taken, trying another"),
                Err(EngineError::Ended(ended)) => return Err(InstanceError::Died(redacted(ended, &spec.password))),
                outcome => return Ok((outcome?, Unkept::new(&self.engine, &self.tracker, id))),
            }
        }
    }

    /// Waits for the end of an instance's server; for ever if it can't be watched, since the probe has a deadline.
    async fn ended(&self, id: InstanceId) -> Ended {
        loop {
            match self.engine.ended(id).await {
                Ok(ended) => return ended,
                Err(error) => tracing::debug!(%id, error = ?error.to_string(), "can't be watched"),
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }

    #[tracing::instrument(level = "debug", name = "probe", skip_all)]
    async fn until_ready(&self, found: &Found) -> Result<(), InstanceError> {
        tokio::select! {
            biased;
            outcome = probe::until_ready(found, self.ready_timeout) => outcome.map_err(|error| match error {
                ProbeError::Refused(reason) => InstanceError::Refused(reason),
                error => InstanceError::NotReady { after: self.ready_timeout, reason: error.to_string() },
            }),
            ended = self.ended(found.instance.id) => Err(InstanceError::Died(redacted(ended, &found.password))),
        }
    }
}

/// Counts what the policy has denied. Arguments that don't fit are not its business alone.
fn count(action: &'static str, rejection: &Rejection) {
    match rejection {
        Rejection::Invalid(_) => {}
        Rejection::Denied(_) => METRICS.policy_denied(action, false),
        Rejection::Broken(_) => METRICS.policy_denied(action, true),
    }
}

/// The server's log is untrusted: whatever it quotes, the password goes no further.
fn redacted(ended: Ended, password: &Password) -> Ended {
    Ended {
        how: ended.how,
        // As a whole: a password may have line feeds.
        last_lines: without(&ended.last_lines.join("\n"), password.expose())
            .lines()
            .map(str::to_owned)
            .collect(),
    }
}

/// An instance that is dropped again unless it is kept.
#[derive(Debug)]
#[must_use = "an instance that isn't kept is dropped again"]
pub struct NewInstance {
    connection: Connection,
    warnings: Vec<String>,
    unkept: Unkept,
    sessions: Sessions,
    /// Whoever ends the process waits until it is kept, or its removal has begun: the last of the fields.
    _awaited: TaskTrackerToken,
}

impl NewInstance {
    /// What was made.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What whoever asked for it should know, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Has it live so long once it is kept.
    pub(crate) fn live(&mut self, lifetime: Lifetime) {
        self.connection.instance.lifetime = lifetime;
    }

    /// Lets it live on, for as long as its lifetime says: for when somebody has been told of it. An engine that fails is asked
    /// again for some seconds.
    ///
    /// # Errors
    /// If the engine can't keep it; it is dropped again then.
    pub async fn keep(mut self) -> Result<(), InstanceError> {
        let (id, lifetime) = (self.unkept.id, self.connection.instance.lifetime);
        let begun = Instant::now();
        loop {
            match self.unkept.engine.keep(id, lifetime).await {
                Ok(()) => break,
                // Whoever was told of it was faster with a drop: there is nothing to keep, and nothing to remove.
                Err(EngineError::Gone) => {
                    self.forget();
                    return Ok(());
                }
                Err(error) if begun.elapsed() >= KEEP_PATIENCE => return Err(error.into()),
                Err(error) => tracing::debug!(%id, error = ?error.to_string(), "could not be kept yet"),
            }
            tokio::time::sleep(KEEP_PAUSE).await;
            // It may have been done all the same, and extended since.
            if matches!(self.unkept.engine.get(id).await, Ok(Some(found)) if found.instance.lifetime != Lifetime::Session)
            {
                break;
            }
        }
        self.unkept.armed = false;
        if lifetime == Lifetime::Session && !self.sessions.add(id) {
            let engine = Arc::clone(&self.unkept.engine);
            self.unkept.tracker.spawn(remove_stubbornly(engine, id, SESSION_ENDED));
        }
        Ok(())
    }

    /// Does nothing more about it: it is gone already.
    pub(crate) fn forget(mut self) {
        self.unkept.armed = false;
    }
}

/// Removes an instance when it goes out of scope.
#[derive(Debug)]
struct Unkept {
    engine: Arc<dyn Engine>,
    tracker: TaskTracker,
    id: InstanceId,
    armed: bool,
}

impl Unkept {
    fn new(engine: &Arc<dyn Engine>, tracker: &TaskTracker, id: InstanceId) -> Self {
        Self {
            engine: Arc::clone(engine),
            tracker: tracker.clone(),
            id,
            armed: true,
        }
    }

    /// Removes it now. Dropped half-way, or if it takes long, it goes on in the background.
    async fn remove(&mut self) {
        if let Some(removal) = self.removal() {
            // A removal that panicked has nothing to tell that the log doesn't have.
            let _ = timeout(REMOVAL_WAIT, removal).await;
        }
    }

    fn removal(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        if !std::mem::take(&mut self.armed) {
            return None;
        }
        let (engine, id) = (Arc::clone(&self.engine), self.id);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::error!(%id, "could not be removed: the process is ending");
            return None;
        };
        Some(
            self.tracker
                .spawn_on(remove_stubbornly(engine, id, "nobody has been told of it"), &runtime),
        )
    }
}

impl Drop for Unkept {
    fn drop(&mut self) {
        self.removal();
    }
}

async fn remove_stubbornly(engine: Arc<dyn Engine>, id: InstanceId, why: &'static str) {
    let begun = Instant::now();
    let mut pause = REMOVAL_PAUSE;
    loop {
        match engine.remove(id).await {
            Ok(_) => {
                tracing::info!(%id, "removed: {why}");
                return;
            }
            Err(error) if begun.elapsed() >= REMOVAL_PATIENCE => {
                tracing::error!(%id, %error, "could not be removed: `dev-postgres-mcp postgres drop` or `postgres prune` does it later");
                return;
            }
            Err(error) if pause == REMOVAL_PAUSE => tracing::warn!(%id, %error, "could not be removed yet"),
            Err(error) => tracing::debug!(%id, %error, "could not be removed yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(REMOVAL_PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use async_trait::async_trait;
    use proptest::prelude::*;
    use proptest::test_runner::FileFailurePersistence;

    use super::*;
    use crate::engine::fake::{FakeEngine, Server};
    use crate::instance::{ConnectionUri, DatabaseName, Image, Limits, RoleName, Share};
    use crate::plugins::cache::Cache;
    use crate::plugins::policy::ComponentPolicy;
    use crate::plugins::{Runtime, Source};

    /// Allows what it is told to, and plans every create with the same password.
    #[derive(Debug, Default)]
    pub(super) struct Rules {
        denied: Vec<Action>,
        creates_denied: bool,
        broken: bool,
    }

    #[async_trait]
    impl Policy for Rules {
        async fn plan_create(
            &self,
            _request: &CreateRequest,
            defaults: &Defaults,
            _caller: &Caller,
            _inventory: Arc<dyn Inventory>,
        ) -> Result<InstanceSpec, Rejection> {
            if self.creates_denied {
                return Err(Rejection::Denied("office hours are over".into()));
            }
            Ok(InstanceSpec {
                image: defaults.image.clone(),
                database: "postgres".parse().expect("a database name"),
                username: "postgres".parse().expect("a role name"),
                password: Password::new("s3cret").expect("a password"),
                limits: defaults.limits,
                durable: defaults.durable,
                ttl: None,
            })
        }

        async fn authorize(
            &self,
            action: Action,
            _target: &Instance,
            _caller: &Caller,
            _inventory: Arc<dyn Inventory>,
        ) -> Result<(), Rejection> {
            if self.broken {
                return Err(Rejection::Broken("it trapped".into()));
            }
            if self.denied.contains(&action) {
                return Err(Rejection::Denied("not yours".into()));
            }
            Ok(())
        }

        async fn connection_uri(&self, _found: &Found) -> Result<ConnectionUri, Rejection> {
            Ok(ConnectionUri::new("postgresql://".into()))
        }
    }

    struct Desk {
        engine: Arc<FakeEngine>,
        manager: InstanceManager,
        tracker: TaskTracker,
    }

    fn desk(engine: FakeEngine, rules: Rules, ports: &str) -> Desk {
        desk_with(engine, Arc::new(rules), ports)
    }

    fn desk_with(engine: FakeEngine, policy: Arc<dyn Policy>, ports: &str) -> Desk {
        let engine = Arc::new(engine);
        let tracker = TaskTracker::new();
        let settings = Settings {
            defaults: Defaults {
                image: Image::new("postgres", "17").expect("an image"),
                limits: Limits::new(512, 1000).expect("limits"),
                durable: false,
            },
            ports: ports.parse().expect("a range"),
            pool_size: 0,
            ready_timeout: Duration::from_mins(1),
            keeps_on_exit: false,
            team: None,
        };
        let manager = InstanceManager::new(engine.clone(), policy, settings, Owners::new(None), tracker.clone());
        Desk {
            engine,
            manager,
            tracker,
        }
    }

    impl Desk {
        async fn create(&self) -> Result<NewInstance, InstanceError> {
            self.manager
                .create(&CreateRequest::default(), &caller(), &ProgressSink::none())
                .await
        }
    }

    fn caller() -> Caller {
        Caller {
            client: Some("test".into()),
            ..Caller::default()
        }
    }

    #[tokio::test]
    async fn a_create_that_the_policy_denies_never_reaches_the_engine() {
        let rules = Rules {
            creates_denied: true,
            ..Rules::default()
        };
        let desk = desk(FakeEngine::default(), rules, "1-1");
        let error = desk.create().await.expect_err("the policy denies it");
        let failure = Failure::from(&error);
        assert_eq!(failure.code, FailureCode::Denied);
        assert_eq!(failure.message, "the policy denies it: office hours are over");
        assert!(desk.engine.calls().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn every_port_is_tried_before_the_range_counts_as_exhausted() {
        let engine = FakeEngine {
            taken: vec![1, 2, 3],
            ..FakeEngine::default()
        };
        let desk = desk(engine, Rules::default(), "1-3");
        let error = desk.create().await.expect_err("all ports are taken");
        assert_eq!(Failure::from(&error).code, FailureCode::Exhausted);
        assert_eq!(error.to_string(), "every port of 1-3 is taken");
        let mut calls = desk.engine.calls();
        calls.sort();
        assert_eq!(calls, ["create 1", "create 2", "create 3", "prepare postgres:17"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_taken_port_reaches_no_user_while_another_is_free() {
        let engine = FakeEngine {
            taken: vec![1, 2],
            ..FakeEngine::default()
        };
        let desk = desk(engine, Rules::default(), "1-3");
        let error = desk.create().await.expect_err("nothing listens on port 3");
        assert!(matches!(error, InstanceError::NotReady { .. }), "{error}");
        assert!(desk.engine.calls().contains(&"create 3".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_ends_the_create_by_its_deadline_and_is_removed() {
        let desk = desk(FakeEngine::default(), Rules::default(), "9-9");
        let begun = tokio::time::Instant::now();
        let error = desk.create().await.expect_err("nothing listens");
        assert!(begun.elapsed() <= Duration::from_secs(61), "{:?}", begun.elapsed());
        let failure = Failure::from(&error);
        assert_eq!(failure.code, FailureCode::TimedOut);
        assert!(
            failure.message.starts_with("PostgreSQL did not answer within 60 s: "),
            "{failure}"
        );
        assert!(desk.engine.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_dies_ends_the_create_with_its_last_words_but_not_its_password() {
        let engine = FakeEngine {
            server: Server::Dies(Ended {
                how: "exited with code 1".into(),
                last_lines: vec!["FATAL: s3cret is no setting".into()],
            }),
            ..FakeEngine::default()
        };
        let desk = desk(engine, Rules::default(), "9-9");
        let error = desk.create().await.expect_err("the server dies");
        assert_eq!(
            error.to_string(),
            "PostgreSQL ended before it answered: it exited with code 1; its log ends with:\n\
             FATAL: [redacted] is no setting"
        );
        assert!(desk.engine.is_empty());
    }

    #[tokio::test]
    async fn what_goes_with_a_process_whose_end_nobody_would_notice_comes_with_a_warning_and_nothing_else_does() {
        let state = tempfile::tempdir().expect("a folder");
        for (owners, client, warned) in [
            (Owners::new(None), Some("test"), true),
            (Owners::new(Some(state.path())), Some("test"), false),
            // What the command line makes stays until it is dropped.
            (Owners::new(None), None, false),
        ] {
            let engine = FakeEngine {
                server: Server::Answers,
                ..FakeEngine::default()
            };
            let desk = desk(engine, Rules::default(), "9-9");
            let manager = InstanceManager { owners, ..desk.manager };
            let caller = Caller {
                client: client.map(str::to_owned),
                ..Caller::default()
            };
            let (request, sink) = (CreateRequest::default(), ProgressSink::none());
            let new = manager.create(&request, &caller, &sink).await.expect("created");
            let warnings = new.warnings().join("\n");
            assert_eq!(warnings.contains("local.state_dir"), warned, "{warnings}");
            assert_eq!(new.warnings().len(), usize::from(warned), "{warnings}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_engine_cannot_remove_goes_when_it_is_back_and_nobody_waits_for_that() {
        let engine = FakeEngine {
            server: Server::Dies(Ended {
                how: "exited with code 1".into(),
                last_lines: Vec::new(),
            }),
            failing_removals: 60.into(),
            ..FakeEngine::default()
        };
        let desk = desk(engine, Rules::default(), "9-9");
        let begun = Instant::now();
        desk.create().await.expect_err("the server dies");
        assert!(begun.elapsed() <= REMOVAL_WAIT, "{:?}", begun.elapsed());
        assert!(!desk.engine.is_empty());
        desk.tracker.close();
        desk.tracker.wait().await;
        assert!(desk.engine.is_empty());
        assert!(begun.elapsed() > Duration::from_mins(10), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_died_in_an_outage_is_said_to_have_died_when_that_can_be_told() {
        let engine = FakeEngine {
            server: Server::Dies(Ended {
                how: "exited with code 137".into(),
                last_lines: Vec::new(),
            }),
            failing_watches: 5.into(),
            ..FakeEngine::default()
        };
        let desk = desk(engine, Rules::default(), "9-9");
        let error = desk.create().await.expect_err("the server dies");
        assert!(matches!(error, InstanceError::Died(_)), "{error}");
        assert!(desk.engine.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_that_is_dropped_half_way_leaves_nothing() {
        let desk = desk(FakeEngine::default(), Rules::default(), "9-9");
        assert!(
            tokio::time::timeout(Duration::from_secs(1), desk.create())
                .await
                .is_err()
        );
        desk.tracker.close();
        desk.tracker.wait().await;
        assert!(desk.engine.is_empty());
        assert_eq!(desk.engine.calls().last().map(String::as_str), Some("remove"));
    }

    #[tokio::test]
    async fn what_the_policy_denies_is_not_done() {
        for (action, stats) in [
            (Action::Get, false),
            (Action::Drop, false),
            (Action::Health, false),
            (Action::Health, true),
        ] {
            let (engine, id) = FakeEngine::default().with_instance(Status::Running);
            let rules = Rules {
                denied: vec![action],
                ..Rules::default()
            };
            let desk = desk(engine, rules, "1-1");
            let outcome = match action {
                Action::Get => desk.manager.get(id, &caller()).await.map(drop),
                Action::Drop => desk.manager.remove(id, &caller()).await,
                Action::Health if stats => desk.manager.stats(Some(id), &caller()).await.map(drop),
                Action::Health => desk.manager.health(id, &caller()).await.map(drop),
                Action::List => unreachable!("not in the list above"),
            };
            let error = outcome.expect_err("the policy denies it");
            assert_eq!(Failure::from(&error).code, FailureCode::Denied);
            assert_eq!(desk.engine.calls(), ["get"]);
        }
    }

    #[tokio::test]
    async fn the_list_shows_what_the_policy_shows() {
        let (engine, _) = FakeEngine::default().with_instance(Status::Running);
        let rules = Rules {
            denied: vec![Action::List],
            ..Rules::default()
        };
        let desk = desk(engine, rules, "1-1");
        assert_eq!(desk.manager.list(&caller()).await.expect("a list"), []);
    }

    #[tokio::test]
    async fn a_broken_policy_denies_everything() {
        let (engine, id) = FakeEngine::default().with_instance(Status::Running);
        let rules = Rules {
            broken: true,
            ..Rules::default()
        };
        let desk = desk(engine, rules, "1-1");
        for error in [
            desk.manager.list(&caller()).await.expect_err("broken"),
            desk.manager.remove(id, &caller()).await.expect_err("broken"),
        ] {
            assert_eq!(Failure::from(&error).code, FailureCode::Internal);
        }
        assert!(!desk.engine.is_empty());
    }

    #[tokio::test]
    async fn an_instance_that_is_not_there_is_not_found() {
        let desk = desk(FakeEngine::default(), Rules::default(), "1-1");
        let error = desk
            .manager
            .remove(InstanceId::random(), &caller())
            .await
            .expect_err("there is none");
        assert_eq!(Failure::from(&error).code, FailureCode::NotFound);
    }

    #[tokio::test]
    async fn health_says_what_the_engine_says_of_a_server_that_does_not_run() {
        for (status, health) in [
            (Status::Created, Health::Starting),
            (Status::Paused, Health::Unhealthy),
            (Status::Stopped, Health::Stopped),
            // It runs, nothing listens, and it is young.
            (Status::Running, Health::Starting),
        ] {
            let (engine, id) = FakeEngine::default().with_instance(status);
            let desk = desk(engine, Rules::default(), "1-1");
            let report = desk.manager.health(id, &caller()).await.expect("a report");
            assert_eq!((report.health, report.latency), (health, None), "{}", report.message);
        }
    }

    fn usage() -> Usage {
        Usage {
            cpu_millis: Some(Share {
                used: 120,
                limit: Some(1000),
            }),
            memory_bytes: None,
            disk_bytes: Some(7),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_instances_take_is_asked_of_eight_at_once_and_told_in_their_order() {
        let mut engine = FakeEngine {
            usage: usage(),
            ..FakeEngine::default()
        };
        for _ in 0..20 {
            (engine, _) = engine.with_instance(Status::Stopped);
        }
        let desk = desk(engine, Rules::default(), "1-1");
        let listed = desk.manager.list(&caller()).await.expect("a list");
        let stats = desk.manager.stats(None, &caller()).await.expect("figures");
        let of: Vec<_> = stats.iter().map(|stats| stats.instance.clone()).collect();
        assert_eq!(of, listed);
        assert!(
            stats
                .iter()
                .all(|stats| stats.usage == usage() && stats.problems.is_empty())
        );
        assert_eq!(desk.engine.measured_at_once.load(Ordering::Relaxed), STATS_AT_ONCE);
    }

    #[tokio::test]
    async fn an_instance_that_does_not_answer_is_among_the_figures_with_the_reason() {
        let (engine, id) = FakeEngine::default().with_instance(Status::Running);
        let desk = desk(engine, Rules::default(), "1-1");
        let stats = desk.manager.stats(Some(id), &caller()).await.expect("figures");
        assert_eq!(stats[0].connections, None);
        let problems = stats[0].problems.join("; ");
        assert!(problems.contains("did not answer a query"), "{problems}");
    }

    #[tokio::test]
    async fn what_may_be_seen_and_not_be_checked_is_told_with_the_policys_reason_and_not_asked() {
        let (engine, id) = FakeEngine::default().with_instance(Status::Running);
        let rules = Rules {
            denied: vec![Action::Health],
            ..Rules::default()
        };
        let desk = desk(engine, rules, "1-1");
        let stats = desk.manager.stats(None, &caller()).await.expect("figures");
        assert_eq!((stats.len(), stats[0].instance.id), (1, id));
        assert_eq!(stats[0].problems, ["the policy denies it: not yours"]);
        assert_eq!(desk.engine.calls(), ["list"]);
    }

    #[tokio::test]
    async fn a_damaged_instance_cannot_be_read_and_is_dropped_if_the_policy_allows() {
        for denied in [vec![Action::Drop], vec![]] {
            let (engine, id) = FakeEngine::default().with_instance(Status::Running);
            engine.damaged.lock().expect("unpoisoned").push(id);
            let may_be_dropped = denied.is_empty();
            let rules = Rules {
                denied,
                ..Rules::default()
            };
            let desk = desk(engine, rules, "1-1");
            assert_eq!(desk.manager.list(&caller()).await.expect("a list"), []);
            let error = desk.manager.get(id, &caller()).await.expect_err("it makes no sense");
            assert_eq!(Failure::from(&error).code, FailureCode::Failed);
            let dropped = desk.manager.remove(id, &caller()).await;
            assert_eq!(dropped.is_ok(), may_be_dropped, "{dropped:?}");
            assert_eq!(desk.engine.is_empty(), may_be_dropped);
        }
    }

    #[tokio::test]
    async fn what_the_policy_denies_is_counted() {
        // Only this test has a policy fail in this.
        let denied = || {
            let text = METRICS.text(None).expect("text");
            text.contains("policy_denials_total{action=\"health\",cause=\"failure\",mode=\"enforce\"} 1")
        };
        assert!(!denied());
        let (engine, id) = FakeEngine::default().with_instance(Status::Running);
        let rules = Rules {
            broken: true,
            ..Rules::default()
        };
        let desk = desk(engine, rules, "1-1");
        desk.manager.health(id, &caller()).await.expect_err("broken");
        assert!(denied());
    }

    #[tokio::test]
    async fn health_says_what_befell_an_instance_for_want_of_memory_and_nothing_where_nothing_did() {
        let kills = |count| {
            Some(MemoryKills {
                count,
                limit_bytes: Some(256 << 20),
            })
        };
        let killed = "The instance has stopped. Since it was started, the kernel has killed 2 processes of it for want of \
                      memory, which ends all sessions: it may have 256 MiB (instance.memory_mib).";
        for (memory_kills, message) in [
            (None, "The instance has stopped."),
            (kills(0), "The instance has stopped."),
            (kills(2), killed),
        ] {
            let (engine, id) = FakeEngine {
                memory_kills,
                ..FakeEngine::default()
            }
            .with_instance(Status::Stopped);
            let desk = desk(engine, Rules::default(), "1-1");
            let report = desk.manager.health(id, &caller()).await.expect("a report");
            assert_eq!((report.health, report.message.as_str()), (Health::Stopped, message));
        }
    }

    /// Texts of every kind, many of them close to what is allowed.
    fn texts() -> impl Strategy<Value = Option<String>> {
        const SPECIAL: [&str; 11] = [
            "",
            "public",
            "none",
            "template0",
            "pg_",
            "a\0b",
            "Ünï \"x\" 'y'",
            "\\",
            "\n",
            "%41",
            "$1; --",
        ];
        let text = prop_oneof![
            any::<String>(),
            "[a-z\\x00ü]{60,66}",
            "\\PC{0,40}",
            "[x\\x00]{1020,1028}",
            proptest::sample::select(&SPECIAL[..]).prop_map(str::to_owned),
        ];
        proptest::option::of(text)
    }

    #[test]
    fn what_no_server_can_take_is_refused_before_the_engine_is_asked_and_anything_else_reaches_it_as_it_is() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let source = Source {
            name: "policy-default".into(),
            from: "built in".into(),
            bytes: include_bytes!(concat!(env!("OUT_DIR"), "/policy-default.wasm"))
                .as_slice()
                .into(),
            sha256: None,
            settings: serde_json::Map::new(),
        };
        let sandboxes = Runtime::new(Cache::default()).expect("this machine runs WebAssembly");
        let loaded = runtime.block_on(ComponentPolicy::load(&sandboxes, &source));
        let policy: Arc<dyn Policy> = Arc::new(loaded.expect("it loads"));
        let config = ProptestConfig {
            cases: 400,
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/regressions"
            )))),
            ..ProptestConfig::default()
        };
        proptest!(config, |(database in texts(), username in texts(), password in texts())| {
            let fits = database.as_deref().is_none_or(|text| text.parse::<DatabaseName>().is_ok())
                && username.as_deref().is_none_or(|text| text.parse::<RoleName>().is_ok())
                && password.as_deref().is_none_or(|text| Password::new(text).is_ok());
            let request = CreateRequest {
                database: database.clone(),
                username: username.clone(),
                password: password.clone().map(Into::into),
                ..CreateRequest::default()
            };
            let engine = FakeEngine {
                server: Server::Dies(Ended { how: "ended".into(), last_lines: Vec::new() }),
                ..FakeEngine::default()
            };
            let desk = desk_with(engine, Arc::clone(&policy), "9-9");
            let sink = ProgressSink::none();
            let error = runtime.block_on(desk.manager.create(&request, &caller(), &sink)).expect_err("it dies");
            if !fits {
                prop_assert!(matches!(error, InstanceError::Rejected(Rejection::Invalid(_))), "{error}");
                prop_assert_eq!(desk.engine.calls(), Vec::<String>::new());
                return Ok(());
            }
            prop_assert!(matches!(error, InstanceError::Died(_)), "{error}");
            let asked = desk.engine.specs();
            prop_assert_eq!(asked.len(), 1);
            prop_assert_eq!(asked[0].database.as_str(), database.as_deref().unwrap_or("postgres"));
            prop_assert_eq!(asked[0].username.as_str(), username.as_deref().unwrap_or("postgres"));
            prop_assert!(password.is_none_or(|password| password == asked[0].password.expose()));
        });
    }
}
