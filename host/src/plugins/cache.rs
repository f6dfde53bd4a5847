//! Compiled components, kept from one process to the next: compiling one takes a hundred times as long as loading it.
//!
//! What is loaded here runs as native code. An entry is loaded only if it lies in a folder that nobody but this process's
//! user may write to, is whole, and was made from this component for this engine: anything else is a miss.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::files;

/// The size of the digest that an entry begins with, in bytes.
const DIGEST_BYTES: usize = 32;
/// The largest entry that is looked at, in bytes: machine code is up to ten times as long as the component.
const ENTRY_BYTES_MAX: u64 = 1 << 30;
/// From which size on compiling is worth a word: interpreters are longer, what Rust makes is shorter; in bytes.
const LARGE: usize = 4 << 20;

/// A folder of compiled components; without one everything is compiled.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// Keeps compiled components in `folder`, which is made when it is first needed.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// The component, compiled now or before.
    pub(super) fn component(&self, engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Component> {
        let Some(folder) = &self.folder else {
            return Component::from_binary(engine, bytes);
        };
        let path = folder.join(name(engine, bytes));
        if let Some(component) = load(engine, &path) {
            return Ok(component);
        }
        if bytes.len() >= LARGE {
            let mebibytes = bytes.len() >> 20;
            tracing::info!(
                mebibytes,
                "compiling a component, which takes a while; the next time it is only loaded"
            );
        }
        let component = Component::from_binary(engine, bytes)?;
        let stored = component.serialize().map_err(io::Error::other);
        if let Err(error) =
            stored.and_then(|compiled| files::keep(folder, &path, &[&seal(&path, &compiled), &compiled]))
        {
            // The next process compiles it once more, no worse.
            tracing::debug!(path = %path.display(), %error, "a compiled component could not be kept");
        }
        Ok(component)
    }
}

/// By the component's content, and by all of the engine that the compiled code depends on.
fn name(engine: &Engine, bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{}-{:016x}.cwasm", crate::digest::Digest::of(bytes), hasher.finish())
}

/// What an entry begins with: over its name too, so that one under another's name is foreign.
fn seal(path: &Path, compiled: &[u8]) -> [u8; DIGEST_BYTES] {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    Sha256::new()
        .chain_update(name)
        .chain_update(compiled)
        .finalize()
        .into()
}

fn load(engine: &Engine, path: &Path) -> Option<Component> {
    let entry = is_private(path.parent()?).then(|| files::read(path, ENTRY_BYTES_MAX).ok())??;
    let (found, compiled) = entry.split_at_checked(DIGEST_BYTES)?;
    if found != seal(path, compiled) {
        return None;
    }
    // SAFETY: `compiled` must be what `Component::serialize` gave, unchanged. It is whole, as the digest shows; it was
    // written by `files::keep`, since nobody but our own user may write to its folder, and whoever may act as that user needs
    // no such way to run code; and its name says that it was compiled for this very engine.
    #[expect(unsafe_code, reason = "wasmtime has no other way to load compiled code")]
    let component = unsafe { Component::deserialize(engine, compiled) };
    component
        .inspect_err(|error| tracing::debug!(path = %path.display(), %error, "a compiled component does not fit"))
        .ok()
}

/// Whether nobody but this process's user may write to it.
fn is_private(folder: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let own = nix::unistd::geteuid().as_raw();
        folder
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own && metadata.mode().trailing_zeros() >= 6)
    }
    // The user's own folders are nobody else's there.
    #[cfg(not(unix))]
    folder.is_dir()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const EMPTY: &[u8] = b"(component)";

    fn engine() -> Engine {
        Engine::default()
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        let read = fs::read_dir(folder).expect("the folder");
        read.map(|entry| entry.expect("an entry").path()).collect()
    }

    fn bytes() -> Vec<u8> {
        wat::parse_bytes(EMPTY).expect("a component").into_owned()
    }

    /// A cache with one entry in it.
    fn filled() -> (tempfile::TempDir, Cache, PathBuf) {
        let home = tempfile::tempdir().expect("a directory");
        let folder = home.path().join("components");
        let cache = Cache::new(Some(folder.clone()));
        cache.component(&engine(), &bytes()).expect("it compiles");
        let [entry] = &entries(&folder)[..] else {
            panic!("one entry");
        };
        let entry = entry.clone();
        (home, cache, entry)
    }

    #[test]
    fn what_was_compiled_once_is_loaded_the_next_time() {
        let (_home, _cache, entry) = filled();
        assert!(load(&engine(), &entry).is_some());
    }

    #[test]
    fn a_damaged_truncated_empty_or_foreign_entry_is_a_miss_and_is_replaced() {
        let (_home, cache, entry) = filled();
        let whole = fs::read(&entry).expect("the entry");
        let mut damaged = whole.clone();
        *damaged.last_mut().expect("not empty") ^= 1;
        let mut foreign = seal(&entry, b"anything").to_vec();
        foreign.extend_from_slice(b"anything");
        let longer = [&whole[..], b"x"].concat();
        for wrong in [
            &damaged[..],
            &whole[..whole.len() / 2],
            &whole[..7],
            b"",
            &foreign,
            &longer,
        ] {
            fs::write(&entry, wrong).expect("written");
            assert!(load(&engine(), &entry).is_none(), "{} bytes were loaded", wrong.len());
            cache.component(&engine(), &bytes()).expect("it is compiled");
            assert_eq!(fs::read(&entry).expect("the entry"), whole, "it is replaced");
        }
    }

    #[test]
    fn another_components_entry_is_a_miss_under_this_ones_name() {
        let (_home, cache, entry) = filled();
        let other = wat::parse_str("(component (component))").expect("a component");
        cache.component(&engine(), &other).expect("it is compiled");
        let others = entry.with_file_name(name(&engine(), &other));
        assert!(load(&engine(), &others).is_some());
        fs::copy(&others, &entry).expect("copied");
        assert!(load(&engine(), &entry).is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_and_a_pipe_in_place_of_an_entry_are_misses() {
        let (_home, cache, entry) = filled();
        fs::remove_file(&entry).expect("removed");
        fs::create_dir(&entry).expect("a folder");
        assert!(load(&engine(), &entry).is_none());
        cache.component(&engine(), &bytes()).expect("it is compiled");
        fs::remove_dir(&entry).expect("removed");
        let mode = rustix::fs::Mode::from_bits_truncate(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &entry, mode).expect("a pipe");
        assert!(load(&engine(), &entry).is_none());
    }

    #[test]
    fn an_entry_for_another_engine_has_another_name() {
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        let other = Engine::new(&config).expect("an engine");
        assert_ne!(name(&engine(), EMPTY), name(&other, EMPTY));
        assert_ne!(name(&engine(), EMPTY), name(&engine(), b"(component (component))"));
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_may_write_to_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt;
        let (_home, cache, entry) = filled();
        let folder = entry.parent().expect("a folder");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("set");
        assert!(load(&engine(), &entry).is_none());
        cache.component(&engine(), &bytes()).expect("it is compiled");
    }

    #[test]
    fn a_folder_that_cannot_be_made_hinders_nothing() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("file");
        fs::write(&file, "").expect("a file");
        let cache = Cache::new(Some(file.join("components")));
        cache.component(&engine(), &bytes()).expect("it is compiled");
        cache.component(&engine(), b"nonsense").expect_err("it is no component");
    }
}
