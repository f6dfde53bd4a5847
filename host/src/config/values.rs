//! Turns what the sources gave into domain values.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use super::keys::{KEYS, Key, POLICY, TEAMS, nearest, path};
use super::problem::{ConfigError, Origin, What};
use super::shown::shown;
use super::sources::{Given, GivenBundle, Sources};
use super::{
    Bundle, BundleName, Code, Component, ComponentSettings, Config, DURATION_MAX, Docker, Engine, Instances, Local,
    Log, LogFormat, Mode, OnExit, POOL_SIZE_MAX, Plugins, Policy, Pool, cache_home, default_state_dir,
};
use crate::artifact::reference::SCHEME;
use crate::environment::Environment;
use crate::instance::{CPU_MILLIS_MAX, Defaults, EngineKind, Image, InvalidValue, Limits, MEMORY_MIB_MIN, TeamName};
use crate::plugins::budget::{Budget, LIMITS};
use crate::plugins::bundle::Terms;
use crate::plugins::grants::{Grant, Grants};
use crate::policy::changes::{Change, Changes};
use crate::ports::PortRange;

impl Sources {
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

    /// # Errors
    /// Every problem of every source, in the order of the sources.
    pub(super) fn into_config(
        mut self,
        file: Option<PathBuf>,
        lock_file: Option<PathBuf>,
        environment: &Environment,
    ) -> Result<Config, ConfigError> {
        // All are read before any `?` ends it: every problem counts.
        let (log, docker, instance) = (self.log(), self.docker(), self.instance());
        let engine = self.parse("engine", |text| match text {
            "auto" => Ok(Engine::Auto),
            "docker" => Ok(Engine::Only(EngineKind::Docker)),
            "local" => Ok(Engine::Only(EngineKind::Local)),
            _ => Err(InvalidValue("must be auto, docker or local".into())),
        });
        let metrics = self.parse("metrics", optional);
        let local = self.local(environment);
        let pool = self.pool();
        let plugins = self.plugins();
        let values = shown(&self.values, &self.teams, &self.bundles);
        let policies = self.policies();
        let bundles = self.bundles(plugins.as_ref());
        match (engine, metrics, log, docker, local, instance, pool, policies, plugins) {
            (
                Some(engine),
                Some(metrics),
                Some(log),
                Some(docker),
                Some(local),
                Some(instance),
                Some(pool),
                Some((team, policy, other_policies)),
                Some(plugins),
            ) if self.problems.is_empty() => Ok(Config {
                engine,
                metrics,
                log,
                docker,
                local,
                instance,
                pool,
                policy,
                team,
                other_policies,
                plugins,
                bundles,
                cache_dir: cache_home(environment).map(|home| home.join("components")),
                store_dir: cache_home(environment).map(|home| home.join("pulled")),
                lock_file,
                file,
                values,
            }),
            _ => {
                self.problems.sort_by(|a, b| a.origin.cmp(&b.origin));
                Err(ConfigError(self.problems))
            }
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

    fn local(&mut self, environment: &Environment) -> Option<Local> {
        let bin_dirs = self.parse("local.bin_dir", |text| {
            Ok(std::env::split_paths(text)
                .filter(|path| !path.as_os_str().is_empty())
                .collect())
        });
        let state_dir = self.parse("local.state_dir", |text| {
            let path = non_empty(text).map_or_else(|| default_state_dir(environment), |text| Some(PathBuf::from(text)));
            // A server's process has another working directory.
            match path {
                Some(path) if !path.is_absolute() => Err(InvalidValue("must be an absolute path or empty".into())),
                path => Ok(path),
            }
        });
        let user = self.parse("local.user", |text| Ok(non_empty(text).map(str::to_owned)));
        Some(Local {
            bin_dirs: bin_dirs?,
            state_dir: state_dir?,
            user: user?,
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
            let expected = || InvalidValue(format!("must be a number of MiB, at least {MEMORY_MIB_MIN}"));
            let mib = text.parse().map_err(|_| expected())?;
            Limits::new(mib, 1).map(|_| mib).map_err(|_| expected())
        });
        let cpu_millis = self.parse("instance.cpus", |text| {
            let cores_max = CPU_MILLIS_MAX / 1000;
            let expected = || {
                InvalidValue(format!(
                    "must be a number of cores, more than 0 and at most {cores_max}"
                ))
            };
            let millis = cpu_millis(text).ok_or_else(expected)?;
            Limits::new(MEMORY_MIB_MIN, millis)
                .map(|_| millis)
                .map_err(|_| expected())
        });
        let ports = self.parse("instance.ports", |text| {
            let expected = "must be two ports in order with a hyphen between them, such as 15432-25432";
            text.parse::<PortRange>().map_err(|_| InvalidValue(expected.into()))
        });
        let ready_timeout = self.parse("instance.ready_timeout", duration);
        let on_exit = self.parse("instance.on_exit", |text| match text {
            "drop" => Ok(OnExit::Drop),
            "keep" => Ok(OnExit::Keep),
            _ => Err(InvalidValue("must be drop or keep".into())),
        });
        let durable = self.parse("instance.durable", |text| {
            text.parse().map_err(|_| InvalidValue("must be true or false".into()))
        });
        let defaults = Defaults {
            image: Image::new(&repository?, &version?).ok()?,
            limits: Limits::new(memory_mib?, cpu_millis?).ok()?,
            durable: durable?,
        };
        Some(Instances {
            defaults,
            ports: ports?,
            ready_timeout: ready_timeout?,
            on_exit: on_exit?,
        })
    }

    fn pool(&mut self) -> Option<Pool> {
        let size = self.parse("pool.size", |text| match text.parse() {
            Ok(size) if size <= POOL_SIZE_MAX => Ok(size),
            _ => Err(InvalidValue(format!("must be a number from 0 to {POOL_SIZE_MAX}"))),
        });
        Some(Pool { size: size? })
    }

    /// Whose rules hold, those, and all others.
    fn policies(&mut self) -> Option<(Option<TeamName>, Policy, Vec<Policy>)> {
        let given = |key: &&Key| Some((key.name, self.values.get(key.path.as_str())?.clone()));
        let given = KEYS
            .iter()
            .filter(|key| key.section == POLICY)
            .filter_map(|key| given(&key));
        let given: BTreeMap<_, _> = given.collect();
        let policy = self.policy(POLICY.to_owned(), &given);
        let mut teams = Vec::new();
        for team in std::mem::take(&mut self.teams) {
            let path = path(TEAMS, &team.name);
            match team.name.parse::<TeamName>() {
                Ok(name) => teams.push((name, self.policy(path, &team.values))),
                Err(InvalidValue(expected)) => {
                    self.wrong(team.at, &path, format!("is named wrongly: a name {expected}"), None);
                }
            }
        }
        let names: Vec<String> = teams.iter().map(|(name, _)| name.to_string()).collect();
        let chosen = self.parse("team", |text| {
            let Some(text) = non_empty(text) else { return Ok(None) };
            let index = teams.iter().position(|(name, _)| name.as_str() == text);
            let expected = || match names.as_slice() {
                [] => "must be a team, and the configuration has none: it would be a table [teams.NAME]".to_owned(),
                names => format!("must be a team of the configuration: {}", names.join(", ")),
            };
            index.map(Some).ok_or_else(|| InvalidValue(expected()))
        })?;
        let mut all = vec![(None, policy?)];
        for (name, policy) in teams {
            all.push((Some(name), policy?));
        }
        let (team, policy) = all.remove(chosen.map_or(0, |index| index + 1));
        let others = all.into_iter().map(|(_, policy)| policy);
        Some((team, policy, others.collect()))
    }

    fn policy(&mut self, name: String, given: &BTreeMap<&'static str, Given>) -> Option<Policy> {
        let get = |key| given.get(key);
        let component = self.component(&name, get("component")?, get("sha256")?, get("settings")?);
        let mode = self.parse_given(&path(&name, "mode"), get("mode")?, |text| match text {
            "enforce" => Ok(Mode::Enforce),
            "monitor" => Ok(Mode::Monitor),
            _ => Err(InvalidValue("must be enforce or monitor".into())),
        });
        let may_change = self.parse_given(&path(&name, "may_change"), get("may_change")?, |list| {
            let names: Vec<String> = serde_json::from_str(list).map_err(|_| Changes::expected())?;
            names.iter().map(|name| name.parse::<Change>()).collect()
        });
        Some(Policy {
            component: component?,
            mode: mode?,
            may_change: may_change?,
            name,
        })
    }

    /// The component that the table `section` describes.
    fn component(&mut self, section: &str, code: &Given, sha256: &Given, settings: &Given) -> Option<Component> {
        let parsed = self.parse_given(&format!("{section}.component"), code, |_| component_code(code));
        let sha256 = self.parse_given(&format!("{section}.sha256"), sha256, optional);
        Some(Component {
            code: parsed?,
            sha256: sha256?,
            settings: ComponentSettings(settings.value.as_object().cloned().unwrap_or_default()),
        })
    }

    fn plugins(&self) -> Option<Plugins> {
        Some(Plugins {
            dir: file_path(self.values.get("plugins.dir")?),
        })
    }

    fn bundle(&mut self, given: &GivenBundle) -> Option<Bundle> {
        let name = self.parse_given::<BundleName>("bundle.name", given.get("name")?, str::parse);
        let (code, sha256, settings) = (given.get("component")?, given.get("sha256")?, given.get("settings")?);
        let component = self.component("bundle", code, sha256, settings);
        let prefix = self.parse_given("bundle.prefix", given.get("prefix")?, optional);
        let grants = self.parse_given("bundle.grants", given.get("grants")?, |list| {
            let names: Vec<String> = serde_json::from_str(list)
                .map_err(|_| InvalidValue(format!("must be a list of grants: {}", Grants::ALL)))?;
            names
                .iter()
                .map(|name| name.parse::<Grant>())
                .collect::<Result<Grants, _>>()
        });
        let budget = self.limits(given.get("limits")?);
        Some(Bundle {
            name: name?,
            component: component?,
            terms: Terms {
                prefix: prefix?,
                grants: grants?,
                budget,
            },
        })
    }

    fn limits(&mut self, given: &Given) -> Budget {
        let mut budget = Budget::BUNDLE;
        for (key, value) in given.value.as_object().into_iter().flatten() {
            let path = format!("bundle.limits.{key}");
            let Some(limit) = LIMITS.iter().find(|limit| limit.key == key) else {
                let known = LIMITS.iter().map(|limit| limit.key);
                let nearest = nearest(key, known).map(|nearest| format!("bundle.limits.{nearest}"));
                let (origin, name) = (given.origin.clone(), path);
                self.problem(origin, What::Unknown { name, nearest });
                continue;
            };
            if let Err(InvalidValue(expected)) = limit.apply(value, &mut budget) {
                self.wrong(given.origin.clone(), &path, expected, Some(value.to_string()));
            }
        }
        budget
    }

    /// The built-in bundles, each in place unless an entry has its name, and the added ones.
    fn bundles(&mut self, plugins: Option<&Plugins>) -> Vec<Bundle> {
        let has_folder = plugins.is_some_and(|plugins| plugins.dir.is_some());
        let (mut bundles, mut built_in, mut replaced) = (Vec::<Bundle>::new(), BTreeSet::new(), BTreeSet::new());
        for given in std::mem::take(&mut self.bundles) {
            let Some(mut bundle) = self.bundle(&given) else {
                continue;
            };
            let (name, at) = (bundle.name.clone(), given.at());
            if at == Origin::Default {
                built_in.insert(name);
                bundles.push(bundle);
                continue;
            }
            if !replaced.insert(name.clone()) {
                self.wrong(at.clone(), "bundle.name", format!("must not be {name} twice"), None);
            }
            if bundle.component.code == Code::BuiltIn && !built_in.contains(&name) {
                bundle.component.code = Code::Folder;
            }
            if bundle.component.code == Code::Folder && !has_folder {
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
}

fn optional<T: FromStr<Err = InvalidValue>>(text: &str) -> Result<Option<T>, InvalidValue> {
    non_empty(text).map(str::parse).transpose()
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

/// Where a component is: built in, a file, or in a registry.
fn component_code(given: &Given) -> Result<Code, InvalidValue> {
    match given.value.as_str() {
        Some(text) if text.starts_with(SCHEME) => text.parse().map(Code::Artifact),
        _ => Ok(file_path(given).map_or(Code::BuiltIn, Code::File)),
    }
}

/// A relative path in a file starts at that file; `None` if it is empty.
fn file_path(given: &Given) -> Option<PathBuf> {
    let path = given.value.as_str().and_then(non_empty)?;
    Some(match &given.origin {
        Origin::File { path: file, .. } => file.parent().unwrap_or(Path::new("")).join(path),
        _ => path.into(),
    })
}
