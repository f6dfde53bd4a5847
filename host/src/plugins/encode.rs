//! From what a file holds to a component: a core module with its world embedded becomes one here, so that an author needs
//! nothing but cargo.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;
use wit_parser::{InterfaceId, PackageId, Resolve, decoding};

/// The largest file that is looked at, in bytes: interpreters of other languages take some 20 MiB.
pub(crate) const FILE_BYTES_MAX: usize = 64 << 20;
/// How every WebAssembly binary begins.
const MAGIC: &[u8] = b"\0asm";
/// The version and layer of a core module; a component has others.
const CORE_MODULE: &[u8] = &[1, 0, 0, 0];
/// How the names of the sections begin in which a core module has its world.
const WORLD_SECTION: &str = "component-type";
/// The longest that they may be together, in bytes; those of this host's own worlds have some 5 KB.
const WORLD_BYTES_MAX: usize = 256 << 10;
/// How much stack the decoder and the encoder get, in bytes: they go as deep as packages need one another, of which some
/// thousands fit into [`WORLD_BYTES_MAX`]. Types are nested a hundred deep at most. What isn't used costs nothing.
const STACK_BYTES: usize = 32 << 20;

/// The component that `bytes` is, or holds.
///
/// # Errors
/// Why it can't be made one.
pub(super) fn component(bytes: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("it has {} bytes, may have {FILE_BYTES_MAX}", bytes.len()));
    }
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err("it is no WebAssembly file".into());
    };
    if !rest.starts_with(CORE_MODULE) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut worlds = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload {
            Ok(Payload::CustomSection(section)) if section.name().starts_with(WORLD_SECTION) => {
                worlds.push(section.data());
            }
            Ok(_) => {}
            // A file that is still being copied is cut off, as a rule.
            Err(error) => return Err(format!("it is cut off or damaged: {error}")),
        }
    }
    let encode = || {
        check_worlds(&worlds)?;
        ComponentEncoder::default()
            .validate(true)
            .module(bytes)
            .and_then(ComponentEncoder::encode)
            .map_err(|error| format!("{error:#}"))
    };
    let encoded = robustly(encode).unwrap_or_else(|| Err("the encoder failed on it".into()));
    let component = encoded.map_err(|reason| format!("it is a core module that makes no component: {reason}"))?;
    Ok(Cow::Owned(component))
}

/// Runs what is made for what compilers write: other input may well make it panic, or take more stack than there is here.
/// `None` if it has panicked.
pub(super) fn robustly<T: Send>(run: impl FnOnce() -> T + Send) -> Option<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run);
        thread.ok()?.join().ok()
    })
}

/// That the worlds of all sections can be merged: the encoder takes it for granted that neither packages nor interfaces need
/// each other in circles, and would go round for ever.
fn check_worlds(sections: &[&[u8]]) -> Result<(), String> {
    let bytes: usize = sections.iter().map(|section| section.len()).sum();
    if bytes > WORLD_BYTES_MAX {
        return Err(format!("its world takes {bytes} bytes, may take {WORLD_BYTES_MAX}"));
    }
    let mut needs = Needs::default();
    for section in sections {
        if !section.starts_with(MAGIC) {
            return Err("its world is embedded in a form that no compiler has written for years".into());
        }
        let (resolve, _) = decoding::decode_world(section).map_err(|error| format!("{error:#}"))?;
        needs.add(&resolve);
    }
    let mut checked = BTreeSet::new();
    needs
        .0
        .keys()
        .try_for_each(|name| needs.check_circle(name, &mut checked, &mut BTreeSet::new()))
}

/// Which packages and interfaces need which others, by their names without versions: what is merged has the same name, or one
/// that differs in its version.
#[derive(Default)]
struct Needs(BTreeMap<String, BTreeSet<String>>);

impl Needs {
    fn add(&mut self, resolve: &Resolve) {
        let package = |id: PackageId| {
            let name = &resolve.packages[id].name;
            format!("{}:{}", name.namespace, name.name)
        };
        // One without a name of its own is merged with nothing.
        let interface = |id: InterfaceId| {
            let interface = &resolve.interfaces[id];
            Some(format!("{}/{}", package(interface.package?), interface.name.as_ref()?))
        };
        for (id, _) in &resolve.packages {
            let needed = resolve.package_direct_deps(id).map(package);
            self.0.entry(package(id)).or_default().extend(needed);
        }
        for (id, _) in &resolve.interfaces {
            if let Some(name) = interface(id) {
                let needed = resolve.interface_direct_deps(id).filter_map(interface);
                self.0.entry(name).or_default().extend(needed);
            }
        }
    }

