//! What a guest asks the host for in one call: written down without its secrets, or answered from what was written down.

mod values;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

pub(super) use self::values::{Recorded, sql_values};
use crate::failure::Failure;

/// One function of the host that a guest called.
#[derive(Debug, Clone, PartialEq)]
pub struct HostCall {
    /// Interface and function: `instances.create`.
    pub function: String,
    /// Its arguments, an object.
    pub arguments: Value,
    /// What the host answered: a value, or a failure.
    pub answer: Result<Value, Value>,
}

impl fmt::Display for HostCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.function, self.arguments)
    }
}

/// Who answers the calls that are written down.
#[derive(Debug)]
enum Host {
    /// The host itself.
    Real,
    /// A host whose instances are in name only: nothing can be asked of them.
    Pretended,
    /// These, one after the other.
    Replayed(VecDeque<HostCall>),
}

/// What happens in one call of a tool. Clones share it.
#[derive(Debug, Clone)]
pub struct Transcript(Arc<Mutex<Lines>>);

struct Lines {
    host: Host,
    calls: Vec<HostCall>,
    log: Vec<String>,
    /// Each secret that was met, and each placeholder for one, with the word that stands for it here.
    words: Vec<(SecretString, String)>,
    /// What the guest returned, before credentials are filled in.
    outcome: Option<Result<Value, Value>>,
    memory_bytes: usize,
    difference: Option<String>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

impl Transcript {
    fn new(host: Host) -> Self {
        Self(Arc::new(Mutex::new(Lines {
            host,
            calls: Vec::new(),
            log: Vec::new(),
            words: Vec::new(),
            outcome: None,
            memory_bytes: 0,
            difference: None,
        })))
    }

    /// For a call that the host answers as ever.
    #[must_use]
    pub fn of_real_host() -> Self {
        Self::new(Host::Real)
    }

    /// For a call whose manager has an engine that only pretends: no SQL is run, and instances are always well.
    #[must_use]
    pub fn of_pretended_host() -> Self {
        Self::new(Host::Pretended)
    }

    /// For a call that gets these answers, as long as it asks for the same in the same order.
    #[must_use]
    pub fn replaying(calls: Vec<HostCall>) -> Self {
        Self::new(Host::Replayed(calls.into()))
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_pretended(&self) -> bool {
        matches!(self.lines().host, Host::Pretended)
    }

    pub(super) fn is_replayed(&self) -> bool {
        matches!(self.lines().host, Host::Replayed(_))
    }

    /// The answer that was written down for the next call, if that was this one.
    ///
    /// # Errors
    /// What differs; it is kept as well.
    pub(super) fn replay<T: Recorded>(&self, function: &str, arguments: &Value) -> Result<Result<T, Failure>, String> {
        let mut lines = self.lines();
        let Host::Replayed(recorded) = &mut lines.host else {
            return Err("nothing is replayed".into());
        };
        let next = recorded.pop_front();
        let number = lines.calls.len() + 1;
        let answer = match &next {
            Some(next) if next.function == function && next.arguments == *arguments => match &next.answer {
                Ok(value) => T::from_json(value).map(Ok),
                Err(failure) => values::failure_from_json(failure).map(Err),
            }
            .map_err(|reason| format!("call {number}: the recorded answer to {function} makes no sense: {reason}")),
            Some(next) => Err(format!(
                "call {number}: {next} was recorded, now it is {function} {arguments}"
            )),
            None => Err(format!(
                "call {number}: none was recorded, now there is {function} {arguments}"
            )),
        };
        match (&answer, next) {
            (Ok(_), Some(next)) => lines.calls.push(next),
            (Err(difference), _) => lines.difference = Some(difference.clone()),
            _ => {}
        }
        answer
    }

    /// Writes down a call that the host has answered. `secrets` are all that it knows of by now, then what stands for some
    /// of them.
    pub(super) fn write<T: Recorded>(
        &self,
        function: &str,
        arguments: &Value,
        answer: Result<&T, &Failure>,
        secrets: impl IntoIterator<Item = SecretString>,
    ) {
        let mut lines = self.lines();
        for secret in secrets {
            lines.learn(&secret);
        }
        let answer = match answer {
            Ok(value) => Ok(lines.clean(&value.to_json())),
            Err(failure) => Err(lines.clean(&values::failure_to_json(failure))),
        };
        let call = HostCall {
            function: function.to_owned(),
            arguments: lines.clean(arguments),
            answer,
        };
        lines.calls.push(call);
    }

    pub(super) fn write_log(&self, line: String) {
        self.lines().log.push(line);
    }

    /// Writes down how the call ended, and the most memory that the guest had.
    pub(super) fn end(&self, outcome: &Result<String, Failure>, memory_bytes: usize) {
        let mut lines = self.lines();
        let outcome = match outcome {
            Ok(json) => Ok(serde_json::from_str(json).unwrap_or_else(|_| json.as_str().into())),
            Err(failure) => Err(values::failure_to_json(failure)),
        };
        let cleaned = match &outcome {
            Ok(value) => Ok(lines.clean(value)),
            Err(failure) => Err(lines.clean(failure)),
        };
        lines.outcome = Some(cleaned);
        lines.memory_bytes = memory_bytes;
    }

    /// The calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<HostCall> {
        self.lines().calls.clone()
    }

