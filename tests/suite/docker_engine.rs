//! What only the Docker engine does, on the real daemon; `engines.rs` has what it shares with others.
//!
//! Other tests use the same daemon at the same time: each test here has a network of its own and looks only at the
//! containers that it made.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use dev_postgres_mcp::engine::docker::DockerSettings;
use dev_postgres_mcp::engine::{EngineError, Verdict};
use dev_postgres_mcp::instance::{Found, Image, InstanceSpec, Progress, ProgressSink, Status};
use dev_postgres_mcp_tests::address_beyond_loopback;
use dev_postgres_mcp_tests::database::connect_when_ready;
use dev_postgres_mcp_tests::docker_cli::{docker, pause, socket, try_docker};
use dev_postgres_mcp_tests::registry::Registry;
use dev_postgres_mcp_tests::scene::{DockerGround, Scene};
use dev_postgres_mcp_tests::specs::spec;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// An engine with a network of its own.
fn scene() -> Scene<DockerGround> {
    Scene::on(Arc::new(DockerGround::default()))
}

fn plain() -> InstanceSpec {
    spec("app", "me", "secret")
}

async fn inspect(found: &Found) -> Value {
    let text = docker(&["inspect", &found.instance.container_id]).await;
    let mut inspected: Value = serde_json::from_str(&text).expect("JSON");
    inspected[0].take()
}

