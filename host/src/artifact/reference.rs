//! Where an artifact is: `oci://registry/repository:tag` or `oci://registry/repository@sha256:…`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::digest::Digest;
use crate::instance::InvalidValue;

/// How a reference begins, and no path does.
pub const SCHEME: &str = "oci://";
/// The longest reference in bytes: a registry's name has at most 255, and so has a repository's.
const BYTES_MAX: usize = 1024;

/// A reference to an artifact in a registry, by tag or by digest.
#[derive(Clone, PartialEq, Eq)]
pub struct Reference(oci_client::Reference);

impl Reference {
    /// The registry's host, with its port if it has one.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The manifest's digest, if the reference says which.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.0.digest()?.strip_prefix("sha256:")?.parse().ok()
    }

    /// Whether the registry is on this machine, whatever network it is in.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = host(self.registry());
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    }

    /// As the client takes it.
    pub(super) fn inner(&self) -> &oci_client::Reference {
        &self.0
    }

    /// The same repository's manifest of this digest, as the client takes it.
    pub(super) fn at(&self, manifest: Digest) -> oci_client::Reference {
        self.0.clone_with_digest(format!("sha256:{manifest}"))
    }
}

/// A registry's name without the port.
fn host(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => registry,
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Reference {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let wrong = || {
            let expected = "must be oci://registry/repository:tag or oci://registry/repository@sha256:digest";
            InvalidValue(expected.into())
        };
        let rest = text.strip_prefix(SCHEME).filter(|rest| rest.len() <= BYTES_MAX);
        let (registry, path) = rest.and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
        // Docker takes a name without any of these for a repository of its Hub.
        if registry != "localhost" && !registry.contains(['.', ':']) {
            return Err(wrong());
        }
        // What would be latest is never meant for code.
        if !path.contains([':', '@']) {
            return Err(wrong());
        }
        let is_ipv6 = registry.starts_with('[');
        if is_ipv6 {
            let address = host(registry).strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            address
                .and_then(|address| address.parse::<Ipv6Addr>().ok())
                .ok_or_else(wrong)?;
            let port = registry.strip_prefix(host(registry)).unwrap_or_default();
            if !port.is_empty() {
                port.strip_prefix(':')
                    .and_then(|port| port.parse::<u16>().ok())
                    .ok_or_else(wrong)?;
            }
        }
        // The parser knows no IPv6 addresses.
        let known = if is_ipv6 { "localhost" } else { registry };
        let parsed: oci_client::Reference = format!("{known}/{path}").parse().map_err(|_| wrong())?;
        if parsed.digest().is_some_and(|digest| !digest.starts_with("sha256:")) {
            return Err(wrong());
        }
        if !is_ipv6 {
            return Ok(Self(parsed));
        }
        let (registry, repository) = (registry.to_owned(), parsed.repository().to_owned());
        let (tag, digest) = (parsed.tag().map(str::to_owned), parsed.digest().map(str::to_owned));
        Ok(Self(match (tag, digest) {
            (Some(tag), Some(digest)) => oci_client::Reference::with_tag_and_digest(registry, repository, tag, digest),
            (None, Some(digest)) => oci_client::Reference::with_digest(registry, repository, digest),
            (Some(tag), None) => oci_client::Reference::with_tag(registry, repository, tag),
            (None, None) => return Err(wrong()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_reference_is_written_as_it_is_read() {
        let digest = format!("oci://[::1]:5000/tools@sha256:{EMPTY}");
        for text in [
            "oci://ghcr.io/acme/tools:1.2",
            "oci://127.0.0.1:5000/tools:a_b.c-d",
            "oci://localhost/tools:1",
            "oci://[::1]/acme/tools:1",
            &format!("oci://ghcr.io/acme/tools:1@sha256:{EMPTY}"),
            &digest,
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(reference.to_string(), text);
        }
        let reference: Reference = digest.parse().expect("a reference");
        assert_eq!(
            (reference.registry(), reference.digest()),
            ("[::1]:5000", Some(Digest::of(b"")))
        );
        assert_eq!(reference.at(Digest::of(b"x")).registry(), "[::1]:5000");
    }

    #[test]
    fn what_names_no_registry_or_neither_tag_nor_digest_is_refused() {
        for text in [
            "",
            "ghcr.io/acme/tools:1",
            "oci://",
            "oci://tools:1",
            "oci://acme/tools:1",
            "oci://ghcr.io/acme/tools",
            "oci://127.0.0.1:5000/tools",
            "oci://ghcr.io/Acme/tools:1",
            "oci://ghcr.io/acme/tools:",
            "oci://ghcr.io/acme/tools@sha256:e3b0",
            &format!("oci://ghcr.io/acme/tools@sha512:{EMPTY}{EMPTY}"),
            "oci://user:secret@ghcr.io/acme/tools:1",
            "oci://ghcr.io/acme/../tools:1",
            "oci://ghcr.io/acme/tools:1?x=y",
            "oci://[::1/tools:1",
            "oci://[::1]x/tools:1",
            "oci://[::1]:99999/tools:1",
            &format!("oci://ghcr.io/{}:1", "a".repeat(2000)),
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text} was taken");
        }
    }

    #[test]
    fn loopback_is_what_never_leaves_the_machine() {
        let is_loopback = |registry: &str| {
            let reference: Reference = format!("oci://{registry}/tools:1").parse().expect("a reference");
            reference.is_loopback()
        };
        for registry in [
            "127.0.0.1",
            "127.0.0.1:5000",
            "localhost",
            "localhost:5000",
            "[::1]",
            "[::1]:5000",
        ] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in [
            "ghcr.io",
            "localhost.acme.org",
            "127.0.0.1.nip.io",
            "10.0.0.1:5000",
            "[fe80::1]:5000",
        ] {
            assert!(!is_loopback(registry), "{registry}");
        }
    }
}
