//! Which engine makes instances, which version they have, and what is said where there is none.

use dev_postgres_mcp_tests::binary::TestEngine::{Docker, Local};
use dev_postgres_mcp_tests::binary::{NOWHERE, TestEnvironment, limits_hold};
use dev_postgres_mcp_tests::guests::module;
use dev_postgres_mcp_tests::local;
use dev_postgres_mcp_tests::session::Session;
use serde_json::{Value, json};

const AN_ID: &str = "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21";
/// A major version that no machine has.
const ABSENT: &str = "99";

#[test]
fn what_may_be_in_a_docker_that_does_not_answer_is_not_said_to_be_gone() {
    let environment = TestEnvironment::on(Local);
    let got = environment.run(&["-o", "json", "postgres", "get", AN_ID]);
    assert_eq!(got.status.code(), Some(4), "{got:?}");
    let error = parsed(&got.stderr)["error"].clone();
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains("where else it may be can't be looked"), "{error}");
    assert!(message.contains(NOWHERE), "{error}");
}

#[test]
fn a_list_without_those_in_a_docker_that_does_not_answer_says_so_to_people() {
    let environment = TestEnvironment::on(Local);
    let listed = environment.run(&["postgres", "list"]);
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    let told = String::from_utf8_lossy(&listed.stderr);
    let warning = told.lines().find(|line| line.starts_with("warning: "));
    let warning = warning.unwrap_or_else(|| panic!("not a word on Docker: {told}"));
    assert!(warning.contains("not listed") && warning.contains(NOWHERE), "{warning}");
    assert!(environment.run(&["-o", "json", "postgres", "list"]).stderr.is_empty());
}

#[test]
fn where_no_docker_ever_was_a_list_does_not_speak_of_it() {
    let nobody_names_it = TestEnvironment::on(Local).with("DOCKER_HOST", "");
    // Where Docker and Podman listen if they are there.
    let hide = "mount -t tmpfs none /run || exit 99; exec \"$@\"";
    let environment = nobody_names_it.launched_by(&["unshare", "--mount", "sh", "-c", hide, "sh"]);
    let can_hide = environment.command(["version"]).output();
    if !can_hide.is_ok_and(|output| output.status.success()) {
        println!("skipped: only root on Linux can hide this machine's Docker");
        return;
    }
    let listed = environment.run(&["postgres", "list"]);
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    let told = String::from_utf8_lossy(&listed.stderr);
    assert!(!told.contains("warning") && !told.contains("Docker"), "{told}");
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

/// What `doctor` says of a subject.
fn check<'a>(examination: &'a Value, subject: &str) -> &'a Value {
    let mut checks = examination["checks"].as_array().expect("checks").iter();
    let found = checks.find(|check| check["subject"] == subject);
    found.unwrap_or_else(|| panic!("nothing of {subject}: {examination}"))
}

#[test]
fn where_docker_does_not_answer_this_machines_own_postgresql_will_do() {
    let environment = TestEnvironment::on(Local);
    let list = environment.run(&["-o", "json", "postgres", "list"]);
    assert_eq!(list.status.code(), Some(0), "{list:?}");
    assert_eq!(parsed(&list.stdout), json!({ "count": 0, "instances": [] }));

    let doctor = environment.run(&["-o", "json", "doctor"]);
    assert_eq!(doctor.status.code(), Some(0), "{doctor:?}");
    let examination = parsed(&doctor.stdout);
    assert_eq!(examination["well"], true, "{examination}");
    let engine = check(&examination, "engine");
    assert_eq!(
        (&engine["verdict"], &engine["detail"]),
        (&"good".into(), &"auto: local, because Docker can't be used".into())
    );
    let docker = check(&examination, "Docker");
    assert_eq!(docker["verdict"], "warning");
    assert!(
        docker["detail"].as_str().is_some_and(|detail| detail.contains(NOWHERE)),
        "{docker}"
    );
    for subject in ["PostgreSQL", "state directory"] {
        assert_eq!(check(&examination, subject)["verdict"], "good", "{examination}");
    }
    let limits = check(&examination, "limits");
    assert!(
        limits["verdict"] == "good" || limits["verdict"] == "warning",
        "{limits}"
    );
}

