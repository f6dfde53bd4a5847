//! Every value with where it came from, for people to read.

use std::collections::BTreeMap;

use serde_json::Value;

use super::keys::{BUNDLE, BUNDLE_KEYS, KEYS, TEAMS, path};
use super::problem::Origin;
use super::sources::{Given, GivenBundle, GivenTeam};

/// A value as `config show` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownValue {
    /// `docker.host`, `policy.settings.max_instances`.
    pub key: String,
    /// The value, redacted where it may be a secret.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

pub(super) fn shown(
    values: &BTreeMap<&'static str, Given>,
    teams: &[GivenTeam],
    bundles: &[GivenBundle],
) -> Vec<ShownValue> {
    let mut shown = Vec::new();
    for key in KEYS.iter() {
        if let Some(given) = values.get(key.path.as_str()) {
            show(&key.path, given, key.is_table(), &mut shown);
        }
    }
    for team in teams {
        let team_path = path(TEAMS, &team.name);
        for (name, given) in &team.values {
            show(&path(&team_path, name), given, *name == "settings", &mut shown);
        }
    }
    for (index, bundle) in bundles.iter().enumerate() {
        let name = bundle.name();
        if bundles.iter().skip(index + 1).any(|later| later.name() == name) {
            continue;
        }
        for key in BUNDLE_KEYS.iter().filter(|key| key.name != "name") {
            if let Some(given) = bundle.get(key.name) {
                let may_be_secret = key.name == "settings";
                show(
                    &format!("{BUNDLE}.{name}.{}", key.name),
                    given,
                    may_be_secret,
                    &mut shown,
                );
            }
        }
    }
    shown
}

/// Adds a value to `shown`; a table's leaves one by one.
fn show(path: &str, given: &Given, may_be_secret: bool, shown: &mut Vec<ShownValue>) {
    match &given.value {
        Value::Object(table) if !table.is_empty() => {
            for (name, value) in table {
                let given = Given {
                    value: value.clone(),
                    origin: given.origin.clone(),
                };
                show(&format!("{path}.{name}"), &given, may_be_secret, shown);
            }
        }
        value => shown.push(ShownValue {
            key: path.to_owned(),
            value: if may_be_secret { redact(value) } else { value.clone() },
            origin: given.origin.clone(),
        }),
    }
}

/// Hides the strings of a component's settings. Only the component knows which are secrets, and secrets are strings;
/// numbers and booleans are the limits and switches that people look for.
fn redact(value: &Value) -> Value {
    match value {
        Value::String(_) => Value::from("[set]"),
        Value::Array(items) => items.iter().map(redact).collect(),
        Value::Object(table) => table
            .iter()
            .map(|(name, value)| (name.clone(), redact(value)))
            .collect(),
        harmless => harmless.clone(),
    }
}
