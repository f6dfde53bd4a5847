//! The Docker engine. STUB with the agreed constructor until the real one is merged: take theirs.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::task::TaskTracker;

use crate::engine::{Diagnosis, Ended, Engine, EngineError};
use crate::instance::{Found, Image, Instance, InstanceId, InstanceSpec, Port, ProgressSink};

#[derive(Debug)]
pub struct DockerSettings {
    pub host: Option<String>,
    pub publish_address: Option<IpAddr>,
    pub pull_timeout: Duration,
}

#[derive(Debug)]
pub struct DockerEngine;

impl DockerEngine {
    #[must_use]
    pub fn new(_: DockerSettings, _: TaskTracker) -> Self {
        Self
    }
}

fn unreachable<T>() -> Result<T, EngineError> {
    Err(EngineError::Unreachable {
        endpoint: "Docker".into(),
        reason: "the engine is a stub".into(),
        advice: "Merge it.".into(),
    })
}

#[async_trait]
impl Engine for DockerEngine {
    async fn prepare(&self, _: &Image, _: &ProgressSink) -> Result<(), EngineError> {
        unreachable()
    }
    async fn create(&self, _: InstanceId, _: &InstanceSpec, _: Port, _: &ProgressSink) -> Result<Found, EngineError> {
        unreachable()
    }
    async fn list(&self) -> Result<Vec<Instance>, EngineError> {
        unreachable()
    }
    async fn get(&self, _: InstanceId) -> Result<Option<Found>, EngineError> {
        unreachable()
    }
    async fn remove(&self, _: InstanceId) -> Result<bool, EngineError> {
        unreachable()
    }
    async fn ended(&self, _: InstanceId) -> Result<Ended, EngineError> {
        unreachable()
    }
    async fn diagnose(&self, _: &Image) -> Vec<Diagnosis> {
        Vec::new()
    }
}
