//! Instances as the tests ask for them.

use dev_postgres_mcp::instance::{Image, InstanceSpec, Limits, Password};

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
    }
}
