//! This policy's settings: there are none, and a key that does nothing is a mistake worth an error.

use serde_json::{Map, Value};

use crate::bindings::dev_postgres::plugin::types::FieldError;

/// # Errors
/// Every key there is, or one error for the whole if it is no JSON object.
pub(crate) fn check(settings: &str) -> Result<(), Vec<FieldError>> {
    let Ok(settings) = serde_json::from_str::<Map<String, Value>>(settings) else {
        return Err(vec![FieldError {
            field: "settings".into(),
            message: "must be a JSON object".into(),
        }]);
    };
    if settings.is_empty() {
        return Ok(());
    }
    Err(settings
        .into_iter()
        .map(|(field, _)| FieldError {
            field,
            message: "is unknown: this policy has no settings".into(),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_settings_are_fine() {
        assert!(check("{}").is_ok());
    }

    #[test]
    fn each_key_is_an_error_that_names_it() {
        let errors = check(r#"{"max_instances": 3, "deny": {"a": []}}"#).expect_err("two keys");
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["deny", "max_instances"]);
    }

    #[test]
    fn what_is_no_object_is_one_error() {
        for settings in ["", "null", "[]", "3", "{", r#"{"a"}"#] {
            assert_eq!(check(settings).expect_err("no object").len(), 1, "{settings:?}");
        }
    }
}
