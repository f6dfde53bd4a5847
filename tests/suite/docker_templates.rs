//! Instances that start from a template of their image, on the real daemon: they are what the image itself would have
//! made, and images that can't be templates still work.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use dev_postgres_mcp::engine::docker::{DockerEngine, DockerSettings};
use dev_postgres_mcp::engine::{Engine, EngineError, Pruned};
use dev_postgres_mcp::instance::{Found, Image, InstanceId, InstanceSpec, Port, Progress, ProgressSink};
use dev_postgres_mcp::owner::Owners;
use dev_postgres_mcp_tests::binary::{TestEngine, TestEnvironment};
use dev_postgres_mcp_tests::database::connect_when_ready;
use dev_postgres_mcp_tests::docker_cli::{docker, try_docker};
use dev_postgres_mcp_tests::specs::{owner, spec};
use rand::RngExt;
use rstest::rstest;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio_postgres::Client;
use tokio_util::task::TaskTracker;

/// How long a server that was started by hand may take.
const PATIENCE: Duration = Duration::from_mins(1);

fn engine() -> DockerEngine {
    DockerEngine::new(DockerSettings::default(), Owners::new(None), TaskTracker::new())
}

/// A port beyond the range that instances have by default and below those that the system gives to clients.
fn any_port() -> Port {
    Port::try_from(rand::rng().random_range(25_433..32_768)).expect("a port")
}

async fn create(engine: &DockerEngine, wanted: &InstanceSpec) -> Found {
    engine
        .prepare(&wanted.image, &ProgressSink::none())
        .await
        .expect("the image can be used");
    let created = engine
        .create(
            InstanceId::random(),
            wanted,
            &owner(),
            any_port(),
            &ProgressSink::none(),
        )
        .await;
    created.expect("an instance").found
}

/// Builds an image on `postgres:17`.
async fn build_image(reference: &str, lines: &str) {
    let mut build = Command::new("docker")
        .args(["build", "--quiet", "--force-rm", "--tag", reference, "-"])
        // The builder that every engine has by itself.
        .env("DOCKER_BUILDKIT", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("docker can be run");
    let text = format!("FROM postgres:17\n{lines}\n");
    let mut input = build.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).await.expect("docker reads");
    drop(input);
    assert!(build.wait().await.expect("it ends").success(), "the image is built");
}

/// An image of this test's own, built on `postgres:17` and removed at the end, its template included.
struct OwnImage {
    image: Image,
}

impl OwnImage {
    async fn build(lines: &str) -> Self {
        let repository = format!("dev-postgres-mcp-test-{}", InstanceId::random());
        let lines = format!("LABEL test={repository}\n{lines}");
        build_image(&format!("{repository}:17"), &lines).await;
        Self {
            image: Image::new(&repository, "17").expect("an image"),
        }
    }

    /// The program on this image; `postgres create` fails there.
    async fn create_fails(&self) -> String {
        let environment = TestEnvironment::on(TestEngine::Docker)
            .with("DEV_POSTGRES_MCP_INSTANCE_REPOSITORY", self.image.repository());
        let create = environment.command(["-o", "json", "postgres", "create"]);
        let output = Command::from(create).output().await.expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        self.assert_no_container().await;
        told
    }

    async fn assert_no_container(&self) {
        let label = format!("label=test={}", self.image.repository());
        assert_eq!(docker(&["ps", "--all", "--quiet", "--filter", &label]).await, "");
    }

    fn spec(&self) -> InstanceSpec {
        InstanceSpec {
            image: self.image.clone(),
            ..spec("app", "me", "secret")
        }
    }

    /// The templates that were made of it.
    async fn templates(&self) -> Vec<String> {
        let label = format!("label=test={}", self.image.repository());
        let listed = docker(&["images", "--filter", &label, "--format", "{{.Repository}}:{{.Tag}}"]).await;
        let templates = listed
            .lines()
            .filter(|name| name.starts_with("dev-postgres-mcp-template:"));
        templates.map(str::to_owned).collect()
    }

    async fn remove(self) {
        for template in self.templates().await {
            // Another test may prune it first.
            let _ = try_docker(&["rmi", &template]).await;
        }
        docker(&["rmi", &self.image.to_string()]).await;
    }
}

