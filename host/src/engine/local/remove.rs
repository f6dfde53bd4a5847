//! Removing an instance: from its disowning on, whoever comes across the rest completes it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::sleep;

use super::instance_dir::InstanceDir;
use super::{LocalEngine, blocking, failed, limits, server};
use crate::engine::EngineError;
use crate::failpoint;
use crate::instance::InstanceId;

/// How often a folder is removed in which something still appears: a server that was killed may have a child that writes.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);
/// How often a folder's lock is asked for, with a pause after each time: half a second in all.
const LOCK_ATTEMPTS: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// How many files and folders one `rm` is given at most.
const TREES_AT_ONCE: usize = 500;

/// Removes an instance; whether this was the one call that did.
pub(super) async fn remove(engine: &LocalEngine, id: InstanceId) -> Result<bool, EngineError> {
    let disowned = engine
        .with_state(move |state| {
            let Some(folder) = state.map(|state| state.instance(id)) else {
                return Ok(None);
            };
            // First, so that nobody takes it for what a killed process has left.
            let lock = folder.try_lock()?;
            let was_there = folder.disown()?;
            Ok::<_, EngineError>(Some((folder, lock, was_there)))
        })
        .await??;
    let Some((folder, locked, was_there)) = disowned else {
        return Ok(false);
    };
    let mine = engine.mine().unkept.remove(&id);
    let lock = match mine.or(locked) {
        None => lock(&folder).await?,
        lock => lock,
    };
    if let Some(lock) = lock {
        clear(engine.clone(), folder, lock).await?;
    } else {
        // Whoever has it locked makes it or removes it, and will find it disowned.
        failpoint::around("stopping the server", server::stop(&folder)).await?;
        if !folder.path().exists() {
            // Somebody has deleted the folder under its server.
            remove_limits(&folder).await?;
        }
    }
    Ok(was_there)
}

/// The folder's lock, unless somebody has it who keeps it. A program that this process starts just now has all that was open
/// here until it runs, locks that have been given up since among it.
async fn lock(folder: &InstanceDir) -> Result<Option<File>, EngineError> {
    for _ in 0..LOCK_ATTEMPTS {
        let folder = folder.clone();
        let tried = blocking(move || Ok((folder.try_lock()?, folder.path().is_dir())));
        match tried.await? {
            (None, true) => sleep(LOCK_PAUSE).await,
            (lock, _) => return Ok(lock),
        }
    }
    Ok(None)
}

/// Stops what runs in a disowned folder and removes it. `lock` is the folder's.
pub(super) async fn clear(engine: LocalEngine, folder: InstanceDir, lock: File) -> Result<(), EngineError> {
    let stopped = failpoint::around("stopping the server", server::stop(&folder)).await;
    // The groups hold whatever has slipped away from there.
    remove_limits(&folder).await?;
    stopped?;
    let user = engine
        .with_state(|state| state.and_then(|state| state.server_user.clone()))
        .await?;
    let data = folder.data();
    let released = server::release_memory(&data, user.as_ref());
    failpoint::around("releasing the server's memory", released).await;
    engine.mine().ends.remove(&folder.id());
    for attempt in 1.. {
        match remove_folder(&engine, &folder).await {
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(_) => sleep(PAUSE).await,
            Ok(()) => break,
        }
    }
    drop(lock);
    Ok(())
}

/// Removes a folder, its lock last: nobody would see any more that it is taken care of.
async fn remove_folder(engine: &LocalEngine, folder: &InstanceDir) -> Result<(), EngineError> {
    let looked_in = folder.clone();
    let contents = blocking(move || looked_in.contents()).await?;
    for some in contents.chunks(TREES_AT_ONCE) {
        failpoint::around("emptying the instance's folder", remove_trees(some))
            .await
            .map_err(failed("removing the instance's folder", folder.path()))?;
    }
    let emptied = folder.clone();
    engine
        .with_state(move |state| state.map_or(Ok(()), |state| state.bury(&emptied)))
        .await?
}

async fn remove_limits(folder: &InstanceDir) -> Result<(), EngineError> {
    let folder = folder.clone();
    let removed = blocking(move || limits::remove(&folder).map_err(failed("removing control groups", folder.path())));
    failpoint::around("removing the instance's limits", removed).await
}

/// Removes a folder with all that is in it, if it is there.
pub(super) async fn remove_tree(path: &Path) -> io::Result<()> {
    remove_trees(&[path.to_owned()]).await
}

/// Removes files, and folders with all that is in them, as far as they are there.
///
/// Whoever may run SQL as a superuser may have made folders in it, any number deep: the standard library would go down
/// them on its stack. `rm` doesn't, and follows no links either.
async fn remove_trees(paths: &[PathBuf]) -> io::Result<()> {
    if cfg!(unix) {
        let output = Command::new("rm")
            .args(["-rf", "--"])
            .args(paths)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .await;
        match output {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                return Err(io::Error::other(
                    String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                ));
            }
            // A machine without `rm` has no such users.
            Err(_) => {}
        }
    }
    let paths = paths.to_owned();
    let removed = tokio::task::spawn_blocking(move || {
        paths.iter().try_for_each(|path| {
            let removed = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
    });
    removed.await.map_err(io::Error::other)?
}
