//! The outline of a JSON-RPC message that can't be read as a whole: enough to answer it. It takes no more memory however
//! long or deep the message is.

use rmcp::model::RequestId;

/// The longest key or id that is looked at, in bytes, quotes included.
const WORD_BYTES_MAX: usize = 1024;

/// What the top level of a message says, as far as it has been read.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what has been seen so far, each on its own"
)]
pub(super) struct Outline {
    /// How many objects and arrays are open.
    depth: usize,
    /// Whether the message is an object.
    is_object: bool,
    /// Whether its end has been read, and nothing but space after it.
    is_closed: bool,
    in_string: bool,
    escaped: bool,
    /// The key or value at the top level that is being read, as it is written, without what is inside of it; `None` before
    /// it begins.
    word: Option<Vec<u8>>,
    /// The key whose value is being read.
    key: Key,
    id: Option<RequestId>,
    has_id: bool,
    has_method: bool,
    has_outcome: bool,
}

/// The keys that matter.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// None yet, or another.
    #[default]
    Other,
    Id,
}

impl Outline {
    /// The outline of a text that isn't JSON from `sound` bytes on. An id after that counts only if there is none before it,
    /// and if all brackets and quotes have their counterparts: otherwise it may be anything.
    pub(super) fn of(text: &[u8], sound: usize) -> Self {
        let (before, after) = text.split_at(sound.min(text.len()));
        let mut outline = Self::default();
        outline.read(before);
        let id = outline.id.clone();
        outline.read(after);
        if id.is_some() || !outline.is_closed {
            outline.id = id;
        }
        outline
    }

    /// The ids to answer in an array that is JSON, as [`request_id`](Self::request_id) has them.
    pub(super) fn request_ids(array: &[u8]) -> Vec<RequestId> {
        let (mut whole, mut member, mut ids) = (Self::default(), Self::default(), Vec::new());
        for &byte in array {
            whole.step(byte);
            // What is neither an object nor an array is no request.
            if whole.depth > 1 || member.depth > 0 {
                member.step(byte);
                if member.depth == 0 {
                    ids.extend(std::mem::take(&mut member).request_id());
                }
            }
        }
        ids
    }

