//! The program under test, and a tidy place to run it in.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tempfile::TempDir;

use crate::local;

/// Where no Docker is.
pub const NOWHERE: &str = "unix:///nowhere/docker.sock";

static PATH: OnceLock<PathBuf> = OnceLock::new();

/// Takes this executable from now on, as it is: [`path`] would build one that isn't optimised.
///
/// # Panics
/// If another has been taken already.
pub fn measure(program: PathBuf) {
    PATH.set(program).expect("no executable has been taken yet");
}

/// The `dev-postgres-mcp` executable, brought up to date once per test process.
///
/// # Panics
/// If it can't be built.
pub fn path() -> &'static Path {
    PATH.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        // What cargo tells a test about its package. Build scripts look at it (ring's does), and would run again each
        // time that it differs, with all that depends on them compiled once more.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") {
                cargo.env_remove(name);
            }
        }
        let output = cargo
            // The whole workspace, as `cargo test --workspace` has it: another selection has other features, and would
            // compile most dependencies once more.
            .args([
                "build",
                "--quiet",
                "--locked",
                "--workspace",
                "--bins",
                "--message-format=json",
            ])
            .env_remove("CARGO_MANIFEST_DIR")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo starts");
        assert!(output.status.success(), "dev-postgres-mcp does not build");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == "dev-postgres-mcp")
            .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
            .expect("cargo names the executable")
    })
}

/// What makes a test's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestEngine {
    /// Docker and nothing else.
    Docker,
    /// The local engine, which is taken because there is no Docker.
    Local,
}

impl TestEngine {
    /// An instance, from whatever tool or command, says who has made it.
    ///
    /// # Panics
    /// If it doesn't, or says somebody else.
    pub fn assert_made(self, instance: &Value) {
        let (engine, in_container) = match self {
            Self::Docker => ("docker", true),
            Self::Local => ("local", false),
        };
        assert_eq!(instance["engine"], engine, "{instance}");
        let container_id = instance["container_id"].as_str().expect("text");
        assert_eq!(!container_id.is_empty(), in_container, "{instance}");
    }

    /// A new instance comes with these warnings.
    ///
    /// # Panics
    /// If it comes with others.
    pub fn assert_warned(self, created: &Value) {
        match self {
            Self::Docker => assert_eq!(created.get("warnings"), None),
            Self::Local if limits_hold() => assert_eq!(created.get("warnings"), None),
            Self::Local => {
                let warnings = created["warnings"].as_array().expect("warnings");
                assert_eq!(warnings.len(), 1, "{created}");
                let limits = warnings[0].as_str().expect("text");
                assert!(limits.contains("No limits") && limits.contains("512 MiB"), "{limits}");
            }
        }
    }
}

/// Whether the local engine can limit what instances take on this machine, as `doctor` has it.
///
/// # Panics
/// If `doctor` doesn't say.
pub fn limits_hold() -> bool {
    static HOLD: OnceLock<bool> = OnceLock::new();
    *HOLD.get_or_init(|| {
        let environment = TestEnvironment::on(TestEngine::Local);
        let doctor = environment.command(["doctor", "--output", "json"]).output();
        let said: Value = serde_json::from_slice(&doctor.expect("it runs").stdout).expect("JSON");
        let mut checks = said["checks"].as_array().expect("checks").iter();
        let limits = checks
            .find(|check| check["subject"] == "limits")
            .expect("a word on limits");
        limits["verdict"] == "good"
    })
}

/// A home of its own: no configuration, no settings, no instances of the local engine; nothing of the user's but the
/// ways to Docker and to PostgreSQL's programs. It goes, with all servers that still run there, when the last clone goes.
#[derive(Debug, Clone)]
pub struct TestEnvironment {
    home: Arc<Home>,
    variables: BTreeMap<String, OsString>,
    launcher: Vec<String>,
}

#[derive(Debug)]
struct Home(TempDir);

impl Drop for Home {
    fn drop(&mut self) {
        // A test that panicked has dropped nothing.
        local::end_processes_in(self.0.path());
    }
}

