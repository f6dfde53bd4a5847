//! Components from registries, on a real registry: pinned at first use, the same ever after, and refused where something
//! is amiss.

use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::OnceLock;

use dev_postgres_mcp::digest::Digest;
use dev_postgres_mcp_tests::binary::TestEnvironment;
use dev_postgres_mcp_tests::guests::{Misdeed, hostile, module, puppet};
use dev_postgres_mcp_tests::registry::{BASIC, Registry};
use serde_json::Value;

/// A bundle that asks for what the built-in tools need: it is them.
fn modest() -> &'static [u8] {
    static MODEST: OnceLock<Vec<u8>> = OnceLock::new();
    MODEST.get_or_init(|| module("plugins/postgres-tools"))
}

/// A policy: the default one.
fn rules() -> Vec<u8> {
    module("plugins/policy-default")
}

/// The environment with a configuration file of its own.
struct Place {
    environment: TestEnvironment,
}

impl Place {
    fn new(config: &str) -> Self {
        let place = Self {
            environment: TestEnvironment::without_engine(),
        };
        place.configure(config);
        let file = place.environment.home().join("etc/config.toml");
        Self {
            environment: place.environment.with("DEV_POSTGRES_MCP_CONFIG", file),
        }
    }

    /// With one bundle, `acme`, from there.
    fn with_bundle(reference: &str) -> Self {
        Self::new(&bundle(reference))
    }

    fn configure(&self, config: &str) {
        let folder = self.environment.home().join("etc");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("config.toml"), config).expect("a file");
    }

    fn lock_file(&self) -> PathBuf {
        self.environment.home().join("etc/dev-postgres-mcp.lock")
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.lock_file()).unwrap_or_default()
    }

    fn stored(&self, component: &[u8]) -> PathBuf {
        let file = format!("{}.wasm", Digest::of(component));
        self.environment
            .home()
            .join(".cache/dev-postgres-mcp/pulled")
            .join(file)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.environment.command(arguments);
        command.stdin(Stdio::null()).output().expect("it runs")
    }

    /// Starts the server, which loads every component and ends at once: nobody says anything to it.
    fn start(&self) -> Output {
        self.run(&["mcp", "serve"])
    }

    fn starts(&self) {
        let output = self.start();
        assert!(output.status.success(), "{}", stderr(&output));
    }

    /// What keeps it from starting.
    fn refused(&self) -> String {
        let output = self.start();
        assert!(!output.status.success(), "it starts");
        assert!(output.stdout.is_empty());
        stderr(&output)
    }

    /// What it says when it starts without the bundle `acme`, and with all the others.
    fn left_out(&self) -> String {
        let output = self.start();
        let told = stderr(&output);
        assert!(output.status.success(), "{told}");
        assert!(told.contains("a bundle is left out"), "{told}");
        told
    }

    fn update(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["plugin", "update", "--output", "json"], arguments].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

fn bundle(reference: &str) -> String {
    format!("[[bundle]]\nname = 'acme'\ncomponent = '{reference}'\nprefix = 'acme'\n")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_tag_is_pinned_at_first_use_and_survives_its_moving_and_the_registrys_end() {
    let Some(mut registry) = Registry::start().await else {
        return;
    };
    let first = registry.push("acme/tools", "1", modest()).await;
    let reference = format!("oci://{}/acme/tools:1", registry.address());
    let place = Place::with_bundle(&reference);
    place.starts();
    let lock = place.lock();
    for expected in [
        format!("reference = \"{reference}\""),
        format!("manifest = \"sha256:{first}\""),
        format!("sha256 = \"{}\"", Digest::of(modest())),
        "name = \"acme\"".into(),
        "acme_create_postgres_instance = ".into(),
    ] {
        assert!(lock.contains(&expected), "{expected} is not in\n{lock}");
    }
    assert_eq!(fs::read(place.stored(modest())).expect("stored"), modest());

    let second = registry.push("acme/tools", "1", puppet()).await;
    assert_ne!(first, second);
    place.starts();
    assert_eq!(place.lock(), lock, "a tag that moves changes nothing");
    registry.stop().await;
    place.starts();
    assert_eq!(place.lock(), lock);

    fs::remove_file(place.stored(modest())).expect("removed");
    let told = place.left_out();
    assert!(
        told.contains(&format!(
            "acme can't be pulled from {reference}: the registry can't be reached: "
        )) && told.contains("refused")
            && told.contains("Check that 127.0.0.1:"),
        "{told}"
    );
    let other = Place::with_bundle(&reference);
    assert!(other.left_out().contains("the registry can't be reached"));
    assert!(!other.lock_file().exists());
}

#[tokio::test]
async fn what_is_pinned_is_pulled_again_by_its_digest_where_the_local_copy_is_damaged() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    registry.push("acme/tools", "1", modest()).await;
    let place = Place::with_bundle(&format!("oci://{}/acme/tools:1", registry.address()));
    place.starts();
    let lock = place.lock();
    // The tag is another's by now: only the digest leads to what is pinned.
    registry.push("acme/tools", "1", puppet()).await;
    let stored = place.stored(modest());
    for wrong in [&modest()[..100], b"", puppet()] {
        fs::write(&stored, wrong).expect("written");
        place.starts();
        assert_eq!(fs::read(&stored).expect("stored"), modest(), "it is replaced");
        assert_eq!(place.lock(), lock);
    }
}