#[tokio::test]
async fn an_image_that_makes_another_superuser_fails_the_create_with_what_it_has_to_do() {
    let own =
        OwnImage::build(r#"ENTRYPOINT ["sh", "-c", "POSTGRES_USER=other exec docker-entrypoint.sh postgres"]"#).await;
    let told = own.create_fails().await;
    assert!(
        told.contains("PostgreSQL refuses the credentials that it was created with"),
        "{told}"
    );
    assert!(told.contains("POSTGRES_USER"), "{told}");
    own.remove().await;
}

async fn image_of(found: &Found) -> String {
    docker(&["inspect", "--format", "{{.Config.Image}}", &found.instance.container_id]).await
}

async fn drop_instance(engine: &DockerEngine, found: &Found) {
    assert!(engine.remove(found.instance.id).await.expect("an answer"));
}

/// What a query says, line by line.
async fn lines(client: &Client, query: &str) -> Vec<String> {
    let rows = client.query(query, &[]).await.expect("the query runs");
    rows.iter().map(|row| row.get(0)).collect()
}

/// All that a user could tell two servers apart by.
async fn portrait(client: &Client) -> BTreeMap<&'static str, Vec<String>> {
    let queries = [
        (
            "settings",
            "SELECT name || ' = ' || coalesce(setting, 'null') FROM pg_settings ORDER BY name",
        ),
        (
            "roles",
            "SELECT concat_ws(' ', rolname, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, \
             rolbypassrls, rolconnlimit, rolvaliduntil, oid) FROM pg_roles ORDER BY rolname",
        ),
        (
            "databases",
            "SELECT concat_ws(' ', datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, \
             datistemplate, datallowconn, datconnlimit, datacl) FROM pg_database ORDER BY datname",
        ),
        (
            "who may connect",
            "SELECT concat_ws(' ', type, database, user_name, address, netmask, auth_method, options, error) \
             FROM pg_hba_file_rules ORDER BY line_number",
        ),
        (
            "extensions",
            "SELECT name || ' ' || default_version FROM pg_available_extensions ORDER BY name",
        ),
        (
            "schemas",
            "SELECT concat_ws(' ', nspname, pg_get_userbyid(nspowner), nspacl) FROM pg_namespace \
             WHERE nspname !~ '^pg_(toast_)?temp' ORDER BY nspname",
        ),
        (
            "passwords",
            "SELECT left(rolpassword, 13) FROM pg_authid WHERE rolpassword IS NOT NULL",
        ),
    ];
    let mut portrait = BTreeMap::new();
    for (what, query) in queries {
        portrait.insert(what, lines(client, query).await);
    }
    portrait
}

/// An instance whose server was started before anybody asked for it.
async fn create_ahead(engine: &DockerEngine, wanted: &InstanceSpec, like: &InstanceSpec) -> Found {
    engine
        .prepare(&wanted.image, &ProgressSink::none())
        .await
        .expect("the image can be used");
    let waiting = engine
        .start_ahead(InstanceId::random(), like, &owner(), any_port())
        .await
        .expect("it starts")
        .expect("it can be made ahead");
    engine
        .assign(waiting, wanted, &owner())
        .await
        .expect("an instance")
        .found
}

