//! What a run of the benchmark is going to do, as its options and this machine have it.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::{Case, Options};
use crate::binary;
use crate::readme::repository;

/// The image that servers in Docker are made from.
pub(super) const IMAGE: &str = "postgres:17";

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) cases: Vec<Case>,
    pub(super) runs: u16,
    pub(super) seed: u64,
    /// How often the first create is measured.
    pub(super) firsts: u16,
    /// How often each number of creates at once is measured.
    pub(super) bursts: u16,
    /// How many creates are made at once.
    pub(super) burst_sizes: &'static [usize],
    /// How many instances are listed.
    pub(super) listed: &'static [usize],
    pub(super) churn: u16,
    pub(super) output: PathBuf,
    /// How to have the same again.
    pub(super) command: String,
}

impl Plan {
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let program = match &options.program {
            Some(program) => std::path::absolute(program).map_err(|error| error.to_string())?,
            None => repository("target/release/dev-postgres-mcp").with_extension(std::env::consts::EXE_EXTENSION),
        };
        if !program.is_file() {
            return Err(format!("there is no {}: run `make bench`", program.display()));
        }
        binary::measure(program);
        let cases = match options.only.as_slice() {
            [] => Case::value_variants().to_vec(),
            only => only.to_vec(),
        };
        let runs = if options.quick { 1 } else { options.runs };
        let seed = options.seed.unwrap_or_else(|| rand::random::<u32>().into());
        Ok(Self {
            cases,
            runs,
            seed,
            firsts: runs.min(5),
            bursts: runs.min(5),
            burst_sizes: if options.quick { &[1, 2] } else { &[1, 4, 16] },
            listed: if options.quick { &[1, 3] } else { &[1, 100] },
            churn: if options.quick { 2 } else { options.churn },
            output: options.output.clone().unwrap_or_else(|| repository("tests/bench")),
            command: command(options, seed),
        })
    }

    pub(super) fn has(&self, case: Case) -> bool {
        self.cases.contains(&case)
    }

    pub(super) fn drop_cases(&mut self, gone: &[Case], why: &str) {
        if self.cases.iter().any(|case| gone.contains(case)) {
            eprintln!("bench: {why}");
        }
        self.cases.retain(|case| !gone.contains(case));
    }
}

/// The program's own path is of this machine; what it is, the commit says.
fn command(options: &Options, seed: u64) -> String {
    let mut words = vec![format!("--seed {seed}")];
    if options.quick {
        words.push("--quick".into());
    } else {
        words.push(format!("--runs {} --churn {}", options.runs, options.churn));
    }
    if !options.only.is_empty() {
        let names = options.only.iter().filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = names.map(|name| name.get_name().to_owned()).collect();
        words.push(format!("--only {}", names.join(" ")));
    }
    format!("make bench ARGS='{}'", words.join(" "))
}

/// The Python that has Testcontainers, if it was set up.
pub(super) fn python() -> Option<PathBuf> {
    let python = repository("target/setup/bench-venv/bin/python");
    python.is_file().then_some(python)
}

pub(super) fn python_script() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/bench/testcontainers_runs.py"))
}
