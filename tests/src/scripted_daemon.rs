//! A model of the Docker daemon on loopback that misbehaves on request.
//!
//! It keeps containers, networks and images in memory and answers the part of Docker's API that the product uses, one
//! request per connection. A test can have any request answered with a [`Fault`] instead, and afterwards look at what
//! was asked and what is left.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::routes::{self, Faults};

/// The file of a container that is kept, by its time of change.
const LEASE: &str = "dev-postgres-mcp.lease";

/// How one request is answered instead of well.
#[derive(Debug, Clone)]
pub enum Fault {
    /// With this status and message, and nothing is done.
    Status(u16, &'static str),
    /// Never, and nothing is done.
    Hang,
    /// Well, after this time; what is asked is done only then, whether or not the client still waits.
    Slow(Duration),
    /// What is asked is done, and then the connection is closed without an answer.
    DoneThenCut,
    /// What is asked is done, and then nothing more comes.
    DoneThenHang,
    /// With status 200 and this body, and nothing is done.
    Body(&'static str),
    /// With status 200 and these chunks, each after a pause; the last one is followed by a clean end.
    Chunks(Vec<&'static str>, Duration),
    /// As `Chunks`, but the connection is closed in the middle of the body.
    CutChunks(Vec<&'static str>, Duration),
}

/// A request as it came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path without the query, and without `/v1.xx`.
    pub path: String,
    /// The decoded query.
    pub query: HashMap<String, String>,
    /// The body; `null` if there was none, or no JSON.
    pub body: Value,
    /// The body as it came.
    pub bytes: Vec<u8>,
    /// `/v1.xx`, if the path began so.
    pub version: Option<String>,
}

impl Request {
    /// As [`routes::route`] has it.
    #[must_use]
    pub fn route(&self) -> String {
        routes::route(&self.method, &self.path)
    }
}

/// A container of the model.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name, without the slash.
    pub name: String,
    /// What it was created with.
    pub body: Value,
    /// Docker's word: `created`, `running`, `exited`, …
    pub state: &'static str,
    /// The exit code.
    pub exit_code: i64,
    /// Whether it was killed for want of memory.
    pub oom_killed: bool,
    /// Its log.
    pub log: String,
    /// When its lease ends; `None` if it has none.
    pub lease: Option<SystemTime>,
    /// When it was created, in seconds since 1970; `None` isn't told.
    pub created: Option<i64>,
}

/// A network of the model.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Value,
    /// Its driver.
    pub driver: String,
    /// The driver's options.
    pub options: Value,
}

/// What the daemon has.
#[derive(Debug, Default)]
pub struct State {
    /// By id.
    pub containers: BTreeMap<String, Container>,
    /// By id.
    pub networks: BTreeMap<String, Network>,
    /// References.
    pub images: Vec<String>,
    /// References that a pull finds.
    pub registry: Vec<String>,
    /// Whether a second network of the same name is refused, as engines from 25 on do.
    pub unique_networks: bool,
    /// The time that it tells; `None` if it tells none.
    pub system_time: Option<SystemTime>,
    /// What was asked, in the order in which it came in.
    pub requests: Vec<Request>,
    faults: Faults<Fault>,
    last_id: u64,
}

impl State {
    fn new_id(&mut self) -> String {
        self.last_id += 1;
        format!("{:064x}", self.last_id)
    }

    /// Adds a bridge that containers on it don't reach each other by.
    pub fn add_network(&mut self, name: &str, labels: Value) -> String {
        let id = self.new_id();
        let network = Network {
            name: name.to_owned(),
            labels,
            driver: "bridge".into(),
            options: json!({ "com.docker.network.bridge.enable_icc": "false" }),
        };
        self.networks.insert(id.clone(), network);
        id
    }

    /// Adds a container.
    pub fn add_container(&mut self, name: &str, body: Value, state: &'static str) -> String {
        let id = self.new_id();
        let container = Container {
            name: name.to_owned(),
            body,
            state,
            exit_code: 0,
            oom_killed: false,
            log: String::new(),
            lease: None,
            created: None,
        };
        self.containers.insert(id.clone(), container);
        id
    }