    /// Reads on.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.step(byte);
        }
    }

    /// The id to answer; `None` if none can be read, or it isn't a request: an outcome is never answered.
    pub(super) fn request_id(&self) -> Option<RequestId> {
        self.id.clone().filter(|_| self.has_method || !self.has_outcome)
    }

    /// Whether it is to be answered if it isn't JSON-RPC: notifications and outcomes are not.
    pub(super) fn wants_answer(&self) -> bool {
        let is_outcome = self.has_outcome && !self.has_method;
        let is_notification = self.has_method && !self.has_id && !self.has_outcome;
        !is_outcome && !is_notification
    }

    fn step(&mut self, byte: u8) {
        if self.in_string {
            self.step_in_string(byte);
            return;
        }
        let top = self.depth == 1 && self.is_object;
        match byte {
            b'"' => {
                self.in_string = true;
                if top {
                    self.push(byte);
                }
            }
            b'{' | b'[' => {
                if self.depth == 0 {
                    // Of two values on a line, neither counts.
                    self.is_object = byte == b'{' && !self.is_closed;
                }
                self.is_closed = false;
                self.depth += 1;
                if top {
                    // No key and no id begins like that.
                    self.push(byte);
                }
            }
            b'}' | b']' => {
                if top {
                    self.value();
                }
                self.depth = self.depth.saturating_sub(1);
                self.is_closed = self.depth == 0 && self.is_object;
            }
            b':' if top => self.key(),
            b',' if top => self.value(),
            b' ' | b'\t' | b'\r' | b'\n' if !top || self.word.is_none() => {}
            _ if top => self.push(byte),
            _ => self.is_closed = false,
        }
    }

    fn step_in_string(&mut self, byte: u8) {
        if self.depth == 1 && self.is_object {
            self.push(byte);
        }
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.in_string = false,
            _ => {}
        }
    }

    fn push(&mut self, byte: u8) {
        let word = self.word.get_or_insert_default();
        // One byte more than counts: it tells that the word is too long.
        if word.len() <= WORD_BYTES_MAX {
            word.push(byte);
        }
    }

    fn take_word(&mut self) -> Vec<u8> {
        let word = self.word.take().unwrap_or_default();
        if word.len() > WORD_BYTES_MAX {
            return Vec::new();
        }
        word
    }

    /// What was read is a key.
    fn key(&mut self) {
        let word = self.take_word();
        self.key = Key::Other;
        match serde_json::from_slice::<String>(&word).as_deref() {
            Ok("id") => {
                self.key = Key::Id;
                self.has_id = true;
                self.id = None;
            }
            Ok("method") => self.has_method = true,
            Ok("result" | "error") => self.has_outcome = true,
            _ => {}
        }
    }

    /// What was read is the end of a value.
    fn value(&mut self) {
        let word = self.take_word();
        if std::mem::take(&mut self.key) == Key::Id {
            self.id = serde_json::from_slice(&word).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(text: &str) -> Outline {
        Outline::of(text.as_bytes(), 0)
    }

    fn id(text: &str) -> Option<String> {
        of(text).request_id().map(|id| id.to_string())
    }

    #[test]
    fn an_id_is_read_wherever_it_stands_at_the_top() {
        for text in [
            r#"{"id":7,"method":"m","params":{"id":1}}"#,
            r#"{"method":"m","params":{"a":[{"id":1},"\"id\":2"]},"id": 7 }"#,
            r#" { "\u0069d" : 7 , "params" : "}}}]]{[,\"id\":3" } "#,
            r#"{"params":{"a":"\ud800"},"id":7}"#,
        ] {
            assert_eq!(id(text).as_deref(), Some("7"), "{text}");
        }
        assert_eq!(id(r#"{"id":"a \" b"}"#).as_deref(), Some("a \" b"));
    }

    #[test]
    fn what_no_request_can_have_is_no_id() {
        for value in [
            "null",
            "true",
            "1.5",
            "{}",
            "[1]",
            "1 2",
            "01",
            "\"\\ud800\"",
            "99999999999999999999",
            "",
        ] {
            assert_eq!(id(&format!(r#"{{"id":{value},"method":"m"}}"#)), None, "{value}");
        }
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(WORD_BYTES_MAX));
        assert_eq!(id(&long), None);
    }

    #[test]
    fn outcomes_and_notifications_want_no_answer() {
        assert_eq!(id(r#"{"id":7,"result":{}}"#), None);
        assert_eq!(id(r#"{"id":7,"error":{}}"#), None);
        assert!(!of(r#"{"id":7,"result":{}}"#).wants_answer());
        assert!(!of(r#"{"method":"notifications/cancelled","params":7}"#).wants_answer());
        assert!(of(r#"{"id":null,"method":"m"}"#).wants_answer());
        assert!(of("[]").wants_answer());
        // Neither one nor the other: who sent it waits.
        assert_eq!(id(r#"{"id":7,"method":"m","result":{}}"#).as_deref(), Some("7"));
        assert_eq!(id(r#"{"id":7}"#).as_deref(), Some("7"));
    }

    #[test]
    fn the_ids_in_an_array_are_those_of_the_requests_that_are_its_members() {
        let array = br#" [ {"id":7,"method":"m","params":{"id":1,"a":[{"id":2}]}}, 3, "{\"id\":4}", [{"id":5}],
            {"id":6,"result":{}}, {"method":"m"}, {"id":null,"method":"m"}, {}, {"method":"]}","id":"x"} ] "#;
        let ids = [RequestId::Number(7), RequestId::String("x".into())];
        assert_eq!(Outline::request_ids(array), ids);
        assert_eq!(Outline::request_ids(b"[]"), []);
    }

    #[test]
    fn what_stands_after_an_error_counts_only_if_all_that_is_opened_is_closed() {
        let text = r#"{"params":"a"b","id":7,"c":""#;
        let sound = text.find("b\"").expect("it is there");
        assert!(Outline::of(text.as_bytes(), sound).request_id().is_none());
        let text = r#"{"id":7,"params":"a"b"}"#;
        let sound = text.find("b\"").expect("it is there");
        assert_eq!(
            Outline::of(text.as_bytes(), sound).request_id(),
            Some(RequestId::Number(7))
        );
        assert_eq!(id(r#"[{"id":7}]"#), None);
        assert_eq!(id(r#"{"a":1}{"id":7}"#), None);
    }

    #[test]
    fn an_id_before_the_error_is_not_replaced_by_one_after_it() {
        let text = r#"{"id":7,"params":"a"b,"id":"of something else"}"#;
        let sound = text.find("b,").expect("it is there");
        assert_eq!(
            Outline::of(text.as_bytes(), sound).request_id(),
            Some(RequestId::Number(7))
        );
    }

    #[test]
    fn depth_and_length_take_no_memory() {
        let mut outline = Outline::default();
        outline.read(br#"{"params":"#);
        for _ in 0..1000 {
            outline.read(&[b'['; 10_000]);
        }
        for _ in 0..1000 {
            outline.read(&[b']'; 10_000]);
        }
        outline.read(br#","id":7}"#);
        assert_eq!(outline.request_id(), Some(RequestId::Number(7)));
    }

    #[test]
    fn of_json_it_says_what_a_parser_says() {
        let texts = ["id", "method", "result", "x\"y", "\u{1f511}\n"];
        for (index, key) in texts.iter().enumerate() {
            for value in [
                json!(7),
                json!("a,b}"),
                json!({"id": 9}),
                json!([["id"], 8]),
                json!(null),
            ] {
                let mut message = json!({ "jsonrpc": "2.0", *key: value.clone(), "params": { "id": 3, "z": texts } });
                if index > 0 {
                    message["id"] = json!(index);
                }
                let read = of(&message.to_string());
                assert!(read.is_closed, "{message}");
                let known: Option<RequestId> = message.get("id").and_then(|id| serde_json::from_value(id.clone()).ok());
                assert_eq!(read.id, known, "{message}");
                assert_eq!(read.has_method, message.get("method").is_some(), "{message}");
                assert_eq!(read.has_outcome, message.get("result").is_some(), "{message}");
            }
        }
    }
}
