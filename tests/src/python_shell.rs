//! A server with a tool bundle in Python that runs the Python that it is given.

use std::fs;

use serde_json::{Value, json};

use crate::binary::TestEnvironment;
use crate::guests::{python_shell, shared_cache};
use crate::session::Session;

/// The same environment with a configuration file that has the shell, with these further lines; its tool is `python`. Its
/// log goes down to debug.
///
/// # Panics
/// If the file system has no room for it.
#[must_use]
pub fn with_python_shell(environment: &TestEnvironment, lines: &str) -> TestEnvironment {
    let file = environment.home().join("config.toml");
    let component = python_shell().display();
    let config = format!("log.level = 'debug'\n[[bundle]]\nname = 'shell'\ncomponent = '{component}'\n{lines}\n");
    fs::write(&file, config).expect("a file");
    environment
        .clone()
        .with("DEV_POSTGRES_MCP_CONFIG", file)
        .with("XDG_CACHE_HOME", shared_cache())
}

/// Runs code in the shell; what it has made of `it`.
///
/// # Panics
/// If it fails.
pub async fn run(session: &mut Session, code: &str) -> Value {
    session.succeed("python", json!({ "code": code })).await["it"].clone()
}

/// Runs code that fails; how the call's failure puts it.
///
/// # Panics
/// If it doesn't fail.
pub async fn fails(session: &mut Session, code: &str) -> String {
    let error = session.fail("python", json!({ "code": code })).await;
    error["message"].as_str().expect("a message").to_owned()
}
