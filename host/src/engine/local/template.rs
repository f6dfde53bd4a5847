//! Data directories that instances are copied from: initialised once for each folder of server programs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};

use super::programs::Programs;
use super::remove::remove_tree;
use super::server_user::{KillGroup, ServerUser, take_back};
use super::state_dir::{StateDir, make_private, open_lock, wait_for_lock};
use super::{LocalEngine, LocalSettings, blocking, failed, server};
use crate::engine::provision::SUPERUSER;
use crate::engine::{EngineError, Pruned, TEMPLATE_AGE_MAX, short_digest};
use crate::failpoint;
use crate::files::{open_planted, private};
use crate::instance::{Password, Progress, ProgressSink};
use crate::metrics::METRICS;

/// What is done here, by number: a template of another recipe is made anew.
const RECIPE: u32 = 2;
/// How long `initdb` may take: 0.8 s on two cores, and a slow disk.
const INITDB_TIMEOUT: Duration = Duration::from_mins(2);
/// The locales to try, the official image's first.
const LOCALES: [&str; 3] = ["en_US.UTF-8", "C.UTF-8", "C"];
/// How long a template's name is, in hexadecimal digits: that of [`short_digest`].
const KEY_LENGTH: usize = 16;
/// What the names of locks and of half-made templates end with.
const LOCK: &str = "lock";
const UNFINISHED: &str = "new";
/// Why one is removed that a killed process has left half-made.
const ABANDONED: &str = "the process that was making it has ended";
/// How deep a fresh data directory's folders are at most, and more.
const DEPTH_MAX: u32 = 8;
/// How many threads copy at most: more gain nothing on one disk.
const COPIERS_MAX: usize = 4;

/// What every instance's `postgresql.conf` ends with, its own settings aside.
const SETTINGS: &str = "
# dev-postgres-mcp: nobody but this machine. No Unix socket, either: where that can be seen to, the server may have none.
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
# In the data directory, which goes with the instance: a server that is killed leaves nothing in /dev/shm.
dynamic_shared_memory_type = mmap
";

/// A data directory to copy.
#[derive(Debug, Clone)]
pub(super) struct Template {
    folder: PathBuf,
    /// The superuser's password, known to this machine's state directory alone.
    pub(super) password: Password,
}

/// What `template.json` holds.
#[derive(Serialize, Deserialize)]
struct Description {
    recipe: u32,
    build: String,
    password: String,
}

/// The folder of a template that is being made; removed when this is dropped.
struct Unfinished {
    folder: PathBuf,
    user: Option<ServerUser>,
    engine: LocalEngine,
    /// The template's, held until the folder is gone.
    lock: Option<File>,
}

impl Unfinished {
    /// Where `initdb` works. The server's user may put there what it likes.
    fn cluster(&self) -> PathBuf {
        self.folder.join("cluster")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let (folder, user, lock) = (self.folder.clone(), self.user.clone(), self.lock.take());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let removal = async move {
                discard(&folder, user.as_ref(), "it could not be finished").await;
                drop(lock);
            };
            self.engine.0.tracker.spawn_on(removal, &runtime);
        }
    }
}

/// Removes the folder of a template that was not finished, and what its `initdb` left elsewhere. Whether there was one that has
/// gone now.
async fn discard(folder: &Path, user: Option<&ServerUser>, reason: &'static str) -> bool {
    let discarded = async {
        let was_there = folder.exists();
        // Its parent may have been killed.
        server::end_marked(&mark(folder), ServerUser::uid(user)).await?;
        server::release_memory(&folder.join("cluster"), user).await;
        let removed = remove_tree(folder).await;
        removed
            .map(|()| was_there)
            .map_err(failed("removing a half-made template", folder))
    };
    match failpoint::around("discarding a template", discarded).await {
        Ok(was_there) => {
            if was_there {
                tracing::info!(folder = %folder.display(), reason, "removed a half-made template");
            }
            was_there
        }
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "a half-made template stays for now");
            false
        }
    }
}

/// Removes what a killed process has left of a template that it was making; whether there was something that has gone now.
async fn reap(folder: &Path, user: Option<&ServerUser>) -> bool {
    let has_gone = discard(folder, user, ABANDONED).await;
    if has_gone {
        METRICS.reaped("template", "orphan");
    }
    has_gone
}

