//! placeholder
pub mod config;
pub mod engine;
pub mod environment;
pub mod failure;
pub mod instance;
pub mod manager;
pub mod policy;
pub mod ports;
