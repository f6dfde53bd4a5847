//! A folder of bundles that changes under a running server: what clients of both protocol eras are told, and what goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dev_postgres_mcp::digest::Digest;
use dev_postgres_mcp_tests::binary::TestEngine::Local;
use dev_postgres_mcp_tests::binary::{self, TestEnvironment};
use dev_postgres_mcp_tests::clients;
use dev_postgres_mcp_tests::guests::{module, puppet};
use dev_postgres_mcp_tests::session::{PATIENCE, Session, modern_meta};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

const CHANGED: &str = "notifications/tools/list_changed";
/// What the built-in bundle has.
const BUILT_IN: usize = 6;

/// A bundle whose one tool is `create_seeded_instance`; the puppet's is `act`.
fn seeded() -> Vec<u8> {
    module("plugins/examples/seeded_instance")
}

/// The same guest with other bytes: with a section that means nothing.
fn new_version(guest: &[u8], version: u8) -> Vec<u8> {
    let mut bytes = guest.to_vec();
    bytes.extend([0, 3, 1, b'v', version]);
    bytes
}

/// A server's environment, and the folder that it watches.
struct Place {
    environment: TestEnvironment,
    folder: PathBuf,
}

impl Place {
    /// With this configuration beside that of the folder, which isn't there yet.
    fn new(environment: TestEnvironment, config: &str) -> Self {
        let file = environment.home().join("config.toml");
        fs::write(&file, format!("[plugins]\ndir = 'bundles'\n{config}\n")).expect("a file");
        Self {
            folder: environment.home().join("bundles"),
            environment: environment.with("DEV_POSTGRES_MCP_CONFIG", file),
        }
    }

    /// With these bundles in the folder.
    fn with(self, bundles: &[(&str, &[u8])]) -> Self {
        fs::create_dir_all(&self.folder).expect("a folder");
        for (name, bytes) in bundles {
            self.put(name, bytes);
        }
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension("wasm")
    }

    /// Puts a whole file into the place of another.
    fn put(&self, name: &str, bytes: &[u8]) {
        let unfinished = self.folder.join(format!(".{name}.wasm"));
        fs::write(&unfinished, bytes).expect("a file");
        fs::rename(unfinished, self.path(name)).expect("it is put there");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("it was there");
    }

