//! The transport that a server on two pipes needs: it tells of the end of its input at once, it outlives what arrives
//! before the session begins, it answers what rmcp would leave unanswered, and it knows which answers the client was given.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec;

use futures_util::StreamExt as _;
use rmcp::model::{ClientNotification, ClientRequest, ErrorData, JsonRpcMessage, RequestId};
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
    /// Who else is to get it, each in turn: a batch may have a million requests.
    refused: Option<(vec::IntoIter<Option<RequestId>>, ErrorData)>,
    /// Cancelled at the end of the input: rmcp itself would let calls run on for five seconds.
    ended: CancellationToken,
    begun: Begun,
    unanswered: Unanswered,
}

/// What calls have made that no client has been told of yet. What is still here when the session ends is dropped.
#[derive(Debug, Clone, Default)]
// A std mutex: held for a few instructions, never across a wait.
pub(super) struct Unanswered(Arc<Mutex<Calls>>);

#[derive(Debug, Default)]
struct Calls {
    made: HashMap<RequestId, Vec<NewInstance>>,
    /// What the client has just cancelled, until rmcp has heard of it: it answers that no more.
    cancelled: Option<RequestId>,
}

impl Unanswered {
    /// Keeps `made` until the request is answered; `false` if it won't be, because the client has cancelled it, of which
    /// `cancelled` tells once rmcp has heard of it.
    pub(super) fn add(&self, request: &RequestId, cancelled: &CancellationToken, made: Vec<NewInstance>) -> bool {
        if made.is_empty() {
            return true;
        }
        let mut calls = self.lock();
        if cancelled.is_cancelled() || calls.cancelled.as_ref() == Some(request) {
            return false;
        }
        // A client that uses one id twice gets one answer for both.
        calls.made.entry(request.clone()).or_default().extend(made);
        true
    }

    /// Drops what a call has made whose answer rmcp drops.
    fn cancel(&self, request: &RequestId) {
        let mut calls = self.lock();
        calls.cancelled = Some(request.clone());
        calls.made.remove(request);
    }

    /// rmcp has heard of all that was cancelled.
    fn heard(&self) {
        self.lock().cancelled = None;
    }

