//! `mcp serve` as raw JSON-RPC on two pipes, with each engine behind it.

use std::time::{Duration, Instant};

use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::{NOWHERE, TestEnvironment};
use dev_postgres_mcp_tests::local;
use dev_postgres_mcp_tests::session::{Session, modern_meta};
use dev_postgres_mcp_tests::specs::{as_told_later, unlikely_name};
use rstest::rstest;
use serde_json::{Value, json};

const TOOLS: [&str; 6] = [
    "create_postgres_instance",
    "drop_postgres_instance",
    "extend_postgres_instance",
    "get_postgres_instance",
    "health_check_postgres",
    "list_postgres_instances",
];

fn names(list: &Value) -> Vec<&str> {
    let tools = list["result"]["tools"].as_array().expect("a list of tools");
    tools.iter().filter_map(|tool| tool["name"].as_str()).collect()
}

async fn ids(session: &mut Session) -> Vec<String> {
    let list = session.succeed("list_postgres_instances", json!({})).await;
    let instances = list["instances"].as_array().expect("instances");
    assert_eq!(list["count"], instances.len());
    let id = |instance: &Value| instance["id"].as_str().map(str::to_owned);
    instances.iter().filter_map(id).collect()
}

async fn query(dsn: &str, sql: &str) -> String {
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls)
        .await
        .expect("the DSN connects");
    tokio::spawn(connection);
    let rows = client.query(sql, &[]).await.expect("the query runs");
    rows[0].get(0)
}

#[tokio::test]
async fn every_legacy_revision_is_spoken_and_an_unknown_one_gets_the_newest() {
    for (asked, given) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        let environment = TestEnvironment::without_engine();
        let mut session = Session::start(&environment, &[]);
        let result = session.initialize(asked).await;
        assert_eq!(result["protocolVersion"], given, "asked for {asked}");
        assert_eq!(result["serverInfo"]["name"], "dev-postgres-mcp");
        let instructions = result["instructions"].as_str().expect("instructions");
        assert!(instructions.len() < 2048, "Claude Code cuts instructions at 2 KB");
        assert_eq!(names(&session.request("tools/list", json!({})).await), TOOLS);
        assert!(session.end().await.status.success());
    }
}

#[tokio::test]
async fn each_request_of_a_batch_is_answered_and_the_session_goes_on() {
    let environment = TestEnvironment::without_engine();
    let mut session = Session::start(&environment, &[]);
    // The only revision that has them.
    session.initialize("2025-03-26").await;
    let batch = json!([
        { "jsonrpc": "2.0", "id": 71, "method": "ping" },
        { "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 7 } },
        { "jsonrpc": "2.0", "id": "seventy-two", "method": "tools/list" },
    ]);
    session.send(&batch).await;
    for id in [json!(71), json!("seventy-two")] {
        let answer = session.next().await;
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&id, &json!(-32600)),
            "{answer}"
        );
        let told = answer["error"]["message"].as_str().expect("a message");
        assert!(told.contains("send each request by itself"), "{told}");
    }
    assert_eq!(names(&session.request("tools/list", json!({})).await), TOOLS);
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn a_stateless_client_needs_no_handshake() {
    let environment = TestEnvironment::without_engine();
    let mut session = Session::start(&environment, &[]);
    let discovered = session
        .request("server/discover", json!({ "_meta": modern_meta() }))
        .await;
    let versions = &discovered["result"]["supportedVersions"];
    assert!(
        versions
            .as_array()
            .is_some_and(|all| all.contains(&json!("2026-07-28"))),
        "{discovered}"
    );
    let list = session.request("tools/list", json!({ "_meta": modern_meta() })).await;
    assert_eq!(names(&list), TOOLS);
    assert!(list["result"]["ttlMs"].as_u64().is_some_and(|ttl| ttl > 0), "{list}");
    let called = session
        .request(
            "tools/call",
            json!({ "name": "list_postgres_instances", "arguments": {}, "_meta": modern_meta() }),
        )
        .await;
    assert_eq!(called["result"]["isError"], true, "there is no engine: {called}");
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn without_docker_the_tools_are_listed_and_say_what_is_wrong_and_what_to_do() {
    let environment = TestEnvironment::without_engine();
    let mut session = Session::initialized(&environment, &[]).await;
    assert_eq!(names(&session.request("tools/list", json!({})).await), TOOLS);
    for (tool, arguments) in [
        ("create_postgres_instance", json!({})),
        ("list_postgres_instances", json!({})),
        (
            "drop_postgres_instance",
            json!({ "id": "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21" }),
        ),
    ] {
        let error = session.fail(tool, arguments).await;
        assert_eq!(error["code"], "unavailable", "{error}");
        assert!(
            error["message"].as_str().is_some_and(|text| text.contains(NOWHERE)),
            "{error}"
        );
        assert!(
            error["advice"]
                .as_str()
                .is_some_and(|text| text.contains("DOCKER_HOST")),
            "{error}"
        );
    }
}

#[cfg(unix)]
#[tokio::test]
async fn when_docker_comes_up_the_tools_work_without_a_restart() {
    let places = tempfile::tempdir().expect("a directory");
    let socket = places.path().join("docker.sock");
    let environment = TestEnvironment::on(Docker).with("DOCKER_HOST", format!("unix://{}", socket.display()));
    let mut session = Session::initialized(&environment, &[]).await;
    assert_eq!(
        session.fail("list_postgres_instances", json!({})).await["code"],
        "unavailable"
    );
    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).expect("a link to the real socket");
    ids(&mut session).await;
    std::fs::remove_file(&socket).expect("the link goes");
}

