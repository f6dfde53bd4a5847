//! What the host asks of whatever runs PostgreSQL, and what can go wrong there.

pub mod docker;
#[cfg(test)]
pub(crate) mod fake;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::instance::{Found, Image, Instance, InstanceId, InstanceSpec, Port, ProgressSink};

/// Runs PostgreSQL servers and is the source of truth about them.
///
/// Every method has its own deadlines and may be dropped at any point: what it had begun is undone in the background,
/// on the tracker that the engine was made with.
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync {
    /// Sees to it that `image` is there, pulling it if it isn't.
    async fn prepare(&self, image: &Image, progress: &ProgressSink) -> Result<(), EngineError>;

    /// Creates and starts an instance that publishes PostgreSQL on `port`. On an error nothing is left of it.
    ///
    /// # Errors
    /// [`EngineError::PortTaken`] if somebody else holds `port`: another may do.
    async fn create(
        &self,
        id: InstanceId,
        spec: &InstanceSpec,
        port: Port,
        progress: &ProgressSink,
    ) -> Result<Found, EngineError>;

    /// Every instance of ours, oldest first.
    async fn list(&self) -> Result<Vec<Instance>, EngineError>;

    /// One instance with its password; `None` if there is none of ours with this id.
    async fn get(&self, id: InstanceId) -> Result<Option<Found>, EngineError>;

    /// Removes an instance with its data; `false` if there was none of ours with this id.
    async fn remove(&self, id: InstanceId) -> Result<bool, EngineError>;

    /// Waits until the instance's server has ended, however long that takes.
    async fn ended(&self, id: InstanceId) -> Result<Ended, EngineError>;

    /// What `doctor` shows of this engine.
    async fn diagnose(&self, image: &Image) -> Vec<Diagnosis>;
}

/// How an instance's server ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// One clause: "exited with code 1", "was killed for want of memory".
    pub how: String,
    /// The last lines of its log, oldest first.
    pub last_lines: Vec<String>,
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

/// How a diagnosed thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// A request was not answered in time.
    #[error("{verb} was not answered within {} s", after.as_secs_f32())]
    TimedOut {
        /// What was tried: "creating the container".
        verb: &'static str,
        /// The deadline.
        after: Duration,
    },
}
