//! Servers that are started ahead: a create takes one, whatever it asks for; nobody else sees them, and they go with
//! their process.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use dev_postgres_mcp::instance::InstanceId;
use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::docker_cli::{docker, try_docker};
use dev_postgres_mcp_tests::processes;
use dev_postgres_mcp_tests::session::Session;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_postgres::NoTls;

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often a create is tried that may come before the pool is full again.
const ATTEMPTS: usize = 20;
/// What the names of containers begin with that wait.
const WAITING: &str = "mcp-postgres-pool-";

fn environment(engine: TestEngine) -> TestEnvironment {
    TestEnvironment::on(engine).with("DEV_POSTGRES_MCP_POOL_SIZE", "1")
}

/// The servers that processes of this environment have started ahead, as the engine itself shows them.
async fn waiting(environment: &TestEnvironment, engine: TestEngine) -> BTreeSet<InstanceId> {
    let state = environment.state_dir();
    match engine {
        Docker => {
            let Some(scope) = environment.scope() else {
                return BTreeSet::new();
            };
            let format = "{{.Names}} {{.Label \"dev-postgres-mcp.owner\"}}";
            let filter = format!("name={WAITING}");
            let listed = docker(&["ps", "--all", "--filter", &filter, "--format", format]).await;
            listed
                .lines()
                .filter_map(|line| line.split_once(' '))
                .filter(|(_, owner)| owner.starts_with(&scope))
                .map(|(name, _)| name.strip_prefix(WAITING).expect("its name").parse().expect("an id"))
                .collect()
        }
        Local => fs::read_dir(state.join("instances"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| !entry.path().join("instance.json").exists())
            .map(|entry| entry.file_name().to_str().expect("text").parse().expect("an id"))
            .collect(),
    }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_one_waits(environment: &TestEnvironment, engine: TestEngine) -> InstanceId {
    until("a server waits", async || {
        waiting(environment, engine).await.into_iter().next()
    })
    .await
}

async fn until_none_waits(environment: &TestEnvironment, engine: TestEngine) {
    until("no server waits", async || {
        waiting(environment, engine).await.is_empty().then_some(())
    })
    .await;
}

/// Creates until it was a server that waited that was taken; from outside it can't be seen when one is ready.
async fn create_warm(
    session: &mut Session,
    environment: &TestEnvironment,
    engine: TestEngine,
    arguments: &Value,
) -> Value {
    for _ in 0..ATTEMPTS {
        let waits = until_one_waits(environment, engine).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let created = session.succeed("create_postgres_instance", arguments.clone()).await;
        if created["id"] == waits.to_string() {
            return created;
        }
        session
            .succeed("drop_postgres_instance", json!({ "id": created["id"] }))
            .await;
    }
    panic!("no create has taken a server that waited");
}

async fn told(created: &Value, query: &str) -> String {
    let dsn = created["dsn"].as_str().expect("a DSN");
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("the DSN connects");
    tokio::spawn(connection);
    client.query_one(query, &[]).await.expect("a row").get(0)
}

fn command(environment: &TestEnvironment, arguments: &[&str]) -> Value {
    let output = environment
        .command([&["-o", "json"], arguments].concat())
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[rstest]
#[tokio::test]
async fn a_create_takes_the_server_that_waits_whatever_names_it_asks_for(#[values(Docker, Local)] engine: TestEngine) {
    let environment = environment(engine);
    let mut session = Session::initialized(&environment, &[]).await;
    for arguments in [
        json!({}),
        json!({ "database": "app", "username": "me", "password": "p" }),
        json!({ "database": "O'Neil \"db\" ünï\\", "username": "us er\n$1", "password": "pass\nwörd'\"\\\u{1}\u{2}" }),
        json!({ "database": "template1", "username": "renamer" }),
        json!({ "database": "dev-postgres-mcp-spare", "password": "SCRAM-SHA-256$4096:x" }),
    ] {
        let created = create_warm(&mut session, &environment, engine, &arguments).await;
        engine.assert_made(&created);
        engine.assert_warned(&created);
        for (name, value) in arguments.as_object().expect("an object") {
            assert_eq!(created[name], *value);
        }
        let names = told(&created, "SELECT concat(current_database(), ' ', session_user)").await;
        let (database, username) = (&created["database"], &created["username"]);
        assert_eq!(
            names,
            format!(
                "{} {}",
                database.as_str().expect("text"),
                username.as_str().expect("text")
            )
        );
        let databases = told(
            &created,
            "SELECT coalesce(string_agg(datname, '|'), '') FROM pg_database
             WHERE datname NOT IN ('postgres', 'template0', 'template1', current_database())",
        );
        assert_eq!(databases.await, "", "no other database is left");
        let roles = told(
            &created,
            "SELECT string_agg(rolname, '|') FROM pg_roles WHERE rolname !~ '^pg_'",
        )
        .await;
        assert_eq!(roles, *username, "no other role is left");

        // Another process knows it by the same names.
        let id = created["id"].as_str().expect("an id");
        let listed = command(&environment, &["postgres", "list"]);
        let listed = listed["instances"].as_array().expect("instances");
        let listed = listed
            .iter()
            .find(|instance| instance["id"] == id)
            .expect("it is listed");
        let got = command(&environment, &["postgres", "get", id]);
        for name in ["database", "username", "port", "version", "created_at", "status"] {
            assert_eq!((&listed[name], &got[name]), (&created[name], &created[name]), "{name}");
        }
        for secret in ["password", "dsn"] {
            assert_eq!(got[secret], created[secret]);
        }
        command(&environment, &["postgres", "drop", id]);
    }
    assert!(session.end().await.status.success());
    until_none_waits(&environment, engine).await;
}

#[rstest]
#[tokio::test]
async fn a_server_that_waits_is_no_instance_for_anybody(#[values(Docker, Local)] engine: TestEngine) {
    let environment = environment(engine);
    let mut session = Session::initialized(&environment, &[]).await;
    let waits = until_one_waits(&environment, engine).await.to_string();
    let listed = session.succeed("list_postgres_instances", json!({})).await;
    let listed = listed["instances"].as_array().expect("instances");
    assert!(listed.iter().all(|instance| instance["id"] != waits), "{listed:?}");
    for tool in [
        "get_postgres_instance",
        "drop_postgres_instance",
        "health_check_postgres",
    ] {
        let error = session.fail(tool, json!({ "id": waits })).await;
        assert_eq!(error["code"], "not_found", "{tool}");
    }
    let listed = command(&environment, &["postgres", "list"]);
    assert!(!listed.to_string().contains(&waits));
    let get = environment
        .command(["postgres", "get", &waits])
        .stdin(Stdio::null())
        .output();
    assert!(!get.expect("it starts").status.success());
    // Neither do other processes' commands take it for something that was left.
    command(&environment, &["postgres", "prune"]);
    assert_eq!(
        waiting(&environment, engine).await,
        BTreeSet::from([waits.parse().expect("an id")])
    );
    assert!(session.end().await.status.success());
    until_none_waits(&environment, engine).await;
}

#[rstest]
#[tokio::test]
async fn what_a_killed_process_had_started_ahead_goes_with_the_next_command(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let environment = environment(engine);
    let session = Session::initialized(&environment, &[]).await;
    let waits = until_one_waits(&environment, engine).await;
    processes::kill(session.pid().expect("it runs"));
    drop(session);
    assert_eq!(
        waiting(&environment, engine).await,
        BTreeSet::from([waits]),
        "a kill leaves it"
    );
    command(&environment, &["postgres", "list"]);
    until_none_waits(&environment, engine).await;
}

#[rstest]
#[tokio::test]
async fn one_that_dies_while_it_waits_is_replaced(#[values(Docker, Local)] engine: TestEngine) {
    let environment = environment(engine);
    let mut session = Session::initialized(&environment, &[]).await;
    // It is watched from when a create could take it.
    let created = create_warm(&mut session, &environment, engine, &json!({})).await;
    session
        .succeed("drop_postgres_instance", json!({ "id": created["id"] }))
        .await;
    let first = until_one_waits(&environment, engine).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    match engine {
        Docker => drop(docker(&["kill", &format!("{WAITING}{first}")]).await),
        Local => {
            let data = environment
                .state_dir()
                .join("instances")
                .join(first.to_string())
                .join("data");
            let pid = fs::read_to_string(data.join("postmaster.pid")).expect("a pid file");
            processes::kill(pid.lines().next().expect("a line").parse().expect("a number"));
        }
    }
    until("another waits", async || {
        let waiting = waiting(&environment, engine).await;
        (waiting.len() == 1 && !waiting.contains(&first)).then_some(())
    })
    .await;
    let created = create_warm(&mut session, &environment, engine, &json!({})).await;
    session
        .succeed("drop_postgres_instance", json!({ "id": created["id"] }))
        .await;
    assert!(session.end().await.status.success());
    until_none_waits(&environment, engine).await;
}

#[rstest]
#[tokio::test]
async fn a_create_that_finds_no_port_is_given_that_of_a_server_that_waits(#[values(Docker, Local)] engine: TestEngine) {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let environment = environment(engine).with("DEV_POSTGRES_MCP_INSTANCE_PORTS", format!("{port}-{port}"));
    let mut session = Session::initialized(&environment, &[]).await;
    until_one_waits(&environment, engine).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let other = if engine == Docker { "15" } else { "13" };
    let created = session
        .call("create_postgres_instance", json!({ "version": other }))
        .await;
    assert_ne!(created["isError"], true, "{created}");
    assert_eq!(created["structuredContent"]["port"], port);
    assert_eq!(created["structuredContent"]["version"], other);
    let id = created["structuredContent"]["id"].clone();
    session.succeed("drop_postgres_instance", json!({ "id": id })).await;
    assert!(session.end().await.status.success());
    until_none_waits(&environment, engine).await;
}

#[rstest]
#[tokio::test]
async fn creates_at_once_each_get_a_server_of_their_own(#[values(Docker, Local)] engine: TestEngine) {
    let environment = environment(engine).with("DEV_POSTGRES_MCP_POOL_SIZE", "2");
    let mut session = Session::initialized(&environment, &[]).await;
    until("two wait", async || {
        (waiting(&environment, engine).await.len() == 2).then_some(())
    })
    .await;
    let mut asked = Vec::new();
    for number in 0..4 {
        let arguments = json!({ "database": format!("db{number}") });
        let params = json!({ "name": "create_postgres_instance", "arguments": arguments });
        asked.push(session.ask("tools/call", params).await);
    }
    let mut ids = BTreeSet::new();
    for (number, request) in asked.into_iter().enumerate() {
        let created = session.answer(request).await["result"]["structuredContent"].clone();
        assert_eq!(
            told(&created, "SELECT current_database()::text").await,
            format!("db{number}")
        );
        ids.insert(created["id"].as_str().expect("an id").to_owned());
    }
    assert_eq!(ids.len(), 4);
    for id in ids {
        session.succeed("drop_postgres_instance", json!({ "id": id })).await;
    }
    assert!(session.end().await.status.success());
    until_none_waits(&environment, engine).await;
}

#[tokio::test]
async fn a_server_that_waits_shows_no_password_and_takes_none_that_anybody_knows() {
    let environment = environment(Docker);
    let session = Session::initialized(&environment, &[]).await;
    let waits = until_one_waits(&environment, Docker).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let name = format!("{WAITING}{waits}");
    let inspected: Value = serde_json::from_str(&docker(&["inspect", &name]).await).expect("JSON");
    let env = inspected[0]["Config"]["Env"].to_string();
    assert!(env.contains("\"POSTGRES_PASSWORD=\""), "{env}");
    let image = inspected[0]["Config"]["Image"].as_str().expect("its image");
    let template = docker(&["image", "inspect", "--format", "{{json .Config.Env}}", image]).await;
    let template: Vec<String> = serde_json::from_str(&template).expect("JSON");
    let known = template
        .iter()
        .find_map(|entry| entry.strip_prefix("POSTGRES_PASSWORD="))
        .expect("a password");
    let port = &inspected[0]["HostConfig"]["PortBindings"]["5432/tcp"][0]["HostPort"];
    for password in [known, "none", "postgres"] {
        let psql = Command::new("psql")
            .args([
                "--no-psqlrc",
                "--no-password",
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-c",
                "SELECT 1",
            ])
            .args(["-p", port.as_str().expect("text")])
            .env("PGPASSWORD", password)
            .output()
            .await
            .expect("psql runs");
        let stderr = String::from_utf8_lossy(&psql.stderr);
        assert!(stderr.contains("password authentication failed"), "{stderr}");
    }
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn a_create_takes_no_server_whose_image_has_changed_since() {
    let own = format!("dev-postgres-mcp-test-{}", InstanceId::random());
    docker(&["tag", "postgres:17", &format!("{own}:17")]).await;
    let environment = environment(Docker).with("DEV_POSTGRES_MCP_INSTANCE_REPOSITORY", &own);
    let mut session = Session::initialized(&environment, &[]).await;
    let waits = until_one_waits(&environment, Docker).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    docker(&["tag", "postgres:15", &format!("{own}:17")]).await;
    let created = session.succeed("create_postgres_instance", json!({})).await;
    assert_ne!(created["id"], waits.to_string());
    let version = told(&created, "SHOW server_version").await;
    assert!(version.starts_with("15."), "{version}");
    session
        .succeed("drop_postgres_instance", json!({ "id": created["id"] }))
        .await;
    assert!(session.end().await.status.success());
    until_none_waits(&environment, Docker).await;
    docker(&["rmi", &format!("{own}:17")]).await;
}

#[tokio::test]
async fn no_server_is_started_ahead_from_an_image_that_is_not_here() {
    let absent = format!("dev-postgres-mcp-test-{}", InstanceId::random());
    let environment = environment(Docker).with("DEV_POSTGRES_MCP_INSTANCE_REPOSITORY", &absent);
    let session = Session::initialized(&environment, &[]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(waiting(&environment, Docker).await, BTreeSet::new());
    let remains = session.end().await;
    assert!(remains.status.success());
    assert!(
        !remains.log.contains("WARN") && !remains.log.contains("ERROR"),
        "{}",
        remains.log
    );
    assert!(
        try_docker(&["image", "inspect", &format!("{absent}:17")])
            .await
            .is_err(),
        "nothing is pulled"
    );
}
