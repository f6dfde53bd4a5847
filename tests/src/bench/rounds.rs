//! The measuring itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::docker_run::{self, Start};
use super::local_run::LocalRun;
use super::ours::{Ours, environment, milliseconds};
use super::plan::Plan;
use super::results::Results;
use super::testcontainers::Testcontainers;
use super::{Case, machine, query, sandbox, waterfall};
use crate::binary::TestEngine;
use crate::docker_cli::try_docker;
use crate::local;
use crate::session::Session;

/// The pause after each run: what Docker still does in the background is not the next one's.
const PAUSE: Duration = Duration::from_millis(150);
/// Creates and drops until a process's memory is what it stays.
const CHURN_FIRST: u16 = 3;

/// What is measured in rounds.
const CREATES: [Case; 9] = [
    Case::DockerRun,
    Case::DockerRunData,
    Case::Entrypoint,
    Case::Testcontainers,
    Case::DockerCold,
    Case::DockerWarm,
    Case::LocalRun,
    Case::LocalCold,
    Case::LocalWarm,
];

/// The cases that there are without Docker.
const WITHOUT_DOCKER: [Case; 8] = [
    Case::LocalRun,
    Case::LocalCold,
    Case::LocalWarm,
    Case::LocalFirst,
    Case::Startup,
    Case::Sandbox,
    Case::Memory,
    Case::Waterfall,
];

/// Measures all that the plan has and this machine can.
pub(super) async fn measure(plan: &mut Plan) -> Result<Results, String> {
    said(&format!("process {}", std::process::id()));
    let docker = try_docker(&["version"]).await;
    if let Err(error) = &docker {
        let others = |case: &Case| !WITHOUT_DOCKER.contains(case);
        let gone: Vec<Case> = plan.cases.iter().copied().filter(others).collect();
        plan.drop_cases(&gone, &format!("going on without Docker: {error}"));
    }
    let engines = Engines {
        docker: docker.is_ok(),
        local: !local::bin_dirs().is_empty(),
    };
    if !engines.local {
        let gone = [Case::LocalRun, Case::LocalCold, Case::LocalWarm, Case::LocalFirst];
        plan.drop_cases(&gone, "going on without the local engine: no PostgreSQL is set up");
    }
    let mut results = Results::new(plan);
    results.about = machine::about(plan, engines.docker).await;
    if plan.has(Case::DockerRunData) {
        docker_run::make_data_image().await;
    }
    creates(plan, &mut results).await;
    firsts(plan, &mut results).await;
    if plan.has(Case::Concurrency) {
        bursts(plan, engines, &mut results).await;
    }
    if plan.has(Case::List) {
        lists(plan, &mut results).await;
    }
    if plan.has(Case::Startup) {
        starts(plan, engines, &mut results).await;
    }
    if plan.has(Case::Memory) {
        memory(plan, engines, &mut results).await;
    }
    if plan.has(Case::Waterfall) {
        waterfalls(engines, &mut results).await;
    }
    if plan.has(Case::Sandbox) {
        said("sandbox: building and running it");
        for (name, sample) in sandbox::measure().await? {
            results.record(name, sample);
        }
    }
    results.about.push(("Load at the end".into(), machine::load()));
    Ok(results)
}

/// What this machine runs servers with.
#[derive(Debug, Clone, Copy)]
struct Engines {
    docker: bool,
    local: bool,
}

impl Engines {
    /// Where it doesn't matter which.
    fn any(self) -> TestEngine {
        if self.docker {
            TestEngine::Docker
        } else {
            TestEngine::Local
        }
    }
}

fn said(what: &str) {
    eprintln!("bench: {what}");
}

/// All that the rounds need, made before the first.
#[derive(Default)]
struct Stage {
    ours: BTreeMap<Case, Ours>,
    testcontainers: Option<Testcontainers>,
    local_run: Option<LocalRun>,
}

