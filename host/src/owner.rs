//! Who made something that must not outlive its maker: a name that other processes of this machine can judge.
//!
//! | in `owners`, in the state directory | |
//! |---|---|
//! | `scope-…` | the random name of this very folder on one machine: whoever shares both, shares the locks in it |
//! | `killed` | there from when one was killed until all that it may have left has been looked for |
//! | any other | named after a process, and locked for as long as it lives |
//!
//! A lock ends with its process, however that ends, and is free of the mistakes that process ids invite. What carries
//! another scope's name (another machine's, another user's) is not judged at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use uuid::Uuid;

use crate::digest::Digest;
use crate::failpoint;
use crate::files::{make_private, private};
use crate::instance::{Caller, Owner};

/// The folder's name in the state directory.
pub const FOLDER: &str = "owners";
/// What the name of the file with the scope in it begins with.
const SCOPE: &str = "scope";
/// Where systems with systemd or D-Bus name the machine (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";
const KILLED: &str = "killed";

/// The processes that share a state directory.
#[derive(Debug, Clone)]
pub struct Owners(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: Option<PathBuf>,
    /// The name of the file with the scope in it.
    scope: String,
    // A std mutex: held for a few short calls to a local file system, never across a wait.
    me: Mutex<Option<Me>>,
}

/// That processes were killed; which ones is nobody's matter.
#[derive(Debug, PartialEq, Eq)]
pub struct Killed(Vec<u8>);

/// This process, once it has owned something.
#[derive(Debug)]
struct Me {
    name: String,
    path: PathBuf,
    _lock: File,
}

impl Owners {
    /// Makes nothing yet. Without a state directory nobody can own anything.
    #[must_use]
    pub fn new(state_dir: Option<&Path>) -> Self {
        static MACHINE: LazyLock<Option<String>> = LazyLock::new(machine);
        Self::of_machine(state_dir, MACHINE.as_deref())
    }

    fn of_machine(state_dir: Option<&Path>, machine: Option<&str>) -> Self {
        Self(Arc::new(Inner {
            folder: state_dir.map(|state| state.join(FOLDER)),
            scope: machine.map_or_else(|| SCOPE.to_owned(), |machine| format!("{SCOPE}-{machine}")),
            me: Mutex::default(),
        }))
    }

    /// This process's name, the same each time. It may block for a short time.
    ///
    /// # Errors
    /// If the state directory can't be used.
    pub fn me(&self) -> io::Result<String> {
        let mut me = self.0.me.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(me) = &*me {
            return Ok(me.name.clone());
        }
        let folder = self.folder()?;
        if let Some(state) = folder.parent() {
            make_private(state)?;
            check(state)?;
        }
        make_private(folder)?;
        check(folder)?;
        failpoint::pass("after making the owners' folder");
        let scope = scope(&folder.join(&self.0.scope))?;
        failpoint::pass("after naming the owners' folder");
        let new = loop {
            let process = Uuid::new_v4();
            let path = folder.join(process.to_string());
            let lock = private(OpenOptions::new().create_new(true).write(true)).open(&path)?;
            failpoint::pass("before locking this owner's file");
            lock.lock()?;
            failpoint::pass("after locking this owner's file");
            // Whoever looked between these two lines took it for a dead process's and has removed it.
            if path.exists() {
                break Me {
                    name: format!("{scope}.{process}"),
                    path,
                    _lock: lock,
                };
            }
        };
        Ok(me.insert(new).name.clone())
    }

    /// This process as the owner of what `caller` asks for. Where it can't be told whether it lives, its name is one that
    /// nobody judges. It may block for a short time.
    #[must_use]
    pub fn owner(&self, caller: &Caller) -> Owner {
        let process = self.me().unwrap_or_else(|error| {
            tracing::debug!(%error, "nobody will see when this process ends");
            format!("{}.{}", Uuid::new_v4(), Uuid::new_v4())
        });
        Owner {
            process,
            machine: System::host_name().unwrap_or_else(|_| "unknown".into()),
            process_id: std::process::id(),
            started_at: started_at(),
            team: caller.team.clone(),
            client: caller.client.clone(),
        }
    }

    /// Whether the process of this name has surely ended. It may block for a short time.
    #[must_use]
    pub fn has_ended(&self, name: &str) -> bool {
        let Some((of, process)) = parse(name) else {
            return false;
        };
        let Ok(folder) = self.folder() else { return false };
        if self.known_scope() != Some(of) {
            return false;
        }
        ended(&folder.join(process.to_string())).unwrap_or(false)
    }

