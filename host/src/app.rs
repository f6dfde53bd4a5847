//! Puts configuration, engine, policy and manager together, each built when it is first needed.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use crate::config::{self, Code, Component, Config};
use crate::engine::Engine;
use crate::engine::auto::AutoEngine;
use crate::engine::docker::{DockerEngine, DockerSettings};
use crate::engine::local::{LocalEngine, LocalSettings};
use crate::environment::Environment;
use crate::failure::{Failure, FailureCode};
use crate::instance::EngineKind;
use crate::manager::{InstanceManager, Settings};
use crate::plugins::budget::Budget;
use crate::plugins::bundle::Bundle;
use crate::plugins::cache::Cache;
use crate::plugins::policy::{self, ComponentPolicy};
use crate::plugins::provenance::{Provenance, State};
use crate::plugins::tools::Toolbox;
use crate::plugins::{FILE_BYTES_MAX, PluginError, Runtime, Source};

/// The built-in components, as `build.rs` compiled them.
const BUILT_IN: [(&str, &[u8]); 2] = [
    (
        POLICY_DEFAULT,
        include_bytes!(concat!(env!("OUT_DIR"), "/policy-default.wasm")),
    ),
    (
        "postgres-tools",
        include_bytes!(concat!(env!("OUT_DIR"), "/postgres-tools.wasm")),
    ),
];
const POLICY_DEFAULT: &str = "policy-default";

/// One process's parts. Whoever makes it calls [`App::shutdown`] before the process ends.
#[derive(Debug)]
pub struct App {
    config: Config,
    tracker: TaskTracker,
    engine: Arc<dyn Engine>,
    runtime: OnceCell<Runtime>,
    policy: OnceCell<Arc<ComponentPolicy>>,
    manager: OnceCell<InstanceManager>,
    toolbox: OnceCell<Arc<Toolbox>>,
}

