//! The domain's words: what an instance is, what opens it, what may be asked for. No I/O.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest name of a database or role in bytes: PostgreSQL's `NAMEDATALEN` less the closing NUL.
pub const NAME_BYTES_MAX: usize = 63;
/// The longest password in bytes. A bound of ours: PostgreSQL has none that a client would meet first.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// The smallest memory limit that PostgreSQL starts in with its default settings (measured: 17 needs about 40 MiB).
pub const MEMORY_MIB_MIN: u32 = 64;
/// The largest CPU limit, in thousandths of a core.
pub const CPU_MILLIS_MAX: u32 = 1_024_000;

/// A value that can't be what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub String);

fn invalid<T>(message: impl Into<String>) -> Result<T, InvalidValue> {
    Err(InvalidValue(message.into()))
}

/// Names one instance for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Uuid);

impl InstanceId {
    /// A fresh random id (UUID version 4).
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for InstanceId {
    type Err = InvalidValue;

    /// Takes exactly what `Display` writes: 36 characters, hyphenated, of either case.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match Uuid::try_parse(text) {
            Ok(uuid) if text.len() == uuid::fmt::Hyphenated::LENGTH => Ok(Self(uuid)),
            _ => invalid("must be an instance's id, a UUID such as 2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21"),
        }
    }
}

/// A TCP port on the engine's side of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(NonZeroU16);

impl Port {
    /// The port as a number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u16> for Port {
    type Error = InvalidValue;

    fn try_from(number: u16) -> Result<Self, InvalidValue> {
        NonZeroU16::new(number).map_or_else(|| invalid("port 0 names no port"), |port| Ok(Self(port)))
    }
}

impl FromStr for Port {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.parse::<u16>()
            .map_err(|_| InvalidValue("must be a port from 1 to 65535".into()))
            .and_then(Self::try_from)
    }
}

/// An instance's password. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct Password(SecretString);

impl Password {
    /// # Errors
    /// If it is empty, has more than [`PASSWORD_BYTES_MAX`] bytes, or contains NUL.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidValue> {
        let text = text.into();
        if text.is_empty() {
            return invalid("must not be empty");
        }
        if text.len() > PASSWORD_BYTES_MAX {
            return invalid(format!("must have at most {PASSWORD_BYTES_MAX} bytes"));
        }
        if text.contains('\0') {
            return invalid("must not contain NUL, which PostgreSQL can't take");
        }
        Ok(Self(text.into()))
    }

    /// The password itself: for PostgreSQL, and for whoever may read it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password([redacted])")
    }
}

/// A connection URI, libpq's DSN, password included. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct ConnectionUri(SecretString);

impl ConnectionUri {
    /// Keeps `text` as it is: its form is the policy's to decide.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// The URI itself: for whoever may read it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for ConnectionUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionUri([redacted])")
    }
}

/// A name that PostgreSQL takes for a database: 1 to 63 bytes, no NUL, not `template0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseName(String);

impl DatabaseName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DatabaseName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        check_name(text)?;
        if text == "template0" {
            return invalid("must not be template0, which PostgreSQL lets nobody connect to");
        }
        Ok(Self(text.to_owned()))
    }
}

/// A name that PostgreSQL takes for its first role: 1 to 63 bytes, no NUL, not a reserved one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleName(String);

impl RoleName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RoleName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        check_name(text)?;
        // `RoleSpec` in PostgreSQL's gram.y refuses `public` and `none` even when quoted; `initdb` refuses `pg_`.
        if text.starts_with("pg_") || matches!(text, "public" | "none") {
            return invalid(
                "must not start with pg_ or be public or none: PostgreSQL keeps these role names for itself",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

fn check_name(text: &str) -> Result<(), InvalidValue> {
    if text.is_empty() {
        return invalid("must not be empty");
    }
    if text.len() > NAME_BYTES_MAX {
        return invalid(format!("must have at most {NAME_BYTES_MAX} bytes, has {}", text.len()));
    }
    if text.contains('\0') {
        return invalid("must not contain NUL, which PostgreSQL can't take");
    }
    Ok(())
}

/// A PostgreSQL image: a repository and, as its tag, the version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Image {
    repository: String,
    version: String,
}

impl Image {
    /// # Errors
    /// If `repository` or `version` could not stand in an image reference.
    pub fn new(repository: &str, version: &str) -> Result<Self, InvalidValue> {
        // The grammar of github.com/distribution/reference, without the parts that we don't take (digests).
        let repository_ok = !repository.is_empty()
            && repository.len() <= 255
            && repository.split('/').all(|part| {
                part.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && part.ends_with(|c: char| c.is_ascii_alphanumeric())
                    && part
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':'))
            })
            && repository
                .rsplit('/')
                .next()
                .is_some_and(|last| !last.contains(':') && !last.contains(char::is_uppercase));
        if !repository_ok {
            return invalid("must name an image repository without a tag, such as postgres or ghcr.io/acme/postgres");
        }
        let version_ok = version.len() <= 128
            && version.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && version
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !version_ok {
            return invalid("must be an image tag, such as 17 or 16.4");
        }
        Ok(Self {
            repository: repository.to_owned(),
            version: version.to_owned(),
        })
    }

    /// The repository, without the tag.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.version)
    }
}

