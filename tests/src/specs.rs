//! Instances as the tests ask for them.

use dev_postgres_mcp::instance::{Image, InstanceSpec, Limits, Owner, Password};
use serde_json::Value;

/// `postgres:17` with the limits of the defaults and these credentials.
///
/// # Panics
/// If a credential isn't one.
#[must_use]
pub fn spec(database: &str, username: &str, password: &str) -> InstanceSpec {
    InstanceSpec {
        image: Image::new("postgres", "17").expect("an image"),
        database: database.parse().expect("a database name"),
        username: username.parse().expect("a role name"),
        password: Password::new(password).expect("a password"),
        limits: Limits::new(512, 1000).expect("limits"),
        durable: false,
        ttl: None,
    }
}

/// Whoever makes instances in a test: a process that nobody judges.
#[must_use]
pub fn owner() -> Owner {
    Owner {
        process: "tests".into(),
        machine: "laptop".into(),
        process_id: std::process::id(),
        started_at: None,
        team: None,
        client: None,
    }
}

/// A database's name that nobody else has: an engine may have instances of other tests, too.
#[must_use]
pub fn unlikely_name() -> String {
    format!("test \"{:016x}\"", rand::random::<u64>())
}

/// A new instance as it is told later on: only its create has warnings.
///
/// # Panics
/// If it isn't an object.
#[must_use]
pub fn as_told_later(created: &Value) -> Value {
    let mut instance = created.clone();
    instance.as_object_mut().expect("an object").remove("warnings");
    instance
}
