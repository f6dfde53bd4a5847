//! `plugin check`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{loading, object, source};
use crate::app::App;
use crate::cli::exit::ExitCode;
use crate::cli::ui::Ui;
use crate::failure::{Failure, printable};
use crate::plugins::check::{Examination, examine};
use crate::plugins::grants::Grant;

/// Check a plugin before it is configured, and say all that is wrong with it at once
///
/// It has to be a component, or a core module that makes one, of a world and version that this program knows; to import
/// nothing else; to take its settings; and to describe tools that clients can use. A policy is asked for a plan, and a note
/// says what that denies or changes. The exit code says whether all is as it should be.
#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    /// The component, or the core module with its world embedded
    file: PathBuf,

    /// What the configuration is going to grant it, separated by commas; what it imports beyond that is a problem
    ///
    /// Without this, the grants that it needs are shown.
    #[arg(long, value_delimiter = ',', value_name = "GRANTS")]
    grants: Option<Vec<Grant>>,

    /// Its settings, a JSON object
    #[arg(long, default_value = "{}", value_parser = object, value_name = "JSON", hide_default_value = true)]
    settings: Map<String, Value>,
}

impl Check {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let source = source(&self.file, self.settings)?;
        let grants = self.grants.map(|grants| grants.into_iter().collect());
        let shown = loading(ui, &self.file);
        let examination = examine(app.runtime().await?, &source, grants).await;
        drop(shown);
        ui.result(&json(&source.from, &examination), || text(&source.from, &examination))?;
        Ok(if examination.problems.is_empty() {
            ExitCode::Ok
        } else {
            ExitCode::Unhealthy
        })
    }
}

fn json(file: &str, examination: &Examination) -> Value {
    let made_for = examination.made_for();
    json!({
        "file": file,
        "world": made_for.map(|(world, _)| world.as_str()),
        "version": made_for.map(|(_, version)| version.as_str()),
        "tools": examination.tools,
        "needs": examination.needs.iter().map(Grant::as_str).collect::<Vec<_>>(),
        "problems": examination.problems,
        "notes": examination.notes,
    })
}

fn text(file: &str, examination: &Examination) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    match examination.made_for() {
        Some((world, version)) => {
            let _ = writeln!(out, "{}: {} {version}", printable(file), world.as_str());
        }
        None => {
            let _ = writeln!(out, "{}", printable(file));
        }
    }
    let needs = examination.needs.to_string();
    for (name, value) in [("tools", examination.tools.join(", ")), ("needs", needs)] {
        if !value.is_empty() {
            let _ = writeln!(out, "  {name:9}{}", printable(&value));
        }
    }
    for (name, sentences) in [("note", &examination.notes), ("problem", &examination.problems)] {
        for sentence in sentences {
            let _ = writeln!(out, "  {name:9}{}", printable(sentence));
        }
    }
    if examination.problems.is_empty() {
        let _ = writeln!(out, "  well");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_a_line() {
        let examination = Examination {
            inspection: None,
            tools: vec!["one".into(), "other".into()],
            needs: [Grant::Create, Grant::Sql].into_iter().collect(),
            problems: vec!["it is wrong".into(), "it is\u{1b}[2J wrong, too".into()],
            notes: vec!["it is curious".into()],
        };
        insta::assert_snapshot!(text("acme.wasm", &examination), @r"
        acme.wasm
          tools    one, other
          needs    create, sql
          note     it is curious
          problem  it is wrong
          problem  it is\u{1b}[2J wrong, too
        ");
        let well = Examination {
            problems: Vec::new(),
            ..examination
        };
        assert!(text("acme.wasm", &well).ends_with("  well\n"));
    }
}
