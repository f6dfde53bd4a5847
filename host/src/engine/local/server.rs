//! A server's processes: starting them, finding them again, ending them.
//!
//! A server is known by its command line, which names its data directory, and so the instance's id, and by its user. A
//! pid alone proves nothing: it may be stale, or another process's by now, or forged by whoever may run SQL there.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sysinfo::{Pid, Process, ProcessRefreshKind, ProcessesToUpdate, Signal, System, UpdateKind};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::confine::{self, Reach};
use super::instance_dir::InstanceDir;
use super::programs::Programs;
use super::server_user::{ServerUser, run_as};
use super::{blocking, failed};
use crate::engine::EngineError;
use crate::files::{open_planted, private};

/// The longest pid file that is read, in bytes: PostgreSQL's have 200.
const PID_FILE_BYTES_MAX: u64 = 4 << 10;
/// How long a server may take to end when it is told to end its sessions, not to wait for anything, and by force.
const FAST: Duration = Duration::from_secs(5);
const IMMEDIATE: Duration = Duration::from_secs(2);
const FORCED: Duration = Duration::from_secs(3);
/// How often it is looked whether a process has ended, and whether any is left: nothing tells of another process's child.
const END_PAUSE: Duration = Duration::from_millis(3);
const FORCED_PAUSE: Duration = Duration::from_millis(20);
/// The variable by which programs that SQL starts are known, as long as they leave it in place.
pub(super) const MARK: &str = "DEV_POSTGRES_MCP_INSTANCE";
/// What servers get of this process's environment: what it takes to run. The rest may hold secrets, and anybody who may
/// run SQL as a superuser could read it.
const ENVIRONMENT: [&str; 6] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "SystemRoot",
    "TMPDIR",
    "TEMP",
];

/// A command as the server's user and with nothing of ours.
pub(super) fn command(program: &Path, user: Option<&ServerUser>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).current_dir(root());
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // Its messages are read by us and shown to people; time is what the official image has.
    command.env("LC_MESSAGES", "C").env("TZ", "Etc/UTC");
    run_as(&mut command, user);
    command
}

/// A working directory that is always there and that every user may enter.
fn root() -> &'static Path {
    Path::new(if cfg!(windows) { r"C:\" } else { "/" })
}

/// Starts the server of an instance, which reaches no other. It outlives this process.
pub(super) fn start(
    programs: &Programs,
    folder: &InstanceDir,
    user: Option<&ServerUser>,
    reach: &Reach,
) -> Result<Child, EngineError> {
    let log = folder.log();
    let starting = "starting PostgreSQL";
    let out = private(OpenOptions::new().create(true).append(true))
        .open(&log)
        .map_err(failed(starting, &log))?;
    let err = out.try_clone().map_err(failed(starting, &log))?;
    let program = programs.postgres();
    let mut command = command(&program, user);
    command
        .arg("-D")
        .arg(folder.data())
        .env(MARK, folder.id().to_string())
        // For programs that SQL starts: where they are confined, they may write nowhere else.
        .env("TMPDIR", folder.data())
        .stdout(out)
        .stderr(err);
    confine::spawn(&mut command, reach).map_err(failed(starting, &program))
}

/// Waits until a server that this process has started has ended, and says how.
pub(super) async fn end(told: &mut watch::Receiver<Option<String>>) -> String {
    let how = told.wait_for(Option::is_some).await;
    how.ok().and_then(|how| how.clone()).unwrap_or_else(|| "ended".into())
}

/// Whether an instance's server runs.
pub(super) fn runs(folder: &InstanceDir) -> Result<bool, EngineError> {
    let data = folder.data();
    // It is only where to look first.
    let pid = pid_file(&data).and_then(|text| text.lines().next()?.trim().parse().ok());
    let is_server = |system: &System, pid| system.process(pid).is_some_and(|process| is_server(process, folder));
    if let Some(pid) = pid.map(Pid::from_u32)
        && is_server(&look(ProcessesToUpdate::Some(&[pid]))?, pid)
    {
        return Ok(true);
    }
    let system = look(ProcessesToUpdate::All)?;
    Ok(system.processes().keys().any(|pid| is_server(&system, *pid)))
}

/// What a process has taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    /// CPU time since it began.
    pub(super) cpu_ms: u64,
    /// What it has in memory, with its part of what it shares with others where the system tells that.
    pub(super) memory_bytes: u64,
}

