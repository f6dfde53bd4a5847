//! The `dev-postgres-mcp` program: everything is in the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    dev_postgres_mcp::cli::main().into()
}