#[rstest]
#[case::when_it_is_asked_for(None)]
#[case::ahead_for_one_who_asks_for_a_database(Some("another"))]
#[case::ahead_for_one_who_asks_for_none(Some("postgres"))]
#[tokio::test]
async fn an_instance_from_a_template_is_what_the_image_itself_would_make_but_not_durable(
    #[case] made_ahead_for: Option<&str>,
    #[values("app", "postgres")] database: &str,
) {
    let state = tempfile::tempdir().expect("a folder");
    let engine = DockerEngine::new(
        DockerSettings::default(),
        Owners::new(Some(state.path())),
        TaskTracker::new(),
    );
    // The password's verifier differs by its salt only.
    let wanted = spec(database, "me", "secret");
    let ours = match made_ahead_for {
        None => create(&engine, &wanted).await,
        Some(other) => create_ahead(&engine, &wanted, &spec(other, "postgres", "other")).await,
    };
    assert!(
        image_of(&ours).await.starts_with("dev-postgres-mcp-template:"),
        "it starts from a template"
    );
    let port = any_port();
    let published = format!("127.0.0.1:{port}:5432");
    let theirs = docker(&[
        "run",
        "--detach",
        "--rm",
        "--publish",
        &published,
        "--shm-size",
        "128m",
        "--memory",
        "512m",
        "--env",
        "POSTGRES_USER=me",
        "--env",
        &format!("POSTGRES_DB={database}"),
        "--env",
        "POSTGRES_PASSWORD=secret",
        "--env",
        "PGDATA=/dev-postgres-mcp/data",
        "postgres:17",
    ])
    .await;
    let mut by_hand = ours.clone();
    by_hand.instance.port = port;
    let their_client = tokio::time::timeout(PATIENCE, connect_when_ready(&by_hand))
        .await
        .expect("it answers");
    let (ours_is, theirs_is) = (
        portrait(&connect_when_ready(&ours).await).await,
        portrait(&their_client).await,
    );
    docker(&["rm", "--force", "--volumes", &theirs]).await;
    drop_instance(&engine, &ours).await;

    for (what, is) in &ours_is {
        let (ours, theirs): (Vec<_>, Vec<_>) = (
            is.iter().filter(|line| !theirs_is[what].contains(line)).collect(),
            theirs_is[what].iter().filter(|line| !is.contains(line)).collect(),
        );
        if *what == "settings" {
            assert_eq!(
                ours,
                ["fsync = off", "full_page_writes = off"],
                "what differs is documented"
            );
            assert_eq!(theirs, ["fsync = on", "full_page_writes = on"]);
        } else {
            assert_eq!(ours, theirs, "{what} differ");
        }
    }
}

#[tokio::test]
async fn a_durable_instance_has_the_settings_of_the_image() {
    let engine = engine();
    let wanted = InstanceSpec {
        durable: true,
        ..spec("app", "me", "secret")
    };
    let found = create(&engine, &wanted).await;
    let client = connect_when_ready(&found).await;
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        assert_eq!(lines(&client, &format!("SHOW {setting}")).await, ["on"], "{setting}");
    }
    drop_instance(&engine, &found).await;
}

#[tokio::test]
async fn the_first_instance_of_an_image_makes_its_template_and_the_next_one_uses_it() {
    let own = OwnImage::build("").await;
    let engine = engine();
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = {
        let told = std::sync::Arc::clone(&told);
        ProgressSink::new(move |step| told.lock().expect("no panic").push(step))
    };
    engine.prepare(&own.image, &sink).await.expect("prepared");
    assert!(
        matches!(told.lock().expect("no panic")[..], [Progress::Initialising { .. }]),
        "whoever waits is told why"
    );
    let templates = own.templates().await;
    assert_eq!(templates.len(), 1, "{templates:?}");
    engine.prepare(&own.image, &sink).await.expect("prepared");
    assert_eq!(told.lock().expect("no panic").len(), 1, "it is made once");
    // Another process finds it.
    let other = self::engine();
    let found = create(&other, &own.spec()).await;
    assert_eq!(image_of(&found).await, templates[0]);
    connect_when_ready(&found).await;
    let environment = docker(&["exec", &found.instance.container_id, "env"]).await;
    let secret = docker(&["inspect", "--format", "{{json .Config.Env}}", &templates[0]]).await;
    let secret: Vec<String> = serde_json::from_str(&secret).expect("JSON");
    let secret = secret
        .iter()
        .find(|entry| entry.starts_with("POSTGRES_PASSWORD="))
        .expect("its password");
    assert!(
        !environment.contains(secret.as_str()),
        "an instance doesn't know the template's password"
    );
    drop_instance(&other, &found).await;
    own.remove().await;
}

#[tokio::test]
async fn two_processes_that_need_a_template_at_once_make_it_once_and_leave_no_container() {
    let own = OwnImage::build("").await;
    let (one, other) = (engine(), engine());
    let (wanted, same) = (own.spec(), own.spec());
    let (first, second) = tokio::join!(create(&one, &wanted), create(&other, &same));
    connect_when_ready(&first).await;
    connect_when_ready(&second).await;
    drop_instance(&one, &first).await;
    drop_instance(&other, &second).await;
    let templates = own.templates().await;
    assert_eq!(templates.len(), 1, "{templates:?}");
    let label = format!("label=test={}", own.image.repository());
    assert_eq!(docker(&["ps", "--all", "--quiet", "--filter", &label]).await, "");
    own.remove().await;
}

