//! PostgreSQL on a copied data directory, with nothing around it: the floor of what can be had without Docker.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::docker_run::free_ports;
use super::ours::milliseconds;
use super::query;
use crate::local;

/// An initialised data directory, and the programs that made it.
#[derive(Debug)]
pub(super) struct LocalRun {
    programs: PathBuf,
    /// Whom servers run as, where that isn't who runs this: PostgreSQL refuses root.
    user: Option<(u32, u32)>,
    home: TempDir,
}

impl LocalRun {
    /// Of the version that the local engine takes as well.
    pub(super) async fn prepare() -> Self {
        let programs = local::programs();
        let default = programs.iter().find(|(version, _)| version.starts_with("17."));
        let (_, folder) = default.or(programs.first()).expect("PostgreSQL is set up");
        let local_run = Self {
            programs: folder.clone(),
            user: server_user().await,
            home: tempfile::tempdir().expect("a temporary directory"),
        };
        #[cfg(unix)]
        if let Some((user, group)) = local_run.user {
            std::os::unix::fs::chown(local_run.home.path(), Some(user), Some(group)).expect("root may");
        }
        let mut initdb = local_run.command("initdb", "data");
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        succeed(initdb).await;
        local_run
    }

    /// With `-D` and a folder that is in ours.
    fn command(&self, program: &str, folder: &str) -> Command {
        let mut command = self.as_user(self.programs.join(program));
        command.arg("-D").arg(self.home.path().join(folder));
        command
    }

    fn as_user(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        #[cfg(unix)]
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// One server, until it has answered a query; the time in milliseconds. It is ended.
    pub(super) async fn run(&self) -> f64 {
        let port = free_ports(1)[0];
        let begun = Instant::now();
        let mut copy = self.as_user("cp".into());
        copy.args(["-a", "data", "copy"]);
        succeed(copy).await;
        let mut server = self.command("postgres", "copy");
        server.args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        server.args([
            "-c",
            "unix_socket_directories=",
            "-c",
            "fsync=off",
            "-c",
            "full_page_writes=off",
        ]);
        let server = server.spawn().expect("postgres starts");
        query::as_soon_as_possible(&format!("postgresql://postgres@127.0.0.1:{port}/postgres")).await;
        let took = milliseconds(begun);
        end(server).await;
        std::fs::remove_dir_all(self.home.path().join("copy")).expect("it is ours");
        took
    }
}

/// Killed the hard way, it would leave shared memory behind.
async fn end(mut server: Child) {
    let mut kill = Command::new("kill");
    kill.args(["-QUIT", &server.id().expect("it runs").to_string()]);
    succeed(kill).await;
    server.wait().await.expect("it ends");
}

async fn succeed(mut command: Command) {
    let status = command.status().await.expect("it starts");
    assert!(status.success(), "{command:?}: {status}");
}

/// Where root runs this, the choice that the local engine makes, too.
async fn server_user() -> Option<(u32, u32)> {
    let id = async |arguments: &[&str]| -> Option<u32> {
        let output = Command::new("id")
            .args(arguments)
            .stderr(Stdio::null())
            .output()
            .await
            .ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    if id(&["-u"]).await != Some(0) {
        return None;
    }
    for name in ["postgres", "nobody"] {
        if let (Some(user), Some(group)) = (id(&["-u", name]).await, id(&["-g", name]).await) {
            return Some((user, group));
        }
    }
    None
}
