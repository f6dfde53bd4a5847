//! The folder where the local engine keeps everything: made with nobody else's eyes on it, and swept.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::instance_dir::InstanceDir;
use super::server_user::ServerUser;
use super::{LocalSettings, failed};
use crate::engine::EngineError;
use crate::failpoint;
use crate::files::private;
use crate::instance::InstanceId;
use crate::owner;

/// How long somebody may have the state directory's lock: as long as it takes to make a folder or to look at all of them. Or
/// that of a folder that was just made.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a lock is asked for that somebody else has: nothing tells when it is free.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The state directory. Servers may pass it and read nothing in it.
#[derive(Debug, Clone)]
pub(super) struct StateDir {
    root: PathBuf,
    /// Whom servers run as, if not as this process's user.
    pub(super) server_user: Option<ServerUser>,
}

impl StateDir {
    /// The state directory if it is there.
    pub(super) fn find(settings: &LocalSettings) -> Result<Option<Self>, EngineError> {
        let Some(root) = settings.state_dir.clone().filter(|root| root.is_dir()) else {
            return Ok(None);
        };
        check_owner(&root)?;
        let server_user = ServerUser::find(settings.user.as_deref())?;
        Ok(Some(Self { root, server_user }))
    }

    /// The state directory, made if it isn't there.
    pub(super) fn open(settings: &LocalSettings) -> Result<Self, EngineError> {
        let unusable = |reason: String, advice: &str| EngineError::Unreachable {
            endpoint: "the local engine".into(),
            reason,
            advice: advice.into(),
        };
        let Some(root) = settings.state_dir.clone() else {
            return Err(unusable(
                "there is no home folder to keep instances in".into(),
                "Name a folder in the setting local.state_dir.",
            ));
        };
        let server_user = ServerUser::find(settings.user.as_deref())?;
        let state = Self { root, server_user };
        failpoint::pass("before making the state directory");
        if let Some(parent) = state.root.parent() {
            fs::create_dir_all(parent).map_err(failed("making the state directory", parent))?;
        }
        make_private(&state.root)?;
        check_owner(&state.root)?;
        // One that was there before, with other things in it, stays as its owner wants it.
        if is_ours_alone(&state.root)? {
            state.make_folder(&state.root)?;
        }
        failpoint::pass("amid making the state directory");
        state.make_folder(&state.root.join("instances"))?;
        state.make_folder(&state.root.join("templates"))?;
        failpoint::pass("after making the state directory");
        if let Some(user) = &state.server_user
            && let Some(barrier) = user.barrier(&state.root)
        {
            return Err(unusable(
                format!(
                    "the user {}, whom servers run as, may not pass {}",
                    user.name,
                    barrier.display()
                ),
                "Name another folder in the setting local.state_dir, or let others pass this one (chmod o+x).",
            ));
        }
        Ok(state)
    }

    pub(super) fn path(&self) -> &Path {
        &self.root
    }

    pub(super) fn templates(&self) -> PathBuf {
        self.root.join("templates")
    }

    pub(super) fn instance(&self, id: InstanceId) -> InstanceDir {
        InstanceDir::new(
            id,
            self.root.join("instances").join(id.to_string()),
            ServerUser::uid(self.server_user.as_ref()),
        )
    }

