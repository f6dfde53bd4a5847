//! `plugin list`.

use std::fmt::Write as _;

use clap::Args;

use crate::app::App;
use crate::cli::exit::ExitCode;
use crate::cli::ui::Ui;
use crate::config::Mode;
use crate::failure::{Failure, printable};
use crate::plugins::provenance::{Provenance, State, to_json};

/// List the policy and the tool bundles that the configuration loads: where each comes from, what it may do, how it stands
///
/// Each is loaded as `mcp serve` would load it. The exit code says whether all of them can be. MCP clients of a server read
/// the same in the resource `dev-postgres-mcp://plugins`.
#[derive(Debug, Args)]
pub(in crate::cli) struct List {}

impl List {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let plugins = app.plugins().await?;
        if let Some(dir) = app.config().plugins.dir.as_deref().filter(|dir| !dir.exists()) {
            ui.note(&format!(
                "plugins.dir isn't there: {}",
                printable(&dir.display().to_string())
            ));
        }
        ui.result(&to_json(&plugins), || text(&plugins))?;
        if plugins.iter().any(|plugin| matches!(plugin.state, State::Refused(_))) {
            return Ok(ExitCode::Unhealthy);
        }
        // Each may be well and two of them not together.
        app.bundles().await?;
        Ok(ExitCode::Ok)
    }
}

/// A block for each: a digest is there to be copied, and limits are too many for a table.
fn text(plugins: &[Provenance]) -> String {
    let mut out = String::new();
    for plugin in plugins {
        if !out.is_empty() {
            out.push('\n');
        }
        let limits: Vec<String> = plugin
            .limits()
            .iter()
            .map(|(key, value)| format!("{key} {}", value.to_string().trim_matches('"')))
            .collect();
        let state = match &plugin.state {
            State::Refused(reason) | State::Outdated(reason) => format!("{}: {reason}", plugin.state.as_str()),
            state => state.as_str().replace('_', " "),
        };
        let grants = plugin.grants.to_string();
        // Writing to a String can't fail.
        let _ = writeln!(out, "{}", printable(&plugin.name));
        for (name, value) in [
            ("world", plugin.world),
            ("from", &plugin.from),
            (
                "sha256",
                &plugin.sha256.map(|digest| digest.to_string()).unwrap_or_default(),
            ),
            ("grants", if grants.is_empty() { "none" } else { &grants }),
            ("mode", plugin.mode.map(Mode::as_str).unwrap_or_default()),
            (
                "changes",
                &plugin.may_change.map(|changes| changes.to_string()).unwrap_or_default(),
            ),
            ("limits", &limits.join(", ")),
            ("tools", &plugin.tools.join(", ")),
            ("state", &state),
        ] {
            if !value.is_empty() {
                let _ = writeln!(out, "  {name:8}{}", printable(value));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::plugins::budget::Budget;
    use crate::plugins::grants::{Grant, Grants};

    #[test]
    fn each_plugin_is_shown_in_a_block() {
        let policy = Provenance {
            name: "policy-default".into(),
            world: "policy",
            from: "built in".into(),
            sha256: Some(Digest::of(b"")),
            grants: [Grant::Log].into_iter().collect(),
            mode: None,
            may_change: None,
            budget: Budget::POLICY,
            tools: Vec::new(),
            state: State::Serving,
        };
        let refused = Provenance {
            name: "acme".into(),
            world: "tool-bundle",
            from: "/opt/\u{1b}acme.wasm".into(),
            sha256: None,
            grants: Grants::default(),
            mode: None,
            may_change: None,
            budget: Budget::BUNDLE,
            state: State::Refused("there is no such file".into()),
            ..policy.clone()
        };
        let off = Provenance {
            tools: vec!["one_tool".into(), "other_tool".into()],
            state: State::SwitchedOff,
            ..refused.clone()
        };
        insta::assert_snapshot!(text(&[policy, refused, off]), @r"
        policy-default
          world   policy
          from    built in
          sha256  e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
          grants  log
          limits  cpu 1s, host_calls 1000, host_data_kib 1024, instances 0, log_kib 16, memory_mib 64, output_kib 64, time 10s
          state   serving

        acme
          world   tool-bundle
          from    /opt/\u{1b}acme.wasm
          grants  none
          limits  cpu 2s, host_calls 10000, host_data_kib 8192, instances 10, log_kib 64, memory_mib 64, output_kib 1024, time 15m
          state   refused: there is no such file

        acme
          world   tool-bundle
          from    /opt/\u{1b}acme.wasm
          grants  none
          limits  cpu 2s, host_calls 10000, host_data_kib 8192, instances 10, log_kib 64, memory_mib 64, output_kib 1024, time 15m
          tools   one_tool, other_tool
          state   switched off
        ");
    }
}
