//! What a client sends, line by line: messages, and what isn't one, with the answer that it gets. rmcp itself says nothing
//! to a line that it can't parse, and a client would wait for ever.

use bytes::{Buf, BytesMut};
use rmcp::model::{ClientJsonRpcMessage, ClientRequest, ErrorData, JsonRpcMessage, RequestId};
use serde::de::IgnoredAny;
use serde_json::error::Category;
use tokio_util::codec::Decoder;

use super::outline::Outline;

/// The longest message in bytes; rmcp's own bound.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const UTF8_BOM: &[u8] = b"\xEF\xBB\xBF";
/// The methods whose requests rmcp reads; one of them whose parameters don't fit, it takes for a method that it doesn't
/// know.
const KNOWN_METHODS: [&str; 17] = [
    "completion/complete",
    "initialize",
    "logging/setLevel",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "server/discover",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/update",
    "tools/call",
    "tools/list",
];

/// What a line is.
#[derive(Debug)]
pub(super) enum Inbound {
    Message(Box<ClientJsonRpcMessage>),
    /// To be answered, and done with.
    Refused {
        /// Whom to answer, each by itself; `None` for one whose id can't be read.
        ids: Vec<Option<RequestId>>,
        error: ErrorData,
    },
    /// Nothing that anybody waits for.
    Ignored,
}

impl Inbound {
    fn parse(line: &[u8]) -> Self {
        let line = line.strip_prefix(UTF8_BOM).unwrap_or(line).trim_ascii();
        match line.first() {
            None => return Self::Ignored,
            Some(b'[') => return Self::batch(line),
            Some(_) => {}
        }
        match serde_json::from_slice(line) {
            Ok(message) => Self::sound(message),
            Err(error) => {
                // A value that is no message ends the reading, with no place named, whatever comes after it.
                let error = serde_json::from_slice::<IgnoredAny>(line).err().unwrap_or(error);
                let outline = Outline::of(line, error.column().saturating_sub(1));
                let id = outline.request_id();
                // Of these errors, none repeats what the line says: that may be a password.
                let error = match error.classify() {
                    // Garbage is not answered: a client that sends it back as garbage would never end.
                    Category::Syntax | Category::Eof | Category::Io if id.is_none() => return Self::Ignored,
                    Category::Syntax | Category::Eof | Category::Io => {
                        ErrorData::parse_error(format!("the message can't be read: {error}"), None)
                    }
                    Category::Data if !outline.wants_answer() => return Self::Ignored,
                    Category::Data => ErrorData::invalid_request(
                        "the message is no request of JSON-RPC 2.0: that has `jsonrpc`, an `id` (an integer or a \
                         string), a `method` and, for most methods, `params` (an object)",
                        None,
                    ),
                };
                Self::Refused { ids: vec![id], error }
            }
        }
    }

    /// Several messages in an array: of all revisions, only 2025-03-26 has that, and rmcp doesn't take it.
    fn batch(line: &[u8]) -> Self {
        if serde_json::from_slice::<IgnoredAny>(line).is_err() {
            return Self::Ignored;
        }
        let mut ids: Vec<_> = Outline::request_ids(line).into_iter().map(Some).collect();
        if ids.is_empty() {
            ids.push(None);
        }
        Self::Refused {
            ids,
            error: ErrorData::invalid_request("batches are not taken: send each request by itself, one a line", None),
        }
    }

    fn sound(message: ClientJsonRpcMessage) -> Self {
        let JsonRpcMessage::Request(request) = &message else {
            return Self::Message(Box::new(message));
        };
        let ClientRequest::CustomRequest(custom) = &request.request else {
            return Self::Message(Box::new(message));
        };
        let Some(method) = KNOWN_METHODS.iter().find(|known| **known == custom.method) else {
            return Self::Message(Box::new(message));
        };
        let form = match *method {
            "tools/call" => ": `name` is a string, `arguments` and `_meta` are objects",
            _ => "",
        };
        Self::Refused {
            ids: vec![Some(request.id.clone())],
            error: ErrorData::invalid_params(
                format!("the parameters of {method} don't have the form that MCP gives them{form}"),
                None,
            ),
        }
    }

