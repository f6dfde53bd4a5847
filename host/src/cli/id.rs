//! Which instance is meant: a whole id or a unique beginning of one.

use std::fmt;
use std::str::FromStr;

use super::caller;
use crate::failure::{Failure, FailureCode};
use crate::instance::{Instance, InstanceId, InvalidValue};
use crate::manager::InstanceManager;

/// What containers are named before their id: people copy it from `docker ps`.
const CONTAINER_PREFIX: &str = "mcp-postgres-";

/// An instance as it is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IdArg {
    /// Its whole id.
    Whole(InstanceId),
    /// What its id begins with: lower-case hexadecimal digits and hyphens, at least one.
    Prefix(String),
}

impl FromStr for IdArg {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let text = text.strip_prefix(CONTAINER_PREFIX).unwrap_or(text).to_ascii_lowercase();
        if let Ok(id) = text.parse() {
            return Ok(Self::Whole(id));
        }
        let fits = (1..36).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if !fits {
            return Err(InvalidValue(
                "an id, or the beginning of one, has hexadecimal digits and hyphens only".into(),
            ));
        }
        Ok(Self::Prefix(text))
    }
}

impl IdArg {
    /// Which instance is meant; asks the engine only if it must.
    ///
    /// # Errors
    /// If none or more than one is meant, or the engine can't be asked.
    pub(super) async fn resolve(&self, manager: &InstanceManager) -> Result<InstanceId, Failure> {
        match self {
            Self::Whole(id) => Ok(*id),
            Self::Prefix(_) => self.find(&manager.list(&caller()).await.map_err(|error| Failure::from(&error))?),
        }
    }

    /// Which of `instances` is meant; a whole id need not be among them.
    ///
    /// # Errors
    /// If none or more than one is meant.
    pub(super) fn find(&self, instances: &[Instance]) -> Result<InstanceId, Failure> {
        let prefix = match self {
            Self::Whole(id) => return Ok(*id),
            Self::Prefix(prefix) => prefix,
        };
        let ids: Vec<InstanceId> = instances
            .iter()
            .map(|instance| instance.id)
            .filter(|id| id.to_string().starts_with(prefix))
            .collect();
        match ids.as_slice() {
            [id] => Ok(*id),
            [] => Err(Failure::new(
                FailureCode::NotFound,
                format!("there is no instance whose id begins with {prefix}"),
                "`dev-postgres-mcp postgres list` shows those that there are.",
            )),
            several => {
                let candidates: Vec<String> = several.iter().map(ToString::to_string).collect();
                Err(Failure::new(
                    FailureCode::InvalidArguments,
                    format!("{prefix} may be any of {}", candidates.join(", ")),
                    "Give more of the id.",
                ))
            }
        }
    }
}

impl fmt::Display for IdArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(id) => id.fmt(f),
            Self::Prefix(prefix) => f.write_str(prefix),
        }
    }
}
