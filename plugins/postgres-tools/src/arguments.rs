//! From a call's JSON to a tool's arguments.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bindings::dev_postgres::plugin::types::{Failure, FailureCode};

/// The arguments of a tool that has none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// The arguments of a tool that is about one instance.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneInstance {
    pub(crate) id: String,
}

/// # Errors
/// If `json` is no JSON, has an unknown field, lacks one or has one of a wrong type. The host has checked it against the
/// tool's input schema before, so this is for hosts that don't.
pub(crate) fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Failure> {
    // serde's own message is left out: it quotes the value, which may be a password.
    serde_json::from_str(json).map_err(|_| Failure {
        code: FailureCode::InvalidArguments,
        message: "the arguments do not fit the tool's input schema".into(),
        advice: "Read the tool's input schema, correct the arguments and call again.".into(),
        fields: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_without_being_quoted() {
        for json in [
            "",
            "{",
            "null",
            "[]",
            "\"secret\"",
            "{}",
            r#"{"id": 7}"#,
            r#"{"id": "a", "secret": 1}"#,
        ] {
            let failure = parse::<OneInstance>(json)
                .err()
                .unwrap_or_else(|| panic!("{json} was taken"));
            assert_eq!(failure.code, FailureCode::InvalidArguments);
            assert!(!failure.message.contains("secret"), "{}", failure.message);
        }
        assert!(parse::<Nothing>(r#"{"a": 1}"#).is_err());
    }

    #[test]
    fn what_fits_is_taken() {
        assert_eq!(parse::<OneInstance>(r#"{"id": "a"}"#).expect("it fits").id, "a");
        assert!(parse::<Nothing>("{}").is_ok());
    }
}
