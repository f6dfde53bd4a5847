//! What plugin authors have: `plugin` on the command line, with real builds, and the resource that lists what is loaded.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use dev_postgres_mcp::digest::Digest;
use dev_postgres_mcp_tests::binary::{TestEngine, TestEnvironment};
use dev_postgres_mcp_tests::guests::{
    Misdeed, hostile, hostile_of, module, of_scaffold, puppet, shared_cache, test_and_build,
};
use dev_postgres_mcp_tests::puppet::with_puppets;
use dev_postgres_mcp_tests::session::Session;
use rstest::rstest;
use serde_json::{Value, json};

const PLUGINS: &str = "dev-postgres-mcp://plugins";

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

/// Runs a command that has to end with `code`; what it says in JSON.
fn json_of(environment: &TestEnvironment, code: i32, arguments: &[&str]) -> Value {
    let output = environment.run(&[arguments, &["--output", "json"]].concat());
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn what_the_configuration_loads_is_listed_with_digest_grants_limits_and_state() {
    let environment = with_puppets(
        &TestEnvironment::without_engine(),
        "",
        &[(
            "seer",
            "prefix = 'seer'\ngrants = ['read', 'log']\nlimits = { cpu = '1s' }",
        )],
    );
    let list = json_of(&environment, 0, &["plugin", "list"]);
    let names: Vec<&str> = list["plugins"]
        .as_array()
        .expect("plugins")
        .iter()
        .filter_map(|plugin| plugin["name"].as_str())
        .collect();
    assert_eq!(names, ["policy-default", "postgres-tools", "seer"]);
    let seer = &list["plugins"][2];
    assert_eq!(seer["sha256"], Digest::of(puppet()).to_string());
    assert!(
        seer["from"].as_str().is_some_and(|from| from.ends_with("puppet.wasm")),
        "{seer}"
    );
    assert_eq!(seer["grants"], json!(["read", "log"]));
    assert_eq!(seer["limits"]["cpu"], "1s");
    assert_eq!(seer["tools"], json!(["seer_act"]));
    assert_eq!(seer["state"], "serving");
}

#[test]
fn one_that_cannot_be_loaded_is_listed_with_the_reason_beside_those_that_can() {
    let environment = TestEnvironment::without_engine();
    let config = environment.home().join("config.toml");
    fs::write(
        environment.home().join("bad.wasm"),
        hostile("tool-bundle", Misdeed::Trap),
    )
    .expect("a file");
    fs::write(&config, "[[bundle]]\nname = 'bad'\ncomponent = 'bad.wasm'\n").expect("a file");
    let environment = environment.with("DEV_POSTGRES_MCP_CONFIG", config);
    let list = json_of(&environment, 8, &["plugin", "list"]);
    assert_eq!(list["plugins"][1]["state"], "serving", "{list}");
    let bad = &list["plugins"][2];
    assert_eq!(bad["state"], "refused", "{bad}");
    assert!(
        bad["reason"].as_str().is_some_and(|reason| reason.contains("trapped")),
        "{bad}"
    );
}

/// What every request of a stateless client carries.
fn modern(mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "raw", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    params
}

fn read_plugins(answer: &Value) -> Value {
    let contents = &answer["result"]["contents"][0];
    assert_eq!(contents["uri"], PLUGINS, "{answer}");
    assert_eq!(contents["mimeType"], "application/json");
    serde_json::from_str(contents["text"].as_str().expect("a text")).expect("JSON")
}

#[tokio::test]
async fn clients_of_both_eras_read_what_the_command_line_lists() {
    let environment = TestEnvironment::without_engine();
    let listed = json_of(&environment, 0, &["plugin", "list"]);

    let mut legacy = Session::initialized(&environment, &[]).await;
    let list = legacy.request("resources/list", json!({})).await;
    assert_eq!(list["result"]["resources"][0]["uri"], PLUGINS, "{list}");
    let read = legacy.request("resources/read", json!({ "uri": PLUGINS })).await;
    assert_eq!(read_plugins(&read), listed);
    let missing = legacy
        .request("resources/read", json!({ "uri": "dev-postgres-mcp://x" }))
        .await;
    assert_eq!(missing["error"]["code"], -32002, "as its revision has it: {missing}");

    let mut stateless = Session::start(&environment, &[]);
    let list = stateless.request("resources/list", modern(json!({}))).await;
    assert_eq!(list["result"]["resources"][0]["uri"], PLUGINS, "{list}");
    let read = stateless
        .request("resources/read", modern(json!({ "uri": PLUGINS })))
        .await;
    assert_eq!(read_plugins(&read), listed);
    let missing = modern(json!({ "uri": "dev-postgres-mcp://x" }));
    let missing = stateless.request("resources/read", missing).await;
    assert_eq!(missing["error"]["code"], -32602, "{missing}");
    assert_eq!(missing["error"]["data"]["uri"], "dev-postgres-mcp://x", "{missing}");
}

#[tokio::test]
async fn a_bundle_that_was_switched_off_is_shown_so() {
    let environment = with_puppets(&TestEnvironment::without_engine(), "", &[("villain", "")]);
    let mut session = Session::initialized(&environment, &[]).await;
    for _ in 0..3 {
        session.fail("act", json!({ "deeds": ["trap"] })).await;
    }
    let read = session.request("resources/read", json!({ "uri": PLUGINS })).await;
    assert_eq!(read_plugins(&read)["plugins"][2]["state"], "switched_off", "{read}");
}

#[test]
fn what_is_in_a_file_is_told_and_what_is_no_plugin_is_refused() {
    let environment = TestEnvironment::without_engine();
    let file = environment.home().join("puppet.wasm");
    fs::write(&file, puppet()).expect("a file");
    let path = file.to_str().expect("UTF-8");
    let seen = json_of(&environment, 0, &["plugin", "inspect", path]);
    assert_eq!(seen["world"], "tool-bundle");
    assert_eq!(seen["form"], "core module");
    assert_eq!(seen["bytes"], puppet().len());
    assert_eq!(seen["sha256"], Digest::of(puppet()).to_string());
    let imports = seen["imports"].as_array().expect("imports");
    let named = |name: &str| {
        imports
            .iter()
            .any(|import| import["name"].as_str().is_some_and(|own| own.contains(name)))
    };
    assert!(named("plugin/instances@") && named("plugin/sql@"), "{seen}");
    assert!(seen["producers"]["processed-by"]["wit-component"].is_string(), "{seen}");

    fs::write(&file, "#!/bin/sh\n").expect("a file");
    let output = environment.run(&["plugin", "inspect", path]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("is no plugin: it is no WebAssembly file"),
        "{}",
        text(&output.stderr)
    );
}

/// A scaffold in a folder of its own.
fn scaffold(environment: &TestEnvironment, name: &str, world: &str, language: &str) -> PathBuf {
    let folder = environment.home().join(name);
    let path = folder.to_str().expect("UTF-8");
    let new = [
        "plugin",
        "new",
        name,
        "--world",
        world,
        "--language",
        language,
        "--path",
        path,
    ];
    let output = environment.run(&new);
    assert!(output.status.success(), "{}", text(&output.stderr));
    folder
}

/// A scaffold in Rust, tested and built by the commands that its README.md has; the file that comes of it.
fn built(environment: &TestEnvironment, name: &str, world: &str) -> String {
    let folder = scaffold(environment, name, world, "rust");
    let readme = fs::read_to_string(folder.join("README.md")).expect("a readme");
    assert!(
        readme.contains("cargo build --release --target wasm32-unknown-unknown\n"),
        "{readme}"
    );
    let module = test_and_build(&folder);
    let file = environment.home().join(name).with_extension("wasm");
    fs::write(&file, module).expect("a file");
    file.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_new_tool_bundle_in_rust_builds_passes_its_own_check_and_can_be_tried() {
    let environment = TestEnvironment::without_engine();
    let file = &built(&environment, "count-instances", "tool-bundle");

    let checked = json_of(&environment, 0, &["plugin", "check", file, "--grants", "read"]);
    assert_eq!(checked["tools"], json!(["count_instances"]));
    assert_eq!(
        (&checked["version"], &checked["needs"]),
        (&json!("0.2.0"), &json!(["read"]))
    );
    let inspected = json_of(&environment, 0, &["plugin", "inspect", file]);
    assert_eq!(inspected["tools"], json!(["count_instances"]));

    let arguments = [
        "plugin",
        "run",
        file,
        "count_instances",
        r#"{"version": "17"}"#,
        "--settings",
        r#"{"many": 1}"#,
    ];
    let ran = json_of(&environment, 0, &[&arguments[..], &["--grants", "read"]].concat());
    assert_eq!(ran["result"], json!({ "count": 0, "many": false }));
    assert_eq!(
        ran["calls"],
        json!([{ "function": "instances.list", "arguments": {}, "answer": [] }])
    );
    // Grants are the real ones.
    let ran = json_of(&environment, 5, &arguments);
    assert_eq!(ran["calls"][0]["failure"]["code"], "denied", "{ran}");
    assert_eq!(ran["result"], Value::Null);

    let bench = [
        "plugin",
        "bench",
        file,
        "count_instances",
        "--grants",
        "read",
        "--time",
        "100ms",
    ];
    let figures = json_of(&environment, 0, &bench);
    assert!(figures["calls"].as_u64().is_some_and(|calls| calls > 0), "{figures}");
    assert!(
        figures["memory_kib"].as_u64().is_some_and(|memory| memory >= 64),
        "{figures}"
    );
    assert_serves(&environment, file);
}

/// A scaffold in Python or JavaScript, built as its README.md has it; the file that comes of it.
fn componentized(environment: &TestEnvironment, name: &str, world: &str, language: &str) -> String {
    let folder = scaffold(environment, name, world, language);
    if folder.join("test_counting.py").exists() {
        let mut tests = Command::new("python3");
        let status = tests.args(["-m", "unittest", "--quiet"]).current_dir(&folder).status();
        assert!(status.expect("Python starts").success(), "its own tests fail");
    }
    let (written_in, command) = match language {
        "python" => (
            "README.md",
            format!("componentize-py --wit-path wit --world {world} componentize plugin --output "),
        ),
        _ => (
            "package.json",
            format!("componentize-js plugin.js --wit wit --world-name {world} --disable http fetch-event --out "),
        ),
    };
    let told = fs::read_to_string(folder.join(written_in)).expect("a file");
    assert!(told.contains(&command), "{told}");
    let component = of_scaffold(&folder, language, world);
    component.to_str().expect("UTF-8").to_owned()
}

#[rstest]
#[case::python("python")]
#[case::javascript("javascript")]
#[test]
fn a_new_tool_bundle_in_another_language_builds_passes_its_own_check_and_can_be_tried(#[case] language: &str) {
    let environment = TestEnvironment::without_engine().with("XDG_CACHE_HOME", shared_cache());
    let file = &componentized(&environment, "count-instances", "tool-bundle", language);

    let checked = json_of(&environment, 0, &["plugin", "check", file]);
    assert_eq!(
        (&checked["version"], &checked["tools"]),
        (&json!("0.2.0"), &json!(["count_instances"]))
    );
    // What it imports says nothing about what it calls.
    let granted = json_of(&environment, 0, &["plugin", "check", file, "--grants", "read"]);
    let note = granted["notes"][0].as_str().expect("a note");
    assert!(note.starts_with("it imports all that its world has"), "{granted}");
    let wrong = ["plugin", "check", file, "--settings", r#"{"many": 0, "few": 1}"#];
    let problems = json_of(&environment, 8, &wrong);
    assert_eq!(problems["problems"].as_array().map(Vec::len), Some(2), "{problems}");

    let arguments = [
        "plugin",
        "run",
        file,
        "count_instances",
        r#"{"version": "17"}"#,
        "--settings",
        r#"{"many": 1}"#,
        "--grants",
        "read",
    ];
    let ran = json_of(&environment, 0, &arguments);
    assert_eq!(ran["result"], json!({ "count": 0, "many": false }));
    assert_eq!(
        ran["calls"],
        json!([{ "function": "instances.list", "arguments": {}, "answer": [] }])
    );
    assert_serves(&environment, file);
}

/// Configures the scaffold's bundle as its README.md has it, and calls it from an MCP client.
fn assert_serves(environment: &TestEnvironment, file: &str) {
    let home = environment.home();
    fs::copy(file, home.join("count_instances.wasm")).expect("a file");
    let readme = fs::read_to_string(home.join("count-instances/README.md")).expect("a readme");
    let entry = readme
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let entry = entry
        .expect("a configuration")
        .replace("/path/to", home.to_str().expect("UTF-8"));
    let config = home.join("config.toml");
    fs::write(&config, entry).expect("a file");
    let environment = environment.clone().with("DEV_POSTGRES_MCP_CONFIG", config);
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let mut session = Session::initialized(&environment, &[]).await;
        // It asks the host as it should, which has no engine here.
        let error = session.fail("count_instances", json!({})).await;
        assert_eq!(error["code"], "unavailable", "{error}");
        let tools = session.request("tools/list", json!({})).await;
        assert!(tools.to_string().contains("count_instances"), "{tools}");
        assert!(session.end().await.status.success());
    });
}

#[rstest]
#[case::rust("rust")]
#[case::python("python")]
#[case::javascript("javascript")]
#[test]
fn a_new_policy_builds_passes_its_own_check_and_decides(#[case] language: &str) {
    let environment = TestEnvironment::without_engine().with("XDG_CACHE_HOME", shared_cache());
    let file = &match language {
        "rust" => built(&environment, "choose-versions", "policy"),
        _ => componentized(&environment, "choose-versions", "policy", language),
    };
    let checked = environment.json(&["plugin", "check", file, "--settings", r#"{"versions": ["17"]}"#]);
    assert_eq!(
        (&checked["world"], &checked["version"]),
        (&json!("policy"), &json!("0.2.0"))
    );
    assert_eq!(checked["notes"], json!([]));
    let denying = environment.json(&["plugin", "check", file, "--settings", r#"{"versions": ["16"]}"#]);
    let note = denying["notes"][0].as_str().expect("a note");
    assert!(
        note.starts_with("asked for nothing in particular, it says no: the policy denies it: "),
        "{note}"
    );
    let no_tool = environment.run(&["plugin", "run", file, "choose_versions"]);
    assert!(
        text(&no_tool.stderr).contains("it is one of the world policy"),
        "{no_tool:?}"
    );
    let environment = environment
        .with("DEV_POSTGRES_MCP_POLICY_COMPONENT", file)
        .with("DEV_POSTGRES_MCP_POLICY_SETTINGS", r#"{"versions": ["16"]}"#);
    let denied = environment.run(&["postgres", "create", "--version", "17"]);
    assert_eq!(denied.status.code(), Some(5));
    assert!(
        text(&denied.stderr).contains("not among the team's versions: 16"),
        "{}",
        text(&denied.stderr)
    );
}

#[test]
fn nothing_is_ever_overwritten() {
    let environment = TestEnvironment::without_engine();
    let folder = scaffold(&environment, "mine", "policy", "python");
    fs::write(folder.join("plugin.py"), "mine").expect("a file");
    let path = folder.to_str().expect("UTF-8");
    let again = environment.run(&["plugin", "new", "other", "--world", "tool-bundle", "--path", path]);
    assert_eq!(again.status.code(), Some(5));
    assert_eq!(
        text(&again.stderr),
        format!(
            "error: {path} is there already and isn't an empty folder\nhint: Give another folder with --path; nothing is \
             ever overwritten.\n"
        )
    );
    assert_eq!(
        fs::read_to_string(folder.join("plugin.py")).expect("it is there"),
        "mine"
    );
}

#[test]
fn a_check_tells_all_that_is_wrong_at_once() {
    let environment = TestEnvironment::without_engine();
    let file = environment.home().join("puppet.wasm");
    fs::write(&file, puppet()).expect("a file");
    let path = file.to_str().expect("UTF-8");
    let lacking = json_of(&environment, 8, &["plugin", "check", path, "--grants", "read,sql"]);
    let problems = lacking["problems"].as_array().expect("problems");
    for (function, grant) in [
        ("create", "create"),
        ("drop", "drop"),
        ("health", "health"),
        ("now", "clock"),
    ] {
        let told = problems.iter().filter_map(Value::as_str);
        let about = |problem: &str| {
            problem.contains(&format!("it imports {function} of "))
                && problem.ends_with(&format!("the grant {grant:?}"))
        };
        assert_eq!(
            told.filter(|problem| about(problem)).count(),
            1,
            "{function}: {problems:?}"
        );
    }
    // What the bundle itself says is looked at all the same, be it its settings or its tools.
    let all = |settings: &str| {
        let arguments = ["plugin", "check", path, "--grants", "read,sql", "--settings", settings];
        json_of(&environment, 8, &arguments)["problems"].to_string()
    };
    let problems = all(r#"{ "tool": "Act", "nodes": 10000, "output_schema": { "type": "string" } }"#);
    for told in [
        "which needs the grant",
        "must be named in snake_case",
        "has an input schema that has more than 65536 bytes",
        "has an output schema that does not say",
    ] {
        assert!(problems.contains(told), "{told}: {problems}");
    }
    let problems = all(r#"{ "no_such": 1 }"#);
    for told in ["which needs the grant", "it refuses its settings: "] {
        assert!(problems.contains(told), "{told}: {problems}");
    }
    let unknown = hostile_of("tool-bundle", Misdeed::Trap, |wit| wit.replace("@0.2.0", "@9.9.9"));
    fs::write(&file, unknown).expect("a file");
    let checked = json_of(&environment, 8, &["plugin", "check", path]);
    assert_eq!(
        checked["problems"],
        json!(["it is made for version 9.9.9, this host speaks 0.1.0 and 0.2.0"])
    );
}

#[test]
fn a_call_on_a_real_instance_is_recorded_without_secrets_and_replayed_without_an_instance() {
    let environment = TestEnvironment::on(TestEngine::Local);
    let file = environment.home().join("seeded_instance.wasm");
    fs::write(&file, module("plugins/examples/seeded_instance")).expect("a file");
    let (file, case) = (file.to_str().expect("UTF-8"), environment.home().join("case.json"));
    let case_path = case.to_str().expect("UTF-8");
    let settings = r#"{"script": "CREATE TABLE t (n int); INSERT INTO t VALUES (1)", "table": "t", "rows": 1}"#;
    let call = [
        file,
        "create_seeded_instance",
        "--grants",
        "create,sql",
        "--settings",
        settings,
    ];
    json_of(
        &environment,
        0,
        &[&["plugin", "record"], &call[..], &["--to", case_path]].concat(),
    );
    let listed = json_of(&environment, 0, &["postgres", "list"]);
    assert_eq!(listed["count"], 0, "what the call made is dropped again");

    let written = fs::read_to_string(&case).expect("a case");
    let recorded: Value = serde_json::from_str(&written).expect("JSON");
    let functions: Vec<&str> = recorded["calls"]
        .as_array()
        .expect("calls")
        .iter()
        .filter_map(|call| call["function"].as_str())
        .collect();
    assert_eq!(functions, ["instances.create", "sql.execute", "sql.query"]);
    let connection = &recorded["calls"][0]["answer"]["connection"];
    for secret in [&connection["password"], &connection["dsn"], &recorded["result"]["dsn"]] {
        let word = secret
            .as_str()
            .expect("a word")
            .strip_prefix("credential-")
            .expect("a word");
        assert!(
            word.len() == 32 && word.bytes().all(|digit| digit.is_ascii_digit()),
            "{secret}"
        );
    }

    let nowhere = environment.clone().with("DEV_POSTGRES_MCP_LOCAL_BIN_DIR", "/nowhere");
    let replayed = json_of(&nowhere, 0, &["plugin", "replay", file, case_path]);
    assert_eq!(replayed, json!({ "calls": 3, "difference": null }));

    fs::write(&case, written.replace("INSERT INTO t", "INSERT INTO u")).expect("a file");
    let other = fs::read_to_string(&case)
        .expect("a case")
        .replacen("INSERT INTO u", "INSERT INTO t", 1);
    fs::write(&case, other).expect("a file");
    let replayed = json_of(&nowhere, 8, &["plugin", "replay", file, case_path]);
    let difference = replayed["difference"].as_str().expect("a difference");
    assert!(
        difference.starts_with("call 2: sql.execute ") && difference.contains("now it is sql.execute"),
        "{difference}"
    );
    // On a host that only pretends nothing runs SQL.
    let ran = json_of(&environment, 6, &[&["plugin", "run"], &call[..]].concat());
    assert_eq!(
        ran["calls"][1]["failure"]["message"],
        "this host only pretends: it runs no SQL"
    );
}
