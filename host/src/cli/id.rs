//! Which instance is meant: a whole id or a unique beginning of one.

use std::fmt;
use std::str::FromStr;

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
            Self::Prefix(_) => self.find(
                &manager
                    .list(&manager.caller())
                    .await
                    .map_err(|error| Failure::from(&error))?,
            ),
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::instance::{EngineKind, Lifetime, Port, Status};

    const IDS: [&str; 3] = [
        "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21",
        "2f1c6f0e-0000-4d0b-9a55-0d1c7a3b9e21",
        "9a000000-0000-4d0b-9a55-0d1c7a3b9e21",
    ];

    fn instances() -> Vec<Instance> {
        let instance = |id: &str| Instance {
            id: id.parse().expect("an id"),
            engine: EngineKind::Docker,
            container_id: "c0ffee".into(),
            host: "127.0.0.1".into(),
            port: Port::try_from(15432).expect("a port"),
            version: "17".into(),
            database: "postgres".parse().expect("a name"),
            username: "postgres".parse().expect("a name"),
            status: Status::Running,
            created_at: SystemTime::UNIX_EPOCH,
            owner: None,
            lifetime: Lifetime::Unlimited,
        };
        IDS.map(instance).into()
    }

    fn find(text: &str) -> Result<String, Failure> {
        text.parse::<IdArg>()
            .expect("an argument")
            .find(&instances())
            .map(|id| id.to_string())
    }

    #[test]
    fn a_whole_id_a_unique_beginning_and_a_containers_name_all_name_an_instance() {
        for text in ["9", "9A", "9a000000-0000-4d0b-9a55-0d1c7a3b9e21", "mcp-postgres-9a00"] {
            assert_eq!(find(text), Ok(IDS[2].to_owned()), "{text}");
        }
    }

    #[test]
    fn a_whole_id_is_taken_at_its_word() {
        let elsewhere = "00000000-0000-4d0b-9a55-0d1c7a3b9e21";
        assert_eq!(find(elsewhere), Ok(elsewhere.to_owned()));
    }

    #[test]
    fn an_ambiguous_beginning_is_told_with_its_candidates() {
        let failure = find("2f1c").expect_err("two match");
        assert_eq!(failure.code, FailureCode::InvalidArguments);
        assert_eq!(failure.message, format!("2f1c may be any of {}, {}", IDS[0], IDS[1]));
    }

    #[test]
    fn a_beginning_of_no_id_is_not_found() {
        assert_eq!(find("7").expect_err("none matches").code, FailureCode::NotFound);
    }

    #[test]
    fn what_no_id_begins_with_is_refused_at_once() {
        for text in [
            "",
            "g",
            "my-db",
            "mcp-postgres-",
            "9a000000-0000-4d0b-9a55-0d1c7a3b9e21a",
        ] {
            assert!(text.parse::<IdArg>().is_err(), "{text:?} was taken");
        }
    }
}
