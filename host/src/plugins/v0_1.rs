//! Version 0.1 of the WIT package: bindings, imports, conversion. It knows no lifetimes, owners or teams.

pub(super) mod bundle {
    //! The bindings of the world `tool-bundle`.
    wasmtime::component::bindgen!({
        path: "../wit/0.1.0",
        world: "tool-bundle",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

pub(super) mod policy {
    //! The bindings of the world `policy`; what both worlds have is taken from the other's.
    wasmtime::component::bindgen!({
        path: "../wit/0.1.0",
        world: "policy",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "dev-postgres:plugin/types": super::bundle::dev_postgres::plugin::types,
            "dev-postgres:plugin/settings": super::bundle::dev_postgres::plugin::settings,
            "dev-postgres:plugin/log": super::bundle::dev_postgres::plugin::log,
        },
    });
}

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

    async fn health(&mut self, id: String) -> wasmtime::Result<Result<types::HealthReport, types::Failure>> {
        let begun = Instant::now();
        let outcome = self.check_instance(&id).await;
        self.answer(begun, outcome)
    }
}

impl From<types::CreateRequest> for CreateRequest {
    fn from(request: types::CreateRequest) -> Self {
        Self {
            version: request.version,
            database: request.database,
            username: request.username,
            password: request.password.map(Into::into),
            ttl_seconds: None,
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
        }
    }
}

impl From<&Caller> for rules::Caller {
    fn from(caller: &Caller) -> Self {
        match &caller.client {
            None => Self::CommandLine,
            Some(client) => Self::Mcp(client.clone()),
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
            ttl: None,
        })
    }
}
