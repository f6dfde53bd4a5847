//! Docker as its own client sees it, to look at and meddle with what the product makes.

use std::process::Stdio;

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
/// What it printed to stderr, if it fails.
///
/// # Panics
/// If it can't be run.
pub async fn try_docker(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("docker can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}
