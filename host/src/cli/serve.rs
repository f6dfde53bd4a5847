//! `mcp serve`.

use std::io;

use clap::Args;

use super::exit::ExitCode;
use crate::app::App;
use crate::failure::{Failure, FailureCode};
use crate::mcp::Server;
use crate::metrics::LoopbackAddress;
use crate::metrics::endpoint::Endpoint;

/// Serve MCP on standard input and output
///
/// For an agent's configuration, not for a terminal: it reads JSON-RPC messages, one a line, until its input ends.
/// It starts without Docker and PostgreSQL; the tools say what is wrong until either is there.
#[derive(Debug, Args)]
pub(super) struct Serve {}

impl Serve {
    pub(super) async fn run(self, app: &App) -> Result<ExitCode, Failure> {
        let endpoint = match app.config().metrics {
            Some(address) => Some(endpoint(address).await?),
            None => None,
        };
        let tidied = app.tidy();
        // Each compiles its component where nobody has before.
        let (bundles, manager) = tokio::try_join!(app.bundles(), app.manager())?;
        bundles.log_problems();
        let policy = app.policy_provenance().await?;
        let server = Server::new(
            bundles.subscribe(),
            policy,
            manager.clone(),
            manager.caller(),
            app.tracker().clone(),
        );
        let metrics = async {
            match endpoint {
                Some(endpoint) => endpoint.serve(manager).await,
                None => std::future::pending().await,
            }
        };
        let sweeping = async {
            // What has been found by then isn't found again.
            let _ = tidied.await;
            manager.sweeper().keep_sweeping().await
        };
        let outcome = tokio::select! {
            ended = server.serve(tokio::io::stdin(), tokio::io::stdout()) => ended,
            never = metrics => match never {},
            never = bundles.watch() => match never {},
            never = sweeping => match never {},
        };
        match outcome {
            Ok(()) => Ok(ExitCode::Ok),
            Err(error) => Err(Failure::new(FailureCode::Failed, error.to_string(), "")),
        }
    }
}

/// Takes the port at once: a server whose figures somebody waits for is not to run without them.
async fn endpoint(address: LoopbackAddress) -> Result<Endpoint, Failure> {
    let unusable = |error: io::Error| {
        let message = format!("the metrics can't be served on {address}: {error}");
        Failure::new(
            FailureCode::Failed,
            message,
            "Choose another port (`metrics`), or end what has this one.",
        )
    };
    let endpoint = Endpoint::bind(address).await.map_err(unusable)?;
    let address = endpoint.address().map_err(unusable)?;
    tracing::info!("the metrics are at http://{address}/metrics");
    Ok(endpoint)
}
