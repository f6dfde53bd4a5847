//! Data directories that instances are copied from: initialised once for each folder of server programs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::programs::Programs;
use super::server_user::{ServerUser, take_back};
use super::state_dir::{StateDir, make_private, open_lock, private};
use super::{LocalEngine, blocking, failed, server};
use crate::engine::EngineError;
use crate::engine::provision::SUPERUSER;
use crate::instance::{Password, Progress, ProgressSink};

/// What is done here, by number: a template of another recipe is made anew.
const RECIPE: u32 = 1;
/// How long `initdb` may take: 0.8 s on two cores, and a slow disk.
const INITDB_TIMEOUT: Duration = Duration::from_mins(2);
/// The locales to try, the official image's first.
const LOCALES: [&str; 3] = ["en_US.UTF-8", "C.UTF-8", "C"];
/// How many threads copy at most: more gain nothing on one disk.
const COPIERS_MAX: usize = 4;

/// What every instance's `postgresql.conf` ends with, its own settings aside.
const SETTINGS: &str = "
# dev-postgres-mcp: nobody but this machine, and a socket where only the server's user gets.
listen_addresses = '127.0.0.1'
unix_socket_directories = '.'
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

/// Removes a half-made template.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        remove_if_there(&self.0);
    }
}

/// The template for these programs, made if there is none.
///
/// # Errors
/// If it can't be made; nothing is left of it then.
pub(super) async fn ensure(
    engine: &LocalEngine,
    programs: &Programs,
    progress: &ProgressSink,
) -> Result<Template, EngineError> {
    let (settings, wanted) = (engine.0.settings.clone(), programs.clone());
    let (state, found) = blocking(move || {
        let state = StateDir::open(&settings)?;
        let found = find(&state, &wanted);
        Ok((state, found))
    })
    .await?;
    if let Some(template) = found {
        return Ok(template);
    }
    progress.tell(Progress::Initialising {
        version: programs.version.to_string(),
    });
    make(&state, programs).await
}

fn key(state: &StateDir, programs: &Programs) -> String {
    let uid = state.server_user.as_ref().map(|user| user.uid);
    let named = format!("{uid:?} {}", programs.bin_dir.display());
    let digest = Sha256::digest(named.as_bytes());
    // A name, not a proof: eight bytes are enough to tell folders apart.
    let start = digest.first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(start))
}

fn folder(state: &StateDir, programs: &Programs) -> PathBuf {
    state.templates().join(key(state, programs))
}

fn lock_file(state: &StateDir, programs: &Programs) -> Result<File, EngineError> {
    open_lock(&state.templates().join(format!("{}.lock", key(state, programs))))
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
async fn make(state: &StateDir, programs: &Programs) -> Result<Template, EngineError> {
    let (place, wanted) = (state.clone(), programs.clone());
    // Held to the end.
    let (_lock, found) = blocking(move || {
        let lock = lock_file(&place, &wanted)?;
        lock.lock()
            .map_err(failed("waiting for a template", &place.templates()))?;
        let found = find(&place, &wanted);
        Ok((lock, found))
    })
    .await?;
    if let Some(template) = found {
        return Ok(template);
    }
    let folder = folder(state, programs);
    let unfinished = Unfinished(folder.with_extension("new"));
    remove_if_there(&unfinished.0);
    state.make_folder(&unfinished.0)?;
    let data = unfinished.0.join("data");
    let password = Alphanumeric.sample_string(&mut rand::rng(), 32);
    initialise(state, programs, &data, &password).await?;
    let description = Description {
        recipe: RECIPE,
        build: programs.build.clone(),
        password: password.clone(),
    };
    finish(state, &unfinished.0, &folder, &description)?;
    tracing::info!(%programs, "initialised a data directory to copy instances from");
    let password = Password::new(password).map_err(|error| EngineError::Request {
        verb: "making a template",
        reason: error.to_string(),
    })?;
    Ok(Template { folder, password })
}

/// Runs `initdb` as the official image does.
async fn initialise(state: &StateDir, programs: &Programs, data: &Path, password: &str) -> Result<(), EngineError> {
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
    let password_file = data.with_extension("password");
    private(OpenOptions::new().create_new(true).write(true))
        .open(&password_file)
        .and_then(|mut file| writeln!(file, "{password}"))
        .map_err(failed(initialising, &password_file))?;
    state.give_to_server(&password_file)?;
    let mut said = String::new();
    for locale in LOCALES {
        remove_if_there(data);
        make_private(data)?;
        state.give_to_server(data)?;
        let output = server::command(&initdb, user)
            .arg("--pgdata")
            .arg(data)
            .arg("--pwfile")
            .arg(&password_file)
            .args(["--username", SUPERUSER, "--encoding", "UTF8", "--locale", locale])
            .args(["--lc-messages", "C", "--auth", "scram-sha-256"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(INITDB_TIMEOUT, output)
            .await
            .map_err(|_| EngineError::TimedOut {
                verb: initialising,
                after: INITDB_TIMEOUT,
            })?
            .map_err(failed(initialising, &initdb))?;
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
    let data = unfinished.join("data");
    if state.server_user.is_some() {
        // Other servers of that user could have their own way with what later instances start from.
        take_back(&data)?;
    }
    let settings = data.join("postgresql.conf");
    OpenOptions::new()
        .append(true)
        .open(&settings)
        .and_then(|mut file| file.write_all(SETTINGS.as_bytes()))
        .map_err(failed(finishing, &settings))?;
    let described = unfinished.join("template.json");
    let text = serde_json::to_vec(description).map_err(|error| failed(finishing, &described)(error.into()))?;
    private(OpenOptions::new().create_new(true).write(true))
        .open(&described)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .map_err(failed(finishing, &described))?;
    remove_if_there(folder);
    fs::rename(unfinished, folder).map_err(failed(finishing, folder))
}

/// Copies a template's data directory; file systems that can share what is the same in both. The folder itself is still to
/// be given to the server: until then nobody else can reach what is in it.
///
/// # Errors
/// If it can't be copied, or has been replaced meanwhile.
pub(super) fn copy(state: &StateDir, programs: &Programs, template: &Template, to: &Path) -> Result<(), EngineError> {
    let lock = lock_file(state, programs)?;
    lock.lock_shared()
        .map_err(failed("waiting for a template", &template.folder))?;
    let from = template.folder.join("data");
    let mut files = Vec::new();
    make_private(to)?;
    collect(state, &from, to, &mut files)?;
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(COPIERS_MAX);
    let user = state.server_user.as_ref();
    std::thread::scope(|scope| {
        let copiers: Vec<_> = files
            .chunks(files.len().div_ceil(threads).max(1))
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
    })
}

/// Makes every folder, and tells every file that is to be copied.
fn collect(state: &StateDir, from: &Path, to: &Path, files: &mut Vec<(PathBuf, PathBuf)>) -> Result<(), EngineError> {
    let copying = "copying a template";
    for entry in fs::read_dir(from).map_err(failed(copying, from))? {
        let entry = entry.map_err(failed(copying, from))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(failed(copying, &from))?;
        if kind.is_dir() {
            make_private(&to)?;
            state.give_to_server(&to)?;
            collect(state, &from, &to, files)?;
        } else if kind.is_file() {
            files.push((from, to));
        } else {
            return Err(failed(copying, &from)(io::Error::other(
                "is neither a file nor a folder",
            )));
        }
    }
    Ok(())
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

fn remove_if_there(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        // Whatever comes next says what is wrong.
        tracing::debug!(folder = %folder.display(), %error, "can't be removed");
    }
}
