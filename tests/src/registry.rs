//! A registry on loopback: the reference implementation, with a storage that a test may damage.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dev_postgres_mcp::digest::Digest;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// The layer of a component.
const WASM: &str = "application/wasm";
/// What says of an artifact that it is a component.
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// `user` with the password `s3cret`, as htpasswd has it, and as HTTP has it.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n";
pub const BASIC: &str = "dXNlcjpzM2NyZXQ=";

/// A running registry; it goes with its storage.
#[derive(Debug)]
pub struct Registry {
    process: Option<Child>,
    data: TempDir,
    port: u16,
    locked: bool,
}

impl Registry {
    /// `None`, and a word on standard error, if there is no registry program.
    pub async fn start() -> Option<Self> {
        Self::new(false).await
    }

    /// One that lets in only [`BASIC`].
    pub async fn start_locked() -> Option<Self> {
        Self::new(true).await
    }

    async fn new(locked: bool) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("skipped: there is no registry program (Debian's docker-registry)");
            return None;
        };
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = free.local_addr().expect("the port").port();
        drop(free);
        let mut registry = Self {
            process: None,
            data: tempfile::tempdir().expect("a directory"),
            port,
            locked,
        };
        registry.run(&program).await;
        Some(registry)
    }

    async fn run(&mut self, program: &Path) {
        let (config, users) = (self.data.path().join("config.yml"), self.data.path().join("users"));
        let mut text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {}\n",
            self.data.path().join("data").display(),
            self.address(),
        );
        if self.locked {
            std::fs::write(&users, HTPASSWD).expect("written");
            // Writing to a String can't fail.
            let _ = write!(
                text,
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                users.display()
            );
        }
        std::fs::write(&config, text).expect("written");
        let process = Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        self.process = Some(process.expect("started"));
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the registry does not answer");
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it; its storage stays.
    ///
    /// # Panics
    /// If it doesn't end.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.expect("it ends");
        }
    }

    /// Pushes a component as `wkg` does; returns the manifest's digest.
    ///
    /// # Panics
    /// If it isn't taken.
    pub async fn push(&self, repository: &str, tag: &str, component: &[u8]) -> Digest {
        self.push_as(repository, tag, WASM, &[component]).await
    }

    /// Pushes an artifact with these layers of this media type.
    ///
    /// # Panics
    /// If it isn't taken.
    pub async fn push_as(&self, repository: &str, tag: &str, media_type: &str, layers: &[&[u8]]) -> Digest {
        let mut descriptors = Vec::new();
        for (media_type, bytes) in
            std::iter::once((CONFIG, b"{}".as_slice())).chain(layers.iter().map(|layer| (media_type, *layer)))
        {
            let digest = format!("sha256:{}", Digest::of(bytes));
            let begun = self
                .ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"")
                .await;
            let place = begun
                .lines()
                .find_map(|line| line.strip_prefix("Location: "))
                .unwrap_or_else(|| panic!("no upload begins: {begun}"));
            let path = place.split_once(&self.address()).expect("an address").1.trim();
            let sent = self
                .ask(
                    "PUT",
                    &format!("{path}&digest={digest}"),
                    "application/octet-stream",
                    bytes,
                )
                .await;
            assert!(sent.starts_with("HTTP/1.1 201 "), "{sent}");
            descriptors.push(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }));
        }
        let layers = descriptors.split_off(1);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptors[0],
            "layers": layers,
        })
        .to_string();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let sent = self.ask("PUT", &path, MANIFEST, manifest.as_bytes()).await;
        assert!(sent.starts_with("HTTP/1.1 201 "), "{sent}");
        Digest::of(manifest.as_bytes())
    }

    /// Where the registry keeps the blob of this digest.
    #[must_use]
    pub fn blob(&self, digest: Digest) -> PathBuf {
        let digest = digest.to_string();
        let blobs = self.data.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&digest[..2]).join(&digest).join("data")
    }

    async fn ask(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("it answers");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Basic {BASIC}\r\n\
             Content-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
            self.address(),
            body.len(),
        );
        stream.write_all(head.as_bytes()).await.expect("it reads");
        stream.write_all(body).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }
}

fn program() -> Option<PathBuf> {
    let known = ["/usr/bin/docker-registry", "/usr/local/bin/registry"];
    known.into_iter().map(PathBuf::from).find(|path| path.exists())
}