impl App {
    /// Does no I/O: a server starts and says what is wrong with its surroundings when it is asked.
    #[must_use]
    pub fn new(config: Config, environment: &Environment) -> Self {
        let tracker = TaskTracker::new();
        let engine = engine(&config, environment, &tracker);
        Self {
            config,
            tracker,
            engine,
            runtime: OnceCell::new(),
            policy: OnceCell::new(),
            manager: OnceCell::new(),
            toolbox: OnceCell::new(),
        }
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What runs in the background, and what [`App::shutdown`] waits for.
    #[must_use]
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// The engine itself, for `doctor`: instances are reached through [`App::manager`] only.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// The team's rules. The first call loads them.
    ///
    /// # Errors
    /// If the policy can't be loaded: nothing is allowed then.
    pub async fn policy(&self) -> Result<&Arc<ComponentPolicy>, Failure> {
        self.policy
            .get_or_try_init(async || {
                let source = source(POLICY_DEFAULT, &self.config.policy)?;
                let loaded = ComponentPolicy::load(self.runtime().await?, &source).await;
                loaded.map(Arc::new).map_err(|error| unusable(&error))
            })
            .await
    }

    /// The way to instances. The first call loads the policy.
    ///
    /// # Errors
    /// If the policy can't be loaded: nothing is allowed then.
    pub async fn manager(&self) -> Result<&InstanceManager, Failure> {
        self.manager
            .get_or_try_init(async || {
                let policy = Arc::clone(self.policy().await?);
                let settings = Settings {
                    defaults: self.config.instance.defaults.clone(),
                    ports: self.config.instance.ports,
                    ready_timeout: self.config.instance.ready_timeout,
                    pool_size: self.config.pool.size,
                };
                let engine = Arc::clone(&self.engine);
                self.tracker.spawn(async move {
                    if let Err(error) = engine.recover().await {
                        tracing::warn!(%error, "what killed processes have left stays for now");
                    }
                });
                Ok(InstanceManager::new(
                    Arc::clone(&self.engine),
                    policy,
                    settings,
                    self.tracker.clone(),
                ))
            })
            .await
    }

    /// The tools that the bundles offer. The first call loads them.
    ///
    /// # Errors
    /// If one of them can't be loaded.
    pub async fn toolbox(&self) -> Result<&Arc<Toolbox>, Failure> {
        self.toolbox
            .get_or_try_init(async || {
                let mut bundles = Vec::new();
                for bundle in &self.config.bundles {
                    bundles.push(self.bundle(bundle).await?);
                }
                Toolbox::new(bundles).map(Arc::new).map_err(|error| unusable(&error))
            })
            .await
    }

    async fn bundle(&self, bundle: &config::Bundle) -> Result<Bundle, Failure> {
        let mut source = source(bundle.name.as_str(), &bundle.component)?;
        source.sha256 = bundle.sha256;
        let loaded = Bundle::load(self.runtime().await?, &source, &bundle.terms).await;
        loaded.map_err(|error| unusable(&error))
    }

    /// What the configuration loads: the policy, then the bundles in their order, each with how it stands. One that can't
    /// be loaded is among them.
    pub async fn plugins(&self) -> Vec<Provenance> {
        let refused = |name: &str, world, component: &Component, grants, budget, failure: Failure| Provenance {
            name: name.to_owned(),
            world,
            from: place(&component.code),
            sha256: None,
            grants,
            budget,
            tools: Vec::new(),
            state: State::Refused(failure.message),
        };
        let mut plugins = vec![match self.policy().await {
            Ok(policy) => policy.provenance(),
            Err(failure) => {
                let grants = policy::LOG_ALONE.into_iter().collect();
                let component = &self.config.policy;
                refused(POLICY_DEFAULT, "policy", component, grants, Budget::POLICY, failure)
            }
        }];
        for bundle in &self.config.bundles {
            plugins.push(match self.bundle(bundle).await {
                Ok(bundle) => bundle.provenance(),
                Err(failure) => {
                    let (name, terms) = (bundle.name.as_str(), &bundle.terms);
                    refused(
                        name,
                        "tool-bundle",
                        &bundle.component,
                        terms.grants,
                        terms.budget,
                        failure,
                    )
                }
            });
        }
        plugins
    }

    async fn runtime(&self) -> Result<&Runtime, Failure> {
        let failure = |reason| {
            let message = format!("WebAssembly can't be run on this machine: {reason}");
            Failure::new(FailureCode::Internal, message, "")
        };
        self.runtime
            .get_or_try_init(async || Runtime::new(Cache::new(self.config.cache_dir.clone())).map_err(failure))
            .await
    }

    /// Waits until what runs in the background, clean-up above all, is done; `false` if that takes longer than
    /// `deadline`.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        if let Some(manager) = self.manager.get() {
            manager.close();
        }
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

fn engine(config: &Config, environment: &Environment, tracker: &TaskTracker) -> Arc<dyn Engine> {
    let docker = || {
        let settings = DockerSettings {
            host: config.docker.host.clone(),
            publish_address: config.docker.publish_address,
            pull_timeout: config.docker.pull_timeout,
            ready_timeout: config.instance.ready_timeout,
            state_dir: config.local.state_dir.clone(),
            ..DockerSettings::default()
        };
        DockerEngine::new(settings, tracker.clone())
    };
    let local = || {
        let settings = LocalSettings {
            bin_dirs: config.local.bin_dirs.clone(),
            path: environment.non_empty("PATH").map(ToOwned::to_owned),
            state_dir: config.local.state_dir.clone(),
            user: config.local.user.clone(),
            ready_timeout: config.instance.ready_timeout,
        };
        LocalEngine::new(settings, tracker.clone())
    };
    match config.engine {
        config::Engine::Auto => Arc::new(AutoEngine::new(docker(), local())),
        config::Engine::Only(EngineKind::Docker) => Arc::new(docker()),
        config::Engine::Only(EngineKind::Local) => Arc::new(local()),
    }
}

/// Reads the file at once: it is local and read once, before anything else can be served.
fn source(name: &str, component: &Component) -> Result<Source, Failure> {
    let bytes = match &component.code {
        Code::File(path) => read(path).map(Cow::Owned).map_err(|error| {
            unusable(&PluginError::Unreadable {
                name: name.to_owned(),
                path: path.display().to_string(),
                reason: error.to_string(),
            })
        })?,
        Code::BuiltIn => BUILT_IN
            .into_iter()
            .find(|(built_in, _)| *built_in == name)
            .map(|(_, bytes)| Cow::Borrowed(bytes))
            .ok_or_else(|| Failure::new(FailureCode::Internal, format!("{name} is not built in"), ""))?,
    };
    Ok(Source {
        name: name.to_owned(),
        from: place(&component.code),
        bytes,
        sha256: None,
        settings: component.settings.expose().clone(),
    })
}

/// Where a component's code is, for people.
#[must_use]
pub fn place(code: &Code) -> String {
    match code {
        Code::BuiltIn => "built in".to_owned(),
        Code::File(path) => path.display().to_string(),
    }
}

/// Reads at most as much as a component may have, and one byte more.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let (most, has) = (FILE_BYTES_MAX as u64, file.metadata()?.len());
    if has > most {
        return Err(io::Error::other(format!("it has {has} bytes, may have {most}")));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A component that can't be loaded is the configuration's fault, not that of whoever calls.
fn unusable(error: &PluginError) -> Failure {
    let advice = "Correct `policy` or `[[bundle]]` in the configuration: `dev-postgres-mcp config show` prints it.";
    Failure::new(FailureCode::Internal, error.to_string(), advice)
}
