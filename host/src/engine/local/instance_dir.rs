//! One instance's folder: what is written there of the instance, and what it looks like from outside.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::state_dir::{LOCK_TIMEOUT, open_lock, wait_for_lock};
use super::{failed, server};
use crate::engine::{self, EngineError, LOG_BYTES_MAX};
use crate::failpoint;
use crate::files::{private, write_private};
use crate::instance::{EngineKind, Found, Instance, InstanceId, Lifetime, Owner, Password, Status};

/// The longest `instance.json` that is read, in bytes: ours have 2,000 at most.
const STATE_BYTES_MAX: u64 = 64 << 10;
/// And the longest `kept`: ours have 20.
const KEPT_BYTES_MAX: u64 = 64;
/// Where servers of this engine listen.
pub(super) const HOST: &str = "127.0.0.1";

/// The folder of one instance, which may or may not be there.
#[derive(Debug, Clone)]
pub(super) struct InstanceDir {
    id: InstanceId,
    path: PathBuf,
    /// Whom its server runs as, if that can be told.
    server_uid: Option<u32>,
}

/// What `instance.json` holds.
#[derive(Serialize, Deserialize)]
struct State {
    port: u16,
    version: String,
    database: String,
    username: String,
    password: String,
    created_at: String,
    /// Older versions have written none.
    owner: Option<Owner>,
}

/// Who made an instance, as far as a damaged `instance.json` tells.
fn owner(text: &[u8]) -> Option<Owner> {
    let mut state: serde_json::Value = serde_json::from_slice(text).ok()?;
    serde_json::from_value(state.get_mut("owner")?.take()).ok()
}

/// What `kept` says of an instance that goes with its maker's process, and of one that stays until it is dropped. Neither
/// is what a power cut leaves of a file.
const SESSION: &str = "session";
const UNLIMITED: &str = "unlimited";

/// What `kept` holds for this lifetime.
fn written(lifetime: Lifetime) -> String {
    match lifetime {
        Lifetime::Session => SESSION.to_owned(),
        Lifetime::Unlimited => UNLIMITED.to_owned(),
        Lifetime::Until(end) => humantime::format_rfc3339_seconds(end).to_string(),
    }
}

/// The lifetime that `kept` holds.
fn parse_lifetime(text: &str) -> Result<Lifetime, String> {
    match text.trim() {
        // An empty one is what a power cut leaves. It says nothing, and so the instance goes with its maker.
        "" | SESSION => Ok(Lifetime::Session),
        UNLIMITED => Ok(Lifetime::Unlimited),
        end => humantime::parse_rfc3339(end)
            .map(Lifetime::Until)
            .map_err(|error| error.to_string()),
    }
}

impl InstanceDir {
    pub(super) fn new(id: InstanceId, path: PathBuf, server_uid: Option<u32>) -> Self {
        Self { id, path, server_uid }
    }

    pub(super) fn server_uid(&self) -> Option<u32> {
        self.server_uid
    }