#[rstest]
#[tokio::test]
async fn an_instance_is_created_listed_checked_and_dropped(#[values(Docker, Local)] engine: TestEngine) {
    let environment = TestEnvironment::on(engine);
    let mut session = Session::initialized(&environment, &[]).await;
    let created = session.succeed("create_postgres_instance", json!({})).await;
    engine.assert_made(&created);
    engine.assert_warned(&created);
    assert_eq!(created["version"], "17");
    assert_eq!(created["database"], "postgres");
    assert_eq!(created["username"], "postgres");
    assert_eq!(created["status"], "running");
    let port = created["port"].as_u64().expect("a port");
    assert!((15432..=25432).contains(&port), "{port}");
    let password = created["password"].as_str().expect("a password");
    assert!(
        password.len() >= 26 && password.chars().all(|c| c.is_ascii_alphanumeric()),
        "128 bits at least"
    );
    humantime::parse_rfc3339(created["created_at"].as_str().expect("a time")).expect("RFC 3339");
    let dsn = created["dsn"].as_str().expect("a DSN");
    assert_eq!(
        query(dsn, "SELECT current_user || '@' || current_database()").await,
        "postgres@postgres"
    );

    let id = json!({ "id": created["id"] });
    let got = session.succeed("get_postgres_instance", id.clone()).await;
    assert_eq!(got, as_told_later(&created), "get says what create said");
    let listed = session.succeed("list_postgres_instances", json!({})).await;
    let listed = listed["instances"].as_array().expect("instances");
    let listed = listed
        .iter()
        .find(|instance| instance["id"] == created["id"])
        .expect("it is listed");
    engine.assert_made(listed);
    assert!(
        listed.get("password").is_none() && listed.get("dsn").is_none(),
        "{listed}"
    );
    let health = session.succeed("health_check_postgres", id.clone()).await;
    assert_eq!(health["status"], "healthy");
    assert!(health["latency_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{health}");

    let dropped = session.succeed("drop_postgres_instance", id.clone()).await;
    assert_eq!(dropped, json!({ "id": created["id"], "dropped": true }));
    for tool in [
        "get_postgres_instance",
        "drop_postgres_instance",
        "health_check_postgres",
    ] {
        let error = session.fail(tool, id.clone()).await;
        assert_eq!(error["code"], "not_found", "{error}");
    }
    assert!(session.end().await.status.success());
    assert_eq!(local::leftovers(&environment), Vec::<String>::new());
}

#[rstest]
#[tokio::test]
async fn names_and_passwords_with_every_kind_of_character_work_and_survive_a_restart(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let environment = TestEnvironment::on(engine);
    let mut session = Session::initialized(&environment, &["--instance-on-exit", "keep"]).await;
    let asked = json!({
        "database": "my-db \"x\" 'y' ünï\ncøde",
        "username": "us er%/@?#&=+:\\",
        "password": "p@ss:/w?rd#1 %41'\"\\\nline two $1 \u{1f511}",
        "version": "15",
    });
    let created = session.succeed("create_postgres_instance", asked.clone()).await;
    for field in ["database", "username", "password", "version"] {
        assert_eq!(created[field], asked[field]);
    }
    let dsn = created["dsn"].as_str().expect("a DSN").to_owned();
    assert_eq!(
        query(&dsn, "SELECT current_database()::text").await,
        asked["database"].as_str().expect("text")
    );
    assert_eq!(
        query(&dsn, "SELECT current_user::text").await,
        asked["username"].as_str().expect("text")
    );
    assert!(session.end().await.status.success());

    let mut another = Session::initialized(&environment, &[]).await;
    let id = json!({ "id": created["id"] });
    let got = another.succeed("get_postgres_instance", id.clone()).await;
    assert_eq!(got, as_told_later(&created));
    another.succeed("drop_postgres_instance", id).await;
}

#[rstest]
#[tokio::test]
async fn a_password_that_looks_like_a_hash_is_still_just_a_password(#[values(Docker, Local)] engine: TestEngine) {
    let mut session = Session::initialized(&TestEnvironment::on(engine), &[]).await;
    // PostgreSQL stores what looks like this as the hash itself, and nobody can log in with it.
    let created = session
        .succeed(
            "create_postgres_instance",
            json!({ "password": format!("md5{}", "a".repeat(32)) }),
        )
        .await;
    query(created["dsn"].as_str().expect("a DSN"), "SELECT 'in'").await;
    session
        .succeed("drop_postgres_instance", json!({ "id": created["id"] }))
        .await;
}

#[tokio::test]
async fn every_wrong_argument_is_named_at_once_and_docker_is_not_asked() {
    let environment = TestEnvironment::without_engine();
    let mut session = Session::initialized(&environment, &[]).await;
    let arguments = json!({
        "version": "latest", "database": "", "username": "pg_me", "password": "a\u{0}b", "colour": "blue",
    });
    let error = session.fail("create_postgres_instance", arguments).await;
    assert_eq!(error["code"], "invalid_arguments");
    let fields = error["fields"].as_array().expect("fields");
    let named: Vec<&str> = fields.iter().filter_map(|field| field["field"].as_str()).collect();
    assert_eq!(
        named,
        ["colour", "database", "password", "username", "version"],
        "{error}"
    );

    let wrong_types = json!({ "version": 17, "database": null, "username": ["a"], "password": {} });
    let error = session.fail("create_postgres_instance", wrong_types).await;
    assert_eq!(error["fields"].as_array().map(Vec::len), Some(4), "{error}");

    // Only the policy counts bytes.
    let error = session
        .fail(
            "create_postgres_instance",
            json!({ "database": "ü".repeat(32), "username": "ß".repeat(32) }),
        )
        .await;
    assert_eq!(error["code"], "invalid_arguments");
    assert_eq!(error["fields"].as_array().map(Vec::len), Some(2), "{error}");

    for wrong in [
        json!({}),
        json!({ "id": "nonsense" }),
        json!({ "id": 7 }),
        json!({ "id": "../../etc" }),
    ] {
        let error = session.fail("drop_postgres_instance", wrong).await;
        assert_eq!(error["code"], "invalid_arguments");
        assert_eq!(error["fields"][0]["field"], "id");
    }
}

#[tokio::test]
async fn an_unknown_tool_is_a_protocol_error() {
    let environment = TestEnvironment::without_engine();
    let mut session = Session::initialized(&environment, &[]).await;
    let answer = session
        .request("tools/call", json!({ "name": "drop_everything", "arguments": {} }))
        .await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains("drop_everything") && message.contains("list_postgres_instances"),
        "{message}"
    );
}