/// What `initdb` and its children are known by.
fn mark(unfinished: &Path) -> String {
    unfinished.display().to_string()
}

/// Removes templates that killed processes have left half-made, and adds them to `pruned`. `dry_run` only says which.
///
/// # Errors
/// If it can't be told which there are.
pub(super) async fn sweep(engine: &LocalEngine, dry_run: bool, pruned: &mut Vec<Pruned>) -> Result<(), EngineError> {
    let (left, user) = engine
        .with_state(|state| {
            let Some(state) = state else {
                return (Vec::new(), None);
            };
            (unfinished(state), state.server_user.clone())
        })
        .await?;
    for (folder, lock) in left {
        let (user, name) = (user.clone(), folder.display().to_string());
        let removal = async move {
            let has_gone = dry_run || reap(&folder, user.as_ref()).await;
            drop(lock);
            has_gone
        };
        // To its end, whatever becomes of whoever waits.
        if engine.0.tracker.spawn(removal).await.unwrap_or(false) {
            pruned.push(Pruned {
                kind: "template",
                name,
                reason: ABANDONED.into(),
            });
        }
    }
    Ok(())
}

/// The folders of templates that nobody is making, locked.
fn unfinished(state: &StateDir) -> Vec<(PathBuf, File)> {
    let entries = fs::read_dir(state.templates()).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == UNFINISHED) && is_keyed(path))
        .filter_map(|path| {
            let lock = open_lock(&path.with_extension(LOCK)).ok()?;
            lock.try_lock().ok().map(|()| (path, lock))
        })
        .collect()
}

/// Removes the templates that are old, as `programs` are those that are here, and adds them to `pruned`.
///
/// # Errors
/// If one can't be removed.
pub(super) async fn prune(
    engine: &LocalEngine,
    programs: Vec<Programs>,
    dry_run: bool,
    pruned: &mut Vec<Pruned>,
) -> Result<(), EngineError> {
    let old = engine
        .with_state(move |state| state.map_or_else(Vec::new, |state| old(state, &programs)))
        .await?;
    for (folder, reason) in old {
        let path = folder.clone();
        // Held until it is gone: whoever copies it has it locked.
        let lock = blocking(move || {
            let lock = open_lock(&path.with_extension(LOCK))?;
            Ok(lock.try_lock().is_ok().then_some(lock))
        });
        if let Some(_lock) = lock.await? {
            if !dry_run {
                failpoint::around("removing a template", remove_tree(&folder))
                    .await
                    .map_err(failed("removing a template", &folder))?;
            }
            pruned.push(Pruned {
                kind: "template",
                name: folder.display().to_string(),
                reason,
            });
        }
    }
    Ok(())
}

fn old(state: &StateDir, programs: &[Programs]) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(state.templates()).into_iter().flatten().flatten();
    let finished = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none() && is_keyed(path) && path.join("template.json").exists());
    finished
        .filter_map(|path| {
            let made = path.join("template.json").metadata().and_then(|file| file.modified());
            let age = made.ok().and_then(|made| made.elapsed().ok()).unwrap_or_default();
            let used = programs
                .iter()
                .any(|programs| folder(state, programs) == path && find(state, programs).is_some());
            let reason = if age > TEMPLATE_AGE_MAX {
                format!("it is {} days old", age.as_secs() / 86_400)
            } else if used {
                return None;
            } else {
                "its PostgreSQL has changed or gone".to_owned()
            };
            Some((path, reason))
        })
        .collect()
}

/// Sees to it that there is a template for these programs.
///
/// # Errors
/// If it can't be made; nothing is left of it then.
pub(super) async fn ensure(
    engine: &LocalEngine,
    programs: &Programs,
    progress: &ProgressSink,
) -> Result<(), EngineError> {
    let (settings, wanted) = (engine.0.settings.clone(), programs.clone());
    let (state, is_there) = blocking(move || {
        let state = StateDir::open(&settings)?;
        let is_there = find(&state, &wanted).is_some();
        Ok((state, is_there))
    })
    .await?;
    if is_there {
        return Ok(());
    }
    progress.tell(Progress::Initialising {
        version: programs.version.to_string(),
    });
    make(engine, &state, programs).await
}

