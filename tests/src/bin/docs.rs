//! Rewrites the generated sections of README.md; with `--check`, fails if they aren't current.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use dev_postgres_mcp_tests::readme::{repository, rewrite, sections};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let check = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => {
            eprintln!("usage: docs [--check]");
            return ExitCode::from(2);
        }
    };
    match run(check).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("README.md: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run(check: bool) -> Result<(), String> {
    let path = repository("README.md");
    let readme = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let rewritten = rewrite(&readme, &sections().await?)?;
    let stale = rewritten.stale.join(", ");
    match (check, stale.is_empty()) {
        (_, true) => println!("README.md is current"),
        (true, false) => return Err(format!("not current: {stale}; run `make docs`")),
        (false, false) => {
            std::fs::write(&path, rewritten.text).map_err(|error| error.to_string())?;
            println!("README.md: rewrote {stale}");
        }
    }
    Ok(())
}
