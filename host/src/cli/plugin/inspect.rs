//! `plugin inspect`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::read;
use crate::cli::exit::ExitCode;
use crate::cli::ui::Ui;
use crate::cli::view::printable;
use crate::failure::{Failure, FailureCode};
use crate::plugins::inspect::{Inspection, Interface, inspect};

/// Show what is in a plugin's file: its world and version, what it imports, its digest, what it was made with
///
/// Nothing of it runs.
#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// The component, or the core module with its world embedded
    file: PathBuf,
}

impl Inspect {
    pub(super) fn run(self, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let bytes = read(&self.file)?;
        let inspection = inspect(&bytes).map_err(|reason| {
            let message = format!("{} is no plugin: {reason}", self.file.display());
            let advice = "A plugin is a component, or what cargo builds with wit-bindgen for wasm32-unknown-unknown.";
            Failure::new(FailureCode::InvalidArguments, message, advice)
        })?;
        ui.result(&json(&inspection), || text(&inspection))?;
        Ok(ExitCode::Ok)
    }
}

fn json(inspection: &Inspection) -> Value {
    let interfaces = |interfaces: &[Interface]| -> Vec<Value> {
        let each = |Interface { name, functions }: &Interface| json!({ "name": name, "functions": functions });
        interfaces.iter().map(each).collect()
    };
    let made_for = inspection.made_for();
    json!({
        "world": made_for.as_ref().map(|(world, _)| world),
        "version": made_for.as_ref().map(|(_, version)| version),
        "form": inspection.form.as_str(),
        "bytes": inspection.bytes,
        "sha256": inspection.sha256.to_string(),
        "imports": interfaces(&inspection.imports),
        "exports": interfaces(&inspection.exports),
        "producers": inspection.producers,
    })
}

fn text(inspection: &Inspection) -> String {
    let world = match inspection.made_for() {
        Some((world, version)) => format!("{world} {version}"),
        None => "none of this host's".to_owned(),
    };
    let mut out = String::new();
    // Writing to a String can't fail.
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:11}{}", printable(value));
    };
    line("world", &world);
    line("form", inspection.form.as_str());
    line("bytes", &inspection.bytes.to_string());
    line("sha256", &inspection.sha256.to_string());
    for (name, interfaces) in [("imports", &inspection.imports), ("exports", &inspection.exports)] {
        let mut name = name;
        for interface in interfaces {
            line(name, &format!("{}: {}", interface.name, interface.functions.join(", ")));
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
