//! What a bundle may ask the host for: nothing, unless the configuration grants it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::instance::InvalidValue;

/// One thing that a bundle may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Create instances.
    Create,
    /// List and get instances, without what opens them.
    Read,
    /// See passwords and connection URIs of the instances that it creates and gets.
    ReadCredentials,
    /// Drop instances.
    Drop,
    /// Run health checks.
    Health,
    /// Write to the host's log.
    Log,
    /// Read the clock.
    Clock,
    /// Run SQL on instances, as their superuser.
    Sql,
}

impl Grant {
    /// Every grant, in the order in which they are documented.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Read,
        Self::ReadCredentials,
        Self::Drop,
        Self::Health,
        Self::Log,
        Self::Clock,
        Self::Sql,
    ];

    /// As the configuration has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::ReadCredentials => "read-credentials",
            Self::Drop => "drop",
            Self::Health => "health",
            Self::Log => "log",
            Self::Clock => "clock",
            Self::Sql => "sql",
        }
    }

    /// What a bundle must be granted for a function of an interface that it imports, both as in the WIT package; `None`
    /// if it needs nothing.
    pub(super) fn for_import(interface: &str, function: &str) -> Option<Self> {
        match (interface, function) {
            ("instances", "create" | "extend") => Some(Self::Create),
            ("instances", "list" | "get") => Some(Self::Read),
            ("instances", "drop") => Some(Self::Drop),
            ("instances", "health") => Some(Self::Health),
            ("log", _) => Some(Self::Log),
            ("clock", _) => Some(Self::Clock),
            ("sql", _) => Some(Self::Sql),
            _ => None,
        }
    }
}

impl FromStr for Grant {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let known = Self::ALL.into_iter().find(|grant| grant.as_str() == text);
        known.ok_or_else(|| InvalidValue(format!("must be a list of grants: {}", Grants::ALL)))
    }
}

/// A set of grants; in files and JSON the list of their names.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "Vec<String>", try_from = "Vec<String>")]
pub struct Grants(u8);

impl Grants {
    /// Every grant there is.
    pub const ALL: Self = Self(u8::MAX);

    /// Whether `grant` is among them.
    #[must_use]
    pub fn has(self, grant: Grant) -> bool {
        self.0 & 1 << grant as u8 != 0
    }

    /// Them one by one, in the order in which they are documented.
    pub fn iter(self) -> impl Iterator<Item = Grant> {
        Grant::ALL.into_iter().filter(move |grant| self.has(*grant))
    }

    /// Those of them that aren't among `others`.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl From<Grants> for Vec<String> {
    fn from(grants: Grants) -> Self {
        grants.iter().map(|grant| grant.as_str().to_owned()).collect()
    }
}

impl TryFrom<Vec<String>> for Grants {
    type Error = InvalidValue;

    fn try_from(names: Vec<String>) -> Result<Self, InvalidValue> {
        names.iter().map(|name| name.parse::<Grant>()).collect()
    }
}

impl FromIterator<Grant> for Grants {
    fn from_iter<T: IntoIterator<Item = Grant>>(grants: T) -> Self {
        Self(grants.into_iter().fold(0, |set, grant| set | 1 << grant as u8))
    }
}

impl fmt::Display for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.iter().map(Grant::as_str);
        f.write_str(&names.collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grants({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grant_is_its_own_and_is_read_as_it_is_written() {
        for grant in Grant::ALL {
            assert_eq!(grant.as_str().parse::<Grant>().expect("a grant"), grant);
            let alone: Grants = [grant].into_iter().collect();
            assert!(!Grants::default().has(grant));
            for other in Grant::ALL {
                assert_eq!(alone.has(other), other == grant, "{grant:?} and {other:?}");
            }
        }
        assert_eq!(Grant::ALL.into_iter().collect::<Grants>(), Grants::ALL);
        assert!("Read".parse::<Grant>().is_err() && "read_credentials".parse::<Grant>().is_err());
    }
}
