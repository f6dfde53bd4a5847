//! rmcp's line transport, with what a server on two pipes needs: it tells of the end of its input at once, it outlives
//! what arrives before the session begins, and it knows which answers the client was given.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rmcp::model::{JsonRpcMessage, RequestId};
use rmcp::service::{RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::manager::NewInstance;

/// JSON-RPC messages, one a line.
pub(super) struct Stdio<R: AsyncRead, W: AsyncWrite> {
    lines: AsyncRwTransport<RoleServer, R, W>,
    /// Cancelled at the end of the input: rmcp itself would let calls run on for five seconds.
    ended: CancellationToken,
    begun: Begun,
    unanswered: Unanswered,
}

/// What calls have made that no client has been told of yet. What is still here when the session ends is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Unanswered(Arc<Mutex<HashMap<RequestId, Vec<NewInstance>>>>);

impl Unanswered {
    /// Keeps `made` until the request is answered.
    pub(super) fn add(&self, request: RequestId, made: Vec<NewInstance>) {
        if !made.is_empty() {
            // A client that uses one id twice gets one answer for both.
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(request).or_default().extend(made);
        }
    }

    fn take(&self, message: &TxJsonRpcMessage<RoleServer>) -> Vec<NewInstance> {
        let JsonRpcMessage::Response(response) = message else {
            return Vec::new();
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&response.id).unwrap_or_default()
    }
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
    pub(super) fn new(input: R, output: W, ended: CancellationToken, unanswered: Unanswered) -> (Self, Begun) {
        let begun = Begun::default();
        let transport = Self {
            lines: AsyncRwTransport::new(input, output),
            ended,
            begun: begun.clone(),
            unanswered,
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
        let made = self.unanswered.take(&message);
        let sent = self.lines.send(message);
        async move {
            // Dropped with the instances in it, or without an answer that was written, it has them removed.
            sent.await?;
            for instance in made {
                if let Err(error) = instance.keep().await {
                    tracing::error!(%error, "an instance that the client was told of is dropped again");
                }
            }
            Ok(())
        }
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
