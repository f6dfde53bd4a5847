//! Creating an instance so that one that nobody gets is not left over, however the create ends.

use std::net::{IpAddr, Ipv4Addr};

use bollard::query_parameters::{
    CreateContainerOptionsBuilder, StartContainerOptions, UploadToContainerOptionsBuilder,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::client::{CallError, Trace};
use super::container::{self, ImageFacts};
use super::template::{self, Template};
use super::{DockerEngine, bootstrap, ended, image, network, remove};
use crate::engine::provision::{Copied, provision};
use crate::engine::{EngineError, now_in_seconds, unanswered, unwanted};
use crate::instance::{EngineKind, Found, Instance, InstanceId, InstanceSpec, Port, Progress, ProgressSink, Status};

/// How often the network may be removed by another process between our look at it and the container's start.
const NETWORK_ATTEMPTS: u32 = 5;

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
    port: Port,
    progress: &ProgressSink,
) -> Result<Found, EngineError> {
    let (reply, answer) = oneshot::channel();
    let job = Job {
        engine: engine.clone(),
        id,
        spec: spec.clone(),
        port,
        progress: progress.clone(),
        reply,
    };
    engine.tracker.spawn(job.run());
    match answer.await {
        Ok(made) => made.map(Made::take),
        Err(_) => Err(unanswered()),
    }
}

/// An instance on its way to whoever asked for it.
struct Made {
    found: Found,
    guard: Guard,
}

impl Made {
    fn take(mut self) -> Found {
        self.guard.armed = false;
        self.found
    }
}

/// Undoes the create when dropped.
struct Guard {
    engine: DockerEngine,
    id: InstanceId,
    runtime: Handle,
    armed: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed {
            let undo = remove::undo(self.engine.clone(), self.id, Trace::Made);
            self.engine.tracker.spawn_on(undo, &self.runtime);
        }
    }
}

/// One create.
struct Job {
    engine: DockerEngine,
    id: InstanceId,
    spec: InstanceSpec,
    port: Port,
    progress: ProgressSink,
    reply: oneshot::Sender<Result<Made, EngineError>>,
}

/// Why an attempt came to nothing.
enum Setback {
    /// The network was removed under our feet: another attempt may do.
    NetworkGone(EngineError),
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
            id: self.id,
            runtime: Handle::current(),
            armed: true,
        };
        match self.make().await {
            Ok(found) => {
                // If nobody takes it, the guard is dropped here or with the other end of the channel.
                let _ = self.reply.send(Ok(Made { found, guard }));
            }
            Err(error) => {
                guard.armed = false;
                // Nobody waits for the error any more: nothing is lost.
                let _ = self.reply.send(Err(error));
                network::tidy(&self.engine, Trace::Made).await;
            }
        }
    }

    async fn make(&self) -> Result<Found, EngineError> {
        let client = &self.engine.client;
        let address = publish_address(&self.engine).await?;
        // Before anything is made: finding Docker anew may fail.
        let host = self.engine.instance_host()?;
        // Both to the end, even if one fails: a network that is being made is not left alone.
        let (facts, network) = tokio::join!(image::facts(client, &self.spec.image), network::ensure(&self.engine));
        let (facts, mut network) = (facts?, network?);
        let template = template::find(&self.engine, &facts).await?;
        let template = template.as_ref();
        for _ in 1..NETWORK_ATTEMPTS {
            match self.attempt(&facts, template, &network, address, &host).await {
                Err(Setback::NetworkGone(_)) => network = network::ensure(&self.engine).await?,
                Err(Setback::Failed(error)) => return Err(error),
                Ok(found) => return Ok(found),
            }
        }
        match self.attempt(&facts, template, &network, address, &host).await {
            Err(Setback::NetworkGone(error) | Setback::Failed(error)) => Err(error),
            Ok(found) => Ok(found),
        }
    }

    async fn attempt(
        &self,
        facts: &ImageFacts,
        template: Option<&Template>,
        network: &str,
        address: IpAddr,
        host: &str,
    ) -> Result<Found, Setback> {
        self.still_wanted()?;
        self.progress.tell(Progress::Creating);
        let created_at = now_in_seconds();
        let published = (address, self.port);
        let image = template.map(|template| template.image.as_str());
        let body = container::body(self.id, &self.spec, facts, image, network, published, created_at);
        let container_id = self.create_container(body).await?;
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
        if let Some(template) = template
            && let Err(error) = self.provision(template, host).await
        {
            return Err(self.undone(Trace::Made, Setback::Failed(error)).await);
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
        };
        Ok(Found {
            instance,
            password: self.spec.password.clone(),
        })
    }

    fn still_wanted(&self) -> Result<(), EngineError> {
        if self.reply.is_closed() {
            return Err(unwanted());
        }
        Ok(())
    }

    async fn create_container(&self, body: bollard::models::ContainerCreateBody) -> Result<String, Setback> {
        let options = CreateContainerOptionsBuilder::new()
            .name(&container::name(self.id))
            .build();
        let created = self
            .engine
            .client
            .call("creating the container", |docker| async move {
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
            .call("preparing the container", |docker| async move {
                docker
                    .upload_to_container(container_id, Some(options), bollard::body_full(archive))
                    .await
            })
            .await
    }

    /// Gives what was started from a template its own names and password.
    async fn provision(&self, template: &Template, host: &str) -> Result<(), EngineError> {
        let copied = Copied {
            host,
            port: self.port,
            password: &template.password,
        };
        tokio::select! {
            biased;
            done = provision(copied, &self.spec, self.engine.settings.ready_timeout) => done,
            ended = ended::ended(&self.engine, self.id) => Err(ended.map_or_else(|error| error, EngineError::Ended)),
        }
    }

    async fn start_container(&self, container_id: &str) -> Result<(), CallError> {
        self.engine
            .client
            .call("starting the container", |docker| async move {
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

    /// Undoes the attempt: once before anybody is told, and, if that leaves doubts, in the background.
    async fn undone(&self, trace: Trace, setback: Setback) -> Setback {
        if !remove::undone(&self.engine.client, self.id, trace).await {
            let undo = remove::undo(self.engine.clone(), self.id, trace);
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
