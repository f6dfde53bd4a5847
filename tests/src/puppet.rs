//! A server whose configuration has puppets among its tool bundles: guests that do what their arguments say.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use crate::binary::TestEnvironment;
use crate::guests::puppet;
use crate::session::Session;

/// The same environment with a configuration file that has `settings` above and a puppet of each of these names, with
/// these further lines.
///
/// # Panics
/// If the file system has no room for it.
#[must_use]
pub fn with_puppets(environment: &TestEnvironment, settings: &str, puppets: &[(&str, &str)]) -> TestEnvironment {
    let home = environment.home();
    fs::write(home.join("puppet.wasm"), puppet()).expect("a file");
    let mut config = settings.to_owned();
    for (name, lines) in puppets {
        // Writing to a String can't fail.
        let _ = write!(
            config,
            "\n[[bundle]]\nname = '{name}'\ncomponent = 'puppet.wasm'\n{lines}\n"
        );
    }
    let file = home.join("config.toml");
    fs::write(&file, config).expect("a file");
    environment.clone().with("DEV_POSTGRES_MCP_CONFIG", file)
}

/// Has a puppet do these deeds; what came of each.
///
/// # Panics
/// If the call fails.
pub async fn act(session: &mut Session, tool: &str, deeds: Value) -> Vec<Value> {
    let result = session.succeed(tool, json!({ "deeds": deeds })).await;
    result["outcomes"].as_array().expect("outcomes").clone()
}

/// Has a puppet do one deed that the host allows; its answer.
///
/// # Panics
/// If it doesn't.
pub async fn done(session: &mut Session, tool: &str, deed: Value) -> Value {
    let outcomes = act(session, tool, json!([deed])).await;
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    let answer = outcomes[0].get("done");
    answer
        .unwrap_or_else(|| panic!("it was not done: {}", outcomes[0]))
        .clone()
}
