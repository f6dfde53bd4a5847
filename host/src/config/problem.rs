//! What can be wrong with a configuration, and where a value came from.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from, weakest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `default.toml`.
    Default,
    /// The configuration file.
    File {
        /// Which.
        path: PathBuf,
        /// The line, from 1; `None` where the whole file is meant.
        line: Option<usize>,
    },
    /// The environment variable of this name.
    Variable(String),
    /// The command-line option of this name, without its hyphens.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ConfigError(pub Vec<Problem>);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// What.
    pub what: What,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// There is no such setting, or no such variable of ours.
    Unknown {
        /// The name as it was given.
        name: String,
        /// The known name most like it.
        nearest: Option<String>,
    },
    /// A value doesn't fit.
    Wrong {
        /// The setting: `docker.host`.
        key: String,
        /// A fragment that reads well after the setting: "must be a port from 1 to 65535".
        expected: String,
        /// What was given; `None` where it may be a secret.
        given: Option<String>,
    },
    /// The file can't be read or isn't TOML.
    Unreadable(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match &self.what {
            What::Unknown { name, nearest } => {
                write!(f, "there is no {name}")?;
                nearest
                    .iter()
                    .try_for_each(|nearest| write!(f, "; did you mean {nearest}?"))
            }
            What::Wrong { key, expected, given } => {
                write!(f, "{key} {expected}")?;
                given.iter().try_for_each(|given| write!(f, ", not {given:?}"))
            }
            What::Unreadable(reason) => f.write_str(reason),
        }
    }
}
