//! Finding PostgreSQL's server programs: which majors this machine has, and where.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;

use super::server;
use super::server_user::ServerUser;
use crate::engine::EngineError;

/// How long a program may take to say its version.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a program that failed is not asked again, unless it is replaced.
const FAILURE_REMEMBERED: Duration = Duration::from_mins(1);
/// The first major version with SCRAM.
const OLDEST_MAJOR: u32 = 10;

/// Where packages put server programs. A `*` stands for any part of one folder's name.
#[cfg(not(windows))]
const USUAL_PLACES: [&str; 13] = [
    // Debian and Ubuntu, with packages of their own or PostgreSQL's.
    "/usr/lib/postgresql/*/bin",
    // PostgreSQL's packages for Red Hat and its kin.
    "/usr/pgsql-*/bin",
    // SUSE and Alpine.
    "/usr/lib/postgresql*/bin",
    "/usr/libexec/postgresql*",
    // Gentoo.
    "/usr/lib64/postgresql-*/bin",
    // Homebrew on Apple silicon, on Intel, and on Linux.
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    // Postgres.app.
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    // EnterpriseDB's installers.
    "/Library/PostgreSQL/*/bin",
    "/opt/PostgreSQL/*/bin",
    // Built from source, and FreeBSD.
    "/usr/local/pgsql/bin",
    "/usr/local/bin",
];
#[cfg(windows)]
const USUAL_PLACES: [&str; 2] = [
    r"C:\Program Files\PostgreSQL\*\bin",
    r"C:\Program Files (x86)\PostgreSQL\*\bin",
];

/// A version as `postgres --version` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServerVersion {
    major: u32,
    /// `None` for a beta.
    minor: Option<u32>,
}

impl ServerVersion {
    pub(super) fn major(self) -> u32 {
        self.major
    }

    /// Whether this is the version that somebody asked for: a major alone means any of its minors.
    pub(super) fn is(self, asked: &str) -> bool {
        asked == self.major.to_string() || asked == self.to_string()
    }

    /// Reads `postgres (PostgreSQL) 17.6 (Debian 17.6-1)`.
    fn parse(said: &str) -> Option<Self> {
        let (_, version) = said.split_once("(PostgreSQL) ")?;
        let version = version.split_whitespace().next()?;
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (major, rest) = version.split_at(digits(version));
        let minor = rest
            .strip_prefix('.')
            .and_then(|minor| minor[..digits(minor)].parse().ok());
        Some(Self {
            major: major.parse().ok()?,
            minor,
        })
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            Some(minor) => write!(f, "{}.{minor}", self.major),
            None => write!(f, "{}beta", self.major),
        }
    }
}

/// The server programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) bin_dir: PathBuf,
    pub(super) version: ServerVersion,
    /// All that `postgres --version` says: two builds of one version differ here.
    pub(super) build: String,
}

impl Programs {
    pub(super) fn initdb(&self) -> PathBuf {
        program(&self.bin_dir, "initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        program(&self.bin_dir, "postgres")
    }

    /// What a server that runs was started from: other programs, or others in the same place, make another.
    pub(super) fn origin(&self) -> String {
        format!("{} {}", self.bin_dir.display(), self.build)
    }
}

impl fmt::Display for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.version, self.bin_dir.display())
    }
}

