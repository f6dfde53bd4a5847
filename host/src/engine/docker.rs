//! PostgreSQL in containers of a Docker daemon. Only this module and those below it know bollard.
//!
//! | label | of a container | |
//! |---|---|---|
//! | `dev-postgres-mcp.id` | the instance's id | makes it ours |
//! | `dev-postgres-mcp.version` | PostgreSQL's version, the image's tag | |
//! | `dev-postgres-mcp.database` | the first database | |
//! | `dev-postgres-mcp.username` | the superuser | |
//! | `dev-postgres-mcp.port` | the published port | |
//! | `dev-postgres-mcp.created-at` | RFC 3339, UTC, to the second | |
//! | `dev-postgres-mcp.owner` | the process that made it, see [`crate::owner`]: it goes with that process if it has no [`lease`] |
//! | `dev-postgres-mcp.machine`, `.process-id`, `.team`, `.client` | who that was, for people and policies | |
//! | `dev-postgres-mcp.network` | of a network: its name | makes it ours |
//! | `dev-postgres-mcp.template` | of an image: which template it is | makes it ours |
//! | `dev-postgres-mcp.template-of` | of such an image: the image that it was made from | |
//!
//! One that was started ahead has no database, username, client and created-at.
//!
//! The password is no label: it is in the container's environment, which `docker ps` doesn't show.
//!
//! A container that was started ahead is called `mcp-postgres-pool-<id>` while it waits, and `mcp-postgres-<id>` from when
//! it is an instance; names and password are in a file in it then. One that waits for too long goes, whoever owns it.

mod assign;
mod bootstrap;
mod client;
mod container;
mod create;
mod diagnose;
mod ended;
mod endpoint;
mod image;
mod lease;
mod network;
mod prune;
mod record;
mod remove;
mod template;
mod usage;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum,
};
use bollard::query_parameters::InspectContainerOptions;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio_util::task::TaskTracker;

use self::client::{CallError, Client, Trace};
use self::record::Record;
use super::{Diagnosis, Ended, Engine, EngineError, Pruned, Waiting};
use crate::instance::{
    Created, EngineKind, Found, Image, Instance, InstanceId, InstanceSpec, Lifetime, MemoryKills, Owner, Port,
    ProgressSink, Status, Usage,
};
use crate::owner::Owners;

/// The labels' keys.
mod label {
    pub(super) const ID: &str = "dev-postgres-mcp.id";
    pub(super) const VERSION: &str = "dev-postgres-mcp.version";
    pub(super) const DATABASE: &str = "dev-postgres-mcp.database";
    pub(super) const USERNAME: &str = "dev-postgres-mcp.username";
    pub(super) const PORT: &str = "dev-postgres-mcp.port";
    pub(super) const CREATED_AT: &str = "dev-postgres-mcp.created-at";
    pub(super) const TEMPLATE: &str = "dev-postgres-mcp.template";
    pub(super) const OWNER: &str = "dev-postgres-mcp.owner";
    pub(super) const MACHINE: &str = "dev-postgres-mcp.machine";
    pub(super) const PROCESS_ID: &str = "dev-postgres-mcp.process-id";
    pub(super) const STARTED_AT: &str = "dev-postgres-mcp.started-at";
    pub(super) const TEAM: &str = "dev-postgres-mcp.team";
    pub(super) const CLIENT: &str = "dev-postgres-mcp.client";
    pub(super) const TEMPLATE_OF: &str = "dev-postgres-mcp.template-of";
    pub(super) const NETWORK: &str = "dev-postgres-mcp.network";
}

/// How long Docker may take to say that it is there: a daemon that is alive takes a millisecond.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// For how long an answer shows that Docker is there: one create asks three times.
const ANSWER_HOLDS: Duration = Duration::from_secs(1);

