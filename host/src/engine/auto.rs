//! Docker if it answers, else the local engine; what either has made is seen all the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;

use super::docker::DockerEngine;
use super::local::LocalEngine;
use super::{Diagnosis, Ended, Engine, EngineError, Pruned, Verdict, Waiting};
use crate::instance::{
    Created, EngineKind, Found, Image, Instance, InstanceId, InstanceSpec, Lifetime, MemoryKills, Owner, Port,
    ProgressSink, Usage,
};

/// Both engines behind one.
#[derive(Debug)]
pub struct AutoEngine {
    docker: DockerEngine,
    local: LocalEngine,
    /// Whether it has been said that Docker doesn't answer.
    told: AtomicBool,
    /// Whether Docker has answered this process before, and may have what it made.
    met: AtomicBool,
}

impl AutoEngine {
    /// Asks neither yet.
    #[must_use]
    pub fn new(docker: DockerEngine, local: LocalEngine) -> Self {
        Self {
            docker,
            local,
            told: AtomicBool::new(false),
            met: AtomicBool::new(false),
        }
    }

    /// Whether Docker answers, or why not.
    async fn docker_answers(&self) -> Result<(), EngineError> {
        let answers = self.docker.answers().await;
        self.met.fetch_or(answers.is_ok(), Ordering::Relaxed);
        answers
    }

    /// The engine that new instances are made by.
    async fn chosen(&self) -> Result<&dyn Engine, EngineError> {
        match self.docker_answers().await {
            Ok(()) => Ok(&self.docker),
            Err(no_docker) => {
                self.without_docker(&no_docker).await?;
                Ok(&self.local)
            }
        }
    }

    /// Whether the local engine has this instance. What is wrong with that engine is Docker's users' business only where
    /// it is asked for.
    async fn is_local(&self, id: InstanceId) -> bool {
        self.local.has(id).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the local engine can't be asked");
            false
        })
    }

    /// The engine that has this instance, if one that can be asked has it.
    async fn holder(&self, id: InstanceId) -> Result<Option<&dyn Engine>, EngineError> {
        if self.is_local(id).await {
            return Ok(Some(&self.local));
        }
        match self.docker_answers().await {
            Ok(()) => Ok(Some(&self.docker)),
            Err(no_docker) => self.without_docker(&no_docker).await.map(|()| None),
        }
    }

    /// Waits until Docker has turned out not to answer; for ever if it does.
    async fn silent(&self) -> EngineError {
        match self.docker_answers().await {
            Ok(()) => std::future::pending().await,
            Err(no_docker) => no_docker,
        }
    }

    /// What both list, oldest first, or the local engine alone where Docker doesn't answer.
    async fn list_both(
        &self,
        docker: impl Future<Output = Result<Vec<Instance>, EngineError>>,
        local: impl Future<Output = Result<Vec<Instance>, EngineError>>,
    ) -> Result<Vec<Instance>, EngineError> {
        let (docker, local) = tokio::join!(
            async {
                // Both at once: a Docker that is there answers either within a millisecond.
                tokio::select! {
                    biased;
                    listed = docker => match listed {
                        Err(gone @ EngineError::Unreachable { .. }) => Err(gone),
                        listed => Ok(listed),
                    },
                    silent = self.silent() => Err(silent),
                }
            },
            local
        );
        let mut instances = match (docker, local) {
            (Ok(in_docker), Ok(local)) => [in_docker?, local].concat(),
            (Ok(in_docker), Err(error)) => {
                tracing::warn!(%error, "instances of the local engine, if there are any, are not listed");
                in_docker?
            }
            (Err(no_docker), local) => {
                let local = local?;
                if local.is_empty() {
                    self.without_docker(&no_docker).await?;
                }
                local
            }
        };
        instances.sort_by_key(|instance| (instance.created_at, instance.id));
        Ok(instances)
    }

    /// Makes do with the local engine alone.
    ///
    /// # Errors
    /// If that one can't be used either.
    async fn without_docker(&self, no_docker: &EngineError) -> Result<(), EngineError> {
        if let Err(no_local) = self.local.usable().await {
            return Err(EngineError::None {
                docker: no_docker.to_string(),
                local: no_local.to_string(),
                advice: format!("{}, or start Docker.", super::local::how_to_install()),
            });
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::info!(reason = %no_docker, "Docker can't be used, so PostgreSQL runs on this machine itself");
        }
        Ok(())
    }
}

/// Whether nothing is in any of the usual places, and nobody has named another: what can't be reached has no address.
fn is_nowhere(no_docker: &EngineError) -> bool {
    matches!(no_docker, EngineError::Unreachable { endpoint, .. } if endpoint == "Docker")
}

#[async_trait]
impl Engine for AutoEngine {
    async fn recover(&self, was_killed: bool) -> Result<(), EngineError> {
        let (local, docker) = tokio::join!(self.local.recover(was_killed), self.docker.recover(was_killed));
        match docker {
            // On a machine without Docker there is nothing to look for.
            Err(error) if is_nowhere(&error) && !self.met.load(Ordering::Relaxed) => local,
            Err(error) => {
                if let Err(local) = local {
                    tracing::debug!(error = ?local.to_string(), "what killed processes have left on this machine stays for now");
                }
                Err(error)
            }
            Ok(()) => local,
        }
    }

