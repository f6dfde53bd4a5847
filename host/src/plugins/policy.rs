//! A policy component as the host's [`Policy`]: whatever goes wrong in it denies.

use std::sync::Arc;

use async_trait::async_trait;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret;
use wasmtime::Store;

use super::budget::Budget;
use super::grants::{Grant, Grants};
use super::guest::{AskedBy, Guest};
use super::provenance::{Provenance, State};
use super::versions::{RuleIndices, Rules, World};
use super::{Loaded, PluginError, Runtime, Source};
use crate::instance::{
    Caller, ConnectionUri, CreateRequest, Defaults, Found, Instance, InstanceSpec, InvalidValue, Ttl,
};
use crate::metrics::METRICS;
use crate::policy::{Action, Inventory, Policy, Rejection};

/// What a policy may have of what bundles are granted: it is trusted with more than they are, and has no use for the rest.
pub(crate) const GRANTS: [Grant; 2] = [Grant::Log, Grant::Clock];

/// What a policy is called among components: there is one, whatever its file.
const POLICY: &str = "policy";
/// What connection URIs encode: all but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The rules of a component of the world `policy`.
pub struct ComponentPolicy {
    loaded: Loaded,
    exports: RuleIndices,
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
        let policy = Self::link(runtime, source).await?;
        policy.check_settings().await?;
        Ok(policy)
    }

    /// Compiles and links the component, and nothing more.
    pub(super) async fn link(runtime: &Runtime, source: &Source) -> Result<Self, PluginError> {
        let loaded = Loaded::new(runtime, source, World::Policy, Budget::POLICY).await?;
        let exports = RuleIndices::new(&loaded.instance, loaded.version)
            .map_err(|error| loaded.unfit(World::Policy, format!("{error:#}")))?;
        Ok(Self { loaded, exports })
    }

    /// # Errors
    /// If it refuses its settings, or fails.
    pub(super) async fn check_settings(&self) -> Result<(), PluginError> {
        let settings = &self.loaded.settings;
        self.call(AskedBy::Host, &[], async |rules, store| {
            rules.check_settings(store, settings).await
        })
        .await?
        .map_err(|fields| PluginError::Settings {
            name: self.loaded.name.to_string(),
            fields,
        })
    }

    /// Where it comes from, what it may do, how it stands.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        Provenance {
            name: self.loaded.name.to_string(),
            world: "policy",
            from: self.loaded.from.clone(),
            sha256: Some(self.loaded.sha256),
            grants: GRANTS.into_iter().collect(),
            mode: None,
            may_change: None,
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
        asked_by: AskedBy,
        secrets: &[&str],
        run: impl AsyncFnOnce(&Rules, &mut Store<Guest>) -> wasmtime::Result<R>,
    ) -> Result<R, PluginError> {
        let guest = Guest::new(&self.loaded, GRANTS.into_iter().collect(), asked_by);
        for secret in secrets {
            guest.hide(secret);
        }
        self.loaded
            .call(guest, async |store| {
                let rules = self.exports.instantiate(store, &self.loaded.instance).await?;
                run(&rules, store).await
            })
            .await
    }

    fn nonsense(&self, InvalidValue(reason): InvalidValue) -> Rejection {
        broken(&self.loaded.nonsense(reason))
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
        inventory: Arc<dyn Inventory>,
    ) -> Result<InstanceSpec, Rejection> {
        let secrets: Vec<&str> = request.password.iter().map(ExposeSecret::expose_secret).collect();
        self.call(AskedBy::Manager(inventory), &secrets, async |rules, store| {
            rules.plan_create(store, request, defaults, caller).await
        })
        .await
        .map_err(|error| broken(&error))??
        .map_err(|error| self.nonsense(error))
    }

    async fn plan_extend(
        &self,
        target: &Instance,
        ttl_seconds: Option<u64>,
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<Ttl, Rejection> {
        let seconds = self
            .call(AskedBy::Manager(inventory), &[], async |rules, store| {
                rules.plan_extend(store, target, ttl_seconds, caller).await
            })
            .await
            .map_err(|error| broken(&error))??;
        Ttl::from_seconds(seconds).map_err(|error| self.nonsense(error))
    }

    async fn authorize(
        &self,
        action: Action,
        target: &Instance,
        caller: &Caller,
        inventory: Arc<dyn Inventory>,
    ) -> Result<(), Rejection> {
        self.call(AskedBy::Manager(inventory), &[], async |rules, store| {
            rules.authorize(store, action, target, caller).await
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
        inventory: Arc<dyn Inventory>,
    ) -> Result<Vec<Result<(), String>>, Rejection> {
        // One call as far as its budget goes: a sandbox takes more time than an answer.
        self.call(AskedBy::Manager(inventory), &[], async |rules, store| {
            let mut verdicts = Vec::new();
            for target in targets {
                verdicts.push(rules.authorize(store, action, target, caller).await?);
            }
            Ok(verdicts)
        })
        .await
        .map_err(|error| broken(&error))
    }

    async fn connection_uri(&self, found: &Found) -> Result<ConnectionUri, Rejection> {
        let password = found.password.expose();
        // A rule that is at work on the URI may log a piece of it.
        let encoded = utf8_percent_encode(password, RESERVED).to_string();
        let uri = self
            .call(AskedBy::Host, &[password, &encoded], async |rules, store| {
                rules.format_dsn(store, found).await
            })
            .await
            .map_err(|error| broken(&error))?;
        self.loaded.check_output(uri.len()).map_err(|error| broken(&error))?;
        // As far as the host can judge it.
        if uri.is_empty() || uri.chars().any(char::is_control) {
            let reason = "the connection URI is empty or has control characters";
            return Err(self.nonsense(InvalidValue(reason.into())));
        }
        Ok(ConnectionUri::new(uri))
    }
}
