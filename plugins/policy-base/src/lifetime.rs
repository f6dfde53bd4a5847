//! How long an instance lives that is given a time to live.

use crate::bindings::dev_postgres::plugin::types::FieldError;
use crate::settings::Given;

/// The longest time to live where the settings name none: a week. Whatever is needed longer can be extended.
const TTL_SECONDS_MAX: u64 = 7 * 86_400;
/// The longest that the host allows: ten years.
const TTL_SECONDS_LIMIT: u64 = 10 * 365 * 86_400;

/// The settings that every policy has, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// How long instances live that are asked for without a time to live; `None`: with the session of who asks.
    pub ttl_seconds_default: Option<u64>,
    /// The longest time to live that may be asked for.
    pub ttl_seconds_max: u64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            ttl_seconds_default: None,
            ttl_seconds_max: TTL_SECONDS_MAX,
        }
    }
}

impl Lifetimes {
    /// Takes the keys `ttl_seconds_default` and `ttl_seconds_max`.
    pub fn take(given: &mut Given) -> Self {
        let ttl_seconds_default = given.take_number("ttl_seconds_default", 1, TTL_SECONDS_LIMIT);
        let ttl_seconds_max = given
            .take_number("ttl_seconds_max", 1, TTL_SECONDS_LIMIT)
            .unwrap_or(TTL_SECONDS_MAX);
        if ttl_seconds_default > Some(ttl_seconds_max) {
            given.refuse("ttl_seconds_default", "must not be more than ttl_seconds_max");
        }
        Self {
            ttl_seconds_default,
            ttl_seconds_max,
        }
    }
}

/// The time to live of a new instance; `None`: none was asked for and the settings have none.
///
/// # Errors
/// If it is 0 or more than the settings allow.
pub(crate) fn new(asked: Option<u64>, settings: &Lifetimes) -> Result<Option<u64>, FieldError> {
    asked.map_or(Ok(settings.ttl_seconds_default), |asked| {
        checked(asked, settings).map(Some)
    })
}

/// How long an instance lives from now on. Whoever names no time is given the default one, or the longest.
///
/// # Errors
/// If it is 0 or more than the settings allow.
pub fn extension(asked: Option<u64>, settings: &Lifetimes) -> Result<u64, Vec<FieldError>> {
    let left_open = settings.ttl_seconds_default.unwrap_or(settings.ttl_seconds_max);
    asked.map_or(Ok(left_open), |asked| {
        checked(asked, settings).map_err(|problem| vec![problem])
    })
}

fn checked(asked: u64, settings: &Lifetimes) -> Result<u64, FieldError> {
    let most = settings.ttl_seconds_max;
    if (1..=most).contains(&asked) {
        return Ok(asked);
    }
    Err(FieldError {
        field: "ttl_seconds".into(),
        message: format!("must be 1 to {most}, the longest time to live that the policy allows"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Lifetimes = Lifetimes {
        ttl_seconds_default: Some(60),
        ttl_seconds_max: 3600,
    };
    const NO_DEFAULT: Lifetimes = Lifetimes {
        ttl_seconds_default: None,
        ..SETTINGS
    };

    #[test]
    fn what_is_asked_for_is_given_up_to_the_longest() {
        for asked in [1, 60, 3600] {
            assert_eq!(new(Some(asked), &SETTINGS).expect("allowed"), Some(asked));
            assert_eq!(extension(Some(asked), &SETTINGS).expect("allowed"), asked);
        }
        for asked in [0, 3601, u64::MAX] {
            assert_eq!(new(Some(asked), &SETTINGS).expect_err("refused").field, "ttl_seconds");
            extension(Some(asked), &SETTINGS).expect_err("refused");
        }
    }

    #[test]
    fn what_is_left_open_is_the_default_or_none_for_a_new_one_and_the_longest_for_an_old_one() {
        assert_eq!(new(None, &SETTINGS).expect("allowed"), Some(60));
        assert_eq!(new(None, &NO_DEFAULT).expect("allowed"), None);
        assert_eq!(extension(None, &SETTINGS).expect("allowed"), 60);
        assert_eq!(extension(None, &NO_DEFAULT).expect("allowed"), 3600);
    }

    fn taken(text: &str) -> Result<Lifetimes, Vec<String>> {
        let mut given = Given::parse(text);
        let lifetimes = Lifetimes::take(&mut given);
        let fields = |problems: Vec<FieldError>| problems.into_iter().map(|problem| problem.field).collect();
        given.finish(lifetimes).map_err(fields)
    }

    #[test]
    fn lifetimes_can_be_set() {
        assert_eq!(taken("{}"), Ok(Lifetimes::default()));
        assert_eq!(
            taken(r#"{"ttl_seconds_default": 60, "ttl_seconds_max": 3600}"#),
            Ok(SETTINGS)
        );
    }

    #[test]
    fn each_wrong_key_is_an_error_that_names_it() {
        let fields = |text| taken(text).expect_err(text);
        assert_eq!(
            fields(r#"{"ttl_seconds_max": 0, "max_instances": 3, "ttl_seconds_default": "1h"}"#),
            ["ttl_seconds_default", "ttl_seconds_max", "max_instances"]
        );
        assert_eq!(
            fields(r#"{"ttl_seconds_default": 604801}"#),
            ["ttl_seconds_default"],
            "more than the longest"
        );
    }
}