    /// Every folder that is named as an instance's, whatever is in it.
    pub(super) fn instances(&self) -> Result<Vec<InstanceDir>, EngineError> {
        let folder = self.root.join("instances");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("listing instances", &folder)(error)),
        };
        Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .map(|id| self.instance(id))
            .collect())
    }

    /// Makes an instance's folder and locks it, so that nobody takes it for debris meanwhile.
    pub(super) fn give_birth(&self, id: InstanceId) -> Result<(InstanceDir, File), EngineError> {
        let sweeping = self.sweeping()?;
        self.wait_for(|| sweeping.try_lock_shared())?;
        let folder = self.instance(id);
        failpoint::pass("before making the instance's folder");
        self.make_folder(folder.path())?;
        failpoint::pass("before locking the instance's folder");
        let lock = folder.lock()?;
        failpoint::pass("after locking the instance's folder");
        Ok((folder, lock))
    }

    /// What killed processes have left, each locked for whoever removes it. In a `dry_run` nobody will.
    pub(super) fn debris(&self, dry_run: bool) -> Result<Vec<(InstanceDir, File)>, EngineError> {
        if self.instances()?.iter().all(InstanceDir::is_whole) {
            return Ok(Vec::new());
        }
        let sweeping = self.sweeping()?;
        self.wait_for(|| sweeping.try_lock())?;
        let mut debris = Vec::new();
        for folder in self.instances()?.into_iter().filter(|folder| !folder.is_whole()) {
            // Looked at again: its creator may have finished before the lock was free.
            if let Some(lock) = folder.try_lock()?
                && !folder.is_whole()
            {
                if !dry_run {
                    // At once: whoever lists is not to take it for an instance while it is being removed.
                    folder.disown()?;
                }
                debris.push((folder, lock));
            }
        }
        Ok(debris)
    }

    /// Removes a folder in which there is nothing but its lock; whoever has that has it done.
    pub(super) fn bury(&self, folder: &InstanceDir) -> Result<(), EngineError> {
        let sweeping = self.sweeping()?;
        self.wait_for(|| sweeping.try_lock_shared())?;
        folder.remove_emptied()
    }

    /// Held shared while an instance's folder is there and its lock isn't, and whole while debris is looked for.
    fn sweeping(&self) -> Result<File, EngineError> {
        open_lock(&self.root.join("lock"))
    }

    fn wait_for(&self, try_lock: impl Fn() -> Result<(), TryLockError>) -> Result<(), EngineError> {
        wait_for_lock(try_lock, LOCK_TIMEOUT, "locking the state directory", &self.root)
    }

    /// Makes a folder that servers may pass and nobody else may look into.
    pub(super) fn make_folder(&self, path: &Path) -> Result<(), EngineError> {
        make_private(path)?;
        #[cfg(unix)]
        if let Some(user) = &self.server_user {
            use std::os::unix::fs::{PermissionsExt, lchown};
            let making = "making a folder of the state directory";
            lchown(path, None, Some(user.gid)).map_err(failed(making, path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o710)).map_err(failed(making, path))?;
        }
        Ok(())
    }

    /// Gives a file or folder to whom servers run as.
    pub(super) fn give_to_server(&self, path: &Path) -> Result<(), EngineError> {
        self.server_user.as_ref().map_or(Ok(()), |user| user.own(path))
    }
}

/// Makes a folder for nobody but its owner. One that is there is left as it is.
pub(super) fn make_private(path: &Path) -> Result<(), EngineError> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("making a folder of the state directory", path)(error))
        }
        _ => Ok(()),
    }
}

/// Whether there is nothing in it but what other parts of this program have put there.
fn is_ours_alone(folder: &Path) -> Result<bool, EngineError> {
    let mut entries = fs::read_dir(folder).map_err(failed("looking at the state directory", folder))?;
    Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == owner::FOLDER)))
}

/// Opens a lock file, making it where there is none.
pub(super) fn open_lock(path: &Path) -> Result<File, EngineError> {
    private(OpenOptions::new().create(true).truncate(false).write(true))
        .open(path)
        .map_err(failed("opening a lock", path))
}

/// Asks for a lock until it is had, where that may block. A process that is stopped keeps what it has.
///
/// # Errors
/// If somebody else has it for all of `timeout`, or there can't be one.
pub(super) fn wait_for_lock(
    try_lock: impl Fn() -> Result<(), TryLockError>,
    timeout: Duration,
    verb: &'static str,
    path: &Path,
) -> Result<(), EngineError> {
    let begun = Instant::now();
    loop {
        match try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(failed(verb, path)(error)),
            Err(TryLockError::WouldBlock) if begun.elapsed() >= timeout => {
                return Err(EngineError::TimedOut { verb, after: timeout });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
        }
    }
}

/// What somebody else could have put there is not to be trusted.
fn check_owner(root: &Path) -> Result<(), EngineError> {
    if owner::is_ours(root).map_err(failed("looking at the state directory", root))? {
        return Ok(());
    }
    Err(EngineError::Unreachable {
        endpoint: "the local engine".into(),
        reason: format!("{} belongs to another user, or others may write to it", root.display()),
        advice: "Name another folder in the setting local.state_dir.".into(),
    })
}
