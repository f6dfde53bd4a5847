//! The lock file: what each artifact was when somebody agreed to it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::files;
use crate::plugins::grants::Grants;
use crate::plugins::versions::World;

/// The file's name; it is beside the configuration file.
pub const NAME: &str = "dev-postgres-mcp.lock";
/// The largest file that is read, in bytes: some thousand artifacts.
const BYTES_MAX: u64 = 1 << 20;
/// The version of the format.
const VERSION: u32 = 1;
/// How long another process may take to write it.
const BUSY_MAX: Duration = Duration::from_secs(10);

const HEADER: &str = "\
# What dev-postgres-mcp has pulled and what was agreed to. Keep it beside the configuration file, in version control too:
# without an entry, the next start takes what the tag is then. `dev-postgres-mcp plugin update` rewrites it.

";

/// One artifact, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The component's name in the configuration.
    pub name: String,
    /// What it is for; a bundle and a policy may have one name.
    pub world: World,
    /// As the configuration had it.
    pub reference: String,
    /// The digest of the manifest, which is what the registry is asked for.
    #[serde(with = "prefixed")]
    pub manifest: Digest,
    /// The digest of the component itself.
    pub sha256: Digest,
    /// What it asks the host for, and somebody has agreed to.
    pub grants: Grants,
    /// Its tools, each with the digest of all that it tells clients.
    pub tools: BTreeMap<String, Digest>,
}

impl Pin {
    /// Whether it is for the component of this world and name.
    #[must_use]
    pub fn is_for(&self, world: World, name: &str) -> bool {
        self.world == world && self.name == name
    }
}

/// A digest as registries write it.
mod prefixed {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("sha256:{digest}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digest = text.strip_prefix("sha256:").and_then(|digest| digest.parse().ok());
        digest.ok_or_else(|| de::Error::custom("must be sha256: and 64 hexadecimal digits"))
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    #[serde(default)]
    component: Vec<Pin>,
}

/// What is wrong with the lock file.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It can't be read.
    #[error("the lock file {path} can't be read: {reason}")]
    Unreadable {
        /// Where it is.
        path: String,
        /// Why not.
        reason: String,
    },
    /// It can't be written.
    #[error("the lock file {path} can't be written: {reason}")]
    Unwritable {
        /// Where it should be.
        path: String,
        /// Why not.
        reason: String,
    },
}

/// The lock file of one configuration.
#[derive(Debug, Clone)]
pub(super) struct Lock {
    path: PathBuf,
    /// Where processes of this user wait for each other; nobody else's, and no litter beside the configuration.
    guards: PathBuf,
}

impl Lock {
    pub(super) fn new(path: PathBuf, guards: PathBuf) -> Self {
        Self { path, guards }
    }

