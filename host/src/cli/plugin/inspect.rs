//! `plugin inspect`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{object, source};
use crate::app::App;
use crate::cli::exit::ExitCode;
use crate::cli::ui::Ui;
use crate::failure::{Failure, FailureCode, printable};
use crate::plugins::check::{Examination, examine};
use crate::plugins::inspect::{Inspection, Interface};

/// Show what is in a plugin's file: its world and version, its tools, what it imports, its digest, what it was made with
#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// The component, or the core module with its world embedded
    file: PathBuf,

    /// Its settings, a JSON object, if its tools depend on them
    #[arg(long, default_value = "{}", value_parser = object, value_name = "JSON", hide_default_value = true)]
    settings: Map<String, Value>,
}

impl Inspect {
    pub(super) async fn run(self, app: &App, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let source = source(&self.file, self.settings)?;
        let Examination {
            inspection,
            tools,
            problems,
            ..
        } = examine(app.runtime().await?, &source, None).await;
        let Some(inspection) = inspection else {
            let message = format!("{} is no plugin: {}", source.from, problems.join("; "));
            let advice = "A plugin is a component, or what cargo builds with wit-bindgen for wasm32-unknown-unknown.";
            return Err(Failure::new(FailureCode::InvalidArguments, message, advice));
        };
        if !problems.is_empty() {
            ui.note("not all is well with it: `dev-postgres-mcp plugin check` tells more");
        }
        ui.result(&json(&inspection, &tools), || text(&inspection, &tools))?;
        Ok(ExitCode::Ok)
    }
}

fn json(inspection: &Inspection, tools: &[String]) -> Value {
    let interfaces = |interfaces: &[Interface]| -> Vec<Value> {
        let each = |Interface { name, functions }: &Interface| json!({ "name": name, "functions": functions });
        interfaces.iter().map(each).collect()
    };
    let made_for = inspection.made_for().ok();
    json!({
        "world": made_for.map(|(world, _)| world.as_str()),
        "version": made_for.map(|(_, version)| version.as_str()),
        "tools": tools,
        "form": inspection.form.as_str(),
        "bytes": inspection.bytes,
        "sha256": inspection.sha256.to_string(),
        "imports": interfaces(&inspection.imports),
        "exports": interfaces(&inspection.exports),
        "producers": inspection.producers,
    })
}

fn text(inspection: &Inspection, tools: &[String]) -> String {
    let world = match inspection.made_for() {
        Ok((world, version)) => format!("{} {version}", world.as_str()),
        Err(problem) => format!("unknown: {problem}"),
    };
    let mut out = String::new();
    // Writing to a String can't fail.
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:11}{}", printable(value));
    };
    line("world", &world);
    if !tools.is_empty() {
        line("tools", &tools.join(", "));
    }
    line("form", inspection.form.as_str());
    line("bytes", &inspection.bytes.to_string());
    line("sha256", &inspection.sha256.to_string());
    for (name, interfaces) in [("imports", &inspection.imports), ("exports", &inspection.exports)] {
        let mut name = name;
        for interface in interfaces {
            let functions = interface.functions.join(", ");
            line(name, format!("{}: {functions}", interface.name).trim_end_matches(": "));
            name = "";
        }
    }
    let mut name = "producers";
    for (field, values) in &inspection.producers {
        let values: Vec<String> = values
            .iter()
            .map(|(name, version)| format!("{name} {version}").trim_end().to_owned())
            .collect();
        line(name, &format!("{field}: {}", values.join(", ")));
        name = "";
    }
    out
}
