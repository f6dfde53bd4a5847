//! Components from registries: resolved once, pulled by digest, pinned in a lock file, and kept on this machine.

mod credentials;
pub mod lock;
pub mod reference;
mod registry;
mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;

use self::lock::{Lock, LockError, Pin};
use self::reference::Reference;
pub use self::registry::PullError;
use self::registry::Registry;
use self::store::Store;
use crate::digest::Digest;
use crate::environment::Environment;
use crate::failure::{Failure, FailureCode};
use crate::plugins::grants::Grants;
use crate::plugins::versions::World;

/// Why a component from a registry isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// It can't be pulled.
    #[error("{name} can't be pulled from {reference}: {cause}")]
    Pull {
        /// The component's name in the configuration.
        name: String,
        /// Where it should be.
        reference: Box<Reference>,
        /// Why not.
        cause: PullError,
    },
    /// The lock file is at fault.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It asks for more than somebody agreed to.
    #[error("{name} asks for more than was agreed to: {more}")]
    Grown {
        /// The component's name in the configuration.
        name: String,
        /// What is new.
        more: Grants,
    },
    /// Another process has pinned something else in the meantime.
    #[error("{name} has been pinned by another process meanwhile")]
    Overtaken {
        /// The component's name in the configuration.
        name: String,
    },
    /// There is no home to keep it in.
    #[error("{name} comes from a registry, and there is no folder to keep it in")]
    Homeless {
        /// The component's name in the configuration.
        name: String,
    },
}

impl From<&ArtifactError> for Failure {
    fn from(error: &ArtifactError) -> Self {
        let (code, advice) = match error {
            ArtifactError::Pull { cause, reference, .. } => pull_advice(cause, reference),
            ArtifactError::Lock(LockError::Unreadable { .. }) => (
                FailureCode::Failed,
                "Restore it from version control; without it, the next start pins what the registries have then."
                    .into(),
            ),
            ArtifactError::Lock(LockError::Unwritable { .. }) => (
                FailureCode::Failed,
                "Let it be written to once: `dev-postgres-mcp plugin update` does that. After that, it is only read."
                    .into(),
            ),
            ArtifactError::Grown { name, .. } => (
                FailureCode::Denied,
                format!("`dev-postgres-mcp plugin update {name}` shows what is new, and asks."),
            ),
            ArtifactError::Overtaken { .. } => (FailureCode::Failed, "Try again.".into()),
            ArtifactError::Homeless { .. } => (FailureCode::Failed, "Set HOME, or XDG_CACHE_HOME and --config.".into()),
        };
        Self::new(code, error.to_string(), advice)
    }
}

fn pull_advice(cause: &PullError, reference: &Reference) -> (FailureCode, String) {
    let registry = reference.registry();
    match cause {
        PullError::Unreachable(_) => (
            FailureCode::Unavailable,
            format!(
                "Check that {registry} is up and reached from here; what is pinned and was pulled before needs no registry."
            ),
        ),
        PullError::TimedOut(_) => (
            FailureCode::TimedOut,
            format!("Try again; ask whoever runs {registry}."),
        ),
        PullError::Unauthorized(_) => (
            FailureCode::Unavailable,
            format!("`docker login {registry}` as somebody who may read it."),
        ),
        PullError::Missing => (
            FailureCode::Unavailable,
            "Correct `component` in the configuration; what is pinned may have been removed from the registry.".into(),
        ),
        PullError::Tampered(_) => (
            FailureCode::Failed,
            format!("Don't use it: the registry's storage, or something between here and {registry}, has changed it."),
        ),
        PullError::Unfit(_) => (
            FailureCode::Failed,
            "Push the component with `wkg oci push`, or with `oras push REFERENCE FILE:application/wasm`.".into(),
        ),
        PullError::Failed(_) => (
            FailureCode::Unavailable,
            format!("Try again; ask whoever runs {registry}."),
        ),
    }
}

/// A component's code, and what was agreed to of it.
#[derive(Debug)]
pub struct Found {
    /// The component.
    pub bytes: Vec<u8>,
    name: String,
    world: World,
    reference: Reference,
    manifest: Digest,
    sha256: Digest,
    /// The entry of the lock file for this name, if there is one.
    agreed: Option<Pin>,
}

/// What loading a component has shown of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What it asks the host for.
    pub grants: Grants,
    /// Its tools, each with the digest of all that it tells clients.
    pub tools: BTreeMap<String, Digest>,
}

impl Found {
    /// What was agreed to under this name before, if anything was.
    #[must_use]
    pub fn agreed(&self) -> Option<&Pin> {
        self.agreed.as_ref()
    }

