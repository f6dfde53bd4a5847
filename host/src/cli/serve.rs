//! `mcp serve`.

use std::sync::Arc;

use clap::Args;

use super::exit::ExitCode;
use crate::app::App;
use crate::failure::{Failure, FailureCode};
use crate::mcp::Server;

/// Serve MCP on standard input and output
///
/// For an agent's configuration, not for a terminal: it reads JSON-RPC messages, one a line, until its input ends.
/// It starts without Docker and PostgreSQL; the tools say what is wrong until either is there.
#[derive(Debug, Args)]
pub(super) struct Serve {}

impl Serve {
    pub(super) async fn run(self, app: &App) -> Result<ExitCode, Failure> {
        // Each compiles its component where nobody has before.
        let (toolbox, manager) = tokio::try_join!(app.toolbox(), app.manager())?;
        let policy = app.policy().await?.provenance();
        let server = Server::new(Arc::clone(toolbox), policy, manager.clone(), app.tracker().clone());
        match server.serve(tokio::io::stdin(), tokio::io::stdout()).await {
            Ok(()) => Ok(ExitCode::Ok),
            Err(error) => Err(Failure::new(FailureCode::Failed, error.to_string(), "")),
        }
    }
}
