//! Compiles the built-in guests to WebAssembly components, `$OUT_DIR/<guest>.wasm`, for `include_bytes!`.
//!
//! A cargo of its own does it, in a directory of its own: a build script can't ask the outer one for another target.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::{env, fs};

use wit_component::ComponentEncoder;

const GUESTS: [&str; 2] = ["policy-default", "postgres-tools"];
const TARGET: &str = "wasm32-unknown-unknown";
const LINKER_VARIABLE: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER";

/// What shapes the outer build and must not reach the guests': its flags, its wrappers (clippy, llvm-cov), its profiles
/// and its directories, which it holds locked. By the beginning of the variable's name.
const OUTER_BUILD: [&str; 11] = [
    "CARGO_BUILD_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_LLVM_COV",
    "CARGO_PROFILE_",
    "CARGO_TARGET_DIR",
    "LLVM_PROFILE_FILE",
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
    "__CARGO_LLVM_COV",
];

/// Small guests load fast; the workspace's own release profile is the host's.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    ("CARGO_PROFILE_RELEASE_LTO", "true"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "true"),
];

fn main() {
    for input in [
        "Cargo.toml",
        "Cargo.lock",
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
    let toolchain = Toolchain::find(&out_dir)?;
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
    let mut cargo = Command::new(variable("CARGO")?);
    for (name, _) in env::vars_os() {
        let of_outer_build = |name: &str| OUTER_BUILD.iter().any(|prefix| name.starts_with(prefix));
        if name.to_str().is_some_and(of_outer_build) {
            cargo.env_remove(name);
        }
    }
    cargo
        // The outer cargo has brought the lock file up to date.
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(GUESTS.map(|guest| format!("--package={guest}")))
        .arg("--target-dir")
        .arg(target_dir)
        // Also where a user's configuration has one build directory for everything, which the outer cargo holds locked.
        .env("CARGO_BUILD_BUILD_DIR", target_dir)
        .envs(PROFILE)
        .env("RUSTC", &toolchain.rustc)
        .current_dir("..");
    if let Some(linker) = &toolchain.linker {
        cargo.env(LINKER_VARIABLE, linker);
    }
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

/// A compiler that has the target's standard library, and a linker for it.
struct Toolchain {
    rustc: PathBuf,
    /// `None` where the compiler finds one by itself.
    linker: Option<PathBuf>,
}

impl Toolchain {
    /// Cargo's own compiler if it will do, else the first on `PATH` that does: on Debian without rustup's server, the
    /// distribution's.
    fn find(scratch: &Path) -> Result<Self, String> {
        let cargos_own = PathBuf::from(variable("RUSTC")?);
        let on_path = path_directories().map(|directory| directory.join(format!("rustc{}", env::consts::EXE_SUFFIX)));
        [cargos_own]
            .into_iter()
            .chain(on_path)
            .find_map(|rustc| Self::of(rustc, scratch))
            .ok_or_else(|| {
                format!(
                    "the built-in components need Rust's {TARGET} target and its linker; run: rustup target add {TARGET} \
                     (without rustup: make setup)"
                )
            })
    }

    fn of(rustc: PathBuf, scratch: &Path) -> Option<Self> {
        // The one sure sign of a standard library that this very compiler can read is that it reads it.
        let reads_library = Command::new(&rustc)
            .args([
                "--target",
                TARGET,
                "--crate-type=lib",
                "--crate-name=probe",
                "--emit=metadata",
                "-",
            ])
            .arg("--out-dir")
            .arg(scratch)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !reads_library {
            return None;
        }
        let linker = if env::var_os(LINKER_VARIABLE).is_some() || has_own_linker(&rustc) {
            None
        } else {
            Some(linker_on_path()?)
        };
        Some(Self { rustc, linker })
    }
}

/// Whether `rustc` comes with `rust-lld`, its default linker for WebAssembly. Distributions leave it out.
fn has_own_linker(rustc: &Path) -> bool {
    let Ok(output) = Command::new(rustc).args(["--print", "sysroot"]).output() else {
        return false;
    };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    entries(&sysroot.join("lib/rustlib")).any(|directory| {
        directory
            .join("bin")
            .join(format!("rust-lld{}", env::consts::EXE_SUFFIX))
            .exists()
    })
}

/// LLVM's linker under its own name, or the name with a version that distributions give it.
fn linker_on_path() -> Option<PathBuf> {
    path_directories()
        .flat_map(|directory| entries(&directory))
        .find(|path| {
            path.file_stem()
                .and_then(|stem| stem.to_str())
                .is_some_and(|stem| stem == "wasm-ld" || stem.starts_with("wasm-ld-"))
        })
}

fn path_directories() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

/// What is in a directory; nothing where it can't be read.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}
