//! Guests: modules and components as their authors build them, by cargo, componentize-py and componentize-js, and components
//! of the real worlds whose every function misbehaves in one way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use dev_postgres_mcp::digest::Digest;
use tempfile::NamedTempFile;

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

use crate::binary;
use crate::clients::installed;
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

/// What makes a component of a guest in another language than Rust.
#[derive(Debug, Clone, Copy)]
enum Componentize {
    Py,
    Js,
}

/// A guest in another language than Rust.
#[derive(Debug)]
struct Guest<'a> {
    by: Componentize,
    world: &'a str,
    /// Where its files are, and what the one is called that exports the world.
    folder: PathBuf,
    module: &'a str,
    wit: PathBuf,
}

/// A tool bundle in Python: `plugins/examples/migrated_instance`.
#[must_use]
pub fn migrated_instance() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| of_repository(Componentize::Py, "plugins/examples", "migrated_instance", "tool-bundle"))
}

/// A tool bundle in JavaScript: `plugins/examples/schema_report`.
#[must_use]
pub fn schema_report() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| of_repository(Componentize::Js, "plugins/examples", "schema_report", "tool-bundle"))
}

/// A policy in Python: `plugins/examples/maintenance_windows`.
#[must_use]
pub fn maintenance_windows() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| of_repository(Componentize::Py, "plugins/examples", "maintenance_windows", "policy"))
}

/// A tool bundle that runs the Python that it is given: `tests/guests/python_shell`.
#[must_use]
pub fn python_shell() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| of_repository(Componentize::Py, "tests/guests", "python_shell", "tool-bundle"))
}

fn of_repository(by: Componentize, parent: &str, name: &str, world: &str) -> PathBuf {
    component(&Guest {
        by,
        world,
        folder: repository(parent).join(name),
        module: name,
        wit: repository(WIT),
    })
}

/// The component of a scaffold in Python or JavaScript.
///
/// # Panics
/// If it doesn't build, or the scaffold is in another language.
#[must_use]
pub fn of_scaffold(folder: &Path, language: &str, world: &str) -> PathBuf {
    let by = match language {
        "python" => Componentize::Py,
        "javascript" => Componentize::Js,
        _ => panic!("nothing componentizes {language}"),
    };
    component(&Guest {
        by,
        world,
        folder: folder.to_owned(),
        module: "plugin",
        wit: folder.join("wit"),
    })
}

/// Where hosts that tests start may keep compiled components from one test to the next: to compile an interpreter takes a
/// while.
#[must_use]
pub fn shared_cache() -> PathBuf {
    target_dir().join("cache")
}

/// The component of a guest, by the commands that its README.md has. It is made again when what it is made of has changed.
///
/// # Panics
/// If it doesn't build.
fn component(guest: &Guest) -> PathBuf {
    let Guest {
        by,
        world,
        folder,
        module,
        wit,
    } = guest;
    let mut inputs = BTreeMap::new();
    for (role, folder) in [
        ("tools", &repository("tests/componentize")),
        ("guest", folder),
        ("wit", wit),
    ] {
        for entry in fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            if entry.path().is_file() {
                let content = fs::read(entry.path()).expect("it can be read");
                inputs.insert((role, entry.file_name()), Digest::of(&content));
            }
        }
    }
    let inputs = Digest::of(format!("{by:?} {world} {inputs:?}").as_bytes());
    let component = target_dir().join(format!("{module}-{inputs}.wasm"));
    if !component.exists() {
        make(guest, &component);
    }
    // An unoptimised host takes a while to compile an interpreter: here, and not while a test waits for a server's answer.
    let compiled = Command::new(binary::path())
        .args(["plugin", "inspect"])
        .arg(&component)
        .env("XDG_CACHE_HOME", shared_cache())
        .output()
        .expect("it runs");
    assert!(compiled.status.success(), "{guest:?}: {compiled:?}");
    component
}

fn make(guest: &Guest, component: &Path) {
    let Guest {
        by,
        world,
        folder,
        module,
        wit,
    } = guest;
    // Others may be at it in another process: whole or not at all.
    let unfinished = NamedTempFile::new_in(target_dir()).expect("a file").into_temp_path();
    let mut command = match by {
        Componentize::Py => {
            let mut command = Command::new(installed("componentize-py/bin/componentize-py"));
            command.arg("--wit-path").arg(wit).args(["--world", world]);
            command.args(["componentize", module, "--output"]).arg(&unfinished);
            command
        }
        Componentize::Js => {
            let mut command = Command::new(installed("componentize-js/node_modules/.bin/componentize-js"));
            command.arg(format!("{module}.js")).arg("--wit").arg(wit);
            command.args(["--world-name", world, "--disable", "http", "fetch-event", "--out"]);
            command.arg(&unfinished);
            command
        }
    };
    let output = command.current_dir(folder).output().expect("it starts");
    assert!(output.status.success(), "{guest:?} does not build: {output:?}");
    unfinished.persist(component).expect("it can be renamed");
}

/// A tool bundle that does what its arguments say: `tests/guests/puppet`.
#[must_use]
pub fn puppet() -> &'static [u8] {
    static PUPPET: OnceLock<Vec<u8>> = OnceLock::new();
    PUPPET.get_or_init(|| module("tests/guests/puppet"))
}

/// The folder of the WIT package that guests are built against.
const WIT: &str = "wit/0.2.0";

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
    hostile_module_of(world, misdeed, |wit| wit)
}

/// As [`hostile`], of a WIT package that differs from the current one by `change`.
///
/// # Panics
/// If it can't be built.
#[must_use]
pub fn hostile_of(world: &str, misdeed: Misdeed, change: impl FnOnce(String) -> String) -> Vec<u8> {
    ComponentEncoder::default()
        .module(&hostile_module_of(world, misdeed, change))
        .and_then(ComponentEncoder::encode)
        .expect("the module makes a component")
}

/// As [`hostile_module`], of a WIT package that differs from the current one by `change`.
///
/// # Panics
/// If it can't be built.
#[must_use]
pub fn hostile_module_of(world: &str, misdeed: Misdeed, change: impl FnOnce(String) -> String) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let wit = fs::read_to_string(repository(WIT).join("plugin.wit")).expect("the current package");
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