    pub(super) fn id(&self) -> InstanceId {
        self.id
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    fn state(&self) -> PathBuf {
        self.path.join("instance.json")
    }

    fn kept(&self) -> PathBuf {
        self.path.join("kept")
    }

    /// Whether there is an instance in it, kept or not.
    pub(super) fn is_there(&self) -> bool {
        // An empty one is what a power cut leaves, with no server.
        let written = self.state().metadata();
        written.is_ok_and(|metadata| metadata.len() > 0 || server::runs(self).unwrap_or(true))
    }

    /// Whether there is an instance in it that somebody has been told of.
    pub(super) fn is_whole(&self) -> bool {
        self.is_there() && self.kept().exists()
    }

    /// What is in it besides its lock.
    pub(super) fn contents(&self) -> Result<Vec<PathBuf>, EngineError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("looking into the instance's folder", &self.path)(error)),
        };
        let paths = entries.flatten().map(|entry| entry.path());
        let lock = self.lock_file();
        Ok(paths.filter(|path| *path != lock).collect())
    }

    /// Removes it once there is nothing in it but its lock.
    pub(super) fn remove_emptied(&self) -> Result<(), EngineError> {
        let removing = "removing the instance's folder";
        let unless_gone = |removed: io::Result<()>| match removed {
            // Somebody has deleted it under us.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        failpoint::pass("before removing the instance's folder");
        unless_gone(fs::remove_file(self.lock_file()))
            .inspect(|()| failpoint::pass("amid removing the instance's folder"))
            .and_then(|()| unless_gone(fs::remove_dir(&self.path)))
            .inspect(|()| failpoint::pass("after removing the instance's folder"))
            .map_err(failed(removing, &self.path))
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Locks it; waits for whoever has it locked.
    pub(super) fn lock(&self) -> Result<File, EngineError> {
        let path = self.lock_file();
        let lock = open_lock(&path)?;
        wait_for_lock(|| lock.try_lock(), LOCK_TIMEOUT, "locking the instance", &path)?;
        Ok(lock)
    }

    /// Locks it unless somebody else has, or it is gone.
    pub(super) fn try_lock(&self) -> Result<Option<File>, EngineError> {
        let path = self.lock_file();
        if !self.path.is_dir() {
            return Ok(None);
        }
        let lock = match open_lock(&path) {
            Ok(lock) => lock,
            // It went in between.
            Err(_) if !self.path.is_dir() => return Ok(None),
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed("locking the instance", &path)(error)),
        }
    }

    /// Writes down what the instance is.
    pub(super) fn write(&self, found: &Found) -> Result<(), EngineError> {
        let Found { instance, password } = found;
        let state = State {
            port: instance.port.get(),
            version: instance.version.clone(),
            database: instance.database.as_str().to_owned(),
            username: instance.username.as_str().to_owned(),
            password: password.expose().to_owned(),
            created_at: humantime::format_rfc3339_seconds(instance.created_at).to_string(),
            owner: instance.owner.clone(),
        };
        let writing = "writing down the instance";
        let path = self.state();
        let text = serde_json::to_vec(&state).map_err(|error| failed(writing, &path)(error.into()))?;
        failpoint::pass("before writing down the instance");
        // Where the machine's power fails, it may be empty, and then counts as not there.
        write_private(&path, &text, false).map_err(failed(writing, &path))?;
        failpoint::pass("after writing down the instance");
        Ok(())
    }

    /// Lets it live so long from now on.
    pub(super) fn keep(&self, lifetime: Lifetime) -> Result<(), EngineError> {
        let path = self.kept();
        failpoint::pass("before keeping the instance");
        // What a power cut leaves of a session's says the same.
        let is_synced = lifetime != Lifetime::Session;
        let kept = write_private(&path, written(lifetime).as_bytes(), is_synced)
            .and_then(|()| if is_synced { self.sync() } else { Ok(()) });
        failpoint::pass("after keeping the instance");
        match kept {
            Ok(()) if self.is_there() => Ok(()),
            Ok(()) => Err(EngineError::Gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(EngineError::Gone),
            Err(error) => Err(failed("keeping the instance", &path)(error)),
        }
    }

    /// Sees to it that a power cut leaves what is written down, and the files' names.
    fn sync(&self) -> io::Result<()> {
        File::open(self.state())?.sync_all()?;
        // Some systems can't do that with a folder.
        let _ = File::open(&self.path).and_then(|folder| folder.sync_all());
        Ok(())
    }

    /// Makes debris of it; whether this was the one call that did.
    pub(super) fn disown(&self) -> Result<bool, EngineError> {
        let removing = "removing the instance";
        failpoint::pass("before disowning the instance");
        let was_there = match fs::remove_file(self.state()) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(failed(removing, &self.state())(error)),
        };
        failpoint::pass("amid disowning the instance");
        match fs::remove_file(self.kept()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(removing, &self.kept())(error)),
            _ => {
                failpoint::pass("after disowning the instance");
                Ok(was_there)
            }
        }
    }

    /// Reads the instance back; `None` if there is none.
    pub(super) fn read(&self) -> Result<Option<Found>, EngineError> {
        let path = self.state();
        if !self.kept().exists()
            && let Some(_lock) = self.try_lock()?
            && !self.kept().exists()
        {
            // The rest of a create that was killed. Looked at again: one that is kept at this moment has no lock any more.
            return Ok(None);
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("reading the instance back", &path)(error)),
        };
        let mut text = Vec::new();
        file.take(STATE_BYTES_MAX)
            .read_to_end(&mut text)
            .map_err(failed("reading the instance back", &path))?;
        let lifetime = self.lifetime()?;
        let status = if server::runs(self)? {
            Status::Running
        } else {
            Status::Stopped
        };
        if text.is_empty() && status == Status::Stopped {
            // As a power cut leaves it, and nobody has removed it yet.
            return Ok(None);
        }
        let damaged = |path: &Path, reason: &str, lifetime| EngineError::Damaged {
            what: format!("{}: {reason}", path.display()),
            legible: Box::new(Instance {
                host: HOST.into(),
                status,
                owner: owner(&text),
                lifetime,
                ..Instance::unknown(self.id, EngineKind::Local)
            }),
        };
        let lifetime = lifetime.map_err(|reason| damaged(&self.kept(), &reason, Lifetime::Unlimited))?;
        self.parse(&text, status, lifetime)
            .map(Some)
            .map_err(|reason| damaged(&path, &reason, lifetime))
    }

    /// How long it stays; one that nobody has been told of yet goes with its maker. The inner error if that makes no sense.
    fn lifetime(&self) -> Result<Result<Lifetime, String>, EngineError> {
        let path = self.kept();
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(KEPT_BYTES_MAX).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(Lifetime::Session)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Err("it is no text".into())),
            Err(error) => return Err(failed("reading the instance back", &path)(error)),
        }
        Ok(parse_lifetime(&text))
    }

    fn parse(&self, text: &[u8], status: Status, lifetime: Lifetime) -> Result<Found, String> {
        fn wrong(field: &str) -> impl FnOnce(&dyn std::fmt::Display) -> String + '_ {
            move |error| format!("its {field} {error}")
        }
        // Not the parser's own words: they may quote the password.
        let state: State = serde_json::from_slice(text)
            .map_err(|error| format!("it makes no sense at line {} column {}", error.line(), error.column()))?;
        let created_at: SystemTime =
            humantime::parse_rfc3339(&state.created_at).map_err(|error| wrong("created_at")(&error))?;
        let instance = Instance {
            id: self.id,
            engine: EngineKind::Local,
            container_id: String::new(),
            host: HOST.into(),
            port: state.port.try_into().map_err(|error| wrong("port")(&error))?,
            version: state.version,
            database: state.database.parse().map_err(|error| wrong("database")(&error))?,
            username: state.username.parse().map_err(|error| wrong("username")(&error))?,
            status,
            created_at,
            owner: state.owner,
            lifetime,
        };
        let password = Password::new(state.password).map_err(|error| wrong("password")(&error))?;
        Ok(Found { instance, password })
    }

    /// Notes a control group of the instance's, for whoever removes it.
    pub(super) fn add_control_group(&self, group: &Path) -> Result<(), EngineError> {
        let path = self.path.join("cgroups");
        private(OpenOptions::new().create(true).append(true))
            .open(&path)
            .and_then(|mut file| writeln!(file, "{}", group.display()))
            .map_err(failed("noting the instance's control groups", &path))
    }

    /// The control groups that were noted.
    pub(super) fn control_groups(&self) -> Vec<PathBuf> {
        let noted = fs::read_to_string(self.path.join("cgroups")).unwrap_or_default();
        noted.lines().map(PathBuf::from).collect()
    }

    /// The end of the server's log; nothing if it can't be had, for it only embellishes.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.log())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX as u64)))?;
            let mut bytes = Vec::new();
            file.take(LOG_BYTES_MAX as u64).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map(|log| engine::last_lines(&log)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A folder with an instance in it that is written down, and not well.
    fn folder(home: &tempfile::TempDir) -> InstanceDir {
        let folder = InstanceDir::new(InstanceId::random(), home.path().to_owned(), None);
        fs::write(folder.state(), "{}").expect("a file");
        folder
    }

    fn lifetime(folder: &InstanceDir) -> Result<Lifetime, String> {
        folder.lifetime().expect("it can be read")
    }

    fn names(home: &tempfile::TempDir) -> Vec<std::ffi::OsString> {
        let entries = fs::read_dir(home.path()).expect("a folder");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn every_lifetime_is_read_back_as_it_was_written() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = folder(&home);
        assert_eq!(lifetime(&folder), Ok(Lifetime::Session), "nobody was told of it");
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        for wanted in [Lifetime::Unlimited, Lifetime::Until(end), Lifetime::Session] {
            folder.keep(wanted).expect("kept");
            assert_eq!(lifetime(&folder), Ok(wanted));
            let written = fs::read(folder.kept()).expect("a file");
            assert!(!written.is_empty(), "{wanted:?} is told from what a power cut leaves");
        }
        assert_eq!(names(&home), ["instance.json", "kept"], "nothing unfinished is left");
    }

    #[test]
    fn what_could_not_be_written_or_only_half_is_not_left_beside_the_instance() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = folder(&home);
        fs::create_dir(folder.kept()).expect("a folder in its place");
        folder.keep(Lifetime::Unlimited).expect_err("it can't be written");
        assert_eq!(names(&home), ["instance.json", "kept"]);
        fs::remove_dir(folder.kept()).expect("removed");
        let half = format!(".dev-postgres-mcp-new-{}", uuid::Uuid::new_v4());
        fs::write(home.path().join(half), "unlim").expect("as a killed extend leaves it");
        folder.keep(Lifetime::Unlimited).expect("kept");
        assert_eq!(names(&home), ["instance.json", "kept"]);
    }

    #[test]
    fn an_instance_of_which_a_power_cut_left_an_empty_lifetime_goes_with_its_maker() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = folder(&home);
        for empty in ["", "\n"] {
            fs::write(folder.kept(), empty).expect("emptied");
            assert_eq!(lifetime(&folder), Ok(Lifetime::Session));
        }
    }

    #[test]
    fn an_instance_whose_lifetime_makes_no_sense_is_damaged_and_stays_until_it_is_dropped() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = folder(&home);
        for wrong in [
            &b"unlim"[..],
            b"2030-03-17T17:46",
            b"\0\0\0\0\0\0\0\0\0",
            b"\xff\xfe",
            &[b'x'; 100],
        ] {
            fs::write(folder.kept(), wrong).expect("damaged");
            lifetime(&folder).expect_err("it makes no sense");
            match folder.read() {
                Err(EngineError::Damaged { what, legible }) => {
                    assert!(what.contains("kept"), "{what}");
                    assert_eq!(legible.lifetime, Lifetime::Unlimited, "{wrong:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
