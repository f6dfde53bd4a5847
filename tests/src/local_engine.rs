//! What the local engine stands on: a state directory that nobody else has, and real server programs.

use dev_postgres_mcp::owner::Owners;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dev_postgres_mcp::engine::Engine;
use dev_postgres_mcp::engine::auto::AutoEngine;
use dev_postgres_mcp::engine::docker::{DockerEngine, DockerSettings};
use dev_postgres_mcp::engine::local::{LocalEngine, LocalSettings};
use dev_postgres_mcp::instance::{Image, Instance, InstanceId};
use tokio_util::task::TaskTracker;

use crate::binary::{NOWHERE, TestEngine, TestEnvironment};
use crate::local;
use crate::processes::{self, Signal};
use crate::scene::Ground;

/// The version that scripts say they are: nobody has it.
const SCRIPTS_VERSION: &str = "99";

/// The majors that `make setup` has found or installed, newest first, and where they really are.
#[must_use]
pub fn installed() -> Vec<(String, PathBuf)> {
    let majors = local::programs().into_iter().map(|(version, folder)| {
        let major = version.split(|c: char| !c.is_ascii_digit()).next();
        (major.unwrap_or_default().to_owned(), folder)
    });
    majors.collect()
}

/// A home with a state directory in it. It goes, with all that runs there, when the last clone goes.
#[derive(Debug)]
pub struct LocalGround {
    environment: TestEnvironment,
    settings: LocalSettings,
    image: Image,
    auto: bool,
}

impl Default for LocalGround {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalGround {
    /// With all programs that are installed.
    ///
    /// # Panics
    /// If none are, or the file system has no room for it.
    #[must_use]
    pub fn new() -> Self {
        let majors = installed();
        let (version, _) = majors
            .iter()
            .find(|(major, _)| major == "17")
            .or(majors.first())
            .expect("PostgreSQL is set up: run `make setup`");
        let environment = TestEnvironment::on(TestEngine::Local);
        Self {
            settings: LocalSettings {
                bin_dirs: local::bin_dirs(),
                path: None,
                state_dir: Some(environment.state_dir()),
                user: None,
                ready_timeout: Duration::from_mins(1),
            },
            image: Image::new("postgres", version).expect("an image"),
            environment,
            auto: false,
        }
    }

    /// The same behind the engine that prefers Docker, where there is none.
    #[must_use]
    pub fn without_docker() -> Self {
        Self {
            auto: true,
            ..Self::new()
        }
    }

    /// With other settings.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut LocalSettings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// With programs of a version that nobody else has: scripts that do these lines before the real programs run. `$real`
    /// is where those are, `$notes` a folder to write to. `postgres` is asked for its version often; its lines don't see
    /// that.
    ///
    /// # Panics
    /// If the scripts can't be written.
    #[must_use]
    pub fn with_scripts(self, initdb: &str, postgres: &str) -> Self {
        let (_, real) = installed().remove(0);
        let folder = self.home().join("bin");
        for made in [&folder, &self.notes()] {
            fs::create_dir(made).expect("a folder");
        }
        fs::set_permissions(self.notes(), fs::Permissions::from_mode(0o777)).expect("a folder for everybody");
        let head = format!("notes='{}'\nreal='{}'\n", self.notes().display(), real.display());
        self.say_version("99.1");
        let version = format!(
            "if [ \"$1\" = --version ]; then echo \"postgres (PostgreSQL) $(cat '{}')\"; exit; fi\n",
            self.version_file().display()
        );
        write_script(
            &folder.join("initdb"),
            &format!("{head}{initdb}\nexec \"$real/initdb\" \"$@\"\n"),
        );
        write_script(
            &folder.join("postgres"),
            &format!("{version}{head}{postgres}\nexec \"$real/postgres\" \"$@\"\n"),
        );
        let image = Image::new("postgres", SCRIPTS_VERSION).expect("an image");
        Self { image, ..self }.with(|settings| settings.bin_dirs.insert(0, folder))
    }

    /// Has scripts say from now on that they are this version.
    ///
    /// # Panics
    /// If that can't be written down.
    pub fn say_version(&self, version: &str) {
        fs::write(self.version_file(), version).expect("a file");
    }

    fn version_file(&self) -> PathBuf {
        self.home().join("version")
    }

    /// Where scripts write. Beside them: a server reads nothing else of its user's home.
    #[must_use]
    pub fn notes(&self) -> PathBuf {
        self.home().join("bin").join("notes")
    }

    /// How many lines a script has written to a note.
    #[must_use]
    pub fn lines_of_note(&self, name: &str) -> usize {
        fs::read_to_string(self.notes().join(name)).map_or(0, |text| text.lines().count())
    }

    /// What everything is in.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.environment.home()
    }

