//! `config show` and `config default`.

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::exit::ExitCode;
use super::ui::Ui;
use super::view::{bare_table, trimmed};
use crate::config::{Config, DEFAULT_TOML, Origin, ShownValue};
use crate::failure::{Failure, printable};

/// Print each setting's value with where it came from
///
/// Strings among a component's own settings may be secrets and are shown as [set].
#[derive(Debug, Args)]
pub(super) struct Show {}

impl Show {
    pub(super) fn run(config: &Config, ui: &mut Ui) -> Result<ExitCode, Failure> {
        let values: Vec<Shown<'_>> = config.values.iter().map(Shown::from).collect();
        ui.result(&json!({ "file": config.file, "settings": values }), || {
            table(&config.values)
        })?;
        Ok(ExitCode::Ok)
    }
}

/// Print the built-in configuration: every setting, its default and its meaning
///
/// A start for a file of your own.
#[derive(Debug, Args)]
pub(super) struct Default {}

impl Default {
    pub(super) fn run(ui: &mut Ui) -> Result<ExitCode, Failure> {
        ui.raw(DEFAULT_TOML.as_bytes())?;
        Ok(ExitCode::Ok)
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    value: &'a Value,
    source: &'static str,
    from: String,
}

impl<'a> From<&'a ShownValue> for Shown<'a> {
    fn from(ShownValue { key, value, origin }: &'a ShownValue) -> Self {
        let source = match origin {
            Origin::Default => "default",
            Origin::File { .. } => "file",
            Origin::Variable(_) => "environment",
            Origin::Flag(_) => "flag",
        };
        Self {
            key,
            value,
            source,
            from: origin.to_string(),
        }
    }
}

fn table(values: &[ShownValue]) -> String {
    let mut table = bare_table();
    table.set_header(["SETTING", "VALUE", "FROM"]);
    for shown in values {
        table.add_row([
            printable(&shown.key),
            shown.value.to_string(),
            printable(&shown.origin.to_string()),
        ]);
    }
    trimmed(&table) + "\n"
}
