//! How long an instance lives that is given a time to live.

use crate::bindings::dev_postgres::plugin::types::FieldError;
use crate::settings::Settings;

/// The time to live of a new instance; `None`: none was asked for and the settings have none.
///
/// # Errors
/// If it is 0 or more than the settings allow.
pub(crate) fn new(asked: Option<u64>, settings: &Settings) -> Result<Option<u64>, FieldError> {
    asked.map_or(Ok(settings.ttl_seconds_default), |asked| {
        checked(asked, settings).map(Some)
    })
}

/// How long an instance lives from now on. Whoever names no time is given the default one, or the longest.
///
/// # Errors
/// If it is 0 or more than the settings allow.
pub(crate) fn extension(asked: Option<u64>, settings: &Settings) -> Result<u64, FieldError> {
    let left_open = settings.ttl_seconds_default.unwrap_or(settings.ttl_seconds_max);
    asked.map_or(Ok(left_open), |asked| checked(asked, settings))
}

fn checked(asked: u64, settings: &Settings) -> Result<u64, FieldError> {
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

    const SETTINGS: Settings = Settings {
        ttl_seconds_default: Some(60),
        ttl_seconds_max: 3600,
    };
    const NO_DEFAULT: Settings = Settings {
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
}