/// How much of the machine an instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    memory_mib: u32,
    cpu_millis: u32,
}

impl Limits {
    /// # Errors
    /// If PostgreSQL would not start in so little memory, or the CPU limit is 0 or beyond [`CPU_MILLIS_MAX`].
    pub fn new(memory_mib: u32, cpu_millis: u32) -> Result<Self, InvalidValue> {
        if memory_mib < MEMORY_MIB_MIN {
            return invalid(format!("memory must be at least {MEMORY_MIB_MIN} MiB"));
        }
        if cpu_millis == 0 || cpu_millis > CPU_MILLIS_MAX {
            return invalid(format!(
                "CPUs must be more than 0 and at most {}",
                CPU_MILLIS_MAX / 1000
            ));
        }
        Ok(Self { memory_mib, cpu_millis })
    }

    /// In MiB of 1,048,576 bytes.
    #[must_use]
    pub fn memory_mib(self) -> u32 {
        self.memory_mib
    }

    /// In thousandths of a core.
    #[must_use]
    pub fn cpu_millis(self) -> u32 {
        self.cpu_millis
    }
}

/// What is built: nothing is left open.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    /// Repository and version. An engine without images goes by the version alone.
    pub image: Image,
    /// The database that is there from the start.
    pub database: DatabaseName,
    /// The superuser.
    pub username: RoleName,
    /// The superuser's password.
    pub password: Password,
    /// Memory and CPU.
    pub limits: Limits,
    /// Whether committed data survives a crash of the machine; without that, everything is faster.
    pub durable: bool,
    /// How long it lives, whatever becomes of its maker; `None` leaves that to who made it.
    pub ttl: Option<Ttl>,
}

/// The longest time to live: ten years. Whoever needs more doesn't need a throwaway.
pub const TTL_SECONDS_MAX: u64 = 10 * 365 * 86_400;

/// How long an instance is to live: 1 second to [`TTL_SECONDS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl(u64);

impl Ttl {
    /// # Errors
    /// If it is 0 or longer than [`TTL_SECONDS_MAX`].
    pub fn from_seconds(seconds: u64) -> Result<Self, InvalidValue> {
        if seconds == 0 || seconds > TTL_SECONDS_MAX {
            return invalid(format!("must be 1 to {TTL_SECONDS_MAX} seconds"));
        }
        Ok(Self(seconds))
    }

    /// Its seconds.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// When an instance ends that lives so long from `now` on.
    #[must_use]
    pub fn end(self, now: SystemTime) -> SystemTime {
        now + Duration::from_secs(self.0)
    }
}

/// How long an instance stays if nobody drops it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as the process that made it.
    Session,
    /// Until this time by its engine's clock, to the second.
    Until(SystemTime),
    /// Until it is dropped.
    Unlimited,
}

/// The longest name of a team in bytes: it stands in labels, log lines and error messages.
pub const TEAM_NAME_BYTES_MAX: usize = 40;

/// A team's name in the configuration: 1 to 40 lower-case letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TeamName(String);

impl From<TeamName> for String {
    fn from(team: TeamName) -> Self {
        team.0
    }
}