#[tokio::test]
async fn an_instance_has_no_more_rights_and_resources_than_it_needs_and_no_volume() {
    let scene = scene();
    let found = scene.create(plain()).await;
    connect_when_ready(&found).await;
    let inspected = inspect(&found).await;
    let host = &inspected["HostConfig"];
    assert_eq!(host["Memory"], 512 << 20);
    assert_eq!(host["MemorySwap"], 512 << 20);
    assert_eq!(host["NanoCpus"], 1_000_000_000);
    assert_eq!(host["PidsLimit"], 256);
    assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
    assert_eq!(host["SecurityOpt"], serde_json::json!(["no-new-privileges"]));
    assert_eq!(host["RestartPolicy"]["Name"], "no");
    assert_eq!(host["LogConfig"]["Config"]["max-size"], "10m");
    for bindings in inspected["NetworkSettings"]["Ports"]
        .as_object()
        .expect("ports")
        .values()
    {
        for binding in bindings.as_array().expect("bindings") {
            assert_eq!(binding["HostIp"], "127.0.0.1");
        }
    }
    let mounts = inspected["Mounts"].as_array().expect("mounts");
    assert!(
        mounts.iter().all(|mount| mount["Type"] == "tmpfs"),
        "a volume would outlive the container: {mounts:?}"
    );
    let everything_but_inspect = docker(&["ps", "-a", "--no-trunc", "--format", "{{json .}}"]).await;
    assert!(!everything_but_inspect.contains("secret"), "{everything_but_inspect}");
    scene.engine.remove(found.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn data_dies_with_the_container_even_if_somebody_else_removes_it_without_its_volumes() {
    let scene = scene();
    let found = scene.create(plain()).await;
    connect_when_ready(&found).await;
    let mounts = inspect(&found).await["Mounts"].take();
    assert!(
        mounts
            .as_array()
            .expect("mounts")
            .iter()
            .all(|mount| mount["Name"].is_null()),
        "a volume would be left: {mounts}"
    );
    docker(&["rm", "-f", &found.instance.container_id]).await;
    assert!(!scene.engine.remove(found.instance.id).await.expect("an answer"));
    assert_eq!(
        scene.engine.ended(found.instance.id).await.expect("an end").how,
        "was removed"
    );
    // The next instance's end takes the network along.
    let next = scene.create(plain()).await;
    scene.engine.remove(next.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn instances_that_were_paused_stopped_or_renamed_are_shown_as_they_are_and_removed() {
    let scene = scene();
    let (paused, stopped, renamed) = tokio::join!(scene.create(plain()), scene.create(plain()), scene.create(plain()));
    pause(&paused.instance.container_id).await;
    docker(&["kill", &stopped.instance.container_id]).await;
    let name = format!("renamed-{}", renamed.instance.id);
    docker(&["rename", &renamed.instance.container_id, &name]).await;
    for (found, status) in [
        (&paused, Status::Paused),
        (&stopped, Status::Stopped),
        (&renamed, Status::Running),
    ] {
        let id = found.instance.id;
        let listed = scene.engine.list().await.expect("a list");
        let listed = listed.iter().find(|instance| instance.id == id).expect("listed");
        assert_eq!(listed.status, status);
        let got = scene.engine.get(id).await.expect("an answer").expect("the instance");
        assert_eq!(got.instance.status, status);
        assert!(scene.engine.remove(id).await.expect("removed"));
    }
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn instances_cannot_reach_each_other() {
    let scene = scene();
    let (one, other) = tokio::join!(scene.create(plain()), scene.create(plain()));
    connect_when_ready(&other).await;
    let inspected = inspect(&other).await;
    let address = inspected["NetworkSettings"]["Networks"][scene.ground.network()]["IPAddress"]
        .as_str()
        .expect("its address")
        .to_owned();
    let probe = |address: &str| format!("exec 3<>/dev/tcp/{address}/5432 && echo open");
    // It reaches its own address so.
    let own = docker(&["exec", &other.instance.container_id, "bash", "-c", &probe(&address)]).await;
    assert_eq!(own, "open");
    let probe = format!("timeout 2 bash -c '{}'", probe(&address));
    let reached = try_docker(&["exec", &one.instance.container_id, "bash", "-c", &probe]).await;
    assert!(reached.is_err(), "one instance reached another: {reached:?}");
    let (one, other) = tokio::join!(
        scene.engine.remove(one.instance.id),
        scene.engine.remove(other.instance.id)
    );
    assert!(one.expect("removed") && other.expect("removed"));
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_reaches_neither_docker_nor_what_listens_on_this_machines_loopback() {
    let scene = scene();
    let (one, other) = tokio::join!(scene.create(plain()), scene.create(plain()));
    let client = connect_when_ready(&one).await;
    connect_when_ready(&other).await;
    // As a Docker that listens on TCP does where it is set up with sense.
    let docker_stand_in = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let local_port = docker_stand_in.local_addr().expect("the port").port();
    let network = inspect(&one).await["NetworkSettings"]["Networks"][scene.ground.network()].take();
    let (own, gateway) = (&network["IPAddress"], &network["Gateway"]);
    let (own, gateway) = (
        own.as_str().expect("its address"),
        gateway.as_str().expect("the machine's"),
    );
    // As the superuser would do it, who may run programs there.
    let reaches = async |address: &str, port: u16| {
        let probe = format!("timeout 2 bash -c \"exec 3<>/dev/tcp/{address}/{port}\"");
        client
            .batch_execute(&format!("COPY (SELECT 1) TO PROGRAM '{probe}'"))
            .await
    };
    reaches(own, 5432).await.expect("it reaches itself, so the probe works");
    for port in [other.instance.port.get(), one.instance.port.get(), local_port] {
        for address in [gateway, "127.0.0.1"] {
            reaches(address, port)
                .await
                .expect_err("it is this machine's loopback alone");
        }
    }
    for socket in [
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
    ] {
        let there = client
            .batch_execute(&format!(
                "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; test ! -e {socket}'"
            ))
            .await;
        there.unwrap_or_else(|error| panic!("{socket} is in the container: {error}"));
    }
    for found in [one, other] {
        scene.engine.remove(found.instance.id).await.expect("removed");
    }
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_remote_daemon_publishes_on_the_address_where_it_is_reached_and_nowhere_else() {
    let Some(remote) = address_beyond_loopback() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let Some(socket) = socket().await else { return };
    let address = forward(remote, socket).await;
    let scene = Scene::on(Arc::new(DockerGround::with(DockerSettings {
        host: Some(format!("tcp://{address}")),
        ..DockerSettings::default()
    })));
    let found = scene.create(plain()).await;
    assert_eq!(found.instance.host, remote.to_string());
    connect_when_ready(&found).await;
    let port = found.instance.port.get();
    assert!(
        TcpStream::connect(("127.0.0.1", port)).await.is_err(),
        "it is published on other addresses, too"
    );
    scene.engine.remove(found.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

/// Forwards TCP connections to Docker's socket, until the test ends.
async fn forward(address: IpAddr, socket: String) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).await.expect("a port");
    let bound = listener.local_addr().expect("the port");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                if let Ok(mut docker) = UnixStream::connect(socket).await {
                    // Either side may hang up whenever it likes.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut docker).await;
                }
            });
        }
    });
    bound
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_here() {
    let scene = scene();
    let lines = scene.engine.diagnose(&plain().image).await;
    let subjects: Vec<&str> = lines.iter().map(|line| line.subject).collect();
    assert_eq!(subjects[..3], ["Docker", "image", "network"]);
    assert!(lines.iter().all(|line| line.verdict != Verdict::Bad), "{lines:?}");
}

#[tokio::test]
async fn a_missing_image_is_pulled_from_its_registry_and_an_unknown_tag_is_no_such_image() {
    let scene = scene();
    let Some(registry) = Registry::start().await else {
        return;
    };
    let repository = format!("{}/postgres", registry.address());
    let copy = format!("{repository}:17");
    docker(&["tag", "postgres:17", &copy]).await;
    docker(&["push", "-q", &copy]).await;
    docker(&["rmi", &copy]).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let progress = {
        let told = Arc::clone(&told);
        ProgressSink::new(move |step| told.lock().expect("no panic").push(step))
    };
    let image = Image::new(&repository, "17").expect("an image");
    scene.engine.prepare(&image, &progress).await.expect("pulled");
    let told = told.lock().expect("no panic").clone();
    assert!(matches!(told.first(), Some(Progress::Pulling { .. })), "{told:?}");
    let found = scene
        .create(InstanceSpec {
            image: image.clone(),
            ..plain()
        })
        .await;
    scene.engine.remove(found.instance.id).await.expect("removed");
    docker(&["rmi", &image.to_string()]).await;

    let unknown = Image::new(&repository, "99").expect("an image");
    let error = scene.engine.prepare(&unknown, &progress).await.expect_err("unknown");
    assert!(matches!(error, EngineError::NoSuchImage { .. }), "{error}");
    let unknown = Image::new(&format!("{repository}-unknown"), "17").expect("an image");
    let error = scene.engine.prepare(&unknown, &progress).await.expect_err("unknown");
    assert!(matches!(error, EngineError::NoSuchImage { .. }), "{error}");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached_is_said_so() {
    let scene = scene();
    // The discard port: nothing listens there.
    let image = Image::new("127.0.0.1:9/postgres", "17").expect("an image");
    let error = scene
        .engine
        .prepare(&image, &ProgressSink::none())
        .await
        .expect_err("no registry");
    assert!(matches!(error, EngineError::Pull { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}