    /// The routes that were asked, in order.
    #[must_use]
    pub fn routes(&self) -> Vec<String> {
        self.requests.iter().map(Request::route).collect()
    }

    fn find(&self, id_or_name: &str) -> Option<String> {
        self.containers
            .iter()
            .find(|(id, container)| *id == id_or_name || container.name == id_or_name)
            .map(|(id, _)| id.clone())
    }
}

/// The daemon; it stops when it is dropped.
#[derive(Debug)]
pub struct ScriptedDaemon {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for ScriptedDaemon {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

impl ScriptedDaemon {
    /// Starts one on loopback with the image `postgres:17`.
    ///
    /// # Panics
    /// If loopback has no port left.
    pub async fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into()).await
    }

    /// Starts one on another address of this machine.
    ///
    /// # Panics
    /// If it can't listen there.
    pub async fn start_on(address: IpAddr) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("the port");
        let state = State {
            images: vec!["postgres:17".into()],
            ..State::default()
        };
        let mut daemon = Self {
            address,
            state: Arc::new(Mutex::new(state)),
            server: None,
        };
        daemon.serve(listener);
        daemon
    }

    fn serve(&mut self, listener: TcpListener) {
        let state = Arc::clone(&self.state);
        self.server = Some(tokio::spawn(async move {
            // Aborting the server closes its connections, too.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        let state = Arc::clone(&state);
                        connections.spawn(async move {
                            // The client may hang up whenever it likes.
                            let _ = serve_one(stream, state).await;
                        });
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        }));
    }

    /// Stops listening and closes every connection, keeping the state.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            // Its end is that it was aborted.
            let _ = server.await;
        }
    }

    /// Listens again, where it did before.
    ///
    /// # Panics
    /// If somebody has taken the port meanwhile.
    pub async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the port of before");
        self.serve(listener);
    }

    /// The `DOCKER_HOST` of this daemon.
    #[must_use]
    pub fn host(&self) -> String {
        format!("tcp://{}", self.address)
    }

    /// What the daemon has and was asked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Answers the next request of `route` (`POST /containers/*/start`) with `fault`; several queue up.
    pub fn once(&self, route: &str, fault: Fault) {
        self.state().faults.once(route, fault);
    }

    /// Answers every request of `route` with `fault`.
    pub fn always(&self, route: &str, fault: Fault) {
        self.state().faults.always(route, fault);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve_one(stream: TcpStream, state: Arc<Mutex<State>>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let Some(request) = read_request(&mut stream).await? else {
        return Ok(());
    };
    let fault = {
        let mut state = lock(&state);
        state.requests.push(request.clone());
        state.faults.meet(&request.route())
    };
    match fault {
        None => {
            let lease = lease(&lock(&state), &request);
            match lease {
                Some(header) => respond_with(&mut stream, &header, (200, String::new())).await,
                None => respond(&mut stream, answer(&state, &request).await).await,
            }
        }
        Some(Fault::Status(status, message)) => respond(&mut stream, error(status, message)).await,
        Some(Fault::Hang) => hang(&mut stream).await,
        Some(Fault::Slow(pause)) => {
            tokio::time::sleep(pause).await;
            let answer = answer(&state, &request).await;
            respond(&mut stream, answer).await
        }
        Some(Fault::DoneThenCut) => {
            answer(&state, &request).await;
            Ok(())
        }
        Some(Fault::DoneThenHang) => {
            answer(&state, &request).await;
            hang(&mut stream).await
        }
        Some(Fault::Body(text)) => respond(&mut stream, (200, text.to_owned())).await,
        Some(Fault::Chunks(chunks, pause)) => {
            send_chunks(&mut stream, &chunks, pause).await?;
            stream.write_all(b"0\r\n\r\n").await
        }
        Some(Fault::CutChunks(chunks, pause)) => send_chunks(&mut stream, &chunks, pause).await,
    }
}

/// Until the client hangs up.
pub(crate) async fn hang(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn send_chunks(stream: &mut BufReader<TcpStream>, chunks: &[&str], pause: Duration) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    for chunk in chunks {
        stream
            .write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes())
            .await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (
        words.next().unwrap_or_default().to_owned(),
        words.next().unwrap_or_default(),
    );
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (version, path) = match path.get(1..).and_then(|rest| rest.split_once('/')) {
        Some((version, rest)) if version.starts_with("v1.") => (Some(version.to_owned()), format!("/{rest}")),
        _ => (None, path.to_owned()),
    };
    let query = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect();
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await?;
        match header.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap_or(0);
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request {
        method,
        path,
        query,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        bytes: body,
        version,
    }))
}