    /// Every pin; none if there is no file.
    pub(super) fn read(&self) -> Result<Vec<Pin>, LockError> {
        let unreadable = |reason: String| LockError::Unreadable {
            path: self.path.display().to_string(),
            reason,
        };
        let bytes = match files::read(&self.path, BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let contents: Contents = toml::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        if contents.version != VERSION {
            let reason = format!("it is of version {}, this program knows {VERSION}", contents.version);
            return Err(unreadable(reason));
        }
        let mut pins = contents.component;
        pins.sort_by(|a, b| (a.world, &a.name).cmp(&(b.world, &b.name)));
        if let Some(twice) = pins.windows(2).find(|two| two[0].is_for(two[1].world, &two[1].name)) {
            return Err(unreadable(format!("it has {} twice", twice[0].name)));
        }
        Ok(pins)
    }

    /// Changes the file while no other process of this user does; `change` is given what is there, and nothing is
    /// written if it fails.
    pub(super) async fn change<T: Send + 'static, E: From<LockError> + Send + 'static>(
        &self,
        change: impl FnOnce(&mut Vec<Pin>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let unwritable = |reason: String| LockError::Unwritable {
            path: self.path.display().to_string(),
            reason,
        };
        let busy = || unwritable(format!("another process has held it for {} s", BUSY_MAX.as_secs()));
        let guard = self.guard().map_err(|error| unwritable(error.to_string()))?;
        let held = tokio::task::spawn_blocking(move || guard.lock().map(|()| guard));
        let guard = tokio::time::timeout(BUSY_MAX, held).await.map_err(|_| busy())?;
        let guard = guard.unwrap_or_else(|error| Err(io::Error::other(error)));
        // Held until this returns.
        let _guard = guard.map_err(|error| unwritable(error.to_string()))?;
        let mut pins = self.read()?;
        let before = pins.clone();
        let outcome = change(&mut pins)?;
        if pins != before {
            self.write(pins).map_err(unwritable)?;
        }
        Ok(outcome)
    }

    fn guard(&self) -> io::Result<fs::File> {
        files::make_private(&self.guards)?;
        let of = Digest::of(self.target().as_os_str().as_encoded_bytes());
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.guards.join(format!("{of}.guard")))
    }

    /// The file itself, by whatever name and link it is called.
    fn target(&self) -> PathBuf {
        if let Ok(path) = self.path.canonicalize() {
            return path;
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize();
        folder.map_or_else(|_| self.path.clone(), |folder| folder.join(NAME))
    }

    fn write(&self, mut pins: Vec<Pin>) -> Result<(), String> {
        pins.sort_by(|a, b| (a.world, &a.name).cmp(&(b.world, &b.name)));
        let contents = Contents {
            version: VERSION,
            component: pins,
        };
        let text = toml::to_string(&contents).map_err(|error| error.to_string())?;
        let target = self.target();
        // The configuration's folder need not be there: its settings may all have come from elsewhere.
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        }
        files::write_whole(&target, &[HEADER.as_bytes(), text.as_bytes()]).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::grants::Grant;

    fn pin(name: &str) -> Pin {
        Pin {
            name: name.to_owned(),
            world: World::ToolBundle,
            reference: "oci://ghcr.io/acme/tools:1".into(),
            manifest: Digest::of(b"manifest"),
            sha256: Digest::of(b""),
            grants: [Grant::Create, Grant::Sql].into_iter().collect(),
            tools: [("a_tool".to_owned(), Digest::of(b"a"))].into(),
        }
    }

    fn lock(home: &Path) -> Lock {
        Lock::new(home.join("etc").join(NAME), home.join("guards"))
    }

    async fn add(lock: &Lock, pin: Pin) {
        let added: Result<(), LockError> = lock
            .change(|pins| {
                pins.push(pin);
                Ok(())
            })
            .await;
        added.expect("written");
    }

    #[tokio::test]
    async fn a_person_can_read_it_and_it_is_read_as_it_was_written() {
        let home = tempfile::tempdir().expect("a folder");
        let lock = lock(home.path());
        assert_eq!(lock.read().expect("no file is no pins"), []);
        let policy = Pin {
            world: World::Policy,
            tools: BTreeMap::new(),
            ..pin("b")
        };
        add(&lock, pin("b")).await;
        add(&lock, pin("a")).await;
        add(&lock, policy.clone()).await;
        assert_eq!(lock.read().expect("pins"), [policy, pin("a"), pin("b")]);
        let text = fs::read_to_string(&lock.path).expect("text");
        insta::assert_snapshot!(text);
    }

    #[tokio::test]
    async fn what_fails_or_changes_nothing_writes_nothing() {
        let home = tempfile::tempdir().expect("a folder");
        let lock = lock(home.path());
        let failed: Result<(), LockError> = lock
            .change(|pins| {
                pins.push(pin("a"));
                Err(LockError::Unwritable {
                    path: String::new(),
                    reason: String::new(),
                })
            })
            .await;
        assert!(failed.is_err() && !lock.path.exists());
        let same: Result<(), LockError> = lock.change(|_| Ok(())).await;
        assert!(same.is_ok() && !lock.path.exists());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_that_write_at_once_lose_nothing() {
        let home = tempfile::tempdir().expect("a folder");
        let lock = lock(home.path());
        let writers: Vec<_> = (0..20)
            .map(|number| {
                let lock = lock.clone();
                tokio::spawn(async move { add(&lock, pin(&format!("p{number:02}"))).await })
            })
            .collect();
        for writer in writers {
            writer.await.expect("it writes");
        }
        assert_eq!(lock.read().expect("pins").len(), 20);
        let beside = fs::read_dir(lock.path.parent().expect("a folder")).expect("a folder");
        assert_eq!(beside.count(), 1, "nothing but the file is left");
    }

    #[tokio::test]
    async fn a_file_that_makes_no_sense_is_told_and_stays_as_it_is() {
        let home = tempfile::tempdir().expect("a folder");
        let lock = lock(home.path());
        add(&lock, pin("a")).await;
        let good = fs::read_to_string(&lock.path).expect("text");
        let entry = good.split_once("[[component]]").expect("an entry").1;
        for (wrong, said) in [
            ("version = 2\n".to_owned(), "version 2"),
            ("nonsense".to_owned(), "TOML"),
            (good.replace("sql", "everything"), "must be a list of grants"),
            (good.replace("manifest = \"sha256:", "manifest = \""), "must be sha256:"),
            (format!("{good}\n[[component]]{entry}"), "it has a twice"),
            ("x".repeat(2 << 20), "may have 1048576"),
        ] {
            fs::write(&lock.path, &wrong).expect("written");
            let error = lock.read().expect_err("it makes no sense").to_string();
            assert!(
                error.starts_with("the lock file ") && (error.contains(said) || said == "TOML"),
                "{said}: {error}"
            );
            let changed: Result<(), LockError> = lock
                .change(|pins| {
                    pins.clear();
                    Ok(())
                })
                .await;
            changed.expect_err("it can't be changed");
            assert_eq!(fs::read_to_string(&lock.path).expect("text"), wrong);
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_link_stays_a_link() {
        let home = tempfile::tempdir().expect("a folder");
        let real = home.path().join("real.lock");
        fs::write(&real, "version = 1\n").expect("a file");
        let lock = lock(home.path());
        fs::create_dir(lock.path.parent().expect("a folder")).expect("a folder");
        std::os::unix::fs::symlink(&real, &lock.path).expect("a link");
        add(&lock, pin("a")).await;
        assert!(lock.path.is_symlink());
        assert!(fs::read_to_string(real).expect("text").contains("ghcr.io"));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_guarded_is_not_written() {
        let home = tempfile::tempdir().expect("a folder");
        let lock = lock(home.path());
        fs::write(home.path().join("guards"), "no folder").expect("a file");
        let changed: Result<(), LockError> = lock
            .change(|pins| {
                pins.push(pin("a"));
                Ok(())
            })
            .await;
        let error = changed.expect_err("nobody waits for anybody there");
        assert!(matches!(error, LockError::Unwritable { .. }), "{error}");
        assert!(!lock.path.exists());
    }
}
