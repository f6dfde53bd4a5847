//! The policy decides on every action, whether the command line, an MCP tool or a bundle asks for it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

use dev_postgres_mcp_tests::binary::TestEngine::Local;
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::guests::module;
use dev_postgres_mcp_tests::local::leftovers;
use dev_postgres_mcp_tests::puppet::{act, with_puppets};
use dev_postgres_mcp_tests::session::Session;
use serde_json::{Value, json};

/// All that a policy decides on.
const ACTIONS: [&str; 6] = ["get", "list", "health", "extend", "drop", "create"];
/// The same, in an order in which one instance can have all of it.
const A_LIFE: [&str; 6] = ["create", "list", "get", "health", "extend", "drop"];
/// Every grant: what is refused is refused by the policy.
const GRANTS: &str = "grants = ['create', 'read', 'read-credentials', 'drop', 'health', 'log', 'clock', 'sql']";
const BROKEN: &str = "the policy gave no valid answer, so nothing is allowed: ";

/// A way to ask for an action.
#[derive(Debug, Clone, Copy)]
enum Way {
    CommandLine,
    Tool,
    Bundle,
}

const WAYS: [Way; 3] = [Way::CommandLine, Way::Tool, Way::Bundle];

/// How an action fails.
#[derive(Debug)]
struct Refusal {
    code: String,
    message: String,
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// The policy that answers what its settings say.
fn oracle() -> &'static [u8] {
    static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
    BUILT.get_or_init(|| module("tests/guests/oracle"))
}

/// The same environment, in which the oracle decides by these settings, with a puppet that is granted everything.
fn under(environment: &TestEnvironment, settings: &Value) -> TestEnvironment {
    let file = environment.home().join("oracle.wasm");
    fs::write(&file, oracle()).expect("a file");
    with_puppets(environment, "", &[("puppet", GRANTS)])
        .with("DEV_POSTGRES_MCP_POLICY_COMPONENT", file)
        .with("DEV_POSTGRES_MCP_POLICY_SETTINGS", settings.to_string())
}

fn reason(action: &str) -> String {
    format!("no {action} today")
}

/// The settings of an oracle that denies these actions, each with its reason, and allows all others. What it plans can be
/// made where `made` was.
fn denying(actions: &[&str], made: &Value) -> Value {
    let denies: BTreeMap<&str, String> = actions.iter().map(|&action| (action, reason(action))).collect();
    json!({
        "denies": denies,
        "echo": true,
        "version": made["version"],
        "database": "app",
        "username": "me",
        "password": "secret",
        "memory_mib": 512,
        "cpu_millis": 1000,
        "dsn": "postgresql://oracle",
        "extension": 3600,
    })
}

fn is_about_one(action: &str) -> bool {
    !matches!(action, "create" | "list")
}

