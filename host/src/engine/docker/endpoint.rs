//! Where the Docker daemon is, who said so, and at which address its published ports are reached.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::engine::EngineError;

/// The port of a `tcp://` host that names none, without TLS and with it.
const PLAIN_PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

/// A Docker daemon's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: Address,
    /// Who named it, as it reads after "from": `DOCKER_HOST`, `the configuration`.
    pub(super) origin: String,
}

/// What is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// A Unix socket.
    Socket(PathBuf),
    /// A named pipe of Windows, such as `//./pipe/docker_engine`.
    Pipe(String),
    /// A TCP port; an IPv6 host is without brackets.
    Tcp { host: String, port: u16, tls: Option<Tls> },
}

/// The files that authenticate both sides, as Docker names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Docker at {} (from {})", self.address, self.origin)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
            Self::Pipe(path) => write!(f, "npipe://{path}"),
            Self::Tcp { host, port, tls } => {
                let scheme = if tls.is_some() { "https" } else { "tcp" };
                write!(f, "{scheme}://{}", authority(host, *port))
            }
        }
    }
}

/// `host:port`, with the brackets that an IPv6 host needs there.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl Endpoint {
    /// The host name or address of a daemon on another machine; `None` if the daemon is on this one.
    ///
    /// A socket, a pipe and a loopback address all mean this machine, or a virtual machine that forwards its ports to
    /// this machine's loopback, as Docker Desktop, Colima and Podman machines do. There ports are published on
    /// 127.0.0.1 and nobody else can reach them. A daemon elsewhere publishes on the one address by which we reach it:
    /// that is an address of its own which surely leads there from here, and its other networks stay closed.
    pub(super) fn remote_host(&self) -> Option<&str> {
        match &self.address {
            Address::Tcp { host, .. } if !is_loopback(host) => Some(host),
            _ => None,
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// What finding the endpoint depends on.
pub(super) struct Surroundings<'a> {
    /// The `DOCKER_HOST` of the configuration.
    pub(super) configured: Option<&'a str>,
    /// The environment.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    /// The user's home directory.
    pub(super) home: Option<&'a Path>,
    /// Whether a file, socket or pipe is there.
    pub(super) exists: &'a dyn Fn(&Path) -> bool,
    /// A file's text.
    pub(super) read: &'a dyn Fn(&Path) -> std::io::Result<String>,
    /// The platform, as `std::env::consts::OS` has it.
    pub(super) os: &'a str,
}

impl Surroundings<'_> {
    /// A variable that is set to something; Docker takes an empty one for unset.
    fn set(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// The folder of Docker's client configuration.
    fn config_dir(&self) -> Option<PathBuf> {
        match self.set("DOCKER_CONFIG") {
            Some(dir) => Some(dir.into()),
            None => self.home.map(|home| home.join(".docker")),
        }
    }
}

/// Finds the endpoint in the order in which Docker's own client does, and then in the usual places of its relatives.
pub(super) fn find(around: &Surroundings<'_>) -> Result<Endpoint, EngineError> {
    if let Some(host) = around.configured.filter(|host| !host.is_empty()) {
        return from_host(host, "the configuration", around);
    }
    if let Some(host) = around.set("DOCKER_HOST") {
        return from_host(&host, "DOCKER_HOST", around);
    }
    match current_context(around)? {
        Some((name, source)) => from_context(&name, source, around),
        None => from_usual_places(around),
    }
}

fn unreachable(endpoint: impl Into<String>, reason: impl Into<String>, advice: impl Into<String>) -> EngineError {
    EngineError::Unreachable {
        endpoint: endpoint.into(),
        reason: reason.into(),
        advice: advice.into(),
    }
}

fn from_host(text: &str, origin: &str, around: &Surroundings<'_>) -> Result<Endpoint, EngineError> {
    let wanted_tls = around.set("DOCKER_TLS_VERIFY").is_some() || around.set("DOCKER_CERT_PATH").is_some();
    let tls = || {
        let dir = match around.set("DOCKER_CERT_PATH") {
            Some(dir) => Some(dir.into()),
            None => around.config_dir(),
        };
        tls_in(dir, text, origin, around)
    };
    let address = parse(text, origin, wanted_tls, tls)?;
    Ok(Endpoint {
        address,
        origin: origin.to_owned(),
    })
}

/// Reads a host in Docker's notation. `tls` is asked for its files where the connection is to be encrypted.
fn parse(
    text: &str,
    origin: &str,
    wanted_tls: bool,
    tls: impl FnOnce() -> Result<Tls, EngineError>,
) -> Result<Address, EngineError> {
    let wrong = |reason: &str| {
        unreachable(
            format!("Docker at {text} (from {origin})"),
            reason,
            format!(
                "Set {origin} to something like unix:///var/run/docker.sock, npipe:////./pipe/docker_engine or \
                 tcp://host:2376, or unset it to use this machine's Docker."
            ),
        )
    };
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(wrong(
            "it does not start with unix://, npipe://, tcp://, http:// or https://",
        ));
    };
    match scheme {
        "unix" if rest.is_empty() => Err(wrong("it names no socket")),
        "unix" => Ok(Address::Socket(rest.into())),
        "npipe" if rest.is_empty() => Err(wrong("it names no pipe")),
        "npipe" => Ok(Address::Pipe(rest.to_owned())),
        "tcp" | "http" | "https" => {
            let encrypted = scheme == "https" || (scheme == "tcp" && wanted_tls);
            let default = if encrypted { TLS_PORT } else { PLAIN_PORT };
            let (host, port) = host_and_port(rest, default).ok_or_else(|| wrong("it is not a host and a port"))?;
            let tls = if encrypted { Some(tls()?) } else { None };
            Ok(Address::Tcp { host, port, tls })
        }
        "ssh" => Err(unreachable(
            format!("Docker at {text} (from {origin})"),
            "ssh:// carries Docker's API only, but the databases' own ports must be reached as well",
            "Use the remote daemon's tcp:// address with DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH, or run \
             dev-postgres-mcp on that machine (an MCP client can start it there through ssh).",
        )),
        _ => Err(wrong("its scheme is none of unix, npipe, tcp, http and https")),
    }
}

fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        match after.strip_prefix(':') {
            Some(port) => (host, port.parse().ok()?),
            None if after.is_empty() => (host, default),
            None => return None,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, default),
        }
    };
    // What a host name or an address may consist of: anything else would end up in another part of the URI.
    let sane = !host.is_empty()
        && host
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':'));
    (sane && port != 0).then(|| (host.to_owned(), port))
}

fn tls_in(dir: Option<PathBuf>, text: &str, origin: &str, around: &Surroundings<'_>) -> Result<Tls, EngineError> {
    let endpoint = format!("Docker at {text} (from {origin})");
    let advice = "Put ca.pem, cert.pem and key.pem there, or set DOCKER_CERT_PATH to the folder that has them.";
    let Some(dir) = dir else {
        return Err(unreachable(
            endpoint,
            "there is no folder to look for TLS files in",
            advice,
        ));
    };
    let tls = Tls {
        ca: dir.join("ca.pem"),
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
    };
    for path in [&tls.ca, &tls.cert, &tls.key] {
        if !(around.exists)(path) {
            return Err(unreachable(
                endpoint,
                format!("the TLS file {} is missing", path.display()),
                advice,
            ));
        }
    }
    Ok(tls)
}

/// The chosen context and where it was chosen; `None` for the default one, which is no context at all.
fn current_context(around: &Surroundings<'_>) -> Result<Option<(String, &'static str)>, EngineError> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "currentContext")]
        current_context: Option<String>,
    }
    let chosen = if let Some(name) = around.set("DOCKER_CONTEXT") {
        Some((name, "DOCKER_CONTEXT"))
    } else if let Some(path) = around.config_dir().map(|dir| dir.join("config.json"))
        && let Ok(text) = (around.read)(&path)
    {
        let config: Config = serde_json::from_str(&text).map_err(|error| {
            unreachable(
                "Docker",
                format!("its configuration {} can't be read: {error}", path.display()),
                "Correct that file, or set DOCKER_HOST.",
            )
        })?;
        config.current_context.map(|name| (name, "docker context"))
    } else {
        None
    };
    Ok(chosen.filter(|(name, _)| !name.is_empty() && name != "default"))
}

fn from_context(name: &str, source: &'static str, around: &Surroundings<'_>) -> Result<Endpoint, EngineError> {
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "Endpoints")]
        endpoints: Endpoints,
    }
    #[derive(Deserialize)]
    struct Endpoints {
        docker: Docker,
    }
    #[derive(Deserialize)]
    struct Docker {
        #[serde(rename = "Host")]
        host: String,
    }
    let origin = format!("the Docker context {name}, chosen by {source}");
    let wrong = |reason: String| {
        unreachable(
            format!("Docker (from {origin})"),
            reason,
            "See `docker context ls`; `docker context use default` goes back to this machine's Docker.",
        )
    };
    let dir = around
        .config_dir()
        .ok_or_else(|| wrong("there is no home directory to look for contexts in".into()))?
        .join("contexts");
    // Docker files contexts under the hash of their name.
    let hash: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    let path = dir.join("meta").join(&hash).join("meta.json");
    let text = (around.read)(&path).map_err(|error| wrong(format!("{} can't be read: {error}", path.display())))?;
    let meta: Meta =
        serde_json::from_str(&text).map_err(|error| wrong(format!("{} makes no sense: {error}", path.display())))?;
    let host = meta.endpoints.docker.host;
    let tls_dir = dir.join("tls").join(&hash).join("docker");
    let wanted_tls = (around.exists)(&tls_dir);
    let address = parse(&host, &origin, wanted_tls, || {
        tls_in(Some(tls_dir), &host, &origin, around)
    })?;
    Ok(Endpoint { address, origin })
}

