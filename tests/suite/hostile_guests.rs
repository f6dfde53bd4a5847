//! Tool bundles that misbehave in a real server: the call ends within its budget, the error names bundle and budget, other
//! bundles go on, and what was taken comes back.

use std::fmt::Write as _;
use std::time::Duration;

use dev_postgres_mcp::plugins::bundle::{Bundle, Terms};
use dev_postgres_mcp::plugins::cache::Cache;
use dev_postgres_mcp::plugins::{PluginError, Runtime, Source};
use dev_postgres_mcp_tests::binary::TestEngine::Local;
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::guests::{Misdeed, hostile, hostile_module_of, module, puppet};
use dev_postgres_mcp_tests::puppet::{act, done, with_puppets};
use dev_postgres_mcp_tests::session::Session;
use rstest::rstest;
use serde_json::{Value, json};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

const BAD: &str = "bad_act";
const GOOD: &str = "good_act";

/// A server with a bundle that behaves and one that doesn't.
async fn server(environment: &TestEnvironment, bad: &str) -> Session {
    let bad = format!("prefix = 'bad'\n{bad}");
    let good = "prefix = 'good'\ngrants = ['clock', 'create']";
    let environment = with_puppets(environment, "", &[("villain", &bad), ("hero", good)]);
    Session::initialized(&environment, &[]).await
}

async fn assert_unharmed(session: &mut Session) {
    assert!(done(session, GOOD, json!("now")).await.is_u64());
}

fn one(deed: &Value) -> Value {
    json!({ "deeds": [deed] })
}

#[rstest]
#[case::computes_for_ever(json!("spin"), "", "villain used more than its budget of 2 s of CPU time")]
#[case::calls_itself_for_ever(json!("recurse"), "", "villain trapped: wasm trap: ")]
#[case::takes_memory_without_end(json!("hoard"), "", "villain used more than its budget of 64 MiB of memory")]
#[case::takes_what_it_was_given(
    json!("hoard"),
    "limits.memory_mib = 8",
    "villain used more than its budget of 8 MiB of memory"
)]
#[case::traps(json!("trap"), "", "villain trapped: wasm trap: wasm `unreachable` instruction executed")]
#[case::returns_100_mib(
    json!({ "return": { "bytes": 100 << 20 } }),
    "limits.memory_mib = 512",
    "villain used more than its budget of 8 MiB of data to and from the host"
)]
#[case::returns_more_than_it_may(
    json!({ "return": { "bytes": 1 << 21 } }),
    "",
    "villain used more than its budget of 1048576 bytes of output"
)]
#[case::fails_at_too_great_length(
    json!({ "fail": { "bytes": 1 << 21 } }),
    "",
    "villain used more than its budget of 1048576 bytes of output"
)]
#[case::fails_with_too_many_fields(
    json!({ "fail_with_fields": { "fields": 100_000 } }),
    "",
    "villain used more than its budget of 1048576 bytes of output"
)]
#[case::returns_no_text(json!("return_invalid_utf8"), "", "villain trapped: ")]
#[case::returns_no_json(
    json!({ "return_text": { "text": "{\"a\": " } }),
    "",
    "villain answered nonsense: the result is not JSON: "
)]
#[case::returns_json_of_endless_depth(
    json!({ "return_text": { "text": "[".repeat(100_000) } }),
    "",
    "villain answered nonsense: the result is not JSON: recursion limit exceeded"
)]
#[case::returns_no_object(
    json!({ "return_text": { "text": "[1]" } }),
    "",
    "villain answered nonsense: the result is JSON, but not an object"
)]
#[case::asks_the_host_in_a_tight_loop(
    json!({ "ask_settings": { "times": 1_000_000_000 } }),
    "",
    "villain used more than its budget of 10000 calls of the host"
)]
#[case::asks_for_instances_in_a_tight_loop(
    json!({ "ask_list": { "times": 1_000_000_000 } }),
    "grants = ['read']\nlimits.host_calls = 50",
    "villain used more than its budget of 50 calls of the host"
)]
#[case::logs_without_end(
    json!({ "log": { "text": "la la la", "times": 1_000_000_000 } }),
    "grants = ['log']",
    "villain used more than its budget of 64 KiB of log"
)]
#[case::passes_more_data_than_it_may(
    json!({ "log": { "text": "x".repeat(100_000), "times": 1000 } }),
    "",
    "villain used more than its budget of 8 MiB of data to and from the host"
)]
#[case::creates_more_than_it_may(
    json!({ "create": {} }),
    "grants = ['create']\nlimits.instances = 0",
    "villain used more than its budget of 0 instances created"
)]
#[tokio::test]
async fn a_call_that_misbehaves_ends_with_what_it_did_and_the_next_ones_succeed(
    #[case] deed: Value,
    #[case] lines: &str,
    #[case] told: &str,
) {
    let mut session = server(&TestEnvironment::without_engine(), lines).await;
    let error = session.fail(BAD, one(&deed)).await;
    let message = error["message"].as_str().expect("text");
    assert!(message.starts_with(told), "{message}");
    assert_eq!(error["code"], "internal");
    assert_unharmed(&mut session).await;
    assert_eq!(
        act(&mut session, BAD, json!([])).await,
        Vec::<Value>::new(),
        "its next call is a new one"
    );
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn a_call_that_waits_for_ever_ends_in_time_and_what_it_made_is_dropped() {
    let environment = TestEnvironment::on(Local);
    let lines = "grants = ['create', 'sql']\nlimits.time = '20s'";
    let mut session = server(&environment, lines).await;
    let id = done(&mut session, GOOD, json!({ "create": {} })).await["id"].clone();
    let deeds = json!([
        { "create": {} },
        { "execute": { "id": id, "script": "SELECT pg_sleep(600)" } },
        { "execute": { "id": id, "script": "SELECT pg_sleep(600)" } },
    ]);
    let error = session.fail(BAD, json!({ "deeds": deeds })).await;
    assert_eq!(
        error["message"],
        "villain used more than its budget of 20 s from call to answer"
    );
    assert_unharmed(&mut session).await;
    session.succeed("drop_postgres_instance", json!({ "id": id })).await;
    assert!(session.end().await.status.success());
    let left = dev_postgres_mcp_tests::local::leftovers(&environment);
    assert!(left.is_empty(), "left over: {left:?}");
}

#[tokio::test]
async fn a_call_that_spins_ends_when_its_client_cancels_it() {
    let mut session = server(&TestEnvironment::without_engine(), "limits.cpu = '1m'").await;
    let params = json!({ "name": BAD, "arguments": one(&json!("spin")) });
    let call = session.ask("tools/call", params).await;
    // It is at work: others get their turn all the same.
    assert_unharmed(&mut session).await;
    let cancelled = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": call } });
    let pid = Pid::from_u32(session.pid().expect("it runs"));
    let is_busy = async || {
        let before = seen(pid).cpu_ms;
        tokio::time::sleep(Duration::from_secs(1)).await;
        // It had most of a core, or half of one on a busy machine.
        seen(pid).cpu_ms > before + 200
    };
    assert!(is_busy().await, "it computes");
    session.send(&cancelled).await;
    assert_unharmed(&mut session).await;
    // Left alone, it would go on for a minute of computing.
    let begun = std::time::Instant::now();
    while is_busy().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "it still computes");
    }
    assert!(session.end().await.status.success());
}

