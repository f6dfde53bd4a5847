//! Real outages of a real daemon, which is the test's own: it is stopped, killed, frozen, and its disk is full. Every call
//! ends with the cause, and afterwards all works without a restart of the server.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use dev_postgres_mcp_tests::binary::TestEngine::{Docker, Local};
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::outage::{DEADLINE, ask, assert_works, create, drop_created, failure, query, result};
use dev_postgres_mcp_tests::private_daemon::{Containers, PrivateDaemon};
use dev_postgres_mcp_tests::seeded;
use dev_postgres_mcp_tests::session::Session;
use dev_postgres_mcp_tests::soak;
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

/// How long what is done in the background may take once Docker is back.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause between two looks at what nobody tells.
const PAUSE: Duration = Duration::from_millis(200);
/// At which moment of a create an outage comes, at the latest.
const CREATE_TAKES_MS: u64 = 900;
/// The same of a drop.
const DROP_TAKES_MS: u64 = 150;

fn environment(daemon: &PrivateDaemon) -> TestEnvironment {
    TestEnvironment::on(Docker).with("DOCKER_HOST", daemon.host())
}

/// Asks it in each way and gets the same answer at once: Docker isn't there.
async fn assert_unavailable(session: &mut Session, id: &Value) {
    for (tool, arguments) in [
        ("list_postgres_instances", json!({})),
        ("create_postgres_instance", json!({})),
        ("get_postgres_instance", json!({ "id": id })),
        ("health_check_postgres", json!({ "id": id })),
        ("extend_postgres_instance", json!({ "id": id })),
        ("drop_postgres_instance", json!({ "id": id })),
    ] {
        let begun = Instant::now();
        let error = session.fail(tool, arguments).await;
        assert_eq!(error["code"], "unavailable", "{tool}: {error}");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{tool} took {:?}",
            begun.elapsed()
        );
    }
}

/// Waits until nothing is left, once what went wrong is undone in the background.
async fn until_nothing_left(daemon: &PrivateDaemon) {
    let begun = Instant::now();
    loop {
        let left = daemon.made().await;
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "left: {left:#?}");
        tokio::time::sleep(PAUSE).await;
    }
}

#[derive(Debug, Clone, Copy)]
enum Outage {
    Stop,
    Kill,
}

impl Outage {
    async fn come(self, daemon: &mut PrivateDaemon) {
        match self {
            Self::Stop => daemon.stop().await,
            Self::Kill => daemon.kill().await,
        }
    }
}

