//! The one mapping from failures to MCP: what a model can act on is a result, the rest a JSON-RPC error.

use rmcp::model::{CallToolResult, ContentBlock, ErrorData};

use crate::failure::{Failure, FailureCode};
use crate::plugins::toolbox::Toolbox;

/// A failure that the model reads: JSON text with `code`, `message`, `advice` and `fields`.
///
/// Without `structuredContent`: the TypeScript SDK 1.x checks that against the tool's output schema even here, and
/// throws the whole result away.
pub(super) fn result(failure: &Failure) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(failure.to_json().to_string())])
}

/// A handler that panicked: the log has the panic's message, which nobody else should see.
pub(super) fn panicked() -> Failure {
    Failure::new(
        FailureCode::Internal,
        "the server failed at an internal error",
        "Try again; if it stays so, report it with the server's log.",
    )
}

/// A request for a tool that isn't there: `-32602`, as the specification has it.
pub(super) fn unknown_tool(name: &str, toolbox: &Toolbox) -> ErrorData {
    let known: Vec<&str> = toolbox.iter().map(|(_, tool)| tool.name()).collect();
    let name: String = name.chars().take(64).collect();
    ErrorData::invalid_params(
        format!("there is no tool {name:?}; there are {}", known.join(", ")),
        None,
    )
}

/// Nobody reads it: rmcp drops the answer to a cancelled request.
pub(super) fn cancelled() -> ErrorData {
    ErrorData::internal_error("cancelled", None)
}
