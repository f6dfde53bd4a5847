//! A real Docker daemon that is a test's own: all that is on it is what the test has made, and it may be stopped, killed,
//! frozen and filled up.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tempfile::TempDir;
use tokio::process::Child;

use crate::docker_cli::{docker, try_docker};
use crate::processes::{self, Signal};

/// How long a daemon may take to start or to stop.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause between two looks at whether it has.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether containers live on without their daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containers {
    /// They end with it.
    End,
    /// The next one finds them running.
    LiveOn,
}

/// A daemon with everything of its own: data, sockets, networks' addresses. It goes with all that it has.
#[derive(Debug)]
pub struct PrivateDaemon {
    root: TempDir,
    /// A network of the machine's daemon, whose bridge it has for its own default network. Without one it would have, or
    /// even remove, the bridge `docker0`.
    network: String,
    /// What networks get their addresses from; `None` for the usual ones. A daemon that starts again with some of its own
    /// removes `docker0`, whosever that is, unless containers live on.
    addresses: Option<String>,
    /// The bridges that were there before.
    bridges: BTreeSet<String>,
    process: Option<Child>,
}

impl PrivateDaemon {
    /// Whether this machine lets us have one: as root, with Docker's own daemon installed. Where it doesn't, that is printed.
    #[must_use]
    pub fn can_be_had() -> bool {
        let is_root = processes::find(std::process::id()).is_some_and(|process| process.user == Some(0));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let can_be_had = is_root && std::env::split_paths(&path).any(|folder| folder.join("dockerd").is_file());
        if !can_be_had {
            eprintln!("skipped: nobody but root, with dockerd installed, has a daemon of their own");
        }
        can_be_had
    }

