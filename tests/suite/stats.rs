//! `postgres stats` with each engine behind it: what is told of a real instance is so.

use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::{TestEnvironment, limits_hold};
use dev_postgres_mcp_tests::specs::unlikely_name;
use rstest::rstest;
use serde_json::Value;
use tokio_postgres::{Client, NoTls};

/// More than a new instance has of anything else: 64 MiB.
const LARGE: u64 = 64 << 20;

async fn connect(instance: &Value) -> Client {
    let dsn = instance["dsn"].as_str().expect("text");
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("it answers");
    // It ends with the client.
    tokio::spawn(connection);
    client
}

fn stats_of(environment: &TestEnvironment, id: &str) -> Value {
    let told = environment.json(&["postgres", "stats", id]);
    assert_eq!(told["count"], 1, "{told}");
    assert_eq!(told["instances"][0]["id"], id);
    told["instances"][0].clone()
}

fn number(stats: &Value, name: &str) -> u64 {
    stats[name].as_u64().unwrap_or_else(|| panic!("{name} of {stats}"))
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_takes_is_told_and_grows_with_what_it_does(#[values(Docker, Local)] engine: TestEngine) {
    let environment = TestEnvironment::on(engine);
    let name = unlikely_name();
    let instance = environment.json(&["postgres", "create", "--database", &name]);
    let id = instance["id"].as_str().expect("text");

    let idle = stats_of(&environment, id);
    assert_eq!(
        (&idle["status"], &idle["connections"]),
        (&"running".into(), &0.into()),
        "{idle}"
    );
    assert_eq!(idle.get("problems"), None, "{idle}");
    assert!(number(&idle, "age_seconds") < 600, "{idle}");
    assert!(number(&idle, "memory_bytes") > 1 << 20, "{idle}");
    if engine == Docker || limits_hold() {
        assert_eq!(number(&idle, "memory_limit_bytes"), 512 << 20);
        assert_eq!(idle["cpu_limit_cores"], 1.0);
    } else {
        assert_eq!(
            (&idle["memory_limit_bytes"], &idle["cpu_limit_cores"]),
            (&Value::Null, &Value::Null)
        );
    }

    let (writer, busy, _other) = (
        connect(&instance).await,
        connect(&instance).await,
        connect(&instance).await,
    );
    writer
        .batch_execute(
            "CREATE TABLE large AS SELECT repeat(md5(i::text), 32) FROM generate_series(1, 80000) i;\n\
             ALTER TABLE large ADD COLUMN n int; CHECKPOINT",
        )
        .await
        .expect("it has room");
    let computing = tokio::spawn(async move {
        // Until it is cancelled by the drop.
        let _ = busy
            .batch_execute("SELECT count(*) FROM generate_series(1, 100000000000)")
            .await;
    });
    let told = tokio::task::spawn_blocking({
        let (environment, id) = (environment.clone(), id.to_owned());
        move || stats_of(&environment, &id)
    });
    let loaded = told.await.expect("no panic");
    assert_eq!(loaded["connections"], 3, "{loaded}");
    let cpu = loaded["cpu_cores"].as_f64().expect("a number");
    assert!(cpu > 0.1 && cpu < 8.0, "{loaded}");
    let grown = number(&loaded, "disk_bytes").saturating_sub(number(&idle, "disk_bytes"));
    assert!(grown > LARGE, "{grown} bytes: {idle} {loaded}");

    let table = environment.run(&["postgres", "stats", &id[..13]]);
    let table = String::from_utf8(table.stdout).expect("UTF-8");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID") && lines[0].ends_with("AGE"), "{table}");
    assert!(lines.len() == 2 && lines[1].starts_with(id), "{table}");

    environment.json(&["postgres", "drop", id]);
    computing.await.expect("no panic");
    let gone = environment.run(&["postgres", "stats", id]);
    assert_eq!(gone.status.code(), Some(4), "{}", String::from_utf8_lossy(&gone.stderr));
}

#[rstest]
#[tokio::test]
async fn an_instance_that_has_stopped_is_told_without_what_only_a_running_one_takes(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let environment = TestEnvironment::on(engine);
    let name = unlikely_name();
    let instance = environment.json(&["postgres", "create", "--database", &name]);
    let id = instance["id"].as_str().expect("text");
    let client = connect(&instance).await;
    // In the data directory; the session that says so ends with it.
    let _ = client
        .batch_execute("COPY (SELECT 1) TO PROGRAM 'head -1 postmaster.pid | xargs kill -INT'")
        .await;
    let stopped = || environment.json(&["postgres", "get", id])["status"] == "stopped";
    for _ in 0..600 {
        if stopped() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let told = environment.json(&["postgres", "stats"]);
    let all = told["instances"].as_array().expect("instances");
    let stats = all.iter().find(|stats| stats["id"] == id).expect("it is among them");
    assert_eq!(stats["status"], "stopped", "{stats}");
    for nothing in ["cpu_cores", "memory_bytes", "connections"] {
        assert_eq!(stats[nothing], Value::Null, "{stats}");
    }
    assert!(number(stats, "disk_bytes") > 0, "{stats}");
    let health = environment.run(&["postgres", "health", id]);
    assert_eq!(health.status.code(), Some(8), "{health:?}");
    environment.json(&["postgres", "drop", id]);
}