#[test]
fn docker_is_taken_where_it_answers() {
    let doctor = TestEnvironment::new().run(&["-o", "json", "doctor"]);
    let examination = parsed(&doctor.stdout);
    assert_eq!(check(&examination, "engine")["detail"], "auto: docker");
    for subject in ["Docker", "state directory"] {
        assert_eq!(check(&examination, subject)["verdict"], "good", "{examination}");
    }
}

/// An environment whose state directory others may write to: nobody trusts what is in it.
#[cfg(unix)]
fn with_an_open_state_directory(environment: TestEnvironment) -> TestEnvironment {
    use std::os::unix::fs::PermissionsExt as _;
    let state = environment.state_dir();
    std::fs::create_dir(&state).expect("a folder");
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).expect("its mode");
    environment
}

#[cfg(unix)]
#[test]
fn a_local_engine_that_cannot_be_used_does_not_keep_docker_from_being_pruned() {
    let environment = with_an_open_state_directory(TestEnvironment::new());
    let pruned = environment.run(&["-o", "json", "postgres", "prune", "--dry-run"]);
    assert_eq!(pruned.status.code(), Some(0), "{pruned:?}");
    assert_eq!(parsed(&pruned.stdout)["dry_run"], true);
    let told = String::from_utf8_lossy(&pruned.stderr);
    let warning = told.lines().find(|line| line.contains("stays for now"));
    let warning = warning.unwrap_or_else(|| panic!("not a word on the local engine: {told}"));
    assert!(warning.contains("others may write to it"), "{warning}");
}

#[cfg(unix)]
#[tokio::test]
async fn where_nobody_would_notice_that_a_server_was_killed_a_create_and_doctor_say_so() {
    let environment = with_an_open_state_directory(TestEnvironment::on(Docker));
    let mut session = Session::initialized(&environment, &[]).await;
    let of_session = session.succeed("create_postgres_instance", json!({})).await;
    let warnings = of_session["warnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 1, "{of_session}");
    let warning = warnings[0].as_str().expect("text");
    assert!(
        warning.contains("others may write to it") && warning.contains("local.state_dir"),
        "{warning}"
    );
    let timed = session
        .succeed("create_postgres_instance", json!({ "ttl_seconds": 600 }))
        .await;
    assert_eq!(timed.get("warnings"), None, "it has an end, whoever notices");
    session
        .succeed("drop_postgres_instance", json!({ "id": timed["id"] }))
        .await;
    assert!(session.end().await.status.success());

    let doctor = environment.run(&["-o", "json", "doctor"]);
    assert_eq!(doctor.status.code(), Some(0), "{doctor:?}");
    let examination = parsed(&doctor.stdout);
    let state = check(&examination, "state directory");
    assert_eq!(state["verdict"], "warning", "{state}");
    let advice = state["advice"].as_str().expect("advice");
    assert!(advice.contains("local.state_dir"), "{state}");
}

#[cfg(unix)]
#[tokio::test]
async fn instances_of_both_engines_are_seen_whatever_makes_the_next_one() {
    let places = tempfile::tempdir().expect("a directory");
    let socket = places.path().join("docker.sock");
    let environment = TestEnvironment::new().with("DOCKER_HOST", format!("unix://{}", socket.display()));
    let mut session = Session::initialized(&environment, &[]).await;
    let on_this_machine = session.succeed("create_postgres_instance", json!({})).await;
    Local.assert_made(&on_this_machine);
    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).expect("a link to the real socket");
    let in_a_container = session.succeed("create_postgres_instance", json!({})).await;
    Docker.assert_made(&in_a_container);

    let list = session.succeed("list_postgres_instances", json!({})).await;
    let listed: Vec<&Value> = list["instances"].as_array().expect("instances").iter().collect();
    for instance in [&on_this_machine, &in_a_container] {
        assert!(listed.iter().any(|listed| listed["id"] == instance["id"]), "{list}");
        let id = json!({ "id": instance["id"] });
        let got = session.succeed("get_postgres_instance", id.clone()).await;
        assert_eq!(got["dsn"], instance["dsn"]);
        let health = session.succeed("health_check_postgres", id.clone()).await;
        assert_eq!(health["status"], "healthy", "{health}");
        session.succeed("drop_postgres_instance", id).await;
    }
    assert!(session.end().await.status.success());
    assert_eq!(local::leftovers(&environment), Vec::<String>::new());
}

