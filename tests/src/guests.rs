//! Guests: modules that cargo builds as an author's cargo does, and components of the real worlds whose every function
//! misbehaves in one way.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

use crate::readme::repository;
use toolchain::{TARGET, Toolchain};

#[path = "../../host/build/toolchain.rs"]
mod toolchain;

/// The core module of the guest in a folder of this repository, outside of its workspace, as cargo builds it.
///
/// # Panics
/// If it doesn't build.
#[must_use]
pub fn module(folder: &str) -> Vec<u8> {
    build(&repository(folder))
}

/// The core module of the guest in any folder, once its own tests have passed. Its crate is named as the folder is.
///
/// # Panics
/// If they don't pass, or it doesn't build.
#[must_use]
pub fn test_and_build(folder: &Path) -> Vec<u8> {
    let status = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--locked", "--target-dir"])
        .arg(target_dir())
        .current_dir(folder)
        .status()
        .expect("cargo starts");
    assert!(status.success(), "the tests of {} fail", folder.display());
    build(folder)
}

/// Beside the tests' own output: all guests share what they have in common, and the next run has nothing to do.
fn target_dir() -> PathBuf {
    let folder = env::current_exe()
        .ok()
        .and_then(|test| Some(test.parent()?.parent()?.parent()?.join("guests")))
        .expect("tests are in a target directory");
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn build(folder: &Path) -> Vec<u8> {
    static TOOLCHAIN: OnceLock<Toolchain> = OnceLock::new();
    let target_dir = target_dir();
    let toolchain = TOOLCHAIN
        .get_or_init(|| Toolchain::find(PathBuf::from("rustc"), &target_dir).expect("a compiler for WebAssembly"));
    let status = toolchain
        .cargo_build(env!("CARGO"), &target_dir)
        .arg("--quiet")
        .current_dir(folder)
        .status()
        .expect("cargo starts");
    assert!(status.success(), "{} does not build", folder.display());
    let name = folder.file_name().expect("a name").to_string_lossy().replace('-', "_");
    fs::read(
        target_dir
            .join(TARGET)
            .join("release")
            .join(name)
            .with_extension("wasm"),
    )
    .expect("cargo has written it")
}

/// A tool bundle that does what its arguments say: `tests/guests/puppet`.
#[must_use]
pub fn puppet() -> &'static [u8] {
    static PUPPET: OnceLock<Vec<u8>> = OnceLock::new();
    PUPPET.get_or_init(|| module("tests/guests/puppet"))
}

/// What a hostile guest does as soon as it is called.
#[derive(Debug, Clone, Copy)]
pub enum Misdeed {
    /// Traps.
    Trap,
    /// Computes for ever.
    Spin,
    /// Takes memory without end.
    Hoard,
    /// Calls itself without end.
    Recurse,
    /// Answers with a pointer to where no memory is.
    Stray,
}

/// A component of `world` that does nothing but `misdeed`.
///
/// # Panics
/// If it can't be built.
#[must_use]
pub fn hostile(world: &str, misdeed: Misdeed) -> Vec<u8> {
    hostile_of(world, misdeed, |wit| wit)
}

/// The core module that [`hostile`] makes a component of, with its world embedded.
///
/// # Panics
/// If it can't be built.
#[must_use]
pub fn hostile_module(world: &str, misdeed: Misdeed) -> Vec<u8> {
    module_of(world, misdeed, |wit| wit)
}

/// As [`hostile`], of a WIT package that differs from the current one by `change`.
///
/// # Panics
/// If it can't be built.
#[must_use]
pub fn hostile_of(world: &str, misdeed: Misdeed, change: impl FnOnce(String) -> String) -> Vec<u8> {
    ComponentEncoder::default()
        .module(&module_of(world, misdeed, change))
        .and_then(ComponentEncoder::encode)
        .expect("the module makes a component")
}

fn module_of(world: &str, misdeed: Misdeed, change: impl FnOnce(String) -> String) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let wit = fs::read_to_string(repository("wit/0.2.0/plugin.wit")).expect("the current package");
    let package = resolve.push_str("plugin.wit", &change(wit)).expect("it parses");
    let world = resolve
        .select_world(&[package], Some(world))
        .expect("the world is in wit/");
    let idle = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    let text = wasmprinter::print_bytes(&idle).expect("a module prints");
    // Every function of the dummy module is a lone `unreachable`.
    let body = match misdeed {
        Misdeed::Trap => "unreachable",
        Misdeed::Spin => "(loop (br 0)) unreachable",
        Misdeed::Hoard => "(loop (drop (memory.grow (i32.const 16))) (br 0)) unreachable",
        Misdeed::Recurse => "(call $recurse) unreachable",
        Misdeed::Stray => "(return (i32.const -16))",
    };
    let mut text = text.replace("unreachable", body);
    if matches!(misdeed, Misdeed::Recurse) {
        let end = text.rfind(')').expect("a module ends");
        text.insert_str(end, "(func $recurse (call $recurse))");
    }
    let mut module = wat::parse_str(&text).expect("the module is still one");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("the world can be embedded");
    module
}
