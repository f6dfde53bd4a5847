//! The suite: one binary, so that it links once.

#![forbid(unsafe_code)]

#[cfg(unix)]
mod any_credentials;
#[cfg(unix)]
mod bench;
mod bundles;
mod cli_instances;
mod cli_surface;
#[cfg(unix)]
mod docker_engine;
mod docker_faults;
#[cfg(unix)]
mod docker_kills;
#[cfg(unix)]
mod docker_meddling;
#[cfg(target_os = "linux")]
mod docker_outages;
#[cfg(unix)]
mod docker_proxy;
#[cfg(unix)]
mod docker_templates;
mod engine_choice;
#[cfg(unix)]
mod engines;
mod fuzz_corpus;
mod guest_languages;
mod guest_wasi;
#[cfg(unix)]
mod heavy_use;
mod hostile_guests;
mod json_rpc_fuzz;
mod lifetimes;
#[cfg(unix)]
mod local_engine;
#[cfg(target_os = "linux")]
mod local_faults;
#[cfg(target_os = "linux")]
mod local_isolation;
#[cfg(unix)]
mod local_kills;
mod map;
mod mcp_stdio;
mod memory_limits;
mod metrics;
mod plugin_kit;
mod plugin_reload;
mod policy_everywhere;
mod policy_examples;
#[cfg(unix)]
mod pool;
mod readme;
mod real_clients;
mod registries;
mod released;
mod sandbox;
#[cfg(unix)]
mod secrets;
mod stats;
mod teams;
