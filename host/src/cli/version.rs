//! `version`.

use clap::Args;

use super::exit::ExitCode;
use super::ui::Ui;
use crate::failure::Failure;

/// Print the program's version
#[derive(Debug, Args)]
pub(super) struct Version {}

impl Version {
    pub(super) fn run(ui: &mut Ui) -> Result<ExitCode, Failure> {
        let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        ui.result(&serde_json::json!({ "name": name, "version": version }), || {
            format!("{name} {version}\n")
        })?;
        Ok(ExitCode::Ok)
    }
}
