//! The program killed on the local engine, at every labelled failpoint and at random moments: the next command finds and
//! removes whatever nobody was told of, and nothing of a living server is touched.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use dev_postgres_mcp::instance::InstanceId;
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::kills::{
    Killable, Living, Work, assert_died_at, told_by_command_line, told_by_server, until_passed,
};
use dev_postgres_mcp_tests::local_engine::{LocalGround, control_groups};
use dev_postgres_mcp_tests::processes;
use dev_postgres_mcp_tests::seeded;
use dev_postgres_mcp_tests::soak;
use rand::RngExt;
use rand::rngs::StdRng;

/// How long what a killed process has started, an `rm` that goes on without it, may take to end.
const LATE: Duration = Duration::from_secs(5);

/// The steps that leave something outside of the process. Control groups aren't among them: not every machine has them.
const STEPS: [&str; 27] = [
    "assigning a server",
    "copying a template",
    "discarding a template",
    "disowning the instance",
    "emptying the instance's folder",
    "finishing a template",
    "initialising a template",
    "keeping a template",
    "keeping the instance",
    "limiting the server",
    "locking a template",
    "locking the instance's folder",
    "locking this owner's file",
    "making a template's folder",
    "making the instance's folder",
    "making the owners' folder",
    "making the state directory",
    "naming the owners' folder",
    "releasing the server's memory",
    "removing a template",
    "removing the instance's folder",
    "removing the instance's limits",
    "setting up a server ahead",
    "setting up the instance",
    "starting the server",
    "stopping the server",
    "writing down the instance",
];

fn kill_at_some_moment(rng: &mut StdRng, usual_time: Duration) -> Duration {
    usual_time.mul_f64(rng.random_range(0.0..1.0))
}

fn folders(ground: &LocalGround) -> BTreeSet<InstanceId> {
    let names = ground.names_in("instances");
    names.iter().map(|name| name.parse().expect("an id")).collect()
}

/// What some creates came to until they were killed.
#[derive(Default)]
struct Kills {
    begun: usize,
    told: BTreeSet<InstanceId>,
    /// Those of which there was anything when their program had just been killed.
    seen: BTreeSet<InstanceId>,
}

impl Kills {
    fn add(&mut self, home: &Home, creates: usize, told: BTreeSet<InstanceId>) {
        self.begun += creates;
        self.told.extend(told);
        self.seen.extend(folders(&home.local));
    }

    /// As [`Home::check`]. How many were told of, and how many were killed at work.
    fn check(self, home: &Home, spared: &BTreeSet<String>) -> [usize; 2] {
        let Self { begun, told, mut seen } = self;
        home.check(&format!("{begun} creates"), &told, spared);
        // Of the living alone there are folders now.
        let theirs = folders(&home.local);
        seen.retain(|id| !theirs.contains(id));
        let groups = control_groups(&seen);
        assert!(groups.is_empty(), "{groups:?}");
        let at_work = seen.difference(&told).count();
        eprintln!(
            "{begun} creates: {} were told of, {at_work} were killed at work",
            told.len()
        );
        [told.len(), at_work]
    }
}

#[test]
fn servers_killed_at_random_moments_leave_nothing_that_they_did_not_tell_of_and_touch_nothing_of_a_living_one() {
    /// After how many creates it is looked: what was told of runs until then.
    const BATCH: usize = 100;
    let creates = soak::size(100, 300);
    let home = Home::new();
    let environment = home
        .with_pool()
        // What was told of would go with the server otherwise.
        .with("DEV_POSTGRES_MCP_INSTANCE_ON_EXIT", "keep");
    let mut rng = seeded::rng();
    let (mut kills, mut sum) = (Kills::default(), [0, 0]);
    // The first ones are at initdb's work, which takes longer than they live.
    for _ in 0..3 {
        let patience = Duration::from_millis(rng.random_range(50..900));
        let told = told_by_server(&Killable::serve_and_create(&environment, 3).kill_after(patience));
        kills.add(&home, 3, told);
    }
    std::mem::take(&mut kills).check(&home, &BTreeSet::new());
    let living = Living::start(&home.with_pool());
    let spared = belongings(&home);
    let (unharmed, usual_time) = Killable::serve_and_create(&environment, 4).finish(4);
    kills.add(&home, 0, told_by_server(&unharmed));
    assert_eq!(kills.told.len(), 4, "whoever isn't killed tells of what it creates");
    for _ in 0..creates / BATCH {
        while kills.begun < BATCH {
            let creates = rng.random_range(1..=4).min(BATCH - kills.begun);
            let patience = kill_at_some_moment(&mut rng, usual_time);
            let told = told_by_server(&Killable::serve_and_create(&environment, creates).kill_after(patience));
            kills.add(&home, creates, told);
        }
        let checked = std::mem::take(&mut kills).check(&home, &spared);
        sum = [sum[0] + checked[0], sum[1] + checked[1]];
    }
    assert!(sum.iter().all(|&count| count > 0), "some of either: {sum:?}");
    end(living, &home);
}