    fn too_long(outline: &Outline) -> Self {
        tracing::warn!("ignored a message of more than {MESSAGE_BYTES_MAX} bytes");
        match outline.request_id() {
            None => Self::Ignored,
            id => Self::Refused {
                ids: vec![id],
                error: ErrorData::invalid_request(format!("the message has more than {MESSAGE_BYTES_MAX} bytes"), None),
            },
        }
    }
}

/// Takes lines apart. Of one that is too long it keeps the outline.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// How much of the buffer has been looked through for the line's end.
    searched: usize,
    /// What has been thrown away of a line that is too long.
    thrown: Option<Outline>,
}

impl Decoder for Lines {
    type Item = Inbound;
    type Error = std::io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Inbound>, std::io::Error> {
        let unsearched = buffer.get(self.searched..).unwrap_or_default();
        let end = unsearched.iter().position(|&byte| byte == b'\n');
        let length = end.map_or(buffer.len(), |end| self.searched + end);
        if self.thrown.is_none() && length <= MESSAGE_BYTES_MAX {
            let Some(_) = end else {
                self.searched = length;
                return Ok(None);
            };
            self.searched = 0;
            let line = buffer.split_to(length);
            buffer.advance(1);
            return Ok(Some(Inbound::parse(&line)));
        }
        self.searched = 0;
        self.thrown.get_or_insert_default().read(&buffer.split_to(length));
        if end.is_none() {
            return Ok(None);
        }
        buffer.advance(1);
        Ok(self.thrown.take().map(|outline| Inbound::too_long(&outline)))
    }

