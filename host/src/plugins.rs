//! Loads WebAssembly components and runs their calls, each in a fresh store with its own budget.

pub mod budget;
pub mod bundle;
pub mod cache;
pub mod case;
pub mod check;
mod credentials;
mod encode;
pub mod grants;
mod guest;
pub mod inspect;
mod journal;
pub mod policy;
pub mod provenance;
pub mod scaffold;
pub mod toolbox;
pub mod tools;
pub mod transcript;
mod turns;
mod v0_1;
mod v0_2;
pub mod versions;
mod wasi;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use self::budget::{Budget, Overrun, STACK_BYTES};
use self::cache::Cache;
pub(crate) use self::encode::FILE_BYTES_MAX;
use self::grants::{Grant, Grants};
use self::guest::Guest;
use self::turns::Turns;
use self::versions::{Version, World};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{InstancePre, Linker};
use wasmtime::{Config, Engine, Store, Trap, UpdateDeadline};

use crate::digest::Digest;
use crate::failure::{Failure, FailureCode};
use crate::policy::{FieldError, of_fields};

/// How often a running guest is interrupted: it then lets others run, can be cancelled, and is counted.
const TICK: Duration = Duration::from_millis(10);

/// What went wrong with a component.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PluginError {
    /// It can't be read.
    #[error("the component {name} can't be read from {path}: {reason}")]
    Unreadable {
        /// Its name in the configuration.
        name: String,
        /// Where it should be.
        path: String,
        /// The operating system's word.
        reason: String,
    },
    /// The folder that it would be in can't be looked at.
    #[error("what is in {path} is not loaded: {reason}")]
    Folder {
        /// Which.
        path: String,
        /// Why not.
        reason: String,
    },
    /// Its registry doesn't have it, or it isn't what somebody agreed to.
    #[error("{}", .0.message)]
    Withheld(Box<Failure>),
    /// It isn't what the configuration pins.
    #[error("{name} has the sha256 {found}, but the configuration pins {pinned}")]
    Pinned {
        /// Its name in the configuration.
        name: String,
        /// What it should be.
        pinned: Digest,
        /// What it is.
        found: Digest,
    },
    /// It isn't a component of the right world.
    #[error("{name} is no component of the world dev-postgres:plugin/{}: {reason}", world.as_str())]
    Unfit {
        /// Its name in the configuration.
        name: String,
        /// The world that it should be of.
        world: World,
        /// The runtime's word.
        reason: String,
    },
    /// It refuses its settings.
    #[error("{name} refuses its settings{}", of_fields(fields))]
    Settings {
        /// Its name in the configuration.
        name: String,
        /// Every problem at once; none if it doesn't say why.
        fields: Vec<FieldError>,
    },
    /// It describes a tool that clients could not use.
    #[error("{name} describes a tool that clients can't use: {problem}")]
    Tool {
        /// Its name in the configuration.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two bundles have a tool of the same name.
    #[error("{name} offers the tool {tool}, which {other} offers already: give one of them a prefix")]
    Collision {
        /// The bundle that came second.
        name: String,
        /// The tool's name.
        tool: String,
        /// The bundle that came first.
        other: String,
    },
    /// A call ended because it used more than it may.
    #[error("{name} used more than its budget of {budget}")]
    OverBudget {
        /// Its name in the configuration.
        name: String,
        /// What it ran out of.
        budget: Overrun,
    },
    /// A call trapped.
    #[error("{name} trapped: {reason}")]
    Trapped {
        /// Its name in the configuration.
        name: String,
        /// The runtime's word.
        reason: String,
    },
    /// It has failed too often.
    #[error("{name} is switched off after {failures} failures in a row")]
    SwitchedOff {
        /// Its name in the configuration.
        name: String,
        /// How many there were.
        failures: u32,
    },
    /// A call answered with something that makes no sense.
    #[error("{name} answered nonsense: {reason}")]
    Nonsense {
        /// Its name in the configuration.
        name: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl PluginError {
    /// What went wrong in a call, in a word; `None` if nothing was called.
    fn fault(&self) -> Option<&'static str> {
        match self {
            Self::OverBudget { .. } => Some("overrun"),
            Self::Trapped { .. } => Some("trap"),
            Self::Nonsense { .. } => Some("nonsense"),
            _ => None,
        }
    }
}

impl From<&PluginError> for Failure {
    fn from(error: &PluginError) -> Self {
        let (code, advice) = match error {
            PluginError::SwitchedOff { .. } => (
                FailureCode::Unavailable,
                "Restart the server or replace the bundle; the server's log has its failures.".to_owned(),
            ),
            PluginError::OverBudget { budget, .. } => (
                FailureCode::Internal,
                match budget.key() {
                    Some(key) => format!(
                        "Ask for less; if that doesn't help, tell whoever keeps the component, or raise {key} in its `limits`."
                    ),
                    None => "Ask for less; if that doesn't help, tell whoever keeps the component.".to_owned(),
                },
            ),
            _ => (
                FailureCode::Internal,
                "This is a defect of the component, not of the arguments: tell whoever keeps it.".to_owned(),
            ),
        };
        Self::new(code, error.to_string(), advice)
    }
}

/// The WebAssembly runtime that all components share.
#[derive(Clone)]
pub struct Runtime {
    engine: Engine,
    cache: Cache,
    turns: Turns,
    _ticker: Arc<Ticker>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

/// Ticks the engine's epoch from a thread of its own: a guest that never yields would starve a timer of the async
/// runtime. Ends with the runtime.
#[derive(Debug)]
struct Ticker {
    _stop: mpsc::Sender<()>,
}

impl Runtime {
    /// # Errors
    /// If this machine can't run WebAssembly: the reason.
    pub fn new(cache: Cache) -> Result<Self, String> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        config.max_wasm_stack(STACK_BYTES);
        let engine = Engine::new(&config).map_err(|error| format!("{error:#}"))?;
        let (stop, stopped) = mpsc::channel();
        let ticked = engine.clone();
        std::thread::Builder::new()
            .name("epoch".into())
            .spawn(move || {
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    ticked.increment_epoch();
                }
            })
            .map_err(|error| format!("the epoch thread can't be started: {error}"))?;
        Ok(Self {
            engine,
            cache,
            turns: Turns::new(),
            _ticker: Arc::new(Ticker { _stop: stop }),
        })
    }
}

