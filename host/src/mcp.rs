//! The MCP server: tools over JSON-RPC on two pipes, for both protocol eras that rmcp speaks.

mod error;
mod inbound;
mod outline;
mod progress;
mod resources;
mod transport;

use std::convert::Infallible;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ErrorData, Implementation, ListResourcesResult,
    ListToolsResult, PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities,
    ServerConfig, SubscriptionFilter, Tool, ToolAnnotations,
};
use rmcp::service::{
    NotificationContext, Peer, RequestContext, RoleServer, ServerInitializeError, SubscriptionContext,
};
use rmcp::{ServerHandler, ServiceExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::transport::Unanswered;
use crate::digest::Digest;
use crate::failure::Failure;
use crate::instance::Caller;
use crate::manager::{InstanceManager, NewInstance};
use crate::plugins::provenance::Provenance;
use crate::plugins::toolbox::Toolbox;
use crate::plugins::tools::Tool as BundleTool;

/// How long a client may keep a tool list that never changes, in ms.
const FIXED_LIST_TTL_MS: u64 = 3_600_000;
/// How long a client that isn't told of changes may keep a tool list, in ms.
const TOOL_LIST_TTL_MS: u64 = 60_000;
/// The longest client name that the policy and the log are shown, in characters.
const CLIENT_NAME_CHARS_MAX: usize = 100;

/// How long answers may take to reach a client after the end of its input.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What every client is told first; Claude Code cuts at 2 KB.
const INSTRUCTIONS: &str = "\
Gives you throwaway PostgreSQL servers, each its own container or, without Docker, its own local processes.

Call create_postgres_instance when you need a database to try a migration, run tests or explore SQL; every argument is \
optional. It returns once the server answers queries, within seconds unless a version is used for the first time. Connect \
with the returned `dsn` (a connection URI that psql and every driver take) and keep the `id`: all other tools want it. \
list_postgres_instances shows what is there, get_postgres_instance returns the credentials again, \
health_check_postgres runs a query and says how the server is.

An instance and its data go when they are dropped, and at the latest when this MCP server ends, unless they were given a \
`ttl_seconds`: call drop_postgres_instance as soon as you are done, and extend_postgres_instance for what is to stay. \
Nothing can bring it back then. Never put production data in one, and treat its password as a secret.

An error result says what is wrong (`code`, `message`, for arguments also `fields`) and what to do next (`advice`).";

/// Serves MCP clients.
#[derive(Debug, Clone)]
pub struct Server {
    toolbox: watch::Receiver<Arc<Toolbox>>,
    /// The offer that the client was shown last.
    listed: Arc<Mutex<Digest>>,
    /// Told when a client of the legacy era takes notifications.
    initialized: Arc<Notify>,
    policy: Provenance,
    manager: InstanceManager,
    caller: Caller,
    tracker: TaskTracker,
    stop: CancellationToken,
    unanswered: Unanswered,
}

/// Why the server ended before its client did.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The first exchange went wrong.
    #[error("the MCP session could not begin: {0}")]
    Begin(String),
    /// The service failed.
    #[error("the MCP session ended early: {0}")]
    Run(#[from] tokio::task::JoinError),
}

impl Server {
    /// The tools may change for as long as the sender of `toolbox` lives. `policy` is what clients are told of the
    /// manager's own. Whoever calls does so as `caller`, by the client's own name.
    ///
    /// Calls in flight count on `tracker`: whoever ends the process waits for it, so that what they undo is undone.
    #[must_use]
    pub fn new(
        toolbox: watch::Receiver<Arc<Toolbox>>,
        policy: Provenance,
        manager: InstanceManager,
        caller: Caller,
        tracker: TaskTracker,
    ) -> Self {
        let listed = toolbox.borrow().offer();
        Self {
            toolbox,
            listed: Arc::new(Mutex::new(listed)),
            initialized: Arc::new(Notify::new()),
            policy,
            manager,
            caller,
            tracker,
            stop: CancellationToken::new(),
            unanswered: Unanswered::default(),
        }
    }

    /// Serves one client until `input` ends. Dropped earlier, it cancels all calls in flight.
    ///
    /// # Errors
    /// If the session can't begin or fails; the end of `input` at any time is no error.
    pub async fn serve(
        self,
        input: impl AsyncRead + Send + Unpin + 'static,
        output: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), ServeError> {
        let stop = self.stop.clone();
        let ended = stop.clone();
        let _stop_when_dropped = stop.clone().drop_guard();
        let (transport, begun) = transport::Stdio::new(input, output, stop.clone(), self.unanswered.clone());
        let (manager, caller, tracker) = (self.manager.clone(), self.caller.clone(), self.tracker.clone());
        let server = self.clone();
        match self.serve_with_ct(transport, stop).await {
            Ok(session) => {
                begun.set();
                let peer = session.peer().clone();
                // Not before: nothing is to come between a client and its first answer.
                tracker.spawn(async move { manager.start_ahead(&caller).await });
                tokio::select! {
                    end = session.waiting() => end.map(drop).map_err(Into::into),
                    never = server.tell_legacy(peer) => match never {},
                    // A client that reads nothing any more would keep rmcp writing for ever.
                    () = async { ended.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => Ok(()),
                }
            }
            Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => Ok(()),
            // The error's own text may quote the client's message.
            Err(ServerInitializeError::TransportError { .. }) => {
                Err(ServeError::Begin("the client doesn't read its answers".into()))
            }
            Err(ServerInitializeError::InitializeFailed(error)) => Err(ServeError::Begin(error.message.into())),
            Err(_) => Err(ServeError::Begin("the client's first message makes no sense".into())),
        }
    }

    /// Tells a client of the legacy era of changes. Those of the modern one are told through what they listen to.
    async fn tell_legacy(&self, peer: Peer<RoleServer>) -> Infallible {
        if peer.peer_info().is_some() {
            self.initialized.notified().await;
            self.tell_changes(|| peer.notify_tool_list_changed()).await;
        }
        pending().await
    }

    /// Calls `tell` each time that the tools are others than those the client was shown or told of last. Ends when they
    /// can't change, or nobody can be told, any more.
    async fn tell_changes<E, F: Future<Output = Result<(), E>>>(&self, tell: impl Fn() -> F) {
        let mut toolbox = self.toolbox.clone();
        let mut known = *self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let offer = toolbox.borrow_and_update().offer();
            if offer != known && tell().await.is_err() {
                return;
            }
            known = offer;
            if toolbox.changed().await.is_err() {
                return;
            }
        }
    }

    fn tools_may_change(&self) -> bool {
        self.toolbox.has_changed().is_ok()
    }

    async fn call(
        &self,
        request: CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<(CallToolResult, Vec<NewInstance>), ErrorData> {
        // The whole call is of this one, whatever becomes of its bundle meanwhile.
        let toolbox = Arc::clone(&self.toolbox.borrow());
        let Some((bundle, tool)) = toolbox.find(&request.name) else {
            return Err(error::unknown_tool(&request.name, &toolbox));
        };
        let caller = Caller {
            client: Some(client_name(context)),
            ..self.caller.clone()
        };
        tracing::debug!(tool = tool.name(), %caller, "called");
        let (progress, telling) = progress::channel(context);
        let call = bundle.call(
            tool,
            request.arguments.unwrap_or_default(),
            &self.manager,
            caller,
            progress,
        );
        Ok(match telling.during(call).await {
            Ok((result, made)) => (CallToolResult::structured(Value::Object(result)), made),
            Err(error) => {
                let failure = Failure::from(&error);
                // Not the message: a bundle may have put anything into it.
                tracing::info!(tool = tool.name(), code = failure.code.as_str(), "failed");
                (error::result(&failure), Vec::new())
            }
        })
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let mut capabilities = ServerCapabilities::builder().enable_resources().enable_tools().build();
        if let Some(tools) = &mut capabilities.tools {
            tools.list_changed = self.tools_may_change().then_some(true);
        }
        ServerConfig::new(capabilities)
            .with_server_info(
                Implementation::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
                    .with_title("Throwaway PostgreSQL"),
            )
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let toolbox = Arc::clone(&self.toolbox.borrow());
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = toolbox.offer();
        let ttl_ms = if self.tools_may_change() {
            TOOL_LIST_TTL_MS
        } else {
            FIXED_LIST_TTL_MS
        };
        // One page: the 1.x SDKs for Python and TypeScript read no second one.
        let tools = toolbox.iter().map(|(_, tool)| describe(tool)).collect();
        Ok(ListToolsResult::with_all_items(tools).with_ttl_ms(ttl_ms))
    }

    async fn on_initialized(&self, _context: NotificationContext<RoleServer>) {
        self.initialized.notify_one();
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        // rmcp takes away what the capabilities don't have.
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let telling = async {
            if context.accepted().tools_list_changed == Some(true) {
                self.tell_changes(|| context.sink().notify_tool_list_changed()).await;
            }
            pending().await
        };
        tokio::select! {
            () = context.cancelled() => Ok(()),
            () = self.stop.cancelled() => Ok(()),
            never = telling => match never {},
        }
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(resources::list())
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        resources::read(&request.uri, &self.policy, &self.toolbox.borrow()).map(Into::into)
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.toolbox.borrow().find(name).map(|(_, tool)| describe(tool))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let _in_flight = self.tracker.token();
        // rmcp sends nothing for a handler that panics, and the client would wait for ever.
        let call = AssertUnwindSafe(self.call(request, &context)).catch_unwind();
        tokio::select! {
            biased;
            () = context.ct.cancelled() => Err(error::cancelled()),
            () = self.stop.cancelled() => Err(error::cancelled()),
            outcome = call => {
                let (result, made) = outcome.unwrap_or_else(|_| Ok((error::result(&error::panicked()), Vec::new())))?;
                // The client's from when it has been told.
                if self.unanswered.add(&context.id, &context.ct, made) {
                    Ok(result.into())
                } else {
                    Err(error::cancelled())
                }
            }
        }
    }
}

/// Untrusted, and shown to people.
fn client_name(context: &RequestContext<RoleServer>) -> String {
    context.client_info().map_or_else(
        || "unknown".to_owned(),
        |client| {
            client
                .name
                .chars()
                .filter(|c| !c.is_control())
                .take(CLIENT_NAME_CHARS_MAX)
                .collect()
        },
    )
}

fn describe(tool: &BundleTool) -> Tool {
    let hints = tool.hints();
    let described = Tool::new(
        tool.name().to_owned(),
        tool.description().to_owned(),
        Arc::clone(tool.input_schema()),
    )
    .with_title(tool.title())
    .with_annotations(
        ToolAnnotations::new()
            .read_only(hints.read_only)
            .destructive(hints.destructive)
            .idempotent(hints.idempotent)
            .open_world(hints.open_world),
    );
    match tool.output_schema() {
        Some(schema) => described.with_raw_output_schema(Arc::clone(schema)),
        None => described,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use async_trait::async_trait;
    use serde_json::json;
    use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader, ReadBuf};

    use super::*;
    use crate::engine::fake::FakeEngine;
    use crate::instance::{
        ConnectionUri, CreateRequest, Defaults, Found, Image, Instance, InstanceSpec, Limits, Status,
    };
    use crate::manager::Settings;
    use crate::owner::Owners;
    use crate::plugins::budget::Budget;
    use crate::plugins::bundle::{Bundle, Terms};
    use crate::plugins::cache::Cache;
    use crate::plugins::grants::Grants;
    use crate::plugins::provenance::State;
    use crate::plugins::toolbox::Entry;
    use crate::plugins::{Runtime, Source};
    use crate::policy::{Action, Inventory, Policy, Rejection};

    /// Stands for a defect anywhere below a handler.
    #[derive(Debug)]
    struct Panics;

    #[async_trait]
    impl Policy for Panics {
        async fn plan_create(
            &self,
            _request: &CreateRequest,
            _defaults: &Defaults,
            _caller: &Caller,
            _inventory: Arc<dyn Inventory>,
        ) -> Result<InstanceSpec, Rejection> {
            panic!("a defect, with the secret s3cret")
        }

        async fn authorize(
            &self,
            _action: Action,
            _target: &Instance,
            _caller: &Caller,
            _inventory: Arc<dyn Inventory>,
        ) -> Result<(), Rejection> {
            Ok(())
        }

        async fn connection_uri(&self, _found: &Found) -> Result<ConnectionUri, Rejection> {
            Ok(ConnectionUri::new("postgresql://".into()))
        }
    }

    async fn built_in_tools() -> Toolbox {
        let runtime = Runtime::new(Cache::default()).expect("this machine runs WebAssembly");
        let source = Source {
            name: "postgres-tools".into(),
            from: "built in".into(),
            bytes: include_bytes!(concat!(env!("OUT_DIR"), "/postgres-tools.wasm"))
                .as_slice()
                .into(),
            sha256: None,
            settings: serde_json::Map::new(),
        };
        let terms = Terms {
            grants: Grants::ALL,
            ..Terms::default()
        };
        let entry = Entry::new(
            "postgres-tools",
            String::new(),
            &terms,
            Bundle::load(&runtime, &source, &terms).await,
        );
        Toolbox::new(vec![entry])
    }

    fn provenance() -> Provenance {
        Provenance {
            name: "policy".into(),
            world: "policy",
            from: "a test".into(),
            sha256: None,
            grants: Grants::default(),
            mode: None,
            may_change: None,
            budget: Budget::POLICY,
            tools: Vec::new(),
            state: State::Serving,
        }
    }

    #[tokio::test]
    async fn the_tools_are_described_as_clients_know_them() {
        let toolbox = built_in_tools().await;
        let described: Vec<Tool> = toolbox.iter().map(|(_, tool)| describe(tool)).collect();
        insta::assert_json_snapshot!(described);
    }

    /// One whose policy panics at creates.
    async fn server() -> Server {
        let toolbox = built_in_tools().await;
        let settings = Settings {
            defaults: Defaults {
                image: Image::new("postgres", "17").expect("an image"),
                limits: Limits::new(512, 1000).expect("limits"),
                durable: false,
            },
            ports: "1-1".parse().expect("a range"),
            pool_size: 0,
            ready_timeout: Duration::from_secs(1),
            keeps_on_exit: false,
            team: None,
        };
        let tracker = TaskTracker::new();
        let (engine, _) = FakeEngine::default().with_instance(Status::Running);
        let manager = InstanceManager::new(
            Arc::new(engine),
            Arc::new(Panics),
            settings,
            Owners::new(None),
            tracker.clone(),
        );
        let (_, toolbox) = watch::channel(Arc::new(toolbox));
        Server::new(toolbox, provenance(), manager, Caller::default(), tracker)
    }

    #[tokio::test]
    async fn a_handler_that_panics_answers_with_a_bland_error_and_the_session_goes_on() {
        let server = server().await;
        let (mut input, server_input) = tokio::io::duplex(1 << 16);
        let (server_output, output) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(server.serve(server_input, server_output));
        let mut lines = BufReader::new(output).lines();
        let mut ask = async |id: u64, method: &str, params: Value| -> Value {
            let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
            input
                .write_all(format!("{request}\n").as_bytes())
                .await
                .expect("the server reads");
            let line = tokio::time::timeout(Duration::from_mins(1), lines.next_line()).await;
            let line = line.expect("in time").expect("readable").expect("an answer");
            serde_json::from_str(&line).expect("JSON")
        };
        let client = json!({
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" },
        });
        ask(1, "initialize", client).await;
        let create = json!({ "name": "create_postgres_instance", "arguments": {} });
        let answer = ask(2, "tools/call", create).await;
        assert_eq!(answer["id"], 2);
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        let text = answer["result"]["content"][0]["text"].as_str().expect("a text");
        assert!(text.contains("\"internal\"") && !text.contains("s3cret"), "{text}");
        let list = json!({ "name": "list_postgres_instances", "arguments": {} });
        let answer = ask(3, "tools/call", list).await;
        assert_eq!(answer["result"]["structuredContent"]["count"], 1, "{answer}");
        drop(input);
        serving.await.expect("no panic").expect("a clean end");
    }

    /// Input that a defect breaks behind its first message.
    struct Breaks(&'static [u8]);

    impl AsyncRead for Breaks {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            assert!(!self.0.is_empty(), "a defect");
            buffer.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_session_that_panics_ends_with_an_error_and_does_not_hang() {
        let hello = concat!(
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","#,
            r#""capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#,
            "\n",
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            "\n"
        );
        let (output, _client) = tokio::io::duplex(1 << 16);
        let served = server().await.serve(Breaks(hello.as_bytes()), output).await;
        let error = served.expect_err("it panics");
        assert!(matches!(error, ServeError::Run(_)), "{error}");
    }
}