    /// A line without an end is half of one.
    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Inbound>, std::io::Error> {
        let decoded = self.decode(buffer)?;
        if decoded.is_none() {
            buffer.clear();
        }
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use rmcp::model::ErrorCode;

    use super::*;

    /// What a line is answered: the id and the error's code.
    fn answer(line: &str) -> Option<(Option<RequestId>, ErrorCode)> {
        match Inbound::parse(line.as_bytes()) {
            Inbound::Refused { ids, error } => {
                let [id] = <[_; 1]>::try_from(ids).expect("one id");
                Some((id, error.code))
            }
            Inbound::Message(_) | Inbound::Ignored => None,
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "to be compared with what answers")]
    fn seven(code: ErrorCode) -> Option<(Option<RequestId>, ErrorCode)> {
        Some((Some(RequestId::Number(7)), code))
    }

    #[test]
    fn requests_notifications_and_answers_are_messages() {
        for line in [
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#,
            "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/list\"}\r",
            r#"{"jsonrpc":"2.0","id":"7","method":"tools/call","params":{"name":"n","arguments":{"a":1}}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"no/such","params":{"a":1}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
        ] {
            assert!(matches!(Inbound::parse(line.as_bytes()), Inbound::Message(_)), "{line}");
        }
    }

    #[test]
    fn parameters_that_do_not_fit_are_said_so() {
        for params in [
            r#"{"name":"n","arguments":"{}"}"#,
            r#"{"name":"n","arguments":[]}"#,
            r#"{"name":7}"#,
            r#"{"arguments":{}}"#,
        ] {
            let line = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}"#);
            assert_eq!(answer(&line), seven(ErrorCode::INVALID_PARAMS), "{line}");
        }
        let line = r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{}}"#;
        assert_eq!(answer(line), seven(ErrorCode::INVALID_PARAMS));
    }

    #[test]
    fn what_is_no_json_is_answered_if_its_id_can_be_read() {
        let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
        for params in [
            r#"{"a":"\ud800"}"#,
            deep.as_str(),
            "1e999",
            "{\"a\":\"\u{1}\"}",
            "\u{0}",
            "{]",
            "{\"a\":",
        ] {
            let line = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}"#);
            assert_eq!(answer(&line), seven(ErrorCode::PARSE_ERROR), "{line:.100}");
        }
        let more_than_closed = r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":"1"},,"a}"#;
        assert_eq!(answer(more_than_closed), seven(ErrorCode::PARSE_ERROR));
        let behind = r#"{"method":"tools/call","params":{"a":"\ud800"},"jsonrpc":"2.0","id":7}"#;
        assert_eq!(answer(behind), seven(ErrorCode::PARSE_ERROR));
        for garbage in [
            "{",
            "x",
            "\u{0}",
            r#"{"id":7,"result":{"a":"\ud800"}}"#,
            r#"{"method":"m","params":"\ud800"}"#,
        ] {
            assert_eq!(answer(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn what_is_json_but_no_request_is_answered_with_its_id_if_it_has_one() {
        for line in [
            r#"{"jsonrpc":"1.0","id":7,"method":"tools/list"}"#,
            r#"{"id":7,"method":"tools/list"}"#,
            r#"{"jsonrpc":"2.0","id":7}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":["tools/list"]}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":"n"}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":[]}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"n","_meta":[]}}"#,
        ] {
            assert_eq!(answer(line), seven(ErrorCode::INVALID_REQUEST), "{line}");
        }
        for line in ["[]", "null", r#"{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}"#] {
            assert_eq!(answer(line), Some((None, ErrorCode::INVALID_REQUEST)), "{line}");
        }
    }

    #[test]
    fn each_request_of_a_batch_is_told_to_be_sent_by_itself_and_nothing_else_of_it_is_answered() {
        let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
        let batch = format!(
            r#" [{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"a":{deep}}}}},
                {{"jsonrpc":"2.0","method":"notifications/initialized"}},
                {{"jsonrpc":"2.0","id":9,"result":{{}}}},
                {{"jsonrpc":"2.0","id":"8","method":"tools/list"}}] "#
        );
        let Inbound::Refused { ids, error } = Inbound::parse(batch.as_bytes()) else {
            panic!("it was taken");
        };
        assert_eq!(ids, [Some(RequestId::Number(7)), Some(RequestId::String("8".into()))]);
        assert_eq!(error.code, ErrorCode::INVALID_REQUEST);
        assert!(error.message.contains("one a line"), "{}", error.message);
        for line in [
            "[]",
            r#"[{"jsonrpc":"2.0","method":"notifications/initialized"}]"#,
            "[7]",
        ] {
            assert_eq!(answer(line), Some((None, ErrorCode::INVALID_REQUEST)), "{line}");
        }
        assert_eq!(answer(r#"[{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#), None);
    }

    #[test]
    fn no_answer_repeats_what_was_sent() {
        for line in [
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"n","arguments":"planted"}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":"planted","planted":"#,
            r#"{"jsonrpc":"planted","id":7,"method":"planted"}"#,
        ] {
            let Inbound::Refused { error, .. } = Inbound::parse(line.as_bytes()) else {
                panic!("{line} was taken");
            };
            assert!(!error.message.contains("planted"), "{}", error.message);
        }
    }

    #[test]
    fn lines_are_taken_apart_wherever_they_were_cut() {
        let text = b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\"}\n\nx\n{\"id\":8}\nhalf";
        for cut in 0..text.len() {
            let (mut lines, mut buffer, mut seen) = (Lines::default(), BytesMut::new(), Vec::new());
            for part in [&text[..cut], &text[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(line) = lines.decode(&mut buffer).expect("no error") {
                    seen.push(line);
                }
            }
            assert!(
                matches!(
                    seen.as_slice(),
                    [
                        Inbound::Message(_),
                        Inbound::Ignored,
                        Inbound::Ignored,
                        Inbound::Refused { .. }
                    ]
                ),
                "{seen:?}"
            );
            assert!(lines.decode_eof(&mut buffer).expect("no error").is_none());
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_answered_and_not_kept() {
        let (mut lines, mut buffer) = (Lines::default(), BytesMut::new());
        buffer.extend_from_slice(br#"{"jsonrpc":"2.0","method":"tools/call","params":{"a":""#);
        for _ in 0..40 {
            buffer.extend_from_slice(&vec![b'x'; 1 << 20]);
            assert!(lines.decode(&mut buffer).expect("no error").is_none());
            assert!(buffer.len() <= MESSAGE_BYTES_MAX);
        }
        buffer.extend_from_slice(b"\"},\"id\":7}\n{\"jsonrpc\":\"2.0\",\"id\":8,\"method\":\"ping\"}\n");
        let refused = lines.decode(&mut buffer).expect("no error");
        let Some(Inbound::Refused { ids, error }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(
            (ids, error.code),
            (vec![Some(RequestId::Number(7))], ErrorCode::INVALID_REQUEST)
        );
        let next = lines.decode(&mut buffer).expect("no error");
        assert!(matches!(next, Some(Inbound::Message(_))), "{next:?}");
    }
}