/// An environment without Docker and PostgreSQL: its commands see an empty folder where Debian has its programs. `None`
/// where that can't be had, which is said.
fn without_any_postgresql() -> Option<TestEnvironment> {
    let hide = "for folder in /usr/lib/postgresql /usr/local/bin; do \
                    [ ! -d $folder ] || mount -t tmpfs none $folder || exit 99; \
                done; PATH=/nowhere; export PATH; exec \"$@\"";
    let environment = TestEnvironment::on(Local).with("DEV_POSTGRES_MCP_LOCAL_BIN_DIR", "");
    let environment = environment.launched_by(&["unshare", "--mount", "sh", "-c", hide, "sh"]);
    let can_hide = environment.command(["version"]).output();
    if can_hide.is_ok_and(|output| output.status.success()) {
        return Some(environment);
    }
    println!("skipped: only root on Linux can hide this machine's PostgreSQL");
    None
}

fn assert_says_the_shortest_way_to_an_engine(error: &Value) {
    assert_eq!(error["code"], "unavailable", "{error}");
    let message = error["message"].as_str().expect("a message");
    assert!(
        message.contains("neither Docker nor PostgreSQL") && message.contains(NOWHERE),
        "{message}"
    );
    let advice = error["advice"].as_str().expect("advice");
    assert!(
        advice.contains("apt-get install postgresql") && advice.ends_with("or start Docker."),
        "{advice}"
    );
}

#[tokio::test]
async fn with_neither_engine_every_tool_says_the_shortest_way_to_have_one() {
    let Some(environment) = without_any_postgresql() else {
        return;
    };
    let mut session = Session::initialized(&environment, &[]).await;
    for (tool, arguments) in [
        ("create_postgres_instance", json!({})),
        ("create_postgres_instance", json!({ "version": "17" })),
        ("list_postgres_instances", json!({})),
        ("get_postgres_instance", json!({ "id": AN_ID })),
        ("health_check_postgres", json!({ "id": AN_ID })),
        ("drop_postgres_instance", json!({ "id": AN_ID })),
    ] {
        assert_says_the_shortest_way_to_an_engine(&session.fail(tool, arguments).await);
    }
}

#[test]
fn with_neither_engine_every_command_says_the_shortest_way_to_have_one() {
    let Some(environment) = without_any_postgresql() else {
        return;
    };
    for command in [
        &["create"][..],
        &["list"],
        &["get", AN_ID],
        &["health", AN_ID],
        &["drop", AN_ID],
        &["drop", "--all", "--yes"],
    ] {
        let output = environment.run(&[&["-o", "json", "postgres"], command].concat());
        assert_eq!(output.status.code(), Some(6), "{command:?}: {output:?}");
        assert_says_the_shortest_way_to_an_engine(&parsed(&output.stderr)["error"]);
    }
    let doctor = environment.run(&["-o", "json", "doctor"]);
    assert_eq!(doctor.status.code(), Some(8), "{doctor:?}");
    let examination = parsed(&doctor.stdout);
    for subject in ["engine", "Docker", "PostgreSQL"] {
        assert_eq!(check(&examination, subject)["verdict"], "bad", "{examination}");
    }
}

