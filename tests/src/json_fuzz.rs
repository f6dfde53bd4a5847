//! Lines for a JSON-RPC server, most of them broken in one way or another, each with the id that its answer must have.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngExt as _};
use serde_json::{Map, Value, json};

/// What a line may be made of beside what is in it already.
const SCRAPS: [&str; 24] = [
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\udc00\\ud800",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "-",
    "1e999",
    "-0",
    "0x1f",
    "NaN",
    "\u{0}",
    "\u{1}",
    "\u{feff}",
    "\u{202e}",
    "\u{1f511}",
    "/*",
    "'",
];

/// A line, and whom it is to be answered to.
#[derive(Debug, Clone)]
pub struct Line {
    /// Without the line feed at its end; not always UTF-8.
    pub bytes: Vec<u8>,
    /// The ids that one answer each must have; no other may have any.
    pub ids: Vec<Value>,
}

/// Makes lines, no two with the same id.
#[derive(Debug)]
pub struct Fuzzer {
    rng: StdRng,
    last_id: i64,
    /// What requests carry as `_meta`.
    meta: Option<Value>,
}

impl Fuzzer {
    /// Of requests with this `_meta`, if any.
    #[must_use]
    pub fn new(rng: StdRng, meta: Option<Value>) -> Self {
        Self { rng, last_id: 0, meta }
    }

    /// Some line.
    pub fn line(&mut self) -> Line {
        match self.rng.random_range(0..21) {
            0..4 => self.sound(),
            4..9 => self.misshaped(),
            9..14 => self.mangled(),
            14..16 => self.unreadable(),
            16 => self.without_id(),
            17 => self.nobodys_answer(),
            18 => self.strange_id(),
            19 => self.batch(),
            _ => self.garbage(),
        }
    }

    fn id(&mut self) -> Value {
        self.last_id += 1;
        match self.rng.random_range(0..3) {
            0 => json!(format!("id \"{}\" ü", self.last_id)),
            1 => json!(-self.last_id),
            _ => json!(self.last_id),
        }
    }

    fn request(&mut self) -> (String, Map<String, Value>) {
        let (method, params) = match self.rng.random_range(0..10) {
            0 => ("tools/list", json!({})),
            1 => ("ping", json!({})),
            2 => ("server/discover", json!({})),
            3 => ("no/such/method", json!({ "a": [1, "two", { "three": null }] })),
            4 => ("prompts/get", json!({ "name": "none" })),
            5 => ("resources/read", json!({ "uri": "none:" })),
            6 => (
                "tools/call",
                json!({ "name": "create_postgres_instance", "arguments": { "database": "d", "password": "p" } }),
            ),
            7 => (
                "tools/call",
                json!({ "name": "get_postgres_instance", "arguments": { "id": "2f1c6f0e-6f0a-4d0b-9a55-0d1c7a3b9e21" } }),
            ),
            8 => ("tools/call", json!({ "name": "no_such_tool", "arguments": {} })),
            _ => ("tools/call", json!({ "name": "list_postgres_instances" })),
        };
        let mut params = match params {
            Value::Object(params) => params,
            _ => Map::new(),
        };
        if let Some(meta) = &self.meta {
            params.insert("_meta".into(), meta.clone());
        }
        (method.to_owned(), params)
    }

    fn message(id: &Value, method: &str, params: &Value) -> Value {
        json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
    }

    fn sound(&mut self) -> Line {
        let (id, (method, params)) = (self.id(), self.request());
        Line {
            bytes: Self::message(&id, &method, &params.into()).to_string().into(),
            ids: vec![id],
        }
    }

    /// JSON in which something is in the place of something else.
    fn misshaped(&mut self) -> Line {
        let (id, (method, params)) = (self.id(), self.request());
        let mut message = Self::message(&id, &method, &params.into());
        for _ in 0..self.rng.random_range(1..4) {
            let value = self.value(3);
            match self.rng.random_range(0..6) {
                0 => message["jsonrpc"] = value,
                1 => message["method"] = value,
                2 => message["params"] = value,
                3 => message["more"] = value,
                _ => {
                    let params = message["params"].as_object_mut();
                    let keys: Vec<String> = params.iter().flat_map(|params| params.keys().cloned()).collect();
                    if let (Some(params), Some(key)) = (params, keys.choose(&mut self.rng)) {
                        params.insert(key.clone(), value);
                    }
                }
            }
        }
        Line {
            bytes: message.to_string().into(),
            ids: vec![id],
        }
    }

    /// A request with a long text in it, broken or not: missed if it isn't given back.
    pub fn long(&mut self, length: usize) -> Line {
        let (id, (method, mut params)) = (self.id(), self.request());
        params.insert("long".into(), "x".repeat(length).into());
        let mut message = Self::message(&id, &method, &params.into());
        let [is_request, is_json] = self.rng.random::<[bool; 2]>();
        if !is_request {
            message["jsonrpc"] = json!("1.0");
        }
        let mut bytes = message.to_string().into_bytes();
        if !is_json {
            bytes.push(b'}');
        }
        Line { bytes, ids: vec![id] }
    }

