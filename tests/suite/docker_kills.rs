//! The program killed on Docker, at every labelled failpoint and at random moments: the next command leaves nothing behind
//! that nobody was told of, and nothing of a living server is touched.
//!
//! On a daemon of its own, so that all that is there can be counted.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use dev_postgres_mcp::instance::InstanceId;
use dev_postgres_mcp_tests::binary::{TestEngine, TestEnvironment};
use dev_postgres_mcp_tests::kills::{Killable, Living, Work, assert_died_at, told_by_server};
use dev_postgres_mcp_tests::local_engine::names_in;
use dev_postgres_mcp_tests::private_daemon::PrivateDaemon;
use dev_postgres_mcp_tests::seeded;
use dev_postgres_mcp_tests::soak;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// How long Docker may take to finish what it was asked for by a process that has been killed since.
const LATE: Duration = Duration::from_secs(1);
/// Where templates are.
const TEMPLATE: &str = "image dev-postgres-mcp-template:";
/// An image that is only made here.
const OWN: &str = "own-postgres";

/// The steps that leave something outside of the process.
const STEPS: [&str; 18] = [
    "assigning a server",
    "creating a template",
    "creating the container",
    "creating the network",
    "keeping a template",
    "locking this owner's file",
    "naming the container",
    "naming the owners' folder",
    "removing a template",
    "removing the container",
    "removing the network",
    "setting up a server ahead",
    "setting up the instance",
    "starting a template",
    "starting the container",
    "stopping a template",
    "writing a file",
    "writing the instance's lease",
];

/// A daemon and a home that nobody else has.
struct Ground {
    daemon: PrivateDaemon,
    /// What waits for Docker here; all else waits for processes.
    runtime: Runtime,
    environment: TestEnvironment,
    /// What was on the daemon before anything was made.
    base: BTreeSet<String>,
}

impl Ground {
    fn new() -> Option<Self> {
        if !PrivateDaemon::can_be_had() {
            return None;
        }
        let runtime = Runtime::new().expect("a runtime");
        let daemon = runtime.block_on(PrivateDaemon::start());
        let environment = TestEnvironment::on(TestEngine::Docker)
            .with("DOCKER_HOST", daemon.host())
            .with("DEV_POSTGRES_MCP_LOG_LEVEL", "error");
        let mut ground = Self {
            base: BTreeSet::new(),
            daemon,
            runtime,
            environment,
        };
        ground.base = ground.everything();
        Some(ground)
    }

    /// All that is on the daemon.
    fn everything(&self) -> BTreeSet<String> {
        let (mut everything, images) = self
            .runtime
            .block_on(async { (self.daemon.made().await, self.daemon.images().await) });
        everything.extend(images);
        everything
    }

    /// With servers that are started ahead.
    fn with_pool(&self) -> TestEnvironment {
        self.environment.clone().with("DEV_POSTGRES_MCP_POOL_SIZE", "1")
    }

