//! The configuration: ordered sources (default < file < environment < flag) in, domain values out, or every problem.

mod keys;
mod problem;
mod shown;
mod sources;
mod values;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

pub use self::keys::{CONFIG_VARIABLE, DEFAULT_TOML, KEYS, Key, reference_markdown};
pub use self::problem::{ConfigError, Origin, Problem, What};
pub use self::shown::ShownValue;
use self::sources::Sources;
use crate::artifact::lock;
use crate::artifact::reference::Reference;
use crate::digest::Digest;
use crate::environment::Environment;
use crate::instance::{Defaults, EngineKind, InvalidValue, TeamName};
use crate::metrics::LoopbackAddress;
use crate::plugins::bundle::Terms;
use crate::policy::changes::Changes;
use crate::ports::PortRange;

/// The longest time that a setting can be: a day. Whatever waits longer has been forgotten.
pub const DURATION_MAX: Duration = Duration::from_hours(24);
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
    /// `engine`.
    pub engine: Engine,
    /// `metrics`.
    pub metrics: Option<LoopbackAddress>,
    /// `[log]`.
    pub log: Log,
    /// `[docker]`.
    pub docker: Docker,
    /// `[local]`.
    pub local: Local,
    /// `[instance]`.
    pub instance: Instances,
    /// `[pool]`.
    pub pool: Pool,
    /// The rules that hold: `[policy]`, or those of `team`.
    pub policy: Policy,
    /// `team`: for whom this process works.
    pub team: Option<TeamName>,
    /// `[policy]` and each `[teams.NAME]` whose rules don't hold.
    pub other_policies: Vec<Policy>,
    /// `[plugins]`.
    pub plugins: Plugins,
    /// `[[bundle]]`: the built-in ones first, then the added ones in the file's order; no two have the same name.
    pub bundles: Vec<Bundle>,
    /// Where compiled components are kept; `None` if there is no home to derive it from.
    pub cache_dir: Option<PathBuf>,
    /// Where pulled components are kept; `None` if there is no home to derive it from.
    pub store_dir: Option<PathBuf>,
    /// The lock file, beside the configuration file or where that would be; `None` if there is no home for either.
    pub lock_file: Option<PathBuf>,
    /// The file that was read; `None` if there is none.
    pub file: Option<PathBuf>,
    /// Every value with where it came from, for people to read.
    pub values: Vec<ShownValue>,
}

/// `engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Docker if it answers, else the local engine.
    Auto,
    /// This one, whether it works or not.
    Only(EngineKind),
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

/// `[local]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Where to look for server programs first.
    pub bin_dirs: Vec<PathBuf>,
    /// Where instances are kept; `None` if there is no home to derive it from.
    pub state_dir: Option<PathBuf>,
    /// Whom servers run as where this process is root's; `None` to choose.
    pub user: Option<String>,
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
    /// What becomes of instances without a time to live when the MCP server that made them ends.
    pub on_exit: OnExit,
}

/// `instance.on_exit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// They are dropped.
    Drop,
    /// They stay until somebody drops them.
    Keep,
}

/// The most servers that may wait for each version: each takes a port and some 40 MiB.
pub const POOL_SIZE_MAX: usize = 16;

/// `[pool]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// How many servers of each version wait, [`POOL_SIZE_MAX`] at most.
    pub size: usize,
}

/// `[policy]`, or a table `[teams.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How the configuration calls it: `policy`, `teams.NAME`.
    pub name: String,
    /// Its code and settings.
    pub component: Component,
    /// What becomes of what it denies.
    pub mode: Mode,
    /// What it may make something else of than was asked for.
    pub may_change: Changes,
}

/// `policy.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is not done.
    Enforce,
    /// It is done all the same, and told.
    Monitor,
}

impl Mode {
    /// As the configuration has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Monitor => "monitor",
        }
    }
}

