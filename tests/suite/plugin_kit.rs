//! What plugin authors have: `plugin` on the command line, with real builds, and the resource that lists what is loaded.

use std::fs;
use std::process::Output;

use dev_postgres_mcp::digest::Digest;
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::guests::{Misdeed, hostile, puppet};
use dev_postgres_mcp_tests::puppet::with_puppets;
use dev_postgres_mcp_tests::session::Session;
use serde_json::{Value, json};

const PLUGINS: &str = "dev-postgres-mcp://plugins";

fn run(environment: &TestEnvironment, arguments: &[&str]) -> Output {
    environment.command(arguments).output().expect("it runs")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

/// Runs a command that has to end with `code`; what it says in JSON.
fn json_of(environment: &TestEnvironment, code: i32, arguments: &[&str]) -> Value {
    let output = run(environment, &[arguments, &["--output", "json"]].concat());
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
fn a_file_is_inspected_without_running_it() {
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
    let output = run(&environment, &["plugin", "inspect", path]);
    assert_eq!(output.status.code(), Some(5));
    assert!(
        text(&output.stderr).contains("is no plugin: it is no component: "),
        "{}",
        text(&output.stderr)
    );
}
