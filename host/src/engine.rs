//! What the host asks of whatever runs PostgreSQL, and what can go wrong there.

pub mod auto;
pub mod docker;
#[cfg(test)]
pub(crate) mod fake;
pub mod local;
pub mod pretended;
mod provision;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio_util::sync::WaitForCancellationFutureOwned;

use self::provision::Session;
use crate::instance::{
    Created, EngineKind, Found, Image, Instance, InstanceId, InstanceSpec, Lifetime, MemoryKills, Owner, Port,
    ProgressSink, Usage,
};
use crate::probe;

/// How much of a server's log is shown: lines, and bytes of all of them together.
const LOG_LINES_MAX: usize = 20;
const LOG_BYTES_MAX: usize = 16 << 10;

/// What makes a server fast that need not survive a crash of the machine. `synchronous_commit` stays on: it costs nothing
/// then, and a copy of the data directory has every commit.
const NOT_DURABLE: [(&str, &str); 2] = [("fsync", "off"), ("full_page_writes", "off")];

/// Runs PostgreSQL servers and is the source of truth about them.
///
/// Every method has its own deadlines and may be dropped at any point: what it had begun is undone in the background,
/// on the tracker that the engine was made with.
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync {
    /// Removes what processes that were killed have left, as far as that can be told from what others are at; `was_killed` says that
    /// there was one on this machine since somebody has last looked.
    async fn recover(&self, was_killed: bool) -> Result<(), EngineError>;

    /// What an instance is made from where nobody asks for a version: `configured` itself, unless this engine has only
    /// others.
    async fn default_image(&self, configured: &Image) -> Image;

    /// Sees to it that instances of `image` can be made, pulling or initialising what it takes; whether they have a template
    /// to start from, and aren't initialised one by one.
    async fn prepare(&self, image: &Image, progress: &ProgressSink) -> Result<bool, EngineError>;

    /// Creates and starts an instance that listens on `port` and goes with `owner`'s process until it is kept. On an error
    /// nothing is left of it. Its server may need some more time until it answers.
    ///
    /// # Errors
    /// [`EngineError::PortTaken`] if somebody else holds `port`: another may do.
    async fn create(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        owner: &Owner,
        port: Port,
        progress: &ProgressSink,
    ) -> Result<Created, EngineError>;

    /// Starts a server for an instance like `spec`, names and password aside, that waits on `port` to become one: it is in
    /// no list, it ends with this process, and nobody knows its password. `None` where that can't be had without pulling
    /// an image, or at all.
    ///
    /// # Errors
    /// As [`Engine::create`].
    async fn start_ahead(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        owner: &Owner,
        port: Port,
    ) -> Result<Option<Waiting>, EngineError>;

    /// Makes a waiting server the instance that `spec` describes, for `owner`.
    ///
    /// # Errors
    /// If it isn't as good as a new one any more, or fails. Whoever called removes it then.
    async fn assign(&self, waiting: Waiting, spec: &InstanceSpec, owner: &Owner) -> Result<Created, EngineError>;

    /// Lets an instance live so long from now on: somebody has been told of it.
    ///
    /// # Errors
    /// If it is gone.
    async fn keep(&self, id: InstanceId, lifetime: Lifetime) -> Result<(), EngineError>;

    /// The time by the clock that instances of this kind end by: its own machine's.
    async fn now(&self, kind: EngineKind) -> Result<SystemTime, EngineError>;

    /// Every instance of ours, oldest first. One that is damaged is left out, and the log says so.
    async fn list(&self) -> Result<Vec<Instance>, EngineError>;

    /// As [`Engine::list`], with those that are damaged, as far as they can be read: for whoever counts what there is, or
    /// removes what is over.
    async fn list_all(&self) -> Result<Vec<Instance>, EngineError> {
        self.list().await
    }

    /// One instance with its password; `None` if there is none of ours with this id.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] if all that can be done with it any more is to remove it.
    async fn get(&self, id: InstanceId) -> Result<Option<Found>, EngineError>;

    /// What an instance takes just now; `None` if there is none of ours with this id. Takes a second or two: CPU time is
    /// what passes between two looks.
    async fn usage(&self, id: InstanceId) -> Result<Option<Usage>, EngineError>;

    /// How often the kernel has killed a process of an instance for want of memory; `None` if that can't be told, or there is
    /// none of ours with this id.
    async fn memory_kills(&self, id: InstanceId) -> Result<Option<MemoryKills>, EngineError>;

    /// Where else there may be instances that can't be seen now, as a clause: "Docker can't be reached".
    async fn unseen(&self) -> Option<String> {
        None
    }

    /// As [`Engine::unseen`], only where somebody has it: not that there is none on a machine that never had one.
    async fn overlooked(&self) -> Option<String> {
        None
    }

    /// Removes an instance with its data; `false` if there was none of ours with this id.
    async fn remove(&self, id: InstanceId) -> Result<bool, EngineError>;

    /// Waits until the instance's server has ended, however long that takes.
    async fn ended(&self, id: InstanceId) -> Result<Ended, EngineError>;

    /// Removes what is only there to be fast and is of no use any more: templates whose image or programs have changed or
    /// gone, or that are older than [`TEMPLATE_AGE_MAX`], and what ended processes have left. Adds it to `pruned`, whatever
    /// comes then. `dry_run` only says what.
    async fn prune(&self, dry_run: bool, pruned: &mut Vec<Pruned>) -> Result<(), EngineError>;

    /// What `doctor` shows of this engine.
    async fn diagnose(&self, image: &Image) -> Vec<Diagnosis>;
}