    fn take(&self, message: &TxJsonRpcMessage<RoleServer>) -> Vec<NewInstance> {
        let JsonRpcMessage::Response(response) = message else {
            return Vec::new();
        };
        self.lock().made.remove(&response.id).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request that the client wants no answer to any more.
fn cancelled(message: &RxJsonRpcMessage<RoleServer>) -> Option<&RequestId> {
    let JsonRpcMessage::Notification(message) = message else {
        return None;
    };
    match &message.notification {
        ClientNotification::CancelledNotification(cancelled) => cancelled.params.request_id.as_ref(),
        _ => None,
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
            refused: None,
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
            // To its end, also if the session's comes first.
            let kept = tokio::spawn(async move {
                for instance in made {
                    if let Err(error) = instance.keep().await {
                        tracing::error!(%error, "an instance that the client was told of is dropped again");
                    }
                }
            });
            // One that panicked has dropped them.
            let _ = kept.await;
            Ok(())
        }
    }

    // It may be dropped at any await and called again.
    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        // It does what the last message says before it asks for another.
        self.unanswered.heard();
        loop {
            // A client that doesn't read its answers isn't read either.
            if let Some(refusing) = &mut self.refusing {
                if let Ok(Err(error)) = refusing.await {
                    tracing::debug!(%error, "a client doesn't read its answers");
                }
                self.refusing = None;
            }
            if let Some((ids, error)) = &mut self.refused {
                if let Some(id) = ids.next() {
                    let answer = JsonRpcMessage::error(error.clone(), id);
                    self.refusing = Some(tokio::spawn(self.output.send(answer)));
                    continue;
                }
                self.refused = None;
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
                Some(Ok(Inbound::Refused { ids, error })) => {
                    tracing::debug!(code = error.code.0, "refused what is no request");
                    self.refused = Some((ids.into_iter(), error));
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
                Some(Ok(Inbound::Message(message))) => {
                    if let Some(request) = cancelled(&message) {
                        self.unanswered.cancel(request);
                    }
                    return Some(*message);
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        self.output.close().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rmcp::model::ServerResult;
    use tokio::io::AsyncWriteExt as _;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::engine::fake::{FakeEngine, Server};
    use crate::instance::{
        Caller, CreateRequest, Defaults, Image, InstanceId, InstanceSpec, Limits, Password, ProgressSink,
    };
    use crate::manager::{InstanceManager, Settings};
    use crate::owner::Owners;
    use crate::policy::canned::Canned;

    struct Desk {
        engine: Arc<FakeEngine>,
        manager: InstanceManager,
        tracker: TaskTracker,
    }

    impl Desk {
        fn new() -> Self {
            let engine = Arc::new(FakeEngine {
                server: Server::Answers,
                ..FakeEngine::default()
            });
            let image = Image::new("postgres", "17").expect("an image");
            let limits = Limits::new(512, 1000).expect("limits");
            let spec = InstanceSpec {
                image: image.clone(),
                database: "app".parse().expect("a name"),
                username: "me".parse().expect("a name"),
                password: Password::new("s3cret").expect("a password"),
                limits,
                durable: false,
                ttl: None,
            };
            let settings = Settings {
                defaults: Defaults {
                    image,
                    limits,
                    durable: false,
                },
                ports: "1-9".parse().expect("a range"),
                pool_size: 0,
                ready_timeout: Duration::from_secs(1),
                keeps_on_exit: false,
                team: None,
            };
            let tracker = TaskTracker::new();
            let policy = Arc::new(Canned::planning(spec));
            let manager = InstanceManager::new(engine.clone(), policy, settings, Owners::new(None), tracker.clone());
            Self {
                engine,
                manager,
                tracker,
            }
        }

        async fn create(&self) -> (InstanceId, Vec<NewInstance>) {
            let (request, caller) = (CreateRequest::default(), Caller::default());
            let created = self.manager.create(&request, &caller, &ProgressSink::none()).await;
            let new = created.expect("created");
            (new.connection().instance.id, vec![new])
        }

        /// What there is once all that was begun is done.
        async fn instances(&self) -> Vec<InstanceId> {
            self.tracker.close();
            self.tracker.wait().await;
            let instances = self.engine.instances.lock().expect("unpoisoned");
            instances.iter().map(|found| found.instance.id).collect()
        }
    }

    #[tokio::test]
    async fn what_a_cancelled_call_has_made_is_dropped_whether_it_ended_before_the_cancellation_or_with_it() {
        let desk = Desk::new();
        let (mut client, input) = tokio::io::duplex(1 << 16);
        let unanswered = Unanswered::default();
        let ended = CancellationToken::new();
        let (mut transport, begun) = Stdio::new(input, tokio::io::sink(), ended, unanswered.clone());
        begun.set();
        let (cancelled, answered) = (RequestId::Number(7), RequestId::Number(8));
        // rmcp cancels it only after it has got the message.
        let unheard = CancellationToken::new();

        let (_, early) = desk.create().await;
        let (kept, other) = desk.create().await;
        assert!(unanswered.add(&cancelled, &unheard, early));
        assert!(unanswered.add(&answered, &unheard, other));
        let lines = concat!(
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#,
            "\n",
            r#"{"jsonrpc":"2.0","id":9,"method":"ping"}"#,
            "\n"
        );
        client.write_all(lines.as_bytes()).await.expect("it is read");
        transport.receive().await.expect("the cancellation");
        let (_, late) = desk.create().await;
        assert!(!unanswered.add(&cancelled, &unheard, late));

        // From here on, rmcp has heard of it.
        transport.receive().await.expect("the ping");
        let heard = CancellationToken::new();
        heard.cancel();
        let (_, later) = desk.create().await;
        assert!(!unanswered.add(&cancelled, &heard, later));
        let (again, reused) = desk.create().await;
        assert!(
            unanswered.add(&cancelled, &unheard, reused),
            "another request of this id"
        );

        for id in [answered, cancelled] {
            let answer = JsonRpcMessage::response(ServerResult::empty(()), id);
            transport.send(answer).await.expect("sent");
        }
        assert_eq!(desk.instances().await, [kept, again]);
    }
}
