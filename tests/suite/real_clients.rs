//! The tools through the clients that people really use, and the DSNs through the drivers, on each engine.

use std::process::Stdio;
use std::time::Duration;

use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::{self, TestEnvironment};
use dev_postgres_mcp_tests::docker_cli::docker;
use dev_postgres_mcp_tests::{clients, local};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_mins(3);

/// Who and where each driver finds itself when it is given nothing but the DSN.
async fn check_with_every_driver(instance: &Value) {
    let dsn = instance["dsn"].as_str().expect("a DSN");
    let expected = json!([instance["username"], instance["database"]]);

    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "--tuples-only", "--no-align"])
        .args(["--command", "SELECT json_build_array(current_user, current_database())"])
        .arg(dsn)
        .kill_on_drop(true);
    assert_eq!(clients::json(&mut psql).await, expected, "psql");
    assert_eq!(
        clients::json(clients::python("query.py").env("DSN", dsn)).await,
        expected,
        "psycopg"
    );
    assert_eq!(
        clients::json(clients::node("query.cjs").env("DSN", dsn)).await,
        expected,
        "node-postgres"
    );

    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls)
        .await
        .expect("tokio-postgres connects");
    tokio::spawn(connection);
    let row = client
        .query_one("SELECT current_user::text, current_database()::text", &[])
        .await
        .expect("the query runs");
    assert_eq!(
        json!([row.get::<_, String>(0), row.get::<_, String>(1)]),
        expected,
        "tokio-postgres"
    );
}

#[rstest]
#[tokio::test]
async fn the_python_sdk_uses_the_tools_and_every_driver_takes_the_dsns(#[values(Docker, Local)] engine: TestEngine) {
    let environment = TestEnvironment::on(engine);
    let mut client = clients::python("session.py")
        .arg(binary::path())
        .args(["mcp", "serve"])
        .env_clear()
        .envs(environment.variables())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut lines = BufReader::new(client.stdout.take().expect("piped")).lines();
    let mut next = async || -> Value {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("in time");
        let line = line.expect("readable").expect("the client says what it saw");
        serde_json::from_str(&line).expect("JSON")
    };
    let made = next().await;
    assert_eq!(made["tools"].as_array().map(Vec::len), Some(6), "{made}");
    assert_eq!(made["odd"]["database"], "my-db \"x\" 'y'");
    assert_eq!(made["odd"]["username"], "us er%/@");
    for instance in [&made["plain"], &made["odd"]] {
        engine.assert_made(instance);
        check_with_every_driver(instance).await;
        match engine {
            Docker => assert_contained(instance).await,
            Local => local::assert_private(&environment, instance),
        }
    }
    let mut input = client.stdin.take().expect("piped");
    input.write_all(b"\n").await.expect("the client reads");
    let seen = next().await;
    assert_eq!(seen["health"], "healthy");
    assert_eq!(seen["dropped"], json!([true, true]));
    assert_eq!(seen["gone"], "not_found");
    assert!(seen["progress"].as_u64().is_some_and(|steps| steps > 0), "{seen}");
    assert!(client.wait().await.expect("it ends").success());

    for instance in [&made["plain"], &made["odd"]] {
        let id = instance["id"].as_str().expect("an id");
        match engine {
            Docker => {
                let left = docker(&["ps", "--all", "--quiet", "--filter", &format!("name=mcp-postgres-{id}")]).await;
                assert_eq!(left, "", "its container is gone");
            }
            Local => assert_eq!(local::command_lines_with(id), Vec::<String>::new()),
        }
    }
    assert_eq!(local::leftovers(&environment), Vec::<String>::new());
}

/// What Docker was told of an instance: limits, isolation, and no password where `docker ps` shows it.
async fn assert_contained(instance: &Value) {
    let id = instance["container_id"].as_str().expect("a container id");
    let inspected: Value = serde_json::from_str(&docker(&["inspect", id]).await).expect("JSON");
    let container = &inspected[0];
    let host = &container["HostConfig"];
    assert_eq!(
        container["Name"],
        format!("/mcp-postgres-{}", instance["id"].as_str().expect("an id"))
    );
    assert_eq!(host["Memory"], 512 << 20);
    assert_eq!(host["NanoCpus"], 1_000_000_000);
    assert!(host["PidsLimit"].as_i64().is_some_and(|limit| limit > 0), "{host}");
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
    assert_eq!(host["PortBindings"]["5432/tcp"][0]["HostIp"], "127.0.0.1");
    let volumes = container["Mounts"].as_array().expect("mounts");
    assert!(
        volumes.iter().all(|mount| mount["Type"] != "volume"),
        "no volume outlives it: {volumes:?}"
    );
    let password = instance["password"].as_str().expect("a password");
    let row = docker(&[
        "ps",
        "--all",
        "--no-trunc",
        "--filter",
        &format!("id={id}"),
        "--format",
        "{{json .}}",
    ])
    .await;
    let row: Value = serde_json::from_str(&row).expect("JSON");
    assert!(
        row["Labels"].as_str().is_some_and(|labels| !labels.contains(password)),
        "{row}"
    );
    assert!(!docker(&["logs", id]).await.contains(password));
}

#[tokio::test]
async fn the_inspector_finds_nothing_wrong_with_the_tools_in_either_era() {
    let environment = TestEnvironment::without_engine();
    for era in ["legacy", "modern"] {
        let list = ["--protocol-era", era, "--method", "tools/list", "--strict"];
        let (code, stdout, stderr) = clients::run(&mut clients::inspector(&environment, &list)).await;
        assert_eq!(code, Some(0), "{era}: {stdout}{stderr}");
        for tool in ["create", "list", "get", "drop"] {
            assert!(stdout.contains(&format!("{tool}_postgres_instance")), "{era}: {stdout}");
        }
    }
}

#[rstest]
#[tokio::test]
async fn the_inspector_creates_checks_and_drops_an_instance(#[values(Docker, Local)] engine: TestEngine) {
    let environment = TestEnvironment::on(engine);
    let call = async |tool: &str, arguments: Value| {
        let arguments = arguments.to_string();
        let command = [
            "--method",
            "tools/call",
            "--tool-name",
            tool,
            "--tool-args-json",
            &arguments,
        ];
        clients::run(&mut clients::inspector(&environment, &command)).await
    };
    let structured = |output: &str| -> Value {
        let result: Value = serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"));
        let result = result.get("result").cloned().unwrap_or(result);
        result["structuredContent"].clone()
    };
    // Each call is a server of its own, which finds what the one before it made.
    let (code, created, stderr) = call(
        "create_postgres_instance",
        json!({ "database": "inspected", "ttl_seconds": 600 }),
    )
    .await;
    assert_eq!(code, Some(0), "{created}{stderr}");
    let created = structured(&created);
    engine.assert_made(&created);
    let id = json!({ "id": created["id"] });
    let (code, health, stderr) = call("health_check_postgres", id.clone()).await;
    assert_eq!(code, Some(0), "{health}{stderr}");
    assert_eq!(structured(&health)["status"], "healthy");
    let (code, dropped, stderr) = call("drop_postgres_instance", id.clone()).await;
    assert_eq!(code, Some(0), "{dropped}{stderr}");
    let (code, again, _) = call("drop_postgres_instance", id).await;
    assert_eq!(code, Some(5), "a tool's error: {again}");
}
