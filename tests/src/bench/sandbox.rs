//! The host's own work for a call: tests/bench/sandbox.rs, which runs optimised and in a process of its own.

use std::process::Stdio;

use tokio::process::Command;

/// The benchmarks there, and what they are called here.
const BENCHMARKS: [(&str, &str); 2] = [("get", "sandbox-get"), ("list_one", "sandbox-list")];

/// Builds and runs it: the median of each benchmark, in milliseconds.
pub(super) async fn measure() -> Result<Vec<(&'static str, f64)>, String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "bench",
            "--quiet",
            "--locked",
            "--package",
            env!("CARGO_PKG_NAME"),
            "--bench",
            "sandbox",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| format!("cargo does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo bench --bench sandbox: {}", output.status));
    }
    let table = String::from_utf8_lossy(&output.stdout);
    let median = |name| median(&table, name).ok_or_else(|| format!("{name} is not in what divan printed:\n{table}"));
    BENCHMARKS
        .into_iter()
        .map(|(benchmark, name)| Ok((name, median(benchmark)?)))
        .collect()
}

/// Divan prints a tree, with the cells of a row between lines: fastest, slowest, median, mean, samples, iterations.
fn median(table: &str, benchmark: &str) -> Option<f64> {
    let row = table.lines().find_map(|line| {
        let (_, row) = line.split_once(['├', '╰'])?;
        let row = row.strip_prefix("─ ")?;
        row.strip_prefix(benchmark).filter(|rest| rest.starts_with(' '))
    })?;
    let (value, unit) = row.split('│').nth(2)?.trim().split_once(' ')?;
    let in_a_millisecond = match unit {
        "ns" => 1e6,
        "µs" => 1e3,
        "ms" => 1.0,
        "s" => 1e-3,
        _ => return None,
    };
    Some(value.parse::<f64>().ok()? / in_a_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_read_from_the_table() {
        let table = "\
Timer precision: 20 ns
sandbox      fastest       │ slowest       │ median        │ mean          │ samples │ iters
├─ get       113.6 µs      │ 370.2 µs      │ 141.5 µs      │ 148.9 µs      │ 100     │ 100
╰─ list_one  1.02 ms       │ 2.2 ms        │ 1.5 ms        │ 1.6 ms        │ 100     │ 100
";
        assert_eq!(median(table, "get"), Some(0.1415));
        assert_eq!(median(table, "list_one"), Some(1.5));
        assert_eq!(median(table, "list"), None);
    }
}
