//! Broken JSON-RPC on standard input: no crash, no hang, no growth, and an answer to every request whose id can be read.

use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::json_fuzz::{Fuzzer, Line};
use dev_postgres_mcp_tests::seeded;
use dev_postgres_mcp_tests::session::Session;
use dev_postgres_mcp_tests::soak;
use rstest::rstest;
use serde_json::{Value, json};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// How many lines are sent before their answers are waited for.
const LINES_AT_ONCE: usize = 50;
/// How long the longest of them is at least, in bytes.
const LONG_BYTES: usize = 2 << 20;
/// How much more memory a server may have after the rounds, in bytes: a third of what they bring, at most.
const GROWTH_MAX: u64 = 16 << 20;

/// How a session is begun, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Era {
    /// With a handshake.
    Legacy,
    /// With what every request carries.
    Stateless,
    /// Not at all: whatever comes is what came first.
    NotBegun,
}

impl Era {
    fn meta(self) -> Option<Value> {
        (self == Self::Stateless).then(|| {
            json!({
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": { "name": "fuzzer", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": {},
            })
        })
    }
}

/// Memory in bytes, and how many file descriptors there are.
fn taken(session: &Session) -> (u64, usize) {
    let pid = session.pid().expect("it runs");
    let mut system = System::new().expect("processes can be looked at");
    let seen = ProcessRefreshKind::nothing().with_memory();
    let sysinfo_pid = Pid::from_u32(pid);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[sysinfo_pid]), true, seen);
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    (system.process(sysinfo_pid).expect("it runs").memory(), descriptors)
}

/// Sends lines; each that wants an answer gets one, and nothing else with an id comes.
async fn exchange(session: &mut Session, lines: &[Line]) {
    let mut open: Vec<Value> = lines.iter().flat_map(|line| line.ids.clone()).collect();
    let bytes: Vec<&[u8]> = lines.iter().map(|line| line.bytes.as_slice()).collect();
    let answers = session.exchange(&bytes, &open).await;
    for answer in answers {
        assert_ne!(
            answer.get("result").is_some(),
            answer.get("error").is_some(),
            "{answer}"
        );
        let Some(id) = answer.get("id").filter(|id| !id.is_null()) else {
            assert!(answer["error"]["code"].is_i64(), "{answer}");
            continue;
        };
        let index = open.iter().position(|open| open == id);
        open.remove(index.unwrap_or_else(|| panic!("nobody waits for {answer}")));
    }
    let unanswered: Vec<String> = lines
        .iter()
        .filter(|line| line.ids.iter().any(|id| open.contains(id)))
        .map(|line| String::from_utf8_lossy(&line.bytes).chars().take(1000).collect())
        .collect();
    assert!(unanswered.is_empty(), "not answered: {unanswered:#?}");
}

#[rstest]
#[case::legacy(Era::Legacy)]
#[case::stateless(Era::Stateless)]
#[case::before_a_session(Era::NotBegun)]
#[tokio::test]
async fn every_request_with_an_id_is_answered_whatever_else_comes_and_nothing_grows(#[case] era: Era) {
    let environment = TestEnvironment::without_engine();
    let mut session = Session::start(&environment, &[]);
    if era == Era::Legacy {
        session.initialize("2025-11-25").await;
    }
    let mut fuzzer = Fuzzer::new(seeded::rng(), era.meta());
    let (mut before, mut sent) = (None, 0);
    let rounds = soak::size(40, 400);
    for round in 0..rounds {
        // The first quarter is what a process needs to get going.
        if round == rounds / 4 {
            before = Some(taken(&session));
            sent = 0;
        }
        let mut lines: Vec<Line> = (1..LINES_AT_ONCE).map(|_| fuzzer.line()).collect();
        lines.push(fuzzer.long(LONG_BYTES));
        exchange(&mut session, &lines).await;
        sent += lines.iter().map(|line| line.bytes.len() as u64).sum::<u64>();
    }
    assert!(sent > 3 * GROWTH_MAX, "{sent} bytes would not be missed");
    let ((memory_before, descriptors_before), (memory, descriptors)) =
        (before.expect("it was looked"), taken(&session));
    assert!(
        memory < memory_before + GROWTH_MAX,
        "{memory_before} bytes became {memory}"
    );
    assert!(
        descriptors <= descriptors_before + 2,
        "{descriptors_before} descriptors became {descriptors}"
    );
    let remains = session.end().await;
    assert!(remains.status.success(), "{remains:?}");
    assert!(!remains.log.contains("panicked"), "{}", remains.log);
}

#[tokio::test]
async fn a_message_beyond_all_bounds_is_answered_and_the_next_one_is_read() {
    let environment = TestEnvironment::without_engine();
    let mut session = Session::initialized(&environment, &[]).await;
    let long = format!(
        r#"{{"jsonrpc":"2.0","method":"tools/call","params":{{"name":"x","arguments":{{"a":"{}"}}}},"id":"long"}}"#,
        "x".repeat(40 << 20)
    );
    let listed = json!({ "jsonrpc": "2.0", "id": "next", "method": "tools/list" }).to_string();
    let answers = session
        .exchange(&[long.as_bytes(), listed.as_bytes()], &[json!("long"), json!("next")])
        .await;
    assert_eq!(answers[0]["id"], "long");
    assert_eq!(answers[0]["error"]["code"], -32600, "{}", answers[0]);
    assert!(answers[1]["result"]["tools"].is_array(), "{}", answers[1]);
    assert!(session.end().await.status.success());
}
