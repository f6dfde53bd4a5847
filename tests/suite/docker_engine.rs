//! The Docker engine on the real daemon.

use std::time::{Duration, Instant};

use dev_postgres_mcp::engine::Engine;
use dev_postgres_mcp::engine::docker::{DockerEngine, DockerSettings};
use dev_postgres_mcp::instance::*;
use tokio_util::task::TaskTracker;

#[tokio::test(flavor = "multi_thread")]
async fn smoke() {
    let tracker = TaskTracker::new();
    let engine = DockerEngine::new(
        DockerSettings {
            network: "dev-postgres-mcp-smoke".into(),
            ..DockerSettings::default()
        },
        tracker.clone(),
    );
    let image = Image::new("postgres", "17").unwrap();
    engine.prepare(&image, &ProgressSink::none()).await.unwrap();
    let spec = InstanceSpec {
        image,
        database: "my-db \"x\" 'y'".parse().unwrap(),
        username: "us er%/@".parse().unwrap(),
        password: Password::new("p@ss:/w?rd#1 %41'\"\\\nline two").unwrap(),
        limits: Limits::new(512, 1000).unwrap(),
    };
    let start = Instant::now();
    let sink = ProgressSink::new(move |p| eprintln!("{:?} {p}", start.elapsed()));
    let id = InstanceId::random();
    let found = engine
        .create(id, &spec, Port::try_from(15999).unwrap(), &sink)
        .await
        .unwrap();
    eprintln!("created {:?}", start.elapsed());
    loop {
        let r = tokio_postgres::Config::new()
            .host(&found.instance.host)
            .port(found.instance.port.get())
            .user(found.instance.username.as_str())
            .password(found.password.expose())
            .dbname(found.instance.database.as_str())
            .connect(tokio_postgres::NoTls)
            .await;
        match r {
            Ok((c, conn)) => {
                tokio::spawn(conn);
                if c.simple_query("SELECT 1").await.is_ok() {
                    break;
                }
            }
            Err(e) => {
                if start.elapsed() > Duration::from_secs(10) {
                    panic!("{e:?} {:?}", engine.ended(id).await)
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eprintln!("ready {:?}", start.elapsed());
    eprintln!("{:?}", engine.list().await.unwrap());
    let again = engine.get(id).await.unwrap().unwrap();
    assert_eq!(again.instance, found.instance);
    assert_eq!(again.password.expose(), found.password.expose());
    let t = Instant::now();
    assert!(engine.remove(id).await.unwrap());
    eprintln!("removed {:?}", t.elapsed());
    assert!(!engine.remove(id).await.unwrap());
    tracker.close();
    tracker.wait().await;
    eprintln!("network gone {:?}", t.elapsed());
}
