//! PostgreSQL from this machine's own server programs, without containers.
//!
//! An instance is a folder of the state directory and a server that runs on what is in it:
//!
//! | in `instances/<id>` | |
//! |---|---|
//! | `lock` | locked by the process that makes or removes the instance |
//! | `instance.json` | what the instance is, password included; removed first when the instance is |
//! | `kept` | there from when somebody has been told of the instance; how long it stays |
//! | `data` | PostgreSQL's data directory: all that its server may write to |
//! | `log` | what the server writes to standard error |
//! | `cgroups` | the control groups that limit it, one path a line |
//!
//! One that waits to become an instance has no `instance.json` yet. Without `instance.json` or `kept`, and with nobody
//! holding `lock`, a folder is the rest of a create or removal whose process was killed: whoever comes across it removes
//! it.

mod confine;
mod create;
mod diagnose;
mod instance_dir;
mod limits;
mod programs;
mod remove;
mod server;
mod server_user;
mod state_dir;
mod template;
mod usage;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use self::instance_dir::InstanceDir;
use self::programs::ProgramFinder;
pub(super) use self::programs::how_to_install;
pub use self::server_user::is_root;
use self::state_dir::StateDir;
use super::{Diagnosis, Ended, Engine, EngineError, Pruned, Waiting, answers, outdated};
use crate::instance::{
    Created, EngineKind, Found, Image, Instance, InstanceId, InstanceSpec, Lifetime, MemoryKills, Owner, Port,
    ProgressSink, Status, Usage,
};
use crate::metrics::METRICS;

/// How often it is looked whether a server that another process started still runs: nothing tells.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// How long a list waits for what killed processes have left to be removed.
const SWEEP_PATIENCE: Duration = Duration::from_secs(1);

/// Why a folder is removed that is no instance's, or not any more.
const LEFT_BEHIND: &str = "a process that has ended has left it behind";

/// What the local engine goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSettings {
    /// Folders to look for server programs in first.
    pub bin_dirs: Vec<PathBuf>,
    /// Folders to look in next, as the variable `PATH` has them.
    pub path: Option<OsString>,
    /// Where instances are kept, an absolute path; `None` if nobody can tell.
    pub state_dir: Option<PathBuf>,
    /// Whom servers run as where this process is root's; `None` to choose.
    pub user: Option<String>,
    /// How long a started server may take until it answers.
    pub ready_timeout: Duration,
}

/// Runs instances as servers of their own on this machine.
#[derive(Debug, Clone)]
pub struct LocalEngine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: LocalSettings,
    programs: ProgramFinder,
    tracker: TaskTracker,
    /// Held while what killed processes have left is removed.
    sweeping: tokio::sync::Mutex<()>,
    // A std mutex: held for a few instructions, never across a wait.
    mine: Mutex<Mine>,
}

/// What only this process has of instances.
#[derive(Debug, Default)]
struct Mine {
    /// The locks of those that nobody has been told of yet.
    unkept: HashMap<InstanceId, File>,
    /// How the servers that this process has started end.
    ends: HashMap<InstanceId, watch::Receiver<Option<String>>>,
}

impl LocalEngine {
    /// Looks at nothing yet: programs may be installed later. What has to be finished or undone when nobody waits for it
    /// any more runs on `tracker`.
    #[must_use]
    pub fn new(settings: LocalSettings, tracker: TaskTracker) -> Self {
        Self(Arc::new(Inner {
            programs: ProgramFinder::new(
                settings.bin_dirs.clone(),
                settings.path.as_deref(),
                settings.user.clone(),
            ),
            settings,
            tracker,
            sweeping: tokio::sync::Mutex::default(),
            mine: Mutex::default(),
        }))
    }

    /// # Errors
    /// If there are no server programs, with what to do about it.
    pub(super) async fn usable(&self) -> Result<(), EngineError> {
        self.0.programs.all().await.map(drop)
    }

    /// What `doctor` shows where this engine isn't needed: the versions that there are, if there are any.
    pub(super) async fn installed(&self) -> Option<Diagnosis> {
        diagnose::installed(self).await
    }

    /// Whether there is an instance of this engine with this id, kept or not, or a server of this process that waits to
    /// become it.
    pub(super) async fn has(&self, id: InstanceId) -> Result<bool, EngineError> {
        if self.mine().unkept.contains_key(&id) {
            return Ok(true);
        }
        self.with_state(move |state| state.is_some_and(|state| state.instance(id).is_there()))
            .await
    }