fn program(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// Finds server programs, and asks each for its version once, unless it changes.
#[derive(Debug)]
pub(super) struct ProgramFinder {
    bin_dirs: Vec<PathBuf>,
    path: Vec<PathBuf>,
    // A std mutex: held for a few instructions, never across a wait.
    known: Mutex<HashMap<PathBuf, Known>>,
    pg_config: Mutex<Option<PgConfig>>,
    /// The configured user that servers run as.
    user: Option<String>,
}

/// What `postgres --version` said in a folder.
#[derive(Debug, Clone)]
struct Known {
    /// When the program was last changed, as of then.
    changed: Option<SystemTime>,
    asked_at: Instant,
    /// `None` if it said nothing that makes sense.
    programs: Option<Programs>,
}

/// What `pg_config --bindir` said.
#[derive(Debug)]
struct PgConfig {
    program: PathBuf,
    /// When the program was last changed, as of then.
    changed: Option<SystemTime>,
    bin_dir: PathBuf,
}

impl ProgramFinder {
    pub(super) fn new(bin_dirs: Vec<PathBuf>, path: Option<&OsStr>, user: Option<String>) -> Self {
        Self {
            bin_dirs,
            path: path.into_iter().flat_map(std::env::split_paths).collect(),
            known: Mutex::default(),
            pg_config: Mutex::default(),
            user,
        }
    }

    /// The programs for a version that was asked for: the first found of its newest minor.
    ///
    /// # Errors
    /// If there are none at all, or none of this version; what there is is listed.
    pub(super) async fn find(&self, asked: &str) -> Result<Programs, EngineError> {
        let all = self.all().await?;
        let found = all.iter().map(ToString::to_string).collect();
        all.into_iter()
            .find(|programs| programs.version.is(asked))
            .ok_or_else(|| EngineError::NoSuchVersion {
                version: asked.to_owned(),
                found,
            })
    }

    /// All that are found, newest first; of two of the same version the first found is first.
    ///
    /// # Errors
    /// If there are none.
    pub(super) async fn all(&self) -> Result<Vec<Programs>, EngineError> {
        let user = ServerUser::find(self.user.as_deref())?;
        let mut folders = self.bin_dirs.clone();
        folders.extend(self.said_by_pg_config(user.as_ref()).await);
        folders.extend(self.path.iter().cloned());
        folders.extend(USUAL_PLACES.into_iter().flat_map(|place| expand(Path::new(place))));
        let mut real = Vec::new();
        for folder in folders {
            // A folder that two links lead to counts once.
            if let Some(folder) = real_bin_dir(&folder)
                && !real.contains(&folder)
            {
                real.push(folder);
            }
        }
        let mut all: Vec<Programs> = join_all(real.iter().map(|folder| self.look_at(folder, user.as_ref())))
            .await
            .into_iter()
            .flatten()
            .filter(|programs| programs.version.major >= OLDEST_MAJOR)
            .collect();
        if all.is_empty() {
            return Err(none());
        }
        all.sort_by_key(|programs| std::cmp::Reverse(programs.version));
        Ok(all)
    }

    async fn said_by_pg_config(&self, user: Option<&ServerUser>) -> Option<PathBuf> {
        let pg_config = self
            .path
            .iter()
            .map(|folder| program(folder, "pg_config"))
            .find(|file| file.is_file())?;
        let changed = pg_config.metadata().and_then(|metadata| metadata.modified()).ok();
        if let Some(known) = &*self.pg_config()
            && known.program == pg_config
            && known.changed == changed
        {
            return Some(known.bin_dir.clone());
        }
        let said = ask(&pg_config, "--bindir", user).await?;
        let bin_dir = PathBuf::from(said.trim_end());
        *self.pg_config() = Some(PgConfig {
            program: pg_config,
            changed,
            bin_dir: bin_dir.clone(),
        });
        Some(bin_dir)
    }

    fn pg_config(&self) -> MutexGuard<'_, Option<PgConfig>> {
        self.pg_config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_at(&self, folder: &Path, user: Option<&ServerUser>) -> Option<Programs> {
        let postgres = program(folder, "postgres");
        let changed = postgres.metadata().and_then(|metadata| metadata.modified()).ok();
        if let Some(known) = self.known().get(folder)
            && known.changed == changed
            && (known.programs.is_some() || known.asked_at.elapsed() < FAILURE_REMEMBERED)
        {
            return known.programs.clone();
        }
        let said = ask(&postgres, "--version", user).await;
        let version = said.as_deref().and_then(ServerVersion::parse);
        if version.is_none() {
            tracing::debug!(program = %postgres.display(), said, "says no version that makes sense");
        }
        let programs = version.map(|version| Programs {
            bin_dir: folder.to_owned(),
            version,
            build: said.unwrap_or_default().trim_end().to_owned(),
        });
        let known = Known {
            changed,
            asked_at: Instant::now(),
            programs: programs.clone(),
        };
        self.known().insert(folder.to_owned(), known);
        programs
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a program prints; `None` if it doesn't run, fails, or takes too long. As the servers' user: a folder of programs may
/// be anybody's.
async fn ask(program: &Path, question: &str, user: Option<&ServerUser>) -> Option<String> {
    let answer = server::command(program, user)
        .arg(question)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(ANSWER_TIMEOUT, answer).await.ok()?.ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The folder itself, links resolved, if it has all that an instance takes.
fn real_bin_dir(folder: &Path) -> Option<PathBuf> {
    // A link to `postgres` alone, as some packages put into /usr/bin, leads to the folder where the rest is.
    let postgres = std::fs::canonicalize(program(folder, "postgres")).ok()?;
    let folder = postgres.parent()?;
    program(folder, "initdb").is_file().then(|| folder.to_owned())
}

/// Every folder that a place with `*` in it means.
fn expand(place: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in place.components() {
        let part = part.as_os_str();
        let pattern = part.to_string_lossy();
        let Some((start, end)) = pattern.split_once('*') else {
            for path in &mut found {
                path.push(part);
            }
            continue;
        };
        found = found.iter().flat_map(|path| matching(path, start, end)).collect();
    }
    found
}

fn matching(folder: &Path, start: &str, end: &str) -> Vec<PathBuf> {
    let fits = |name: &str| name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end);
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(fits))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

fn none() -> EngineError {
    EngineError::Unreachable {
        endpoint: "PostgreSQL's server programs".into(),
        reason: "there are none in PATH or the usual places".into(),
        advice: format!(
            "{}, or name their folder in the setting local.bin_dir.",
            how_to_install()
        ),
    }
}

/// The shortest way to server programs on this platform.
pub(in crate::engine) fn how_to_install() -> &'static str {
    match std::env::consts::OS {
        "macos" => "Install PostgreSQL (`brew install postgresql@17`)",
        "windows" => "Install PostgreSQL (`winget install PostgreSQL.PostgreSQL.17`)",
        _ => {
            "Install PostgreSQL's server (Debian, Ubuntu: `apt-get install postgresql`; Red Hat: `dnf install postgresql-server`)"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> ServerVersion {
        ServerVersion::parse(&format!("postgres (PostgreSQL) {text}\n")).expect("a version")
    }

    #[test]
    fn versions_are_read_as_postgres_says_them() {
        for (said, shown) in [
            ("17.6 (Debian 17.6-0+deb13u1)", "17.6"),
            ("10.23", "10.23"),
            ("18beta2", "18beta"),
            ("19devel", "19beta"),
        ] {
            assert_eq!(version(said).to_string(), shown);
        }
        for nonsense in ["", "postgres 17", "psql (PostgreSQL) x", "(PostgreSQL) "] {
            assert_eq!(ServerVersion::parse(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_major_means_any_of_its_minors_and_a_minor_only_itself() {
        let found = version("17.6");
        assert!(found.is("17") && found.is("17.6"));
        for other in ["17.5", "16", "1", "17.60", "7.6", ""] {
            assert!(!found.is(other), "{other}");
        }
        assert!(version("18beta1").is("18"));
    }

    #[test]
    fn newer_is_greater_and_a_beta_is_older_than_its_release() {
        let mut versions = ["9.6", "17.6", "17.10", "18beta1", "18.0"].map(version);
        versions.sort();
        assert_eq!(
            versions.map(|version| version.to_string()),
            ["9.6", "17.6", "17.10", "18beta", "18.0"]
        );
    }

    /// Folders with programs that say these versions.
    #[cfg(unix)]
    fn installed(versions: &[(&str, &str)]) -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().expect("a directory");
        // As root, they are run as another user.
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).expect("passable");
        for (folder, said) in versions {
            let folder = root.path().join(folder);
            std::fs::create_dir_all(&folder).expect("a directory");
            for name in ["initdb", "postgres"] {
                let file = folder.join(name);
                std::fs::write(&file, format!("#!/bin/sh\necho '{name} (PostgreSQL) {said}'\n")).expect("a file");
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("executable");
            }
        }
        root
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn configured_folders_come_first_and_one_that_two_links_lead_to_counts_once() {
        let root = installed(&[("a/bin", "99.1"), ("b/bin", "99.1"), ("c/bin", "98.3")]);
        let folder = |name: &str| root.path().join(name).join("bin");
        std::os::unix::fs::symlink(folder("a"), root.path().join("link")).expect("a link");
        let path = std::env::join_paths([root.path().join("link"), folder("a"), folder("c")]).expect("a path");
        let finder = ProgramFinder::new(vec![folder("b")], Some(&path), None);
        let all = finder.all().await.expect("programs");
        let shown: Vec<String> = all.iter().take(3).map(ToString::to_string).collect();
        let real = |name: &str| {
            std::fs::canonicalize(folder(name))
                .expect("a folder")
                .display()
                .to_string()
        };
        assert_eq!(
            shown,
            [
                format!("99.1 in {}", real("b")),
                format!("99.1 in {}", real("a")),
                format!("98.3 in {}", real("c"))
            ]
        );
        assert_eq!(
            finder.find("99").await.expect("found").bin_dir,
            PathBuf::from(real("b"))
        );
        let error = finder.find("12").await.expect_err("not there").to_string();
        assert!(
            error.starts_with("PostgreSQL 12 is not installed here; what is: 99.1 in "),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn programs_that_are_replaced_are_asked_again_and_broken_ones_are_passed_over() {
        let root = installed(&[("a", "99.1"), ("broken", "nonsense"), ("old", "9.6.24")]);
        let folders = ["a", "broken", "old"].map(|name| root.path().join(name));
        let finder = ProgramFinder::new(folders.to_vec(), None, None);
        let mine = |all: Vec<Programs>| -> Vec<String> {
            let here = std::fs::canonicalize(root.path()).expect("a folder");
            let mine = all.into_iter().filter(|programs| programs.bin_dir.starts_with(&here));
            mine.map(|programs| programs.version.to_string()).collect()
        };
        assert_eq!(mine(finder.all().await.expect("programs")), ["99.1"]);
        let postgres = folders[0].join("postgres");
        std::fs::write(&postgres, "#!/bin/sh\necho 'postgres (PostgreSQL) 99.2'\n").expect("a file");
        let later = SystemTime::now() + Duration::from_secs(5);
        let file = std::fs::File::options().write(true).open(&postgres).expect("the file");
        file.set_modified(later).expect("a later time");
        drop(file);
        assert_eq!(mine(finder.all().await.expect("programs")), ["99.2"]);
    }

    #[test]
    fn a_star_stands_for_any_part_of_one_folders_name() {
        let root = tempfile::tempdir().expect("a directory");
        for folder in ["pgsql-17/bin", "pgsql-9/bin", "pgsql/bin", "other-17/bin"] {
            std::fs::create_dir_all(root.path().join(folder)).expect("a directory");
        }
        let found = expand(&root.path().join("pgsql-*").join("bin"));
        assert_eq!(
            found,
            ["pgsql-17", "pgsql-9"].map(|name| root.path().join(name).join("bin"))
        );
    }
}