impl TryFrom<String> for TeamName {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl TeamName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TeamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TeamName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let fits = (1..=TEAM_NAME_BYTES_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            return invalid(format!(
                "must be 1 to {TEAM_NAME_BYTES_MAX} lower-case letters, digits and hyphens"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Who made an instance. What is read back of it is anybody's to write: it is shown and counted, never trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The process, as [`crate::owner`] names it.
    pub process: String,
    /// The name of its machine.
    pub machine: String,
    /// Its process id there.
    pub process_id: u32,
    /// When it was started, by that machine's clock, if that is known.
    #[serde(default)]
    pub started_at: Option<SystemTime>,
    /// The team that it was started for.
    pub team: Option<TeamName>,
    /// The MCP client, by the name that it gave itself; `None` for the command line.
    pub client: Option<String>,
}

/// What a caller asked for, unchecked; `None` leaves the choice to the policy.
#[derive(Clone, Default)]
pub struct CreateRequest {
    /// PostgreSQL's version.
    pub version: Option<String>,
    /// The database's name.
    pub database: Option<String>,
    /// The superuser's name.
    pub username: Option<String>,
    /// The superuser's password.
    pub password: Option<SecretString>,
    /// How long it is to live, in seconds, whatever becomes of its maker.
    pub ttl_seconds: Option<u64>,
}

impl fmt::Debug for CreateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateRequest")
            .field("version", &self.version)
            .field("database", &self.database)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "[redacted]"))
            .field("ttl_seconds", &self.ttl_seconds)
            .finish()
    }
}

/// What the configuration has for requests that leave it open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Repository and version.
    pub image: Image,
    /// Memory and CPU.
    pub limits: Limits,
    /// Whether committed data survives a crash of the machine.
    pub durable: bool,
}

/// What runs an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// A Docker daemon, in a container.
    Docker,
    /// This machine, from PostgreSQL's own server programs.
    Local,
}

impl EngineKind {
    /// The word that callers read, and the one that the setting `engine` takes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Local => "local",
        }
    }
}

/// What the engine says of an instance. Whether its PostgreSQL answers is [`Health`]'s to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// There, never started.
    Created,
    /// Its processes run.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its processes have ended.
    Stopped,
}

impl Status {
    /// The word that callers read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// An instance as whoever may not read its credentials sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its name for life.
    pub id: InstanceId,
    /// What runs it.
    pub engine: EngineKind,
    /// The container's full id; empty where the engine has no containers.
    pub container_id: String,
    /// The address that reaches it from here: a host name or an IP address, IPv6 without brackets.
    pub host: String,
    /// The port on `host`.
    pub port: Port,
    /// PostgreSQL's version, as it was asked for: the image's tag.
    pub version: String,
    /// The database that was there from the start.
    pub database: DatabaseName,
    /// The superuser.
    pub username: RoleName,
    /// What the engine says.
    pub status: Status,
    /// When the host began to make it, to the second.
    pub created_at: SystemTime,
    /// Who made it, if that is known.
    pub owner: Option<Owner>,
    /// How long it stays if nobody drops it.
    pub lifetime: Lifetime,
}

impl Instance {
    /// One of which nothing is known but its id and what runs it. It has no server that could be reached: its port is 1, its
    /// host and version are empty; and it stays until it is dropped.
    #[must_use]
    pub fn unknown(id: InstanceId, engine: EngineKind) -> Self {
        Self {
            id,
            engine,
            container_id: String::new(),
            host: String::new(),
            port: Port(NonZeroU16::MIN),
            version: String::new(),
            database: DatabaseName("postgres".into()),
            username: RoleName("postgres".into()),
            status: Status::Stopped,
            created_at: SystemTime::UNIX_EPOCH,
            owner: None,
            lifetime: Lifetime::Unlimited,
        }
    }
}

/// An instance with what opens it, as the engine keeps it.
#[derive(Debug, Clone)]
pub struct Found {
    /// The instance.
    pub instance: Instance,
    /// The superuser's password.
    pub password: Password,
}

/// What a create has made.
#[derive(Debug, Clone)]
pub struct Created {
    /// The instance.
    pub found: Found,
    /// What whoever asked for it should know, one sentence each: a limit that this engine can't set.
    pub warnings: Vec<String>,
    /// Whether it has answered a query with its own credentials already.
    pub answers: bool,
}

/// An instance with what opens it, as whoever may read it is given it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The instance.
    pub instance: Instance,
    /// The superuser's password.
    pub password: Password,
    /// The connection URI, as the policy formats it.
    pub dsn: ConnectionUri,
}

