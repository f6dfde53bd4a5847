//! The benchmark still runs: a few of its cases, once each.

use std::fs;
use std::process::Stdio;

use dev_postgres_mcp_tests::binary;
use dev_postgres_mcp_tests::docker_cli::docker;
use serde_json::Value;
use tokio::process::Command;

#[tokio::test]
async fn the_benchmark_measures_what_it_is_asked_for_and_leaves_nothing_behind() {
    let output = tempfile::tempdir().expect("a directory");
    let bench = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--quick", "--seed", "1", "--program"])
        .arg(binary::path())
        .arg("--output")
        .arg(output.path())
        .args([
            "--only",
            "docker-run",
            "docker-cold",
            "local-cold",
            "list",
            "startup",
            "waterfall",
        ])
        .stdin(Stdio::null())
        .output()
        .await
        .expect("it starts");
    let log = String::from_utf8_lossy(&bench.stderr);
    assert!(bench.status.success(), "{log}");
    let pid = log.lines().find_map(|line| line.strip_prefix("bench: process "));
    let label = format!("label=dev-postgres-mcp-bench={}", pid.expect("its id"));
    assert_eq!(docker(&["ps", "--all", "--quiet", "--filter", &label]).await, "");

    let read = |name: &str| fs::read_to_string(output.path().join(name)).expect("it was written");
    let results: Value = serde_json::from_str(&read("results.json")).expect("JSON");
    let series = results["series"].as_array().expect("series").iter();
    let measured: Vec<&str> = series
        .filter(|series| series["samples"].as_array().is_some_and(|samples| !samples.is_empty()))
        .map(|series| series["name"].as_str().expect("text"))
        .collect();
    let expected = [
        "docker-run",
        "docker-cold",
        "local-cold",
        "docker-drop",
        "local-drop",
        "docker-list-1",
        "list-1",
        "docker-list-3",
        "list-3",
        "start",
        "start-first",
    ];
    assert_eq!(measured, expected);

    let (document, printed) = (read("RESULTS.md"), String::from_utf8_lossy(&bench.stdout));
    assert!(
        document.contains(&*printed),
        "the tables are in RESULTS.md as they were printed"
    );
    assert!(document.contains("--seed 1 "), "{document}");
    for title in ["### Docker, cold", "### local, cold"] {
        let (_, waterfall) = document.split_once(title).expect(title);
        assert!(waterfall.contains("the client connects, SELECT 1"), "{waterfall}");
    }
    let picture = read("results.svg");
    assert!(picture.contains("ours, Docker, cold</text>"), "{picture}");
}
