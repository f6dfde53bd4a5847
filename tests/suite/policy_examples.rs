//! The example policies, each built as its author builds it, and deciding for tools, the command line and bundles.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use dev_postgres_mcp_tests::binary::TestEngine::Local;
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::guests::{module, test_and_build};
use dev_postgres_mcp_tests::local::leftovers;
use dev_postgres_mcp_tests::readme::repository;
use dev_postgres_mcp_tests::session::Session;
use rstest::rstest;
use serde_json::{Value, json};

/// The module of an example, built once.
fn example(name: &str) -> Vec<u8> {
    static BUILT: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let module = built
        .entry(name.to_owned())
        .or_insert_with(|| module(&format!("plugins/examples/{name}")));
    module.clone()
}

/// The same environment, in which this example decides.
fn under(environment: TestEnvironment, name: &str, settings: &Value) -> TestEnvironment {
    let file = environment.home().join(name).with_extension("wasm");
    fs::write(&file, example(name)).expect("a file");
    environment
        .with("DEV_POSTGRES_MCP_POLICY_COMPONENT", file)
        .with("DEV_POSTGRES_MCP_POLICY_SETTINGS", settings.to_string())
}

/// The same environment, in which this example decides for the teams web and mail, with these lines in each one's table.
fn of_teams(environment: TestEnvironment, name: &str, lines: &str) -> TestEnvironment {
    fs::write(environment.home().join(name).with_extension("wasm"), example(name)).expect("a file");
    let team = |team: &str| format!("[teams.{team}]\ncomponent = '{name}.wasm'\n{lines}\n");
    let config = environment.home().join("teams.toml");
    fs::write(&config, team("web") + &team("mail")).expect("a file");
    environment.with("DEV_POSTGRES_MCP_CONFIG", config)
}

/// What a create on the command line fails with.
fn refusal(environment: &TestEnvironment, arguments: &[&str]) -> Value {
    let create = ["postgres", "create", "--output", "json"];
    refusal_of(&mut environment.command([&create, arguments].concat()))
}

fn refusal_of(create: &mut Command) -> Value {
    let output = create.output().expect("it runs");
    assert!(!output.status.success(), "it was created");
    let told: Value = serde_json::from_slice(&output.stderr).expect("JSON");
    let error = &told["error"];
    if error["code"] == "denied" || error["code"] == "invalid_arguments" {
        assert_eq!(output.status.code(), Some(5), "{told}");
    }
    error.clone()
}

/// Standard input that holds this.
fn input(text: &str) -> std::io::PipeReader {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(text.as_bytes()).expect("a pipe takes as much");
    reader
}

/// A policy that lets a create through leaves it to an engine, and here is none.
fn assert_allowed(error: &Value) {
    assert_eq!(error["code"], "unavailable", "{error}");
}

fn assert_denied(error: &Value, reason: &str) {
    assert_eq!(error["code"], "denied", "{error}");
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains(reason), "{message}");
}