    /// Whether it can be told of the process of this name whether it has ended. It may block for a short time.
    #[must_use]
    pub fn can_judge(&self, name: &str) -> bool {
        parse(name).is_some_and(|(of, _)| self.known_scope() == Some(of))
    }

    /// The scope, if somebody has made it: whoever only asks makes nothing.
    fn known_scope(&self) -> Option<Uuid> {
        let file = File::open(self.folder().ok()?.join(&self.0.scope)).ok()?;
        read_scope(&file).ok().flatten()
    }

    /// Removes what ended processes have left in the folder itself. `Some` if any of them was killed since
    /// [`recovered`](Self::recovered) was told so.
    #[must_use]
    pub fn tidy(&self) -> Option<Killed> {
        let folder = self.folder().ok()?;
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.parse::<Uuid>().is_ok())
            {
                // One that can't be judged stays.
                let _ = ended(&entry.path());
            }
        }
        fs::read(folder.join(KILLED)).ok().map(Killed)
    }

    /// All that killed processes had left by then has been looked for.
    pub fn recovered(&self, killed: &Killed) {
        let Ok(path) = self.folder().map(|folder| folder.join(KILLED)) else {
            return;
        };
        // Another one may have been killed since.
        if fs::read(&path).is_ok_and(|now| now == killed.0) {
            // Where it can't be removed, it is looked for once more.
            let _ = fs::remove_file(path);
        }
    }

    fn folder(&self) -> io::Result<&Path> {
        self.0
            .folder
            .as_deref()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no home folder for a state directory"))
    }
}

impl Drop for Me {
    fn drop(&mut self) {
        // The lock ends with this process in any case.
        let _ = fs::remove_file(&self.path);
    }
}

/// When this process was started, to the second.
fn started_at() -> Option<SystemTime> {
    static STARTED_AT: LazyLock<Option<SystemTime>> = LazyLock::new(|| {
        let pid = Pid::from_u32(std::process::id());
        let mut system = System::new().ok()?;
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, ProcessRefreshKind::nothing());
        let seconds = system.process(pid)?.start_time();
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    });
    *STARTED_AT
}

fn parse(name: &str) -> Option<(Uuid, Uuid)> {
    let (scope, process) = name.split_once('.')?;
    Some((scope.parse().ok()?, process.parse().ok()?))
}

