//! This machine's processes, as everybody may see them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use sysinfo::Signal;
use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System, UpdateKind};

/// How long a process may take to end that is about to.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process at one moment.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its program and arguments, or what it says instead. Empty once it has ended.
    pub command_line: Vec<String>,
    /// Where it works.
    pub working_directory: Option<PathBuf>,
    /// Its variables, `NAME=value`.
    pub environment: Vec<String>,
    /// Whose it is.
    pub user: Option<u32>,
}

fn look() -> System {
    let mut system = System::new().expect("processes can be looked at");
    let all = ProcessRefreshKind::nothing()
        .with_cmd(UpdateKind::Always)
        .with_cwd(UpdateKind::Always)
        .with_environ(UpdateKind::Always)
        .with_user(UpdateKind::Always)
        .without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, all);
    system
}

/// All that run.
#[must_use]
pub fn all() -> Vec<Process> {
    let text = |texts: &[OsString]| texts.iter().map(|text| text.to_string_lossy().into_owned()).collect();
    look()
        .processes()
        .values()
        .filter(|process| process.status() != ProcessStatus::Zombie)
        .map(|process| Process {
            pid: process.pid().as_u32(),
            command_line: text(process.cmd()),
            working_directory: process.cwd().map(Path::to_owned),
            environment: text(process.environ()),
            user: process.user_id().map(|user| **user),
        })
        .collect()
}

/// Those that have to do with a folder: their command line names something in it, or they work there.
#[must_use]
pub fn of(folder: &Path) -> Vec<Process> {
    let named = folder.to_string_lossy();
    let mut processes = all();
    processes.retain(|process| {
        let works_there = process
            .working_directory
            .as_ref()
            .is_some_and(|place| place.starts_with(folder));
        works_there || process.command_line.iter().any(|part| part.contains(&*named))
    });
    processes
}

/// Those of a folder that are still there when all that were about to end have ended.
#[must_use]
pub fn remaining(folder: &Path) -> Vec<Process> {
    let begun = Instant::now();
    loop {
        let processes = of(folder);
        if processes.is_empty() || begun.elapsed() > PATIENCE {
            return processes;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process with this id, if it runs.
#[must_use]
pub fn find(pid: u32) -> Option<Process> {
    all().into_iter().find(|process| process.pid == pid)
}

/// Sends a signal.
///
/// # Panics
/// If there is no such process, or it is not ours to signal.
pub fn signal(pid: u32, signal: Signal) {
    let system = look();
    let process = system.process(Pid::from_u32(pid)).expect("the process is there");
    assert_eq!(process.kill_with(signal), Some(true), "{signal:?} to {pid}");
}

/// Ends a process at once and waits until it has ended.
///
/// # Panics
/// If it doesn't end.
pub fn kill(pid: u32) {
    signal(pid, Signal::Kill);
    let begun = Instant::now();
    while find(pid).is_some() {
        assert!(begun.elapsed() < PATIENCE, "{pid} ends");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends a process at once, and all that it has started and that is still its.
pub fn end_tree(pid: u32) {
    let system = look();
    let mut tree = vec![Pid::from_u32(pid)];
    let mut looked_at = 0;
    while let Some(&parent) = tree.get(looked_at) {
        let started = system.processes().values();
        tree.extend(
            started
                .filter(|process| process.parent() == Some(parent))
                .map(sysinfo::Process::pid),
        );
        looked_at += 1;
    }
    for pid in tree {
        // It may have ended with another of them.
        system.process(pid).map(sysinfo::Process::kill);
    }
}
