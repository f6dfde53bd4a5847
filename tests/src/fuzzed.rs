//! What is fuzzed: a function for each target of `tests/fuzz`, which takes any bytes. It panics where the host is wrong.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use dev_postgres_mcp::app::App;
use dev_postgres_mcp::config::{Config, Flags};
use dev_postgres_mcp::environment::Environment;
use dev_postgres_mcp::failure::Failure;
use dev_postgres_mcp::instance::{
    Caller, CreateRequest, Defaults, EngineKind, Found, Instance, InstanceId, Lifetime, Port, ProgressSink, Status, Ttl,
};
use dev_postgres_mcp::manager::InstanceManager;
use dev_postgres_mcp::plugins::budget::Budget;
use dev_postgres_mcp::plugins::bundle::{Bundle, Terms};
use dev_postgres_mcp::plugins::cache::Cache;
use dev_postgres_mcp::plugins::check::examine;
use dev_postgres_mcp::plugins::grants::Grant;
use dev_postgres_mcp::plugins::policy::ComponentPolicy;
use dev_postgres_mcp::plugins::{Runtime, Source};
use dev_postgres_mcp::policy::{Action, Holding, Inventory, Policy as _};
use serde_json::{Map, Value, json};

use crate::guests::module;
use crate::specs::{owner, spec};

/// A target: its name, which its folder in `tests/fuzz/corpus` has too, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 4] = [
    ("component", component),
    ("schema", schema),
    ("bundle", bundle),
    ("policy", policy),
];

/// What all inputs share: an input takes a fraction of the time that this takes.
struct Host {
    tokio: tokio::runtime::Runtime,
    wasm: Runtime,
    manager: InstanceManager,
    puppet: Vec<u8>,
    oracle: Vec<u8>,
    /// The compiled guests.
    _cache: tempfile::TempDir,
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let cache = tempfile::tempdir().expect("a folder");
    let wasm = Runtime::new(Cache::new(Some(cache.path().join("compiled")))).expect("this machine runs WebAssembly");
    let nothing = Flags {
        file: None,
        settings: Vec::new(),
    };
    let config = Config::load(&nothing, &Environment::default()).expect("the defaults fit");
    let manager = tokio.block_on(async {
        let app = App::new(config, &Environment::default());
        app.pretended_manager().await.expect("the built-in rules load")
    });
    Host {
        tokio,
        wasm,
        manager,
        puppet: module("tests/guests/puppet"),
        oracle: module("tests/guests/oracle"),
        _cache: cache,
    }
});

/// Prepares what all inputs share: the first one need not wait for that, and be taken for one that hangs.
pub fn prepare() {
    LazyLock::force(&HOST);
}

/// A guest as the configuration names it.
fn source(bytes: &[u8], settings: Map<String, Value>) -> Source {
    Source {
        name: "fuzzed".into(),
        from: "nowhere".into(),
        bytes: bytes.to_vec().into(),
        sha256: None,
        settings,
    }
}