    fn mine(&self) -> MutexGuard<'_, Mine> {
        self.0.mine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `look` where it may block; it gets `None` if there is no state directory yet.
    async fn with_state<T: Send + 'static>(
        &self,
        look: impl FnOnce(Option<&StateDir>) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let settings = self.0.settings.clone();
        blocking(move || Ok(look(StateDir::find(&settings)?.as_ref()))).await
    }

    /// What there is; what is damaged only `if_damaged`.
    async fn list_folders(&self, if_damaged: bool) -> Result<Vec<Instance>, EngineError> {
        // Looked at first: one that is begun meanwhile is not among the folders.
        let started: Vec<InstanceId> = self.mine().ends.keys().copied().collect();
        let (mut found, gone) = self
            .with_state(move |state| {
                let folders = state.map_or_else(|| Ok(Vec::new()), StateDir::instances)?;
                let there: HashSet<InstanceId> = folders.iter().map(InstanceDir::id).collect();
                let gone: HashSet<InstanceId> = started.into_iter().filter(|id| !there.contains(id)).collect();
                let read = folders.iter().filter_map(|folder| match folder.read() {
                    Ok(found) => found.map(|found| found.instance),
                    Err(EngineError::Damaged { legible, .. }) if if_damaged => Some(*legible),
                    Err(error) => {
                        tracing::warn!(%error, "an instance's folder makes no sense");
                        None
                    }
                });
                Ok::<(Vec<Instance>, _), EngineError>((read.collect(), gone))
            })
            .await??;
        // Others remove instances, too, and tell nobody.
        self.mine().ends.retain(|id, _| !gone.contains(id));
        found.sort_by_key(|instance| (instance.created_at, instance.id));
        Ok(found)
    }

    /// Removes what killed processes have left, waits for that, and adds it to `pruned`. `dry_run` only says what.
    async fn sweep(&self, dry_run: bool, pruned: &mut Vec<Pruned>) -> Result<(), EngineError> {
        // Whoever comes second waits, too: what the first has found isn't found again.
        let _one_at_a_time = self.0.sweeping.lock().await;
        let debris = self
            .with_state(move |state| state.map_or_else(|| Ok(Vec::new()), |state| state.debris(dry_run)))
            .await??;
        let removals: Vec<_> = debris
            .into_iter()
            .map(|(folder, lock)| {
                let (engine, id) = (self.clone(), folder.id());
                let removal = async move { dry_run || reap(engine, folder, lock).await };
                // To its end, whatever becomes of whoever waits.
                (id, self.0.tracker.spawn(removal))
            })
            .collect();
        for (id, removal) in removals {
            if removal.await.unwrap_or(false) {
                pruned.push(Pruned {
                    kind: "server",
                    name: id.to_string(),
                    reason: LEFT_BEHIND.into(),
                });
            }
        }
        template::sweep(self, dry_run, pruned).await
    }
}

/// Removes what a killed process has left, whose lock this is; `false` if something of it stays.
async fn reap(engine: LocalEngine, folder: InstanceDir, lock: File) -> bool {
    let id = folder.id();
    match remove::clear(engine, folder, lock).await {
        Ok(()) => {
            METRICS.reaped("server", "orphan");
            tracing::info!(%id, reason = LEFT_BEHIND, "removed what is no instance");
            true
        }
        Err(error) => {
            tracing::warn!(%id, %error, "what a process that has ended has left behind stays for now");
            false
        }
    }
}

/// Runs what may block on a thread where that hurts nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(EngineError::Request {
            verb: "looking after the local instances",
            reason: error.to_string(),
        })
    })
}

/// Turns an I/O error into what was tried and where.
fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EngineError {
    let path = path.display().to_string();
    move |error| EngineError::Request {
        verb,
        reason: format!("{path}: {error}"),
    }
}

#[async_trait]
impl Engine for LocalEngine {
    async fn recover(&self, _was_killed: bool) -> Result<(), EngineError> {
        self.sweep(false, &mut Vec::new()).await
    }

    async fn default_image(&self, configured: &Image) -> Image {
        let Ok(programs) = self.0.programs.all().await else {
            return configured.clone();
        };
        if programs
            .iter()
            .any(|programs| programs.version.is(configured.version()))
        {
            return configured.clone();
        }
        let newest = programs.first().map(|newest| newest.version.major().to_string());
        newest
            .and_then(|major| Image::new(configured.repository(), &major).ok())
            .unwrap_or_else(|| configured.clone())
    }

    async fn prepare(&self, image: &Image, progress: &ProgressSink) -> Result<bool, EngineError> {
        let programs = self.0.programs.find(image.version()).await?;
        template::ensure(self, &programs, progress).await.map(|()| true)
    }

    async fn create(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        owner: &Owner,
        port: Port,
        progress: &ProgressSink,
    ) -> Result<Created, EngineError> {
        create::create(self, id, spec, owner, port, progress).await
    }

    async fn start_ahead(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        owner: &Owner,
        port: Port,
    ) -> Result<Option<Waiting>, EngineError> {
        create::start_ahead(self, id, spec, owner, port).await
    }