    fn check_circle<'a>(
        &'a self,
        name: &'a str,
        checked: &mut BTreeSet<&'a str>,
        under_way: &mut BTreeSet<&'a str>,
    ) -> Result<(), String> {
        if checked.contains(name) {
            return Ok(());
        }
        if !under_way.insert(name) {
            return Err(format!("its world has {name:?}, which needs itself"));
        }
        for needed in self.0.get(name).into_iter().flatten() {
            self.check_circle(needed, checked, under_way)?;
        }
        checked.insert(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_taken_as_it_is() {
        let bytes = wat::parse_str("(component)").expect("a component");
        assert!(matches!(component(&bytes), Ok(Cow::Borrowed(same)) if same == bytes));
    }

    #[test]
    fn a_core_module_that_is_no_guest_is_refused_with_the_reason() {
        let wasi =
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))))"#;
        let reason = component(&wat::parse_str(wasi).expect("a module")).expect_err("it wants to write");
        assert!(
            reason.starts_with("it is a core module that makes no component: ")
                && reason.contains("wasi_snapshot_preview1"),
            "{reason}"
        );
        let mut cut = wat::parse_str("(module (func))").expect("a module");
        cut.pop();
        let reason = component(&cut).expect_err("something is missing");
        assert!(reason.starts_with("it is cut off or damaged: "), "{reason}");
        assert_eq!(component(b"(component)"), Err("it is no WebAssembly file".into()));
    }

    #[test]
    fn damaged_core_modules_are_refused_and_nothing_panics() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        let whole = wat::parse_str(
            r#"(module (@custom "component-type" "\00asm\0d\00\01\00") (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable))"#,
        )
        .expect("a module");
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..2000 {
            let mut damaged = whole.clone();
            for _ in 0..3 {
                let at = rng.random_range(8..damaged.len());
                damaged[at] = rng.random();
            }
            // Whatever comes of it comes as a value.
            drop(component(&damaged));
        }
    }

    #[test]
    fn a_world_whose_packages_need_each_other_is_refused() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus/component");
        let path = format!("{folder}/world-of-packages-that-need-each-other");
        let reason = component(&std::fs::read(path).expect("the corpus")).expect_err("it goes round");
        assert!(
            reason.starts_with("it is a core module that makes no component: its world has \"dev-postgres:")
                && reason.ends_with("which needs itself"),
            "{reason}"
        );
    }

    /// A module with a world for each of these texts: all that two packages have.
    fn with_worlds(worlds: [&str; 2]) -> Vec<u8> {
        let mut module = wat::parse_str("(module)").expect("a module");
        for (number, text) in worlds.into_iter().enumerate() {
            let mut resolve = Resolve::default();
            let text = format!("package test:world{number};\n{text}");
            let package = resolve.push_str("test.wit", &text).expect("it parses");
            let world = resolve.select_world(&[package], Some("w")).expect("a world");
            let mut own = wat::parse_str("(module)").expect("a module");
            let encoding = wit_component::StringEncoding::UTF8;
            wit_component::embed_component_metadata(&mut own, &resolve, world, encoding).expect("embedded");
            module.extend_from_slice(&own[8..]);
        }
        module
    }

    #[test]
    fn worlds_that_need_each_other_only_together_are_refused() {
        let one = "world w { import b:q/x; } package a:p { interface x { type t = u8; } interface y { type t = u8; } }
            package b:q { interface x { use a:p/x.{t}; } }";
        let other = "world w { import a:p/y; } package b:q { interface z { type t = u8; } }
            package a:p { interface y { use b:q/z.{t}; } }";
        let reason = component(&with_worlds([one, other])).expect_err("they go round");
        assert!(
            reason.ends_with("its world has \"a:p\", which needs itself"),
            "{reason}"
        );
        // In one package it is the interfaces.
        let one = "world w { import a:p/x; } package a:p { interface y { type t = u8; } interface x { use y.{t}; } }";
        let other = "world w { import a:p/y; } package a:p { interface x { type t = u8; } interface y { use x.{t}; } }";
        let reason = component(&with_worlds([one, other])).expect_err("they go round");
        assert!(
            reason.ends_with("its world has \"a:p/x\", which needs itself"),
            "{reason}"
        );
    }

    #[test]
    fn an_overlarge_file_is_not_even_looked_at() {
        let reason = component(&vec![0; FILE_BYTES_MAX + 1]).expect_err("too large");
        assert_eq!(reason, "it has 67108865 bytes, may have 67108864");
    }
}
