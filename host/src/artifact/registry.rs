//! Asking a registry: which manifest a reference means, and the component in it. Whatever it sends is hashed.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::manifest::{OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};

use super::credentials;
use super::reference::Reference;
use crate::digest::Digest;
use crate::plugins::FILE_BYTES_MAX;

/// The media type of a component's layer, by the Wasm OCI artifact conventions.
const WASM: &str = "application/wasm";
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a registry may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// How long a registry may take to say who it lets in, and to send a manifest.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a component may take.
const COMPONENT_MAX: Duration = Duration::from_mins(5);
/// The largest manifest, in bytes; the distribution specification has registries take as much.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// How much of a registry's own words is repeated.
const WORDS_CHARS_MAX: usize = 200;

/// Why a component isn't pulled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// Nobody answers, or not in time.
    #[error("the registry can't be reached: {0}")]
    Unreachable(String),
    /// It began to answer and took too long.
    #[error("the registry took longer than {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It wants to know who asks.
    #[error("the registry doesn't let it be read: {0}")]
    Unauthorized(String),
    /// It has no such thing.
    #[error("the registry has nothing of that name")]
    Missing,
    /// It sends something else than what the digest says.
    #[error("what the registry sends is not what its digest says: {0}")]
    Tampered(String),
    /// It isn't one component.
    #[error("it is no component: {0}")]
    Unfit(String),
    /// It answers in a way that makes no sense.
    #[error("the registry fails: {0}")]
    Failed(String),
}

/// How registries are asked.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    /// Docker's client configuration, for who one is.
    pub(super) docker_config: Option<PathBuf>,
}

/// One registry, asked for one reference.
pub(super) struct Conversation<'a> {
    client: Client,
    auth: RegistryAuth,
    /// Why this user is nobody here, if they should be somebody.
    stranger: Option<&'static str>,
    reference: &'a Reference,
}

impl Registry {
    /// Begins to ask the reference's registry: finds out who one is there.
    ///
    /// # Errors
    /// If it doesn't answer, or doesn't let this user in.
    pub(super) async fn ask<'a>(&self, reference: &'a Reference) -> Result<Conversation<'a>, PullError> {
        // The client has no provider of its own; the error only says that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = ClientConfig {
            protocol: ClientProtocol::Https,
            // An index is told as what it is.
            platform_resolver: None,
            read_timeout: Some(SILENCE_MAX),
            connect_timeout: Some(CONNECT_MAX),
            user_agent: concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        if reference.is_loopback() {
            config.protocol = ClientProtocol::Http;
            // Without a proxy that is named here, one of the environment's would be sent what must not leave the machine.
            config.http_proxy = Some("http://127.0.0.1:9".into());
            config.no_proxy = Some("0.0.0.0/0,::/0,*".into());
        }
        let client = Client::try_from(config).map_err(|error| PullError::Failed(cause(&error)))?;
        let (auth, stranger) = credentials::find(self.docker_config.as_deref(), reference.registry()).await;
        let conversation = Conversation {
            client,
            auth,
            stranger,
            reference,
        };
        // Beforehand, because the client would go on without a token if it got none, and the reason would be lost.
        let asked = conversation
            .client
            .auth(reference.inner(), &conversation.auth, RegistryOperation::Pull);
        conversation.answer(ANSWER_MAX, asked).await?;
        Ok(conversation)
    }
}

