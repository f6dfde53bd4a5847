//! Removing containers, and the network after the last of them; once begun, it is finished.

use std::time::{Duration, Instant};

use bollard::query_parameters::{InspectContainerOptions, RemoveContainerOptionsBuilder};
use tokio::sync::oneshot;

use super::client::{Attempt, CallError, Client, FIRST_PAUSE, LONGEST_PAUSE, Trace};
use super::{DockerEngine, container, network};
use crate::engine::EngineError;
use crate::instance::InstanceId;

/// How often Docker is asked to remove a container before its refusal is one.
const REMOVAL_ATTEMPTS: u32 = 4;
/// The pause before the second attempt; each further one is twice as long.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Removes every container that our label makes this instance; `false` if there is none.
pub(super) async fn remove(engine: &DockerEngine, id: InstanceId) -> Result<bool, EngineError> {
    let (reply, answer) = oneshot::channel();
    let engine = engine.clone();
    let tracker = engine.tracker.clone();
    tracker.spawn(async move {
        let removed = remove_all(&engine, id).await;
        // What failed may be done all the same.
        let any = !matches!(removed, Ok(false));
        // Nobody may be waiting any more.
        let _ = reply.send(removed);
        if any {
            network::tidy(&engine, Trace::Made).await;
        }
    });
    answer.await.unwrap_or_else(|_| {
        Err(EngineError::Request {
            verb: "removing the instance",
            reason: "it ended without an answer; the log has the cause".into(),
        })
    })
}

async fn remove_all(engine: &DockerEngine, id: InstanceId) -> Result<bool, EngineError> {
    let containers = container::list(&engine.client, Some(id)).await?;
    if containers.is_empty() {
        return Ok(false);
    }
    engine.sign().await;
    for container in containers {
        remove_container(&engine.client, &container.id.unwrap_or_default()).await?;
    }
    Ok(true)
}

/// Removes one container, running or not, with its volumes, and returns once it has gone; `false` if it wasn't there.
///
/// While another process reads a file of the container, Docker may fail to remove what its file system is in
/// ("directory not empty"), and succeeds when asked again.
pub(super) async fn remove_container(client: &Client, name: &str) -> Result<bool, CallError> {
    let mut pause = RETRY_PAUSE;
    for _ in 1..REMOVAL_ATTEMPTS {
        match try_to_remove(client, name).await {
            Err(CallError::Refused { status: 500, .. }) => {}
            outcome => return outcome,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    try_to_remove(client, name).await
}

async fn try_to_remove(client: &Client, name: &str) -> Result<bool, CallError> {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    let removed = client
        .change("removing the container", |docker| async move {
            docker.remove_container(name, Some(options)).await
        })
        .await;
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.status() == Some(404) => Ok(false),
        // Somebody else is at it.
        Err(error) if error.status() == Some(409) => gone(client, name).await.map(|()| true),
        Err(error) => Err(error),
    }
}

/// Waits, for one deadline, until a container has gone.
async fn gone(client: &Client, name: &str) -> Result<(), CallError> {
    let verb = "waiting for the container's removal";
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    while start.elapsed() < client.deadline() {
        let inspected = client
            .call(verb, |docker| async move {
                docker.inspect_container(name, None::<InspectContainerOptions>).await
            })
            .await;
        match inspected {
            Ok(_) => {}
            Err(error) if error.status() == Some(404) => return Ok(()),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Err(CallError::Unknown(EngineError::TimedOut {
        verb,
        after: client.deadline(),
    }))
}

/// Undoes a create as far as one attempt can: done once nothing of it is left and nothing can come any more.
pub(super) async fn undone(client: &Client, name: &str, trace: Trace) -> Attempt {
    // By name: nobody has been told of the container, so nobody has renamed it, and the id in it is ours alone.
    match remove_container(client, name).await {
        Ok(was_there) if was_there || trace == Trace::Made => Attempt::Done,
        Ok(_) => Attempt::NothingYet,
        Err(error) => {
            tracing::debug!(name, error = %EngineError::from(error), "undoing a create failed");
            Attempt::Failed
        }
    }
}

/// Undoes a create, trying again for some time, and removes the network if that leaves it unused.
pub(super) async fn undo(engine: DockerEngine, name: String, trace: Trace) {
    let client = &engine.client;
    if !client.persist(|| undone(client, &name, trace)).await {
        match trace {
            Trace::Made => tracing::warn!(name, "a container that nobody wants could not be removed"),
            Trace::Asked => tracing::debug!(name, "a container that was asked for has not come"),
        }
    }
    network::tidy(&engine, Trace::Made).await;
}
