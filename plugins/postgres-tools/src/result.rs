//! From a tool's result to the JSON that the host passes on.

use serde::Serialize;

use crate::bindings::dev_postgres::plugin::types::{Failure, FailureCode};

/// # Errors
/// If `result` can't be written as JSON: a defect of this bundle.
pub(crate) fn write(result: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(result).map_err(|error| Failure {
        code: FailureCode::Internal,
        message: format!("the tool's result could not be written as JSON: {error}"),
        advice: String::new(),
        fields: Vec::new(),
    })
}
