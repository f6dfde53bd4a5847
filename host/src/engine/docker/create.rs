//! Creating an instance so that one that nobody gets is not left over, however the create ends.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bollard::query_parameters::{
    CreateContainerOptionsBuilder, StartContainerOptions, UploadToContainerOptionsBuilder,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::client::{Attempt, CallError, Trace, redacted};
use super::container::{self, ImageFacts, Marks};
use super::template::{self, Template};
use super::{DockerEngine, bootstrap, ended, image, network, remove};
use crate::engine::provision::{Copied, Session, provision};
use crate::engine::{EngineError, Waiting, now_in_seconds, unanswered, unwanted};
use crate::instance::{
    EngineKind, Found, Instance, InstanceId, InstanceSpec, Lifetime, Owner, Port, Progress, ProgressSink, Status,
};

/// How often the network may be removed by another process between our look at it and the container's start.
const NETWORK_ATTEMPTS: u32 = 5;

/// How long the client of a create that failed waits for its being undone.
const UNDO_WAIT: Duration = Duration::from_secs(5);

/// Docker's, Docker Desktop's, Windows' and Podman's words for a port that somebody else holds or that the system keeps
/// for itself.
const PORT_TAKEN: [&str; 6] = [
    "port is already allocated",
    "address already in use",
    "ports are not available",
    "port is already in use",
    "only one usage of each socket address",
    "forbidden by its access permissions",
];

/// Creates and starts an instance.
///
/// The requests are made by a task that runs to its end even if the returned future is dropped, and that undoes what it
/// has made if nobody takes it.
pub(super) async fn create(
    engine: &DockerEngine,
    id: InstanceId,
    spec: &InstanceSpec,
    owner: &Owner,
    port: Port,
    progress: &ProgressSink,
) -> Result<Found, EngineError> {
    let made = started(engine, id, spec, owner, port, false, progress).await?;
    let (instance, session) = made.take();
    debug_assert!(session.is_none(), "an instance has been set up");
    Ok(Found {
        instance,
        password: spec.password.clone(),
    })
}

