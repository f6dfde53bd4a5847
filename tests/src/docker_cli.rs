//! Docker as its own client sees it, to look at and meddle with what the product makes.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::binary::TestEnvironment;

/// Runs `docker` and returns what it printed, without the closing line feed.
///
/// # Panics
/// If it can't be run or fails.
pub async fn docker(arguments: &[&str]) -> String {
    match try_docker(arguments).await {
        Ok(output) => output,
        Err(error) => panic!("docker {}: {error}", arguments.join(" ")),
    }
}

/// As [`docker`], for a command that may fail.
///
/// # Errors
/// What it printed to stderr, if it fails; why it can't be run, if it isn't there.
pub async fn try_docker(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// The Unix socket that Docker listens on here. If there is none, that is printed.
///
/// # Panics
/// As [`docker`].
pub async fn socket() -> Option<String> {
    let host = docker(&["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]).await;
    let socket = host.strip_prefix("unix://").map(str::to_owned);
    if socket.is_none() {
        eprintln!("skipped: Docker isn't on a Unix socket here");
    }
    socket
}

/// The containers of all processes that share an environment, each by its owner, name and status.
///
/// # Panics
/// As [`docker`]; if none of them has made anything yet.
pub async fn containers(environment: &TestEnvironment) -> Vec<String> {
    let scope = environment.scope().expect("the processes' scope");
    let format = "{{.Label \"dev-postgres-mcp.owner\"}} {{.Names}} {{.Status}}";
    let listed = docker(&["ps", "--all", "--no-trunc", "--format", format]).await;
    let ours = listed.lines().filter(|line| line.starts_with(&scope));
    ours.map(str::to_owned).collect()
}

/// Pauses a container, however long that takes: on a busy machine `runc` gives up now and then ("unable to freeze").
///
/// # Panics
/// If it fails again and again.
pub async fn pause(container_id: &str) {
    let mut last = String::new();
    for _ in 0..50 {
        match try_docker(&["pause", container_id]).await {
            Ok(_) => return,
            Err(error) => last = error,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("docker pause {container_id}: {last}");
}
