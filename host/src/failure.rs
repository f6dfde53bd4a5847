//! Why something was not done, as every caller is told it: a stable code, a sentence, and what to do next.

use std::fmt;

use serde_json::{Value, json};

use crate::policy::FieldError;

/// A stable, machine-readable word for what went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureCode {
    /// The arguments do not fit.
    InvalidArguments,
    /// The configuration is wrong, for instance about a plugin.
    Configuration,
    /// The policy says no.
    Denied,
    /// No such instance.
    NotFound,
    /// A bounded thing has run out.
    Exhausted,
    /// The engine or the image can't be reached.
    Unavailable,
    /// A deadline passed.
    TimedOut,
    /// PostgreSQL failed.
    Failed,
    /// A defect of the host or of a guest.
    Internal,
}

impl FailureCode {
    /// Every code, in the order in which they are documented.
    pub const ALL: [Self; 9] = [
        Self::InvalidArguments,
        Self::Configuration,
        Self::Denied,
        Self::NotFound,
        Self::Exhausted,
        Self::Unavailable,
        Self::TimedOut,
        Self::Failed,
        Self::Internal,
    ];

    /// The word itself.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArguments => "invalid_arguments",
            Self::Configuration => "configuration",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::Exhausted => "exhausted",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Failed => "failed",
            Self::Internal => "internal",
        }
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// For programs.
    pub code: FailureCode,
    /// The cause, one sentence without a closing stop.
    pub message: String,
    /// What to do next, one sentence; may be empty.
    pub advice: String,
    /// Every problem at once, where the code is [`FailureCode::InvalidArguments`].
    pub fields: Vec<FieldError>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    /// What programs read, over MCP and from the command line alike.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut error = json!({ "code": self.code.as_str(), "message": self.message, "advice": self.advice });
        if !self.fields.is_empty() {
            error["fields"] = self
                .fields
                .iter()
                .map(|FieldError { field, message }| json!({ "field": field, "message": message }))
                .collect();
        }
        json!({ "error": error })
    }

    /// A failure without field errors.
    pub fn new(code: FailureCode, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            advice: advice.into(),
            fields: Vec::new(),
        }
    }

    /// Arguments that don't fit.
    #[must_use]
    pub fn invalid(fields: Vec<FieldError>) -> Self {
        Self {
            code: FailureCode::InvalidArguments,
            message: match fields.as_slice() {
                [] => "the arguments do not fit, and nobody says why".to_owned(),
                fields => crate::policy::join(fields),
            },
            advice: "Correct these arguments and call again.".into(),
            fields,
        }
    }
}

/// The text with control characters escaped: who chose it may have put some in that a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

/// A text without a password, be it as it is or as JSON has it: whoever was told it may quote it.
pub(crate) fn without(text: &str, password: &str) -> String {
    const REDACTED: &str = "[redacted]";
    if password.is_empty() {
        return text.to_owned();
    }
    let in_json = Value::from(password).to_string();
    let in_json = in_json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match in_json.filter(|escaped| *escaped != password) {
        // What stands for it has nothing in it that JSON escapes.
        Some(escaped) => text.replace(escaped, REDACTED).replace(password, REDACTED),
        None => text.replace(password, REDACTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_found_as_it_is_and_as_json_has_it() {
        for (text, password, told) in [
            ("no: s3cret, s3cret", "s3cret", "no: [redacted], [redacted]"),
            ("no: e", "e", "no: [redacted]"),
            ("no: a\"b\n", "a\"b\n", "no: [redacted]"),
            (r#"["X=a\"b\n\\"]"#, "a\"b\n\\", r#"["X=[redacted]"]"#),
        ] {
            assert_eq!(without(text, password), told);
        }
    }
}