/// `[plugins]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins {
    /// A folder whose files are bundles; `None` if there is none.
    pub dir: Option<PathBuf>,
}

/// A WebAssembly component and what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Where its code is.
    pub code: Code,
    /// What its code must be.
    pub sha256: Option<Digest>,
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
    /// In a registry.
    Artifact(Reference),
    /// In the file of its name in the folder `plugins.dir`, whenever there is one.
    Folder,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File(path) => path.display().fmt(f),
            Self::Artifact(reference) => reference.fmt(f),
            Self::Folder => f.write_str("in plugins.dir"),
        }
    }
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
    /// On what terms it is taken in.
    pub terms: Terms,
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
        let lock_file = path.as_ref().map(|path| path.with_file_name(lock::NAME));
        let file = path.filter(|path| sources.read_file(path, required));
        sources.read_environment(environment);
        sources.read_flags(flags);
        sources.into_config(file, lock_file, environment)
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
    let path = xdg(environment, "XDG_CONFIG_HOME")
        .or_else(|| native(environment, "APPDATA", "Library/Application Support", ".config"))?
        .join("dev-postgres-mcp")
        .join("config.toml");
    Some((path, false))
}

/// Where what can be had again is kept.
fn cache_home(environment: &Environment) -> Option<PathBuf> {
    let place = xdg(environment, "XDG_CACHE_HOME")
        .or_else(|| native(environment, "LOCALAPPDATA", "Library/Caches", ".cache"))?;
    Some(place.join("dev-postgres-mcp"))
}

/// Where the local engine keeps its instances unless it is told.
fn default_state_dir(environment: &Environment) -> Option<PathBuf> {
    let place = xdg(environment, "XDG_STATE_HOME")
        // Servers run as another user, who has no way into root's home.
        .or_else(|| crate::engine::local::is_root().then(|| PathBuf::from("/var/lib")))
        .or_else(|| {
            native(
                environment,
                "LOCALAPPDATA",
                "Library/Application Support",
                ".local/state",
            )
        })?;
    Some(place.join("dev-postgres-mcp"))
}

/// A folder as the XDG specification has it, which has relative paths ignored.
fn xdg(environment: &Environment, variable: &str) -> Option<PathBuf> {
    let folder = environment.non_empty(variable).map(PathBuf::from);
    folder.filter(|path| path.is_absolute())
}