    async fn default_image(&self, configured: &Image) -> Image {
        match self.chosen().await {
            Ok(engine) => engine.default_image(configured).await,
            // Whatever comes next says what is wrong.
            Err(_) => configured.clone(),
        }
    }

    async fn prepare(&self, image: &Image, progress: &ProgressSink) -> Result<bool, EngineError> {
        self.chosen().await?.prepare(image, progress).await
    }

    async fn create(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        owner: &Owner,
        port: Port,
        progress: &ProgressSink,
    ) -> Result<Created, EngineError> {
        self.chosen().await?.create(id, spec, owner, port, progress).await
    }

    async fn start_ahead(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        owner: &Owner,
        port: Port,
    ) -> Result<Option<Waiting>, EngineError> {
        self.chosen().await?.start_ahead(id, spec, owner, port).await
    }

    async fn assign(&self, waiting: Waiting, spec: &InstanceSpec, owner: &Owner) -> Result<Created, EngineError> {
        match waiting.instance.engine {
            EngineKind::Docker => self.docker.assign(waiting, spec, owner).await,
            EngineKind::Local => self.local.assign(waiting, spec, owner).await,
        }
    }

    async fn keep(&self, id: InstanceId, lifetime: Lifetime) -> Result<(), EngineError> {
        if self.is_local(id).await {
            return self.local.keep(id, lifetime).await;
        }
        self.docker.keep(id, lifetime).await
    }

    async fn now(&self, kind: EngineKind) -> Result<SystemTime, EngineError> {
        match kind {
            EngineKind::Docker => self.docker.now(kind).await,
            EngineKind::Local => self.local.now(kind).await,
        }
    }

    async fn list(&self) -> Result<Vec<Instance>, EngineError> {
        self.list_both(self.docker.list(), self.local.list()).await
    }

    async fn list_all(&self) -> Result<Vec<Instance>, EngineError> {
        self.list_both(self.docker.list_all(), self.local.list_all()).await
    }

    async fn get(&self, id: InstanceId) -> Result<Option<Found>, EngineError> {
        match self.holder(id).await? {
            Some(engine) => engine.get(id).await,
            None => Ok(None),
        }
    }

    async fn usage(&self, id: InstanceId) -> Result<Option<Usage>, EngineError> {
        match self.holder(id).await? {
            Some(engine) => engine.usage(id).await,
            None => Ok(None),
        }
    }

    async fn memory_kills(&self, id: InstanceId) -> Result<Option<MemoryKills>, EngineError> {
        match self.holder(id).await? {
            Some(engine) => engine.memory_kills(id).await,
            None => Ok(None),
        }
    }

    async fn unseen(&self) -> Option<String> {
        self.docker_answers().await.err().map(|no_docker| no_docker.to_string())
    }

    async fn overlooked(&self) -> Option<String> {
        match self.docker_answers().await {
            Ok(()) => None,
            Err(no_docker) if is_nowhere(&no_docker) && !self.met.load(Ordering::Relaxed) => None,
            Err(no_docker) => Some(no_docker.to_string()),
        }
    }

    async fn remove(&self, id: InstanceId) -> Result<bool, EngineError> {
        match self.holder(id).await? {
            Some(engine) => engine.remove(id).await,
            // It may be there: whoever has to be rid of it comes again.
            None if self.met.load(Ordering::Relaxed) => self.docker.remove(id).await,
            None => Ok(false),
        }
    }

    async fn ended(&self, id: InstanceId) -> Result<Ended, EngineError> {
        if self.is_local(id).await || !self.met.load(Ordering::Relaxed) {
            return self.local.ended(id).await;
        }
        self.docker.ended(id).await
    }

    async fn prune(&self, dry_run: bool, pruned: &mut Vec<Pruned>) -> Result<(), EngineError> {
        let local = self.local.prune(dry_run, pruned).await;
        match self.docker_answers().await {
            Ok(()) => {
                if let Err(error) = local {
                    tracing::warn!(%error, "what is of no use any more in the local engine, if there is anything, stays for now");
                }
                self.docker.prune(dry_run, pruned).await
            }
            Err(no_docker) => {
                local?;
                self.without_docker(&no_docker).await
            }
        }
    }

    async fn diagnose(&self, image: &Image) -> Vec<Diagnosis> {
        let (mut docker, mut local) = tokio::join!(self.docker.diagnose(image), self.local.diagnose(image));
        let works = |lines: &[Diagnosis]| lines.iter().all(|line| line.verdict != Verdict::Bad);
        let detail = match (works(&docker), works(&local)) {
            (true, _) => "docker",
            (false, true) => "local, because Docker can't be used",
            (false, false) => "none that works",
        };
        // What isn't needed may be missing.
        if works(&docker) {
            local = self.local.installed().await.into_iter().collect();
        } else if works(&local) {
            for line in &mut docker {
                line.verdict = line.verdict.min(Verdict::Warning);
            }
        }
        let verdict = if works(&docker) || works(&local) {
            Verdict::Good
        } else {
            Verdict::Bad
        };
        let engine = Diagnosis {
            subject: "engine",
            verdict,
            detail: format!("auto: {detail}"),
            advice: String::new(),
        };
        [vec![engine], docker, local].concat()
    }
}