    /// What agreeing to it puts into the lock file.
    #[must_use]
    pub fn pin(&self, shown: Shown) -> Pin {
        Pin {
            name: self.name.clone(),
            world: self.world,
            reference: self.reference.to_string(),
            manifest: self.manifest,
            sha256: self.sha256,
            grants: shown.grants,
            tools: shown.tools,
        }
    }
}

/// All artifacts of one configuration.
#[derive(Debug)]
pub struct Artifacts {
    places: Option<(Lock, Store)>,
    registry: Registry,
}

impl Artifacts {
    /// Pins them in the file `lock`, and keeps them in the folder `store`; does nothing yet.
    #[must_use]
    pub fn new(lock: Option<PathBuf>, store: Option<PathBuf>, environment: &Environment) -> Self {
        let places = lock.zip(store).map(|(lock, store)| {
            let guards = store.with_file_name("locks");
            (Lock::new(lock, guards), Store::new(store))
        });
        Self {
            places,
            registry: Registry {
                docker_config: credentials::file(environment),
            },
        }
    }

    fn places(&self, name: &str) -> Result<&(Lock, Store), ArtifactError> {
        self.places
            .as_ref()
            .ok_or_else(|| ArtifactError::Homeless { name: name.to_owned() })
    }

    /// What is pinned, from this machine if it is here; what the registry has now, if nothing is pinned.
    ///
    /// # Errors
    /// If it can't be had, or isn't what is pinned.
    pub async fn find(&self, world: World, name: &str, reference: &Reference) -> Result<Found, ArtifactError> {
        let (lock, _) = self.places(name)?;
        let agreed = lock.read()?.into_iter().find(|pin| pin.is_for(world, name));
        match agreed {
            Some(pin) if is_pinned(&pin, reference) => {
                let bytes = self.pinned(&pin, name, reference).await?;
                Ok(Found {
                    bytes,
                    name: name.to_owned(),
                    world,
                    reference: reference.clone(),
                    manifest: pin.manifest,
                    sha256: pin.sha256,
                    agreed: Some(pin),
                })
            }
            agreed => self.newest(world, name, reference, agreed).await,
        }
    }

    /// What the registry has now.
    ///
    /// # Errors
    /// If it can't be had.
    pub async fn find_newest(&self, world: World, name: &str, reference: &Reference) -> Result<Found, ArtifactError> {
        let (lock, _) = self.places(name)?;
        let agreed = lock.read()?.into_iter().find(|pin| pin.is_for(world, name));
        self.newest(world, name, reference, agreed).await
    }

    async fn newest(
        &self,
        world: World,
        name: &str,
        reference: &Reference,
        agreed: Option<Pin>,
    ) -> Result<Found, ArtifactError> {
        let (_, store) = self.places(name)?;
        let failed = |cause| ArtifactError::Pull {
            name: name.to_owned(),
            reference: Box::new(reference.clone()),
            cause,
        };
        let asked = self.registry.ask(reference).await.map_err(failed)?;
        let manifest = asked.resolve().await.map_err(failed)?;
        let known = agreed.as_ref().filter(|pin| pin.manifest == manifest);
        let bytes = match known.and_then(|pin| store.load(pin.sha256)) {
            Some(bytes) => bytes,
            None => asked.pull(manifest).await.map_err(failed)?,
        };
        let sha256 = Digest::of(&bytes);
        store.keep(sha256, &bytes);
        Ok(Found {
            bytes,
            name: name.to_owned(),
            world,
            reference: reference.clone(),
            manifest,
            sha256,
            agreed,
        })
    }

    async fn pinned(&self, pin: &Pin, name: &str, reference: &Reference) -> Result<Vec<u8>, ArtifactError> {
        let (_, store) = self.places(name)?;
        if let Some(bytes) = store.load(pin.sha256) {
            return Ok(bytes);
        }
        let failed = |cause| ArtifactError::Pull {
            name: name.to_owned(),
            reference: Box::new(reference.clone()),
            cause,
        };
        tracing::info!(component = name, %reference, "pulling a pinned component that isn't on this machine");
        let asked = self.registry.ask(reference).await.map_err(failed)?;
        let bytes = asked.pull(pin.manifest).await.map_err(failed)?;
        let found = Digest::of(&bytes);
        if found != pin.sha256 {
            let reason = format!("it has the sha256 {found}, and {} is pinned", pin.sha256);
            return Err(failed(PullError::Tampered(reason)));
        }
        store.keep(found, &bytes);
        Ok(bytes)
    }