/// A component, compiled and linked, from which each call gets a fresh instance.
struct Loaded {
    runtime: Runtime,
    name: Arc<str>,
    from: String,
    sha256: Digest,
    settings: Arc<str>,
    budget: Budget,
    version: Version,
    instance: InstancePre<Guest>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A component as the configuration names it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, for errors and the log.
    pub name: String,
    /// Where it comes from, for people.
    pub from: String,
    /// The bytes of the component, or of a core module with its world embedded.
    pub bytes: std::borrow::Cow<'static, [u8]>,
    /// What these bytes must be; `None` if anything will do.
    pub sha256: Option<Digest>,
    /// Its settings, a JSON object.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

impl Loaded {
    /// Compiles and links; takes some 30 ms of CPU time for 60 KB, and a hundredth of that if it was compiled before.
    async fn new(runtime: &Runtime, source: &Source, world: World, budget: Budget) -> Result<Self, PluginError> {
        let unfit = |reason: String| PluginError::Unfit {
            name: source.name.clone(),
            world,
            reason,
        };
        let failed = |error: wasmtime::Error| unfit(format!("{error:#}"));
        let sha256 = Digest::of(&source.bytes);
        if let Some(pinned) = source.sha256.filter(|pinned| *pinned != sha256) {
            let (name, found) = (source.name.clone(), sha256);
            return Err(PluginError::Pinned { name, pinned, found });
        }
        let (shared, bytes) = (runtime.clone(), source.bytes.clone());
        // Where it may take its time: others are compiled meanwhile.
        let compiled = tokio::task::spawn_blocking(move || {
            let component = encode::component(&bytes).map_err(wasmtime::Error::msg)?;
            shared.cache.component(&shared.engine, &component)
        });
        let component = compiled
            .await
            .unwrap_or_else(|error| Err(wasmtime::Error::msg(error.to_string())))
            .map_err(failed)?;
        let version = versions::version(&runtime.engine, &component, world).map_err(unfit)?;
        let mut linker = Linker::new(&runtime.engine);
        versions::link(&mut linker, world, version).map_err(failed)?;
        wasi::link(&mut linker, &component).map_err(failed)?;
        Ok(Self {
            runtime: runtime.clone(),
            name: source.name.as_str().into(),
            from: source.from.clone(),
            sha256,
            settings: serde_json::Value::Object(source.settings.clone()).to_string().into(),
            budget,
            version,
            instance: linker.instantiate_pre(&component).map_err(failed)?,
        })
    }

