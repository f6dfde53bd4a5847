//! Tool bundles and a policy in Python and JavaScript, from `plugins/examples`, in a real server and on the command line.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use dev_postgres_mcp_tests::binary::TestEngine::Local;
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::guests::{maintenance_windows, migrated_instance, schema_report, shared_cache};
use dev_postgres_mcp_tests::session::{PATIENCE, Session};
use rstest::rstest;
use serde_json::{Value, json};

fn with_config(environment: &TestEnvironment, config: &str) -> TestEnvironment {
    let file = environment.home().join("config.toml");
    fs::write(&file, config).expect("a file");
    environment
        .clone()
        .with("DEV_POSTGRES_MCP_CONFIG", file)
        .with("XDG_CACHE_HOME", shared_cache())
}

/// A configuration with these bundles: their component, and further lines.
fn with_bundles(environment: &TestEnvironment, bundles: &[(&Path, &str)]) -> TestEnvironment {
    let bundle = |(number, (component, lines)): (usize, &(&Path, &str))| {
        let component = component.display();
        format!("[[bundle]]\nname = 'guest-{number}'\ncomponent = '{component}'\n{lines}\n")
    };
    let config: String = bundles.iter().enumerate().map(bundle).collect();
    with_config(environment, &config)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

async fn connect(dsn: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls)
        .await
        .expect("it answers");
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn bundles_in_python_and_javascript_work_on_the_same_instance() {
    let environment = with_bundles(
        &TestEnvironment::on(Local),
        &[
            (migrated_instance(), "grants = ['create', 'sql']"),
            (schema_report(), "grants = ['read', 'sql']\nsettings.rows = 2"),
        ],
    );
    let mut session = Session::initialized(&environment, &[]).await;

    let error = session.fail("describe_postgres_schema", json!({})).await;
    assert_eq!(error["code"], "not_found", "{error}");

    let created = session.succeed("create_migrated_instance", json!({})).await;
    assert_eq!(created["applied"], json!(["001_customer", "002_email"]));
    let id = text(&created, "id");
    let client = connect(text(&created, "dsn")).await;
    let insert = "INSERT INTO customer (name, email) SELECT n, n || '@example.com' FROM generate_series(1, 9) n";
    client.execute(insert, &[]).await.expect("there is the table");

    let migrated = session.succeed("migrate_instance", json!({ "id": id })).await;
    assert_eq!(
        migrated,
        json!({ "id": id, "applied": [], "had": ["001_customer", "002_email"] })
    );

    let described = session.succeed("describe_postgres_schema", json!({})).await;
    assert_eq!(
        described["tables"][0],
        json!({ "name": "customer", "columns": [
            { "name": "id", "type": "integer", "nullable": false },
            { "name": "name", "type": "text", "nullable": false },
            { "name": "email", "type": "text", "nullable": true },
        ] })
    );
    let sample = json!({ "id": id, "table": "customer" });
    let sample = session.succeed("sample_postgres_table", sample).await;
    assert_eq!(sample["columns"][0], json!({ "name": "id", "type": "int4" }));
    assert_eq!(
        sample["rows"],
        json!([[1, "1", "1@example.com"], [2, "2", "2@example.com"]])
    );

    let strange = "CREATE TABLE \"a\"\"b\" AS SELECT 9007199254740993 AS big, 'NaN'::float8 AS nan, '\\x00ff'::bytea AS \
                   bytes, '{\"a\": 1}'::jsonb AS json, true AS yes, NULL::text AS nothing, 1.50 AS exact";
    client.batch_execute(strange).await.expect("it is made");
    let sample = session
        .succeed("sample_postgres_table", json!({ "table": "a\"b" }))
        .await;
    assert_eq!(
        sample["rows"],
        json!([["9007199254740993", "NaN", "\\x00ff", { "a": 1 }, true, null, "1.50"]])
    );
    let error = session
        .fail("sample_postgres_table", json!({ "table": "no_such" }))
        .await;
    assert_eq!(error["code"], "failed", "{error}");
    assert!(text(&error, "message").contains("no_such"), "{error}");

    let other = session.succeed("create_migrated_instance", json!({})).await;
    let error = session.fail("describe_postgres_schema", json!({})).await;
    assert_eq!(text(&error, "message"), "there are 2 instances");
    let other = text(&other, "id");
    assert!(text(&error, "advice").contains(other), "{error}");
    for id in [id, other] {
        session.succeed("drop_postgres_instance", json!({ "id": id })).await;
    }
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn a_migration_that_fails_is_named_and_nothing_is_left_of_the_instance() {
    let settings = "settings.migrations = [{ name = 'one', sql = 'SELECT 1' }, { name = 'two', sql = 'SELEC 2' }]";
    let lines = format!("grants = ['create', 'sql']\n{settings}");
    let environment = with_bundles(&TestEnvironment::on(Local), &[(migrated_instance(), &lines)]);
    let mut session = Session::initialized(&environment, &[]).await;
    let error = session.fail("create_migrated_instance", json!({})).await;
    assert!(
        text(&error, "message").starts_with("the migration two fails: "),
        "{error}"
    );
    // On a busy machine it is removed after the answer.
    let begun = Instant::now();
    loop {
        let listed = session.succeed("list_postgres_instances", json!({})).await;
        if listed["instances"] == json!([]) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{listed}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn a_bundle_in_another_language_has_no_more_than_its_grants() {
    let bundles = [(migrated_instance(), ""), (schema_report(), "grants = ['sql']")];
    let environment = with_bundles(&TestEnvironment::without_engine(), &bundles);
    let mut session = Session::initialized(&environment, &[]).await;
    for (tool, grant) in [
        ("create_migrated_instance", "create"),
        ("describe_postgres_schema", "read"),
    ] {
        let error = session.fail(tool, json!({})).await;
        assert_eq!(error["code"], "denied", "{error}");
        assert!(
            text(&error, "message").ends_with(&format!("has no grant {grant:?}")),
            "{error}"
        );
    }
    assert!(session.end().await.status.success());
}

#[rstest]
#[case::python(
    migrated_instance(),
    "settings = { migrations = [{ name = 'a b', sql = '' }, { name = 'c' }], more = 1 }",
    &["more is not a setting", "migrations[0].name must have", "migrations[0].sql must be SQL", "migrations[1] must have"],
)]
#[case::javascript(
    schema_report(),
    "settings = { rows = 0, schema = '', more = 1 }",
    &["more is not a setting", "rows must be a whole number", "schema must be"],
)]
#[test]
fn settings_that_do_not_fit_are_refused_with_every_problem(
    #[case] component: &Path,
    #[case] lines: &str,
    #[case] told: &[&str],
) {
    let environment = with_bundles(&TestEnvironment::without_engine(), &[(component, lines)]);
    let doctor = environment.command(["doctor"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("guest-0 refuses its settings: "), "{said}");
    for problem in told {
        assert!(said.contains(problem), "{problem} in {said}");
    }
}

/// A configuration with the policy in Python, a maintenance window that begins so many hours from now (before now, if that
/// is negative) and ends two hours later, and a bundle that creates.
fn with_window(environment: &TestEnvironment, hours: i64) -> TestEnvironment {
    let after = |hours: i64| {
        let by = Duration::from_secs(3600 * hours.unsigned_abs());
        let now = SystemTime::now();
        humantime::format_rfc3339_seconds(if hours < 0 { now - by } else { now + by })
    };
    let (from, until) = (after(hours), after(hours + 2));
    let config = format!(
        "[policy]\ncomponent = '{}'\nmay_change = ['ttl_seconds']\n\
         settings.windows = [{{ from = '{from}', until = '{until}', reason = 'the disks are replaced' }}]\n\
         [[bundle]]\nname = 'migrated'\ncomponent = '{}'\ngrants = ['create', 'sql']\n",
        maintenance_windows().display(),
        migrated_instance().display()
    );
    with_config(environment, &config)
}

#[tokio::test]
async fn a_policy_in_python_denies_clients_the_command_line_and_bundles_alike() {
    let environment = with_window(&TestEnvironment::on(Local), -1);
    let told = "no instances are made: the disks are replaced";

    let denied = environment.run(&["postgres", "create"]);
    let said = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert_eq!(denied.status.code(), Some(5), "{said}");
    assert!(said.contains(told), "{said}");

    let mut session = Session::initialized(&environment, &[]).await;
    for tool in ["create_postgres_instance", "create_migrated_instance"] {
        let error = session.fail(tool, json!({})).await;
        assert_eq!(error["code"], "denied", "{error}");
        assert!(text(&error, "message").contains(told), "{error}");
    }
    let listed = session.succeed("list_postgres_instances", json!({})).await;
    assert_eq!(listed["instances"], json!([]));
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn a_policy_in_python_decides_how_long_an_instance_lives_and_what_its_uri_is() {
    let environment = with_window(&TestEnvironment::on(Local), 1);
    // To the second, and counted from when the instance is there.
    let ends_by_the_window = |instance: &Value| {
        let window = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_hours(1)).to_string();
        assert!(text(instance, "expires_at") <= window.as_str(), "{instance} {window}");
    };
    let mut session = Session::initialized(&environment, &[]).await;
    let asked = json!({ "ttl_seconds": 7200, "database": "a b", "password": "p@ss" });
    let created = session.succeed("create_postgres_instance", asked).await;
    ends_by_the_window(&created);
    let dsn = text(&created, "dsn");
    assert!(dsn.contains(":p%40ss@") && dsn.ends_with("/a%20b"), "{dsn}");
    let row = connect(dsn).await.query_one("SELECT current_database()", &[]).await;
    assert_eq!(row.expect("a row").get::<_, String>(0), "a b");

    let id = text(&created, "id");
    let extended = json!({ "id": id, "ttl_seconds": 7200 });
    let extended = session.succeed("extend_postgres_instance", extended).await;
    ends_by_the_window(&extended);
    session.succeed("drop_postgres_instance", json!({ "id": id })).await;
    assert!(session.end().await.status.success());
}

#[test]
fn settings_that_a_policy_in_python_refuses_stop_the_start_with_every_problem() {
    let config = format!(
        "[policy]\ncomponent = '{}'\nsettings.windows = [{{ from = 'today', until = '2026-12-27T06:00:00Z', reason = '' }}]\n",
        maintenance_windows().display()
    );
    let environment = with_config(&TestEnvironment::on(Local), &config);
    let refused = environment.run(&["postgres", "create"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    for problem in ["windows[0].from must be a time", "windows[0].reason must be text"] {
        assert!(said.contains(problem), "{problem} in {said}");
    }
}
