//! The command line with the real Docker behind it: instances from one process to the next.

use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use dev_postgres_mcp_tests::binary::TestEnvironment;
use serde_json::Value;

/// How long anything here may take: a create on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn run(environment: &TestEnvironment, arguments: &[&str]) -> Output {
    let mut command = environment.command(arguments);
    command.stdin(Stdio::null()).output().expect("the program starts")
}

fn json(environment: &TestEnvironment, arguments: &[&str]) -> Value {
    let output = run(environment, &[&["-o", "json"], arguments].concat());
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Instances of other tests are there, too: ours are told by a database's name that nobody else has.
fn unlikely_name() -> String {
    format!("cli \"{:016x}\"", rand::random::<u64>())
}

fn find(environment: &TestEnvironment, database: &str) -> Option<Value> {
    let list = json(environment, &["postgres", "list"]);
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
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn start_create(environment: &TestEnvironment, database: &str, stdout: Stdio) -> Child {
    let mut command = environment.command(["postgres", "create", "--database", database]);
    command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

#[tokio::test]
async fn what_one_process_creates_the_others_list_get_check_and_drop() {
    let environment = TestEnvironment::new();
    let (database, password) = (unlikely_name(), "p@ss:/w?rd#1 %41'\"\\");
    let mut command = environment.command(["-o", "json", "postgres", "create", "--database", &database]);
    command.args(["--username", "us er%/@", "--password-stdin"]);
    let mut create = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut input = create.stdin.take().expect("piped");
    std::io::Write::write_all(&mut input, format!("{password}\n").as_bytes()).expect("it reads");
    drop(input);
    let created: Value = serde_json::from_slice(&create.wait_with_output().expect("it ends").stdout).expect("JSON");
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
    assert!(
        listed.get("password").is_none() && listed.get("dsn").is_none(),
        "{listed}"
    );

    // All of it but the last character: that no other id begins so is as good as sure.
    let got = json(
        &environment,
        &["postgres", "get", &format!("mcp-postgres-{}", &id[..35])],
    );
    assert_eq!(got, created);

    let health = json(&environment, &["postgres", "health", id]);
    assert_eq!((&health["id"], &health["status"]), (&created["id"], &"healthy".into()));
    assert!(
        health["latency_ms"].as_f64().is_some_and(|latency| latency > 0.0),
        "{health}"
    );

    let dropped = json(&environment, &["postgres", "drop", id]);
    assert_eq!(dropped, serde_json::json!([{ "id": id, "dropped": true }]));
    assert_eq!(run(&environment, &["postgres", "get", id]).status.code(), Some(4));
}

#[test]
fn arguments_that_do_not_fit_are_told_all_at_once() {
    let environment = TestEnvironment::new();
    let output = run(
        &environment,
        &[
            "-o",
            "json",
            "postgres",
            "create",
            "--database",
            "template0",
            "--username",
            "pg_x",
        ],
    );
    assert_eq!(output.status.code(), Some(5));
    let told: Value = serde_json::from_slice(&output.stderr).expect("one JSON object");
    assert_eq!(told["error"]["code"], "invalid_arguments", "{told}");
    let fields = told["error"]["fields"].as_array().expect("fields");
    let fields: Vec<&str> = fields.iter().filter_map(|field| field["field"].as_str()).collect();
    assert_eq!(fields, ["database", "username"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_create_leaves_nothing_behind() {
    let environment = TestEnvironment::new();
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let database = unlikely_name();
        let mut create = start_create(&environment, &database, Stdio::null());
        wait_until("its container is there", || find(&environment, &database).is_some());
        let killed = std::process::Command::new("kill")
            .args([signal, &create.id().to_string()])
            .status();
        assert!(killed.expect("kill runs").success());
        let status = create.wait().expect("it ends");
        // Under load the create may have been through before the signal came; there is nothing to test then.
        if status.success() {
            let id = find(&environment, &database).expect("it was created")["id"].clone();
            json(&environment, &["postgres", "drop", id.as_str().expect("an id")]);
            continue;
        }
        assert_eq!(status.code(), Some(code));
        assert_eq!(find(&environment, &database), None, "it is gone when the process is");
    }
}

#[test]
fn an_instance_that_nobody_is_told_of_is_dropped_again() {
    let environment = TestEnvironment::new();
    let database = unlikely_name();
    let mut create = start_create(&environment, &database, Stdio::piped());
    drop(create.stdout.take());
    let output = create.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("the result could not be written") && told.contains("is dropped again"),
        "{told}"
    );
    assert_eq!(find(&environment, &database), None);
}