/// Decodes `application/x-www-form-urlencoded`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        rest = others;
        match first {
            b'+' => bytes.push(b' '),
            b'%' if rest.len() >= 2 => {
                let digits = String::from_utf8_lossy(&rest[..2]).into_owned();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
                rest = &rest[2..];
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) async fn respond(stream: &mut (impl AsyncWrite + Unpin), answer: (u16, String)) -> io::Result<()> {
    respond_with(stream, "Content-Type: application/json", answer).await
}

async fn respond_with(
    stream: &mut (impl AsyncWrite + Unpin),
    header: &str,
    (status, body): (u16, String),
) -> io::Result<()> {
    let body = if status == 204 { String::new() } else { body };
    let head = format!(
        "HTTP/1.1 {status} Status\r\n{header}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// An answer as Docker gives it to what it can't or won't do.
pub(crate) fn error(status: u16, message: &str) -> (u16, String) {
    (status, json!({ "message": message }).to_string())
}

/// What Docker tells of a container's lease in a header, if that is what is asked and it has one.
fn lease(state: &State, request: &Request) -> Option<String> {
    let asks = request.route() == "HEAD /containers/*/archive"
        && request.query.get("path").and_then(|path| path.strip_prefix('/')) == Some(LEASE);
    let id = state.find(request.path.split('/').nth(2)?)?;
    let end = state.containers[&id].lease.filter(|_| asks)?;
    let told = json!({
        "name": LEASE,
        "size": 0,
        "mode": 0o444,
        "mtime": humantime::format_rfc3339_seconds(end).to_string(),
        "linkTarget": "",
    });
    let header = base64(told.to_string().as_bytes());
    Some(format!("X-Docker-Container-Path-Stat: {header}"))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| usize::from(chunk.get(index).copied().unwrap_or_default());
        let group = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * place)) & 63];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Keeps the time of change of a lease, and of all else that comes nothing.
fn put_archive(state: &mut State, id: &str, archive: &[u8]) -> (u16, String) {
    // The fields of a tar archive's first header.
    let field = |from: usize, to: usize| {
        let bytes = archive.get(from..to).unwrap_or_default();
        String::from_utf8_lossy(bytes).trim_matches(['\0', ' ']).to_owned()
    };
    if field(0, 100) == LEASE
        && let Ok(seconds) = u64::from_str_radix(&field(136, 148), 8)
        && let Some(container) = state.containers.get_mut(id)
    {
        container.lease = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    }
    (200, String::new())
}

/// Does what is asked, and says so.
async fn answer(state: &Arc<Mutex<State>>, request: &Request) -> (u16, String) {
    let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
    if let ("POST", ["containers", id, "wait"]) = (request.method.as_str(), parts.as_slice()) {
        return wait(state, id).await;
    }
    let mut state = lock(state);
    match (request.method.as_str(), parts.as_slice()) {
        ("GET", ["_ping"]) => (200, "OK".into()),
        ("GET", ["version"]) => (
            200,
            json!({ "Version": "20.10.24", "ApiVersion": "1.41", "Os": "linux" }).to_string(),
        ),
        ("GET", ["info"]) => (200, info(&state).to_string()),
        // It keeps no templates.
        ("GET", ["images", "json"]) => (200, "[]".into()),
        ("GET", ["images", reference @ .., "json"]) => inspect_image(&state, &reference.join("/")),
        ("POST", ["images", "create"]) => pull(&mut state, request),
        ("GET", ["networks"]) => list_networks(&state, request),
        ("POST", ["networks", "create"]) => create_network(&mut state, request),
        ("DELETE", ["networks", id]) => delete_network(&mut state, id),
        ("GET", ["containers", "json"]) => list_containers(&state, request),
        ("POST", ["containers", "create"]) => create_container(&mut state, request),
        (method, ["containers", id, rest @ ..]) => {
            let Some(id) = state.find(id) else {
                return error(404, &format!("No such container: {id}"));
            };
            match (method, rest) {
                ("GET", ["json"]) => (200, inspect_container(&id, &state.containers[&id]).to_string()),
                ("POST", ["start"]) => start_container(&mut state, &id),
                ("DELETE", []) => {
                    state.containers.remove(&id);
                    (204, String::new())
                }
                ("GET", ["logs"]) => (200, state.containers[&id].log.clone()),
                ("PUT", ["archive"]) => put_archive(&mut state, &id, &request.bytes),
                _ => error(404, "page not found"),
            }
        }
        _ => error(404, "page not found"),
    }
}

fn info(state: &State) -> Value {
    let mut info = json!({ "MemoryLimit": true, "DockerRootDir": "/nowhere" });
    if let Some(time) = state.system_time {
        info["SystemTime"] = humantime::format_rfc3339_nanos(time).to_string().into();
    }
    info
}

fn inspect_image(state: &State, reference: &str) -> (u16, String) {
    if state.images.iter().any(|image| image == reference) {
        let config = json!({ "Volumes": { "/var/lib/postgresql/data": {} }, "Env": ["PG_MAJOR=17"] });
        (200, json!({ "Id": "sha256:1", "Config": config }).to_string())
    } else {
        error(404, &format!("No such image: {reference}"))
    }
}

fn pull(state: &mut State, request: &Request) -> (u16, String) {
    let reference = format!("{}:{}", request.query["fromImage"], request.query["tag"]);
    if !state.registry.contains(&reference) {
        return error(404, &format!("manifest for {reference} not found: manifest unknown"));
    }
    state.images.push(reference);
    let lines = [
        json!({ "status": "Pulling fs layer", "progressDetail": {}, "id": "a" }),
        json!({ "status": "Downloading", "progressDetail": { "current": 10, "total": 100 }, "id": "a" }),
        json!({ "status": "Download complete", "progressDetail": {}, "id": "a" }),
        json!({ "status": "Extracting", "progressDetail": { "current": 1, "total": 400 }, "id": "a" }),
    ];
    (200, lines.map(|line| line.to_string()).join("\r\n"))
}

/// The values of one of the filters of a list.
fn filter(request: &Request, name: &str) -> Vec<String> {
    let filters: Value = request
        .query
        .get("filters")
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    filters[name]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect()
}

fn has_label(labels: &Value, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels[key] == value,
        None => labels.get(wanted).is_some(),
    }
}

