//! Which settings there are: the keys of `default.toml`, with their kinds, defaults and meanings.

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde_json::{Map, Number, Value};
use toml::de::{DeTable, DeValue};

/// The built-in configuration: the one list of settings, and their documentation.
pub const DEFAULT_TOML: &str = include_str!("../default.toml");
/// What the names of all our environment variables begin with.
pub(super) const VARIABLE_PREFIX: &str = "DEV_POSTGRES_MCP_";
/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "DEV_POSTGRES_MCP_CONFIG";
/// The section that is an array of tables, which only a file can hold.
pub(super) const BUNDLE: &str = "bundle";
/// The section of the rules that hold where no team is chosen.
pub(super) const POLICY: &str = "policy";
/// The section with a table for each team, which only a file can hold.
pub(super) const TEAMS: &str = "teams";

/// How alike two names must be, from 0 to 1, for one to be suggested for the other.
const LIKENESS_MIN: f64 = 0.6;

/// Every setting that file, environment and command line can give, in the order of `default.toml`.
pub static KEYS: LazyLock<Vec<Key>> =
    LazyLock::new(|| keys().into_iter().filter(|key| key.section != BUNDLE).collect());
/// What an entry of `[[bundle]]` may hold.
pub(super) static BUNDLE_KEYS: LazyLock<Vec<Key>> =
    LazyLock::new(|| keys().into_iter().filter(|key| key.section == BUNDLE).collect());

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Its table in the file; empty for one that stands above all tables.
    pub section: &'static str,
    /// Its name in that table.
    pub name: &'static str,
    /// Section and name: `docker.host`; the name alone above all sections.
    pub path: String,
    /// The environment variable: `DEV_POSTGRES_MCP_DOCKER_HOST`.
    pub variable: String,
    /// The command-line option without its hyphens: `docker-host`.
    pub flag: String,
    /// What it is for: the comment in `default.toml`.
    pub meaning: String,
    /// Its default; the type is the type that a file must give.
    pub default: Value,
}

/// What kind of value a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Decimal,
    Boolean,
    List,
    Table,
}

impl Key {
    fn kind(&self) -> Kind {
        match &self.default {
            Value::Number(number) if number.is_f64() => Kind::Decimal,
            Value::Number(_) => Kind::Integer,
            Value::Bool(_) => Kind::Boolean,
            Value::Array(_) => Kind::List,
            Value::Object(_) => Kind::Table,
            _ => Kind::Text,
        }
    }

    /// Whether components read it, not the host.
    #[must_use]
    pub fn is_table(&self) -> bool {
        self.kind() == Kind::Table
    }

    /// Takes a value from a file.
    ///
    /// # Errors
    /// What is expected, where the value is of another type.
    pub fn from_toml(&self, value: &DeValue<'_>) -> Result<Value, &'static str> {
        match (self.kind(), value) {
            (Kind::Text, DeValue::String(_))
            | (Kind::Integer, DeValue::Integer(_))
            | (Kind::Decimal, DeValue::Float(_) | DeValue::Integer(_))
            | (Kind::Boolean, DeValue::Boolean(_))
            | (Kind::List, DeValue::Array(_))
            | (Kind::Table, DeValue::Table(_)) => to_json(value).ok_or(self.expected()),
            // Not converted: `version = 16.10` would silently become 16.1.
            (Kind::Text, _) => Err("must be a string: put it in quotes"),
            _ => Err(self.expected()),
        }
    }

    /// Takes a value from the environment or the command line.
    ///
    /// # Errors
    /// What is expected, where the text is something else.
    pub fn from_text(&self, text: &str) -> Result<Value, &'static str> {
        match self.kind() {
            Kind::Text => Some(Value::from(text)),
            Kind::Integer => text.parse::<i64>().ok().map(Value::from),
            Kind::Decimal => text.parse().ok().and_then(Number::from_f64).map(Value::Number),
            Kind::Boolean => text.parse().ok().map(Value::Bool),
            Kind::List => serde_json::from_str(text).ok().map(Value::Array),
            Kind::Table => {
                return serde_json::from_str::<Map<_, _>>(text)
                    .map(Value::Object)
                    .map_err(|_| "must be a JSON object");
            }
        }
        .ok_or(self.expected())
    }

    /// What it is where nobody gives it and there is no default.
    pub(super) fn empty(&self) -> Value {
        match self.kind() {
            Kind::Table => Value::Object(Map::new()),
            Kind::List => Value::Array(Vec::new()),
            _ => Value::from(""),
        }
    }

