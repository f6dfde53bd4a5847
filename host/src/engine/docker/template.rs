//! Images with an initialised data directory in them: made once from each image, in that image's own way, for instances
//! to start from without doing it again.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bollard::models::{ContainerConfig, ContainerCreateBody, ContainerSummary};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
    StartContainerOptions, StopContainerOptions,
};
use futures_util::StreamExt;
use rand::distr::{Alphanumeric, SampleString};

use super::client::{CallError, redacted};
use super::container::{self, ImageFacts};
use super::remove::remove_container;
use super::{DockerEngine, age, image, label, prune};
use crate::engine::{Engine as _, EngineError, Pruned, short_digest};
use crate::failure::without;
use crate::instance::{EngineKind, Image, Password, Progress, ProgressSink};
use crate::metrics::METRICS;

/// What is done here, by number: another recipe's templates are not used.
const RECIPE: u32 = 2;
/// The repository that templates are tagged in.
const REPOSITORY: &str = "dev-postgres-mcp-template";
/// What a template says of itself besides its labels, which whatever is built on it inherits.
pub(super) const COMMENT: &str = "a template of dev-postgres-mcp";
/// What the entrypoint of an image like the official one says when the data directory is complete, and what the server says
/// then. Before that, the container's first process is a shell, which a signal doesn't stop.
const COMPLETE: &str = "PostgreSQL init process complete";
const READY: &str = "database system is ready to accept connections";
/// How much of a template's log is kept, in bytes.
const LOG_BYTES_MAX: usize = 64 << 10;
/// How long making a template may take; one that is older was given up.
const MAKING_TIMEOUT: Duration = Duration::from_mins(2);
/// For how long a template that could not be made is not tried again: a disk may be full, and emptied.
const HOPELESS_HOLDS: Duration = Duration::from_mins(10);
/// Where an image has scripts of its own, which may go by the names that an instance asks for.
const SCRIPTS: &str = "/docker-entrypoint-initdb.d";

/// An image to start instances from.
#[derive(Debug)]
pub(super) struct Template {
    /// Its reference.
    pub(super) image: String,
    /// The superuser's password in it.
    pub(super) password: Password,
}

/// What the template of an image goes by.
pub(super) fn key(facts: &ImageFacts) -> String {
    short_digest(&format!("{RECIPE} {}", facts.id))
}

/// Where the template of this key is.
pub(super) fn reference(key: &str) -> String {
    format!("{REPOSITORY}:{key}")
}

/// The template of an image, if there is one.
pub(super) async fn find(engine: &DockerEngine, facts: &ImageFacts) -> Result<Option<Template>, EngineError> {
    if !facts.may_have_template() {
        return Ok(None);
    }
    let key = key(facts);
    let reference = reference(&key);
    let config = match image::inspect_reference(&engine.client, &reference).await {
        Ok(inspected) => inspected.config.unwrap_or_default(),
        Err(error) if error.status() == Some(404) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Anybody may have tagged anything so.
    let is_ours = config
        .labels
        .is_some_and(|labels| labels.get(label::TEMPLATE) == Some(&key));
    let password = container::variable(config.env.as_deref(), "POSTGRES_PASSWORD").map(Password::new);
    Ok(password
        .and_then(Result::ok)
        .filter(|_| is_ours)
        .map(|password| Template {
            image: reference,
            password,
        }))
}

/// Sees to it that the image has a template, if it can have one; whether it has.
pub(super) async fn prepare(
    engine: &DockerEngine,
    image: &Image,
    facts: ImageFacts,
    progress: &ProgressSink,
) -> Result<bool, EngineError> {
    let key = key(&facts);
    if find(engine, &facts).await?.is_some() {
        return Ok(true);
    }
    let is_hopeless = |since: &Instant| since.elapsed() < HOPELESS_HOLDS;
    if !facts.may_have_template() || hopeless(engine).get(&key).is_some_and(is_hopeless) {
        return Ok(false);
    }
    progress.tell(Progress::Initialising {
        version: image.version().to_owned(),
    });
    let (maker, image) = (engine.clone(), image.clone());
    // To its end, whatever becomes of whoever waits: the next one needs it as well.
    let making = engine.tracker.spawn(async move {
        let made = tokio::time::timeout(MAKING_TIMEOUT, make(&maker, &image, &facts, &key)).await;
        let is_there = matches!(made, Ok(Ok(())));
        match made {
            // Rarely done, and this is when old ones come to be.
            Ok(Ok(())) => {
                if let Err(error) = prune::templates(&maker, false, &mut Vec::new()).await {
                    tracing::debug!(%error, "old templates stay for now");
                }
            }
            Ok(Err(Setback::Busy)) => tracing::debug!(%image, "somebody else is making the template"),
            // That says nothing of the image.
            Ok(Err(Setback::Outage(error))) => tracing::info!(%image, %error, "no template could be made this time"),
            Ok(Err(Setback::Failed(reason))) => {
                tracing::warn!(%image, reason, "no template can be made: instances are initialised one by one");
                hopeless(&maker).insert(key.clone(), Instant::now());
            }
            Err(_) => {
                tracing::warn!(%image, "making a template took too long: instances are initialised one by one");
                hopeless(&maker).insert(key.clone(), Instant::now());
                remove(&maker, &name(&key)).await;
            }
        }
        is_there
    });
    // One that panicked has nothing to tell that the log doesn't have; the image's own way is still there.
    Ok(making.await.unwrap_or(false))
}

fn hopeless(engine: &DockerEngine) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
    engine.hopeless.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why there is no template yet.
enum Setback {
    /// Somebody else makes it.
    Busy,
    /// Docker can't be asked, or doesn't answer.
    Outage(EngineError),
    Failed(String),
}

impl From<CallError> for Setback {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotSent(error) | CallError::Unknown(error) => Self::Outage(error),
            error @ CallError::Refused { .. } => Self::Failed(EngineError::from(error).to_string()),
        }
    }
}

