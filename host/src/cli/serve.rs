//! `mcp serve`.

use std::sync::Arc;

use clap::Args;

use super::exit::ExitCode;
use crate::app::App;
use crate::failure::Failure;
use crate::mcp;

/// Serve MCP on standard input and output
///
/// For an agent's configuration, not for a terminal: it reads JSON-RPC messages, one a line, until its input ends.
/// It starts without Docker; the tools say what is wrong until Docker is there.
#[derive(Debug, Args)]
pub(super) struct Serve {}

impl Serve {
    pub(super) async fn run(self, app: &Arc<App>) -> Result<ExitCode, Failure> {
        mcp::serve(Arc::clone(app)).await.map(|()| ExitCode::Ok)
    }
}
