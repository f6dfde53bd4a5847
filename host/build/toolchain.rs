//! The compiler and linker for WebAssembly, and a cargo that uses them: for the build script and for the tests.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

pub(crate) const TARGET: &str = "wasm32-unknown-unknown";
pub(crate) const LINKER_VARIABLE: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER";

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

/// A compiler that has the target's standard library, and a linker for it.
#[derive(Debug)]
pub(crate) struct Toolchain {
    rustc: PathBuf,
    /// `None` where the compiler finds one by itself.
    linker: Option<PathBuf>,
}

impl Toolchain {
    /// Cargo's own compiler if it will do, else the first on `PATH` that does: on Debian without rustup's server, the
    /// distribution's.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn find(cargos_own: PathBuf, scratch: &Path) -> Result<Self, String> {
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

    /// A cargo that builds modules in `target_dir`, to be told of which packages.
    pub(crate) fn cargo_build(&self, cargo: impl AsRef<OsStr>, target_dir: &Path) -> Command {
        let mut command = Command::new(cargo);
        for (name, _) in env::vars_os() {
            let of_outer_build = |name: &str| OUTER_BUILD.iter().any(|prefix| name.starts_with(prefix));
            if name.to_str().is_some_and(of_outer_build) {
                command.env_remove(name);
            }
        }
        command
            // The outer cargo has brought the lock file up to date.
            .args(["build", "--release", "--locked", "--target", TARGET])
            .arg("--target-dir")
            .arg(target_dir)
            // Also where a user's configuration has one build directory for everything, which the outer cargo holds locked.
            .env("CARGO_BUILD_BUILD_DIR", target_dir)
            .envs(PROFILE)
            .env("RUSTC", &self.rustc);
        if let Some(linker) = &self.linker {
            command.env(LINKER_VARIABLE, linker);
        }
        command
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