    fn expected(&self) -> &'static str {
        match self.kind() {
            Kind::Text => "must be a string",
            Kind::Integer => "must be a whole number",
            Kind::Decimal => "must be a number",
            Kind::Boolean => "must be true or false",
            Kind::List => "must be a list",
            Kind::Table => "must be a table of values that JSON has too",
        }
    }
}

/// The JSON that says the same; `None` for numbers that JSON doesn't have.
pub(super) fn to_json(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(integer) => Value::from(i64::from_str_radix(integer.as_str(), integer.radix()).ok()?),
        DeValue::Float(float) => Value::Number(Number::from_f64(float.as_str().parse().ok()?)?),
        DeValue::Boolean(boolean) => Value::from(*boolean),
        DeValue::Datetime(moment) => Value::from(moment.to_string()),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| to_json(item.get_ref()))
                .collect::<Option<_>>()?,
        ),
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(name, value)| Some((name.get_ref().to_string(), to_json(value.get_ref())?)))
                .collect::<Option<_>>()?,
        ),
    })
}

/// The candidate most like `name`, if one is like it at all.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A right name in a wrong section is a near miss as well: the last parts are compared on their own, too.
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    candidates
        .map(|candidate| {
            let whole = strsim::normalized_damerau_levenshtein(name, candidate);
            let part = strsim::normalized_damerau_levenshtein(&last(name), &last(candidate));
            (candidate, whole.max(part), whole)
        })
        .filter(|(_, likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(_, a, a_whole), (_, b, b_whole)| a.total_cmp(b).then(a_whole.total_cmp(b_whole)))
        .map(|(candidate, ..)| candidate)
}

/// The settings as a Markdown table, for the README.
#[must_use]
pub fn reference_markdown() -> String {
    let mut out = String::from("| Setting | Default | Environment variable | Meaning |\n|---|---|---|---|\n");
    for key in keys() {
        let variable = match key.section {
            BUNDLE => "(file only)".to_owned(),
            _ => format!("`{}`", key.variable),
        };
        let path = key
            .path
            .replacen(BUNDLE, "[[bundle]]", usize::from(key.section == BUNDLE));
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "| `{path}` | `{}` | {variable} | {} |",
            key.default,
            key.meaning.replace('|', "\\|")
        );
    }
    out
}

/// How a setting is called; `section` is empty for one that stands above all tables.
pub(super) fn path(section: &str, name: &str) -> String {
    match section {
        "" => name.to_owned(),
        _ => format!("{section}.{name}"),
    }
}

/// Reads [`DEFAULT_TOML`] line by line: a TOML parser has no word of the comments.
#[expect(clippy::expect_used, reason = "the text is compiled in and read by every test")]
fn keys() -> Vec<Key> {
    let document = DeTable::parse(DEFAULT_TOML).expect("default.toml is TOML");
    let (mut section, mut comment, mut keys) = ("", Vec::new(), Vec::new());
    for line in DEFAULT_TOML.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
        } else if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            comment.clear();
        } else if let Some((name, _)) = line.split_once(" = ") {
            let root = document.get_ref();
            let value = match section {
                "" => &root[name],
                BUNDLE => &root[section].get_ref()[0].get_ref()[name],
                _ => &root[section].get_ref()[name],
            };
            let path = path(section, name);
            keys.push(Key {
                section,
                name,
                variable: format!("{VARIABLE_PREFIX}{}", path.replace('.', "_")).to_ascii_uppercase(),
                flag: path.replace(['.', '_'], "-"),
                path,
                meaning: std::mem::take(&mut comment).join(" "),
                default: to_json(value.get_ref()).expect("defaults are values that JSON has too"),
            });
        } else {
            comment.clear();
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_meaning_and_is_found_in_the_document() {
        assert_eq!((KEYS.len(), BUNDLE_KEYS.len()), (26, 7));
        for key in KEYS.iter().chain(BUNDLE_KEYS.iter()) {
            assert!(key.meaning.ends_with('.'), "{}: {:?}", key.path, key.meaning);
        }
    }

    #[test]
    fn the_nearest_name_is_found_in_another_section_too_and_nothing_is_like_nonsense() {
        let known = || KEYS.iter().map(|key| key.path.as_str());
        for (name, meant) in [
            ("docker.hots", Some("docker.host")),
            ("docker.memory_mib", Some("instance.memory_mib")),
            ("instances.cpus", Some("instance.cpus")),
            ("level", Some("log.level")),
            ("qqq.zzz", None),
        ] {
            assert_eq!(nearest(name, known()), meant, "{name}");
        }
    }

    #[test]
    fn the_reference_lists_every_setting() {
        insta::assert_snapshot!(reference_markdown());
    }
}
