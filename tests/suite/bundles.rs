//! Other people's tool bundles: what they may do, and what they get to see.

use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::puppet::{act, done, with_puppets};
use dev_postgres_mcp_tests::session::Session;
use rstest::rstest;
use serde_json::{Value, json};

const NOBODY: &str = "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21";

/// What needs each grant.
fn deeds() -> [(&'static str, Value); 6] {
    [
        ("create", json!({ "create": {} })),
        ("read", json!("list")),
        ("read", json!({ "get": { "id": NOBODY } })),
        ("drop", json!({ "drop": { "id": NOBODY } })),
        ("health", json!({ "health": { "id": NOBODY } })),
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
        "puppet answered nonsense: the result does not fit the tool's output schema at \"/a\": type"
    );
    assert_eq!(error["code"], "internal");
}