fn list_networks(state: &State, request: &Request) -> (u16, String) {
    let (names, labels) = (filter(request, "name"), filter(request, "label"));
    let networks: Vec<Value> = state
        .networks
        .iter()
        .filter(|(_, network)| names.is_empty() || names.iter().any(|name| network.name.contains(name)))
        .filter(|(_, network)| labels.iter().all(|label| has_label(&network.labels, label)))
        .map(|(id, network)| {
            json!({
                "Id": id,
                "Name": network.name,
                "Labels": network.labels,
                "Driver": network.driver,
                "Options": network.options,
            })
        })
        .collect();
    (200, Value::from(networks).to_string())
}

fn create_network(state: &mut State, request: &Request) -> (u16, String) {
    let name = request.body["Name"].as_str().unwrap_or_default();
    if state.unique_networks && state.networks.values().any(|network| network.name == name) {
        return error(409, &format!("network with name {name} already exists"));
    }
    let id = state.add_network(name, request.body["Labels"].clone());
    if let Some(network) = state.networks.get_mut(&id) {
        request.body["Driver"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut network.driver);
        network.options = request.body["Options"].clone();
    }
    (201, json!({ "Id": id, "Warning": "" }).to_string())
}

fn delete_network(state: &mut State, id: &str) -> (u16, String) {
    let used = state
        .containers
        .values()
        .any(|container| container.state == "running" && container.body["HostConfig"]["NetworkMode"] == id);
    if used {
        return error(
            403,
            &format!("error while removing network: network {id} has active endpoints"),
        );
    }
    match state.networks.remove(id) {
        Some(_) => (204, String::new()),
        None => error(404, &format!("network {id} not found")),
    }
}