impl From<EngineError> for Setback {
    fn from(error: EngineError) -> Self {
        Self::Outage(error)
    }
}

/// The container's name: Docker lets only one of several makers have it.
pub(super) fn name(key: &str) -> String {
    format!("{REPOSITORY}-{key}")
}

async fn make(engine: &DockerEngine, image: &Image, facts: &ImageFacts, key: &str) -> Result<(), Setback> {
    let password = Alphanumeric.sample_string(&mut rand::rng(), 32);
    let made = make_with(engine, image, facts, key, &password).await;
    made.map_err(|setback| match setback {
        Setback::Busy => Setback::Busy,
        Setback::Outage(error) => Setback::Outage(redacted(error, &password)),
        Setback::Failed(reason) => Setback::Failed(without(&reason, &password)),
    })
}

async fn make_with(
    engine: &DockerEngine,
    image: &Image,
    facts: &ImageFacts,
    key: &str,
    password: &str,
) -> Result<(), Setback> {
    let name = name(key);
    let owners = engine.owners.clone();
    let maker = tokio::task::spawn_blocking(move || owners.me().ok())
        .await
        .ok()
        .flatten();
    let body = container::template_body(image, facts, key, password, maker.clone());
    let is_taken = |error: &CallError| error.status() == Some(409);
    let mut created = create(engine, &name, body.clone()).await;
    if created.as_ref().is_err_and(is_taken) && !remove_stale(engine, false).await?.is_empty() {
        created = create(engine, &name, body).await;
    }
    let made = match created {
        Ok(()) => initialise(engine, &name, key).await,
        Err(error) if is_taken(&error) => return Err(Setback::Busy),
        // It may be there all the same, or be somebody else's by now.
        Err(error) if !is_made_by(engine, &name, maker).await => return Err(error.into()),
        Err(error) => Err(error.into()),
    };
    remove(engine, &name).await;
    made
}

/// Whether there is such a container and `maker` has made it.
async fn is_made_by(engine: &DockerEngine, name: &str, maker: Option<String>) -> bool {
    let found = engine.inspect(name).await.ok().flatten();
    let labels = found.and_then(|container| container.config?.labels);
    labels.is_some_and(|mut labels| maker.is_some() && labels.remove(label::OWNER) == maker)
}

async fn create(engine: &DockerEngine, name: &str, body: ContainerCreateBody) -> Result<(), CallError> {
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    engine
        .client
        .change("creating a template", |docker| async move {
            docker.create_container(Some(options), body).await
        })
        .await
        .map(drop)
}

async fn initialise(engine: &DockerEngine, name: &str, key: &str) -> Result<(), Setback> {
    if has_scripts(engine, name).await? {
        return Err(Setback::Failed(format!("it has scripts in {SCRIPTS}")));
    }
    engine
        .client
        .change("starting a template", |docker| async move {
            docker.start_container(name, None::<StartContainerOptions>).await
        })
        .await?;
    until_complete(engine, name).await?;
    engine
        .client
        .change("stopping a template", |docker| async move {
            docker.stop_container(name, None::<StopContainerOptions>).await
        })
        .await?;
    // One that was killed would have every instance begin with recovery.
    let container = engine.inspect(name).await?.unwrap_or_default();
    let state = container.state.unwrap_or_default();
    if state.exit_code != Some(0) {
        return Err(Setback::Failed(format!("it exited with code {:?}", state.exit_code)));
    }
    let options = CommitContainerOptionsBuilder::new()
        .container(name)
        .repo(REPOSITORY)
        .tag(key)
        .comment(COMMENT)
        .pause(false)
        .build();
    engine
        .client
        .change("keeping a template", |docker| async move {
            docker.commit_container(options, ContainerConfig::default()).await
        })
        .await?;
    METRICS.template_made();
    tracing::info!(key, "made a template to start instances from");
    Ok(())
}