#[tokio::test]
async fn an_image_with_scripts_of_its_own_is_started_by_its_own_entrypoint() {
    let own =
        OwnImage::build("RUN echo 'CREATE TABLE made_by_script ();' >/docker-entrypoint-initdb.d/table.sql").await;
    let engine = engine();
    let found = create(&engine, &own.spec()).await;
    assert_eq!(image_of(&found).await, own.image.to_string());
    let client = connect_when_ready(&found).await;
    let tables = lines(
        &client,
        "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'",
    )
    .await;
    assert_eq!(tables, ["made_by_script"]);
    drop_instance(&engine, &found).await;
    assert_eq!(own.templates().await, Vec::<String>::new());
    own.remove().await;
}

#[tokio::test]
async fn an_image_with_another_entrypoint_keeps_it() {
    let own = OwnImage::build("ENTRYPOINT [\"sh\", \"-c\", \"exec docker-entrypoint.sh postgres\"]").await;
    let engine = engine();
    let found = create(&engine, &own.spec()).await;
    assert_eq!(image_of(&found).await, own.image.to_string());
    connect_when_ready(&found).await;
    drop_instance(&engine, &found).await;
    own.remove().await;
}

#[tokio::test]
async fn an_image_whose_initialisation_fails_leaves_no_template_and_no_container() {
    let own = OwnImage::build("ENV POSTGRES_INITDB_ARGS=--nonsense").await;
    let engine = engine();
    engine
        .prepare(&own.image, &ProgressSink::none())
        .await
        .expect("its own way may still do");
    assert_eq!(own.templates().await, Vec::<String>::new());
    own.assert_no_container().await;
    own.remove().await;
}

#[tokio::test]
async fn a_server_that_ends_while_it_starts_fails_the_create_with_its_last_words_and_leaves_nothing() {
    let own = OwnImage::build("CMD [\"postgres\", \"-c\", \"no_such.setting=1\", \"-c\", \"no_such_setting=1\"]").await;
    let told = own.create_fails().await;
    assert!(
        told.contains("PostgreSQL ended before it answered") && told.contains("unrecognized configuration parameter"),
        "{told}"
    );
    own.remove().await;
}

#[tokio::test]
async fn a_server_that_is_killed_for_want_of_memory_while_it_starts_fails_the_create_and_leaves_nothing() {
    let own = OwnImage::build("ENTRYPOINT [\"tail\", \"/dev/zero\"]").await;
    let told = own.create_fails().await;
    assert!(told.contains("was killed for want of memory"), "{told}");
    own.remove().await;
}

#[tokio::test]
async fn an_image_that_is_removed_after_it_was_prepared_fails_the_create_and_leaves_nothing() {
    let own = OwnImage::build("").await;
    let engine = engine();
    let prepared = engine.prepare(&own.image, &ProgressSink::none()).await;
    assert!(prepared.expect("it can be used"), "it has a template");
    for image in own.templates().await.into_iter().chain([own.image.to_string()]) {
        docker(&["rmi", "--force", &image]).await;
    }
    let id = InstanceId::random();
    let created = engine
        .create(id, &own.spec(), &owner(), any_port(), &ProgressSink::none())
        .await;
    let error = created.expect_err("there is no image any more");
    assert!(matches!(error, EngineError::NoSuchImage { .. }), "{error}");
    let name = format!("name=mcp-postgres-{id}");
    assert_eq!(docker(&["ps", "--all", "--quiet", "--filter", &name]).await, "");
    assert!(engine.get(id).await.expect("an answer").is_none());
}

#[tokio::test]
async fn a_foreign_image_under_a_templates_name_is_not_used() {
    let own = OwnImage::build("").await;
    let engine = engine();
    engine
        .prepare(&own.image, &ProgressSink::none())
        .await
        .expect("prepared");
    let [template] = &own.templates().await[..] else {
        panic!("one template");
    };
    docker(&["rmi", template]).await;
    docker(&["tag", "postgres:17", template]).await;
    let found = engine
        .create(
            InstanceId::random(),
            &own.spec(),
            &owner(),
            any_port(),
            &ProgressSink::none(),
        )
        .await
        .expect("an instance")
        .found;
    assert_eq!(image_of(&found).await, own.image.to_string());
    connect_when_ready(&found).await;
    drop_instance(&engine, &found).await;
    assert!(
        try_docker(&["rmi", template]).await.is_ok(),
        "the foreign tag is still there"
    );
    own.remove().await;
}

