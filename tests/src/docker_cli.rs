//! Docker as its own client sees it, to look at and meddle with what the product makes.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

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