/// How many containers are read at once.
const READS_AT_ONCE: usize = 8;
/// For how long it is known how far the daemon's clock is from this machine's.
const CLOCK_HOLDS: Duration = Duration::from_mins(1);
/// How long a server may wait to become an instance of which it can't be told here whether its owner lives: its pool has
/// another in its place long before.
const WAITING_MAX: Duration = Duration::from_hours(12);

/// What the Docker engine goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerSettings {
    /// Where Docker is, in the notation of `DOCKER_HOST`; `None` finds it as Docker's own client does.
    pub host: Option<String>,
    /// The address of a remote Docker host that instances are published on; `None` takes the one that the host's name
    /// resolves to. Where Docker is on this machine, they are published on 127.0.0.1 whatever this says.
    pub publish_address: Option<IpAddr>,
    /// The network that instances share.
    pub network: String,
    /// How long Docker may take for any one request, pulling aside.
    pub request_timeout: Duration,
    /// How long pulling an image may take.
    pub pull_timeout: Duration,
    /// How long a started server may take until it answers.
    pub ready_timeout: Duration,
}

impl Default for DockerSettings {
    fn default() -> Self {
        Self {
            host: None,
            publish_address: None,
            network: "dev-postgres-mcp".into(),
            request_timeout: Duration::from_secs(30),
            pull_timeout: Duration::from_mins(10),
            ready_timeout: Duration::from_mins(1),
        }
    }
}

/// Runs instances as containers.
#[derive(Clone)]
pub struct DockerEngine {
    settings: DockerSettings,
    client: Client,
    tracker: TaskTracker,
    owners: Owners,
    /// What is known of instances that were started ahead: it never changes, and Docker takes 60 ms to tell.
    records: Arc<Mutex<HashMap<InstanceId, Record>>>,
    /// When the daemon was last asked for the time, by this machine's clock, and what it said.
    clock: Arc<Mutex<Option<(SystemTime, SystemTime)>>>,
    /// Templates that could not be made, and when: their images' own way is taken for some time.
    hopeless: Arc<Mutex<HashMap<String, Instant>>>,
}

