//! Loads WebAssembly components and runs their calls, each in a fresh store with its own budget.

pub mod bundle;
pub mod cache;
mod credentials;
mod encode;
pub mod grants;
pub mod policy;
pub mod tools;
mod v0_1;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use self::cache::Cache;
use wasmtime::component::{InstancePre, Linker};
use wasmtime::{Config, Engine, Store, Trap, UpdateDeadline};

use crate::digest::Digest;
use crate::failure::{Failure, FailureCode};
use crate::policy::{FieldError, join};
use v0_1::Guest;

/// How often a running guest is interrupted: it then lets others run, can be cancelled, and is counted.
const TICK: Duration = Duration::from_millis(10);
/// How many bytes a guest may hand to the host in one call of a host function.
const HOST_CALL_BYTES_MAX: usize = 8 << 20;

/// What a component may use in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Memory in bytes: all linear memories and tables together.
    pub memory_bytes: usize,
    /// Time spent computing, to about 10 ms.
    pub cpu: Duration,
    /// Time from entry to answer, waiting for the host included.
    pub wall: Duration,
    /// The longest answer in bytes.
    pub output_bytes: usize,
    /// The longest text that goes to the log in bytes; the rest is dropped.
    pub log_bytes: usize,
}

impl Budget {
    /// For a policy: it only computes.
    pub const POLICY: Self = Self {
        memory_bytes: 64 << 20,
        cpu: Duration::from_secs(1),
        wall: Duration::from_secs(10),
        output_bytes: 64 << 10,
        log_bytes: 16 << 10,
    };

    /// For a tool bundle: it waits for the host, whose own deadlines end sooner than `wall` unless the guest asks again
    /// and again.
    pub const BUNDLE: Self = Self {
        memory_bytes: 64 << 20,
        cpu: Duration::from_secs(2),
        wall: Duration::from_mins(30),
        output_bytes: 1 << 20,
        log_bytes: 64 << 10,
    };
}

/// What went wrong with a component.
#[derive(Debug, thiserror::Error)]
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
    #[error("{name} is not a component of the world dev-postgres:plugin/{world}@0.1.0: {reason}")]
    Unfit {
        /// Its name in the configuration.
        name: String,
        /// The world that it should be of.
        world: &'static str,
        /// The runtime's word.
        reason: String,
    },
    /// It refuses its settings.
    #[error("{name} refuses its settings: {}", join(fields))]
    Settings {
        /// Its name in the configuration.
        name: String,
        /// Every problem at once.
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
    /// A call answered with something that makes no sense.
    #[error("{name} answered nonsense: {reason}")]
    Nonsense {
        /// Its name in the configuration.
        name: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl From<&PluginError> for Failure {
    fn from(error: &PluginError) -> Self {
        Self::new(
            FailureCode::Internal,
            error.to_string(),
            "This is a defect of the component, not of the arguments: tell whoever keeps it.",
        )
    }
}

/// What a call ran out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overrun {
    /// Linear memory.
    #[error("{} MiB of memory", .0 >> 20)]
    Memory(usize),
    /// Time spent computing.
    #[error("{} s of CPU time", .0.as_secs_f32())]
    Cpu(Duration),
    /// Time from entry to answer.
    #[error("{} s from call to answer", .0.as_secs_f32())]
    Wall(Duration),
    /// The answer's size.
    #[error("{0} bytes of output")]
    Output(usize),
}

/// The WebAssembly runtime that all components share.
#[derive(Clone)]
pub struct Runtime {
    engine: Engine,
    cache: Cache,
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
            _ticker: Arc::new(Ticker { _stop: stop }),
        })
    }
}

/// A component, compiled and linked, from which each call gets a fresh instance.
struct Loaded {
    runtime: Runtime,
    name: Arc<str>,
    settings: Arc<str>,
    budget: Budget,
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
    /// The bytes of the component, or of a core module with its world embedded.
    pub bytes: std::borrow::Cow<'static, [u8]>,
    /// What these bytes must be; `None` if anything will do.
    pub sha256: Option<Digest>,
    /// Its settings, a JSON object.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

impl Loaded {
    /// Compiles and links; takes some 30 ms of CPU time for 60 KB, and a hundredth of that if it was compiled before.
    fn new(
        runtime: &Runtime,
        source: &Source,
        world: &'static str,
        budget: Budget,
        link: impl FnOnce(&mut Linker<Guest>) -> wasmtime::Result<()>,
    ) -> Result<Self, PluginError> {
        let unfit = |error: wasmtime::Error| PluginError::Unfit {
            name: source.name.clone(),
            world,
            reason: format!("{error:#}"),
        };
        if let Some(pinned) = source.sha256 {
            let found = Digest::of(&source.bytes);
            if found != pinned {
                let name = source.name.clone();
                return Err(PluginError::Pinned { name, pinned, found });
            }
        }
        let component = encode::component(&source.bytes)
            .map_err(wasmtime::Error::msg)
            .map_err(unfit)?;
        let component = runtime.cache.component(&runtime.engine, &component).map_err(unfit)?;
        let mut linker = Linker::new(&runtime.engine);
        link(&mut linker).map_err(unfit)?;
        Ok(Self {
            runtime: runtime.clone(),
            name: source.name.as_str().into(),
            settings: serde_json::Value::Object(source.settings.clone()).to_string().into(),
            budget,
            instance: linker.instantiate_pre(&component).map_err(unfit)?,
        })
    }

    /// Runs one call in a fresh store and within the budget.
    async fn call<R>(
        &self,
        guest: Guest,
        run: impl AsyncFnOnce(&mut Store<Guest>) -> wasmtime::Result<R>,
    ) -> Result<R, PluginError> {
        let mut store = Store::new(&self.runtime.engine, guest);
        store.limiter(|guest| &mut guest.meter);
        store.set_hostcall_fuel(HOST_CALL_BYTES_MAX);
        let cpu = self.budget.cpu;
        let mut ticks_left = cpu.as_millis() / TICK.as_millis();
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if ticks_left == 0 {
                return Err(Overrun::Cpu(cpu).into());
            }
            ticks_left -= 1;
            Ok(UpdateDeadline::Yield(1))
        });
        match tokio::time::timeout(self.budget.wall, run(&mut store)).await {
            Ok(outcome) => outcome.map_err(|error| self.fault(&error)),
            Err(_) => Err(PluginError::OverBudget {
                name: self.name.to_string(),
                budget: Overrun::Wall(self.budget.wall),
            }),
        }
    }

    fn fault(&self, error: &wasmtime::Error) -> PluginError {
        let name = self.name.to_string();
        if let Some(&budget) = error.downcast_ref::<Overrun>() {
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

    fn check_output(&self, output: &str) -> Result<(), PluginError> {
        if output.len() > self.budget.output_bytes {
            return Err(PluginError::OverBudget {
                name: self.name.to_string(),
                budget: Overrun::Output(self.budget.output_bytes),
            });
        }
        Ok(())
    }
}