#[tokio::test]
async fn garbage_at_any_time_kills_nothing() {
    let environment = TestEnvironment::without_engine();
    let mut session = Session::start(&environment, &[]);
    let garbage = [
        "",
        "{",
        "not json at all",
        "[]",
        "null",
        "\u{0}\u{1}\u{2}",
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#,
        r#"{"jsonrpc":"2.0","id":99,"result":{}}"#,
        r#"{"jsonrpc":"1.0","id":"nobody's"}"#,
    ];
    for line in garbage {
        session.send_line(line).await;
    }
    session.initialize("2025-11-25").await;
    for line in garbage {
        session.send_line(line).await;
    }
    session.send_line(&"x".repeat(17 << 20)).await;
    assert_eq!(names(&session.request("tools/list", json!({})).await), TOOLS);
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn the_end_of_the_input_before_any_request_is_a_clean_end() {
    let environment = TestEnvironment::without_engine();
    let remains = Session::start(&environment, &[]).end().await;
    assert!(remains.status.success(), "{remains:?}");
    assert!(remains.unread.is_empty());
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_keep_the_server_from_ending() {
    let environment = TestEnvironment::without_engine();
    let mut session = Session::initialized(&environment, &[]).await;
    // Many times what a pipe holds.
    for _ in 0..60 {
        session.ask("tools/list", json!({})).await;
    }
    assert!(session.end_unread().await.success());
}

#[rstest]
#[tokio::test]
async fn progress_grows_with_every_step_and_ends_before_the_answer(#[values(Docker, Local)] engine: TestEngine) {
    let mut session = Session::initialized(&TestEnvironment::on(engine), &[]).await;
    let answer = session
        .request(
            "tools/call",
            json!({ "name": "create_postgres_instance", "arguments": {}, "_meta": { "progressToken": "p1" } }),
        )
        .await;
    let told = session.take_notifications();
    let steps: Vec<f64> = told
        .iter()
        .map(|step| {
            assert_eq!(step["method"], "notifications/progress");
            assert_eq!(step["params"]["progressToken"], "p1");
            assert!(step["params"]["message"].is_string(), "{step}");
            step["params"]["progress"].as_f64().expect("a number")
        })
        .collect();
    assert!(steps.len() >= 3, "creating, starting, waiting: {told:?}");
    assert!(steps.is_sorted_by(|a, b| a < b), "{steps:?}");
    let id = &answer["result"]["structuredContent"]["id"];
    session.succeed("drop_postgres_instance", json!({ "id": id })).await;
    let remains = session.end().await;
    assert!(remains.unread.is_empty(), "nothing comes after the answer: {remains:?}");
}

#[rstest]
#[tokio::test]
async fn a_cancelled_create_leaves_nothing_and_the_session_goes_on(#[values(Docker, Local)] engine: TestEngine) {
    let environment = TestEnvironment::on(engine);
    let mut session = Session::initialized(&environment, &[]).await;
    let database = unlikely_name();
    // What is made for the first instance alone, the one below doesn't have to wait for.
    let first = session.succeed("create_postgres_instance", json!({})).await;
    for delay_ms in [0, 20, 60, 120, 200, 300, 450, 700] {
        let id = ask_for_an_instance(&mut session, &database).await;
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        session
            .send(&json!({
                "jsonrpc": "2.0", "method": "notifications/cancelled",
                "params": { "requestId": id, "reason": "changed my mind" },
            }))
            .await;
    }
    session
        .succeed("drop_postgres_instance", json!({ "id": first["id"] }))
        .await;
    assert_eq!(names(&session.request("tools/list", json!({})).await), TOOLS);
    let remains = session.end().await;
    assert!(remains.status.success());
    assert_nothing_is_left(&environment, &database).await;
}

#[rstest]
#[tokio::test]
async fn the_end_of_the_input_ends_the_process_at_once_and_undoes_what_was_in_flight(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let environment = TestEnvironment::on(engine);
    // What is told first: the local engine's preparations, because there is no instance yet.
    let any = "";
    for step in [
        None,
        Some(any),
        Some("creating the instance"),
        Some("starting PostgreSQL"),
    ] {
        let mut session = Session::initialized(&environment, &[]).await;
        let database = unlikely_name();
        for _ in 0..2 {
            ask_for_an_instance(&mut session, &database).await;
        }
        if let Some(step) = step {
            until_told(&mut session, step).await;
        }
        let begun = Instant::now();
        let remains = session.end().await;
        assert!(remains.status.success(), "{remains:?}");
        // The 5 s that rmcp would wait are not in it.
        assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
        assert_nothing_is_left(&environment, &database).await;
    }
}

#[cfg(unix)]
#[rstest]
#[tokio::test]
async fn a_terminated_server_undoes_what_was_in_flight(
    #[values(Docker, Local)] engine: TestEngine,
    #[values("creating the instance", "starting PostgreSQL")] step: &str,
) {
    let environment = TestEnvironment::on(engine);
    let mut session = Session::initialized(&environment, &[]).await;
    let database = unlikely_name();
    ask_for_an_instance(&mut session, &database).await;
    until_told(&mut session, step).await;
    let pid = session.pid().expect("it runs").to_string();
    let killed = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .expect("kill runs");
    assert!(killed.success());
    // Its input stays open all the while.
    let remains = session.remains().await;
    assert_eq!(remains.status.code(), Some(143), "{remains:?}");
    assert_nothing_is_left(&environment, &database).await;
}

#[rstest]
#[tokio::test]
async fn calls_run_side_by_side(#[values(Docker, Local)] engine: TestEngine) {
    let arguments = ["--instance-ports", "26001-26010"];
    let mut session = Session::initialized(&TestEnvironment::on(engine), &arguments).await;
    let creates = [
        session
            .ask(
                "tools/call",
                json!({ "name": "create_postgres_instance", "arguments": {} }),
            )
            .await,
        session
            .ask(
                "tools/call",
                json!({ "name": "create_postgres_instance", "arguments": {} }),
            )
            .await,
    ];
    // A list asked for after the creates is answered before them.
    let list = session
        .ask(
            "tools/call",
            json!({ "name": "list_postgres_instances", "arguments": {} }),
        )
        .await;
    let first = session.next().await;
    assert_eq!(first["id"], list, "{first}");
    let mut ports = Vec::new();
    for create in creates {
        let answer = session.answer(create).await;
        let instance = &answer["result"]["structuredContent"];
        ports.push(instance["port"].as_u64().expect("a port"));
        session
            .succeed("drop_postgres_instance", json!({ "id": instance["id"] }))
            .await;
    }
    assert_ne!(ports[0], ports[1]);
    assert!(ports.iter().all(|port| (26001..=26010).contains(port)), "{ports:?}");
}

#[rstest]
#[tokio::test]
async fn no_secret_is_in_the_log_at_its_most_talkative(#[values(Docker, Local)] engine: TestEngine) {
    for format in ["text", "json"] {
        let arguments = ["--log-level", "trace", "--log-format", format];
        let mut session = Session::initialized(&TestEnvironment::on(engine), &arguments).await;
        let created = session
            .succeed("create_postgres_instance", json!({ "password": "Planted-S3cret" }))
            .await;
        let id = json!({ "id": created["id"] });
        session.succeed("get_postgres_instance", id.clone()).await;
        session.succeed("health_check_postgres", id.clone()).await;
        session
            .fail("create_postgres_instance", json!({ "password": "Planted-S3cret\u{0}" }))
            .await;
        session.succeed("drop_postgres_instance", id).await;
        let remains = session.end().await;
        assert!(remains.log.contains("created"), "the log is there: {}", remains.log);
        assert!(!remains.log.contains("Planted-S3cret"), "{}", remains.log);
    }
}

/// Asks for an instance and its progress; returns the request's id.
async fn ask_for_an_instance(session: &mut Session, database: &str) -> u64 {
    let arguments = json!({ "database": database });
    let params =
        json!({ "name": "create_postgres_instance", "arguments": arguments, "_meta": { "progressToken": "p" } });
    session.ask("tools/call", params).await
}

/// Waits until a create says that it has come to this step.
async fn until_told(session: &mut Session, step: &str) {
    loop {
        let message = session.next().await;
        let told = message["params"]["message"].as_str().expect("progress, not an answer");
        if told.contains(step) {
            return;
        }
    }
}

/// No instance with this database, and nothing at all of the local engine's: what a fast machine has answered before the test
/// changed its mind went with its session.
async fn assert_nothing_is_left(environment: &TestEnvironment, database: &str) {
    // Before anybody looks through the product's eyes, who would remove what was left.
    assert_eq!(local::leftovers(environment), Vec::<String>::new());
    let mut session = Session::initialized(environment, &[]).await;
    let listed = session.succeed("list_postgres_instances", json!({})).await;
    let mut instances = listed["instances"].as_array().expect("instances").iter();
    assert_eq!(instances.find(|instance| instance["database"] == database), None);
}
