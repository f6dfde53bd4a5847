//! A test case: one call of a tool as it went with a real host, for every later build of its bundle to be held against.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::grants::{Grant, Grants};
use super::transcript::HostCall;

/// One call of a tool, without its secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The tool's name.
    pub tool: String,
    /// What it was called with.
    pub arguments: Map<String, Value>,
    /// The bundle's settings.
    pub settings: Map<String, Value>,
    /// What it was granted.
    pub grants: Grants,
    /// What it asked the host for, with the answers.
    pub calls: Vec<HostCall>,
    /// What it returned: a result or a failure.
    pub outcome: Result<Value, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseRecord {
    tool: String,
    arguments: Map<String, Value>,
    settings: Map<String, Value>,
    grants: Vec<String>,
    calls: Vec<CallRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallRecord {
    function: String,
    arguments: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Value>,
}

/// A value and a failure of which one is there; a value that is `null` isn't written.
fn either(value: Option<Value>, failure: Option<Value>) -> Result<Value, Value> {
    match failure {
        Some(failure) => Err(failure),
        None => Ok(value.unwrap_or_default()),
    }
}

fn parts(outcome: &Result<Value, Value>) -> (Option<Value>, Option<Value>) {
    let value = outcome.as_ref().ok().filter(|value| !value.is_null());
    (value.cloned(), outcome.as_ref().err().cloned())
}

impl From<&HostCall> for CallRecord {
    fn from(call: &HostCall) -> Self {
        let (answer, failure) = parts(&call.answer);
        Self {
            function: call.function.clone(),
            arguments: call.arguments.clone(),
            answer,
            failure,
        }
    }
}

impl HostCall {
    /// What programs read.
    #[must_use]
    pub fn to_json(&self) -> Value {
        // Structures of strings and JSON: JSON has them all.
        serde_json::to_value(CallRecord::from(self)).unwrap_or_default()
    }
}

impl Case {
    /// As a file has it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (result, failure) = parts(&self.outcome);
        let record = CaseRecord {
            tool: self.tool.clone(),
            arguments: self.arguments.clone(),
            settings: self.settings.clone(),
            grants: self.grants.iter().map(|grant| grant.as_str().to_owned()).collect(),
            calls: self.calls.iter().map(Into::into).collect(),
            result,
            failure,
        };
        serde_json::to_value(record).unwrap_or_default()
    }

    /// # Errors
    /// If it isn't a case: the reason.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let record: CaseRecord = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let grants = record.grants.iter().map(|name| name.parse::<Grant>());
        let call = |call: CallRecord| HostCall {
            function: call.function,
            arguments: call.arguments,
            answer: either(call.answer, call.failure),
        };
        Ok(Self {
            tool: record.tool,
            arguments: record.arguments,
            settings: record.settings,
            grants: grants
                .collect::<Result<_, _>>()
                .map_err(|error| format!("grants {error}"))?,
            calls: record.calls.into_iter().map(call).collect(),
            outcome: either(record.result, record.failure),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_case_is_read_as_it_is_written() {
        let case = Case {
            tool: "a_tool".into(),
            arguments: Map::new(),
            settings: Map::new(),
            grants: [Grant::Drop, Grant::Sql].into_iter().collect(),
            calls: vec![
                HostCall {
                    function: "instances.drop".into(),
                    arguments: json!({ "id": "x" }),
                    answer: Ok(Value::Null),
                },
                HostCall {
                    function: "sql.execute".into(),
                    arguments: json!({ "id": "x", "script": "SELECT" }),
                    answer: Err(json!({ "code": "not_found", "message": "gone", "advice": "" })),
                },
            ],
            outcome: Ok(json!({ "done": true })),
        };
        let text = case.to_json().to_string();
        assert_eq!(Case::from_json(&text).expect("a case"), case);
        let failed = Case {
            outcome: Err(json!({ "code": "failed" })),
            ..case
        };
        assert_eq!(Case::from_json(&failed.to_json().to_string()).expect("a case"), failed);
    }

    #[test]
    fn what_is_no_case_is_told_with_the_reason() {
        for (text, reason) in [
            ("{}", "missing field `tool`"),
            ("[]", "invalid"),
            ("{\"tool\": \"a\"", "EOF"),
        ] {
            let told = Case::from_json(text).expect_err("no case");
            assert!(told.contains(reason), "{text}: {told}");
        }
    }
}