/// Everything that can be granted, and little time.
fn terms() -> Terms {
    Terms {
        grants: Grant::ALL.into_iter().collect(),
        budget: Budget {
            cpu: Duration::from_millis(200),
            wall: Duration::from_secs(10),
            ..Budget::BUNDLE
        },
        ..Terms::default()
    }
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// Any bytes as a plugin's file: read, made a component of, compiled, loaded, asked what it is.
///
/// # Panics
/// If what is wrong with it can't be told.
pub fn component(bytes: &[u8]) {
    let host = &*HOST;
    let source = source(bytes, Map::new());
    let examination = host
        .tokio
        .block_on(examine(&host.wasm, &source, Some(Grant::ALL.into_iter().collect())));
    assert!(
        examination.made_for().is_some() || !examination.problems.is_empty(),
        "it is no plugin, and nothing is wrong with it"
    );
    assert!(examination.problems.iter().all(|problem| !problem.is_empty()));
}

/// Any JSON schemas of a tool (`input`, `output`), and any arguments for it.
///
/// # Panics
/// If a schema that was taken in doesn't survive being written down.
pub fn schema(bytes: &[u8]) {
    let Ok(given) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let host = &*HOST;
    let settings = json!({ "input_schema": given["input"], "output_schema": given["output"] });
    let source = source(&host.puppet, object(&settings));
    let Ok(bundle) = host.tokio.block_on(Bundle::load(&host.wasm, &source, &terms())) else {
        return;
    };
    for tool in bundle.tools() {
        assert_eq!(
            tool.input_schema().get("type"),
            Some(&json!("object")),
            "clients take no other"
        );
        if let Err(problems) = tool.check_arguments(&given["arguments"]) {
            assert!(!problems.is_empty());
        }
    }
}

/// Any deeds of a bundle (`deeds`) under any settings: what it asks the host for, and what it answers.
///
/// # Panics
/// If a failure can't be told.
pub fn bundle(bytes: &[u8]) {
    let Ok(given) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let host = &*HOST;
    let source = source(&host.puppet, object(&given["settings"]));
    host.tokio.block_on(async {
        let Ok(bundle) = Bundle::load(&host.wasm, &source, &terms()).await else {
            return;
        };
        let Some(tool) = bundle.tools().first() else { return };
        let mut arguments = Map::new();
        arguments.insert("deeds".into(), given["deeds"].clone());
        let (caller, progress) = (Caller::default(), ProgressSink::none());
        if let Err(error) = bundle.call(tool, arguments, &host.manager, caller, progress).await {
            let failure = Failure::from(&error);
            assert!(!failure.message.trim().is_empty(), "it is told of, whatever it says");
        }
    });
}

/// Any answers of a policy (`settings`) to any request (`request`).
///
/// # Panics
/// If what is planned isn't what the policy said, or a DSN reaches nobody.
pub fn policy(bytes: &[u8]) {
    let Ok(given) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let host = &*HOST;
    let source = source(&host.oracle, object(&given["settings"]));
    let text = |name: &str| given["request"][name].as_str().map(str::to_owned);
    let request = CreateRequest {
        version: text("version"),
        database: text("database"),
        username: text("username"),
        password: text("password").map(Into::into),
        ttl_seconds: given["request"]["ttl_seconds"].as_u64(),
    };
    let echoes = given["settings"]["echo"] == true;
    host.tokio.block_on(async {
        let Ok(policy) = ComponentPolicy::load(&host.wasm, &source).await else {
            return;
        };
        let plain = spec("app", "me", "secret");
        let defaults = Defaults {
            image: plain.image,
            limits: plain.limits,
            durable: false,
        };
        let caller = Caller::default();
        let planned = policy.plan_create(&request, &defaults, &caller, inventory()).await;
        if let Ok(planned) = planned
            && echoes
        {
            let kept = |asked: Option<&str>, planned: &str| asked.is_none_or(|asked| asked == planned);
            assert!(kept(request.version.as_deref(), planned.image.version()));
            assert!(kept(request.database.as_deref(), planned.database.as_str()));
            assert!(kept(request.username.as_deref(), planned.username.as_str()));
            assert!(kept(text("password").as_deref(), planned.password.expose()));
            assert!(
                request
                    .ttl_seconds
                    .is_none_or(|ttl| planned.ttl.map(Ttl::seconds) == Some(ttl))
            );
        }
        let found = found();
        let targets = [found.instance.clone()];
        for action in [Action::Get, Action::List, Action::Drop, Action::Health] {
            let verdicts = policy.authorize_each(action, &targets, &caller, inventory()).await;
            assert!(verdicts.is_err() || verdicts.is_ok_and(|verdicts| verdicts.len() == targets.len()));
        }
        let ttl = request.ttl_seconds;
        let _ = policy.plan_extend(&found.instance, ttl, &caller, inventory()).await;
        if let Ok(uri) = policy.connection_uri(&found).await {
            assert!(!uri.expose().is_empty() && !uri.expose().contains(char::is_control));
        }
    });
}

fn found() -> Found {
    let plain = spec("app", "me", "secret");
    Found {
        instance: Instance {
            id: InstanceId::random(),
            engine: EngineKind::Local,
            container_id: String::new(),
            host: "127.0.0.1".into(),
            port: Port::try_from(5432).expect("a port"),
            version: plain.image.version().to_owned(),
            database: plain.database,
            username: plain.username,
            status: Status::Running,
            created_at: SystemTime::UNIX_EPOCH,
            owner: Some(owner()),
            lifetime: Lifetime::Session,
        },
        password: plain.password,
    }
}

/// A host with one instance.
struct One;

#[async_trait]
impl Inventory for One {
    async fn holdings(&self) -> Result<Vec<Holding>, Failure> {
        let instance = found().instance;
        Ok(vec![Holding {
            id: instance.id,
            owner: instance.owner,
            created_at: instance.created_at,
        }])
    }
}

fn inventory() -> Arc<dyn Inventory> {
    Arc::new(One)
}
