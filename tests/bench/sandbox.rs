//! What a tool call costs in the host itself: JSON-RPC, a bundle and a policy in fresh sandboxes, on an engine that does
//! nothing. Docker and PostgreSQL aside, this is all that a call does.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dev_postgres_mcp::app::App;
use dev_postgres_mcp::config::{Config, Flags};
use dev_postgres_mcp::engine::Engine as _;
use dev_postgres_mcp::engine::pretended::PretendedEngine;
use dev_postgres_mcp::environment::Environment;
use dev_postgres_mcp::instance::{Caller, InstanceId, Lifetime, Port, ProgressSink};
use dev_postgres_mcp::manager::{InstanceManager, Settings};
use dev_postgres_mcp::mcp::Server;
use dev_postgres_mcp::owner::Owners;
use dev_postgres_mcp::plugins::bundle::{Bundle, Terms};
use dev_postgres_mcp::plugins::cache::Cache;
use dev_postgres_mcp::plugins::provenance::{Provenance, State};
use dev_postgres_mcp::plugins::{Runtime, Source};
use dev_postgres_mcp_tests::credentials::policy;
use dev_postgres_mcp_tests::guests::puppet;
use dev_postgres_mcp_tests::specs::{owner, spec};
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

/// What [`list_one`] asks the host to do: the difference is what a call through a bundle costs, JSON-RPC included.
#[divan::bench(sample_count = 2000, sample_size = 1)]
fn list_asked_of_the_host(bencher: Bencher<'_, '_>) {
    let runtime = one_thread();
    let (manager, _, _) = runtime.block_on(async { manager(one_instance().await.0).await });
    let caller = Caller::default();
    bencher.bench_local(|| runtime.block_on(manager.list(&caller)).expect("the policy allows it"));
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

/// What it takes beside ten hostile guests in the same process: each computes without end when it is called, is stopped at
/// its budget, and is called again at once; one that is switched off for that is loaded anew.
#[divan::bench(sample_count = 200, sample_size = 1)]
fn list_beside_ten_guests(bencher: Bencher<'_, '_>) {
    let runtime = several_threads();
    let sandboxes = Arc::new(Runtime::new(Cache::default()).expect("this machine runs WebAssembly"));
    let (manager, _, _) = runtime.block_on(async { manager(one_instance().await.0).await });
    for _ in 0..HOSTILE {
        let (sandboxes, manager) = (Arc::clone(&sandboxes), manager.clone());
        let source = Source {
            name: "villain".into(),
            from: "a benchmark".into(),
            bytes: puppet().into(),
            sha256: None,
            settings: serde_json::Map::new(),
        };
        runtime.spawn(async move {
            let arguments = serde_json::Map::from_iter([("deeds".to_owned(), json!(["spin"]))]);
            loop {
                let villain = Bundle::load(&sandboxes, &source, &Terms::default()).await;
                let villain = villain.expect("it looks harmless");
                let tool = &villain.tools()[0];
                while villain.provenance().state == State::Serving {
                    let call = villain.call(
                        tool,
                        arguments.clone(),
                        &manager,
                        Caller::default(),
                        ProgressSink::none(),
                    );
                    assert!(call.await.is_err(), "it is stopped");
                }
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
    measure_on(one_thread(), bencher, tool, arguments);
}

/// How long it takes to wake another is the machine's affair.
fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn measure_on(
    runtime: tokio::runtime::Runtime,
    bencher: Bencher<'_, '_>,
    tool: &str,
    arguments: impl FnOnce(InstanceId) -> Value,
) {
    let (engine, id) = runtime.block_on(one_instance());
    let call = json!({ "name": tool, "arguments": arguments(id) });
    let mut client = runtime.block_on(Client::of(engine));
    let answer = runtime.block_on(client.request("tools/call", &call));
    assert!(answer["result"]["structuredContent"].is_object(), "{answer}");
    let line = message("tools/call", &call);
    bencher.bench_local(|| runtime.block_on(client.exchange(&line)));
    // Guests that never end are in it.
    runtime.shutdown_background();
}

/// An engine that does nothing, with one instance.
async fn one_instance() -> (PretendedEngine, InstanceId) {
    let (engine, id) = (PretendedEngine::default(), InstanceId::random());
    let (spec, port) = (
        spec("postgres", "postgres", "s3cret"),
        Port::try_from(15432).expect("a port"),
    );
    engine
        .create(id, &spec, &owner(), port, &ProgressSink::none())
        .await
        .expect("it only says so");
    engine.keep(id, Lifetime::Unlimited).await.expect("it is there");
    (engine, id)
}

/// The way to an engine's instances, under the built-in policy; that policy, and who ends with it.
async fn manager(engine: PretendedEngine) -> (InstanceManager, Provenance, TaskTracker) {
    let config = defaults();
    let settings = Settings {
        defaults: config.instance.defaults,
        ports: config.instance.ports,
        ready_timeout: config.instance.ready_timeout,
        pool_size: 0,
        keeps_on_exit: false,
        team: None,
    };
    let (policy, tracker) = (policy().await, TaskTracker::new());
    let provenance = policy.provenance();
    let engine = Arc::new(engine);
    let manager = InstanceManager::new(engine, Arc::new(policy), settings, Owners::new(None), tracker.clone());
    (manager, provenance, tracker)
}

fn defaults() -> Config {
    let nowhere = Flags {
        file: None,
        settings: Vec::new(),
    };
    Config::load(&nowhere, &Environment::default()).expect("the defaults fit")
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
    async fn of(engine: PretendedEngine) -> Self {
        let (manager, provenance, tracker) = manager(engine).await;
        let app = App::new(defaults(), &Environment::default());
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
