//! A policy component as the host's [`Policy`]: whatever goes wrong in it denies.

use async_trait::async_trait;
use wasmtime::component::HasSelf;

use super::budget::Budget;
use super::grants::{Grant, Grants};
use super::provenance::{Provenance, State};
use super::v0_1::{self, Guest, policy as wit};
use super::{Loaded, PluginError, Runtime, Source};
use crate::instance::{Caller, ConnectionUri, CreateRequest, Defaults, Found, Instance, InstanceSpec};
use crate::metrics::METRICS;
use crate::policy::{Action, Policy, Rejection};
use secrecy::ExposeSecret;

/// What a policy may have of what bundles are granted: it is trusted with more than they are, and has no use for it.
pub(crate) const LOG_ALONE: [Grant; 1] = [Grant::Log];

/// What a policy is called among components: there is one, whatever its file.
const POLICY: &str = "policy";

/// The rules of a component of the world `policy`.
pub struct ComponentPolicy {
    loaded: Loaded,
    bindings: wit::PolicyIndices,
}

impl std::fmt::Debug for ComponentPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ComponentPolicy").field(&self.loaded.name).finish()
    }
}

impl ComponentPolicy {
    /// Compiles and links the component and has it check its settings.
    ///
    /// # Errors
    /// If it isn't a policy, or refuses its settings.
    pub async fn load(runtime: &Runtime, source: &Source) -> Result<Self, PluginError> {
        let loaded = Loaded::new(runtime, source, "policy", Budget::POLICY, |linker| {
            wit::Policy::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
        })
        .await?;
        let bindings = wit::PolicyIndices::new(&loaded.instance).map_err(|error| PluginError::Unfit {
            name: source.name.clone(),
            world: "policy",
            reason: format!("{error:#}"),
        })?;
        let policy = Self { loaded, bindings };
        let settings = policy.loaded.settings.to_string();
        policy
            .call(&[], async |rules, store| {
                rules.call_check_settings(store, &settings).await
            })
            .await?
            .map_err(|fields| PluginError::Settings {
                name: source.name.clone(),
                fields: fields.into_iter().map(Into::into).collect(),
            })?;
        Ok(policy)
    }

    /// Where it comes from, what it may do, how it stands.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        Provenance {
            name: self.loaded.name.to_string(),
            world: "policy",
            from: self.loaded.from.clone(),
            sha256: Some(self.loaded.sha256),
            grants: LOG_ALONE.into_iter().collect(),
            budget: self.loaded.budget,
            tools: Vec::new(),
            state: State::Serving,
        }
    }

    /// What it asks the host for.
    #[must_use]
    pub fn requested(&self) -> Grants {
        self.loaded.requested()
    }

    /// Calls the policy; what it logs of `secrets` is redacted.
    async fn call<R>(
        &self,
        secrets: &[&str],
        run: impl AsyncFnOnce(
            &wit::exports::dev_postgres::plugin::rules::Guest,
            &mut wasmtime::Store<Guest>,
        ) -> wasmtime::Result<R>,
    ) -> Result<R, PluginError> {
        let mut guest = Guest::new(&self.loaded, LOG_ALONE.into_iter().collect(), None);
        for secret in secrets {
            guest.hide(secret);
        }
        self.loaded
            .call(guest, async |store| {
                let instance = self.loaded.instance.instantiate_async(&mut *store).await?;
                let exports = self.bindings.load(&mut *store, &instance)?;
                run(exports.dev_postgres_plugin_rules(), store).await
            })
            .await
    }
}

/// Fails closed, and leaves the details in the log.
fn broken(error: &PluginError) -> Rejection {
    if let Some(fault) = error.fault() {
        METRICS.guest_failed(POLICY, fault);
    }
    // `Debug` keeps a guest's words on one line.
    tracing::error!(error = ?error.to_string(), "the policy failed, so nothing is allowed");
    Rejection::Broken(error.to_string())
}

#[async_trait]
impl Policy for ComponentPolicy {
    async fn plan_create(
        &self,
        request: &CreateRequest,
        defaults: &Defaults,
        caller: &Caller,
    ) -> Result<InstanceSpec, Rejection> {
        let secrets: Vec<&str> = request.password.iter().map(ExposeSecret::expose_secret).collect();
        let (request, defaults, caller) = (request.into(), defaults.into(), caller.into());
        let spec = self
            .call(&secrets, async |rules, store| {
                rules.call_plan_create(store, &request, &defaults, &caller).await
            })
            .await
            .map_err(|error| broken(&error))??;
        spec.try_into()
            .map_err(|error: crate::instance::InvalidValue| broken(&self.loaded.nonsense(error.to_string())))
    }

    async fn authorize(&self, action: Action, target: &Instance, caller: &Caller) -> Result<(), Rejection> {
        let (target, caller) = (target.into(), caller.into());
        self.call(&[], async |rules, store| {
            rules.call_authorize(store, action.into(), &target, &caller).await
        })
        .await
        .map_err(|error| broken(&error))?
        .map_err(Rejection::Denied)
    }

    async fn authorize_each(
        &self,
        action: Action,
        targets: &[Instance],
        caller: &Caller,
    ) -> Result<Vec<Result<(), String>>, Rejection> {
        let caller = caller.into();
        // One call as far as its budget goes: a sandbox takes more time than an answer.
        self.call(&[], async |rules, store| {
            let mut verdicts = Vec::new();
            for target in targets {
                let target = target.into();
                verdicts.push(
                    rules
                        .call_authorize(&mut *store, action.into(), &target, &caller)
                        .await?,
                );
            }
            Ok(verdicts)
        })
        .await
        .map_err(|error| broken(&error))
    }

    async fn connection_uri(&self, found: &Found) -> Result<ConnectionUri, Rejection> {
        let endpoint = found.into();
        let uri = self
            .call(&[found.password.expose()], async |rules, store| {
                rules.call_format_dsn(store, &endpoint).await
            })
            .await
            .map_err(|error| broken(&error))?;
        self.loaded.check_output(uri.len()).map_err(|error| broken(&error))?;
        v0_1::connection_uri(uri).map_err(|error| broken(&self.loaded.nonsense(error.to_string())))
    }
}
