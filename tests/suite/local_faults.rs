//! What may befall a machine while the local engine makes an instance: its disk is full, PostgreSQL's programs go, the
//! kernel ends a server. Each create ends with the cause and leaves nothing, and the next one succeeds without a restart.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dev_postgres_mcp::engine::local::is_root;
use dev_postgres_mcp::instance::InstanceId;
use dev_postgres_mcp_tests::binary::{TestEnvironment, limits_hold};
use dev_postgres_mcp_tests::local;
use dev_postgres_mcp_tests::local_engine::{LocalGround, names_in};
use dev_postgres_mcp_tests::scene::{Ground as _, any_port};
use dev_postgres_mcp_tests::session::Session;
use serde_json::{Value, json};
use tokio_postgres::NoTls;

/// How long what is undone in the background may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause between two looks at whether it is undone.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause between two looks at which instances are begun: each is there for longer.
const WATCH_PAUSE: Duration = Duration::from_millis(1);
/// A disk's size on which all has room, in KiB.
const ROOMY_KIB: u64 = 400 << 10;
/// How a full disk is named, in small letters: by the system, and by PostgreSQL, which has only the code for it where half
/// a page still fitted.
const FULL: [&str; 3] = ["no space left on device", "check free disk space", "sqlstate 53100"];

/// Ends a server, as the note `strike` says: before it is PostgreSQL, while it starts, or by its limit of memory. What it
/// may address spares a machine whose limits turn out not to hold.
const STRIKES: &str = "case \"$(cat \"$notes/strike\" 2>/dev/null)\" in
at-once) kill -9 $$ ;;
starting) (until [ -s \"$2/postmaster.pid\" ]; do :; done; kill -9 $$) & ;;
eating)
    until grep -Eq 'memory.*dev-postgres-mcp-|^0::.*dev-postgres-mcp-' /proc/self/cgroup; do sleep 0.02; done
    ulimit -v 1000000
    exec tail /dev/zero ;;
esac";

/// A disk of a test's own, where a ground keeps its state. It goes before the ground's home does.
struct Disk {
    place: PathBuf,
    _home: TestEnvironment,
}

impl Disk {
    /// `None` where this machine doesn't let us have one; that is printed.
    fn mount(ground: &LocalGround) -> Option<Self> {
        if !is_root() {
            eprintln!("skipped: nobody but root has a disk of their own");
            return None;
        }
        let place = ground.state_dir();
        fs::create_dir(&place).expect("a folder");
        let options = format!("size={ROOMY_KIB}k,mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&place)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: this machine gives nobody a disk of their own");
            return None;
        }
        Some(Self {
            place,
            _home: ground.environment(),
        })
    }

    fn resize(&self, kib: u64) {
        let resized = Command::new("mount")
            .args(["-o", &format!("remount,size={kib}k")])
            .arg(&self.place)
            .status();
        assert!(resized.expect("mount runs").success(), "{kib} KiB");
    }

    fn used_kib(&self) -> u64 {
        first_number(Command::new("df").args(["--output=used", "-k"]).arg(&self.place))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // After a test that failed somebody may still be at work there.
        local::end_processes_in(&self.place);
        let _ = Command::new("umount").arg("--lazy").arg(&self.place).status();
    }
}