/// Whether it is named as what belongs to a template is: the folder may be one that its owner keeps other things in.
fn is_keyed(path: &Path) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.len() == KEY_LENGTH && stem.bytes().all(is_hex)
}

fn key(state: &StateDir, programs: &Programs) -> String {
    let uid = state.server_user.as_ref().map(|user| user.uid);
    let named = format!("{uid:?} {}", programs.bin_dir.display());
    short_digest(&named)
}

fn folder(state: &StateDir, programs: &Programs) -> PathBuf {
    state.templates().join(key(state, programs))
}

/// The template's lock, for whoever makes it or, `shared`, for those who copy it.
fn lock(settings: &LocalSettings, state: &StateDir, programs: &Programs, shared: bool) -> Result<File, EngineError> {
    let path = folder(state, programs).with_extension(LOCK);
    let lock = open_lock(&path)?;
    let try_lock = || {
        if shared {
            lock.try_lock_shared()
        } else {
            lock.try_lock()
        }
    };
    // As long as `initdb` may take, unless servers get less or more time than by default.
    let timeout = settings.ready_timeout.saturating_mul(2);
    wait_for_lock(
        try_lock,
        timeout,
        "waiting for a template that another process makes",
        &path,
    )?;
    Ok(lock)
}

/// The template if it is there, whole, and what these programs would make.
fn find(state: &StateDir, programs: &Programs) -> Option<Template> {
    let folder = folder(state, programs);
    let text = fs::read_to_string(folder.join("template.json")).ok()?;
    let description: Description = serde_json::from_str(&text).ok()?;
    let fits = description.recipe == RECIPE && description.build == programs.build;
    let password = Password::new(description.password).ok().filter(|_| fits)?;
    Some(Template { folder, password })
}

/// Makes the template, unless somebody else did while we waited for the lock.
async fn make(engine: &LocalEngine, state: &StateDir, programs: &Programs) -> Result<(), EngineError> {
    let (settings, place, wanted) = (engine.0.settings.clone(), state.clone(), programs.clone());
    let (lock, is_there) = blocking(move || {
        failpoint::pass("before locking a template");
        let lock = lock(&settings, &place, &wanted, false)?;
        failpoint::pass("after locking a template");
        let is_there = find(&place, &wanted).is_some();
        Ok((lock, is_there))
    })
    .await?;
    if is_there {
        return Ok(());
    }
    let folder = folder(state, programs);
    let unfinished = Unfinished {
        folder: folder.with_extension(UNFINISHED),
        user: state.server_user.clone(),
        engine: engine.clone(),
        lock: Some(lock),
    };
    reap(&unfinished.folder, unfinished.user.as_ref()).await;
    failpoint::pass("before making a template's folder");
    state.make_folder(&unfinished.folder)?;
    failpoint::pass("after making a template's folder");
    let password = Alphanumeric.sample_string(&mut rand::rng(), 32);
    let initialised = initialise(state, programs, &unfinished, &password);
    failpoint::around("initialising a template", initialised).await?;
    let description = Description {
        recipe: RECIPE,
        build: programs.build.clone(),
        password,
    };
    let (place, from, to) = (state.clone(), unfinished.folder.clone(), folder);
    let finished = blocking(move || finish(&place, &from, &to, &description));
    failpoint::around("finishing a template", finished).await?;
    METRICS.template_made();
    tracing::info!(%programs, "initialised a data directory to copy instances from");
    Ok(())
}

