//! What is wrong with a plugin, all of it at once, before anybody configures it.

use std::sync::Arc;

use async_trait::async_trait;
use wit_parser::{Resolve, WorldItem};

use super::bundle::{Bundle, Terms};
use super::grants::{Grant, Grants};
use super::inspect::{Inspection, Interface, inspect};
use super::policy::ComponentPolicy;
use super::versions::{Version, World};
use super::{PluginError, Runtime, Source};
use crate::failure::Failure;
use crate::instance::{
    Caller, CreateRequest, Defaults, EngineKind, Found, Image, Instance, InstanceId, Lifetime, Limits, Port, Status,
};
use crate::policy::changes::Changes;
use crate::policy::{Holding, Inventory, Policy, Rejection};

/// The WIT package in each version that this host speaks.
const WIT: [(Version, &str); 2] = [
    (Version::V0_1, include_str!("../../../wit/0.1.0/plugin.wit")),
    (Version::V0_2, include_str!("../../../wit/0.2.0/plugin.wit")),
];

/// Said of a bundle with an interpreter in it, which imports everything, used or not.
const WHOLE_WORLD: &str = "it imports all that its world has, as what componentize-py and componentize-js make does: `plugin run` shows which grants it takes";

/// What was found.
#[derive(Debug)]
pub struct Examination {
    /// What is in the file, if it can be read.
    pub inspection: Option<Inspection>,
    /// The names of a bundle's tools, those that clients can use.
    pub tools: Vec<String>,
    /// The grants without which some of what a bundle imports fails.
    pub needs: Grants,
    /// All that is wrong with it, a sentence each; empty if it is as it should be.
    pub problems: Vec<String>,
    /// What is no problem in itself and may be one to whoever configures it, a sentence each.
    pub notes: Vec<String>,
}

impl Examination {
    /// The world and version that it is made for, if this host has them.
    #[must_use]
    pub fn made_for(&self) -> Option<(World, Version)> {
        self.inspection.as_ref()?.made_for().ok()
    }
}

/// Looks at a plugin, loads it as a server would, and asks it what it can be asked without an instance. It gets `grants`
/// and no more; `None` has nothing said of those that it lacks.
pub async fn examine(runtime: &Runtime, source: &Source, grants: Option<Grants>) -> Examination {
    let inspection = match inspect(&source.bytes) {
        Ok(inspection) => inspection,
        Err(reason) => {
            return Examination {
                inspection: None,
                tools: Vec::new(),
                needs: Grants::default(),
                problems: vec![reason],
                notes: Vec::new(),
            };
        }
    };
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    let (mut tools, mut needs) = (Vec::new(), Grants::default());
    match inspection.made_for() {
        Err(problem) => problems.push(problem),
        Ok((world, version)) => {
            let unknown = unknown_imports(&inspection, world, version);
            let can_be_linked = unknown.is_empty();
            problems.extend(unknown);
            if world == World::ToolBundle {
                needs = needed(&inspection);
                let has_interpreter = inspection.imports.iter().any(|import| import.name.starts_with("wasi:"));
                if has_interpreter && needs == needed_at_most(version) {
                    notes.push(WHOLE_WORLD.to_owned());
                } else {
                    problems.extend(grants.map(|grants| lacking(&inspection, grants)).unwrap_or_default());
                }
            }
            if can_be_linked {
                match world {
                    World::ToolBundle => {
                        let terms = Terms {
                            grants: grants.unwrap_or(needs),
                            ..Terms::default()
                        };
                        tools = examine_bundle(runtime, source, &terms, &mut problems).await;
                    }
                    World::Policy => notes.extend(examine_policy(runtime, source, &mut problems).await),
                }
            }
        }
    }
    Examination {
        inspection: Some(inspection),
        tools,
        needs,
        problems,
        notes,
    }
}

async fn examine_bundle(runtime: &Runtime, source: &Source, terms: &Terms, problems: &mut Vec<String>) -> Vec<String> {
    let bundle = match Bundle::link(runtime, source, terms).await {
        Ok(bundle) => bundle,
        Err(error) => {
            problems.push(error.to_string());
            return Vec::new();
        }
    };
    problems.extend(told(bundle.check_settings().await));
    match bundle.describe(terms).await {
        Ok(described) => {
            let mut tools: Vec<String> = Vec::new();
            for tool in described {
                match tool {
                    Ok(tool) if tools.iter().any(|name| name == tool.name()) => {
                        problems.push(format!("it describes two tools of the name {:?}", tool.name()));
                    }
                    Ok(tool) => tools.push(tool.name().to_owned()),
                    Err(error) => problems.push(error.to_string()),
                }
            }
            if tools.is_empty() && problems.is_empty() {
                problems.push("it describes no tool".into());
            }
            tools
        }
        Err(error) => {
            problems.push(error.to_string());
            Vec::new()
        }
    }
}

