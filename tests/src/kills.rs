//! The program killed in the middle of its work, and what it had told of by then.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use dev_postgres_mcp::instance::InstanceId;
use serde_json::{Value, json};

use crate::binary::TestEnvironment;

/// How long a program may take to pass a point on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// The points that a program has passed, as `TRACE_FAILPOINTS` has had it write them down.
#[must_use]
pub fn passed(trace: &Path) -> Vec<String> {
    let text = fs::read_to_string(trace).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until a program has passed a point, or has ended.
///
/// # Panics
/// If it does neither.
pub fn until_passed(trace: &Path, point: &str, process: &mut Killable) {
    let begun = Instant::now();
    while !process.has_ended() && !passed(trace).iter().any(|passed| passed == point) {
        assert!(begun.elapsed() < PATIENCE, "{point} is passed");
        std::thread::sleep(Duration::from_millis(10));
    }
    // It is noted a little before it has an effect.
    std::thread::sleep(Duration::from_millis(100));
}

/// A server that nobody kills, with an instance and one that waits.
#[derive(Debug)]
pub struct Living {
    server: Killable,
    id: String,
}

impl Living {
    /// Starts it, in an environment with a pool of one.
    ///
    /// # Panics
    /// If it doesn't come to that.
    #[must_use]
    pub fn start(environment: &TestEnvironment) -> Self {
        let trace = environment.home().join("living");
        let mut server = Killable::serve(&environment.clone().with("TRACE_FAILPOINTS", &trace));
        until_passed(&trace, "after setting up a server ahead", &mut server);
        server.call("create_postgres_instance", &json!({}));
        let answer = server.hear();
        let id = told_by_server(&answer).into_iter().next().expect("an instance");
        until_passed(&trace, "after setting up a server ahead#1", &mut server);
        Self {
            server,
            id: id.to_string(),
        }
    }

    /// Ends it, once its instance has been seen to be well.
    ///
    /// # Panics
    /// If that isn't well, or the server doesn't end well.
    pub fn end(mut self) {
        self.server.call("health_check_postgres", &json!({ "id": self.id }));
        let health = self.server.hear();
        assert!(health.contains("\"healthy\""), "{health}");
        assert!(self.server.end().0.success());
    }
}

/// What the program is at when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Compiling its components.
    Load,
    /// `postgres warm`.
    Warm,
    /// `postgres create`.
    Create,
    /// `postgres extend`.
    Extend,
    /// `postgres drop`.
    Drop,
    /// Removing what is over, as any command does.
    Sweep,
    /// `postgres prune`.
    Prune,
    /// A server with a pool, a create and a drop.
    Serve,
}

impl Work {
    /// Does the work until it is done, or the process dies of it. Whether it does, and the instances that were told of; for all
    /// but a create and a server, that of this `id`.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn run(self, environment: &TestEnvironment, id: &str, trace: &Path) -> (bool, BTreeSet<InstanceId>) {
        let start = |arguments: &[&str]| Killable::start(environment.command([&["-o", "json"], arguments].concat()));
        let mut process = match self {
            Self::Warm => start(&["postgres", "warm"]),
            Self::Create => start(&["postgres", "create"]),
            Self::Extend => start(&["postgres", "extend", id, "--ttl", "1h"]),
            Self::Drop => start(&["postgres", "drop", id]),
            Self::Load | Self::Sweep => start(&["postgres", "list"]),
            Self::Prune => start(&["postgres", "prune"]),
            Self::Serve => {
                let mut server = Killable::serve(&environment.clone().with("DEV_POSTGRES_MCP_POOL_SIZE", "1"));
                until_passed(trace, "after setting up a server ahead", &mut server);
                server.call("create_postgres_instance", &json!({ "ttl_seconds": 3600 }));
                let answer = server.hear();
                if let Some(id) = told_by_server(&answer).first() {
                    server.call("drop_postgres_instance", &json!({ "id": id.to_string() }));
                    server.hear();
                }
                let is_killed = was_killed(server.end().0);
                return (is_killed, told_by_server(&answer));
            }
        };
        let (status, output) = process.end();
        let is_killed = was_killed(status);
        assert!(is_killed || status.success(), "{self:?}: {status}");
        match self {
            Self::Create => (is_killed, told_by_command_line(&output)),
            _ => (is_killed, id.parse().into_iter().collect()),
        }
    }

    /// Kills at each point that the work passes, at the steps' middles and repetitions only if it is to be `every_point`.
    /// `attempt` does the work once in the environment that it is given, killed at the point if there is one, and looks at what
    /// is left; whether it was killed.
    ///
    /// # Panics
    /// If it isn't killed where it should be.
    pub fn kill_at_each_point(
        self,
        environment: &TestEnvironment,
        every_point: bool,
        died_at: &mut BTreeSet<String>,
        mut attempt: impl FnMut(&TestEnvironment, &Path, Option<&str>) -> bool,
    ) {
        let trace = environment.home().join(format!("trace-{self:?}"));
        let environment = environment.clone().with("TRACE_FAILPOINTS", &trace);
        let mut attempt = |kill_at: Option<&str>| {
            let _ = fs::remove_file(&trace);
            match kill_at {
                Some(point) => attempt(&environment.clone().with("KILL_AT_FAILPOINT", point), &trace, kill_at),
                None => attempt(&environment, &trace, None),
            }
        };
        assert!(!attempt(None), "nobody kills it");
        let mut points = passed(&trace);
        points.dedup();
        assert!(!points.is_empty(), "{self:?} passes points");
        // What is repeated or in the middle of a step is for those who have the time, as is what every work begins with.
        let is_in_ci = |point: &String| {
            let is_first_here = self == Self::Create || !point.contains("owner");
            is_first_here && !point.contains('#') && !point.starts_with("amid ")
        };
        points.retain(|point| every_point || is_in_ci(point));
        for point in points {
            eprintln!("{self:?}: {point}");
            if attempt(Some(&point)) {
                died_at.insert(format!("{self:?} {point}"));
            } else {
                // How often a step is repeated depends on what else is going on.
                assert!(!is_in_ci(&point), "{self:?} was not killed {point}");
            }
        }
    }
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}

