//! `make demo`: the main job on a real PostgreSQL, step by step, with the time that each took.

#![forbid(unsafe_code)]

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use dev_postgres_mcp_tests::binary::{self, TestEnvironment};
use dev_postgres_mcp_tests::docker_cli::try_docker;
use dev_postgres_mcp_tests::local;
use dev_postgres_mcp_tests::session::Session;
use serde_json::{Value, json};
use tokio_postgres::NoTls;

#[tokio::main]
async fn main() -> ExitCode {
    let environment = TestEnvironment::new();
    binary::path();
    let before = InDocker::now().await;

    heading("An agent, over MCP");
    let (mut session, took) = timed(Session::initialized(&environment, &[])).await;
    let tools = session.request("tools/list", json!({})).await;
    let count = tools["result"]["tools"].as_array().map_or(0, Vec::len);
    step("dev-postgres-mcp mcp serve", took, &format!("{count} tools"));

    let (created, took) = timed(session.succeed("create_postgres_instance", json!({}))).await;
    let dsn = text(&created, "dsn");
    step(
        "create_postgres_instance",
        took,
        &dsn.replace(&text(&created, "password"), "********"),
    );
    let on_docker = created["engine"] == "docker";
    if on_docker {
        println!("  It runs in a container, because Docker answers.");
    } else {
        println!("  It runs as a process of this machine's own PostgreSQL, because Docker does not answer.");
    }

    let (answer, took) = timed(run_sql(&dsn)).await;
    step("connect with the DSN, run SQL", took, &answer);

    let id = json!({ "id": created["id"] });
    let (listed, took) = timed(session.succeed("list_postgres_instances", json!({}))).await;
    step("list_postgres_instances", took, &format!("count: {}", listed["count"]));
    let (health, took) = timed(session.succeed("health_check_postgres", id.clone())).await;
    step(
        "health_check_postgres",
        took,
        &format!("{}: SELECT 1 took {} ms", text(&health, "status"), health["latency_ms"]),
    );
    let (got, took) = timed(session.succeed("get_postgres_instance", id.clone())).await;
    step(
        "get_postgres_instance",
        took,
        if got["dsn"] == created["dsn"] {
            "the same DSN"
        } else {
            "another DSN!"
        },
    );

    heading("A person, on the command line, sees the same instance");
    command_line(&environment, &["postgres", "list"]);

    heading("The agent is done");
    let (_, took) = timed(session.succeed("drop_postgres_instance", id)).await;
    let gone = if on_docker { "container" } else { "server" };
    step("drop_postgres_instance", took, &format!("{gone} and data are gone"));
    let (_, took) = timed(session.end()).await;
    step("close the session", took, "the server has ended");

    match left(on_docker, before, &environment).await {
        Ok(nothing) => {
            println!("\nNothing is left: {nothing}.");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("\n{reason}");
            ExitCode::FAILURE
        }
    }
}

/// What has been looked for in vain.
///
/// # Errors
/// What is there.
async fn left(
    on_docker: bool,
    before: Result<InDocker, String>,
    environment: &TestEnvironment,
) -> Result<&'static str, String> {
    if on_docker {
        let untold = |error| format!("Docker's own command line cannot tell what is left: {error}");
        let (before, after) = (before.map_err(untold)?, InDocker::now().await.map_err(untold)?);
        // Less is no harm: what somebody else's killed process had left, say.
        if after.exceeds(&before) {
            return Err(format!(
                "Left over, or somebody else is at work on this Docker: {before:?} before, {after:?} now."
            ));
        }
        return Ok("no container, no volume, no network");
    }
    match local::leftovers(environment).as_slice() {
        [] => Ok("no process, no data"),
        left => Err(format!("Left over: {}", left.join(", "))),
    }
}

fn heading(text: &str) {
    println!("\n{text}");
}

fn step(what: &str, took: Duration, seen: &str) {
    println!("  {what:<30} {:>9.1} ms   {seen}", took.as_secs_f64() * 1000.0);
}

fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_default().to_owned()
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let begun = Instant::now();
    let done = work.await;
    (done, begun.elapsed())
}

async fn run_sql(dsn: &str) -> String {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("the DSN connects");
    tokio::spawn(connection);
    client
        .batch_execute(
            "CREATE TABLE greeting (word text); INSERT INTO greeting VALUES ('hello'), ('from'), ('PostgreSQL')",
        )
        .await
        .expect("the table is made");
    let row = client
        .query_one(
            "SELECT string_agg(word, ' ') || ' ' || current_setting('server_version') FROM greeting",
            &[],
        )
        .await
        .expect("the query runs");
    row.get(0)
}

fn command_line(environment: &TestEnvironment, arguments: &[&str]) {
    println!("  $ dev-postgres-mcp {}", arguments.join(" "));
    let mut command: Command = environment.command(arguments);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("the program starts");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("  {line}");
    }
}

/// How much of what instances are made of is on this Docker.
#[derive(Debug)]
struct InDocker {
    containers: usize,
    volumes: usize,
    networks: usize,
}

impl InDocker {
    fn exceeds(&self, other: &Self) -> bool {
        self.containers > other.containers || self.volumes > other.volumes || self.networks > other.networks
    }

    /// # Errors
    /// If Docker or its command line isn't there.
    async fn now() -> Result<Self, String> {
        let count = async |arguments: &[&str]| Ok::<_, String>(try_docker(arguments).await?.lines().count());
        Ok(Self {
            containers: count(&["ps", "--all", "--quiet", "--filter", "label=dev-postgres-mcp.id"]).await?,
            volumes: count(&["volume", "ls", "--quiet"]).await?,
            networks: count(&["network", "ls", "--quiet", "--filter", "label=dev-postgres-mcp.network"]).await?,
        })
    }
}