impl fmt::Debug for DockerEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerEngine")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl DockerEngine {
    /// Connects to nothing yet: Docker may come up later. What has to be finished or undone when nobody waits for it
    /// any more runs on `tracker`; whose process has ended, `owners` tells.
    #[must_use]
    pub fn new(settings: DockerSettings, owners: Owners, tracker: TaskTracker) -> Self {
        Self {
            client: Client::new(settings.host.clone(), settings.request_timeout),
            owners,
            settings,
            tracker,
            records: Arc::default(),
            clock: Arc::default(),
            hopeless: Arc::default(),
        }
    }

    /// # Errors
    /// If Docker can't be reached, or doesn't answer within [`ANSWER_TIMEOUT`].
    pub(super) async fn answers(&self) -> Result<(), EngineError> {
        if self.client.answered_within(ANSWER_HOLDS) {
            return Ok(());
        }
        let ping = self.client.call(
            "asking whether Docker is there",
            |docker| async move { docker.ping().await },
        );
        tokio::time::timeout(ANSWER_TIMEOUT, ping)
            .await
            .map_err(|_| EngineError::TimedOut {
                verb: "asking whether Docker is there",
                after: ANSWER_TIMEOUT,
            })?
            .map(drop)
            .map_err(Into::into)
    }

    /// The host by which instances are reached from here.
    fn instance_host(&self) -> Result<String, EngineError> {
        let endpoint = self.client.connected()?.endpoint;
        Ok(endpoint.remote_host().unwrap_or("127.0.0.1").to_owned())
    }

    /// The one container of an instance, if it is there.
    async fn find(&self, id: InstanceId) -> Result<Option<String>, EngineError> {
        let containers = container::list(&self.client, Some(id)).await?;
        Ok(instances(containers)
            .into_iter()
            .find_map(|(_, container)| container.id))
    }

    fn records(&self) -> MutexGuard<'_, HashMap<InstanceId, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets instances that are not among these containers: others remove them, too, and tell nobody.
    fn forget_all_but(&self, containers: &[ContainerSummary]) {
        let labels = containers.iter().filter_map(|container| container.labels.as_ref());
        let there: HashSet<InstanceId> = labels
            .filter_map(|labels| labels.get(label::ID)?.parse().ok())
            .collect();
        self.records().retain(|id, _| there.contains(id));
    }

    /// Has this process be one whose end others see, before it does what only its end would leave half done: the network
    /// goes after the last container. Where that can't be, the network stays until it is used again.
    async fn sign(&self) {
        let owners = self.owners.clone();
        let _ = tokio::task::spawn_blocking(move || owners.me()).await;
    }

    /// What stands in for a container's labels, if it was started ahead; the inner error if that makes no sense.
    async fn record(
        &self,
        id: InstanceId,
        container_id: &str,
        labels: &HashMap<String, String>,
    ) -> Result<Result<Option<Record>, String>, CallError> {
        let was_started_ahead = labels.contains_key(label::OWNER) && !labels.contains_key(label::DATABASE);
        if !was_started_ahead {
            return Ok(Ok(None));
        }
        let known = self.records().get(&id).cloned();
        if known.is_some() {
            return Ok(Ok(known));
        }
        let read = record::read(&self.client, container_id).await?;
        Ok(read.map(|record| {
            self.records().insert(id, record.clone());
            Some(record)
        }))
    }

    /// The instance that a container is, with what stands in for its labels; `None` if the container has gone.
    async fn read(
        &self,
        id: InstanceId,
        container_id: &str,
        labels: &HashMap<String, String>,
        status: Status,
        host: &str,
    ) -> Result<Option<(Instance, Option<Record>)>, EngineError> {
        let record = match self.record(id, container_id, labels).await {
            Ok(record) => record,
            Err(CallError::Refused { status: 404, .. }) => return Ok(None),
            Err(CallError::Refused { message, .. }) => Err(message),
            Err(error) => return Err(error.into()),
        };
        let (lifetime, record) = match self.lifetime(container_id, labels).await {
            Ok(Ok(lifetime)) => (lifetime, record),
            Ok(Err(reason)) => (Lifetime::Unlimited, Err(reason)),
            // What Docker can't tell of one container doesn't keep it from telling of the others.
            Err(CallError::Refused { message, .. }) => (Lifetime::Unlimited, Err(message)),
            Err(error) => return Err(error.into()),
        };
        let instance = record.and_then(|record| {
            container::instance(container_id, labels, record.as_ref(), status, lifetime, host)
                .map(|instance| (instance, record))
        });
        instance.map(Some).map_err(|reason| EngineError::Damaged {
            what: format!("its container: {reason}"),
            legible: Box::new(container::legible(id, container_id, labels, status, lifetime, host)),
        })
    }

    /// How long a container stays; the inner error if that makes no sense. One of a version that knew no owners stays until it
    /// is dropped.
    async fn lifetime(
        &self,
        container_id: &str,
        labels: &HashMap<String, String>,
    ) -> Result<Result<Lifetime, String>, CallError> {
        if !labels.contains_key(label::OWNER) {
            return Ok(Ok(Lifetime::Unlimited));
        }
        let lease = lease::read(&self.client, container_id).await?;
        Ok(lease.map(|lease| lease.unwrap_or(Lifetime::Session)))
    }

    /// One instance of a list; `None` if it has gone. One that is damaged is listed only `if_damaged`.
    ///
    /// # Errors
    /// If Docker doesn't tell: a list that is too short is none.
    async fn listed(
        &self,
        id: InstanceId,
        container: ContainerSummary,
        host: &str,
        if_damaged: bool,
    ) -> Result<Option<Instance>, EngineError> {
        let container_id = container.id.unwrap_or_default();
        let labels = container.labels.unwrap_or_default();
        let status = container::summary_status(container.state);
        match self.read(id, &container_id, &labels, status, host).await {
            Ok(read) => Ok(read.map(|(instance, _)| instance)),
            Err(EngineError::Damaged { legible, .. }) if if_damaged => Ok(Some(*legible)),
            Err(error @ EngineError::Damaged { .. }) => {
                tracing::warn!(%id, container_id, error = ?error.to_string(), "a container with our label makes no sense");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn list_containers(&self, if_damaged: bool) -> Result<Vec<Instance>, EngineError> {
        let host = self.instance_host()?;
        let containers = container::list(&self.client, None).await?;
        self.forget_all_but(&containers);
        let mut instances: Vec<Instance> = futures_util::stream::iter(instances(containers))
            .map(|(id, container)| self.listed(id, container, &host, if_damaged))
            .buffer_unordered(READS_AT_ONCE)
            .try_filter_map(async |instance| Ok(instance))
            .try_collect()
            .await?;
        instances.sort_by_key(|instance| (instance.created_at, instance.id));
        Ok(instances)
    }

    /// The names of the containers that wait to become instances and never will, each with why, as a clause.
    async fn orphans(&self, containers: Vec<ContainerSummary>) -> Vec<(String, &'static str)> {
        let waiting: Vec<_> = containers.into_iter().filter(container::is_waiting).collect();
        if waiting.is_empty() {
            return Vec::new();
        }
        // Where Docker doesn't tell the time, their owners still can be judged.
        let now = self.now(EngineKind::Docker).await.ok();
        let owners = self.owners.clone();
        let judged = tokio::task::spawn_blocking(move || {
            let orphans = waiting.into_iter().filter_map(|container| {
                let labels = container.labels?;
                let owner = labels.get(label::OWNER).map(String::as_str).unwrap_or_default();
                let why = if owners.has_ended(owner) {
                    "it was started ahead by a process that has ended"
                } else if !owners.can_judge(owner) && age(container.created?, now?)? > WAITING_MAX {
                    "nobody has taken it in 12 hours"
                } else {
                    return None;
                };
                Some((container::waiting_name(container::id(&labels)?), why))
            });
            orphans.collect()
        });
        judged.await.unwrap_or_default()
    }

    /// What Docker knows of a container; `None` if it has gone.
    async fn inspect(&self, container_id: &str) -> Result<Option<ContainerInspectResponse>, EngineError> {
        self.inspect_with(container_id, InspectContainerOptions::default())
            .await
    }

    async fn inspect_with(
        &self,
        container_id: &str,
        options: InspectContainerOptions,
    ) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let inspected = self
            .client
            .call("inspecting the container", |docker| async move {
                docker.inspect_container(container_id, Some(options)).await
            })
            .await;
        match inspected {
            Ok(inspected) => Ok(Some(inspected)),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The containers that are instances, one for each. What has another id than we write is nothing of ours, what waits is none
/// yet, and what is being removed is none any more: its files, by which its lifetime is told, go first.
fn instances(mut containers: Vec<ContainerSummary>) -> Vec<(InstanceId, ContainerSummary)> {
    // Labels can be copied (`docker commit` does); the name can't.
    containers.sort_by_cached_key(|container| !container::has_its_name(container));
    let mut seen = HashSet::new();
    containers
        .into_iter()
        .filter(|container| !container::is_waiting(container))
        .filter(|container| container.state != Some(ContainerSummaryStateEnum::REMOVING))
        .filter_map(|container| Some((container::id(container.labels.as_ref()?)?, container)))
        .filter(|(id, _)| seen.insert(*id))
        .collect()
}

/// How old at this time what Docker made then is, in seconds since 1970; `None` if that makes no sense.
fn age(created: i64, now: SystemTime) -> Option<Duration> {
    let created = u64::try_from(created).ok().filter(|seconds| *seconds > 0)?;
    now.duration_since(UNIX_EPOCH.checked_add(Duration::from_secs(created))?)
        .ok()
}

#[async_trait]
impl Engine for DockerEngine {
    // Which instances nobody has been told of can't be seen from their containers.
    async fn recover(&self, was_killed: bool) -> Result<(), EngineError> {
        self.answers().await?;
        let containers = container::list(&self.client, None).await?;
        let had_removals = prune::see_removals_through(self, &containers).await;
        let had_orphans = !prune::orphans(self, containers, false).await.is_empty();
        template::remove_stale(self, false).await?;
        if was_killed {
            prune::nameless_templates(self).await?;
        }
        // Whoever was killed may have made it for a container that it didn't come to. Where nobody was, somebody may be just
        // about to use it.
        if was_killed || had_orphans || had_removals {
            network::tidy(self, Trace::Made).await;
        }
        Ok(())
    }

    async fn default_image(&self, configured: &Image) -> Image {
        configured.clone()
    }

    async fn prepare(&self, image: &Image, progress: &ProgressSink) -> Result<bool, EngineError> {
        let facts = image::prepare(&self.client, image, self.settings.pull_timeout, progress).await?;
        template::prepare(self, image, facts, progress).await
    }

    async fn create(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        owner: &Owner,
        port: Port,
        progress: &ProgressSink,
    ) -> Result<Created, EngineError> {
        let found = create::create(self, id, spec, owner, port, progress).await?;
        Ok(Created {
            found,
            warnings: Vec::new(),
            answers: false,
        })
    }

    async fn start_ahead(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        owner: &Owner,
        port: Port,
    ) -> Result<Option<Waiting>, EngineError> {
        create::start_ahead(self, id, spec, owner, port).await
    }

    async fn assign(&self, waiting: Waiting, spec: &InstanceSpec, owner: &Owner) -> Result<Created, EngineError> {
        assign::assign(self, waiting, spec, owner).await
    }

    async fn keep(&self, id: InstanceId, lifetime: Lifetime) -> Result<(), EngineError> {
        if lifetime == Lifetime::Session {
            return Ok(());
        }
        let Some(container_id) = self.find(id).await? else {
            return Err(EngineError::Gone);
        };
        match lease::write(&self.client, &container_id, lifetime).await {
            Err(error) if error.status() == Some(404) => Err(EngineError::Gone),
            written => Ok(written?),
        }
    }

    async fn now(&self, _kind: EngineKind) -> Result<SystemTime, EngineError> {
        let known = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, told)) = known
            // One that ran backwards, or jumped, is asked again.
            && let Ok(since) = asked.elapsed()
            && since < CLOCK_HOLDS
        {
            return Ok(told + since);
        }
        let info = self
            .client
            .call(
                "asking Docker for the time",
                |docker| async move { docker.info().await },
            )
            .await?;
        // An engine that doesn't tell has this machine's.
        let told = info
            .system_time
            .as_deref()
            .and_then(lease::parse)
            .unwrap_or_else(SystemTime::now);
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some((SystemTime::now(), told));
        Ok(told)
    }

    async fn list(&self) -> Result<Vec<Instance>, EngineError> {
        self.list_containers(false).await
    }

    async fn list_all(&self) -> Result<Vec<Instance>, EngineError> {
        self.list_containers(true).await
    }

    async fn get(&self, id: InstanceId) -> Result<Option<Found>, EngineError> {
        let host = self.instance_host()?;
        let Some(container_id) = self.find(id).await? else {
            return Ok(None);
        };
        let Some(inspected) = self.inspect(&container_id).await? else {
            return Ok(None);
        };
        let state = inspected.state.and_then(|state| state.status);
        if state == Some(ContainerStateStatusEnum::REMOVING) {
            return Ok(None);
        }
        let config = inspected.config.unwrap_or_default();
        let status = container::status(state);
        let labels = config.labels.unwrap_or_default();
        let Some((instance, record)) = self.read(id, &container_id, &labels, status, &host).await? else {
            return Ok(None);
        };
        let password = match record {
            Some(record) => Ok(record.password),
            None => container::password(&config.env.unwrap_or_default()),
        };
        match password {
            Ok(password) => Ok(Some(Found { instance, password })),
            Err(reason) => Err(EngineError::Damaged {
                what: format!("its container: {reason}"),
                legible: Box::new(instance),
            }),
        }
    }

    async fn usage(&self, id: InstanceId) -> Result<Option<Usage>, EngineError> {
        match self.find(id).await? {
            Some(container_id) => usage::usage(self, &container_id).await,
            None => Ok(None),
        }
    }

    async fn memory_kills(&self, id: InstanceId) -> Result<Option<MemoryKills>, EngineError> {
        match self.find(id).await? {
            Some(container_id) => usage::memory_kills(self, &container_id).await,
            None => Ok(None),
        }
    }

    async fn remove(&self, id: InstanceId) -> Result<bool, EngineError> {
        self.records().remove(&id);
        remove::remove(self, id).await
    }

    async fn ended(&self, id: InstanceId) -> Result<Ended, EngineError> {
        // By name, without looking for it: only its creator asks, and nobody has renamed it yet.
        ended::ended(self, &container::name(id)).await
    }

    async fn prune(&self, dry_run: bool, pruned: &mut Vec<Pruned>) -> Result<(), EngineError> {
        prune::prune(self, dry_run, pruned).await
    }

    async fn diagnose(&self, image: &Image) -> Vec<Diagnosis> {
        diagnose::diagnose(self, image).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Password;

    #[test]
    fn what_is_known_of_an_instance_is_forgotten_when_somebody_else_has_removed_it() {
        let engine = DockerEngine::new(DockerSettings::default(), Owners::new(None), TaskTracker::new());
        let record = Record {
            database: "d".parse().expect("a database name"),
            username: "u".parse().expect("a role name"),
            password: Password::new("secret").expect("a password"),
            created_at: SystemTime::UNIX_EPOCH,
            client: None,
        };
        let (there, gone) = (InstanceId::random(), InstanceId::random());
        for id in [there, gone] {
            engine.records().insert(id, record.clone());
        }
        let labels = HashMap::from([(label::ID.to_owned(), there.to_string())]);
        let container = ContainerSummary {
            labels: Some(labels),
            ..ContainerSummary::default()
        };
        engine.forget_all_but(&[container, ContainerSummary::default()]);
        assert_eq!(engine.records().keys().collect::<Vec<_>>(), [&there]);
    }

    #[test]
    fn a_time_that_docker_cannot_have_made_anything_at_makes_nothing_old() {
        let now = UNIX_EPOCH + Duration::from_hours(24 * 365 * 50);
        let seconds = i64::try_from(now.duration_since(UNIX_EPOCH).expect("after 1970").as_secs()).expect("not soon");
        assert_eq!(age(seconds - 60, now), Some(Duration::from_mins(1)));
        assert_eq!(age(seconds, now), Some(Duration::ZERO));
        // The third is what Go calls no time.
        for nonsense in [0, -1, -62_135_596_800, seconds + 1, i64::MIN, i64::MAX] {
            assert_eq!(age(nonsense, now), None, "{nonsense}");
        }
    }

    #[test]
    fn a_container_that_is_being_removed_is_no_instance_any_more() {
        let id = InstanceId::random();
        let in_state = |state| ContainerSummary {
            labels: Some(HashMap::from([(label::ID.to_owned(), id.to_string())])),
            state: Some(state),
            ..ContainerSummary::default()
        };
        assert!(instances(vec![in_state(ContainerSummaryStateEnum::REMOVING)]).is_empty());
        for state in [ContainerSummaryStateEnum::RUNNING, ContainerSummaryStateEnum::DEAD] {
            let found = instances(vec![in_state(state)]);
            assert_eq!(found.into_iter().map(|(found, _)| found).collect::<Vec<_>>(), [id]);
        }
    }
}