impl Default for TestEnvironment {
    fn default() -> Self {
        Self::new()
    }
}

impl TestEnvironment {
    /// With whichever engine this machine has.
    ///
    /// # Panics
    /// If the file system has no room for it.
    #[must_use]
    pub fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        // Servers may run as another user, who has to get to their data.
        #[cfg(unix)]
        std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .expect("it is this user's");
        // What a program needs to run at all, to be measured (LLVM_PROFILE_FILE), and to find the real Docker.
        let inherited = [
            "PATH",
            "SystemRoot",
            "LLVM_PROFILE_FILE",
            "DOCKER_HOST",
            "XDG_RUNTIME_DIR",
        ];
        let variables = inherited
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var_os(name)?)));
        let environment = Self {
            variables: variables.collect(),
            launcher: Vec::new(),
            home: Arc::new(Home(home)),
        };
        let (home, state_dir) = (environment.home().to_owned(), environment.state_dir());
        let bin_dirs = std::env::join_paths(local::bin_dirs()).expect("folders that PATH could have");
        environment
            .with("HOME", home)
            .with("COLUMNS", "100")
            // What waits in the background would be counted among what a test has left.
            .with("DEV_POSTGRES_MCP_POOL_SIZE", "0")
            .with("RUST_BACKTRACE", "1")
            .with("DEV_POSTGRES_MCP_LOCAL_STATE_DIR", state_dir)
            .with("DEV_POSTGRES_MCP_LOCAL_BIN_DIR", bin_dirs)
    }

    /// With this engine. The local one is come to as users come to it: Docker isn't there.
    ///
    /// # Panics
    /// If the file system has no room for it, or `make setup` has not been run.
    #[must_use]
    pub fn on(engine: TestEngine) -> Self {
        match engine {
            TestEngine::Docker => Self::new().with("DEV_POSTGRES_MCP_ENGINE", "docker"),
            TestEngine::Local => {
                assert!(
                    !local::bin_dirs().is_empty(),
                    "no PostgreSQL is set up: run `make setup`"
                );
                Self::new().with("DOCKER_HOST", NOWHERE)
            }
        }
    }

    /// With no engine at all: Docker is wanted, and isn't there.
    ///
    /// # Panics
    /// If the file system has no room for it.
    #[must_use]
    pub fn without_engine() -> Self {
        Self::on(TestEngine::Docker).with("DOCKER_HOST", NOWHERE)
    }

    /// Where `~` is.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.0.path()
    }

    /// Where the local engine keeps its instances.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.home().join("state")
    }

    /// What the names of all processes of this environment begin with, once one of them has owned something.
    #[must_use]
    pub fn scope(&self) -> Option<String> {
        let entries = fs::read_dir(self.state_dir().join("owners")).into_iter().flatten();
        let mut files = entries.flatten().map(|entry| entry.path());
        let scope = files.find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("scope"))
        });
        fs::read_to_string(scope?).ok().filter(|scope| !scope.is_empty())
    }

    /// Sets a variable for every command that follows.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Has every command that follows started by this one, which gets it as its last arguments.
    #[must_use]
    pub fn launched_by(mut self, launcher: &[&str]) -> Self {
        self.launcher = launcher.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// All that is in a command's environment.
    #[must_use]
    pub fn variables(&self) -> &BTreeMap<String, OsString> {
        &self.variables
    }

    /// The program with these arguments, ready to be started.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = match self.launcher.split_first() {
            Some((launcher, its_arguments)) => {
                let mut command = Command::new(launcher);
                command.args(its_arguments).arg(path());
                command
            }
            None => Command::new(path()),
        };
        command.args(arguments).env_clear().envs(&self.variables);
        command
    }

    /// Runs the program with these arguments and nothing on its standard input.
    ///
    /// # Panics
    /// If it can't be started.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).output().expect("the program starts")
    }

    /// The JSON that it prints with these arguments.
    ///
    /// # Panics
    /// If it fails.
    #[expect(clippy::must_use_candidate, reason = "most commands are run for what they do")]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--output", "json"], arguments].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}
