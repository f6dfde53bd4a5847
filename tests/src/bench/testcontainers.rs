//! Testcontainers, in a Python of its own that has imported it before.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::plan::{IMAGE, python, python_script};
use crate::docker_cli::try_docker;

/// The image of its reaper, which no registry may be there to have.
const REAPER: &str = "testcontainers/ryuk";
const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Debug)]
pub(super) struct Testcontainers {
    /// Its version, and whether it has its reaper.
    pub(super) described: String,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Testcontainers {
    /// `None` if it was not set up.
    pub(super) async fn start() -> Option<Self> {
        let python = python()?;
        let versions = "import importlib.metadata as m; print(m.version('testcontainers'))";
        let version = Command::new(&python).args(["-c", versions]).output().await.ok()?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        let reaper = try_docker(&["images", "--quiet", REAPER]).await;
        let has_reaper = reaper.is_ok_and(|found| !found.is_empty());
        let mut process = Command::new(&python)
            .arg(python_script())
            .env("TESTCONTAINERS_RYUK_DISABLED", (!has_reaper).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Python starts");
        let with = if has_reaper { "with" } else { "without" };
        Some(Self {
            described: format!("{version} for Python, {with} its reaper"),
            input: process.stdin.take().expect("piped"),
            output: BufReader::new(process.stdout.take().expect("piped")).lines(),
            _process: process,
        })
    }

    /// One server from start to first answer, and its end; the time without the end, in milliseconds.
    pub(super) async fn run(&mut self) -> f64 {
        let line = format!("run {IMAGE}\n");
        self.input.write_all(line.as_bytes()).await.expect("it reads");
        self.input.flush().await.expect("it reads");
        let answer = timeout(PATIENCE, self.output.next_line())
            .await
            .expect("Testcontainers is done in time")
            .expect("its output can be read")
            .expect("Testcontainers does not fail");
        answer.parse().expect("milliseconds")
    }
}