    /// The state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.environment.state_dir()
    }

    /// An instance's folder.
    #[must_use]
    pub fn folder(&self, id: InstanceId) -> PathBuf {
        self.state_dir().join("instances").join(id.to_string())
    }

    /// An instance's data directory.
    #[must_use]
    pub fn data(&self, id: InstanceId) -> PathBuf {
        self.folder(id).join("data")
    }

    /// The process of an instance's server.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn postmaster(&self, id: InstanceId) -> u32 {
        let said = fs::read_to_string(self.data(id).join("postmaster.pid")).expect("a pid file");
        let pid = said.lines().next().expect("a line").parse().expect("a pid");
        let process = processes::find(pid).expect("it runs");
        assert!(
            // Whatever links lead there.
            process
                .command_line
                .iter()
                .any(|part| part.ends_with(&format!("/instances/{id}/data"))),
            "{process:?}"
        );
        pid
    }

    /// The names in a folder of the state directory.
    #[must_use]
    pub fn names_in(&self, folder: &str) -> BTreeSet<String> {
        names_in(&self.state_dir().join(folder))
    }

    /// The template that there is.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn template(&self) -> PathBuf {
        let templates = self.state_dir().join("templates");
        let mut paths = names_in(&templates).into_iter().map(|name| templates.join(name));
        paths.find(|path| path.is_dir()).expect("a template")
    }

    /// The templates that somebody is making, or has left half-made.
    #[must_use]
    pub fn unfinished_templates(&self) -> Vec<String> {
        let names = self.names_in("templates").into_iter();
        names
            .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "new"))
            .collect()
    }

    /// The program as it is run with this ground's settings, without Docker.
    ///
    /// # Panics
    /// If a folder can't stand in a list of folders.
    #[must_use]
    pub fn environment(&self) -> TestEnvironment {
        let folders = std::env::join_paths(&self.settings.bin_dirs).expect("folders");
        let environment = self.environment.clone();
        environment
            .with("DEV_POSTGRES_MCP_ENGINE", "local")
            .with("DEV_POSTGRES_MCP_LOCAL_BIN_DIR", folders)
            .with("DEV_POSTGRES_MCP_INSTANCE_VERSION", self.image.version())
    }

    /// The folders, processes and control groups of all instances, and templates that nobody finished.
    #[must_use]
    pub fn everything_left(&self, made: &BTreeSet<InstanceId>) -> Vec<String> {
        let folders = self
            .names_in("instances")
            .into_iter()
            .map(|name| format!("the folder {name}"));
        let unfinished = self.unfinished_templates().into_iter();
        let unfinished = unfinished.map(|name| format!("the template {name}"));
        let processes = processes::remaining(&self.state_dir())
            .into_iter()
            .map(|process| format!("the process {} {:?}", process.pid, process.command_line));
        let groups = control_groups(made)
            .into_iter()
            .map(|path| format!("the control group {}", path.display()));
        folders.chain(unfinished).chain(processes).chain(groups).collect()
    }
}

/// The names in a folder; none if it isn't there.
#[must_use]
pub fn names_in(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The control groups of these instances.
#[must_use]
pub fn control_groups(made: &BTreeSet<InstanceId>) -> Vec<PathBuf> {
    let names: BTreeSet<String> = made.iter().map(|id| format!("dev-postgres-mcp-{id}")).collect();
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if names.contains(&*entry.file_name().to_string_lossy()) {
                found.push(entry.path());
            }
            folders.push(entry.path());
        }
    }
    found
}

/// Not by this process: a file that it has open for writing can't be run, and a child that another test starts just then
/// has it open for a moment longer.
fn write_script(path: &Path, lines: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut input = shell.stdin.take().expect("piped");
    input
        .write_all(format!("#!/bin/sh\n{lines}").as_bytes())
        .expect("the shell reads");
    drop(input);
    assert!(shell.wait().expect("the shell ends").success());
}

#[async_trait]
impl Ground for LocalGround {
    fn engine(&self, tracker: &TaskTracker) -> Arc<dyn Engine> {
        let local = LocalEngine::new(self.settings.clone(), tracker.clone());
        if !self.auto {
            return Arc::new(local);
        }
        let nowhere = DockerSettings {
            host: Some(NOWHERE.into()),
            ..DockerSettings::default()
        };
        Arc::new(AutoEngine::new(
            DockerEngine::new(nowhere, Owners::new(None), tracker.clone()),
            local,
        ))
    }

    fn image(&self) -> Image {
        self.image.clone()
    }

    async fn stop(&self, instance: &Instance) {
        processes::signal(self.postmaster(instance.id), Signal::Interrupt);
    }

    async fn kill(&self, instance: &Instance) {
        let pid = self.postmaster(instance.id);
        // It may be a child of this process, which has to be free to wait for it.
        tokio::task::spawn_blocking(move || processes::kill(pid))
            .await
            .expect("it ends");
    }

    async fn left(&self, made: &BTreeSet<InstanceId>) -> Vec<String> {
        self.everything_left(made)
    }

    // All else ends with the home.
    fn clear(&self, made: &BTreeSet<InstanceId>) {
        local::end_processes_in(self.home());
        for group in control_groups(made) {
            // What still runs in it is shown by the next test that looks.
            let _ = fs::remove_dir(group);
        }
    }
}
