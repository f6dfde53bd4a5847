//! An engine for the manager's unit tests: it records what it is asked and runs nothing.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::io::DuplexStream;

use super::{Diagnosis, Ended, Engine, EngineError, Pruned, Waiting, provision};
use crate::instance::{
    Created, EngineKind, Found, Image, Instance, InstanceId, InstanceSpec, Lifetime, MemoryKills, Owner, Port,
    ProgressSink, Status, Usage,
};

/// How a server that the engine "started" behaves.
#[derive(Debug, Clone, Default)]
pub(crate) enum Server {
    /// Nothing ever listens.
    #[default]
    Silent,
    /// It answers before anybody asks.
    Answers,
    /// It ends at once.
    Dies(Ended),
}

#[derive(Debug, Default)]
pub(crate) struct FakeEngine {
    /// Ports that somebody else holds.
    pub(crate) taken: Vec<u16>,
    pub(crate) server: Server,
    /// The only image that it has.
    pub(crate) default_image: Option<Image>,
    /// How many more removals fail.
    pub(crate) failing_removals: AtomicUsize,
    /// How many more times it can't look for what killed processes have left.
    pub(crate) failing_recoveries: AtomicUsize,
    /// How many more waits for an end fail.
    pub(crate) failing_watches: AtomicUsize,
    /// What its clock shows; `None` for the machine's own.
    pub(crate) now: Mutex<Option<SystemTime>>,
    /// Engines of these kinds don't tell the time.
    pub(crate) clockless: Vec<EngineKind>,
    pub(crate) asked: Mutex<Vec<String>>,
    /// What was to be created so far.
    pub(crate) specs: Mutex<Vec<InstanceSpec>>,
    pub(crate) instances: Mutex<Vec<Found>>,
    /// Those of them that somebody has damaged.
    pub(crate) damaged: Mutex<Vec<InstanceId>>,
    /// Those of them that are listed and can't be read.
    pub(crate) unreadable: Mutex<Vec<InstanceId>>,
    /// What has befallen every instance.
    pub(crate) memory_kills: Option<MemoryKills>,
    /// What every instance takes.
    pub(crate) usage: Usage,
    /// How many instances are being asked for what they take.
    pub(crate) measuring: AtomicUsize,
    /// How many instances were asked at once for what they take, at most.
    pub(crate) measured_at_once: AtomicUsize,
    /// The other ends of the sessions with servers that wait.
    pub(crate) waiting: Mutex<HashMap<InstanceId, DuplexStream>>,
}

fn instance(id: InstanceId, spec: &InstanceSpec, owner: &Owner, port: Port) -> Instance {
    Instance {
        id,
        engine: EngineKind::Docker,
        container_id: "c0ffee".into(),
        host: "127.0.0.1".into(),
        port,
        version: spec.image.version().to_owned(),
        database: spec.database.clone(),
        username: spec.username.clone(),
        status: Status::Running,
        created_at: SystemTime::now(),
        owner: Some(owner.clone()),
        lifetime: Lifetime::Session,
    }
}

/// Fails as often as that is to happen.
fn outage(left: &AtomicUsize) -> Result<(), EngineError> {
    let fails = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    match fails {
        Ok(_) => Err(away()),
        Err(_) => Ok(()),
    }
}

fn away() -> EngineError {
    EngineError::Request {
        verb: "asking the engine",
        reason: "it is away".into(),
    }
}

impl FakeEngine {
    pub(crate) fn with_instance(self, status: Status) -> (Self, InstanceId) {
        let id = InstanceId::random();
        let found = Found {
            instance: Instance {
                id,
                engine: EngineKind::Docker,
                container_id: "c0ffee".into(),
                host: "127.0.0.1".into(),
                // Discard: reserved, and nothing of ours listens there.
                port: Port::try_from(9).expect("a port"),
                version: "17".into(),
                database: "postgres".parse().expect("a database name"),
                username: "postgres".parse().expect("a role name"),
                status,
                created_at: SystemTime::now(),
                owner: None,
                lifetime: Lifetime::Unlimited,
            },
            password: crate::instance::Password::new("s3cret").expect("a password"),
        };
        self.instances.lock().expect("unpoisoned").push(found);
        (self, id)
    }

