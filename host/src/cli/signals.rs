//! The signals that end the process.

use std::io;

use super::exit::ExitCode;

/// Listens from its making on: a signal between two waits is not lost.
#[derive(Debug)]
pub(super) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
    #[cfg(windows)]
    terminate: tokio::signal::windows::CtrlBreak,
}

impl Signals {
    /// # Errors
    /// If the operating system refuses.
    #[cfg(unix)]
    pub(super) fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// # Errors
    /// If the operating system refuses.
    #[cfg(windows)]
    pub fn listen() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c};
        Ok(Self {
            interrupt: ctrl_c()?,
            terminate: ctrl_break()?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> ExitCode {
        tokio::select! {
            Some(()) = self.interrupt.recv() => ExitCode::Interrupted,
            Some(()) = self.terminate.recv() => ExitCode::Terminated,
            else => std::future::pending().await,
        }
    }
}
