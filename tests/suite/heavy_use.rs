//! Many creates and drops: by several processes at once, and one after the other in one; on each engine.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use dev_postgres_mcp::instance::InstanceId;
use dev_postgres_mcp_tests::binary::TestEngine::{self, Docker, Local};
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::docker_cli::{containers, docker};
use dev_postgres_mcp_tests::local;
use dev_postgres_mcp_tests::local_engine::control_groups;
use dev_postgres_mcp_tests::seeded;
use dev_postgres_mcp_tests::session::Session;
use dev_postgres_mcp_tests::soak;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

const SERVERS: usize = 4;
const COMMAND_LINES: usize = 2;
/// How many instances each of them has at most at a time.
const INSTANCES_EACH: usize = 3;
/// How long what ends by itself may take to end.
const PATIENCE: Duration = Duration::from_secs(40);
/// The pause between two looks at what nobody tells.
const PAUSE: Duration = Duration::from_millis(200);
/// How much more resident memory a server may have in the end, in bytes.
const GROWTH_MAX: u64 = 12 << 20;

/// Where the ports of the first test are, below those that others take, and how many each test has: hardly more than there
/// are instances and servers that wait, so that two processes often try the same one.
const FIRST_PORT: u16 = 14_000;
const PORTS_EACH: u16 = 30;

fn environment(engine: TestEngine, ports: &RangeInclusive<u16>) -> TestEnvironment {
    TestEnvironment::on(engine)
        .with("DEV_POSTGRES_MCP_POOL_SIZE", "1")
        .with(
            "DEV_POSTGRES_MCP_INSTANCE_PORTS",
            format!("{}-{}", ports.start(), ports.end()),
        )
}

/// What is left when all have ended: containers, networks; folders, processes and control groups; ports.
async fn left(
    environment: &TestEnvironment,
    engine: TestEngine,
    made: &BTreeSet<InstanceId>,
    ports: RangeInclusive<u16>,
) -> Vec<String> {
    let mut left = match engine {
        Docker => {
            let mut left = containers(environment).await;
            let networks = docker(&["network", "ls", "-q", "--filter", "name=^dev-postgres-mcp$"]).await;
            // One may be there, for other tests' instances.
            left.extend(networks.lines().skip(1).map(|id| format!("another network {id}")));
            left
        }
        Local => {
            let mut left = local::leftovers(environment);
            left.extend(control_groups(made).iter().map(|path| path.display().to_string()));
            left
        }
    };
    for port in ports {
        if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
            left.push(format!("port {port}: {error}"));
        }
    }
    left
}

/// An instance and what its maker has written into it.
struct Mine {
    id: String,
    dsn: String,
    mark: String,
}

impl Mine {
    /// Takes an instance that was made just now.
    async fn marked(created: &Value, mark: String) -> Self {
        let text = |name: &str| created[name].as_str().expect("text").to_owned();
        let mine = Self {
            id: text("id"),
            dsn: text("dsn"),
            mark,
        };
        let is_new = "SELECT count(*)::text FROM pg_tables WHERE tablename = 'mark'";
        assert_eq!(mine.ask(is_new).await, "0", "somebody else has it already");
        let write = format!("CREATE TABLE mark AS SELECT '{}' AS whose; SELECT 'written'", mine.mark);
        mine.ask(&write).await;
        mine
    }

    /// The last word of an answer.
    async fn ask(&self, query: &str) -> String {
        let (client, connection) = tokio_postgres::connect(&self.dsn, NoTls)
            .await
            .unwrap_or_else(|error| panic!("{} of {} does not answer: {error:?}", self.id, self.mark));
        let connection = tokio::spawn(connection);
        let answer = client.simple_query(query).await.expect("an answer");
        let rows = answer.iter().rev().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).expect("text").to_owned()),
            _ => None,
        });
        drop(client);
        // It ends with the client; whatever it says then.
        let _ = connection.await;
        rows.expect("a row")
    }

    async fn assert_untouched(&self) {
        assert_eq!(self.ask("SELECT whose FROM mark").await, self.mark);
    }
}

/// What makes instances.
enum Maker {
    Server(Box<Session>),
    CommandLine(TestEnvironment),
}