/// Whether the process that had this lock has ended; removes the file then.
fn ended(path: &Path) -> io::Result<bool> {
    let lock = match File::open(path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    match lock.try_lock() {
        Ok(()) => {
            // First: it is all that tells, with words that nobody had before. Where the disk is full, nobody is told.
            let words = Uuid::new_v4();
            let _ = private(OpenOptions::new().create(true).truncate(true).write(true))
                .open(path.with_file_name(KILLED))
                .and_then(|mut file| file.write_all(words.as_bytes()));
            fs::remove_file(path).map(|()| true)
        }
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// What tells this machine from those that may have a copy of its files; `None` if nothing does. Not the machine's id itself,
/// as its manual page asks.
fn machine() -> Option<String> {
    let id = fs::read_to_string(MACHINE_ID).ok()?;
    let id = id.trim();
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| Digest::of(format!("dev-postgres-mcp {id}").as_bytes()).to_string()[..16].to_owned())
}

/// The folder's name on this machine, given to it by whoever comes first.
fn scope(path: &Path) -> io::Result<Uuid> {
    let mut lock = private(OpenOptions::new().create(true).truncate(false).read(true).write(true)).open(path)?;
    lock.lock()?;
    // By the handle that has the lock: on Windows no other may read what is locked.
    if let Some(scope) = read_scope(&lock)? {
        return Ok(scope);
    }
    failpoint::pass("before naming the owners' folder");
    let scope = Uuid::new_v4();
    lock.set_len(0)?;
    lock.rewind()?;
    (&lock).write_all(scope.to_string().as_bytes())?;
    // Where a power cut took the name, nobody could judge any more who has owned what until then.
    lock.sync_all()?;
    // The file's entry in the folder, too, where the system can do that.
    let _ = path.parent().map(|folder| File::open(folder)?.sync_all());
    Ok(scope)
}

/// `None` if nobody has written it yet, or not to the end.
fn read_scope(file: &File) -> io::Result<Option<Uuid>> {
    let mut text = String::new();
    file.take(64).read_to_string(&mut text)?;
    Ok(text.parse().ok())
}

/// What somebody else could have put there is not to be trusted; what he owns is not to be filled.
fn check(folder: &Path) -> io::Result<()> {
    if is_ours(folder)? {
        return Ok(());
    }
    let place = folder.display();
    Err(io::Error::other(format!(
        "{place} belongs to another user, or others may write to it"
    )))
}

/// Whether a folder is this user's and nobody else may write to it.
///
/// # Errors
/// If it can't be looked at.
pub(crate) fn is_ours(folder: &Path) -> io::Result<bool> {
    let metadata = folder.metadata()?;
    #[cfg(unix)]
    let is_ours = {
        use std::os::unix::fs::MetadataExt as _;
        metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o022 == 0
    };
    // Elsewhere the home folder's own protection has to do.
    #[cfg(not(unix))]
    let is_ours = metadata.is_dir();
    Ok(is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(state: &tempfile::TempDir) -> Owners {
        Owners::new(Some(state.path()))
    }

    #[test]
    fn a_process_has_one_name_and_lives_until_its_lock_ends() {
        let state = tempfile::tempdir().expect("a folder");
        let (one, other) = (owners(&state), owners(&state));
        let name = one.me().expect("a name");
        assert_eq!(one.me().expect("a name"), name);
        assert_ne!(other.me().expect("a name"), name);
        assert!(!one.has_ended(&name) && !other.has_ended(&name));
        drop(one);
        assert!(other.has_ended(&name));
    }

    #[test]
    fn a_killed_process_has_ended_though_its_file_is_there() {
        let state = tempfile::tempdir().expect("a folder");
        let owners = owners(&state);
        let me = owners.me().expect("a name");
        let (scope, _) = me.split_once('.').expect("two parts");
        let killed = Uuid::new_v4();
        let path = state.path().join(FOLDER).join(killed.to_string());
        fs::write(&path, "").expect("a file");
        assert!(owners.tidy().is_some());
        assert!(!path.exists());
        assert!(owners.has_ended(&format!("{scope}.{killed}")));
        assert!(!owners.has_ended(&me));
    }

    #[test]
    fn that_a_process_was_killed_is_known_until_somebody_has_looked_for_what_it_left_whoever_found_it_out() {
        let state = tempfile::tempdir().expect("a folder");
        let owners = owners(&state);
        let me = owners.me().expect("a name");
        assert_eq!(owners.tidy(), None, "nobody was killed");
        let (scope, _) = me.split_once('.').expect("two parts");
        let kill_another = || {
            let killed = Uuid::new_v4();
            fs::write(state.path().join(FOLDER).join(killed.to_string()), "").expect("a file");
            assert!(owners.has_ended(&format!("{scope}.{killed}")), "a list asks that");
        };
        kill_another();
        let [first, _] = [&owners, &Owners::new(Some(state.path()))].map(|process| process.tidy().expect("told"));
        kill_another();
        owners.recovered(&first);
        let second = owners.tidy().expect("another one was killed while it was looked");
        owners.recovered(&second);
        assert_eq!(owners.tidy(), None);
    }

    #[test]
    fn another_machine_with_a_copy_of_the_folder_does_not_judge_the_first_ones_processes() {
        let [here, there] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let original = Owners::of_machine(Some(here.path()), Some("a"));
        let name = original.me().expect("a name");
        fs::create_dir(there.path().join(FOLDER)).expect("a folder");
        for entry in fs::read_dir(here.path().join(FOLDER)).expect("a folder") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), there.path().join(FOLDER).join(entry.file_name())).expect("a copy");
        }
        // There, nobody has the lock.
        let of = |machine: &str| Owners::of_machine(Some(there.path()), Some(machine));
        let copied = of("b");
        copied.me().expect("a name of its own");
        assert!(!copied.has_ended(&name));
        assert!(of("a").has_ended(&name), "the same machine does");
    }

    #[test]
    fn what_another_scope_owns_and_what_makes_no_sense_is_not_judged() {
        let state = tempfile::tempdir().expect("a folder");
        let elsewhere = tempfile::tempdir().expect("a folder");
        let owners = owners(&state);
        let foreign = {
            let others = Owners::new(Some(elsewhere.path()));
            others.me().expect("a name")
        };
        let me = owners.me().expect("a name");
        for name in [&foreign, "", "x", "a.b", &format!("{me}.x"), "../scope"] {
            assert!(!owners.has_ended(name), "{name}");
        }
        assert!(Owners::new(None).me().is_err());
        assert!(!Owners::new(None).has_ended(&me));
    }
}