/// Runs `initdb` as the official image does.
async fn initialise(
    state: &StateDir,
    programs: &Programs,
    unfinished: &Unfinished,
    password: &str,
) -> Result<(), EngineError> {
    let user = state.server_user.as_ref();
    let initialising = "initialising PostgreSQL";
    let initdb = programs.initdb();
    if let Some(barrier) = user.and_then(|user| user.barrier(&programs.bin_dir)) {
        return Err(EngineError::Request {
            verb: initialising,
            reason: format!(
                "the user {}, whom servers run as, may not pass {}",
                user.map_or("", |user| &user.name),
                barrier.display()
            ),
        });
    }
    let cluster = unfinished.cluster();
    let password_file = cluster.with_extension("password");
    private(OpenOptions::new().create_new(true).write(true))
        .open(&password_file)
        .and_then(|mut file| writeln!(file, "{password}"))
        .map_err(failed(initialising, &password_file))?;
    state.give_to_server(&password_file)?;
    let mut said = String::new();
    for locale in LOCALES {
        remove_tree(&cluster).await.map_err(failed(initialising, &cluster))?;
        make_private(&cluster)?;
        state.give_to_server(&cluster)?;
        let running = server::command(&initdb, user)
            .arg("--pgdata")
            .arg(&cluster)
            .arg("--pwfile")
            .arg(&password_file)
            .args(["--username", SUPERUSER, "--encoding", "UTF8", "--locale", locale])
            .args(["--lc-messages", "C", "--auth", "scram-sha-256"])
            .env(server::MARK, mark(&unfinished.folder))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed(initialising, &initdb))?;
        let children = KillGroup::of(&running);
        let output = tokio::time::timeout(INITDB_TIMEOUT, running.wait_with_output())
            .await
            .map_err(|_| EngineError::TimedOut {
                verb: initialising,
                after: INITDB_TIMEOUT,
            })?
            .map_err(failed(initialising, &initdb))?;
        children.disarm();
        if output.status.success() {
            return fs::remove_file(&password_file).map_err(failed(initialising, &password_file));
        }
        said = crate::engine::last_lines(&output.stderr).join("\n");
        if !said.contains("locale") {
            break;
        }
    }
    Err(EngineError::Request {
        verb: initialising,
        reason: format!("{} says: {said}", initdb.display()),
    })
}

/// Puts the template where it is found, whole or not at all.
fn finish(state: &StateDir, unfinished: &Path, folder: &Path, description: &Description) -> Result<(), EngineError> {
    let finishing = "making a template";
    let (cluster, data) = (unfinished.join("cluster"), unfinished.join("data"));
    if state.server_user.is_some() {
        take_back(&cluster, DEPTH_MAX)?;
    }
    // Copied, not taken as it is: another server of that user may have planted links, or have files of it open.
    let mut tree = Tree::default();
    tree.make_folders(&cluster, &data, DEPTH_MAX)?;
    for (from, to) in &tree.files {
        copy_planted(from, to).map_err(failed(finishing, from))?;
    }
    fs::remove_dir_all(&cluster).map_err(failed(finishing, &cluster))?;
    let settings = data.join("postgresql.conf");
    OpenOptions::new()
        .append(true)
        .open(&settings)
        .and_then(|mut file| file.write_all(SETTINGS.as_bytes()))
        .map_err(failed(finishing, &settings))?;
    // First: what says that it is whole is not to outlive it.
    sync(&data)?;
    let described = unfinished.join("template.json");
    let text = serde_json::to_vec(description).map_err(|error| failed(finishing, &described)(error.into()))?;
    private(OpenOptions::new().create_new(true).write(true))
        .open(&described)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .map_err(failed(finishing, &described))?;
    failpoint::pass("before keeping a template");
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(finishing, folder)(error)),
        _ => {}
    }
    fs::rename(unfinished, folder).map_err(failed(finishing, folder))?;
    failpoint::pass("after keeping a template");
    Ok(())
}