    fn try_run(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = self.environment.run(&[&["-o", "json"], arguments].concat());
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).expect("JSON"))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn run(&self, arguments: &[&str]) -> Value {
        self.try_run(arguments)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// All that is there beyond what was there before, whole templates and `spared` aside.
    fn left(&self, spared: &BTreeSet<String>) -> BTreeSet<String> {
        let mut left = self.everything();
        left.extend(self.files());
        left.retain(|item| !self.base.contains(item) && !spared.contains(item) && !item.starts_with(TEMPLATE));
        left
    }

    /// What processes have named themselves, and what they were writing.
    fn files(&self) -> BTreeSet<String> {
        let owners = names_in(&self.environment.state_dir().join("owners"));
        let owners = owners.into_iter().filter(|name| !name.starts_with("scope"));
        let mut files: BTreeSet<String> = owners.map(|name| format!("owner {name}")).collect();
        let mut folders = vec![self.environment.home().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if entry.file_name().to_string_lossy().contains("new") {
                    files.insert(format!("file {}", path.display()));
                }
            }
        }
        files
    }

    /// Runs the next command after a kill and looks at what is there; then drops what had been told of, and looks again.
    fn check(&self, what: &str, told: &BTreeSet<InstanceId>, spared: &BTreeSet<String>) {
        let before = self.left(spared);
        self.run(&["postgres", "list"]);
        let names: BTreeSet<String> = told.iter().map(|id| format!("container mcp-postgres-{id}")).collect();
        let unwanted = || {
            let mut left = self.left(spared);
            if left.iter().any(|item| names.contains(item)) {
                left.remove("network dev-postgres-mcp");
            }
            left.retain(|item| !names.contains(item));
            left
        };
        let mut left = unwanted();
        if !left.is_empty() && left.is_disjoint(&before) {
            // Docker was still at what it had been asked for.
            eprintln!("{what}: came late: {left:?}");
            std::thread::sleep(LATE);
            self.run(&["postgres", "list"]);
            left = unwanted();
        }
        assert!(left.is_empty(), "{what}: nobody was told of {left:#?}");
        for id in told {
            if self.left(spared).contains(&format!("container mcp-postgres-{id}")) {
                self.run(&["postgres", "drop", &id.to_string()]);
            }
        }
        let left = self.left(spared);
        assert!(left.is_empty(), "{what}: left after a drop: {left:#?}");
        let everything = self.everything();
        let missing: BTreeSet<&String> = spared
            .iter()
            .filter(|item| !item.starts_with("owner") && !everything.contains(*item))
            .collect();
        assert!(missing.is_empty(), "{what}: of the living, gone: {missing:#?}");
    }

    fn remove_templates(&self) {
        for image in self.everything() {
            if let Some(name) = image.strip_prefix("image ").filter(|_| image.starts_with(TEMPLATE)) {
                // One that a living server runs on stays.
                let _ = self.runtime.block_on(self.daemon.try_docker(&["rmi", name]));
            }
        }
    }

    /// An image that has a template of its own.
    fn build_own(&self) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("Dockerfile"), "FROM postgres:17\nLABEL own=1\n").expect("a file");
        let build = std::process::Command::new("docker")
            .args(["build", "--quiet", "--force-rm", "--tag", &format!("{OWN}:17")])
            .arg(folder.path())
            .env("DOCKER_HOST", self.daemon.host())
            // The builder that every engine has by itself.
            .env("DOCKER_BUILDKIT", "0")
            .stdin(Stdio::null())
            .output()
            .expect("docker starts");
        assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    }
}

/// All that a living server has on the daemon, and its owner's file.
fn belongings(ground: &Ground) -> BTreeSet<String> {
    let belongings = ground.left(&BTreeSet::new());
    assert_eq!(
        belongings.len(),
        4,
        "two containers, a network and an owner: {belongings:?}"
    );
    belongings
}

fn end(living: Living, ground: &Ground) {
    living.end();
    let left = ground.left(&BTreeSet::new());
    assert!(left.is_empty(), "{left:#?}");
}

/// Does what has to be there before a work is killed at this point; the instance that it is about.
fn prepare(work: Work, ground: &Ground, kill_at: Option<&str>) -> String {
    let created = || {
        let created = ground.run(&["postgres", "create"]);
        created["id"].as_str().expect("an id").to_owned()
    };
    match work {
        // Components are compiled anew then.
        Work::Load => drop(fs::remove_dir_all(ground.environment.home().join(".cache"))),
        Work::Warm | Work::Create => {
            // For the steps that make it. Elsewhere it stays: what Docker makes late for whoever was killed before can be
            // judged by nothing else.
            if kill_at.is_none_or(|point| point.contains("owner")) {
                let _ = fs::remove_dir_all(ground.environment.state_dir().join("owners"));
            }
            if work == Work::Warm {
                ground.remove_templates();
            }
        }
        Work::Extend | Work::Drop => return created(),
        Work::Sweep => {
            let mut killed = Killable::serve_and_create(&ground.environment, 1);
            let answer = killed.hear();
            let _ = killed.kill_after(Duration::ZERO);
            return told_by_server(&answer)
                .into_iter()
                .next()
                .expect("an instance")
                .to_string();
        }
        Work::Prune => {
            let own = ground
                .environment
                .clone()
                .with("DEV_POSTGRES_MCP_INSTANCE_REPOSITORY", OWN);
            ground.build_own();
            assert!(own.run(&["postgres", "warm"]).status.success());
            let own = format!("{OWN}:17");
            ground.runtime.block_on(ground.daemon.docker(&["rmi", &own]));
        }
        Work::Serve => {}
    }
    String::new()
}