    async fn assign(&self, waiting: Waiting, spec: &InstanceSpec, owner: &Owner) -> Result<Created, EngineError> {
        let programs = self.0.programs.find(spec.image.version()).await?;
        if programs.origin() != waiting.origin {
            return Err(outdated());
        }
        let (id, found) = (waiting.id(), waiting.becomes(spec, owner));
        let deadline = self.0.settings.ready_timeout;
        waiting.session.assign(spec, None, deadline).await?;
        let written = found.clone();
        let noted = async {
            self.with_state(move |state| match state {
                Some(state) => state.instance(id).write(&written),
                None => Err(EngineError::Gone),
            })
            .await?
        };
        tokio::try_join!(noted, waiting.session.leave(spec, deadline), answers(&found, deadline))?;
        Ok(Created {
            found,
            warnings: waiting.warnings,
            answers: true,
        })
    }

    async fn keep(&self, id: InstanceId, lifetime: Lifetime) -> Result<(), EngineError> {
        let keep = self.with_state(move |state| match state {
            Some(state) => state.instance(id).keep(lifetime),
            None => Err(EngineError::Gone),
        });
        let kept = keep.await?;
        if matches!(kept, Ok(()) | Err(EngineError::Gone)) {
            self.mine().unkept.remove(&id);
        }
        kept
    }

    async fn now(&self, _kind: EngineKind) -> Result<SystemTime, EngineError> {
        Ok(SystemTime::now())
    }

    async fn list(&self) -> Result<Vec<Instance>, EngineError> {
        // What takes longer goes on in the background, and is not listed either way.
        if let Ok(swept) = tokio::time::timeout(SWEEP_PATIENCE, self.sweep(false, &mut Vec::new())).await {
            swept?;
        }
        self.list_folders(false).await
    }

    // Removes nothing: whoever prunes begins with it, and is told what goes, or would.
    async fn list_all(&self) -> Result<Vec<Instance>, EngineError> {
        self.list_folders(true).await
    }

    async fn get(&self, id: InstanceId) -> Result<Option<Found>, EngineError> {
        self.with_state(move |state| state.map_or(Ok(None), |state| state.instance(id).read()))
            .await?
    }

    async fn usage(&self, id: InstanceId) -> Result<Option<Usage>, EngineError> {
        self.with_state(move |state| match state.map(|state| state.instance(id)) {
            Some(folder) if folder.is_there() => usage::usage(&folder).map(Some),
            _ => Ok(None),
        })
        .await?
    }

    async fn memory_kills(&self, id: InstanceId) -> Result<Option<MemoryKills>, EngineError> {
        self.with_state(move |state| limits::memory_kills(&state?.instance(id)))
            .await
    }

    async fn remove(&self, id: InstanceId) -> Result<bool, EngineError> {
        let engine = self.clone();
        // To its end, whatever becomes of whoever waits.
        let removal = self.0.tracker.spawn(async move { remove::remove(&engine, id).await });
        removal.await.unwrap_or_else(|error| {
            Err(EngineError::Request {
                verb: "removing the instance",
                reason: error.to_string(),
            })
        })
    }

    async fn ended(&self, id: InstanceId) -> Result<Ended, EngineError> {
        let told = self.mine().ends.get(&id).cloned();
        let how = match told {
            Some(mut told) => server::end(&mut told).await,
            None => loop {
                match self.get(id).await? {
                    None => break "was removed".into(),
                    Some(found) if found.instance.status != Status::Running => break "ended".into(),
                    Some(_) => tokio::time::sleep(LOOK_PAUSE).await,
                }
            },
        };
        let last_lines = self
            .with_state(move |state| state.map(|state| state.instance(id).last_lines()))
            .await?;
        Ok(Ended {
            how,
            last_lines: last_lines.unwrap_or_default(),
        })
    }

    async fn prune(&self, dry_run: bool, pruned: &mut Vec<Pruned>) -> Result<(), EngineError> {
        // Without programs every template is old.
        let programs = self.0.programs.all().await.unwrap_or_default();
        self.sweep(dry_run, pruned).await?;
        template::prune(self, programs, dry_run, pruned).await
    }

    async fn diagnose(&self, image: &Image) -> Vec<Diagnosis> {
        diagnose::diagnose(self, image).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn how_a_server_ended_is_forgotten_with_an_instance_that_another_process_has_dropped() {
        let home = tempfile::tempdir().expect("a folder");
        let settings = LocalSettings {
            bin_dirs: Vec::new(),
            path: None,
            state_dir: Some(home.path().to_owned()),
            user: None,
            ready_timeout: Duration::from_secs(1),
        };
        let engine = LocalEngine::new(settings, TaskTracker::new());
        let (there, dropped) = (InstanceId::random(), InstanceId::random());
        std::fs::create_dir_all(home.path().join("instances").join(there.to_string())).expect("a folder");
        for id in [there, dropped] {
            engine.mine().ends.insert(id, watch::channel(None).1);
        }
        assert_eq!(engine.list_all().await.expect("a list"), []);
        assert_eq!(engine.mine().ends.keys().collect::<Vec<_>>(), [&there]);
    }
}
