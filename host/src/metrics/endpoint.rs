//! Serves the figures over HTTP: to this machine only, a few at once, each within seconds.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{LoopbackAddress, METRICS};
use crate::manager::InstanceManager;

/// Where they are.
const PATH: &str = "/metrics";
/// How many are answered at once; the others wait.
const CONNECTIONS_MAX: usize = 8;
/// How long one may take to ask and to read its answer: Prometheus gives up after ten seconds.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// How long the engine may take to tell which instances there are; without that, their number is left out.
const INSTANCES_TIME: Duration = Duration::from_secs(3);
/// How much a request may have in bytes before its body, which nobody reads: hyper takes no less.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// How many headers it may have.
const HEADERS_MAX: usize = 50;
/// The pause after a connection could not be taken: nothing tells when there are file descriptors again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where figures are served, once [`Endpoint::serve`] runs.
#[derive(Debug)]
pub struct Endpoint(TcpListener);

impl Endpoint {
    /// # Errors
    /// If somebody else has the port, or it needs more rights.
    pub async fn bind(LoopbackAddress(address): LoopbackAddress) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }

    /// Where it is, with the port that the system chose if port 0 was asked for.
    ///
    /// # Errors
    /// If the system doesn't tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until it is dropped, with all connections.
    pub async fn serve(self, manager: &InstanceManager) -> Infallible {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.0.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(timeout(CONNECTION_TIME, connection(stream, manager.clone())));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a reader of the metrics could not be let in");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn connection(stream: TcpStream, manager: InstanceManager) {
    let answer = service_fn(|request| {
        let manager = &manager;
        async move { Ok::<_, Infallible>(answer(&request, manager).await) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a reader of the metrics was not served");
    }
}

async fn answer(request: &Request<Incoming>, manager: &InstanceManager) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return told(StatusCode::NOT_FOUND, "The metrics are at /metrics.\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = told(StatusCode::METHOD_NOT_ALLOWED, "The metrics can only be read.\n");
        response
            .headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let instances = match timeout(INSTANCES_TIME, manager.present()).await {
        Ok(Ok(instances)) => Some(instances),
        Ok(Err(error)) => {
            tracing::debug!(error = ?error.to_string(), "the metrics are without the instances");
            None
        }
        Err(_) => None,
    };
    match METRICS.text(instances.as_deref()) {
        Ok(text) => {
            let mut response = told(StatusCode::OK, text);
            response.headers_mut().insert(CONTENT_TYPE, content_type(request));
            response
        }
        Err(error) => told(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// The text is the same for both; each reader is told the one that it knows.
fn content_type(request: &Request<Incoming>) -> hyper::header::HeaderValue {
    let accepted = request
        .headers()
        .get(ACCEPT)
        .and_then(|accepted| accepted.to_str().ok());
    hyper::header::HeaderValue::from_static(
        if accepted.is_some_and(|kinds| kinds.contains("application/openmetrics-text")) {
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        } else {
            "text/plain; version=0.0.4; charset=utf-8"
        },
    )
}

fn told(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}
