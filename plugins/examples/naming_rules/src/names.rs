//! What a database is called.

use std::collections::BTreeMap;

use policy_base::FieldError;
use policy_base::plan::{DEFAULT_DATABASE, NAME_BYTES_MAX};
use policy_base::settings::Given;
use regex_lite::Regex;

/// What a prefix may have, so that something of the name is left, in bytes.
const PREFIX_BYTES_MAX: usize = 32;

/// What becomes of a name without its team's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Add,
    Refuse,
}

/// What databases may be called.
#[derive(Debug)]
pub struct Names {
    /// Of whoever isn't named.
    prefix: String,
    prefixes: BTreeMap<String, String>,
    missing: Missing,
    pattern: Option<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    /// As the settings have it.
    text: String,
    /// Of the whole name.
    whole: Regex,
}

/// By itself first: brackets of ours would make something of `)(`.
fn whole(text: &str) -> Result<Regex, regex_lite::Error> {
    Regex::new(text)?;
    Regex::new(&format!("^(?:{text})$"))
}

impl Names {
    /// Takes the keys `prefix`, `prefixes`, `missing_prefix` and `pattern`.
    pub(crate) fn take(given: &mut Given) -> Self {
        let must = format!("must be a text of at most {PREFIX_BYTES_MAX} bytes without NUL");
        let text = |value: &serde_json::Value| {
            let text = value.as_str()?;
            (text.len() <= PREFIX_BYTES_MAX && !text.contains('\0')).then(|| text.to_owned())
        };
        let prefix = given.take("prefix", &must, text).unwrap_or_default();
        let mut prefixes = BTreeMap::new();
        for (team, value) in given.take_object("prefixes") {
            match text(&value) {
                Some(prefix) => {
                    prefixes.insert(team, prefix);
                }
                None => given.refuse(format!("prefixes.{team}"), &must),
            }
        }
        let missing = given.take("missing_prefix", "must be \"add\" or \"refuse\"", |value| {
            match value.as_str()? {
                "add" => Some(Missing::Add),
                "refuse" => Some(Missing::Refuse),
                _ => None,
            }
        });
        let text = given.take("pattern", "must be a text", |value| value.as_str().map(str::to_owned));
        let pattern = text.and_then(|text| match whole(&text) {
            Ok(whole) => Some(Pattern { text, whole }),
            Err(error) => {
                given.refuse("pattern", format!("must be a regular expression: {error}"));
                None
            }
        });
        Self {
            prefix,
            prefixes,
            missing: missing.unwrap_or(Missing::Add),
            pattern,
        }
    }

    /// The name that a database is given by this team. Whoever names none is given the usual one, with the prefix.
    ///
    /// # Errors
    /// If the name that was asked for can't be had.
    pub(crate) fn name(&self, team: Option<&str>, asked: Option<&str>) -> Result<String, FieldError> {
        let prefix = team
            .and_then(|team| self.prefixes.get(team))
            .unwrap_or(&self.prefix)
            .as_str();
        let refuse = |message: String| FieldError {
            field: "database".into(),
            message,
        };
        let base = asked.unwrap_or(DEFAULT_DATABASE);
        let name = if base.is_empty() || base.starts_with(prefix) {
            base.to_owned()
        } else if asked.is_some() && self.missing == Missing::Refuse {
            return Err(refuse(format!("must start with {prefix}")));
        } else {
            format!("{prefix}{base}")
        };
        if name.len() > NAME_BYTES_MAX && base.len() <= NAME_BYTES_MAX {
            return Err(refuse(format!(
                "must have at most {NAME_BYTES_MAX} bytes with {prefix} before it, has {}",
                name.len()
            )));
        }
        match &self.pattern {
            Some(pattern) if !pattern.whole.is_match(&name) => Err(refuse(if name == base {
                format!("must match {}", pattern.text)
            } else {
                format!("must match {} with {prefix} before it", pattern.text)
            })),
            _ => Ok(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(settings: &str) -> Result<Names, Vec<String>> {
        let mut given = Given::parse(settings);
        let names = Names::take(&mut given);
        given
            .finish(names)
            .map_err(|problems| problems.into_iter().map(|problem| problem.field).collect())
    }

    fn name(settings: &str, team: Option<&str>, asked: Option<&str>) -> Result<String, String> {
        names(settings)
            .expect("they fit")
            .name(team, asked)
            .map_err(|problem| format!("{} {}", problem.field, problem.message))
    }

    const TEAMS: &str = r#"{ "prefix": "x_", "prefixes": { "web": "web_", "free": "" } }"#;

    #[test]
    fn a_prefix_is_added_where_it_is_missing() {
        for (team, asked, given) in [
            (Some("web"), Some("shop"), "web_shop"),
            (Some("web"), Some("web_shop"), "web_shop"),
            (Some("web"), None, "web_postgres"),
            (Some("mail"), Some("box"), "x_box"),
            (Some("free"), Some("box"), "box"),
            (None, Some("web_shop"), "x_web_shop"),
        ] {
            assert_eq!(name(TEAMS, team, asked), Ok(given.into()), "{team:?} {asked:?}");
        }
        assert_eq!(name("{}", None, None), Ok("postgres".into()));
    }

    #[test]
    fn or_a_name_without_it_is_refused() {
        let settings = r#"{ "prefixes": { "web": "web_" }, "missing_prefix": "refuse" }"#;
        assert_eq!(
            name(settings, Some("web"), Some("shop")),
            Err("database must start with web_".into())
        );
        assert_eq!(name(settings, Some("web"), Some("web_shop")), Ok("web_shop".into()));
        assert_eq!(
            name(settings, Some("web"), None),
            Ok("web_postgres".into()),
            "nobody has asked for another"
        );
    }

    #[test]
    fn a_pattern_is_of_the_whole_name_as_it_is_built() {
        let settings = r#"{ "prefix": "web_", "pattern": "[a-z_]+|X" }"#;
        assert_eq!(name(settings, None, Some("shop")), Ok("web_shop".into()));
        assert_eq!(
            name(settings, None, Some("Shop")),
            Err("database must match [a-z_]+|X with web_ before it".into())
        );
        assert_eq!(
            name(settings, None, Some("web_2\n")),
            Err("database must match [a-z_]+|X".into())
        );
        assert_eq!(
            name(r#"{ "pattern": "[a-z]{12}" }"#, None, None),
            Err("database must match [a-z]{12}".into()),
            "whoever names none has to"
        );
    }

    #[test]
    fn a_name_that_gets_too_long_is_refused_and_what_nobody_can_have_is_left_to_the_base() {
        assert_eq!(
            name(TEAMS, Some("web"), Some(&"y".repeat(60))),
            Err("database must have at most 63 bytes with web_ before it, has 64".into())
        );
        assert_eq!(
            name(TEAMS, Some("web"), Some(&"y".repeat(64))).map(|name| name.len()),
            Ok(68)
        );
        assert_eq!(name(TEAMS, Some("web"), Some("")), Ok(String::new()));
    }

    #[test]
    fn every_wrong_setting_is_named() {
        let long = "y".repeat(33);
        let settings = format!(
            r#"{{ "prefix": 1, "prefixes": {{ "web": "{long}", "mail": "m" }}, "missing_prefix": "no", "pattern": "(",
                 "patern": "" }}"#
        );
        assert_eq!(
            names(&settings).map(drop),
            Err(["prefix", "prefixes.web", "missing_prefix", "pattern", "patern"]
                .map(str::to_owned)
                .to_vec())
        );
        names(r#"{ "pattern": ")(" }"#).expect_err("it is none by itself");
    }
}