#[tokio::test]
async fn a_digest_means_one_manifest_for_ever() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let manifest = registry.push("acme/tools", "1", modest()).await;
    registry.push("acme/tools", "1", puppet()).await;
    let place = Place::with_bundle(&format!("oci://{}/acme/tools@sha256:{manifest}", registry.address()));
    place.starts();
    assert!(place.lock().contains(&Digest::of(modest()).to_string()));
    let said = place.update(&[]);
    assert_eq!(said["components"][0]["state"], "unchanged");

    let nothing = Digest::of(b"nothing");
    let unknown = Place::with_bundle(&format!("oci://{}/acme/tools@sha256:{nothing}", registry.address()));
    let told = unknown.left_out();
    assert!(told.contains("the registry has nothing of that name"), "{told}");
}

#[tokio::test]
async fn what_was_tampered_with_in_the_registry_is_refused() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let manifest = registry.push("acme/tools", "1", modest()).await;
    let place = Place::with_bundle(&format!("oci://{}/acme/tools:1", registry.address()));
    let mut damaged = modest().to_vec();
    damaged[1000] ^= 1;
    let blob = registry.blob(Digest::of(modest()));
    for wrong in [&damaged[..], &modest()[..modest().len() - 1], puppet()] {
        fs::write(&blob, wrong).expect("written");
        let told = place.left_out();
        assert!(
            told.contains("what the registry sends is not what its digest says"),
            "{told}"
        );
        assert!(!place.lock_file().exists(), "nothing is pinned");
    }
    fs::write(&blob, modest()).expect("written");
    place.starts();

    // The other way round: the blobs are whole, and the manifest is another than the digest that is pinned.
    fs::remove_file(place.stored(modest())).expect("removed");
    let other = registry.push("acme/other", "1", puppet()).await;
    fs::copy(registry.blob(other), registry.blob(manifest)).expect("copied");
    let told = place.left_out();
    assert!(told.contains("acme can't be pulled from"), "{told}");
}

#[tokio::test]
async fn an_update_shows_what_changes_and_asks_again_if_more_is_asked_for() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let first = registry.push("acme/tools", "1", modest()).await;
    let place = Place::with_bundle(&format!("oci://{}/acme/tools:1", registry.address()));
    let said = place.update(&["acme"]);
    assert_eq!(
        (&said["written"], &said["components"][0]["state"]),
        (&true.into(), &"pinned".into())
    );
    let lock = place.lock();
    let said = place.update(&[]);
    assert_eq!(said["components"][0]["state"], "unchanged");

    let second = registry.push("acme/tools", "1", puppet()).await;
    let refused = place.run(&["plugin", "update", "--output", "json"]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    let said: Value = serde_json::from_slice(&refused.stdout).expect("JSON");
    let change = &said["components"][0];
    assert_eq!((&said["written"], &change["state"]), (&false.into(), &"updated".into()));
    assert_eq!(change["before"]["manifest"], format!("sha256:{first}"));
    assert_eq!(change["after"]["manifest"], format!("sha256:{second}"));
    assert_eq!(change["tools"]["added"], serde_json::json!(["acme_act"]));
    let gone = change["tools"]["removed"].as_array().expect("tools");
    assert!(gone.contains(&"acme_create_postgres_instance".into()), "{gone:?}");
    let more = change["grants"]["added"].as_array().expect("grants");
    assert!(
        more.contains(&"sql".into()) && !more.contains(&"drop".into()),
        "{more:?}"
    );
    let told = stderr(&refused);
    assert!(
        told.contains("nobody has agreed to that") && told.contains("plugin update acme --yes"),
        "{told}"
    );
    assert_eq!(place.lock(), lock, "nothing is pinned");
    place.starts();

    let text = place.run(&["plugin", "update", "acme", "--yes"]);
    let shown = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.status.success() && shown.contains(&format!("sha256:{first} -> sha256:{second}")),
        "{shown}"
    );
    assert!(place.lock().contains(&second.to_string()));
    place.starts();

    let unknown = place.run(&["plugin", "update", "nobody"]);
    assert_eq!(unknown.status.code(), Some(5), "{}", stderr(&unknown));
}