/// Those lines that are JSON.
fn json_lines(told: &str) -> impl Iterator<Item = Value> {
    told.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// What comes of an action on the command line, and all that is on standard error then.
fn command(environment: &TestEnvironment, action: &str, id: &str) -> (Result<Value, Refusal>, String) {
    let mut arguments = vec!["--output", "json", "postgres", action];
    if is_about_one(action) {
        arguments.push(id);
    }
    let output = environment.run(&arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return (Ok(serde_json::from_slice(&output.stdout).expect("JSON")), told);
    }
    // The log is on standard error, too.
    let error = json_lines(&told).find_map(|line| line.get("error").cloned());
    let error = error.unwrap_or_else(|| panic!("{action} fails and doesn't say why: {told}"));
    let refusal = Refusal {
        code: text(&error, "code").to_owned(),
        message: text(&error, "message").to_owned(),
    };
    let expected = if refusal.code == "denied" { 5 } else { 10 };
    assert_eq!(output.status.code(), Some(expected), "{action}: {told}");
    (Err(refusal), told)
}

async fn ask(
    way: Way,
    environment: &TestEnvironment,
    session: &mut Session,
    action: &str,
    id: &str,
) -> Result<Value, Refusal> {
    let arguments = if is_about_one(action) {
        json!({ "id": id })
    } else {
        json!({})
    };
    match way {
        Way::CommandLine => command(environment, action, id).0,
        Way::Tool => {
            let tool = match action {
                "list" => "list_postgres_instances".to_owned(),
                "health" => "health_check_postgres".to_owned(),
                _ => format!("{action}_postgres_instance"),
            };
            let result = session.call(&tool, arguments).await;
            let said = text(&result["content"][0], "text");
            let said: Value = serde_json::from_str(said).expect("the text is JSON");
            if result["isError"] != true {
                return Ok(said);
            }
            Err(Refusal {
                code: text(&said["error"], "code").to_owned(),
                message: text(&said["error"], "message").to_owned(),
            })
        }
        Way::Bundle => {
            let deed: Value = match action {
                "list" => json!("list"),
                _ => [(action, arguments)].into_iter().collect(),
            };
            deed_done(session, &deed).await
        }
    }
}

/// What comes of one deed of the puppet.
async fn deed_done(session: &mut Session, deed: &Value) -> Result<Value, Refusal> {
    let outcome = &act(session, "act", json!([deed])).await[0];
    match outcome.get("done") {
        Some(answer) => Ok(answer.clone()),
        None => Err(Refusal {
            // `FailureCode::Denied` there.
            code: text(outcome, "failed")
                .rsplit("::")
                .next()
                .unwrap_or_default()
                .to_lowercase(),
            message: text(outcome, "message").to_owned(),
        }),
    }
}

fn assert_refused(outcome: Result<Value, Refusal>, code: &str, told: &str) {
    let refusal = outcome.expect_err("it should be refused");
    assert!(
        refusal.code == code && refusal.message.starts_with(told),
        "not {code}, {told:?}: {refusal:?}"
    );
}

/// Whether a list, whoever wrote it, has this instance.
fn shows(listed: &Value, id: &str) -> bool {
    let instances = listed.get("instances").unwrap_or(listed);
    let mut instances = instances.as_array().expect("instances").iter();
    instances.any(|instance| instance["id"] == id)
}

/// Under the built-in rules: this instance, and no other, is there as it was, and answers.
fn assert_untouched(environment: &TestEnvironment, before: &Value) {
    let id = text(before, "id");
    assert_eq!(environment.json(&["postgres", "get", id]), *before);
    assert_eq!(environment.json(&["postgres", "health", id])["status"], "healthy");
    assert_eq!(environment.json(&["postgres", "list"])["count"], 1);
}

#[tokio::test]
async fn what_the_policy_denies_is_refused_with_the_reason_however_it_is_asked_for_and_all_else_is_done() {
    let environment = TestEnvironment::on(Local);
    let made = environment.json(&["postgres", "create"]);
    let id = text(&made, "id");
    for (denied, way_of_another) in ACTIONS.into_iter().zip(WAYS.into_iter().cycle()) {
        let under = under(&environment, &denying(&[denied], &made));
        let mut session = Session::initialized(&under, &[]).await;
        let before = environment.json(&["postgres", "get", id]);
        for way in WAYS {
            let outcome = ask(way, &under, &mut session, denied, id).await;
            if denied == "list" {
                let listed = outcome.expect("a list leaves out what may not be seen");
                assert!(!shows(&listed, id), "{way:?}: {listed}");
            } else {
                let told = format!("the policy denies it: {}", reason(denied));
                assert_refused(outcome, "denied", &told);
            }
        }
        assert_untouched(&environment, &before);

        for allowed in ["get", "list", "health", "extend"] {
            if allowed == denied {
                continue;
            }
            for way in WAYS {
                let outcome = ask(way, &under, &mut session, allowed, id).await;
                let answer = outcome.unwrap_or_else(|refusal| panic!("{way:?}, {allowed}: {refusal:?}"));
                assert!(allowed != "list" || shows(&answer, id), "{way:?}: {answer}");
            }
        }
        if denied != "create" && denied != "drop" {
            let another = ask(way_of_another, &under, &mut session, "create", "").await;
            let another = another.expect("creates are allowed");
            let gone = ask(way_of_another, &under, &mut session, "drop", text(&another, "id")).await;
            gone.expect("drops are allowed");
        }
        assert!(session.end().await.status.success());
    }
    environment.json(&["postgres", "drop", id]);
    assert_eq!(leftovers(&environment), Vec::<String>::new());
}

/// How many tables somebody has made there.
async fn tables(dsn: &str) -> i64 {
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls)
        .await
        .expect("it connects");
    tokio::spawn(connection);
    let counted = client
        .query_one("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", &[])
        .await;
    counted.expect("a row").get(0)
}

