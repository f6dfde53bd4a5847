//! The results as people read them: tables, RESULTS.md, and the README's section.

use std::fmt::Write as _;
use std::path::Path;

use super::results::{Results, Section, Series, Unit};
use super::{goals, picture};

/// What others are compared with, and how that is called.
const PEERS: [(&str, &str); 3] = [
    ("docker-run", "× floor"),
    ("entrypoint", "× official image"),
    ("testcontainers", "× Testcontainers"),
];

/// All figures, as Markdown that can be read as it is.
pub(super) fn tables(results: &Results) -> String {
    let mut out = String::new();
    for (title, table) in [
        ("From the call to the first answered query, in ms", creates(results)),
        ("All else", others(results)),
        ("What it should be", asked(results)),
    ] {
        if table.len() > 1 {
            // Writing to a String can't fail.
            let _ = write!(out, "## {title}\n\n{}\n", aligned(&table));
        }
    }
    out
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

fn creates(results: &Results) -> Vec<Vec<String>> {
    let mut table = vec![row(["", "runs", "p50", "p95", "max"])];
    table[0].extend(PEERS.map(|(_, heading)| heading.to_owned()));
    for series in results.of(Section::Create) {
        let mut cells = figures(series);
        cells.extend(PEERS.map(|(peer, _)| ratio(series, results, peer)));
        table.push(cells);
    }
    table
}

fn others(results: &Results) -> Vec<Vec<String>> {
    let mut table = vec![row(["", "runs", "p50", "p95", "max", "unit", "ratio"])];
    for series in results.of(Section::Other) {
        let mut cells = figures(series);
        cells.push(series.unit.symbol().to_owned());
        let ratio = series.against.as_deref().map(|other| ratio(series, results, other));
        cells.push(ratio.unwrap_or_default());
        table.push(cells);
    }
    table
}

fn asked(results: &Results) -> Vec<Vec<String>> {
    let mut table = vec![row(["", "asked", "seen", "met"])];
    for outcome in goals::outcomes(results) {
        let met = if outcome.met { "yes" } else { "**no**" };
        table.push(vec![outcome.what, outcome.asked, outcome.seen, met.to_owned()]);
    }
    table
}

fn figures(series: &Series) -> Vec<String> {
    let value = |q| {
        series
            .quantile(q)
            .map(|value| shown(value, series.unit))
            .unwrap_or_default()
    };
    vec![
        series.what.clone(),
        series.samples.len().to_string(),
        value(0.5),
        value(0.95),
        value(1.0),
    ]
}

fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Milliseconds if value < 10.0 => format!("{value:.3}"),
        Unit::Milliseconds | Unit::Mebibytes => format!("{value:.1}"),
    }
}

fn ratio(series: &Series, results: &Results, other: &str) -> String {
    match (series.p50(), results.p50(other)) {
        (Some(value), Some(base)) => format!("{:.2}", value / base),
        _ => String::new(),
    }
}

/// The first row is the heading; all columns but those that begin with words are numbers.
fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| {
        table
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
            .max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for (index, row) in table.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(out, "| {cell:<width$} ");
        }
        out.push_str("|\n");
        if index == 0 {
            for width in &widths {
                let _ = write!(out, "|{}", "-".repeat(width + 2));
            }
            out.push_str("|\n");
        }
    }
    out
}

/// Writes RESULTS.md, results.json and results.svg.
pub(super) fn write(results: &Results, folder: &Path) -> Result<(), String> {
    let json = serde_json::to_string(results).map_err(|error| error.to_string())?;
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    for (name, text) in [
        ("RESULTS.md", document(results)),
        ("results.json", json + "\n"),
        ("results.svg", picture::of(results)),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn document(results: &Results) -> String {
    let mut out = String::from(
        "# How fast it is\n\n`make bench` has written this, beside results.json with every single figure. What is **bold** \
         is ours.\n\n![Medians as bars, with the 95th percentile](results.svg)\n\n",
    );
    for (name, value) in &results.about {
        // Writing to a String can't fail.
        let _ = writeln!(out, "- {name}: {value}");
    }
    let _ = write!(out, "\n{}", tables(results));
    if !results.waterfalls.is_empty() {
        out.push_str(
            "## Where the time of one create goes\n\nEach line: when it began after the call, how long it took.\n\n",
        );
    }
    for (title, picture) in &results.waterfalls {
        let _ = write!(out, "### {title}\n\n```text\n{picture}```\n\n");
    }
    out.push_str(METHOD);
    out
}

const METHOD: &str = "\
## How it is measured

- In rounds: each round has one run of everything in the first table but the first creates, in an order that the seed \
gives. One round before the first doesn't count.
- The clock runs from the client's call to its first answered query, on a connection of its own. The exception is Docker's \
floor, which runs nothing that could answer: there it stops when `docker run` returns.
- What isn't ours has the limits that ours has (512 MiB, 1 CPU) and a published port on loopback; Testcontainers has what \
it has by default.
- Ours is asked over MCP, by a server that runs already; it connects to Docker itself, where the others in the first rows \
run Docker's command line. Testcontainers' own start and imports are not counted.
- *Cold* is with a template there and no pool; *warm* is with one server waiting, which is there again before the next \
run; *first* is without a template, by a new server.
- For the call's own work, an engine that does nothing takes Docker's place; divan's median is shown.
";

/// What the README says: the rows that matter to somebody who chooses.
///
/// # Errors
/// If they were not measured.
pub fn readme_section(results: &Results) -> Result<String, String> {
    let missing = |name: &str| format!("{name} was not measured: run `make bench`");
    let p50 = |name: &str| results.p50(name).ok_or_else(|| missing(name));
    let image = p50("entrypoint")?;
    let mut out = String::from("| Until the first query is answered | Time | |\n|---|---|---|\n");
    for (what, name) in [
        ("taken from the pool", "docker-warm"),
        ("made from a template", "docker-cold"),
        ("made from a template, without Docker", "local-cold"),
        ("`docker run` of the official image", "entrypoint"),
        ("Testcontainers", "testcontainers"),
    ] {
        let Some(time) = results.p50(name) else { continue };
        let ratio = image / time;
        let compared = match name {
            "entrypoint" => String::new(),
            _ if ratio >= 1.0 => format!("{ratio:.1} times as fast as `docker run`"),
            _ => format!("{:.1} times as slow", ratio.recip()),
        };
        let _ = writeln!(out, "| {what} | {time:.0} ms | {compared} |");
    }
    let floor = p50("docker-run")?;
    let _ = writeln!(
        out,
        "\nMedians on {}. `docker run` of a container that does nothing takes {floor:.0} ms there.",
        results
            .about
            .iter()
            .find(|(name, _)| name == "CPU")
            .map_or("one machine", |(_, cpu)| cpu.as_str()),
    );
    Ok(out)
}