/// What each of an instance's processes has taken so far; none if its server doesn't run.
pub(super) fn taken(folder: &InstanceDir) -> Result<HashMap<Pid, Taken>, EngineError> {
    let mut system = look(ProcessesToUpdate::All)?;
    let parts: Vec<Pid> = system
        .processes()
        .values()
        .filter(|process| is_part(process, folder))
        .map(Process::pid)
        .collect();
    let counted = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&parts), true, counted);
    let taken = |pid: &Pid| {
        let process = system.process(*pid)?;
        let taken = Taken {
            cpu_ms: process.accumulated_cpu_time(),
            memory_bytes: proportional_memory(*pid).unwrap_or_else(|| process.memory()),
        };
        Some((*pid, taken))
    };
    Ok(parts.iter().filter_map(taken).collect())
}

/// Linux divides what several processes share among them; elsewhere each counts all of it.
fn proportional_memory(pid: Pid) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    kib.trim()
        .strip_suffix("kB")?
        .trim()
        .parse()
        .ok()
        .map(|kib: u64| kib << 10)
}

/// These processes: command lines, users, folders and environments.
fn look(which: ProcessesToUpdate<'_>) -> Result<System, EngineError> {
    let unseen = |reason: String| EngineError::Request {
        verb: "looking at this machine's processes",
        reason,
    };
    let mut system = System::new().map_err(|error| unseen(error.to_string()))?;
    let kind = ProcessRefreshKind::nothing()
        .with_cmd(UpdateKind::Always)
        .with_user(UpdateKind::Always)
        .with_cwd(UpdateKind::Always)
        .with_environ(UpdateKind::Always)
        .without_tasks();
    let own = Pid::from_u32(std::process::id());
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), true, kind);
    if system.process(own).is_none() {
        return Err(unseen("not even this one is shown: /proc may be missing".into()));
    }
    system.refresh_processes_specifics(which, true, kind);
    Ok(system)
}

/// Whether this process is `postgres -D <data>`. A process that has ended and is not waited for has no command line.
fn is_server(process: &Process, folder_of: &InstanceDir) -> bool {
    let [program, option, place] = process.cmd() else {
        return false;
    };
    Path::new(program).file_stem() == Some(OsStr::new("postgres"))
        && option == "-D"
        && is_data(Path::new(place), folder_of)
        && is_owners(process, folder_of)
}

/// Whether this process belongs to the instance: the server itself, what it has forked, and what SQL has started.
fn is_part(process: &Process, folder: &InstanceDir) -> bool {
    let forked = || {
        let title = process.cmd().first().and_then(|title| title.to_str());
        title.is_some_and(|title| title.starts_with("postgres: "))
            && process.cwd().is_some_and(|place| is_data(place, folder))
    };
    let marked = || has_mark(process, &mark_of(&folder.id().to_string()));
    is_server(process, folder) || (is_owners(process, folder) && (forked() || marked()))
}

fn mark_of(whose: &str) -> String {
    format!("{MARK}={whose}")
}

fn has_mark(process: &Process, mark: &str) -> bool {
    process.environ().iter().any(|variable| variable == mark)
}

/// Whether this is the instance's data directory, by whatever links: the last parts of the path are compared, which hold the
/// id.
fn is_data(place: &Path, folder: &InstanceDir) -> bool {
    let data = folder.data();
    let parts: Vec<_> = data.components().rev().take(3).collect();
    let tail: PathBuf = parts.into_iter().rev().collect();
    // Linux says so of a folder that was removed.
    Path::new(place.to_string_lossy().trim_end_matches(" (deleted)")).ends_with(tail)
}

/// Whether this process runs as the user whose folder it is: nobody else's is any of our business.
fn is_owners(process: &Process, folder: &InstanceDir) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let owner = folder.data().symlink_metadata().ok().map(|metadata| metadata.uid());
        // Somebody may have deleted it under the server.
        let owner = owner.or(folder.server_uid());
        owner.is_some() && user_of(process) == owner
    }
    #[cfg(not(unix))]
    {
        let _ = (process, folder);
        true
    }
}

/// The id of whom a process runs as; `None` if users have none here.
fn user_of(process: &Process) -> Option<u32> {
    #[cfg(unix)]
    return process.effective_user_id().or(process.user_id()).map(|user| **user);
    #[cfg(not(unix))]
    {
        let _ = process;
        None
    }
}

/// What a server has written down of itself. Whoever may run SQL there as a superuser may have put anything in its place:
/// a file without end, or none.
fn pid_file(data: &Path) -> Option<String> {
    let file = open_planted(&data.join("postmaster.pid")).ok()?;
    let mut said = String::new();
    file.take(PID_FILE_BYTES_MAX).read_to_string(&mut said).ok()?;
    Some(said)
}

