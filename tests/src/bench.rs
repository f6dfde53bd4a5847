//! `make bench`: our servers and what a user would pick instead, side by side on one machine.
//!
//! What is compared is measured in rounds, in each of them one run of everything in an order that the seed gives, so that
//! a machine that grows slow or fast does so for all. Every timed create ends with a query, and all that is made is
//! removed.

mod docker_run;
mod goals;
mod local_run;
mod machine;
mod ours;
mod picture;
mod plan;
mod query;
mod report;
mod results;
mod rounds;
mod sandbox;
mod testcontainers;
mod waterfall;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

pub use self::docker_run::clear;
pub use self::report::readme_section;
pub use self::results::Results;

/// What of all that can be measured is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Case {
    /// `docker run -d` of a container that does nothing, until the command returns
    DockerRun,
    /// `docker run -d` with a data directory that is initialised already
    DockerRunData,
    /// `docker run -d` of the image as it is
    Entrypoint,
    /// Testcontainers for Python
    Testcontainers,
    /// Ours in Docker, from a template
    DockerCold,
    /// Ours in Docker, from the pool
    DockerWarm,
    /// PostgreSQL on a copied data directory, without anything else
    LocalRun,
    /// Ours without Docker, from a template
    LocalCold,
    /// Ours without Docker, from the pool
    LocalWarm,
    /// Ours in Docker, the first of an image
    DockerFirst,
    /// Ours without Docker, the first of a version
    LocalFirst,
    /// Several creates at once
    Concurrency,
    /// Listing instances
    List,
    /// From the start of the process to the answer to `initialize`
    Startup,
    /// A tool call on an engine that does nothing
    Sandbox,
    /// What the server keeps in memory
    Memory,
    /// Where the time of one create goes
    Waterfall,
}

/// Measures how fast servers are there, and writes RESULTS.md, results.json and results.svg
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub struct Options {
    /// How many rounds; some cases have fewer
    #[arg(long, visible_alias = "rounds", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// What the order within the rounds comes from; random if left out
    #[arg(long)]
    pub seed: Option<u64>,
    /// Only these
    #[arg(long, num_args = 1.., value_name = "CASE")]
    pub only: Vec<Case>,
    /// The folder to write to; without it, tests/bench
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// A few of everything, to see that it works
    #[arg(long)]
    pub quick: bool,
    /// The program to measure; without it, target/release/dev-postgres-mcp
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// How many creates and drops the memory is watched over
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub churn: u16,
}

/// Measures, prints and writes.
///
/// # Errors
/// If something is missing that can't be done without, or the results can't be written.
///
/// # Panics
/// If what is measured fails: a figure without it would be none.
pub async fn run(options: &Options) -> Result<(), String> {
    let mut plan = plan::Plan::new(options)?;
    let results = rounds::measure(&mut plan).await?;
    print!("{}", report::tables(&results));
    report::write(&results, &plan.output)
}