#[tokio::test]
async fn a_bundle_runs_sql_only_where_its_caller_may_read() {
    let environment = TestEnvironment::on(Local);
    let made = environment.json(&["postgres", "create"]);
    let (id, dsn) = (text(&made, "id"), text(&made, "dsn"));
    let deeds = [
        json!({ "query": { "id": id, "statement": "CREATE TABLE by_query (n int)" } }),
        json!({ "execute": { "id": id, "script": "CREATE TABLE by_execute (n int)" } }),
    ];

    let unreadable = under(&environment, &denying(&["get"], &made));
    let mut session = Session::initialized(&unreadable, &[]).await;
    for deed in &deeds {
        let told = format!("the policy denies it: {}", reason("get"));
        assert_refused(deed_done(&mut session, deed).await, "denied", &told);
    }
    assert_eq!(tables(dsn).await, 0);
    assert!(session.end().await.status.success());

    let readable = under(
        &environment,
        &denying(&["list", "health", "extend", "drop", "create"], &made),
    );
    let mut session = Session::initialized(&readable, &[]).await;
    for deed in &deeds {
        let outcome = deed_done(&mut session, deed).await;
        outcome.expect("whoever may read an instance may run SQL there");
    }
    assert_eq!(tables(dsn).await, 2);
    assert!(session.end().await.status.success());
    environment.json(&["postgres", "drop", id]);
}

#[tokio::test]
async fn the_policy_sees_who_asks_and_who_has_made_what_there_is() {
    let environment = TestEnvironment::on(Local);
    fs::write(environment.home().join("oracle.wasm"), oracle()).expect("a file");
    let denies = ACTIONS
        .map(|action| format!("{action} = '{}'", reason(action)))
        .join(", ");
    let settings = format!("settings = {{ names_caller = true, denies = {{ {denies} }} }}");
    let teams = format!("[teams.mail]\n\n[teams.web]\ncomponent = 'oracle.wasm'\n{settings}\n");
    let configured = with_puppets(&environment, &teams, &[("puppet", GRANTS)]);
    let of = |team: &str| configured.clone().with("DEV_POSTGRES_MCP_TEAM", team);
    let (mail, web) = (of("mail"), of("web"));
    let made = mail.json(&["postgres", "create"]);
    let id = text(&made, "id");
    let mut maker = Session::initialized(&mail, &[]).await;
    maker.succeed("create_postgres_instance", json!({})).await;
    let there = "2 there: client none of team mail, client raw of team mail";

    let mut session = Session::start(&web, &[]);
    let hello = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": { "name": "careful", "version": "1" },
    });
    session.request("initialize", hello).await;
    session
        .send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
        .await;
    for action in ACTIONS.into_iter().filter(|&action| action != "list") {
        for way in WAYS {
            let client = match way {
                Way::CommandLine => "none",
                // A bundle asks for whoever has called it.
                Way::Tool | Way::Bundle => "careful",
            };
            let told = format!(
                "the policy denies it: {} (client {client} of team web asks; {there})",
                reason(action)
            );
            let outcome = ask(way, &web, &mut session, action, id).await;
            assert_refused(outcome, "denied", &told);
        }
    }
    // Why something is left out of a list is in the log alone.
    let listing = web.with("DEV_POSTGRES_MCP_LOG_LEVEL", "debug");
    let (listed, log) = command(&listing, "list", "");
    assert_eq!(listed.expect("a list")["count"], 0);
    let told = format!("{} (client none of team web asks; {there})", reason("list"));
    assert_eq!(log.matches(&told).count(), 2, "{log}");

    assert!(session.end().await.status.success());
    assert!(maker.end().await.status.success());
    mail.json(&["postgres", "drop", id]);
    assert_eq!(leftovers(&environment), Vec::<String>::new());
}

