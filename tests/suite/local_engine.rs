//! What only the local engine does, with PostgreSQL's real programs; `engines.rs` has what it shares with others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use dev_postgres_mcp::engine::local::is_root;
use dev_postgres_mcp::engine::{Ended, Engine, EngineError, Verdict};
use dev_postgres_mcp::instance::{Found, Image, InstanceSpec, Lifetime, Port, Progress, ProgressSink, Status};
use dev_postgres_mcp_tests::address_beyond_loopback;
use dev_postgres_mcp_tests::database::{connect, connect_when_ready};
use dev_postgres_mcp_tests::local_engine::{LocalGround, installed, names_in};
use dev_postgres_mcp_tests::processes::{self, Signal};
use dev_postgres_mcp_tests::scene::{DockerGround, Ground, Scene, any_port};
use dev_postgres_mcp_tests::specs::owner;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Client;

/// How long anything here may take, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn scene() -> Scene<LocalGround> {
    Scene::on(Arc::new(LocalGround::new()))
}

/// A scene whose programs are scripts.
fn scripted(initdb: &str, postgres: &str) -> Scene<LocalGround> {
    Scene::on(Arc::new(LocalGround::new().with_scripts(initdb, postgres)))
}

/// An instance that somebody has been told of.
async fn kept(scene: &Scene<LocalGround>) -> Found {
    kept_by(scene, &scene.engine).await
}

async fn kept_by(scene: &Scene<LocalGround>, engine: &Arc<dyn Engine>) -> Found {
    let mut found = scene.create_by(engine, scene.plain()).await;
    engine.keep(found.instance.id, Lifetime::Unlimited).await.expect("kept");
    found.instance.lifetime = Lifetime::Unlimited;
    found
}

async fn texts(client: &Client, query: &str) -> BTreeSet<String> {
    let rows = client.query(query, &[]).await.expect("rows");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.expect("a row").get(0)
}

async fn status(scene: &Scene<LocalGround>, found: &Found) -> Status {
    let again = scene.engine.get(found.instance.id).await.expect("an answer");
    again.expect("the instance").instance.status
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what} within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn mode(path: &Path) -> u32 {
    let metadata = path
        .symlink_metadata()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    metadata.mode() & 0o7777
}

