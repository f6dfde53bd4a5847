//! STUB of the MCP server until the real one is merged: take theirs.

use std::sync::Arc;

use crate::app::App;
use crate::failure::{Failure, FailureCode};

/// Serves MCP on standard input and output until the input ends.
///
/// # Errors
/// What kept it from starting.
#[expect(clippy::unused_async, reason = "a stub")]
pub async fn serve(_app: Arc<App>) -> Result<(), Failure> {
    Err(Failure::new(
        FailureCode::Internal,
        "the MCP server is not merged yet",
        "",
    ))
}