#[rstest]
#[case::team_quota("team_quota", json!({ "instances_max": 2.5, "teams": { "web": "3" } }), &["instances_max must be", "teams.web must be"])]
#[case::allowed_images("allowed_images", json!({ "majors": [9], "versions": ["*"], "tags": [] }), &["majors must be", "versions[0] must be", "tags is unknown"])]
#[case::password_strength("password_strength", json!({ "length_min": 0, "classes_min": 5 }), &["length_min must be", "classes_min must be"])]
#[case::naming_rules("naming_rules", json!({ "pattern": "(", "missing_prefix": 1 }), &["pattern must be a regular expression", "missing_prefix must be \"add\""])]
#[case::office_hours("office_hours", json!({ "days": ["Someday"], "from": "8" }), &["days must be a list", "from must be a time"])]
#[tokio::test]
async fn each_passes_its_own_tests_loads_as_its_readme_says_and_refuses_wrong_settings(
    #[case] name: &str,
    #[case] wrong: Value,
    #[case] problems: &[&str],
) {
    let folder = repository("plugins/examples").join(name);
    let environment = TestEnvironment::without_engine();
    let file = environment.home().join(name).with_extension("wasm");
    fs::write(&file, test_and_build(&folder)).expect("a file");
    let file = file.to_str().expect("UTF-8").to_owned();

    let readme = fs::read_to_string(folder.join("README.md")).expect("a readme");
    let configuration = readme
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let config = environment.home().join("config.toml");
    fs::write(&config, configuration.expect("a configuration")).expect("a file");
    let configured = environment.clone().with("DEV_POSTGRES_MCP_CONFIG", config);
    let list = configured.json(&["plugin", "list"]);
    assert_eq!(list["plugins"][0]["from"], *file, "{list}");
    assert_eq!(list["plugins"][0]["state"], "serving");
    let checked = environment.json(&["plugin", "check", &file, "--settings", "{}"]);
    assert_eq!(checked["world"], "policy", "{checked}");

    let wrong = configured.with("DEV_POSTGRES_MCP_POLICY_SETTINGS", wrong.to_string());
    let remains = Session::start(&wrong, &[]).end().await;
    assert_eq!(remains.status.code(), Some(3));
    for problem in problems {
        assert!(remains.log.contains(problem), "{problem}: {}", remains.log);
    }
    assert_eq!(
        refusal(&wrong, &[])["code"],
        "configuration",
        "nothing is created under a policy that doesn't load"
    );
}

#[tokio::test]
async fn a_quota_counts_what_there_is_whoever_made_it() {
    let environment = under(TestEnvironment::on(Local), "team_quota", &json!({ "instances_max": 1 }))
        .with("DEV_POSTGRES_MCP_POOL_SIZE", "0");
    let mut session = Session::initialized(&environment, &[]).await;
    let created = session.succeed("create_postgres_instance", json!({})).await;
    let id = created["id"].as_str().expect("an id");
    let full = "those who are in no team have 1 of 1 instances (1 by \"";
    for error in [
        session.fail("create_postgres_instance", json!({})).await,
        refusal(&environment, &[]),
    ] {
        assert_denied(&error, full);
        assert_denied(&error, &format!("perhaps the oldest, {id} of 20"));
    }
    environment.json(&["postgres", "drop", id]);
    let created = environment.json(&["postgres", "create"]);
    let id = created["id"].as_str().expect("an id");
    assert_denied(
        &session.fail("create_postgres_instance", json!({})).await,
        "(1 by the command line)",
    );
    session.succeed("drop_postgres_instance", json!({ "id": id })).await;
    assert!(session.end().await.status.success());
    assert_eq!(leftovers(&environment), Vec::<String>::new());
}

#[tokio::test]
async fn each_team_has_its_own_quota() {
    let settings = "settings = { instances_max = 0, teams = { web = 1, mail = 1 } }\n";
    let teams = of_teams(TestEnvironment::on(Local), "team_quota", settings);
    let of = |team: &str| teams.clone().with("DEV_POSTGRES_MCP_TEAM", team);
    let (web, mail) = (of("web"), of("mail"));
    let of_web = web.json(&["postgres", "create"]);
    let mut session = Session::initialized(&web, &["--pool-size", "0"]).await;
    for error in [
        session.fail("create_postgres_instance", json!({})).await,
        refusal(&web, &[]),
    ] {
        assert_denied(
            &error,
            "the team web has 1 of 1 instances (1 by the command line): drop one",
        );
    }
    assert!(session.end().await.status.success());
    let of_mail = mail.json(&["postgres", "create"]);
    for created in [of_web, of_mail] {
        teams.json(&["postgres", "drop", created["id"].as_str().expect("an id")]);
    }
    assert_eq!(leftovers(&teams), Vec::<String>::new());
}

#[test]
fn where_nothing_can_be_counted_nothing_is_created() {
    let environment = under(TestEnvironment::without_engine(), "team_quota", &json!({}));
    assert_denied(&refusal(&environment, &[]), "can't be counted: ");
}

