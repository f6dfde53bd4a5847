//! What stands for a password or a connection URI with a bundle that may not see it: a word that only the result of the
//! same call can redeem.

use std::collections::HashMap;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// How every placeholder begins; 32 random hexadecimal digits follow.
const PREFIX: &str = "credential-";
/// The length of a placeholder in bytes.
const BYTES: usize = PREFIX.len() + 32;
/// How many placeholders one result may have: what they stand for is longer than they are, and the limit on a result's
/// length is checked before.
const FILLED_MAX: usize = 256;

/// The placeholders of one call.
///
/// They are filled in when the guest has ended, in the one place that the caller alone reads. Before that, in the log
/// and in what the guest passes to the host, they are words like any other. No check of the result comes after: its
/// outcome would tell the guest's next call something about the secret.
#[derive(Default)]
pub(super) struct Placeholders(HashMap<String, SecretString>);

impl Placeholders {
    /// A new word for `secret`.
    pub(super) fn stand_in(&mut self, secret: &str) -> String {
        let placeholder = format!("{PREFIX}{:032x}", rand::random::<u128>());
        self.0.insert(placeholder.clone(), secret.into());
        placeholder
    }

    /// Puts the secrets in their places in all strings of `result`, whole or in part; the names of fields stay.
    ///
    /// # Errors
    /// If there are too many.
    pub(super) fn fill(&self, result: &mut Value) -> Result<(), String> {
        let mut left = FILLED_MAX;
        self.fill_at_most(result, &mut left)
            .ok_or_else(|| format!("the result has more than {FILLED_MAX} credentials"))
    }

    fn fill_at_most(&self, value: &mut Value, left: &mut usize) -> Option<()> {
        match value {
            Value::String(text) => {
                if let Some(filled) = self.filled(text, left)? {
                    *text = filled;
                }
                Some(())
            }
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.fill_at_most(item, left)),
            Value::Object(fields) => fields.values_mut().try_for_each(|field| self.fill_at_most(field, left)),
            Value::Null | Value::Bool(_) | Value::Number(_) => Some(()),
        }
    }

    /// `Some(None)` if there is nothing to fill in.
    #[expect(clippy::option_option, reason = "too many, nothing to do, done")]
    fn filled(&self, text: &str, left: &mut usize) -> Option<Option<String>> {
        let (mut filled, mut rest) = (String::new(), text);
        while let Some(at) = rest.find(PREFIX) {
            let (before, from) = rest.split_at(at);
            filled.push_str(before);
            let known = from.get(..BYTES).and_then(|word| self.0.get(word));
            if let Some(secret) = known {
                *left = left.checked_sub(1)?;
                filled.push_str(secret.expose_secret());
                rest = &from[BYTES..];
            } else {
                filled.push_str(PREFIX);
                rest = &from[PREFIX.len()..];
            }
        }
        if filled.is_empty() {
            return Some(None);
        }
        filled.push_str(rest);
        Some(Some(filled))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(placeholders: &Placeholders, mut value: Value) -> Value {
        placeholders.fill(&mut value).expect("not too many");
        value
    }

    #[test]
    fn secrets_take_the_places_of_their_words_in_strings_wherever_they_stand() {
        let mut placeholders = Placeholders::default();
        let (password, dsn) = (
            placeholders.stand_in("s3cret\"\n"),
            placeholders.stand_in("postgresql://"),
        );
        let result = json!({
            "dsn": dsn,
            "deep": [{ "text": format!("é{password}é {dsn} credential-{password}") }],
            (password.clone()): 1,
        });
        assert_eq!(
            filled(&placeholders, result),
            json!({
                "dsn": "postgresql://",
                "deep": [{ "text": "és3cret\"\né postgresql:// credential-s3cret\"\n" }],
                (password): 1,
            })
        );
    }

    #[test]
    fn words_that_this_call_has_not_given_stay_words() {
        let mut placeholders = Placeholders::default();
        let mine = placeholders.stand_in("s3cret");
        let others = Placeholders::default().stand_in("other");
        for text in [
            others,
            mine[..mine.len() - 1].to_owned(),
            mine.to_uppercase(),
            format!("credential-{}é", "0".repeat(31)),
            "credential-".into(),
            String::new(),
        ] {
            assert_eq!(filled(&placeholders, json!(text)), json!(text));
        }
    }

    #[test]
    fn a_secret_that_looks_like_a_word_is_not_looked_at_again() {
        let mut placeholders = Placeholders::default();
        let first = placeholders.stand_in("s3cret");
        let second = placeholders.stand_in(&first);
        assert_eq!(filled(&placeholders, json!(second)), json!(first));
    }

    #[test]
    fn a_result_cannot_be_blown_up_by_repeating_a_word() {
        let mut placeholders = Placeholders::default();
        let word = placeholders.stand_in("s3cret");
        placeholders
            .fill(&mut json!(word.repeat(256)))
            .expect("as many as there may be");
        let error = placeholders
            .fill(&mut json!([word.repeat(256), word]))
            .expect_err("too many");
        assert_eq!(error, "the result has more than 256 credentials");
    }
}