/// Sees to it that a power cut leaves what has been copied into a folder: PostgreSQL writes through only what it has changed
/// itself.
///
/// # Errors
/// If it can't be written through.
pub(super) fn sync(folder: &Path) -> Result<(), EngineError> {
    let syncing = "writing a data directory through to the disk";
    // All that the file system has: a thousand files one by one take longer.
    #[cfg(target_os = "linux")]
    return File::open(folder)
        .and_then(|folder| rustix::fs::syncfs(folder).map_err(io::Error::from))
        .map_err(failed(syncing, folder));
    #[cfg(not(target_os = "linux"))]
    {
        for entry in fs::read_dir(folder).map_err(failed(syncing, folder))? {
            let path = entry.map_err(failed(syncing, folder))?.path();
            if path.is_dir() {
                sync(&path)?;
            } else {
                let file = OpenOptions::new().write(true).open(&path);
                // On macOS, what `sync_all` does takes milliseconds: once, at the end, is enough.
                #[cfg(unix)]
                let synced = file.and_then(|file| rustix::fs::fsync(file).map_err(io::Error::from));
                #[cfg(not(unix))]
                let synced = file.and_then(|file| file.sync_all());
                synced.map_err(failed(syncing, &path))?;
            }
        }
        // Some systems can't do that with a folder.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

/// Copies what another user may have put there: nothing but a plain file of one name.
fn copy_planted(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = open_planted(from)?;
    #[cfg(unix)]
    let has_one_name = std::os::unix::fs::MetadataExt::nlink(&source.metadata()?) == 1;
    #[cfg(not(unix))]
    let has_one_name = true;
    if !has_one_name {
        return Err(io::Error::other("is no plain file"));
    }
    let mut copy = private(OpenOptions::new().create_new(true).write(true)).open(to)?;
    io::copy(&mut source, &mut copy).map(drop)
}

/// Copies the template's data directory; file systems that can share what is the same in both. The folder itself is still
/// to be given to the server: until then nobody else can reach what is in it.
///
/// `None` if there is no template any more; nothing is copied then.
///
/// # Errors
/// If it can't be copied.
pub(super) fn copy(
    settings: &LocalSettings,
    state: &StateDir,
    programs: &Programs,
    to: &Path,
) -> Result<Option<Template>, EngineError> {
    let _lock = lock(settings, state, programs, true)?;
    let Some(template) = find(state, programs) else {
        return Ok(None);
    };
    failpoint::pass("before copying a template");
    let mut tree = Tree::default();
    tree.make_folders(&template.folder.join("data"), to, DEPTH_MAX)?;
    failpoint::pass("amid copying a template");
    for folder in tree.folders.iter().filter(|folder| *folder != to) {
        state.give_to_server(folder)?;
    }
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(COPIERS_MAX);
    let user = state.server_user.as_ref();
    std::thread::scope(|scope| {
        let copiers: Vec<_> = tree
            .files
            .chunks(tree.files.len().div_ceil(threads).max(1))
            .map(|files| scope.spawn(move || copy_files(files, user)))
            .collect();
        copiers.into_iter().try_for_each(|copier| {
            copier.join().unwrap_or_else(|_| {
                Err(EngineError::Request {
                    verb: "copying a template",
                    reason: "a thread panicked".into(),
                })
            })
        })
    })?;
    failpoint::pass("after copying a template");
    Ok(Some(template))
}

/// A folder that is being copied.
#[derive(Default)]
struct Tree {
    /// Every folder of the copy.
    folders: Vec<PathBuf>,
    /// Every file, from where to where.
    files: Vec<(PathBuf, PathBuf)>,
}

impl Tree {
    /// Makes every folder, at most `depth` deep, and notes every file that is to be copied.
    fn make_folders(&mut self, from: &Path, to: &Path, depth: u32) -> Result<(), EngineError> {
        let copying = "copying a template";
        if depth == 0 {
            return Err(failed(copying, from)(io::Error::other("is no fresh data directory")));
        }
        make_private(to)?;
        self.folders.push(to.to_owned());
        for entry in fs::read_dir(from).map_err(failed(copying, from))? {
            let entry = entry.map_err(failed(copying, from))?;
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type().map_err(failed(copying, &from))?;
            if kind.is_dir() {
                self.make_folders(&from, &to, depth - 1)?;
            } else if kind.is_file() {
                self.files.push((from, to));
            } else {
                return Err(failed(copying, &from)(io::Error::other(
                    "is neither a file nor a folder",
                )));
            }
        }
        Ok(())
    }
}

fn copy_files(files: &[(PathBuf, PathBuf)], user: Option<&ServerUser>) -> Result<(), EngineError> {
    for (from, to) in files {
        // By reflink where the file system can: the standard library asks for that.
        fs::copy(from, to).map_err(failed("copying a template", to))?;
        if let Some(user) = user {
            user.own(to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_as_a_template_is_taken_for_one() {
        assert!(is_keyed(
            Path::new("/state/templates").join(short_digest("any")).as_path()
        ));
        assert!(is_keyed(Path::new("/t/0123456789abcdef.new")));
        for other in [
            "/t/invoices",
            "/t/invoices.new",
            "/t/0123456789ABCDEF",
            "/t/0123456789abcde",
            "/t",
        ] {
            assert!(!is_keyed(Path::new(other)), "{other}");
        }
    }
}
