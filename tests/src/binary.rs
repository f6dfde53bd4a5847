//! The program under test, and a tidy place to run it in.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The `dev-postgres-mcp` executable, brought up to date once per test process.
///
/// # Panics
/// If it can't be built.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
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

/// A home of its own: no configuration, no settings, nothing of the user's but the way to Docker.
#[derive(Debug)]
pub struct TestEnvironment {
    home: TempDir,
    variables: Vec<(String, String)>,
}

impl Default for TestEnvironment {
    fn default() -> Self {
        Self::new()
    }
}

impl TestEnvironment {
    /// # Panics
    /// If the file system has no room for it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            home: tempfile::tempdir().expect("a temporary directory"),
            variables: Vec::new(),
        }
    }

    /// Where `~` is.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Sets a variable for every command that follows.
    ///
    /// # Panics
    /// If the value isn't UTF-8.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let value = value.as_ref().to_str().expect("a value in UTF-8").to_owned();
        self.variables.push((name.to_owned(), value));
        self
    }

    /// The program with these arguments, ready to be started.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(path());
        command.args(arguments).env_clear();
        // What a program needs to run at all, to be measured (LLVM_PROFILE_FILE), and to find the real Docker.
        for name in [
            "PATH",
            "SystemRoot",
            "LLVM_PROFILE_FILE",
            "DOCKER_HOST",
            "XDG_RUNTIME_DIR",
        ] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("HOME", self.home())
            .env("COLUMNS", "100")
            .env("RUST_BACKTRACE", "1");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}
