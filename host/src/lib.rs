//! Throwaway PostgreSQL servers for coding agents (MCP) and people (command line).
//!
//! The binary only calls [`cli::main`]. A call comes in through [`mcp`] or [`cli`] and ends in
//! [`manager::InstanceManager`], which asks the policy and then the engine. The README has a picture of that.
//!
//! # Map
//!
//! What lives in which file, and what the file must not know, so that either can change without the other.
//!
//! | File | Lives there | Must not know |
//! |---|---|---|
//! | `main.rs` | the exit code | everything else |
//! | `cli.rs` | all that the command line takes; the life of a command | bollard, wasmtime, rmcp |
//! | `cli/create.rs`, `list.rs`, `get.rs`, `extend.rs`, `drop.rs`, `health.rs`, `stats.rs`, `warm.rs`, `prune.rs`, `serve.rs`, `config.rs`, `doctor.rs`, `version.rs`, `completions.rs` | one command each: its arguments and its `run` | each other |
//! | `cli/plugin.rs`, `cli/plugin/*.rs` | what plugin authors need: one command each, and what they share | |
//! | `cli/id.rs` | which instance a beginning of an id means | |
//! | `cli/view.rs` | how instances look, in tables and in JSON | |
//! | `cli/ui.rs` | standard streams, spinners, questions | instances |
//! | `cli/exit.rs` | the exit codes | |
//! | `cli/setting_flags.rs` | an option for each setting | which settings there are |
//! | `cli/logging.rs`, `signals.rs` | the process's log; the signals that end it | commands |
//! | `app.rs` | the parts of one process, each built when it is first needed | the command line, MCP |
//! | `artifact.rs` | components from registries: resolved, pulled, pinned | the command line, MCP, WebAssembly |
//! | `artifact/reference.rs` | where an artifact is | I/O |
//! | `artifact/registry.rs`, `artifact/credentials.rs` | asking a registry; who one is there | the lock file |
//! | `artifact/lock.rs`, `artifact/store.rs` | what was agreed to; what was pulled | registries |
//! | `bundles.rs` | which bundles there are: those that the configuration names, and those in a folder | Docker, MCP |
//! | `bundles/folder.rs`, `bundles/watch.rs` | the files of that folder; being told that something changed there | bundles |
//! | `config.rs` | the configuration as domain values | who uses it |
//! | `default.toml`, `config/keys.rs` | which settings there are, with defaults and meanings | |
//! | `config/sources.rs` | reading file, environment and options, the later over the earlier | what the settings mean |
//! | `config/values.rs` | from what they gave to domain values | how it was read |
//! | `config/problem.rs`, `config/shown.rs` | what can be wrong; each value with where it came from, for people | |
//! | `environment.rs` | the environment variables, as a value | who uses it |
//! | `instance.rs` | the domain's words: instance, id, specification, password, connection URI | I/O |
//! | `failpoint.rs` | where a test has this process killed | what is done there |
//! | `files.rs` | reading files within a bound, whoever put them there, and writing them whole | what is in them |
//! | `digest.rs` | a SHA-256 digest, as people write it | who uses it |
//! | `failure.rs` | what every caller is told of a failure: code, sentence, advice | MCP, the command line |
//! | `manager.rs` | create, list, get, drop, health, stats; clean-up of what nobody got | bollard, rmcp, wasmtime, WIT |
//! | `manager/inventory.rs` | what there is, for policies that count | bollard, rmcp, wasmtime, WIT |
//! | `manager/sweep.rs` | removing instances that are over | bollard, rmcp, wasmtime, WIT |
//! | `manager/pool.rs` | servers that were started before anybody asked | bollard, rmcp, wasmtime, WIT |
//! | `owner.rs` | which process something belongs to that must not outlive it | what that is |
//! | `memory.rs` | whether this machine has memory to spare | who asks |
//! | `metrics.rs` | what is counted for Prometheus | what it is that happens |
//! | `metrics/endpoint.rs` | serving that over HTTP | what is counted |
//! | `ports.rs` | which ports may be tried, and which this process has given out | containers |
//! | `probe.rs` | asking a PostgreSQL server for an answer | containers |
//! | `sql.rs` | running somebody else's SQL within limits | containers, who asks |
//! | `engine.rs` | what is asked of whatever runs PostgreSQL | any particular engine |
//! | `engine/auto.rs` | which of the two engines is taken | how either works |
//! | `engine/docker.rs`, `engine/docker/*.rs` | PostgreSQL in containers | policies, tools |
//! | `engine/local.rs`, `engine/local/*.rs` | PostgreSQL as processes of this machine | Docker, policies, tools |
//! | `engine/provision.rs` | a copied data directory's names and password, over SQL | containers, processes |
//! | `engine/pretended.rs` | an engine whose instances are in name only, for plugins to be tried | containers, processes |
//! | `engine/fake.rs` | an engine that only records, for unit tests | |
//! | `policy.rs` | what is asked of a team's rules | WebAssembly |
//! | `policy/changes.rs` | what a policy may make something else of than was asked for | WebAssembly |
//! | `policy/monitor.rs` | rules on trial | WebAssembly |
//! | `policy/canned.rs` | rules with one answer to everything, for unit tests | |
//! | `plugins.rs` | the WebAssembly runtime, loading, budgets | Docker, MCP |
//! | `plugins/policy.rs`, `plugins/bundle.rs`, `plugins/tools.rs` | a policy component; a tool bundle; the tools, linted and checked | Docker, MCP |
//! | `plugins/toolbox.rs` | which tool answers to which name, and which bundle is missing | Docker, MCP |
//! | `plugins/budget.rs` | what a component may use in one call | Docker, MCP |
//! | `plugins/turns.rs` | which guests that compute for long do so now | Docker, MCP |
//! | `plugins/grants.rs` | what a bundle may be granted | Docker, MCP |
//! | `plugins/journal.rs` | what a component writes to the log | Docker, MCP |
//! | `plugins/wasi.rs` | WASI for runtimes that want it, closed | Docker, MCP |
//! | `plugins/credentials.rs` | what stands for a password with a bundle that may not see it | Docker, MCP |
//! | `plugins/encode.rs` | from a core module to a component | Docker, MCP |
//! | `plugins/cache.rs` | compiled components from one process to the next | Docker, MCP |
//! | `plugins/provenance.rs` | what is said of a loaded component: origin, digest, grants, limits, state | Docker, MCP |
//! | `plugins/check.rs` | all that is wrong with a plugin | Docker, MCP |
//! | `plugins/transcript.rs`, `plugins/transcript/values.rs` | what a guest asks the host in one call, written down or replayed | Docker, MCP |
//! | `plugins/case.rs` | a recorded call as a test case | Docker, MCP, WebAssembly |
//! | `plugins/scaffold.rs` | a new plugin's files, from `host/templates` | Docker, MCP, WebAssembly |
//! | `plugins/inspect.rs` | what is in a plugin's file | Docker, MCP |
//! | `plugins/guest.rs` | one call into a guest, and what the host does when the guest asks | Docker, MCP, WIT |
//! | `plugins/versions.rs` | which WIT version a component is made for; what all of them have in common | Docker, MCP |
//! | `plugins/v0_1.rs`, `plugins/v0_2.rs` | one version of the WIT package: bindings, imports, conversion | Docker, MCP |
//! | `mcp.rs`, `mcp/transport.rs`, `mcp/progress.rs`, `mcp/resources.rs` | the MCP server | bollard, wasmtime |
//! | `mcp/inbound.rs`, `mcp/outline.rs` | what a client sends, and the answer to what is no message | bollard, wasmtime |
//! | `mcp/error.rs` | the one mapping from failures to MCP | bollard, wasmtime |
//!
//! # Invariants
//!
//! 1. Every create, read and drop passes the policy in [`manager::InstanceManager`], whether it comes from MCP, the
//!    command line or a bundle. A policy that fails denies.
//! 2. The engine is the source of truth: labels on containers, a file in those that were started ahead, a file beside
//!    each local instance. A host that restarts finds everything it left. What doesn't have our label, or isn't in our
//!    state directory, is never touched.
//! 3. A guest starts with nothing and reaches what its world imports, a bundle only what it is granted of that. All that
//!    [`plugins::budget`] has is bounded; each call gets a fresh store.
//! 4. A password or DSN stands in the reply to whoever may read it and nowhere else: not in logs, error messages,
//!    process arguments or names. The engine keeps the password where only those who control it, or are the
//!    instance's superuser, can look.
//! 5. Whatever fails leaves no container, volume, network, process, directory or port behind.
//! 6. The standard output of `mcp serve` carries JSON-RPC only.

pub mod app;
pub mod artifact;
pub mod bundles;
pub mod cli;
pub mod config;
pub mod digest;
pub mod engine;
pub mod environment;
mod failpoint;
pub mod failure;
mod files;
pub mod instance;
pub mod manager;
pub mod mcp;
pub mod memory;
pub mod metrics;
pub mod owner;
pub mod plugins;
pub mod policy;
pub mod ports;
pub mod probe;
pub mod sql;