fn list_containers(state: &State, request: &Request) -> (u16, String) {
    let labels = filter(request, "label");
    let containers: Vec<Value> = state
        .containers
        .iter()
        .filter(|(_, container)| labels.iter().all(|label| has_label(&container.body["Labels"], label)))
        .map(|(id, container)| {
            json!({
                "Id": id,
                "Names": [format!("/{}", container.name)],
                // It keeps no names of images.
                "ImageID": container.body["Image"],
                "Labels": container.body["Labels"],
                "State": container.state,
                "Created": container.created,
                "HostConfig": { "NetworkMode": container.body["HostConfig"]["NetworkMode"] },
            })
        })
        .collect();
    (200, Value::from(containers).to_string())
}

fn create_container(state: &mut State, request: &Request) -> (u16, String) {
    let name = &request.query["name"];
    let image = request.body["Image"].as_str().unwrap_or_default();
    if !state.images.iter().any(|known| known == image) {
        return error(404, &format!("No such image: {image}"));
    }
    if state.find(name).is_some() {
        return error(
            409,
            &format!("Conflict. The container name \"/{name}\" is already in use"),
        );
    }
    let id = state.add_container(name, request.body.clone(), "created");
    (201, json!({ "Id": id, "Warnings": [] }).to_string())
}

fn start_container(state: &mut State, id: &str) -> (u16, String) {
    let mode = state.containers[id].body["HostConfig"]["NetworkMode"].clone();
    let network = mode.as_str().and_then(|mode| state.networks.get(mode));
    let Some(network) = network else {
        return error(404, &format!("network {} not found", mode.as_str().unwrap_or_default()));
    };
    let same = |other: &&Network| other.name == network.name;
    let doubles = state.networks.values().filter(same).count();
    if doubles > 1 {
        let message = format!(
            "network {} is ambiguous ({doubles} matches found on name)",
            network.name
        );
        return error(400, &message);
    }
    if let Some(container) = state.containers.get_mut(id) {
        container.state = "running";
    }
    (204, String::new())
}

fn inspect_container(id: &str, container: &Container) -> Value {
    json!({
        "Id": id,
        "Name": format!("/{}", container.name),
        "State": {
            "Status": container.state,
            "ExitCode": container.exit_code,
            "OOMKilled": container.oom_killed,
            "Error": "",
        },
        "Config": { "Labels": container.body["Labels"], "Env": container.body["Env"] },
    })
}

async fn wait(state: &Arc<Mutex<State>>, id: &str) -> (u16, String) {
    let mut seen = false;
    loop {
        {
            let state = lock(state);
            match state.find(id).map(|id| &state.containers[&id]) {
                Some(container) if container.state != "running" => {
                    return (200, json!({ "StatusCode": container.exit_code }).to_string());
                }
                Some(_) => seen = true,
                None if seen => return (200, json!({ "StatusCode": 137 }).to_string()),
                None => return error(404, &format!("No such container: {id}")),
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