/// Whether an instance's PostgreSQL answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answered a query.
    Healthy,
    /// It runs and does not answer yet.
    Starting,
    /// It runs and should answer, but doesn't.
    Unhealthy,
    /// It doesn't run.
    Stopped,
}

impl Health {
    /// The word that callers read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Starting => "starting",
            Self::Unhealthy => "unhealthy",
            Self::Stopped => "stopped",
        }
    }
}

/// The outcome of one query against an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// Which instance.
    pub id: InstanceId,
    /// Whether it answers.
    pub health: Health,
    /// One sentence that says what was seen.
    pub message: String,
    /// How long the query took, connecting included; `None` if none was answered.
    pub latency: Option<Duration>,
    /// When the check ended.
    pub checked_at: SystemTime,
}

/// How much of something an instance has, of how much it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// What it has.
    pub used: u64,
    /// What it may have; `None` if there is no limit.
    pub limit: Option<u64>,
}

/// What an instance takes of the machine that it runs on; `None` is what can't be told, or what it doesn't take while it
/// doesn't run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time over half a second or longer, in thousandths of a core.
    pub cpu_millis: Option<Share>,
    /// Bytes of memory, without those of the file cache that the kernel can have back at once.
    pub memory_bytes: Option<Share>,
    /// Bytes on disk that are this instance's alone: what its container has written, or its folder.
    pub disk_bytes: Option<u64>,
}

/// How often the kernel has killed a process of an instance since its start, because the instance would have had more
/// memory than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryKills {
    /// How often.
    pub count: u64,
    /// What it may have, in bytes; `None` if nobody knows.
    pub limit_bytes: Option<u64>,
}

impl fmt::Display for MemoryKills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.count {
            1 => "a process".to_owned(),
            count => format!("{count} processes"),
        };
        write!(
            f,
            "Since it was started, the kernel has killed {what} of it for want of memory, which ends all sessions"
        )?;
        match self.limit_bytes {
            Some(limit) => write!(f, ": it may have {} MiB (instance.memory_mib).", limit >> 20),
            None => f.write_str("."),
        }
    }
}

/// What an instance takes, and how busy it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Which instance.
    pub instance: Instance,
    /// What it takes of the machine.
    pub usage: Usage,
    /// How many clients are connected, whoever asks aside; `None` if it doesn't say.
    pub connections: Option<u64>,
    /// Why something is missing, one clause each.
    pub problems: Vec<String>,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The team that this process was started for.
    pub team: Option<TeamName>,
    /// The MCP client, by the name that it gives itself; `None` for a person or a script on the command line.
    pub client: Option<String>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.client {
            None => f.write_str("the command line")?,
            Some(client) => write!(f, "the MCP client {client:?}")?,
        }
        match &self.team {
            None => Ok(()),
            Some(team) => write!(f, " of the team {team}"),
        }
    }
}

/// A step of a create, for whoever waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The image is being pulled.
    Pulling {
        /// The image's reference.
        image: String,
        /// Bytes downloaded so far.
        done_bytes: u64,
        /// Bytes to download, as far as the registry has told; it grows as layers are announced.
        total_bytes: u64,
    },
    /// A data directory that instances of this version are copied from is being made, once.
    Initialising {
        /// PostgreSQL's version.
        version: String,
    },
    /// The instance is being created.
    Creating,
    /// The instance is being started.
    Starting,
    /// The server is being asked until it answers.
    Waiting,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "shown to one decimal")]
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        match self {
            Self::Pulling {
                image,
                done_bytes,
                total_bytes,
            } => write!(
                f,
                "pulling {image}: {:.1} of {:.1} MiB",
                mib(*done_bytes),
                mib(*total_bytes)
            ),
            Self::Initialising { version } => write!(f, "preparing PostgreSQL {version}, once"),
            Self::Creating => f.write_str("creating the instance"),
            Self::Starting => f.write_str("starting PostgreSQL"),
            Self::Waiting => f.write_str("waiting for PostgreSQL to answer"),
        }
    }
}

/// Where the steps of a create are told. Called often and from any task: it must not block.
#[derive(Clone)]
pub struct ProgressSink(Arc<dyn Fn(Progress) + Send + Sync>);

impl ProgressSink {
    /// Tells every step to `tell`.
    pub fn new(tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Tells nobody.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    /// Tells one step.
    pub fn tell(&self, step: Progress) {
        (self.0)(step);
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressSink")
    }
}
