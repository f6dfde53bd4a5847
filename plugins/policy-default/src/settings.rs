//! This policy's settings: a key that does nothing is a mistake worth an error.

use serde_json::{Map, Value};

use crate::bindings::dev_postgres::plugin::types::FieldError;

/// The longest time to live where the settings name none: a week. Whatever is needed longer can be extended.
const TTL_SECONDS_MAX: u64 = 7 * 86_400;
/// The longest that the host allows: ten years.
const TTL_SECONDS_LIMIT: u64 = 10 * 365 * 86_400;

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// How long instances live that are asked for without a time to live; `None`: with the session of who asks.
    pub(crate) ttl_seconds_default: Option<u64>,
    /// The longest time to live that may be asked for.
    pub(crate) ttl_seconds_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl_seconds_default: None,
            ttl_seconds_max: TTL_SECONDS_MAX,
        }
    }
}

/// # Errors
/// Every problem, by key; one for the whole if it is no JSON object.
pub(crate) fn parse(text: &str) -> Result<Settings, Vec<FieldError>> {
    let Ok(given) = serde_json::from_str::<Map<String, Value>>(text) else {
        return Err(vec![error("settings", "must be a JSON object")]);
    };
    let mut settings = Settings::default();
    let mut problems = Vec::new();
    for (key, value) in given {
        let seconds = value
            .as_u64()
            .filter(|seconds| (1..=TTL_SECONDS_LIMIT).contains(seconds));
        match (key.as_str(), seconds) {
            ("ttl_seconds_default", Some(seconds)) => settings.ttl_seconds_default = Some(seconds),
            ("ttl_seconds_max", Some(seconds)) => settings.ttl_seconds_max = seconds,
            ("ttl_seconds_default" | "ttl_seconds_max", None) => {
                problems.push(error(
                    &key,
                    &format!("must be a number of seconds from 1 to {TTL_SECONDS_LIMIT}"),
                ));
            }
            _ => problems.push(error(
                &key,
                "is unknown: there are ttl_seconds_default and ttl_seconds_max",
            )),
        }
    }
    if settings.ttl_seconds_default > Some(settings.ttl_seconds_max) {
        problems.push(error("ttl_seconds_default", "must not be more than ttl_seconds_max"));
    }
    if problems.is_empty() {
        Ok(settings)
    } else {
        Err(problems)
    }
}

fn error(field: &str, message: &str) -> FieldError {
    FieldError {
        field: field.into(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_settings_are_the_defaults() {
        assert_eq!(parse("{}").expect("fine"), Settings::default());
    }

    #[test]
    fn lifetimes_can_be_set() {
        let settings = parse(r#"{"ttl_seconds_default": 60, "ttl_seconds_max": 3600}"#).expect("fine");
        assert_eq!(
            (settings.ttl_seconds_default, settings.ttl_seconds_max),
            (Some(60), 3600)
        );
    }

    #[test]
    fn each_wrong_key_is_an_error_that_names_it() {
        let errors =
            parse(r#"{"ttl_seconds_max": 0, "max_instances": 3, "ttl_seconds_default": "1h"}"#).expect_err("3 keys");
        let mut fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["max_instances", "ttl_seconds_default", "ttl_seconds_max"]);
        let errors = parse(r#"{"ttl_seconds_default": 604801}"#).expect_err("more than the longest");
        assert_eq!(errors[0].field, "ttl_seconds_default");
    }

    #[test]
    fn what_is_no_object_is_one_error() {
        for settings in ["", "null", "[]", "3", "{", r#"{"a"}"#] {
            assert_eq!(parse(settings).expect_err("no object").len(), 1, "{settings:?}");
        }
    }
}
