//! How long instances live: with the session that made them, for a time, or until they are dropped; on each engine.

use std::time::{Duration, Instant};

use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::docker_cli::docker;
use dev_postgres_mcp_tests::local;
use dev_postgres_mcp_tests::processes;
use dev_postgres_mcp_tests::session::Session;
use rstest::rstest;
use serde_json::{Value, json};

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Whether the engine itself still has it.
async fn is_there(environment: &TestEnvironment, engine: TestEngine, id: &str) -> bool {
    match engine {
        Docker => {
            let filter = format!("name=mcp-postgres-{id}");
            !docker(&["ps", "--all", "--quiet", "--filter", &filter])
                .await
                .is_empty()
        }
        Local => environment.state_dir().join("instances").join(id).exists(),
    }
}

async fn until_gone(environment: &TestEnvironment, engine: TestEngine, id: &str) {
    let begun = Instant::now();
    while is_there(environment, engine, id).await {
        assert!(begun.elapsed() < PATIENCE, "{id} is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn id_of(instance: &Value) -> String {
    instance["id"].as_str().expect("an id").to_owned()
}

fn entry(environment: &TestEnvironment, id: &str) -> Option<Value> {
    let list = environment.json(&["postgres", "list"]);
    let instances = list["instances"].as_array().expect("instances");
    instances.iter().find(|instance| instance["id"] == id).cloned()
}

#[rstest]
#[tokio::test]
async fn an_instance_goes_with_the_session_that_made_it_and_one_with_a_time_to_live_stays(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let environment = TestEnvironment::on(engine);
    let mut session = Session::initialized(&environment, &[]).await;
    let pid = session.pid().expect("it runs");
    let of_session = session.succeed("create_postgres_instance", json!({})).await;
    let with_ttl = session
        .succeed("create_postgres_instance", json!({ "ttl_seconds": 3600 }))
        .await;
    assert_eq!(
        (&of_session["lifetime"], of_session.get("expires_at")),
        (&json!("session"), None)
    );
    assert_eq!(with_ttl["lifetime"], "until");
    let listed = entry(&environment, &id_of(&of_session)).expect("it is there");
    assert_eq!(listed["owner"]["process_id"], pid, "{listed}");
    let started_at = listed["owner"]["started_at"].as_str().expect("a time");
    assert!(started_at <= listed["created_at"].as_str().expect("a time"), "{listed}");
    assert_eq!(
        (&listed["is_orphan"], &listed["lifetime"]),
        (&json!(false), &json!("session"))
    );
    assert!(listed["age_seconds"].is_u64(), "{listed}");
    assert_eq!(listed.get("left_seconds"), None, "{listed}");
    let listed = entry(&environment, &id_of(&with_ttl)).expect("it is there");
    assert_eq!(listed["expires_at"], with_ttl["expires_at"]);
    let left = listed["left_seconds"].as_u64().expect("it has an end");
    assert!((3500..=3600).contains(&left), "{listed}");

    assert!(session.end().await.status.success());
    assert!(!is_there(&environment, engine, &id_of(&of_session)).await);
    assert!(is_there(&environment, engine, &id_of(&with_ttl)).await);
    environment.json(&["postgres", "drop", &id_of(&with_ttl)]);
    assert_eq!(local::leftovers(&environment), Vec::<String>::new());
}

#[rstest]
#[tokio::test]
async fn what_a_killed_server_had_goes_with_the_next_command_and_nothing_of_a_living_one_does(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let environment = TestEnvironment::on(engine);
    let mut killed = Session::initialized(&environment, &[]).await;
    let mut living = Session::initialized(&environment, &[]).await;
    let orphan = id_of(&killed.succeed("create_postgres_instance", json!({})).await);
    let kept = id_of(&living.succeed("create_postgres_instance", json!({})).await);
    let pid = killed.pid().expect("it runs");
    processes::kill(pid);
    killed.remains().await;
    assert!(
        is_there(&environment, engine, &orphan).await,
        "nobody was there to remove it"
    );

    for arguments in [&["postgres", "prune", "--dry-run"][..], &["postgres", "prune"]] {
        assert!(is_there(&environment, engine, &orphan).await, "a dry run only says");
        let pruned = environment.json(arguments);
        let mut removed = pruned["removed"].as_array().expect("a list").iter();
        let of_ours = removed.find(|removed| removed["name"] == orphan.as_str());
        assert_eq!(
            of_ours.expect("it is named")["reason"],
            "the process that it belongs to has ended"
        );
    }
    assert!(!is_there(&environment, engine, &orphan).await);
    assert!(is_there(&environment, engine, &kept).await);
    let health = living.succeed("health_check_postgres", json!({ "id": kept })).await;
    assert_eq!(health["status"], "healthy");
    assert!(living.end().await.status.success());
    assert!(!is_there(&environment, engine, &kept).await);
}

#[rstest]
#[tokio::test]
async fn a_time_to_live_ends_an_instance_while_any_server_runs_and_it_counts_as_gone_at_once(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let environment = TestEnvironment::on(engine);
    let created = environment.json(&["postgres", "create", "--ttl", "3s"]);
    let id = id_of(&created);
    let mut session = Session::initialized(&environment, &["--log-level", "info"]).await;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let listed = session.succeed("list_postgres_instances", json!({})).await;
        let mut instances = listed["instances"].as_array().expect("instances").iter();
        if !instances.any(|instance| instance["id"] == id.as_str()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let error = session.fail("get_postgres_instance", json!({ "id": id })).await;
    assert_eq!(error["code"], "not_found");
    until_gone(&environment, engine, &id).await;
    session.until_logged("its time to live has ended").await;
    session.end().await;
}

/// Whether the log says in one line that this instance was removed, and why.
fn says_that_it_was_removed(log: &[u8], id: &str, reason: &str) -> bool {
    let log = String::from_utf8_lossy(log);
    log.lines()
        .any(|line| line.contains("removed") && line.contains(id) && line.contains(reason))
}

#[rstest]
#[tokio::test]
async fn what_a_command_removes_because_its_process_has_ended_is_in_its_log(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let environment = TestEnvironment::on(engine);
    let mut killed = Session::initialized(&environment, &[]).await;
    let orphan = id_of(&killed.succeed("create_postgres_instance", json!({})).await);
    processes::kill(killed.pid().expect("it runs"));
    killed.remains().await;
    // Its removal goes on in the background, and the command waits for that.
    let listed = environment.run(&["postgres", "list", "--log-level", "info"]);
    assert!(listed.status.success(), "{listed:?}");
    // Killed before it had noted that the client knows of it, it has left no instance, and the words for that are others.
    assert!(
        says_that_it_was_removed(&listed.stderr, &orphan, "has ended"),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    assert!(!is_there(&environment, engine, &orphan).await);
}

#[tokio::test]
async fn what_a_command_removes_because_its_time_has_passed_is_in_its_log() {
    // On a Docker that all tests share, another test's server may be faster.
    let environment = TestEnvironment::on(Local);
    let id = id_of(&environment.json(&["postgres", "create", "--ttl", "1s"]));
    let begun = Instant::now();
    let log = loop {
        let listed = environment.run(&["postgres", "list", "--log-level", "info"]);
        assert!(listed.status.success(), "{listed:?}");
        if !is_there(&environment, Local, &id).await {
            break listed.stderr;
        }
        assert!(begun.elapsed() < PATIENCE, "{id} is still there");
    };
    assert!(
        says_that_it_was_removed(&log, &id, "its time to live has ended"),
        "{}",
        String::from_utf8_lossy(&log)
    );
}

#[tokio::test]
async fn what_is_being_dropped_is_never_taken_for_what_a_killed_process_has_left() {
    let environment = TestEnvironment::on(Local);
    let mut session = Session::initialized(&environment, &["--log-level", "info"]).await;
    for _ in 0..5 {
        let created = session.succeed("create_postgres_instance", json!({})).await;
        let drop = json!({ "name": "drop_postgres_instance", "arguments": { "id": id_of(&created) } });
        let list = json!({ "name": "list_postgres_instances", "arguments": {} });
        let mut asked = vec![session.ask("tools/call", drop).await];
        for _ in 0..10 {
            asked.push(session.ask("tools/call", list.clone()).await);
        }
        for id in asked {
            let answer = session.answer(id).await;
            assert_eq!(answer["result"]["isError"], false, "{answer}");
        }
    }
    let log = session.end().await.log;
    assert!(!log.contains("killed"), "{log}");
    // Nor is it dropped once more by whoever was about to keep it.
    assert!(!log.contains("dropped again"), "{log}");
}

#[rstest]
#[tokio::test]
async fn an_extended_instance_outlives_its_session_and_the_time_that_it_had(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let environment = TestEnvironment::on(engine);
    let mut session = Session::initialized(&environment, &[]).await;
    let of_session = id_of(&session.succeed("create_postgres_instance", json!({})).await);
    let created = session
        .succeed("create_postgres_instance", json!({ "ttl_seconds": 4 }))
        .await;
    let short = id_of(&created);
    let extended = session
        .succeed(
            "extend_postgres_instance",
            json!({ "id": of_session, "ttl_seconds": 600 }),
        )
        .await;
    assert_eq!(extended["lifetime"], "until");
    assert!(extended.get("password").is_none(), "{extended}");
    environment.json(&["postgres", "extend", &short, "--ttl", "10m"]);
    let listed = entry(&environment, &short).expect("it is there");
    assert!(
        listed["expires_at"].as_str() > created["expires_at"].as_str(),
        "{listed}"
    );
    let error = session
        .fail(
            "extend_postgres_instance",
            json!({ "id": short, "ttl_seconds": 604_801 }),
        )
        .await;
    assert_eq!(
        (&error["code"], &error["fields"][0]["field"]),
        (&json!("invalid_arguments"), &json!("ttl_seconds"))
    );
    assert!(session.end().await.status.success());
    tokio::time::sleep(Duration::from_secs(5)).await;
    environment.json(&["postgres", "prune"]);
    for id in [&of_session, &short] {
        assert!(is_there(&environment, engine, id).await, "{id}");
        environment.json(&["postgres", "drop", id]);
    }
}

#[rstest]
#[tokio::test]
async fn what_the_command_line_makes_and_what_is_configured_to_stay_has_no_end(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let environment = TestEnvironment::on(engine);
    let by_hand = environment.json(&["postgres", "create"]);
    assert_eq!(by_hand["lifetime"], "unlimited");
    let mut session = Session::initialized(&environment, &["--instance-on-exit", "keep"]).await;
    let kept = session.succeed("create_postgres_instance", json!({})).await;
    assert_eq!(kept["lifetime"], "unlimited");
    assert!(session.end().await.status.success());
    environment.json(&["postgres", "prune"]);
    for instance in [&by_hand, &kept] {
        let id = id_of(instance);
        assert_eq!(entry(&environment, &id).expect("it is there")["lifetime"], "unlimited");
        environment.json(&["postgres", "drop", &id]);
    }
}