/// The number that the last line of what a command prints begins with.
fn first_number(command: &mut Command) -> u64 {
    let output = command.output().expect("it runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    let line = printed.lines().next_back().unwrap_or_default();
    let number = line.split_whitespace().next().expect("a word");
    number.parse().expect("a number")
}

/// Notes which instances have a folder at any moment from now on: nobody is told the id of one that comes to nothing.
struct Watch {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<BTreeSet<InstanceId>>>,
}

impl Watch {
    fn begin(ground: &LocalGround) -> Self {
        let folder = ground.state_dir().join("instances");
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !told.load(Ordering::Relaxed) {
                let names = names_in(&folder);
                seen.extend(names.iter().filter_map(|name| name.parse::<InstanceId>().ok()));
                std::thread::sleep(WATCH_PAUSE);
            }
            seen
        });
        Self {
            done,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> BTreeSet<InstanceId> {
        self.done.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("no panic")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// Both ways to an instance: a server that goes on, and a command each time.
struct Desk {
    session: Session,
    environment: TestEnvironment,
    ground: LocalGround,
}

impl Desk {
    async fn new(ground: LocalGround, memory_mib: u32) -> Self {
        // Two ports: creates that failed and kept theirs would leave none.
        let first = any_port().get();
        let environment = ground
            .environment()
            .with("DEV_POSTGRES_MCP_INSTANCE_PORTS", format!("{first}-{}", first + 1))
            .with("DEV_POSTGRES_MCP_INSTANCE_MEMORY_MIB", memory_mib.to_string());
        let session = Session::initialized(&environment, &["--log-level", "debug"]).await;
        Self {
            session,
            environment,
            ground,
        }
    }

    /// What a client asks for: this very version, for without its programs another one would do.
    fn wanted(&self) -> Value {
        json!({ "version": self.ground.image().version(), "database": "app" })
    }

    /// Asks for an instance in either way, in vain, and sees that nothing is left. What the client and the command were
    /// told, and what was begun for them.
    async fn fail(&mut self) -> ([Value; 2], BTreeSet<InstanceId>) {
        let wanted = self.wanted();
        let watch = Watch::begin(&self.ground);
        let client_told = self.session.fail("create_postgres_instance", wanted).await;
        let mut begun = watch.end();
        until_nothing_left(&self.ground, &begun).await;

        let image = self.ground.image();
        let watch = Watch::begin(&self.ground);
        let version = ["--version", image.version()];
        let create = ["-o", "json", "postgres", "create", "--database", "app"];
        let output = self.environment.run(&[&create[..], &version].concat());
        begun.extend(watch.end());
        until_nothing_left(&self.ground, &begun).await;
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{printed}");
        let error = printed.lines().find(|line| line.starts_with("{\"error\""));
        let command_told: Value = serde_json::from_str(error.expect("an error")).expect("JSON");
        ([client_told, command_told["error"].clone()], begun)
    }

    /// Makes an instance in either way and drops it again.
    async fn succeed(&mut self) {
        let wanted = self.wanted();
        let created = self.session.succeed("create_postgres_instance", wanted).await;
        assert_answers(&created).await;
        let id = created["id"].as_str().expect("an id");
        self.session
            .succeed("drop_postgres_instance", json!({ "id": id }))
            .await;
        let mut made: BTreeSet<InstanceId> = BTreeSet::from([id.parse().expect("an id")]);

        let version = self.ground.image().version().to_owned();
        let create = ["postgres", "create", "--database", "app", "--version", &version];
        let created = self.environment.json(&create);
        assert_answers(&created).await;
        let id = created["id"].as_str().expect("an id");
        self.environment.json(&["postgres", "drop", id]);
        made.insert(id.parse().expect("an id"));
        until_nothing_left(&self.ground, &made).await;
    }

    /// The server has gone on all the while, and ends in peace.
    async fn end(self) {
        let remains = self.session.end().await;
        assert!(remains.status.success(), "{remains:?}");
        assert!(!remains.log.contains("panicked"), "{}", remains.log);
        until_nothing_left(&self.ground, &BTreeSet::new()).await;
    }

    /// The folders of all templates.
    fn templates(&self) -> Vec<PathBuf> {
        let folder = self.ground.state_dir().join("templates");
        let paths = names_in(&folder).into_iter().map(|name| folder.join(name));
        paths.filter(|path| path.is_dir()).collect()
    }
}

async fn assert_answers(instance: &Value) {
    let dsn = instance["dsn"].as_str().expect("a DSN");
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("the DSN connects");
    let connection = tokio::spawn(connection);
    let answer: String = client.query_one("SELECT 'here'", &[]).await.expect("a row").get(0);
    assert_eq!(answer, "here");
    drop(client);
    // It ends with the client; whatever it says then.
    let _ = connection.await;
}

async fn until_nothing_left(ground: &LocalGround, made: &BTreeSet<InstanceId>) {
    let begun = Instant::now();
    loop {
        let left = ground.everything_left(made);
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "left: {left:#?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The client and the command were told these codes, and one of these causes, in small letters.
fn assert_told(told: &[Value; 2], codes: [&str; 2], causes: &[&str]) {
    for (error, code) in told.iter().zip(codes) {
        eprintln!("{error}");
        assert_eq!(error["code"], code, "{error}");
        let message = error["message"].as_str().expect("text").to_lowercase();
        assert!(causes.iter().any(|cause| message.contains(cause)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_on_a_full_disk_says_so_and_leaves_nothing_and_the_next_one_succeeds_when_there_is_room() {
    let ground = LocalGround::new();
    let Some(partition) = Disk::mount(&ground) else {
        return;
    };
    let mut desk = Desk::new(ground, 512).await;
    // With no template yet: for nothing that initdb makes, and for what it makes but not for the copy that is kept of it.
    for kib in [8 << 10, 56 << 10] {
        for template in desk.templates() {
            fs::remove_dir_all(template).expect("removed");
        }
        partition.resize(kib);
        let (told, _) = desk.fail().await;
        assert_told(&told, ["failed"; 2], &FULL);
        partition.resize(ROOMY_KIB);
        desk.succeed().await;
    }
    // With one: for nothing, for a part of its copy, and for all of that but not for the database.
    let template = desk.templates().pop().expect("a template").join("data");
    let copy_kib = first_number(Command::new("du").arg("-sk").arg(&template));
    for kib in [0, copy_kib / 2, copy_kib + 1024] {
        partition.resize(partition.used_kib() + kib);
        let (told, begun) = desk.fail().await;
        assert_told(&told, ["failed"; 2], &FULL);
        assert!(kib <= copy_kib || begun.len() == 2, "its server was there: {begun:?}");
        partition.resize(ROOMY_KIB);
        desk.succeed().await;
    }
    desk.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_whose_programs_have_gone_says_so_and_leaves_nothing_and_the_next_one_succeeds_when_they_are_back() {
    let mut desk = Desk::new(LocalGround::new().with_scripts("", ""), 512).await;
    let (programs, away) = (desk.ground.home().join("bin"), desk.ground.home().join("away"));
    let not_installed = "postgresql 99 is not installed here";
    desk.succeed().await;
    for gone in [programs.join("postgres"), programs.join("initdb"), programs.clone()] {
        fs::rename(&gone, &away).expect("it goes");
        let (told, begun) = desk.fail().await;
        assert_told(&told, ["unavailable"; 2], &[not_installed]);
        assert_eq!(begun, BTreeSet::new(), "without {}", gone.display());
        fs::rename(&away, &gone).expect("it comes back");
        desk.succeed().await;
    }

    // As one that goes right before it is started: a server that goes on knows its version already, and a command asks it.
    let postgres = programs.join("postgres").canonicalize().expect("it is there");
    let path = postgres.display().to_string().to_lowercase();
    let set_mode = |mode| fs::set_permissions(&postgres, fs::Permissions::from_mode(mode)).expect("its mode");
    set_mode(0o644);
    let (told, _) = desk.fail().await;
    for cause in ["starting postgresql failed", "permission denied", &path] {
        assert_told(&told, ["failed", "unavailable"], &[cause, not_installed]);
    }
    set_mode(0o755);
    desk.succeed().await;
    desk.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_whose_server_is_killed_says_so_and_leaves_nothing_and_the_next_one_succeeds() {
    // As little memory as can be, which is eaten soon.
    let mut desk = Desk::new(LocalGround::new().with_scripts("", STRIKES), 128).await;
    let strike = desk.ground.notes().join("strike");
    let killed = "postgresql ended before it answered: it was killed by signal 9";
    desk.succeed().await;
    for moment in ["at-once", "starting", "eating"] {
        if moment == "eating" && !limits_hold() {
            eprintln!("skipped: this machine lets nobody limit what local instances take");
            continue;
        }
        fs::write(&strike, moment).expect("a note");
        let (told, begun) = desk.fail().await;
        assert_told(&told, ["failed"; 2], &[killed]);
        assert_eq!(begun.len(), 2, "{moment}: {begun:?}");
        fs::remove_file(&strike).expect("it was there");
        desk.succeed().await;
    }
    desk.end().await;
}
