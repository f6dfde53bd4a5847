//! A real daemon that is slow, answers 500 or cuts its answers, before or after it has done what it was asked: every call
//! ends by its deadline with the cause, nobody is told of what isn't there, nothing is left, and afterwards all works
//! without a restart of the server.
//!
//! Other tests use the same daemon at the same time: each test here looks only at the containers of its own processes.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use dev_postgres_mcp_tests::binary::TestEngine::Docker;
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::docker_cli::containers;
use dev_postgres_mcp_tests::docker_proxy::{DockerProxy, Fault};
use dev_postgres_mcp_tests::outage::{DEADLINE, ask, assert_works, create, drop_created, failure, query, result};
use dev_postgres_mcp_tests::routes::ANY;
use dev_postgres_mcp_tests::seeded;
use dev_postgres_mcp_tests::session::Session;
use dev_postgres_mcp_tests::soak;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

const CREATE: &str = "POST /containers/create";
const CREATE_EXEC: &str = "POST /containers/*/exec";
const INSPECT: &str = "GET /containers/*/json";
const INSPECT_IMAGE: &str = "GET /images/*/json";
const LEASE: &str = "HEAD /containers/*/archive";
const LIST: &str = "GET /containers/json";
const LIST_NETWORKS: &str = "GET /networks";
const REMOVE: &str = "DELETE /containers/*";
const START: &str = "POST /containers/*/start";
const START_EXEC: &str = "POST /exec/*/start";
const STATS: &str = "GET /containers/*/stats";
const WAIT: &str = "POST /containers/*/wait";
const WRITE_LEASE: &str = "PUT /containers/*/archive";

/// What creates and drops ask.
const ROUTES: [&str; 9] = [
    CREATE,
    INSPECT,
    INSPECT_IMAGE,
    LEASE,
    LIST,
    LIST_NETWORKS,
    REMOVE,
    START,
    WAIT,
];
/// What is answered by a head alone: there is nothing after it to cut.
const WITHOUT_BODY: [&str; 4] = [LEASE, REMOVE, START, WRITE_LEASE];

/// What Docker says with a status of 500.
const WORDS: &str = "out of cheese";
/// How it is said that an answer was cut.
const CUT: [&str; 4] = [
    "connection closed before message completed",
    "end of file before message length reached",
    "error reading a body from connection",
    "unexpected EOF during chunk size line",
];
const FAULTS: [Fault; 4] = [
    Fault::Status(500, WORDS),
    Fault::DoneThenStatus(500, WORDS),
    Fault::DoneThenCut,
    Fault::DoneThenCutAfter(20),
];

/// How long what is done in the background may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause between two looks at what nobody tells.
const PAUSE: Duration = Duration::from_millis(100);
/// How many instances there are at most at a time.
const INSTANCES_MAX: usize = 3;

/// Those of the faults that a request of this route can meet.
fn faults(route: &str) -> impl Iterator<Item = Fault> {
    let has_body = !WITHOUT_BODY.contains(&route);
    let mut faults = FAULTS.to_vec();
    faults.retain(|fault| has_body || !matches!(fault, Fault::DoneThenCutAfter(_)));
    faults.into_iter()
}

/// The message names what went wrong with a request.
fn assert_names(route: &str, fault: Fault, message: &str) {
    let causes = match fault {
        // The answer to HEAD has no body, and so no words.
        Fault::Status(..) | Fault::DoneThenStatus(..) if route == LEASE => &["HTTP status 500"][..],
        Fault::Status(..) | Fault::DoneThenStatus(..) => &[WORDS],
        _ => &CUT,
    };
    let is_named = causes.iter().any(|cause| message.contains(cause));
    assert!(is_named, "{route} {fault:?}: {message}");
}

/// A session with a proxy between it and Docker.
struct Scene {
    proxy: DockerProxy,
    environment: TestEnvironment,
    session: Session,
}

impl Scene {
    /// One that has made an instance, and what all are made from.
    async fn new() -> Option<Self> {
        let proxy = DockerProxy::start().await?;
        let environment = TestEnvironment::on(Docker).with("DOCKER_HOST", proxy.host());
        let mut session = Session::initialized(&environment, &["--log-level", "debug"]).await;
        assert_works(&mut session).await;
        Some(Self {
            proxy,
            environment,
            session,
        })
    }

