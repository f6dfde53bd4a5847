//! What the configuration says: taken key by key, and every mistake told at once. A key that does nothing is one.

use serde_json::{Map, Value};

use crate::bindings::dev_postgres::plugin::types::FieldError;

/// The policy's own settings, which the host has had checked.
#[must_use]
pub fn get() -> String {
    crate::bindings::dev_postgres::plugin::settings::get()
}

/// A JSON object of settings, and what has been found wrong with it so far.
#[derive(Debug)]
pub struct Given {
    values: Map<String, Value>,
    known: Vec<&'static str>,
    problems: Vec<FieldError>,
}

impl Given {
    /// Reads the object. Anything else is one problem, and has no keys.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut given = Self {
            values: Map::new(),
            known: Vec::new(),
            problems: Vec::new(),
        };
        match serde_json::from_str(text) {
            Ok(values) => given.values = values,
            Err(_) => given.refuse("settings", "must be a JSON object"),
        }
        given
    }

    /// Takes a key, if it is there. `must` says what `read` takes, and has to read well after the key: "must be a number".
    pub fn take<T>(&mut self, key: &'static str, must: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        self.known.push(key);
        let read = read(&self.values.remove(key)?);
        if read.is_none() {
            self.refuse(key, must);
        }
        read
    }

    /// Takes a whole number of at least `least` and at most `most`.
    pub fn take_number(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        let expected = format!("must be a whole number from {least} to {most}");
        self.take(key, &expected, |value| {
            value.as_u64().filter(|number| (least..=most).contains(number))
        })
    }

    /// Takes a list of texts.
    pub fn take_texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.take(key, "must be a list of texts", |value| {
            let texts = value.as_array()?.iter().map(Value::as_str);
            texts.map(|text| text.map(str::to_owned)).collect()
        })
    }

    /// Takes an object, as a list of what is in it.
    pub fn take_object(&mut self, key: &'static str) -> Vec<(String, Value)> {
        self.take(key, "must be an object", |value| value.as_object().cloned())
            .unwrap_or_default()
            .into_iter()
            .collect()
    }

    /// Says what is wrong with a field. `message` has to read well after its name.
    pub fn refuse(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push(FieldError {
            field: field.into(),
            message: message.into(),
        });
    }

    /// Gives back what was made of the settings, once every key has been taken.
    ///
    /// # Errors
    /// Every problem, by field; keys that nobody took are among them.
    pub fn finish<T>(mut self, settings: T) -> Result<T, Vec<FieldError>> {
        let known = match self.known.split_last() {
            Some((last, others)) if !others.is_empty() => format!("there are {} and {last}", others.join(", ")),
            Some((only, _)) => format!("there is {only}"),
            None => "there are none".into(),
        };
        for (key, _) in std::mem::take(&mut self.values) {
            self.refuse(key, format!("is unknown: {known}"));
        }
        if self.problems.is_empty() {
            Ok(settings)
        } else {
            Err(self.problems)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let mut given = Given::parse(text);
        given.take_number("number", 1, 9);
        given.take_texts("texts");
        given.take_object("object");
        let problems = given.finish(()).err().unwrap_or_default();
        problems
            .iter()
            .map(|problem| format!("{} {}", problem.field, problem.message))
            .collect()
    }

    #[test]
    fn what_is_there_is_taken_and_what_is_not_is_left_open() {
        let mut given = Given::parse(r#"{ "number": 3, "texts": ["a", "b"], "object": { "c": 4 } }"#);
        assert_eq!(given.take_number("number", 1, 9), Some(3));
        assert_eq!(given.take_number("other", 1, 9), None);
        assert_eq!(given.take_texts("texts"), Some(vec!["a".into(), "b".into()]));
        assert_eq!(given.take_object("object"), [("c".to_owned(), Value::from(4))]);
        assert!(given.finish(()).is_ok());
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        assert_eq!(
            problems(r#"{ "number": 10, "texts": ["a", 1], "object": [], "nmber": 1 }"#),
            [
                "number must be a whole number from 1 to 9",
                "texts must be a list of texts",
                "object must be an object",
                "nmber is unknown: there are number, texts and object",
            ]
        );
        assert_eq!(problems(r#"{ "number": "3" }"#).len(), 1);
    }

    #[test]
    fn what_is_no_object_is_one_error() {
        for settings in ["", "null", "[]", "3", "{", r#"{"a"}"#] {
            assert_eq!(problems(settings), ["settings must be a JSON object"], "{settings:?}");
        }
    }
}