impl Conversation<'_> {
    /// The digest of the manifest that the reference means now.
    ///
    /// # Errors
    /// Why it isn't known.
    pub(super) async fn resolve(&self) -> Result<Digest, PullError> {
        if let Some(digest) = self.reference.digest() {
            return Ok(digest);
        }
        let asked = self.client.fetch_manifest_digest(self.reference.inner(), &self.auth);
        let digest = self.answer(ANSWER_MAX, asked).await?;
        let parsed = digest.strip_prefix("sha256:").and_then(|digest| digest.parse().ok());
        parsed.ok_or_else(|| PullError::Failed(format!("{:?} is no SHA-256 digest", words(&digest))))
    }

    /// The component in the manifest of this digest.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn pull(&self, manifest: Digest) -> Result<Vec<u8>, PullError> {
        let place = self.reference.at(manifest);
        let accepted = [OCI_IMAGE_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE];
        let asked = self.client.pull_manifest_raw(&place, &self.auth, &accepted);
        let (sent, _) = self.answer(ANSWER_MAX, asked).await?;
        if sent.len() > MANIFEST_BYTES_MAX {
            let reason = format!("its manifest has {} bytes, may have {MANIFEST_BYTES_MAX}", sent.len());
            return Err(PullError::Unfit(reason));
        }
        check(manifest, &sent)?;
        let layer = layer(&sent)?;
        let blob = format!("sha256:{}", layer.digest);
        let pulled = async {
            let mut stream = self.client.pull_blob_stream(&place, blob.as_str()).await?;
            let mut bytes = Vec::new();
            while let Some(chunk) = stream.next().await {
                bytes.extend_from_slice(&chunk?);
                // The rest isn't even waited for.
                if bytes.len() > layer.size {
                    break;
                }
            }
            Ok(bytes)
        };
        let bytes = self.answer(COMPONENT_MAX, pulled).await?;
        if bytes.len() != layer.size {
            let than = if bytes.len() > layer.size { "more" } else { "fewer" };
            let reason = format!("it sends {than} bytes than the {} that the manifest has", layer.size);
            return Err(PullError::Tampered(reason));
        }
        check(layer.digest, &bytes)?;
        Ok(bytes)
    }

    async fn answer<T>(
        &self,
        deadline: Duration,
        asked: impl Future<Output = Result<T, OciDistributionError>>,
    ) -> Result<T, PullError> {
        match tokio::time::timeout(deadline, asked).await {
            Ok(answer) => answer.map_err(|error| self.error(&error)),
            Err(_) => Err(PullError::TimedOut(deadline)),
        }
    }

    fn error(&self, error: &OciDistributionError) -> PullError {
        let cause = cause(error);
        match error {
            OciDistributionError::DigestError(DigestError::VerificationError { .. }) => PullError::Tampered(cause),
            OciDistributionError::IoError(error)
                if error
                    .get_ref()
                    .is_some_and(<dyn std::error::Error + Send + Sync>::is::<DigestError>) =>
            {
                PullError::Tampered(cause)
            }
            OciDistributionError::RequestError(error) if error.is_timeout() || error.is_connect() => {
                PullError::Unreachable(cause)
            }
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError { code: 401 | 403, .. } => self.unauthorized(),
            OciDistributionError::ServerError { code: 404, .. } => PullError::Missing,
            OciDistributionError::ServerError { code, .. } => {
                PullError::Failed(format!("it answers with status {code}"))
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let is = |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
                if is(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                    self.unauthorized()
                } else if is(&[
                    OciErrorCode::ManifestUnknown,
                    OciErrorCode::NameUnknown,
                    OciErrorCode::NotFound,
                    OciErrorCode::BlobUnknown,
                ]) {
                    PullError::Missing
                } else {
                    let told: Vec<&str> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
                    PullError::Failed(words(&told.join("; ")))
                }
            }
            _ => PullError::Failed(cause),
        }
    }

    fn unauthorized(&self) -> PullError {
        let who = match (&self.auth, self.stranger) {
            (RegistryAuth::Anonymous, Some(reason)) => reason.to_owned(),
            (RegistryAuth::Anonymous, None) => "nobody is logged in there".to_owned(),
            _ => format!("whoever is logged in at {} may not", self.reference.registry()),
        };
        PullError::Unauthorized(who)
    }
}

/// The innermost cause: what stands around it repeats URLs, and those of a registry's storage may be secrets.
fn cause(error: &dyn Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    words(text.split(" for url (").next().unwrap_or_default())
}

/// Somebody else's words, cut.
fn words(text: &str) -> String {
    text.chars().take(WORDS_CHARS_MAX).collect()
}

fn check(expected: Digest, bytes: &[u8]) -> Result<(), PullError> {
    let found = Digest::of(bytes);
    if found == expected {
        return Ok(());
    }
    Err(PullError::Tampered(format!(
        "it has the sha256 {found}, not {expected}"
    )))
}

/// What a manifest says of the component.
#[derive(Debug, PartialEq, Eq)]
struct Layer {
    digest: Digest,
    size: usize,
}