/// A folder where the platform itself has such things: that of a variable on Windows, one in the home elsewhere.
fn native(environment: &Environment, windows: &str, macos: &str, others: &str) -> Option<PathBuf> {
    let home = || environment.non_empty("HOME").map(PathBuf::from);
    match std::env::consts::OS {
        "windows" => environment.non_empty(windows).map(PathBuf::from),
        "macos" => home().map(|home| home.join(macos)),
        _ => home().map(|home| home.join(others)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::budget::Budget;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().copied().collect()
    }

    fn flags(settings: &[(&str, &str)]) -> Flags {
        let key = |path: &str| KEYS.iter().find(|key| key.path == path).expect("a setting");
        let settings = settings.iter().map(|(path, text)| (key(path), (*text).to_owned()));
        Flags {
            file: None,
            settings: settings.collect(),
        }
    }

    /// A configuration file in a directory that goes with it.
    fn file(text: &str) -> (tempfile::TempDir, Flags) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.toml");
        std::fs::write(&path, text).expect("a file");
        let flags = Flags {
            file: Some(path),
            settings: Vec::new(),
        };
        (directory, flags)
    }

    fn load_file(text: &str) -> Result<Config, ConfigError> {
        let (_directory, flags) = file(text);
        Config::load(&flags, &Environment::default())
    }

    fn problems(outcome: Result<Config, ConfigError>, directory: &std::path::Path) -> String {
        let ConfigError(problems) = outcome.expect_err("there are problems");
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let told = lines.join("\n").replace(&directory.display().to_string(), "DIR");
        told.replace("DIR\\", "DIR/")
    }

    fn origin(config: &Config, key: &str) -> String {
        let shown = config.values.iter().find(|shown| shown.key == key);
        shown.unwrap_or_else(|| panic!("{key} is not shown")).origin.to_string()
    }

    #[test]
    fn the_built_in_defaults_alone_are_a_configuration() {
        let config = Config::load(&Flags::default(), &Environment::default()).expect("no problems");
        assert_eq!(config.log.level, None, "the command chooses");
        assert_eq!(config.instance.defaults.image.to_string(), "postgres:17");
        assert_eq!(
            config.instance.defaults.limits,
            crate::instance::Limits::new(512, 1000).expect("limits")
        );
        assert_eq!(config.instance.ports.to_string(), "15432-25432");
        assert_eq!(config.instance.ready_timeout, Duration::from_mins(1));
        assert_eq!(config.docker.pull_timeout, Duration::from_mins(10));
        assert_eq!((config.docker.host, config.docker.publish_address), (None, None));
        assert_eq!(config.policy.component.code, Code::BuiltIn);
        assert_eq!(config.bundles.len(), 1);
        assert!(config.values.iter().all(|shown| shown.origin == Origin::Default));
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
        let (_directory, mut all) = file("[instance]\nversion = '14'\nrepository = 'a'\nports = '1-2'\n");
        let environment = environment(&[
            ("DEV_POSTGRES_MCP_INSTANCE_VERSION", "15"),
            ("DEV_POSTGRES_MCP_INSTANCE_REPOSITORY", "b"),
        ]);
        all.settings = flags(&[("instance.version", "16")]).settings;
        let config = Config::load(&all, &environment).expect("no problems");
        assert_eq!(config.instance.defaults.image.to_string(), "b:16");
        assert_eq!(config.instance.ports.to_string(), "1-2");
        assert_eq!(origin(&config, "instance.version"), "--instance-version");
        assert_eq!(
            origin(&config, "instance.repository"),
            "DEV_POSTGRES_MCP_INSTANCE_REPOSITORY"
        );
        assert!(origin(&config, "instance.ports").ends_with("config.toml:4"));
        assert_eq!(origin(&config, "instance.cpus"), "default");
    }

    #[test]
    fn every_setting_can_be_given_by_every_source() {
        for key in KEYS.iter() {
            let text = key
                .default
                .as_str()
                .map_or_else(|| key.default.to_string(), str::to_owned);
            let by_variable = environment(&[(&key.variable, &text)]);
            let config = Config::load(&Flags::default(), &by_variable).expect("a variable is taken");
            assert_eq!(origin(&config, &key.path), key.variable);

            let config = Config::load(&flags(&[(&key.path, &text)]), &Environment::default()).expect("a flag is taken");
            assert_eq!(origin(&config, &key.path), format!("--{}", key.flag));

            let section = match key.section {
                "" => "\n".to_owned(),
                section => format!("[{section}]\n"),
            };
            let line = format!("{} = {}\n", key.name, key.default);
            let config = load_file(&(section + &line)).expect("a line is taken");
            assert!(origin(&config, &key.path).ends_with("config.toml:2"));
        }
    }

    #[test]
    fn all_problems_of_all_sources_are_told_at_once_in_their_order() {
        let (directory, mut all) = file(
            r#"level = "debug"
[log]
level = "loud"
formt = "json"
[docker]
hots = "x"
memory_mib = 3
publish_address = "localhost"
[instance]
version = 17
memory_mib = 10
cpus = 0
repository = "postgres:17"
[postgres]
version = "17"
"#,
        );
        all.settings = flags(&[("instance.ports", "9-1"), ("docker.pull_timeout", "0s")]).settings;
        let environment = environment(&[
            ("DEV_POSTGRES_MCP_DOCKER_HOTS", "1"),
            ("DEV_POSTGRES_MCP_INSTANCE_READY_TIMEOUT", "2 weeks"),
            ("DEV_POSTGRES_MCP_POLICY_SETTINGS", "[\"s3cret\"]"),
            ("DEV_POSTGRES_MCP_QQQ", "1"),
        ]);
        insta::assert_snapshot!(problems(Config::load(&all, &environment), directory.path()));
    }

    #[test]
    fn a_file_that_is_not_toml_is_told_with_its_line() {
        let (directory, flags) = file("[log]\nlevel = \n");
        let told = problems(Config::load(&flags, &Environment::default()), directory.path());
        assert!(told.starts_with("DIR/config.toml:2: is not TOML: "), "{told}");
    }

    #[test]
    fn a_file_that_was_asked_for_must_be_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = directory.path().join("missing.toml");
        let by_variable = environment(&[(CONFIG_VARIABLE, missing.to_str().expect("UTF-8"))]);
        let told = problems(Config::load(&Flags::default(), &by_variable), directory.path());
        assert!(told.starts_with("DIR/missing.toml: can't be read: "), "{told}");
    }

    #[test]
    fn a_file_that_nobody_asked_for_is_read_where_it_is_and_not_missed_where_it_is_not() {
        let home = tempfile::tempdir().expect("a directory");
        let environment = environment(&[("XDG_CONFIG_HOME", home.path().to_str().expect("UTF-8"))]);
        let load = || Config::load(&Flags::default(), &environment).expect("no problems");
        assert_eq!(load().file, None);
        let directory = home.path().join("dev-postgres-mcp");
        std::fs::create_dir(&directory).expect("a directory");
        std::fs::write(directory.join("config.toml"), "[instance]\nversion = '16'\n").expect("a file");
        assert_eq!(load().file, Some(directory.join("config.toml")));
        assert_eq!(load().instance.defaults.image.version(), "16");
    }

    #[test]
    fn the_file_is_looked_for_by_flag_then_variable_then_xdg_then_home() {
        let all = [
            (CONFIG_VARIABLE, "by-variable"),
            ("XDG_CONFIG_HOME", "/xdg"),
            ("HOME", "/home/me"),
            ("APPDATA", "/home/me"),
        ];
        let by_flag = Flags {
            file: Some("by-flag".into()),
            settings: Vec::new(),
        };
        let location = |flags: &Flags, from: usize| file_location(flags, &environment(&all[from..]));
        assert_eq!(location(&by_flag, 0), Some(("by-flag".into(), true)));
        assert_eq!(location(&Flags::default(), 0), Some(("by-variable".into(), true)));
        #[cfg(unix)]
        assert_eq!(
            location(&Flags::default(), 1),
            Some(("/xdg/dev-postgres-mcp/config.toml".into(), false))
        );
        let (native, required) = location(&Flags::default(), 2).expect("a place");
        assert!(native.starts_with("/home/me") && native.ends_with("dev-postgres-mcp/config.toml") && !required);
        assert_eq!(location(&Flags::default(), 4), None);
    }

    #[test]
    fn a_component_in_a_file_is_found_from_there_and_one_elsewhere_from_here() {
        let (directory, flags) = file("[policy]\ncomponent = 'rules.wasm'\n");
        let config = Config::load(&flags, &Environment::default()).expect("no problems");
        assert_eq!(
            config.policy.component.code,
            Code::File(directory.path().join("rules.wasm"))
        );
        let by_variable = environment(&[("DEV_POSTGRES_MCP_POLICY_COMPONENT", "rules.wasm")]);
        let config = Config::load(&flags, &by_variable).expect("no problems");
        assert_eq!(config.policy.component.code, Code::File("rules.wasm".into()));
    }

    #[test]
    fn a_component_in_a_registry_is_named_by_a_reference_that_makes_sense() {
        let text = "[policy]\ncomponent = 'oci://ghcr.io/acme/rules:1'\n\
            [[bundle]]\nname = 'a'\ncomponent = 'oci://ghcr.io/acme/tools:2'\n";
        let (directory, flags) = file(text);
        let config = Config::load(&flags, &Environment::default()).expect("no problems");
        let artifact = |text: &str| Code::Artifact(text.parse().expect("a reference"));
        assert_eq!(config.policy.component.code, artifact("oci://ghcr.io/acme/rules:1"));
        assert_eq!(config.bundles[1].component.code, artifact("oci://ghcr.io/acme/tools:2"));
        assert_eq!(config.lock_file, Some(directory.path().join("dev-postgres-mcp.lock")));

        let (directory, flags) = file("[policy]\ncomponent = 'oci://acme/rules'\nsha256 = 'e3b0'\n");
        insta::assert_snapshot!(problems(Config::load(&flags, &Environment::default()), directory.path()), @r#"
        DIR/config.toml:2: policy.component must be oci://registry/repository:tag or oci://registry/repository@sha256:digest, not "oci://acme/rules"
        DIR/config.toml:3: policy.sha256 must be a SHA-256 digest, 64 hexadecimal digits, as sha256sum prints it, not "e3b0"
        "#);
    }

    #[test]
    fn an_entry_replaces_the_built_in_bundle_of_its_name_or_adds_one() {
        let replaced = load_file("[[bundle]]\nname = 'postgres-tools'\nsettings.x = 1\n").expect("no problems");
        assert_eq!(replaced.bundles.len(), 1);
        assert_eq!(replaced.bundles[0].component.code, Code::BuiltIn);
        assert_eq!(replaced.bundles[0].component.settings.expose()["x"], 1);

        let added = load_file("[[bundle]]\nname = 'extra'\ncomponent = '/x.wasm'\n").expect("no problems");
        let names: Vec<&str> = added.bundles.iter().map(|bundle| bundle.name.as_str()).collect();
        assert_eq!(names, ["postgres-tools", "extra"]);
    }

    #[test]
    fn a_bundle_needs_a_name_of_its_own_and_a_component_unless_it_is_built_in() {
        let (directory, flags) = file(
            r#"bundle = [{ name = "a" }, { name = "b", component = "x" }, { name = "b", component = "x" }, { nmae = "c" }]"#,
        );
        insta::assert_snapshot!(problems(Config::load(&flags, &Environment::default()), directory.path()), @r#"
        DIR/config.toml:1: there is no bundle.nmae; did you mean bundle.name?
        DIR/config.toml:1: bundle.component must be given for a: only postgres-tools is built in
        DIR/config.toml:1: bundle.name must not be b twice
        DIR/config.toml:1: bundle.name must be 1 to 40 lower-case letters, digits and hyphens, not ""
        "#);
        let told = load_file("[bundle]\nname = 'a'\n")
            .expect_err("not an array")
            .to_string();
        assert!(
            told.ends_with("config.toml:1: bundle must be an array of tables: write [[bundle]]"),
            "{told}"
        );
    }

    #[test]
    fn a_bundle_is_pinned_and_prefixed_as_its_entry_says_and_what_makes_no_sense_is_told() {
        let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let entry = format!("[[bundle]]\nname = 'a'\ncomponent = 'x'\nsha256 = '{digest}'\nprefix = 'acme'\n");
        let config = load_file(&entry).expect("no problems");
        assert_eq!(config.bundles[1].component.sha256, Some(Digest::of(b"")));
        assert_eq!(config.bundles[1].terms.prefix, Some("acme".parse().expect("a prefix")));
        assert_eq!(
            (config.bundles[0].component.sha256, &config.bundles[0].terms.prefix),
            (None, &None)
        );

        let (directory, flags) = file("[[bundle]]\nname = 'a'\ncomponent = 'x'\nsha256 = 'e3b0'\nprefix = 'Acme'\n");
        insta::assert_snapshot!(problems(Config::load(&flags, &Environment::default()), directory.path()), @r#"
        DIR/config.toml:4: bundle.sha256 must be a SHA-256 digest, 64 hexadecimal digits, as sha256sum prints it, not "e3b0"
        DIR/config.toml:5: bundle.prefix must be a word in snake_case with at most 20 characters, not "Acme"
        "#);
    }

    #[test]
    fn a_bundle_is_granted_what_its_entry_lists_and_a_built_in_one_what_it_needs_unless_it_lists_something() {
        let grants = |entry: &str| {
            let config = load_file(&format!("[[bundle]]\n{entry}\n")).expect("no problems");
            config.bundles.last().expect("a bundle").terms.grants.to_string()
        };
        let needed = "create, read, drop, health";
        assert_eq!(grants("name = 'postgres-tools'"), needed);
        assert_eq!(grants("name = 'postgres-tools'\ngrants = ['log']"), "log");
        assert_eq!(grants("name = 'postgres-tools'\ngrants = []"), "");
        assert_eq!(grants("name = 'postgres-tools'\ncomponent = 'x'"), "");
        assert_eq!(
            grants("name = 'a'\ncomponent = 'x'\ngrants = ['sql', 'read-credentials']"),
            "read-credentials, sql"
        );

        for wrong in ["'sql'", "['everything']", "[1]"] {
            let (directory, flags) = file(&format!("[[bundle]]\nname = 'a'\ncomponent = 'x'\ngrants = {wrong}\n"));
            let told = problems(Config::load(&flags, &Environment::default()), directory.path());
            assert!(
                told.starts_with("DIR/config.toml:4: bundle.grants must be a list"),
                "{told}"
            );
        }
    }

    #[test]
    fn a_bundles_limits_are_those_of_its_entry_over_the_defaults_and_every_wrong_one_is_told() {
        let config = load_file("[[bundle]]\nname = 'a'\ncomponent = 'x'\nlimits = { memory_mib = 128, cpu = '5s' }\n");
        let budget = config.expect("no problems").bundles[1].terms.budget;
        let expected = Budget {
            memory_bytes: 128 << 20,
            cpu: Duration::from_secs(5),
            ..Budget::BUNDLE
        };
        assert_eq!(budget, expected);
        let limits = "{ memory_mib = 4096, cpu = 5, host_cals = 1 }";
        let (directory, flags) = file(&format!("[[bundle]]\nname = 'a'\ncomponent = 'x'\nlimits = {limits}\n"));
        insta::assert_snapshot!(problems(Config::load(&flags, &Environment::default()), directory.path()), @r#"
        DIR/config.toml:4: bundle.limits.cpu must be a time from 10ms to 1m, such as "500ms", not "5"
        DIR/config.toml:4: there is no bundle.limits.host_cals; did you mean bundle.limits.host_calls?
        DIR/config.toml:4: bundle.limits.memory_mib must be a whole number from 1 to 1024, not "4096"
        "#);
    }

    #[test]
    fn strings_among_a_components_settings_are_shown_to_nobody() {
        let config = load_file("[policy.settings]\nmax = 3\ntoken = 's3cret'\nlist = [{ of = 's3cret' }]\n")
            .expect("no problems");
        let shown: Vec<String> = config
            .values
            .iter()
            .map(|shown| format!("{} = {}", shown.key, shown.value))
            .collect();
        assert!(shown.contains(&"policy.settings.max = 3".to_owned()), "{shown:?}");
        assert!(
            shown.contains(&r#"policy.settings.token = "[set]""#.to_owned()),
            "{shown:?}"
        );
        assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
        assert_eq!(
            config.policy.component.settings.expose()["token"],
            "s3cret",
            "the component itself is told"
        );
    }

    #[test]
    fn the_rules_that_hold_are_those_of_the_team_that_is_chosen_or_of_the_policy_table() {
        let text = "[policy]\ncomponent = 'ours.wasm'\nmay_change = ['database']\n[teams.payments]\ncomponent = \
                    '/theirs.wasm'\nmode = 'monitor'\nsettings.max = 3\n[teams.search]\n";
        let (directory, mut flags) = file(text);
        let environment = environment(&[("DEV_POSTGRES_MCP_POLICY_MODE", "monitor")]);
        let of_nobody = Config::load(&flags, &environment).expect("no problems");
        assert_eq!((of_nobody.team, of_nobody.policy.name.as_str()), (None, "policy"));
        assert_eq!(
            of_nobody.policy.component.code,
            Code::File(directory.path().join("ours.wasm"))
        );
        assert_eq!(of_nobody.policy.may_change.to_string(), "database");
        assert_eq!(of_nobody.policy.mode, Mode::Monitor);

        flags.settings = self::flags(&[("team", "payments")]).settings;
        let of_team = Config::load(&flags, &environment).expect("no problems");
        assert_eq!(of_team.team, Some("payments".parse().expect("a name")));
        assert_eq!(of_team.policy.name, "teams.payments");
        assert_eq!(of_team.policy.component.code, Code::File("/theirs.wasm".into()));
        assert_eq!(of_team.policy.component.settings.expose()["max"], 3);
        // Nothing of the table [policy].
        assert_eq!(of_team.policy.may_change, Changes::default());
        let others: Vec<&str> = of_team
            .other_policies
            .iter()
            .map(|policy| policy.name.as_str())
            .collect();
        assert_eq!(others, ["policy", "teams.search"]);

        flags.settings = self::flags(&[("team", "search")]).settings;
        let of_other_team = Config::load(&flags, &environment).expect("no problems").policy;
        assert_eq!(
            (of_other_team.component.code, of_other_team.mode),
            (Code::BuiltIn, Mode::Enforce)
        );
    }

    #[test]
    fn what_is_wrong_with_teams_is_told_with_the_place_of_each() {
        let text =
            "[teams.Payments]\n[teams.search]\nmode = 'off'\ncomponnt = 'x'\nmay_change = ['memory']\nsettings = 3\n";
        let (directory, mut flags) = file(text);
        flags.settings = self::flags(&[("team", "nobody")]).settings;
        insta::assert_snapshot!(problems(Config::load(&flags, &Environment::default()), directory.path()), @r#"
        DIR/config.toml:1: teams.Payments is named wrongly: a name must be 1 to 40 lower-case letters, digits and hyphens
        DIR/config.toml:3: teams.search.mode must be enforce or monitor, not "off"
        DIR/config.toml:4: there is no teams.search.componnt; did you mean teams.search.component?
        DIR/config.toml:5: teams.search.may_change must be a list of these: repository, version, database, username, password, memory_mib, cpus, durable, ttl_seconds, not "[\"memory\"]"
        DIR/config.toml:6: teams.search.settings must be a table of values that JSON has too
        --team: team must be a team of the configuration: search, not "nobody"
        "#);
        let (directory, mut flags) = file("teams = ['a']\n");
        flags.settings = self::flags(&[("team", "nobody")]).settings;
        insta::assert_snapshot!(problems(Config::load(&flags, &Environment::default()), directory.path()), @r#"
        DIR/config.toml:1: teams must be tables: write [teams.NAME]
        --team: team must be a team, and the configuration has none: it would be a table [teams.NAME], not "nobody"
        "#);
    }

    #[test]
    fn strings_among_a_teams_settings_are_shown_to_nobody() {
        let config = load_file("[teams.a.settings]\nmax = 3\ntoken = 's3cret'\n").expect("no problems");
        let shown = |key: &str| {
            let shown = config.values.iter().find(|shown| shown.key == key);
            shown.map(|shown| shown.value.to_string())
        };
        assert_eq!(shown("teams.a.settings.max").as_deref(), Some("3"));
        assert_eq!(shown("teams.a.settings.token").as_deref(), Some("\"[set]\""));
        assert_eq!(shown("teams.a.mode").as_deref(), Some("\"enforce\""));
    }
}
