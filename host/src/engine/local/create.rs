//! Creating an instance: copy a template, start a server on it, name its superuser and database.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use super::confine::{self, Reach};
use super::instance_dir::{HOST, InstanceDir};
use super::programs::Programs;
use super::state_dir::StateDir;
use super::template::{self, Template};
use super::{LocalEngine, blocking, failed, limits, remove, server};
use crate::engine::provision::{Copied, Session, provision};
use crate::engine::{Ended, EngineError, NOT_DURABLE, Waiting, now_in_seconds, unanswered, unwanted};
use crate::failpoint;
use crate::instance::{
    Created, EngineKind, Found, Instance, InstanceId, InstanceSpec, Lifetime, Owner, Port, Progress, ProgressSink,
    Status,
};

/// How often the pid file is looked at in which a server says that it is ready.
const READY_PAUSE: Duration = Duration::from_millis(2);

/// Creates and starts an instance.
///
/// The work is done by a task that runs to its end even if the returned future is dropped, and that undoes what it has
/// made if nobody takes it.
pub(super) async fn create(
    engine: &LocalEngine,
    id: InstanceId,
    spec: &InstanceSpec,
    owner: &Owner,
    port: Port,
    progress: &ProgressSink,
) -> Result<Created, EngineError> {
    let mut made = started(engine, id, spec, owner, port, false, progress).await?;
    made.guard.armed = false;
    Ok(Created {
        found: made.found,
        warnings: made.warnings,
        answers: false,
    })
}

/// Starts a server that waits to become an instance. As [`create`] otherwise.
pub(super) async fn start_ahead(
    engine: &LocalEngine,
    id: InstanceId,
    spec: &InstanceSpec,
    owner: &Owner,
    port: Port,
) -> Result<Option<Waiting>, EngineError> {
    let mut made = started(engine, id, spec, owner, port, true, &ProgressSink::none()).await?;
    made.guard.armed = false;
    Ok(made.session.map(|session| Waiting {
        instance: made.found.instance,
        origin: made.origin,
        warnings: made.warnings,
        session,
    }))
}

async fn started(
    engine: &LocalEngine,
    id: InstanceId,
    spec: &InstanceSpec,
    owner: &Owner,
    port: Port,
    waits: bool,
    progress: &ProgressSink,
) -> Result<Made, EngineError> {
    let (reply, answer) = oneshot::channel();
    let job = Job {
        engine: engine.clone(),
        id,
        spec: spec.clone(),
        owner: owner.clone(),
        port,
        waits,
        progress: progress.clone(),
        reply,
    };
    engine.0.tracker.spawn(job.run().in_current_span());
    answer.await.unwrap_or_else(|_| Err(unanswered()))
}

/// What a create has made, on its way to whoever asked for it.
struct Made {
    found: Found,
    /// What it was started from.
    origin: String,
    warnings: Vec<String>,
    /// There if it is to wait.
    session: Option<Session>,
    guard: Guard,
}

/// Undoes the create when dropped.
struct Guard {
    engine: LocalEngine,
    id: InstanceId,
    runtime: Handle,
    armed: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed {
            let (engine, id) = (self.engine.clone(), self.id);
            let tracker = engine.0.tracker.clone();
            tracker.spawn_on(async move { undo(&engine, id).await }, &self.runtime);
        }
    }
}

/// One create.
struct Job {
    engine: LocalEngine,
    id: InstanceId,
    spec: InstanceSpec,
    owner: Owner,
    port: Port,
    /// Whether the server waits to become an instance.
    waits: bool,
    progress: ProgressSink,
    reply: oneshot::Sender<Result<Made, EngineError>>,
}

impl Job {
    async fn run(self) {
        // Armed before anything is made: should what follows panic, that is undone, too.
        let mut guard = Guard {
            engine: self.engine.clone(),
            id: self.id,
            runtime: Handle::current(),
            armed: true,
        };
        let made = match self.make().await {
            Ok(_) if self.reply.is_closed() => Err(unwanted()),
            made => made,
        };
        let made = match made {
            Ok((found, origin, warnings, session)) => Ok(Made {
                found,
                origin,
                warnings,
                session,
                guard,
            }),
            Err(error) => {
                guard.armed = false;
                undo(&self.engine, self.id).await;
                Err(error)
            }
        };
        // If nobody takes it, the guard is dropped here or with the other end of the channel.
        let _ = self.reply.send(made);
    }

