//! The configuration: ordered sources (default < file < environment < flag) in, domain values out, or every problem.

mod keys;
mod problem;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use self::keys::{BUNDLE, BUNDLE_KEYS, VARIABLE_PREFIX, nearest};
pub use self::keys::{CONFIG_VARIABLE, DEFAULT_TOML, KEYS, Key, reference_markdown};
pub use self::problem::{ConfigError, Origin, Problem, What};
use crate::environment::Environment;
use crate::instance::{Defaults, Image, InvalidValue, Limits};
use crate::ports::PortRange;

/// The longest time that a setting can be: a day. Whatever waits longer has been forgotten.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest name of a bundle in bytes: it stands in log lines and error messages.
pub const BUNDLE_NAME_BYTES_MAX: usize = 40;

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The settings that were given, as they were typed.
    pub settings: Vec<(&'static Key, String)>,
}

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[log]`.
    pub log: Log,
    /// `[docker]`.
    pub docker: Docker,
    /// `[instance]`.
    pub instance: Instances,
    /// `[policy]`.
    pub policy: Component,
    /// `[[bundle]]`: the built-in ones first, then the added ones in the file's order; no two have the same name.
    pub bundles: Vec<Bundle>,
    /// The file that was read; `None` if there is none.
    pub file: Option<PathBuf>,
    /// Every value with where it came from, for people to read.
    pub values: Vec<ShownValue>,
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least grave level that is logged; `None` if nobody has set it and the command may choose.
    pub level: Option<tracing::Level>,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `[docker]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Docker {
    /// As `DOCKER_HOST` has it; `None` to look for it.
    pub host: Option<String>,
    /// The address that instances are published on; `None` to derive it from where Docker is.
    pub publish_address: Option<IpAddr>,
    /// How long pulling an image may take.
    pub pull_timeout: Duration,
}

/// `[instance]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instances {
    /// What the policy is told for requests that leave it open.
    pub defaults: Defaults,
    /// The ports that instances may have.
    pub ports: PortRange,
    /// How long a started instance may take until it answers its first query.
    pub ready_timeout: Duration,
}

/// A WebAssembly component and what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Where its code is.
    pub code: Code,
    /// Its own settings.
    pub settings: ComponentSettings,
}

/// Where a component's code is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// In this program.
    BuiltIn,
    /// In this file.
    File(PathBuf),
}

/// A component's own settings, a JSON object. They may hold secrets: `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ComponentSettings(Map<String, Value>);

impl ComponentSettings {
    /// The object itself: for the component alone.
    #[must_use]
    pub fn expose(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl fmt::Debug for ComponentSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ComponentSettings([redacted])")
    }
}

/// An entry of `[[bundle]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Its name.
    pub name: BundleName,
    /// Its code and settings.
    pub component: Component,
}

/// A bundle's name: 1 to 40 lower-case letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BundleName(String);

