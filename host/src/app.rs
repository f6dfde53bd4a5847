//! Puts configuration, engine, policy and manager together, each built when it is first needed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::artifact::lock::Pin;
use crate::artifact::reference::Reference;
use crate::artifact::{ArtifactError, Artifacts, Found, Shown};
use crate::bundles::Bundles;
use crate::config::{self, Code, Component, ComponentSettings, Config, Mode, OnExit};
use crate::engine::Engine;
use crate::engine::auto::AutoEngine;
use crate::engine::docker::{DockerEngine, DockerSettings};
use crate::engine::local::{LocalEngine, LocalSettings};
use crate::engine::pretended::PretendedEngine;
use crate::environment::Environment;
use crate::failure::{Failure, FailureCode};
use crate::files;
use crate::instance::EngineKind;
use crate::manager::{InstanceManager, Settings, Sweeper};
use crate::owner::Owners;
use crate::plugins::budget::Budget;
use crate::plugins::bundle::Bundle;
use crate::plugins::cache::Cache;
use crate::plugins::grants::Grants;
use crate::plugins::policy::{self, ComponentPolicy};
use crate::plugins::provenance::{Provenance, State};
use crate::plugins::toolbox::Entry;
use crate::plugins::versions::World;
use crate::plugins::{FILE_BYTES_MAX, PluginError, Runtime, Source};
use crate::policy::Policy;
use crate::policy::changes::Bounded;
use crate::policy::monitor::Monitored;

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
    artifacts: Artifacts,
    owners: Owners,
    runtime: OnceCell<Runtime>,
    policy: OnceCell<Arc<ComponentPolicy>>,
    rules: OnceCell<Arc<dyn Policy>>,
    manager: OnceCell<InstanceManager>,
    bundles: OnceCell<Bundles>,
}