/// That each of these steps was died at.
///
/// # Panics
/// If one was not.
pub fn assert_died_at(steps: &[&str], died_at: &BTreeSet<String>) {
    eprintln!("killed at {} points: {died_at:#?}", died_at.len());
    for step in steps {
        let of_step = died_at.iter().filter(|point| point.ends_with(step)).count();
        assert!(of_step > 0, "{step} is passed nowhere any more");
    }
}

/// The ids in what a program has written to its output, as far as it was read: a line that has no end tells nobody
/// anything.
fn ids_told<'a>(documents: impl Iterator<Item = &'a str>, id: impl Fn(&Value) -> Option<&str>) -> BTreeSet<InstanceId> {
    documents
        .filter_map(|text| serde_json::from_str::<Value>(text).ok())
        .filter_map(|document| id(&document)?.parse().ok())
        .collect()
}

/// The instances in what a server has answered.
#[must_use]
pub fn told_by_server(output: &str) -> BTreeSet<InstanceId> {
    let whole_lines = output.rsplit_once('\n').map_or("", |(lines, _)| lines).lines();
    ids_told(whole_lines, |answer| {
        answer["result"]["structuredContent"]["id"].as_str()
    })
}

/// The instance in what `postgres create` has written.
#[must_use]
pub fn told_by_command_line(output: &str) -> BTreeSet<InstanceId> {
    ids_told(std::iter::once(output), |created| created["id"].as_str())
}

/// A program whose output is read to its end, by whatever end it comes to.
#[derive(Debug)]
pub struct Killable {
    process: Child,
    output: BufReader<ChildStdout>,
    calls: usize,
}

impl Killable {
    /// Starts it.
    ///
    /// # Panics
    /// If it doesn't start.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the program starts");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        Self {
            process,
            output,
            calls: 0,
        }
    }

    /// `postgres create`.
    #[must_use]
    pub fn create(environment: &TestEnvironment) -> Self {
        Self::start(environment.command(["-o", "json", "postgres", "create"]))
    }

    /// A server that has been greeted.
    ///
    /// # Panics
    /// If it doesn't answer.
    #[must_use]
    pub fn serve(environment: &TestEnvironment) -> Self {
        let mut serve = Self::start(environment.command(["mcp", "serve"]));
        serve.say(&[json!({
            "jsonrpc": "2.0", "id": "initialize", "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": { "name": "about to be killed", "version": "1" },
            },
        })]);
        serve.hear();
        serve.say(&[json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })]);
        serve
    }

    /// A server that is creating so many instances.
    #[must_use]
    pub fn serve_and_create(environment: &TestEnvironment, creates: usize) -> Self {
        let mut serve = Self::serve(environment);
        for _ in 0..creates {
            serve.call("create_postgres_instance", &json!({}));
        }
        serve
    }

    /// Calls a tool, and waits for nothing. One that has been killed hears nothing.
    pub fn call(&mut self, tool: &str, arguments: &Value) {
        self.calls += 1;
        self.say(&[json!({
            "jsonrpc": "2.0", "id": self.calls, "method": "tools/call",
            "params": { "name": tool, "arguments": arguments },
        })]);
    }

    fn say(&mut self, messages: &[Value]) {
        let input = self.process.stdin.as_mut().expect("piped");
        for message in messages {
            // It may have been killed.
            let _ = writeln!(input, "{message}");
        }
    }

    /// The next line; empty once it has ended.
    ///
    /// # Panics
    /// If its output can't be read.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("its output can be read");
        line
    }

    /// Whether it has come to its end.
    ///
    /// # Panics
    /// If that can't be told.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("it can be looked at").is_some()
    }

    /// Lets a server answer so many calls, and end in peace. Returns how long the answers took, too.
    #[must_use]
    pub fn finish(mut self, calls: usize) -> (String, Duration) {
        let begun = Instant::now();
        let mut answers = String::new();
        for _ in 0..calls {
            answers.push_str(&self.hear());
        }
        let usual_time = begun.elapsed();
        (answers + &self.rest(), usual_time)
    }

    /// Kills it after a while; returns the rest of what it had written.
    ///
    /// # Panics
    /// If it can't be killed.
    #[must_use]
    pub fn kill_after(mut self, patience: Duration) -> String {
        std::thread::sleep(patience);
        self.process.kill().expect("it can be killed");
        self.rest()
    }

    /// Closes its input and waits for its end; the rest of what it had written.
    #[must_use]
    pub fn rest(&mut self) -> String {
        self.end().1
    }

    /// As [`Killable::rest`], with how it ended.
    ///
    /// # Panics
    /// If its output can't be read.
    pub fn end(&mut self) -> (ExitStatus, String) {
        self.process.stdin.take();
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest).expect("its output can be read");
        let status = self.process.wait().expect("it ends");
        (status, String::from_utf8_lossy(&rest).into_owned())
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
