//! Reads every source of settings, the later over the earlier, and checks that it names settings that there are.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::Flags;
use super::keys::{BUNDLE, BUNDLE_KEYS, CONFIG_VARIABLE, KEYS, Key, POLICY, TEAMS, VARIABLE_PREFIX, nearest, path};
use super::problem::{Origin, Problem, What};
use crate::environment::Environment;

/// A value that one source gave.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// An entry of `[[bundle]]`: every key of [`BUNDLE_KEYS`] by its path.
#[derive(Debug, Clone)]
pub(super) struct GivenBundle(BTreeMap<&'static str, Given>);

impl GivenBundle {
    /// `name` is the key's in the table.
    pub(super) fn get(&self, name: &str) -> Option<&Given> {
        self.0.get(path(BUNDLE, name).as_str())
    }

    /// Where its name is, which is where the entry is if it has none.
    pub(super) fn at(&self) -> Origin {
        self.get("name").map_or(Origin::Default, |given| given.origin.clone())
    }

    pub(super) fn name(&self) -> &str {
        self.get("name")
            .and_then(|given| given.value.as_str())
            .unwrap_or_default()
    }
}

/// A table `[teams.NAME]`: every key of `[policy]` by its name there.
#[derive(Debug, Clone)]
pub(super) struct GivenTeam {
    pub(super) name: String,
    pub(super) at: Origin,
    pub(super) values: BTreeMap<&'static str, Given>,
}

/// What all sources have said so far, the later over the earlier.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) values: BTreeMap<&'static str, Given>,
    pub(super) bundles: Vec<GivenBundle>,
    pub(super) teams: Vec<GivenTeam>,
    pub(super) problems: Vec<Problem>,
}