    /// What the guest has written to the log, a line each.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.lines().log.clone()
    }

    /// How the call ended; `None` if it did not return.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<Value, Value>> {
        self.lines().outcome.clone()
    }

    /// The most memory that the guest had, in bytes; 0 if the call did not return.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.lines().memory_bytes
    }

    /// `value` with all secrets of the call replaced.
    #[must_use]
    pub fn clean(&self, value: &Value) -> Value {
        self.lines().clean(value)
    }

    /// The first difference between the call and what was recorded, its end included.
    #[must_use]
    pub fn difference(&self, recorded: &Result<Value, Value>) -> Option<String> {
        let lines = self.lines();
        if let Some(difference) = &lines.difference {
            return Some(difference.clone());
        }
        if let Host::Replayed(left) = &lines.host
            && let Some(next) = left.front()
        {
            let number = lines.calls.len() + 1;
            return Some(format!("call {number}: {next} was recorded, now there is none"));
        }
        let shown = |outcome: &Result<Value, Value>| match outcome {
            Ok(result) => format!("the result {result}"),
            Err(failure) => format!("the failure {failure}"),
        };
        match &lines.outcome {
            Some(outcome) if outcome == recorded => None,
            Some(outcome) => Some(format!(
                "{} was recorded, now it is {}",
                shown(recorded),
                shown(outcome)
            )),
            None => Some(format!("{} was recorded, now there is none", shown(recorded))),
        }
    }
}

impl Lines {
    /// Finds a word for a secret that has none yet. A connection URI with a password in it needs none of its own.
    fn learn(&mut self, secret: &SecretString) {
        let text = secret.expose_secret();
        let is_known = self.words.iter().any(|(known, _)| known.expose_secret() == text);
        if is_known || text.contains("://") && self.cleaned(text) != text {
            return;
        }
        // As long as a placeholder and made of the same characters: it can stand in a URI and in what a schema asks for.
        let word = format!("credential-{:032}", self.words.len() + 1);
        self.words.push((secret.clone(), word));
        // One may be the beginning of another.
        self.words
            .sort_by_key(|(secret, _)| std::cmp::Reverse(secret.expose_secret().len()));
    }

    fn cleaned(&self, text: &str) -> String {
        self.words.iter().fold(text.to_owned(), |text, (secret, word)| {
            text.replace(secret.expose_secret(), word)
        })
    }