/// What the system says of a process.
fn seen(pid: Pid) -> Seen {
    let mut system = System::new().expect("processes can be looked at");
    let what = ProcessRefreshKind::nothing().with_memory().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    let process = system.process(pid).expect("it runs");
    Seen {
        memory: process.memory(),
        cpu_ms: process.accumulated_cpu_time(),
    }
}

/// What a process has of the machine.
struct Seen {
    /// Resident, in bytes.
    memory: u64,
    /// So far, in milliseconds.
    cpu_ms: u64,
}

#[tokio::test]
async fn after_three_failures_in_a_row_a_bundle_is_switched_off_and_the_others_stay() {
    let mut session = server(&TestEnvironment::without_engine(), "").await;
    let trap = || one(&json!("trap"));
    for _ in 0..2 {
        session.fail(BAD, trap()).await;
    }
    act(&mut session, BAD, json!([])).await;
    for _ in 0..3 {
        let error = session.fail(BAD, trap()).await;
        assert_eq!(error["code"], "internal", "not in a row yet: {error}");
    }
    let error = session.fail(BAD, json!({ "deeds": [] })).await;
    assert_eq!(error["code"], "unavailable");
    assert_eq!(error["message"], "villain is switched off after 3 failures in a row");
    assert!(
        error["advice"]
            .as_str()
            .is_some_and(|advice| advice.contains("Restart the server")),
        "{error}"
    );
    assert_unharmed(&mut session).await;
    let log = session.end().await.log;
    assert_eq!(
        log.matches("switched off after 3 failures in a row").count(),
        1,
        "{log}"
    );
}