/// A name of the results, and milliseconds.
type Sample = (&'static str, f64);

impl Stage {
    async fn run(&mut self, case: Case) -> Vec<Sample> {
        let samples = match case {
            Case::DockerRun => self::docker(Start::Idle, "docker-run").await,
            Case::DockerRunData => self::docker(Start::Data, "docker-run-data").await,
            Case::Entrypoint => self::docker(Start::Entrypoint, "entrypoint").await,
            Case::Testcontainers => {
                let testcontainers = self.testcontainers.as_mut().expect("it is set up");
                vec![("testcontainers", testcontainers.run().await)]
            }
            Case::LocalRun => {
                let local_run = self.local_run.as_ref().expect("it was prepared");
                vec![("local-run", local_run.run().await)]
            }
            case => {
                let ours = self.ours.get_mut(&case).expect("it was started");
                let (created, took) = ours.create().await;
                let dropped = ours.drop(&created).await;
                ours.settled().await;
                match case {
                    Case::DockerWarm => vec![("docker-warm", took)],
                    Case::LocalWarm => vec![("local-warm", took)],
                    Case::LocalCold => vec![("local-cold", took), ("local-drop", dropped)],
                    _ => vec![("docker-cold", took), ("docker-drop", dropped)],
                }
            }
        };
        sleep(PAUSE).await;
        samples
    }
}

async fn docker(start: Start, name: &'static str) -> Vec<Sample> {
    let port = docker_run::free_ports(1)[0];
    let begun = Instant::now();
    let container = match start {
        Start::Idle => docker_run::run(start, port).await,
        Start::Data | Start::Entrypoint => docker_run::run_until_answer(start, port).await,
    };
    let mut samples = vec![(name, milliseconds(begun))];
    if matches!(start, Start::Data) {
        let begun = Instant::now();
        query::once(&container.dsn).await.expect("it answers");
        samples.push(("query", milliseconds(begun)));
    }
    let begun = Instant::now();
    docker_run::remove(&container.name).await;
    if matches!(start, Start::Data) {
        samples.push(("docker-rm", milliseconds(begun)));
    }
    samples
}

/// Each once in a round, in an order that is another in each round.
async fn creates(plan: &mut Plan, results: &mut Results) {
    let mut stage = Stage::default();
    if plan.has(Case::Testcontainers) {
        stage.testcontainers = Testcontainers::start().await;
    }
    match &stage.testcontainers {
        Some(testcontainers) => {
            let described = testcontainers.described.clone();
            results.about.push(("Testcontainers".into(), described));
        }
        None => plan.drop_cases(
            &[Case::Testcontainers],
            "going on without Testcontainers, which is not set up",
        ),
    }
    if plan.has(Case::LocalRun) {
        stage.local_run = Some(LocalRun::prepare().await);
    }
    for (case, engine, pool) in [
        (Case::DockerCold, TestEngine::Docker, false),
        (Case::DockerWarm, TestEngine::Docker, true),
        (Case::LocalCold, TestEngine::Local, false),
        (Case::LocalWarm, TestEngine::Local, true),
    ] {
        if plan.has(case) {
            let ours = Ours::start(engine, pool).await;
            ours.settled().await;
            stage.ours.insert(case, ours);
        }
    }
    let mut cases: Vec<Case> = CREATES.into_iter().filter(|case| plan.has(*case)).collect();
    for &case in &cases {
        said(&format!("once before it counts: {case:?}"));
        stage.run(case).await;
    }
    let mut order = StdRng::seed_from_u64(plan.seed);
    for round in 1..=plan.runs {
        if !cases.is_empty() {
            said(&format!("round {round} of {}", plan.runs));
        }
        cases.shuffle(&mut order);
        for &case in &cases {
            for (name, sample) in stage.run(case).await {
                results.record(name, sample);
            }
        }
    }
    // Not killed: a server that waits would be left.
    for ours in stage.ours.into_values() {
        ours.end().await;
    }
}

/// Where no template is: in Docker they are removed, the local engine gets a new home. The server is a new one, too.
async fn firsts(plan: &Plan, results: &mut Results) {
    for (case, engine, name) in [
        (Case::DockerFirst, TestEngine::Docker, "docker-first"),
        (Case::LocalFirst, TestEngine::Local, "local-first"),
    ] {
        if !plan.has(case) {
            continue;
        }
        said(&format!("{name}: {} times", plan.firsts));
        for _ in 0..plan.firsts {
            if engine == TestEngine::Docker {
                docker_run::remove_templates().await;
            }
            let mut ours = Ours::start(engine, false).await;
            let (created, took) = ours.create().await;
            results.record(name, took);
            ours.drop(&created).await;
            ours.end().await;
            sleep(PAUSE).await;
        }
    }
}

async fn bursts(plan: &Plan, engines: Engines, results: &mut Results) {
    let mut ours = Vec::new();
    for (engine, name) in [(TestEngine::Docker, "docker"), (TestEngine::Local, "local")] {
        if engine == TestEngine::Local && !engines.local {
            continue;
        }
        let mut server = Ours::start(engine, false).await;
        // Its template is there afterwards.
        server.burst(1).await;
        ours.push((name, server));
    }
    for round in 1..=plan.bursts {
        said(&format!("creates at once: round {round} of {}", plan.bursts));
        for &count in plan.burst_sizes {
            let took = docker_burst(count).await;
            results.record(&format!("docker-run-at-once-{count}"), took);
            sleep(PAUSE).await;
            for (name, server) in &mut ours {
                let took = server.burst(count).await;
                results.record(&format!("{name}-at-once-{count}"), took);
                sleep(PAUSE).await;
            }
        }
    }
}

/// `count` times `docker run` at once, until the last returns; in milliseconds.
async fn docker_burst(count: usize) -> f64 {
    let ports = docker_run::free_ports(count);
    let begun = Instant::now();
    let mut runs = JoinSet::new();
    for port in ports {
        runs.spawn(docker_run::run(Start::Idle, port));
    }
    let containers = runs.join_all().await;
    let took = milliseconds(begun);
    for container in containers {
        docker_run::remove(&container.name).await;
    }
    took
}

/// Our list and the one call to Docker that it can't do without, by turns, both on connections that are open already.
async fn lists(plan: &Plan, results: &mut Results) {
    let mut ours = Ours::start(TestEngine::Docker, false).await;
    let (created, _) = ours.create().await;
    let container_id = created["container_id"].as_str().expect("text").to_owned();
    let docker = Docker::connect_with_defaults().expect("Docker is where DOCKER_HOST says");
    let labelled = [("label", vec!["dev-postgres-mcp.id"])].into_iter().collect();
    let options = ListContainersOptionsBuilder::new().all(true).filters(&labelled).build();
    let mut there = 1;
    for &count in plan.listed {
        said(&format!("listing {count}"));
        docker_run::make_likenesses(&container_id, count - there, there).await;
        there = count;
        for run in 0..=plan.runs {
            let begun = Instant::now();
            let containers = docker.list_containers(Some(options.clone())).await.expect("a list");
            let bare = milliseconds(begun);
            assert!(containers.len() >= count, "{} containers", containers.len());
            let begun = Instant::now();
            let listed = ours.session.succeed("list_postgres_instances", json!({})).await;
            let whole = milliseconds(begun);
            assert!(
                listed["count"].as_u64() >= u64::try_from(count).ok(),
                "{}",
                listed["count"]
            );
            // The first time, connections may still be opened.
            if run > 0 {
                results.record(&format!("docker-list-{count}"), bare);
                results.record(&format!("list-{count}"), whole);
            }
        }
    }
    ours.drop(&created).await;
    docker_run::remove_labelled().await;
}

async fn starts(plan: &Plan, engines: Engines, results: &mut Results) {
    said("starts");
    let used = environment(engines.any(), false);
    Session::initialized(&used, &[]).await.end().await;
    for _ in 0..plan.runs {
        for (name, home) in [
            ("start", used.clone()),
            ("start-first", environment(engines.any(), false)),
        ] {
            let begun = Instant::now();
            let session = Session::initialized(&home, &[]).await;
            results.record(name, milliseconds(begun));
            session.end().await;
        }
    }
}

async fn memory(plan: &Plan, engines: Engines, results: &mut Results) {
    said(&format!("memory over {} creates and drops", plan.churn));
    let mut ours = Ours::start(engines.any(), false).await;
    ours.session.request("tools/list", json!({})).await;
    sleep(PAUSE).await;
    results.record("memory-idle", ours.resident());
    for run in 0..CHURN_FIRST + plan.churn {
        if run == CHURN_FIRST {
            results.record("memory-used", ours.resident());
        }
        let (created, _) = ours.create().await;
        ours.drop(&created).await;
    }
    results.record("memory-churned", ours.resident());
}

async fn waterfalls(engines: Engines, results: &mut Results) {
    let mut wanted = Vec::new();
    if engines.docker {
        wanted.push((TestEngine::Docker, false, "Docker, cold"));
    }
    if engines.local {
        wanted.push((TestEngine::Local, false, "local, cold"));
    }
    wanted.push((engines.any(), true, "warm"));
    for (engine, pool, title) in wanted {
        said(&format!("where the time goes: {title}"));
        let picture = waterfall::of_one_create(engine, pool).await;
        results.waterfalls.push((title.to_owned(), picture));
    }
}