#[tokio::test]
async fn a_policy_that_fails_allows_nothing_however_it_is_asked() {
    let environment = TestEnvironment::on(Local);
    let made = environment.json(&["postgres", "create"]);
    let id = text(&made, "id");
    let before = environment.json(&["postgres", "get", id]);
    // More random bytes than there are at once; no name for a database, no connection URI, no time to live.
    for (settings, actions) in [
        (json!({ "random": 1025 }), &ACTIONS[..]),
        (json!({}), &["create", "get", "extend"][..]),
    ] {
        let under = under(&environment, &settings);
        let mut session = Session::initialized(&under, &[]).await;
        for action in actions {
            for way in WAYS {
                let outcome = ask(way, &under, &mut session, action, id).await;
                assert_refused(outcome, "internal", BROKEN);
            }
        }
        assert!(session.end().await.status.success());
        assert_untouched(&environment, &before);
    }
    environment.json(&["postgres", "drop", id]);
    assert_eq!(leftovers(&environment), Vec::<String>::new());
}

/// Why an action that this caller asked for would have been denied, as often as the log, which is JSON, has it.
fn monitored(log: &str, action: &str, caller: &str) -> Vec<String> {
    let lines = json_lines(log).filter_map(|line| line.get("fields").cloned());
    let told = lines.filter(|fields| {
        let message = fields["message"].as_str().unwrap_or_default();
        message.contains("would have denied") && fields["action"] == action && fields["caller"] == caller
    });
    told.map(|fields| fields["reason"].to_string()).collect()
}

fn assert_monitored(log: &str, action: &str, caller: &str, times: usize) {
    let reasons = monitored(log, action, caller);
    assert_eq!(reasons.len(), times, "{action} by {caller}: {log}");
    for told in reasons {
        assert!(told.contains(&reason(action)), "{told}");
    }
}

#[tokio::test]
async fn rules_that_only_monitor_deny_nothing_and_each_denial_is_in_the_log_with_its_reason() {
    let environment = TestEnvironment::on(Local);
    let settings = denying(&ACTIONS, &json!({ "version": "17" }));
    let environment = under(&environment, &settings)
        .with("DEV_POSTGRES_MCP_POLICY_MODE", "monitor")
        .with("DEV_POSTGRES_MCP_LOG_FORMAT", "json");

    let mut id = String::new();
    for action in A_LIFE {
        let (outcome, log) = command(&environment, action, &id);
        let answer = outcome.unwrap_or_else(|refusal| panic!("{action}: {refusal:?}"));
        if action == "create" {
            text(&answer, "id").clone_into(&mut id);
        }
        assert!(action != "list" || shows(&answer, &id), "{answer}");
        assert_monitored(&log, action, "the command line", 1);
    }

    let mut session = Session::initialized(&environment, &[]).await;
    for way in [Way::Tool, Way::Bundle] {
        for action in A_LIFE {
            let outcome = ask(way, &environment, &mut session, action, &id).await;
            let answer = outcome.unwrap_or_else(|refusal| panic!("{way:?}, {action}: {refusal:?}"));
            if action == "create" {
                text(&answer, "id").clone_into(&mut id);
            }
            assert!(action != "list" || shows(&answer, &id), "{answer}");
        }
    }
    let remains = session.end().await;
    assert!(remains.status.success());
    for action in A_LIFE {
        assert_monitored(&remains.log, action, "the MCP client \"raw\"", 2);
    }
    assert_eq!(leftovers(&environment), Vec::<String>::new());
}