#[tokio::test]
async fn what_guests_took_comes_back() {
    let lines = "limits.memory_mib = 256\ngrants = ['log']";
    let mut session = server(&TestEnvironment::without_engine(), lines).await;
    let pid = Pid::from_u32(session.pid().expect("it runs"));
    // As it is with guests that behave.
    act(&mut session, BAD, json!([])).await;
    assert_unharmed(&mut session).await;
    let before = seen(pid).memory;
    for _ in 0..3 {
        for deed in [
            json!("hoard"),
            json!("recurse"),
            json!({ "return": { "bytes": 100 << 20 } }),
            json!({ "fail": { "bytes": 100 << 20 } }),
            json!({ "fail_with_fields": { "fields": 100_000 } }),
            json!({ "return_text": { "text": "[".repeat(100_000) } }),
            json!({ "log": { "text": "x".repeat(100_000), "times": 1000 } }),
        ] {
            session.fail(BAD, one(&deed)).await;
            act(&mut session, BAD, json!([])).await;
        }
    }
    let after = seen(pid).memory;
    assert!(after < before + (64 << 20), "{before} bytes became {after}");
    assert!(session.end().await.status.success());
}

async fn load(bytes: &[u8], settings: Value) -> Result<Bundle, PluginError> {
    let runtime = Runtime::new(Cache::default()).expect("this machine runs WebAssembly");
    let source = Source {
        name: "villain".into(),
        from: "a test".into(),
        bytes: bytes.to_vec().into(),
        sha256: None,
        settings: settings.as_object().expect("an object").clone(),
    };
    let loaded = Bundle::load(&runtime, &source, &Terms::default()).await;
    let hero = Source {
        name: "hero".into(),
        from: "a test".into(),
        bytes: puppet().into(),
        sha256: None,
        settings: serde_json::Map::new(),
    };
    let hero = Bundle::load(&runtime, &hero, &Terms::default())
        .await
        .expect("others load");
    assert_eq!(hero.tools().len(), 1);
    loaded
}

#[rstest]
#[case::traps(json!({ "describe": ["trap"] }), "villain trapped: ")]
#[case::computes_for_ever(json!({ "describe": ["spin"] }), "villain used more than its budget of 2 s of CPU time")]
#[case::wants_instances(
    json!({ "describe": [{ "ask_list": { "times": 10_001 } }] }),
    "villain used more than its budget of 10000 calls of the host"
)]
#[case::refuses_its_settings(json!({ "no_such": 1 }), "villain refuses its settings: ")]
#[case::refuses_them_for_ever(json!({ "check": ["spin"] }), "villain used more than its budget of 2 s of CPU time")]
#[case::describes_a_million_nodes(
    json!({ "nodes": 1_000_000, "check": [] }),
    "villain used more than its budget of "
)]
#[case::describes_a_great_many_nodes(
    json!({ "nodes": 10_000 }),
    "villain describes a tool that clients can't use: \"act\" has an input schema that has more than 65536 bytes"
)]
#[case::has_too_many_tools(
    json!({ "tools": 41 }),
    "villain describes a tool that clients can't use: it has 41 tools, may have 40"
)]
#[case::names_a_tool_as_no_client_can(
    json!({ "tool": "act\n" }),
    "villain describes a tool that clients can't use: \"act\\n\" must be named in snake_case with at most 40 characters"
)]
#[tokio::test]
async fn a_bundle_that_misbehaves_at_load_is_refused_and_others_load(#[case] settings: Value, #[case] told: &str) {
    let error = load(puppet(), settings).await.expect_err("it misbehaves").to_string();
    assert!(error.starts_with(told), "{error}");
}

#[rstest]
#[case::traps("describe = ['trap']", "villain trapped: ")]
#[case::computes_for_ever("describe = ['spin']", "villain used more than its budget of 2 s of CPU time")]
#[case::describes_a_million_nodes("nodes = 1000000", "villain used more than its budget of ")]
#[tokio::test]
async fn a_server_serves_the_others_when_a_bundle_misbehaves_at_load(#[case] settings: &str, #[case] told: &str) {
    let lines = format!("settings = {{ {settings} }}");
    let mut session = server(&TestEnvironment::without_engine(), &lines).await;
    assert_unharmed(&mut session).await;
    let remains = session.end().await;
    assert!(remains.status.success());
    assert!(remains.log.contains(told), "{}", remains.log);
}

