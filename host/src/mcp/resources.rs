//! The MCP resources: one, which says what plugins are loaded and what they may do.

use rmcp::model::{ErrorData, ListResourcesResult, ReadResourceResult, Resource, ResourceContents};
use serde_json::json;

use crate::plugins::provenance::{self, Provenance};
use crate::plugins::toolbox::{Entry, Toolbox};

const PLUGINS: &str = "dev-postgres-mcp://plugins";
const JSON: &str = "application/json";

/// How long a client may keep the list of resources, in ms: it doesn't change while the server runs.
const LIST_TTL_MS: u64 = 3_600_000;
/// How long a client may keep what it has read, in ms: a bundle may be switched off at any time.
const READ_TTL_MS: u64 = 0;

/// How much of an unknown URI is repeated.
const URI_CHARS_SHOWN: usize = 200;

pub(super) fn list() -> ListResourcesResult {
    let plugins = Resource::new(PLUGINS, "plugins")
        .with_title("Loaded plugins")
        .with_description(
            "The policy and the tool bundles that this server has loaded: for each, where it comes from, the SHA-256 of \
             its file, what it is granted, its limits, its tools and its state (serving, outdated, \
             switched_off or refused).",
        )
        .with_mime_type(JSON);
    ListResourcesResult::with_all_items(vec![plugins]).with_ttl_ms(LIST_TTL_MS)
}

/// # Errors
/// If there is no such resource; rmcp gives each era the code that its revision has for that.
pub(super) fn read(uri: &str, policy: &Provenance, toolbox: &Toolbox) -> Result<ReadResourceResult, ErrorData> {
    if uri != PLUGINS {
        let uri: String = uri.chars().take(URI_CHARS_SHOWN).collect();
        let message = format!("there is no resource {uri:?}; there is {PLUGINS}");
        return Err(ErrorData::resource_not_found(message, Some(json!({ "uri": uri }))));
    }
    let mut plugins = vec![policy.clone()];
    plugins.extend(toolbox.entries().iter().map(Entry::provenance));
    let text = format!("{:#}", provenance::to_json(&plugins));
    let contents = ResourceContents::text(text, PLUGINS).with_mime_type(JSON);
    Ok(ReadResourceResult::new(vec![contents]).with_ttl_ms(READ_TTL_MS))
}
