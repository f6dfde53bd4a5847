//! The command line with each engine behind it: instances from one process to the next.

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::local;
use dev_postgres_mcp_tests::session::Session;
use dev_postgres_mcp_tests::specs::{as_told_later, unlikely_name};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// How long anything here may take: a create on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often a create is interrupted that is through before.
const ATTEMPTS_MAX: usize = 10;

#[tokio::test]
async fn what_has_run_out_and_what_took_too_long_have_codes_of_their_own() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("the port").port();
    let ports = ("DEV_POSTGRES_MCP_INSTANCE_PORTS", format!("{port}-{port}"));
    let patience = ("DEV_POSTGRES_MCP_INSTANCE_READY_TIMEOUT", "1ms".to_owned());
    for ((name, value), exit, code) in [(ports, 9, "exhausted"), (patience, 7, "timed_out")] {
        let environment = TestEnvironment::on(TestEngine::Local).with(name, value);
        let create = environment.run(&["-o", "json", "postgres", "create"]);
        assert_eq!(create.status.code(), Some(exit), "{create:?}");
        let told: Value = serde_json::from_slice(&create.stderr).expect("one JSON object");
        assert_eq!(told["error"]["code"], code, "{told}");
        let mut session = Session::initialized(&environment, &[]).await;
        let error = session.fail("create_postgres_instance", json!({})).await;
        assert_eq!(error["code"], code, "{error}");
        session.end().await;
        assert_eq!(local::leftovers(&environment), Vec::<String>::new());
    }
}

fn find(environment: &TestEnvironment, database: &str) -> Option<Value> {
    let list = environment.json(&["postgres", "list"]);
    let instances = list["instances"].as_array().expect("instances");
    assert_eq!(list["count"], instances.len());
    instances
        .iter()
        .find(|instance| instance["database"] == database)
        .cloned()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start_create(environment: &TestEnvironment, arguments: &[&str], stdin: Stdio, stdout: Stdio) -> Child {
    Command::from(environment.command([&["postgres", "create"], arguments].concat()))
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts")
}

#[rstest]
#[tokio::test]
async fn what_one_process_creates_the_others_list_get_check_and_drop(#[values(Docker, Local)] engine: TestEngine) {
    let environment = TestEnvironment::on(engine);
    let (database, password) = (unlikely_name(), "p@ss:/w?rd#1 %41'\"\\");
    let arguments = [
        "-o",
        "json",
        "--database",
        &database,
        "--username",
        "us er%/@",
        "--password-stdin",
    ];
    let mut create = start_create(&environment, &arguments, Stdio::piped(), Stdio::piped());
    let mut input = create.stdin.take().expect("piped");
    input
        .write_all(format!("{password}\n").as_bytes())
        .await
        .expect("it reads");
    drop(input);
    let output = create.wait_with_output().await.expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let created: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    engine.assert_made(&created);
    engine.assert_warned(&created);
    assert_eq!(created["password"], password);
    assert_eq!(created["username"], "us er%/@");

    let dsn = created["dsn"].as_str().expect("a DSN");
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls)
        .await
        .expect("the DSN connects");
    tokio::spawn(connection);
    let row = client
        .query_one("SELECT current_database(), current_user::text", &[])
        .await
        .expect("a row");
    assert_eq!((row.get(0), row.get(1)), (database.as_str(), "us er%/@"));

    let id = created["id"].as_str().expect("an id");
    let listed = find(&environment, &database).expect("it is listed");
    assert_eq!(listed["id"], id);
    engine.assert_made(&listed);
    assert!(
        listed.get("password").is_none() && listed.get("dsn").is_none(),
        "{listed}"
    );

    // All of it but the last character: that no other id begins so is as good as sure.
    let got = environment.json(&["postgres", "get", &format!("mcp-postgres-{}", &id[..35])]);
    assert_eq!(got, as_told_later(&created));

    let health = environment.json(&["postgres", "health", id]);
    assert_eq!((&health["id"], &health["status"]), (&created["id"], &"healthy".into()));
    assert!(
        health["latency_ms"].as_f64().is_some_and(|latency| latency > 0.0),
        "{health}"
    );

    let dropped = environment.json(&["postgres", "drop", id]);
    assert_eq!(dropped, serde_json::json!([{ "id": id, "dropped": true }]));
    assert_eq!(environment.run(&["postgres", "get", id]).status.code(), Some(4));
    assert_eq!(local::leftovers(&environment), Vec::<String>::new());
}

#[test]
fn arguments_that_do_not_fit_are_told_all_at_once() {
    let environment = TestEnvironment::without_engine();
    let output = environment.run(&[
        "-o",
        "json",
        "postgres",
        "create",
        "--database",
        "template0",
        "--username",
        "pg_x",
    ]);
    assert_eq!(output.status.code(), Some(5));
    let told: Value = serde_json::from_slice(&output.stderr).expect("one JSON object");
    assert_eq!(told["error"]["code"], "invalid_arguments", "{told}");
    let fields = told["error"]["fields"].as_array().expect("fields");
    let fields: Vec<&str> = fields.iter().filter_map(|field| field["field"].as_str()).collect();
    assert_eq!(fields, ["database", "username"]);
}

