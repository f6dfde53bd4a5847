//! The Docker engine against a daemon that misbehaves: bollard's real code, faults that a real daemon won't give.

use std::net::IpAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime};

use dev_postgres_mcp::engine::docker::{DockerEngine, DockerSettings};
use dev_postgres_mcp::engine::{Engine, EngineError, Pruned, Verdict};
use dev_postgres_mcp::instance::{
    Caller, Image, Instance, InstanceId, InstanceSpec, Lifetime, Port, Progress, ProgressSink, Status,
};
use dev_postgres_mcp::owner::Owners;
use dev_postgres_mcp_tests::address_beyond_loopback;
use dev_postgres_mcp_tests::binary::{TestEngine, TestEnvironment};
use dev_postgres_mcp_tests::scripted_daemon::{Fault, ScriptedDaemon};
use dev_postgres_mcp_tests::session::Session;
use dev_postgres_mcp_tests::specs::{owner, spec};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

const REQUEST_TIMEOUT: Duration = Duration::from_millis(300);
const PASSWORD: &str = "hunter2 planted";

const INSPECT_IMAGE: &str = "GET /images/*/json";
const LIST_IMAGES: &str = "GET /images/json";
const PULL: &str = "POST /images/create";
const LIST_NETWORKS: &str = "GET /networks";
const CREATE_NETWORK: &str = "POST /networks/create";
const REMOVE_NETWORK: &str = "DELETE /networks/*";
const LIST: &str = "GET /containers/json";
const LEASE: &str = "HEAD /containers/*/archive";
const KEEP: &str = "PUT /containers/*/archive";
const CREATE: &str = "POST /containers/create";
const START: &str = "POST /containers/*/start";
const REMOVE: &str = "DELETE /containers/*";
const INSPECT: &str = "GET /containers/*/json";
const WAIT: &str = "POST /containers/*/wait";
const LOGS: &str = "GET /containers/*/logs";

/// An engine on a daemon of its own.
struct Scene {
    daemon: ScriptedDaemon,
    engine: DockerEngine,
    tracker: TaskTracker,
}

impl Scene {
    async fn new() -> Self {
        Self::with(Owners::new(None)).await
    }

    async fn with(owners: Owners) -> Self {
        let daemon = ScriptedDaemon::start().await;
        let tracker = TaskTracker::new();
        let settings = DockerSettings {
            host: Some(daemon.host()),
            request_timeout: REQUEST_TIMEOUT,
            pull_timeout: Duration::from_secs(2),
            ..DockerSettings::default()
        };
        Self {
            engine: DockerEngine::new(settings, owners, tracker.clone()),
            daemon,
            tracker,
        }
    }

    async fn create(&self) -> Result<InstanceId, EngineError> {
        self.create_like(&wanted()).await
    }

    async fn create_like(&self, wanted: &InstanceSpec) -> Result<InstanceId, EngineError> {
        let id = InstanceId::random();
        self.engine
            .create(id, wanted, &owner(), port(), &ProgressSink::none())
            .await
            .map(|_| id)
    }

    async fn prune(&self, dry_run: bool) -> Vec<Pruned> {
        let mut pruned = Vec::new();
        self.engine.prune(dry_run, &mut pruned).await.expect("it can be told");
        pruned
    }

    /// Waits for the background work and looks at what the daemon still has.
    async fn assert_nothing_left(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        let state = self.daemon.state();
        assert!(state.containers.is_empty(), "left over: {:?}", state.containers);
        assert!(state.networks.is_empty(), "left over: {:?}", state.networks);
    }

    fn asked(&self, route: &str) -> usize {
        self.daemon
            .state()
            .routes()
            .iter()
            .filter(|asked| *asked == route)
            .count()
    }
}

fn wanted() -> InstanceSpec {
    spec("app", "me", PASSWORD)
}

fn port() -> Port {
    Port::try_from(15999).expect("a port")
}

fn image(version: &str) -> Image {
    Image::new("postgres", version).expect("an image")
}

/// The labels of an instance, as another process would have written them.
fn labels(id: InstanceId, created_at: &str) -> Value {
    json!({
        "dev-postgres-mcp.id": id.to_string(),
        "dev-postgres-mcp.version": "17",
        "dev-postgres-mcp.database": "app",
        "dev-postgres-mcp.username": "me",
        "dev-postgres-mcp.port": "15432",
        "dev-postgres-mcp.created-at": created_at,
    })
}

#[tokio::test]
async fn a_create_makes_six_requests_and_the_password_is_in_the_environment_only() {
    let scene = Scene::new().await;
    scene.daemon.state().add_network("dev-postgres-mcp-2", json!({}));
    let ours = json!({ "dev-postgres-mcp.network": "dev-postgres-mcp" });
    scene.daemon.state().add_network("dev-postgres-mcp", ours);
    let id = scene.create().await.expect("an instance");
    let state = scene.daemon.state();
    let mut routes = state.routes();
    // The first two are made at the same time.
    routes[..2].sort_unstable();
    assert_eq!(routes, [INSPECT_IMAGE, LIST_NETWORKS, CREATE, START]);
    let create = &state.requests[2];
    assert_eq!(create.query["name"], format!("mcp-postgres-{id}"));
    let text = create.body.to_string();
    assert_eq!(text.matches(PASSWORD).count(), 1, "{text}");
    let env = create.body["Env"].as_array().expect("an environment");
    assert!(env.contains(&json!(format!("DEV_POSTGRES_MCP_PASSWORD={PASSWORD}"))));
    assert!(env.iter().any(|entry| {
        entry
            .as_str()
            .is_some_and(|entry| entry.starts_with("POSTGRES_PASSWORD=SCRAM-SHA-256$"))
    }));
    let host = &create.body["HostConfig"];
    assert_eq!(
        host["PortBindings"]["5432/tcp"],
        json!([{ "HostIp": "127.0.0.1", "HostPort": "15999" }])
    );
    assert_eq!(host["Memory"], 512 << 20);
    assert_eq!(host["MemorySwap"], 512 << 20);
    assert_eq!(host["NanoCpus"], 1_000_000_000);
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert_eq!(host["Mounts"][0]["Target"], "/var/lib/postgresql/data");
    assert_eq!(host["Mounts"][0]["Type"], "tmpfs");
}

#[tokio::test]
async fn a_request_that_fails_hangs_is_cut_or_answers_nonsense_fails_the_create_and_leaves_nothing() {
    let mut scenes = JoinSet::new();
    for route in [INSPECT_IMAGE, LIST_NETWORKS, CREATE_NETWORK, CREATE, START] {
        for fault in [
            Fault::Status(500, "out of cheese"),
            Fault::Hang,
            Fault::DoneThenHang,
            Fault::DoneThenCut,
            Fault::Slow(REQUEST_TIMEOUT * 2),
            Fault::Body("[{"),
            Fault::CutChunks(vec!["{\"Id\":"], Duration::from_millis(10)),
        ] {
            // Any 2xx will do for a start, which has no body.
            if route == START && matches!(fault, Fault::Body(_) | Fault::CutChunks(..)) {
                continue;
            }
            scenes.spawn(async move {
                let scene = Scene::new().await;
                let what = format!("{route} {fault:?}");
                scene.daemon.once(route, fault);
                let start = Instant::now();
                let error = scene.create().await.expect_err(&what);
                // Far from what it waits for where nobody gives up, and far from what a busy machine adds.
                assert!(
                    start.elapsed() < REQUEST_TIMEOUT * 50,
                    "{what} took {:?}: {error}",
                    start.elapsed()
                );
                assert!(
                    matches!(error, EngineError::Request { .. } | EngineError::TimedOut { .. }),
                    "{what}: {error}"
                );
                scene.assert_nothing_left().await;
            });
        }
    }
    scenes.join_all().await;
}

#[tokio::test]
async fn a_container_that_comes_after_the_client_gave_up_is_removed() {
    let scene = Scene::new().await;
    scene.daemon.once(CREATE, Fault::Slow(REQUEST_TIMEOUT * 2));
    let error = scene.create().await.expect_err("no answer in time");
    assert_eq!(
        error.to_string(),
        "creating the container was not answered within 0.3 s"
    );
    assert!(scene.daemon.state().containers.is_empty(), "it has not come yet");
    scene.assert_nothing_left().await;
    let state = scene.daemon.state();
    let created = state
        .requests
        .iter()
        .filter(|request| request.route() == CREATE)
        .count();
    assert_eq!(created, 1);
}

