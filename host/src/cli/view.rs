//! How instances are shown: the same names as the MCP tools have, and tables for people.

use std::time::{Duration, SystemTime};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::instance::{Connection, HealthReport, Instance};

/// An instance in JSON.
#[derive(Debug, Serialize)]
pub(super) struct InstanceView {
    id: String,
    container_id: String,
    host: String,
    port: u16,
    database: String,
    username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dsn: Option<String>,
    created_at: String,
    status: &'static str,
}

impl From<&Instance> for InstanceView {
    fn from(instance: &Instance) -> Self {
        Self {
            id: instance.id.to_string(),
            container_id: instance.container_id.clone(),
            host: instance.host.clone(),
            port: instance.port.get(),
            database: instance.database.as_str().to_owned(),
            username: instance.username.as_str().to_owned(),
            password: None,
            version: instance.version.clone(),
            dsn: None,
            created_at: humantime::format_rfc3339_seconds(instance.created_at).to_string(),
            status: instance.status.as_str(),
        }
    }
}

impl From<&Connection> for InstanceView {
    fn from(connection: &Connection) -> Self {
        Self {
            password: Some(connection.password.expose().to_owned()),
            dsn: Some(connection.dsn.expose().to_owned()),
            ..Self::from(&connection.instance)
        }
    }
}

/// A health report in JSON.
#[derive(Debug, Serialize)]
pub(super) struct HealthView {
    id: String,
    status: &'static str,
    message: String,
    latency_ms: Option<f64>,
    checked_at: String,
}

impl From<&HealthReport> for HealthView {
    fn from(report: &HealthReport) -> Self {
        Self {
            id: report.id.to_string(),
            status: report.health.as_str(),
            message: report.message.clone(),
            // To the microsecond: more digits would be noise.
            latency_ms: report
                .latency
                .map(|latency| (latency.as_secs_f64() * 1e6).round() / 1e3),
            checked_at: humantime::format_rfc3339_millis(report.checked_at).to_string(),
        }
    }
}

/// An instance with what opens it, one fact a line.
#[must_use]
pub(super) fn connection_block(connection: &Connection, now: SystemTime) -> String {
    let view = InstanceView::from(connection);
    let mut table = bare_table();
    let age = age(&connection.instance, now);
    for (name, value) in [
        ("id", view.id.as_str()),
        ("container", view.container_id.as_str()),
        ("version", view.version.as_str()),
        ("status", view.status),
        ("created", &format!("{} ({age} ago)", view.created_at)),
        ("host", view.host.as_str()),
        ("port", &view.port.to_string()),
        ("database", view.database.as_str()),
        ("username", view.username.as_str()),
        ("password", connection.password.expose()),
        ("dsn", connection.dsn.expose()),
    ] {
        table.add_row([name, &printable(value)]);
    }
    format!("{}\n\npsql {}\n", trimmed(&table), shell_word(connection.dsn.expose()))
}

/// Instances, one a line.
#[must_use]
pub(super) fn instance_table(instances: &[Instance], now: SystemTime) -> String {
    let mut table = bare_table();
    table.set_header(["ID", "VERSION", "STATUS", "AGE", "ADDRESS", "DATABASE", "USERNAME"]);
    for instance in instances {
        table.add_row([
            &instance.id.to_string(),
            &printable(&instance.version),
            instance.status.as_str(),
            &age(instance, now),
            &address(instance),
            &printable(instance.database.as_str()),
            &printable(instance.username.as_str()),
        ]);
    }
    trimmed(&table) + "\n"
}

/// A table without lines whose cells are never wrapped: ids and DSNs are there to be copied.
#[must_use]
pub(super) fn bare_table() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The table's text without the spaces that pad its last column.
#[must_use]
pub(super) fn trimmed(table: &Table) -> String {
    table
        .to_string()
        .lines()
        .map(str::trim_end)
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The text with control characters escaped: a database's name may hold any, and a terminal would obey them.
#[must_use]
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

fn address(instance: &Instance) -> String {
    match instance.host.contains(':') {
        true => format!("[{}]:{}", instance.host, instance.port),
        false => format!("{}:{}", printable(&instance.host), instance.port),
    }
}

/// How long ago the instance was made, to its largest unit; 0 s for a clock that has been set back since.
fn age(instance: &Instance, now: SystemTime) -> String {
    let age = now
        .duration_since(instance.created_at)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    match age {
        0..60 => format!("{age}s"),
        60..3_600 => format!("{}m", age / 60),
        3_600..86_400 => format!("{}h", age / 3_600),
        _ => format!("{}d", age / 86_400),
    }
}

/// The text as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
