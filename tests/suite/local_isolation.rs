//! What SQL in a local instance can't reach, whoever runs it there: other instances, and what their common user has.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use dev_postgres_mcp::engine::Verdict;
use dev_postgres_mcp::instance::Found;
use dev_postgres_mcp_tests::database::connect_when_ready;
use dev_postgres_mcp_tests::local_engine::LocalGround;
use dev_postgres_mcp_tests::scene::{Ground as _, Scene};
use tokio::net::TcpListener;
use tokio_postgres::Client;

/// An instance, whose superuser tries to reach another one of the same user.
struct Cell {
    scene: Scene<LocalGround>,
    own: Found,
    client: Client,
    other: Found,
}

impl Cell {
    /// `None` where the kernel doesn't do all of it; that is printed.
    async fn new() -> Option<Self> {
        let scene = Scene::on(Arc::new(LocalGround::new()));
        let told = scene.engine.diagnose(&scene.ground.image()).await;
        let isolation = told
            .iter()
            .find(|told| told.subject == "isolation")
            .expect("doctor tells");
        if isolation.verdict != Verdict::Good {
            eprintln!("skipped: {}", isolation.detail);
            return None;
        }
        let (own, other) = tokio::join!(scene.create(scene.plain()), scene.create(scene.plain()));
        let client = connect_when_ready(&own).await;
        let can = "CREATE TABLE said (line text); CREATE EXTENSION dblink";
        client.batch_execute(can).await.expect("a superuser may");
        Some(Self {
            scene,
            own,
            client,
            other,
        })
    }

    /// What PostgreSQL says to it.
    async fn refusal(&self, sql: &str) -> String {
        let error = self.client.batch_execute(sql).await.expect_err(sql);
        error
            .as_db_error()
            .expect("PostgreSQL itself says so")
            .message()
            .to_owned()
    }

    /// What a program that SQL starts prints, errors included.
    async fn output(&self, program: &str) -> String {
        let run = format!("TRUNCATE said; COPY said FROM PROGRAM $${program} 2>&1 || true$$ (DELIMITER E'\\x01')");
        self.client.batch_execute(&run).await.expect(program);
        let row = self
            .client
            .query_one("SELECT coalesce(string_agg(line, '\n'), '') FROM said", &[])
            .await;
        row.expect("a row").get(0)
    }

    async fn connects(&self, host: &Path, port: u16) -> Result<(), String> {
        let instance = &self.own.instance;
        let to = format!(
            "host={} port={port} dbname={} user={} password={} connect_timeout=5",
            host.display(),
            instance.database.as_str(),
            instance.username.as_str(),
            self.own.password.expose(),
        );
        let connected = self
            .client
            .query("SELECT * FROM dblink($1, 'SELECT 1') AS t(n int)", &[&to])
            .await;
        connected.map(drop).map_err(|error| {
            let error = error.as_db_error().expect("PostgreSQL itself says so");
            format!("{}: {}", error.message(), error.detail().unwrap_or_default())
        })
    }

    async fn end(self) {
        for found in [&self.own, &self.other] {
            self.scene.engine.remove(found.instance.id).await.expect("removed");
        }
        self.scene.assert_nothing_left().await;
    }
}

#[tokio::test]
async fn it_reads_and_writes_its_own_data_and_no_other_instances_nor_its_users_files() {
    let Some(cell) = Cell::new().await else { return };
    let ground = &cell.scene.ground;
    let (own, other) = (ground.data(cell.own.instance.id), ground.data(cell.other.instance.id));
    let secret = ground.home().join("secret");
    fs::write(&secret, "hush").expect("a file");
    fs::set_permissions(&secret, Permissions::from_mode(0o666)).expect("a file for everybody");

    let refused = |message: &str| message.ends_with("Permission denied");
    for path in [other.join("PG_VERSION"), other.join("postgresql.conf"), secret.clone()] {
        let path = path.display();
        for sql in [
            format!("SELECT pg_read_file('{path}')"),
            format!("COPY said FROM '{path}'"),
        ] {
            let message = cell.refusal(&sql).await;
            assert!(refused(&message), "{sql}: {message}");
        }
        let said = cell.output(&format!("cat {path}")).await;
        assert!(refused(&said), "{path}: {said}");
    }
    for change in ["chmod 0", "chown :65534"] {
        let said = cell.output(&format!("{change} {}", other.display())).await;
        assert!(refused(&said), "{change}: {said}");
    }
    for path in [other.join("planted"), ground.home().join("planted")] {
        let message = cell.refusal(&format!("COPY said TO '{}'", path.display())).await;
        assert!(refused(&message), "{message}");
        assert!(!path.exists(), "{}", path.display());
    }
    for folder in [&other, &ground.folder(cell.own.instance.id), &ground.state_dir()] {
        let message = cell.refusal(&format!("SELECT pg_ls_dir('{}')", folder.display())).await;
        assert!(refused(&message), "{message}");
    }

    let planted = own.join("planted").display().to_string();
    let own_files = format!("COPY (SELECT 'mine') TO '{planted}'; COPY said FROM '{planted}'");
    cell.client.batch_execute(&own_files).await.expect("its own data");
    let temporary = cell.output("mktemp").await;
    assert!(Path::new(&temporary).starts_with(&own), "{temporary}");
    cell.end().await;
}

