//! The product, as an agent has it: `mcp serve` and JSON-RPC.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{docker_run, query};
use crate::binary::{TestEngine, TestEnvironment};
use crate::docker_cli::docker;
use crate::session::{Remains, Session};

/// What the names of waiting servers in Docker begin with.
const WAITING: &str = "name=mcp-postgres-pool-";
/// How long the pool may take to fill.
const POOL_PATIENCE: Duration = Duration::from_secs(15);
const POOL_LOOK: Duration = Duration::from_millis(100);
/// How long a server that is in the pool may still have to do, and the time in which one is there that can't be seen.
const POOL_READY: Duration = Duration::from_secs(1);
const POOL_UNSEEN: Duration = Duration::from_secs(3);

/// A running server of the product.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) session: Session,
    engine: TestEngine,
    pool: bool,
}

/// A home with an engine; `pool` has servers started ahead.
pub(super) fn environment(engine: TestEngine, pool: bool) -> TestEnvironment {
    TestEnvironment::on(engine).with("DEV_POSTGRES_MCP_POOL_SIZE", if pool { "1" } else { "0" })
}

impl Ours {
    pub(super) async fn start(engine: TestEngine, pool: bool) -> Self {
        Self::start_in(&environment(engine, pool), engine, pool).await
    }

    pub(super) async fn start_in(environment: &TestEnvironment, engine: TestEngine, pool: bool) -> Self {
        Self {
            session: Session::initialized(environment, &[]).await,
            engine,
            pool,
        }
    }

    /// Until the next create is as fast as it gets, and nothing goes on in the background.
    pub(super) async fn settled(&self) {
        match (self.pool, self.engine) {
            (false, _) => {}
            (true, TestEngine::Local) => sleep(POOL_UNSEEN).await,
            (true, TestEngine::Docker) => {
                let begun = Instant::now();
                let waiting = ["ps", "--quiet", "--filter", WAITING, "--filter", "status=running"];
                while docker(&waiting).await.is_empty() && begun.elapsed() < POOL_PATIENCE {
                    sleep(POOL_LOOK).await;
                }
                sleep(POOL_READY).await;
            }
        }
    }

    /// An instance that has answered a query, and how long that took, in milliseconds.
    pub(super) async fn create(&mut self) -> (Value, f64) {
        let begun = Instant::now();
        let created = self.session.succeed("create_postgres_instance", json!({})).await;
        made(&created);
        query::once(text(&created, "dsn")).await.expect("it answers");
        (created, milliseconds(begun))
    }

    /// Drops it; the time in milliseconds.
    pub(super) async fn drop(&mut self, instance: &Value) -> f64 {
        let begun = Instant::now();
        let id = json!({ "id": instance["id"] });
        self.session.succeed("drop_postgres_instance", id).await;
        docker_run::dropped(text(instance, "container_id"));
        milliseconds(begun)
    }

    /// `count` instances at once, until the last has answered a query; the time in milliseconds. They are dropped.
    pub(super) async fn burst(&mut self, count: usize) -> f64 {
        let begun = Instant::now();
        let mut asked = BTreeSet::new();
        let call = json!({ "name": "create_postgres_instance", "arguments": {} });
        for _ in 0..count {
            asked.insert(self.session.ask("tools/call", call.clone()).await);
        }
        let (mut queries, mut instances) = (JoinSet::new(), Vec::new());
        while !asked.is_empty() {
            let message = self.session.next().await;
            if !message["id"].as_u64().is_some_and(|id| asked.remove(&id)) {
                continue;
            }
            let result = &message["result"];
            assert_ne!(result["isError"], true, "a create failed: {message}");
            let created = result["structuredContent"].clone();
            made(&created);
            let dsn = text(&created, "dsn").to_owned();
            queries.spawn(async move { query::once(&dsn).await.expect("it answers") });
            instances.push(created);
        }
        queries.join_all().await;
        let took = milliseconds(begun);
        for instance in &instances {
            self.drop(instance).await;
        }
        took
    }

    /// Memory that its process has resident, in MiB.
    pub(super) fn resident(&self) -> f64 {
        let pid = Pid::from_u32(self.session.pid().expect("it runs"));
        let mut system = System::new().expect("processes can be looked at");
        let memory = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, memory);
        let bytes = system.process(pid).expect("it runs").memory();
        f64::from(u32::try_from(bytes >> 10).expect("it is less than 4 TiB")) / 1024.0
    }

    pub(super) async fn end(self) -> Remains {
        self.session.end().await
    }
}

fn made(created: &Value) {
    // The local engine's go with their environment.
    if created["engine"] == "docker" {
        docker_run::made(text(created, "container_id"));
    }
}

pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().expect("text")
}

pub(super) fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1000.0
}