    async fn make(&self) -> Result<(Found, String, Vec<String>, Option<Session>), EngineError> {
        let engine = &self.engine;
        if is_taken(self.port) {
            return Err(EngineError::PortTaken(self.port));
        }
        let mut programs = self.programs().await?;
        self.still_wanted()?;
        self.progress.tell(Progress::Creating);
        let (state, folder, lock) = self.give_birth().await?;
        engine.mine().unkept.insert(self.id, lock);
        let found = self.found();
        let mut template = self.lay_out(&state, &folder, &programs, &found).await?;
        if template.is_none() {
            // Somebody has removed it since, or replaced PostgreSQL.
            programs = self.programs().await?;
            template = self.lay_out(&state, &folder, &programs, &found).await?;
        }
        let template = template.ok_or_else(|| EngineError::Request {
            verb: "copying a template",
            reason: "it was removed twice meanwhile: try again".into(),
        })?;
        self.still_wanted()?;
        self.progress.tell(Progress::Starting);
        let (warnings, session) = self.start(&state, &folder, &programs, &template).await?;
        Ok((found, programs.origin(), warnings, session))
    }

    /// The programs that were asked for, with a template.
    async fn programs(&self) -> Result<Programs, EngineError> {
        let programs = self.engine.0.programs.find(self.spec.image.version()).await?;
        template::ensure(&self.engine, &programs, &self.progress).await?;
        Ok(programs)
    }

    fn still_wanted(&self) -> Result<(), EngineError> {
        if self.reply.is_closed() {
            Err(unwanted())
        } else {
            Ok(())
        }
    }

    fn found(&self) -> Found {
        let instance = Instance {
            id: self.id,
            engine: EngineKind::Local,
            container_id: String::new(),
            host: HOST.into(),
            port: self.port,
            version: self.spec.image.version().to_owned(),
            database: self.spec.database.clone(),
            username: self.spec.username.clone(),
            status: Status::Running,
            created_at: now_in_seconds(),
            owner: Some(self.owner.clone()),
            lifetime: Lifetime::Session,
        };
        Found {
            instance,
            password: self.spec.password.clone(),
        }
    }

    /// Limits the server; a warning if that can't be done.
    async fn limit(&self, folder: &InstanceDir, child: &Child) -> Result<Vec<String>, EngineError> {
        let (folder, limits) = (folder.clone(), self.spec.limits);
        // One that has ended already needs no limits.
        let Some(pid) = child.id() else {
            return Ok(Vec::new());
        };
        let set = blocking(move || Ok(limits::set(&folder, limits, pid))).await?;
        Ok(set.err().map_or_else(Vec::new, |reason| {
            tracing::debug!(reason, "no limits can be set");
            vec![format!(
                "No limits can be set on this machine without Docker: the instance may use more than {} MiB of memory \
                 and {} CPU{}.",
                limits.memory_mib(),
                f64::from(limits.cpu_millis()) / 1000.0,
                if limits.cpu_millis() == 1000 { "" } else { "s" }
            )]
        }))
    }

    async fn give_birth(&self) -> Result<(StateDir, InstanceDir, std::fs::File), EngineError> {
        let (settings, id) = (self.engine.0.settings.clone(), self.id);
        blocking(move || {
            let state = StateDir::open(&settings)?;
            let (folder, lock) = state.give_birth(id)?;
            Ok((state, folder, lock))
        })
        .await
    }

    /// Writes all that the server needs, and what the instance is; nothing if there is no template any more.
    async fn lay_out(
        &self,
        state: &StateDir,
        folder: &InstanceDir,
        programs: &Programs,
        found: &Found,
    ) -> Result<Option<Template>, EngineError> {
        let (state, folder, programs) = (state.clone(), folder.clone(), programs.clone());
        let (found, durable, waits) = (found.clone(), self.spec.durable, self.waits);
        let settings = self.engine.0.settings.clone();
        blocking(move || {
            let Some(template) = template::copy(&settings, &state, &programs, &folder.data())? else {
                return Ok(None);
            };
            let conf = folder.data().join("postgresql.conf");
            OpenOptions::new()
                .append(true)
                .open(&conf)
                .and_then(|mut file| file.write_all(own_settings(found.instance.port, durable).as_bytes()))
                .map_err(failed("writing the instance's settings", &conf))?;
            state.give_to_server(&folder.data())?;
            if durable {
                template::sync(&folder.data())?;
            }
            if !waits {
                folder.write(&found)?;
            }
            Ok(Some(template))
        })
        .await
    }