fn from_usual_places(around: &Surroundings<'_>) -> Result<Endpoint, EngineError> {
    let places = usual_places(around);
    let found = places.iter().find(|place| {
        (around.exists)(match place {
            Address::Socket(path) => path,
            Address::Pipe(path) => Path::new(path),
            Address::Tcp { .. } => return false,
        })
    });
    match found {
        Some(address) => Ok(Endpoint {
            address: address.clone(),
            origin: "the usual places".into(),
        }),
        None => Err(unreachable(
            "Docker",
            format!(
                "there is none of {}",
                places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ),
            not_running(around.os),
        )),
    }
}

/// The first that exists is taken: Docker's own, rootless, Docker Desktop, Colima, Rancher Desktop, OrbStack, Podman.
fn usual_places(around: &Surroundings<'_>) -> Vec<Address> {
    if around.os == "windows" {
        return ["docker_engine", "dockerDesktopLinuxEngine", "podman-machine-default"]
            .map(|name| Address::Pipe(format!("//./pipe/{name}")))
            .to_vec();
    }
    let runtime_dir = around.set("XDG_RUNTIME_DIR").map(PathBuf::from);
    let mut sockets = vec![PathBuf::from("/var/run/docker.sock")];
    sockets.extend(runtime_dir.as_ref().map(|dir| dir.join("docker.sock")));
    for below_home in [
        ".docker/run/docker.sock",
        ".docker/desktop/docker.sock",
        ".colima/default/docker.sock",
        ".rd/docker.sock",
        ".orbstack/run/docker.sock",
    ] {
        sockets.extend(around.home.map(|home| home.join(below_home)));
    }
    sockets.extend(runtime_dir.map(|dir| dir.join("podman/podman.sock")));
    sockets.push("/run/podman/podman.sock".into());
    sockets.into_iter().map(Address::Socket).collect()
}

/// What to do where nothing listens.
fn not_running(os: &str) -> &'static str {
    match os {
        "linux" => {
            "Start Docker (`sudo systemctl start docker`, or `sudo dockerd`); if it isn't installed, see \
             https://docs.docker.com/engine/install. If it is elsewhere, set DOCKER_HOST."
        }
        "macos" => {
            "Start Docker Desktop (`open -a Docker`), OrbStack or Colima (`colima start`); if none is installed, see \
             https://docs.docker.com/desktop. If Docker is elsewhere, set DOCKER_HOST."
        }
        _ => {
            "Start Docker Desktop; if it isn't installed, see https://docs.docker.com/desktop. If Docker is \
             elsewhere, set DOCKER_HOST."
        }
    }
}

/// Why connecting failed, and what to do about it.
pub(super) fn connecting_failed(endpoint: &Endpoint, error: &std::io::Error, os: &str) -> EngineError {
    use std::io::ErrorKind;
    let reason = match error.kind() {
        ErrorKind::NotFound => "there is no such socket".to_owned(),
        ErrorKind::PermissionDenied => "this user may not use it".to_owned(),
        ErrorKind::ConnectionRefused => "nothing answers there".to_owned(),
        _ => error.to_string(),
    };
    let named = endpoint.origin != "the usual places";
    let advice = match (&endpoint.address, error.kind()) {
        (Address::Socket(_), ErrorKind::PermissionDenied) if os == "linux" => {
            "Add yourself to the docker group (`sudo usermod -aG docker $USER`) and log in again, or use rootless \
             Docker."
                .to_owned()
        }
        (Address::Socket(_) | Address::Pipe(_), ErrorKind::PermissionDenied) => {
            "Let this user use Docker (on Windows: the group docker-users), and log in again.".to_owned()
        }
        (Address::Tcp { .. }, _) => format!(
            "Check that the daemon listens there and that no firewall is between; the address comes from {}.",
            endpoint.origin
        ),
        _ if named => format!("{} The address comes from {}.", not_running(os), endpoint.origin),
        _ => not_running(os).to_owned(),
    };
    unreachable(endpoint.to_string(), reason, advice)
}