#[cfg(unix)]
#[rstest]
#[tokio::test]
async fn an_interrupted_create_leaves_nothing_behind(#[values(Docker, Local)] engine: TestEngine) {
    let environment = TestEnvironment::on(engine);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let database = unlikely_name();
        // Under load a create may be through before the signal comes: there is nothing to see then.
        let mut attempts = 0;
        let status = loop {
            attempts += 1;
            assert!(attempts <= ATTEMPTS_MAX, "a create is interrupted");
            let status = interrupt_create(engine, &environment, &database, signal).await;
            if !status.success() {
                break status;
            }
            let id = find(&environment, &database).expect("it was created")["id"].clone();
            environment.json(&["postgres", "drop", id.as_str().expect("an id")]);
        };
        assert_eq!(status.code(), Some(code));
        // Before a list, which would remove what was left.
        assert_eq!(local::leftovers(&environment), Vec::<String>::new());
        assert_eq!(find(&environment, &database), None, "it is gone when the process is");
    }
}

/// Sends a create a signal as soon as something of its instance is there.
#[cfg(unix)]
async fn interrupt_create(
    engine: TestEngine,
    environment: &TestEnvironment,
    database: &str,
    signal: &str,
) -> ExitStatus {
    let mut create = start_create(environment, &["--database", database], Stdio::null(), Stdio::null());
    let instances = environment.state_dir().join("instances");
    wait_until("something of it is there", || match engine {
        Docker => find(environment, database).is_some(),
        // Its folder, which is made first.
        Local => instances.read_dir().is_ok_and(|mut folders| folders.next().is_some()),
    });
    let pid = create.id().expect("it runs").to_string();
    let killed = std::process::Command::new("kill").args([signal, &pid]).status();
    assert!(killed.expect("kill runs").success());
    create.wait().await.expect("it ends")
}

#[rstest]
#[tokio::test]
async fn an_instance_that_nobody_is_told_of_is_dropped_again(#[values(Docker, Local)] engine: TestEngine) {
    let environment = TestEnvironment::on(engine);
    let database = unlikely_name();
    let mut create = start_create(&environment, &["--database", &database], Stdio::null(), Stdio::piped());
    drop(create.stdout.take());
    let output = create.wait_with_output().await.expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("the result could not be written") && told.contains("is dropped again"),
        "{told}"
    );
    assert_eq!(local::leftovers(&environment), Vec::<String>::new());
    assert_eq!(find(&environment, &database), None);
}

#[rstest]
fn a_version_can_be_prepared_before_it_is_asked_for(#[values(Docker, Local)] engine: TestEngine) {
    let environment = TestEnvironment::on(engine);
    let version = if engine == Docker { "17" } else { "13" };
    for _ in 0..2 {
        let warmed = environment.json(&["postgres", "warm", "--version", version]);
        assert_eq!(warmed, json!({ "version": version, "template": true }));
    }
    let said = environment.run(&["postgres", "warm", "--version", version]);
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        format!("PostgreSQL {version} is prepared\n")
    );
    let refused = environment.run(&["postgres", "warm", "--version", "latest"]);
    assert_eq!(refused.status.code(), Some(5), "the policy is asked");
}

#[test]
fn a_template_is_pruned_once_the_programs_that_made_it_are_gone() {
    let environment = TestEnvironment::on(Local);
    environment.json(&["postgres", "warm", "--version", "13"]);
    let templates = || {
        let entries = std::fs::read_dir(environment.state_dir().join("templates")).expect("a folder");
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect::<Vec<_>>()
    };
    let [template] = &templates()[..] else {
        panic!("one template: {:?}", templates());
    };
    let nothing = environment.json(&["postgres", "prune"]);
    assert_eq!(nothing, json!({ "dry_run": false, "count": 0, "removed": [] }));
    let elsewhere = environment.clone().with("DEV_POSTGRES_MCP_LOCAL_BIN_DIR", "/nowhere");
    let removed = json!([{
        "kind": "template",
        "name": template,
        "reason": "its PostgreSQL has changed or gone",
    }]);
    let dry = elsewhere.json(&["postgres", "prune", "--dry-run"]);
    assert_eq!(dry, json!({ "dry_run": true, "count": 1, "removed": removed }));
    assert_eq!(templates().len(), 1);
    let told = elsewhere.json(&["postgres", "prune"]);
    assert_eq!(told, json!({ "dry_run": false, "count": 1, "removed": removed }));
    assert!(templates().is_empty());
}
