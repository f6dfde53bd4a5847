//! What a tool call costs in the host itself: JSON-RPC, a bundle and a policy in fresh sandboxes, on an engine that does
//! nothing. Docker and PostgreSQL aside, this is all that a call does.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use dev_postgres_mcp::app::App;
use dev_postgres_mcp::config::{Config, Flags};
use dev_postgres_mcp::engine::{Diagnosis, Ended, Engine, EngineError, Pruned, Waiting};
use dev_postgres_mcp::environment::Environment;
use dev_postgres_mcp::instance::{
    Caller, Created, EngineKind, Found, Image, Instance, InstanceId, InstanceSpec, Lifetime, MemoryKills, Owner,
    Password, Port, ProgressSink, Status, Usage,
};
use dev_postgres_mcp::manager::{InstanceManager, Settings};
use dev_postgres_mcp::mcp::Server;
use dev_postgres_mcp::owner::Owners;
use dev_postgres_mcp::plugins::bundle::{Bundle, Terms};
use dev_postgres_mcp::plugins::cache::Cache;
use dev_postgres_mcp::plugins::{Runtime, Source};
use dev_postgres_mcp_tests::credentials::policy;
use dev_postgres_mcp_tests::guests::{Misdeed, hostile};
use divan::Bencher;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio_util::task::TaskTracker;

/// How many hostile guests there are.
const HOSTILE: usize = 10;
/// More than any message here has, in bytes.
const PIPE_BYTES: usize = 1 << 20;

fn main() {
    divan::main();
}

/// The policy plans nothing here: a create ends with a query, which somebody would have to answer. It is asked twice, may
/// the instance be seen and how is it connected to; with the bundle, that makes three sandboxes.
#[divan::bench(sample_count = 2000, sample_size = 1)]
fn get(bencher: Bencher<'_, '_>) {
    measure(bencher, "get_postgres_instance", |id| json!({ "id": id.to_string() }));
}

/// Two sandboxes: the bundle's, and the policy's for the one instance.
#[divan::bench(sample_count = 2000, sample_size = 1)]
fn list_one(bencher: Bencher<'_, '_>) {
    measure(bencher, "list_postgres_instances", |_| json!({}));
}

/// What [`list_one`] takes beside ten threads that compute without end: as much as sharing the cores explains.
#[divan::bench(sample_count = 200, sample_size = 1)]
fn list_beside_ten_threads(bencher: Bencher<'_, '_>) {
    let ended = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..HOSTILE)
        .map(|_| {
            let ended = Arc::clone(&ended);
            std::thread::spawn(move || while !black_box(&ended).load(Ordering::Relaxed) {})
        })
        .collect();
    measure_on(several_threads(), bencher, "list_postgres_instances", |_| json!({}));
    ended.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("it ends");
    }
}

/// What it takes beside ten hostile guests in the same process: each computes without end, is stopped at its budget, and is
/// called again at once.
#[divan::bench(sample_count = 200, sample_size = 1)]
fn list_beside_ten_guests(bencher: Bencher<'_, '_>) {
    let runtime = several_threads();
    let sandboxes = Arc::new(Runtime::new(Cache::default()).expect("this machine runs WebAssembly"));
    for _ in 0..HOSTILE {
        let sandboxes = Arc::clone(&sandboxes);
        let source = Source {
            name: "villain".into(),
            from: "a benchmark".into(),
            bytes: hostile("tool-bundle", Misdeed::Spin).into(),
            sha256: None,
            settings: serde_json::Map::new(),
        };
        // It spins as soon as it is asked about its settings.
        runtime.spawn(async move {
            loop {
                let loaded = Bundle::load(&sandboxes, &source, &Terms::default()).await;
                assert!(loaded.is_err(), "it is stopped");
            }
        });
    }
    measure_on(runtime, bencher, "list_postgres_instances", |_| json!({}));
}

/// As `mcp serve` runs on: a thread for each core.
fn several_threads() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn measure(bencher: Bencher<'_, '_>, tool: &str, arguments: impl FnOnce(InstanceId) -> Value) {
    // One thread: how long it takes to wake another is the machine's affair.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    measure_on(runtime, bencher, tool, arguments);
}

fn measure_on(
    runtime: tokio::runtime::Runtime,
    bencher: Bencher<'_, '_>,
    tool: &str,
    arguments: impl FnOnce(InstanceId) -> Value,
) {
    let found = found();
    let call = json!({ "name": tool, "arguments": arguments(found.instance.id) });
    let mut client = runtime.block_on(Client::of(OneInstance(found)));
    let answer = runtime.block_on(client.request("tools/call", &call));
    assert!(answer["result"]["structuredContent"].is_object(), "{answer}");
    let line = message("tools/call", &call);
    bencher.bench_local(|| runtime.block_on(client.exchange(&line)));
    // Guests that never end are in it.
    runtime.shutdown_background();
}

/// A client of a server in this process.
struct Client {
    input: WriteHalf<DuplexStream>,
    output: BufReader<ReadHalf<DuplexStream>>,
}