/// What `prune` says of this image's templates.
async fn pruned(engine: &DockerEngine, own: &OwnImage, dry_run: bool) -> Vec<Pruned> {
    let mut pruned = Vec::new();
    engine.prune(dry_run, &mut pruned).await.expect("it can be told");
    let reference = own.image.to_string();
    pruned
        .into_iter()
        .filter(|pruned| pruned.reason.contains(&reference))
        .collect()
}

#[tokio::test]
async fn a_template_is_pruned_once_its_image_has_changed_and_not_before() {
    let own = OwnImage::build("").await;
    let engine = engine();
    let found = create(&engine, &own.spec()).await;
    let [template] = &own.templates().await[..] else {
        panic!("one template");
    };
    // What somebody has made of an instance is his, whatever labels it has inherited.
    let copy = format!("{}:copy", own.image.repository());
    docker(&["commit", &found.instance.container_id, &copy]).await;
    assert_eq!(pruned(&engine, &own, false).await, []);
    let source = id_of(&own.image).await;
    docker(&["tag", "postgres:15", &own.image.to_string()]).await;
    let old = Pruned {
        kind: "template",
        name: template.clone(),
        reason: format!("the image {} has changed since", own.image),
    };
    for dry_run in [true, false] {
        assert_eq!(
            pruned(&engine, &own, dry_run).await,
            [],
            "one that an instance runs on stays"
        );
    }
    connect_when_ready(&found).await;
    drop_instance(&engine, &found).await;
    assert_eq!(
        pruned(&engine, &own, false).await,
        [],
        "one that another image is built on stays"
    );
    docker(&["rmi", &copy]).await;
    // Unless another test was faster.
    for dry_run in [true, false] {
        let told = pruned(&engine, &own, dry_run).await;
        assert!(told.is_empty() || told == std::slice::from_ref(&old), "{told:?}");
    }
    assert!(try_docker(&["image", "inspect", template]).await.is_err());
    // It has lost its name and is somebody's.
    docker(&["rmi", &source]).await;
    own.remove().await;
}

async fn id_of(image: &Image) -> String {
    docker(&["image", "inspect", "--format", "{{.Id}}", &image.to_string()]).await
}

#[tokio::test]
async fn a_template_that_has_lost_its_name_is_pruned_and_what_is_built_on_it_is_not() {
    let own = OwnImage::build("").await;
    let engine = engine();
    // As Docker does where a maker was killed when it had asked for its template, and the next one asks for the same.
    let lose_name = async || {
        drop_instance(&engine, &create(&engine, &own.spec()).await).await;
        let template = own.templates().await.pop().expect("a template");
        let id = docker(&["image", "inspect", "--format", "{{.Id}}", &template]).await;
        let built = build_nameless(&template).await;
        docker(&["tag", "postgres:15", &template]).await;
        (template, id, built)
    };
    let is_there = async |id: &str| try_docker(&["image", "inspect", id]).await.is_ok();
    let (template, id, built) = lose_name().await;
    engine.prune(false, &mut Vec::new()).await.expect("pruned");
    assert!(is_there(&id).await && is_there(&built).await, "it is somebody's");
    // Both go by that: Docker keeps nothing that has no name and that nothing is built on any more.
    docker(&["rmi", &built, &template]).await;

    let (template, id, built) = lose_name().await;
    docker(&["rmi", "--no-prune", &built]).await;
    assert!(is_there(&id).await, "nothing is built on it, and it is still there");
    engine.recover(true).await.expect("recovered");
    assert!(!is_there(&id).await, "nobody starts from it");
    docker(&["rmi", &template]).await;
    own.remove().await;
}

/// An image without a name that is built on this one: its id.
async fn build_nameless(on: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("Dockerfile"),
        format!("FROM {on}\nLABEL somebodys=1\n"),
    )
    .expect("a file");
    let folder = folder.path().to_str().expect("UTF-8");
    docker(&["build", "--quiet", "--force-rm", folder])
        .await
        .trim()
        .to_owned()
}

