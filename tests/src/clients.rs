//! The real clients that `make setup` installs below `target/setup`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::binary::{self, TestEnvironment};

/// How long any of them may take, its own start included.
const PATIENCE: Duration = Duration::from_mins(3);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

pub(crate) fn installed(path: &str) -> PathBuf {
    let path = root().join("target/setup").join(path);
    assert!(path.exists(), "{} is not there: run `make setup`", path.display());
    path
}

fn script(name: &str) -> PathBuf {
    root().join("tests/clients").join(name)
}

/// Python with the MCP SDK and psycopg, about to run one of `tests/clients`.
///
/// # Panics
/// If it isn't installed.
#[must_use]
pub fn python(name: &str) -> Command {
    let mut command = Command::new(installed("venv/bin/python"));
    command.arg(script(name)).kill_on_drop(true);
    command
}

/// Node.js with node-postgres, about to run one of `tests/clients`.
///
/// # Panics
/// If it isn't installed.
#[must_use]
pub fn node(name: &str) -> Command {
    let mut command = Command::new("node");
    command
        .arg(script(name))
        .env("NODE_PATH", installed("npm/node_modules"))
        .kill_on_drop(true);
    command
}

/// The MCP Inspector's command line, quiet and in JSON, with `mcp serve` in this environment.
///
/// # Panics
/// If it isn't installed.
#[must_use]
pub fn inspector(environment: &TestEnvironment, arguments: &[&str]) -> Command {
    let mut command = Command::new(installed("npm/node_modules/.bin/mcp-inspector"));
    command.args(["--cli", "-q", "--format", "json"]);
    // A server gets no more than this of the Inspector's own environment.
    for (name, value) in environment.variables() {
        let mut variable = OsString::from(format!("{name}="));
        variable.push(value);
        command.arg("-e").arg(variable);
    }
    command
        .arg(binary::path())
        .args(["mcp", "serve"])
        .args(arguments)
        .kill_on_drop(true);
    command
}

/// Runs a command to its end; returns its exit code and output.
///
/// # Panics
/// If it can't be run or takes too long.
pub async fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = timeout(PATIENCE, command.stdin(Stdio::null()).output())
        .await
        .expect("it ends in time")
        .expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Runs a command that succeeds; returns its output as JSON.
///
/// # Panics
/// If it fails or prints something else.
pub async fn json(command: &mut Command) -> Value {
    let (code, stdout, stderr) = run(command).await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}