/// One line. The id is always the same: one call follows the other.
fn message(method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string() + "\n"
}

impl Client {
    async fn of(engine: OneInstance) -> Self {
        let nowhere = Flags {
            file: None,
            settings: Vec::new(),
        };
        let config = Config::load(&nowhere, &Environment::default()).expect("the defaults fit");
        let settings = Settings {
            defaults: config.instance.defaults.clone(),
            ports: config.instance.ports,
            ready_timeout: config.instance.ready_timeout,
            pool_size: 0,
            keeps_on_exit: false,
            team: None,
        };
        let policy = policy().await;
        let tracker = TaskTracker::new();
        let provenance = policy.provenance();
        let manager = InstanceManager::new(
            Arc::new(engine),
            Arc::new(policy),
            settings,
            Owners::new(None),
            tracker.clone(),
        );
        let app = App::new(config, &Environment::default());
        let toolbox = app.bundles().await.expect("the tools load").subscribe();
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let (read, write) = tokio::io::split(theirs);
        tokio::spawn(Server::new(toolbox, provenance, manager, Caller::default(), tracker).serve(read, write));
        let (read, write) = tokio::io::split(ours);
        let mut client = Self {
            input: write,
            output: BufReader::new(read),
        };
        let initialize = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": { "name": "bench", "version": "1" },
        });
        client.request("initialize", &initialize).await;
        let initialized = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n";
        client.input.write_all(initialized).await.expect("it reads");
        client
    }

    async fn request(&mut self, method: &str, params: &Value) -> Value {
        let answer = self.exchange(&message(method, params)).await;
        serde_json::from_str(&answer).expect("JSON")
    }

    async fn exchange(&mut self, line: &str) -> String {
        self.input.write_all(line.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        self.output.read_line(&mut answer).await.expect("it answers");
        answer
    }
}

fn found() -> Found {
    Found {
        instance: Instance {
            id: InstanceId::random(),
            engine: EngineKind::Docker,
            container_id: "c0ffee".repeat(10),
            host: "127.0.0.1".into(),
            port: Port::try_from(15432).expect("a port"),
            version: "17".into(),
            database: "postgres".parse().expect("a name"),
            username: "postgres".parse().expect("a name"),
            status: Status::Running,
            created_at: SystemTime::now(),
            owner: None,
            lifetime: Lifetime::Unlimited,
        },
        password: Password::new("s3cret").expect("a password"),
    }
}

/// An engine that has one instance and does nothing.
#[derive(Debug)]
struct OneInstance(Found);

fn nothing() -> EngineError {
    EngineError::Request {
        verb: "doing anything",
        reason: "this engine doesn't".into(),
    }
}

#[async_trait]
impl Engine for OneInstance {
    async fn recover(&self) -> Result<(), EngineError> {
        Ok(())
    }

    async fn default_image(&self, configured: &Image) -> Image {
        configured.clone()
    }

    async fn prepare(&self, _image: &Image, _progress: &ProgressSink) -> Result<bool, EngineError> {
        Err(nothing())
    }

    async fn create(
        &self,
        _id: InstanceId,
        _spec: &InstanceSpec,
        _owner: &Owner,
        _port: Port,
        _progress: &ProgressSink,
    ) -> Result<Created, EngineError> {
        Err(nothing())
    }

    async fn start_ahead(
        &self,
        _id: InstanceId,
        _spec: &InstanceSpec,
        _owner: &Owner,
        _port: Port,
    ) -> Result<Option<Waiting>, EngineError> {
        Ok(None)
    }

    async fn assign(&self, _waiting: Waiting, _spec: &InstanceSpec, _owner: &Owner) -> Result<Created, EngineError> {
        Err(nothing())
    }

    async fn keep(&self, _id: InstanceId, _lifetime: Lifetime) -> Result<(), EngineError> {
        Err(nothing())
    }

    async fn now(&self, _kind: EngineKind) -> Result<SystemTime, EngineError> {
        Ok(SystemTime::now())
    }

    async fn list(&self) -> Result<Vec<Instance>, EngineError> {
        Ok(vec![self.0.instance.clone()])
    }

    async fn get(&self, id: InstanceId) -> Result<Option<Found>, EngineError> {
        Ok((id == self.0.instance.id).then(|| self.0.clone()))
    }

    async fn usage(&self, _id: InstanceId) -> Result<Option<Usage>, EngineError> {
        Err(nothing())
    }

    async fn memory_kills(&self, _id: InstanceId) -> Result<Option<MemoryKills>, EngineError> {
        Ok(None)
    }

    async fn remove(&self, _id: InstanceId) -> Result<bool, EngineError> {
        Err(nothing())
    }

    async fn ended(&self, _id: InstanceId) -> Result<Ended, EngineError> {
        Err(nothing())
    }

    async fn prune(&self, _dry_run: bool) -> Result<Vec<Pruned>, EngineError> {
        Ok(Vec::new())
    }

    async fn diagnose(&self, _image: &Image) -> Vec<Diagnosis> {
        Vec::new()
    }
}
