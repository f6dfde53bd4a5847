//! placeholder
pub mod app;
pub mod cli;
pub mod config;
pub mod engine;
pub mod environment;
pub mod failure;
pub mod instance;
pub mod manager;
pub mod mcp;
pub mod plugins;
pub mod policy;
pub mod ports;
pub mod probe;
