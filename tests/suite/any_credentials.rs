//! Any database, user and password that validation lets through opens an instance by its DSN.

use std::cell::RefCell;
use std::sync::Arc;

use dev_postgres_mcp::instance::Found;
use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::clients;
use dev_postgres_mcp_tests::credentials::{Credentials, credentials, dsn, policy};
use dev_postgres_mcp_tests::database::connect_when_ready;
use dev_postgres_mcp_tests::local_engine::LocalGround;
use dev_postgres_mcp_tests::scene::Scene;
use dev_postgres_mcp_tests::session::Session;
use dev_postgres_mcp_tests::soak;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use rstest::rstest;
use serde_json::{Value, json};
use tokio_postgres::NoTls;
use tokio_postgres::config::Host;

/// Counterexamples that were found, to be tried first from then on.
const FOUND_BEFORE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/suite/any_credentials.regressions");

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(FOUND_BEFORE))),
        ..Config::default()
    })
}

/// Who and where a client is that goes by a DSN, as tokio-postgres has it.
async fn seen_by_tokio_postgres(dsn: &str) -> Value {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("the DSN connects");
    let connection = tokio::spawn(connection);
    let row = client
        .query_one("SELECT current_user::text, current_database()::text", &[])
        .await
        .expect("a row");
    let seen = json!([row.get::<_, String>(0), row.get::<_, String>(1)]);
    drop(client);
    // It ends with the client; whatever it says then.
    let _ = connection.await;
    seen
}

/// The same as psql has it.
async fn seen_by_psql(dsn: &str) -> Value {
    let query = "SELECT json_build_array(current_user::text, current_database()::text)";
    let mut psql = tokio::process::Command::new("psql");
    psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--command", query, dsn]);
    clients::json(&mut psql).await
}

fn names(credentials: &Credentials) -> Value {
    json!([credentials.username.as_str(), credentials.database.as_str()])
}

async fn an_instance() -> (Scene<LocalGround>, Found) {
    let scene = Scene::on(Arc::new(LocalGround::new()));
    let found = scene.create(scene.spec("app", "the first", "secret")).await;
    (scene, found)
}

/// Gives an instance that is no longer needed back.
async fn drop_it(scene: &Scene<LocalGround>, found: &Found) {
    scene.engine.remove(found.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_dsn_says_to_tokio_postgres_and_libpq_what_went_into_it() {
    let (scene, instance) = an_instance().await;
    let policy = policy().await;
    let (mut runner, strategy) = (runner(0), credentials());
    let mut made = Vec::new();
    for _ in 0..2000 {
        let credentials = strategy.new_tree(&mut runner).expect("credentials").current();
        let dsn = dsn(&policy, &credentials.of(&instance)).await;
        assert!(dsn.bytes().all(|byte| byte.is_ascii_graphic()), "{dsn}");
        made.push((credentials, dsn));
    }
    let port = instance.instance.port.get();
    for (credentials, dsn) in &made {
        let config: tokio_postgres::Config = dsn.parse().unwrap_or_else(|error| panic!("{error}: {dsn}"));
        assert_eq!(config.get_user(), Some(credentials.username.as_str()), "{dsn}");
        assert_eq!(
            config.get_password(),
            Some(credentials.password.expose().as_bytes()),
            "{dsn}"
        );
        assert_eq!(config.get_dbname(), Some(credentials.database.as_str()), "{dsn}");
        assert_eq!(config.get_hosts(), [Host::Tcp("127.0.0.1".into())], "{dsn}");
        assert_eq!(config.get_ports(), [port], "{dsn}");
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let lines: String = made.iter().map(|(_, dsn)| dsn.clone() + "\n").collect();
    std::fs::write(file.path(), lines).expect("it can be written");
    let read = clients::json(clients::python("conninfo.py").arg(file.path())).await;
    let read = read.as_array().expect("an array");
    assert_eq!(read.len(), made.len());
    for ((credentials, dsn), read) in made.iter().zip(read) {
        let said = json!({
            "user": credentials.username.as_str(),
            "password": credentials.password.expose(),
            "dbname": credentials.database.as_str(),
            "host": "127.0.0.1",
            "port": port.to_string(),
        });
        assert_eq!(*read, said, "{dsn}");
    }
    drop_it(&scene, &instance).await;
}

/// One server for all of them: what an instance is given when it is made, this one is given again and again.
#[test]
fn postgresql_takes_any_credentials_and_their_dsn_opens_it() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (scene, instance) = runtime.block_on(an_instance());
    let admin = runtime.block_on(connect_when_ready(&instance));
    let policy = runtime.block_on(policy());
    let sql = |statement: String| runtime.block_on(async { admin.batch_execute(&statement).await });
    sql("CREATE DATABASE spare".into()).expect("a database");
    let (database, number) = (RefCell::new("spare".to_owned()), RefCell::new(0));
    let taken = |name: &str| ["app", "postgres", "template1", "the first"].contains(&name);
    let others = credentials().prop_filter("it is there already", |credentials| {
        !taken(credentials.database.as_str()) && !taken(credentials.username.as_str())
    });
    let outcome = runner(soak::size(200, 2000)).run(&others, |credentials| {
        let new = credentials.database.as_str();
        let role = escape_identifier(credentials.username.as_str());
        if *database.borrow() != new {
            let old = database.replace(new.to_owned());
            let (old, new) = (escape_identifier(&old), escape_identifier(new));
            sql(format!("ALTER DATABASE {old} RENAME TO {new}")).expect("the database's name");
        }
        let verifier = escape_literal(&scram_sha_256(credentials.password.expose().as_bytes()));
        sql(format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD {verifier}")).expect("a role");
        runtime.block_on(async {
            let dsn = dsn(&policy, &credentials.of(&instance)).await;
            assert_eq!(seen_by_tokio_postgres(&dsn).await, names(&credentials), "{dsn}");
            // A process of its own takes ten times as long.
            if *number.borrow() % 10 == 0 {
                assert_eq!(seen_by_psql(&dsn).await, names(&credentials), "{dsn}");
            }
        });
        *number.borrow_mut() += 1;
        sql(format!("DROP ROLE {role}")).expect("it owns nothing");
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    drop(admin);
    runtime.block_on(drop_it(&scene, &instance));
}

#[rstest]
#[case::docker(Docker, 4)]
#[case::local(Local, 20)]
#[tokio::test]
async fn an_instance_with_any_credentials_is_made_and_its_dsn_opens_it(#[case] engine: TestEngine, #[case] cases: u32) {
    let mut session = Session::initialized(&TestEnvironment::on(engine), &[]).await;
    let (mut runner, strategy) = (runner(0), credentials());
    for _ in 0..soak::size(cases, 10 * cases) {
        let credentials = strategy.new_tree(&mut runner).expect("credentials").current();
        let asked = json!({
            "database": credentials.database.as_str(),
            "username": credentials.username.as_str(),
            "password": credentials.password.expose(),
        });
        let created = session.succeed("create_postgres_instance", asked.clone()).await;
        for field in ["database", "username", "password"] {
            assert_eq!(created[field], asked[field]);
        }
        let dsn = created["dsn"].as_str().expect("a DSN");
        assert_eq!(seen_by_tokio_postgres(dsn).await, names(&credentials), "{dsn}");
        assert_eq!(seen_by_psql(dsn).await, names(&credentials), "{dsn}");
        let id = json!({ "id": created["id"] });
        assert_eq!(session.succeed("get_postgres_instance", id.clone()).await["dsn"], dsn);
        session.succeed("drop_postgres_instance", id).await;
    }
}
