//! A Docker daemon that nobody else uses: all that there is on it is what a test has made.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long it may take to start, and to end.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(20);

/// The daemon, with the image `postgres:17`. It ends, with all that is on it, when it is dropped.
#[derive(Debug)]
pub struct DockerDaemon {
    process: Child,
    home: TempDir,
    /// A network of the machine's daemon, for the sake of its bridge.
    network: String,
}

impl DockerDaemon {
    /// Starts one; `None` where that can't be had, which it says then: only root may, and `dockerd` has to be there.
    ///
    /// # Panics
    /// If the daemon doesn't come up.
    #[must_use]
    pub fn start() -> Option<Self> {
        let is_there = Command::new("dockerd").arg("--version").stdout(Stdio::null()).status();
        if !dev_postgres_mcp::engine::local::is_root() || !is_there.is_ok_and(|status| status.success()) {
            eprintln!("skipped: only root can start a Docker daemon, where there is dockerd");
            return None;
        }
        let home = tempfile::tempdir().expect("a temporary directory");
        let log = fs::File::create(home.path().join("log")).expect("a file");
        // With no bridge of its own a daemon makes, or even removes, the machine's `docker0`.
        let network = format!("dev-postgres-mcp-test-{:016x}", rand::random::<u64>());
        let created = Command::new("docker").args(["network", "create", &network]).output();
        let id = String::from_utf8(created.expect("docker starts").stdout).expect("text");
        let bridge = format!("br-{}", id.get(..12).expect("a network's id"));
        // Should this process be killed, the daemon goes, too.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "dockerd"])
            // What it did to the machine's packet filter would hurt the machine's own daemon.
            .args(["--bridge", &bridge, "--iptables=false", "--ip6tables=false"])
            .arg(format!("--host=unix://{}", home.path().join("docker.sock").display()))
            .arg(format!("--data-root={}", home.path().join("data").display()))
            .arg(format!("--exec-root={}", home.path().join("exec").display()))
            .arg(format!("--pidfile={}", home.path().join("pid").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("setpriv starts");
        let daemon = Self { process, home, network };
        let begun = Instant::now();
        while daemon.try_docker(&["version"]).is_err() {
            let log = fs::read_to_string(daemon.home.path().join("log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "dockerd doesn't start: {log}");
            std::thread::sleep(PAUSE);
        }
        let load = format!(
            "docker save postgres:17 | DOCKER_HOST={} docker load --quiet",
            daemon.host()
        );
        let loaded = Command::new("sh").args(["-c", &load]).stdout(Stdio::null()).status();
        assert!(loaded.expect("sh starts").success(), "the image is loaded");
        Some(daemon)
    }

    /// Where it is, as `DOCKER_HOST` has it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.home.path().join("docker.sock").display())
    }

    /// What its client prints, without the closing line feed.
    ///
    /// # Panics
    /// If it fails.
    #[expect(clippy::must_use_candidate, reason = "most commands are run for what they do")]
    pub fn docker(&self, arguments: &[&str]) -> String {
        self.try_docker(arguments)
            .unwrap_or_else(|error| panic!("docker {arguments:?}: {error}"))
    }

    /// As [`DockerDaemon::docker`], for a command that may fail.
    ///
    /// # Errors
    /// What it printed to standard error.
    ///
    /// # Panics
    /// If there is no `docker`.
    pub fn try_docker(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("docker")
            .args(arguments)
            .env("DOCKER_HOST", self.host())
            .stdin(Stdio::null())
            .output()
            .expect("docker starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// Everything that it has: containers, volumes, networks and images, by name where they have one.
    #[must_use]
    pub fn everything(&self) -> BTreeSet<String> {
        let listed = [
            ("container", self.docker(&["ps", "--all", "--format", "{{.Names}}"])),
            ("volume", self.docker(&["volume", "ls", "--format", "{{.Name}}"])),
            ("network", self.docker(&["network", "ls", "--format", "{{.Name}}"])),
            (
                "image",
                self.docker(&[
                    "images",
                    "--filter",
                    "dangling=false",
                    "--format",
                    "{{.Repository}}:{{.Tag}}",
                ]),
            ),
            (
                "nameless image",
                self.docker(&["images", "--filter", "dangling=true", "--format", "{{.ID}}"]),
            ),
        ];
        let named = listed.iter().flat_map(|(kind, names)| {
            let names = names.lines().filter(|name| !name.is_empty());
            names.map(move |name| format!("{kind} {name}"))
        });
        named.collect()
    }
}

impl Drop for DockerDaemon {
    fn drop(&mut self) {
        // Whatever fails here: the folder goes, as far as it can.
        if let Ok(containers) = self.try_docker(&["ps", "--all", "--quiet"]) {
            let mut arguments = vec!["rm", "--force", "--volumes"];
            arguments.extend(containers.lines());
            let _ = self.try_docker(&arguments);
        }
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").arg(&pid).status();
        let begun = Instant::now();
        loop {
            match self.process.try_wait() {
                Ok(None) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                Ok(Some(status)) if status.signal().is_none() => break,
                _ => {
                    let _ = self.process.kill();
                    let _ = self.process.wait();
                    break;
                }
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let here = self.home.path().display().to_string();
        for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            if mount.starts_with(&here) {
                let _ = Command::new("umount").args(["--lazy", mount]).status();
            }
        }
        let _ = Command::new("docker")
            .args(["network", "rm", &self.network])
            .stdout(Stdio::null())
            .status();
    }
}