    fn doctor(&self) -> String {
        let output = self.environment.command(["doctor"]).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Era {
    Legacy,
    Modern,
}
use Era::{Legacy, Modern};

/// A client that wants to be told of changes.
struct Client {
    session: Session,
    era: Era,
    /// The request that a modern client listens with.
    listening: Value,
}

impl Client {
    async fn connect(place: &Place, era: Era) -> Self {
        let mut session = Session::start(&place.environment, &[]);
        let mut listening = Value::Null;
        match era {
            Legacy => {
                let initialized = session.initialize("2025-11-25").await;
                assert_eq!(initialized["capabilities"]["tools"]["listChanged"], true);
            }
            Modern => {
                let wanted = json!({ "toolsListChanged": true });
                let params = json!({ "_meta": modern_meta(), "notifications": wanted });
                listening = json!(session.ask("subscriptions/listen", params).await);
                let acknowledged = session.notification().await;
                assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
                assert_eq!(acknowledged["params"]["notifications"], wanted, "{acknowledged}");
            }
        }
        Self {
            session,
            era,
            listening,
        }
    }

    async fn ask(&mut self, method: &str, mut params: Value) -> u64 {
        if self.era == Modern {
            params["_meta"] = modern_meta();
        }
        self.session.ask(method, params).await
    }

    async fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.ask(method, params).await;
        self.session.answer(id).await
    }

    /// The tools beside the built-in ones.
    async fn tools(&mut self) -> Vec<String> {
        let list = self.request("tools/list", json!({})).await;
        let tools = list["result"]["tools"].as_array().expect("tools");
        let names = tools
            .iter()
            .map(|tool| tool["name"].as_str().expect("a name").to_owned());
        let (built_in, others): (Vec<_>, Vec<_>) = names.partition(|name| name.contains("postgres"));
        assert_eq!(built_in.len(), BUILT_IN, "the others stay");
        others
    }

    /// Has the puppet do these deeds.
    async fn act(&mut self, deeds: Value) -> Value {
        let params = json!({ "name": "act", "arguments": { "deeds": deeds } });
        self.request("tools/call", params).await
    }

    /// The next notification is of a change, and marked as this client's era has it.
    async fn is_told(&mut self) {
        assert_change(&self.session.notification().await, &self.listening);
    }

    /// Ends the server; returns its log and how often it told of changes that nobody has looked at.
    async fn end(self) -> (String, usize) {
        let remains = self.session.end().await;
        assert!(remains.status.success());
        let left = remains.unread.iter().filter(|message| message.get("method").is_some());
        let untold = left.map(|told| assert_change(told, &self.listening)).count();
        (remains.log, untold)
    }
}

fn assert_change(told: &Value, listening: &Value) {
    assert_eq!(told["method"], CHANGED, "{told}");
    let mark = &told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
    assert_eq!(mark, listening, "{told}");
}

#[rstest]
#[tokio::test]
async fn what_is_added_replaced_or_removed_changes_the_tools(#[values(Legacy, Modern)] era: Era) {
    let place = Place::new(TestEnvironment::without_engine(), "");
    let mut client = Client::connect(&place, era).await;
    assert_eq!(client.tools().await, Vec::<String>::new());

    fs::create_dir(&place.folder).expect("a folder");
    place.put("acme", puppet());
    client.is_told().await;
    assert_eq!(client.tools().await, ["act"]);
    let answer = client.act(json!(["list", "now"])).await;
    let outcomes = &answer["result"]["structuredContent"]["outcomes"];
    for (outcome, grant) in [(&outcomes[0], "read"), (&outcomes[1], "clock")] {
        assert_eq!(outcome["message"], format!("the bundle acme has no grant {grant:?}"));
    }

    place.put("acme", &seeded());
    client.is_told().await;
    assert_eq!(client.tools().await, ["create_seeded_instance"]);
    let answer = client.act(json!([])).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");

    // In place, as `cp` does it.
    fs::write(place.path("acme"), puppet()).expect("written");
    client.is_told().await;
    assert_eq!(client.tools().await, ["act"]);

    fs::rename(place.path("acme"), place.path("acme").with_extension("off")).expect("renamed");
    client.is_told().await;
    assert_eq!(client.tools().await, Vec::<String>::new());

    fs::remove_dir_all(&place.folder).expect("removed");
    fs::create_dir(&place.folder).expect("made again");
    place.put("acme", puppet());
    client.is_told().await;
    assert_eq!(client.tools().await, ["act"]);
    fs::remove_dir_all(&place.folder).expect("removed");
    client.is_told().await;
    assert_eq!(client.tools().await, Vec::<String>::new());

    let (log, untold) = client.end().await;
    assert_eq!(untold, 0, "each is told of once: {log}");
}

#[rstest]
#[tokio::test]
async fn a_new_version_with_the_same_tools_starts_afresh_and_nobody_is_told(#[values(Legacy, Modern)] era: Era) {
    let place = Place::new(TestEnvironment::without_engine(), "").with(&[("acme", puppet())]);
    let mut client = Client::connect(&place, era).await;
    assert_eq!(client.tools().await, ["act"]);
    for _ in 0..3 {
        client.act(json!(["trap"])).await;
    }
    let off = "acme is switched off after 3 failures in a row";
    let answer = client.act(json!([])).await;
    assert!(answer.to_string().contains(off), "{answer}");

    place.put("acme", &new_version(puppet(), 2));
    let mut tries = 0;
    while client.act(json!([])).await["result"]["isError"] == true {
        tries += 1;
        assert!(tries < 300, "the new version never answers");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (log, told) = client.end().await;
    assert_eq!(told, 0, "{log}");
    assert!(log.contains(off) && log.contains("replaced a bundle"), "{log}");
}

/// What makes a bad new version of a file.
type Spoil<'a> = &'a dyn Fn(&Path);

#[tokio::test]
async fn a_bad_new_version_leaves_the_old_one_in_place_and_says_so() {
    let place = Place::new(TestEnvironment::without_engine(), "").with(&[("acme", puppet())]);
    let mut client = Client::connect(&place, Legacy).await;
    let whole = new_version(puppet(), 2);
    let path = place.path("acme");
    let mut has_marker = false;
    let bad: [(&str, Spoil<'_>); 5] = [
        ("is no component of the world", &|path| {
            fs::write(path, &whole[..whole.len() / 2]).expect("half of it");
        }),
        ("is no component of the world", &|path| {
            fs::write(path, "nonsense").expect("written");
        }),
        ("it has 67108865 bytes, may have 67108864", &|path| {
            let file = fs::OpenOptions::new().write(true).open(path).expect("the file");
            file.set_len((64 << 20) + 1).expect("a file with a hole");
        }),
        ("is no plain file", &|path| {
            fs::remove_file(path).expect("removed");
            fs::create_dir(path).expect("a folder");
        }),
        #[cfg(unix)]
        ("it is a link, which is not followed", &|path| {
            fs::remove_dir(path).expect("removed");
            let elsewhere = path.with_extension("elsewhere");
            fs::write(&elsewhere, &whole).expect("written");
            std::os::unix::fs::symlink(elsewhere, path).expect("a link");
        }),
    ];
    for (_, make) in &bad {
        make(&path);
        // What is told of came after it.
        if has_marker {
            place.remove("marker");
        } else {
            place.put("marker", &seeded());
        }
        has_marker = !has_marker;
        client.is_told().await;
        assert!(client.tools().await.contains(&"act".to_owned()));
        assert_eq!(
            client.act(json!([])).await["result"]["isError"],
            false,
            "the old one answers"
        );
    }
    let said = place.doctor();
    assert!(said.contains("it is a link, which is not followed"), "{said}");
    let (log, _) = client.end().await;
    for (reason, _) in bad {
        let line = log
            .lines()
            .find(|line| line.contains(reason))
            .unwrap_or_else(|| panic!("no {reason}: {log}"));
        assert!(
            line.contains("the new version of a bundle is no good: the old one stays"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_call_under_way_ends_on_the_old_version() {
    let entry = "[[bundle]]\nname = 'acme'\ngrants = ['create', 'sql']";
    let place = Place::new(TestEnvironment::on(Local), entry).with(&[("acme", puppet())]);
    let mut client = Client::connect(&place, Legacy).await;
    let created = client.act(json!([{ "create": {} }])).await;
    let created = &created["result"]["structuredContent"]["outcomes"][0]["done"];
    let (id, dsn) = (&created["id"], created["dsn"].as_str().expect("a DSN"));
    let (database, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls)
        .await
        .expect("it connects");
    tokio::spawn(connection);
    database
        .batch_execute("SELECT pg_advisory_lock(1)")
        .await
        .expect("locked");
    let wait = json!([{ "execute": { "id": id, "script": "SELECT pg_advisory_lock(1)" } }]);
    let params = json!({ "name": "act", "arguments": { "deeds": wait } });
    let under_way = client.ask("tools/call", params).await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    while database
        .query_one(waiting, &[])
        .await
        .expect("a count")
        .get::<_, i64>(0)
        == 0
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    place.put("acme", &seeded());
    client.is_told().await;
    assert_eq!(client.tools().await, ["create_seeded_instance"]);
    database
        .batch_execute("SELECT pg_advisory_unlock(1)")
        .await
        .expect("unlocked");
    let ended = client.session.answer(under_way).await;
    assert_eq!(
        ended["result"]["structuredContent"],
        json!({ "outcomes": [{ "done": "executed" }] }),
        "{ended}"
    );
    let answer = client.act(json!([])).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    client
        .session
        .succeed("drop_postgres_instance", json!({ "id": id }))
        .await;
    client.end().await;
}

#[tokio::test]
async fn names_that_are_taken_are_refused_until_they_are_free() {
    let place =
        Place::new(TestEnvironment::without_engine(), "").with(&[("postgres-tools", puppet()), ("b", puppet())]);
    let mut client = Client::connect(&place, Legacy).await;
    assert_eq!(client.tools().await, ["act"]);
    // It would come first.
    place.put("a", puppet());
    place.put("c", &seeded());
    client.is_told().await;
    assert_eq!(
        client.act(json!(["list"])).await["result"]["structuredContent"]["outcomes"][0]["message"],
        "the bundle b has no grant \"read\""
    );
    place.remove("b");
    place.remove("c");
    client.is_told().await;
    assert_eq!(
        client.act(json!(["list"])).await["result"]["structuredContent"]["outcomes"][0]["message"],
        "the bundle a has no grant \"read\""
    );
    let (log, untold) = client.end().await;
    assert_eq!(untold, 0, "{log}");
    for reason in [
        "a offers the tool act, which b offers already: give one of them a prefix",
        "the configuration has another bundle of this name",
    ] {
        assert!(log.contains(reason), "{reason}: {log}");
    }
}

#[rstest]
#[tokio::test]
async fn a_flood_of_changes_is_told_of_in_few_words(#[values(Legacy, Modern)] era: Era) {
    let place = Place::new(TestEnvironment::without_engine(), "").with(&[]);
    let mut client = Client::connect(&place, era).await;
    let guests = [puppet().to_vec(), seeded()];
    for round in 0..100 {
        place.put("acme", &guests[round % 2]);
    }
    place.put("last", &new_version(puppet(), 1));
    let mut told = 0;
    while client.tools().await != ["act", "create_seeded_instance"] {
        client.is_told().await;
        told += 1;
    }
    let (log, untold) = client.end().await;
    assert!((1..=10).contains(&(told + untold)), "{told} and {untold}: {log}");
}

#[tokio::test]
async fn an_entry_without_a_component_says_what_the_file_of_its_name_may_do() {
    let guest = puppet();
    let pin = Digest::of(guest);
    let entry = format!(
        "[[bundle]]\nname = 'acme'\nsha256 = '{pin}'\nprefix = 'my'\ngrants = ['clock']\nsettings.tool = 'deed'\n
        [[bundle]]\nname = 'later'"
    );
    let place = Place::new(TestEnvironment::without_engine(), &entry).with(&[("acme", guest)]);
    let said = place.doctor();
    assert!(said.contains("there is no later.wasm in plugins.dir"), "{said}");
    assert!(said.contains("acme with 1 tools"), "{said}");
    let mut client = Client::connect(&place, Legacy).await;
    assert_eq!(client.tools().await, ["my_deed"]);
    let now = client.session.succeed("my_deed", json!({ "deeds": ["now"] })).await;
    assert!(now["outcomes"][0]["done"].is_u64(), "{now}");
    place.put("acme", &new_version(guest, 2));
    place.put("later", guest);
    client.is_told().await;
    assert_eq!(client.tools().await, ["act", "my_deed"]);
    let (log, _) = client.end().await;
    assert!(log.contains("but the configuration pins"), "{log}");
}

#[tokio::test]
async fn a_bundle_that_cannot_be_loaded_is_left_out_and_a_configuration_that_is_wrong_stops_the_start() {
    let bad = "[[bundle]]\nname = 'bad'\ncomponent = 'bad.wasm'\n[[bundle]]\nname = 'gone'\ncomponent = 'gone.wasm'";
    let place = Place::new(TestEnvironment::without_engine(), bad).with(&[("acme", puppet()), ("worse", b"nonsense")]);
    fs::write(place.environment.home().join("bad.wasm"), "nonsense").expect("a file");
    let mut client = Client::connect(&place, Legacy).await;
    assert_eq!(client.tools().await, ["act"]);
    let said = place.doctor();
    let (log, _) = client.end().await;
    for told in [&said, &log] {
        for reason in [
            "bad is no component of the world",
            "the component gone can't be read from",
            "worse is no component of the world",
        ] {
            assert!(told.contains(reason), "{reason}: {told}");
        }
    }

    for (wrong, reason) in [
        (
            "settings.toool = 'x'",
            "acme2 refuses its settings: settings unknown field `toool`",
        ),
        (
            "settings.tool = 'list_postgres_instances'",
            "acme2 offers the tool list_postgres_instances",
        ),
    ] {
        let entry = format!("[[bundle]]\nname = 'acme2'\ncomponent = 'bundles/acme.wasm'\n{wrong}");
        let place = Place::new(TestEnvironment::without_engine(), &entry).with(&[("acme", puppet())]);
        let server = place.environment.command(["mcp", "serve"]).output().expect("it runs");
        let said = String::from_utf8_lossy(&server.stderr);
        assert!(!server.status.success() && said.contains(reason), "{reason}: {said}");
    }
}

#[tokio::test]
async fn without_a_folder_the_tools_never_change_and_nobody_is_promised_more() {
    let environment = TestEnvironment::without_engine();
    let mut session = Session::start(&environment, &[]);
    let initialized = session.initialize("2025-11-25").await;
    assert_eq!(initialized["capabilities"]["tools"].get("listChanged"), None);
    let mut session = Session::start(&environment, &[]);
    let params = json!({ "_meta": modern_meta(), "notifications": { "toolsListChanged": true } });
    session.ask("subscriptions/listen", params).await;
    let acknowledged = session.notification().await;
    assert_eq!(acknowledged["params"]["notifications"], json!({}), "{acknowledged}");
    let list = session.request("tools/list", json!({ "_meta": modern_meta() })).await;
    assert_eq!(list["result"]["ttlMs"], 3_600_000, "{list}");
    assert!(session.end().await.status.success());
}

#[rstest]
#[tokio::test]
async fn the_python_sdk_is_told_and_sees_the_new_tool(#[values("legacy", "2026-07-28")] protocol: &str) {
    let place = Place::new(TestEnvironment::without_engine(), "").with(&[]);
    let mut client = clients::python("changes.py")
        .arg(protocol)
        .arg(binary::path())
        .args(["mcp", "serve"])
        .env_clear()
        .envs(place.environment.variables())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut lines = BufReader::new(client.stdout.take().expect("piped")).lines();
    let mut next = async || -> Vec<String> {
        let line = timeout(PATIENCE, lines.next_line())
            .await
            .expect("in time")
            .expect("readable");
        serde_json::from_str(&line.expect("the client says what it saw")).expect("names")
    };
    assert_eq!(next().await.len(), BUILT_IN);
    place.put("acme", puppet());
    let seen = next().await;
    assert!(
        seen.len() == BUILT_IN + 1 && seen.contains(&"act".to_owned()),
        "{seen:?}"
    );
    assert!(client.wait().await.expect("it ends").success());
}