impl BundleName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BundleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BundleName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let fits = (1..=BUNDLE_NAME_BYTES_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            return Err(InvalidValue(format!(
                "must be 1 to {BUNDLE_NAME_BYTES_MAX} lower-case letters, digits and hyphens"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A value as `config show` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownValue {
    /// `docker.host`, `policy.settings.max_instances`.
    pub key: String,
    /// The value, redacted where it may be a secret.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

impl Config {
    /// Reads every source.
    ///
    /// # Errors
    /// Every problem of every source at once.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Self, ConfigError> {
        let mut sources = Sources::default();
        sources.read_toml(DEFAULT_TOML, None);
        let (path, required) = match file_location(flags, environment) {
            Some((path, required)) => (Some(path), required),
            None => (None, false),
        };
        let file = path.filter(|path| sources.read_file(path, required));
        sources.read_environment(environment);
        sources.read_flags(flags);
        sources.into_config(file)
    }
}

/// The file that would be read, and whether it was asked for by name and so must be there.
#[must_use]
pub fn file_location(flags: &Flags, environment: &Environment) -> Option<(PathBuf, bool)> {
    let asked = flags
        .file
        .clone()
        .or_else(|| environment.non_empty(CONFIG_VARIABLE).map(PathBuf::from));
    if let Some(path) = asked {
        return Some((path, true));
    }
    let directory = |variable| environment.non_empty(variable).map(PathBuf::from);
    // The XDG specification has relative paths ignored.
    let xdg = directory("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let native = || match std::env::consts::OS {
        "windows" => directory("APPDATA"),
        "macos" => directory("HOME").map(|home| home.join("Library/Application Support")),
        _ => directory("HOME").map(|home| home.join(".config")),
    };
    let path = xdg.or_else(native)?.join("dev-postgres-mcp").join("config.toml");
    Some((path, false))
}

/// A value that one source gave.
#[derive(Debug, Clone)]
struct Given {
    value: Value,
    origin: Origin,
}

/// What all sources have said so far, the later over the earlier.
#[derive(Debug, Default)]
struct Sources {
    values: BTreeMap<&'static str, Given>,
    bundles: Vec<BTreeMap<&'static str, Given>>,
    problems: Vec<Problem>,
}

impl Sources {
    /// Whether the file is there; a missing one is a problem only if it is required.
    fn read_file(&mut self, path: &Path, required: bool) -> bool {
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
    fn read_toml(&mut self, text: &str, path: Option<&Path>) {
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
                    for entry in entries.iter() {
                        self.read_bundle(entry.get_ref(), &origin(entry.span().start), &origin);
                    }
                }
                _ if section == BUNDLE => {
                    self.wrong(at, BUNDLE, "must be an array of tables: write [[bundle]]", None);
                }
                DeValue::Table(table) if KEYS.iter().any(|key| key.section == section) => {
                    let (given, problems) = read_table(section, table, &KEYS, &origin);
                    self.problems.extend(problems);
                    self.values.extend(given);
                }
                DeValue::Table(table) if !table.is_empty() => {
                    for name in table.keys() {
                        let at = origin(name.span().start);
                        self.unknown(at, format!("{section}.{}", name.get_ref()));
                    }
                }
                _ => self.unknown(at, section.to_owned()),
            }
        }
    }

    fn read_bundle(&mut self, entry: &DeValue<'_>, at: &Origin, origin: &dyn Fn(usize) -> Origin) {
        let DeValue::Table(table) = entry else {
            return self.wrong(at.clone(), BUNDLE, "must be an array of tables: write [[bundle]]", None);
        };
        let (mut given, problems) = read_table(BUNDLE, table, &BUNDLE_KEYS, origin);
        self.problems.extend(problems);
        for key in BUNDLE_KEYS.iter() {
            // An entry is read on its own: what it leaves out is empty, whatever the entry that it replaces had.
            let empty = if key.is_table() {
                Value::Object(Map::new())
            } else {
                Value::from("")
            };
            given.entry(&key.path).or_insert_with(|| Given {
                value: empty,
                origin: at.clone(),
            });
        }
        self.bundles.push(given);
    }

    fn read_environment(&mut self, environment: &Environment) {
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

    fn read_flags(&mut self, flags: &Flags) {
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

    fn problem(&mut self, origin: Origin, what: What) {
        self.problems.push(Problem { origin, what });
    }

    fn unknown(&mut self, origin: Origin, name: String) {
        let nearest = nearest(&name, KEYS.iter().map(|key| key.path.as_str())).map(str::to_owned);
        self.problem(origin, What::Unknown { name, nearest });
    }

    fn wrong(&mut self, origin: Origin, key: &str, expected: impl Into<String>, given: Option<String>) {
        let (key, expected) = (key.to_owned(), expected.into());
        self.problem(origin, What::Wrong { key, expected, given });
    }

    /// Parses a value; `None` if that was a problem.
    fn parse<T>(&mut self, path: &str, parse: impl FnOnce(&str) -> Result<T, InvalidValue>) -> Option<T> {
        let given = self.values.get(path)?.clone();
        self.parse_given(path, &given, parse)
    }

    fn parse_given<T>(
        &mut self,
        path: &str,
        given: &Given,
        parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        let text = match &given.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        parse(&text)
            .map_err(|InvalidValue(expected)| self.wrong(given.origin.clone(), path, expected, Some(text)))
            .ok()
    }

    fn into_config(mut self, file: Option<PathBuf>) -> Result<Config, ConfigError> {
        // All are read before any `?` ends it: every problem counts.
        let (log, docker, instance) = (self.log(), self.docker(), self.instance());
        let policy = self.policy();
        let values = self.shown();
        let bundles = self.bundles();
        match (log, docker, instance, policy) {
            (Some(log), Some(docker), Some(instance), Some(policy)) if self.problems.is_empty() => Ok(Config {
                log,
                docker,
                instance,
                policy,
                bundles,
                file,
                values,
            }),
            _ => Err(ConfigError(self.problems)),
        }
    }

    fn log(&mut self) -> Option<Log> {
        let set = self
            .values
            .get("log.level")
            .is_some_and(|given| given.origin != Origin::Default);
        let level = self.parse("log.level", log_level);
        let format = self.parse("log.format", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(InvalidValue("must be text or json".into())),
        });
        Some(Log {
            level: Some(level?).filter(|_| set),
            format: format?,
        })
    }

    fn docker(&mut self) -> Option<Docker> {
        let host = self.parse("docker.host", |text| Ok(non_empty(text).map(str::to_owned)));
        let publish_address = self.parse("docker.publish_address", |text| {
            non_empty(text)
                .map(str::parse)
                .transpose()
                .map_err(|_| InvalidValue("must be an IP address or empty".into()))
        });
        let pull_timeout = self.parse("docker.pull_timeout", duration);
        Some(Docker {
            host: host?,
            publish_address: publish_address?,
            pull_timeout: pull_timeout?,
        })
    }

    fn instance(&mut self) -> Option<Instances> {
        // Each half of a pair is checked with a sound other half, so that each problem has its own key.
        let repository = self.parse("instance.repository", |text| {
            Image::new(text, "17").map(|_| text.to_owned())
        });
        let version = self.parse("instance.version", |text| {
            Image::new("postgres", text).map(|_| text.to_owned())
        });
        let memory_mib = self.parse("instance.memory_mib", |text| {
            let mib = text
                .parse()
                .map_err(|_| InvalidValue("must be a number of MiB".into()))?;
            Limits::new(mib, 1).map(|_| mib)
        });
        let cpu_millis = self.parse("instance.cpus", |text| {
            let millis = cpu_millis(text).ok_or_else(|| InvalidValue("must be a number of cores".into()))?;
            Limits::new(crate::instance::MEMORY_MIB_MIN, millis).map(|_| millis)
        });
        let ports = self.parse("instance.ports", str::parse);
        let ready_timeout = self.parse("instance.ready_timeout", duration);
        let defaults = Defaults {
            image: Image::new(&repository?, &version?).ok()?,
            limits: Limits::new(memory_mib?, cpu_millis?).ok()?,
        };
        Some(Instances {
            defaults,
            ports: ports?,
            ready_timeout: ready_timeout?,
        })
    }

    fn policy(&mut self) -> Option<Component> {
        let component = self.values.get("policy.component")?;
        let settings = self.values.get("policy.settings")?;
        Some(Component {
            code: code(component),
            settings: component_settings(settings),
        })
    }

    /// The built-in bundles, each in place unless an entry has its name, and the added ones.
    fn bundles(&mut self) -> Vec<Bundle> {
        let (mut bundles, mut built_in, mut replaced) = (Vec::<Bundle>::new(), BTreeSet::new(), BTreeSet::new());
        for entry in std::mem::take(&mut self.bundles) {
            let (Some(name), Some(component), Some(settings)) = (
                entry.get("bundle.name"),
                entry.get("bundle.component"),
                entry.get("bundle.settings"),
            ) else {
                continue;
            };
            let at = name.origin.clone();
            let Some(name) = self.parse_given::<BundleName>("bundle.name", name, str::parse) else {
                continue;
            };
            let bundle = Bundle {
                component: Component {
                    code: code(component),
                    settings: component_settings(settings),
                },
                name: name.clone(),
            };
            if at == Origin::Default {
                built_in.insert(name);
                bundles.push(bundle);
                continue;
            }
            if !replaced.insert(name.clone()) {
                self.wrong(
                    at.clone(),
                    "bundle.name",
                    "must not occur twice",
                    Some(name.to_string()),
                );
            }
            if bundle.component.code == Code::BuiltIn && !built_in.contains(&name) {
                let names: Vec<&str> = built_in.iter().map(BundleName::as_str).collect();
                let expected = format!("must be given for {name}: only {} is built in", names.join(", "));
                self.wrong(at, "bundle.component", expected, None);
            }
            match bundles.iter_mut().find(|present| present.name == name) {
                Some(present) => *present = bundle,
                None => bundles.push(bundle),
            }
        }
        bundles
    }

    fn shown(&self) -> Vec<ShownValue> {
        let mut shown = Vec::new();
        for key in KEYS.iter() {
            if let Some(given) = self.values.get(key.path.as_str()) {
                show(key, &key.path, given, &mut shown);
            }
        }
        for (index, entry) in self.bundles.iter().enumerate() {
            let name = |entry: &BTreeMap<_, Given>| entry.get("bundle.name").map(|given| given.value.clone());
            let is_replaced = self
                .bundles
                .iter()
                .skip(index + 1)
                .any(|later| name(later) == name(entry));
            for key in BUNDLE_KEYS.iter().filter(|_| !is_replaced) {
                if let (Some(given), Some(Value::String(name))) = (entry.get(key.path.as_str()), name(entry)) {
                    show(key, &format!("{BUNDLE}.{name}.{}", key.name), given, &mut shown);
                }
            }
        }
        shown
    }
}

fn read_table(
    section: &str,
    table: &DeTable<'_>,
    keys: &'static [Key],
    origin: &dyn Fn(usize) -> Origin,
) -> (BTreeMap<&'static str, Given>, Vec<Problem>) {
    let (mut values, mut problems) = (BTreeMap::new(), Vec::new());
    for (name, value) in table {
        let (path, at) = (format!("{section}.{}", name.get_ref()), origin(name.span().start));
        let Some(key) = keys.iter().find(|key| key.path == path) else {
            let known = keys.iter().chain(KEYS.iter()).map(|key| key.path.as_str());
            let nearest = nearest(&path, known).map(str::to_owned);
            problems.push(Problem {
                origin: at,
                what: What::Unknown { name: path, nearest },
            });
            continue;
        };
        match key.from_toml(value.get_ref()) {
            Ok(value) => {
                values.insert(key.path.as_str(), Given { value, origin: at });
            }
            Err(expected) => {
                let what = What::Wrong {
                    key: path,
                    expected: expected.into(),
                    given: None,
                };
                problems.push(Problem { origin: at, what });
            }
        }
    }
    (values, problems)
}

/// Adds a value to `shown`; a table's leaves one by one.
fn show(key: &Key, path: &str, given: &Given, shown: &mut Vec<ShownValue>) {
    match &given.value {
        Value::Object(table) if !table.is_empty() => {
            for (name, value) in table {
                let given = Given {
                    value: value.clone(),
                    origin: given.origin.clone(),
                };
                show(key, &format!("{path}.{name}"), &given, shown);
            }
        }
        value => shown.push(ShownValue {
            key: path.to_owned(),
            value: if key.is_table() { redact(value) } else { value.clone() },
            origin: given.origin.clone(),
        }),
    }
}

/// Hides the strings of a component's settings. Only the component knows which are secrets, and secrets are strings;
/// numbers and booleans are the limits and switches that people look for.
fn redact(value: &Value) -> Value {
    match value {
        Value::String(_) => Value::from("[set]"),
        Value::Array(items) => items.iter().map(redact).collect(),
        Value::Object(table) => table
            .iter()
            .map(|(name, value)| (name.clone(), redact(value)))
            .collect(),
        harmless => harmless.clone(),
    }
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn log_level(text: &str) -> Result<tracing::Level, InvalidValue> {
    match text {
        "error" => Ok(tracing::Level::ERROR),
        "warn" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        _ => Err(InvalidValue("must be error, warn, info, debug or trace".into())),
    }
}

fn duration(text: &str) -> Result<Duration, InvalidValue> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() && duration <= DURATION_MAX => Ok(duration),
        _ => Err(InvalidValue(
            "must be a time longer than 0 and at most 1 day, such as 90s or 10m".into(),
        )),
    }
}

/// Cores in thousandths; `None` if that is no number of them.
fn cpu_millis(text: &str) -> Option<u32> {
    let millis = (text.parse::<f64>().ok()? * 1000.0).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked before"
    )]
    (0.0..=f64::from(u32::MAX)).contains(&millis).then_some(millis as u32)
}

fn code(component: &Given) -> Code {
    match component.value.as_str().and_then(non_empty) {
        None => Code::BuiltIn,
        Some(path) => Code::File(match &component.origin {
            Origin::File { path: file, .. } => file.parent().unwrap_or(Path::new("")).join(path),
            _ => path.into(),
        }),
    }
}

fn component_settings(settings: &Given) -> ComponentSettings {
    ComponentSettings(settings.value.as_object().cloned().unwrap_or_default())
}
