//! What every engine does, whatever runs PostgreSQL behind it.
//!
//! Other tests use the same Docker daemon and the same ports at the same time: each scene looks only at what it made.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dev_postgres_mcp::engine::docker::DockerSettings;
use dev_postgres_mcp::engine::{EngineError, Verdict};
use dev_postgres_mcp::instance::{Found, InstanceId, InstanceSpec, Lifetime, Password, Port, ProgressSink, Status};
use dev_postgres_mcp::probe::{self, ProbeError};
use dev_postgres_mcp_tests::database::{connect, connect_when_ready};
use dev_postgres_mcp_tests::local_engine::LocalGround;
use dev_postgres_mcp_tests::scene::{DockerGround, Ground, Scene, any_port};
use dev_postgres_mcp_tests::specs::owner;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rstest::rstest;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Docker,
    Local,
    /// The one that prefers Docker, where there is none.
    AutoWithoutDocker,
}

fn scene(kind: Kind) -> Scene<dyn Ground> {
    let ground: Arc<dyn Ground> = match kind {
        Kind::Docker => Arc::new(DockerGround::with(DockerSettings::default())),
        Kind::Local => Arc::new(LocalGround::new()),
        Kind::AutoWithoutDocker => Arc::new(LocalGround::without_docker()),
    };
    Scene::on(ground)
}

async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.expect("a row").get(0)
}

/// Who and where a client is.
async fn whereabouts(client: &Client) -> (String, String) {
    (
        text(client, "SELECT current_database()::text").await,
        text(client, "SELECT current_user::text").await,
    )
}

