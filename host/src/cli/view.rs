//! How instances are shown: the same names as the MCP tools have, and tables for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::failure::printable;
use crate::instance::{Connection, HealthReport, Instance, Lifetime, Owner, Share, Stats};
use crate::manager::Left;

/// From when on no time can be written, since 1970.
const RFC_3339_END: Duration = Duration::from_hours(70_389_528);

/// An instance in JSON.
#[derive(Debug, Serialize)]
pub(super) struct InstanceView {
    id: String,
    engine: &'static str,
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
    lifetime: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<OwnerView>,
    /// Only in a list, as all that follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    /// Only where it has an end, and its engine tells the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_orphan: Option<bool>,
}

/// Who made an instance, in JSON.
#[derive(Debug, Serialize)]
struct OwnerView {
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    machine: String,
    process_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
}

impl From<&Owner> for OwnerView {
    fn from(owner: &Owner) -> Self {
        Self {
            team: owner.team.as_ref().map(ToString::to_string),
            client: owner.client.clone(),
            machine: owner.machine.clone(),
            process_id: owner.process_id,
            // Anybody may have written it: RFC 3339 ends with the year 9999.
            started_at: owner
                .started_at
                .filter(|at| at.duration_since(UNIX_EPOCH).is_ok_and(|since| since < RFC_3339_END))
                .map(|at| humantime::format_rfc3339_seconds(at).to_string()),
        }
    }
}

impl InstanceView {
    /// One of a list.
    pub(super) fn listed(instance: &Instance, left: Left, now: SystemTime) -> Self {
        Self {
            age_seconds: Some(age_seconds(instance, now)),
            left_seconds: match left {
                Left::Time(time) => Some(time.as_secs()),
                Left::Session | Left::Orphan | Left::Unlimited | Left::Unknown => None,
            },
            is_orphan: Some(left == Left::Orphan),
            ..Self::from(instance)
        }
    }
}

