//! Waiting for an instance's end, and what its container can still tell of it.

use bollard::errors::Error as BollardError;
use bollard::models::ContainerState;
use bollard::query_parameters::{LogsOptionsBuilder, WaitContainerOptions};
use futures_util::StreamExt;

use super::client::CallError;
use super::{DockerEngine, container};
use crate::engine::{self, Ended, EngineError, LOG_BYTES_MAX, LOG_LINES_MAX};
use crate::instance::Status;

/// Waits until the container of this id or name has ended or gone, without a deadline: its caller's wait is what is
/// bounded.
pub(super) async fn ended(engine: &DockerEngine, container: &str) -> Result<Ended, EngineError> {
    if !wait(engine, container).await? {
        return Ok(removed());
    }
    let Some(inspected) = engine.inspect(container).await? else {
        return Ok(removed());
    };
    Ok(Ended {
        how: how(&inspected.state.unwrap_or_default()),
        last_lines: last_lines(engine, container).await,
    })
}

pub(super) fn removed() -> Ended {
    Ended {
        how: "was removed".into(),
        last_lines: Vec::new(),
    }
}

/// Waits until the container doesn't run; `false` if it has gone.
async fn wait(engine: &DockerEngine, container_id: &str) -> Result<bool, EngineError> {
    let verb = "waiting for the container's end";
    let connected = engine.client.connected()?;
    let mut stream = std::pin::pin!(
        connected
            .docker
            .wait_container(container_id, None::<WaitContainerOptions>)
    );
    match stream.next().await {
        // An exit code other than 0 is an error of bollard's.
        Some(Ok(_) | Err(BollardError::DockerContainerWaitError { .. })) => Ok(true),
        Some(Err(error)) => match engine.client.explain(verb, &connected.endpoint, error) {
            error if error.status() == Some(404) => Ok(false),
            error => Err(error.into()),
        },
        None => Err(EngineError::Request {
            verb,
            reason: "Docker hung up".into(),
        }),
    }
}

fn how(state: &ContainerState) -> String {
    if state.oom_killed == Some(true) {
        return "was killed for want of memory".into();
    }
    match container::status(state.status) {
        Status::Created => "was never started".into(),
        Status::Running | Status::Paused => "was started again".into(),
        Status::Stopped => match (state.exit_code, state.error.as_deref()) {
            (code, Some(error)) if !error.is_empty() => {
                format!("ended with code {}: {error}", code.unwrap_or_default())
            }
            (Some(code), _) => format!("exited with code {code}"),
            (None, _) => "exited".into(),
        },
    }
}

/// The end of the log; nothing if it can't be had, for it only embellishes.
async fn last_lines(docker: &DockerEngine, container_id: &str) -> Vec<String> {
    let options = LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .tail(&LOG_LINES_MAX.to_string())
        .build();
    let log = docker
        .client
        .call("reading the container's log", |docker| async move {
            let mut stream = std::pin::pin!(docker.logs(container_id, Some(options)));
            let mut bytes = Vec::new();
            while let Some(output) = stream.next().await {
                bytes.extend_from_slice(output?.as_ref());
                // The last bytes matter most.
                let surplus = bytes.len().saturating_sub(LOG_BYTES_MAX);
                bytes.drain(..surplus);
            }
            Ok(bytes)
        })
        .await;
    match log {
        Ok(bytes) => engine::last_lines(&bytes),
        Err(error) => {
            let error = match error {
                CallError::Refused { message, .. } => message,
                error => EngineError::from(error).to_string(),
            };
            tracing::debug!(container_id, error, "can't read the container's log");
            Vec::new()
        }
    }
}