#[tokio::test]
async fn images_that_are_not_allowed_are_denied_alike_for_tools_command_line_and_bundles() {
    let settings = json!({ "repositories": ["postgres"], "majors": [17], "versions": ["16.4"] });
    let environment = under(TestEnvironment::without_engine(), "allowed_images", &settings);
    fs::write(
        environment.home().join("seeded.wasm"),
        module("plugins/examples/seeded_instance"),
    )
    .expect("a file");
    let config = environment.home().join("config.toml");
    fs::write(
        &config,
        "[[bundle]]\nname = 'seeded'\ncomponent = 'seeded.wasm'\ngrants = ['create', 'sql']\n",
    )
    .expect("a file");
    let environment = environment.with("DEV_POSTGRES_MCP_CONFIG", config);
    let mut session = Session::initialized(&environment, &[]).await;

    let reason = "PostgreSQL 16.3 is not allowed: ask for 17 or 17.x, 16.4";
    let asked = json!({ "version": "16.3" });
    let told = session.fail("create_postgres_instance", asked.clone()).await;
    assert_denied(&told, reason);
    assert_eq!(session.fail("create_seeded_instance", asked).await, told);
    assert_denied(&refusal(&environment, &["--version", "16.3"]), reason);

    for version in ["17", "17.5", "16.4"] {
        let asked = json!({ "version": version });
        assert_allowed(&session.fail("create_postgres_instance", asked.clone()).await);
        assert_allowed(&session.fail("create_seeded_instance", asked).await);
        assert_allowed(&refusal(&environment, &["--version", version]));
    }
    let other = environment.with("DEV_POSTGRES_MCP_INSTANCE_REPOSITORY", "ghcr.io/acme/postgres");
    assert_denied(
        &refusal(&other, &[]),
        "the image repository ghcr.io/acme/postgres is not allowed, only postgres: ",
    );
}