impl App {
    /// Does no I/O: a server starts and says what is wrong with its surroundings when it is asked.
    #[must_use]
    pub fn new(config: Config, environment: &Environment) -> Self {
        let tracker = TaskTracker::new();
        let owners = Owners::new(config.local.state_dir.as_deref());
        let engine = engine(&config, environment, &owners, &tracker);
        let artifacts = Artifacts::new(config.lock_file.clone(), config.store_dir.clone(), environment);
        Self {
            config,
            tracker,
            engine,
            artifacts,
            owners,
            runtime: OnceCell::new(),
            policy: OnceCell::new(),
            rules: OnceCell::new(),
            manager: OnceCell::new(),
            bundles: OnceCell::new(),
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

    /// Whose process it is that others see end, for `doctor`.
    #[must_use]
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// The component that holds the rules. The first call loads it.
    async fn policy(&self) -> Result<&Arc<ComponentPolicy>, Failure> {
        self.policy
            .get_or_try_init(async || {
                let config::Policy { name, component, .. } = &self.config.policy;
                let (source, found) = self
                    .source(World::Policy, name, component)
                    .await
                    .map_err(|error| unusable(&error))?;
                let policy = self.load_policy(&source).await?;
                self.take_on(found, shown_by_policy(&policy))
                    .await
                    .map_err(|error| unusable(&error))?;
                Ok(Arc::new(policy))
            })
            .await
    }

    /// The rules that hold: the team's, if this process was started for one. The first call loads them.
    ///
    /// # Errors
    /// If the policy can't be loaded: nothing is allowed then.
    pub async fn rules(&self) -> Result<&Arc<dyn Policy>, Failure> {
        self.rules
            .get_or_try_init(async || {
                let policy = Arc::clone(self.policy().await?) as Arc<dyn Policy>;
                let bounded = Bounded::new(policy, self.config.policy.may_change);
                Ok(match self.config.policy.mode {
                    Mode::Enforce => Arc::new(bounded) as Arc<dyn Policy>,
                    Mode::Monitor => {
                        let name = &self.config.policy.name;
                        tracing::warn!("nothing is denied: {name} only monitors");
                        let instead = self
                            .load_policy(&built_in_policy().map_err(|error| unusable(&error))?)
                            .await?;
                        Arc::new(Monitored::new(Arc::new(bounded), Arc::new(instead)))
                    }
                })
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
                let policy = Arc::clone(self.rules().await?);
                Ok(InstanceManager::new(
                    Arc::clone(&self.engine),
                    policy,
                    self.settings(),
                    self.owners.clone(),
                    self.tracker.clone(),
                ))
            })
            .await
    }

    /// Removes in the background what is over and what killed processes have left, as every command does at its start.
    pub fn tidy(&self) -> JoinHandle<()> {
        self.tidy_within(Duration::MAX)
    }

    /// The same where nobody waits for an engine otherwise: one that takes longer is left to the next command.
    pub fn tidy_within(&self, patience: Duration) -> JoinHandle<()> {
        let sweeper = Sweeper::new(Arc::clone(&self.engine), self.owners.clone());
        self.tracker.spawn(async move {
            let _ = timeout(patience, sweeper.recover()).await;
        })
    }

    fn settings(&self) -> Settings {
        Settings {
            defaults: self.config.instance.defaults.clone(),
            ports: self.config.instance.ports,
            ready_timeout: self.config.instance.ready_timeout,
            pool_size: self.config.pool.size,
            keeps_on_exit: self.config.instance.on_exit == OnExit::Keep,
            team: self.config.team.clone(),
        }
    }

    /// A way to instances that are in name only, for plugins to be tried; the policy is the real one.
    ///
    /// # Errors
    /// If the policy can't be loaded: nothing is allowed then.
    pub async fn pretended_manager(&self) -> Result<InstanceManager, Failure> {
        Ok(InstanceManager::new(
            Arc::new(PretendedEngine::default()),
            Arc::clone(self.rules().await?),
            self.settings(),
            self.owners.clone(),
            self.tracker.clone(),
        ))
    }

    /// The tool bundles. The first call loads them.
    ///
    /// # Errors
    /// If the configuration is wrong about one of them, as [`Bundles::load`] has it. One that can't be loaded is missing.
    pub async fn bundles(&self) -> Result<&Bundles, Failure> {
        self.bundles
            .get_or_try_init(async || {
                let runtime = self.runtime().await?;
                let in_folder = self
                    .config
                    .bundles
                    .iter()
                    .filter(|bundle| is_in_folder(bundle))
                    .collect();
                let folder = self.config.plugins.dir.clone().map(|path| (path, in_folder));
                let loaded = Bundles::load(runtime, self.named(runtime).await, folder).await;
                loaded.map_err(|error| unusable(&error))
            })
            .await
    }

    /// Loads the bundles that the configuration names, at once: each compiles where nobody has before.
    async fn named(&self, runtime: &Runtime) -> Vec<Entry> {
        let bundles = self.config.bundles.iter().filter(|bundle| !is_in_folder(bundle));
        join_all(bundles.map(async |bundle| {
            let (name, code) = (bundle.name.as_str(), &bundle.component.code);
            Entry::new(
                name,
                code.to_string(),
                &bundle.terms,
                self.bundle(runtime, bundle).await,
            )
        }))
        .await
    }

    async fn bundle(&self, runtime: &Runtime, bundle: &config::Bundle) -> Result<Bundle, PluginError> {
        let (name, component) = (bundle.name.as_str(), &bundle.component);
        let (source, found) = self.source(World::ToolBundle, name, component).await?;
        let loaded = Bundle::load(runtime, &source, &bundle.terms).await?;
        self.take_on(found, shown_by_bundle(&loaded)).await?;
        Ok(loaded)
    }

    /// What the configuration loads: the policy, then the bundles in their order, each with how it stands. One that can't
    /// be loaded is among them.
    ///
    /// # Errors
    /// If this machine can't run WebAssembly.
    pub async fn plugins(&self) -> Result<Vec<Provenance>, Failure> {
        let runtime = self.runtime().await?;
        let component = &self.config.policy.component;
        let mut plugins = vec![match self.policy_provenance().await {
            Ok(provenance) => provenance,
            Err(failure) => Provenance {
                name: component_name(World::Policy, &self.config.policy.name, component).to_owned(),
                world: "policy",
                from: component.code.to_string(),
                sha256: None,
                grants: policy::GRANTS.into_iter().collect(),
                mode: Some(self.config.policy.mode),
                may_change: Some(self.config.policy.may_change),
                budget: Budget::POLICY,
                tools: Vec::new(),
                state: State::Refused(failure.message),
            },
        }];
        let entries = match self.bundles().await {
            Ok(bundles) => bundles.toolbox().entries().to_vec(),
            // Each may be well and two of them not together.
            Err(_) => self.named(runtime).await,
        };
        plugins.extend(entries.iter().map(Entry::provenance));
        Ok(plugins)
    }

    /// How the policy stands.
    ///
    /// # Errors
    /// If it can't be loaded.
    pub async fn policy_provenance(&self) -> Result<Provenance, Failure> {
        Ok(Provenance {
            mode: Some(self.config.policy.mode),
            may_change: Some(self.config.policy.may_change),
            ..self.policy().await?.provenance()
        })
    }

    /// The code of a configured component, and what there is to agree to if it comes from a registry.
    async fn source(
        &self,
        world: World,
        name: &str,
        component: &Component,
    ) -> Result<(Source, Option<Found>), PluginError> {
        let Code::Artifact(reference) = &component.code else {
            return Ok((local_source(world, name, component)?, None));
        };
        let found = self.artifacts.find(world, name, reference).await;
        let mut found = found.map_err(|error| withheld(&error))?;
        let source = artifact_source(name, component, &mut found);
        Ok((source, Some(found)))
    }

    /// Pins what comes from a registry, or compares it with what is pinned.
    async fn take_on(&self, found: Option<Found>, shown: Shown) -> Result<(), PluginError> {
        match found {
            Some(found) => self
                .artifacts
                .take_on(&found, shown)
                .await
                .map_err(|error| withheld(&error)),
            None => Ok(()),
        }
    }

    async fn load_policy(&self, source: &Source) -> Result<ComponentPolicy, Failure> {
        let loaded = ComponentPolicy::load(self.runtime().await?, source).await;
        loaded.map_err(|error| unusable(&error))
    }

    async fn load_bundle(&self, source: &Source, bundle: &config::Bundle) -> Result<Bundle, Failure> {
        let loaded = Bundle::load(self.runtime().await?, source, &bundle.terms).await;
        loaded.map_err(|error| unusable(&error))
    }

    /// Looks up what the registries have now of the components that come from there: of all, or of those of this name.
    /// Each is loaded, and nothing is pinned.
    ///
    /// # Errors
    /// If there is no such component, or one of them can't be had or loaded.
    pub async fn updates(&self, name: Option<&str>) -> Result<Vec<Update>, Failure> {
        let is_meant = |candidate: &str| name.is_none_or(|name| name == candidate);
        let mut updates = Vec::new();
        for policy in std::iter::once(&self.config.policy).chain(&self.config.other_policies) {
            let config::Policy { name, component, .. } = policy;
            if let (Code::Artifact(reference), true) = (&component.code, is_meant(name)) {
                let (source, found) = self.newest(World::Policy, name, component, reference).await?;
                let policy = self.load_policy(&source).await?;
                updates.push(Update::new(&found, shown_by_policy(&policy)));
            }
        }
        for bundle in &self.config.bundles {
            let (name, component) = (bundle.name.as_str(), &bundle.component);
            if let (Code::Artifact(reference), true) = (&component.code, is_meant(name)) {
                let (source, found) = self.newest(World::ToolBundle, name, component, reference).await?;
                let loaded = self.load_bundle(&source, bundle).await?;
                updates.push(Update::new(&found, shown_by_bundle(&loaded)));
            }
        }
        match name {
            Some(name) if updates.is_empty() => Err(Failure::new(
                FailureCode::InvalidArguments,
                format!("the configuration has no component {name:?} from a registry"),
                "`dev-postgres-mcp config show` prints what it has: `policy`, `teams.NAME`, or a bundle's name.",
            )),
            _ => Ok(updates),
        }
    }

    async fn newest(
        &self,
        world: World,
        name: &str,
        component: &Component,
        reference: &Reference,
    ) -> Result<(Source, Found), Failure> {
        let found = self.artifacts.find_newest(world, name, reference).await;
        let mut found = found.map_err(|error| Failure::from(&error))?;
        Ok((artifact_source(name, component, &mut found), found))
    }

    /// Pins what [`App::updates`] has found.
    ///
    /// # Errors
    /// If the lock file can't be written, or has changed since.
    pub async fn agree(&self, updates: &[Update]) -> Result<(), Failure> {
        let changes = updates
            .iter()
            .map(|update| (update.before.clone(), update.after.clone()));
        let agreed: Result<(), ArtifactError> = self.artifacts.agree(changes.collect()).await;
        agreed.map_err(|error| Failure::from(&error))
    }

    /// What components run on. The first call starts it.
    ///
    /// # Errors
    /// If this machine can't run WebAssembly.
    pub async fn runtime(&self) -> Result<&Runtime, Failure> {
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
        timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

fn engine(config: &Config, environment: &Environment, owners: &Owners, tracker: &TaskTracker) -> Arc<dyn Engine> {
    let docker = || {
        let settings = DockerSettings {
            host: config.docker.host.clone(),
            publish_address: config.docker.publish_address,
            pull_timeout: config.docker.pull_timeout,
            ready_timeout: config.instance.ready_timeout,
            ..DockerSettings::default()
        };
        DockerEngine::new(settings, owners.clone(), tracker.clone())
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

/// What a registry has of a component, beside what is pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// What is pinned; `None` if nothing is.
    pub before: Option<Pin>,
    /// What agreeing would pin.
    pub after: Pin,
}

impl Update {
    fn new(found: &Found, shown: Shown) -> Self {
        Self {
            before: found.agreed().cloned(),
            after: found.pin(shown),
        }
    }

    /// What the new one asks for beyond what was agreed to; nothing if nothing was pinned, since whoever wrote the
    /// configuration has just agreed to a first one.
    #[must_use]
    pub fn more_grants(&self) -> Grants {
        let before = self.before.as_ref();
        before.map_or_else(Grants::default, |before| self.after.grants.without(before.grants))
    }
}

fn shown_by_policy(policy: &ComponentPolicy) -> Shown {
    Shown {
        grants: policy.requested(),
        tools: BTreeMap::new(),
    }
}

fn shown_by_bundle(bundle: &Bundle) -> Shown {
    let tools = bundle.tools().iter();
    Shown {
        grants: bundle.requested(),
        tools: tools.map(|tool| (tool.name().to_owned(), tool.digest())).collect(),
    }
}

/// Takes the bytes out of `found`: they are needed once.
fn artifact_source(name: &str, component: &Component, found: &mut Found) -> Source {
    Source {
        name: name.to_owned(),
        from: component.code.to_string(),
        bytes: Cow::Owned(std::mem::take(&mut found.bytes)),
        sha256: component.sha256,
        settings: component.settings.expose().clone(),
    }
}

fn is_in_folder(bundle: &config::Bundle) -> bool {
    bundle.component.code == Code::Folder
}

/// The built-in rules without settings of their own.
fn built_in_policy() -> Result<Source, PluginError> {
    let component = Component {
        code: Code::BuiltIn,
        sha256: None,
        settings: ComponentSettings::default(),
    };
    local_source(World::Policy, POLICY_DEFAULT, &component)
}

/// What a component is called: the built-in rules have one name, whoever goes by them.
fn component_name<'a>(world: World, name: &'a str, component: &Component) -> &'a str {
    match (world, &component.code) {
        (World::Policy, Code::BuiltIn) => POLICY_DEFAULT,
        _ => name,
    }
}

/// Reads the file at once: it is local and read once, before anything else can be served.
fn local_source(world: World, name: &str, component: &Component) -> Result<Source, PluginError> {
    let name = component_name(world, name, component);
    let unreadable = |reason: String| PluginError::Unreadable {
        name: name.to_owned(),
        path: component.code.to_string(),
        reason,
    };
    let bytes = match &component.code {
        Code::File(path) => files::read(path, FILE_BYTES_MAX as u64)
            .map(Cow::Owned)
            .map_err(|error| unreadable(error.to_string()))?,
        Code::BuiltIn | Code::Folder | Code::Artifact(_) => BUILT_IN
            .into_iter()
            .find(|(built_in, _)| *built_in == name)
            .map(|(_, bytes)| Cow::Borrowed(bytes))
            .ok_or_else(|| unreadable("it is not there".into()))?,
    };
    Ok(Source {
        name: name.to_owned(),
        from: component.code.to_string(),
        bytes,
        sha256: component.sha256,
        settings: component.settings.expose().clone(),
    })
}

fn withheld(error: &ArtifactError) -> PluginError {
    PluginError::Withheld(Box::new(Failure::from(error)))
}

/// A component that can't be loaded is the configuration's fault, not that of whoever calls.
fn unusable(error: &PluginError) -> Failure {
    if let PluginError::Withheld(failure) = error {
        return Failure::clone(failure);
    }
    let advice = "Correct `[policy]`, `[teams.NAME]` or `[[bundle]]` in the configuration: `dev-postgres-mcp config show` prints it.";
    Failure::new(FailureCode::Configuration, error.to_string(), advice)
}
