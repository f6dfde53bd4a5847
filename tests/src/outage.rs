//! Calls in an outage of Docker's, and that all works after it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_postgres::NoTls;

use crate::session::Session;

/// How long a call may take that Docker doesn't answer: it has 30 s for each request, and a create undoes one.
pub const DEADLINE: Duration = Duration::from_secs(45);
/// How long an instance may take until it answers.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause between two looks at whether it does.
const PAUSE: Duration = Duration::from_millis(200);

/// Makes an instance.
pub async fn create(session: &mut Session) -> Value {
    session.succeed("create_postgres_instance", json!({})).await
}

/// Calls a tool, and doesn't wait for its result.
pub async fn ask(session: &mut Session, tool: &str, arguments: Value) -> u64 {
    let call = json!({ "name": tool, "arguments": arguments });
    session.ask("tools/call", call).await
}

/// The result of a call, which has to be there by its deadline.
///
/// # Panics
/// If it isn't, or is a JSON-RPC error.
pub async fn result(session: &mut Session, id: u64) -> Value {
    let answer = timeout(DEADLINE, session.answer(id))
        .await
        .expect("it ends by its deadline");
    assert!(answer.get("error").is_none(), "{answer}");
    answer["result"].clone()
}

/// A failure that a call has ended with: its code, and a sentence that says more than that.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn failure(result: &Value) -> (String, String) {
    assert_eq!(result["isError"], true, "{result}");
    let text = result["content"][0]["text"].as_str().expect("a text content");
    let said: Value = serde_json::from_str(text).expect("the text is JSON");
    let field = |name: &str| said["error"][name].as_str().expect("text").to_owned();
    (field("code"), field("message"))
}

/// What an instance answers.
///
/// # Panics
/// If it doesn't.
pub async fn query(instance: &Value, sql: &str) -> String {
    let dsn = instance["dsn"].as_str().expect("a DSN");
    let begun = Instant::now();
    // A daemon that has just come back publishes ports a moment later.
    let (client, connection) = loop {
        match tokio_postgres::connect(dsn, NoTls).await {
            Ok(connected) => break connected,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:?}"),
        }
        tokio::time::sleep(PAUSE).await;
    };
    let connection = tokio::spawn(connection);
    let answer = client.query_one(sql, &[]).await.expect("a row").get(0);
    drop(client);
    // It ends with the client; whatever it says then.
    let _ = connection.await;
    answer
}

/// All works: an instance is made, listed, answers, and is dropped.
///
/// # Panics
/// If anything doesn't.
pub async fn assert_works(session: &mut Session) {
    let created = create(session).await;
    assert_eq!(query(&created, "SELECT 'here'").await, "here");
    let listed = session.succeed("list_postgres_instances", json!({})).await;
    let mut listed = listed["instances"].as_array().expect("instances").iter();
    assert!(listed.any(|one| one["id"] == created["id"] && one["status"] == "running"));
    session
        .succeed("drop_postgres_instance", json!({ "id": created["id"] }))
        .await;
}

/// Drops what a call has made in spite of the outage.
pub async fn drop_created(session: &mut Session, result: &Value) {
    if let Some(id) = result["structuredContent"].get("id") {
        session.succeed("drop_postgres_instance", json!({ "id": id })).await;
    }
}
