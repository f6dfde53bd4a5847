//! Compiles the built-in guests to WebAssembly components, `$OUT_DIR/<guest>.wasm`, for `include_bytes!`.
//!
//! A cargo of its own does it, in a directory of its own: a build script can't ask the outer one for another target.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use wit_component::ComponentEncoder;

use toolchain::{LINKER_VARIABLE, TARGET, Toolchain};

#[path = "build/toolchain.rs"]
mod toolchain;

const GUESTS: [&str; 2] = ["policy-default", "postgres-tools"];
fn main() {
    for input in [
        "Cargo.toml",
        "Cargo.lock",
        "plugins/policy-base",
        "plugins/policy-default",
        "plugins/postgres-tools",
        "wit",
    ] {
        println!("cargo::rerun-if-changed=../{input}");
    }
    println!("cargo::rerun-if-env-changed={LINKER_VARIABLE}");

    if let Err(reason) = build_guests() {
        println!("cargo::error={reason}");
    }
}

fn build_guests() -> Result<(), String> {
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let toolchain = Toolchain::find(variable("RUSTC")?.into(), &out_dir)?;
    let modules = compile(&toolchain, &out_dir.join("guests"))?;
    for guest in GUESTS {
        let module = modules.join(guest.replace('-', "_")).with_extension("wasm");
        let component = out_dir.join(guest).with_extension("wasm");
        componentize(&module, &component).map_err(|reason| format!("{guest} is no component: {reason}"))?;
    }
    Ok(())
}

/// Returns the directory of the core modules.
fn compile(toolchain: &Toolchain, target_dir: &Path) -> Result<PathBuf, String> {
    let mut cargo = toolchain.cargo_build(variable("CARGO")?, target_dir);
    cargo
        .args(GUESTS.map(|guest| format!("--package={guest}")))
        .current_dir("..");
    match cargo.status() {
        Ok(status) if status.success() => Ok(target_dir.join(TARGET).join("release")),
        // Cargo shows what its namesake wrote to stderr if the script itself fails, not for a mere `cargo::error`.
        Ok(status) => process::exit(status.code().unwrap_or(1)),
        Err(error) => Err(format!("{cargo:?} does not start: {error}")),
    }
}

/// Turns a core module into a component. It can import only what its world grants: the encoder refuses anything else.
fn componentize(module: &Path, component: &Path) -> Result<(), String> {
    let module = fs::read(module).map_err(|error| format!("{}: {error}", module.display()))?;
    let bytes = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(ComponentEncoder::encode)
        .map_err(|error| format!("{error:#}"))?;
    fs::write(component, bytes).map_err(|error| format!("{}: {error}", component.display()))
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}
