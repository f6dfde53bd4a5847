//! `make bench`: how fast servers are there, ours and others'.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use dev_postgres_mcp_tests::bench::{self, Options};

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    // As a task of its own: whatever it panics over, what it has made is removed.
    let measuring = tokio::spawn(async move { bench::run(&options).await });
    let abort = measuring.abort_handle();
    let done = tokio::select! {
        done = measuring => done.unwrap_or_else(|panic| Err(panic.to_string())),
        _ = tokio::signal::ctrl_c() => {
            abort.abort();
            Err("interrupted".into())
        }
    };
    bench::clear().await;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bench: {problem}");
            ExitCode::FAILURE
        }
    }
}
