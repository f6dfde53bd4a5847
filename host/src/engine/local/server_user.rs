//! Whom servers run as: this process's user, unless that is root, whom PostgreSQL refuses.

use std::path::Path;

use super::failed;
use crate::engine::EngineError;

/// Whether this process is root's.
#[must_use]
pub fn is_root() -> bool {
    #[cfg(unix)]
    return nix::unistd::geteuid().is_root();
    #[cfg(not(unix))]
    return false;
}

/// Another user than this process's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerUser {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl ServerUser {
    /// `None` where servers run as this process's own user.
    ///
    /// # Errors
    /// If there is no such user.
    pub(super) fn find(configured: Option<&str>) -> Result<Option<Self>, EngineError> {
        if !is_root() {
            return Ok(None);
        }
        let candidates = configured.map_or_else(|| vec!["postgres", "nobody"], |name| vec![name]);
        for name in &candidates {
            if let Some(user) = Self::named(name)? {
                return Ok(Some(user));
            }
        }
        Err(EngineError::Unreachable {
            endpoint: "the local engine".into(),
            reason: format!(
                "PostgreSQL doesn't run as root, and there is no user {}",
                candidates.join(" or ")
            ),
            advice: "Name a user that servers may run as in the setting local.user.".into(),
        })
    }

    /// The id of whom servers run as; `None` if users have none here.
    pub(super) fn uid(user: Option<&Self>) -> Option<u32> {
        #[cfg(unix)]
        return user.map(|user| user.uid).or(Some(nix::unistd::geteuid().as_raw()));
        #[cfg(not(unix))]
        return user.map(|user| user.uid);
    }

    #[cfg(unix)]
    fn named(name: &str) -> Result<Option<Self>, EngineError> {
        let found = nix::unistd::User::from_name(name).map_err(|error| EngineError::Request {
            verb: "looking up the user that servers run as",
            reason: error.to_string(),
        })?;
        Ok(found.filter(|user| !user.uid.is_root()).map(|user| Self {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        }))
    }

    #[cfg(not(unix))]
    fn named(_name: &str) -> Result<Option<Self>, EngineError> {
        Ok(None)
    }

    /// Gives `path` to this user.
    pub(super) fn own(&self, path: &Path) -> Result<(), EngineError> {
        #[cfg(unix)]
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
            .map_err(failed("giving a file to the server's user", path))?;
        #[cfg(not(unix))]
        let _ = failed("", path);
        Ok(())
    }

    /// The folder on the way to `path` that this user may not pass, if there is one.
    #[cfg(unix)]
    pub(super) fn barrier<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        use std::os::unix::fs::MetadataExt;
        let may_pass = |folder: &Path| {
            // What can't be looked at is left to whoever goes there.
            folder.metadata().map_or(true, |metadata| {
                let bit = match (metadata.uid() == self.uid, metadata.gid() == self.gid) {
                    (true, _) => 0o100,
                    (_, true) => 0o010,
                    _ => 0o001,
                };
                metadata.mode() & bit != 0
            })
        };
        path.ancestors()
            .filter(|folder| folder.is_dir())
            .find(|folder| !may_pass(folder))
    }

    #[cfg(not(unix))]
    pub(super) fn barrier<'a>(&self, _path: &'a Path) -> Option<&'a Path> {
        None
    }
}

/// Takes `path`, at most `depth` folders deep, from whom it was given to. From the top down, and no link is followed: that user may have put anything
/// there.
pub(super) fn take_back(path: &Path, depth: u32) -> Result<(), EngineError> {
    let taking = "taking a folder back from the server's user";
    #[cfg(unix)]
    std::os::unix::fs::lchown(
        path,
        Some(nix::unistd::geteuid().as_raw()),
        Some(nix::unistd::getegid().as_raw()),
    )
    .map_err(failed(taking, path))?;
    if depth == 0 {
        return Err(failed(taking, path)(std::io::Error::other(
            "is no fresh data directory",
        )));
    }
    if path.symlink_metadata().map_err(failed(taking, path))?.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed(taking, path))? {
            take_back(&entry.map_err(failed(taking, path))?.path(), depth - 1)?;
        }
    }
    Ok(())
}

/// Ends a process's whole group when it is dropped: what it has started is not left behind.
pub(super) struct KillGroup(Option<u32>);

impl KillGroup {
    /// The group of a process that was started by [`run_as`].
    pub(super) fn of(leader: &tokio::process::Child) -> Self {
        Self(leader.id())
    }

    /// For when it has ended by itself.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for KillGroup {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(leader) = self.0.and_then(|leader| leader.try_into().ok()) {
            // It may have ended just now.
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(leader), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Has `command` run as `user`, in a process group of its own: what a terminal tells this process is not for it.
pub(super) fn run_as(command: &mut tokio::process::Command, user: Option<&ServerUser>) {
    #[cfg(unix)]
    {
        command.process_group(0);
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
    }
    #[cfg(windows)]
    {
        // CREATE_NEW_PROCESS_GROUP: no Ctrl-C of this process's console.
        command.creation_flags(0x0000_0200);
    }
    #[cfg(not(unix))]
    let _ = user;
}
