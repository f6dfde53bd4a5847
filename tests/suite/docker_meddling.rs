//! Containers that somebody else has made, labelled or changed: what our label makes ours is shown as it is and can be
//! dropped, and nothing else is touched. On the real daemon.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dev_postgres_mcp::engine::EngineError;
use dev_postgres_mcp::instance::{Found, InstanceId, Lifetime, ProgressSink, Status};
use dev_postgres_mcp_tests::binary::{TestEngine, TestEnvironment};
use dev_postgres_mcp_tests::database::connect_when_ready;
use dev_postgres_mcp_tests::docker_cli::{docker, try_docker};
use dev_postgres_mcp_tests::scene::{DockerGround, Scene, any_port};
use dev_postgres_mcp_tests::seeded;
use dev_postgres_mcp_tests::session::Session;
use dev_postgres_mcp_tests::specs::owner;
use rand::RngExt;
use serde_json::{Value, json};

/// How long Docker may take to come round to something.
const PATIENCE: Duration = Duration::from_mins(1);

fn scene() -> Scene<DockerGround> {
    Scene::on(Arc::new(DockerGround::default()))
}

/// What the program says: whether it succeeded, its output and its complaints.
fn run(environment: &TestEnvironment, arguments: &[&str]) -> (bool, Value, String) {
    let output = environment.run(&[&["-o", "json"], arguments].concat());
    (
        output.status.success(),
        serde_json::from_slice(&output.stdout).unwrap_or_default(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// A container that was never started; it goes with the test.
struct Planted(String);

impl Planted {
    async fn create(name: &str, labels: &[(&str, &str)]) -> Self {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut arguments = vec!["create", "--network", "none", "--name", name];
        arguments.extend(labels.iter().flat_map(|label| ["--label", label.as_str()]));
        arguments.extend(["postgres:17", "true"]);
        Self(docker(&arguments).await)
    }

    async fn is_there(&self) -> bool {
        try_docker(&["inspect", "--format", "{{.State.Status}}", &self.0]).await == Ok("created".into())
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        // It may have gone.
        let _ = std::process::Command::new("docker")
            .args(["rm", "--force", "--volumes", &self.0])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn any_name() -> String {
    format!("dev-postgres-mcp-test-{}", InstanceId::random())
}

/// What our labels would say of an instance that somebody else describes.
fn labels<'a>(id: &'a str, owner: &'a str) -> Vec<(&'static str, &'a str)> {
    vec![
        ("dev-postgres-mcp.id", id),
        ("dev-postgres-mcp.version", "17"),
        ("dev-postgres-mcp.database", "app"),
        ("dev-postgres-mcp.username", "me"),
        ("dev-postgres-mcp.port", "15432"),
        ("dev-postgres-mcp.created-at", "2026-11-22T10:00:00Z"),
        ("dev-postgres-mcp.owner", owner),
        ("dev-postgres-mcp.machine", "laptop"),
        ("dev-postgres-mcp.process-id", "4711"),
    ]
}

/// How a process of this environment is called that has ended.
async fn ended_process(environment: &TestEnvironment) -> String {
    // Whoever serves makes the folder that gives processes their names.
    let environment = environment.clone().with("DEV_POSTGRES_MCP_POOL_SIZE", "1");
    let session = Session::initialized(&environment, &[]).await;
    let begun = Instant::now();
    let scope = loop {
        if let Some(scope) = environment.scope() {
            break scope;
        }
        assert!(begun.elapsed() < PATIENCE, "the server takes a name");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(session.end().await.status.success());
    format!("{scope}.{}", InstanceId::random())
}

#[tokio::test]
async fn an_instance_with_broken_labels_is_left_out_with_a_warning_and_dropped_by_its_id() {
    let environment = TestEnvironment::on(TestEngine::Docker);
    let mut planted = Vec::new();
    for (key, value) in [
        ("version", None),
        ("version", Some("17\u{1b}[2J")),
        ("database", None),
        ("database", Some("template0")),
        ("username", Some("pg_x")),
        ("port", None),
        ("port", Some("99999999999999999999")),
        ("created-at", Some("-1")),
        ("created-at", Some("99999-12-31T00:00:00Z")),
        ("", None),
    ] {
        let (id, key) = (InstanceId::random().to_string(), format!("dev-postgres-mcp.{key}"));
        let mut labels = labels(&id, "nobody");
        match value {
            Some(value) => labels
                .iter_mut()
                .filter(|label| label.0 == key)
                .for_each(|label| label.1 = value),
            // Nothing but what makes it ours.
            None if key.ends_with('.') => labels.truncate(1),
            None => labels.retain(|label| label.0 != key),
        }
        planted.push((Planted::create(&any_name(), &labels).await, id.clone()));
    }
    let (succeeded, listed, said) = run(&environment, &["postgres", "list"]);
    assert!(succeeded, "{said}");
    for (_, id) in &planted {
        assert!(!listed.to_string().contains(id), "{listed}");
        assert!(said.contains(id.as_str()), "{id} is warned of: {said}");
    }
    assert!(!said.contains('\u{1b}'), "{said:?}");
    let (succeeded, _, said) = run(&environment, &["postgres", "get", &planted[0].1]);
    assert!(!succeeded);
    let error: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(error["error"]["code"], "failed");
    assert_eq!(
        error["error"]["message"],
        "reading the instance back failed: somebody changed its container: it has no label dev-postgres-mcp.version"
    );

    let mut session = Session::initialized(&environment, &[]).await;
    session
        .succeed("drop_postgres_instance", json!({ "id": planted[0].1 }))
        .await;
    assert!(session.end().await.status.success());
    let mut arguments = vec!["postgres", "drop"];
    arguments.extend(planted[1..].iter().map(|(_, id)| id.as_str()));
    let (succeeded, _, said) = run(&environment, &arguments);
    assert!(succeeded, "{said}");
    for (container, id) in &planted {
        assert!(!container.is_there().await, "{id}");
    }
    let (succeeded, _, said) = run(&environment, &arguments);
    assert!(!succeeded && said.contains("not_found"), "{said}");
}

#[tokio::test]
async fn a_container_without_our_label_is_never_touched_whatever_else_it_has_of_ours() {
    let environment = TestEnvironment::on(TestEngine::Docker);
    let ended = ended_process(&environment).await;
    let ids: Vec<String> = (0..6).map(|_| InstanceId::random().to_string()).collect();
    let (upper, bare) = (ids[4].to_uppercase(), ids[5].replace('-', ""));
    let foreign = [
        Planted::create(&format!("mcp-postgres-{}", ids[0]), &[]).await,
        Planted::create(&format!("mcp-postgres-pool-{}", ids[1]), &[]).await,
        // All labels but the one.
        Planted::create(&format!("mcp-postgres-{}", ids[2]), &labels(&ids[2], &ended)[1..]).await,
        Planted::create(&format!("dev-postgres-mcp-template-{}", &ids[3][..8]), &[]).await,
        // One that is no id, or written as none is.
        Planted::create(&any_name(), &labels("mine", &ended)).await,
        Planted::create(&any_name(), &labels(&upper, &ended)).await,
        Planted::create(&any_name(), &labels(&bare, &ended)).await,
        Planted::create(&any_name(), &labels("", &ended)).await,
        Planted::create(
            &format!("mcp-postgres-pool-{}", InstanceId::random()),
            &labels("mine", &ended),
        )
        .await,
    ];
    let (succeeded, listed, said) = run(&environment, &["postgres", "list"]);
    assert!(succeeded, "{said}");
    for id in &ids {
        assert!(!listed.to_string().contains(id.as_str()), "{listed}");
        for verb in ["get", "drop", "health", "extend"] {
            let (succeeded, _, said) = run(&environment, &["postgres", verb, id]);
            assert!(!succeeded && said.contains("not_found"), "{verb} {id}: {said}");
        }
    }
    let (succeeded, _, said) = run(&environment, &["postgres", "prune"]);
    assert!(succeeded, "{said}");
    let mut session = Session::initialized(&environment, &[]).await;
    session.succeed("list_postgres_instances", json!({})).await;
    assert!(session.end().await.status.success());
    for container in &foreign {
        assert!(container.is_there().await, "{}", container.0);
    }
}

#[tokio::test]
async fn a_damaged_instance_of_a_process_that_has_ended_goes_with_the_next_command() {
    let environment = TestEnvironment::on(TestEngine::Docker);
    let ended = ended_process(&environment).await;
    let [orphan, of_nobody, waiting] = [(); 3].map(|()| InstanceId::random().to_string());
    let mut broken = labels(&orphan, &ended);
    broken.retain(|label| label.0 != "dev-postgres-mcp.port");
    let orphan = Planted::create(&any_name(), &broken).await;
    let of_nobody = Planted::create(&any_name(), &labels(&of_nobody, "nobody")[..7]).await;
    // As a server that waits is labelled, but for the name that somebody has given it.
    let mut without_names = labels(&waiting, &ended);
    without_names.retain(|(key, _)| !key.ends_with("database") && !key.ends_with("username") && !key.ends_with("-at"));
    let waiting = Planted::create(&any_name(), &without_names).await;
    let (succeeded, _, said) = run(&environment, &["postgres", "prune"]);
    assert!(succeeded, "{said}");
    assert!(!orphan.is_there().await && !waiting.is_there().await);
    assert!(of_nobody.is_there().await, "whose it is can't be told");
}

#[tokio::test]
async fn an_instance_whose_superuser_has_overwritten_what_it_is_can_still_be_dropped() {
    let scene = scene();
    let nobody = ProgressSink::none();
    scene
        .engine
        .prepare(&scene.plain().image, &nobody)
        .await
        .expect("prepared");
    let mut overwritten = Vec::new();
    for content in ["nonsense", "{\"password\":\"hush-hush\"}", ""] {
        let spec = scene.spec("app", "me", "hush-hush");
        let waiting = scene
            .engine
            .start_ahead(scene.id(), &spec, &owner(), any_port())
            .await
            .expect("it starts")
            .expect("it can be made ahead");
        let found = scene
            .engine
            .assign(waiting, &spec, &owner())
            .await
            .expect("an instance")
            .found;
        let client = connect_when_ready(&found).await;
        let write = format!("COPY (SELECT '{content}') TO '/dev-postgres-mcp/data/dev-postgres-mcp.json'");
        client.batch_execute(&write).await.expect("a superuser may");
        overwritten.push(found.instance.id);
    }
    let other = scene.another_engine();
    let listed = other.list().await.expect("a list");
    let all = other.list_all().await.expect("a list");
    for id in overwritten {
        assert!(listed.iter().all(|instance| instance.id != id));
        let told = all.iter().find(|instance| instance.id == id).expect("it is there");
        assert_eq!(
            (told.owner.as_ref(), told.lifetime),
            (Some(&owner()), Lifetime::Session)
        );
        let error = other.get(id).await.expect_err("it makes no sense");
        assert!(matches!(error, EngineError::Damaged { .. }), "{error}");
        let said = format!("{error} {error:?}");
        assert!(
            said.contains("dev-postgres-mcp.json") && !said.contains("hush-hush"),
            "{said}"
        );
        assert!(other.remove(id).await.expect("removed"));
    }
    scene.assert_nothing_left().await;
}

async fn status(scene: &Scene<DockerGround>, found: &Found) -> Status {
    let id = found.instance.id;
    let listed = scene.engine.list().await.expect("a list");
    let listed = listed.iter().find(|instance| instance.id == id).expect("listed").status;
    let got = scene.engine.get(id).await.expect("an answer").expect("the instance");
    assert_eq!(got.instance.status, listed);
    listed
}

#[tokio::test]
async fn an_instance_that_docker_restarts_in_vain_is_shown_as_stopped_and_dropped_in_the_middle_of_it() {
    let scene = scene();
    let found = scene.create(scene.plain()).await;
    connect_when_ready(&found).await;
    let container = found.instance.container_id.as_str();
    docker(&["stop", container]).await;
    assert_eq!(status(&scene, &found).await, Status::Stopped);
    docker(&["restart", container]).await;
    assert_eq!(status(&scene, &found).await, Status::Running);
    connect_when_ready(&found).await;
    // From now on it ends at once whenever it is started, and Docker starts it again and again.
    docker(&["update", "--restart", "always", container]).await;
    docker(&["exec", container, "sh", "-c", "rm -r /dev-postgres-mcp/data/global"]).await;
    let ended = [
        "exec",
        "--user",
        "postgres",
        container,
        "sh",
        "-c",
        "kill -QUIT $(head -1 /dev-postgres-mcp/data/postmaster.pid)",
    ];
    docker(&ended).await;
    let begun = Instant::now();
    let state = async || docker(&["inspect", "--format", "{{.State.Status}} {{.RestartCount}}", container]).await;
    loop {
        assert!(begun.elapsed() < PATIENCE, "Docker restarts it");
        let before = state().await;
        let got = scene.engine.get(found.instance.id).await.expect("an answer");
        let listed = scene.engine.list().await.expect("a list");
        // It was between the same two runs all the time.
        if before.starts_with("restarting") && before == state().await {
            assert_eq!(got.expect("the instance").instance.status, Status::Stopped);
            let listed = listed.iter().find(|instance| instance.id == found.instance.id);
            assert_eq!(listed.expect("listed").status, Status::Stopped);
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (one, other) = (scene.engine.remove(found.instance.id), scene.another_engine());
    let (one, other) = tokio::join!(one, other.remove(found.instance.id));
    assert!(one.expect("an answer") | other.expect("an answer"));
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn one_that_was_never_started_or_has_ended_with_an_error_is_shown_as_it_is_and_dropped() {
    let scene = scene();
    let found = scene.create(scene.plain()).await;
    connect_when_ready(&found).await;
    let container = found.instance.container_id.as_str();
    docker(&["kill", "--signal", "KILL", container]).await;
    assert_eq!(status(&scene, &found).await, Status::Stopped);
    // Another that has its labels, which Docker hasn't started: the one with the right name is the instance.
    let image = docker(&["commit", container]).await;
    let copy = docker(&["create", "--network", "none", &image]).await;
    assert_eq!(status(&scene, &found).await, Status::Stopped);
    docker(&["rm", "--force", container]).await;
    assert_eq!(status(&scene, &found).await, Status::Created);
    assert!(scene.engine.remove(found.instance.id).await.expect("removed"));
    assert!(try_docker(&["inspect", &copy]).await.is_err());
    assert!(!scene.engine.remove(found.instance.id).await.expect("an answer"));
    docker(&["rmi", &image]).await;
    // The next instance's end takes the network along.
    let next = scene.create(scene.plain()).await;
    scene.engine.remove(next.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_that_is_dropped_while_it_is_made_is_gone_or_can_be_dropped() {
    let mut rng = seeded::rng();
    let scene = scene();
    for _ in 0..6 {
        let (id, spec, owner, nobody) = (scene.id(), scene.plain(), owner(), ProgressSink::none());
        let create = scene.engine.create(id, &spec, &owner, any_port(), &nobody);
        let other = scene.another_engine();
        let patience = Duration::from_millis(rng.random_range(0..900));
        let drop = async {
            tokio::time::sleep(patience).await;
            other.remove(id).await.expect("an answer")
        };
        let (created, dropped) = tokio::join!(create, drop);
        if created.is_ok() {
            let again = other.remove(id).await.expect("an answer");
            assert!(dropped || again, "what was made is dropped");
        }
        assert!(other.get(id).await.expect("an answer").is_none());
    }
    scene.assert_nothing_left().await;
}
