//! An engine, what it stands on, and what has become of all that was made there.

use crate::specs::owner;
use dev_postgres_mcp::owner::Owners;
use std::collections::BTreeSet;
use std::fmt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dev_postgres_mcp::engine::docker::{DockerEngine, DockerSettings};
use dev_postgres_mcp::engine::{Engine, EngineError};
use dev_postgres_mcp::instance::{Found, Image, Instance, InstanceId, InstanceSpec, Port, ProgressSink};
use rand::RngExt;
use tokio_util::task::TaskTracker;

use crate::docker_cli::docker;
use crate::specs::spec;

/// What engines of one kind share, and the only place that knows of which kind they are.
#[async_trait]
pub trait Ground: fmt::Debug + Send + Sync + 'static {
    /// An engine that stands here. Several may.
    fn engine(&self, tracker: &TaskTracker) -> Arc<dyn Engine>;

    /// What instances here are made from where it doesn't matter.
    fn image(&self) -> Image {
        spec("app", "me", "secret").image
    }

    /// Has an instance's server end in peace, behind the engine's back.
    async fn stop(&self, instance: &Instance);

    /// Ends an instance's server at once, behind the engine's back.
    async fn kill(&self, instance: &Instance);

    /// All that is still there of these instances, and of what only instances need.
    async fn left(&self, made: &BTreeSet<InstanceId>) -> Vec<String>;

    /// Removes it, after a test that failed.
    fn clear(&self, made: &BTreeSet<InstanceId>);
}

/// An engine on a ground of its own.
#[derive(Debug)]
pub struct Scene<G: Ground + ?Sized> {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Where its background work runs.
    pub tracker: TaskTracker,
    /// What it stands on.
    pub ground: Arc<G>,
    /// What was made here, for the check at the end.
    made: Mutex<BTreeSet<InstanceId>>,
}

impl<G: Ground + ?Sized> Scene<G> {
    /// Puts an engine there.
    #[must_use]
    pub fn on(ground: Arc<G>) -> Self {
        let tracker = TaskTracker::new();
        Self {
            engine: ground.engine(&tracker),
            tracker,
            ground,
            made: Mutex::default(),
        }
    }

    /// Another engine on the same ground, as another process has it.
    #[must_use]
    pub fn another_engine(&self) -> Arc<dyn Engine> {
        self.ground.engine(&self.tracker)
    }

    /// The id of an instance that is about to be made.
    #[must_use]
    pub fn id(&self) -> InstanceId {
        let id = InstanceId::random();
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        id
    }

    /// An instance with these credentials.
    #[must_use]
    pub fn spec(&self, database: &str, username: &str, password: &str) -> InstanceSpec {
        InstanceSpec {
            image: self.ground.image(),
            ..spec(database, username, password)
        }
    }

    /// An instance that is like any other.
    #[must_use]
    pub fn plain(&self) -> InstanceSpec {
        self.spec("app", "me", "secret")
    }

    /// Creates an instance on any port.
    pub async fn create(&self, spec: InstanceSpec) -> Found {
        self.create_by(&self.engine, spec).await
    }

    /// Creates an instance by an engine of [`another_engine`](Self::another_engine).
    ///
    /// # Panics
    /// If it can't be created.
    pub async fn create_by(&self, engine: &Arc<dyn Engine>, spec: InstanceSpec) -> Found {
        create_anywhere(engine, self.id(), &spec).await
    }

    /// Creates an instance in a process that dies after `last_words`, as far as that can be had within a process:
    /// its runtime ends with all that runs on it, and its engine is dropped.
    ///
    /// # Panics
    /// If it can't be created.
    pub async fn create_and_die(
        &self,
        last_words: impl AsyncFnOnce(&Arc<dyn Engine>, &Found) + Send + 'static,
    ) -> Found {
        let (ground, id, spec) = (Arc::clone(&self.ground), self.id(), self.plain());
        let life = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let found = runtime.block_on(async {
                let engine = ground.engine(&TaskTracker::new());
                let found = create_anywhere(&engine, id, &spec).await;
                last_words(&engine, &found).await;
                found
            });
            drop(runtime);
            found
        };
        tokio::task::spawn_blocking(life).await.expect("no panic")
    }

    /// Waits for the background work and looks at what is still there.
    ///
    /// # Panics
    /// If anything is.
    pub async fn assert_nothing_left(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        let left = self.ground.left(&self.made()).await;
        assert!(left.is_empty(), "left over: {left:#?}");
    }

    fn made(&self) -> BTreeSet<InstanceId> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<G: Ground + ?Sized> Drop for Scene<G> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.ground.clear(&self.made());
        }
    }
}

async fn create_anywhere(engine: &Arc<dyn Engine>, id: InstanceId, spec: &InstanceSpec) -> Found {
    for _ in 0..20 {
        match engine
            .create(id, spec, &owner(), any_port(), &ProgressSink::none())
            .await
        {
            Ok(created) => return created.found,
            Err(EngineError::PortTaken(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("twenty ports were taken");
}

/// A port beyond the range that instances have by default and below those that the system gives to clients.
///
/// # Panics
/// Never: there are such ports.
#[must_use]
pub fn any_port() -> Port {
    Port::try_from(rand::rng().random_range(25_433..32_768)).expect("a port")
}

/// The real Docker daemon, and a network that nobody else has.
#[derive(Debug)]
pub struct DockerGround {
    settings: DockerSettings,
}

impl Default for DockerGround {
    fn default() -> Self {
        Self::with(DockerSettings::default())
    }
}

impl DockerGround {
    /// With these settings, the network aside.
    #[must_use]
    pub fn with(settings: DockerSettings) -> Self {
        let network = format!("dev-postgres-mcp-test-{}", InstanceId::random());
        Self {
            settings: DockerSettings { network, ..settings },
        }
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.settings.network
    }
}

#[async_trait]
impl Ground for DockerGround {
    fn engine(&self, tracker: &TaskTracker) -> Arc<dyn Engine> {
        Arc::new(DockerEngine::new(
            self.settings.clone(),
            Owners::new(None),
            tracker.clone(),
        ))
    }

    async fn stop(&self, instance: &Instance) {
        docker(&["stop", &instance.container_id]).await;
    }

    async fn kill(&self, instance: &Instance) {
        docker(&["kill", &instance.container_id]).await;
    }

    async fn left(&self, made: &BTreeSet<InstanceId>) -> Vec<String> {
        let mut left = Vec::new();
        for id in made {
            for filter in [
                format!("label=dev-postgres-mcp.id={id}"),
                format!("name=mcp-postgres-{id}"),
            ] {
                let container = docker(&["ps", "-aq", "--filter", &filter]).await;
                left.extend((!container.is_empty()).then(|| format!("a container with {filter}")));
            }
        }
        let name = format!("name={}", self.network());
        let network = docker(&["network", "ls", "-q", "--filter", &name]).await;
        left.extend((!network.is_empty()).then(|| format!("a network with {name}")));
        left
    }

    fn clear(&self, made: &BTreeSet<InstanceId>) {
        let names: Vec<String> = made.iter().map(|id| format!("mcp-postgres-{id}")).collect();
        let mut rm = vec!["rm", "-f"];
        rm.extend(names.iter().map(String::as_str));
        for arguments in [&rm[..], &["network", "rm", self.network()]] {
            // Most of it isn't there.
            let _ = Command::new("docker")
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}