#[tokio::test]
async fn a_removal_that_fails_at_first_is_tried_again_in_the_background() {
    let scene = Scene::new().await;
    scene.daemon.once(START, Fault::Status(500, "no"));
    scene.daemon.once(REMOVE, Fault::Status(500, "device busy"));
    scene.daemon.once(REMOVE, Fault::Hang);
    assert!(scene.create().await.is_err());
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_taken_port_is_told_from_other_failures_in_every_engines_words() {
    for message in [
        "driver failed programming external connectivity on endpoint x: Bind for 127.0.0.1:15999 failed: port is \
         already allocated",
        "driver failed programming external connectivity on endpoint x: Error starting userland proxy: listen tcp4 \
         127.0.0.1:15999: bind: address already in use",
        "failed to bind host port for 127.0.0.1:15999:172.18.0.2:5432/tcp: address already in use",
        "Ports are not available: exposing port TCP 127.0.0.1:15999 -> 127.0.0.1:0: listen tcp 127.0.0.1:15999: bind: \
         An attempt was made to access a socket in a way forbidden by its access permissions.",
        "listen tcp 127.0.0.1:15999: bind: Only one usage of each socket address (protocol/network address/port) is \
         normally permitted.",
        "rootlessport listen tcp 127.0.0.1:15999: bind: address already in use",
    ] {
        let scene = Scene::new().await;
        scene.daemon.once(START, Fault::Status(500, message));
        let error = scene.create().await.expect_err("a taken port");
        assert!(
            matches!(error, EngineError::PortTaken(taken) if taken == port()),
            "{message}: {error}"
        );
        assert!(
            scene.daemon.state().containers.is_empty(),
            "the container is still there"
        );
        scene.assert_nothing_left().await;
    }
}

#[tokio::test]
async fn a_start_that_fails_otherwise_says_what_docker_said() {
    let scene = Scene::new().await;
    scene
        .daemon
        .once(START, Fault::Status(500, "OCI runtime create failed"));
    let error = scene.create().await.expect_err("a failure");
    assert_eq!(
        error.to_string(),
        "starting the container failed: OCI runtime create failed"
    );
}

#[tokio::test]
async fn a_network_that_another_process_removes_is_made_again() {
    let scene = Scene::new().await;
    scene
        .daemon
        .once(START, Fault::Status(404, "network dev-postgres-mcp not found"));
    scene
        .daemon
        .once(START, Fault::Status(404, "network dev-postgres-mcp not found"));
    let id = scene.create().await.expect("an instance");
    assert_eq!(scene.asked(CREATE), 3);
    assert!(scene.engine.remove(id).await.expect("removed"));
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_network_that_vanishes_every_time_is_an_error_in_the_end() {
    let scene = Scene::new().await;
    scene
        .daemon
        .always(START, Fault::Status(404, "network dev-postgres-mcp not found"));
    let error = scene.create().await.expect_err("no network");
    assert_eq!(
        error.to_string(),
        "starting the container failed: network dev-postgres-mcp not found"
    );
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn of_networks_made_twice_one_is_kept() {
    let ours = json!({ "dev-postgres-mcp.network": "dev-postgres-mcp" });
    let scene = Scene::new().await;
    scene.daemon.state().add_network("dev-postgres-mcp", ours.clone());
    scene.daemon.state().add_network("dev-postgres-mcp", ours.clone());
    scene.create().await.expect("an instance");
    assert_eq!(scene.daemon.state().networks.len(), 1);

    // The second comes while an instance is on the first.
    let scene = Scene::new().await;
    scene.daemon.state().add_network("dev-postgres-mcp", ours.clone());
    let used = scene.daemon.state().add_network("dev-postgres-mcp", ours);
    let on_it = json!({ "Labels": {}, "HostConfig": { "NetworkMode": used } });
    scene.daemon.state().add_container("other", on_it, "running");
    scene.create().await.expect("an instance");
    let state = scene.daemon.state();
    assert_eq!(state.networks.keys().collect::<Vec<_>>(), [&used]);
}

#[tokio::test]
async fn two_processes_that_make_the_network_at_once_both_get_their_instance() {
    for unique in [true, false] {
        let scene = Scene::new().await;
        scene.daemon.state().unique_networks = unique;
        for _ in 0..2 {
            scene.daemon.once(LIST_NETWORKS, Fault::Slow(Duration::ZERO));
            scene
                .daemon
                .once(CREATE_NETWORK, Fault::Slow(Duration::from_millis(50)));
        }
        let (one, other) = tokio::join!(scene.create(), scene.create());
        let (one, other) = (one.expect("an instance"), other.expect("an instance"));
        assert_eq!(scene.daemon.state().networks.len(), 1);
        let (one, other) = tokio::join!(scene.engine.remove(one), scene.engine.remove(other));
        assert!(one.expect("removed") && other.expect("removed"));
        scene.assert_nothing_left().await;
    }
}

#[tokio::test]
async fn a_network_of_somebody_else_is_an_error_and_stays() {
    let scene = Scene::new().await;
    scene.daemon.state().add_network("dev-postgres-mcp", json!({}));
    let error = scene.create().await.expect_err("a foreign network");
    assert!(
        error.to_string().contains("a network dev-postgres-mcp that isn't ours"),
        "{error}"
    );
    scene.tracker.close();
    scene.tracker.wait().await;
    assert_eq!(scene.daemon.state().networks.len(), 1);
    assert_eq!(scene.asked(REMOVE_NETWORK), 0);
    assert_eq!(scene.asked(CREATE), 0);
}

#[tokio::test]
async fn a_network_with_our_label_that_lets_instances_reach_each_other_is_somebody_elses_and_stays() {
    let ours = json!({ "dev-postgres-mcp.network": "dev-postgres-mcp" });
    let isolated = json!({ "com.docker.network.bridge.enable_icc": "false" });
    for (driver, options) in [
        ("bridge", json!({ "com.docker.network.bridge.enable_icc": "true" })),
        ("macvlan", isolated.clone()),
    ] {
        let scene = Scene::new().await;
        let forged = scene.daemon.state().add_network("dev-postgres-mcp", ours.clone());
        {
            let mut state = scene.daemon.state();
            let network = state.networks.get_mut(&forged).expect("it was added");
            (network.driver, network.options) = (driver.to_owned(), options);
        }
        let error = scene.create().await.expect_err("a foreign network");
        assert!(
            error.to_string().contains("a network dev-postgres-mcp that isn't ours"),
            "{error}"
        );
        assert_eq!(scene.prune(false).await, []);
        scene.tracker.close();
        scene.tracker.wait().await;
        assert_eq!((scene.asked(CREATE), scene.asked(REMOVE_NETWORK)), (0, 0));
    }
    // What the daemon gives every network is no matter, nor that Podman keeps nothing of what it doesn't know.
    let mut given = isolated;
    given["com.docker.network.driver.mtu"] = json!("1450");
    for (driver, options) in [("bridge", given), ("bridge", json!({})), ("bridge", Value::Null)] {
        let scene = Scene::new().await;
        let one = scene.daemon.state().add_network("dev-postgres-mcp", ours.clone());
        {
            let mut state = scene.daemon.state();
            let network = state.networks.get_mut(&one).expect("it was added");
            (network.driver, network.options) = (driver.to_owned(), options);
        }
        scene.create().await.expect("an instance");
        assert_eq!(scene.asked(CREATE_NETWORK), 0);
    }
}

#[tokio::test]
async fn a_network_that_is_removed_as_often_as_it_is_made_is_an_error_in_the_end() {
    let scene = Scene::new().await;
    scene.daemon.always(LIST_NETWORKS, Fault::Body("[]"));
    let error = scene.create().await.expect_err("no network");
    assert_eq!(
        error.to_string(),
        "creating the network failed: the network dev-postgres-mcp is removed or doubled as often as it is made"
    );
    assert_eq!(scene.asked(CREATE), 0);
}

#[tokio::test]
async fn an_image_that_vanished_is_no_such_image() {
    let scene = Scene::new().await;
    scene
        .daemon
        .once(CREATE, Fault::Status(404, "No such image: postgres:17"));
    let error = scene.create().await.expect_err("no image");
    assert!(matches!(error, EngineError::NoSuchImage { .. }), "{error}");
    scene.daemon.state().images.clear();
    let error = scene.create().await.expect_err("no image");
    assert!(matches!(error, EngineError::NoSuchImage { .. }), "{error}");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_create_that_is_dropped_during_any_request_leaves_nothing() {
    let mut scenes = JoinSet::new();
    for route in [INSPECT_IMAGE, LIST_NETWORKS, CREATE_NETWORK, CREATE, START] {
        for wait_ms in [20, 60, 100] {
            scenes.spawn(async move {
                let scene = Scene::new().await;
                scene.daemon.once(route, Fault::Slow(Duration::from_millis(60)));
                let dropped = tokio::time::timeout(Duration::from_millis(wait_ms), scene.create()).await;
                // One that was quick enough is dropped as well.
                if let Ok(Ok(id)) = dropped {
                    assert!(scene.engine.remove(id).await.expect("removed"));
                }
                scene.assert_nothing_left().await;
            });
        }
    }
    scenes.join_all().await;
}

#[tokio::test]
async fn an_instance_that_is_made_but_not_taken_is_removed() {
    let scene = Scene::new().await;
    let mut create = Box::pin(scene.create());
    // Polled once, and never again.
    assert!(tokio::time::timeout(Duration::ZERO, &mut create).await.is_err());
    while !scene.tracker.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(scene.daemon.state().containers.len(), 1);
    drop(create);
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_listing_is_one_request_sorted_by_age_and_skips_what_makes_no_sense() {
    let scene = Scene::new().await;
    let (old, new) = (InstanceId::random(), InstanceId::random());
    {
        let mut state = scene.daemon.state();
        let body = |labels: Value| json!({ "Labels": labels, "HostConfig": {} });
        state.add_container("renamed", body(labels(new, "2026-11-22T10:00:01Z")), "paused");
        state.add_container("x", body(labels(old, "2026-11-22T10:00:00Z")), "exited");
        state.add_container("foreign", body(json!({ "com.example": "1" })), "running");
        for (key, value) in [
            ("id", "not-an-id"),
            ("port", "0"),
            ("port", "99999"),
            ("port", "http"),
            ("database", ""),
            ("username", "pg_x"),
            ("created-at", "yesterday"),
        ] {
            let mut broken = labels(InstanceId::random(), "2026-11-22T10:00:00Z");
            broken[format!("dev-postgres-mcp.{key}")] = json!(value);
            state.add_container("broken", body(broken), "running");
        }
        state.add_container(
            "bare",
            body(json!({ "dev-postgres-mcp.id": InstanceId::random().to_string() })),
            "running",
        );
    }
    let instances = scene.engine.list().await.expect("a list");
    let seen: Vec<_> = instances
        .iter()
        .map(|instance| (instance.id, instance.status))
        .collect();
    assert_eq!(seen, [(old, Status::Stopped), (new, Status::Paused)]);
    assert_eq!(scene.daemon.state().routes(), [LIST]);
}

#[tokio::test]
async fn a_list_is_not_shorter_because_docker_did_not_answer_and_one_damaged_instance_hides_no_other() {
    let scene = Scene::new().await;
    let [sound, owned] = [(); 2].map(|()| InstanceId::random());
    let mut of_somebody = labels(owned, "2026-07-01T10:00:00Z");
    of_somebody["dev-postgres-mcp.owner"] = json!("8a3c2f0e-4a3f-4f0c-8a55-0d3b5f1d2c11");
    for (id, labels) in [(sound, labels(sound, "2026-07-01T09:00:00Z")), (owned, of_somebody)] {
        let name = format!("mcp-postgres-{id}");
        scene
            .daemon
            .state()
            .add_container(&name, json!({ "Labels": labels }), "running");
    }
    let ids = |listed: Vec<Instance>| listed.into_iter().map(|instance| instance.id).collect::<Vec<_>>();
    scene.daemon.once(LEASE, Fault::DoneThenCut);
    let error = scene.engine.list().await.expect_err("nobody knows how long one stays");
    assert!(error.to_string().contains("lease"), "{error}");
    scene.daemon.once(LEASE, Fault::Status(500, "no such layer"));
    assert_eq!(ids(scene.engine.list().await.expect("a list")), [sound]);
    scene.daemon.once(LEASE, Fault::Status(500, "no such layer"));
    assert_eq!(ids(scene.engine.list_all().await.expect("a list")), [sound, owned]);
    scene.daemon.once(LEASE, Fault::Status(500, "no such layer"));
    let error = scene.engine.get(owned).await.expect_err("it is damaged");
    assert!(
        matches!(&error, EngineError::Damaged { legible, .. } if legible.id == owned),
        "{error}"
    );
}

#[tokio::test]
async fn a_listing_that_fails_says_why_within_its_deadline() {
    for (fault, expected) in [
        (Fault::Status(500, "no"), "listing instances failed: no"),
        (Fault::Status(503, ""), "listing instances failed: HTTP status 503"),
        (Fault::Hang, "listing instances was not answered within 0.3 s"),
        (
            Fault::Body("<html>"),
            "listing instances failed: Docker's answer makes no sense",
        ),
        (
            Fault::Body("{}"),
            "listing instances failed: Docker's answer makes no sense",
        ),
        (
            Fault::CutChunks(vec!["["], Duration::ZERO),
            "listing instances failed: ",
        ),
    ] {
        let scene = Scene::new().await;
        let what = format!("{fault:?}");
        scene.daemon.once(LIST, fault);
        let start = Instant::now();
        let error = scene.engine.list().await.expect_err(&what).to_string();
        assert!(error.starts_with(expected), "{what}: {error}");
        assert!(start.elapsed() < REQUEST_TIMEOUT * 50, "{what}");
    }
}

#[tokio::test]
async fn a_get_takes_the_container_with_the_right_name_if_labels_were_copied() {
    let scene = Scene::new().await;
    let id = scene.create().await.expect("an instance");
    let copied = scene
        .daemon
        .state()
        .containers
        .values()
        .next()
        .expect("its container")
        .body
        .clone();
    {
        let mut state = scene.daemon.state();
        let mut forged = copied;
        forged["Env"] = json!(["DEV_POSTGRES_MCP_PASSWORD=forged"]);
        state.add_container("copy", forged, "running");
    }
    let found = scene.engine.get(id).await.expect("an answer").expect("the instance");
    assert_eq!(found.password.expose(), PASSWORD);
    assert_eq!(found.instance.port, port());
    assert!(
        scene
            .engine
            .get(InstanceId::random())
            .await
            .expect("an answer")
            .is_none()
    );
}

#[tokio::test]
async fn a_get_of_a_container_without_its_password_says_that_somebody_changed_it() {
    let scene = Scene::new().await;
    let id = InstanceId::random();
    let body = json!({ "Labels": labels(id, "2026-11-22T10:00:00Z"), "Env": ["PGDATA=/x"] });
    scene.daemon.state().add_container("x", body, "running");
    let error = scene.engine.get(id).await.expect_err("no password").to_string();
    assert!(error.contains("somebody changed its container"), "{error}");
}

#[tokio::test]
async fn a_removal_waits_for_one_that_is_in_progress_already() {
    let scene = Scene::new().await;
    let id = scene.create().await.expect("an instance");
    scene.daemon.once(
        REMOVE,
        Fault::Status(409, "removal of container x is already in progress"),
    );
    let removal = scene.engine.remove(id);
    let other = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        scene.daemon.state().containers.clear();
        Instant::now()
    };
    let (removed, gone_at) = tokio::join!(async { (removal.await, Instant::now()) }, other);
    assert!(removed.0.expect("removed"));
    assert!(removed.1 >= gone_at, "it said so before it was true");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn what_is_being_removed_is_no_instance_any_more_and_the_next_start_sees_that_through() {
    let scene = Scene::new().await;
    let [sound, leaving] = [(); 2].map(|()| InstanceId::random());
    for (id, state) in [(sound, "running"), (leaving, "removing")] {
        let body = json!({ "Labels": labels(id, "2026-07-01T09:00:00Z") });
        let name = format!("mcp-postgres-{id}");
        scene.daemon.state().add_container(&name, body, state);
    }
    for listed in [scene.engine.list().await, scene.engine.list_all().await] {
        let ids: Vec<_> = listed
            .expect("a list")
            .into_iter()
            .map(|instance| instance.id)
            .collect();
        assert_eq!(ids, [sound]);
    }
    assert!(scene.engine.get(leaving).await.expect("an answer").is_none());
    scene.engine.recover(false).await.expect("recovered");
    let names: Vec<_> = scene
        .daemon
        .state()
        .containers
        .values()
        .map(|container| container.name.clone())
        .collect();
    assert_eq!(names, [format!("mcp-postgres-{sound}")]);
}

#[tokio::test]
async fn what_is_called_or_labelled_as_ours_only_in_part_is_not_removed_whatever_its_owner_and_its_state() {
    let state = tempfile::tempdir().expect("a folder");
    let ended = Owners::new(Some(state.path())).owner(&Caller::default()).process;
    let scene = Scene::with(Owners::new(Some(state.path()))).await;
    let id = InstanceId::random().to_string();
    let (upper, bare) = (id.to_uppercase(), id.replace('-', ""));
    let waiting = |id: &str| format!("mcp-postgres-pool-{id}");
    let forged = [
        (waiting(&id), None, "running"),
        // What is no id, or written as none is.
        (waiting("mine"), Some("mine"), "running"),
        (waiting(""), Some(""), "exited"),
        (waiting(&upper), Some(upper.as_str()), "running"),
        (waiting("leaving"), Some("mine"), "removing"),
        ("leaving".to_owned(), Some(bare.as_str()), "removing"),
    ];
    for (name, label, state) in &forged {
        let mut labels = json!({ "dev-postgres-mcp.owner": ended });
        if let Some(label) = label {
            labels["dev-postgres-mcp.id"] = json!(label);
        }
        let body = json!({ "Labels": labels });
        scene.daemon.state().add_container(name, body, state);
    }
    scene.engine.recover(true).await.expect("recovered");
    assert_eq!(scene.prune(false).await, []);
    assert_eq!(scene.asked(REMOVE), 0);
    assert_eq!(scene.daemon.state().containers.len(), forged.len());
}

#[tokio::test]
async fn one_that_waits_and_was_given_another_name_is_an_instance_that_can_be_dropped() {
    let scene = Scene::new().await;
    let id = InstanceId::random();
    let body = json!({ "Labels": labels(id, "2026-07-01T09:00:00Z") });
    scene
        .daemon
        .state()
        .add_container("mcp-postgres-pool-mine", body, "running");
    let listed = scene.engine.list().await.expect("a list");
    assert_eq!(listed.iter().map(|instance| instance.id).collect::<Vec<_>>(), [id]);
    assert!(scene.engine.remove(id).await.expect("removed"));
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_removal_that_docker_fails_at_is_tried_again_before_anybody_is_told() {
    let busy = Fault::Status(
        500,
        "driver \"overlay2\" failed to remove root filesystem: directory not empty",
    );
    let scene = Scene::new().await;
    let id = scene.create().await.expect("an instance");
    scene.daemon.once(REMOVE, busy.clone());
    scene.daemon.once(REMOVE, busy.clone());
    assert!(scene.engine.remove(id).await.expect("removed"));
    assert_eq!(scene.asked(REMOVE), 3);

    let id = scene.create().await.expect("an instance");
    scene.daemon.always(REMOVE, busy);
    let error = scene.engine.remove(id).await.expect_err("it fails each time");
    assert!(error.to_string().contains("directory not empty"), "{error}");
}

#[tokio::test]
async fn a_removal_that_never_ends_is_given_up_at_the_deadline() {
    let scene = Scene::new().await;
    let id = scene.create().await.expect("an instance");
    scene
        .daemon
        .once(REMOVE, Fault::Status(409, "removal already in progress"));
    let error = scene.engine.remove(id).await.expect_err("never ends");
    assert!(matches!(error, EngineError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_removal_of_what_is_gone_is_no_error_and_of_what_never_was_is_false() {
    let scene = Scene::new().await;
    let id = scene.create().await.expect("an instance");
    scene.daemon.once(REMOVE, Fault::Status(404, "No such container"));
    assert!(scene.engine.remove(id).await.expect("it was listed a moment ago"));
    assert!(!scene.engine.remove(InstanceId::random()).await.expect("an answer"));
}

#[tokio::test]
async fn a_removal_that_is_dropped_is_finished() {
    let scene = Scene::new().await;
    let id = scene.create().await.expect("an instance");
    scene.daemon.once(REMOVE, Fault::Slow(Duration::from_millis(100)));
    let dropped = tokio::time::timeout(Duration::from_millis(30), scene.engine.remove(id)).await;
    assert!(dropped.is_err());
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_that_has_gone_is_not_kept() {
    let scene = Scene::new().await;
    let keep = async |id: InstanceId| scene.engine.keep(id, Lifetime::Unlimited).await;
    let error = keep(InstanceId::random()).await.expect_err("it never was");
    assert!(matches!(error, EngineError::Gone), "{error}");
    let id = scene.create().await.expect("an instance");
    scene.daemon.once(KEEP, Fault::Status(404, "No such container"));
    let error = keep(id).await.expect_err("it went when it had been found");
    assert!(matches!(error, EngineError::Gone), "{error}");
    keep(id).await.expect("it is there");
}

#[tokio::test]
async fn what_ends_with_the_runtime_that_it_was_begun_on_is_told_as_a_failure() {
    let scene = Scene::new().await;
    scene.daemon.always(LIST, Fault::Hang);
    scene.daemon.always(INSPECT_IMAGE, Fault::Hang);
    let (id, wanted, owner, nobody) = (InstanceId::random(), wanted(), owner(), ProgressSink::none());
    let mut removal = scene.engine.remove(id);
    let mut create = scene.engine.create(id, &wanted, &owner, port(), &nobody);
    let dying = Runtime::new().expect("a runtime");
    {
        let _inside = dying.enter();
        let mut context = Context::from_waker(Waker::noop());
        assert!(removal.as_mut().poll(&mut context).is_pending());
        assert!(create.as_mut().poll(&mut context).is_pending());
    }
    dying.shutdown_background();
    for (error, verb) in [
        (removal.await.expect_err("nobody removes it"), "removing the instance"),
        (create.await.expect_err("nobody creates it"), "creating the instance"),
    ] {
        let said = format!("{verb} failed: it ended without an answer; the log has the cause");
        assert_eq!(error.to_string(), said);
    }
}

#[tokio::test]
async fn an_instance_whose_container_docker_has_failed_to_remove_is_shown_as_stopped_and_dropped() {
    let scene = Scene::new().await;
    let id = scene.create().await.expect("an instance");
    for container in scene.daemon.state().containers.values_mut() {
        container.state = "dead";
    }
    let listed = scene.engine.list().await.expect("a list");
    let listed: Vec<_> = listed.iter().map(|instance| (instance.id, instance.status)).collect();
    assert_eq!(listed, [(id, Status::Stopped)]);
    let found = scene.engine.get(id).await.expect("an answer").expect("the instance");
    assert_eq!(found.instance.status, Status::Stopped);
    assert!(scene.engine.remove(id).await.expect("removed"));
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_removal_touches_only_containers_with_the_label_of_that_id() {
    let scene = Scene::new().await;
    let id = InstanceId::random();
    {
        let mut state = scene.daemon.state();
        state.add_container(&format!("mcp-postgres-{id}"), json!({ "Labels": {} }), "running");
        let other = labels(InstanceId::random(), "2026-11-22T10:00:00Z");
        state.add_container("other", json!({ "Labels": other }), "running");
    }
    assert!(!scene.engine.remove(id).await.expect("an answer"));
    assert_eq!(scene.asked(REMOVE), 0);
}

#[tokio::test]
async fn the_network_stays_while_any_instance_is_on_it_even_a_stopped_one() {
    let scene = Scene::new().await;
    let one = scene.create().await.expect("an instance");
    let other = scene.create().await.expect("an instance");
    for container in scene.daemon.state().containers.values_mut() {
        container.state = "exited";
    }
    scene.engine.remove(one).await.expect("removed");
    scene.tracker.close();
    scene.tracker.wait().await;
    assert_eq!(scene.daemon.state().networks.len(), 1);
    scene.tracker.reopen();
    scene.engine.remove(other).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn the_end_of_an_instance_is_told_with_its_cause_and_its_last_lines() {
    for (exit_code, oom_killed, how) in [
        (0, false, "exited with code 0"),
        (1, false, "exited with code 1"),
        (137, true, "was killed for want of memory"),
    ] {
        let scene = Scene::new().await;
        let id = scene.create().await.expect("an instance");
        let end = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            for container in scene.daemon.state().containers.values_mut() {
                container.state = "exited";
                container.exit_code = exit_code;
                container.oom_killed = oom_killed;
                container.log = ["line"; 29].join("\n") + "\nthe last line\n";
            }
        };
        let (ended, ()) = tokio::join!(scene.engine.ended(id), end);
        let ended = ended.expect("an end");
        assert_eq!(ended.how, how);
        assert_eq!(ended.last_lines.len(), 20);
        assert_eq!(ended.last_lines[18..], ["line", "the last line"]);
    }
}

#[tokio::test]
async fn an_instance_that_is_removed_has_ended() {
    let scene = Scene::new().await;
    let id = scene.create().await.expect("an instance");
    let remove = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        scene.engine.remove(id).await.expect("removed");
    };
    let (ended, ()) = tokio::join!(scene.engine.ended(id), remove);
    assert_eq!(ended.expect("an end").how, "was removed");
    assert_eq!(scene.engine.ended(id).await.expect("an end").how, "was removed");
}

#[tokio::test]
async fn an_end_whose_log_cannot_be_read_is_told_all_the_same() {
    for fault in [
        Fault::Status(500, "no"),
        Fault::Hang,
        Fault::CutChunks(vec!["x"], Duration::ZERO),
    ] {
        let scene = Scene::new().await;
        let id = scene.create().await.expect("an instance");
        for container in scene.daemon.state().containers.values_mut() {
            container.state = "exited";
        }
        scene.daemon.once(LOGS, fault);
        let ended = scene.engine.ended(id).await.expect("an end");
        assert_eq!(ended.how, "exited with code 0");
        assert!(ended.last_lines.is_empty());
    }
}

#[tokio::test]
async fn a_wait_that_is_cut_is_an_error_and_no_end() {
    let scene = Scene::new().await;
    let id = scene.create().await.expect("an instance");
    for (fault, reason) in [
        (Fault::DoneThenCut, ""),
        (Fault::Status(500, "no"), "no"),
        (Fault::Body(""), "Docker hung up"),
        (Fault::CutChunks(vec![], Duration::ZERO), ""),
    ] {
        for container in scene.daemon.state().containers.values_mut() {
            container.state = "exited";
        }
        let what = format!("{fault:?}");
        scene.daemon.once(WAIT, fault);
        let error = scene.engine.ended(id).await.expect_err(&what).to_string();
        let said = format!("waiting for the container's end failed: {reason}");
        assert!(error.starts_with(&said), "{what}: {error}");
    }
    assert_eq!(scene.asked(INSPECT), 0);
}

/// Everything that a sink was told.
fn recording() -> (ProgressSink, Arc<Mutex<Vec<Progress>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let told = Arc::clone(&told);
        ProgressSink::new(move |step| told.lock().expect("no panic").push(step))
    };
    (sink, told)
}

#[tokio::test]
async fn an_image_that_is_here_is_not_pulled() {
    let scene = Scene::new().await;
    scene
        .engine
        .prepare(&image("17"), &ProgressSink::none())
        .await
        .expect("it is here");
    assert_eq!(scene.daemon.state().routes(), [INSPECT_IMAGE]);
}

#[tokio::test]
async fn a_pull_reports_the_bytes_of_all_layers_and_never_fewer_than_before() {
    let scene = Scene::new().await;
    scene.daemon.state().registry.push("postgres:16".into());
    // What the model would say is replaced by this; the image comes meanwhile.
    scene.daemon.once(
        PULL,
        Fault::Chunks(
            vec![
                "{\"status\":\"Pulling from library/postgres\",\"id\":\"16\"}\r\n",
                "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":10,\"total\":100},\"id\":\"a\"}\r\n",
                "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":5,\"total\":50},\"id\":\"b\"}\r\n",
                "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":1,\"total\":100},\"id\":\"a\"}\r\n",
                "{\"status\":\"Download complete\",\"progressDetail\":{},\"id\":\"a\"}\r\n",
                "{\"status\":\"Extracting\",\"progressDetail\":{\"current\":1,\"total\":400},\"id\":\"a\"}\r\n",
                "{\"status\":\"Pull complete\",\"progressDetail\":{},\"id\":\"b\"}\r\n",
            ],
            Duration::from_millis(110),
        ),
    );
    let (sink, told) = recording();
    let wanted = image("16");
    let arrival = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        scene.daemon.state().images.push("postgres:16".into());
    };
    let (pulled, ()) = tokio::join!(scene.engine.prepare(&wanted, &sink), arrival);
    pulled.expect("pulled");
    let told: Vec<(u64, u64)> = told
        .lock()
        .expect("no panic")
        .iter()
        .map(|step| match step {
            Progress::Pulling {
                done_bytes,
                total_bytes,
                ..
            } => (*done_bytes, *total_bytes),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told.first(), Some(&(0, 0)));
    assert_eq!(told.last(), Some(&(150, 150)));
    assert!(told.is_sorted(), "{told:?}");
    assert!(told.contains(&(15, 150)), "{told:?}");
}

#[tokio::test]
async fn a_pull_that_fails_says_whether_the_image_exists() {
    const NOT_FOUND: [&str; 3] = [
        "manifest for postgres:16 not found: manifest unknown: manifest unknown",
        "failed to resolve reference \"docker.io/library/postgres:16\": docker.io/library/postgres:16: not found",
        "repository 127.0.0.1:5000/postgres not found: name unknown: repository name not known to registry",
    ];
    const NOT_HAD: [&str; 4] = [
        "pull access denied for acme, repository does not exist or may require 'docker login': denied: requested \
         access to the resource is denied",
        "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
        "toomanyrequests: You have reached your pull rate limit",
        "write /var/lib/docker/tmp/x: no space left on device",
    ];
    for (messages, exists) in [(&NOT_FOUND[..], false), (&NOT_HAD[..], true)] {
        for &message in messages {
            let in_stream: &'static str = Box::leak(
                format!(
                    "{}\r\n",
                    json!({ "errorDetail": { "message": message }, "error": message })
                )
                .into(),
            );
            for fault in [
                Fault::Status(404, message),
                Fault::Status(500, message),
                Fault::Body(in_stream),
            ] {
                let scene = Scene::new().await;
                scene.daemon.once(PULL, fault);
                let error = scene
                    .engine
                    .prepare(&image("16"), &ProgressSink::none())
                    .await
                    .expect_err(message);
                match error {
                    EngineError::NoSuchImage { reason, .. } => assert!(!exists && reason == message, "{reason}"),
                    EngineError::Pull { reason, .. } => assert!(exists && reason == message, "{reason}"),
                    error => panic!("{error}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_pull_that_ends_without_the_image_is_an_error() {
    for fault in [
        Fault::Body("{\"error\":\"a word that bollard does not know\"}\r\n"),
        Fault::Body(""),
        Fault::CutChunks(vec!["{\"status\":\"Downloading\"}\r\n"], Duration::ZERO),
        Fault::Body("nonsense\r\n"),
    ] {
        let scene = Scene::new().await;
        let what = format!("{fault:?}");
        scene.daemon.once(PULL, fault);
        let error = scene
            .engine
            .prepare(&image("16"), &ProgressSink::none())
            .await
            .expect_err(&what);
        assert!(
            matches!(error, EngineError::Pull { .. } | EngineError::Request { .. }),
            "{what}: {error}"
        );
    }
}

#[tokio::test]
async fn a_pull_has_a_deadline() {
    let scene = Scene::new().await;
    scene.daemon.once(PULL, Fault::Hang);
    let start = Instant::now();
    let error = scene
        .engine
        .prepare(&image("16"), &ProgressSink::none())
        .await
        .expect_err("no answer");
    assert_eq!(error.to_string(), "pulling the image was not answered within 2 s");
    assert!(
        start.elapsed() >= Duration::from_secs(2),
        "it gave up at another deadline"
    );
}

#[tokio::test]
async fn docker_may_come_up_and_go_down_and_come_up_again() {
    let mut scene = Scene::new().await;
    scene.daemon.stop().await;
    for _ in 0..2 {
        let error = scene.engine.list().await.expect_err("nothing listens");
        let EngineError::Unreachable {
            endpoint,
            reason,
            advice,
        } = error
        else {
            panic!("{error}");
        };
        assert!(endpoint.contains("(from the configuration)"), "{endpoint}");
        assert_eq!(reason, "nothing answers there");
        assert!(!advice.is_empty());
        scene.daemon.restart().await;
        scene.engine.list().await.expect("it listens");
        scene.daemon.stop().await;
    }
}

#[rstest]
#[tokio::test]
async fn a_daemon_that_goes_away_in_the_middle_of_a_create_loses_nothing_once_it_is_back(
    #[values(CREATE, START)] route: &str,
    // The second is longer than it is waited for an answer that may yet come.
    #[values(Duration::from_millis(100), REQUEST_TIMEOUT * 5)] outage: Duration,
) {
    let mut scene = Scene::new().await;
    scene.daemon.once(route, Fault::DoneThenHang);
    {
        let create = scene.create();
        let mut create = std::pin::pin!(create);
        while scene.asked(route) == 0 {
            assert!(
                tokio::time::timeout(Duration::from_millis(1), &mut create)
                    .await
                    .is_err()
            );
        }
    }
    scene.daemon.stop().await;
    tokio::time::sleep(outage).await;
    scene.daemon.restart().await;
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn doctor_names_what_is_wrong_with_docker() {
    let scene = Scene::new().await;
    let lines = scene.engine.diagnose(&image("17")).await;
    let verdicts: Vec<_> = lines.iter().map(|line| (line.subject, line.verdict)).collect();
    assert_eq!(
        verdicts,
        [
            ("Docker", Verdict::Good),
            ("image", Verdict::Good),
            ("network", Verdict::Good),
            ("limits", Verdict::Good),
        ]
    );
    assert!(
        lines[0].detail.contains("version 20.10.24, API 1.41"),
        "{}",
        lines[0].detail
    );

    scene.daemon.state().add_network("dev-postgres-mcp", json!({}));
    scene.daemon.once(
        "GET /version",
        Fault::Body(r#"{"Version":"19.03.1","ApiVersion":"1.40","Os":"linux"}"#),
    );
    scene
        .daemon
        .once("GET /info", Fault::Body(r#"{"MemoryLimit":false,"PidsLimit":true}"#));
    scene.daemon.once(INSPECT_IMAGE, Fault::Status(500, "no"));
    let lines = scene.engine.diagnose(&image("17")).await;
    let verdicts: Vec<_> = lines.iter().map(|line| (line.subject, line.verdict)).collect();
    assert_eq!(
        verdicts,
        [
            ("Docker", Verdict::Bad),
            ("image", Verdict::Bad),
            ("network", Verdict::Bad),
            ("limits", Verdict::Warning),
        ]
    );
    assert!(lines.iter().all(|line| !line.advice.is_empty()), "{lines:?}");

    scene.daemon.once("GET /version", Fault::Hang);
    let lines = scene.engine.diagnose(&image("17")).await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].verdict, Verdict::Bad);
}

#[tokio::test]
async fn an_instance_on_a_remote_daemon_is_published_where_the_daemon_is_reached() {
    let Some(remote) = address_beyond_loopback() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let elsewhere = IpAddr::from([10, 1, 2, 3]);
    for (publish_address, published) in [(None, remote), (Some(elsewhere), elsewhere)] {
        let daemon = ScriptedDaemon::start_on(remote).await;
        let settings = DockerSettings {
            host: Some(daemon.host()),
            publish_address,
            ..DockerSettings::default()
        };
        let engine = DockerEngine::new(settings, Owners::new(None), TaskTracker::new());
        let found = engine
            .create(InstanceId::random(), &wanted(), &owner(), port(), &ProgressSink::none())
            .await
            .expect("an instance")
            .found;
        assert_eq!(found.instance.host, remote.to_string());
        let listed = engine.list().await.expect("a list");
        assert_eq!(listed[0].host, remote.to_string());
        let state = daemon.state();
        let container = state.containers.values().next().expect("its container");
        assert_eq!(
            container.body["HostConfig"]["PortBindings"]["5432/tcp"][0]["HostIp"],
            published.to_string()
        );
    }
}

#[tokio::test]
async fn a_remote_daemon_whose_name_cannot_be_resolved_is_said_so_before_anything_is_made() {
    // Longer than any name may be: no server is asked for it.
    let name = format!("{}.invalid", "x".repeat(64));
    let settings = DockerSettings {
        host: Some(format!("tcp://{name}:2375")),
        ..DockerSettings::default()
    };
    let engine = DockerEngine::new(settings, Owners::new(None), TaskTracker::new());
    let created = engine
        .create(InstanceId::random(), &wanted(), &owner(), port(), &ProgressSink::none())
        .await;
    let error = created.expect_err("there is no such host");
    let EngineError::Unreachable { reason, advice, .. } = &error else {
        panic!("{error}");
    };
    assert!(
        reason.starts_with(&format!("the name {name} can't be resolved: ")),
        "{reason}"
    );
    assert_eq!(advice, "Correct the address, which comes from the configuration.");
}

#[tokio::test]
async fn an_address_that_the_remote_daemon_lacks_is_explained() {
    let scene = Scene::new().await;
    scene.daemon.once(
        START,
        Fault::Status(500, "listen tcp4 10.0.0.7:15999: bind: cannot assign requested address"),
    );
    let error = scene.create().await.expect_err("no such address").to_string();
    assert!(error.contains("configure the publish address"), "{error}");
}

#[tokio::test]
async fn requests_leave_the_choice_of_the_api_version_to_the_daemon() {
    let scene = Scene::new().await;
    scene.create().await.expect("an instance");
    scene.engine.list().await.expect("a list");
    assert!(
        scene
            .daemon
            .state()
            .requests
            .iter()
            .all(|request| request.version.is_none())
    );
}

/// The program on this daemon.
fn environment(daemon: &ScriptedDaemon) -> TestEnvironment {
    TestEnvironment::on(TestEngine::Docker).with("DOCKER_HOST", daemon.host())
}

#[rstest]
#[tokio::test]
async fn a_password_that_docker_quotes_is_in_no_error(#[values(CREATE, START)] route: &str) {
    for (password, status, message) in [
        (PASSWORD, 500, "no: DEV_POSTGRES_MCP_PASSWORD=hunter2 planted"),
        (PASSWORD, 404, "No such image: hunter2 planted"),
        ("planted\"\n", 500, r#"no: ["DEV_POSTGRES_MCP_PASSWORD=planted\"\n"]"#),
        // Whatever is made of Docker's words is made of all of them.
        ("port", 500, "driver failed: port is already allocated"),
    ] {
        let scene = Scene::new().await;
        scene.daemon.once(route, Fault::Status(status, message));
        let error = scene.create_like(&spec("app", "me", password)).await;
        let error = error.expect_err(message);
        let said = format!("{error} {error:?}");
        if password == "port" && route == START {
            assert!(matches!(error, EngineError::PortTaken(_)), "{said}");
        } else {
            assert!(said.contains("[redacted]") && !said.contains("planted"), "{said}");
        }
        scene.assert_nothing_left().await;
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_not_quoted() {
    let scene = Scene::new().await;
    let id = scene.create().await.expect("an instance");
    scene.daemon.once(
        INSPECT,
        Fault::Body(r#"{"Config":{"Env":"DEV_POSTGRES_MCP_PASSWORD=planted"}}"#),
    );
    let error = scene.engine.get(id).await.expect_err("no container");
    let said = format!("{error} {error:?}");
    assert!(said.contains("makes no sense") && !said.contains("planted"), "{said}");
}

#[tokio::test]
async fn a_password_that_docker_quotes_is_in_no_answer_and_no_line_of_the_log() {
    let daemon = ScriptedDaemon::start().await;
    let quotes = Fault::Status(500, "no: DEV_POSTGRES_MCP_PASSWORD=hunter2 planted");
    daemon.once(CREATE, quotes.clone());
    daemon.once(START, quotes);
    let mut session = Session::initialized(&environment(&daemon), &["--log-level", "trace"]).await;
    for _ in [CREATE, START] {
        let error = session
            .fail("create_postgres_instance", json!({ "password": PASSWORD }))
            .await;
        let said = error.to_string();
        assert!(said.contains("[redacted]") && !said.contains("planted"), "{said}");
    }
    let log = session.end().await.log;
    assert!(
        log.contains("creating the container") && !log.contains("planted"),
        "{log}"
    );
}

#[tokio::test]
async fn an_image_that_docker_tells_nothing_of_keeps_no_old_template_from_being_pruned() {
    let scene = Scene::new().await;
    let listed = images(&[
        template("refused", "postgres:1"),
        template("gone", "postgres:2"),
        template("nonsense", "../containers/json?all=1"),
        template("nothing", ""),
    ]);
    for status in [400, 500] {
        scene.daemon.once(LIST_IMAGES, listed.clone());
        scene.daemon.once(INSPECT_IMAGE, Fault::Status(status, "no"));
        assert_eq!(scene.prune(true).await, [template_gone("gone", "postgres:2")]);
    }
    assert_eq!(scene.asked(INSPECT_IMAGE), 4, "what names no image is not asked for");
}

/// A template as Docker lists it. It was made in 2096, which is not long ago.
fn template(key: &str, source: &str) -> Value {
    json!({
        "Id": format!("sha256:{key}"),
        "ParentId": "",
        "RepoTags": [format!("dev-postgres-mcp-template:{key}")],
        "RepoDigests": [],
        "Created": 4_000_000_000_u64,
        "Size": 1,
        "SharedSize": -1,
        "Labels": { "dev-postgres-mcp.template": key, "dev-postgres-mcp.template-of": source },
        "Containers": -1,
    })
}

#[tokio::test]
async fn a_template_is_old_by_the_daemons_clock() {
    let scene = Scene::new().await;
    let day = 24 * 60 * 60;
    let made = |days: i64| {
        let mut template = template("old", "postgres:17");
        // What it was made from is no matter here.
        template["Labels"]["dev-postgres-mcp.template-of"] = json!("no image");
        template["Created"] = json!(4_000_000_000 - days * day);
        images(&[template])
    };
    let old = Pruned {
        kind: "template",
        name: "dev-postgres-mcp-template:old".into(),
        reason: "it is 31 days old".into(),
    };
    // By this machine's clock, none has been made yet.
    scene.daemon.state().system_time = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000));
    for (days, told) in [(31, vec![old]), (29, vec![])] {
        scene.daemon.once(LIST_IMAGES, made(days));
        assert_eq!(scene.prune(true).await, told);
    }
    let untold = Scene::new().await;
    untold.daemon.once(LIST_IMAGES, made(31));
    untold.daemon.once("GET /info", Fault::Status(403, "not for you"));
    assert_eq!(untold.prune(true).await, []);
}

/// What is told of one whose image isn't there.
fn template_gone(key: &str, source: &str) -> Pruned {
    Pruned {
        kind: "template",
        name: format!("dev-postgres-mcp-template:{key}"),
        reason: format!("the image {source} is gone"),
    }
}

/// The images that the daemon lists.
fn images(images: &[Value]) -> Fault {
    Fault::Body(Box::leak(Value::from(images).to_string().into_boxed_str()))
}

/// A container of ours on this image and this network.
fn on(image: &str, network: &str, id: InstanceId, owner: &str) -> Value {
    let labels = json!({
        "dev-postgres-mcp.id": id.to_string(),
        "dev-postgres-mcp.owner": owner,
        "dev-postgres-mcp.template": "k",
    });
    json!({ "Image": image, "Labels": labels, "HostConfig": { "NetworkMode": network } })
}

#[tokio::test]
async fn a_dry_run_leaves_out_the_template_that_an_instance_runs_on_and_no_other() {
    let state = tempfile::tempdir().expect("a folder");
    let ended = Owners::new(Some(state.path())).owner(&Caller::default()).process;
    let scene = Scene::with(Owners::new(Some(state.path()))).await;
    let keys = ["used", "stopped", "of-orphan", "of-over", "free"];
    scene
        .daemon
        .always(LIST_IMAGES, images(&keys.map(|key| template(key, "postgres:2"))));
    let [used, stopped, orphan, over] = [(); 4].map(|()| InstanceId::random());
    {
        let mut state = scene.daemon.state();
        for (id, key, called, runs) in [
            (used, "used", "", "running"),
            (stopped, "stopped", "", "exited"),
            (orphan, "of-orphan", "pool-", "running"),
            (over, "of-over", "", "running"),
        ] {
            let body = on(&format!("sha256:{key}"), "bridge", id, &ended);
            state.add_container(&format!("mcp-postgres-{called}{id}"), body, runs);
        }
    }
    let swept = Pruned {
        kind: "instance",
        name: over.to_string(),
        reason: "its time to live has ended".into(),
    };
    let mut pruned = vec![swept.clone()];
    scene.engine.prune(true, &mut pruned).await.expect("it can be told");
    let server = Pruned {
        kind: "server",
        name: format!("mcp-postgres-pool-{orphan}"),
        reason: "it was started ahead by a process that has ended".into(),
    };
    let gone = ["of-orphan", "of-over", "free"].map(|key| template_gone(key, "postgres:2"));
    assert_eq!(pruned, [&[swept, server][..], &gone[..]].concat());
    // A server goes before its template, which Docker keeps for as long.
    scene.prune(false).await;
    let state = scene.daemon.state();
    let removals: Vec<&str> = state
        .requests
        .iter()
        .filter(|request| request.method == "DELETE")
        .map(|request| request.path.as_str())
        .collect();
    let server = format!("/containers/mcp-postgres-pool-{orphan}");
    assert_eq!(removals[..2], [server.as_str(), "/images/sha256:used"]);
}

#[tokio::test]
async fn what_a_template_was_made_from_goes_with_it_only_if_its_own_name_was_removed() {
    let scene = Scene::new().await;
    let listed = images(&[template("changed", "postgres:17"), template("gone", "postgres:2")]);
    scene.daemon.once(LIST_IMAGES, listed);
    scene.prune(false).await;
    let state = scene.daemon.state();
    let kept: Vec<(&str, bool)> = state
        .requests
        .iter()
        .filter(|request| request.method == "DELETE")
        .map(|request| {
            let keeps_parents = request.query.get("noprune").is_some_and(|value| value == "true");
            (request.path.as_str(), keeps_parents)
        })
        .collect();
    assert_eq!(kept, [("/images/sha256:changed", true), ("/images/sha256:gone", false)]);
}

#[tokio::test]
async fn a_dry_run_names_the_network_that_only_what_it_would_remove_is_on() {
    let scene = Scene::new().await;
    let [over, other] = [(); 2].map(|()| InstanceId::random());
    {
        let mut state = scene.daemon.state();
        let network = state.add_network(
            "dev-postgres-mcp",
            json!({ "dev-postgres-mcp.network": "dev-postgres-mcp" }),
        );
        // Somebody has renamed it: it is removed by its label.
        let body = on("postgres:17", &network, over, "nobody");
        state.add_container("renamed", body, "running");
        let body = on("postgres:17", &network, other, "nobody");
        state.add_container(&format!("mcp-postgres-{other}"), body, "running");
    }
    let swept = |id: InstanceId| Pruned {
        kind: "instance",
        name: id.to_string(),
        reason: "its time to live has ended".into(),
    };
    let mut pruned = vec![swept(over)];
    scene.engine.prune(true, &mut pruned).await.expect("it can be told");
    assert_eq!(pruned, [swept(over)], "another instance is on it");
    let mut pruned = vec![swept(over), swept(other)];
    scene.engine.prune(true, &mut pruned).await.expect("it can be told");
    let network = Pruned {
        kind: "network",
        name: "dev-postgres-mcp".into(),
        reason: "no instance is on it".into(),
    };
    assert_eq!(pruned, [swept(over), swept(other), network]);
}

#[tokio::test]
async fn a_prune_names_all_that_it_removes_and_a_dry_run_names_the_same_and_leaves_it() {
    let state = tempfile::tempdir().expect("a folder");
    let ended = Owners::new(Some(state.path())).owner(&Caller::default()).process;
    let scene = Scene::with(Owners::new(Some(state.path()))).await;
    let id = InstanceId::random().to_string();
    let waiting = format!("mcp-postgres-pool-{id}");
    {
        let mut state = scene.daemon.state();
        let ours = json!({ "dev-postgres-mcp.network": "dev-postgres-mcp" });
        let network = state.add_network("dev-postgres-mcp", ours);
        let labels = json!({ "dev-postgres-mcp.id": id, "dev-postgres-mcp.owner": ended });
        let on_it = json!({ "Labels": labels, "HostConfig": { "NetworkMode": network } });
        state.add_container(&waiting, on_it, "running");
        // Both were made in 1970; one isn't called as we call them.
        let template = json!({ "Labels": { "dev-postgres-mcp.template": "k" } });
        for name in ["dev-postgres-mcp-template-k", "mine"] {
            let container = state.add_container(name, template.clone(), "exited");
            state.containers.get_mut(&container).expect("it was added").created = Some(1);
        }
    }
    let pruned = |kind, name: &str, reason: &str| Pruned {
        kind,
        name: name.into(),
        reason: reason.into(),
    };
    let mut expected = vec![
        pruned("server", &waiting, "it was started ahead by a process that has ended"),
        pruned(
            "container",
            "dev-postgres-mcp-template-k",
            "making a template in it took too long",
        ),
        pruned("network", "dev-postgres-mcp", "no instance is on it"),
    ];
    assert_eq!(scene.prune(true).await, expected);
    assert_eq!((scene.asked(REMOVE), scene.asked(REMOVE_NETWORK)), (0, 0));
    // What is gone is told of, whatever comes then.
    scene.daemon.once(LIST_NETWORKS, Fault::Status(500, "no"));
    let mut gone = Vec::new();
    let error = scene
        .engine
        .prune(false, &mut gone)
        .await
        .expect_err("networks can't be listed");
    assert!(error.to_string().contains("networks"), "{error}");
    assert_eq!(gone, expected[..2]);
    assert_eq!(scene.prune(false).await, expected.split_off(2));
    {
        let state = scene.daemon.state();
        let names: Vec<_> = state.containers.values().map(|container| &container.name).collect();
        assert_eq!(names, ["mine"]);
        assert!(state.networks.is_empty(), "{:?}", state.networks);
    }
    assert_eq!(scene.prune(false).await, []);
}

#[tokio::test]
async fn a_server_that_nobody_has_taken_in_12_hours_by_the_daemons_clock_goes_whoever_owns_it() {
    let scene = Scene::new().await;
    // By this machine's clock, all were made long ago.
    let now = 1_000_000_000;
    let hour = 60 * 60;
    let id = InstanceId::random;
    let (old, younger, untold, instance) = (id(), id(), id(), id());
    let named = |of: &str, id: InstanceId| format!("mcp-postgres-{of}{id}");
    {
        let mut state = scene.daemon.state();
        state.system_time = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(now));
        let now = i64::try_from(now).expect("not soon");
        for (id, name, created) in [
            (old, named("pool-", old), Some(now - 12 * hour - 1)),
            (younger, named("pool-", younger), Some(now - 11 * hour)),
            (untold, named("pool-", untold), None),
            (instance, named("", instance), Some(1)),
        ] {
            let mut labels = labels(id, "2026-07-01T09:00:00Z");
            labels["dev-postgres-mcp.owner"] = json!(format!("{}.{}", InstanceId::random(), InstanceId::random()));
            let container = state.add_container(&name, json!({ "Labels": labels }), "running");
            state.containers.get_mut(&container).expect("it was added").created = created;
        }
        // Times that no daemon tells.
        for created in [0, -1, i64::MIN, i64::MAX] {
            let labels = labels(id(), "2026-07-01T09:00:00Z");
            let name = named(
                "pool-",
                labels["dev-postgres-mcp.id"]
                    .as_str()
                    .expect("text")
                    .parse()
                    .expect("an id"),
            );
            let container = state.add_container(&name, json!({ "Labels": labels }), "running");
            state.containers.get_mut(&container).expect("it was added").created = Some(created);
        }
    }
    let removed = Pruned {
        kind: "server",
        name: named("pool-", old),
        reason: "nobody has taken it in 12 hours".into(),
    };
    assert_eq!(scene.prune(true).await, std::slice::from_ref(&removed));
    let is_there = |name: &str| {
        scene
            .daemon
            .state()
            .containers
            .values()
            .any(|container| container.name == name)
    };
    assert!(is_there(&removed.name));
    scene.engine.recover(false).await.expect("recovered");
    assert!(!is_there(&removed.name));
    assert_eq!(scene.daemon.state().containers.len(), 7);
    assert_eq!(scene.prune(false).await, []);
    assert!(is_there(&named("", instance)));
}

#[tokio::test]
async fn a_server_that_is_assigned_at_the_moment_when_it_would_be_removed_stays_as_the_instance() {
    let scene = Scene::new().await;
    let id = InstanceId::random();
    let container = {
        let mut state = scene.daemon.state();
        let body = json!({ "Labels": labels(id, "2026-07-01T09:00:00Z") });
        let container = state.add_container(&format!("mcp-postgres-pool-{id}"), body, "running");
        state.containers.get_mut(&container).expect("it was added").created = Some(1);
        container
    };
    // It is looked at, and becomes an instance before its removal is asked for.
    scene.daemon.once("GET /info", Fault::Slow(REQUEST_TIMEOUT / 3));
    let assigned = async {
        while scene.asked("GET /info") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut state = scene.daemon.state();
        state.containers.get_mut(&container).expect("it is there").name = format!("mcp-postgres-{id}");
    };
    let (pruned, ()) = tokio::join!(scene.prune(false), assigned);
    assert_eq!(pruned, []);
    assert_eq!(scene.asked(REMOVE), 1, "it was on its way out");
    let listed = scene.engine.list().await.expect("a list");
    assert_eq!(listed.iter().map(|instance| instance.id).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn where_docker_does_not_tell_the_time_the_servers_of_ended_processes_go_all_the_same() {
    let state = tempfile::tempdir().expect("a folder");
    let ended = Owners::new(Some(state.path())).owner(&Caller::default()).process;
    let scene = Scene::with(Owners::new(Some(state.path()))).await;
    let id = InstanceId::random();
    let labels = json!({ "dev-postgres-mcp.id": id.to_string(), "dev-postgres-mcp.owner": ended });
    let name = format!("mcp-postgres-pool-{id}");
    scene
        .daemon
        .state()
        .add_container(&name, json!({ "Labels": labels }), "running");
    scene.daemon.always("GET /info", Fault::Status(403, "not for you"));
    scene.engine.recover(false).await.expect("recovered");
    scene.assert_nothing_left().await;
}

/// What the program prints; the daemon goes on meanwhile.
async fn told(environment: &TestEnvironment, arguments: &[&str]) -> Value {
    let command = environment.command(["--output", "json"].iter().chain(arguments));
    let output = Command::from(command).stdin(Stdio::null()).output().await;
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test]
async fn the_log_says_what_was_removed_and_why() {
    let daemon = ScriptedDaemon::start().await;
    let leaving = InstanceId::random();
    let leaving = {
        let body = json!({ "Labels": labels(leaving, "2026-07-01T09:00:00Z") });
        let mut state = daemon.state();
        state.add_container(&format!("mcp-postgres-{leaving}"), body, "removing")
    };
    let removed = template("gone", "postgres:2");
    daemon.once(LIST_IMAGES, images(&[removed]));
    daemon.once("DELETE /images/sha256:gone", Fault::Body("[]"));
    let environment = environment(&daemon).with("DEV_POSTGRES_MCP_LOG_LEVEL", "info");
    let mut log = String::new();
    // A prune sees nothing through that another command has begun.
    for verb in ["list", "prune"] {
        let command = environment.command(["postgres", verb]);
        let output = Command::from(command).stdin(Stdio::null()).output().await;
        let output = output.expect("it runs");
        log += &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb}: {log}");
    }
    let told = |words: &[&str]| log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(told(&["what was being removed has gone", &leaving]), "{log}");
    let template = [
        "removed a template",
        "dev-postgres-mcp-template:gone",
        "the image postgres:2 is gone",
    ];
    assert!(told(&template), "{log}");
}

#[rstest]
#[tokio::test]
async fn an_instance_ends_by_the_daemons_clock_whatever_this_machines_shows(#[values(true, false)] is_ahead: bool) {
    let (hour, half) = (Duration::from_hours(1), Duration::from_mins(30));
    let clock = if is_ahead {
        SystemTime::now() + hour
    } else {
        SystemTime::now() - hour
    };
    let daemon = ScriptedDaemon::start().await;
    let [over, not_yet] = [(); 2].map(|()| InstanceId::random());
    {
        let mut state = daemon.state();
        state.system_time = Some(clock);
        // By this machine's clock both are over, or neither.
        for (id, end) in [(over, clock - half), (not_yet, clock + half)] {
            let mut labels = labels(id, "2026-07-01T09:00:00Z");
            labels["dev-postgres-mcp.owner"] = json!("nobody");
            let body = json!({ "Labels": labels, "Env": ["DEV_POSTGRES_MCP_PASSWORD=secret"] });
            let container = state.add_container(&format!("mcp-postgres-{id}"), body, "running");
            let added = state.containers.get_mut(&container);
            added.expect("it was added").lease = Some(end);
        }
    }
    let environment = environment(&daemon);
    let pruned = told(&environment, &["postgres", "prune"]).await;
    let of_over = json!([{
        "kind": "instance",
        "name": over.to_string(),
        "reason": "its time to live has ended",
    }]);
    assert_eq!(pruned["removed"], of_over);
    let listed = told(&environment, &["postgres", "list"]).await;
    assert_eq!(
        (&listed["count"], &listed["instances"][0]["id"]),
        (&json!(1), &json!(not_yet.to_string()))
    );
    // What it is given is counted from there, too.
    let extended = told(
        &environment,
        &["postgres", "extend", &not_yet.to_string(), "--ttl", "2h"],
    )
    .await;
    let end = extended["expires_at"].as_str().expect("text");
    let end = humantime::parse_rfc3339(end).expect("a time");
    let left = end.duration_since(clock).expect("it is later");
    assert!(left.abs_diff(hour * 2) < Duration::from_mins(5), "{left:?}");
}
