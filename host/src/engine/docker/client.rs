//! Requests to the Docker daemon: connected when first needed, each with a name and a deadline.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::errors::Error as BollardError;
use tracing::Instrument;

use super::endpoint::{self, Address, Endpoint, Surroundings, authority};
use crate::engine::EngineError;
use crate::failpoint;
use crate::failure::without;

/// bollard's own timeout in seconds, a day: long enough never to be met before the deadlines that are set here.
const BOLLARD_TIMEOUT: u64 = 24 * 60 * 60;
/// The pauses between attempts: each twice the one before.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(5);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// For how many deadlines it is looked for what Docker was asked for and may not have made, with nobody waiting.
const PATIENCE: u32 = 3;
/// How long clean-up is tried again that Docker can't do, with nobody waiting: it may be restarted, or updated.
const OUTAGE_MAX: Duration = Duration::from_hours(1);

/// Asks the daemon, wherever that is at the time.
///
/// The endpoint is found at the first request and kept until connecting to it fails; the next request finds it anew.
/// So Docker may come up, move or be restarted while we run.
#[derive(Debug, Clone)]
pub(super) struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The `DOCKER_HOST` of the configuration.
    configured: Option<String>,
    /// How long the daemon may take for a request.
    deadline: Duration,
    // A std mutex: held for a few instructions, never across a wait.
    connected: Mutex<Option<Connected>>,
    /// When the daemon last answered anything.
    answered: Mutex<Option<Instant>>,
}

/// A found endpoint. bollard opens a connection per request, so nothing here grows stale.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub(super) docker: Docker,
    pub(super) endpoint: Arc<Endpoint>,
}

/// What is known of something that is to be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trace {
    /// Docker has said that it made it.
    Made,
    /// Docker was asked to make it and didn't answer: it may be there, or come yet.
    Asked,
}

/// What became of one attempt to clean up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Nothing is left.
    Done,
    /// Nothing is there, and it may come yet.
    NothingYet,
    /// Docker could not do it.
    Failed,
}

/// Why a request did not succeed, by what may have happened on the daemon.
#[derive(Debug)]
pub(super) enum CallError {
    /// The daemon could not be asked: nothing has happened.
    NotSent(EngineError),
    /// The daemon said no.
    Refused {
        verb: &'static str,
        /// The HTTP status.
        status: u16,
        message: String,
    },
    /// No answer, or none that makes sense: it may have happened, or may yet.
    Unknown(EngineError),
}

impl From<CallError> for EngineError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotSent(error) | CallError::Unknown(error) => error,
            CallError::Refused { verb, message, .. } => Self::Request { verb, reason: message },
        }
    }
}

impl CallError {
    /// The HTTP status that the daemon answered with.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether Docker failed at what it was asked for, and may have done a part of it, or all.
    pub(super) fn is_dockers_fault(&self) -> bool {
        self.status().is_some_and(|status| status >= 500)
    }
}

/// An error without a password that Docker was sent: its answer may quote the request.
pub(super) fn redacted(error: EngineError, password: &str) -> EngineError {
    match error {
        EngineError::Request { verb, reason } => EngineError::Request {
            verb,
            reason: without(&reason, password),
        },
        EngineError::NoSuchImage { image, reason } => EngineError::NoSuchImage {
            image,
            reason: without(&reason, password),
        },
        error => error,
    }
}

impl Client {
    pub(super) fn new(configured: Option<String>, deadline: Duration) -> Self {
        Self(Arc::new(Shared {
            configured,
            deadline,
            connected: Mutex::new(None),
            answered: Mutex::new(None),
        }))
    }

    /// Whether the daemon has answered anything in this last time.
    pub(super) fn answered_within(&self, time: Duration) -> bool {
        self.answered().is_some_and(|answered| answered.elapsed() < time)
    }