#[tokio::test]
async fn it_connects_to_its_own_port_and_to_no_other_nor_to_a_unix_socket() {
    let Some(cell) = Cell::new().await else { return };
    let loopback = Path::new("127.0.0.1");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    // As Docker's and the desktop's are.
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join(".s.PGSQL.5432");
    let unix = UnixListener::bind(&socket).expect("a socket");
    unix.set_nonblocking(true).expect("it needn't wait");
    for (path, mode) in [(folder.path(), 0o755), (&socket, 0o777)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("for everybody");
    }
    cell.connects(loopback, cell.own.instance.port.get())
        .await
        .expect("its own port");
    let elsewhere = listener.local_addr().expect("its address").port();
    for port in [cell.other.instance.port.get(), elsewhere] {
        let told = cell.connects(loopback, port).await.expect_err("out of reach");
        assert!(told.contains("Permission denied"), "{port}: {told}");
    }
    cell.connects(folder.path(), 5432).await.expect_err("out of reach");
    let came = unix.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(came, Err(ErrorKind::WouldBlock), "nobody came");
    cell.end().await;
}

#[tokio::test]
async fn nothing_that_leads_around_what_is_denied_is_left_to_it() {
    if Command::new("perl").arg("-v").output().is_err() {
        eprintln!("skipped: there is no perl to make such system calls");
        return;
    }
    let Some(cell) = Cell::new().await else { return };
    let other = cell.other.instance.port;
    let mut ways = vec![
        // MPTCP, which any TCP port answers to.
        "socket(S, PF_INET, SOCK_STREAM, 262)".to_owned(),
        // TCP Fast Open.
        format!(
            "socket(S, PF_INET, SOCK_STREAM, 0) && \
             send(S, \"x\", 0x20000000, pack_sockaddr_in({other}, inet_aton(\"127.0.0.1\")))"
        ),
        "socketpair(S, T, PF_UNIX, SOCK_DGRAM, 0)".to_owned(),
    ];
    if cfg!(target_arch = "x86_64") {
        ways.extend(
            [
                // A Unix socket for a program of the x32 kind, the session's keyring, the limits of this very process.
                "syscall(0x40000029, 1, 1, 0) >= 0",
                "syscall(250, 0, -3, 0) >= 0",
                &format!("syscall(302, {}, 0, 0, 0) >= 0", std::process::id()),
            ]
            .map(str::to_owned),
        );
    }
    for way in ways {
        let program = format!("perl -MSocket -e 'print(({way}) ? \"it can\" : \"$!\")'");
        assert_eq!(cell.output(&program).await, "Permission denied", "{way}");
    }
    cell.end().await;
}

#[tokio::test]
async fn it_ends_its_own_processes_and_no_other() {
    let Some(cell) = Cell::new().await else { return };
    let other = cell.scene.ground.postmaster(cell.other.instance.id);
    let us = std::process::id();
    for process in [other, us] {
        let said = cell.output(&format!("kill -9 {process}")).await;
        assert!(said.contains("not permitted"), "{said}");
        let environment = cell.output(&format!("cat /proc/{process}/environ")).await;
        assert!(environment.ends_with("Permission denied"), "{environment}");
    }
    let another = connect_when_ready(&cell.own).await;
    let ended = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let ended = cell.client.query_one(ended, &[]).await.expect("a row");
    assert!(ended.get::<_, bool>(0), "it ends its own");
    another.query("SELECT 1", &[]).await.expect_err("it has ended");
    connect_when_ready(&cell.other).await;
    cell.end().await;
}

#[tokio::test]
async fn what_postgresql_itself_does_still_works_but_for_tablespaces_elsewhere() {
    let Some(cell) = Cell::new().await else { return };
    let able = "ALTER SYSTEM SET work_mem = '5MB';
                SET allow_in_place_tablespaces = on;
                CREATE EXTENSION pg_stat_statements;
                CREATE TABLE many AS SELECT n, repeat('x', 100) AS filler FROM generate_series(1, 200000) AS n;
                SET debug_parallel_query = on;
                SET jit_above_cost = 0;
                SET max_parallel_workers_per_gather = 2;
                SELECT count(DISTINCT filler || n) FROM many;
                CREATE INDEX ON many (filler, n);
                CLUSTER many USING many_filler_n_idx;
                SELECT lo_from_bytea(4242, 'mine');
                SELECT lo_export(4242, 'exported');
                CREATE COLLATION german (provider = icu, locale = 'de-DE');
                SELECT now() AT TIME ZONE 'Europe/Berlin';
                CHECKPOINT";
    for statement in able.split(';') {
        let done = cell.client.batch_execute(statement).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    for alone in [
        "CREATE TABLESPACE near LOCATION ''",
        "CREATE DATABASE copy TABLESPACE near",
        "VACUUM FULL many",
    ] {
        let done = cell.client.batch_execute(alone).await;
        done.unwrap_or_else(|error| panic!("{alone}: {error:?}"));
    }
    let reloaded = cell
        .client
        .query_one("SELECT pg_reload_conf()", &[])
        .await
        .expect("a row");
    assert!(reloaded.get::<_, bool>(0));
    let elsewhere = cell.scene.ground.data(cell.own.instance.id).join("elsewhere");
    cell.output(&format!("mkdir {}", elsewhere.display())).await;
    let told = cell
        .refusal(&format!("CREATE TABLESPACE far LOCATION '{}'", elsewhere.display()))
        .await;
    assert!(told.ends_with("Permission denied"), "{told}");
    cell.end().await;
}