    /// Any JSON value.
    fn value(&mut self, depth: usize) -> Value {
        match self.rng.random_range(0..if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.rng.random::<bool>()),
            2 => json!(self.rng.random::<i64>()),
            3 => json!(self.rng.random::<f64>()),
            4 => json!(SCRAPS.choose(&mut self.rng)),
            5 if self.rng.random_range(0..50) == 0 => json!("x".repeat(1 << 20)),
            5 => json!("2026-07-28"),
            6 => (0..self.rng.random_range(0..4))
                .map(|_| self.value(depth - 1))
                .collect(),
            _ => (0..self.rng.random_range(0..4))
                .map(|index| (format!("k{index}"), self.value(depth - 1)))
                .collect::<Map<_, _>>()
                .into(),
        }
    }

    /// A request whose parameters are no JSON, most of the time.
    fn mangled(&mut self) -> Line {
        let (id, (method, params)) = (self.id(), self.request());
        let mut params: Vec<u8> = Value::from(params).to_string().into();
        for _ in 0..self.rng.random_range(1..6) {
            let at = self.rng.random_range(0..=params.len());
            match self.rng.random_range(0..4) {
                0 => params.truncate(at),
                1 => {
                    let end = self.rng.random_range(at..=params.len());
                    params.drain(at..end);
                }
                2 => {
                    let scrap = SCRAPS.choose(&mut self.rng).copied().unwrap_or_default();
                    params.splice(at..at, scrap.bytes());
                }
                _ => {
                    if let Some(byte) = params.get_mut(at) {
                        *byte = self.rng.random();
                    }
                }
            }
        }
        params.retain(|&byte| byte != b'\n');
        // The id first: what follows may close the message anywhere.
        let mut bytes = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":"#).into_bytes();
        bytes.extend(params);
        bytes.push(b'}');
        Line { bytes, ids: vec![id] }
    }

    /// A request with its id at the end and, before that, what no parser takes, though all brackets are closed.
    fn unreadable(&mut self) -> Line {
        let id = self.id();
        let depth = self.rng.random_range(128..30_000);
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let arguments = match self.rng.random_range(0..5) {
            0 => deep,
            1 => r#"{"a":"\ud800"}"#.to_owned(),
            2 => r#"{"a":"\udc00 \ud800\ud800"}"#.to_owned(),
            3 => r#"{"a":-1e9999}"#.to_owned(),
            _ => "{\"a\":\"\u{1}\"}".to_owned(),
        };
        let text = format!(
            r#"{{"method":"tools/call","params":{{"name":"list_postgres_instances","arguments":{arguments}}},"jsonrpc":"2.0","id":{id}}}"#
        );
        Line {
            bytes: text.into(),
            ids: vec![id],
        }
    }

    fn without_id(&mut self) -> Line {
        let method = [
            "notifications/initialized",
            "notifications/cancelled",
            "notifications/no",
            "$/x",
        ]
        .choose(&mut self.rng)
        .copied()
        .unwrap_or_default();
        let params = match self.rng.random_range(0..2) {
            0 => json!({ "requestId": 1_000_000_000, "reason": self.value(1) }),
            _ => self.value(2),
        };
        Line {
            bytes: json!({ "jsonrpc": "2.0", "method": method, "params": params })
                .to_string()
                .into(),
            ids: Vec::new(),
        }
    }

    fn nobodys_answer(&mut self) -> Line {
        let outcome = ["result", "error"].choose(&mut self.rng).copied().unwrap_or_default();
        let mut message = json!({ "jsonrpc": "2.0", "id": 1_000_000_000 });
        message[outcome] = self.value(2);
        Line {
            bytes: message.to_string().into(),
            ids: Vec::new(),
        }
    }

    /// Several lines as one, which is JSON.
    fn batch(&mut self) -> Line {
        let members: Vec<Line> = (0..self.rng.random_range(0..5))
            .map(|_| match self.rng.random_range(0..5) {
                0..2 => self.sound(),
                2 => self.misshaped(),
                3 => self.without_id(),
                _ => self.nobodys_answer(),
            })
            .collect();
        let bytes: Vec<&[u8]> = members.iter().map(|member| member.bytes.as_slice()).collect();
        Line {
            bytes: [b"[".as_slice(), bytes.join(&b',').as_slice(), b"]".as_slice()].concat(),
            ids: members.iter().flat_map(|member| member.ids.clone()).collect(),
        }
    }

    fn strange_id(&mut self) -> Line {
        let id = [
            "null",
            "1.5",
            "true",
            "[1]",
            "{}",
            "99999999999999999999",
            "1e400",
            "\"\\ud800\"",
            "",
        ]
        .choose(&mut self.rng)
        .copied()
        .unwrap_or_default();
        Line {
            bytes: format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#).into(),
            ids: Vec::new(),
        }
    }

    fn garbage(&mut self) -> Line {
        let mut bytes = vec![0; self.rng.random_range(0..200)];
        self.rng.fill_bytes(&mut bytes);
        bytes.retain(|&byte| byte != b'\n');
        Line { bytes, ids: Vec::new() }
    }
}