    /// What it asks the host for: the grants for the functions that it imports.
    fn requested(&self) -> Grants {
        let engine = &self.runtime.engine;
        let imports = self.instance.component().component_type();
        let mut requested = Vec::new();
        for (name, item) in imports.imports(engine) {
            let interface = name.split_once('/').map_or(name, |(_, interface)| interface);
            let interface = interface.split_once('@').map_or(interface, |(interface, _)| interface);
            if let ComponentItem::ComponentInstance(functions) = item.ty {
                let functions = functions.exports(engine).map(|(function, _)| function);
                requested.extend(functions.filter_map(|function| Grant::for_import(interface, function)));
            }
        }
        requested.into_iter().collect()
    }

    fn unfit(&self, world: World, reason: String) -> PluginError {
        PluginError::Unfit {
            name: self.name.to_string(),
            world,
            reason,
        }
    }

    /// Runs one call in a fresh store and within the budget.
    async fn call<R>(
        &self,
        guest: Guest,
        run: impl AsyncFnOnce(&mut Store<Guest>) -> wasmtime::Result<R>,
    ) -> Result<R, PluginError> {
        let mut store = Store::new(&self.runtime.engine, guest);
        store.limiter(|guest| &mut guest.meter);
        // What one value may have; what all of them have is counted where they pass.
        store.set_hostcall_fuel(self.budget.host_bytes);
        let (cpu, wall) = (self.budget.cpu, store.data().wall());
        store.set_epoch_deadline(1);
        let turns = self.runtime.turns.clone();
        store.epoch_deadline_callback(move |mut context| {
            let guest = context.data_mut();
            guest.ticks_left = guest.ticks_left.checked_sub(1).ok_or(Overrun::Cpu(cpu))?;
            Ok(UpdateDeadline::YieldCustom(1, guest.turn.next(&turns)))
        });
        match tokio::time::timeout(wall, run(&mut store)).await {
            Ok(outcome) => outcome.map_err(|error| self.fault(&error)),
            Err(_) => Err(PluginError::OverBudget {
                name: self.name.to_string(),
                budget: Overrun::Wall(wall),
            }),
        }
    }

    fn fault(&self, error: &wasmtime::Error) -> PluginError {
        let name = self.name.to_string();
        if let Some(&budget) = error.downcast_ref::<Overrun>() {
            return PluginError::OverBudget { name, budget };
        }
        // Of a type that the runtime keeps to itself.
        if error.root_cause().to_string().contains("fuel allocated for hostcalls") {
            let budget = Overrun::HostBytes(self.budget.host_bytes);
            return PluginError::OverBudget { name, budget };
        }
        if let Some(Trap::StackOverflow) = error.downcast_ref() {
            let budget = Overrun::Stack;
            return PluginError::OverBudget { name, budget };
        }
        // The root cause alone: what stands above it is a backtrace of the guest, which goes to the log.
        tracing::warn!(component = name, error = format!("{error:#}"), "trapped");
        let reason = error
            .downcast_ref::<Trap>()
            .map_or_else(|| error.root_cause().to_string(), ToString::to_string);
        PluginError::Trapped { name, reason }
    }

    fn nonsense(&self, reason: impl Into<String>) -> PluginError {
        PluginError::Nonsense {
            name: self.name.to_string(),
            reason: reason.into(),
        }
    }

    fn check_output(&self, bytes: usize) -> Result<(), PluginError> {
        if bytes > self.budget.output_bytes {
            return Err(PluginError::OverBudget {
                name: self.name.to_string(),
                budget: Overrun::Output(self.budget.output_bytes),
            });
        }
        Ok(())
    }
}