impl From<&Instance> for InstanceView {
    fn from(instance: &Instance) -> Self {
        Self {
            id: instance.id.to_string(),
            engine: instance.engine.as_str(),
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
            lifetime: match instance.lifetime {
                Lifetime::Session => "session",
                Lifetime::Until(_) => "until",
                Lifetime::Unlimited => "unlimited",
            },
            expires_at: match instance.lifetime {
                Lifetime::Until(end) => Some(humantime::format_rfc3339_seconds(end).to_string()),
                Lifetime::Session | Lifetime::Unlimited => None,
            },
            owner: instance.owner.as_ref().map(Into::into),
            age_seconds: None,
            left_seconds: None,
            is_orphan: None,
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

/// A new instance in JSON, with what whoever asked for it should know.
#[derive(Debug, Serialize)]
pub(super) struct CreatedView<'a> {
    #[serde(flatten)]
    instance: InstanceView,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

impl<'a> CreatedView<'a> {
    pub(super) fn new(connection: &Connection, warnings: &'a [String]) -> Self {
        Self {
            instance: connection.into(),
            warnings,
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

/// What an instance takes, in JSON; `null` is what can't be told.
#[derive(Debug, Serialize)]
pub(super) struct StatsView {
    id: String,
    engine: &'static str,
    version: String,
    status: &'static str,
    /// CPU time in cores, over half a second or longer.
    cpu_cores: Option<f64>,
    cpu_limit_cores: Option<f64>,
    memory_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    connections: Option<u64>,
    age_seconds: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

impl StatsView {
    pub(super) fn new(stats: &Stats, now: SystemTime) -> Self {
        let Stats {
            instance,
            usage,
            connections,
            problems,
        } = stats;
        Self {
            id: instance.id.to_string(),
            engine: instance.engine.as_str(),
            version: instance.version.clone(),
            status: instance.status.as_str(),
            cpu_cores: usage.cpu_millis.map(|cpu| cores(cpu.used)),
            cpu_limit_cores: usage.cpu_millis.and_then(|cpu| cpu.limit).map(cores),
            memory_bytes: usage.memory_bytes.map(|memory| memory.used),
            memory_limit_bytes: usage.memory_bytes.and_then(|memory| memory.limit),
            disk_bytes: usage.disk_bytes,
            connections: *connections,
            age_seconds: age_seconds(instance, now),
            problems: problems.clone(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "no machine has so many cores")]
fn cores(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// An instance with what opens it, one fact a line.
#[must_use]
pub(super) fn connection_block(connection: &Connection, now: SystemTime) -> String {
    let view = InstanceView::from(connection);
    let mut table = bare_table();
    let age = age(&connection.instance, now);
    for (name, value) in [
        ("id", view.id.as_str()),
        ("engine", view.engine),
        ("container", view.container_id.as_str()),
        ("version", view.version.as_str()),
        ("status", view.status),
        ("created", &format!("{} ({age} ago)", view.created_at)),
        ("expires", view.expires_at.as_deref().unwrap_or_default()),
        ("host", view.host.as_str()),
        ("port", &view.port.to_string()),
        ("database", view.database.as_str()),
        ("username", view.username.as_str()),
        ("password", connection.password.expose()),
        ("dsn", connection.dsn.expose()),
    ] {
        if !value.is_empty() {
            table.add_row([name, &printable(value)]);
        }
    }
    format!("{}\n\npsql {}\n", trimmed(&table), shell_word(connection.dsn.expose()))
}

/// Instances, one a line.
#[must_use]
pub(super) fn instance_table(instances: &[(Instance, Left)], now: SystemTime) -> String {
    let mut table = bare_table();
    table.set_header([
        "ID", "ENGINE", "VERSION", "STATUS", "AGE", "LEFT", "OWNER", "ADDRESS", "DATABASE", "USERNAME",
    ]);
    for (instance, left) in instances {
        table.add_row([
            &instance.id.to_string(),
            instance.engine.as_str(),
            &printable(&instance.version),
            instance.status.as_str(),
            &age(instance, now),
            &shown_left(*left),
            &printable(&shown_owner(instance.owner.as_ref())),
            &address(instance),
            &printable(instance.database.as_str()),
            &printable(instance.username.as_str()),
        ]);
    }
    trimmed(&table) + "\n"
}

/// What instances take, one a line.
#[must_use]
pub(super) fn stats_table(stats: &[Stats], now: SystemTime) -> String {
    let mut table = bare_table();
    let mut header = vec!["ID", "ENGINE", "STATUS", "CPU", "MEMORY", "DISK", "CONNECTIONS", "AGE"];
    let has_problems = stats.iter().any(|stats| !stats.problems.is_empty());
    if has_problems {
        header.push("PROBLEM");
    }
    table.set_header(header);
    let bytes = |bytes: u64| HumanBytes(bytes).to_string();
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    for Stats {
        instance,
        usage,
        connections,
        problems,
    } in stats
    {
        let cpu = usage.cpu_millis.map(|Share { used, limit }| match limit {
            Some(limit) => format!("{}%", (used * 100).checked_div(limit).unwrap_or_default()),
            None => format!("{:.2} cores", cores(used)),
        });
        let memory = usage.memory_bytes.map(|Share { used, limit }| match limit {
            Some(limit) => format!("{} / {}", bytes(used), bytes(limit)),
            None => bytes(used),
        });
        let mut row = vec![
            instance.id.to_string(),
            instance.engine.as_str().into(),
            instance.status.as_str().into(),
            known(cpu),
            known(memory),
            known(usage.disk_bytes.map(bytes)),
            known(connections.map(|count| count.to_string())),
            age(instance, now),
        ];
        if has_problems {
            row.push(printable(&problems.join("; ")));
        }
        table.add_row(row);
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

fn address(instance: &Instance) -> String {
    let Instance { host, port, .. } = instance;
    if host.contains(':') {
        format!("[{}]:{port}", printable(host))
    } else {
        format!("{}:{port}", printable(host))
    }
}

/// How long ago the instance was made, by the clock that says when: that of its maker's machine, most often this one. 0 s for one
/// that has been set back since.
fn age(instance: &Instance, now: SystemTime) -> String {
    in_largest_unit(Duration::from_secs(age_seconds(instance, now)))
}

fn age_seconds(instance: &Instance, now: SystemTime) -> u64 {
    let age = now.duration_since(instance.created_at);
    age.unwrap_or(Duration::ZERO).as_secs()
}

/// A time to its largest unit.
fn in_largest_unit(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn shown_left(left: Left) -> String {
    match left {
        Left::Time(time) => in_largest_unit(time),
        Left::Session => "session".into(),
        Left::Orphan => "orphan".into(),
        Left::Unlimited => "-".into(),
        Left::Unknown => "?".into(),
    }
}

/// Team, client, machine and process, as far as they are known.
fn shown_owner(owner: Option<&Owner>) -> String {
    let Some(owner) = owner else {
        return "-".into();
    };
    let team = owner.team.as_ref().map(|team| format!("{team}/")).unwrap_or_default();
    let client = owner.client.as_deref().unwrap_or("cli");
    format!("{team}{client}@{}:{}", owner.machine, owner.process_id)
}

/// The text as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{ConnectionUri, EngineKind, Health, Password, Port, Status, Usage};

    fn instance() -> Instance {
        Instance {
            id: "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21".parse().expect("an id"),
            engine: EngineKind::Docker,
            container_id: "c0ffee".into(),
            host: "127.0.0.1".into(),
            port: Port::try_from(15432).expect("a port"),
            version: "17".into(),
            database: "postgres".parse().expect("a name"),
            username: "postgres".parse().expect("a name"),
            status: Status::Running,
            created_at: at(0),
            owner: Some(Owner {
                process: "scope.process".into(),
                machine: "laptop".into(),
                process_id: 4711,
                started_at: Some(at(0)),
                team: None,
                client: Some("claude-code".into()),
            }),
            lifetime: Lifetime::Session,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        // 2026-11-22T12:00:00Z
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_348_800 + seconds)
    }

    fn connection() -> Connection {
        Connection {
            instance: instance(),
            password: Password::new("it's").expect("a password"),
            dsn: ConnectionUri::new("postgresql://postgres:it's@127.0.0.1:15432/postgres".into()),
        }
    }

    #[test]
    fn a_connection_is_shown_with_a_command_that_a_shell_takes() {
        insta::assert_snapshot!(connection_block(&connection(), at(200)), @r"
        id         2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21
        engine     docker
        container  c0ffee
        version    17
        status     running
        created    2026-11-22T12:00:00Z (3m ago)
        host       127.0.0.1
        port       15432
        database   postgres
        username   postgres
        password   it's
        dsn        postgresql://postgres:it's@127.0.0.1:15432/postgres

        psql 'postgresql://postgres:it'\''s@127.0.0.1:15432/postgres'
        ");
    }

    #[test]
    fn instances_are_shown_one_a_line_and_what_a_terminal_would_obey_is_escaped() {
        let odd = Instance {
            host: "::1".into(),
            database: "a\u{1b}[2Jb\nc ü".parse().expect("a name"),
            status: Status::Stopped,
            owner: None,
            ..instance()
        };
        insta::assert_snapshot!(instance_table(&[(instance(), Left::Session), (odd, Left::Time(Duration::from_mins(90)))], at(7200)), @r"
        ID                                    ENGINE  VERSION  STATUS   AGE  LEFT     OWNER                    ADDRESS          DATABASE          USERNAME
        2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21  docker  17       running  2h   session  claude-code@laptop:4711  127.0.0.1:15432  postgres          postgres
        2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21  docker  17       stopped  2h   1h       -                        [::1]:15432      a\u{1b}[2Jb\nc ü  postgres
        ");
    }

    #[test]
    fn an_orphan_is_marked_as_one_in_the_table_and_in_json() {
        insta::assert_snapshot!(instance_table(&[(instance(), Left::Orphan)], at(60)), @r"
        ID                                    ENGINE  VERSION  STATUS   AGE  LEFT    OWNER                    ADDRESS          DATABASE  USERNAME
        2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21  docker  17       running  1m   orphan  claude-code@laptop:4711  127.0.0.1:15432  postgres  postgres
        ");
        for left in [
            Left::Orphan,
            Left::Session,
            Left::Unlimited,
            Left::Time(Duration::from_secs(1)),
        ] {
            let json = serde_json::to_value(InstanceView::listed(&instance(), left, at(60))).expect("JSON");
            assert_eq!(json["is_orphan"], left == Left::Orphan, "{json}");
        }
    }

    #[test]
    fn a_list_has_each_ones_age_in_json_and_the_time_that_it_has_left_if_that_is_known() {
        for (left, seconds) in [
            (Left::Time(Duration::from_millis(5_400_999)), Some(5400)),
            (Left::Session, None),
            (Left::Orphan, None),
            (Left::Unlimited, None),
            (Left::Unknown, None),
        ] {
            let json = serde_json::to_value(InstanceView::listed(&instance(), left, at(90))).expect("JSON");
            assert_eq!(json["age_seconds"], 90, "{json}");
            assert_eq!(
                json.get("left_seconds").and_then(serde_json::Value::as_u64),
                seconds,
                "{json}"
            );
            assert_eq!(json.get("left_seconds").is_some(), seconds.is_some(), "{json}");
        }
        let got = serde_json::to_value(InstanceView::from(&instance())).expect("JSON");
        assert!(
            got.get("age_seconds").is_none() && got.get("left_seconds").is_none(),
            "{got}"
        );
    }

    #[test]
    fn json_has_the_names_that_the_tools_have() {
        let json = |view: InstanceView| serde_json::to_string_pretty(&view).expect("JSON");
        insta::assert_snapshot!(json(InstanceView::from(&connection())), @r#"
        {
          "id": "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21",
          "engine": "docker",
          "container_id": "c0ffee",
          "host": "127.0.0.1",
          "port": 15432,
          "database": "postgres",
          "username": "postgres",
          "password": "it's",
          "version": "17",
          "dsn": "postgresql://postgres:it's@127.0.0.1:15432/postgres",
          "created_at": "2026-11-22T12:00:00Z",
          "status": "running",
          "lifetime": "session",
          "owner": {
            "client": "claude-code",
            "machine": "laptop",
            "process_id": 4711,
            "started_at": "2026-11-22T12:00:00Z"
          }
        }
        "#);
        let without = json(InstanceView::from(&instance()));
        assert!(!without.contains("password") && !without.contains("dsn"), "{without}");
    }

    #[test]
    fn a_health_report_has_the_names_that_the_tool_has() {
        let report = HealthReport {
            id: instance().id,
            health: Health::Healthy,
            message: "it answered".into(),
            latency: Some(Duration::from_nanos(1_234_567)),
            checked_at: at(0) + Duration::from_millis(5),
        };
        insta::assert_snapshot!(serde_json::to_string_pretty(&HealthView::from(&report)).expect("JSON"), @r#"
        {
          "id": "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21",
          "status": "healthy",
          "message": "it answered",
          "latency_ms": 1.235,
          "checked_at": "2026-11-22T12:00:00.005Z"
        }
        "#);
    }

    fn stats() -> [Stats; 3] {
        let share = |used, limit| Some(Share { used, limit });
        let told = Stats {
            instance: instance(),
            usage: Usage {
                cpu_millis: share(180, Some(1500)),
                memory_bytes: share(50 << 20, Some(512 << 20)),
                disk_bytes: Some(63),
            },
            connections: Some(3),
            problems: Vec::new(),
        };
        let unlimited = Stats {
            usage: Usage {
                cpu_millis: share(1250, None),
                memory_bytes: share(3 << 30, None),
                disk_bytes: None,
            },
            ..told.clone()
        };
        let silent = Stats {
            instance: Instance {
                status: Status::Stopped,
                ..instance()
            },
            usage: Usage::default(),
            connections: None,
            problems: vec!["it said\n\u{1b}[2J".into(), "it did not answer".into()],
        };
        [told, unlimited, silent]
    }

    #[test]
    fn what_instances_take_is_shown_against_their_limits_and_what_is_unknown_with_the_reason() {
        insta::assert_snapshot!(stats_table(&stats(), at(7200)));
        insta::assert_snapshot!(stats_table(&stats()[..1], at(7200)));
    }

    #[test]
    fn what_instances_take_is_in_json_what_it_is_and_null_where_nobody_knows() {
        let views = stats().map(|stats| StatsView::new(&stats, at(90)));
        insta::assert_snapshot!(serde_json::to_string_pretty(&views).expect("JSON"));
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        for (seconds, told) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_599, "59m"),
            (3_600, "1h"),
            (86_400, "1d"),
        ] {
            assert_eq!(age(&instance(), at(seconds)), told);
        }
        assert_eq!(
            age(&instance(), SystemTime::UNIX_EPOCH),
            "0s",
            "a clock that was set back"
        );
    }
}
