//! Guests whose runtime uses WASI, in a real server: there is nothing there for them, whatever they try.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use dev_postgres_mcp_tests::binary::TestEngine::Local;
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::python_shell::{fails, run, with_python_shell};
use dev_postgres_mcp_tests::session::Session;
use serde_json::json;

async fn shell(lines: &str) -> Session {
    let environment = with_python_shell(&TestEnvironment::without_engine(), lines);
    Session::initialized(&environment, &[]).await
}

#[tokio::test]
async fn a_guest_finds_no_files_no_environment_no_arguments_and_no_input() {
    let mut session = shell("").await;
    for (code, expected) in [
        ("it = dict(os.environ)", json!({})),
        ("it = sys.argv[1:]", json!([])),
        ("it = sys.stdin.read()", json!("")),
    ] {
        assert_eq!(run(&mut session, code).await, expected, "{code}");
    }
    for path in [
        "/",
        ".",
        "/etc/passwd",
        "/proc/self/environ",
        "/tmp/made",
        "../../etc/passwd",
    ] {
        for deed in ["os.listdir", "open", "os.mkdir", "os.stat", "os.remove"] {
            let failure = fails(&mut session, &format!("{deed}('{path}')")).await;
            assert!(failure.contains("Error: "), "{deed} of {path}: {failure}");
        }
        let failure = fails(&mut session, &format!("open('{path}', 'w')")).await;
        assert!(failure.contains("Error: "), "writing to {path}: {failure}");
    }
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn a_guest_reaches_no_network_not_even_this_machine() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("set");
    let port = listener.local_addr().expect("bound").port();
    let mut session = shell("").await;
    for code in [
        format!("socket.create_connection(('127.0.0.1', {port}), 1)"),
        format!("socket.socket(socket.AF_INET, socket.SOCK_STREAM).connect(('127.0.0.1', {port}))"),
        format!("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"),
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM).bind(('127.0.0.1', 0))".into(),
        "socket.socket(socket.AF_INET6, socket.SOCK_STREAM).bind(('::1', 0))".into(),
        "socket.getaddrinfo('localhost', 80)".into(),
    ] {
        let failure = fails(&mut session, &code).await;
        assert!(failure.contains("rror: "), "{code}: {failure}");
    }
    let nobody = listener.accept().expect_err("nobody has come");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn the_time_of_day_stands_still_without_the_grant_and_time_passes_all_the_same() {
    let mut session = shell("").await;
    assert_eq!(run(&mut session, "it = time.time()").await, 0.0);
    let waited = run(
        &mut session,
        "t = time.monotonic(); time.sleep(0.05); it = time.monotonic() - t",
    )
    .await;
    assert!(waited.as_f64().is_some_and(|waited| waited >= 0.05), "{waited}");
    let random = "it = os.urandom(16).hex()";
    assert_ne!(run(&mut session, random).await, run(&mut session, random).await);
    assert!(session.end().await.status.success());

    let mut session = shell("grants = ['clock']").await;
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
    let told = run(&mut session, "it = time.time()").await;
    assert!(told.as_f64().is_some_and(|told| (told - now).abs() < 60.0), "{told}");
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn waiting_is_not_computing_but_ends_in_time_or_when_the_client_cancels() {
    let mut session = shell("limits.time = '5s'\nlimits.cpu = '1s'").await;
    // Each wait is longer than a tick, and there are more of them than ticks to compute.
    assert_eq!(
        run(&mut session, "for _ in range(150): time.sleep(0.011)\nit = 'slept'").await,
        "slept"
    );
    assert_eq!(
        fails(&mut session, "time.sleep(3600)").await,
        "shell used more than its budget of 5 s from call to answer"
    );
    assert!(session.end().await.status.success());

    let mut session = shell("").await;
    let params = json!({ "name": "python", "arguments": { "code": "time.sleep(3600)" } });
    let call = session.ask("tools/call", params).await;
    assert_eq!(run(&mut session, "it = 1").await, 1, "others get their turn");
    session
        .send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": call } }))
        .await;
    let begun = Instant::now();
    assert!(session.end().await.status.success());
    assert!(begun.elapsed() < Duration::from_secs(30), "took {:?}", begun.elapsed());
}

#[test]
fn a_guest_that_waits_when_it_is_loaded_holds_the_start_up_no_longer_than_it_may() {
    let lines = "settings.sleeps_before_it_describes = 3600";
    let environment = with_python_shell(&TestEnvironment::without_engine(), lines);
    let begun = Instant::now();
    let listed = environment.run(&["plugin", "list"]);
    assert_eq!(listed.status.code(), Some(8), "{listed:?}");
    assert!(begun.elapsed() < Duration::from_mins(5), "took {:?}", begun.elapsed());
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let told = "refused: shell used more than its budget of 10 s from call to answer";
    assert!(listed.contains(told), "{listed}");
}

#[tokio::test]
async fn what_a_guest_prints_goes_to_the_log_line_by_line_and_nowhere_else() {
    let mut session = shell("grants = ['log']").await;
    let code =
        "print('one\\ntwo'); print('three', file=sys.stderr); print('{\"jsonrpc\":\"2.0\"}'); print('rest', end='')";
    run(&mut session, code).await;
    // The session takes every line of standard output for JSON-RPC, and would have failed.
    let log = session.end().await.log;
    for (stream, line) in [
        ("stdout", "one"),
        ("stdout", "two"),
        ("stderr", "three"),
        ("stdout", "rest"),
    ] {
        let expected = format!("stream=\"{stream}\" \"{line}\"");
        assert!(log.contains(&expected), "{expected} in {log}");
    }
    assert!(log.contains("DEBUG"), "{log}");

    let mut session = shell("").await;
    run(&mut session, "print('one'); print('two', file=sys.stderr)").await;
    let log = session.end().await.log;
    assert!(!log.contains("\"one\"") && !log.contains("\"two\""), "{log}");
}

#[tokio::test]
async fn a_guest_that_floods_its_output_ends_within_its_budget() {
    let mut session = shell("grants = ['log']").await;
    for code in [
        "while True: print('x' * 1000)",
        "while True: print()",
        "while True: print('x' * 1000, end='')",
        "while True: print('x' * 100000, file=sys.stderr)",
    ] {
        let failure = fails(&mut session, code).await;
        assert_eq!(failure, "shell used more than its budget of 64 KiB of log", "{code}");
        assert_eq!(run(&mut session, "it = 1").await, 1, "its next call is a new one");
    }
    assert!(session.end().await.status.success());

    let mut session = shell("").await;
    let failure = fails(&mut session, "while True: print('x' * 1000)").await;
    assert_eq!(failure, "shell used more than its budget of 2 s of CPU time");
    assert!(!session.end().await.log.contains("xxx"));
}

#[tokio::test]
async fn a_guest_that_ends_its_process_ends_its_call() {
    let mut session = shell("").await;
    let failure = fails(&mut session, "os._exit(3)").await;
    assert!(failure.starts_with("shell trapped: "), "{failure}");
    assert_eq!(run(&mut session, "it = 1").await, 1, "its next call is a new one");
    assert!(session.end().await.status.success());
}

#[tokio::test]
async fn a_secret_that_a_guest_prints_is_not_in_the_log() {
    let lines = "grants = ['create', 'read', 'read-credentials', 'drop', 'log']";
    let environment = with_python_shell(&TestEnvironment::on(Local), lines);
    let mut session = Session::initialized(&environment, &[]).await;
    let created = session.succeed("create_postgres_instance", json!({})).await;
    let (id, password) = (
        created["id"].as_str().expect("text"),
        created["password"].as_str().expect("text"),
    );
    // Half of it, then the rest: it is one line.
    let code = format!(
        "found = instances.get('{id}'); print('it is ', end='', flush=True); print(found.password[:5], end='', flush=True); \
         print(found.password[5:]); print(found.dsn, file=sys.stderr, end='')"
    );
    run(&mut session, &code).await;
    session.succeed("drop_postgres_instance", json!({ "id": id })).await;
    let log = session.end().await.log;
    assert!(!log.contains(password), "{log}");
    assert!(
        log.contains("\"it is [redacted]\"") && log.contains("stream=\"stderr\" \"[redacted]\""),
        "{log}"
    );
}