    fn answered(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the daemon may take for a request.
    pub(super) fn deadline(&self) -> Duration {
        self.0.deadline
    }

    /// The endpoint that requests go to.
    pub(super) fn connected(&self) -> Result<Connected, EngineError> {
        if let Some(connected) = self.slot().clone() {
            return Ok(connected);
        }
        // Two tasks may come here at once; either result will do.
        let connected = connect(self.0.configured.as_deref())?;
        tracing::debug!(endpoint = %connected.endpoint, "found Docker");
        *self.slot() = Some(connected.clone());
        Ok(connected)
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Connected>> {
        self.0.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one request and waits for its whole answer, within the deadline. `verb` reads well before "failed".
    pub(super) async fn call<T, Answer>(
        &self,
        verb: &'static str,
        request: impl FnOnce(Docker) -> Answer,
    ) -> Result<T, CallError>
    where
        Answer: Future<Output = Result<T, BollardError>>,
    {
        let connected = self.connected().map_err(CallError::NotSent)?;
        let span = tracing::debug_span!("docker", verb);
        match tokio::time::timeout(self.0.deadline, request(connected.docker).instrument(span)).await {
            Ok(Ok(answer)) => {
                *self.answered() = Some(Instant::now());
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.explain(verb, &connected.endpoint, error)),
            Err(_) => Err(CallError::Unknown(EngineError::TimedOut {
                verb,
                after: self.0.deadline,
            })),
        }
    }

    /// As [`Client::call`], for a request that leaves something on the daemon.
    pub(super) async fn change<T, Answer>(
        &self,
        verb: &'static str,
        request: impl FnOnce(Docker) -> Answer,
    ) -> Result<T, CallError>
    where
        Answer: Future<Output = Result<T, BollardError>>,
    {
        // In a box: it is as large as bollard makes it, and every create has several.
        failpoint::around(verb, Box::pin(self.call(verb, request))).await
    }

    /// Tries until it is done, through an outage of Docker's; `false` if it never was.
    pub(super) async fn persist<Trial>(&self, mut attempt: impl FnMut() -> Trial) -> bool
    where
        Trial: Future<Output = Attempt>,
    {
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut nothing_since = None;
        loop {
            match attempt().await {
                Attempt::Done => return true,
                Attempt::NothingYet => {
                    if nothing_since.get_or_insert_with(Instant::now).elapsed() >= self.0.deadline * PATIENCE {
                        return false;
                    }
                }
                Attempt::Failed => {
                    // What Docker was asked for before may come when it is back.
                    nothing_since = None;
                    if start.elapsed() >= OUTAGE_MAX {
                        return false;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Says what an error of bollard's means.
    pub(super) fn explain(&self, verb: &'static str, endpoint: &Endpoint, error: BollardError) -> CallError {
        let not_connected = match &error {
            BollardError::HyperLegacyError { err } => err.is_connect(),
            _ => false,
        };
        if not_connected {
            *self.slot() = None;
            *self.answered() = None;
            let error = match root_io_error(&error) {
                Some(cause) => endpoint::connecting_failed(endpoint, cause, std::env::consts::OS),
                None => endpoint::connecting_failed(endpoint, &io::Error::other(root(&error)), std::env::consts::OS),
            };
            return CallError::NotSent(error);
        }
        match error {
            BollardError::DockerResponseServerError { status_code, message } => CallError::Refused {
                verb,
                status: status_code,
                message: match message.trim() {
                    "" => format!("HTTP status {status_code}"),
                    message => message.to_owned(),
                },
            },
            // Not the parser's own words: they may quote a password.
            BollardError::JsonDataError { column, .. } => CallError::Unknown(EngineError::Request {
                verb,
                reason: format!("Docker's answer makes no sense at column {column}"),
            }),
            BollardError::JsonSerdeError { err } => CallError::Unknown(EngineError::Request {
                verb,
                reason: format!("Docker's answer makes no sense: {err}"),
            }),
            error => CallError::Unknown(EngineError::Request {
                verb,
                reason: root(&error),
            }),
        }
    }
}

fn connect(configured: Option<&str>) -> Result<Connected, EngineError> {
    let home = std::env::home_dir();
    let endpoint = endpoint::find(&Surroundings {
        configured,
        variable: &|name| std::env::var(name).ok(),
        home: home.as_deref(),
        exists: &Path::exists,
        read: &|path| std::fs::read_to_string(path),
        os: std::env::consts::OS,
    })?;
    let version = bollard::API_DEFAULT_VERSION;
    let docker = match &endpoint.address {
        #[cfg(unix)]
        Address::Socket(path) => Docker::connect_with_unix(&path.to_string_lossy(), BOLLARD_TIMEOUT, version),
        #[cfg(windows)]
        Address::Pipe(path) => Docker::connect_with_named_pipe(path, BOLLARD_TIMEOUT, version),
        Address::Tcp { host, port, tls: None } => {
            Docker::connect_with_http(&authority(host, *port), BOLLARD_TIMEOUT, version)
        }
        Address::Tcp {
            host,
            port,
            tls: Some(tls),
        } => {
            // bollard panics without a default provider; the error only says that there is one already.
            let _ = rustls::crypto::ring::default_provider().install_default();
            Docker::connect_with_ssl(
                &authority(host, *port),
                &tls.key,
                &tls.cert,
                &tls.ca,
                BOLLARD_TIMEOUT,
                version,
            )
        }
        #[cfg(windows)]
        Address::Socket(_) => return Err(foreign(&endpoint, "Windows' Docker listens on named pipes")),
        #[cfg(unix)]
        Address::Pipe(_) => return Err(foreign(&endpoint, "named pipes are for Windows only")),
    };
    match docker {
        Ok(docker) => Ok(Connected {
            docker,
            endpoint: Arc::new(endpoint),
        }),
        Err(BollardError::SocketNotFoundError(_)) => Err(endpoint::connecting_failed(
            &endpoint,
            &io::ErrorKind::NotFound.into(),
            std::env::consts::OS,
        )),
        Err(error) => Err(endpoint::connecting_failed(
            &endpoint,
            &io::Error::other(root(&error)),
            std::env::consts::OS,
        )),
    }
}

fn foreign(endpoint: &Endpoint, reason: &str) -> EngineError {
    EngineError::Unreachable {
        endpoint: endpoint.to_string(),
        reason: reason.to_owned(),
        advice: format!("The address comes from {}: correct or unset it.", endpoint.origin),
    }
}

fn root_io_error(error: &BollardError) -> Option<&io::Error> {
    let mut found = None;
    let mut next = error.source();
    while let Some(cause) = next {
        found = cause.downcast_ref::<io::Error>().or(found);
        next = cause.source();
    }
    found
}

/// The innermost cause, which says most: the outer ones read "client error".
fn root(error: &BollardError) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}
