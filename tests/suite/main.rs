//! The suite: one binary, so that it links once.

mod docker_engine;
mod map;
mod readme;
mod sandbox;
