//! What there is to say of a component that the configuration loads: where it comes from, what it may do, how it stands.

use serde_json::{Map, Value, json};

use super::budget::{Budget, LIMITS};
use super::grants::{Grant, Grants};
use crate::config::Mode;
use crate::digest::Digest;
use crate::policy::changes::{Change, Changes};

/// One component of the configuration, without anything secret: its settings aren't here.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance {
    /// Its name in the configuration.
    pub name: String,
    /// The world that it is loaded as.
    pub world: &'static str,
    /// Where it came from: a path, or "built in".
    pub from: String,
    /// The digest of what came from there; `None` if nothing could be had.
    pub sha256: Option<Digest>,
    /// What it may ask the host for.
    pub grants: Grants,
    /// What becomes of what a policy denies; `None` for a bundle.
    pub mode: Option<Mode>,
    /// What a policy may make something else of than was asked for; `None` for a bundle.
    pub may_change: Option<Changes>,
    /// What it may use in one call.
    pub budget: Budget,
    /// The names of its tools as clients know them; a policy has none.
    pub tools: Vec<String>,
    /// How it stands.
    pub state: State,
}

/// How a component stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It takes calls.
    Serving,
    /// It has failed too often in a row, and takes no more calls.
    SwitchedOff,
    /// It takes calls, though its file holds something else by now: why that was not loaded.
    Outdated(String),
    /// It was not loaded: why.
    Refused(String),
}

impl State {
    /// The word that people and programs read.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::SwitchedOff => "switched_off",
            Self::Outdated(_) => "outdated",
            Self::Refused(_) => "refused",
        }
    }
}

impl Provenance {
    /// The limits by their names in the configuration, as the configuration has them.
    #[must_use]
    pub fn limits(&self) -> Map<String, Value> {
        let limit = |limit: &super::budget::Limit| (limit.key.to_owned(), limit.value(&self.budget));
        LIMITS.iter().map(limit).collect()
    }

    /// What programs read, over MCP and from the command line alike.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let grants: Vec<&str> = self.grants.iter().map(Grant::as_str).collect();
        let mut shown = json!({
            "name": self.name,
            "world": self.world,
            "from": self.from,
            "sha256": self.sha256.map(|digest| digest.to_string()),
            "grants": grants,
            "limits": self.limits(),
            "tools": self.tools,
            "state": self.state.as_str(),
        });
        if let Some(mode) = self.mode {
            shown["mode"] = mode.as_str().into();
        }
        if let Some(may_change) = self.may_change {
            shown["may_change"] = may_change.iter().map(Change::as_str).collect();
        }
        if let State::Refused(reason) | State::Outdated(reason) = &self.state {
            shown["reason"] = reason.as_str().into();
        }
        shown
    }
}

/// All of them, as programs read it.
#[must_use]
pub fn to_json(plugins: &[Provenance]) -> Value {
    let each: Vec<Value> = plugins.iter().map(Provenance::to_json).collect();
    json!({ "count": each.len(), "plugins": each })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_read_digest_grants_limits_and_state() {
        let plugin = Provenance {
            name: "acme".into(),
            world: "tool-bundle",
            from: "/opt/acme.wasm".into(),
            sha256: Some(Digest::of(b"")),
            grants: [Grant::Read, Grant::Log].into_iter().collect(),
            mode: None,
            may_change: None,
            budget: Budget::BUNDLE,
            tools: vec!["acme_tool".into()],
            state: State::Serving,
        };
        let refused = Provenance {
            sha256: None,
            tools: Vec::new(),
            state: State::Refused("there is no such file".into()),
            ..plugin.clone()
        };
        insta::assert_snapshot!(format!("{:#}", to_json(&[plugin, refused])), @r#"
        {
          "count": 2,
          "plugins": [
            {
              "from": "/opt/acme.wasm",
              "grants": [
                "read",
                "log"
              ],
              "limits": {
                "cpu": "2s",
                "host_calls": 10000,
                "host_data_kib": 8192,
                "instances": 10,
                "log_kib": 64,
                "memory_mib": 64,
                "output_kib": 1024,
                "time": "15m"
              },
              "name": "acme",
              "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
              "state": "serving",
              "tools": [
                "acme_tool"
              ],
              "world": "tool-bundle"
            },
            {
              "from": "/opt/acme.wasm",
              "grants": [
                "read",
                "log"
              ],
              "limits": {
                "cpu": "2s",
                "host_calls": 10000,
                "host_data_kib": 8192,
                "instances": 10,
                "log_kib": 64,
                "memory_mib": 64,
                "output_kib": 1024,
                "time": "15m"
              },
              "name": "acme",
              "reason": "there is no such file",
              "sha256": null,
              "state": "refused",
              "tools": [],
              "world": "tool-bundle"
            }
          ]
        }
        "#);
    }
}
