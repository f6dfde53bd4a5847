//! A client of `mcp serve` that reads and writes raw lines: it sees what SDKs would hide.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::binary::TestEnvironment;

/// How long an answer may take in a test: a create on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// What every request of a client of 2026-07-28 carries.
#[must_use]
pub fn modern_meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "raw", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

/// One running server and the pipes to it.
#[derive(Debug)]
pub struct Session {
    server: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    log: watch::Receiver<String>,
    last_id: u64,
    /// Messages that came while another was waited for.
    early: Vec<Value>,
    /// Last, so that the server has been killed when it goes.
    _environment: TestEnvironment,
}

/// What a server left behind when it ended.
#[derive(Debug)]
pub struct Remains {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it wrote to standard error.
    pub log: String,
    /// What it had written to standard output and nobody had read yet.
    pub unread: Vec<Value>,
}

impl Session {
    /// Starts a server and says nothing to it.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(environment: &TestEnvironment, arguments: &[&str]) -> Self {
        let command = environment.command(["mcp", "serve"].iter().chain(arguments));
        let mut server = Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the server starts");
        let output = BufReader::new(server.stdout.take().expect("piped")).lines();
        let mut stderr = BufReader::new(server.stderr.take().expect("piped"));
        let (writer, log) = watch::channel(String::new());
        tokio::spawn(async move {
            let mut line = Vec::new();
            // What could not be read is missing from the log, which the assertions then show.
            while let Ok(1..) = stderr.read_until(b'\n', &mut line).await {
                writer.send_modify(|log| log.push_str(&String::from_utf8_lossy(&line)));
                line.clear();
            }
        });
        Self {
            input: server.stdin.take(),
            server,
            output,
            log,
            last_id: 0,
            early: Vec::new(),
            _environment: environment.clone(),
        }
    }

    /// Starts a server and initializes it as a client of 2025-11-25 does.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn initialized(environment: &TestEnvironment, arguments: &[&str]) -> Self {
        let mut session = Self::start(environment, arguments);
        session.initialize("2025-11-25").await;
        session
    }

    /// The legacy handshake; returns its result.
    pub async fn initialize(&mut self, version: &str) -> Value {
        let answer = self
            .request(
                "initialize",
                json!({
                    "protocolVersion": version,
                    "capabilities": {},
                    "clientInfo": { "name": "raw", "version": "1" },
                }),
            )
            .await;
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
            .await;
        answer["result"].clone()
    }

    /// Writes one line.
    ///
    /// # Panics
    /// If the server doesn't take it.
    pub async fn send_line(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the input is still open");
        input.write_all(line.as_bytes()).await.expect("the server reads");
        input.write_all(b"\n").await.expect("the server reads");
        input.flush().await.expect("the server reads");
    }

    /// Writes one message.
    pub async fn send(&mut self, message: &Value) {
        self.send_line(&message.to_string()).await;
    }

    /// Writes lines, whatever they are, and reads meanwhile until each of these ids has been answered or nothing comes any
    /// more; all that came.
    ///
    /// # Panics
    /// If the server doesn't take them, or ends.
    pub async fn exchange(&mut self, lines: &[&[u8]], ids: &[Value]) -> Vec<Value> {
        let input = self.input.as_mut().expect("the input is still open");
        let write = async {
            for line in lines {
                input.write_all(line).await.expect("the server reads");
                input.write_all(b"\n").await.expect("the server reads");
            }
            input.flush().await.expect("the server reads");
        };
        let (mut open, output) = (ids.to_vec(), &mut self.output);
        let read = async {
            let mut came = Vec::new();
            while !open.is_empty() {
                let Ok(line) = timeout(PATIENCE, output.next_line()).await else {
                    break;
                };
                let line = line.expect("its output can be read").expect("its output goes on");
                let message: Value = serde_json::from_str(&line).expect("a line of output is JSON");
                open.retain(|id| message["id"] != *id);
                came.push(message);
            }
            came
        };
        tokio::join!(write, read).1
    }

    /// Writes a request and returns its id without waiting for the answer.
    pub async fn ask(&mut self, method: &str, params: Value) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
            .await;
        id
    }

    /// The next message, whatever it is.
    ///
    /// # Panics
    /// If none comes, or it isn't JSON-RPC.
    pub async fn next(&mut self) -> Value {
        let line = timeout(PATIENCE, self.output.next_line())
            .await
            .unwrap_or_else(|_| panic!("the server says nothing; its log: {}", *self.log.borrow()))
            .expect("its output can be read")
            .expect("its output goes on");
        let message: Value = serde_json::from_str(&line).expect("a line of output is JSON");
        assert_eq!(message["jsonrpc"], "2.0", "a line of output is JSON-RPC: {line}");
        message
    }

    /// Waits for the answer to a request, and keeps what comes before it.
    pub async fn answer(&mut self, id: u64) -> Value {
        if let Some(index) = self.early.iter().position(|message| message["id"] == id) {
            return self.early.remove(index);
        }
        loop {
            let message = self.next().await;
            if message["id"] == id {
                return message;
            }
            self.early.push(message);
        }
    }

    /// Waits for a notification, and keeps answers that come before it.
    pub async fn notification(&mut self) -> Value {
        let is_notification = |message: &Value| message.get("method").is_some();
        if let Some(index) = self.early.iter().position(is_notification) {
            return self.early.remove(index);
        }
        loop {
            let message = self.next().await;
            if is_notification(&message) {
                return message;
            }
            self.early.push(message);
        }
    }

    /// Notifications that have come so far.
    pub fn take_notifications(&mut self) -> Vec<Value> {
        let (notifications, others) = std::mem::take(&mut self.early)
            .into_iter()
            .partition(|message| message.get("method").is_some());
        self.early = others;
        notifications
    }

    /// Writes a request and waits for its answer.
    pub async fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.ask(method, params).await;
        self.answer(id).await
    }

    /// Calls a tool; returns its result.
    ///
    /// # Panics
    /// If the answer is a JSON-RPC error.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let answer = self
            .request("tools/call", json!({ "name": tool, "arguments": arguments }))
            .await;
        assert!(answer.get("error").is_none(), "{tool} is a JSON-RPC error: {answer}");
        answer["result"].clone()
    }

    /// Calls a tool that succeeds; returns its structured content.
    ///
    /// # Panics
    /// If it fails, or its text says something else than its structured content.
    pub async fn succeed(&mut self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert_ne!(result["isError"], true, "{tool} failed: {result}");
        let text = result["content"][0]["text"].as_str().expect("a text content");
        let said: Value = serde_json::from_str(text).expect("the text is JSON");
        assert_eq!(said, result["structuredContent"]);
        said
    }

    /// Calls a tool that fails in a way that a model can act on; returns the error.
    ///
    /// # Panics
    /// If it succeeds.
    pub async fn fail(&mut self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], true, "{tool} succeeded: {result}");
        assert!(result.get("structuredContent").is_none(), "{result}");
        let text = result["content"][0]["text"].as_str().expect("a text content");
        let said: Value = serde_json::from_str(text).expect("the text is JSON");
        said["error"].clone()
    }

    /// The server's process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.id()
    }

    /// Waits until the server has logged this.
    ///
    /// # Panics
    /// If it doesn't.
    pub async fn until_logged(&mut self, text: &str) {
        let logged = self.log.wait_for(|log| log.contains(text));
        let in_time = matches!(timeout(PATIENCE, logged).await, Ok(Ok(_)));
        assert!(in_time, "{text:?} is not in the log: {}", *self.log.borrow());
    }

    /// Closes the server's input and waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn end(mut self) -> Remains {
        self.input.take();
        self.remains().await
    }

    /// Closes the server's input and waits for its end without reading a word of what it still says.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn end_unread(mut self) -> ExitStatus {
        self.input.take();
        timeout(PATIENCE, self.server.wait())
            .await
            .expect("the server ends in time")
            .expect("its end can be waited for")
    }

    /// Waits for the server's end, however it comes.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn remains(mut self) -> Remains {
        let mut unread = std::mem::take(&mut self.early);
        while let Ok(Ok(Some(line))) = timeout(PATIENCE, self.output.next_line()).await {
            unread.push(serde_json::from_str(&line).expect("a line of output is JSON"));
        }
        let status = timeout(PATIENCE, self.server.wait())
            .await
            .expect("the server ends in time")
            .expect("its end can be waited for");
        Remains {
            status,
            log: {
                // It is whole when whoever reads it has let go of it.
                while self.log.changed().await.is_ok() {}
                self.log.borrow().clone()
            },
            unread,
        }
    }
}