#[tokio::test]
async fn another_reference_that_asks_for_more_is_refused_until_somebody_agrees() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    registry.push("acme/tools", "1", modest()).await;
    registry.push("acme/tools", "2", puppet()).await;
    let place = Place::with_bundle(&format!("oci://{}/acme/tools:1", registry.address()));
    place.starts();
    let lock = place.lock();
    place.configure(&bundle(&format!("oci://{}/acme/tools:2", registry.address())));
    let told = place.left_out();
    assert!(
        told.contains("acme asks for more than was agreed to: ")
            && told.contains("`dev-postgres-mcp plugin update acme`"),
        "{told}"
    );
    assert_eq!(place.lock(), lock);
    place.update(&["--yes"]);
    place.starts();

    // Back again is less, which needs nobody's word.
    place.configure(&bundle(&format!("oci://{}/acme/tools:1", registry.address())));
    place.starts();
    assert_eq!(place.lock(), lock);
}

#[tokio::test]
async fn many_that_start_at_once_pin_the_same() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let manifest = registry.push("acme/tools", "1", modest()).await;
    let config: String = (0..3)
        .map(|number| {
            bundle(&format!("oci://{}/acme/tools:1", registry.address())).replace("'acme'", &format!("'acme{number}'"))
        })
        .collect();
    let place = Place::new(&config);
    let starts: Vec<_> = (0..4)
        .map(|_| {
            let mut command = place.environment.command(["mcp", "serve"]);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            command.spawn().expect("it starts")
        })
        .collect();
    for start in starts {
        let output = start.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(
        place.lock().matches(&manifest.to_string()).count(),
        3,
        "{}",
        place.lock()
    );
    let folder = fs::read_dir(place.environment.home().join("etc")).expect("a folder");
    assert_eq!(folder.count(), 2, "the configuration and the lock file, nothing else");
}

#[tokio::test]
async fn a_registry_that_wants_to_know_who_asks_is_told_what_docker_knows_and_nobody_else_is() {
    let Some(registry) = Registry::start_locked().await else {
        return;
    };
    registry.push("acme/tools", "1", modest()).await;
    let place = Place::with_bundle(&format!("oci://{}/acme/tools:1", registry.address()));
    let place = Place {
        environment: place.environment.clone().with("DEV_POSTGRES_MCP_LOG_LEVEL", "trace"),
    };
    let told = place.left_out();
    let address = registry.address();
    assert!(
        told.contains("the registry doesn't let it be read: nobody is logged in there")
            && told.contains(&format!("`docker login {address}`")),
        "{told}"
    );
    let docker = place.environment.home().join(".docker");
    fs::create_dir(&docker).expect("a folder");
    let login = |auth: &str| {
        let config = format!(r#"{{ "auths": {{ "{address}": {{ "auth": "{auth}" }} }} }}"#);
        fs::write(docker.join("config.json"), config).expect("a file");
    };
    login("dXNlcjp3cm9uZw==");
    let told = place.left_out();
    assert!(
        told.contains(&format!("whoever is logged in at {address} may not")),
        "{told}"
    );
    login(BASIC);
    let output = place.start();
    let told = stderr(&output);
    assert!(output.status.success(), "{told}");
    assert!(!told.contains("s3cret") && !told.contains(BASIC), "{told}");
    assert!(!place.lock().contains("s3cret") && !place.lock().contains(BASIC));
}

#[tokio::test]
async fn what_is_no_component_is_refused_and_not_pinned() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let address = registry.address();
    registry
        .push_as("acme/two", "1", "application/wasm", &[modest(), puppet()])
        .await;
    registry
        .push_as("acme/tar", "1", "application/vnd.oci.image.layer.v1.tar", &[b"x"])
        .await;
    registry.push("acme/text", "1", b"not WebAssembly at all").await;
    registry
        .push("acme/trap", "1", &hostile("tool-bundle", Misdeed::Trap))
        .await;
    for (repository, said) in [
        ("two", "it has 2 layers, not one"),
        ("tar", "not application/wasm"),
        ("text", "acme is no component of the world"),
        ("trap", "acme trapped"),
        ("missing", "the registry has nothing of that name"),
    ] {
        let place = Place::with_bundle(&format!("oci://{address}/acme/{repository}:1"));
        let told = place.left_out();
        assert!(told.contains(said), "{repository}: {told}");
        assert!(!place.lock_file().exists(), "{repository} is pinned");
    }
}