/// Starts a server that waits to become an instance; `None` if its image has no template. As [`create`] otherwise.
pub(super) async fn start_ahead(
    engine: &DockerEngine,
    id: InstanceId,
    spec: &InstanceSpec,
    owner: &Owner,
    port: Port,
) -> Result<Option<Waiting>, EngineError> {
    let facts = match image::facts(&engine.client, &spec.image).await {
        Ok(facts) => facts,
        Err(EngineError::NoSuchImage { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let origin = facts.id.clone();
    let progress = ProgressSink::none();
    template::prepare(engine, &spec.image, facts, &progress).await?;
    let made = started(engine, id, spec, owner, port, true, &progress).await;
    let (instance, session) = match made {
        Ok(made) => made.take(),
        Err(EngineError::NoSuchImage { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(session.map(|session| Waiting {
        instance,
        origin,
        warnings: Vec::new(),
        session,
    }))
}

async fn started(
    engine: &DockerEngine,
    id: InstanceId,
    spec: &InstanceSpec,
    owner: &Owner,
    port: Port,
    waits: bool,
    progress: &ProgressSink,
) -> Result<Made, EngineError> {
    let (reply, answer) = oneshot::channel();
    let job = Job {
        engine: engine.clone(),
        id,
        spec: spec.clone(),
        owner: owner.clone(),
        port,
        waits,
        progress: progress.clone(),
        reply,
    };
    engine.tracker.spawn(job.run().in_current_span());
    answer.await.unwrap_or_else(|_| Err(unanswered()))
}

/// An instance on its way to whoever asked for it.
struct Made {
    instance: Instance,
    /// There if it is to wait.
    session: Option<Session>,
    guard: Guard,
}

impl Made {
    fn take(mut self) -> (Instance, Option<Session>) {
        self.guard.armed = false;
        (self.instance, self.session)
    }
}

/// Undoes the create when dropped.
struct Guard {
    engine: DockerEngine,
    /// The container's name.
    name: String,
    runtime: Handle,
    armed: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed {
            let undo = remove::undo(self.engine.clone(), self.name.clone(), Trace::Made);
            self.engine.tracker.spawn_on(undo, &self.runtime);
        }
    }
}

/// One create.
struct Job {
    engine: DockerEngine,
    id: InstanceId,
    spec: InstanceSpec,
    owner: Owner,
    port: Port,
    /// Whether the server waits to become an instance.
    waits: bool,
    progress: ProgressSink,
    reply: oneshot::Sender<Result<Made, EngineError>>,
}

/// Why an attempt came to nothing.
enum Setback {
    /// The network was removed under our feet: another attempt may do.
    NetworkGone(EngineError),
    /// The template was pruned under our feet: the image's own way will do.
    TemplateGone(EngineError),
    Failed(EngineError),
}

impl From<EngineError> for Setback {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

impl Job {
    async fn run(self) {
        // Armed before anything is made: should what follows panic, that is undone, too.
        let mut guard = Guard {
            engine: self.engine.clone(),
            name: self.name(),
            runtime: Handle::current(),
            armed: true,
        };
        match self.make().await {
            Ok((instance, session)) => {
                // If nobody takes it, the guard is dropped here or with the other end of the channel.
                let _ = self.reply.send(Ok(Made {
                    instance,
                    session,
                    guard,
                }));
            }
            Err(error) => {
                guard.armed = false;
                // Not before: what Docker said is looked at for its words, which a password may be among.
                let error = redacted(error, self.spec.password.expose());
                // Nobody waits for the error any more: nothing is lost.
                let _ = self.reply.send(Err(error));
                network::tidy(&self.engine, Trace::Made).await;
            }
        }
    }

    /// The container's name.
    fn name(&self) -> String {
        if self.waits {
            container::waiting_name(self.id)
        } else {
            container::name(self.id)
        }
    }

    async fn make(&self) -> Result<(Instance, Option<Session>), EngineError> {
        let client = &self.engine.client;
        let address = publish_address(&self.engine).await?;
        // Before anything is made: finding Docker anew may fail.
        let host = self.engine.instance_host()?;
        // Both to the end, even if one fails: a network that is being made is not left alone.
        let (facts, network) = tokio::join!(image::facts(client, &self.spec.image), network::ensure(&self.engine));
        let (facts, mut network) = (facts?, network?);
        let template = template::find(&self.engine, &facts).await?;
        let mut template = template.as_ref();
        if self.waits && template.is_none() {
            return Err(EngineError::NoSuchImage {
                image: self.spec.image.to_string(),
                reason: "it has no template".into(),
            });
        }
        for _ in 1..NETWORK_ATTEMPTS {
            match self.attempt(&facts, template, &network, address, &host).await {
                Err(Setback::NetworkGone(_)) => network = network::ensure(&self.engine).await?,
                Err(Setback::TemplateGone(_)) if !self.waits => template = None,
                Err(Setback::TemplateGone(error) | Setback::Failed(error)) => return Err(error),
                Ok(made) => return Ok(made),
            }
        }
        match self.attempt(&facts, template, &network, address, &host).await {
            Err(Setback::NetworkGone(error) | Setback::TemplateGone(error) | Setback::Failed(error)) => Err(error),
            Ok(made) => Ok(made),
        }
    }

    async fn attempt(
        &self,
        facts: &ImageFacts,
        template: Option<&Template>,
        network: &str,
        address: IpAddr,
        host: &str,
    ) -> Result<(Instance, Option<Session>), Setback> {
        self.still_wanted()?;
        self.progress.tell(Progress::Creating);
        let created_at = now_in_seconds();
        let published = (address, self.port);
        let image = template.map(|template| template.image.as_str());
        let marks = Marks {
            owner: &self.owner,
            created_at: (!self.waits).then_some(created_at),
        };
        let body = container::body(self.id, &self.spec, facts, image, network, published, marks);
        let container_id = self.create_container(body).await.map_err(|setback| match setback {
            Setback::Failed(error @ EngineError::NoSuchImage { .. }) if template.is_some() => {
                Setback::TemplateGone(error)
            }
            setback => setback,
        })?;
        if let Err(error) = self.still_wanted() {
            return Err(self.undone(Trace::Made, error.into()).await);
        }
        if template.is_none()
            && let Err(error) = self.bootstrap(&container_id).await
        {
            return Err(self.undone(Trace::Made, Setback::Failed(error.into())).await);
        }
        self.progress.tell(Progress::Starting);
        if let Err(error) = self.start_container(&container_id).await {
            let setback = self.explain_start(error, address);
            return Err(self.undone(Trace::Made, setback).await);
        }
        let mut session = None;
        if let Some(template) = template {
            match self.set_up(template, host).await {
                Ok(open) => session = open,
                Err(error) => return Err(self.undone(Trace::Made, Setback::Failed(error)).await),
            }
        }
        let instance = Instance {
            id: self.id,
            engine: EngineKind::Docker,
            container_id,
            host: host.to_owned(),
            port: self.port,
            version: self.spec.image.version().to_owned(),
            database: self.spec.database.clone(),
            username: self.spec.username.clone(),
            status: Status::Running,
            created_at,
            owner: Some(self.owner.clone()),
            lifetime: Lifetime::Session,
        };
        Ok((instance, session))
    }

    fn still_wanted(&self) -> Result<(), EngineError> {
        if self.reply.is_closed() {
            return Err(unwanted());
        }
        Ok(())
    }

    async fn create_container(&self, body: bollard::models::ContainerCreateBody) -> Result<String, Setback> {
        let options = CreateContainerOptionsBuilder::new().name(&self.name()).build();
        let created = self
            .engine
            .client
            .change("creating the container", |docker| async move {
                docker.create_container(Some(options), body).await
            })
            .await;
        match created {
            Ok(created) => Ok(created.id),
            Err(CallError::Refused {
                status: 404, message, ..
            }) if message.to_lowercase().contains("no such image") => Err(EngineError::NoSuchImage {
                image: self.spec.image.to_string(),
                reason: message,
            }
            .into()),
            Err(error) if network_gone(&error) => Err(Setback::NetworkGone(error.into())),
            Err(error @ CallError::Unknown(_)) => Err(self.undone(Trace::Asked, Setback::Failed(error.into())).await),
            // It may have failed at what comes after the container.
            Err(error) if error.is_dockers_fault() => {
                Err(self.undone(Trace::Made, Setback::Failed(error.into())).await)
            }
            Err(error) => Err(Setback::Failed(error.into())),
        }
    }

    /// Puts the script into the container that gives the superuser a name that `initdb` could not have.
    async fn bootstrap(&self, container_id: &str) -> Result<(), CallError> {
        let Some(archive) = bootstrap::archive(&self.spec.username) else {
            return Ok(());
        };
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        self.engine
            .client
            .change("preparing the container", |docker| async move {
                docker
                    .upload_to_container(container_id, Some(options), bollard::body_full(archive))
                    .await
            })
            .await
    }

    /// Gives what was started from a template its own names and password, or leaves it waiting for them.
    async fn set_up(&self, template: &Template, host: &str) -> Result<Option<Session>, EngineError> {
        let copied = Copied {
            host,
            port: self.port,
            password: &template.password,
        };
        let deadline = self.engine.settings.ready_timeout;
        let name = self.name();
        tokio::select! {
            biased;
            done = provision(copied, &self.spec, self.waits, deadline) => done,
            ended = ended::ended(&self.engine, &name) => Err(ended.map_or_else(|error| error, EngineError::Ended)),
        }
    }

    async fn start_container(&self, container_id: &str) -> Result<(), CallError> {
        self.engine
            .client
            .change("starting the container", |docker| async move {
                docker
                    .start_container(container_id, None::<StartContainerOptions>)
                    .await
            })
            .await
    }

    fn explain_start(&self, error: CallError, address: IpAddr) -> Setback {
        if network_gone(&error) {
            return Setback::NetworkGone(error.into());
        }
        let CallError::Refused { verb, message, .. } = error else {
            return Setback::Failed(error.into());
        };
        let lower = message.to_lowercase();
        if PORT_TAKEN.iter().any(|words| lower.contains(words)) {
            return Setback::Failed(EngineError::PortTaken(self.port));
        }
        let reason = if lower.contains("cannot assign requested address") {
            format!(
                "the Docker host has no address {address} to publish on: configure the publish address, one of its \
                 own that is reached from here ({message})"
            )
        } else {
            message
        };
        Setback::Failed(EngineError::Request { verb, reason })
    }

    /// Undoes the attempt: once before anybody is told, and, if that takes long or leaves doubts, in the background.
    async fn undone(&self, trace: Trace, setback: Setback) -> Setback {
        let name = self.name();
        let undone = timeout(UNDO_WAIT, remove::undone(&self.engine.client, &name, trace));
        if !matches!(undone.await, Ok(Attempt::Done)) {
            let undo = remove::undo(self.engine.clone(), name, trace);
            self.engine.tracker.spawn(undo);
        }
        setback
    }
}

/// Whether the network went away, or got a double (see [`network::ensure`]), after we looked.
fn network_gone(error: &CallError) -> bool {
    matches!(error, CallError::Refused { message, .. }
        if message.contains("network") && (message.contains("not found") || message.contains("is ambiguous")))
}

/// The address that ports are published on; see [`super::endpoint::Endpoint::remote_host`] for why.
async fn publish_address(engine: &DockerEngine) -> Result<IpAddr, EngineError> {
    let endpoint = engine.client.connected()?.endpoint;
    let Some(host) = endpoint.remote_host() else {
        return Ok(Ipv4Addr::LOCALHOST.into());
    };
    if let Some(address) = engine.settings.publish_address {
        return Ok(address);
    }
    let unresolved = |reason: String| EngineError::Unreachable {
        endpoint: endpoint.to_string(),
        reason: format!("the name {host} can't be resolved: {reason}"),
        advice: format!("Correct the address, which comes from {}.", endpoint.origin),
    };
    let addresses = tokio::time::timeout(engine.client.deadline(), tokio::net::lookup_host((host, 0)))
        .await
        .map_err(|_| unresolved("no answer in time".into()))?
        .map_err(|error| unresolved(error.to_string()))?;
    addresses
        .map(|address| address.ip())
        .min_by_key(IpAddr::is_ipv6)
        .ok_or_else(|| unresolved("it has no address".into()))
}
