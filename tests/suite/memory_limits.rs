//! A query that eats memory harms its own instance only, and `postgres health` says what happened.

use std::time::{Duration, Instant};

use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::{TestEnvironment, limits_hold};
use dev_postgres_mcp_tests::specs::unlikely_name;
use rstest::rstest;
use serde_json::Value;
use tokio_postgres::{Client, NoTls};

/// How long a server may take to recover on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a command says of an instance, sound or not.
fn said(environment: &TestEnvironment, arguments: &[&str]) -> Value {
    let output = environment.run(&[&["-o", "json"], arguments].concat());
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

async fn try_connect(instance: &Value) -> Result<Client, tokio_postgres::Error> {
    let dsn = instance["dsn"].as_str().expect("text");
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    // It ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

async fn count(client: &Client) -> i64 {
    let counted = client.query_one("SELECT count(*) FROM kept", &[]).await;
    counted.expect("a row").get(0)
}

#[rstest]
#[tokio::test]
async fn a_query_that_eats_memory_harms_its_own_instance_only_and_health_says_so(
    #[values(Docker, Local)] engine: TestEngine,
) {
    if engine == Local && !limits_hold() {
        eprintln!("skipped: this machine lets nobody limit what local instances take");
        return;
    }
    let environment = TestEnvironment::on(engine).with("DEV_POSTGRES_MCP_INSTANCE_MEMORY_MIB", "128");
    let mut instances = Vec::new();
    for _ in 0..2 {
        let instance = environment.json(&["postgres", "create", "--database", &unlikely_name()]);
        let client = try_connect(&instance).await.expect("it answers");
        let kept = "CREATE TABLE kept AS SELECT generate_series(1, 1000) i; CREATE TEMPORARY TABLE own AS SELECT 1";
        client.batch_execute(kept).await.expect("it has room");
        instances.push((instance, client));
    }
    let [(glutton, eater), (neighbour, witness)] = &instances[..] else {
        panic!("there are two")
    };
    let health = |instance: &Value| {
        let id = instance["id"].as_str().expect("text");
        said(&environment, &["postgres", "health", id])
    };
    for (instance, _) in &instances {
        assert_eq!(health(instance)["message"], "PostgreSQL answered a query.");
    }

    let sister = try_connect(glutton).await.expect("it answers");
    let eating = "SELECT length(string_agg(repeat('x', 1000000), '')) FROM generate_series(1, 900)";
    let error = eater.batch_execute(eating).await.expect_err("it may have 128 MiB");
    assert!(
        error.as_db_error().is_none(),
        "PostgreSQL itself has no objection: {error:?}"
    );
    // Once it has noticed, which may be a moment later.
    let begun = Instant::now();
    while sister.batch_execute("SELECT 1").await.is_ok() {
        assert!(begun.elapsed() < PATIENCE, "PostgreSQL ends all sessions then");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // The server recovers by itself, and nothing that was committed is lost.
    let begun = Instant::now();
    let recovered = loop {
        match try_connect(glutton).await {
            Ok(client) => break client,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(count(&recovered).await, 1000);
    let told = health(glutton);
    assert_eq!(told["status"], "healthy", "{told}");
    let message = told["message"].as_str().expect("text");
    assert!(
        message.contains("the kernel has killed a process") && message.contains("it may have 128 MiB"),
        "{message}"
    );

    // The same session as before, with what only it has.
    witness.batch_execute("SELECT * FROM own").await.expect("it goes on");
    assert_eq!(count(witness).await, 1000);
    let told = health(neighbour);
    assert_eq!(told["status"], "healthy", "{told}");
    assert_eq!(told["message"], "PostgreSQL answered a query.");
    for (instance, _) in &instances {
        let id = instance["id"].as_str().expect("text");
        environment.json(&["postgres", "drop", id]);
    }
}
