//! Pulled components, kept by their digests: a start needs no registry.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::digest::Digest;
use crate::files;
use crate::plugins::FILE_BYTES_MAX;

/// How long after its last use an entry counts as used: old ones are removed, and one write a day is enough for that.
const USE_AGE_MIN: Duration = Duration::from_hours(24);

/// A folder of components.
#[derive(Debug, Clone)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    /// Keeps them in `folder`, which is made when it is first needed.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The component of this digest, if it is there: what is under the name and is something else isn't it.
    pub(super) fn load(&self, sha256: Digest) -> Option<Vec<u8>> {
        let path = self.path(sha256);
        let bytes = files::read(&path, FILE_BYTES_MAX as u64).ok()?;
        if Digest::of(&bytes) != sha256 {
            tracing::warn!(path = %path.display(), "a pulled component is damaged and is pulled again");
            return None;
        }
        // A hint for when to remove it, no more.
        let _ = self.touch(sha256);
        Some(bytes)
    }

    /// Keeps a component; the next start pulls it again if that fails.
    pub(super) fn keep(&self, sha256: Digest, bytes: &[u8]) {
        let path = self.path(sha256);
        if let Err(error) = files::keep(&self.folder, &path, &[bytes]) {
            tracing::warn!(path = %path.display(), %error, "a pulled component could not be kept");
        }
    }

    fn path(&self, sha256: Digest) -> PathBuf {
        self.folder.join(format!("{sha256}.wasm"))
    }

    fn touch(&self, sha256: Digest) -> std::io::Result<()> {
        let path = self.path(sha256);
        let (now, used) = (SystemTime::now(), path.metadata()?.modified()?);
        if now.duration_since(used).is_ok_and(|age| age > USE_AGE_MIN) {
            OpenOptions::new().write(true).open(path)?.set_modified(now)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_its_name_says_is_loaded() {
        let home = tempfile::tempdir().expect("a folder");
        let store = Store::new(home.path().join("pulled"));
        let (whole, sha256) = (b"a component".as_slice(), Digest::of(b"a component"));
        assert_eq!(store.load(sha256), None);
        store.keep(sha256, whole);
        let path = store.path(sha256);
        for wrong in [&whole[..5], b"", b"A component", b"a component and more"] {
            fs::write(&path, wrong).expect("written");
            assert_eq!(store.load(sha256), None);
            store.keep(sha256, whole);
            assert_eq!(store.load(sha256).as_deref(), Some(whole), "it is replaced");
        }
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("a folder");
        assert_eq!(store.load(sha256), None, "a folder is no entry");
        store.keep(sha256, whole);
    }

    #[test]
    fn what_is_used_stays_young() {
        let home = tempfile::tempdir().expect("a folder");
        let store = Store::new(home.path().join("pulled"));
        let sha256 = Digest::of(b"x");
        store.keep(sha256, b"x");
        let old = SystemTime::now() - Duration::from_hours(20 * 24);
        let file = OpenOptions::new()
            .write(true)
            .open(store.path(sha256))
            .expect("the entry");
        file.set_modified(old).expect("an old time");
        store.load(sha256).expect("it is there");
        let used = store.path(sha256).metadata().and_then(|entry| entry.modified());
        assert!(used.expect("a time") > old + USE_AGE_MIN);
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().expect("a folder");
        let store = Store::new(home.path().join("pulled"));
        store.keep(Digest::of(b"x"), b"x");
        let mode = fs::metadata(&store.folder).expect("a folder").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
