//! A tool bundle: its tools, and calls of them.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Map, Value};
use wasmtime::Store;

use super::budget::Budget;
use super::credentials::Placeholders;
use super::grants::Grants;
use super::guest::{AskedBy, Guest, ToolCall};
use super::provenance::{Provenance, State};
use super::tools::{Described, Prefix, Tool};
use super::transcript::Transcript;
use super::versions::{ToolIndices, Tools, World};
use super::{Loaded, PluginError, Runtime, Source};
use crate::failure::Failure;
use crate::instance::{Caller, ProgressSink};
use crate::manager::{InstanceManager, NewInstance};
use crate::metrics::METRICS;
use crate::policy::of_fields;

/// How many tools a bundle may offer: clients cope with some forty in all.
const TOOLS_MAX: usize = 40;

/// After how many failures of its own in a row a bundle is switched off.
const FAILURES_MAX: u32 = 3;

/// A component of the world `tool-bundle`.
#[derive(Debug)]
pub struct Bundle {
    loaded: Loaded,
    grants: Grants,
    exports: Indices,
    tools: Vec<Tool>,
    /// How often it has failed in a row.
    failures: AtomicU32,
}

struct Indices(ToolIndices);

impl std::fmt::Debug for Indices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Indices")
    }
}

/// On what terms the configuration takes a bundle in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What stands before its tools' names.
    pub prefix: Option<Prefix>,
    /// What it may ask the host for.
    pub grants: Grants,
    /// What it may use in one call.
    pub budget: Budget,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            prefix: None,
            grants: Grants::default(),
            budget: Budget::BUNDLE,
        }
    }
}

/// Why a tool call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The bundle, or the host below it, says why.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The bundle itself is at fault.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

impl From<&CallError> for Failure {
    fn from(error: &CallError) -> Self {
        match error {
            CallError::Failed(failure) => failure.clone(),
            CallError::Plugin(error) => error.into(),
        }
    }
}

impl Bundle {
    /// Compiles and links the component, has it check its settings and describe its tools.
    ///
    /// # Errors
    /// If it isn't a tool bundle, refuses its settings, or describes tools that clients could not use.
    pub async fn load(runtime: &Runtime, source: &Source, terms: &Terms) -> Result<Self, PluginError> {
        let mut bundle = Self::link(runtime, source, terms).await?;
        bundle.check_settings().await?;
        let described = bundle.describe(terms).await?;
        bundle.tools = described.into_iter().collect::<Result<_, _>>()?;
        Ok(bundle)
    }

    /// Compiles and links the component, and nothing more: it has no tools yet.
    pub(super) async fn link(runtime: &Runtime, source: &Source, terms: &Terms) -> Result<Self, PluginError> {
        let loaded = Loaded::new(runtime, source, World::ToolBundle, terms.budget).await?;
        let exports = ToolIndices::new(&loaded.instance, loaded.version)
            .map_err(|error| loaded.unfit(World::ToolBundle, format!("{error:#}")))?;
        Ok(Self {
            loaded,
            grants: terms.grants,
            exports: Indices(exports),
            tools: Vec::new(),
            failures: AtomicU32::new(0),
        })
    }

    /// # Errors
    /// If it refuses its settings, or fails.
    pub(super) async fn check_settings(&self) -> Result<(), PluginError> {
        let settings = &self.loaded.settings;
        self.call_guest(AskedBy::Host, async |tools, store| {
            tools.check_settings(store, settings).await
        })
        .await?
        .map_err(|fields| PluginError::Settings {
            name: self.name().to_owned(),
            fields,
        })
    }

    /// Its tools, each with what is wrong with it.
    ///
    /// # Errors
    /// If it fails, or has too many.
    pub(super) async fn describe(&self, terms: &Terms) -> Result<Vec<Result<Tool, PluginError>>, PluginError> {
        let described = self
            .call_guest(AskedBy::Host, async |tools, store| tools.describe(store).await)
            .await?;
        let unusable = |problem| PluginError::Tool {
            name: self.name().to_owned(),
            problem,
        };
        if described.len() > TOOLS_MAX {
            return Err(unusable(format!(
                "it has {} tools, may have {TOOLS_MAX}",
                described.len()
            )));
        }
        let lint = |tool: Described| {
            let name = tool.name.clone();
            Tool::new(tool, terms.prefix.as_ref())
                .map_err(|problems| unusable(format!("{name:?} {}", problems.join(", and "))))
        };
        Ok(described.into_iter().map(lint).collect())
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.loaded.name
    }

    /// What it asks the host for, whether that is granted or not. `read-credentials` is never among it: only results say
    /// whether a bundle has seen a password.
    #[must_use]
    pub fn requested(&self) -> Grants {
        self.loaded.requested()
    }

