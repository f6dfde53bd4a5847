//! Docker if it answers, else the local engine; what either has made is seen all the time.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::docker::DockerEngine;
use super::local::LocalEngine;
use super::{Diagnosis, Ended, Engine, EngineError, Verdict};
use crate::instance::{Created, Found, Image, Instance, InstanceId, InstanceSpec, Port, ProgressSink};

/// Both engines behind one.
#[derive(Debug)]
pub struct AutoEngine {
    docker: DockerEngine,
    local: LocalEngine,
    /// Whether it has been said that Docker doesn't answer.
    told: AtomicBool,
}

/// Why Docker isn't used.
type NoDocker = EngineError;

impl AutoEngine {
    /// Asks neither yet.
    #[must_use]
    pub fn new(docker: DockerEngine, local: LocalEngine) -> Self {
        Self {
            docker,
            local,
            told: AtomicBool::new(false),
        }
    }

    /// The engine that new instances are made by.
    async fn chosen(&self) -> Result<&dyn Engine, EngineError> {
        match self.docker.answers().await {
            Ok(()) => Ok(&self.docker),
            Err(no_docker) => {
                self.without_docker(&no_docker).await?;
                Ok(&self.local)
            }
        }
    }

    /// Makes do with the local engine alone.
    ///
    /// # Errors
    /// If that one can't be used either.
    async fn without_docker(&self, no_docker: &NoDocker) -> Result<(), EngineError> {
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

#[async_trait]
impl Engine for AutoEngine {
    async fn recover(&self) -> Result<(), EngineError> {
        self.local.recover().await?;
        self.docker.recover().await
    }

    async fn default_image(&self, configured: &Image) -> Image {
        match self.chosen().await {
            Ok(engine) => engine.default_image(configured).await,
            // Whatever comes next says what is wrong.
            Err(_) => configured.clone(),
        }
    }

    async fn prepare(&self, image: &Image, progress: &ProgressSink) -> Result<(), EngineError> {
        self.chosen().await?.prepare(image, progress).await
    }

    async fn create(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        port: Port,
        progress: &ProgressSink,
    ) -> Result<Created, EngineError> {
        self.chosen().await?.create(id, spec, port, progress).await
    }

    async fn keep(&self, id: InstanceId) -> Result<(), EngineError> {
        if self.local.has(id).await? {
            return self.local.keep(id).await;
        }
        self.docker.keep(id).await
    }

    async fn list(&self) -> Result<Vec<Instance>, EngineError> {
        let (docker, local) = tokio::join!(
            async {
                self.docker.answers().await?;
                Ok::<_, EngineError>(self.docker.list().await)
            },
            self.local.list()
        );
        let mut instances = local?;
        match docker {
            Ok(in_containers) => instances.extend(in_containers?),
            Err(_) if !instances.is_empty() => {}
            Err(no_docker) => self.without_docker(&no_docker).await?,
        }
        instances.sort_by_key(|instance| (instance.created_at, instance.id));
        Ok(instances)
    }

    async fn get(&self, id: InstanceId) -> Result<Option<Found>, EngineError> {
        if let Some(found) = self.local.get(id).await? {
            return Ok(Some(found));
        }
        match self.docker.answers().await {
            Ok(()) => self.docker.get(id).await,
            Err(no_docker) => self.without_docker(&no_docker).await.map(|()| None),
        }
    }

    async fn remove(&self, id: InstanceId) -> Result<bool, EngineError> {
        if self.local.remove(id).await? {
            return Ok(true);
        }
        match self.docker.answers().await {
            Ok(()) => self.docker.remove(id).await,
            Err(no_docker) => self.without_docker(&no_docker).await.map(|()| false),
        }
    }

    async fn ended(&self, id: InstanceId) -> Result<Ended, EngineError> {
        if self.local.has(id).await? {
            return self.local.ended(id).await;
        }
        self.docker.ended(id).await
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