fn kill_at_each_point(
    ground: &Ground,
    work: Work,
    every_point: bool,
    spared: &BTreeSet<String>,
    died_at: &mut BTreeSet<String>,
) {
    work.kill_at_each_point(
        &ground.environment,
        every_point,
        died_at,
        |environment, trace, kill_at| {
            if kill_at.is_some() && work == Work::Prune {
                ground.run(&["postgres", "prune"]);
            }
            let id = prepare(work, ground, kill_at);
            let (is_killed, told) = work.run(environment, &id, trace);
            if kill_at.is_some_and(|point| point.starts_with("amid ")) {
                // What Docker has been asked for comes, whoever asked for it.
                std::thread::sleep(LATE);
            }
            ground.check(&format!("{work:?} {kill_at:?}"), &told, spared);
            is_killed
        },
    );
    if work == Work::Prune {
        ground.run(&["postgres", "prune"]);
    }
}

#[test]
fn killed_at_every_failpoint_it_leaves_nothing_that_nobody_was_told_of() {
    let every_point = soak::size(false, true);
    let Some(ground) = Ground::new() else { return };
    let mut died_at = BTreeSet::new();
    let nobody = BTreeSet::new();
    for work in [
        Work::Load,
        Work::Warm,
        Work::Create,
        Work::Extend,
        Work::Drop,
        Work::Sweep,
        Work::Prune,
    ] {
        kill_at_each_point(&ground, work, every_point, &nobody, &mut died_at);
    }
    let living = Living::start(&ground.with_pool());
    kill_at_each_point(&ground, Work::Serve, every_point, &belongings(&ground), &mut died_at);
    end(living, &ground);
    assert_died_at(&STEPS, &died_at);
}

#[test]
fn servers_killed_at_random_moments_leave_nothing_and_touch_nothing_of_a_living_one() {
    /// How many are killed at the same time.
    const AT_ONCE: usize = 3;
    let kills = soak::size(45, 300);
    let Some(mut ground) = Ground::new() else { return };
    ground.build_own();
    ground.base = ground.everything();
    let living = Living::start(&ground.with_pool());
    let belongings = belongings(&ground);
    let environment = ground.with_pool().with("DEV_POSTGRES_MCP_INSTANCE_REPOSITORY", OWN);
    let mut rng = seeded::rng();
    // The first one makes the template.
    let (answers, usual_time) = Killable::serve_and_create(&environment, 2).finish(2);
    assert_eq!(
        told_by_server(&answers).len(),
        2,
        "whoever isn't killed makes instances: {answers}"
    );
    let (mut killed, mut at_work, mut told) = (0, 0, 0);
    while killed < kills {
        if rng.random_ratio(1, 4) {
            ground.remove_templates();
        }
        let plans: Vec<(usize, bool, Duration)> = (0..AT_ONCE)
            .map(|_| {
                let patience = usual_time.mul_f64(rng.random_range(0.0..1.0));
                (rng.random_range(1..=2), rng.random_ratio(1, 3), patience)
            })
            .collect();
        let outputs: Vec<String> = std::thread::scope(|scope| {
            let environment = &environment;
            let threads: Vec<_> = plans
                .into_iter()
                .map(|(creates, drops, patience)| {
                    scope.spawn(move || {
                        let mut server = Killable::serve_and_create(environment, creates);
                        let mut heard = String::new();
                        if drops {
                            heard = server.hear();
                            for id in told_by_server(&heard) {
                                server.call("drop_postgres_instance", &json!({ "id": id.to_string() }));
                            }
                        }
                        heard + &server.kill_after(patience)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        killed += AT_ONCE;
        told += outputs.iter().map(|output| told_by_server(output).len()).sum::<usize>();
        let left = ground.left(&belongings);
        at_work += left.iter().filter(|item| item.starts_with("container")).count();
        // Their sessions have ended: what was told of has ended with them.
        ground.check(&format!("after {killed} kills"), &BTreeSet::new(), &belongings);
    }
    eprintln!("{killed} kills: {told} instances had been told of; {at_work} containers were left to the next command");
    assert!(told > 0 && at_work > 0, "some of either");
    end(living, &ground);
}
