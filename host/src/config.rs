//! The configuration: ordered sources (default < file < environment < flag) in, domain values out, or every problem.

mod keys;
mod problem;
mod shown;
mod sources;
mod values;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

pub use self::keys::{CONFIG_VARIABLE, DEFAULT_TOML, KEYS, Key, reference_markdown};
pub use self::problem::{ConfigError, Origin, Problem, What};
pub use self::shown::ShownValue;
use self::sources::Sources;
use crate::environment::Environment;
use crate::instance::{Defaults, InvalidValue};
use crate::ports::PortRange;

/// The longest time that a setting can be: a day. Whatever waits longer has been forgotten.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest name of a bundle in bytes: it stands in log lines and error messages.
pub const BUNDLE_NAME_BYTES_MAX: usize = 40;

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The settings that were given, as they were typed.
    pub settings: Vec<(&'static Key, String)>,
}

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[log]`.
    pub log: Log,
    /// `[docker]`.
    pub docker: Docker,
    /// `[instance]`.
    pub instance: Instances,
    /// `[policy]`.
    pub policy: Component,
    /// `[[bundle]]`: the built-in ones first, then the added ones in the file's order; no two have the same name.
    pub bundles: Vec<Bundle>,
    /// The file that was read; `None` if there is none.
    pub file: Option<PathBuf>,
    /// Every value with where it came from, for people to read.
    pub values: Vec<ShownValue>,
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least grave level that is logged; `None` if nobody has set it and the command may choose.
    pub level: Option<tracing::Level>,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `[docker]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Docker {
    /// As `DOCKER_HOST` has it; `None` to look for it.
    pub host: Option<String>,
    /// The address that instances are published on; `None` to derive it from where Docker is.
    pub publish_address: Option<IpAddr>,
    /// How long pulling an image may take.
    pub pull_timeout: Duration,
}

/// `[instance]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instances {
    /// What the policy is told for requests that leave it open.
    pub defaults: Defaults,
    /// The ports that instances may have.
    pub ports: PortRange,
    /// How long a started instance may take until it answers its first query.
    pub ready_timeout: Duration,
}

/// A WebAssembly component and what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Where its code is.
    pub code: Code,
    /// Its own settings.
    pub settings: ComponentSettings,
}

/// Where a component's code is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// In this program.
    BuiltIn,
    /// In this file.
    File(PathBuf),
}

/// A component's own settings, a JSON object. They may hold secrets: `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ComponentSettings(Map<String, Value>);

impl ComponentSettings {
    /// The object itself: for the component alone.
    #[must_use]
    pub fn expose(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl fmt::Debug for ComponentSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ComponentSettings([redacted])")
    }
}

/// An entry of `[[bundle]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Its name.
    pub name: BundleName,
    /// Its code and settings.
    pub component: Component,
}

/// A bundle's name: 1 to 40 lower-case letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BundleName(String);

impl BundleName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BundleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BundleName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let fits = (1..=BUNDLE_NAME_BYTES_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            return Err(InvalidValue(format!(
                "must be 1 to {BUNDLE_NAME_BYTES_MAX} lower-case letters, digits and hyphens"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Config {
    /// Reads every source.
    ///
    /// # Errors
    /// Every problem of every source at once.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Self, ConfigError> {
        let mut sources = Sources::default();
        sources.read_toml(DEFAULT_TOML, None);
        let (path, required) = match file_location(flags, environment) {
            Some((path, required)) => (Some(path), required),
            None => (None, false),
        };
        let file = path.filter(|path| sources.read_file(path, required));
        sources.read_environment(environment);
        sources.read_flags(flags);
        sources.into_config(file)
    }
}

/// The file that would be read, and whether it was asked for by name and so must be there.
#[must_use]
pub fn file_location(flags: &Flags, environment: &Environment) -> Option<(PathBuf, bool)> {
    let asked = flags
        .file
        .clone()
        .or_else(|| environment.non_empty(CONFIG_VARIABLE).map(PathBuf::from));
    if let Some(path) = asked {
        return Some((path, true));
    }
    let directory = |variable| environment.non_empty(variable).map(PathBuf::from);
    // The XDG specification has relative paths ignored.
    let xdg = directory("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let native = || match std::env::consts::OS {
        "windows" => directory("APPDATA"),
        "macos" => directory("HOME").map(|home| home.join("Library/Application Support")),
        _ => directory("HOME").map(|home| home.join(".config")),
    };
    let path = xdg.or_else(native)?.join("dev-postgres-mcp").join("config.toml");
    Some((path, false))
}