    /// What it offers.
    #[must_use]
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// Where it comes from, what it may do, how it stands.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        let state = if self.failures.load(Ordering::Relaxed) >= FAILURES_MAX {
            State::SwitchedOff
        } else {
            State::Serving
        };
        Provenance {
            name: self.name().to_owned(),
            world: "tool-bundle",
            from: self.loaded.from.clone(),
            sha256: Some(self.loaded.sha256),
            grants: self.grants,
            mode: None,
            may_change: None,
            budget: self.loaded.budget,
            tools: self.tools.iter().map(|tool| tool.name().to_owned()).collect(),
            state,
        }
    }

    /// Calls a tool; returns its result and the instances that the call made. Those are dropped again unless the call
    /// succeeds and whoever gets the result keeps them.
    ///
    /// The future may be dropped at any point: that ends the call and undoes what it made.
    ///
    /// # Errors
    /// If the arguments don't fit the tool's schema, the bundle says why not, fails, or has failed so often that it is
    /// switched off.
    pub async fn call(
        &self,
        tool: &Tool,
        arguments: Map<String, Value>,
        manager: &InstanceManager,
        caller: Caller,
        progress: ProgressSink,
    ) -> Result<(Map<String, Value>, Vec<NewInstance>), CallError> {
        self.call_noted(tool, arguments, manager, caller, progress, None).await
    }

    /// As [`Bundle::call`], with what happens written down or replayed.
    ///
    /// # Errors
    /// As [`Bundle::call`].
    pub async fn call_noted(
        &self,
        tool: &Tool,
        arguments: Map<String, Value>,
        manager: &InstanceManager,
        caller: Caller,
        progress: ProgressSink,
        transcript: Option<Transcript>,
    ) -> Result<(Map<String, Value>, Vec<NewInstance>), CallError> {
        let arguments = Value::Object(arguments);
        tool.check_arguments(&arguments).map_err(Failure::invalid)?;
        if self.failures.load(Ordering::Relaxed) >= FAILURES_MAX {
            return Err(self.switched_off().into());
        }
        // Boxed: it holds all that a call may be at, and whoever calls would have to hold it, too.
        let call = ToolCall {
            manager: manager.clone(),
            caller,
            progress,
            created: Vec::new(),
            transcript,
        };
        let outcome = Box::pin(self.run(tool, arguments.to_string(), call)).await;
        if let Err(CallError::Plugin(error)) = &outcome
            && let Some(fault) = error.fault()
        {
            METRICS.guest_failed(self.name(), fault);
        }
        self.count(&outcome);
        outcome
    }

    fn switched_off(&self) -> PluginError {
        PluginError::SwitchedOff {
            name: self.name().to_owned(),
            failures: FAILURES_MAX,
        }
    }

    /// A bundle that is switched off stays so, whatever comes of calls that were under way.
    fn count<T>(&self, outcome: &Result<T, CallError>) {
        let next = |failures: u32| match outcome {
            _ if failures >= FAILURES_MAX => None,
            Err(CallError::Plugin(_)) => Some(failures + 1),
            _ => Some(0),
        };
        let before = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        if let (Ok(before), Err(CallError::Plugin(error))) = (before, outcome)
            && before + 1 == FAILURES_MAX
        {
            // `Debug` keeps a guest's words on one line.
            let (notice, last) = (self.switched_off().to_string(), error.to_string());
            tracing::error!(bundle = self.name(), ?last, "{notice}");
        }
    }

    async fn run(
        &self,
        tool: &Tool,
        arguments: String,
        call: ToolCall,
    ) -> Result<(Map<String, Value>, Vec<NewInstance>), CallError> {
        let transcript = call.transcript.clone();
        let (result, (created, placeholders)) = self
            .call_guest(AskedBy::Client(Box::new(call)), async |tools, store| {
                let result = tools.call(&mut *store, tool.own_name(), &arguments).await?;
                if let Some(transcript) = transcript {
                    transcript.end(&result, store.data().meter.used());
                }
                Ok((result, store.data_mut().take_results()))
            })
            .await?;
        let json = match result {
            Ok(json) => json,
            Err(failure) => {
                self.loaded.check_output(bytes(&failure))?;
                return Err(self.told(failure).into());
            }
        };
        self.loaded.check_output(json.len())?;
        let result = Self::result(tool, &json, &placeholders);
        Ok((result.map_err(|reason| self.loaded.nonsense(reason))?, created))
    }

    /// A failure with a message, whatever the bundle says of it.
    fn told(&self, failure: Failure) -> Failure {
        if !failure.message.trim().is_empty() {
            return failure;
        }
        Failure {
            message: format!("{} failed{}", self.name(), of_fields(&failure.fields)),
            ..failure
        }
    }

    fn result(tool: &Tool, json: &str, placeholders: &Placeholders) -> Result<Map<String, Value>, String> {
        let mut result: Value =
            serde_json::from_str(json).map_err(|error| format!("the result is not JSON: {error}"))?;
        tool.check_result(&result)?;
        placeholders.fill(&mut result)?;
        match result {
            Value::Object(result) => Ok(result),
            _ => Err("the result is JSON, but not an object".into()),
        }
    }

    async fn call_guest<R>(
        &self,
        asked_by: AskedBy,
        run: impl AsyncFnOnce(&Tools, &mut Store<Guest>) -> wasmtime::Result<R>,
    ) -> Result<R, PluginError> {
        self.loaded
            .call(Guest::new(&self.loaded, self.grants, asked_by), async |store| {
                let tools = self.exports.0.instantiate(store, &self.loaded.instance).await?;
                run(&tools, store).await
            })
            .await
    }
}

/// How long a failure is, about.
fn bytes(failure: &Failure) -> usize {
    let fields = failure.fields.iter();
    // As much for each field as JSON has around it.
    let in_fields = fields.map(|field| field.field.len() + field.message.len() + 32);
    failure.message.len() + failure.advice.len() + in_fields.sum::<usize>()
}
