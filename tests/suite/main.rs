//! The suite: one binary, so that it links once.

mod docker_engine;
mod docker_faults;
mod mcp_stdio;
mod sandbox;
