//! The command line as a user runs it, as far as it needs no engine.

use std::process::Stdio;
use std::time::{Duration, Instant};

use dev_postgres_mcp_tests::binary::TestEnvironment;
use serde_json::Value;

/// A client's first message.
const HELLO: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","#,
    r#""capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#,
    "\n"
);

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn results_go_to_standard_output_and_nothing_else_does() {
    let environment = TestEnvironment::without_engine();
    let version = environment.run(&["version"]);
    assert_eq!(
        text(&version.stdout),
        concat!("dev-postgres-mcp ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(text(&version.stderr), "");

    let list = environment.run(&["postgres", "list", "--log-level", "trace"]);
    assert_eq!(text(&list.stdout), "", "{}", text(&list.stderr));
}

#[test]
fn without_docker_the_cause_and_the_next_step_are_told() {
    let environment = TestEnvironment::without_engine();
    let list = environment.run(&["postgres", "list"]);
    let told = text(&list.stderr);
    assert_eq!(list.status.code(), Some(6), "{told}");
    let lines: Vec<&str> = told.lines().collect();
    assert!(
        lines[0].starts_with("error: ") && lines[0].contains("/nowhere/docker.sock"),
        "{told}"
    );
    assert!(lines[1].starts_with("hint: "), "{told}");
}

#[test]
fn without_docker_programs_are_told_in_json() {
    let environment = TestEnvironment::without_engine();
    let list = environment.run(&["postgres", "list", "-o", "json"]);
    let told: Value = serde_json::from_slice(&list.stderr).expect("one JSON object");
    assert_eq!(told["error"]["code"], "unavailable", "{told}");
    assert_eq!(list.status.code(), Some(6));
}

#[test]
fn doctor_names_what_is_missing_and_says_so_in_its_exit_code() {
    let environment = TestEnvironment::without_engine();
    let doctor = environment.run(&["doctor", "-o", "json"]);
    assert_eq!(doctor.status.code(), Some(8), "{}", text(&doctor.stderr));
    let examination: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    assert_eq!(examination["well"], false, "{examination}");
    let verdict = |subject: &str| {
        let checks = examination["checks"].as_array().expect("checks");
        checks
            .iter()
            .find(|check| check["subject"] == subject)
            .map(|check| check["verdict"].clone())
    };
    assert_eq!(verdict("policy"), Some("good".into()), "{examination}");
    assert_eq!(verdict("tool bundles"), Some("good".into()), "{examination}");
    assert_eq!(verdict("Docker"), Some("bad".into()), "{examination}");
}

#[test]
fn a_configuration_file_at_home_is_found_and_shown() {
    let environment = TestEnvironment::new();
    let environment_home = environment.home().to_owned();
    let environment = environment.with("XDG_CONFIG_HOME", &environment_home);
    let file = environment_home.join("dev-postgres-mcp").join("config.toml");
    std::fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
    std::fs::write(&file, "[instance]\nversion = \"16\"\n").expect("a file");
    let shown = environment.run(&["config", "show"]);
    let (told, from) = (text(&shown.stdout), format!("{}:2", file.display()));
    let version = told
        .lines()
        .find(|line| line.starts_with("instance.version"))
        .expect("it is shown");
    assert_eq!(
        version.split_whitespace().collect::<Vec<_>>(),
        ["instance.version", "\"16\"", &from]
    );
}

#[test]
fn the_built_in_configuration_is_a_configuration_file() {
    let environment = TestEnvironment::new();
    let file = environment.home().join("default.toml");
    std::fs::write(&file, environment.run(&["config", "default"]).stdout).expect("a file");
    let shown = environment.run(&["config", "show", "--config", file.to_str().expect("UTF-8")]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let environment = TestEnvironment::new();
    let full = std::fs::File::create("/dev/full").expect("/dev/full");
    let version = environment
        .command(["version"])
        .stdout(full)
        .output()
        .expect("the program starts");
    assert_eq!(version.status.code(), Some(1));
    assert!(
        text(&version.stderr).starts_with("error: the result could not be written"),
        "{}",
        text(&version.stderr)
    );
}

#[cfg(unix)]
#[test]
fn a_server_that_waits_for_its_client_ends_at_once_when_it_is_told_to() {
    let environment = TestEnvironment::without_engine();
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut command = environment.command(["mcp", "serve"]);
        let mut server = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        // It answers, so it listens for signals.
        let input = server.stdin.as_mut().expect("piped");
        std::io::Write::write_all(input, HELLO.as_bytes()).expect("it reads");
        let mut answer = String::new();
        let output = server.stdout.as_mut().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut answer).expect("it answers");

        let begun = Instant::now();
        let killed = std::process::Command::new("kill")
            .args([signal, &server.id().to_string()])
            .status();
        assert!(killed.expect("kill runs").success());
        // Its input stays open: nothing else ends it.
        let _input = server.stdin.take();
        assert_eq!(server.wait().expect("it ends").code(), Some(code));
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "it took {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn a_client_that_has_gone_before_its_first_answer_ends_the_server_with_the_cause() {
    let environment = TestEnvironment::without_engine();
    let mut command = environment.command(["mcp", "serve"]);
    let mut server = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(server.stdout.take());
    let mut input = server.stdin.take().expect("piped");
    std::io::Write::write_all(&mut input, HELLO.as_bytes()).expect("it reads");
    // Its input stays open.
    let output = server.wait_with_output().expect("it ends");
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("the client doesn't read its answers"), "{told}");
}

#[test]
fn a_command_line_that_makes_no_sense_has_an_exit_code_of_its_own() {
    let wrong = TestEnvironment::new().run(&["postgres", "lst"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