impl Sources {
    /// Whether the file is there; a missing one is a problem only if it is required.
    pub(super) fn read_file(&mut self, path: &Path, required: bool) -> bool {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                self.read_toml(&text, Some(path));
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => false,
            Err(error) => {
                let origin = Origin::File {
                    path: path.to_owned(),
                    line: None,
                };
                self.problem(origin, What::Unreadable(format!("can't be read: {error}")));
                false
            }
        }
    }

    /// `path` is `None` for the built-in defaults.
    pub(super) fn read_toml(&mut self, text: &str, path: Option<&Path>) {
        let origin = |offset: usize| match path {
            None => Origin::Default,
            Some(path) => Origin::File {
                path: path.to_owned(),
                line: Some(1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()),
            },
        };
        let document = match DeTable::parse(text) {
            Ok(document) => document,
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                return self.problem(
                    origin(at),
                    What::Unreadable(format!("is not TOML: {}", error.message())),
                );
            }
        };
        for (section, value) in document.get_ref() {
            let at = origin(section.span().start);
            let section = section.get_ref().as_ref();
            match value.get_ref() {
                DeValue::Array(entries) if section == BUNDLE => {
                    for entry in entries {
                        self.read_bundle(entry.get_ref(), &origin(entry.span().start), &origin);
                    }
                }
                _ if section == BUNDLE => {
                    self.wrong(at, BUNDLE, "must be an array of tables: write [[bundle]]", None);
                }
                DeValue::Table(teams) if section == TEAMS => {
                    for (name, team) in teams {
                        self.read_team(name.get_ref(), team.get_ref(), origin(name.span().start), &origin);
                    }
                }
                _ if section == TEAMS => {
                    self.wrong(at, TEAMS, "must be tables: write [teams.NAME]", None);
                }
                DeValue::Table(table) if KEYS.iter().any(|key| key.section == section) => {
                    let given = self.read_table(section, table, &KEYS, &origin);
                    self.values.extend(given);
                }
                value if KEYS.iter().any(|key| key.section.is_empty() && key.name == section) => {
                    let given = self.read_value("", section, value, at, &KEYS);
                    self.values.extend(given);
                }
                DeValue::Table(table) if !table.is_empty() => {
                    for name in table.keys() {
                        let at = origin(name.span().start);
                        self.unknown(at, format!("{section}.{}", name.get_ref()), &[]);
                    }
                }
                _ => self.unknown(at, section.to_owned(), &[]),
            }
        }
    }

    fn read_bundle(&mut self, entry: &DeValue<'_>, at: &Origin, origin: &dyn Fn(usize) -> Origin) {
        let DeValue::Table(table) = entry else {
            return self.wrong(at.clone(), BUNDLE, "must be an array of tables: write [[bundle]]", None);
        };
        let mut given = self.read_table(BUNDLE, table, &BUNDLE_KEYS, origin);
        self.grant_what_is_needed(&mut given);
        // An entry is read on its own: what it leaves out is empty, whatever the entry that it replaces had.
        for key in BUNDLE_KEYS.iter() {
            given.entry(&key.path).or_insert_with(|| Given {
                value: key.empty(),
                origin: at.clone(),
            });
        }
        self.bundles.push(GivenBundle(given));
    }

    fn read_team(&mut self, name: &str, value: &DeValue<'_>, at: Origin, origin: &dyn Fn(usize) -> Origin) {
        let team = path(TEAMS, name);
        let DeValue::Table(table) = value else {
            return self.wrong(at, &team, "must be a table: write [teams.NAME]", None);
        };
        let keys = || KEYS.iter().filter(|key| key.section == POLICY);
        let default = |key: &'static Key| {
            let (value, origin) = (key.default.clone(), at.clone());
            (key.name, Given { value, origin })
        };
        let mut values: BTreeMap<_, _> = keys().map(default).collect();
        for (name, value) in table {
            let (origin, path) = (origin(name.span().start), path(&team, name.get_ref()));
            let Some(key) = keys().find(|key| key.name == name.get_ref()) else {
                let nearest = nearest(name.get_ref(), keys().map(|key| key.name));
                let nearest = nearest.map(|nearest| format!("{team}.{nearest}"));
                self.problem(origin, What::Unknown { name: path, nearest });
                continue;
            };
            match key.from_toml(value.get_ref()) {
                Ok(value) => {
                    values.insert(key.name, Given { value, origin });
                }
                Err(expected) => self.wrong(origin, &path, expected, None),
            }
        }
        let name = name.to_owned();
        self.teams.push(GivenTeam { name, at, values });
    }

    /// A built-in bundle has the grants of its own entry unless another names some.
    fn grant_what_is_needed(&self, given: &mut BTreeMap<&'static str, Given>) {
        let value = |path| given.get(path).and_then(|given: &Given| given.value.as_str());
        if !value("bundle.component").unwrap_or_default().is_empty() || given.contains_key("bundle.grants") {
            return;
        }
        let name = value("bundle.name");
        let built_in = self
            .bundles
            .iter()
            .find(|bundle| bundle.at() == Origin::Default && Some(bundle.name()) == name);
        if let Some(grants) = built_in.and_then(|bundle| bundle.get("grants")) {
            given.insert("bundle.grants", grants.clone());
        }
    }

    fn read_table(
        &mut self,
        section: &str,
        table: &DeTable<'_>,
        keys: &'static [Key],
        origin: &dyn Fn(usize) -> Origin,
    ) -> BTreeMap<&'static str, Given> {
        let mut values = BTreeMap::new();
        for (name, value) in table {
            let at = origin(name.span().start);
            values.extend(self.read_value(section, name.get_ref(), value.get_ref(), at, keys));
        }
        values
    }

    fn read_value(
        &mut self,
        section: &str,
        name: &str,
        value: &DeValue<'_>,
        origin: Origin,
        keys: &'static [Key],
    ) -> Option<(&'static str, Given)> {
        let path = path(section, name);
        let Some(key) = keys.iter().find(|key| key.path == path) else {
            self.unknown(origin, path, keys);
            return None;
        };
        match key.from_toml(value) {
            Ok(value) => return Some((key.path.as_str(), Given { value, origin })),
            Err(expected) => self.wrong(origin, &path, expected, None),
        }
        None
    }

    pub(super) fn read_environment(&mut self, environment: &Environment) {
        for (name, value) in environment.iter() {
            let name = name.to_string_lossy();
            if !name.starts_with(VARIABLE_PREFIX) || name == CONFIG_VARIABLE {
                continue;
            }
            let origin = Origin::Variable(name.to_string());
            match (KEYS.iter().find(|key| key.variable == name), value.to_str()) {
                (Some(key), Some(text)) => self.read_text(key, text, origin),
                (Some(key), None) => self.wrong(origin, &key.path, "must be UTF-8", None),
                (None, _) => {
                    let variables = KEYS.iter().map(|key| key.variable.as_str()).chain([CONFIG_VARIABLE]);
                    // The common prefix would make every variable alike.
                    let bare = |name: &str| name.strip_prefix(VARIABLE_PREFIX).unwrap_or_default().to_owned();
                    let bare_variables: Vec<String> = variables.map(bare).collect();
                    let nearest = nearest(&bare(&name), bare_variables.iter().map(String::as_str))
                        .map(|nearest| format!("{VARIABLE_PREFIX}{nearest}"));
                    let name = "such setting".to_owned();
                    self.problem(origin, What::Unknown { name, nearest });
                }
            }
        }
    }

    pub(super) fn read_flags(&mut self, flags: &Flags) {
        for (key, text) in &flags.settings {
            self.read_text(key, text, Origin::Flag(key.flag.clone()));
        }
    }

    fn read_text(&mut self, key: &'static Key, text: &str, origin: Origin) {
        match key.from_text(text) {
            Ok(value) => {
                self.values.insert(&key.path, Given { value, origin });
            }
            Err(expected) => {
                let given = (!key.is_table()).then(|| text.to_owned());
                self.wrong(origin, &key.path, expected, given);
            }
        }
    }

    pub(super) fn problem(&mut self, origin: Origin, what: What) {
        self.problems.push(Problem { origin, what });
    }

    /// `expected` are the keys that could have been meant first of all.
    fn unknown(&mut self, origin: Origin, name: String, expected: &[Key]) {
        let known = expected.iter().chain(KEYS.iter()).map(|key| key.path.as_str());
        let nearest = nearest(&name, known).map(str::to_owned);
        self.problem(origin, What::Unknown { name, nearest });
    }

    pub(super) fn wrong(&mut self, origin: Origin, key: &str, expected: impl Into<String>, given: Option<String>) {
        let (key, expected) = (key.to_owned(), expected.into());
        self.problem(origin, What::Wrong { key, expected, given });
    }
}