#[test]
fn commands_killed_at_random_moments_leave_nothing_that_they_did_not_tell_of_and_touch_nothing_of_a_living_server() {
    /// After how many creates it is looked: what was told of runs until then.
    const BATCH: usize = 30;
    let creates = soak::size(30, 300);
    let home = Home::new();
    let living = Living::start(&home.with_pool());
    let spared = belongings(&home);
    let environment = &home.environment;
    let mut rng = seeded::rng();
    let (mut kills, mut sum) = (Kills::default(), [0, 0]);
    let start = Instant::now();
    let unharmed = at_once(3, |_| told_by_command_line(&Killable::create(environment).rest()));
    let usual_time = start.elapsed();
    kills.add(&home, 0, unharmed);
    assert_eq!(kills.told.len(), 3, "whoever isn't killed tells of what it creates");
    for _ in 0..creates / BATCH {
        while kills.begun < BATCH {
            let patiences: Vec<Duration> = (0..3).map(|_| kill_at_some_moment(&mut rng, usual_time)).collect();
            let told = at_once(3, |index| {
                told_by_command_line(&Killable::create(environment).kill_after(patiences[index]))
            });
            kills.add(&home, 3, told);
        }
        let checked = std::mem::take(&mut kills).check(&home, &spared);
        sum = [sum[0] + checked[0], sum[1] + checked[1]];
    }
    assert!(sum.iter().all(|&count| count > 0), "some of either: {sum:?}");
    end(living, &home);
}

/// Runs some of the same at once.
fn at_once(count: usize, work: impl Fn(usize) -> BTreeSet<InstanceId> + Sync) -> BTreeSet<InstanceId> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|index| scope.spawn(move || work(index))).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect()
    })
}

/// A home that nobody else has, and a way to tell all that is left in it and of it. Ports aren't looked at: only processes
/// hold them.
struct Home {
    local: LocalGround,
    environment: TestEnvironment,
}

impl Home {
    fn new() -> Self {
        let local = LocalGround::new();
        let environment = local.environment().with("DEV_POSTGRES_MCP_LOG_LEVEL", "error");
        let home = Self { local, environment };
        // Compiles the policy: what that writes is no engine's.
        home.environment.json(&["postgres", "list"]);
        home
    }

    /// With servers that are started ahead.
    fn with_pool(&self) -> TestEnvironment {
        self.environment.clone().with("DEV_POSTGRES_MCP_POOL_SIZE", "1")
    }

    fn create(&self) -> String {
        let created = self.environment.json(&["postgres", "create"]);
        created["id"].as_str().expect("an id").to_owned()
    }

    /// All that there is but whole templates, of these instances and of those that have a folder.
    fn everything(&self, seen: &BTreeSet<InstanceId>) -> BTreeSet<String> {
        let state = self.local.state_dir();
        let with_folder = folders(&self.local);
        let mut everything: BTreeSet<String> = with_folder.iter().map(|id| format!("instance {id}: folder")).collect();
        for group in control_groups(&with_folder.union(seen).copied().collect()) {
            let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let id = name.trim_start_matches("dev-postgres-mcp-");
            everything.insert(format!("instance {id}: control group {}", group.display()));
        }
        for process in processes::of(&state) {
            let mut said = process.command_line.join(" ");
            if let Some(place) = &process.working_directory {
                said = format!("{said} in {}", place.display());
            }
            // What a server's children say changes: that there are any has to do.
            let id = said
                .split_once("/instances/")
                .and_then(|(_, rest)| rest.split(['/', ' ']).next()?.parse::<InstanceId>().ok());
            everything.insert(match id {
                Some(id) => format!("instance {id}: process"),
                None => format!("process {said}"),
            });
        }
        let templates = self.local.names_in("templates").into_iter();
        let unfinished = templates.filter(|name| {
            let is_whole = state.join("templates").join(name).join("template.json").exists();
            let ends_in = |end: &str| Path::new(name).extension().is_some_and(|extension| extension == end);
            // Locks stay: others may be waiting for them.
            !ends_in("lock") && (!is_whole || ends_in("new"))
        });
        everything.extend(unfinished.map(|name| format!("template {name}")));
        let owners = self.local.names_in("owners").into_iter();
        everything.extend(
            owners
                .filter(|name| !name.starts_with("scope"))
                .map(|name| format!("owner {name}")),
        );
        everything.extend(self.files());
        everything
    }

