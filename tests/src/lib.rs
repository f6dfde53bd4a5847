//! Support for the suite: what stands in for the outside world, and what starts the real one.

#![forbid(unsafe_code)]

pub mod bench;
pub mod binary;
pub mod clients;
pub mod credentials;
pub mod database;
pub mod docker_cli;
#[cfg(unix)]
pub mod docker_proxy;
#[cfg(unix)]
pub mod fuzzed;
pub mod guests;
pub mod json_fuzz;
#[cfg(unix)]
pub mod kills;
pub mod local;
#[cfg(unix)]
pub mod local_engine;
pub mod outage;
#[cfg(unix)]
pub mod private_daemon;
#[cfg(unix)]
pub mod processes;
pub mod puppet;
pub mod python_shell;
pub mod readme;
pub mod registry;
pub mod routes;
#[cfg(unix)]
pub mod scene;
pub mod scripted_daemon;
pub mod seeded;
pub mod session;
pub mod soak;
pub mod specs;

use std::net::{IpAddr, UdpSocket};

/// An address of this machine that isn't loopback, to stand for another machine's; `None` if it has none.
#[must_use]
pub fn address_beyond_loopback() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Connecting a UDP socket sends nothing; 192.0.2.0/24 is for documentation.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}