/// A program on its way, which is killed with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(quiet.spawn().expect("it starts"))
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().expect("it can be waited for").is_none()
    }

    fn kill(&mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn every_major_that_is_installed_makes_instances_that_let_nobody_in_without_a_password() {
    let scene = scene();
    let majors = installed();
    if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        assert!(
            majors.len() >= 3,
            "the machine's own and at least two others: {majors:?}"
        );
    }
    for (major, folder) in majors {
        let spec = InstanceSpec {
            image: Image::new("postgres", &major).expect("an image"),
            ..scene.plain()
        };
        let found = scene.create(spec).await;
        assert_eq!(found.instance.version, major);
        assert_eq!(found.instance.container_id, "");
        let process = processes::find(scene.ground.postmaster(found.instance.id)).expect("its server");
        assert_eq!(process.command_line[0], folder.join("postgres").to_string_lossy());

        let client = connect_when_ready(&found).await;
        let number = text(&client, "SHOW server_version_num").await;
        assert_eq!(
            number.parse::<u32>().expect("a number") / 10_000,
            major.parse::<u32>().expect("a number")
        );
        let encodings = texts(&client, "SELECT pg_encoding_to_char(encoding)::text FROM pg_database").await;
        assert_eq!(encodings, BTreeSet::from(["UTF8".into()]));
        let methods = texts(&client, "SELECT coalesce(auth_method, error) FROM pg_hba_file_rules").await;
        assert_eq!(methods, BTreeSet::from(["scram-sha-256".into()]));
        let secrets = "SELECT split_part(coalesce(rolpassword, 'none'), '$', 1) FROM pg_authid WHERE rolcanlogin";
        assert_eq!(texts(&client, secrets).await, BTreeSet::from(["SCRAM-SHA-256".into()]));
        assert_eq!(text(&client, "SHOW password_encryption").await, "scram-sha-256");
        connect(&found, "wrong").await.expect_err("a wrong password");
        assert!(scene.engine.remove(found.instance.id).await.expect("removed"));
    }
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_listens_on_loopback_and_nowhere_else() {
    let scene = scene();
    let found = scene.create(scene.plain()).await;
    let client = connect_when_ready(&found).await;
    let port = found.instance.port.get();
    assert_eq!(found.instance.host, "127.0.0.1");
    assert_eq!(text(&client, "SHOW listen_addresses").await, "127.0.0.1");
    let elsewhere = address_beyond_loopback()
        .into_iter()
        .chain(["::1".parse().expect("an address")]);
    for address in elsewhere {
        assert!(
            TcpStream::connect((address, port)).await.is_err(),
            "it listens on {address}"
        );
    }
    let data = scene.ground.data(found.instance.id);
    assert!(
        !names_in(&data).iter().any(|name| name.starts_with(".s.")),
        "it has a socket"
    );
    assert_eq!(mode(&data), 0o700);
    scene.engine.remove(found.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn what_is_written_down_is_for_the_owner_alone_and_the_data_for_the_servers_user() {
    let scene = scene();
    let found = kept(&scene).await;
    let (state, folder) = (scene.ground.state_dir(), scene.ground.folder(found.instance.id));
    let server = processes::find(scene.ground.postmaster(found.instance.id)).expect("its server");
    let user = server.user.expect("its user");
    let own = fs::metadata(scene.ground.home()).expect("the home").uid();
    // As root, the server's user is another one, who passes these folders and sees nothing in them.
    let passable = if is_root() { 0o710 } else { 0o700 };
    assert_eq!(is_root(), user != own, "who runs the server");
    for path in [&state, &state.join("instances"), &state.join("templates"), &folder] {
        assert_eq!(mode(path), passable, "{}", path.display());
        assert_eq!(path.metadata().expect("its owner").uid(), own, "{}", path.display());
    }
    for name in names_in(&folder).iter().filter(|name| *name != "data") {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
        assert_eq!(folder.join(name).metadata().expect("its owner").uid(), own, "{name}");
    }
    assert!(
        names_in(&folder).is_superset(
            &["data", "instance.json", "kept", "lock", "log"]
                .map(str::to_owned)
                .into()
        )
    );
    let data = scene.ground.data(found.instance.id);
    assert_eq!((mode(&data), data.metadata().expect("its owner").uid()), (0o700, user));
    for template in names_in(&state.join("templates")) {
        let template = state.join("templates").join(template);
        if template.is_dir() {
            assert_eq!(mode(&template.join("template.json")), 0o600);
            let data = template.join("data");
            // Not the server's: what SQL can do there, it could do to later instances.
            assert_eq!((mode(&data), data.metadata().expect("its owner").uid()), (0o700, own));
        }
    }
    scene.engine.remove(found.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_server_has_no_rights_and_no_secrets_of_the_program_that_started_it() {
    let scene = scene();
    let secret = "FOR_THE_PROGRAM_ALONE";
    let environment = scene.ground.environment().with("SOME_TOKEN", secret);
    let mut create = environment.command(["-o", "json", "postgres", "create"]);
    // A process group of its own, as a terminal gives it.
    std::os::unix::process::CommandExt::process_group(&mut create, 0);
    let output = create.stdin(Stdio::null()).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let created: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let id = created["id"].as_str().expect("an id").parse().expect("an id");
    let found = scene
        .engine
        .get(id)
        .await
        .expect("an answer")
        .expect("it has outlived the program");

    let pid = scene.ground.postmaster(id);
    let server = processes::find(pid).expect("its server");
    assert_ne!(server.user, Some(0), "PostgreSQL doesn't run as root");
    assert!(
        server.environment.iter().any(|variable| variable.starts_with("PATH=")),
        "its environment can be seen: {server:?}"
    );
    let may_have = [
        "PATH=",
        "LD_LIBRARY_PATH=",
        "DYLD_LIBRARY_PATH=",
        "TMPDIR=",
        "LC_MESSAGES=",
        "TZ=",
        // What its children are known by: the id, which is no secret.
        "DEV_POSTGRES_MCP_INSTANCE=",
    ];
    for variable in &server.environment {
        assert!(
            may_have.iter().any(|name| variable.starts_with(name)),
            "its environment has {variable}"
        );
    }
    let group = Command::new("ps")
        .args(["-o", "pgid=", "-p", &pid.to_string()])
        .output()
        .expect("ps runs");
    assert_eq!(
        String::from_utf8_lossy(&group.stdout).trim(),
        pid.to_string(),
        "what a terminal tells the program is not for the server"
    );
    if is_root() && cfg!(target_os = "linux") {
        let said = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let groups = said
            .lines()
            .find_map(|line| line.strip_prefix("Groups:"))
            .expect("its groups");
        assert_eq!(groups.trim(), "", "root's groups are not for the server");
    }

    // What anybody who may run SQL as a superuser can see.
    let client = connect_when_ready(&found).await;
    client
        .batch_execute("CREATE TEMP TABLE seen (line text); COPY seen FROM PROGRAM 'env'")
        .await
        .expect("a program runs");
    let seen = texts(&client, "SELECT line FROM seen").await;
    assert!(!seen.is_empty());
    assert!(seen.iter().all(|line| !line.contains(secret)), "{seen:?}");
    scene.engine.remove(id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn no_process_ever_has_a_password_in_its_command_line() {
    let scene = scene();
    let done = Arc::new(AtomicBool::new(false));
    let watch = {
        let (done, state) = (Arc::clone(&done), scene.ground.state_dir());
        std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let processes = processes::of(&state).into_iter();
                seen.extend(processes.map(|process| process.command_line.join(" ")));
                // For those that are watched: one that lives for less than this is seen by chance only.
                std::thread::sleep(Duration::from_millis(2));
            }
            seen
        })
    };
    let found = scene.create(scene.spec("app", "me", "hush-hush")).await;
    connect_when_ready(&found).await;
    scene.engine.remove(found.instance.id).await.expect("removed");
    done.store(true, Ordering::Relaxed);
    let seen = watch.join().expect("no panic");
    for program in ["initdb --pgdata", "postgres -D"] {
        assert!(
            seen.iter().any(|line| line.contains(program)),
            "{program} was seen: {seen:#?}"
        );
    }
    let templates = scene.ground.state_dir().join("templates");
    let described = names_in(&templates)
        .iter()
        .find_map(|name| fs::read(templates.join(name).join("template.json")).ok())
        .expect("a template");
    let described: Value = serde_json::from_slice(&described).expect("JSON");
    let of_template = described["password"].as_str().expect("the template's password");
    for password in ["hush-hush", of_template] {
        assert!(seen.iter().all(|line| !line.contains(password)), "{seen:#?}");
    }
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_has_the_settings_of_one_in_a_container_but_for_what_a_container_needs_otherwise() {
    /// Why a setting may be another one here.
    const MAY_DIFFER: [(&str, &str); 6] = [
        (
            "config_file data_directory hba_file ident_file",
            "where the data directory is",
        ),
        (
            "port listen_addresses unix_socket_directories",
            "there is no network of its own around it",
        ),
        (
            "dynamic_shared_memory_type",
            "there is no /dev/shm of its own, in which nothing would be left",
        ),
        (
            "lc_messages lc_monetary lc_numeric lc_time default_text_search_config",
            "the machine's locales",
        ),
        (
            "server_version server_version_num wal_sync_method",
            "another minor, built for another system",
        ),
        ("krb_server_keyfile ssl_library", "another builder's choice"),
    ];
    let local = scene();
    if local.ground.image().version() != "17" {
        eprintln!("skipped: PostgreSQL 17 is not installed here");
        return;
    }
    let docker = Scene::on(Arc::new(DockerGround::default()));
    let (one, other) = tokio::join!(local.create(local.plain()), docker.create(docker.plain()));
    let query = "SELECT name, coalesce(setting, '') FROM pg_settings \
                 UNION ALL SELECT 'encoding of ' || datname, pg_encoding_to_char(encoding) FROM pg_database";
    let settings = async |found: &Found| -> BTreeMap<String, String> {
        let rows = connect_when_ready(found).await.query(query, &[]).await.expect("rows");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let (here, there) = (settings(&one).await, settings(&other).await);
    let may_differ: BTreeSet<&str> = MAY_DIFFER.iter().flat_map(|(names, _)| names.split(' ')).collect();
    let different: Vec<String> = here
        .iter()
        // One that only one of them has is of its builder's making.
        .filter_map(|(name, value)| Some((name, value, there.get(name)?)))
        .filter(|(name, value, in_container)| value != in_container && !may_differ.contains(name.as_str()))
        .map(|(name, value, in_container)| format!("{name}: {value:?}, in a container {in_container:?}"))
        .collect();
    assert!(different.is_empty(), "{different:#?}");
    for name in [
        "max_connections",
        "shared_buffers",
        "TimeZone",
        "wal_level",
        "fsync",
        "encoding of app",
    ] {
        assert!(
            here.contains_key(name) && there.contains_key(name),
            "{name} was compared"
        );
    }
    local.engine.remove(one.instance.id).await.expect("removed");
    docker.engine.remove(other.instance.id).await.expect("removed");
    local.assert_nothing_left().await;
    docker.assert_nothing_left().await;
}

#[tokio::test]
async fn a_version_that_is_not_there_is_an_error_that_lists_those_that_are() {
    let scene = scene();
    let unknown = Image::new("postgres", "12").expect("an image");
    let spec = InstanceSpec {
        image: unknown.clone(),
        ..scene.plain()
    };
    let prepared = scene.engine.prepare(&unknown, &ProgressSink::none()).await;
    let created = scene
        .engine
        .create(scene.id(), &spec, &owner(), any_port(), &ProgressSink::none())
        .await;
    for error in [prepared.expect_err("not there"), created.expect_err("not there")] {
        let EngineError::NoSuchVersion { version, found } = &error else {
            panic!("{error}");
        };
        assert_eq!(version, "12");
        for (major, folder) in installed() {
            let folder = folder.display().to_string();
            assert!(
                found
                    .iter()
                    .any(|line| line.starts_with(&major) && line.ends_with(&folder)),
                "{major} in {folder}: {error}"
            );
        }
    }
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn the_newest_version_is_the_default_where_the_configured_one_is_not_there() {
    let scene = scene();
    let configured = Image::new("postgres", "12").expect("an image");
    let newest = installed().remove(0).0;
    assert_eq!(scene.engine.default_image(&configured).await.version(), newest);
    let lines = scene.engine.diagnose(&configured).await;
    let line = lines.iter().find(|line| line.subject == "PostgreSQL").expect("a line");
    assert_eq!(line.verdict, Verdict::Warning);
    assert!(
        line.advice.starts_with("12, the default version, is not among them"),
        "{line:?}"
    );
}

#[tokio::test]
async fn an_instance_of_an_exact_minor_can_be_had() {
    let scene = scripted("", "");
    let spec = |version: &str| InstanceSpec {
        image: Image::new("postgres", version).expect("an image"),
        ..scene.plain()
    };
    let found = scene.create(spec("99.1")).await;
    assert_eq!(found.instance.version, "99.1");
    connect_when_ready(&found).await;
    scene.engine.remove(found.instance.id).await.expect("removed");
    let error = scene
        .engine
        .create(scene.id(), &spec("99.2"), &owner(), any_port(), &ProgressSink::none())
        .await
        .expect_err("not there");
    assert!(matches!(error, EngineError::NoSuchVersion { .. }), "{error}");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_pid_file_that_names_a_process_that_has_ended_is_no_running_server() {
    let scene = scene();
    let found = kept(&scene).await;
    let pid_file = scene.ground.data(found.instance.id).join("postmaster.pid");
    let said = fs::read_to_string(&pid_file).expect("a pid file");
    scene.ground.stop(&found.instance).await;
    scene.engine.ended(found.instance.id).await.expect("an end");
    fs::write(&pid_file, said).expect("a stale pid file");
    assert_eq!(status(&scene, &found).await, Status::Stopped);
    assert!(scene.engine.remove(found.instance.id).await.expect("removed"));
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_process_that_has_a_servers_pid_by_now_is_left_alone() {
    let scene = scene();
    let (found, other) = tokio::join!(kept(&scene), kept(&scene));
    scene.ground.kill(&found.instance).await;
    let mut bystander = Running::start(Command::new("sleep").arg("600"));
    let pid_file = scene.ground.data(found.instance.id).join("postmaster.pid");
    let said = fs::read_to_string(&pid_file).expect("a pid file");
    let (_, rest) = said.split_once('\n').expect("lines");
    let reused_by = [
        bystander.0.id(),
        std::process::id(),
        scene.ground.postmaster(other.instance.id),
    ];
    for pid in reused_by {
        fs::write(&pid_file, format!("{pid}\n{rest}")).expect("a pid file");
        assert_eq!(status(&scene, &found).await, Status::Stopped, "{pid}");
    }
    for pid in [
        "0",
        "1",
        "-1",
        "4294967295",
        "99999999999999999999",
        "",
        "nonsense",
        "\u{0}",
    ] {
        fs::write(&pid_file, format!("{pid}\n{rest}")).expect("a pid file");
        assert_eq!(status(&scene, &found).await, Status::Stopped, "{pid:?}");
    }
    fs::write(&pid_file, format!("{}\n{rest}", reused_by[2])).expect("a pid file");
    assert!(scene.engine.remove(found.instance.id).await.expect("removed"));
    assert!(bystander.runs(), "the process was not the server's to stop");
    connect(&other, other.password.expose())
        .await
        .expect("the other instance answers");
    scene.engine.remove(other.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_server_is_stopped_even_if_its_pid_file_names_another_process() {
    let scene = scene();
    let found = kept(&scene).await;
    let server = scene.ground.postmaster(found.instance.id);
    let mut bystander = Running::start(Command::new("sleep").arg("600"));
    fs::write(
        scene.ground.data(found.instance.id).join("postmaster.pid"),
        format!("{}\n", bystander.0.id()),
    )
    .expect("a pid file");
    assert!(scene.engine.remove(found.instance.id).await.expect("removed"));
    assert!(processes::find(server).is_none(), "the server runs on");
    assert!(bystander.runs());
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn nothing_that_sql_may_put_in_place_of_the_pid_file_holds_anybody_up() {
    let scene = scene();
    let found = kept(&scene).await;
    let pid_file = scene.ground.data(found.instance.id).join("postmaster.pid");
    let pipe = |path: &Path| {
        let made = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
        assert!(made.success());
    };
    let endless = |path: &Path| symlink("/dev/zero", path).expect("a link");
    let folder = |path: &Path| fs::create_dir(path).expect("a folder");
    let instead: [&dyn Fn(&Path); 3] = [&pipe, &endless, &folder];
    for put in instead {
        // It may be a folder from the last round.
        let _ = fs::remove_dir(&pid_file).or_else(|_| fs::remove_file(&pid_file));
        put(&pid_file);
        let listed = tokio::time::timeout(Duration::from_secs(10), scene.engine.list()).await;
        let listed = listed.expect("a list in time").expect("a list");
        assert_eq!(
            listed.iter().map(|instance| instance.id).collect::<Vec<_>>(),
            [found.instance.id]
        );
    }
    assert!(scene.engine.remove(found.instance.id).await.expect("removed"));
    scene.assert_nothing_left().await;
}

#[rstest]
#[tokio::test]
async fn a_session_that_computes_on_when_its_server_is_killed_ends_with_the_instance(
    #[values(false, true)] behind_link: bool,
) {
    let ground = LocalGround::new();
    let link = ground.home().join("link");
    symlink(ground.home(), &link).expect("a link");
    let scene = Scene::on(Arc::new(ground.with(|settings| {
        if behind_link {
            settings.state_dir = Some(link.join("state"));
        }
    })));
    let found = kept(&scene).await;
    let (busy, other) = (connect_when_ready(&found).await, connect_when_ready(&found).await);
    tokio::spawn(async move { busy.batch_execute("DO $$ BEGIN LOOP END LOOP; END $$").await });
    let count = "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %'";
    while text(&other, count).await != "1" {}
    drop(other);
    scene.ground.kill(&found.instance).await;
    assert_eq!(status(&scene, &found).await, Status::Stopped);
    assert!(
        !processes::of(&scene.ground.state_dir()).is_empty(),
        "a session that doesn't wait for anything sees nothing of its server's end"
    );
    assert!(scene.engine.remove(found.instance.id).await.expect("removed"));
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_server_that_is_killed_leaves_no_shared_memory() {
    const SEGMENTS: &str = "/proc/sysvipc/shm";
    if !Path::new(SEGMENTS).exists() {
        eprintln!("skipped: this system doesn't show its shared memory");
        return;
    }
    let scene = scene();
    let found = kept(&scene).await;
    let said = fs::read_to_string(scene.ground.data(found.instance.id).join("postmaster.pid")).expect("a pid file");
    let segment = said
        .lines()
        .nth(6)
        .expect("a segment")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let is_there = || {
        let segments = fs::read_to_string(SEGMENTS).expect("the segments");
        segments
            .lines()
            .any(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ") == segment)
    };
    assert!(is_there(), "{segment}");
    scene.ground.kill(&found.instance).await;
    assert!(scene.engine.remove(found.instance.id).await.expect("removed"));
    assert!(!is_there(), "{segment} is left");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_server_that_heeds_no_signal_is_stopped_by_force() {
    let scene = scene();
    let found = kept(&scene).await;
    connect_when_ready(&found).await;
    processes::signal(scene.ground.postmaster(found.instance.id), Signal::Stop);
    assert!(scene.engine.remove(found.instance.id).await.expect("removed"));
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_whose_data_is_half_deleted_can_be_listed_and_dropped() {
    let scene = scene();
    for (server_runs, deleted) in [
        (true, &["base", "global"][..]),
        (true, &["postmaster.pid", "base", "pg_wal"]),
        (false, &["postmaster.pid", "PG_VERSION", "global"]),
        (false, &["."]),
        (true, &["."]),
    ] {
        let found = kept(&scene).await;
        let data = scene.ground.data(found.instance.id);
        if !server_runs {
            scene.ground.kill(&found.instance).await;
        }
        for name in deleted {
            let path = data.join(name);
            let done = if path.is_dir() {
                fs::remove_dir_all(data.join(name))
            } else {
                fs::remove_file(path)
            };
            // A server that sees its data go may be quicker to change something in it.
            done.or_else(|_| fs::remove_dir_all(&data)).expect("deleted");
        }
        let listed = scene.engine.list().await.expect("a list");
        assert_eq!(
            listed.iter().map(|instance| instance.id).collect::<Vec<_>>(),
            [found.instance.id]
        );
        assert!(
            scene.engine.remove(found.instance.id).await.expect("removed"),
            "{deleted:?}"
        );
    }
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_server_whose_whole_folder_was_deleted_is_still_stopped_by_a_drop() {
    let scene = scene();
    let found = kept(&scene).await;
    fs::remove_dir_all(scene.ground.folder(found.instance.id)).expect("deleted");
    assert!(
        !scene.engine.remove(found.instance.id).await.expect("an answer"),
        "it wasn't there"
    );
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_that_somebody_tampered_with_is_told_without_its_password_and_can_be_dropped() {
    let scene = scene();
    let (damaged, sound) = tokio::join!(kept(&scene), kept(&scene));
    let path = scene.ground.folder(damaged.instance.id).join("instance.json");
    let whole: Value = serde_json::from_slice(&fs::read(&path).expect("what is written down")).expect("JSON");
    let with = |field: &str, value: Value| {
        let mut changed = whole.clone();
        changed["password"] = "hush-hush".into();
        changed[field] = value;
        changed.to_string().into_bytes()
    };
    let contents = [
        Vec::new(),
        b"{".to_vec(),
        b"\"hush-hush\"".to_vec(),
        b"[\"hush-hush\"]".to_vec(),
        b"{\"password\":\"hush-hush\", \"hush-hush\"".to_vec(),
        b"\xff\xfe".to_vec(),
        with("port", json!(0)),
        with("port", json!(70_000)),
        with("port", json!("hush-hush")),
        with("version", json!(17)),
        with("database", json!("template0")),
        with("database", json!("")),
        with("username", json!("pg_hush-hush")),
        with("username", json!("x".repeat(64))),
        with("password", json!("")),
        with("password", json!("hush-hush\u{0}")),
        with("password", json!("hush-hush".repeat(1000))),
        with("created_at", json!("yesterday")),
        with("filling", json!("x".repeat(1 << 20))),
    ];
    for content in contents {
        let shown = String::from_utf8_lossy(&content[..content.len().min(200)]).into_owned();
        fs::write(&path, content).expect("damaged");
        let listed = scene.engine.list().await.expect("a list");
        assert_eq!(listed, std::slice::from_ref(&sound.instance), "{shown}");
        let error = scene
            .engine
            .get(damaged.instance.id)
            .await
            .expect_err("it makes no sense");
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{shown}: {error}");
        assert!(!error.to_string().contains("hush-hush"), "{shown}: {error}");
    }
    let output = scene.ground.environment().run(&["postgres", "list"]);
    assert!(output.status.success());
    let warned = String::from_utf8_lossy(&output.stderr);
    assert!(
        warned.contains("makes no sense") && warned.contains(&*path.to_string_lossy()),
        "{warned}"
    );

    assert!(scene.engine.remove(damaged.instance.id).await.expect("removed"));
    scene.engine.remove(sound.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_that_says_it_is_another_is_dropped_alone() {
    let scene = scene();
    let (forged, sound) = tokio::join!(kept(&scene), kept(&scene));
    let written = |found: &Found| scene.ground.folder(found.instance.id).join("instance.json");
    fs::copy(written(&sound), written(&forged)).expect("forged");
    let listed = scene.engine.list().await.expect("a list");
    let ids: BTreeSet<_> = listed.iter().map(|instance| instance.id).collect();
    assert_eq!(
        ids,
        BTreeSet::from([forged.instance.id, sound.instance.id]),
        "the folder's name is the id"
    );
    let server = scene.ground.postmaster(forged.instance.id);
    assert!(scene.engine.remove(forged.instance.id).await.expect("removed"));
    assert!(processes::find(server).is_none());
    connect(&sound, sound.password.expose())
        .await
        .expect("the other instance answers");
    scene.engine.remove(sound.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn what_is_no_instances_is_left_alone() {
    let scene = scene();
    let found = kept(&scene).await;
    let instances = scene.ground.state_dir().join("instances");
    let theirs = [
        "notes",
        "not-an-id",
        "2f1c6f0e6f0a4d0b9a550d1c7a3b9e21",
        "{2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21}",
    ];
    for name in theirs {
        fs::create_dir(instances.join(name)).expect("a folder");
        fs::write(instances.join(name).join("file"), "theirs").expect("a file");
    }
    assert_eq!(
        scene.engine.list().await.expect("a list"),
        std::slice::from_ref(&found.instance)
    );
    scene.engine.remove(found.instance.id).await.expect("removed");
    assert_eq!(scene.another_engine().list().await.expect("a list"), []);
    assert_eq!(names_in(&instances), theirs.map(str::to_owned).into());
    for name in theirs {
        assert_eq!(
            fs::read(instances.join(name).join("file")).expect("the file"),
            b"theirs"
        );
    }
}

#[tokio::test]
async fn an_instance_that_nobody_was_told_of_goes_after_its_creators_end() {
    let scene = scene();
    let next = scene.another_engine();
    for by_list in [true, false] {
        let found = scene.create_and_die(async |_, _| {}).await;
        let id = found.instance.id;
        assert!(scene.ground.folder(id).exists(), "its creator died");
        connect(&found, found.password.expose()).await.expect("its server runs");
        assert!(next.get(id).await.expect("an answer").is_none(), "it is nobody's");
        if by_list {
            assert_eq!(next.list().await.expect("a list"), []);
        } else {
            next.recover(true).await.expect("recovered");
        }
        until("it is removed", || !scene.ground.folder(id).exists()).await;
    }
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_prune_names_what_killed_processes_have_left_and_a_dry_one_leaves_it_where_it_is() {
    let scene = scene();
    let found = scene.create_and_die(async |_, _| {}).await;
    let folder = scene.ground.folder(found.instance.id);
    let template = scene.ground.state_dir().join("templates").join("0123456789abcdef.new");
    fs::create_dir(&template).expect("as a killed process leaves it");
    let left = json!([
        {
            "kind": "server",
            "name": found.instance.id.to_string(),
            "reason": "a process that has ended has left it behind",
        },
        {
            "kind": "template",
            "name": template,
            "reason": "the process that was making it has ended",
        },
    ]);
    let prune = |arguments: &[&str]| {
        let environment = scene.ground.environment();
        environment.json(&[&["postgres", "prune"], arguments].concat())["removed"].clone()
    };
    for _ in 0..2 {
        assert_eq!(prune(&["--dry-run"]), left);
        assert!(
            folder.join("instance.json").exists() && template.exists(),
            "a dry run only says"
        );
    }
    connect(&found, found.password.expose()).await.expect("its server runs");
    assert_eq!(prune(&[]), left);
    assert!(!folder.exists() && !template.exists());
    assert_eq!(prune(&[]), json!([]));
    scene.assert_nothing_left().await;
}

/// A program that is being started has all that its starter had open, locks among it, until it runs.
#[tokio::test]
async fn a_drop_is_complete_although_the_lock_of_the_creator_is_still_held_for_a_moment() {
    let scene = scene();
    let found = kept(&scene).await;
    let lock = fs::File::open(scene.ground.folder(found.instance.id).join("lock")).expect("it is there");
    lock.lock().expect("nobody else has it");
    let held = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(lock);
    };
    let (removed, ()) = tokio::join!(scene.engine.remove(found.instance.id), held);
    assert!(removed.expect("removed"));
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_template_whose_password_is_another_fails_the_create_at_once_and_leaves_nothing() {
    let scene = scene();
    let nobody = ProgressSink::none();
    scene
        .engine
        .prepare(&scene.plain().image, &nobody)
        .await
        .expect("prepared");
    let templates = scene.ground.state_dir().join("templates");
    let written = fs::read_dir(&templates)
        .expect("a folder")
        .map(|template| template.expect("an entry").path().join("template.json"))
        .find(|path| path.exists())
        .expect("a template");
    let mut template: Value = serde_json::from_slice(&fs::read(&written).expect("text")).expect("JSON");
    template["password"] = json!("another");
    fs::write(&written, template.to_string()).expect("it is ours");
    let created = scene
        .engine
        .create(scene.id(), &scene.plain(), &owner(), any_port(), &nobody)
        .await;
    let error = created.expect_err("nobody gets in").to_string();
    assert!(error.contains("28P01"), "{error}");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_that_several_extend_at_once_is_extended_for_each() {
    let scene = scene();
    let found = kept(&scene).await;
    let end = Lifetime::Until(SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000));
    for _ in 0..50 {
        let keep = || scene.engine.keep(found.instance.id, end);
        let (one, other, third) = tokio::join!(keep(), keep(), keep());
        for outcome in [one, other, third] {
            outcome.expect("it is there");
        }
        let kept = scene.engine.get(found.instance.id).await.expect("an answer");
        assert_eq!(kept.expect("it is there").instance.lifetime, end);
    }
    scene.engine.remove(found.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_that_is_not_kept_yet_is_left_alone_while_its_creator_lives() {
    let scene = scene();
    let found = scene.create(scene.plain()).await;
    let other = scene.another_engine();
    for _ in 0..2 {
        assert_eq!(
            other.list().await.expect("a list"),
            std::slice::from_ref(&found.instance)
        );
    }
    connect_when_ready(&found).await;
    scene
        .engine
        .keep(found.instance.id, Lifetime::Unlimited)
        .await
        .expect("kept");
    scene.engine.remove(found.instance.id).await.expect("removed");
    let error = scene
        .engine
        .keep(found.instance.id, Lifetime::Unlimited)
        .await
        .expect_err("it has gone");
    assert!(matches!(error, EngineError::Gone), "{error}");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_drop_that_was_killed_half_way_is_completed_by_the_next_list() {
    let scene = scene();
    let other = scene.another_engine();
    for gone in [
        &["instance.json"][..],
        &["instance.json", "kept"],
        &["instance.json", "kept", "lock", "log"],
        &["instance.json", "kept", "data/global", "data/base", "data/PG_VERSION"],
        &["instance.json", "kept", "lock", "log", "cgroups", "data"],
    ] {
        let found = kept(&scene).await;
        let folder = scene.ground.folder(found.instance.id);
        for name in gone {
            let path = folder.join(name);
            if path.is_dir() {
                // The server may still write there.
                while fs::remove_dir_all(&path).is_err() {}
            } else if path.exists() {
                fs::remove_file(path).expect("removed");
            }
        }
        assert_eq!(other.list().await.expect("a list"), [], "{gone:?}");
        until("the rest is removed", || !folder.exists()).await;
    }
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_of_which_a_power_failure_left_an_empty_file_is_removed() {
    let scene = scene();
    let found = kept(&scene).await;
    let folder = scene.ground.folder(found.instance.id);
    scene.ground.kill(&found.instance).await;
    fs::write(folder.join("instance.json"), "").expect("emptied");
    assert_eq!(scene.engine.list().await.expect("a list"), []);
    until("the rest is removed", || !folder.exists()).await;
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_create_that_was_killed_half_way_is_undone_by_the_next_list() {
    let scene = scene();
    kept(&scene).await;
    let [whole] = &names_in(&scene.ground.state_dir().join("instances"))
        .into_iter()
        .collect::<Vec<_>>()[..]
    else {
        panic!("one instance");
    };
    let whole = whole.parse().expect("an id");
    // What there is after each step of a create.
    for there in [
        &[][..],
        &["lock"],
        &["lock", "data"],
        &["lock", "data", "instance.json"],
    ] {
        let folder = scene.ground.folder(scene.id());
        fs::create_dir(&folder).expect("a folder");
        for name in there {
            let (from, to) = (scene.ground.folder(whole).join(name), folder.join(name));
            if *name == "data" {
                fs::create_dir(&to).expect("a folder");
            } else {
                fs::copy(from, to).expect("a file");
            }
        }
        let listed = scene.engine.list().await.expect("a list");
        assert_eq!(
            listed.iter().map(|instance| instance.id).collect::<Vec<_>>(),
            [whole],
            "{there:?}"
        );
        until("the rest is removed", || !folder.exists()).await;
    }
    scene.engine.remove(whole).await.expect("removed");
    scene.assert_nothing_left().await;
}

/// A ground whose state directory is there already: a folder of this mode with a file in it.
fn given(mode: u32) -> LocalGround {
    let ground = LocalGround::new();
    let state = ground.state_dir();
    fs::create_dir(&state).expect("a folder");
    fs::write(state.join("theirs"), "").expect("a file");
    fs::set_permissions(&state, fs::Permissions::from_mode(mode)).expect("its mode");
    ground
}

/// What whoever owns a folder has decided.
fn decided(folder: &Path) -> (u32, u32, u32) {
    let metadata = folder.metadata().expect("a folder");
    (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
}

#[tokio::test]
async fn a_state_directory_that_others_may_write_to_is_refused_and_left_as_it_is() {
    for (mode, owner) in [(0o777, None), (0o1777, None), (0o775, None), (0o711, Some(65_534))] {
        if owner.is_some() && !is_root() {
            eprintln!("skipped: only root can give a folder away");
            continue;
        }
        let ground = given(mode);
        let state = ground.state_dir();
        std::os::unix::fs::chown(&state, owner, None).expect("given away");
        let before = (decided(&state), names_in(&state));
        let scene = Scene::on(Arc::new(ground));
        let listed = scene.engine.list().await;
        let prepared = scene.engine.prepare(&scene.ground.image(), &ProgressSink::none()).await;
        let created = scene
            .engine
            .create(
                scene.id(),
                &scene.plain(),
                &dev_postgres_mcp_tests::specs::owner(),
                any_port(),
                &ProgressSink::none(),
            )
            .await;
        for error in [
            listed.expect_err("refused"),
            prepared.expect_err("refused"),
            created.expect_err("refused"),
        ] {
            let EngineError::Unreachable { reason, advice, .. } = &error else {
                panic!("{error}");
            };
            assert!(reason.contains(&*state.to_string_lossy()), "{reason}");
            assert!(advice.contains("local.state_dir"), "{advice}");
        }
        assert_eq!((decided(&state), names_in(&state)), before, "{mode:o}");
        let lines = scene.engine.diagnose(&scene.ground.image()).await;
        assert!(
            lines
                .iter()
                .any(|line| line.subject == "state directory" && line.verdict == Verdict::Bad),
            "{lines:?}"
        );
    }
}

#[tokio::test]
async fn a_folder_that_has_other_uses_keeps_its_mode_and_owner_when_it_becomes_the_state_directory() {
    let scene = Scene::on(Arc::new(given(0o755)));
    let state = scene.ground.state_dir();
    let before = decided(&state);
    let found = kept(&scene).await;
    assert_eq!(decided(&state), before);
    for folder in ["instances", "templates"] {
        assert_eq!(mode(&state.join(folder)) & 0o007, 0, "{folder}");
    }
    scene.engine.remove(found.instance.id).await.expect("removed");
    assert!(state.join("theirs").exists());
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_state_directory_that_the_servers_user_cannot_pass_to_is_told_with_what_to_do() {
    if !is_root() {
        eprintln!("skipped: servers run as this user, who may pass");
        return;
    }
    let ground = LocalGround::new();
    let barrier = ground.home().join("closed");
    fs::create_dir(&barrier).expect("a folder");
    fs::set_permissions(&barrier, fs::Permissions::from_mode(0o700)).expect("its mode");
    let state = barrier.join("below").join("state");
    let scene = Scene::on(Arc::new(ground.with(|settings| settings.state_dir = Some(state))));
    let created = scene
        .engine
        .create(scene.id(), &scene.plain(), &owner(), any_port(), &ProgressSink::none())
        .await;
    let error = created.expect_err("it can't be passed");
    let EngineError::Unreachable { reason, advice, .. } = &error else {
        panic!("{error}");
    };
    assert!(
        reason.ends_with(&format!("may not pass {}", barrier.display())),
        "{reason}"
    );
    assert!(
        advice.contains("local.state_dir") && advice.contains("chmod o+x"),
        "{advice}"
    );
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_state_directory_or_a_user_that_is_not_there_is_told() {
    let nowhere = LocalGround::new().with(|settings| settings.state_dir = None);
    let nobody = LocalGround::new().with(|settings| settings.user = Some("no-such-user".into()));
    for (ground, setting, applies) in [(nowhere, "local.state_dir", true), (nobody, "local.user", is_root())] {
        let scene = Scene::on(Arc::new(ground));
        if !applies {
            eprintln!("skipped: only root goes by {setting}");
            continue;
        }
        let prepared = scene.engine.prepare(&scene.ground.image(), &ProgressSink::none()).await;
        let error = prepared.expect_err("it can't be used");
        let EngineError::Unreachable { advice, .. } = &error else {
            panic!("{error}");
        };
        assert!(advice.contains(setting), "{advice}");
    }
}

/// Notes each run.
const NOTE_INITDB: &str = "echo run >>\"$notes/initdb\"";

#[tokio::test]
async fn a_template_is_made_once_even_if_two_processes_need_it_at_once() {
    let scene = scripted(NOTE_INITDB, "");
    let other = scene.another_engine();
    let told = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&told);
    let progress = ProgressSink::new(move |step| note.lock().expect("no panic").push(step));
    let image = scene.ground.image();
    let (one, two) = tokio::join!(
        scene.engine.prepare(&image, &progress),
        other.prepare(&image, &progress)
    );
    one.expect("prepared");
    two.expect("prepared");
    let locales_tried = scene.ground.lines_of_note("initdb");
    let initialising = Progress::Initialising { version: "99.1".into() };
    assert!(told.lock().expect("no panic").iter().all(|step| *step == initialising));
    let (one, two) = tokio::join!(kept(&scene), kept_by(&scene, &other));
    for found in [one, two] {
        connect_when_ready(&found).await;
        scene.engine.remove(found.instance.id).await.expect("removed");
    }
    assert_eq!(
        scene.ground.lines_of_note("initdb"),
        locales_tried,
        "instances are copies"
    );
    // More than one run is for more than one locale: never for a second template.
    let locales = fs::read_to_string(scene.ground.notes().join("initdb")).expect("the note");
    assert!((1..=3).contains(&locales.lines().count()), "{locales}");
    assert_eq!(scene.ground.names_in("templates").len(), 2, "a template and its lock");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_template_that_nobody_finished_is_never_used() {
    let scene = scripted("echo \"$*\" >>\"$notes/initdb\"", "");
    scene
        .engine
        .prepare(&scene.ground.image(), &ProgressSink::none())
        .await
        .expect("prepared");
    let runs = scene.ground.lines_of_note("initdb");
    let template = scene.ground.template();
    let unfinished = template.with_extension("new");
    fs::rename(&template, &unfinished).expect("as before its last step");
    fs::write(unfinished.join("data").join("PG_VERSION"), "damaged").expect("damaged");
    let found = kept_by(&scene, &scene.another_engine()).await;
    connect_when_ready(&found).await;
    assert_eq!(scene.ground.lines_of_note("initdb"), 2 * runs, "another was made");
    assert!(!unfinished.exists() && template.is_dir());

    // Nor one that doesn't say what it is.
    for description in ["", "{", "{}"] {
        fs::write(template.join("template.json"), description).expect("damaged");
        scene
            .engine
            .prepare(&scene.ground.image(), &ProgressSink::none())
            .await
            .expect("prepared");
    }
    assert_eq!(scene.ground.lines_of_note("initdb"), 5 * runs);
    scene.engine.remove(found.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_template_that_goes_right_before_it_is_copied_is_made_again() {
    let scene = scripted(NOTE_INITDB, "");
    let templates = scene.ground.state_dir().join("templates");
    let pruned = ProgressSink::new(move |step| {
        // Told when there is a template, before it is copied.
        if step == Progress::Creating {
            let folders = names_in(&templates).into_iter().map(|name| templates.join(name));
            for folder in folders.filter(|path| path.is_dir()) {
                fs::remove_dir_all(folder).expect("removed");
            }
        }
    });
    let (id, spec) = (scene.id(), scene.plain());
    let created = scene.engine.create(id, &spec, &owner(), any_port(), &pruned).await;
    let found = created.expect("created").found;
    connect_when_ready(&found).await;
    let runs = scene.ground.lines_of_note("initdb");
    assert!(runs >= 2 && runs.is_multiple_of(2), "it was made twice: {runs}");
    assert!(scene.engine.remove(id).await.expect("removed"));
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_lock_that_somebody_never_gives_up_fails_whoever_waits_for_it_in_time() {
    let ground = LocalGround::new().with(|settings| settings.ready_timeout = Duration::from_millis(200));
    let scene = Scene::on(Arc::new(ground));
    let (image, nobody) = (scene.ground.image(), ProgressSink::none());
    scene.engine.prepare(&image, &nobody).await.expect("prepared");
    let template = scene.ground.template();
    let lock = |path: &Path| {
        let lock = fs::File::options().create(true).append(true).open(path);
        let lock = lock.expect("a file");
        lock.lock().expect("nobody else has it");
        lock
    };
    let create = async || {
        let (id, spec) = (scene.id(), scene.plain());
        let created = scene.engine.create(id, &spec, &owner(), any_port(), &nobody).await;
        created.expect_err("it can't be made")
    };
    let assert_waited = |error: &EngineError, wanted: &str| {
        assert!(
            matches!(error, EngineError::TimedOut { verb, .. } if *verb == wanted),
            "{error}"
        );
    };

    let held = lock(&scene.ground.state_dir().join("lock"));
    assert_waited(&create().await, "locking the state directory");
    drop(held);
    let _held = lock(&template.with_extension("lock"));
    let for_template = "waiting for a template that another process makes";
    assert_waited(&create().await, for_template);
    fs::remove_dir_all(&template).expect("removed");
    let prepared = scene.engine.prepare(&image, &nobody).await;
    assert_waited(&prepared.expect_err("it can't be made"), for_template);
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn another_build_of_the_same_version_has_a_template_of_its_own() {
    let scene = scripted(NOTE_INITDB, "");
    let found = kept(&scene).await;
    let runs = scene.ground.lines_of_note("initdb");
    scene.ground.say_version("99.1 (rebuilt)");
    let rebuilt = kept_by(&scene, &scene.another_engine()).await;
    assert_eq!(scene.ground.lines_of_note("initdb"), 2 * runs, "another was made");
    for found in [found, rebuilt] {
        connect_when_ready(&found).await;
        scene.engine.remove(found.instance.id).await.expect("removed");
    }
    assert_eq!(scene.ground.names_in("templates").len(), 2, "and the other one is gone");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_initdb_that_fails_is_quoted_and_leaves_nothing() {
    let scene = scripted(
        "echo \"$*\" >>\"$notes/initdb\"\necho 'initdb: error: no such luck' >&2\nexit 1",
        "",
    );
    let prepared = scene.engine.prepare(&scene.ground.image(), &ProgressSink::none()).await;
    let created = scene
        .engine
        .create(scene.id(), &scene.plain(), &owner(), any_port(), &ProgressSink::none())
        .await;
    for error in [prepared.expect_err("it failed"), created.expect_err("it failed")] {
        assert!(matches!(error, EngineError::Request { .. }), "{error}");
        assert!(
            error.to_string().ends_with("says: initdb: error: no such luck"),
            "{error}"
        );
    }
    assert_eq!(scene.ground.lines_of_note("initdb"), 2, "no other locale helps here");
    // What was half-made is removed in the background.
    scene.assert_nothing_left().await;
    let templates = scene.ground.state_dir().join("templates");
    assert!(
        names_in(&templates).iter().all(|name| !templates.join(name).is_dir()),
        "{:?}",
        names_in(&templates)
    );
}

#[tokio::test]
async fn a_machine_with_no_locale_but_c_will_do() {
    let only_c =
        "case \" $* \" in *' --locale C '*) ;; *) echo 'initdb: error: invalid locale name' >&2; exit 1;; esac";
    let scene = scripted(only_c, "");
    let found = scene.create(scene.spec("ü", "me", "secret")).await;
    let client = connect_when_ready(&found).await;
    assert_eq!(text(&client, "SHOW server_encoding").await, "UTF8");
    assert_eq!(
        text(&client, "SELECT datcollate::text FROM pg_database WHERE datname = 'ü'").await,
        "C"
    );
    scene.engine.remove(found.instance.id).await.expect("removed");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_link_in_a_template_is_not_followed() {
    let scene = scene();
    scene
        .engine
        .prepare(&scene.ground.image(), &ProgressSink::none())
        .await
        .expect("prepared");
    let secret = scene.ground.home().join("secret");
    fs::write(&secret, "for root alone").expect("a file");
    let templates = scene.ground.state_dir().join("templates");
    for name in names_in(&templates).iter().filter(|name| templates.join(name).is_dir()) {
        symlink(&secret, templates.join(name).join("data").join("planted")).expect("a link");
    }
    let created = scene
        .engine
        .create(scene.id(), &scene.plain(), &owner(), any_port(), &ProgressSink::none())
        .await;
    let error = created.expect_err("it is no file");
    assert!(error.to_string().contains("planted"), "{error}");
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_initdb_whose_program_was_killed_ends_with_the_next_command() {
    // Slow enough to be met at work.
    let scene = scripted("echo run >>\"$notes/initdb\"\nsleep 1", "");
    let kill_a_create_at_initdb = async || {
        let runs = scene.ground.lines_of_note("initdb");
        let mut create = Running::start(&mut scene.ground.environment().command(["postgres", "create"]));
        until("initdb runs", || scene.ground.lines_of_note("initdb") > runs).await;
        create.kill();
    };
    kill_a_create_at_initdb().await;
    assert!(scene.ground.environment().run(&["postgres", "list"]).status.success());
    let left = scene.ground.everything_left(&BTreeSet::new());
    assert!(left.is_empty(), "{left:?}");

    // One that still runs is in nobody's way.
    kill_a_create_at_initdb().await;
    let created = scene.ground.environment().run(&["-o", "json", "postgres", "create"]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let created: Value = serde_json::from_slice(&created.stdout).expect("JSON");
    let dsn = created["dsn"].as_str().expect("a DSN");
    drop(
        tokio_postgres::connect(dsn, tokio_postgres::NoTls)
            .await
            .expect("the DSN connects"),
    );
    let dropped = scene
        .ground
        .environment()
        .run(&["postgres", "drop", created["id"].as_str().expect("an id")]);
    assert!(dropped.status.success());
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_server_that_ends_at_once_is_told_with_its_last_words_and_leaves_nothing() {
    let scene = scripted("", "echo 'LOG:  hello' >&2\necho 'FATAL:  no such luck' >&2\nexit 3");
    let created = scene
        .engine
        .create(scene.id(), &scene.plain(), &owner(), any_port(), &ProgressSink::none())
        .await;
    let error = created.expect_err("it ended");
    let expected = Ended {
        how: "exited with code 3".into(),
        last_lines: vec!["LOG:  hello".into(), "FATAL:  no such luck".into()],
    };
    assert!(
        matches!(&error, EngineError::Ended(ended) if *ended == expected),
        "{error}"
    );
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_server_that_is_never_ready_is_given_up_in_time_and_leaves_nothing() {
    let ground = LocalGround::new().with_scripts("", "while :; do sleep 0.02; done");
    let patience = Duration::from_millis(300);
    let scene = Scene::on(Arc::new(ground.with(|settings| settings.ready_timeout = patience)));
    scene
        .engine
        .prepare(&scene.ground.image(), &ProgressSink::none())
        .await
        .expect("prepared");
    let created = scene
        .engine
        .create(scene.id(), &scene.plain(), &owner(), any_port(), &ProgressSink::none())
        .await;
    let error = created.expect_err("it never answers");
    assert!(
        matches!(error, EngineError::TimedOut { after, .. } if after == patience),
        "{error}"
    );
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn a_port_that_somebody_takes_at_the_last_moment_is_said_to_be_taken_and_leaves_nothing() {
    let waits = ": >\"$2/waiting\"\nwhile [ ! -e \"$notes/go\" ]; do sleep 0.02; done";
    let scene = scripted("", waits);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let number = listener.local_addr().expect("the port").port();
    drop(listener);
    let (id, spec, port) = (scene.id(), scene.plain(), Port::try_from(number).expect("a port"));
    let engine = Arc::clone(&scene.engine);
    let create = tokio::spawn(async move { engine.create(id, &spec, &owner(), port, &ProgressSink::none()).await });
    until("the server is about to start", || {
        scene.ground.data(id).join("waiting").exists()
    })
    .await;
    let _taken = TcpListener::bind(("127.0.0.1", number))
        .await
        .expect("the port is still free");
    fs::write(scene.ground.notes().join("go"), "").expect("a note");
    let error = create.await.expect("no panic").expect_err("it is taken");
    assert!(
        matches!(error, EngineError::PortTaken(taken) if taken == port),
        "{error}"
    );
    scene.assert_nothing_left().await;
}

#[tokio::test]
async fn an_instance_that_another_process_removes_while_it_is_made_is_gone_for_both() {
    let waits = ": >\"$2/waiting\"\nwhile [ ! -e \"$notes/go\" ]; do sleep 0.02; done";
    let scene = scripted("", waits);
    let (id, spec, engine) = (scene.id(), scene.plain(), Arc::clone(&scene.engine));
    let create = tokio::spawn(async move {
        engine
            .create(id, &spec, &owner(), any_port(), &ProgressSink::none())
            .await
    });
    until("the server is about to start", || {
        scene.ground.data(id).join("waiting").exists()
    })
    .await;
    assert!(scene.another_engine().remove(id).await.expect("removed"));
    fs::write(scene.ground.notes().join("go"), "").expect("a note");
    create.await.expect("no panic").expect_err("it was removed");
    assert!(scene.engine.get(id).await.expect("an answer").is_none());
    scene.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_instance_is_there_at_every_moment_while_it_is_being_kept() {
    let scene = scene();
    for _ in 0..8 {
        let id = scene.create(scene.plain()).await.instance.id;
        let looking: Vec<_> = (0..4)
            .map(|_| {
                let engine = Arc::clone(&scene.engine);
                tokio::spawn(async move {
                    let mut is_there = true;
                    for _ in 0..40 {
                        is_there &= engine.get(id).await.expect("an answer").is_some();
                    }
                    is_there
                })
            })
            .collect();
        scene.engine.keep(id, Lifetime::Unlimited).await.expect("kept");
        for look in looking {
            assert!(look.await.expect("it looks"), "it was gone for a moment");
        }
        assert!(scene.engine.remove(id).await.expect("an answer"));
    }
    scene.assert_nothing_left().await;
}
