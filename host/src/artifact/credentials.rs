//! What Docker's own configuration has for a registry: who `docker login` logged in there.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError as Error, DockerCredential};
use oci_client::secrets::RegistryAuth;

use crate::environment::Environment;

/// How long a credential helper may take: some ask the user.
const HELPER_MAX: Duration = Duration::from_mins(1);
/// How Docker's configuration calls its Hub.
const HUB: &str = "https://index.docker.io/v1/";

/// Where Docker's client configuration is; `None` if there is no home to look in.
pub(super) fn file(environment: &Environment) -> Option<PathBuf> {
    let home = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
    let folder = environment.non_empty("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(Path::new(environment.non_empty(home)?).join(".docker")))?;
    Some(folder.join("config.json"))
}

/// Who this user is at a registry, and why they are nobody there where something is amiss. Nobody may be enough, so that
/// is no error.
pub(super) async fn find(file: Option<&Path>, registry: &str) -> (RegistryAuth, Option<&'static str>) {
    let Some(file) = file.map(Path::to_owned) else {
        return (RegistryAuth::Anonymous, None);
    };
    let server = match registry {
        "docker.io" | "index.docker.io" => HUB.to_owned(),
        registry => registry.to_owned(),
    };
    // A helper is a process that is waited for.
    let asked = tokio::task::spawn_blocking(move || {
        let file = File::open(file).map_err(|_| Error::ConfigNotFound)?;
        docker_credential::get_credential_from_reader(BufReader::new(file), &server)
    });
    let found = match tokio::time::timeout(HELPER_MAX, asked).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => Err(Error::HelperCommunicationError),
        Err(_) => {
            return (
                RegistryAuth::Anonymous,
                Some("Docker's credential helper doesn't answer"),
            );
        }
    };
    // Not the errors' own words: a helper's output may hold the secret.
    match found {
        Ok(DockerCredential::UsernamePassword(user, password)) => (RegistryAuth::Basic(user, password), None),
        Ok(DockerCredential::IdentityToken(_)) => {
            let reason = "Docker's configuration has an identity token for it, which can't be used here";
            (RegistryAuth::Anonymous, Some(reason))
        }
        Err(Error::NoCredentialConfigured | Error::ConfigNotFound) => (RegistryAuth::Anonymous, None),
        Err(Error::ConfigReadError) => (RegistryAuth::Anonymous, Some("Docker's configuration can't be read")),
        Err(Error::CredentialDecodingError | Error::CredentialMismatchError) => {
            let reason = "what Docker's configuration has for it makes no sense";
            (RegistryAuth::Anonymous, Some(reason))
        }
        Err(_) => (
            RegistryAuth::Anonymous,
            Some("Docker's credential helper has none for it, or fails"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who one is at `registry` with this Docker configuration.
    async fn found(config: &str, registry: &str) -> (RegistryAuth, Option<&'static str>) {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join("config.json");
        std::fs::write(&file, config).expect("a file");
        find(Some(&file), registry).await
    }

    #[tokio::test]
    async fn a_login_is_for_its_own_registry_alone() {
        // user:s3cret
        let config = r#"{ "auths": { "127.0.0.1:5000": { "auth": "dXNlcjpzM2NyZXQ=" } } }"#;
        let user = RegistryAuth::Basic("user".into(), "s3cret".into());
        assert_eq!(found(config, "127.0.0.1:5000").await, (user, None));
        assert_eq!(found(config, "127.0.0.1:5001").await, (RegistryAuth::Anonymous, None));
        let hub = r#"{ "auths": { "https://index.docker.io/v1/": { "auth": "dXNlcjpzM2NyZXQ=" } } }"#;
        assert!(matches!(found(hub, "docker.io").await, (RegistryAuth::Basic(..), None)));
    }

    #[tokio::test]
    async fn whatever_is_amiss_is_said_without_anything_secret() {
        for (config, registry) in [
            ("{", "ghcr.io"),
            (r#"{ "auths": { "ghcr.io": { "auth": "czNjcmV0" } } }"#, "ghcr.io"),
            (
                r#"{ "auths": { "ghcr.io": { "identitytoken": "s3cret" } } }"#,
                "ghcr.io",
            ),
            (r#"{ "credHelpers": { "ghcr.io": "s3cret-not-there" } }"#, "ghcr.io"),
        ] {
            let (auth, reason) = found(config, registry).await;
            assert_eq!(auth, RegistryAuth::Anonymous, "{config}");
            let reason = reason.unwrap_or_else(|| panic!("nothing is said of {config}"));
            assert!(!reason.contains("s3cret"), "{reason}");
        }
    }

    #[tokio::test]
    async fn without_a_configuration_one_is_nobody() {
        assert_eq!(find(None, "ghcr.io").await, (RegistryAuth::Anonymous, None));
        let missing = Path::new("/nowhere/config.json");
        assert_eq!(find(Some(missing), "ghcr.io").await, (RegistryAuth::Anonymous, None));
    }

    #[test]
    fn docker_configuration_is_where_docker_has_it() {
        let of = |variables: &[(&str, &str)]| file(&variables.iter().copied().collect());
        assert_eq!(
            of(&[("DOCKER_CONFIG", "/d"), ("HOME", "/h")]),
            Some("/d/config.json".into())
        );
        #[cfg(unix)]
        assert_eq!(of(&[("HOME", "/h")]), Some("/h/.docker/config.json".into()));
        assert_eq!(of(&[]), None);
    }
}