    async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let id = ask(&mut self.session, tool, arguments).await;
        result(&mut self.session, id).await
    }

    /// Calls a tool whose requests of this route meet this fault, and which fails for that.
    async fn fail(&mut self, tool: &str, arguments: Value, route: &str, fault: Fault) {
        let met = self.proxy.met();
        self.proxy.always(route, fault);
        let result = self.call(tool, arguments).await;
        self.proxy.lift();
        assert!(self.proxy.met() > met, "{tool} asks {route}");
        let (code, message) = failure(&result);
        assert_eq!(code, "failed", "{tool}, {route}: {message}");
        assert_names(route, fault, &message);
    }

    async fn assert_gone(&mut self, id: &Value) {
        for tool in ["drop_postgres_instance", "get_postgres_instance"] {
            let error = self.session.fail(tool, id.clone()).await;
            assert_eq!(error["code"], "not_found", "{tool}: {error}");
        }
    }

    /// What the command line says.
    async fn run(&self, arguments: &[&str]) -> Output {
        let command = self.environment.command(["--output", "json"].iter().chain(arguments));
        let mut command = Command::from(command);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ended = timeout(DEADLINE, command.output()).await;
        ended.expect("it ends by its deadline").expect("it runs")
    }

    /// Waits until so many requests have met a fault.
    async fn until_met(&self, requests: usize) {
        let begun = Instant::now();
        while self.proxy.met() < requests {
            assert!(begun.elapsed() < PATIENCE, "the fault is met");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until an instance that was made with a time to live has it.
    async fn until_kept(&mut self, created: &Value) {
        let begun = Instant::now();
        loop {
            let got = self.session.succeed("get_postgres_instance", id_of(created)).await;
            if got.get("expires_at").is_some() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "it gets its time: {got}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until so many containers are left of all that was made: what went wrong is undone in the background.
    async fn until_left(&self, expected: usize) {
        let begun = Instant::now();
        loop {
            let left = containers(&self.environment).await;
            if left.len() == expected {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "left: {left:#?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends the session, which has dropped all that it was told of.
    async fn end(mut self) {
        self.until_left(0).await;
        assert_works(&mut self.session).await;
        let remains = self.session.end().await;
        assert!(remains.status.success(), "{remains:?}");
        assert!(!remains.log.contains("panicked"), "{}", remains.log);
    }
}

fn id_of(instance: &Value) -> Value {
    json!({ "id": instance["id"] })
}

#[tokio::test]
async fn a_look_at_instances_that_docker_fails_or_cuts_says_so_and_the_next_one_succeeds() {
    let Some(mut scene) = Scene::new().await else { return };
    let instance = create(&mut scene.session).await;
    let id = id_of(&instance);
    for (tool, arguments, routes) in [
        ("list_postgres_instances", json!({}), &[LIST][..]),
        ("get_postgres_instance", id.clone(), &[LIST, INSPECT, LEASE]),
        ("health_check_postgres", id.clone(), &[LIST, INSPECT]),
        ("extend_postgres_instance", id.clone(), &[LIST, INSPECT, WRITE_LEASE]),
    ] {
        for route in routes {
            for fault in faults(route) {
                scene.fail(tool, arguments.clone(), route, fault).await;
                scene.session.succeed(tool, arguments.clone()).await;
            }
        }
    }
    assert_eq!(query(&instance, "SELECT 'here'").await, "here");
    scene.session.succeed("drop_postgres_instance", id).await;
    scene.end().await;
}

#[tokio::test]
async fn a_health_check_goes_by_postgresql_when_docker_fails_to_tell_of_its_memory() {
    let Some(mut scene) = Scene::new().await else { return };
    let instance = create(&mut scene.session).await;
    for route in [CREATE_EXEC, START_EXEC] {
        for fault in FAULTS.into_iter().chain([Fault::DoneThenHang]) {
            let met = scene.proxy.met();
            scene.proxy.always(route, fault);
            let checked = scene.call("health_check_postgres", id_of(&instance)).await;
            scene.proxy.lift();
            assert!(scene.proxy.met() > met, "it asks {route}");
            assert_eq!(
                checked["structuredContent"]["status"], "healthy",
                "{fault:?}: {checked}"
            );
        }
    }
    scene.session.succeed("drop_postgres_instance", id_of(&instance)).await;
    scene.end().await;
}

#[tokio::test]
async fn stats_that_docker_fails_to_tell_or_cuts_are_told_with_the_cause() {
    let Some(mut scene) = Scene::new().await else { return };
    let instance = create(&mut scene.session).await;
    let stats = ["postgres", "stats", instance["id"].as_str().expect("an id")];
    for route in [LIST, INSPECT, LEASE] {
        for fault in faults(route) {
            scene.proxy.always(route, fault);
            let output = scene.run(&stats).await;
            scene.proxy.lift();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains("\"failed\""), "{said}");
            assert_names(route, fault, &said);
        }
    }
    // What takes a second to tell is left out of what else is known.
    for fault in FAULTS {
        scene.proxy.always(STATS, fault);
        let output = scene.run(&stats).await;
        scene.proxy.lift();
        assert!(output.status.success(), "{output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let problems = &told["instances"][0]["problems"];
        assert_names(STATS, fault, problems[0].as_str().expect("a problem"));
    }
    let output = scene.run(&stats).await;
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(told["instances"][0]["memory_bytes"].is_u64(), "{told}");
    scene.session.succeed("drop_postgres_instance", id_of(&instance)).await;
    scene.end().await;
}

#[tokio::test]
async fn a_create_that_docker_fails_or_cuts_says_so_and_leaves_nothing_although_docker_did_it() {
    let Some(mut scene) = Scene::new().await else { return };
    for route in [INSPECT_IMAGE, LIST_NETWORKS, CREATE, START] {
        for fault in faults(route) {
            scene.fail("create_postgres_instance", json!({}), route, fault).await;
            scene.until_left(0).await;
        }
        assert_works(&mut scene.session).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn a_create_that_cannot_watch_its_server_succeeds_or_says_so_and_leaves_nothing() {
    let Some(mut scene) = Scene::new().await else { return };
    for fault in [
        Fault::Status(500, WORDS),
        Fault::DoneThenStatus(500, WORDS),
        Fault::DoneThenCut,
        // The rest comes when the server ends.
        Fault::DoneThenCutAfter(0),
    ] {
        let met = scene.proxy.met();
        scene.proxy.always(WAIT, fault);
        let created = scene.call("create_postgres_instance", json!({})).await;
        scene.proxy.lift();
        assert!(scene.proxy.met() > met, "it waits for the server's end");
        if created["isError"] == true {
            assert_names(WAIT, fault, &failure(&created).1);
        } else {
            let here = query(&created["structuredContent"], "SELECT 'here'").await;
            assert_eq!(here, "here");
        }
        drop_created(&mut scene.session, &created).await;
        scene.until_left(0).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn what_a_failed_create_cannot_undo_goes_as_soon_as_docker_can() {
    let Some(mut scene) = Scene::new().await else { return };
    scene.proxy.always(REMOVE, Fault::Status(500, "device busy"));
    scene.proxy.always(START, Fault::DoneThenStatus(500, WORDS));
    let created = scene.call("create_postgres_instance", json!({})).await;
    let (code, message) = failure(&created);
    assert!(code == "failed" && message.contains(WORDS), "{code}: {message}");
    scene.until_left(1).await;
    scene.proxy.lift();
    scene.end().await;
}

#[tokio::test]
async fn an_instance_that_was_told_of_with_a_time_to_live_is_there_although_docker_failed_once_to_take_it_down() {
    let Some(mut scene) = Scene::new().await else { return };
    for fault in faults(WRITE_LEASE) {
        let met = scene.proxy.met();
        scene.proxy.once(WRITE_LEASE, fault);
        let arguments = json!({ "ttl_seconds": 3600 });
        let created = scene.session.succeed("create_postgres_instance", arguments).await;
        // It is written once the client has been told.
        scene.until_met(met + 1).await;
        scene.until_kept(&created).await;
        let health = scene.session.succeed("health_check_postgres", id_of(&created)).await;
        assert_eq!(health["status"], "healthy", "{fault:?}: {health}");
        scene.session.succeed("drop_postgres_instance", id_of(&created)).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn a_drop_that_docker_fails_or_cuts_says_so_and_what_docker_did_is_not_there_any_more() {
    let Some(mut scene) = Scene::new().await else { return };
    for route in [LIST, INSPECT, LEASE, REMOVE] {
        for fault in faults(route) {
            // A look that is refused keeps nobody from a drop.
            if route == LEASE && !matches!(fault, Fault::DoneThenCut) {
                continue;
            }
            let id = id_of(&create(&mut scene.session).await);
            scene.fail("drop_postgres_instance", id.clone(), route, fault).await;
            if route != REMOVE || matches!(fault, Fault::Status(..)) {
                let health = scene.session.succeed("health_check_postgres", id.clone()).await;
                assert_eq!(health["status"], "healthy", "{health}");
                scene.session.succeed("drop_postgres_instance", id.clone()).await;
            }
            scene.assert_gone(&id).await;
        }
    }
    // Once is no reason to give up.
    for fault in [Fault::Status(500, WORDS), Fault::DoneThenStatus(500, WORDS)] {
        let id = id_of(&create(&mut scene.session).await);
        scene.proxy.once(REMOVE, fault);
        scene.session.succeed("drop_postgres_instance", id.clone()).await;
        scene.assert_gone(&id).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn an_instance_goes_with_its_session_although_docker_fails_to_tell_how_long_it_stays() {
    for fault in faults(LEASE) {
        let Some(mut scene) = Scene::new().await else { return };
        create(&mut scene.session).await;
        scene.proxy.always(LEASE, fault);
        let remains = scene.session.end().await;
        assert!(remains.status.success(), "{remains:?}");
        let left = containers(&scene.environment).await;
        assert!(left.is_empty(), "{fault:?}: {left:#?}");
    }
}

#[tokio::test]
async fn a_slow_docker_is_waited_for() {
    let Some(mut scene) = Scene::new().await else { return };
    scene.proxy.always(ANY, Fault::Slow(Duration::from_millis(300)));
    let instance = create(&mut scene.session).await;
    let health = scene.session.succeed("health_check_postgres", id_of(&instance)).await;
    assert_eq!(health["status"], "healthy", "{health}");
    scene
        .session
        .succeed("extend_postgres_instance", id_of(&instance))
        .await;
    let output = scene
        .run(&["postgres", "stats", instance["id"].as_str().expect("an id")])
        .await;
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["instances"][0].get("problems"), None, "{told}");
    scene.session.succeed("drop_postgres_instance", id_of(&instance)).await;
    scene.assert_gone(&id_of(&instance)).await;
    scene.end().await;
}

#[tokio::test]
async fn what_docker_does_and_never_says_times_out_and_leaves_nothing() {
    let Some(mut scene) = Scene::new().await else { return };
    let id = id_of(&create(&mut scene.session).await);
    let met = scene.proxy.met();
    scene.proxy.once(REMOVE, Fault::DoneThenHang);
    let mut calls = vec![ask(&mut scene.session, "drop_postgres_instance", id.clone()).await];
    // What is undone asks for it, too.
    scene.until_met(met + 1).await;
    for route in [CREATE, START] {
        scene.proxy.once(route, Fault::DoneThenHang);
        calls.push(ask(&mut scene.session, "create_postgres_instance", json!({})).await);
    }
    for call in calls {
        let (code, message) = failure(&result(&mut scene.session, call).await);
        assert_eq!(code, "timed_out", "{message}");
        assert!(message.contains("was not answered within 30 s"), "{message}");
    }
    scene.assert_gone(&id).await;
    scene.end().await;
}

fn any_fault(rng: &mut StdRng) -> Fault {
    match rng.random_range(0..5) {
        0 => Fault::Status(500, WORDS),
        1 => Fault::DoneThenStatus(500, WORDS),
        2 => Fault::DoneThenCut,
        3 => Fault::DoneThenCutAfter(rng.random_range(0..200)),
        _ => Fault::Slow(Duration::from_millis(rng.random_range(0..500))),
    }
}

/// A call has failed for one of the faults that its requests may have met.
fn assert_names_any(result: &Value) {
    let (code, message) = failure(result);
    assert_eq!(code, "failed", "{message}");
    let mut causes = CUT.into_iter().chain([WORDS, "HTTP status 500"]);
    assert!(causes.any(|cause| message.contains(cause)), "{message}");
}

#[tokio::test]
async fn creates_and_drops_whose_requests_fail_at_random_leave_nothing_and_tell_the_truth() {
    let (mut rng, calls) = (seeded::rng(), soak::size(24, 600));
    let Some(mut scene) = Scene::new().await else { return };
    let (mut mine, mut failed) = (Vec::<Value>::new(), 0);
    for _ in 0..calls {
        for _ in 0..rng.random_range(1..=3) {
            let route = ROUTES.choose(&mut rng).expect("there are some");
            scene.proxy.once(route, any_fault(&mut rng));
        }
        let is_create = mine.is_empty() || mine.len() < INSTANCES_MAX && rng.random_bool(0.5);
        let result = if is_create {
            let created = scene.call("create_postgres_instance", json!({})).await;
            mine.extend(created.get("structuredContent").cloned());
            created
        } else {
            let id = id_of(&mine.swap_remove(rng.random_range(0..mine.len())));
            let dropped = scene.call("drop_postgres_instance", id.clone()).await;
            scene.proxy.lift();
            if dropped["isError"] == true {
                let again = scene.call("drop_postgres_instance", id.clone()).await;
                assert!(again["isError"] != true || failure(&again).0 == "not_found", "{again}");
            }
            scene.assert_gone(&id).await;
            dropped
        };
        scene.proxy.lift();
        if result["isError"] == true {
            assert_names_any(&result);
            failed += 1;
        }
    }
    scene.until_left(mine.len()).await;
    for instance in &mine {
        assert_eq!(query(instance, "SELECT 'here'").await, "here");
        scene.session.succeed("drop_postgres_instance", id_of(instance)).await;
    }
    eprintln!("{} faults met, {failed} of {calls} calls failed", scene.proxy.met());
    assert!(failed > 0, "some meet their faults");
    scene.end().await;
}