    /// What was asked so far, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.asked.lock().expect("unpoisoned").clone()
    }

    /// What was to be created so far, in order.
    pub(crate) fn specs(&self) -> Vec<InstanceSpec> {
        self.specs.lock().expect("unpoisoned").clone()
    }

    fn all(&self) -> Vec<Instance> {
        let instances = self.instances.lock().expect("unpoisoned");
        instances.iter().map(|found| found.instance.clone()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.instances.lock().expect("unpoisoned").is_empty()
    }

    fn record(&self, call: impl Into<String>) {
        self.asked.lock().expect("unpoisoned").push(call.into());
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn recover(&self, was_killed: bool) -> Result<(), EngineError> {
        self.record(format!("recover, was_killed: {was_killed}"));
        outage(&self.failing_recoveries)
    }

    async fn default_image(&self, configured: &Image) -> Image {
        self.default_image.clone().unwrap_or_else(|| configured.clone())
    }

    async fn prepare(&self, image: &Image, _progress: &ProgressSink) -> Result<bool, EngineError> {
        self.record(format!("prepare {image}"));
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
        self.record(format!("create {port}"));
        self.specs.lock().expect("unpoisoned").push(spec.clone());
        if self.taken.contains(&port.get()) {
            return Err(EngineError::PortTaken(port));
        }
        let found = Found {
            instance: instance(id, spec, owner, port),
            password: spec.password.clone(),
        };
        self.instances.lock().expect("unpoisoned").push(found.clone());
        Ok(Created {
            found,
            warnings: Vec::new(),
            answers: matches!(self.server, Server::Answers),
        })
    }

    async fn start_ahead(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        owner: &Owner,
        port: Port,
    ) -> Result<Option<Waiting>, EngineError> {
        self.record(format!("start ahead {}", spec.image));
        let (session, server) = provision::fake::session().await;
        self.waiting.lock().expect("unpoisoned").insert(id, server);
        Ok(Some(Waiting {
            instance: instance(id, spec, owner, port),
            origin: String::new(),
            warnings: Vec::new(),
            session,
        }))
    }

    async fn assign(&self, waiting: Waiting, spec: &InstanceSpec, owner: &Owner) -> Result<Created, EngineError> {
        self.record("assign");
        self.waiting.lock().expect("unpoisoned").remove(&waiting.id());
        let found = waiting.becomes(spec, owner);
        self.instances.lock().expect("unpoisoned").push(found.clone());
        Ok(Created {
            found,
            warnings: waiting.warnings,
            answers: true,
        })
    }

    async fn keep(&self, id: InstanceId, lifetime: Lifetime) -> Result<(), EngineError> {
        self.record("keep");
        let mut instances = self.instances.lock().expect("unpoisoned");
        match instances.iter_mut().find(|found| found.instance.id == id) {
            Some(found) => {
                found.instance.lifetime = lifetime;
                Ok(())
            }
            None => Err(EngineError::Gone),
        }
    }

    async fn now(&self, kind: EngineKind) -> Result<SystemTime, EngineError> {
        if self.clockless.contains(&kind) {
            return Err(away());
        }
        let now = *self.now.lock().expect("unpoisoned");
        Ok(now.unwrap_or_else(SystemTime::now))
    }

    async fn list(&self) -> Result<Vec<Instance>, EngineError> {
        self.record("list");
        let mut instances = self.all();
        let damaged = self.damaged.lock().expect("unpoisoned");
        instances.retain(|instance| !damaged.contains(&instance.id));
        Ok(instances)
    }

    async fn list_all(&self) -> Result<Vec<Instance>, EngineError> {
        self.record("list all");
        Ok(self.all())
    }

    async fn get(&self, id: InstanceId) -> Result<Option<Found>, EngineError> {
        self.record("get");
        if self.unreadable.lock().expect("unpoisoned").contains(&id) {
            return Err(away());
        }
        let instances = self.instances.lock().expect("unpoisoned");
        let found = instances.iter().find(|found| found.instance.id == id).cloned();
        match found {
            Some(found) if self.damaged.lock().expect("unpoisoned").contains(&id) => Err(EngineError::Damaged {
                what: "its label".into(),
                legible: Box::new(found.instance),
            }),
            found => Ok(found),
        }
    }

    async fn usage(&self, id: InstanceId) -> Result<Option<Usage>, EngineError> {
        self.record("usage");
        let now = self.measuring.fetch_add(1, Ordering::Relaxed) + 1;
        self.measured_at_once.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.measuring.fetch_sub(1, Ordering::Relaxed);
        Ok(self.get(id).await?.map(|_| self.usage))
    }

    async fn memory_kills(&self, _id: InstanceId) -> Result<Option<MemoryKills>, EngineError> {
        Ok(self.memory_kills)
    }

    async fn remove(&self, id: InstanceId) -> Result<bool, EngineError> {
        self.record("remove");
        outage(&self.failing_removals)?;
        self.waiting.lock().expect("unpoisoned").remove(&id);
        let mut instances = self.instances.lock().expect("unpoisoned");
        let before = instances.len();
        instances.retain(|found| found.instance.id != id);
        Ok(instances.len() < before)
    }

    async fn ended(&self, _id: InstanceId) -> Result<Ended, EngineError> {
        outage(&self.failing_watches)?;
        match &self.server {
            Server::Silent | Server::Answers => std::future::pending().await,
            Server::Dies(ended) => Ok(ended.clone()),
        }
    }

    async fn prune(&self, _dry_run: bool, _pruned: &mut Vec<Pruned>) -> Result<(), EngineError> {
        Ok(())
    }

    async fn diagnose(&self, _image: &Image) -> Vec<Diagnosis> {
        Vec::new()
    }
}
