//! Servers by Docker's own command line: the floor, and what people do without us. Owner of: all containers and images
//! with the label [`LABEL`], and the list of ours that are still to be dropped.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::plan::IMAGE;
use super::query;
use crate::docker_cli::{docker, try_docker};

/// Whose containers they are: this process's.
const LABEL: &str = "dev-postgres-mcp-bench";
/// An image with an initialised data directory, as anybody could make one.
const DATA_IMAGE: &str = "dev-postgres-mcp-bench:data";
const ENVIRONMENT: &str = "POSTGRES_PASSWORD=bench";

/// Ours that were made and not dropped yet.
static OURS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What is started.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    /// Nothing that takes time.
    Idle,
    /// A server on an initialised data directory.
    Data,
    /// The image in its own way.
    Entrypoint,
}

/// A container that runs.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) dsn: String,
}

/// Runs a container; returns when `docker run` does. The limits and what else may cost time are those of our own.
pub(super) async fn run(start: Start, port: u16) -> Container {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (pid, count) = (process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let container = Container {
        name: format!("{LABEL}-{pid}-{count}"),
        dsn: dsn(port),
    };
    let (label, publish) = (label(), format!("127.0.0.1:{port}:5432"));
    let mut words = vec!["run", "--detach", "--name", &container.name, "--label", &label];
    words.extend(["--publish", &publish, "--memory", "512m", "--memory-swap", "512m"]);
    words.extend(["--cpus", "1", "--pids-limit", "256", "--shm-size", "128m"]);
    words.extend(["--security-opt", "no-new-privileges", "--log-opt", "max-size=10m"]);
    let not_durable = ["postgres", "-c", "fsync=off", "-c", "full_page_writes=off"];
    let volume = ["--tmpfs", "/var/lib/postgresql/data:size=64k"];
    match start {
        Start::Idle => {
            words.extend(volume);
            words.extend(["--cap-drop", "ALL", "--entrypoint", "sleep", IMAGE, "infinity"]);
        }
        Start::Data => {
            words.extend(volume);
            words.extend([
                "--cap-drop",
                "ALL",
                "--user",
                "postgres",
                "--entrypoint",
                "",
                DATA_IMAGE,
            ]);
            words.extend(not_durable);
        }
        Start::Entrypoint => words.extend(["--env", ENVIRONMENT, IMAGE]),
    }
    docker(&words).await;
    container
}

fn label() -> String {
    format!("{LABEL}={}", process::id())
}

fn dsn(port: u16) -> String {
    format!("postgresql://postgres:bench@127.0.0.1:{port}/postgres")
}

/// As [`run`], until a query is answered.
pub(super) async fn run_until_answer(start: Start, port: u16) -> Container {
    let container = run(start, port).await;
    query::as_soon_as_possible(&container.dsn).await;
    container
}

pub(super) async fn remove(name: &str) {
    docker(&["rm", "--force", "--volumes", name]).await;
}

/// Ports that nobody has at the moment.
pub(super) fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a port is free"))
        .collect();
    let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
    listeners.iter().map(port).collect()
}

/// Makes the image with the initialised data directory.
pub(super) async fn make_data_image() {
    let port = free_ports(1)[0];
    let name = format!("{LABEL}-{}-data", process::id());
    let (label, publish) = (label(), format!("127.0.0.1:{port}:5432"));
    let mut words = vec![
        "run",
        "--detach",
        "--name",
        &name,
        "--label",
        &label,
        "--publish",
        &publish,
    ];
    // Outside of the image's volume, which is in no image.
    words.extend(["--env", ENVIRONMENT, "--env", "PGDATA=/bench/data", IMAGE]);
    docker(&words).await;
    query::as_soon_as_possible(&dsn(port)).await;
    docker(&["stop", &name]).await;
    docker(&["commit", &name, DATA_IMAGE]).await;
    remove(&name).await;
}

/// Makes `count` containers that look like `like`, one of ours, and have never been started.
pub(super) async fn make_likenesses(like: &str, count: usize, first: usize) {
    let labels = docker(&["inspect", "--format", "{{json .Config.Labels}}", like]).await;
    let labels: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&labels).expect("labels");
    for index in first..first + count {
        let id = dev_postgres_mcp::instance::InstanceId::random();
        let name = format!("{LABEL}-{}-like-{index}", process::id());
        let own = label();
        let mut words = vec!["create".to_owned(), "--name".into(), name, "--label".into(), own];
        for (key, value) in &labels {
            let value = value.as_str().expect("a label is text");
            let is_id = key == "dev-postgres-mcp.id";
            let value = if is_id { id.to_string() } else { value.to_owned() };
            words.extend(["--label".into(), format!("{key}={value}")]);
        }
        words.extend(["--tmpfs".into(), "/var/lib/postgresql/data".into(), IMAGE.into()]);
        docker(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
}

/// Removes the templates of ours: a cache, which the next create fills again.
pub(super) async fn remove_templates() {
    let listed = docker(&[
        "images",
        "--format",
        "{{.Repository}}:{{.Tag}}",
        "dev-postgres-mcp-template",
    ])
    .await;
    for template in listed.lines() {
        // Somebody else may have been first.
        let _ = try_docker(&["rmi", "--force", template]).await;
    }
}

fn ours() -> std::sync::MutexGuard<'static, BTreeSet<String>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An instance of ours was made in this container.
pub(super) fn made(container_id: &str) {
    ours().insert(container_id.to_owned());
}

/// It was dropped.
pub(super) fn dropped(container_id: &str) {
    ours().remove(container_id);
}

/// Removes likenesses and whatever else has this process's label.
pub(super) async fn remove_labelled() {
    let label = format!("label={}", label());
    let listed = try_docker(&["ps", "--all", "--quiet", "--filter", &label])
        .await
        .unwrap_or_default();
    let left: Vec<&str> = listed.lines().collect();
    if !left.is_empty() {
        // What has gone by itself is no harm.
        let _ = try_docker(&[&["rm", "--force", "--volumes"], left.as_slice()].concat()).await;
    }
}

/// Removes whatever is left in Docker, after a failure too.
pub async fn clear() {
    remove_labelled().await;
    let left: Vec<String> = std::mem::take(&mut *ours()).into_iter().collect();
    for container_id in left {
        let _ = try_docker(&["rm", "--force", "--volumes", &container_id]).await;
    }
    let _ = try_docker(&["rmi", DATA_IMAGE]).await;
}
