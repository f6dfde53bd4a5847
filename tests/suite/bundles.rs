//! Other people's tool bundles: what they may do, and what they get to see.

use dev_postgres_mcp::digest::Digest;
use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::guests::module;
use dev_postgres_mcp_tests::puppet::{act, done, with_puppets};
use dev_postgres_mcp_tests::session::Session;
use rstest::rstest;
use serde_json::{Value, json};

const NOBODY: &str = "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21";

/// What needs each grant.
fn deeds() -> [(&'static str, Value); 9] {
    [
        ("create", json!({ "create": {} })),
        ("create", json!({ "extend": { "id": NOBODY } })),
        ("read", json!("list")),
        ("read", json!({ "get": { "id": NOBODY } })),
        ("drop", json!({ "drop": { "id": NOBODY } })),
        ("health", json!({ "health": { "id": NOBODY } })),
        ("sql", json!({ "query": { "id": NOBODY, "statement": "SELECT 1" } })),
        ("sql", json!({ "execute": { "id": NOBODY, "script": "SELECT 1" } })),
        ("clock", json!("now")),
    ]
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

async fn connects(dsn: &str) -> bool {
    let Ok((client, connection)) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await else {
        return false;
    };
    tokio::spawn(connection);
    client.query_one("SELECT 1", &[]).await.is_ok()
}

#[tokio::test]
async fn a_bundle_may_do_what_it_is_granted_and_is_told_which_grant_it_lacks() {
    for granted in [
        "",
        "create",
        "read",
        "read-credentials",
        "drop",
        "health",
        "log",
        "clock",
        "sql",
    ] {
        let line = format!(
            "grants = [{}]",
            if granted.is_empty() {
                String::new()
            } else {
                format!("'{granted}'")
            }
        );
        let environment = with_puppets(&TestEnvironment::without_engine(), "", &[("puppet", &line)]);
        let mut session = Session::initialized(&environment, &[]).await;
        for (needed, deed) in deeds() {
            let outcome = &act(&mut session, "act", json!([deed])).await[0];
            if needed != granted {
                assert!(
                    text(outcome, "failed").contains("Denied"),
                    "{deed} with {granted:?}: {outcome}"
                );
                assert_eq!(
                    text(outcome, "message"),
                    format!("the bundle puppet has no grant {needed:?}")
                );
                assert_eq!(
                    text(outcome, "advice"),
                    format!("Whoever trusts it with that adds {needed:?} to its `grants` in the configuration file.")
                );
            } else if needed == "clock" {
                let now = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .expect("after 1970");
                let told = u128::from(outcome["done"].as_u64().expect("a time"));
                assert!(told <= now.as_millis() && told + 60_000 > now.as_millis(), "{told}");
            } else {
                assert!(
                    text(outcome, "failed").contains("Unavailable"),
                    "there is no engine: {outcome}"
                );
            }
        }
        let logged = done(&mut session, "act", json!({ "log": { "text": "a line", "times": 1 } })).await;
        assert_eq!(logged, "logged", "a log is no reason to fail");
        let remains = session.end().await;
        assert_eq!(
            remains.log.contains("a line"),
            granted == "log",
            "{granted:?}: {}",
            remains.log
        );
    }
}

#[tokio::test]
async fn a_bundle_that_nothing_is_said_of_may_do_nothing_and_the_built_in_one_what_it_needs() {
    let environment = with_puppets(&TestEnvironment::without_engine(), "", &[("puppet", "")]);
    let mut session = Session::initialized(&environment, &[]).await;
    let outcome = &act(&mut session, "act", json!(["list"])).await[0];
    assert!(text(outcome, "failed").contains("Denied"), "{outcome}");
    let error = session.fail("list_postgres_instances", json!({})).await;
    assert_eq!(error["code"], "unavailable", "{error}");

    let none = "[[bundle]]\nname = 'postgres-tools'\ngrants = []\n";
    let environment = with_puppets(&TestEnvironment::without_engine(), none, &[]);
    let mut session = Session::initialized(&environment, &[]).await;
    let error = session.fail("list_postgres_instances", json!({})).await;
    assert_eq!(error["code"], "denied", "{error}");
}

#[rstest]
#[tokio::test]
async fn a_bundle_without_read_credentials_passes_on_what_it_never_saw(#[values(Docker, Local)] engine: TestEngine) {
    let environment = with_puppets(
        &TestEnvironment::on(engine),
        "",
        &[
            (
                "blind",
                "grants = ['create', 'read', 'drop', 'log']\nsettings.tool = 'blind'",
            ),
            (
                "seeing",
                "grants = ['read', 'read-credentials', 'log']\nsettings.tool = 'seeing'",
            ),
        ],
    );
    let mut session = Session::initialized(&environment, &[]).await;
    let created = done(&mut session, "blind", json!({ "create": {} })).await;
    let (id, password, dsn) = (text(&created, "id"), text(&created, "password"), text(&created, "dsn"));
    assert!(
        dsn.contains(password) && connects(dsn).await,
        "the caller gets the real ones"
    );
    let placeholder_bytes = "credential-".len() + 32;
    assert_eq!(created["seen"], placeholder_bytes, "the bundle doesn't");
    assert_ne!(password.len(), placeholder_bytes);

    let get = json!({ "get": { "id": id } });
    let got = done(&mut session, "blind", get.clone()).await;
    assert_eq!((text(&got, "dsn"), &got["seen"]), (dsn, &json!(placeholder_bytes)));
    let got = done(&mut session, "seeing", get).await;
    assert_eq!((text(&got, "dsn"), &got["seen"]), (dsn, &json!(password.len())));

    let failure = json!({ "deeds": [{ "fail_with_credentials": { "id": id } }] });
    let error = session.fail("blind", failure).await;
    assert!(text(&error, "message").starts_with("credential-"), "{error}");
    assert!(!error.to_string().contains(password), "{error}");

    let stolen = text(&error, "advice").to_owned();
    let told = session.succeed(
        "blind",
        json!({ "deeds": [{ "return_text": { "text": json!({ "a": stolen }).to_string() } }] }),
    );
    assert_eq!(
        told.await,
        json!({ "a": stolen }),
        "a word is worth nothing in another call"
    );

    let like = done(&mut session, "blind", json!({ "create_like": { "id": id } })).await;
    assert_ne!(text(&like, "password"), password);
    assert!(connects(text(&like, "dsn")).await);

    for tool in ["blind", "seeing"] {
        done(&mut session, tool, json!({ "log_credentials": { "id": id } })).await;
    }
    for id in [id, text(&like, "id")] {
        done(&mut session, "blind", json!({ "drop": { "id": id } })).await;
    }
    let log = session.end().await.log;
    assert!(!log.contains(password), "{log}");
    assert_eq!(
        log.matches("credential-").count(),
        2,
        "what the blind one logged: {log}"
    );
    assert_eq!(
        log.matches("[redacted]").count(),
        2,
        "what the seeing one logged: {log}"
    );
}

/// A server with a puppet that may run SQL, and an instance that it has made.
async fn with_instance(engine: TestEngine) -> (Session, String) {
    let grants = "grants = ['create', 'sql']";
    let environment = with_puppets(&TestEnvironment::on(engine), "", &[("puppet", grants)]);
    let mut session = Session::initialized(&environment, &[]).await;
    let created = done(&mut session, "act", json!({ "create": {} })).await;
    let id = text(&created, "id").to_owned();
    (session, id)
}

fn statement(id: &str, statement: &str, parameters: &Value) -> Value {
    json!({ "query": { "id": id, "statement": statement, "parameters": parameters } })
}

async fn end(mut session: Session, id: &str) {
    session.succeed("drop_postgres_instance", json!({ "id": id })).await;
    assert!(session.end().await.status.success());
}

#[rstest]
#[tokio::test]
async fn a_bundle_runs_sql_and_gets_typed_results(#[values(Docker, Local)] engine: TestEngine) {
    let (mut session, id) = with_instance(engine).await;
    let script =
        "CREATE TYPE mood AS ENUM ('glad'); CREATE TABLE t (n int PRIMARY KEY, at date, mood mood); -- the end";
    done(
        &mut session,
        "act",
        json!({ "execute": { "id": id, "script": script } }),
    )
    .await;

    let insert = "INSERT INTO t VALUES ($1, $2, $3), (2, NULL, NULL) RETURNING *;";
    let inserted = done(
        &mut session,
        "act",
        statement(&id, insert, &json!([1, "2026-11-22", "glad"])),
    )
    .await;
    assert_eq!(
        inserted,
        json!({
            "columns": [["n", "int4"], ["at", "date"], ["mood", "mood"]],
            "rows": [[{ "integer": 1 }, { "other": "2026-11-22" }, { "other": "glad" }], [{ "integer": 2 }, "null", "null"]],
            "affected": 2,
        })
    );
    let plain = done(&mut session, "act", statement(&id, "DELETE FROM t", &json!([]))).await;
    assert_eq!(plain, json!({ "columns": [], "rows": [], "affected": 2 }));

    for (expression, parameter, expected) in [
        ("$1::bool", json!(true), json!({ "boolean": true })),
        ("$1::int2", json!(-7), json!({ "integer": -7 })),
        ("$1::int8", json!(i64::MIN), json!({ "integer": i64::MIN })),
        (
            "$1::oid",
            json!(4_294_967_295_u32),
            json!({ "integer": 4_294_967_295_u32 }),
        ),
        ("$1::float4", json!(0.1), json!({ "float": 0.1 })),
        ("$1::float8", json!(1e300), json!({ "float": 1e300 })),
        ("$1::text", json!("é'\"\\; --"), json!({ "text": "é'\"\\; --" })),
        ("$1::bytea", json!([0, 255]), json!({ "bytes": [0, 255] })),
        ("$1::json", json!({ "a": 1 }), json!({ "json": "{\"a\":1}" })),
        ("$1::jsonb", json!({ "a": 1 }), json!({ "json": "{\"a\": 1}" })),
        (
            "$1::numeric",
            json!("12345678901234567890.10"),
            json!({ "other": "12345678901234567890.10" }),
        ),
        ("$1::numeric", json!(7), json!({ "other": "7" })),
        ("ARRAY[1, $1::int]", json!(2), json!({ "other": "{1,2}" })),
        ("$1::uuid", json!(NOBODY), json!({ "other": NOBODY })),
        ("$1::interval", json!("90 minutes"), json!({ "other": "01:30:00" })),
        ("$1::text", Value::Null, json!("null")),
    ] {
        let query = statement(
            &id,
            &format!("SELECT {expression} AS it -- {expression}"),
            &json!([parameter]),
        );
        assert_eq!(
            done(&mut session, "act", query).await["rows"],
            json!([[expected]]),
            "{expression}"
        );
    }
    end(session, &id).await;
}

#[rstest]
#[tokio::test]
async fn sql_that_fails_or_passes_a_limit_is_told_so_and_the_next_is_run(#[values(Docker, Local)] engine: TestEngine) {
    let (mut session, id) = with_instance(engine).await;
    for (sql, parameters, code, told) in [
        ("SELEC 1", json!([]), "Failed", "(SQLSTATE 42601)"),
        ("SELECT 1; SELECT 2", json!([]), "Failed", "(SQLSTATE 42601)"),
        ("SELECT $1::int", json!(["x"]), "Failed", "(SQLSTATE 22P02)"),
        (
            "SELECT $1::int",
            json!([]),
            "InvalidArguments",
            "has 1 parameters, 0 were given",
        ),
        (
            "SELECT generate_series(1, 10001)",
            json!([]),
            "Exhausted",
            "more than 10000 rows",
        ),
        (
            "SELECT repeat('x', 20000000)",
            json!([]),
            "Exhausted",
            "more than 4194304 bytes",
        ),
        (
            "SELECT repeat('x', 1000) FROM generate_series(1, 9000)",
            json!([]),
            "Exhausted",
            "more than 4194304 bytes",
        ),
        (
            "DO $$ BEGIN FOR n IN 1..100000 LOOP RAISE NOTICE '%', repeat('x', 1000); END LOOP; END $$",
            json!([]),
            "Exhausted",
            "more than 4194304 bytes",
        ),
        (
            "EXPLAIN (FORMAT XML) SELECT 1",
            json!([]),
            "InvalidArguments",
            "\"xml\", which can't be shown in this kind of statement",
        ),
        // It wasn't the host's deadline.
        (
            "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(60)",
            json!([]),
            "Failed",
            "(SQLSTATE 57014)",
        ),
    ] {
        let outcomes = act(
            &mut session,
            "act",
            json!([statement(&id, sql, &parameters), statement(&id, "SELECT 1", &json!([]))]),
        )
        .await;
        assert!(text(&outcomes[0], "failed").contains(code), "{sql}: {}", outcomes[0]);
        assert!(text(&outcomes[0], "message").contains(told), "{sql}: {}", outcomes[0]);
        assert_eq!(outcomes[1]["done"]["rows"], json!([[{ "integer": 1 }]]));
    }
    let most = done(
        &mut session,
        "act",
        statement(&id, "SELECT generate_series(1, 10000)", &json!([])),
    )
    .await;
    assert_eq!(most["affected"], 10_000);
    end(session, &id).await;
}

#[tokio::test]
async fn sql_whose_session_dies_and_sql_for_a_server_that_has_ended_are_told_so() {
    let (mut session, id) = with_instance(Local).await;
    let run = |script: &str| json!([{ "execute": { "id": id, "script": script } }]);
    // The program's parent is the session's own process, which has no last word.
    let killed = run("COPY (SELECT 1) TO PROGRAM 'kill -KILL $PPID'");
    let outcome = &act(&mut session, "act", killed).await[0];
    assert!(text(outcome, "failed").contains("Failed"), "{outcome}");
    let told = text(outcome, "message");
    assert!(told.starts_with("the connection to the instance ended: "), "{outcome}");
    // It recovers first, and ends then.
    let stop = "COPY (SELECT 1) TO PROGRAM 'head -1 postmaster.pid | xargs kill -INT'";
    for _ in 0..200 {
        let outcome = &act(&mut session, "act", run(stop)).await[0];
        let told = outcome["message"].as_str().unwrap_or_default();
        if told.starts_with("the instance can't be reached: ") && told.contains("refused") {
            assert!(text(outcome, "failed").contains("Unavailable"), "{outcome}");
            return end(session, &id).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the server never ends");
}

#[tokio::test]
async fn types_made_of_types_without_end_are_told_so_and_the_server_goes_on() {
    let (mut session, id) = with_instance(Local).await;
    let script = "CREATE TYPE endless AS (n int);
        UPDATE pg_attribute SET atttypid = 'endless'::regtype WHERE attrelid = 'endless'::regclass;
        CREATE DOMAIN deep0 AS int;
        DO $$ BEGIN FOR n IN 1..300 LOOP EXECUTE format('CREATE DOMAIN deep%s AS deep%s', n, n - 1); END LOOP; END $$";
    let execute = json!({ "execute": { "id": id, "script": script } });
    done(&mut session, "act", execute).await;
    for (sql, parameters) in [
        ("SELECT NULL::endless", json!([])),
        ("SELECT $1::deep300::text", json!(["1"])),
    ] {
        let outcome = &act(&mut session, "act", json!([statement(&id, sql, &parameters)])).await[0];
        assert!(text(outcome, "failed").contains("Exhausted"), "{sql}: {outcome}");
        assert!(
            text(outcome, "message").contains("more than 256 questions"),
            "{outcome}"
        );
    }
    let deep = done(
        &mut session,
        "act",
        statement(&id, "SELECT $1::deep100::text", &json!(["1"])),
    )
    .await;
    assert_eq!(deep["rows"], json!([[{ "text": "1" }]]));
    end(session, &id).await;
}

#[tokio::test]
async fn time_spent_waiting_for_the_host_is_no_time_spent_computing() {
    let grants = "grants = ['create', 'sql']\nlimits.cpu = '300ms'";
    let environment = with_puppets(&TestEnvironment::on(Local), "", &[("puppet", grants)]);
    let mut session = Session::initialized(&environment, &[]).await;
    let id = done(&mut session, "act", json!({ "create": {} })).await["id"].clone();
    let wait = json!({ "execute": { "id": id, "script": "SELECT pg_sleep(0.02)" } });
    let outcomes = act(&mut session, "act", Value::Array(vec![wait; 60])).await;
    assert!(
        outcomes.iter().all(|outcome| outcome["done"] == "executed"),
        "{outcomes:?}"
    );
    end(session, id.as_str().expect("an id")).await;
}

#[tokio::test]
async fn an_instance_that_a_call_makes_and_drops_is_no_error() {
    let environment = TestEnvironment::on(Local);
    let configured = with_puppets(&environment, "", &[("puppet", "grants = ['create', 'drop']")]);
    let mut session = Session::initialized(&configured, &[]).await;
    assert_eq!(done(&mut session, "act", json!("create_and_drop")).await, "dropped");
    let remains = session.end().await;
    assert!(remains.status.success());
    assert!(!remains.log.contains("ERROR"), "{}", remains.log);
    let left = dev_postgres_mcp_tests::local::leftovers(&environment);
    assert!(left.is_empty(), "left over: {left:?}");
}

/// How many sessions run `SELECT pg_sleep(...)` there.
async fn sleepers(session: &mut Session, id: &str) -> i64 {
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_slee[p]' AND state = 'active'";
    let counted = done(session, "act", statement(id, asked, &json!([]))).await;
    counted["rows"][0][0]["integer"].as_i64().expect("a number")
}

async fn until_sleepers(session: &mut Session, id: &str, wanted: i64) {
    for _ in 0..200 {
        if sleepers(session, id).await == wanted {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("there are never {wanted} statements at work");
}

#[rstest]
#[tokio::test]
async fn a_statement_that_nobody_waits_for_any_more_is_ended_in_the_server(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let (mut session, id) = with_instance(engine).await;
    let script = "SET statement_timeout = 0; SELECT pg_sleep(600)";
    let deeds = json!([{ "execute": { "id": id, "script": script } }]);
    let call = session
        .ask("tools/call", json!({ "name": "act", "arguments": { "deeds": deeds } }))
        .await;
    until_sleepers(&mut session, &id, 1).await;
    let cancelled = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": call } });
    session.send(&cancelled).await;
    until_sleepers(&mut session, &id, 0).await;
    end(session, &id).await;
}

#[tokio::test]
async fn sql_that_switches_its_time_limit_off_ends_at_the_hosts() {
    let (mut session, id) = with_instance(Local).await;
    let script = "SET statement_timeout = 0; SELECT pg_sleep(600)";
    let outcome = &act(
        &mut session,
        "act",
        json!([{ "execute": { "id": id, "script": script } }]),
    )
    .await[0];
    assert!(text(outcome, "failed").contains("TimedOut"), "{outcome}");
    assert_eq!(text(outcome, "message"), "it was not done within 30 s");
    until_sleepers(&mut session, &id, 0).await;
    end(session, &id).await;
}

#[tokio::test]
async fn tools_of_one_name_are_refused_with_both_bundles_and_a_prefix_tells_them_apart() {
    let refused = with_puppets(&TestEnvironment::without_engine(), "", &[("one", ""), ("two", "")]);
    let doctor = refused.command(["doctor"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        said.contains("two offers the tool act, which one offers already: give one of them a prefix"),
        "{said}"
    );
    let told_apart = with_puppets(&refused, "", &[("one", ""), ("two", "prefix = 'second'")]);
    let mut session = Session::initialized(&told_apart, &[]).await;
    for tool in ["act", "second_act"] {
        assert_eq!(act(&mut session, tool, json!([])).await, Vec::<Value>::new());
    }
}

#[tokio::test]
async fn a_result_that_does_not_fit_the_tools_own_output_schema_is_the_bundles_defect() {
    let schema = "settings.output_schema = { type = 'object', properties = { a = { type = 'integer' } } }";
    let environment = with_puppets(&TestEnvironment::without_engine(), "", &[("puppet", schema)]);
    let mut session = Session::initialized(&environment, &[]).await;
    let returned = |text: &str| json!({ "deeds": [{ "return_text": { "text": text } }] });
    let result = session.succeed("act", returned(r#"{ "a": 1 }"#)).await;
    assert_eq!(result, json!({ "a": 1 }));
    let error = session.fail("act", returned(r#"{ "a": "s3cret" }"#)).await;
    assert_eq!(
        text(&error, "message"),
        "puppet answered nonsense: the result does not fit the tool's output schema: a must be of type integer"
    );
    assert_eq!(error["code"], "internal");
}

/// An environment whose configuration has the example with these settings.
fn with_example(engine: TestEngine, settings: &str) -> TestEnvironment {
    let environment = TestEnvironment::on(engine);
    let module = module("plugins/examples/seeded_instance");
    let pin = Digest::of(&module);
    std::fs::write(environment.home().join("seeded.wasm"), module).expect("a file");
    let entry = format!(
        "[[bundle]]\nname = 'seeded'\ncomponent = 'seeded.wasm'\nsha256 = '{pin}'\ngrants = ['create', 'sql']\n{settings}\n"
    );
    let file = environment.home().join("config.toml");
    std::fs::write(&file, entry).expect("a file");
    environment.with("DEV_POSTGRES_MCP_CONFIG", file)
}

#[rstest]
#[tokio::test]
async fn the_example_in_rust_makes_an_instance_that_has_its_data(#[values(Docker, Local)] engine: TestEngine) {
    let environment = with_example(engine, "");
    let mut session = Session::initialized(&environment, &[]).await;
    let seeded = session.succeed("create_seeded_instance", json!({})).await;
    assert_eq!((text(&seeded, "table"), &seeded["rows"]), ("customer", &json!(3)));
    let dsn = text(&seeded, "dsn");
    assert!(dsn.contains(text(&seeded, "password")), "the host fills both in");
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls)
        .await
        .expect("it connects");
    tokio::spawn(connection);
    let names = client
        .query("SELECT name FROM customer ORDER BY id", &[])
        .await
        .expect("rows");
    let names: Vec<&str> = names.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["Ada", "Grace", "Edsger"]);
    end(session, text(&seeded, "id")).await;
}

#[tokio::test]
async fn an_instance_that_the_example_finds_wrong_is_dropped() {
    let environment = with_example(Local, "settings = { rows = 4 }");
    let mut session = Session::initialized(&environment, &[]).await;
    let error = session.fail("create_seeded_instance", json!({})).await;
    assert_eq!(error["code"], "failed");
    assert_eq!(
        text(&error, "message"),
        "the table \"customer\" has 3 rows and should have 4"
    );
    assert!(session.end().await.status.success());
    let left = dev_postgres_mcp_tests::local::leftovers(&environment);
    assert!(left.is_empty(), "left over: {left:?}");

    let environment = with_example(Local, "settings = { row = 4 }");
    let doctor = environment.command(["doctor"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        said.contains("seeded refuses its settings: settings do not fit: unknown field `row`"),
        "{said}"
    );
}
