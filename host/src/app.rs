//! Puts configuration, engine, policy and manager together, each built when it is first needed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use crate::config::{Component, Config};
use crate::engine::Engine;
use crate::engine::docker::{DockerEngine, DockerSettings};
use crate::failure::{Failure, FailureCode};
use crate::manager::{InstanceManager, Settings};
use crate::policy::Policy;

/// One process's parts. Whoever makes it calls [`App::shutdown`] before the process ends.
#[derive(Debug)]
pub struct App {
    config: Config,
    tracker: TaskTracker,
    engine: Arc<dyn Engine>,
    manager: OnceCell<InstanceManager>,
}

impl App {
    /// Does no I/O: a server starts and says what is wrong with its surroundings when it is asked.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let tracker = TaskTracker::new();
        let settings = DockerSettings {
            host: config.docker.host.clone(),
            publish_address: config.docker.publish_address,
            pull_timeout: config.docker.pull_timeout,
        };
        let engine = Arc::new(DockerEngine::new(settings, tracker.clone()));
        Self::with_engine(config, engine, tracker)
    }

    fn with_engine(config: Config, engine: Arc<dyn Engine>, tracker: TaskTracker) -> Self {
        Self {
            config,
            tracker,
            engine,
            manager: OnceCell::new(),
        }
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The engine itself, for `doctor`: instances are reached through [`App::manager`] only.
    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// The way to instances. The first call loads the policy, which takes a while if it has to be compiled.
    ///
    /// # Errors
    /// If the policy can't be loaded; nothing is allowed then, and the next call tries again.
    pub async fn manager(&self) -> Result<&InstanceManager, Failure> {
        self.manager
            .get_or_try_init(async || {
                let policy = load_policy(&self.config.policy).await?;
                Ok(self.manager_with(policy))
            })
            .await
    }

    fn manager_with(&self, policy: Arc<dyn Policy>) -> InstanceManager {
        let settings = Settings {
            defaults: self.config.instance.defaults.clone(),
            ports: self.config.instance.ports,
            ready_timeout: self.config.instance.ready_timeout,
        };
        InstanceManager::new(Arc::clone(&self.engine), policy, settings, self.tracker.clone())
    }

    /// Waits until what runs in the background, clean-up above all, is done; `false` if that takes longer than
    /// `deadline`.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

// SEAM: `crate::plugins` puts the policy component here.
#[expect(
    clippy::unused_async,
    reason = "loading compiles the component off the runtime's threads"
)]
async fn load_policy(_component: &Component) -> Result<Arc<dyn Policy>, Failure> {
    Err(Failure::new(FailureCode::Internal, "no policy can be loaded yet", ""))
}
