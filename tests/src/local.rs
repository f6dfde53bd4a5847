//! The local engine from outside: the programs it has, the processes and files it makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use sysinfo::{Process, ProcessRefreshKind, ProcessesToUpdate, Signal, System, UpdateKind};

use crate::binary::TestEnvironment;
use crate::readme::repository;

/// How long a process may take to end after each signal.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether it has: nothing tells of another process's child.
const PAUSE: Duration = Duration::from_millis(5);

/// The folders with PostgreSQL's server programs that `make setup` has found, newest first; none before it has run.
#[must_use]
pub fn bin_dirs() -> Vec<PathBuf> {
    let list = fs::read_to_string(repository("target/setup/postgresql/bin_dirs")).unwrap_or_default();
    list.lines().map(PathBuf::from).collect()
}

/// The version of the programs in each of [`bin_dirs`], and where they really are.
///
/// # Panics
/// If they can't be run.
#[must_use]
pub fn programs() -> Vec<(String, PathBuf)> {
    let version_in = |folder: PathBuf| {
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = said.split_whitespace().nth(2).expect("a version").to_owned();
        (version, folder.canonicalize().expect("it is there"))
    };
    bin_dirs().into_iter().map(version_in).collect()
}

/// This machine's processes with their command lines, which every user may read, and working directories.
fn processes() -> System {
    let mut system = System::new().expect("processes can be looked at");
    let seen = ProcessRefreshKind::nothing()
        .with_cmd(UpdateKind::Always)
        .with_cwd(UpdateKind::Always)
        .without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, seen);
    system
}

fn command_line(process: &Process) -> String {
    let words = process.cmd().iter().map(|word| word.to_string_lossy());
    words.collect::<Vec<_>>().join(" ")
}

/// The command lines that have `text` in them.
///
/// # Panics
/// If processes can't be looked at.
#[must_use]
pub fn command_lines_with(text: &str) -> Vec<String> {
    let system = processes();
    let command_lines = system.processes().values().map(command_line);
    command_lines.filter(|line| line.contains(text)).collect()
}

/// Whether a process names something in `folder`, as a server does, or works there, as a server's children do.
fn is_in(folder: &Path, process: &Process) -> bool {
    let named = process.cmd().iter().map(Path::new);
    named.chain(process.cwd()).any(|path| path.starts_with(folder))
}

/// Ends every process that names something in `folder` or works there, and waits for that.
///
/// # Panics
/// If processes can't be looked at.
pub fn end_processes_in(folder: &Path) {
    // PostgreSQL ends at once on the first, and takes its children with it.
    for signal in [Signal::Quit, Signal::Kill] {
        let system = processes();
        for process in system.processes().values().filter(|process| is_in(folder, process)) {
            // Windows has no such signals.
            if process.kill_with(signal).is_none() {
                process.kill();
            }
        }
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !processes().processes().values().any(|process| is_in(folder, process)) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// What the local engine has left in an environment: folders of instances, half-made templates, processes.
///
/// # Panics
/// If it can't be looked at.
#[must_use]
pub fn leftovers(environment: &TestEnvironment) -> Vec<String> {
    let paths_in = |folder: &str| {
        let entries = fs::read_dir(environment.state_dir().join(folder)).into_iter().flatten();
        entries.map(|entry| entry.expect("an entry").path())
    };
    let half_made = paths_in("templates").filter(|path| path.extension().is_some_and(|end| end == "new"));
    let folders = paths_in("instances").chain(half_made);
    let mut left: Vec<String> = folders.map(|path| path.display().to_string()).collect();
    let system = processes();
    let running = system.processes().values();
    left.extend(
        running
            .filter(|process| is_in(environment.home(), process))
            .map(command_line),
    );
    left
}

/// What an instance of the local engine is made of: one server that only this machine reaches, and nothing that tells
/// its password to others.
///
/// # Panics
/// If it isn't so.
pub fn assert_private(environment: &TestEnvironment, instance: &Value) {
    let field = |name: &str| instance[name].as_str().expect("text").to_owned();
    let (id, password) = (field("id"), field("password"));
    let servers = command_lines_with(&id);
    assert_eq!(servers.len(), 1, "one server: {servers:?}");
    assert_eq!(command_lines_with(&password), Vec::<String>::new());
    assert_eq!(instance["host"], "127.0.0.1");
    let port = instance["port"].as_u64().and_then(|port| port.try_into().ok());
    if let Some(address) = crate::address_beyond_loopback() {
        std::net::TcpStream::connect((address, port.expect("a port"))).expect_err("nobody else reaches it");
    }
    // In JSON it looks like this.
    let quoted = Value::from(password.as_str()).to_string();
    let needles = [password.as_str(), quoted.trim_matches('"')];
    let holders: Vec<PathBuf> = files_below(&environment.state_dir())
        .into_iter()
        .filter(|file| {
            let bytes = fs::read(file).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            needles.iter().any(|needle| text.contains(needle))
        })
        .collect();
    assert!(!holders.is_empty(), "the engine remembers the password of {id}");
    #[cfg(unix)]
    for file in holders {
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().expect("it is there").permissions());
        assert_eq!(mode & 0o077, 0, "{} is for others, too: {mode:o}", file.display());
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    // A running server's files come and go.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&path)),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
    files
}