    /// Starts one that has the image `postgres:17`.
    ///
    /// # Panics
    /// If it doesn't start, or the machine's own daemon doesn't give the image.
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), None).await
    }

    /// The same with a disk of this size, in MiB. It must not be started again.
    ///
    /// # Panics
    /// As [`PrivateDaemon::start`].
    pub async fn start_with_disk(size_mib: u32) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("data");
        fs::create_dir(&folder).expect("a folder");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "tmpfs"])
            .arg(&folder);
        assert!(mount.status().expect("mount runs").success(), "a file system");
        let addresses = format!("base=10.{}.0.0/16,size=24", rand::rng().random_range(150..250));
        Self::start_in(root, Some(addresses)).await
    }

    async fn start_in(root: TempDir, addresses: Option<String>) -> Self {
        let bridges = bridges();
        let network = format!("dev-postgres-mcp-test-{:016x}", rand::random::<u64>());
        docker(&["network", "create", &network]).await;
        let mut daemon = Self {
            root,
            network,
            bridges,
            addresses,
            process: None,
        };
        daemon.go_on(Containers::End).await;
        let copy = format!("docker save postgres:17 | docker --host '{}' load", daemon.host());
        let mut shell = tokio::process::Command::new("sh");
        let copied = shell.args(["-c", &copy]).stdout(Stdio::null()).status().await;
        assert!(copied.expect("a shell").success(), "the image is copied");
        daemon
    }

    /// Where it is, as `DOCKER_HOST` has it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.root.path().join("docker.sock").display())
    }

    /// Where all is that it keeps.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Starts it again after [`PrivateDaemon::stop`] or [`PrivateDaemon::kill`].
    ///
    /// # Panics
    /// If it doesn't start.
    pub async fn go_on(&mut self, containers: Containers) {
        let id = docker(&["network", "inspect", "--format", "{{.Id}}", &self.network]).await;
        let bridge = format!("br-{}", id.get(..12).expect("an id"));
        let at = |name: &str| self.root.path().join(name);
        // A daemon that was killed leaves these; their ids may be other processes' by now.
        for stale in ["pid", "docker.sock", "exec/containerd/containerd.pid"] {
            // Mostly it isn't there.
            let _ = fs::remove_file(at(stale));
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(at("log"))
            .expect("a log");
        // Should this process be killed, the daemon goes, too.
        let mut command = tokio::process::Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "dockerd"])
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .args(["--host", &self.host()])
            // The firewall's rules are the machine's daemon's.
            .args(["--iptables=false", "--ip-masq=false", "--ip-forward=false"])
            .args(["--bridge", &bridge])
            .args(["--containerd-namespace", "dev-postgres-mcp-test"])
            .args(["--containerd-plugins-namespace", "dev-postgres-mcp-test-plugins"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .kill_on_drop(true);
        if let Some(addresses) = &self.addresses {
            command.args(["--default-address-pool", addresses]);
        }
        if containers == Containers::LiveOn {
            command.arg("--live-restore");
        }
        self.process = Some(command.spawn().expect("dockerd starts"));
        let begun = Instant::now();
        while self.try_docker(&["version"]).await.is_err() {
            let log = fs::read_to_string(self.root.path().join("log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "it starts: {log}");
            tokio::time::sleep(PAUSE).await;
        }
        self.end_lost_containers().await;
    }

    /// A daemon that is killed just as it starts or removes a container may know nothing of it afterwards (seen with 20.10): it
    /// runs on, in no list, with an address that another container is given. Nobody but who looks after the daemon can help
    /// that.
    async fn end_lost_containers(&self) {
        let known = self.docker(&["ps", "--all", "--quiet", "--no-trunc"]).await;
        for shim in processes::of(self.root.path()) {
            let mut words = shim.command_line.iter().skip_while(|word| *word != "-id");
            if words.nth(1).is_some_and(|id| !known.contains(id.as_str())) {
                processes::end_tree(shim.pid);
            }
        }
        let mut inspect = vec!["inspect", "--format", "{{.NetworkSettings.SandboxKey}}"];
        let running = self.docker(&["ps", "--quiet"]).await;
        inspect.extend(running.lines());
        let kept = if running.is_empty() {
            String::new()
        } else {
            self.docker(&inspect).await
        };
        let namespaces = fs::read_dir(self.root.path().join("exec/netns")).into_iter().flatten();
        for namespace in namespaces.flatten().map(|entry| entry.path()) {
            if !namespace.ends_with("default") && !kept.lines().any(|kept| Path::new(kept) == namespace) {
                // Most of them aren't mounted any more.
                let _ = Command::new("umount")
                    .arg("--lazy")
                    .arg(namespace)
                    .stderr(Stdio::null())
                    .status();
            }
        }
    }

    /// Ends it in peace.
    ///
    /// # Panics
    /// If it doesn't end, or isn't there.
    pub async fn stop(&mut self) {
        self.signal(Signal::Term);
        self.until_ended().await;
    }

    /// Ends it at once.
    ///
    /// # Panics
    /// If it doesn't end, or isn't there.
    pub async fn kill(&mut self) {
        self.signal(Signal::Kill);
        self.until_ended().await;
    }

    /// Has it take connections and answer nothing.
    ///
    /// # Panics
    /// If it isn't there.
    pub fn freeze(&self) {
        self.signal(Signal::Stop);
    }

    /// Has it answer again.
    ///
    /// # Panics
    /// If it isn't there.
    pub fn thaw(&self) {
        self.signal(Signal::Continue);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.process.as_ref().and_then(Child::id);
        processes::signal(pid.expect("it runs"), signal);
    }

    async fn until_ended(&mut self) {
        if let Some(mut process) = self.process.take() {
            let ended = tokio::time::timeout(PATIENCE, process.wait()).await;
            ended.expect("it ends in time").expect("its end can be waited for");
        }
    }

    /// Runs `docker` there.
    ///
    /// # Panics
    /// If it fails.
    pub async fn docker(&self, arguments: &[&str]) -> String {
        docker(&[&["--host", &self.host()], arguments].concat()).await
    }

    /// As [`PrivateDaemon::docker`], for a command that may fail.
    ///
    /// # Errors
    /// As [`try_docker`].
    pub async fn try_docker(&self, arguments: &[&str]) -> Result<String, String> {
        try_docker(&[&["--host", &self.host()], arguments].concat()).await
    }

    /// The containers, volumes and networks that it would not have had by itself, by name.
    ///
    /// # Panics
    /// If it doesn't tell.
    pub async fn made(&self) -> BTreeSet<String> {
        self.listed(&[
            ("container", &["ps", "--all", "--format", "{{.Names}}"]),
            ("volume", &["volume", "ls", "--quiet"]),
            (
                "network",
                &["network", "ls", "--filter", "type=custom", "--format", "{{.Name}}"],
            ),
        ])
        .await
    }

    /// The images that it has, by name where they have one.
    ///
    /// # Panics
    /// If it doesn't tell.
    pub async fn images(&self) -> BTreeSet<String> {
        let named = "dangling=false";
        let nameless = "dangling=true";
        self.listed(&[
            (
                "image",
                &["images", "--filter", named, "--format", "{{.Repository}}:{{.Tag}}"],
            ),
            (
                "nameless image",
                &["images", "--filter", nameless, "--format", "{{.ID}}"],
            ),
        ])
        .await
    }

    async fn listed(&self, lists: &[(&str, &[&str])]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (kind, list) in lists {
            let names = self.docker(list).await;
            found.extend(names.lines().map(|name| format!("{kind} {name}")));
        }
        found
    }
}

impl Drop for PrivateDaemon {
    fn drop(&mut self) {
        let root = self.root.path().to_owned();
        if let Some(pid) = self.process.as_ref().and_then(Child::id) {
            // It may be frozen.
            processes::signal(pid, Signal::Continue);
            clear(&self.host());
            processes::signal(pid, Signal::Term);
        }
        // What a daemon that was killed has left: each container's process is its shim's child.
        let begun = Instant::now();
        while !processes::of(&root).is_empty() && begun.elapsed() < PATIENCE {
            std::thread::sleep(PAUSE);
            if begun.elapsed() > PATIENCE / 4 {
                for process in processes::of(&root) {
                    processes::end_tree(process.pid);
                }
            }
        }
        unmount_all(&root);
        // Shown by the next look at the machine's networks, if it fails.
        let _ = Command::new("docker")
            .args(["network", "rm", &self.network])
            .stdout(Stdio::null())
            .status();
        // Where a disk was full, Docker has forgotten those of networks that could not be made. Other tests have theirs at
        // the same time, with containers on them.
        let Some(addresses) = &self.addresses else { return };
        for bridge in bridges().difference(&self.bridges) {
            let ports = fs::read_dir(format!("/sys/class/net/{bridge}/brif")).map_or(0, Iterator::count);
            if ports == 0 && is_in(bridge, addresses) {
                let _ = Command::new("ip").args(["link", "delete", bridge]).status();
            }
        }
    }
}

/// The machine's bridges that Docker has named.
fn bridges() -> BTreeSet<String> {
    let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = links.map(|link| link.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("br-")).collect()
}

/// Whether a bridge's address is one of those that a daemon gives to networks.
fn is_in(bridge: &str, addresses: &str) -> bool {
    let told = Command::new("ip")
        .args(["-4", "-oneline", "address", "show", "dev", bridge])
        .output();
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let begins = addresses.trim_start_matches("base=").trim_end_matches("0.0/16,size=24");
    told.is_ok_and(|told| told.contains(&format!(" {begins}")))
}

/// Removes what a test that failed has left.
fn clear(host: &str) {
    let clear = "docker ps --all --quiet | xargs --no-run-if-empty docker rm --force --volumes; \
                 docker network prune --force";
    // A test that succeeded has left nothing.
    let _ = Command::new("timeout")
        .args(["20", "sh", "-c", clear])
        .env("DOCKER_HOST", host)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

fn unmount_all(root: &Path) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split_whitespace().nth(1));
    let mut places: Vec<&Path> = places.map(Path::new).filter(|place| place.starts_with(root)).collect();
    // The innermost first.
    places.sort_unstable_by(|one, other| other.cmp(one));
    for place in places {
        // What stays is shown by the folder that can't be removed.
        let _ = Command::new("umount").arg("--lazy").arg(place).status();
    }
}
