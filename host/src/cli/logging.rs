//! Sets up the process's log: to standard error, because standard output is for results and for MCP.

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::config::{Log, LogFormat};

/// Starts logging; `default_level` holds where the configuration leaves it to the command. Called once per process;
/// a second call changes nothing.
pub(super) fn start(log: Log, default_level: Level) {
    let level = log.level.unwrap_or(default_level);
    // Other crates may log what they send and receive at their lower levels, and that has passwords in it.
    let filter = Targets::new()
        .with_default(Level::WARN)
        .with_target(env!("CARGO_CRATE_NAME"), level);
    // What took how long.
    let spans = if level >= Level::DEBUG {
        FmtSpan::CLOSE
    } else {
        FmtSpan::NONE
    };
    let lines = fmt::layer().with_writer(std::io::stderr).with_span_events(spans);
    let layer = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // Fails only if a log is there already.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
}
