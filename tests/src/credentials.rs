//! Names and passwords of every kind that validation lets through, and the DSNs that the built-in policy makes of them.

use std::path::PathBuf;

use dev_postgres_mcp::instance::{DatabaseName, Found, Instance, Password, RoleName};
use dev_postgres_mcp::plugins::cache::Cache;
use dev_postgres_mcp::plugins::policy::ComponentPolicy;
use dev_postgres_mcp::plugins::{Runtime, Source};
use dev_postgres_mcp::policy::Policy as _;
use proptest::prelude::*;
use proptest::sample::select;

/// What has ever been special to a parser of connection URIs, of SQL, of a shell or of `initdb`.
const SPECIAL: [&str; 30] = [
    "postgres",
    "template1",
    "PUBLIC",
    "nobody",
    "user",
    "ENCODING",
    "renamer",
    "dev-postgres-mcp-spare",
    "a b",
    " ",
    "\"",
    "\"\"",
    "'",
    "''",
    "\\",
    "\\'",
    "$1",
    "$$",
    "$(id)",
    "`id`",
    "--",
    "-c",
    "/*",
    "%41",
    "%",
    "a+b",
    "@:/?#[]&=",
    "\u{1}\t\n\r",
    "\u{202e}ünï\u{301}",
    "\u{1f418}",
];

/// What opens an instance.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The database.
    pub database: DatabaseName,
    /// The superuser.
    pub username: RoleName,
    /// The password.
    pub password: Password,
}

/// Any text.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => select(&SPECIAL[..]).prop_map(str::to_owned),
        2 => (select(&SPECIAL[..]), select(&SPECIAL[..])).prop_map(|(a, b)| format!("{a}{b}")),
        2 => "[ -~]{1,63}",
        3 => "\\PC{1,40}",
        2 => any::<String>(),
    ]
}

/// Any credentials that validation lets through.
pub fn credentials() -> impl Strategy<Value = Credentials> {
    let passwords = prop_oneof![4 => texts(), 1 => "[ -~]{900,1024}", 1 => "(md5|SCRAM-SHA-256\\$)[0-9a-f]{32}"];
    let database = texts().prop_filter_map("no database", |text| text.parse().ok());
    let username = texts().prop_filter_map("no role", |text| text.parse().ok());
    let password = passwords.prop_filter_map("no password", |text| Password::new(text).ok());
    (database, username, password).prop_map(|(database, username, password)| Credentials {
        database,
        username,
        password,
    })
}

impl Credentials {
    /// An instance that is like another but for these.
    #[must_use]
    pub fn of(&self, other: &Found) -> Found {
        Found {
            instance: Instance {
                database: self.database.clone(),
                username: self.username.clone(),
                ..other.instance.clone()
            },
            password: self.password.clone(),
        }
    }
}

/// The built-in policy.
///
/// # Panics
/// If it can't be loaded.
pub async fn policy() -> ComponentPolicy {
    let runtime = Runtime::new(Cache::default()).expect("this machine runs WebAssembly");
    ComponentPolicy::load(&runtime, &policy_default())
        .await
        .expect("it loads")
}

/// The connection URI that the policy makes for an instance.
///
/// # Panics
/// If it makes none.
pub async fn dsn(policy: &ComponentPolicy, found: &Found) -> String {
    policy.connection_uri(found).await.expect("a DSN").expose().to_owned()
}

/// The built-in policy, which the host keeps to itself: the newest that its build script has compiled.
///
/// # Panics
/// If it has compiled none.
#[must_use]
pub fn policy_default() -> Source {
    let program = std::env::current_exe().expect("a path");
    let profile = program.ancestors().nth(2).expect("target/PROFILE/deps");
    let built = std::fs::read_dir(profile.join("build")).expect("build scripts' folders");
    let compiled: Vec<PathBuf> = built
        .map(|entry| entry.expect("an entry").path().join("out/policy-default.wasm"))
        .filter(|path| path.is_file())
        .collect();
    let written = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).expect("a time");
    let newest = compiled
        .iter()
        .max_by_key(|&path| written(path))
        .expect("it was compiled");
    Source {
        sha256: None,
        name: "policy-default".into(),
        from: "built in".into(),
        bytes: std::fs::read(newest).expect("it can be read").into(),
        settings: serde_json::Map::new(),
    }
}