    fn clean(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.cleaned(text).into(),
            Value::Array(items) => items.iter().map(|item| self.clean(item)).collect(),
            Value::Object(fields) => {
                let field = |(name, value): (&String, &Value)| (self.cleaned(name), self.clean(value));
                Value::Object(fields.iter().map(field).collect::<Map<_, _>>())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::failure::FailureCode;

    fn secret(text: &str) -> SecretString {
        text.into()
    }

    fn call(function: &str, answer: Value) -> HostCall {
        HostCall {
            function: function.into(),
            arguments: json!({}),
            answer: Ok(answer),
        }
    }

    #[test]
    fn secrets_and_what_stands_for_them_become_words_wherever_they_are() {
        let transcript = Transcript::of_real_host();
        let placeholder = "credential-0123456789abcdef0123456789abcdef";
        let secrets = ["s3cret", "postgresql://me:s3cret@host/db", placeholder].map(secret);
        transcript.write("clock.now", &json!({ "password": "s3cret" }), Ok(&7_u64), secrets);
        transcript.end(
            &Ok(json!({ "dsn": "postgresql://me:s3cret@host/db", "word": placeholder }).to_string()),
            1,
        );
        let (one, two) = (format!("credential-{:032}", 1), format!("credential-{:032}", 2));
        assert_eq!(transcript.calls()[0].arguments, json!({ "password": one }));
        let outcome = transcript.outcome().expect("it ended").expect("a result");
        assert_eq!(
            outcome,
            json!({ "dsn": format!("postgresql://me:{one}@host/db"), "word": two })
        );
        let cleaned = transcript.clean(&json!([{ "s3cret": "a s3cret" }, 1, null]));
        assert_eq!(cleaned, json!([{ (one.clone()): format!("a {one}") }, 1, null]));
    }

    #[test]
    fn a_failure_is_written_down_as_clients_have_it() {
        let transcript = Transcript::of_real_host();
        let failure = Failure::new(FailureCode::NotFound, "it is gone", "Look elsewhere.");
        transcript.write("clock.now", &json!({}), Err::<&u64, _>(&failure), []);
        let written = json!({ "code": "not_found", "message": "it is gone", "advice": "Look elsewhere." });
        assert_eq!(transcript.calls()[0].answer, Err(written));
    }

    #[test]
    fn the_same_calls_in_the_same_order_get_the_recorded_answers() {
        let transcript = Transcript::replaying(vec![call("clock.now", json!(7)), call("instances.drop", json!(null))]);
        let now: Result<u64, Failure> = transcript.replay("clock.now", &json!({})).expect("the same");
        assert_eq!(now, Ok(7));
        let gone: Result<(), Failure> = transcript.replay("instances.drop", &json!({})).expect("the same");
        assert_eq!(gone, Ok(()));
        transcript.end(&Ok("{}".into()), 1);
        assert_eq!(transcript.difference(&Ok(json!({}))), None);
    }

    #[test]
    fn the_first_difference_is_told() {
        let ended = |calls: Vec<HostCall>, asked: &[&str], result: &str| {
            let transcript = Transcript::replaying(calls);
            for function in asked {
                let _ = transcript.replay::<u64>(function, &json!({}));
            }
            transcript.end(&Ok(result.into()), 1);
            transcript.difference(&Ok(json!({ "n": 1 }))).expect("a difference")
        };
        let now = || call("clock.now", json!(7));
        assert_eq!(
            ended(vec![now()], &["sql.query"], "{}"),
            "call 1: clock.now {} was recorded, now it is sql.query {}"
        );
        assert_eq!(
            ended(vec![now()], &["clock.now", "clock.now"], "{}"),
            "call 2: none was recorded, now there is clock.now {}"
        );
        assert_eq!(
            ended(vec![now(), now()], &["clock.now"], r#"{ "n": 1 }"#),
            "call 2: clock.now {} was recorded, now there is none"
        );
        assert_eq!(
            ended(Vec::new(), &[], r#"{ "n": 2 }"#),
            r#"the result {"n":1} was recorded, now it is the result {"n":2}"#
        );
        assert_eq!(
            ended(vec![call("clock.now", json!("soon"))], &["clock.now"], "{}"),
            "call 1: the recorded answer to clock.now makes no sense: invalid type: string \"soon\", expected u64"
        );
    }
}