    /// Starts the server, waits until it takes connections, and gives it the names that were asked for or leaves it waiting
    /// for them. What it returns are warnings, and the session of one that waits.
    async fn start(
        &self,
        state: &StateDir,
        folder: &InstanceDir,
        programs: &Programs,
        template: &Template,
    ) -> Result<(Vec<String>, Option<Session>), EngineError> {
        failpoint::pass("before starting the server");
        let child = self.launch(state, folder, programs).await?;
        failpoint::pass("after starting the server");
        let warnings = failpoint::around("limiting the server", self.limit(folder, &child)).await;
        let mut end = self.watch(child);
        let warnings = warnings?;
        let deadline = self.engine.0.settings.ready_timeout;
        let late = Instant::now() + deadline;
        while !server::is_ready(&folder.data()) {
            self.still_wanted()?;
            if Instant::now() >= late {
                return Err(EngineError::TimedOut {
                    verb: "starting PostgreSQL",
                    after: deadline,
                });
            }
            tokio::select! {
                how = server::end(&mut end) => return Err(self.ended(folder, how).await),
                () = sleep(READY_PAUSE) => {}
            }
        }
        let copied = Copied {
            host: HOST,
            port: self.port,
            password: &template.password,
        };
        let left = late.saturating_duration_since(Instant::now());
        tokio::select! {
            done = provision(copied, &self.spec, self.waits, left) => done.map(|session| (warnings, session)),
            how = server::end(&mut end) => Err(self.ended(folder, how).await),
        }
    }

    async fn launch(&self, state: &StateDir, folder: &InstanceDir, programs: &Programs) -> Result<Child, EngineError> {
        let (state, folder, programs) = (state.clone(), folder.clone(), programs.clone());
        let (bin_dirs, port) = (self.engine.0.settings.bin_dirs.clone(), self.port);
        blocking(move || {
            let reach = reach(&state, &folder, &programs, bin_dirs, port)?;
            server::start(&programs, &folder, state.server_user.as_ref(), &reach)
        })
        .await
    }

    /// Has somebody wait for the server's end: it is told to whoever asks until the instance is removed, and no zombie is
    /// left.
    fn watch(&self, mut child: Child) -> watch::Receiver<Option<String>> {
        let (tell, end) = watch::channel(None);
        self.engine.mine().ends.insert(self.id, end.clone());
        // Not on the tracker: nothing waits for a server's end before the process ends.
        tokio::spawn(async move {
            let how = child.wait().await.map_or_else(|error| format!("ended: {error}"), how);
            tell.send_replace(Some(how));
        });
        end
    }

    /// Why a server ended that had just been started.
    async fn ended(&self, folder: &InstanceDir, how: String) -> EngineError {
        let folder = folder.clone();
        let last_lines = blocking(move || Ok(folder.last_lines())).await.unwrap_or_default();
        // PostgreSQL's words for it come in its own language; the port itself is asked instead.
        if last_lines.iter().any(|line| line.contains("could not bind")) || is_taken(self.port) {
            return EngineError::PortTaken(self.port);
        }
        EngineError::Ended(Ended { how, last_lines })
    }
}

/// What a server may reach. Whoever configures a folder of programs may have put there what starts those of another.
fn reach(
    state: &StateDir,
    folder: &InstanceDir,
    programs: &Programs,
    bin_dirs: Vec<PathBuf>,
    port: Port,
) -> Result<Reach, EngineError> {
    let bin_dirs = bin_dirs.into_iter().chain([programs.bin_dir.clone()]);
    let bin_dirs = bin_dirs.filter_map(|bin_dir| fs::canonicalize(bin_dir).ok());
    let home = std::env::home_dir().and_then(|home| fs::canonicalize(home).ok());
    let libraries = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let hidden = fs::canonicalize(state.path()).map_err(failed("looking at the state directory", state.path()))?;
    Ok(Reach {
        data: folder.data(),
        readable: bin_dirs
            .flat_map(|bin_dir| confine::installation(&bin_dir, home.as_deref()))
            .chain(std::env::split_paths(&libraries))
            .collect(),
        hidden,
        port,
    })
}

async fn undo(engine: &LocalEngine, id: InstanceId) {
    if let Err(error) = remove::remove(engine, id).await {
        tracing::warn!(%id, %error, "what a failed create left is removed later");
    }
}

fn how(status: std::process::ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("was killed by signal {signal}");
    }
    format!("exited with code {}", status.code().unwrap_or_default())
}

/// A first look, cheaper than a server that fails; who really gets the port is decided when the server binds it.
fn is_taken(port: Port) -> bool {
    TcpListener::bind((HOST, port.get())).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

fn own_settings(port: Port, durable: bool) -> String {
    let mut settings = format!("port = {port}\n");
    for (name, value) in NOT_DURABLE.iter().filter(|_| !durable) {
        settings.extend([name, " = ", value, "\n"]);
    }
    settings
}
