//! Where the Docker daemon is, who said so, and at which address its published ports are reached.

use std::fmt::{self, Write as _};
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
        Some((name, origin)) => from_context(&name, origin, around),
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
                "Correct the address, which comes from {origin}: it looks like unix:///var/run/docker.sock, \
                 npipe:////./pipe/docker_engine or tcp://host:2376."
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

/// The chosen context's name and how it is called; `None` for the default one, which is no context at all.
fn current_context(around: &Surroundings<'_>) -> Result<Option<(String, String)>, EngineError> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "currentContext")]
        current_context: Option<String>,
    }
    let chosen = if let Some(name) = around.set("DOCKER_CONTEXT") {
        let origin = format!("the Docker context {name} of DOCKER_CONTEXT");
        Some((name, origin))
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
        config.current_context.map(|name| {
            let origin = format!("the Docker context {name}");
            (name, origin)
        })
    } else {
        None
    };
    Ok(chosen.filter(|(name, _)| !name.is_empty() && name != "default"))
}

fn from_context(name: &str, origin: String, around: &Surroundings<'_>) -> Result<Endpoint, EngineError> {
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
    let hash = Sha256::digest(name).iter().fold(String::new(), |mut hash, byte| {
        // Writing to a String can't fail.
        let _ = write!(hash, "{byte:02x}");
        hash
    });
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

/// The first that exists is taken: Docker's own, rootless, Docker Desktop, Colima, Rancher Desktop, `OrbStack`, Podman.
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
        ErrorKind::NotFound => "it is not there".to_owned(),
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
        // A TLS failure, as rustls reports it.
        (Address::Tcp { tls: Some(tls), .. }, ErrorKind::InvalidData) => format!(
            "Check that {} belongs to this daemon and that it takes the certificate beside that file.",
            tls.ca.display()
        ),
        (Address::Tcp { .. }, _) => format!(
            "Check that the daemon listens there and that no firewall is between; the address comes from {}.",
            endpoint.origin
        ),
        _ if named => format!("{} The address comes from {}.", not_running(os), endpoint.origin),
        _ => not_running(os).to_owned(),
    };
    unreachable(endpoint.to_string(), reason, advice)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io;

    use super::*;

    /// A machine with these variables and files; a file's text matters only where it is read.
    #[derive(Default)]
    struct Machine {
        configured: Option<&'static str>,
        variables: HashMap<&'static str, &'static str>,
        files: HashMap<PathBuf, String>,
        os: Option<&'static str>,
    }

    impl Machine {
        fn with(mut self, name: &'static str, value: &'static str) -> Self {
            self.variables.insert(name, value);
            self
        }

        fn file(mut self, path: impl Into<PathBuf>, text: &str) -> Self {
            self.files.insert(path.into(), text.to_owned());
            self
        }

        fn context(self, name: &str, host: &str) -> Self {
            let meta = format!(r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{host}"}}}}}}"#);
            self.file(context_dir("meta", name).join("meta.json"), &meta)
        }

        fn find(&self) -> Result<Endpoint, EngineError> {
            find(&Surroundings {
                configured: self.configured,
                variable: &|name| self.variables.get(name).map(ToString::to_string),
                home: Some(Path::new("/home/me")),
                exists: &|path| self.files.keys().any(|file| file.starts_with(path)),
                read: &|path| {
                    let text = self.files.get(path);
                    text.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
                },
                os: self.os.unwrap_or("linux"),
            })
        }

        fn found(&self) -> String {
            // Windows joins paths with backslashes.
            self.find().expect("an endpoint").to_string().replace('\\', "/")
        }

        fn refused(&self) -> String {
            let EngineError::Unreachable {
                endpoint,
                reason,
                advice,
            } = self.find().expect_err("no endpoint")
            else {
                panic!("another error");
            };
            format!("{endpoint}: {reason}. {advice}")
        }
    }

    fn context_dir(kind: &str, name: &str) -> PathBuf {
        // `printf colima | sha256sum`: the one that the tests use.
        assert_eq!(name, "colima");
        Path::new("/home/me/.docker/contexts")
            .join(kind)
            .join("f24fd3749c1368328e2b149bec149cb6795619f244c5b584e844961215dadd16")
    }

    fn docker_host(value: &'static str) -> Machine {
        Machine::default().with("DOCKER_HOST", value)
    }

    #[test]
    fn the_configuration_comes_before_docker_host_and_that_before_the_context_and_that_before_the_usual_places() {
        let mut machine = Machine::default().file("/var/run/docker.sock", "");
        assert_eq!(
            machine.found(),
            "Docker at unix:///var/run/docker.sock (from the usual places)"
        );
        machine = machine
            .file(
                "/home/me/.docker/config.json",
                r#"{"auths":{},"currentContext":"colima"}"#,
            )
            .context("colima", "unix:///c.sock");
        assert_eq!(
            machine.found(),
            "Docker at unix:///c.sock (from the Docker context colima)"
        );
        machine = machine.with("DOCKER_HOST", "unix:///h.sock");
        assert_eq!(machine.found(), "Docker at unix:///h.sock (from DOCKER_HOST)");
        machine.configured = Some("unix:///f.sock");
        assert_eq!(machine.found(), "Docker at unix:///f.sock (from the configuration)");
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let machine = docker_host("")
            .with("DOCKER_CONTEXT", "")
            .file("/var/run/docker.sock", "");
        assert_eq!(
            machine.found(),
            "Docker at unix:///var/run/docker.sock (from the usual places)"
        );
    }

    #[test]
    fn every_scheme_of_docker_host_is_understood() {
        for (host, address) in [
            ("unix:///run/user/1000/docker.sock", "unix:///run/user/1000/docker.sock"),
            ("npipe:////./pipe/docker_engine", "npipe:////./pipe/docker_engine"),
            ("tcp://buildbox", "tcp://buildbox:2375"),
            ("tcp://10.0.0.7:4243/", "tcp://10.0.0.7:4243"),
            ("tcp://[fd00::7]:4243", "tcp://[fd00::7]:4243"),
            ("tcp://[fd00::7]", "tcp://[fd00::7]:2375"),
            ("http://buildbox:80", "tcp://buildbox:80"),
        ] {
            assert_eq!(
                docker_host(host).found(),
                format!("Docker at {address} (from DOCKER_HOST)")
            );
        }
    }

    #[test]
    fn a_docker_host_that_makes_no_sense_is_refused_with_where_it_came_from() {
        for host in [
            "/var/run/docker.sock",
            "unix://",
            "npipe://",
            "tcp://",
            "tcp://:2375",
            "tcp://host:port",
            "tcp://host:0",
            "tcp://host:70000",
            "tcp://host/path",
            "tcp://user@host",
            "tcp://[::1",
            "tcp://[::1]2375",
            "tcp://[host]:1",
            "ftp://host",
        ] {
            let refused = docker_host(host).refused();
            assert!(refused.contains("which comes from DOCKER_HOST"), "{host}: {refused}");
        }
    }

    #[test]
    fn ssh_is_refused_with_what_to_do_instead() {
        let refused = docker_host("ssh://me@buildbox").refused();
        assert!(refused.contains("ssh:// carries Docker's API only"), "{refused}");
        assert!(refused.contains("DOCKER_CERT_PATH"), "{refused}");
    }

    #[test]
    fn tls_is_used_when_docker_would_and_takes_its_files_from_where_docker_does() {
        let certs = |machine: Machine, dir: &str| {
            ["ca.pem", "cert.pem", "key.pem"]
                .into_iter()
                .fold(machine, |machine, file| machine.file(Path::new(dir).join(file), ""))
        };
        let machine = certs(
            docker_host("tcp://box").with("DOCKER_TLS_VERIFY", "1"),
            "/home/me/.docker",
        );
        assert_eq!(machine.found(), "Docker at https://box:2376 (from DOCKER_HOST)");
        let machine = certs(docker_host("tcp://box:1").with("DOCKER_CERT_PATH", "/certs"), "/certs");
        let Address::Tcp { tls: Some(tls), .. } = machine.find().expect("an endpoint").address else {
            panic!("no TLS");
        };
        assert_eq!(tls.key, Path::new("/certs/key.pem"));
        let machine = certs(docker_host("https://box").with("DOCKER_CONFIG", "/config"), "/config");
        assert_eq!(machine.found(), "Docker at https://box:2376 (from DOCKER_HOST)");
    }

    #[test]
    fn missing_tls_files_are_named() {
        let machine = docker_host("tcp://box")
            .with("DOCKER_CERT_PATH", "/certs")
            .file("/certs/ca.pem", "");
        let refused = machine.refused();
        assert!(refused.contains("the TLS file /certs/cert.pem is missing"), "{refused}");
    }

    #[test]
    fn a_context_may_come_from_the_environment_and_bring_tls_files() {
        let mut machine = Machine::default()
            .with("DOCKER_CONTEXT", "colima")
            .context("colima", "tcp://box");
        assert_eq!(
            machine.found(),
            "Docker at tcp://box:2375 (from the Docker context colima of DOCKER_CONTEXT)"
        );
        let dir = context_dir("tls", "colima").join("docker");
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            machine = machine.file(dir.join(file), "");
        }
        let Address::Tcp { tls: Some(tls), .. } = machine.find().expect("an endpoint").address else {
            panic!("no TLS");
        };
        assert_eq!(tls.ca, dir.join("ca.pem"));
    }

    #[test]
    fn the_default_context_is_no_context() {
        let machine = Machine::default()
            .file("/home/me/.docker/config.json", r#"{"currentContext":"default"}"#)
            .file("/var/run/docker.sock", "");
        assert_eq!(
            machine.found(),
            "Docker at unix:///var/run/docker.sock (from the usual places)"
        );
    }

    #[test]
    fn a_context_that_is_missing_or_broken_is_said_so() {
        let missing = Machine::default().with("DOCKER_CONTEXT", "colima");
        assert!(
            missing.refused().contains("meta.json can't be read"),
            "{}",
            missing.refused()
        );
        let broken = missing.file(context_dir("meta", "colima").join("meta.json"), "{}");
        assert!(broken.refused().contains("makes no sense"), "{}", broken.refused());
        let config = Machine::default().file("/home/me/.docker/config.json", "{");
        assert!(
            config.refused().contains("config.json can't be read"),
            "{}",
            config.refused()
        );
    }

    #[test]
    fn the_usual_places_are_tried_in_order_and_named_when_there_is_none() {
        let machine = Machine::default()
            .with("XDG_RUNTIME_DIR", "/run/user/1000")
            .file("/run/podman/podman.sock", "")
            .file("/home/me/.colima/default/docker.sock", "");
        assert_eq!(
            machine.found(),
            "Docker at unix:///home/me/.colima/default/docker.sock (from the usual places)"
        );
        let machine = machine.file("/run/user/1000/docker.sock", "");
        assert_eq!(
            machine.found(),
            "Docker at unix:///run/user/1000/docker.sock (from the usual places)"
        );
        let nowhere = Machine::default().refused();
        assert!(
            nowhere.contains("there is none of unix:///var/run/docker.sock, "),
            "{nowhere}"
        );
        assert!(nowhere.contains("systemctl start docker"), "{nowhere}");
    }

    #[test]
    fn on_windows_the_usual_places_are_pipes() {
        let mut machine = Machine::default().file("//./pipe/dockerDesktopLinuxEngine", "");
        machine.os = Some("windows");
        assert_eq!(
            machine.found(),
            "Docker at npipe:////./pipe/dockerDesktopLinuxEngine (from the usual places)"
        );
    }

    #[test]
    fn only_a_tcp_host_that_is_not_loopback_is_remote() {
        for (host, remote) in [
            ("unix:///s", None),
            ("npipe:////./pipe/x", None),
            ("tcp://localhost:1", None),
            ("tcp://LOCALHOST:1", None),
            ("tcp://127.1.2.3:1", None),
            ("tcp://[::1]:1", None),
            ("tcp://[::ffff:127.0.0.1]:1", None),
            ("tcp://buildbox:1", Some("buildbox")),
            ("tcp://[fd00::7]:1", Some("fd00::7")),
        ] {
            let endpoint = docker_host(host).find().expect("an endpoint");
            assert_eq!(endpoint.remote_host(), remote, "{host}");
        }
    }

    #[test]
    fn advice_fits_the_cause_and_the_platform() {
        use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        let advice = |origin: &str, host, kind: io::ErrorKind, os| {
            let mut endpoint = docker_host(host).find().expect("an endpoint");
            endpoint.origin = origin.into();
            match connecting_failed(&endpoint, &kind.into(), os) {
                EngineError::Unreachable { reason, advice, .. } => format!("{reason}. {advice}"),
                error => panic!("{error}"),
            }
        };
        for (told, expected) in [
            (
                advice("the usual places", "unix:///s", PermissionDenied, "linux"),
                "this user may not use it. Add yourself to the docker group",
            ),
            (
                advice("the usual places", "npipe:////./pipe/x", PermissionDenied, "windows"),
                "this user may not use it. Let this user use Docker",
            ),
            (
                advice("the usual places", "unix:///s", ConnectionRefused, "linux"),
                "nothing answers there. Start Docker (`sudo systemctl start docker`",
            ),
            (
                advice("the usual places", "unix:///s", ConnectionRefused, "macos"),
                "nothing answers there. Start Docker Desktop (`open -a Docker`)",
            ),
            (
                advice("the usual places", "npipe:////./pipe/x", NotFound, "windows"),
                "it is not there. Start Docker Desktop;",
            ),
            (
                advice("DOCKER_HOST", "tcp://box:1", ConnectionRefused, "linux"),
                "nothing answers there. Check that the daemon listens there",
            ),
        ] {
            assert!(told.starts_with(expected), "{told}");
        }
        let told = advice("DOCKER_HOST", "unix:///s", NotFound, "linux");
        assert!(told.ends_with("The address comes from DOCKER_HOST."), "{told}");
    }
}
