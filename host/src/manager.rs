//! The one way to instances: every create, read and drop passes the policy here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::engine::{Diagnosis, Engine, EngineError};
use crate::failure::Failure;
use crate::instance::{Caller, Connection, CreateRequest, Defaults, HealthReport, Instance, InstanceId, ProgressSink};
use crate::policy::{Policy, Rejection};
use crate::ports::{PortRange, PortsExhausted};

/// What the manager goes by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the policy is told for requests that leave it open.
    pub defaults: Defaults,
    /// The ports that instances may have.
    pub ports: PortRange,
    /// How long a started instance may take until it answers its first query.
    pub ready_timeout: Duration,
}

/// Creates, lists, gets, drops and checks instances.
#[derive(Debug, Clone)]
pub struct InstanceManager {
    _private: (),
}

/// An instance that is dropped again unless it is kept.
#[derive(Debug)]
#[must_use = "an instance that isn't kept is dropped again"]
pub struct NewInstance {
    connection: Connection,
}

impl NewInstance {
    /// What was made.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Lets it live on.
    #[must_use]
    pub fn keep(self) -> Connection {
        self.connection
    }
}

/// Why an instance was not created, shown or dropped.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The policy says no.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// There is no such instance, or none that the caller may see.
    #[error("there is no instance {0}")]
    NotFound(InstanceId),
    /// No port is left.
    #[error(transparent)]
    Ports(#[from] PortsExhausted),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<&InstanceError> for Failure {
    fn from(_error: &InstanceError) -> Self {
        todo!("lands with the manager")
    }
}

#[expect(
    unused_variables,
    clippy::unused_async,
    clippy::missing_errors_doc,
    reason = "signatures first"
)]
impl InstanceManager {
    /// Background work, clean-up above all, runs on `tracker`: whoever ends the process waits for it.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, policy: Arc<dyn Policy>, settings: Settings, tracker: TaskTracker) -> Self {
        todo!()
    }

    /// Creates an instance and returns once it answers queries.
    pub async fn create(
        &self,
        request: CreateRequest,
        caller: &Caller,
        progress: &ProgressSink,
    ) -> Result<NewInstance, InstanceError> {
        todo!()
    }

    /// Every instance that the caller may see, oldest first.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<Instance>, InstanceError> {
        todo!()
    }

    /// One instance with its credentials.
    pub async fn get(&self, id: InstanceId, caller: &Caller) -> Result<Connection, InstanceError> {
        todo!()
    }

    /// Removes an instance with its data.
    pub async fn remove(&self, id: InstanceId, caller: &Caller) -> Result<(), InstanceError> {
        todo!()
    }

    /// Runs a query on an instance and says how it went.
    pub async fn health(&self, id: InstanceId, caller: &Caller) -> Result<HealthReport, InstanceError> {
        todo!()
    }

    /// What `doctor` shows of the engine.
    pub async fn diagnose(&self) -> Vec<Diagnosis> {
        todo!()
    }
}

impl fmt::Display for NewInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connection.instance.id.fmt(f)
    }
}