#[tokio::test]
async fn a_sha256_holds_for_a_policy_and_for_what_a_registry_has() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    registry.push("acme/tools", "1", modest()).await;
    let component = format!("oci://{}/acme/tools:1", registry.address());
    let wrong = Digest::of(b"something else");
    let place = Place::new(&format!("{}sha256 = '{wrong}'\n", bundle(&component)));
    let told = place.left_out();
    assert!(told.contains(&format!("but the configuration pins {wrong}")), "{told}");
    assert!(!place.lock_file().exists());

    let rules = hostile("policy", Misdeed::Trap);
    let place = Place::new("");
    fs::write(place.environment.home().join("etc/rules.wasm"), &rules).expect("a file");
    for (pin, said) in [(wrong, "but the configuration pins"), (Digest::of(&rules), "trapped")] {
        place.configure(&format!("[policy]\ncomponent = 'rules.wasm'\nsha256 = '{pin}'\n"));
        let told = place.refused();
        assert!(told.contains(said), "{told}");
    }
}

#[tokio::test]
async fn a_policy_comes_from_a_registry_as_a_bundle_does() {
    let Some(mut registry) = Registry::start().await else {
        return;
    };
    let manifest = registry.push("acme/rules", "1", &rules()).await;
    let component = format!("oci://{}/acme/rules:1", registry.address());
    let place = Place::new(&format!("[policy]\ncomponent = '{component}'\n"));
    place.starts();
    let lock = place.lock();
    assert!(
        lock.contains("world = \"policy\"") && lock.contains(&manifest.to_string()),
        "{lock}"
    );
    registry.push("acme/rules", "1", b"something else").await;
    registry.stop().await;
    place.starts();
    let listed = place.run(&["postgres", "list"]);
    assert_eq!(listed.status.code(), Some(6), "the policy is there, the engine isn't");
    assert_eq!(place.lock(), lock);
}

#[tokio::test]
async fn plain_http_is_spoken_on_this_machine_alone_and_past_every_proxy() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    registry.push("acme/tools", "1", modest()).await;
    let place = Place::with_bundle(&format!("oci://{}/acme/tools:1", registry.address()));
    let nowhere = "http://127.0.0.1:9";
    let place = Place {
        environment: place
            .environment
            .clone()
            .with("http_proxy", nowhere)
            .with("HTTP_PROXY", nowhere),
    };
    place.starts();
    // An address of this machine that isn't loopback: TLS is spoken there, which this registry doesn't know.
    if let Some(address) = dev_postgres_mcp_tests::address_beyond_loopback() {
        let listener = tokio::net::TcpListener::bind((address, 0)).await.expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let place = Place::with_bundle(&format!("oci://{address}:{port}/acme/tools:1"));
        let started = tokio::task::spawn_blocking(move || place.left_out());
        let (mut stream, _) = listener.accept().await.expect("it connects");
        let mut first = [0];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first)
            .await
            .expect("it speaks");
        assert_eq!(first[0], 22, "a TLS handshake, not HTTP");
        drop((stream, listener));
        let told = started.await.expect("it ends");
        assert!(told.contains("can't be pulled from"), "{told}");
    }
}
