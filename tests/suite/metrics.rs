//! `mcp serve --metrics`: what a server counts, read as Prometheus reads it, and nobody else.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use dev_postgres_mcp_tests::address_beyond_loopback;
use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::clients;
use dev_postgres_mcp_tests::processes;
use dev_postgres_mcp_tests::puppet::with_puppets;
use dev_postgres_mcp_tests::session::{PATIENCE, Session};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// A port of loopback that nobody has.
async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("the port")
}

/// Sends these bytes and reads to the end.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("somebody listens");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // Who sends too much may be cut off.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("in time");
    String::from_utf8(answer).expect("UTF-8")
}

async fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")).await
}

/// The value of the first sample whose line begins so.
fn value(text: &str, name: &str) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Reads again and again until a figure is what it should become.
async fn until(address: SocketAddr, name: &str, wanted: f64) -> String {
    let begun = Instant::now();
    loop {
        let text = get(address, "/metrics").await;
        if value(&text, name) == Some(wanted) {
            return text;
        }
        assert!(begun.elapsed() < PATIENCE, "{name} is not {wanted} in\n{text}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn sample(samples: &Value, name: &str, labels: &Value) -> Option<f64> {
    let mut samples = samples.as_array().expect("samples").iter();
    let sample = samples.find(|sample| sample[0] == name && sample[1] == *labels)?;
    sample[2].as_f64()
}

#[rstest]
#[tokio::test]
async fn what_a_server_does_is_counted_and_told_as_prometheus_reads_it(#[values(Docker, Local)] engine: TestEngine) {
    let environment = TestEnvironment::on(engine).with("DEV_POSTGRES_MCP_POOL_SIZE", "1");
    let environment = with_puppets(&environment, "", &[("villain", "prefix = 'bad'")]);
    if engine == Docker {
        // None waits before there is a template.
        let warmed = environment.command(["postgres", "warm"]).output().expect("it runs");
        assert!(warmed.status.success(), "{}", String::from_utf8_lossy(&warmed.stderr));
    }
    let address = free_address().await;
    let mut session = Session::initialized(&environment, &["--metrics", &address.to_string()]).await;
    let waits = "dev_postgres_mcp_pool_waiting";

    let mut made = Vec::new();
    for _ in 0..2 {
        until(address, waits, 1.0).await;
        made.push(session.succeed("create_postgres_instance", json!({})).await);
    }
    session
        .fail("create_postgres_instance", json!({ "database": "ü".repeat(40) }))
        .await;
    session.fail("bad_act", json!({ "deeds": ["trap"] })).await;
    let text = until(address, waits, 1.0).await;
    for secret in made
        .iter()
        .flat_map(|instance| [&instance["password"], &instance["id"]])
    {
        assert!(!text.contains(secret.as_str().expect("text")), "{text}");
    }
    assert!(!text.contains("raw"), "the client's name is its own affair: {text}");

    let read = clients::python("metrics.py")
        .env("URL", format!("http://{address}/metrics"))
        .stderr(Stdio::inherit())
        .output()
        .await
        .expect("it runs");
    assert!(read.status.success());
    let read = String::from_utf8(read.stdout).expect("UTF-8");
    let formats: Vec<Value> = read
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let kinds: Vec<&Value> = formats.iter().map(|format| &format["kind"]).collect();
    assert_eq!(
        kinds,
        [
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "text/plain; version=0.0.4; charset=utf-8"
        ]
    );
    for format in &formats {
        let count =
            |name: &str, labels: Value| sample(&format["samples"], &format!("dev_postgres_mcp_{name}"), &labels);
        assert_eq!(
            count("create_duration_seconds_count", json!({ "outcome": "created" })),
            Some(2.0)
        );
        let refused = json!({ "outcome": "invalid_arguments" });
        assert_eq!(count("create_duration_seconds_count", refused), Some(1.0));
        assert_eq!(count("pool_taken_total", json!({})), Some(2.0));
        assert_eq!(count("pool_started_total", json!({})), Some(3.0));
        let trap = json!({ "component": "villain", "fault": "trap" });
        assert_eq!(count("guest_failures_total", trap), Some(1.0));
        assert_eq!(
            count("build_info", json!({ "version": env!("CARGO_PKG_VERSION") })),
            Some(1.0)
        );
        let (engine_label, others) = match engine {
            Docker => ("docker", true),
            Local => ("local", false),
        };
        let present = count("instances", json!({ "engine": engine_label, "status": "running" }));
        // Other tests have some on the same Docker.
        assert!(present == Some(2.0) || others && present > Some(2.0), "{present:?}");
        if engine == Local {
            // Nobody had been there before.
            assert_eq!(count("templates_made_total", json!({})), Some(1.0));
        }
    }
    for instance in made {
        session
            .succeed("drop_postgres_instance", json!({ "id": instance["id"] }))
            .await;
    }
    session.end().await;
    TcpStream::connect(address)
        .await
        .expect_err("the metrics end with the server");
}

#[tokio::test]
async fn what_is_removed_by_itself_is_counted_by_why() {
    // Nobody else removes anything here.
    let environment = TestEnvironment::on(Local);
    let mut killed = Session::initialized(&environment, &[]).await;
    killed.succeed("create_postgres_instance", json!({})).await;
    processes::kill(killed.pid().expect("it runs"));
    killed.remains().await;

    let address = free_address().await;
    let mut session = Session::initialized(&environment, &["--metrics", &address.to_string()]).await;
    let reaped = |reason: &str| format!("dev_postgres_mcp_reaped_total{{kind=\"instance\",reason=\"{reason}\"}}");
    until(address, &reaped("orphan"), 1.0).await;
    session
        .succeed("create_postgres_instance", json!({ "ttl_seconds": 1 }))
        .await;
    let text = until(address, &reaped("expired"), 1.0).await;
    assert_eq!(value(&text, &reaped("orphan")), Some(1.0), "{text}");
    session.end().await;
}

#[tokio::test]
async fn where_no_engine_is_the_other_figures_are_told_without_the_instances() {
    let address = free_address().await;
    let environment = TestEnvironment::without_engine();
    let mut session = Session::initialized(&environment, &["--metrics", &address.to_string()]).await;
    session.fail("create_postgres_instance", json!({})).await;
    let text = get(address, "/metrics").await;
    let failed = "dev_postgres_mcp_create_duration_seconds_count{outcome=\"unavailable\"}";
    assert!(text.contains(&format!("{failed} 1")), "{text}");
    assert_eq!(value(&text, "dev_postgres_mcp_instances"), None, "{text}");
    session.end().await;
}

#[tokio::test]
async fn whoever_asks_for_something_else_or_too_much_or_nothing_is_told_so_or_cut_off_and_others_are_served() {
    let address = free_address().await;
    let environment = TestEnvironment::without_engine();
    let session = Session::initialized(&environment, &["--metrics", &address.to_string()]).await;
    let status = |answer: &str| answer.lines().next().unwrap_or_default().to_owned();
    assert_eq!(status(&get(address, "/").await), "HTTP/1.1 404 Not Found");
    let post = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    assert_eq!(
        status(&exchange(address, post).await),
        "HTTP/1.1 405 Method Not Allowed"
    );
    let large = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 16));
    let refused = status(&exchange(address, &large).await);
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 4"), "{refused}");
    let nonsense = status(&exchange(address, "\u{1}\u{2}\r\n\r\n").await);
    assert!(nonsense.is_empty() || nonsense.starts_with("HTTP/1.1 4"), "{nonsense}");

    // Eight are served at once. These say nothing, and have ten seconds for it.
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(TcpStream::connect(address).await.expect("somebody listens"));
    }
    assert_eq!(status(&get(address, "/metrics").await), "HTTP/1.1 200 OK");
    session.end().await;
}

/// Has `mcp serve` fail; its exit code and what it says.
fn refused(environment: &TestEnvironment, address: &str) -> (Option<i32>, String) {
    let mut command = environment.command(["mcp", "serve", "--metrics", address]);
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    assert!(output.stdout.is_empty(), "standard output is for JSON-RPC");
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

#[tokio::test]
async fn a_server_whose_metrics_others_could_read_or_nobody_can_does_not_start_and_says_why() {
    let environment = TestEnvironment::without_engine();
    let beyond = address_beyond_loopback().map(|address| SocketAddr::new(address, 9187).to_string());
    for address in ["0.0.0.0:9187", "[::]:9187"]
        .map(str::to_owned)
        .into_iter()
        .chain(beyond)
    {
        let (code, told) = refused(&environment, &address);
        assert_eq!(code, Some(3), "{told}");
        assert!(
            told.contains("--metrics: metrics must be an address on loopback"),
            "{told}"
        );
    }
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("the port").to_string();
    let (code, told) = refused(&environment, &address);
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains(&format!("the metrics can't be served on {address}: ")),
        "{told}"
    );
    assert!(told.contains("hint: Choose another port"), "{told}");
}