#[tokio::test]
async fn a_version_that_is_not_installed_is_refused_with_those_that_are() {
    let environment = TestEnvironment::on(Local);
    let mut session = Session::initialized(&environment, &[]).await;
    let told_agent = session
        .fail("create_postgres_instance", json!({ "version": ABSENT }))
        .await;
    let create = environment.run(&["-o", "json", "postgres", "create", "--version", ABSENT]);
    assert_eq!(create.status.code(), Some(6));
    for error in [&told_agent, &parsed(&create.stderr)["error"]] {
        assert_eq!(error["code"], "unavailable", "{error}");
        let message = error["message"].as_str().expect("a message");
        for (version, folder) in local::programs() {
            let told = format!("{version} in {}", folder.display());
            assert!(message.contains(&told), "{told:?} is not told: {message}");
        }
    }
}

#[tokio::test]
async fn where_the_default_version_is_not_installed_the_newest_is_taken_with_a_warning() {
    let environment = TestEnvironment::on(Local).with("DEV_POSTGRES_MCP_INSTANCE_VERSION", ABSENT);
    let (newest, _) = local::programs().remove(0);
    let (newest, _) = newest.split_once('.').expect("a release");
    let warning =
        format!("PostgreSQL {ABSENT}, the default, is not installed here: this is {newest}, the newest that is.");

    let mut session = Session::initialized(&environment, &[]).await;
    let told_agent = session.succeed("create_postgres_instance", json!({})).await;
    let told_program = environment.run(&["-o", "json", "postgres", "create"]);
    assert_eq!(String::from_utf8_lossy(&told_program.stderr), "");
    for created in [told_agent, parsed(&told_program.stdout)] {
        assert_eq!(created["version"], newest);
        let warnings = created["warnings"].as_array().expect("warnings");
        assert!(warnings.contains(&Value::from(warning.as_str())), "{warnings:?}");
        let others = usize::from(!limits_hold());
        assert_eq!(
            warnings.len(),
            1 + others,
            "that no limits hold is the other one: {warnings:?}"
        );
    }
    let told_person = environment.run(&["postgres", "create"]);
    let told = String::from_utf8_lossy(&told_person.stderr);
    assert!(told.lines().any(|line| line == format!("warning: {warning}")), "{told}");
    assert_eq!(told.contains("warning: No limits can be set"), !limits_hold(), "{told}");
    assert!(!String::from_utf8_lossy(&told_person.stdout).contains("warning"));

    // Whoever asks for the version gets it or nothing.
    session
        .fail("create_postgres_instance", json!({ "version": ABSENT }))
        .await;
    let dropped = environment.run(&["postgres", "drop", "--all", "--yes"]);
    assert_eq!(dropped.status.code(), Some(0), "{dropped:?}");
    assert_eq!(local::leftovers(&environment), Vec::<String>::new());
}

#[test]
fn a_version_that_the_policy_has_chosen_is_not_told_as_the_only_one_that_is_installed() {
    let environment = TestEnvironment::on(Local);
    let file = environment.home().join("oracle.wasm");
    std::fs::write(&file, module("tests/guests/oracle")).expect("a file");
    let plan = json!({
        "repository": "postgres", "version": "15", "database": "app", "username": "me", "password": "secret",
        "memory_mib": 512, "cpu_millis": 1000, "dsn": "postgresql://somewhere",
    });
    let environment = environment
        .with("DEV_POSTGRES_MCP_POLICY_COMPONENT", file)
        .with("DEV_POSTGRES_MCP_POLICY_SETTINGS", plan.to_string());
    let created = environment.json(&["postgres", "create"]);
    assert_eq!(
        created["version"].as_str().and_then(|version| version.get(..2)),
        Some("15"),
        "{created}"
    );
    assert!(!created.to_string().contains("not installed"), "{created}");
    environment.json(&["postgres", "drop", created["id"].as_str().expect("an id")]);
}