/// An image that somebody has made with the name and labels of a template; it goes with the test.
struct Forged(String);

impl Forged {
    async fn build(source: &str) -> Self {
        let key = format!("forged-{}", InstanceId::random());
        let reference = format!("dev-postgres-mcp-template:{key}");
        let labels = format!("dev-postgres-mcp.template=\"{key}\" dev-postgres-mcp.template-of=\"{source}\"");
        build_image(&reference, &format!("LABEL {labels}")).await;
        Self(reference)
    }

    async fn is_there(&self) -> bool {
        try_docker(&["image", "inspect", &self.0]).await.is_ok()
    }
}

impl Drop for Forged {
    fn drop(&mut self) {
        // It may have gone.
        let _ = std::process::Command::new("docker")
            .args(["rmi", "--force", &self.0])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

#[tokio::test]
async fn a_forged_template_whose_labels_say_nonsense_stays_and_keeps_nothing_else_from_being_pruned() {
    let own = OwnImage::build("").await;
    let engine = engine();
    engine
        .prepare(&own.image, &ProgressSink::none())
        .await
        .expect("prepared");
    let [template] = &own.templates().await[..] else {
        panic!("one template");
    };
    let mut nonsense = Vec::new();
    for source in [
        "",
        ":",
        "no image at all!",
        "POSTGRES:17",
        "../containers/json?all=1",
        // We would take this one for a reference; Docker doesn't.
        "a..b:17",
    ] {
        nonsense.push((Forged::build(source).await, source));
    }
    // All that makes one ours is what it says of itself.
    let ours = Forged::build("dev-postgres-mcp-test-nowhere:17").await;
    let source = id_of(&own.image).await;
    docker(&["tag", "postgres:15", &own.image.to_string()]).await;
    let environment = TestEnvironment::on(TestEngine::Docker);
    for arguments in [&["prune", "--dry-run"][..], &["prune"]] {
        let command = environment.command(["-o", "json", "postgres"].iter().chain(arguments));
        let output = Command::from(command).output().await.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        let told = String::from_utf8_lossy(&output.stdout);
        for (forged, source) in &nonsense {
            assert!(
                !told.contains(&forged.0) && forged.is_there().await,
                "{source:?}: {told}"
            );
        }
    }
    assert!(!ours.is_there().await);
    assert!(try_docker(&["image", "inspect", template]).await.is_err());
    docker(&["rmi", &source]).await;
    own.remove().await;
}

#[tokio::test]
async fn making_a_template_removes_those_of_images_that_are_gone() {
    let (own, other) = (OwnImage::build("").await, OwnImage::build("RUN true").await);
    let engine = engine();
    let nobody = ProgressSink::none();
    engine.prepare(&own.image, &nobody).await.expect("prepared");
    assert_eq!(own.templates().await.len(), 1);
    let source = id_of(&own.image).await;
    docker(&["rmi", &own.image.to_string()]).await;
    engine.prepare(&other.image, &nobody).await.expect("prepared");
    assert_eq!(own.templates().await, Vec::<String>::new());
    assert!(
        try_docker(&["image", "inspect", &source]).await.is_err(),
        "it was kept for the template alone"
    );
    assert_eq!(other.templates().await.len(), 1);
    other.remove().await;
}

#[tokio::test]
async fn a_template_that_is_pruned_under_a_create_is_done_without() {
    let own = OwnImage::build("").await;
    let engine = engine();
    engine
        .prepare(&own.image, &ProgressSink::none())
        .await
        .expect("prepared");
    let [template] = &own.templates().await[..] else {
        panic!("it has one template");
    };
    let template = template.clone();
    // That is told between the look for the template and its use.
    let pruning = ProgressSink::new(move |step| {
        if matches!(step, Progress::Creating) {
            // It is told once more when the create begins anew, and then there is none.
            let _ = std::process::Command::new("docker").args(["rmi", &template]).output();
        }
    });
    let created = engine
        .create(InstanceId::random(), &own.spec(), &owner(), any_port(), &pruning)
        .await;
    let found = created.expect("an instance").found;
    assert_eq!(image_of(&found).await, own.image.to_string());
    connect_when_ready(&found).await;
    drop_instance(&engine, &found).await;
    own.remove().await;
}