#[expect(clippy::too_many_lines, reason = "one life of one daemon")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_may_stop_restart_be_killed_and_hang_and_everything_works_afterwards() {
    if !PrivateDaemon::can_be_had() {
        return;
    }
    let (mut rng, rounds) = (seeded::rng(), soak::size(1, 12));
    let mut faults = 0;
    let mut daemon = PrivateDaemon::start().await;
    let environment = environment(&daemon);
    let mut session = Session::initialized(&environment, &["--log-level", "debug"]).await;
    // Another one has a server waiting all the while.
    let pooled = environment.clone().with("DEV_POSTGRES_MCP_POOL_SIZE", "1");
    let mut pooled = Session::initialized(&pooled, &["--log-level", "debug"]).await;

    // It stops, with an instance on it, and comes again.
    let instance = create(&mut session).await;
    create(&mut pooled).await;
    daemon.stop().await;
    faults += 1;
    assert_unavailable(&mut session, &instance["id"]).await;
    daemon.go_on(Containers::End).await;
    let id = json!({ "id": instance["id"] });
    let health = session.succeed("health_check_postgres", id.clone()).await;
    assert_eq!(health["status"], "stopped", "{health}");
    session.succeed("drop_postgres_instance", id).await;
    assert_works(&mut session).await;
    assert_works(&mut pooled).await;

    // It goes and comes again under containers that live on.
    daemon.stop().await;
    daemon.go_on(Containers::LiveOn).await;
    let instance = create(&mut session).await;
    let since = "SELECT pg_postmaster_start_time()::text";
    let started = query(&instance, since).await;
    daemon.kill().await;
    faults += 2;
    assert_unavailable(&mut session, &instance["id"]).await;
    daemon.go_on(Containers::LiveOn).await;
    let id = json!({ "id": instance["id"] });
    let health = session.succeed("health_check_postgres", id.clone()).await;
    assert_eq!(health["status"], "healthy", "{health}");
    assert_eq!(query(&instance, since).await, started, "it is the same server");
    session.succeed("drop_postgres_instance", id).await;
    assert_works(&mut session).await;

    // It goes in the middle of a create and of a drop.
    for _ in 0..rounds {
        for outage in [Outage::Stop, Outage::Kill] {
            let containers = if rng.random_bool(0.5) {
                Containers::End
            } else {
                Containers::LiveOn
            };
            let creating = ask(&mut session, "create_postgres_instance", json!({})).await;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..CREATE_TAKES_MS))).await;
            let (created, ()) = tokio::join!(result(&mut session, creating), outage.come(&mut daemon));
            if created["isError"] == true {
                let (code, message) = failure(&created);
                assert!(
                    ["unavailable", "failed", "timed_out"].contains(&&*code),
                    "{code}: {message}"
                );
            }
            daemon.go_on(containers).await;
            drop_created(&mut session, &created).await;

            let instance = create(&mut session).await;
            let id = json!({ "id": instance["id"] });
            let dropping = ask(&mut session, "drop_postgres_instance", id.clone()).await;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..DROP_TAKES_MS))).await;
            let (dropped, ()) = tokio::join!(result(&mut session, dropping), outage.come(&mut daemon));
            daemon.go_on(containers).await;
            if dropped["isError"] == true {
                let (code, message) = failure(&dropped);
                assert!(
                    ["unavailable", "failed", "timed_out"].contains(&&*code),
                    "{code}: {message}"
                );
                let again = session.call("drop_postgres_instance", id.clone()).await;
                if again["isError"] == true {
                    assert_eq!(failure(&again).0, "not_found", "{again}");
                }
            }
            assert_eq!(session.fail("get_postgres_instance", id).await["code"], "not_found");
            assert_works(&mut session).await;
            faults += 2;
        }
    }

    // It takes every connection and answers nothing, with a create under way.
    let instance = create(&mut session).await;
    let id = json!({ "id": instance["id"] });
    let mut calls = vec![ask(&mut session, "create_postgres_instance", json!({})).await];
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..CREATE_TAKES_MS / 2))).await;
    daemon.freeze();
    faults += 1;
    for (tool, arguments) in [
        ("list_postgres_instances", json!({})),
        ("create_postgres_instance", json!({})),
        ("get_postgres_instance", id.clone()),
        ("health_check_postgres", id.clone()),
        ("extend_postgres_instance", id.clone()),
        ("drop_postgres_instance", id.clone()),
    ] {
        calls.push(ask(&mut session, tool, arguments).await);
    }
    // What only the command line has.
    let commands = [&["stats"][..], &["prune"], &["prune", "--dry-run"]].map(|arguments| {
        let command = environment.command(["--output", "json", "postgres"].iter().chain(arguments));
        let mut command = Command::from(command);
        command.stdin(Stdio::null()).kill_on_drop(true);
        tokio::spawn(async move { timeout(DEADLINE, command.output()).await })
    });
    let begun = Instant::now();
    for (number, call) in calls.into_iter().enumerate() {
        let result = result(&mut session, call).await;
        assert!(
            begun.elapsed() < DEADLINE,
            "all wait at the same time: {:?}",
            begun.elapsed()
        );
        // The first may have been through.
        if number > 0 || result["isError"] == true {
            let (code, message) = failure(&result);
            assert_eq!(code, "timed_out", "{message}");
            assert!(message.contains("within"), "{message}");
        } else {
            let asked = ask(
                &mut session,
                "drop_postgres_instance",
                json!({ "id": result["structuredContent"]["id"] }),
            );
            asked.await;
        }
    }
    for command in commands {
        let ended = command.await.expect("no panic").expect("it ends by its deadline");
        let output = ended.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("timed_out") && said.contains("within"), "{said}");
    }
    daemon.thaw();
    let dropped = session.call("drop_postgres_instance", id.clone()).await;
    assert!(
        dropped["isError"] != true || failure(&dropped).0 == "not_found",
        "{dropped}"
    );
    assert_works(&mut session).await;
    assert_works(&mut pooled).await;

    for session in [session, pooled] {
        let remains = session.end().await;
        assert!(remains.status.success(), "{remains:?}");
        assert!(!remains.log.contains("panicked"), "{}", remains.log);
    }
    until_nothing_left(&daemon).await;
    eprintln!("{faults} outages; nothing left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_on_a_full_disk_says_so_and_leaves_nothing_and_the_next_one_succeeds_when_there_is_room() {
    if !PrivateDaemon::can_be_had() {
        return;
    }
    let daemon = PrivateDaemon::start_with_disk(900).await;
    let environment = environment(&daemon);
    let mut session = Session::initialized(&environment, &["--log-level", "debug"]).await;
    let filling = daemon.data().join("filling");
    // With no template yet, and with one; without any room, and with enough for a container but not for its data.
    for (has_template, room_kib) in [(false, 0), (false, 20 << 10), (true, 0), (true, 2 << 10)] {
        if has_template {
            // One that hasn't seen a template fail.
            session = Session::initialized(&environment, &["--log-level", "debug"]).await;
            assert_works(&mut session).await;
            assert!(
                !daemon
                    .docker(&["images", "--quiet", "dev-postgres-mcp-template"])
                    .await
                    .is_empty()
            );
            until_nothing_left(&daemon).await;
        }
        let fill = format!(
            "free=$(df --output=avail '{0}' | tail -1); head -c $(((free - {room_kib}) * 1024)) /dev/zero >'{1}'",
            daemon.data().display(),
            filling.display()
        );
        let filled = std::process::Command::new("sh").args(["-c", &fill]).status();
        assert!(room_kib == 0 || filled.expect("a shell").success(), "it is filled");
        let result = session.call("create_postgres_instance", json!({})).await;
        let (code, message) = failure(&result);
        eprintln!("{has_template} {room_kib}: {code}: {message}");
        assert_eq!(code, "failed", "{message}");
        // Docker's words, or PostgreSQL's, which sometimes has only the second.
        let said = ["no space left on device", "check free disk space"];
        let message = message.to_lowercase();
        assert!(said.iter().any(|words| message.contains(words)), "{message}");
        until_nothing_left(&daemon).await;
        fs::remove_file(&filling).expect("it was there");
    }
    assert_works(&mut session).await;
    let remains = session.end().await;
    assert!(remains.status.success(), "{remains:?}");
    until_nothing_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_in_docker_is_removed_when_it_answers_again_although_there_is_a_local_engine() {
    if !PrivateDaemon::can_be_had() {
        return;
    }
    let daemon = PrivateDaemon::start().await;
    let environment = TestEnvironment::on(Local).with("DOCKER_HOST", daemon.host());
    let mut session = Session::initialized(&environment, &["--log-level", "debug"]).await;
    let instance = create(&mut session).await;
    Docker.assert_made(&instance);
    let containers = async || {
        let made = daemon.made().await;
        made.into_iter().filter(|item| item.starts_with("container")).count()
    };
    loop {
        let creating = ask(&mut session, "create_postgres_instance", json!({})).await;
        while containers().await < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        daemon.freeze();
        let cancel = json!({ "requestId": creating });
        session
            .send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel }))
            .await;
        let Ok(created) = timeout(Duration::from_millis(200), result(&mut session, creating)).await else {
            break;
        };
        // It was through before.
        daemon.thaw();
        drop_created(&mut session, &created).await;
    }
    // So long that it has turned out not to answer.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let listed = session.succeed("list_postgres_instances", json!({})).await;
    assert_eq!(listed["count"], 0, "Docker doesn't answer: {listed}");
    daemon.thaw();
    let begun = Instant::now();
    while daemon
        .made()
        .await
        .iter()
        .filter(|item| item.starts_with("container"))
        .count()
        > 1
    {
        assert!(begun.elapsed() < PATIENCE, "left: {:#?}", daemon.made().await);
        tokio::time::sleep(PAUSE).await;
    }
    // What the session made goes at its end.
    assert!(session.end().await.status.success());
    until_nothing_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_command_left_is_looked_for_until_docker_answers_and_not_by_the_next_command_alone() {
    if !PrivateDaemon::can_be_had() {
        return;
    }
    let mut daemon = PrivateDaemon::start().await;
    let environment = environment(&daemon);
    let killed = environment
        .clone()
        .with("KILL_AT_FAILPOINT", "after creating the network")
        .run(&["postgres", "create"]);
    assert_eq!(killed.status.code(), None, "it was killed");
    let networks = async |daemon: &PrivateDaemon| {
        let made = daemon.made().await;
        made.into_iter().filter(|item| item.starts_with("network")).count()
    };
    assert_eq!(networks(&daemon).await, 1, "it had made the network");

    daemon.stop().await;
    let unavailable = environment.run(&["postgres", "list"]);
    assert_eq!(unavailable.status.code(), Some(6), "{unavailable:?}");
    daemon.go_on(Containers::End).await;
    assert!(environment.run(&["postgres", "list"]).status.success());
    until_nothing_left(&daemon).await;
}