async fn examine_policy(runtime: &Runtime, source: &Source, problems: &mut Vec<String>) -> Option<String> {
    let policy = match ComponentPolicy::link(runtime, source).await {
        Ok(policy) => policy,
        Err(error) => {
            problems.push(error.to_string());
            return None;
        }
    };
    let refused = told(policy.check_settings().await);
    if !refused.is_empty() {
        problems.extend(refused);
        return None;
    }
    trial(&policy).await.unwrap_or_else(|problem| {
        problems.push(problem);
        None
    })
}

/// Asks a policy what a request for nothing in particular would become; has a word on what others may not expect of that.
async fn trial(policy: &dyn Policy) -> Result<Option<String>, String> {
    let defaults = Defaults {
        image: Image::new("postgres", "17").map_err(|error| error.to_string())?,
        limits: Limits::new(512, 1000).map_err(|error| error.to_string())?,
        durable: false,
    };
    let (request, caller) = (CreateRequest::default(), Caller::default());
    let spec = match policy
        .plan_create(&request, &defaults, &caller, Arc::new(Nothing))
        .await
    {
        Ok(spec) => spec,
        Err(Rejection::Broken(reason)) => return Err(reason),
        // As good an answer as any.
        Err(no) => return Ok(Some(format!("asked for nothing in particular, it says no: {no}"))),
    };
    let changes = Changes::of(&spec, &request, &defaults);
    let note = (!changes.is_empty())
        .then(|| format!("its plan changes what is configured, for which `may_change` has to have {changes}"));
    let found = Found {
        instance: Instance {
            id: InstanceId::random(),
            engine: EngineKind::Docker,
            container_id: String::new(),
            host: "127.0.0.1".into(),
            port: Port::try_from(5432).map_err(|error| error.to_string())?,
            version: spec.image.version().to_owned(),
            database: spec.database,
            username: spec.username,
            status: Status::Running,
            created_at: std::time::SystemTime::now(),
            owner: None,
            lifetime: Lifetime::Unlimited,
        },
        password: spec.password,
    };
    match policy.connection_uri(&found).await {
        Err(Rejection::Broken(reason)) => Err(reason),
        _ => Ok(note),
    }
}

/// A host that has no instances.
struct Nothing;

#[async_trait]
impl Inventory for Nothing {
    async fn holdings(&self) -> Result<Vec<Holding>, Failure> {
        Ok(Vec::new())
    }
}

/// What an attempt met, each wrong setting for itself.
fn told(outcome: Result<(), PluginError>) -> Vec<String> {
    match outcome {
        Ok(()) => Vec::new(),
        Err(PluginError::Settings { fields, .. }) if !fields.is_empty() => fields
            .iter()
            .map(|field| format!("it refuses its settings: {field}"))
            .collect(),
        Err(error) => vec![error.to_string()],
    }
}

/// What it imports that its world doesn't have. WASI's is the linker's to judge.
fn unknown_imports(inspection: &Inspection, world: World, version: Version) -> Vec<String> {
    let known = known_imports(world, version);
    let is_known = |interface: &str, function: &String| {
        known
            .iter()
            .any(|known| known.name == interface && known.functions.contains(function))
    };
    let others = inspection
        .imports
        .iter()
        .filter(|import| !import.name.starts_with("wasi:"));
    let mut problems = Vec::new();
    for Interface { name, functions } in others {
        if !known.iter().any(|known| known.name == *name) {
            problems.push(format!(
                "it imports {name}, which the world {} of version {version} doesn't have",
                world.as_str()
            ));
            continue;
        }
        let unknown = functions.iter().filter(|function| !is_known(name, function));
        problems.extend(unknown.map(|function| format!("it imports {function} of {name}, which has no such function")));
    }
    problems
}

fn known_imports(world: World, version: Version) -> Vec<Interface> {
    let text = WIT
        .iter()
        .find(|(known, _)| *known == version)
        .map_or("", |(_, text)| text);
    let mut resolve = Resolve::default();
    // It is this program's own, and a test reads it.
    let Ok(package) = resolve.push_str("plugin.wit", text) else {
        return Vec::new();
    };
    let Ok(world) = resolve.select_world(&[package], Some(world.as_str())) else {
        return Vec::new();
    };
    let imports = resolve.worlds.get(world).into_iter().flat_map(|world| &world.imports);
    let interface = |(key, item): (&_, &WorldItem)| super::inspect::interface(&resolve, key, item);
    imports.filter_map(interface).collect()
}

/// The grant that a function of a bundle's imports fails without. Without the grant `log` nothing fails: its lines are
/// dropped.
fn grant(interface: &str, function: &str) -> Option<Grant> {
    let (name, _) = interface.strip_prefix("dev-postgres:plugin/")?.split_once('@')?;
    Grant::for_import(name, function).filter(|grant| *grant != Grant::Log)
}

/// Each function that needs a grant, by interface and name, with the grant.
fn granted(inspection: &Inspection) -> impl Iterator<Item = (&str, &str, Grant)> {
    inspection.imports.iter().flat_map(|Interface { name, functions }| {
        functions
            .iter()
            .filter_map(move |function| Some((name.as_str(), function.as_str(), grant(name, function)?)))
    })
}

