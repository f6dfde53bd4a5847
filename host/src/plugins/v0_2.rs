//! Version 0.2 of the WIT package, the current one: bindings, imports, conversion.

pub(super) mod bundle {
    //! The bindings of the world `tool-bundle`.
    wasmtime::component::bindgen!({
        path: "../wit/0.2.0",
        world: "tool-bundle",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

pub(super) mod policy {
    //! The bindings of the world `policy`; what both worlds have is taken from the other's.
    wasmtime::component::bindgen!({
        path: "../wit/0.2.0",
        world: "policy",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "dev-postgres:plugin/types": super::bundle::dev_postgres::plugin::types,
            "dev-postgres:plugin/settings": super::bundle::dev_postgres::plugin::settings,
            "dev-postgres:plugin/log": super::bundle::dev_postgres::plugin::log,
            "dev-postgres:plugin/clock": super::bundle::dev_postgres::plugin::clock,
        },
    });
}

use policy::dev_postgres::plugin::inventory;

use crate::instance::{Lifetime, Owner, Ttl};
use crate::policy::Holding;

super::versions::in_every_version!();

impl instances::Host for Guest {
    async fn create(
        &mut self,
        request: types::CreateRequest,
    ) -> wasmtime::Result<Result<types::Created, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.create_instance(request.into()).await;
        self.answer(begun, outcome)
    }

    async fn list(&mut self) -> wasmtime::Result<Result<Vec<types::Instance>, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.list_instances().await.map(all);
        self.answer(begun, outcome)
    }

    async fn get(&mut self, id: String) -> wasmtime::Result<Result<types::Connection, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.get_instance(&id).await;
        self.answer(begun, outcome)
    }

    async fn drop(&mut self, id: String) -> wasmtime::Result<Result<(), types::Failure>> {
        let begun = Instant::now();
        let outcome = self.drop_instance(&id).await;
        self.answer(begun, outcome)
    }

    async fn extend(
        &mut self,
        id: String,
        ttl_seconds: Option<u64>,
    ) -> wasmtime::Result<Result<types::Instance, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.extend_instance(&id, ttl_seconds).await;
        self.answer(begun, outcome)
    }

    async fn health(&mut self, id: String) -> wasmtime::Result<Result<types::HealthReport, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.check_instance(&id).await;
        self.answer(begun, outcome)
    }
}

impl inventory::Host for Guest {
    async fn list(&mut self) -> wasmtime::Result<Result<Vec<inventory::Holding>, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.inventory().await.map(all);
        self.answer(begun, outcome)
    }
}

impl Rules {
    pub(super) async fn plan_extend(
        &self,
        store: &mut Store<Guest>,
        target: &Instance,
        ttl_seconds: Option<u64>,
        caller: &Caller,
    ) -> wasmtime::Result<Result<u64, Rejection>> {
        let (target, caller) = (target.clone().into(), caller.into());
        let planned = self.0.call_plan_extend(store, &target, ttl_seconds, &caller).await?;
        Ok(planned.map_err(Into::into))
    }
}

impl From<types::CreateRequest> for CreateRequest {
    fn from(request: types::CreateRequest) -> Self {
        Self {
            version: request.version,
            database: request.database,
            username: request.username,
            password: request.password.map(Into::into),
            ttl_seconds: request.ttl_seconds,
        }
    }
}

impl From<&CreateRequest> for types::CreateRequest {
    fn from(request: &CreateRequest) -> Self {
        Self {
            version: request.version.clone(),
            database: request.database.clone(),
            username: request.username.clone(),
            password: exposed(request),
            ttl_seconds: request.ttl_seconds,
        }
    }
}

impl From<Instance> for types::Instance {
    fn from(instance: Instance) -> Self {
        Self {
            id: instance.id.to_string(),
            engine: instance.engine.into(),
            container_id: instance.container_id,
            host: instance.host,
            port: instance.port.get(),
            version: instance.version,
            database: instance.database.as_str().to_owned(),
            username: instance.username.as_str().to_owned(),
            status: instance.status.into(),
            created_at: rfc3339(instance.created_at),
            owner: instance.owner.map(Into::into),
            lifetime: match instance.lifetime {
                Lifetime::Session => types::Lifetime::Session,
                Lifetime::Until(end) => types::Lifetime::Until(rfc3339(end)),
                Lifetime::Unlimited => types::Lifetime::Unlimited,
            },
        }
    }
}

impl From<Owner> for types::Owner {
    fn from(owner: Owner) -> Self {
        Self {
            team: owner.team.map(|team| team.to_string()),
            client: owner.client,
            machine: owner.machine,
            process_id: owner.process_id,
        }
    }
}

impl From<Holding> for inventory::Holding {
    fn from(holding: Holding) -> Self {
        Self {
            id: holding.id.to_string(),
            owner: holding.owner.map(Into::into),
            created_at: rfc3339(holding.created_at),
        }
    }
}

impl From<&Caller> for rules::Caller {
    fn from(caller: &Caller) -> Self {
        Self {
            team: caller.team.as_ref().map(ToString::to_string),
            client: caller.client.clone(),
        }
    }
}

/// A policy's spec is checked like any other input.
impl TryFrom<types::InstanceSpec> for InstanceSpec {
    type Error = InvalidValue;

    fn try_from(spec: types::InstanceSpec) -> Result<Self, InvalidValue> {
        Ok(Self {
            image: Image::new(&spec.repository, &spec.version).map_err(named("the image"))?,
            database: spec.database.parse().map_err(named("database"))?,
            username: spec.username.parse().map_err(named("username"))?,
            password: Password::new(spec.password).map_err(named("password"))?,
            limits: Limits::new(spec.memory_mib, spec.cpu_millis)?,
            durable: spec.durable,
            ttl: spec
                .ttl_seconds
                .map(Ttl::from_seconds)
                .transpose()
                .map_err(named("ttl_seconds"))?,
        })
    }
}
