//! One create as a waterfall: which span of the product ran when, from the lines that it logs as each span ends.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::ours::{Ours, environment, text};
use super::query;
use crate::binary::TestEngine;

/// How wide the bars' part is, in characters.
const BARS: u32 = 60;
/// How wide the names' part is at most.
const NAME_CHARS_MAX: usize = 58;
/// How long what goes on in the background may take to have its say.
const PAUSE: Duration = Duration::from_millis(500);

/// A stretch of time with a name.
#[derive(Debug, Clone, PartialEq)]
struct Span {
    name: String,
    /// How many others it is in.
    depth: usize,
    begin: Duration,
    end: Duration,
}

/// Makes an instance by a server that logs its spans; the picture.
///
/// # Panics
/// If the log has the instance's password.
pub(super) async fn of_one_create(engine: TestEngine, pool: bool) -> String {
    let environment = environment(engine, pool)
        .with("DEV_POSTGRES_MCP_LOG_LEVEL", "debug")
        .with("DEV_POSTGRES_MCP_LOG_FORMAT", "json");
    let mut ours = Ours::start_in(&environment, engine, pool).await;
    // Templates, caches and connections are not what is looked at.
    let (created, _) = ours.create().await;
    ours.drop(&created).await;
    tokio::time::sleep(PAUSE).await;
    ours.settled().await;

    let begin = now();
    let created = ours.session.succeed("create_postgres_instance", json!({})).await;
    let answered = now();
    query::once(text(&created, "dsn")).await.expect("it answers");
    let end = now();
    let password = text(&created, "password").to_owned();
    ours.drop(&created).await;
    tokio::time::sleep(PAUSE).await;
    let log = ours.end().await.log;
    assert!(!log.contains(&password), "the log has the instance's password");

    let seen_outside = |name: &str, begin, end| Span {
        name: name.into(),
        depth: 0,
        begin,
        end,
    };
    let mut spans: Vec<Span> = log.lines().filter_map(span).collect();
    spans.retain(|span| begin <= span.begin && span.end <= answered);
    // A span begins with the first one in it.
    spans.sort_by_key(|span| (span.begin, span.depth));
    spans.insert(0, seen_outside("the client calls the tool", begin, answered));
    spans.push(seen_outside("the client connects, SELECT 1", answered, end));
    draw(&spans, begin, end)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

/// What a line of the log says of a span that has ended; `None` if it is about something else.
fn span(line: &str) -> Option<Span> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = &line["fields"];
    if fields["message"] != "close" {
        return None;
    }
    let lasted = duration(fields["time.busy"].as_str()?)? + duration(fields["time.idle"].as_str()?)?;
    let closed = humantime::parse_rfc3339(line["timestamp"].as_str()?).ok()?;
    let end = closed.duration_since(UNIX_EPOCH).ok()?;
    let itself = line["span"].as_object()?;
    let mut name = itself["name"].as_str()?.to_owned();
    for (_, value) in itself.iter().filter(|(key, _)| *key != "name") {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        // Writing to a String can't fail.
        let _ = write!(name, " {value}");
    }
    Some(Span {
        name,
        // It is the last of these itself.
        depth: line["spans"].as_array().map_or(0, |all| all.len().saturating_sub(1)) + 1,
        begin: end.checked_sub(lasted)?,
        end,
    })
}

/// As `tracing-subscriber` writes it: `1.23ms`, `456µs`, `78.9ns`, `1.20s`.
fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| c.is_alphabetic() || c == 'µ')?;
    let (value, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Duration::try_from_secs_f64(value.parse::<f64>().ok()? * seconds).ok()
}

fn draw(spans: &[Span], begin: Duration, end: Duration) -> String {
    let whole = end.saturating_sub(begin).as_secs_f64();
    let labels: Vec<String> = spans
        .iter()
        .map(|span| {
            let label = format!("{}{}", "  ".repeat(span.depth), span.name);
            label.chars().take(NAME_CHARS_MAX).collect()
        })
        .collect();
    let width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    // Both are shares of BARS.
    let column = |at: Duration| {
        let share = at.saturating_sub(begin).as_secs_f64() / whole;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let column = (share * f64::from(BARS)).round() as usize;
        column
    };
    let mut out = String::new();
    for (span, label) in spans.iter().zip(&labels) {
        let (from, to) = (column(span.begin), column(span.end));
        let from = from.min(BARS as usize - 1);
        let bar = "█".repeat((to.saturating_sub(from)).max(1));
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "{label:<width$} {:>7.1} + {:>6.1} ms │{}{bar}",
            milliseconds(span.begin.saturating_sub(begin)),
            milliseconds(span.end.saturating_sub(span.begin)),
            " ".repeat(from),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_spans_end_says_when_it_was_and_what_it_was_in() {
        let line = r#"{"timestamp":"2026-11-22T19:21:33.000500Z","level":"DEBUG","fields":{"message":"close","time.busy":"400µs","time.idle":"1.10ms"},"target":"dev_postgres_mcp::engine","span":{"verb":"creating the container","name":"docker"},"spans":[{"name":"create"},{"verb":"creating the container","name":"docker"}]}"#;
        let span = span(line).expect("a span");
        assert_eq!(span.name, "docker creating the container");
        assert_eq!(span.depth, 2);
        assert_eq!(span.end.saturating_sub(span.begin), Duration::from_micros(1500));
        assert_eq!(span.end.subsec_micros(), 500);
    }

    #[test]
    fn other_lines_say_nothing() {
        for line in [
            "text",
            "{}",
            r#"{"timestamp":"2026-11-22T19:21:33.000500Z","level":"INFO","fields":{"message":"created"},"target":"a"}"#,
        ] {
            assert_eq!(span(line), None, "{line}");
        }
    }

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, nanoseconds) in [
            ("1.20s", 1_200_000_000),
            ("1.10ms", 1_100_000),
            ("400µs", 400_000),
            ("82.0ns", 82),
        ] {
            assert_eq!(duration(text), Some(Duration::from_nanos(nanoseconds)), "{text}");
        }
        assert_eq!(duration("1.5 weeks"), None);
        assert_eq!(duration("7"), None);
    }

    #[test]
    fn bars_stand_where_their_time_is() {
        let span = |name: &str, depth, begin, end| Span {
            name: name.into(),
            depth,
            begin: Duration::from_millis(begin),
            end: Duration::from_millis(end),
        };
        let spans = [span("call", 0, 1000, 1060), span("docker", 1, 1030, 1060)];
        let drawn = draw(&spans, Duration::from_secs(1), Duration::from_millis(1060));
        let bars: Vec<&str> = drawn.lines().filter_map(|line| line.split('│').nth(1)).collect();
        assert_eq!(bars, ["█".repeat(60), " ".repeat(30) + &"█".repeat(30)]);
        assert!(drawn.contains("  docker    30.0 +   30.0 ms"), "{drawn}");
    }
}