#[tokio::test]
async fn a_weak_password_is_refused_without_a_word_of_it_and_a_generated_one_opens_its_instance() {
    let settings = json!({ "length_min": 10, "words": ["rocket"] });
    let environment = under(TestEnvironment::on(Local), "password_strength", &settings);
    let mut session = Session::initialized(&environment, &[]).await;
    let asked = json!({ "password": "R0cket9", "ttl_seconds": 700_000 });
    let by_tool = session.fail("create_postgres_instance", asked).await;
    let by_command = refusal_of(
        environment
            .command([
                "postgres",
                "create",
                "-o",
                "json",
                "--ttl",
                "700000s",
                "--password-stdin",
            ])
            .stdin(input("R0cket9")),
    );
    for error in [by_tool, by_command] {
        assert_eq!(error["code"], "invalid_arguments", "{error}");
        let told: Vec<String> = error["fields"]
            .as_array()
            .expect("fields")
            .iter()
            .map(|field| format!("{} {}", field["field"], field["message"]))
            .collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[0], r#""password" "must have at least 10 characters, has 7""#);
        assert!(
            told[1].starts_with(r#""password" "must not have a word in it"#),
            "{told:?}"
        );
        assert!(told[2].starts_with(r#""ttl_seconds" "must be 1 to 604800"#), "{told:?}");
        assert!(!error.to_string().contains("R0cket9"), "{error}");
    }

    let created = session.succeed("create_postgres_instance", json!({})).await;
    let password = created["password"].as_str().expect("a password");
    assert_eq!(password.len(), 28);
    let dsn = created["dsn"].as_str().expect("a DSN");
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls)
        .await
        .expect("it connects");
    tokio::spawn(connection);
    client.query_one("SELECT 1", &[]).await.expect("it answers");
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn a_database_is_given_its_teams_prefix_or_refused_without() {
    let of_web = "settings = { prefixes = { web = 'web_' }, pattern = '[a-z_]+' }\nmay_change = ['database']\n";
    let web = of_teams(TestEnvironment::on(Local), "naming_rules", of_web).with("DEV_POSTGRES_MCP_TEAM", "web");
    let created = web.json(&["postgres", "create", "--database", "shop"]);
    assert_eq!(created["database"], "web_shop");
    let dsn = created["dsn"].as_str().expect("a DSN");
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls)
        .await
        .expect("it connects");
    tokio::spawn(connection);
    let row = client.query_one("SELECT current_database()::text", &[]).await;
    assert_eq!(row.expect("a row").get::<_, String>(0), "web_shop");
    web.json(&["postgres", "drop", created["id"].as_str().expect("an id")]);
    assert_eq!(leftovers(&web), Vec::<String>::new());

    let strict = "settings = { prefixes = { web = 'web_' }, pattern = '[a-z_]+', missing_prefix = 'refuse' }\n";
    let teams = of_teams(TestEnvironment::without_engine(), "naming_rules", strict);
    let web = teams.clone().with("DEV_POSTGRES_MCP_TEAM", "web");
    let mut session = Session::initialized(&web, &[]).await;
    for (asked, message) in [("shop", "must start with web_"), ("web_Shop", "must match [a-z_]+")] {
        for error in [
            session
                .fail("create_postgres_instance", json!({ "database": asked }))
                .await,
            refusal(&web, &["--database", asked]),
        ] {
            assert_eq!(error["code"], "invalid_arguments", "{error}");
            let fields = json!([{ "field": "database", "message": message }]);
            assert_eq!(error["fields"], fields);
        }
    }
    assert_allowed(
        &session
            .fail("create_postgres_instance", json!({ "database": "web_shop" }))
            .await,
    );
    assert_allowed(&refusal(&web, &[]));
    let mail = teams.with("DEV_POSTGRES_MCP_TEAM", "mail");
    assert_allowed(&refusal(&mail, &["--database", "shop"]));
}

/// Days of the week, this many after today's in UTC.
fn days_from_today(after: impl Iterator<Item = usize>) -> Value {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    // 1970-01-01 was a Thursday.
    let today = usize::try_from(now.as_secs() / 86_400).expect("it fits") + 3;
    after.map(|days| DAYS[(today + days) % 7]).collect()
}

#[tokio::test]
async fn outside_of_office_hours_nothing_is_created_and_what_there_is_can_be_used_and_dropped() {
    let all_day = |days: Value| json!({ "days": days, "from": "00:00", "until": "24:00" });
    let open = under(
        TestEnvironment::on(Local),
        "office_hours",
        &all_day(days_from_today(0..7)),
    );
    let created = open.json(&["postgres", "create"]);
    let id = created["id"].as_str().expect("an id");

    // Neither yesterday nor tomorrow: this test may run at midnight.
    let days = all_day(days_from_today(3..5));
    let closed = open.with("DEV_POSTGRES_MCP_POLICY_SETTINGS", days.to_string());
    let mut session = Session::initialized(&closed, &[]).await;
    for error in [
        session.fail("create_postgres_instance", json!({})).await,
        refusal(&closed, &[]),
    ] {
        assert_denied(&error, "instances may be created ");
        assert_denied(&error, ", 00:00 to 24:00 (UTC), and it is ");
        assert_denied(&error, ": come back ");
    }
    let asked = json!({ "id": id });
    let got = session.succeed("get_postgres_instance", asked.clone()).await;
    assert_eq!(got["dsn"], created["dsn"]);
    let listed = session.succeed("list_postgres_instances", json!({})).await;
    assert_eq!(listed["count"], 1, "{listed}");
    let health = session.succeed("health_check_postgres", asked.clone()).await;
    assert_eq!(health["status"], "healthy", "{health}");
    session.succeed("extend_postgres_instance", asked.clone()).await;
    session.succeed("drop_postgres_instance", asked).await;
    assert!(session.end().await.status.success());
    assert_eq!(leftovers(&closed), Vec::<String>::new());
}
