//! A proxy between the product and this machine's real Docker daemon: it passes everything on, and misbehaves on request.
//!
//! The product makes one request per connection. What begins it tells the route; all else is passed on as it comes, be it a
//! body, a stream, or what a connection is upgraded to.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::docker_cli::socket;
use crate::routes::{Faults, route};
use crate::scripted_daemon::{error, hang, respond};

/// The socket's name.
const SOCKET: &str = "docker.sock";

/// How one request is answered instead of well.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// With this status and message, and the daemon is asked for nothing.
    Status(u16, &'static str),
    /// Well, this much later than the daemon does.
    Slow(Duration),
    /// With this status and message, although the daemon has done what is asked.
    DoneThenStatus(u16, &'static str),
    /// The daemon does what is asked, and then the connection is closed without an answer.
    DoneThenCut,
    /// The same, after the answer's head and so many bytes of what follows.
    DoneThenCutAfter(u64),
    /// The daemon does what is asked, and then nothing comes.
    DoneThenHang,
}

/// The proxy; it stops when it is dropped.
#[derive(Debug)]
pub struct DockerProxy {
    folder: TempDir,
    faults: Arc<Mutex<Faults<Fault>>>,
    server: JoinHandle<()>,
}

impl Drop for DockerProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl DockerProxy {
    /// Starts one; `None` where Docker isn't on a Unix socket.
    ///
    /// # Panics
    /// If it can't listen.
    pub async fn start() -> Option<Self> {
        let daemon = socket().await?;
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join(SOCKET)).expect("a socket");
        let faults: Arc<Mutex<Faults<Fault>>> = Arc::default();
        Some(Self {
            folder,
            server: tokio::spawn(serve(listener, daemon, Arc::clone(&faults))),
            faults,
        })
    }

    /// The `DOCKER_HOST` of this proxy.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join(SOCKET).display())
    }

    /// Answers the next request of `route` (`POST /containers/*/start`) with `fault`; several queue up.
    pub fn once(&self, route: &str, fault: Fault) {
        lock(&self.faults).once(route, fault);
    }

    /// Answers every request of `route` with `fault`; of any other route, too, if that is [`ANY`](crate::routes::ANY).
    pub fn always(&self, route: &str, fault: Fault) {
        lock(&self.faults).always(route, fault);
    }

    /// Answers everything well from now on.
    pub fn lift(&self) {
        lock(&self.faults).lift();
    }

    /// How many requests have met a fault.
    #[must_use]
    pub fn met(&self) -> usize {
        lock(&self.faults).met()
    }
}

fn lock(faults: &Mutex<Faults<Fault>>) -> MutexGuard<'_, Faults<Fault>> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: UnixListener, daemon: String, faults: Arc<Mutex<Faults<Fault>>>) {
    // Aborting the server closes its connections, too.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                let (daemon, faults) = (daemon.clone(), Arc::clone(&faults));
                connections.spawn(async move {
                    // Either side may hang up whenever it likes.
                    let _ = serve_one(client.into(), &daemon, &faults).await;
                });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A connection, to the client or to the daemon.
struct Peer {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

impl From<UnixStream> for Peer {
    fn from(stream: UnixStream) -> Self {
        let (from, to) = stream.into_split();
        Self {
            from: BufReader::new(from),
            to,
        }
    }
}

impl Peer {
    /// The daemon, asked by what a request begins with.
    async fn asked(daemon: &str, request: &[u8]) -> io::Result<Self> {
        let mut daemon = Self::from(UnixStream::connect(daemon).await?);
        daemon.to.write_all(request).await?;
        Ok(daemon)
    }

    async fn refuse(mut self, status: u16, message: &str) -> io::Result<()> {
        respond(&mut self.to, error(status, message)).await?;
        hang(&mut self.from).await
    }
}

async fn serve_one(mut client: Peer, daemon: &str, faults: &Mutex<Faults<Fault>>) -> io::Result<()> {
    let request = head(&mut client.from).await?;
    let fault = lock(faults).meet(&route_of(&request));
    match fault.unwrap_or(Fault::Slow(Duration::ZERO)) {
        Fault::Slow(pause) => pass(client, Peer::asked(daemon, &request).await?, pause).await,
        Fault::Status(status, message) => client.refuse(status, message).await,
        Fault::DoneThenStatus(status, message) => {
            done(&mut client, daemon, &request).await?;
            client.refuse(status, message).await
        }
        Fault::DoneThenCut => done(&mut client, daemon, &request).await.map(drop),
        Fault::DoneThenCutAfter(bytes) => {
            let (answer, daemon) = done(&mut client, daemon, &request).await?;
            client.to.write_all(&answer).await?;
            let mut part = daemon.from.take(bytes);
            tokio::select! {
                copied = copy(&mut part, &mut client.to) => copied.map(drop),
                hung_up = hang(&mut client.from) => hung_up,
            }
        }
        Fault::DoneThenHang => {
            done(&mut client, daemon, &request).await?;
            hang(&mut client.from).await
        }
    }
}

/// What a request or an answer begins with, up to its empty line.
async fn head(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn route_of(request: &[u8]) -> String {
    let request = String::from_utf8_lossy(request);
    let mut words = request.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    route(method, target.split('?').next().unwrap_or_default())
}

/// Passes all on, answers after a pause.
async fn pass(client: Peer, daemon: Peer, pause: Duration) -> io::Result<()> {
    let (mut from_client, mut to_client) = (client.from, client.to);
    let (mut from_daemon, mut to_daemon) = (daemon.from, daemon.to);
    let asking = async {
        copy(&mut from_client, &mut to_daemon).await?;
        to_daemon.shutdown().await
    };
    let answering = async {
        tokio::time::sleep(pause).await;
        copy(&mut from_daemon, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(asking, answering)?;
    Ok(())
}

/// Has the daemon do what is asked, which it has done when it begins to answer; the head of its answer, and itself for the
/// rest.
async fn done(client: &mut Peer, daemon: &str, request: &[u8]) -> io::Result<(Vec<u8>, Peer)> {
    let mut daemon = Peer::asked(daemon, request).await?;
    let answer = tokio::select! {
        answer = head(&mut daemon.from) => answer?,
        // The rest of the request.
        Err(error) = copy(&mut client.from, &mut daemon.to) => return Err(error),
    };
    Ok((answer, daemon))
}