/// Whether the image has scripts for new data directories.
async fn has_scripts(engine: &DockerEngine, name: &str) -> Result<bool, CallError> {
    let verb = "looking for an image's scripts";
    match container::download(&engine.client, verb, name, SCRIPTS, ARCHIVE_BYTES_MAX).await {
        // The folder itself is the first entry.
        Ok(archive) => Ok(tar::Archive::new(archive.as_slice())
            .entries()
            .map_or(true, |entries| entries.count() > 1)),
        Err(error) if error.status() == Some(404) => Ok(false),
        Err(error) => Err(error),
    }
}

/// More than that in the scripts' folder, in bytes, is no empty folder.
const ARCHIVE_BYTES_MAX: usize = 16 << 10;

/// Reads the container's log until it says that the server runs on a complete data directory.
async fn until_complete(engine: &DockerEngine, name: &str) -> Result<(), Setback> {
    let connected = engine.client.connected()?;
    let options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).build();
    let mut stream = std::pin::pin!(connected.docker.logs(name, Some(options)));
    let mut said = Vec::new();
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| {
            engine
                .client
                .explain("reading a template's log", &connected.endpoint, error)
        })?;
        said.extend_from_slice(part.as_ref());
        let text = String::from_utf8_lossy(&said);
        if text.split_once(COMPLETE).is_some_and(|(_, then)| then.contains(READY)) {
            return Ok(());
        }
        if said.len() > LOG_BYTES_MAX {
            return Err(Setback::Failed(
                "it says more than an image like the official one".into(),
            ));
        }
    }
    let last_lines = crate::engine::last_lines(&said).join("\n");
    Err(Setback::Failed(format!("it ended; its log ends with:\n{last_lines}")))
}

/// The containers that templates are made in, and those that run on one.
pub(super) async fn containers(engine: &DockerEngine) -> Result<Vec<ContainerSummary>, CallError> {
    let filters = HashMap::from([("label", vec![label::TEMPLATE])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    engine
        .client
        .call("listing templates", |docker| async move {
            docker.list_containers(Some(options)).await
        })
        .await
}

/// Removes the containers of templates whose makers have ended, or that are older than making one may take. `dry_run` only
/// says which.
///
/// # Errors
/// If it can't be told which there are.
pub(super) async fn remove_stale(engine: &DockerEngine, dry_run: bool) -> Result<Vec<Pruned>, EngineError> {
    let containers = containers(engine).await?;
    if containers.is_empty() {
        return Ok(Vec::new());
    }
    // Docker's machine says when they were made.
    let now = engine.now(EngineKind::Docker).await?;
    let mut pruned = Vec::new();
    for container in containers {
        let mut labels = container.labels.unwrap_or_default();
        let age = container.created.and_then(|created| age(created, now));
        let maker = labels.remove(label::OWNER);
        let mut names = container.names.iter().flatten();
        let makers = labels
            .get(label::TEMPLATE)
            .map(|key| name(key))
            .filter(|name| names.any(|known| known.trim_start_matches('/') == name));
        // An instance has inherited the label.
        let (Some(id), Some(name), false) = (container.id, makers, labels.contains_key(label::ID)) else {
            continue;
        };
        let reason = if age.is_some_and(|age| age > MAKING_TIMEOUT) {
            "making a template in it took too long"
        } else if has_ended(engine, maker).await {
            "the process that was making a template in it has ended"
        } else {
            continue;
        };
        if !dry_run {
            if !remove(engine, &id).await {
                continue;
            }
            METRICS.reaped("template", "orphan");
            tracing::info!(name, reason, "removed a half-made template");
        }
        pruned.push(Pruned {
            kind: "container",
            name,
            reason: reason.into(),
        });
    }
    Ok(pruned)
}

async fn has_ended(engine: &DockerEngine, maker: Option<String>) -> bool {
    let owners = engine.owners.clone();
    // One that can't be judged hasn't.
    let judged = tokio::task::spawn_blocking(move || maker.is_some_and(|maker| owners.has_ended(&maker)));
    judged.await.unwrap_or(false)
}

/// `false` if it is still there.
async fn remove(engine: &DockerEngine, name: &str) -> bool {
    match remove_container(&engine.client, name).await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(name, error = %EngineError::from(error), "a template's container stays for now");
            false
        }
    }
}
