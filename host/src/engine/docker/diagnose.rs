//! What `doctor` shows of Docker.

use super::DockerEngine;
use crate::engine::Diagnosis;
use crate::instance::Image;

pub(super) async fn diagnose(_engine: &DockerEngine, _image: &Image) -> Vec<Diagnosis> {
    Vec::new()
}
