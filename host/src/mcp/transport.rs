//! rmcp's line transport, with two things that a server on two pipes needs: it tells of the end of its input at once,
//! and it outlives what arrives before the session begins.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rmcp::model::JsonRpcMessage;
use rmcp::service::{RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// JSON-RPC messages, one a line.
pub(super) struct Stdio<R: AsyncRead, W: AsyncWrite> {
    lines: AsyncRwTransport<RoleServer, R, W>,
    /// Cancelled at the end of the input: rmcp itself would let calls run on for five seconds.
    ended: CancellationToken,
    begun: Begun,
}

/// Whether the session has begun.
#[derive(Debug, Clone, Default)]
pub(super) struct Begun(Arc<AtomicBool>);

impl Begun {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<R, W> Stdio<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    pub(super) fn new(input: R, output: W, ended: CancellationToken) -> (Self, Begun) {
        let begun = Begun::default();
        let transport = Self {
            lines: AsyncRwTransport::new(input, output),
            ended,
            begun: begun.clone(),
        };
        (transport, begun)
    }
}

impl<R, W> Transport<RoleServer> for Stdio<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), io::Error>> + Send + 'static {
        self.lines.send(message)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            match self.lines.receive().await {
                None => {
                    self.ended.cancel();
                    return None;
                }
                // rmcp ends at anything but a request here.
                Some(message) if !self.begun.get() && !matches!(message, JsonRpcMessage::Request(_)) => {
                    tracing::debug!("ignored a message from before the session");
                }
                message => return message,
            }
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        self.lines.close().await
    }
}