#[test]
fn a_file_that_is_too_large_for_a_component_is_not_read() {
    let environment = with_puppets(&TestEnvironment::without_engine(), "", &[("villain", "")]);
    std::fs::File::create(environment.home().join("puppet.wasm"))
        .and_then(|file| file.set_len(64 << 30))
        .expect("a file with nothing in it");
    let doctor = environment.command(["doctor"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("it has 68719476736 bytes, may have 67108864"), "{said}");
}

#[rstest]
#[case::deeper_than_any_component_may_have_them(1_000, "type nesting is too deep")]
#[case::of_more_bytes_than_a_world_may_have(30_000, "its world takes 549048 bytes, may take 262144")]
#[tokio::test]
async fn a_world_of_types_within_types_is_refused(#[case] depth: usize, #[case] told: &str) {
    // What makes it goes as deep as they do.
    let made = std::thread::Builder::new().stack_size(1 << 30).spawn(move || {
        hostile_module_of("tool-bundle", Misdeed::Trap, |wit| {
            let mut types = String::from("interface types {\n  type t0 = u32;\n");
            for level in 1..=depth {
                // Writing to a String can't fail.
                let _ = writeln!(types, "  type t{level} = list<t{}>;", level - 1);
            }
            wit.replacen("interface types {\n", &types, 1)
        })
    });
    let module = made.expect("a thread").join().expect("a module");
    let error = load(&module, json!({}))
        .await
        .expect_err("it can't be loaded")
        .to_string();
    assert!(error.contains(told), "{error}");
}

#[tokio::test]
async fn pointers_to_where_no_memory_is_are_not_followed() {
    let error = load(&hostile("tool-bundle", Misdeed::Stray), json!({})).await;
    let error = error.expect_err("it answers with nothing").to_string();
    assert!(error.starts_with("villain trapped: "), "{error}");
}

#[rstest]
#[case::http("wasi:http/outgoing-handler@0.2.0", "handle")]
#[case::key_value_stores("wasi:keyvalue/store@0.2.0", "open")]
#[case::newer_files("wasi:filesystem/preopens@0.3.0", "get-directories")]
#[tokio::test]
async fn a_component_that_wants_more_than_closed_wasi_is_refused_with_what_it_wants(
    #[case] interface: &str,
    #[case] function: &str,
) {
    let component = format!(
        "(component (import \"{interface}\" (instance (export \"{function}\" (func))))
           (instance $tools) (export \"dev-postgres:plugin/tools@0.2.0\" (instance $tools)))"
    );
    let component = wat::parse_str(component).expect("a component");
    let error = load(&component, json!({}))
        .await
        .expect_err("there is none")
        .to_string();
    assert!(error.contains(interface), "{error}");
}

#[rstest]
#[case::files("path_open")]
#[case::network("sock_accept")]
#[case::environment("environ_get")]
#[case::standard_output("fd_write")]
#[tokio::test]
async fn a_module_that_wants_a_system_is_refused_with_what_it_wants(#[case] function: &str) {
    let module = format!("(module (import \"wasi_snapshot_preview1\" \"{function}\" (func)))");
    let module = wat::parse_str(module).expect("a module");
    let error = load(&module, json!({}))
        .await
        .expect_err("there is no WASI")
        .to_string();
    assert!(error.contains("wasi_snapshot_preview1"), "{error}");
}

#[tokio::test]
async fn a_policy_that_traps_or_answers_nonsense_allows_nothing() {
    let environment = TestEnvironment::without_engine();
    let file = environment.home().join("oracle.wasm");
    std::fs::write(&file, module("tests/guests/oracle")).expect("a file");
    let environment = environment.with("DEV_POSTGRES_MCP_POLICY_COMPONENT", file);
    // More random bytes than there are at once; no name for the database.
    for (settings, told) in [
        (json!({ "random": 1025 }), "trapped: "),
        (json!({}), "answered nonsense: "),
    ] {
        let under = environment
            .clone()
            .with("DEV_POSTGRES_MCP_POLICY_SETTINGS", settings.to_string());
        let create = under.run(&["postgres", "create"]);
        assert_eq!(create.status.code(), Some(10), "{create:?}");
        let mut session = Session::initialized(&under, &[]).await;
        let error = session.fail("create_postgres_instance", json!({})).await;
        assert_eq!(error["code"], "internal", "{error}");
        let message = error["message"].as_str().expect("text");
        assert!(
            message.starts_with("the policy gave no valid answer, so nothing is allowed: "),
            "{message}"
        );
        assert!(message.contains(told), "{message}");
        session.end().await;
    }
}