async fn json_of(environment: &TestEnvironment, arguments: &[&str]) -> Value {
    let output = Command::from(environment.command([&["-o", "json"], arguments].concat()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

impl Maker {
    async fn create(&mut self) -> Value {
        match self {
            Self::Server(session) => session.succeed("create_postgres_instance", json!({})).await,
            Self::CommandLine(environment) => json_of(environment, &["postgres", "create"]).await,
        }
    }

    async fn drop(&mut self, id: &str) {
        match self {
            Self::Server(session) => {
                session.succeed("drop_postgres_instance", json!({ "id": id })).await;
            }
            Self::CommandLine(environment) => {
                json_of(environment, &["postgres", "drop", "--yes", id]).await;
            }
        }
    }

    async fn listed(&mut self) -> BTreeSet<String> {
        let list = match self {
            Self::Server(session) => session.succeed("list_postgres_instances", json!({})).await,
            Self::CommandLine(environment) => json_of(environment, &["postgres", "list"]).await,
        };
        let instances = list["instances"].as_array().expect("instances").iter();
        instances
            .map(|instance| instance["id"].as_str().expect("an id").to_owned())
            .collect()
    }

    /// Ends with the instances that it has: a server's go with it.
    async fn end(mut self, instances: Vec<Mine>) {
        for mine in &instances {
            mine.assert_untouched().await;
        }
        match self {
            Self::Server(session) => {
                let remains = session.end().await;
                assert!(remains.status.success(), "{remains:?}");
                assert!(!remains.log.contains("panicked"), "{}", remains.log);
            }
            Self::CommandLine(_) => {
                for mine in instances {
                    self.drop(&mine.id).await;
                }
            }
        }
    }
}

/// Creates and drops at random, and looks each time whether its instances are as it left them; the ids of all.
async fn create_and_drop(name: String, mut maker: Maker, mut rng: StdRng, times: usize) -> BTreeSet<InstanceId> {
    let (mut made, mut mine) = (BTreeSet::new(), Vec::<Mine>::new());
    for number in 0..times {
        if mine.is_empty() || mine.len() < INSTANCES_EACH && rng.random_bool(0.5) {
            let created = maker.create().await;
            let new = Mine::marked(&created, format!("{name}, {number}")).await;
            made.insert(new.id.parse().expect("an id"));
            mine.push(new);
        } else {
            let one = mine.swap_remove(rng.random_range(0..mine.len()));
            one.assert_untouched().await;
            maker.drop(&one.id).await;
            let error = tokio_postgres::connect(&one.dsn, NoTls).await.err();
            // Somebody else may have its port already, with another password.
            assert!(error.is_some(), "{} answers after its drop", one.id);
        }
        for one in &mine {
            one.assert_untouched().await;
        }
        if rng.random_bool(0.2) {
            let listed = maker.listed().await;
            assert!(
                mine.iter().all(|one| listed.contains(&one.id)),
                "{name} misses some of its own"
            );
        }
    }
    maker.end(mine).await;
    made
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_servers_and_two_command_lines_create_and_drop_at_random_and_touch_only_their_own(
    #[values(Docker, Local)] engine: TestEngine,
) {
    let first = FIRST_PORT + PORTS_EACH * u16::from(engine == Local);
    let ports = first..=first + PORTS_EACH - 1;
    let environment = environment(engine, &ports);
    let times = soak::size(10, 34);
    let mut rng = seeded::rng();
    let mut makers = JoinSet::new();
    for number in 0..SERVERS + COMMAND_LINES {
        let (environment, rng) = (environment.clone(), StdRng::seed_from_u64(rng.random()));
        makers.spawn(async move {
            let maker = if number < SERVERS {
                Maker::Server(Box::new(Session::initialized(&environment, &[]).await))
            } else {
                Maker::CommandLine(environment)
            };
            create_and_drop(format!("maker {number}"), maker, rng, times).await
        });
    }
    let made: BTreeSet<InstanceId> = makers.join_all().await.into_iter().flatten().collect();
    let left = left(&environment, engine, &made, ports).await;
    eprintln!(
        "{} creates and drops, {} instances; left: {left:?}",
        times * (SERVERS + COMMAND_LINES),
        made.len()
    );
    assert!(left.is_empty(), "{left:#?}");
}

/// What a server takes of the machine.
#[derive(Debug, Clone, Copy)]
struct Taken {
    descriptors: usize,
    threads: usize,
    children: usize,
    memory_bytes: u64,
    /// Containers, or folders of instances.
    instances: usize,
    /// The daemon's networks and volumes, whoever made them; none where other tests run at the same time.
    networks_and_volumes: usize,
    /// Files in the state directory that aren't an instance's or a template's.
    files: usize,
}

fn count(folder: impl AsRef<Path>) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

async fn taken(environment: &TestEnvironment, engine: TestEngine, session: &Session) -> Taken {
    let process = Path::new("/proc").join(session.pid().expect("it runs").to_string());
    let status = fs::read_to_string(process.join("status")).expect("it runs");
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the field");
        line.split_whitespace()
            .next()
            .expect("a number")
            .parse::<u64>()
            .expect("a number")
    };
    let children: usize = fs::read_dir(process.join("task"))
        .expect("it runs")
        .flatten()
        // A thread may have ended.
        .map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default())
        .map(|children| children.split_whitespace().count())
        .sum();
    let state = environment.state_dir();
    let networks_and_volumes = if engine == Docker && soak::is_full() {
        let (networks, volumes) = (
            docker(&["network", "ls", "-q"]).await,
            docker(&["volume", "ls", "-q"]).await,
        );
        networks.lines().count() + volumes.lines().count()
    } else {
        0
    };
    Taken {
        descriptors: count(process.join("fd")),
        threads: count(process.join("task")),
        children,
        memory_bytes: field("VmRSS:") << 10,
        instances: match engine {
            Docker => containers(environment).await.len(),
            Local => count(state.join("instances")),
        },
        networks_and_volumes,
        files: count(&state) + count(state.join("owners")) + count(state.join("templates")),
    }
}

impl Taken {
    /// What has grown since.
    fn grown(&self, since: &Self) -> Vec<String> {
        let counts = [
            ("descriptors", since.descriptors, self.descriptors),
            ("threads", since.threads, self.threads),
            ("children", since.children, self.children),
            ("instances", since.instances, self.instances),
            (
                "networks and volumes",
                since.networks_and_volumes,
                self.networks_and_volumes,
            ),
            ("files", since.files, self.files),
        ];
        let grown = counts.into_iter().filter(|(_, before, now)| now > before);
        let mut grown: Vec<String> = grown
            .map(|(what, before, now)| format!("{before} {what} became {now}"))
            .collect();
        if self.memory_bytes > since.memory_bytes + GROWTH_MAX {
            grown.push(format!("{} bytes became {}", since.memory_bytes, self.memory_bytes));
        }
        grown
    }
}

/// What a server takes that has one waiting and nothing to do.
async fn at_rest(environment: &TestEnvironment, engine: TestEngine, session: &Session) -> Taken {
    let begun = Instant::now();
    let mut last = taken(environment, engine, session).await;
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = taken(environment, engine, session).await;
        if now.instances == 1 && now.descriptors == last.descriptors && now.threads == last.threads {
            return now;
        }
        assert!(begun.elapsed() < PATIENCE, "it comes to rest: {last:?}, {now:?}");
        last = now;
    }
}

#[rstest]
#[tokio::test]
async fn a_server_takes_as_much_after_many_creates_and_drops_as_before(#[values(Docker, Local)] engine: TestEngine) {
    let first = FIRST_PORT + PORTS_EACH * (2 + u16::from(engine == Local));
    let ports = first..=first + PORTS_EACH - 1;
    let environment = environment(engine, &ports);
    let cycles = soak::size(40, 1000);
    let mut session = Session::initialized(&environment, &["--log-level", "warn"]).await;
    let (mut before, mut made) = (None, BTreeSet::new());
    for cycle in 0..cycles {
        // What it needs to get going.
        if cycle == cycles / 4 {
            before = Some(at_rest(&environment, engine, &session).await);
        }
        let created = session.succeed("create_postgres_instance", json!({})).await;
        let mine = Mine::marked(&created, format!("cycle {cycle}")).await;
        made.insert(mine.id.parse().expect("an id"));
        if engine == Docker {
            let container = created["container_id"].as_str().expect("text");
            let volumes = docker(&["inspect", "--format", "{{range .Mounts}}{{.Name}}{{end}}", container]).await;
            assert_eq!(volumes, "", "it has no volume that could stay");
        }
        session
            .succeed("drop_postgres_instance", json!({ "id": created["id"] }))
            .await;
    }
    let before = before.expect("it was looked");
    let begun = Instant::now();
    let after = loop {
        let now = taken(&environment, engine, &session).await;
        let grown = now.grown(&before);
        if grown.is_empty() {
            break now;
        }
        assert!(begun.elapsed() < PATIENCE, "{grown:#?}");
        tokio::time::sleep(PAUSE).await;
    };
    let remains = session.end().await;
    assert!(remains.status.success(), "{remains:?}");
    let left = left(&environment, engine, &made, ports).await;
    eprintln!("{cycles} cycles; before: {before:?}; after: {after:?}; left: {left:?}");
    assert!(left.is_empty(), "{left:#?}");
}
