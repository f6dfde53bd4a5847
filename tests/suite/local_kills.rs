//! The program killed at random moments while it creates local instances: the next command finds and removes whatever
//! nobody was told of.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dev_postgres_mcp::instance::InstanceId;
use dev_postgres_mcp_tests::kills::{Killable, told_by_command_line, told_by_server};
use dev_postgres_mcp_tests::local_engine::{LocalGround, control_groups};
use dev_postgres_mcp_tests::processes;
use dev_postgres_mcp_tests::seeded;
use rand::RngExt;
use rand::rngs::StdRng;

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
    fn add(&mut self, ground: &LocalGround, creates: usize, told: BTreeSet<InstanceId>) {
        self.begun += creates;
        self.told.extend(told);
        self.seen.extend(folders(ground));
    }
}

/// Runs the next command and looks at what is there; then drops what was told of, and looks again.
fn check(ground: &LocalGround, kills: &Kills) {
    let Kills { begun, told, seen } = kills;
    let at_work = seen.difference(told).count();
    eprintln!(
        "{begun} creates: {} were told of, {at_work} were killed at work",
        told.len()
    );
    assert!(!told.is_empty() && at_work > 0, "some of either");

    let listed = ground.environment().json(&["postgres", "list"]);
    let listed: BTreeSet<InstanceId> = listed["instances"]
        .as_array()
        .expect("instances")
        .iter()
        .map(|instance| instance["id"].as_str().expect("an id").parse().expect("an id"))
        .collect();
    assert_eq!(folders(ground), listed);
    let untold: Vec<_> = listed.difference(told).collect();
    assert!(untold.is_empty(), "nobody was told of {untold:?}");
    let stray = |left: &BTreeSet<InstanceId>| {
        let mut processes = processes::remaining(&ground.state_dir());
        processes.retain(|process| {
            let mut said = process.command_line.join(" ");
            said.extend(
                process
                    .working_directory
                    .iter()
                    .map(|place| place.display().to_string()),
            );
            !left.iter().any(|id| said.contains(&id.to_string()))
        });
        processes
    };
    assert!(stray(&listed).is_empty(), "{:?}", stray(&listed));
    let gone: BTreeSet<InstanceId> = seen.difference(&listed).copied().collect();
    let groups = control_groups(&gone);
    assert!(groups.is_empty(), "{groups:?}");
    assert_eq!(ground.unfinished_templates(), Vec::<String>::new());

    let ids: Vec<String> = listed.iter().map(ToString::to_string).collect();
    if !ids.is_empty() {
        let mut arguments = vec!["postgres", "drop"];
        arguments.extend(ids.iter().map(String::as_str));
        ground.environment().json(&arguments);
    }
    let left = ground.everything_left(&seen.union(told).copied().collect());
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_server_killed_at_random_moments_in_a_hundred_creates_leaves_nothing_that_it_did_not_tell_of() {
    const CREATES: usize = 100;
    let ground = LocalGround::new();
    let environment = ground
        .environment()
        .with("DEV_POSTGRES_MCP_LOG_LEVEL", "error")
        // What was told of would go with the server otherwise.
        .with("DEV_POSTGRES_MCP_INSTANCE_ON_EXIT", "keep");
    let mut rng = seeded::rng();
    let mut kills = Kills::default();
    // The first ones are at initdb's work, which takes longer than they live.
    for _ in 0..3 {
        let patience = Duration::from_millis(rng.random_range(50..900));
        let told = told_by_server(&Killable::serve_and_create(&environment, 3).kill_after(patience));
        kills.add(&ground, 3, told);
    }
    let (first, _) = Killable::serve_and_create(&environment, 1).finish(1);
    kills.add(&ground, 0, told_by_server(&first));
    let (unharmed, usual_time) = Killable::serve_and_create(&environment, 4).finish(4);
    kills.add(&ground, 0, told_by_server(&unharmed));
    assert!(kills.told.len() >= 5, "whoever isn't killed tells of what it creates");
    while kills.begun < CREATES {
        let creates = rng.random_range(1..=4).min(CREATES - kills.begun);
        let patience = kill_at_some_moment(&mut rng, usual_time);
        let told = told_by_server(&Killable::serve_and_create(&environment, creates).kill_after(patience));
        kills.add(&ground, creates, told);
    }
    check(&ground, &kills);
}

#[test]
fn a_command_killed_at_random_moments_in_thirty_creates_leaves_nothing_that_it_did_not_tell_of() {
    const CREATES: usize = 30;
    let ground = LocalGround::new();
    let environment = ground
        .environment()
        .with("DEV_POSTGRES_MCP_LOG_LEVEL", "error")
        // What was told of would go with the server otherwise.
        .with("DEV_POSTGRES_MCP_INSTANCE_ON_EXIT", "keep");
    let mut rng = seeded::rng();
    let mut kills = Kills::default();
    kills.add(&ground, 0, told_by_command_line(&Killable::create(&environment).rest()));
    let start = Instant::now();
    let unharmed = at_once(3, |_| told_by_command_line(&Killable::create(&environment).rest()));
    let usual_time = start.elapsed();
    kills.add(&ground, 0, unharmed);
    assert_eq!(kills.told.len(), 4, "whoever isn't killed tells of what it creates");
    while kills.begun < CREATES {
        let patiences: Vec<Duration> = (0..3).map(|_| kill_at_some_moment(&mut rng, usual_time)).collect();
        let told = at_once(3, |index| {
            told_by_command_line(&Killable::create(&environment).kill_after(patiences[index]))
        });
        kills.add(&ground, 3, told);
    }
    check(&ground, &kills);
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