/// The grants that a bundle needs that imports everything.
fn needed_at_most(version: Version) -> Grants {
    let imports = known_imports(World::ToolBundle, version);
    let functions = imports
        .iter()
        .flat_map(|Interface { name, functions }| functions.iter().filter_map(move |function| grant(name, function)));
    functions.collect()
}

fn needed(inspection: &Inspection) -> Grants {
    granted(inspection).map(|(_, _, grant)| grant).collect()
}

fn lacking(inspection: &Inspection, grants: Grants) -> Vec<String> {
    granted(inspection)
        .filter(|(_, _, grant)| !grants.has(*grant))
        .map(|(interface, function, grant)| {
            format!(
                "it imports {function} of {interface}, which needs the grant {:?}",
                grant.as_str()
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::cache::Cache;

    const POLICY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/policy-default.wasm"));
    const TOOLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/postgres-tools.wasm"));

    async fn examined(bytes: &[u8], settings: &str, grants: Option<Grants>) -> Examination {
        let runtime = Runtime::new(Cache::default()).expect("this machine runs WebAssembly");
        let source = Source {
            name: "guest".into(),
            from: "a test".into(),
            bytes: bytes.to_vec().into(),
            sha256: None,
            settings: serde_json::from_str(settings).expect("an object"),
        };
        examine(&runtime, &source, grants).await
    }

    #[test]
    fn this_programs_own_wit_is_read_and_has_what_each_world_may_import() {
        let names = |world, version| -> Vec<String> {
            let imports = known_imports(world, version).into_iter();
            imports.map(|interface| interface.name).collect()
        };
        for version in Version::ALL {
            let bundle = names(World::ToolBundle, version);
            assert!(
                bundle.contains(&format!("dev-postgres:plugin/sql@{version}")),
                "{bundle:?}"
            );
            let policy = names(World::Policy, version);
            assert!(
                policy.contains(&format!("dev-postgres:plugin/random@{version}")),
                "{policy:?}"
            );
            assert!(
                !policy.contains(&format!("dev-postgres:plugin/sql@{version}")),
                "{policy:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_built_in_plugins_are_well() {
        let policy = examined(POLICY, "{}", None).await;
        assert_eq!(policy.problems, Vec::<String>::new());
        assert_eq!(policy.made_for().map(|(world, _)| world), Some(World::Policy));
        let tools = examined(TOOLS, "{}", None).await;
        assert_eq!(tools.problems, Vec::<String>::new());
        assert!(
            tools.tools.contains(&"create_postgres_instance".to_owned()),
            "{:?}",
            tools.tools
        );
        let needed = [Grant::Create, Grant::Read, Grant::Drop, Grant::Health]
            .into_iter()
            .collect();
        assert_eq!(tools.needs, needed);
    }

    #[tokio::test]
    async fn what_it_lacks_and_what_its_settings_are_is_told_together() {
        let grants = [Grant::Create, Grant::Read, Grant::Health].into_iter().collect();
        let problems = examined(TOOLS, r#"{ "a": 1, "b": 2 }"#, Some(grants)).await.problems;
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(
            problems[0].contains("drop of dev-postgres:plugin/instances@"),
            "{problems:?}"
        );
        assert!(problems[0].ends_with("needs the grant \"drop\""), "{problems:?}");
        assert!(
            problems[1].contains("settings: a ") && problems[2].contains("settings: b "),
            "{problems:?}"
        );
    }

    #[tokio::test]
    async fn what_is_no_plugin_is_one_problem() {
        let garbage = examined(b"#!/bin/sh", "{}", None).await;
        assert!(garbage.inspection.is_none());
        assert_eq!(garbage.problems.len(), 1, "{:?}", garbage.problems);
        let nothing = wat::parse_str("(component)").expect("a component");
        let problems = examined(&nothing, "{}", None).await.problems;
        assert_eq!(
            problems,
            ["it is of no world of dev-postgres:plugin: neither tool-bundle nor policy"]
        );
    }

    #[test]
    fn imports_that_no_world_has_are_told_one_by_one() {
        let interface = |name: &str, functions: &[&str]| Interface {
            name: name.into(),
            functions: functions.iter().map(|&function| function.into()).collect(),
        };
        let inspection = Inspection {
            imports: vec![
                interface("wasi:cli/stdout@0.2.0", &["get-stdout"]),
                interface("dev-postgres:plugin/instances@0.2.0", &["list", "list-all"]),
                interface("acme:cloud/api@1.0.0", &["call"]),
            ],
            ..inspect(TOOLS).expect("a component")
        };
        assert_eq!(
            unknown_imports(&inspection, World::ToolBundle, Version::V0_2),
            [
                "it imports list-all of dev-postgres:plugin/instances@0.2.0, which has no such function",
                "it imports acme:cloud/api@1.0.0, which the world tool-bundle of version 0.2.0 doesn't have",
            ]
        );
    }
}