/// How old a template may get: it takes a second or two to make another, and nobody knows whether it is still used.
pub const TEMPLATE_AGE_MAX: Duration = Duration::from_hours(30 * 24);

/// Something of ours that was of no use any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// What it was: "template", "server", "container", "network"; "instance" if it was over.
    pub kind: &'static str,
    /// What the engine calls it.
    pub name: String,
    /// Why it was of no use, as a clause.
    pub reason: String,
}

/// A server that runs and waits to become an instance.
#[derive(Debug)]
pub struct Waiting {
    /// What it is, but for the names and the password that it doesn't have yet.
    instance: Instance,
    /// What it was started from: another image or template makes another.
    origin: String,
    warnings: Vec<String>,
    session: Session,
}

impl Waiting {
    /// The id that it will have as an instance.
    #[must_use]
    pub fn id(&self) -> InstanceId {
        self.instance.id
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.session.lost().is_cancelled()
    }

    /// Waits until it ends.
    pub fn lost(&self) -> WaitForCancellationFutureOwned {
        self.session.lost().clone().cancelled_owned()
    }

    /// The instance that it becomes.
    fn becomes(&self, spec: &InstanceSpec, owner: &Owner) -> Found {
        Found {
            instance: Instance {
                database: spec.database.clone(),
                username: spec.username.clone(),
                created_at: now_in_seconds(),
                owner: Some(owner.clone()),
                ..self.instance.clone()
            },
            password: spec.password.clone(),
        }
    }
}

/// How an instance's server ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// One clause: "exited with code 1", "was killed for want of memory".
    pub how: String,
    /// The last lines of its log, oldest first.
    pub last_lines: Vec<String>,
}

/// The last lines of a log that have anything in them, oldest first.
fn last_lines(log: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(LOG_LINES_MAX)..]
        .iter()
        .map(|&line| line.to_owned())
        .collect()
}

/// When an instance is made, as it is kept: to the second.
fn now_in_seconds() -> SystemTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// A name for what is made of `source`: eight bytes of its digest are enough to tell a machine's templates apart.
fn short_digest(source: &str) -> String {
    let start = Sha256::digest(source).first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(start))
}

/// Runs a query with an instance's own credentials.
async fn answers(found: &Found, deadline: Duration) -> Result<(), EngineError> {
    probe::query(found, deadline)
        .await
        .map(drop)
        .map_err(|error| EngineError::Request {
            verb: "asking the new instance a query",
            reason: error.to_string(),
        })
}