    /// Takes a loaded component on: pins it if nothing was, and refuses it if it asks for more than was agreed to.
    ///
    /// # Errors
    /// If it is refused or can't be pinned.
    pub async fn take_on(&self, found: &Found, shown: Shown) -> Result<(), ArtifactError> {
        if let Some(agreed) = &found.agreed {
            let more = shown.grants.without(agreed.grants);
            if !more.is_empty() {
                let name = found.name.clone();
                return Err(ArtifactError::Grown { name, more });
            }
            if is_pinned(agreed, &found.reference) {
                return Ok(());
            }
        }
        let pin = found.pin(shown);
        tracing::info!(component = pin.name, reference = pin.reference, manifest = %pin.manifest, "pinned");
        let (lock, _) = self.places(&found.name)?;
        lock.change(move |pins| {
            let of_another = pins
                .iter()
                .find(|other| other.is_for(pin.world, &pin.name) && other.reference == pin.reference);
            match of_another {
                Some(other) if other.manifest != pin.manifest => Err(ArtifactError::Overtaken { name: pin.name }),
                Some(_) => Ok(()),
                None => {
                    put(pins, pin);
                    Ok(())
                }
            }
        })
        .await
    }

    /// Pins what somebody has agreed to.
    ///
    /// # Errors
    /// If the lock file can't be written, or has been changed since these were found.
    pub async fn agree(&self, changes: Vec<(Option<Pin>, Pin)>) -> Result<(), ArtifactError> {
        let Some((_, first)) = changes.first() else {
            return Ok(());
        };
        let (lock, _) = self.places(&first.name)?;
        lock.change(move |pins| {
            for (before, pin) in changes {
                let present = pins.iter().find(|present| present.is_for(pin.world, &pin.name));
                if present != before.as_ref() {
                    return Err(ArtifactError::Overtaken { name: pin.name });
                }
                put(pins, pin);
            }
            Ok(())
        })
        .await
    }
}

/// Whether the lock file's entry is for what the configuration says now.
fn is_pinned(pin: &Pin, reference: &Reference) -> bool {
    pin.reference == reference.to_string() && reference.digest().is_none_or(|digest| digest == pin.manifest)
}

fn put(pins: &mut Vec<Pin>, pin: Pin) {
    pins.retain(|present| !present.is_for(pin.world, &pin.name));
    pins.push(pin);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::failure::{Failure, FailureCode};
    use crate::plugins::grants::Grants;

    const PLACE: &str = "oci://127.0.0.1:9/acme/tools:1";

    fn artifacts(home: &Path) -> Artifacts {
        Artifacts::new(
            Some(home.join(lock::NAME)),
            Some(home.join("pulled")),
            &Environment::default(),
        )
    }

    fn reference() -> Reference {
        PLACE.parse().expect("a reference")
    }

    fn pin(manifest: &[u8]) -> Pin {
        Pin {
            name: "acme".into(),
            world: World::ToolBundle,
            reference: PLACE.into(),
            manifest: Digest::of(manifest),
            sha256: Digest::of(b""),
            grants: Grants::default(),
            tools: [].into(),
        }
    }

    #[tokio::test]
    async fn without_a_folder_to_keep_it_in_nothing_comes_from_a_registry() {
        let nowhere = Artifacts::new(None, None, &Environment::default());
        let found = nowhere.find(World::ToolBundle, "acme", &reference()).await;
        let error = found.expect_err("there is no folder");
        assert!(
            matches!(&error, ArtifactError::Homeless { name } if name == "acme"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn what_another_process_has_pinned_meanwhile_stays() {
        let home = tempfile::tempdir().expect("a folder");
        let artifacts = artifacts(home.path());
        artifacts.agree(vec![(None, pin(b"theirs"))]).await.expect("pinned");
        let error = artifacts
            .agree(vec![(None, pin(b"ours"))])
            .await
            .expect_err("it is pinned");
        assert!(
            matches!(&error, ArtifactError::Overtaken { name } if name == "acme"),
            "{error}"
        );
        let text = fs::read_to_string(home.path().join(lock::NAME)).expect("text");
        assert!(text.contains(&Digest::of(b"theirs").to_string()), "{text}");
    }

    #[tokio::test]
    async fn a_lock_file_that_makes_no_sense_is_no_reason_to_pin_anew() {
        let home = tempfile::tempdir().expect("a folder");
        fs::write(home.path().join(lock::NAME), "nonsense").expect("a file");
        let found = artifacts(home.path())
            .find(World::ToolBundle, "acme", &reference())
            .await;
        let error = found.expect_err("nonsense");
        assert!(
            matches!(error, ArtifactError::Lock(LockError::Unreadable { .. })),
            "{error}"
        );
        assert_eq!(Failure::from(&error).code, FailureCode::Failed);
    }
}
