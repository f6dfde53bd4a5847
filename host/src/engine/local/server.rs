//! A server's processes: starting them, finding them again, stopping them.
//!
//! A server is known by its command line, which names its data directory, and so the instance's id. A pid alone proves
//! nothing: it may be stale, or another process's by now.

use std::fs::OpenOptions;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, Signal, System, UpdateKind};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::instance_dir::InstanceDir;
use super::programs::Programs;
use super::server_user::{ServerUser, run_as};
use super::state_dir::private;
use super::{blocking, failed};
use crate::engine::EngineError;

/// The longest pid file that is read, in bytes: PostgreSQL's have 200.
const PID_FILE_BYTES_MAX: u64 = 4 << 10;
/// How long a server may take to end after each signal.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether it has: nothing tells of another process's child.
const END_PAUSE: Duration = Duration::from_millis(3);
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

/// A command of PostgreSQL's, as the server's user and with nothing of ours.
pub(super) fn command(program: &Path, user: Option<&ServerUser>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).current_dir(root());
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // Its messages are read by us and shown to people; time is what the official image has.
    command.env("LC_MESSAGES", "C").env("TZ", "UTC");
    run_as(&mut command, user);
    command
}

/// A working directory that is always there and that every user may enter.
fn root() -> &'static Path {
    Path::new(if cfg!(windows) { r"C:\" } else { "/" })
}

/// Starts the server of an instance. It outlives this process.
pub(super) fn start(
    programs: &Programs,
    folder: &InstanceDir,
    user: Option<&ServerUser>,
) -> Result<Child, EngineError> {
    let log = folder.log();
    let starting = "starting PostgreSQL";
    let out = private(OpenOptions::new().create(true).append(true))
        .open(&log)
        .map_err(failed(starting, &log))?;
    let err = out.try_clone().map_err(failed(starting, &log))?;
    let program = programs.postgres();
    command(&program, user)
        .arg("-D")
        .arg(folder.data())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(failed(starting, &program))
}

/// Waits until a server that this process has started has ended, and says how.
pub(super) async fn end(told: &mut watch::Receiver<Option<String>>) -> String {
    let how = told.wait_for(Option::is_some).await;
    how.ok().and_then(|how| how.clone()).unwrap_or_else(|| "ended".into())
}

/// The process of the server that runs on a data directory, as its pid file tells; `None` if it doesn't run.
pub(super) fn find(data: &Path) -> Result<Option<Pid>, EngineError> {
    // It is only where to look.
    let pid = pid_file(data).and_then(|text| text.lines().next()?.trim().parse().ok());
    let Some(pid) = pid.map(Pid::from_u32) else {
        return Ok(None);
    };
    let system = look(ProcessesToUpdate::Some(&[pid]))?;
    Ok(is_server(&system, pid, data).then_some(pid))
}

/// As [`find`], but looking at every process: one that has just started has no pid file yet.
fn search(data: &Path) -> Result<Option<Pid>, EngineError> {
    if let Some(pid) = find(data)? {
        return Ok(Some(pid));
    }
    let system = look(ProcessesToUpdate::All)?;
    let pids = system.processes().keys().copied();
    Ok(pids.into_iter().find(|pid| is_server(&system, *pid, data)))
}

/// These processes and their command lines.
fn look(which: ProcessesToUpdate<'_>) -> Result<System, EngineError> {
    let mut system = System::new().map_err(|error| EngineError::Request {
        verb: "looking at this machine's processes",
        reason: error.to_string(),
    })?;
    let command = ProcessRefreshKind::nothing()
        .with_cmd(UpdateKind::Always)
        .without_tasks();
    system.refresh_processes_specifics(which, true, command);
    Ok(system)
}

/// Whether this process is `postgres -D <data>`. The last parts of the path are compared: they hold the id, and links may
/// lead to the rest in several ways. A process that has ended and is not waited for has no command line.
fn is_server(system: &System, pid: Pid, data: &Path) -> bool {
    let tail: std::path::PathBuf = data
        .components()
        .rev()
        .take(3)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    system.process(pid).is_some_and(|process| {
        process
            .cmd()
            .windows(2)
            .any(|pair| pair[0] == "-D" && Path::new(&pair[1]).ends_with(&tail))
    })
}

/// What a server has written down of itself. Whoever may run SQL there as a superuser may have put anything in its place:
/// a link, a pipe that nobody writes to, a file without end.
fn pid_file(data: &Path) -> Option<String> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, careful.bits().cast_signed());
    }
    let file = options.open(data.join("postmaster.pid")).ok()?;
    let mut said = String::new();
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.take(PID_FILE_BYTES_MAX).read_to_string(&mut said).ok()?;
    Some(said)
}

/// Whether the server has said that it takes connections.
pub(super) fn is_ready(data: &Path) -> bool {
    // The eighth line of the pid file, since PostgreSQL 10 (`pidfile.h`, `LOCK_FILE_LINE_PM_STATUS`).
    pid_file(data).is_some_and(|text| text.lines().nth(7).is_some_and(|status| status.trim() == "ready"))
}

/// Stops the server if it runs: fast, then immediately, then by force.
///
/// # Errors
/// If it runs on after all that.
pub(super) async fn stop(data: &Path) -> Result<(), EngineError> {
    for signal in [Signal::Interrupt, Signal::Quit, Signal::Kill] {
        let Some(pid) = in_background(data, search).await? else {
            return Ok(());
        };
        let system = look(ProcessesToUpdate::Some(&[pid]))?;
        let process = system.process(pid).filter(|_| is_server(&system, pid, data));
        if process.and_then(|process| process.kill_with(signal)).is_none() {
            // It has gone, or there is no such signal here (on Windows): the next one is stronger.
            continue;
        }
        let late = Instant::now() + END_TIMEOUT;
        while is_server(&look(ProcessesToUpdate::Some(&[pid]))?, pid, data) {
            if Instant::now() >= late {
                tracing::warn!(data = %data.display(), ?signal, "the server doesn't end");
                break;
            }
            sleep(END_PAUSE).await;
        }
    }
    match in_background(data, search).await? {
        None => Ok(()),
        Some(_) => Err(EngineError::TimedOut {
            verb: "stopping PostgreSQL",
            after: 3 * END_TIMEOUT,
        }),
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
pub(super) fn kill(pid: Pid) {
    // One that has gone, or can't be looked at, is found out by whoever needs it gone.
    if let Ok(system) = look(ProcessesToUpdate::Some(&[pid]))
        && let Some(process) = system.process(pid)
    {
        process.kill();
    }
}

async fn in_background<T: Send + 'static>(
    data: &Path,
    work: fn(&Path) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let data = data.to_owned();
    blocking(move || work(&data)).await
}