/// Whether the server has said that it takes connections.
pub(super) fn is_ready(data: &Path) -> bool {
    // The eighth line of the pid file, since PostgreSQL 10 (`pidfile.h`, `LOCK_FILE_LINE_PM_STATUS`).
    pid_file(data).is_some_and(|text| text.lines().nth(7).is_some_and(|status| status.trim() == "ready"))
}

/// Ends the server if it runs: fast, then immediately, then by force; and by force whatever it has left running.
///
/// # Errors
/// If something runs on after all that.
pub(super) async fn stop(folder: &InstanceDir) -> Result<(), EngineError> {
    for (signal, patience) in [(Signal::Interrupt, FAST), (Signal::Quit, IMMEDIATE)] {
        let place = folder.clone();
        let told = signal_all(signal, move |process| is_server(process, &place)).await?;
        if told.is_empty() || ended(folder, &told, patience).await? {
            break;
        }
        tracing::warn!(folder = %folder.path().display(), ?signal, "the server doesn't end");
    }
    let place = folder.clone();
    end_by_force("stopping PostgreSQL", FAST + IMMEDIATE + FORCED, move |process| {
        is_part(process, &place)
    })
    .await
}

/// Ends whatever has this mark in its environment and is our server user's.
///
/// # Errors
/// If something runs on.
pub(super) async fn end_marked(mark: &str, uid: Option<u32>) -> Result<(), EngineError> {
    let wanted = mark_of(mark);
    end_by_force("ending initdb", FORCED, move |process| {
        user_of(process) == uid && has_mark(process, &wanted)
    })
    .await
}

/// Kills what is meant, as often as it comes back. `after` is how long whoever asks has waited if that is in vain.
async fn end_by_force(
    verb: &'static str,
    after: Duration,
    is_meant: impl Fn(&Process) -> bool + Clone + Send + 'static,
) -> Result<(), EngineError> {
    let late = Instant::now() + FORCED;
    while !signal_all(Signal::Kill, is_meant.clone()).await?.is_empty() {
        if Instant::now() >= late {
            return Err(EngineError::TimedOut { verb, after });
        }
        sleep(FORCED_PAUSE).await;
    }
    Ok(())
}

/// Sends a signal to every process that is meant, and tells to which.
async fn signal_all(
    signal: Signal,
    is_meant: impl Fn(&Process) -> bool + Send + 'static,
) -> Result<Vec<Pid>, EngineError> {
    blocking(move || {
        let system = look(ProcessesToUpdate::All)?;
        let meant = system.processes().values().filter(|process| is_meant(process));
        Ok(meant
            .map(|process| {
                // Where there is no such signal (on Windows), there is one that is stronger.
                let _ = process.kill_with(signal).unwrap_or_else(|| process.kill());
                process.pid()
            })
            .collect())
    })
    .await
}

/// Waits until these processes have ended; `false` if they haven't within `patience`.
async fn ended(folder: &InstanceDir, pids: &[Pid], patience: Duration) -> Result<bool, EngineError> {
    let late = Instant::now() + patience;
    loop {
        let system = look(ProcessesToUpdate::Some(pids))?;
        let runs = |pid: &Pid| system.process(*pid).is_some_and(|process| is_server(process, folder));
        if !pids.iter().any(runs) {
            return Ok(true);
        }
        if Instant::now() >= late {
            return Ok(false);
        }
        sleep(END_PAUSE).await;
    }
}

/// Removes the System V shared memory of a server that was killed: PostgreSQL's own clean-up is its next start, which never
/// comes. Where that can't be told or done, 56 bytes stay.
pub(super) async fn release_memory(data: &Path, user: Option<&ServerUser>) {
    let said = pid_file(data).unwrap_or_default();
    // The seventh line has key and id (`pidfile.h`, `LOCK_FILE_LINE_SHMEM_KEY`).
    let named: Vec<&str> = said.lines().nth(6).unwrap_or_default().split_whitespace().collect();
    let [key, id] = named[..] else {
        return;
    };
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let is_left = segments.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.first() == Some(&key) && fields.get(1) == Some(&id) && fields.get(6) == Some(&"0")
    });
    if is_left {
        // As the server's user: whatever the file names, it is no more than that user could remove.
        let removed = command(Path::new("ipcrm"), user)
            .args(["-m", id])
            .kill_on_drop(true)
            .status()
            .await;
        tracing::debug!(id, ?removed, "removed the shared memory of a server that was killed");
    }
}

/// Ends a process, whichever it is.
pub(super) fn kill(pid: u32) {
    let pid = Pid::from_u32(pid);
    // One that has gone, or can't be looked at, is found out by whoever needs it gone.
    if let Ok(system) = look(ProcessesToUpdate::Some(&[pid]))
        && let Some(process) = system.process(pid)
    {
        process.kill();
    }
}
