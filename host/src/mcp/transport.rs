//! The transport that a server on two pipes needs: it tells of the end of its input at once, it outlives what arrives
//! before the session begins, it answers what rmcp would leave unanswered, and it knows which answers the client was given.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use rmcp::model::{ClientRequest, JsonRpcMessage, RequestId};
use rmcp::service::{RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite, Empty};
use tokio::task::JoinHandle;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::inbound::{Inbound, Lines};
use crate::manager::NewInstance;

/// JSON-RPC messages, one a line.
pub(super) struct Stdio<R: AsyncRead, W: AsyncWrite> {
    input: FramedRead<R, Lines>,
    output: AsyncRwTransport<RoleServer, Empty, W>,
    /// The answer to what was refused last, on its way.
    refusing: Option<JoinHandle<Result<(), io::Error>>>,
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

fn is_initialize(message: &RxJsonRpcMessage<RoleServer>) -> bool {
    matches!(message, JsonRpcMessage::Request(request) if matches!(request.request, ClientRequest::InitializeRequest(_)))
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
            input: FramedRead::new(input, Lines::default()),
            output: AsyncRwTransport::new(tokio::io::empty(), output),
            refusing: None,
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
        let sent = self.output.send(message);
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

    // It may be dropped at any await and called again.
    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            // A client that doesn't read its answers isn't read either.
            if let Some(refusing) = &mut self.refusing {
                if let Ok(Err(error)) = refusing.await {
                    tracing::debug!(%error, "a client doesn't read its answers");
                }
                self.refusing = None;
            }
            match self.input.next().await {
                None => {
                    self.ended.cancel();
                    return None;
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "the input can't be read");
                    self.ended.cancel();
                    return None;
                }
                Some(Ok(Inbound::Ignored)) => tracing::debug!("ignored what is no message"),
                Some(Ok(Inbound::Refused { id, error })) => {
                    tracing::debug!(code = error.code.0, "refused what is no request");
                    self.refusing = Some(tokio::spawn(self.output.send(JsonRpcMessage::error(error, id))));
                }
                // rmcp reads on only once it has answered this one.
                Some(Ok(Inbound::Message(message))) if is_initialize(&message) => {
                    self.begun.set();
                    return Some(*message);
                }
                // rmcp ends at anything but a request here.
                Some(Ok(Inbound::Message(message)))
                    if !self.begun.get() && !matches!(*message, JsonRpcMessage::Request(_)) =>
                {
                    tracing::debug!("ignored a message from before the session");
                }
                Some(Ok(Inbound::Message(message))) => return Some(*message),
            }
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        self.output.close().await
    }
}
