//! The suite: one binary, so that it links once.

mod cli_instances;
mod cli_surface;
#[cfg(unix)]
mod docker_engine;
mod docker_faults;
#[cfg(unix)]
mod docker_templates;
mod engine_choice;
mod map;
mod mcp_stdio;
mod readme;
mod real_clients;
mod sandbox;