/// Why a server that waited is not taken.
fn outdated() -> EngineError {
    EngineError::Request {
        verb: "taking a server that was started ahead",
        reason: "its image has changed since".into(),
    }
}

/// Why a create is given up that nobody waits for any more.
fn unwanted() -> EngineError {
    EngineError::Request {
        verb: "creating the instance",
        reason: "nobody waits for it any more".into(),
    }
}

/// What is said of a create whose task ended without a word.
fn unanswered() -> EngineError {
    EngineError::Request {
        verb: "creating the instance",
        reason: "it ended without an answer; the log has the cause".into(),
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.last_lines.is_empty() {
            write!(f, "{}, and its log is empty", self.how)
        } else {
            write!(f, "{}; its log ends with:\n{}", self.how, self.last_lines.join("\n"))
        }
    }
}

/// One line of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What was looked at: "Docker", "image".
    pub subject: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
    /// What to do about it; empty where nothing is to be done.
    pub advice: String,
}

impl Diagnosis {
    fn new(subject: &'static str, verdict: Verdict, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            subject,
            verdict,
            detail: detail.into(),
            advice: advice.into(),
        }
    }
}

/// How a diagnosed thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Works.
    Good,
    /// Works, but.
    Warning,
    /// Doesn't work.
    Bad,
}

/// What can go wrong in an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing answers where the engine should be.
    #[error("{endpoint} can't be reached: {reason}")]
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        /// What happened there.
        reason: String,
        /// What to do about it, on this platform.
        advice: String,
    },
    /// The image is neither here nor in its registry.
    #[error("the image {image} does not exist: {reason}")]
    NoSuchImage {
        /// Its reference.
        image: String,
        /// The registry's word.
        reason: String,
    },
    /// The image isn't here and its registry can't be asked.
    #[error("the image {image} is not here and could not be pulled: {reason}")]
    Pull {
        /// Its reference.
        image: String,
        /// The engine's word.
        reason: String,
    },
    /// The engine has no PostgreSQL of this version.
    #[error("PostgreSQL {version} is not installed here; what is: {}", found.join(", "))]
    NoSuchVersion {
        /// What was asked for.
        version: String,
        /// What is there, newest first: "17.6 in /usr/lib/postgresql/17/bin". Never empty.
        found: Vec<String>,
    },
    /// Neither engine can be used.
    #[error("there is neither Docker nor PostgreSQL itself: {docker}; {local}")]
    None {
        /// What is wrong with Docker.
        docker: String,
        /// What is wrong with the local engine.
        local: String,
        /// The shortest way to have one, on this platform.
        advice: String,
    },
    /// The new instance's server ended before it answered.
    #[error("PostgreSQL ended before it answered: it {0}")]
    Ended(Ended),
    /// Somebody else holds the port.
    #[error("port {0} is taken")]
    PortTaken(Port),
    /// A request was answered with an error, or with something that makes no sense.
    #[error("{verb} failed: {reason}")]
    Request {
        /// What was tried: "creating the container".
        verb: &'static str,
        /// The engine's word.
        reason: String,
    },
    /// Somebody has changed what is kept of an instance, so that it makes no sense any more.
    #[error("reading the instance back failed: somebody changed {what}")]
    Damaged {
        /// What, and why it makes no sense: "its container: it has no label dev-postgres-mcp.port".
        what: String,
        /// The instance as far as it can be read; the rest is that of [`Instance::unknown`].
        legible: Box<Instance>,
    },
    /// Somebody has removed the instance while something was done to it.
    #[error("somebody has removed the instance meanwhile")]
    Gone,
    /// A request was not answered in time.
    #[error("{verb} was not answered within {} s", after.as_secs_f32())]
    TimedOut {
        /// What was tried: "creating the container".
        verb: &'static str,
        /// The deadline.
        after: Duration,
    },
}
