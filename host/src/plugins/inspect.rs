//! What is in a plugin's file: which world it is of, what it imports, who made it with what. Nothing of it runs.

use std::collections::BTreeMap;

use wasmparser::{BinaryReaderError, KnownCustom, Parser, Payload};
use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldItem, WorldKey};

use super::encode;
use super::versions::{self, Version, World};
use crate::digest::Digest;

/// What a file's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A component.
    Component,
    /// A core module with its world embedded, of which the host makes a component.
    CoreModule,
}

impl Form {
    /// For people and programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::CoreModule => "core module",
        }
    }
}

/// What is in a plugin's file.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// What it is.
    pub form: Form,
    /// How long it is, in bytes.
    pub bytes: usize,
    /// Its digest, as `sha256` in the configuration pins it.
    pub sha256: Digest,
    /// What it imports, in its order.
    pub imports: Vec<Interface>,
    /// What it exports, in its order.
    pub exports: Vec<Interface>,
    /// Each field of its producers section and those of all that it has inside, such as `language`: names with versions.
    pub producers: BTreeMap<String, BTreeMap<String, String>>,
}

/// An interface, or a function that stands alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name, with package and version where it has them: `dev-postgres:plugin/tools@0.2.0`.
    pub name: String,
    /// Its functions, as far as the file has any to do with them.
    pub functions: Vec<String>,
}

impl Inspection {
    /// The world of this host's package that it is of, and the version that the host takes it for.
    ///
    /// # Errors
    /// If it is of no world or version of this host: which ones would do.
    pub fn made_for(&self) -> Result<(World, Version), String> {
        let exports: Vec<&str> = self.exports.iter().map(|interface| interface.name.as_str()).collect();
        let worlds = World::ALL.map(|world| (world, versions::made_for(&exports, world)));
        let mut problem = None;
        for (world, version) in worlds {
            match version {
                Some(Ok(version)) => return Ok((world, version)),
                Some(Err(unknown)) => problem = Some(unknown),
                None => {}
            }
        }
        Err(problem.unwrap_or_else(|| {
            let worlds = World::ALL.map(World::as_str).join(" nor ");
            format!("it is of no world of dev-postgres:plugin: neither {worlds}")
        }))
    }
}

/// Looks at a file.
///
/// # Errors
/// Why it is neither a component nor a core module that makes one.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, String> {
    let component = encode::component(bytes)?;
    let form = match component {
        std::borrow::Cow::Borrowed(_) => Form::Component,
        std::borrow::Cow::Owned(_) => Form::CoreModule,
    };
    let read = encode::robustly(|| {
        let decoded = wit_component::decode(&component).map_err(|error| format!("it is no component: {error:#}"))?;
        let DecodedWasm::Component(resolve, world) = decoded else {
            return Err("it is a WIT package, and no component".into());
        };
        let world = resolve.worlds.get(world).ok_or("it has no world")?;
        let interfaces = |items: &mut dyn Iterator<Item = (&WorldKey, &WorldItem)>| {
            items.filter_map(|(key, item)| interface(&resolve, key, item)).collect()
        };
        Ok(Inspection {
            form,
            bytes: bytes.len(),
            sha256: Digest::of(bytes),
            imports: interfaces(&mut world.imports.iter()),
            exports: interfaces(&mut world.exports.iter()),
            producers: producers(&component).map_err(|error| format!("it is no component: {error}"))?,
        })
    });
    read.unwrap_or_else(|| Err("it can't be read: the decoder failed on it".into()))
}

pub(super) fn interface(resolve: &Resolve, key: &WorldKey, item: &WorldItem) -> Option<Interface> {
    let name = resolve.name_world_key(key);
    let functions = match item {
        WorldItem::Interface { id, .. } => resolve.interfaces.get(*id)?.functions.keys().cloned().collect(),
        WorldItem::Function(function) => vec![function.name.clone()],
        WorldItem::Type { .. } => return None,
    };
    Some(Interface { name, functions })
}

/// What all producers sections say, that of the component and those of the modules in it.
fn producers(component: &[u8]) -> Result<BTreeMap<String, BTreeMap<String, String>>, BinaryReaderError> {
    let mut producers: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for payload in Parser::new(0).parse_all(component) {
        let Payload::CustomSection(section) = payload? else {
            continue;
        };
        let KnownCustom::Producers(fields) = section.as_known() else {
            continue;
        };
        for field in fields {
            let field = field?;
            let known = producers.entry(field.name.to_owned()).or_default();
            for value in field.values {
                let value = value?;
                known.insert(value.name.to_owned(), value.version.to_owned());
            }
        }
    }
    Ok(producers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/policy-default.wasm"));

    #[test]
    fn a_component_says_what_it_imports_and_exports_and_what_it_was_made_with() {
        let inspection = inspect(POLICY).expect("a component");
        assert_eq!(inspection.form, Form::Component);
        assert_eq!(
            (inspection.bytes, inspection.sha256),
            (POLICY.len(), Digest::of(POLICY))
        );
        let [rules] = &inspection.exports[..] else {
            panic!("one export: {:?}", inspection.exports);
        };
        assert!(rules.name.starts_with("dev-postgres:plugin/rules@"), "{}", rules.name);
        assert!(rules.functions.contains(&"plan-create".to_owned()), "{rules:?}");
        let imports: Vec<&str> = inspection
            .imports
            .iter()
            .flat_map(|interface| interface.functions.iter().map(String::as_str))
            .collect();
        assert_eq!(imports, ["get", "bytes"], "what it has no use for isn't there");
        let makers = &inspection.producers["processed-by"];
        assert!(makers.contains_key("wit-component"), "{makers:?}");
    }

    #[test]
    fn what_is_no_component_is_told_with_the_reason() {
        let reason = |bytes: &[u8]| inspect(bytes).expect_err("no component");
        assert_eq!(reason(b""), "it is no WebAssembly file");
        assert_eq!(reason(b"#!/bin/sh"), "it is no WebAssembly file");
        assert!(reason(b"\0asm\x0d\0\x01\0\xff").starts_with("it is no component: "));
        let module = wat::parse_str(r#"(module (import "wasi" "read" (func)))"#).expect("a module");
        assert!(reason(&module).starts_with("it is a core module that makes no component: "));
    }

    #[test]
    fn damaged_components_are_told_and_nothing_panics() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..200 {
            let mut damaged = POLICY.to_vec();
            for _ in 0..3 {
                let at = rng.random_range(8..damaged.len());
                damaged[at] = rng.random();
            }
            // Whatever comes of it comes as a value.
            drop(inspect(&damaged));
        }
    }
}
