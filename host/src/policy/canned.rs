//! Rules with one answer to everything, for unit tests.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Action, Holding, Inventory, Policy, Rejection};
use crate::failure::Failure;
use crate::instance::{
    Caller, ConnectionUri, CreateRequest, Defaults, EngineKind, Found, Instance, InstanceId, InstanceSpec, Lifetime,
    Port, Status, Ttl,
};

/// Plans this, or rejects everything.
#[derive(Debug)]
pub(crate) struct Canned(Result<InstanceSpec, Rejection>);

impl Canned {
    pub(crate) fn planning(spec: InstanceSpec) -> Self {
        Self(Ok(spec))
    }

    pub(crate) fn rejecting(rejection: Rejection) -> Self {
        Self(Err(rejection))
    }
}

#[async_trait]
impl Policy for Canned {
    async fn plan_create(
        &self,
        _request: &CreateRequest,
        _defaults: &Defaults,
        _caller: &Caller,
        _inventory: Arc<dyn Inventory>,
    ) -> Result<InstanceSpec, Rejection> {
        self.0.clone()
    }

    async fn plan_extend(
        &self,
        _target: &Instance,
        _ttl_seconds: Option<u64>,
        _caller: &Caller,
        _inventory: Arc<dyn Inventory>,
    ) -> Result<Ttl, Rejection> {
        let spec = self.0.clone()?;
        spec.ttl
            .ok_or_else(|| Rejection::Denied("it has no time to live".into()))
    }

    async fn authorize(
        &self,
        _action: Action,
        _target: &Instance,
        _caller: &Caller,
        _inventory: Arc<dyn Inventory>,
    ) -> Result<(), Rejection> {
        self.0.clone().map(drop)
    }

    async fn connection_uri(&self, _found: &Found) -> Result<ConnectionUri, Rejection> {
        self.0.clone().map(|_| ConnectionUri::new("postgres://".into()))
    }
}

/// A host that has no instances.
pub(crate) struct Empty;

#[async_trait]
impl Inventory for Empty {
    async fn holdings(&self) -> Result<Vec<Holding>, Failure> {
        Ok(Vec::new())
    }
}

/// Some instance.
pub(crate) fn instance() -> Instance {
    Instance {
        id: InstanceId::random(),
        engine: EngineKind::Docker,
        container_id: String::new(),
        host: "127.0.0.1".into(),
        port: Port::try_from(15_432).expect("a port"),
        version: "17".into(),
        database: "app".parse().expect("a name"),
        username: "postgres".parse().expect("a name"),
        status: Status::Running,
        created_at: std::time::SystemTime::UNIX_EPOCH,
        owner: None,
        lifetime: Lifetime::Unlimited,
    }
}