    /// What processes were writing, instances' folders aside: those go as a whole.
    fn files(&self) -> BTreeSet<String> {
        let instances = self.local.state_dir().join("instances");
        let mut files = BTreeSet::new();
        let mut folders = vec![self.local.home().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if path != instances {
                        folders.push(path);
                    }
                } else if entry.file_name().to_string_lossy().contains("new-") {
                    files.insert(format!("file {}", path.display()));
                }
            }
        }
        files
    }

    /// All that is there beyond the instances that were told of and what is `spared`, once what is about to go has gone.
    fn left(
        &self,
        seen: &BTreeSet<InstanceId>,
        told: &BTreeSet<InstanceId>,
        spared: &BTreeSet<String>,
    ) -> BTreeSet<String> {
        let of_told: Vec<String> = told.iter().map(|id| format!("instance {id}: ")).collect();
        let begun = Instant::now();
        loop {
            let mut left = self.everything(seen);
            left.retain(|item| !spared.contains(item) && !of_told.iter().any(|start| item.starts_with(start)));
            if left.is_empty() || begun.elapsed() > LATE {
                return left;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs the next command after a kill and looks at what is there; then drops what had been told of, and looks again.
    fn check(&self, what: &str, told: &BTreeSet<InstanceId>, spared: &BTreeSet<String>) {
        let seen: BTreeSet<InstanceId> = folders(&self.local).union(told).copied().collect();
        self.environment.json(&["postgres", "list"]);
        let left = self.left(&seen, told, spared);
        assert!(left.is_empty(), "{what}: nobody was told of {left:#?}");
        let there = told.iter().filter(|id| self.local.folder(**id).exists());
        let there: Vec<String> = there.map(ToString::to_string).collect();
        if !there.is_empty() {
            let ids = there.iter().map(String::as_str);
            let arguments: Vec<&str> = ["postgres", "drop"].into_iter().chain(ids).collect();
            self.environment.json(&arguments);
        }
        let left = self.left(&seen, &BTreeSet::new(), spared);
        assert!(left.is_empty(), "{what}: left after a drop: {left:#?}");
        let everything = self.everything(&seen);
        let missing: BTreeSet<&String> = spared.difference(&everything).collect();
        assert!(missing.is_empty(), "{what}: of the living, gone: {missing:#?}");
    }
}

/// All that a living server has.
fn belongings(home: &Home) -> BTreeSet<String> {
    let belongings = home.everything(&BTreeSet::new());
    let count = |what: &str| belongings.iter().filter(|item| item.ends_with(what)).count();
    assert_eq!([count(": folder"), count(": process")], [2, 2], "{belongings:#?}");
    belongings
}

fn end(living: Living, home: &Home) {
    let seen = folders(&home.local);
    living.end();
    let left = home.left(&seen, &BTreeSet::new(), &BTreeSet::new());
    assert!(left.is_empty(), "{left:#?}");
}

/// Does what has to be there before; the instance that a work is about, if somebody is to have it afterwards.
fn prepare(work: Work, home: &Home) -> String {
    let state = home.local.state_dir();
    match work {
        // For the steps that make it. There are no instances.
        Work::Warm => drop(fs::remove_dir_all(&state)),
        Work::Create => {
            home.environment.json(&["postgres", "warm"]);
            let _ = fs::remove_dir_all(state.join("owners"));
        }
        Work::Extend | Work::Drop => return home.create(),
        Work::Sweep => {
            let trace = home.local.home().join("swept");
            let _ = fs::remove_file(&trace);
            let environment = home.environment.clone().with("TRACE_FAILPOINTS", &trace);
            let mut killed = Killable::serve_and_create(&environment, 1);
            let answer = killed.hear();
            until_passed(&trace, "after keeping the instance", &mut killed);
            let _ = killed.kill_after(Duration::ZERO);
            assert_eq!(told_by_server(&answer), folders(&home.local), "one instance: {answer}");
        }
        Work::Prune => {
            home.environment.json(&["postgres", "warm"]);
            for name in home.local.names_in("templates") {
                let description = state.join("templates").join(name).join("template.json");
                if description.exists() {
                    let file = File::options()
                        .write(true)
                        .open(description)
                        .expect("it can be written to");
                    file.set_modified(SystemTime::UNIX_EPOCH)
                        .expect("it is old from now on");
                }
            }
        }
        Work::Load | Work::Serve => {}
    }
    String::new()
}

fn kill_at_each_point(
    home: &Home,
    work: Work,
    every_point: bool,
    spared: &BTreeSet<String>,
    died_at: &mut BTreeSet<String>,
) {
    work.kill_at_each_point(
        &home.environment,
        every_point,
        died_at,
        |environment, trace, kill_at| {
            let id = prepare(work, home);
            let (is_killed, told) = work.run(environment, &id, trace);
            home.check(&format!("{work:?} {kill_at:?}"), &told, spared);
            is_killed
        },
    );
}

#[test]
fn killed_at_every_failpoint_it_leaves_nothing_that_nobody_was_told_of() {
    let every_point = soak::size(false, true);
    let home = Home::new();
    let mut died_at = BTreeSet::new();
    let nobody = BTreeSet::new();
    for work in [
        Work::Warm,
        Work::Create,
        Work::Extend,
        Work::Drop,
        Work::Sweep,
        Work::Prune,
    ] {
        kill_at_each_point(&home, work, every_point, &nobody, &mut died_at);
    }
    let living = Living::start(&home.with_pool());
    kill_at_each_point(&home, Work::Serve, every_point, &belongings(&home), &mut died_at);
    end(living, &home);
    assert_died_at(&STEPS, &died_at);
}