/// The one layer that is a component.
fn layer(manifest: &[u8]) -> Result<Layer, PullError> {
    let unfit = |reason: String| Err(PullError::Unfit(reason));
    let manifest = match serde_json::from_slice(manifest) {
        Ok(OciManifest::Image(manifest)) => manifest,
        Ok(OciManifest::ImageIndex(index)) => {
            let count = index.manifests.len();
            return unfit(format!(
                "it is an index of {count} manifests; name that of the component by its digest"
            ));
        }
        Err(error) => return unfit(format!("its manifest makes no sense: {}", words(&error.to_string()))),
    };
    let [layer] = manifest.layers.as_slice() else {
        return unfit(format!("it has {} layers, not one", manifest.layers.len()));
    };
    if layer.media_type != WASM {
        return unfit(format!("its layer is {:?}, not {WASM}", words(&layer.media_type)));
    }
    let digest = layer
        .digest
        .strip_prefix("sha256:")
        .and_then(|digest| digest.parse().ok());
    let Some(digest) = digest else {
        return unfit(format!("its layer's digest is {:?}, no SHA-256", words(&layer.digest)));
    };
    match usize::try_from(layer.size) {
        Ok(size) if (1..=FILE_BYTES_MAX).contains(&size) => Ok(Layer { digest, size }),
        _ => unfit(format!("it has {} bytes, may have {FILE_BYTES_MAX}", layer.size)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn descriptor(media_type: &str, size: i64) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", Digest::of(b"x")), "size": size })
    }

    fn manifest(config: &str, layers: &[Value]) -> Vec<u8> {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE_MEDIA_TYPE,
            "config": descriptor(config, 2),
            "layers": layers,
        });
        manifest.to_string().into_bytes()
    }

    #[test]
    fn what_wkg_and_oras_push_is_taken() {
        let expected = Layer {
            digest: Digest::of(b"x"),
            size: 7,
        };
        for config in [
            "application/vnd.wasm.config.v0+json",
            "application/vnd.oci.empty.v1+json",
        ] {
            assert_eq!(layer(&manifest(config, &[descriptor(WASM, 7)])).as_ref(), Ok(&expected));
        }
    }

    #[test]
    fn what_is_not_one_component_of_a_fitting_size_is_refused_with_the_reason() {
        let wasm = |size| descriptor(WASM, size);
        let config = "application/vnd.wasm.config.v0+json";
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_IMAGE_INDEX_MEDIA_TYPE, "manifests": [] });
        let mut weak = wasm(1);
        weak["digest"] = json!("sha512:00");
        let too_large = i64::try_from(FILE_BYTES_MAX + 1).expect("a size");
        for (wrong, said) in [
            (manifest(config, &[]), "it has 0 layers, not one"),
            (manifest(config, &[wasm(1), wasm(1)]), "it has 2 layers, not one"),
            (
                manifest(config, &[descriptor("application/vnd.oci.image.layer.v1.tar+gzip", 1)]),
                "its layer is \"application/vnd.oci.image.layer.v1.tar+gzip\", not application/wasm",
            ),
            (manifest(config, &[wasm(0)]), "it has 0 bytes, may have 67108864"),
            (manifest(config, &[wasm(-1)]), "it has -1 bytes, may have 67108864"),
            (
                manifest(config, &[wasm(too_large)]),
                "it has 67108865 bytes, may have 67108864",
            ),
            (
                manifest(config, &[weak]),
                "its layer's digest is \"sha512:00\", no SHA-256",
            ),
            (
                index.to_string().into_bytes(),
                "it is an index of 0 manifests; name that of the component by its digest",
            ),
        ] {
            assert_eq!(layer(&wrong), Err(PullError::Unfit(said.into())));
        }
        assert!(layer(b"nonsense").is_err() && layer(b"{}").is_err());
    }

    #[test]
    fn an_address_of_a_registrys_storage_is_not_repeated() {
        let error = std::io::Error::other("error decoding response body for url (https://storage/x?Signature=s3cret)");
        assert_eq!(cause(&error), "error decoding response body");
    }

    /// A registry that lets everybody in and answers all else with this status.
    async fn answering(status: &'static str) -> Reference {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("the port");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap_or_default();
                let is_welcome = request[..read].starts_with(b"GET /v2/ ");
                let status = if is_welcome { "200 OK" } else { status };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                // The client may have gone.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        format!("oci://{address}/acme/tools:1").parse().expect("a reference")
    }

    #[tokio::test]
    async fn what_a_registry_answers_is_told_as_what_it_means() {
        for (status, expected) in [
            (
                "500 Internal Server Error",
                PullError::Failed("it answers with status 500".into()),
            ),
            (
                "403 Forbidden",
                PullError::Unauthorized("nobody is logged in there".into()),
            ),
            ("404 Not Found", PullError::Missing),
        ] {
            let reference = answering(status).await;
            let asked = Registry { docker_config: None }.ask(&reference).await;
            let asked = asked.unwrap_or_else(|error| panic!("it lets everybody in: {error}"));
            assert_eq!(asked.resolve().await, Err(expected), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_end_is_given_up_at_its_deadline() {
        // The error only says that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let reference = "oci://127.0.0.1:9/acme/tools:1".parse().expect("a reference");
        let conversation = Conversation {
            client: Client::default(),
            auth: RegistryAuth::Anonymous,
            stranger: None,
            reference: &reference,
        };
        let never = std::future::pending::<Result<(), OciDistributionError>>();
        assert_eq!(
            conversation.answer(ANSWER_MAX, never).await,
            Err(PullError::TimedOut(ANSWER_MAX))
        );
    }
}