#[rstest]
#[tokio::test]
async fn an_instance_answers_is_found_again_by_another_process_and_goes_without_a_trace(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = scene(kind);
    let wanted = scene.spec("my-db \"x\" 'y'", "us er%/@ü", "p@ss:/w?rd#1 %41'\"\\");
    let mut found = scene.create(wanted.clone()).await;
    let id = found.instance.id;
    assert_eq!(found.instance.lifetime, Lifetime::Session, "until it is kept");
    scene.engine.keep(id, Lifetime::Unlimited).await.expect("kept");
    found.instance.lifetime = Lifetime::Unlimited;
    let client = connect_when_ready(&found).await;
    assert_eq!(
        whereabouts(&client).await,
        ("my-db \"x\" 'y'".into(), "us er%/@ü".into())
    );
    assert_eq!(text(&client, "SHOW server_encoding").await, "UTF8");

    let other = scene.another_engine();
    let again = other.get(id).await.expect("an answer").expect("the instance");
    assert_eq!(again.instance, found.instance);
    assert_eq!(again.password.expose(), wanted.password.expose());
    assert!(other.list().await.expect("a list").contains(&found.instance));

    assert!(scene.engine.remove(id).await.expect("removed"));
    assert!(!scene.engine.remove(id).await.expect("an answer"));
    assert!(other.get(id).await.expect("an answer").is_none());
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn an_id_that_no_instance_has_is_neither_found_nor_removed(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = scene(kind);
    let id = InstanceId::random();
    assert!(scene.engine.get(id).await.expect("an answer").is_none());
    assert!(!scene.engine.remove(id).await.expect("an answer"));
    assert!(
        scene
            .engine
            .list()
            .await
            .expect("a list")
            .iter()
            .all(|instance| instance.id != id)
    );
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn whatever_postgresql_takes_for_a_name_is_taken_for_a_database_and_a_user(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = Arc::new(scene(kind));
    let long = "ü".repeat(31) + "x";
    let mut creates = JoinSet::new();
    for (database, username) in [
        ("postgres", "postgres"),
        ("template1", "renamer"),
        ("--help", "--version"),
        ("a\nb; DROP TABLE x", "O'Neil \\ \"$1\" %s"),
        (&*long, &*long),
        ("..", "ENCODING"),
    ] {
        let (scene, spec) = (Arc::clone(&scene), scene.spec(database, username, "secret"));
        creates.spawn(async move {
            let found = scene.create(spec.clone()).await;
            let client = connect_when_ready(&found).await;
            let (database, username) = (spec.database.as_str().to_owned(), spec.username.as_str().to_owned());
            assert_eq!(whereabouts(&client).await, (database, username));
            // Nobody else is left over from the start.
            let roles = "SELECT string_agg(rolname, ',') FROM pg_roles WHERE rolname !~ '^pg_' AND rolsuper";
            assert_eq!(text(&client, roles).await, spec.username.as_str());
            let again = scene.engine.get(found.instance.id).await.expect("an answer");
            assert_eq!(again.expect("the instance").instance, found.instance);
            scene.engine.remove(found.instance.id).await.expect("removed");
        });
    }
    creates.join_all().await;
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn any_password_opens_its_instance_and_only_that_one_does(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = Arc::new(scene(kind));
    let verifier = "SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:\
                    47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let long = "x".repeat(1024);
    let mut logins = JoinSet::new();
    for password in [
        "two\nlines\r\n",
        "md5d41d8cd98f00b204e9800998ecf8427e",
        verifier,
        &long,
        " ",
        "🔑 ü",
    ] {
        let (scene, password) = (Arc::clone(&scene), password.to_owned());
        logins.spawn(async move {
            let found = scene.create(scene.spec("app", "me", &password)).await;
            connect_when_ready(&found).await;
            let again = scene.engine.get(found.instance.id).await.expect("an answer");
            assert_eq!(again.expect("the instance").password.expose(), password);
            let error = connect(&found, "wrong").await.expect_err("a wrong password");
            assert_eq!(error.code().map(SqlState::code), Some("28P01"), "{error}");
            let stranger = Found {
                password: Password::new("wrong").expect("a password"),
                ..found.clone()
            };
            let refused = probe::query(&stranger, Duration::from_secs(30)).await;
            assert!(
                matches!(&refused, Err(ProbeError::Refused(reason)) if reason.contains("28P01")),
                "{refused:?}"
            );
            scene.engine.remove(found.instance.id).await.expect("removed");
        });
    }
    logins.join_all().await;
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn an_instance_is_fast_unless_it_is_to_be_durable(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = scene(kind);
    for (durable, expected) in [(false, "off off on"), (true, "on on on")] {
        let spec = InstanceSpec {
            durable,
            ..scene.plain()
        };
        let found = scene.create(spec).await;
        let client = connect_when_ready(&found).await;
        let settings = "SELECT concat_ws(' ', current_setting('fsync'), current_setting('full_page_writes'), \
                        current_setting('synchronous_commit'))";
        assert_eq!(text(&client, settings).await, expected, "durable = {durable}");
        scene.engine.remove(found.instance.id).await.expect("removed");
    }
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn a_port_that_somebody_holds_is_said_to_be_taken_and_leaves_nothing(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = scene(kind);
    let on_loopback = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let on_every_address = TcpListener::bind("0.0.0.0:0").await.expect("a port");
    let of = |listener: &TcpListener| Port::try_from(listener.local_addr().expect("the port").port()).expect("a port");
    let by_instance = scene.create(scene.plain()).await;
    for port in [of(&on_loopback), of(&on_every_address), by_instance.instance.port] {
        let id = scene.id();
        let error = scene
            .engine
            .create(id, &scene.plain(), &owner(), port, &ProgressSink::none())
            .await
            .expect_err("a taken port");
        assert!(
            matches!(error, EngineError::PortTaken(taken) if taken == port),
            "{error}"
        );
        assert!(scene.engine.get(id).await.expect("an answer").is_none());
    }
    connect_when_ready(&by_instance).await;
    scene.engine.remove(by_instance.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn the_end_of_an_instance_comes_with_its_exit_code_and_log(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = scene(kind);
    let found = scene.create(scene.plain()).await;
    connect_when_ready(&found).await;
    let id = found.instance.id;
    let (awaited, ()) = tokio::join!(scene.engine.ended(id), scene.ground.stop(&found.instance));
    // Whoever asks later is told the same.
    for ended in [awaited, scene.engine.ended(id).await] {
        let ended = ended.expect("an end");
        assert_eq!(ended.how, "exited with code 0");
        assert!(
            ended.last_lines.last().is_some_and(|line| line.contains("shut down")),
            "{:?}",
            ended.last_lines
        );
    }
    scene.engine.remove(id).await.expect("removed");
    assert_eq!(scene.engine.ended(id).await.expect("an end").how, "was removed");
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn an_instance_whose_server_was_killed_is_shown_as_stopped_and_removed(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = scene(kind);
    let found = scene.create(scene.plain()).await;
    connect_when_ready(&found).await;
    let id = found.instance.id;
    scene.ground.kill(&found.instance).await;
    for engine in [&scene.engine, &scene.another_engine()] {
        let listed = engine.list().await.expect("a list");
        let listed = listed.iter().find(|instance| instance.id == id).expect("listed");
        assert_eq!(listed.status, Status::Stopped);
        let got = engine.get(id).await.expect("an answer").expect("the instance");
        assert_eq!(got.instance.status, Status::Stopped);
        engine.ended(id).await.expect("an end");
    }
    assert!(scene.engine.remove(id).await.expect("removed"));
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn an_instance_that_is_removed_twice_at_once_is_gone_for_both(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = scene(kind);
    let found = scene.create(scene.plain()).await;
    let id = found.instance.id;
    let other = scene.another_engine();
    let (one, two, ended) = tokio::join!(scene.engine.remove(id), other.remove(id), scene.engine.ended(id));
    assert!(one.expect("an answer") | two.expect("an answer"));
    ended.expect("an end");
    assert!(other.get(id).await.expect("an answer").is_none());
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn two_processes_may_create_list_and_remove_at_once(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = scene(kind);
    let other = scene.another_engine();
    // Each round begins and ends with nothing that instances share, so the two make and remove it against each other.
    for _ in 0..3 {
        let round = async |engine| {
            let mut found: Found = scene.create_by(engine, scene.plain()).await;
            engine.keep(found.instance.id, Lifetime::Unlimited).await.expect("kept");
            found.instance.lifetime = Lifetime::Unlimited;
            let listed = engine.list().await.expect("a list");
            assert!(listed.contains(&found.instance), "{listed:?}");
            let in_order = |pair: &[_]| {
                let [one, next]: &[dev_postgres_mcp::instance::Instance; 2] = pair.try_into().expect("two");
                (one.created_at, one.id) < (next.created_at, next.id)
            };
            assert!(listed.windows(2).all(in_order), "oldest first: {listed:?}");
            assert!(engine.remove(found.instance.id).await.expect("removed"));
        };
        tokio::join!(round(&scene.engine), round(&other), round(&scene.engine), round(&other));
    }
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn a_create_dropped_at_any_moment_leaves_nothing(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let seed = rand::rng().random();
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let scene = Arc::new(scene(kind));
    for _ in 0..6 {
        let mut creates = JoinSet::new();
        for _ in 0..4 {
            let patience = Duration::from_millis(rng.random_range(0..700));
            let scene = Arc::clone(&scene);
            creates.spawn(async move {
                let (id, wanted, owner, progress) = (scene.id(), scene.plain(), owner(), ProgressSink::none());
                let create = scene.engine.create(id, &wanted, &owner, any_port(), &progress);
                if let Ok(Ok(_)) = tokio::time::timeout(patience, create).await {
                    scene.engine.remove(id).await.expect("removed");
                }
            });
        }
        creates.join_all().await;
    }
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn a_kept_instance_outlives_the_process_that_made_it(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = scene(kind);
    let found = scene
        .create_and_die(async |engine, found| engine.keep(found.instance.id, Lifetime::Unlimited).await.expect("kept"))
        .await;
    let id = found.instance.id;
    let listed = scene.engine.list().await.expect("a list");
    let kept = dev_postgres_mcp::instance::Instance {
        lifetime: Lifetime::Unlimited,
        ..found.instance
    };
    assert!(listed.contains(&kept), "{listed:?}");
    let again = scene.engine.get(id).await.expect("an answer").expect("the instance");
    connect_when_ready(&again).await;
    scene
        .engine
        .keep(id, Lifetime::Unlimited)
        .await
        .expect("kept once more");
    assert!(scene.engine.remove(id).await.expect("removed"));
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn an_image_that_is_there_is_the_default_and_is_prepared_at_once(
    #[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind,
) {
    let scene = scene(kind);
    let image = scene.ground.image();
    assert_eq!(scene.engine.default_image(&image).await, image);
    let told = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    for _ in 0..2 {
        let note = Arc::clone(&told);
        let progress = ProgressSink::new(move |step| {
            note.lock().expect("no panic").insert(step.to_string());
        });
        told.lock().expect("no panic").clear();
        scene.engine.prepare(&image, &progress).await.expect("prepared");
    }
    assert!(
        told.lock().expect("no panic").is_empty(),
        "nothing is to be done the second time: {told:?}"
    );
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn doctor_finds_nothing_wrong_here(#[values(Kind::Docker, Kind::Local, Kind::AutoWithoutDocker)] kind: Kind) {
    let scene = scene(kind);
    let lines = scene.engine.diagnose(&scene.ground.image()).await;
    assert!(!lines.is_empty());
    assert!(lines.iter().all(|line| line.verdict != Verdict::Bad), "{lines:?}");
    scene.assert_nothing_left().await;
}
