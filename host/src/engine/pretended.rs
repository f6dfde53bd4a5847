//! An engine that only says that it runs what it is asked for: its instances are in this process's memory alone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;

use super::{Diagnosis, Ended, Engine, EngineError, Pruned, Waiting, now_in_seconds, outdated};
use crate::instance::{
    Created, EngineKind, Found, Image, Instance, InstanceId, InstanceSpec, Lifetime, MemoryKills, Owner, Port,
    ProgressSink, Status, Usage,
};

/// For plugins to be tried: creates succeed at once, and nothing listens where instances are said to be.
#[derive(Debug, Default)]
pub struct PretendedEngine {
    instances: Mutex<Vec<Found>>,
}

impl PretendedEngine {
    fn instances(&self) -> MutexGuard<'_, Vec<Found>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Engine for PretendedEngine {
    async fn recover(&self, _was_killed: bool) -> Result<(), EngineError> {
        Ok(())
    }

    async fn default_image(&self, configured: &Image) -> Image {
        configured.clone()
    }

    async fn prepare(&self, _image: &Image, _progress: &ProgressSink) -> Result<bool, EngineError> {
        Ok(true)
    }

    async fn create(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        owner: &Owner,
        port: Port,
        _progress: &ProgressSink,
    ) -> Result<Created, EngineError> {
        let found = Found {
            instance: Instance {
                id,
                engine: EngineKind::Local,
                container_id: String::new(),
                host: "127.0.0.1".into(),
                port,
                version: spec.image.version().to_owned(),
                database: spec.database.clone(),
                username: spec.username.clone(),
                status: Status::Running,
                created_at: now_in_seconds(),
                owner: Some(owner.clone()),
                lifetime: Lifetime::Session,
            },
            password: spec.password.clone(),
        };
        self.instances().push(found.clone());
        Ok(Created {
            found,
            warnings: Vec::new(),
            answers: true,
        })
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
        Err(outdated())
    }

    async fn keep(&self, id: InstanceId, lifetime: Lifetime) -> Result<(), EngineError> {
        match self.instances().iter_mut().find(|found| found.instance.id == id) {
            Some(found) => {
                found.instance.lifetime = lifetime;
                Ok(())
            }
            None => Err(EngineError::Gone),
        }
    }

    async fn now(&self, _kind: EngineKind) -> Result<SystemTime, EngineError> {
        Ok(SystemTime::now())
    }

    async fn list(&self) -> Result<Vec<Instance>, EngineError> {
        Ok(self.instances().iter().map(|found| found.instance.clone()).collect())
    }

    async fn get(&self, id: InstanceId) -> Result<Option<Found>, EngineError> {
        Ok(self.instances().iter().find(|found| found.instance.id == id).cloned())
    }

    async fn usage(&self, _id: InstanceId) -> Result<Option<Usage>, EngineError> {
        Ok(None)
    }

    async fn memory_kills(&self, _id: InstanceId) -> Result<Option<MemoryKills>, EngineError> {
        Ok(None)
    }

    async fn remove(&self, id: InstanceId) -> Result<bool, EngineError> {
        let mut instances = self.instances();
        let before = instances.len();
        instances.retain(|found| found.instance.id != id);
        Ok(instances.len() < before)
    }

    async fn ended(&self, _id: InstanceId) -> Result<Ended, EngineError> {
        std::future::pending().await
    }

    async fn prune(&self, _dry_run: bool, _pruned: &mut Vec<Pruned>) -> Result<(), EngineError> {
        Ok(())
    }

    async fn diagnose(&self, _image: &Image) -> Vec<Diagnosis> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{Limits, Password};

    #[tokio::test]
    async fn an_instance_is_there_from_its_create_to_its_removal() {
        let engine = PretendedEngine::default();
        let (id, port) = (InstanceId::random(), Port::try_from(15432).expect("a port"));
        let spec = InstanceSpec {
            image: Image::new("postgres", "17").expect("an image"),
            database: "app".parse().expect("a name"),
            username: "me".parse().expect("a name"),
            password: Password::new("s3cret").expect("a password"),
            limits: Limits::new(512, 1000).expect("limits"),
            durable: false,
            ttl: None,
        };
        let owner = Owner {
            process: "p".into(),
            machine: "m".into(),
            process_id: 1,
            started_at: None,
            team: None,
            client: None,
        };
        let created = engine.create(id, &spec, &owner, port, &ProgressSink::none()).await;
        assert!(created.expect("created").answers, "nobody has to wait for it");
        engine.keep(id, Lifetime::Unlimited).await.expect("it is there");
        let found = engine.get(id).await.expect("it can tell").expect("it is there");
        assert_eq!(found.instance.lifetime, Lifetime::Unlimited);
        assert_eq!(engine.list().await.expect("it can tell").len(), 1);
        assert!(engine.remove(id).await.expect("it can"));
        assert!(!engine.remove(id).await.expect("it can"));
        assert!(engine.keep(id, Lifetime::Session).await.is_err());
    }
}
